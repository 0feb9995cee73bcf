package stay

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

// Inside is what a stay holds, for tests of what is around it.
type Inside struct {
	Head      Head
	Feeds     []FeedTag // in the order of their tags
	Lacking   int       // feeds of which something is missing
	Waiting   int       // feeds without a baseline
	Positions map[FeedTag]Position
	Digest    []byte                // of the positions
	Retained  map[FeedTag][]Kept    // by rising first
	Parked    int                   // envelopes
	Bytes     int                   // of those
	Polls     int                   // this node's own that have not ended
	Awaited   map[[32]byte]uint64   // the last item of each envelope whose receipts are awaited
	Carried   map[[32]byte]Carried  // by the hash of the envelope
	Windows   map[peer.ID]Window    // of neighbours that have acknowledged something
	Near      map[peer.ID]Near      // the neighbours
	LostAt    map[peer.ID]time.Time // when the connection to a member ended; zero: it has not
}

// Position is how far a stay has got with a feed.
type Position struct {
	Last   uint64
	Author peer.ID
}

// Carried is an envelope whose receipts a stay passes on.
type Carried struct {
	Last   uint64
	Own    *wire.Receipt // nil: none
	Passed int           // devices whose receipts went on
	Queued int           // receipts that wait to go on together
}

// Window is how many envelopes are under way to a neighbour, and how many may be.
type Window struct{ UnderWay, Limit uint64 }

// Near is what is known of a neighbour.
type Near struct {
	Agreed bool
	Early  int // frames of receipts that have overtaken their envelope
}

// Inspect returns what the stay holds now.
func (st *Stay) Inspect() Inside {
	j := st.journal
	in := Inside{
		Head: st.head, Lacking: j.lacking.len(), Waiting: j.waiting.len(), Positions: make(map[FeedTag]Position), Digest: j.sum(),
		Retained: make(map[FeedTag][]Kept), Parked: len(st.parked.list), Bytes: st.parked.bytes, Polls: st.confirms.open.len(),
		Awaited: make(map[[32]byte]uint64), Carried: make(map[[32]byte]Carried), Windows: make(map[peer.ID]Window),
		Near: make(map[peer.ID]Near), LostAt: make(map[peer.ID]time.Time),
	}
	in.Feeds = slices.SortedFunc(maps.Keys(j.feeds), func(a, b FeedTag) int { return bytes.Compare(a[:], b[:]) })
	for _, f := range j.positions() {
		in.Positions[f.tag] = Position{f.position(), f.peer()}
	}
	for tag, sh := range j.ring.shelves {
		in.Retained[tag] = slices.Clone(sh.list)
	}
	for hash, s := range st.confirms.sent {
		in.Awaited[hash] = s.last
	}
	for hash, n := range st.relays.byHash {
		queued := 0
		for _, b := range n.out {
			queued += len(b.list)
		}
		in.Carried[hash] = Carried{n.last, n.own, len(n.passed), queued}
	}
	for p, w := range st.window.peers {
		in.Windows[p] = Window{st.window.sum - w.sum, w.limit}
	}
	for p, n := range st.neighbours {
		in.Near[p] = Near{n.agreed, len(n.early)}
	}
	for p, s := range st.roster.devices {
		in.LostAt[p] = s.lost
	}
	return in
}

// Pretend makes the stay believe that this node's own feed has come to h. It is for tests.
func (st *Stay) Pretend(h Head) { st.head = h }

// Meet makes the stay know a member, and that nothing of its feed through last is for this node. It
// is for tests, which thus need not wait until members have learnt of each other.
func (st *Stay) Meet(now time.Time, entry *Entry, last uint64) {
	if s := st.apply(now, entry); s != nil {
		s.feed.begin(last + 1)
	}
	st.journal.digest = nil
}

// Bar puts a member out as one that ignores the rate, and reports whether it was one.
func (st *Stay) Bar(now time.Time, p peer.ID) bool {
	s := st.roster.devices[p]
	if s == nil || !s.present {
		return false
	}
	st.bar(now, s.feed)
	return true
}
