package stay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// tape records what a program is told, in order.
type tape struct {
	deafWorld
	lines []string
	link  Link
	spoke func(peer.ID) time.Time
	full  bool // the program's queue has no space
}

func (w *tape) Link(peer.ID) Link { return w.link }
func (w *tape) Spoke(p peer.ID) time.Time {
	if w.spoke != nil {
		return w.spoke(p)
	}
	return time.Time{}
}

func (w *tape) Deliver(from identity.Login, _ *Envelope, items []Item) bool {
	for _, i := range items {
		w.lines = append(w.lines, fmt.Sprintf("%s:%s", from.User, i.Data))
	}
	return !w.full
}

func (w *tape) Notice(n Notice) {
	l := fmt.Sprintf("%T", n)
	switch n := n.(type) {
	case Ready:
		l = "ready"
		if n.Again {
			l = "ready again"
		}
	case Joined:
		l = "+" + n.Member.User
	case Left:
		l = "-" + n.Member.User + " " + string(n.Reason)
	case Silent:
		l = "?" + n.Member.User
	case Heard:
		l = "!" + n.Member.User
	case Lost:
		l = fmt.Sprintf("lost %s %d-%d", n.From.User, n.First, n.Last)
	}
	w.lines = append(w.lines, l)
}

func (w *tape) cut() (lines []string) {
	lines, w.lines = w.lines, nil
	return lines
}

// rig is a stay of u0 and the entries of others.
type rig struct {
	*Stay
	t   *testing.T
	w   *tape
	now time.Time
	seq uint64
	end map[FeedTag][32]byte
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, w: &tape{link: Linked}, now: time.Now()}
	r.Stay, _ = begunStay(t, r.now, r.w)
	r.seq = uint64(r.now.UnixMilli())
	return r
}

func (r *rig) entry(name string, feed byte, joined bool) *Entry {
	r.t.Helper()
	keys, st := user(r.t, identity.NewAppID("test"), name, name[len(name)-1]-'0')
	r.seq++
	e, err := SignEntry(keys.Device, r.Tag, Entry{Statement: st, Feed: FeedID{feed}, Sequence: r.seq, Joined: joined})
	require.NoError(r.t, err)
	return e
}

func (r *rig) greet(e *Entry) {
	r.HearGreeting(r.now, e.Statement.Peer, &wire.RoomFrame_Greeting{Entry: e.Sealed, Digest: r.roster.sum(), Heads: r.journal.sum()}, e)
}

func (r *rig) roster_(p peer.ID, entries ...*Entry) {
	r.HearRoster(r.now, p, &wire.RoomFrame_Roster{Last: true, Answers: r.journal.self[:]}, entries)
}

// meet makes a member a neighbour that has answered.
func (r *rig) meet(e *Entry, others ...*Entry) {
	r.Subscribed(r.now, e.Statement.Peer)
	r.greet(e)
	r.roster_(e.Statement.Peer, others...)
}

// settle makes the stay ready, lets a second pass, and forgets what was told until then.
func (r *rig) settle() {
	r.Begin(r.now)
	r.pass(time.Second)
	r.w.cut()
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	end := r.now.Add(d)
	for {
		wait := max(r.Tick(r.now), time.Millisecond)
		if r.now.Add(wait).After(end) {
			r.now = end
			return
		}
		r.now = r.now.Add(wait)
	}
}

// envelope is a broadcast of texts of a member. The entry begins it if first is 1.
func (r *rig) envelope(e *Entry, first uint64, texts ...string) *Envelope {
	var content []byte
	n := uint32(len(texts))
	if first == 1 {
		content = wire.AppendItem(content, wire.Kind_KIND_ROSTER, e.Sealed)
		n++
	}
	for _, s := range texts {
		content = wire.AppendItem(content, wire.Kind_KIND_TEXT, []byte(s))
	}
	v := &wire.Envelope{First: first, Count: n, SentMs: r.now.UnixMilli(), Content: content}
	if r.end == nil {
		r.end = make(map[FeedTag][32]byte)
	}
	if first > 1 {
		h := r.end[e.Tag()]
		v.Previous = h[:]
	}
	h := sha256.Sum256(binary.BigEndian.AppendUint64(v.Previous, first))
	r.end[e.Tag()] = h
	return &Envelope{Envelope: v, device: e.Statement.Device, Peer: e.Statement.Peer, Feed: e.Feed, tag: e.Tag(), came: r.now, sealed: content, hash: h, Size: len(content)}
}

// monkey does random things to a stay, and checks what it tells.
func monkey(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	r := newRig(t)
	const members = 5
	cur := make([]*Entry, members+1)
	gone := make([]*Entry, members+1) // a goodbye
	feed, next := byte(1), make(map[FeedTag]uint64)
	conn := make(map[int]bool)
	trace := []string{}
	for i := 1; i <= members; i++ {
		cur[i] = r.entry(fmt.Sprint("u", i), feed, true)
		feed++
	}
	there, silent, ready := map[string]bool{}, map[string]bool{}, false
	check := func(op string) {
		lines := r.w.cut()
		trace = append(trace, fmt.Sprintf("%v %s -> %q hold=%v", r.now.Sub(r.since), op, lines, r.Holding()))
		fail := func(l, why string) {
			if len(trace) > 40 {
				trace = trace[len(trace)-40:]
			}
			t.Fatalf("seed %d: %s: %s\n%s", seed, l, why, strings.Join(trace, "\n"))
		}
		for _, l := range lines {
			name := strings.Fields(l)[0][1:]
			if !ready && l != "ready" && l != "stay.Delayed" {
				fail(l, "before ready")
			}
			switch l[0] {
			case '+':
				if there[name] {
					fail(l, "came twice")
				}
				there[name] = true
			case '-':
				if !there[name] {
					fail(l, "left without coming")
				}
				there[name], silent[name] = false, false
			case '?':
				if !there[name] || silent[name] {
					fail(l, "silent twice or not there")
				}
				silent[name] = true
			case '!':
				if !there[name] || !silent[name] {
					fail(l, "heard, was not silent")
				}
				silent[name] = false
			}
			if l == "ready" {
				ready = true
			}
		}
		if !r.Holding() && ready {
			for s := range r.roster.order.all() {
				if s.Peer != r.Self && s.present != there[s.User] {
					fail(s.User, "present is not what was told")
				}
			}
		}
	}
	sync := func() {
		for i := 1; i <= members; i++ {
			if conn[i] {
				r.w.link = Linked
			}
		}
	}
	for range 400 {
		i := 1 + rng.IntN(members)
		p := cur[i].Statement.Peer
		op := ""
		switch k := rng.IntN(16); {
		case k < 3 && !conn[i]:
			conn[i] = true
			op = fmt.Sprint("connect ", i)
			r.Connected(r.now, p)
			if rng.IntN(4) > 0 && gone[i] == nil {
				r.Subscribed(r.now, p)
				r.greet(cur[i])
				if rng.IntN(3) > 0 {
					r.roster_(p)
				}
			}
		case k < 5 && conn[i]:
			conn[i] = false
			op = fmt.Sprint("disconnect ", i)
			r.Disconnected(r.now, p)
		case k == 5:
			op = fmt.Sprint("hush ", i)
			r.Hushed(r.now, p)
		case k == 6:
			op = fmt.Sprint("audible ", i)
			r.Audible(r.now, p)
		case k == 7 && conn[i]:
			op = fmt.Sprint("unsubscribed ", i)
			r.Unsubscribed(r.now, p)
			if rng.IntN(2) == 0 {
				r.Absent(r.now, p)
			}
		case k < 10:
			tag := cur[i].Tag()
			if next[tag] == 0 {
				next[tag] = 1
			}
			e := r.envelope(cur[i], next[tag], "x")
			if next[tag] == 1 {
				next[tag] = 3
			} else {
				next[tag]++
			}
			if rng.IntN(4) == 0 {
				op = fmt.Sprint("lost ", i, " ", e.First)
				break
			}
			op = fmt.Sprint("envelope ", i, " ", e.First)
			r.Receive(r.now, p, e, Way(rng.IntN(2)))
		case k == 10 && gone[i] == nil:
			name := fmt.Sprint("u", i)
			gone[i] = r.entry(name, cur[i].Feed[0], false)
			if rng.IntN(2) == 0 {
				op = fmt.Sprint("left ", i)
				r.apply(r.now, gone[i])
			} else {
				op = fmt.Sprint("left by hearsay ", i)
				r.hearsay(r.now, "q", gone[i])
			}
		case k == 11:
			op = fmt.Sprint("new stay ", i)
			cur[i], gone[i] = r.entry(fmt.Sprint("u", i), feed, true), nil
			feed++
			if rng.IntN(2) == 0 {
				r.greet(cur[i])
			} else {
				r.hearsay(r.now, "q", cur[i])
			}
		case k == 12 && gone[i] == nil:
			op = fmt.Sprint("renew ", i)
			cur[i] = r.entry(fmt.Sprint("u", i), cur[i].Feed[0], true)
			r.apply(r.now, cur[i])
		case k == 13:
			if s := r.roster.devices[p]; s != nil {
				op = fmt.Sprint("accused ", i)
				by := cur[1+rng.IntN(members)].Statement.Peer
				r.roster.accused(r.now, r.now, by, accusation{device: p, feed: s.entry.Feed, sequence: s.entry.Sequence, question: rng.IntN(3) == 0})
				r.world.Wake(ForTimer)
			}
		case k == 14:
			op = fmt.Sprint("roster ", i)
			r.roster_(p, cur[1+rng.IntN(members)])
		default:
			op = fmt.Sprint("direct ", i)
			r.HearDirect(r.now, cur[i].Statement.Login())
		}
		sync()
		check(op)
		if !ready && rng.IntN(20) == 0 {
			r.Begin(r.now)
			check("begin")
		}
		d := time.Duration(rng.ExpFloat64() * float64(800*ms))
		for end := r.now.Add(d); r.now.Before(end); {
			r.pass(min(50*ms, end.Sub(r.now)))
			check("pass")
		}
	}
	if !ready {
		return
	}
	r.pass(4 * time.Second)
	check("end")
	if r.company() && (r.Holding() || len(r.held.list) > 0) {
		t.Fatalf("seed %d: holds for ever", seed)
	}
}

func TestAStayTellsTheSameAsItKnowsWhateverHappens(t *testing.T) {
	for seed := range uint64(40) {
		monkey(t, seed)
	}
}
