package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

// patience bounds every wait of these tests. Only a test that fails uses it up.
const patience = 30 * time.Second

// event is one line of a chat's standard output.
type event struct {
	Type                  string
	Room, User, Key, To   string
	Peer                  string
	Text, Kind, Data, App string
	Addrs, Rooms, Lines   []string
	From, Member, Node    struct{ User, Key, Peer string }
	Members, Online       []struct{ User string }
	Line                  int
	ID                    string
	OK                    bool
	RTT                   float64 `json:"rtt_ms"`
	Neighbours            *int
	Error, Detail, State  string
	Code                  any
	Reason                string
	Seq                   string
	Until                 time.Time
	raw                   string
}

// talker is a running chat, in this process or in its own.
type talker struct {
	t      *testing.T
	name   string
	in     *os.File
	signal func(os.Signal)
	done   chan struct{} // closed when it has ended; code and errOut are set
	silent chan struct{} // closed when all that it wrote has been read
	code   int
	errOut *bytes.Buffer

	mu     sync.Mutex
	events []event
	read   int // events that expect has passed
	change chan struct{}
	eof    bool
}

// ways are how the tests start a chat: the code is the same, the plumbing is not.
var ways = map[string]func(t *testing.T, args ...string) *talker{
	"in this process":         chatHere,
	"in a process of its own": chatProcess,
}

// loopback returns the flags of every chat in these tests: nothing leaves the machine.
func loopback(args ...string) []string {
	return append([]string{"chat", "--json", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"}, args...)
}

func chatHere(t *testing.T, args ...string) *talker {
	t.Helper()
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	signals := make(chan os.Signal, 2)
	k := newTalker(t, inW, outR)
	k.signal = func(s os.Signal) { signals <- s }
	go func() {
		k.code = run(loopback(args...), cli.System{
			Stdin: inR, Stdout: outW, Stderr: k.errOut, Signals: signals,
			Exit: func(int) { panic("a second signal, or too slow after the first") },
		})
		outW.Close()
		k.finish()
		inR.Close()
	}()
	return k
}

func chatProcess(t *testing.T, args ...string) *talker {
	t.Helper()
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	cmd := starling(t, loopback(args...)...)
	k := newTalker(t, inW, outR)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, k.errOut
	require.NoError(t, cmd.Start())
	inR.Close()
	outW.Close()
	k.signal = func(s os.Signal) { require.NoError(t, cmd.Process.Signal(s)) }
	go func() {
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			k.code = exit.ExitCode()
		} else if err != nil {
			k.code = -1
		}
		k.finish()
	}()
	return k
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	return r, w
}

func newTalker(t *testing.T, in, out *os.File) *talker {
	k := &talker{t: t, in: in, done: make(chan struct{}), silent: make(chan struct{}), errOut: new(bytes.Buffer), change: make(chan struct{})}
	go func() {
		defer close(k.silent)
		k.readEvents(out)
	}()
	t.Cleanup(func() {
		in.Close() // ends the chat
		select {
		case <-k.done:
		case <-time.After(patience):
			t.Errorf("%s has not ended", k)
		}
		<-k.silent
		out.Close()
		if t.Failed() {
			t.Logf("%s wrote:\n%s\nand on standard error:\n%s", k, k.all(), k.errOut)
		}
	})
	return k
}

func (k *talker) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return "chat of " + k.name
}

func (k *talker) finish() { close(k.done) }

// readEvents reads standard output, of which every line must be one JSON object.
func (k *talker) readEvents(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		var ev event
		if line != "" {
			if e := json.Unmarshal([]byte(line), &ev); e != nil || ev.Type == "" {
				k.t.Errorf("%s wrote a line that is no event: %q: %v", k, line, e)
			}
			ev.raw = strings.TrimSuffix(line, "\n")
		}
		k.mu.Lock()
		if line != "" {
			k.events = append(k.events, ev)
		}
		k.eof = err != nil
		close(k.change)
		k.change = make(chan struct{})
		k.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (k *talker) all() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for _, ev := range k.events {
		b.WriteString("  " + ev.raw + "\n")
	}
	return b.String()
}

// say types lines.
func (k *talker) say(lines ...string) {
	k.t.Helper()
	_, err := io.WriteString(k.in, strings.Join(lines, "\n")+"\n")
	require.NoError(k.t, err)
}

// eventually waits for the first event of a type, read before or not.
func (k *talker) eventually(typ string) event {
	k.t.Helper()
	late := time.After(patience)
	for {
		k.mu.Lock()
		change := k.change
		k.mu.Unlock()
		if seen := k.seen(typ); len(seen) > 0 {
			return seen[0]
		}
		select {
		case <-change:
		case <-late:
			require.FailNow(k.t, fmt.Sprintf("%s: no %q", k, typ))
		}
	}
}

// expect waits for the next event of that type that matches, and skips others.
func (k *talker) expect(typ string, match func(event) bool) event {
	k.t.Helper()
	return k.expectOne(match, typ)
}

// expectOne is expect of any of several types.
func (k *talker) expectOne(match func(event) bool, types ...string) event {
	k.t.Helper()
	late := time.After(patience)
	for {
		k.mu.Lock()
		for k.read < len(k.events) {
			ev := k.events[k.read]
			k.read++
			if slices.Contains(types, ev.Type) && (match == nil || match(ev)) {
				k.mu.Unlock()
				return ev
			}
		}
		eof, change := k.eof, k.change
		k.mu.Unlock()
		if eof {
			require.FailNow(k.t, fmt.Sprintf("%s ended before %q", k, types))
		}
		select {
		case <-change:
		case <-late:
			require.FailNow(k.t, fmt.Sprintf("%s: no %q that matches", k, types))
		}
	}
}

// seen returns the events of a type so far.
func (k *talker) seen(typ string) (events []event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ev := range k.events {
		if ev.Type == typ {
			events = append(events, ev)
		}
	}
	return events
}

// first returns the first event of all.
func (k *talker) first() event {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.events[0]
}

// ended waits for the end and returns the exit code.
func (k *talker) ended() int {
	k.t.Helper()
	select {
	case <-k.done:
	case <-time.After(patience):
		require.FailNow(k.t, k.String()+" has not ended")
	}
	<-k.silent // a process can end before its last output is read
	return k.code
}

// result waits for the result of a typed line.
func (k *talker) result(line int) event {
	k.t.Helper()
	return k.expect("sent", func(ev event) bool { return ev.Line == line })
}

// ready waits for the first event, and takes the name from it.
func (k *talker) ready() event {
	k.t.Helper()
	ev := k.expect("ready", nil)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.name = ev.User
	return ev
}

func member(user string) func(event) bool {
	return func(ev event) bool { return ev.Member.User == user }
}

// meet starts alice and bob, connected and in the lobby.
func meet(t *testing.T, start func(t *testing.T, args ...string) *talker) (alice, bob *talker) {
	t.Helper()
	alice = start(t, "--ephemeral", "--user", "alice")
	addr := alice.ready().Addrs[0]
	bob = start(t, "--ephemeral", "--user", "bob", "--peer", addr)
	bob.ready()
	alice.expect("member_joined", member("bob"))
	bob.expect("member_joined", member("alice"))
	return alice, bob
}

var interrupts = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
