package stay

import (
	"cmp"
	"container/heap"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// simWorld is devices, the links between them, and what is under way. Time is a number, and all
// chance comes from one seed.
type simWorld struct {
	rng    *rand.Rand
	seed   uint64
	now    time.Time
	events simQueue
	count  uint64
	limits Retention
	part   int     // bytes of envelopes in a part of an answer
	loss   float64 // of copies that travel by gossip
	all    []*simDevice
	links  map[[2]int]*simLink
	door   *Door
	feeds  map[FeedTag]*simStay // the stay that has published each feed
	stays  []*simStay           // all that there were
	sealed map[string]*simParcel
	log    *slog.Logger
	trace  []string // nil: none is kept
	wrong  string   // the first breach
}

// simEvent is something that happens at a time. Events at the same time happen in the order in
// which they were arranged.
type simEvent struct {
	at    time.Time
	order uint64
	do    func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(e any)   { *q = append(*q, e.(simEvent)) }
func (q *simQueue) Pop() any {
	e := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = simEvent{}
	*q = (*q)[:len(*q)-1]
	return e
}

// simDevice is a process that may be in the room.
type simDevice struct {
	w          *simWorld
	i          int
	id         peer.ID
	statement  *identity.Statement
	key        ed25519.PrivateKey
	dead       bool
	process    int // how often it was killed
	paused     bool
	ahead      time.Duration // of its clock
	away       uint          // the cuts that separate it from the others
	stay       *simStay
	last       *simStay // its latest stay
	sequence   uint64
	handed     map[FeedTag]uint64 // by the stays of this process
	latest     map[peer.ID]Mark
	chance     *rand.Rand
	subscribed map[int]bool // the devices that have said that they are in the room
}

// simLink is a possible connection of two devices.
type simLink struct {
	a, b    int
	up      bool
	times   int           // how often it came up or went down
	since   time.Time     // when it came up, or packets last began to pass
	arrival [2]time.Time  // of the latest frame, by the end that gets it
	stuck   [2][]simStuck // what waits for packets to pass
	spoke   [2]time.Time  // when something came last, by the end that got it
}

// side returns the index of an end.
func (l *simLink) side(i int) int {
	if i == l.b {
		return 1
	}
	return 0
}

type simStuck struct {
	ordered bool
	do      func()
}

// simAsking is how many neighbours are asked at a time: few, so that the limit has an effect.
const simAsking = 2

const (
	// simEvents bounds a schedule: one that goes beyond would run for ever.
	simEvents = 400_000
	// simQuick and simSlow are how long a packet takes.
	simQuick, simSlow = time.Millisecond, 30 * time.Millisecond
)

func (w *simWorld) at(at time.Time, do func()) {
	w.count++
	heap.Push(&w.events, simEvent{at, w.count, do})
}

func (w *simWorld) after(d time.Duration, do func()) { w.at(w.now.Add(d), do) }

// run executes what happens before a time.
func (w *simWorld) run(until time.Time) {
	for w.wrong == "" && len(w.events) > 0 && !w.events[0].at.After(until) {
		if w.count > simEvents {
			w.breach("it never comes to rest")
			return
		}
		e := heap.Pop(&w.events).(simEvent)
		w.now = e.at
		e.do()
	}
	w.now = until
}

func (w *simWorld) breach(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf("at %v: ", w.now.Sub(epoch)) + fmt.Sprintf(format, args...)
	}
}

func (w *simWorld) note(format string, args ...any) {
	if w.trace != nil {
		w.trace = append(w.trace, fmt.Sprintf("%9.3f  ", w.now.Sub(epoch).Seconds())+fmt.Sprintf(format, args...))
	}
}

// between draws a duration.
func (w *simWorld) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)))
}

// simKeys are the keys of the devices, in the order of their IDs.
var simKeys, simIDs = func() (keys [8]ed25519.PrivateKey, ids [8]peer.ID) {
	for i := range keys {
		seed := [ed25519.SeedSize]byte{byte(i)}
		keys[i] = ed25519.NewKeyFromSeed(seed[:])
	}
	id := func(k ed25519.PrivateKey) peer.ID {
		pub, err := crypto.UnmarshalEd25519PublicKey(k.Public().(ed25519.PublicKey))
		if err != nil {
			panic(err)
		}
		p, err := peer.IDFromPublicKey(pub)
		if err != nil {
			panic(err)
		}
		return p
	}
	slices.SortFunc(keys[:], func(a, b ed25519.PrivateKey) int { return cmp.Compare(id(a), id(b)) })
	for i, k := range keys {
		ids[i] = id(k)
	}
	return keys, ids
}()

func simID(i int) peer.ID { return simIDs[i] }

func simIndex(p peer.ID) int { return slices.Index(simIDs[:], p) }

func (w *simWorld) link(i, j int) *simLink { return w.links[[2]int{min(i, j), max(i, j)}] }

func (w *simWorld) connected(i, j int) bool {
	l := w.link(i, j)
	return l != nil && l.up
}

// passes reports whether packets pass.
func (w *simWorld) passes(i, j int) bool {
	a, b := w.all[i], w.all[j]
	return !a.dead && !b.dead && !a.paused && !b.paused && a.away == b.away
}

// send brings something to the end j of a connection: in order, or by another way. Without a
// connection it is lost.
func (w *simWorld) send(i, j int, ordered bool, do func()) {
	l := w.link(i, j)
	if l == nil || !l.up {
		return
	}
	side := l.side(j)
	if !w.passes(i, j) {
		l.stuck[side] = append(l.stuck[side], simStuck{ordered, do})
		return
	}
	at := w.now.Add(w.between(simQuick, simSlow))
	if ordered {
		if at.Before(l.arrival[side]) {
			at = l.arrival[side]
		}
		l.arrival[side] = at
	}
	times := l.times
	w.at(at, func() {
		switch {
		case l.times != times:
		case !w.passes(i, j):
			l.stuck[side] = append(l.stuck[side], simStuck{ordered, do})
		default:
			do()
		}
	})
}

// tell sends a frame of a room.
func (w *simWorld) tell(i, j int, frame any) {
	w.send(i, j, true, func() { w.all[j].hear(i, frame) })
}

func (w *simWorld) connect(l *simLink) {
	if l.up || !w.passes(l.a, l.b) {
		return
	}
	w.note("%d and %d connect", l.a, l.b)
	l.up, l.since = true, w.now
	l.times++
	l.arrival, l.spoke = [2]time.Time{}, [2]time.Time{}
	for _, ends := range [][2]int{{l.a, l.b}, {l.b, l.a}} {
		if r := w.all[ends[0]].stay; r != nil {
			r.connected(simID(ends[1]))
			w.tell(ends[0], ends[1], simSubscribed{true})
		}
	}
}

func (w *simWorld) disconnect(l *simLink) {
	if !l.up {
		return
	}
	w.note("%d and %d lose their connection", l.a, l.b)
	l.up = false
	l.times++
	l.stuck = [2][]simStuck{}
	for _, ends := range [][2]int{{l.a, l.b}, {l.b, l.a}} {
		d := w.all[ends[0]]
		delete(d.subscribed, ends[1])
		if d.stay != nil {
			d.stay.disconnected(simID(ends[1]))
		}
	}
}

// changed looks at all links after something has parted devices or brought them together. noticed
// says that connections on which no packets pass break at once; usually it takes a while.
func (w *simWorld) changed(noticed bool) {
	for _, l := range w.sortedLinks() {
		times := l.times
		switch passes := w.passes(l.a, l.b); {
		case passes && l.up && len(l.stuck[0])+len(l.stuck[1]) > 0:
			l.since = w.now
			stuck := l.stuck
			l.stuck = [2][]simStuck{}
			for side, from := range [2]int{l.b, l.a} {
				to := [2]int{l.a, l.b}[side]
				for _, s := range stuck[side] {
					w.send(from, to, s.ordered, s.do)
				}
			}
		case passes && !l.up:
			w.after(w.between(50*time.Millisecond, 1500*time.Millisecond), func() {
				if l.times == times {
					w.connect(l)
				}
			})
		case !passes && l.up:
			wait := time.Duration(0)
			if !noticed {
				wait = w.between(4*time.Second, 12*time.Second)
			}
			w.after(wait, func() {
				if l.times == times && !w.passes(l.a, l.b) {
					w.disconnect(l)
				}
			})
		}
	}
}

func (w *simWorld) sortedLinks() []*simLink {
	out := make([]*simLink, 0, len(w.links))
	for _, l := range w.links {
		out = append(out, l)
	}
	slices.SortFunc(out, func(x, y *simLink) int { return (x.a-y.a)*len(w.all) + x.b - y.b })
	return out
}

// near returns the devices that one is connected to, in random order.
func (w *simWorld) near(i int) (out []int) {
	for j := range w.all {
		if w.connected(i, j) {
			out = append(out, j)
		}
	}
	w.rng.Shuffle(len(out), func(a, b int) { out[a], out[b] = out[b], out[a] })
	return out
}

// gossip passes an envelope on to some of the connected devices, and loses copies.
func (w *simWorld) gossip(i int, p *simParcel, flood bool, but int) {
	for n, j := range w.near(i) {
		if j == but || !w.all[i].subscribed[j] || !flood && n >= 3 || w.rng.Float64() < w.loss {
			continue
		}
		w.send(i, j, false, func() {
			if r := w.all[j].stay; r != nil {
				r.validate(i, p)
			}
		})
	}
}

// simSubscribed is what GossipSub reports.
type simSubscribed struct{ in bool }

func (d *simDevice) hear(from int, frame any) {
	r := d.stay
	if s, ok := frame.(simSubscribed); ok {
		d.subscribe(from, s.in)
		return
	}
	f := frame.(*wire.RoomFrame)
	switch {
	case r != nil:
		r.hear(from, f)
	case f.GetQuery() != nil:
		d.w.tell(d.i, from, &wire.RoomFrame{Body: &wire.RoomFrame_Absent_{Absent: &wire.RoomFrame_Absent{}}})
	}
}

// subscribe notes that GossipSub knows that a device takes the room's topic, or no longer does.
func (d *simDevice) subscribe(from int, in bool) {
	if in {
		d.subscribed[from] = true
	} else {
		delete(d.subscribed, from)
	}
	if d.stay != nil {
		d.stay.peerEvent(from, in)
	}
}

func (w *simWorld) traced() string { return strings.Join(w.trace, "\n") }
