//go:build linux

package netlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// chaosSeedEnv is the environment variable that repeats the faults of an earlier run, whose
	// seed it printed.
	chaosSeedEnv = "STARLING_CHAOS_SEED"
	// chaosTimeEnv is the environment variable for how long the faults last, for example "10m": 20
	// s or more.
	chaosTimeEnv = "STARLING_CHAOS_TIME"

	chaosTime    = time.Minute
	chaosLoss    = 20                    // percent of all frames
	chaosBeat    = 50 * time.Millisecond // between two messages of a node
	chaosMortals = 4                     // nodes that are killed; the others survive
	// From the end of the last fault until nothing is missing.
	chaosBound = 20 * time.Second
)

var chaosNames = []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"}

// TestEightNodesUnderFaults makes eight nodes talk in one room without a pause, while a fifth of
// all frames is lost, cables are pulled and processes are killed and started again. Then the
// network recovers, and within chaosBound every process has all that the contract of a room
// promises:
//
//   - Of a living process, every other living process has all messages that were given to it while
//     they were members. A process that was a member before it started has all its messages. One
//     that came later has those since it learned of it.
//   - Of any process, even a killed one, each process receives messages once, in order, and with no
//     unreported gap. For messages of a living process no gap is reported at all.
//   - Every living process counts all the others as members, and has one result for each line.
func TestEightNodesUnderFaults(t *testing.T) {
	seed, length := chaosSettings(t)
	repeat := fmt.Sprintf("%s=%d %s=%v repeats these faults", chaosSeedEnv, seed, chaosTimeEnv, length)
	t.Log(repeat)
	var complaints []string
	// Runs after the cleanups of the processes, whose standard error is long: what went wrong is
	// said once more as the last lines of the test.
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, complaint := range complaints {
			first, _, _ := strings.Cut(complaint, "\n")
			t.Logf("error: %s", first)
		}
		t.Logf("error: %d complaints; %s", len(complaints), repeat)
	})
	c := newChaos(t, plan(seed, length, len(chaosNames), chaosMortals))
	c.lab.Loss(chaosLoss)
	for node := range c.nodes {
		c.launch(node)
	}
	met := c.await(patience, func() bool { return c.unmet() == "" })
	require.True(t, met, "not met within %v: %s", patience, c.unmet())
	t.Logf("all had met %v after the start of the last", time.Since(c.living[len(c.living)-1].started).Round(time.Millisecond))

	c.play(length)
	c.lab.Loss(0)
	healed := time.Now()
	whole := c.await(chaosBound, c.whole)
	took := time.Since(healed)
	// After one more message of every process has arrived, anything that should not arrive would
	// have arrived too.
	if whole {
		for _, l := range c.living {
			require.NoError(t, l.give(), "to %v", l.id)
		}
		whole = c.await(chaosBound, c.whole)
	}
	c.stop()
	c.logFigures()
	complaints = c.complaints()
	for _, complaint := range complaints {
		t.Error(complaint)
	}
	require.True(t, whole, "not everything was there within %v", chaosBound)
	t.Logf("everything was there %v after the last fault", took.Round(time.Millisecond))
}

// chaosSettings reads the environment. A seed that is not set is drawn at random; the time has a
// default.
func chaosSettings(t *testing.T) (seed uint64, length time.Duration) {
	seed, length = uint64(rand.Uint32()), chaosTime
	var err error
	if s := os.Getenv(chaosSeedEnv); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, chaosSeedEnv)
	}
	if s := os.Getenv(chaosTimeEnv); s != "" {
		length, err = time.ParseDuration(s)
		require.NoError(t, err, chaosTimeEnv)
		require.GreaterOrEqual(t, length, 20*time.Second, "%s: less has no room for the faults", chaosTimeEnv)
	}
	return seed, length
}

// life is one process of a node, from its start until it is killed or the test ends.
type life struct {
	*chat
	id   lifeID
	dead atomic.Bool // it is about to be killed

	mu      sync.Mutex
	rec     *record
	written []time.Time // when message i+1 was given to it, just before that
}

// chaos is a run: the nodes, and every process that has existed.
type chaos struct {
	t      *testing.T
	lab    *Lab
	faults []fault
	nodes  []*Node
	homes  []string
	living []*life // by node
	lives  []*life // all processes, in the order in which they started
	begun  time.Time
	// Holds one value while there are reports that have not been checked.
	changed chan struct{}

	ctx     context.Context
	stop    func() // ends the talkers, and waits for them
	talkers sync.WaitGroup
	readers sync.WaitGroup
}

func newChaos(t *testing.T, faults []fault) *chaos {
	c := &chaos{t: t, faults: faults, living: make([]*life, len(chaosNames)), changed: make(chan struct{}, 1)}
	c.lab = New(t)
	for _, name := range chaosNames {
		c.nodes = append(c.nodes, c.lab.Node(name))
		c.homes = append(c.homes, t.TempDir())
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.ctx = ctx
	c.stop = func() {
		cancel()
		c.talkers.Wait()
		c.readers.Wait()
	}
	t.Cleanup(c.stop)
	return c
}

// launch starts the next process of a node.
func (c *chaos) launch(node int) *life {
	c.t.Helper()
	id := lifeID{chaosNames[node], 1}
	if before := c.living[node]; before != nil {
		id.number = before.id.number + 1
	}
	l := &life{chat: launchChat(c.t, c.nodes[node], id.user, c.homes[node], "--room", "ops"), id: id, rec: newRecord()}
	c.living[node] = l
	c.lives = append(c.lives, l)
	c.readers.Go(func() { c.listen(l) })
	return l
}

// listen reads what a process reports until the process or the run ends.
func (c *chaos) listen(l *life) {
	for i := 0; ; i++ {
		line, err := l.Line(c.ctx, i)
		if c.ctx.Err() != nil || errors.Is(err, io.EOF) && l.dead.Load() {
			return
		}
		e := event{encoded: line}
		if err == nil {
			err = json.Unmarshal([]byte(line), &e)
		}
		l.mu.Lock()
		if err != nil {
			l.rec.wrong = append(l.rec.wrong, event{Time: time.Now(), Reason: err.Error(), encoded: line})
		} else {
			l.rec.take(e)
		}
		l.mu.Unlock()
		select {
		case c.changed <- struct{}{}:
		default:
		}
		if errors.Is(err, io.EOF) {
			return
		}
	}
}

// talk gives a process a message every chaosBeat, until it is killed or done is closed. It skips a
// beat when the machine is too busy.
func (c *chaos) talk(l *life, done <-chan struct{}) {
	beat := time.NewTicker(chaosBeat)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
		case <-done:
			return
		case <-c.ctx.Done():
			return
		}
		if err := l.give(); err != nil {
			if !l.dead.Load() {
				l.mu.Lock()
				l.rec.wrong = append(l.rec.wrong, event{Time: time.Now(), Reason: err.Error()})
				l.mu.Unlock()
			}
			return
		}
	}
}

// give writes the next message to the standard input of a process. It must not be called
// concurrently.
func (l *life) give() error {
	now := time.Now()
	l.mu.Lock()
	l.written = append(l.written, now)
	n := len(l.written)
	l.mu.Unlock()
	err := l.Send(chaosText(l.id.number, n))
	if err != nil {
		l.mu.Lock()
		l.written = l.written[:n-1]
		l.mu.Unlock()
	}
	return err
}

// play makes every process talk, and carries out the plan.
func (c *chaos) play(length time.Duration) {
	c.t.Helper()
	done := make(chan struct{})
	c.begun = time.Now()
	for _, l := range c.living {
		c.talkers.Go(func() { c.talk(l, done) })
	}
	for _, s := range steps(c.faults) {
		c.until(s.at())
		switch {
		case s.kill && s.end:
			l := c.launch(s.node)
			c.talkers.Go(func() { c.talk(l, done) })
		case s.kill:
			l := c.living[s.node]
			l.dead.Store(true)
			require.NoError(c.t, l.Kill())
			// Otherwise the next process finds its data in use.
			_, err := l.Wait(within(c.t, patience))
			require.NoError(c.t, err)
		case s.end:
			c.nodes[s.node].Plug()
		default:
			c.nodes[s.node].Unplug()
		}
	}
	c.until(length)
	close(done)
	c.talkers.Wait()
}

// until waits for a given time of the plan.
func (c *chaos) until(at time.Duration) { time.Sleep(time.Until(c.begun.Add(at))) }

// await waits until holds returns true. It checks again after every report.
func (c *chaos) await(limit time.Duration, holds func() bool) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for !holds() {
		select {
		case <-c.changed:
		case <-timeout.C:
			return holds()
		}
	}
	return true
}

// unmet lists which living processes do not count which others as members; "" if there are none.
func (c *chaos) unmet() string {
	var missing []string
	for _, l := range c.living {
		l.mu.Lock()
		for _, name := range chaosNames {
			if name != l.id.user && !l.rec.there[name] {
				missing = append(missing, fmt.Sprintf("%v lacks %s", l.id, name))
			}
		}
		l.mu.Unlock()
	}
	return strings.Join(missing, ", ")
}
