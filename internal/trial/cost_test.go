package trial

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/cputime"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
)

// costSizes returns the numbers of members with which TestCost measures rooms. STARLING_COST sets
// others: "8 50 500".
func costSizes(t *testing.T) (sizes []int) {
	for _, text := range strings.Fields(os.Getenv("STARLING_COST")) {
		n, err := strconv.Atoi(text)
		require.NoError(t, err, "STARLING_COST")
		require.GreaterOrEqual(t, n, 2, "STARLING_COST")
		sizes = append(sizes, n)
	}
	if len(sizes) == 0 {
		return usualCosts
	}
	return sizes
}

const (
	costIdle     = time.Minute
	costBusy     = 30 * time.Second
	costEvery    = 500 * time.Millisecond // between two messages of one publisher
	costSpeakers = 8
)

// costSize returns how many bytes a message has; STARLING_COST_BYTES sets another number.
func costSize(t *testing.T) int {
	text := os.Getenv("STARLING_COST_BYTES")
	if text == "" {
		return 256
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "STARLING_COST_BYTES")
	return max(n, 8)
}

// cost is what one room cost. CPU is real time, of all nodes and the simulated network between
// them; bytes are UDP payload.
type cost struct {
	members  int
	joining  phase
	idle     phase
	busy     phase
	messages int // published while busy
	arrived  int
	after50  time.Duration
	after99  time.Duration
	heap     int        // bytes per node, with its room, without its host
	before   mesh.Stats // of all members together
	quiet    mesh.Stats
	after    mesh.Stats
}

type phase struct {
	took  time.Duration
	bytes int
	cpu   time.Duration
}

// TestCost measures what reliability costs, compared with bare GossipSub under the same conditions:
// while a room comes together, in a minute of silence, and while eight members each publish 256
// bytes twice a second.
//
//	STARLING_COST='8 50 500' go test ./internal/trial -v -timeout 30m -run TestCost
func TestCost(t *testing.T) {
	for _, n := range costSizes(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var bare, ours cost
			synctest.Test(t, func(t *testing.T) { bare = measure(t, n, bareDriver(false)) })
			synctest.Test(t, func(t *testing.T) { ours = measure(t, n, oursDriver) })
			for name, c := range map[string]cost{"bare": bare, "ours": ours} {
				t.Logf("%s: %v", name, c)
			}
			d := func(f func(mesh.Stats) uint64) uint64 { return f(ours.after) - f(ours.before) }
			t.Logf("ours, idle: %.0f B of room frames a second and node (beats, greetings, heads)", ours.perNode(ours.idle, int(ours.quiet.RoomBytes-ours.before.RoomBytes)))
			t.Logf("ours, busy: %.0f B of room frames a second and node, %d pulls, %d B pulled, %d copies of %d envelopes, %d duplicates",
				ours.perNode(ours.busy, int(ours.after.RoomBytes-ours.quiet.RoomBytes)), d(func(s mesh.Stats) uint64 { return s.Pulls }),
				d(func(s mesh.Stats) uint64 { return s.BytesServed }), d(func(s mesh.Stats) uint64 { return s.EnvelopeCopies }),
				d(func(s mesh.Stats) uint64 { return s.EnvelopesPublished }), d(func(s mesh.Stats) uint64 { return s.EnvelopeDuplicates }))
			require.Equal(t, ours.messages*(n-1), ours.arrived)
			require.Equal(t, ours.before.Pulls, ours.quiet.Pulls, "nothing is missing in an idle room")
			require.Less(t, ours.perNode(ours.idle, ours.idle.bytes), 1000.0, "bytes a second of a member in an idle room")
		})
	}
}

func (c cost) perNode(p phase, bytes int) float64 {
	return float64(bytes) / p.took.Seconds() / float64(c.members)
}

func (c cost) String() string {
	deliveries := c.messages * (c.members - 1)
	return fmt.Sprintf("%d members: joining %.1f kB and %.2f ms a node; idle %.0f B/s and %.0f µs/s a node; busy %.0f B and %.1f µs a delivery, %d of %d, the median after %v, p99 %v; %d kB of heap a node",
		c.members, float64(c.joining.bytes)/1e3/float64(c.members), float64(c.joining.cpu.Microseconds())/1e3/float64(c.members),
		c.perNode(c.idle, c.idle.bytes), float64(c.idle.cpu.Microseconds())/c.idle.took.Seconds()/float64(c.members),
		float64(c.busy.bytes)/float64(deliveries), float64(c.busy.cpu.Microseconds())/float64(deliveries), c.arrived, deliveries, c.after50, c.after99, c.heap/1000)
}

// ears record what all members receive, and how long after it was published.
type ears struct {
	mu    sync.Mutex
	after []time.Duration
}

func (e *ears) message(_ string, data []byte) {
	at := time.Unix(0, int64(binary.BigEndian.Uint64(data)))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.after = append(e.after, time.Since(at))
}

// quantile returns the time within which that share of the messages arrived.
func quantile(after []time.Duration, q float64) time.Duration {
	if len(after) == 0 {
		return 0
	}
	slices.Sort(after)
	return after[int(q*float64(len(after)-1))].Round(time.Millisecond)
}

func (e *ears) gap(user string, n int) { panic(fmt.Sprintf("%d messages of %s lost", n, user)) }
func (e *ears) lagged(n int)           { panic(fmt.Sprintf("%d messages dropped", n)) }

func measure(t *testing.T, members int, d driver) (c cost) {
	net := meshtest.New(t, meshtest.Options{Hosts: members, Latency: latency, Seed: seed})
	net.Random(10)
	var heard ears
	sessions := make([]session, members)
	c.members = members
	before, size := heap(), costSize(t)
	c.joining = spend(net, func() {
		var joins sync.WaitGroup
		for i := range members {
			joins.Go(func() { sessions[i] = d(t, net, i, nil, &heard) })
		}
		joins.Wait()
		for _, s := range sessions {
			if o, ok := s.(*ours); ok {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				require.NoError(t, o.room.WaitPeers(ctx, members-1))
				cancel()
			}
		}
		time.Sleep(settle)
	})
	c.heap = (heap() - before) / members
	c.before = sum(sessions)
	c.idle = spend(net, func() { time.Sleep(costIdle) })
	c.quiet = sum(sessions)
	c.busy = spend(net, func() {
		var speakers sync.WaitGroup
		for i := range min(costSpeakers, members) {
			speakers.Go(func() {
				for range int(costBusy / costEvery) {
					time.Sleep(costEvery)
					sessions[i].publish(binary.BigEndian.AppendUint64(make([]byte, 0, size), uint64(time.Now().UnixNano()))[:size])
				}
			})
		}
		speakers.Wait()
		time.Sleep(2 * time.Second)
	})
	c.messages = min(costSpeakers, members) * int(costBusy/costEvery)
	c.after = sum(sessions)
	var ends sync.WaitGroup
	for _, s := range sessions {
		ends.Go(s.stop)
	}
	ends.Wait()
	c.arrived, c.after50, c.after99 = len(heard.after), quantile(heard.after, 0.5), quantile(heard.after, 0.99)
	return c
}

func spend(net *meshtest.Net, f func()) phase {
	traffic := func() (bytes int) {
		for i := range net.Len() {
			bytes += net.Traffic(i).BytesSent
		}
		return bytes
	}
	start, bytes, cpu := time.Now(), traffic(), cputime.Now()
	f()
	synctest.Wait()
	return phase{time.Since(start), traffic() - bytes, cputime.Now() - cpu}
}

func sum(sessions []session) (s mesh.Stats) {
	for _, x := range sessions {
		if o, ok := x.(*ours); ok {
			one := o.node.Stats().Mesh
			s.RoomBytes += one.RoomBytes
			s.BytesServed += one.BytesServed
			s.Pulls += one.Pulls
			s.EnvelopeCopies += one.EnvelopeCopies
			s.EnvelopesPublished += one.EnvelopesPublished
			s.EnvelopeDuplicates += one.EnvelopeDuplicates
		}
	}
	return s
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestCostOfFurtherRooms measures the memory that a further room costs a node, with one other
// member and no messages.
func TestCostOfFurtherRooms(t *testing.T) {
	const further = 50
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Options{Hosts: 2, Latency: latency, Seed: seed})
		net.Connect(0, 1)
		var heard ears
		nodes := []*ours{oursDriver(t, net, 0, nil, &heard).(*ours), oursDriver(t, net, 1, nil, &heard).(*ours)}
		time.Sleep(settle)
		before := heap()
		for k := range further {
			for _, o := range nodes {
				_, err := o.node.Join(context.Background(), fmt.Sprintf("room%d", k))
				require.NoError(t, err)
			}
		}
		time.Sleep(settle)
		t.Logf("a further room of two: %d kB of heap a node", (heap()-before)/len(nodes)/further/1000)
		for _, o := range nodes {
			for _, r := range o.node.Rooms() {
				require.Len(t, r.Members(), 2)
			}
		}
		for _, o := range nodes {
			o.stop()
		}
	})
}
