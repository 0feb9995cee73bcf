package node_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// helperEnv makes the test binary run as a node in a network namespace; see lanHelper.
const helperEnv = "STARLING_NODE_HELPER"

// helper is set where there are namespaces.
var helper func(arg string) error

func TestMain(m *testing.M) {
	log.SetFlags(log.Lshortfile) // which line of an example has failed
	arg, ok := os.LookupEnv(helperEnv)
	if !ok {
		goleak.VerifyTestMain(m)
		return
	}
	if err := helper(arg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// patience bounds what a test waits for: virtual time in a bubble, a real hang elsewhere.
const patience = time.Minute

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// sim is a simulated network with a node on each host.
type sim struct {
	*meshtest.Net
	t     *testing.T
	nodes []*node.Node
}

// newSim makes the network, without connections.
func newSim(t *testing.T, hosts int, each func(i int) []node.Option) *sim {
	t.Helper()
	s := &sim{t: t, Net: meshtest.New(t, meshtest.Options{Hosts: hosts, Latency: 5 * time.Millisecond})}
	for i := range hosts {
		var opts []node.Option
		if each != nil {
			opts = each(i)
		}
		s.nodes = append(s.nodes, nil)
		s.run(i, opts...)
	}
	return s
}

// run starts a node on host i, which is closed when the test ends.
func (s *sim) run(i int, opts ...node.Option) *node.Node {
	s.t.Helper()
	n, err := node.New(append([]node.Option{node.WithHost(s.Host(i)), node.WithoutMDNS()}, opts...)...)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, n.Close()) })
	s.nodes[i] = n
	return n
}

func (s *sim) login(i int, user string) *node.Node {
	s.t.Helper()
	require.NoError(s.t, s.nodes[i].Login(within(s.t), user))
	return s.nodes[i]
}

// settle gives hellos the time they need. In a bubble this takes no real time.
func (s *sim) settle() { time.Sleep(time.Second) }

func (s *sim) join(i int, room string) *mesh.Room {
	s.t.Helper()
	r, err := s.nodes[i].Join(within(s.t), room)
	require.NoError(s.t, err)
	return r
}

// recver is a node or a room.
type recver interface {
	Recv(context.Context) (mesh.Event, error)
}

// await reads events until one has type T and fits, and drops the others.
func await[T mesh.Event](t testing.TB, from recver, fits func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var seen []string
	for {
		ev, err := from.Recv(ctx)
		if err != nil {
			t.Fatalf("no %T came: %v; what came: %v", *new(T), err, seen)
		}
		if got, ok := ev.(T); ok && (fits == nil || fits(got)) {
			return got
		}
		seen = append(seen, ev.Head().Type)
	}
}

// drained returns the events that come within a second.
func drained(from recver) (all []mesh.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		ev, err := from.Recv(ctx)
		if err != nil {
			return all
		}
		all = append(all, ev)
	}
}

// ends reads a stream to its end and returns why it ended.
func ends(t testing.TB, from recver) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if _, err := from.Recv(ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatal("the stream does not end")
			}
			return err
		}
	}
}

// none fails the test if an event of type T came.
func none[T mesh.Event](t testing.TB, events []mesh.Event) {
	t.Helper()
	for _, ev := range events {
		if bad, ok := ev.(T); ok {
			t.Fatalf("unexpected %T: %+v", bad, bad)
		}
	}
}

// userKey makes a user key in the form that WithUserKey takes.
func userKey(t testing.TB) []byte {
	t.Helper()
	keys, err := identity.GenerateKeys()
	require.NoError(t, err)
	text, err := identity.MarshalKey(keys.User)
	require.NoError(t, err)
	return text
}

func users(logins []identity.Login) string {
	var names []string
	for _, l := range logins {
		names = append(names, l.User)
	}
	return fmt.Sprint(names)
}

func exampleKey() []byte {
	keys, err := identity.GenerateKeys()
	if err != nil {
		panic(err)
	}
	text, err := identity.MarshalKey(keys.User)
	if err != nil {
		panic(err)
	}
	return text
}
