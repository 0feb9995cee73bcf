package stay

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

const (
	// BaselineWait is how long the first envelope of a feed whose beginning was not seen waits for
	// neighbours to say where it begins for this node.
	BaselineWait = 500 * time.Millisecond
	// sureWait is how much longer it waits while no neighbour that can be sure has said so, and
	// again while none has said anything.
	sureWait = time.Second
	// baselineDoubt is how long others may correct a baseline that neighbours have said, while
	// nothing has been delivered. In that time a member has compared rosters with another one.
	baselineDoubt = digestEvery + digestEvery/2
	// baselineProof is how long after a baseline was set gossip may still bring what is from before
	// it.
	baselineProof = maxGossipAge + 2*time.Second
	// authorProof is the same for what comes from the author itself: it offers its own messages for
	// one heartbeat of GossipSub, by default 1 s. If its heartbeat is longer, this node may report
	// as lost what is from before its time.
	authorProof = 1500 * time.Millisecond
	// maxHeld and maxHeldBytes bound what waits behind a gap of one feed. The latest envelope is
	// dropped: it can be fetched again.
	maxHeld      = 256
	maxHeldBytes = 4 << 20
)

// FeedTag names a feed among members: the feed ID alone would let a device claim another's.
type FeedTag [16]byte

// TagFeed returns the name of a feed among members.
func TagFeed(device identity.PublicKey, id FeedID) FeedTag {
	var in [len(device) + len(id)]byte
	copy(in[:], device[:])
	copy(in[len(device):], id[:])
	sum := sha256.Sum256(in[:])
	return FeedTag(sum[:len(FeedTag{})])
}

// Feed puts the envelopes of one stay of one member into order, and knows which of them are
// missing. It is a plain state machine: the caller passes the time and holds the lock.
type Feed struct {
	tag   FeedTag
	entry *Entry    // of its author; nil: only others' word of its position is known
	seen  time.Time // when this node first knew of it
	began time.Time // when its first item was published, as far as is known; zero: before this node's time

	next  uint64 // sequence of the next item to deliver; 0: no baseline yet
	floor uint64 // the first item to deliver at all: envelopes may begin before it
	// tip is the hash of the envelope that ended just before next; nil if that one was not seen.
	tip       *[32]byte
	held      []*Envelope // behind a gap, by rising first
	heldBytes int
	gapSince  time.Time // when the present gap showed, or what is held began to wait for a baseline; zero: nothing waits
	broken    bool      // the sender has signed two different continuations, is barred, or was put out
	barred    bool      // the sender has ignored the rate of broadcasts
	shut      bool      // it is broken for no other reason than that it was put out

	// stored is the last item that the store knew of when this stay began; 0: the feed is new. end
	// is the hash of the envelope that ends with it. Until the feed has a baseline, what the store
	// gave is there for other members alone.
	stored uint64
	end    *[32]byte

	handed uint64 // the last item that was handed up in an earlier stay of this process; 0: none
	// queued is since when the feed has waited for an earlier stay of its author; zero: it has not.
	// notBefore is when to look next whether that stay's feed has come.
	queued, notBefore time.Time

	clocks clocks // what neighbours said of its author's clock before they said who that is

	beginning
	claims      []vow     // of neighbours that are sure that something is for this node
	lostByGuess uint64    // the lowest item reported lost because the baseline was a guess; 0: none
	guessed     bool      // the baseline is the word of neighbours that cannot be sure, or what came first
	guessedAt   time.Time // since when that is so
	claimed     time.Time // when one of them first said so
	// supposed is when the baseline was set to what neighbours said; zero: it is from what came.
	supposed time.Time
	repair   repair
	ack      ack
	used     time.Time // when something last happened
	silent   bool      // that was so long ago that nobody has anything of it
	ended    bool      // its author's goodbye has been delivered
	assured  time.Time // when a neighbour that is sure last said where it begins: it knows the feed
	tellAt   time.Time // when to tell neighbours that it has got further
}

// verdict says what became of an envelope.
type verdict uint8

const (
	taken verdict = iota // it is among those ready now, or will be
	stale                // delivered before, or from before this node's time
	full                 // too far ahead to be kept: it can be fetched again
	forked
)

// span is a range of sequences, inclusive. A last of 0 means no end.
type span struct{ first, last uint64 }

// peer returns the author's device; "" while it is not known.
func (f *Feed) peer() peer.ID {
	if f.entry == nil {
		return ""
	}
	return f.entry.Statement.Peer
}

// witnessed reports whether an envelope lies below one that was taken already, which proves that it
// is not newer.
func (f *Feed) witnessed(e *Envelope) bool {
	return len(f.held) > 0 && e.Next() <= f.held[len(f.held)-1].First
}

// last returns the last item that was delivered, or is from before this node's time, or was lost.
func (f *Feed) last() uint64 {
	if f.next == 0 {
		return f.stored
	}
	return f.next - 1
}

// position returns the last item through which this node needs nothing more. The first item is the
// author's roster entry: a node that knows the entry lacks nothing without the item, and in a quiet
// room some never get it.
func (f *Feed) position() uint64 {
	if f.next == 1 && f.entry != nil {
		return 1
	}
	return f.last()
}

// begin sets the baseline: first is the first item to deliver; what lies before it is from before
// our time. It does nothing once a baseline is known.
func (f *Feed) begin(first uint64) {
	if f.next == 0 {
		first = max(first, f.handed+1)
		f.next, f.floor = first, first
		if first == f.stored+1 {
			f.tip = f.end
		}
	}
}

// vow is the word of a neighbour that is sure that a feed has something for this node, from an item
// on. "" stands for several neighbours.
type vow struct {
	from  peer.ID
	first uint64
}

// vouch notes the word of a neighbour. Beyond maxSources neighbours they count together.
func (f *Feed) vouch(from peer.ID, first uint64) {
	i := slices.IndexFunc(f.claims, func(v vow) bool { return v.from == from })
	switch {
	case i >= 0:
	case len(f.claims) < maxSources:
		f.claims = append(f.claims, vow{from, first})
		return
	default:
		i = len(f.claims) - 1
		f.claims[i].from = ""
	}
	f.claims[i].first = min(f.claims[i].first, first)
}

// vouched reports whether a neighbour that has said nothing of the author's clock is sure that an
// envelope is for this node. What a neighbour says of the clock counts against its own word.
func (f *Feed) vouched(e *Envelope, c *clocks) bool {
	return slices.ContainsFunc(f.claims, func(v vow) bool { return v.first <= e.last() && !c.from(v.from) })
}

// reach returns the last item that a neighbour can have from this node: position, or the last that
// is held behind a gap. To the author it is position, which acknowledges what comes before.
func (f *Feed) reach(p peer.ID) uint64 {
	if n := len(f.held); n > 0 && f.next > 0 && f.peer() != p {
		return f.held[n-1].last()
	}
	return f.position()
}

// heldSince returns the first item behind position that was published at cutoff or later, as far as
// is held. What is missing before it may have been as well.
func (f *Feed) heldSince(cutoff time.Time) uint64 {
	next := f.position() + 1
	if f.next == 0 {
		return next
	}
	for _, e := range f.held {
		if !e.came.Before(cutoff) {
			break
		}
		next = e.Next()
	}
	return next
}

// had reports whether this node had all of an envelope in an earlier stay.
func (f *Feed) had(e *Envelope) bool { return e.Next() <= max(f.stored, f.handed)+1 }

// untouched reports whether nothing has been delivered, or given up, since the baseline was set.
func (f *Feed) untouched() bool { return f.tip == nil && f.next == f.floor }

// unheard reports whether nothing has been delivered, or given up, since the baseline was set, but
// for the author's entry.
func (f *Feed) unheard() bool { return f.untouched() || f.floor <= 1 && f.next == 2 }

// doubtful reports whether the baseline is only the word of neighbours and may still be corrected
// by a neighbour that has something before it and says that the feed ends at last.
func (f *Feed) doubtful(now time.Time, last uint64) bool {
	return !f.broken && f.untouched() && !f.supposed.IsZero() && (last+1 < f.next || !f.sworn && now.Sub(f.supposed) < baselineDoubt)
}

// refuted reports whether an envelope shows that the baseline was a lie: all that lies before it
// existed when the baseline was set, and would have come by gossip before now.
func (f *Feed) refuted(now time.Time, e *Envelope) bool {
	return !f.broken && f.untouched() && !f.supposed.IsZero() && !f.sworn && e.Next() <= f.next && f.least > 0 && f.least < f.next && now.Sub(f.supposed) > baselineProof
}

// settle returns what is held and ready, after a baseline has been set: what lies before it is from
// before our time.
func (f *Feed) settle(now time.Time) ([]*Envelope, verdict) {
	if f.broken {
		return nil, forked
	}
	for len(f.held) > 0 && f.held[0].Next() <= f.next {
		f.popHeld()
	}
	if len(f.held) == 0 {
		f.gapSince = time.Time{}
		return nil, taken
	}
	f.enter(f.held[0])
	switch {
	case f.held[0].First > f.next:
		return nil, taken
	case f.held[0].First < f.next:
		f.broken = true
		return nil, forked
	}
	return f.advance(now, f.popHeld())
}

// enter moves the baseline to the beginning of the envelope that it lies in, while nothing has been
// delivered. The first item of a feed is its author's roster entry: a node that knows the entry
// already lacks nothing without it.
func (f *Feed) enter(e *Envelope) {
	if f.next == 1 && e.First == 2 && f.entry != nil {
		f.next = 2
	}
	if f.tip == nil && f.next == f.floor && e.First < f.next && e.Next() > f.next {
		f.next = e.First
	}
}

// take returns the envelopes that e makes ready, in order.
func (f *Feed) take(now time.Time, e *Envelope) ([]*Envelope, verdict) {
	if f.broken {
		return nil, forked
	}
	if f.next == 0 {
		return nil, f.hold(now, e)
	}
	f.enter(e)
	switch {
	case e.Next() <= f.next:
		return nil, stale
	case e.First < f.next:
		// It overlaps what was delivered, but a sender cuts its feed into envelopes only once.
		f.broken = true
		return nil, forked
	case e.First > f.next:
		return nil, f.hold(now, e)
	}
	return f.advance(now, e)
}

func (f *Feed) hold(now time.Time, e *Envelope) verdict {
	i, found := slices.BinarySearchFunc(f.held, e.First, func(h *Envelope, first uint64) int { return cmp.Compare(h.First, first) })
	if found {
		if f.held[i].hash != e.hash {
			f.broken = true
			return forked
		}
		return stale
	}
	f.held = slices.Insert(f.held, i, e)
	f.heldBytes += e.Size
	if f.gapSince.IsZero() {
		f.gapSince = now
	}
	for len(f.held) > maxHeld || f.heldBytes > maxHeldBytes && len(f.held) > 1 {
		latest := f.held[len(f.held)-1]
		f.held[len(f.held)-1] = nil
		f.held = f.held[:len(f.held)-1]
		f.heldBytes -= latest.Size
		if latest == e {
			return full
		}
	}
	return taken
}

// advance delivers e, which starts at next, and everything that it completes.
func (f *Feed) advance(now time.Time, e *Envelope) ([]*Envelope, verdict) {
	var ready []*Envelope
	for {
		if f.tip != nil && !e.Continues(*f.tip) {
			f.broken = true
			return ready, forked
		}
		ready = append(ready, e)
		f.next, f.tip = e.Next(), &e.hash
		if len(f.held) > 0 && f.held[0].First == e.First && f.held[0].hash == e.hash {
			f.popHeld() // it was held until the baseline was set, and has come again
		}
		if len(f.held) == 0 {
			f.gapSince = time.Time{}
			return ready, taken
		}
		if f.held[0].First != f.next {
			// Another gap, behind the one that closed.
			f.gapSince = now
			return ready, f.overlap()
		}
		e = f.popHeld()
	}
}

// overlap checks that what is held does not begin inside what was delivered.
func (f *Feed) overlap() verdict {
	if f.held[0].First < f.next {
		f.broken = true
		return forked
	}
	return taken
}

func (f *Feed) popHeld() *Envelope {
	e := f.held[0]
	f.held[0] = nil
	f.held = f.held[1:]
	f.heldBytes -= e.Size
	return e
}

// unseen returns which of a range of lost items this node lacks: not what is from before its time,
// and not the author's roster entry, with which a feed begins and which is known. The zero value
// means none.
func (f *Feed) unseen(lost span) span {
	lost.first = max(lost.first, f.floor)
	if f.entry != nil {
		lost.first = max(lost.first, 2)
	}
	if lost.first > lost.last {
		return span{}
	}
	return lost
}

// giveUp goes on behind the present gap, and returns what is lost and what is ready. There must be
// a gap.
func (f *Feed) giveUp(now time.Time) (lost span, ready []*Envelope, v verdict) {
	lost = f.unseen(span{f.next, f.held[0].First - 1})
	f.next, f.tip = f.held[0].First, nil
	ready, v = f.advance(now, f.popHeld())
	return lost, ready, v
}

// baselineDue returns when the baseline has to be set to what is known of it; zero: nothing waits
// for it.
func (f *Feed) baselineDue() time.Time {
	if f.next != 0 || f.broken {
		return time.Time{}
	}
	due := time.Time{}
	if !f.claimed.IsZero() {
		due = f.claimed.Add(BaselineWait)
	}
	if !f.gapSince.IsZero() {
		due = earlier(due, f.gapSince.Add(BaselineWait))
	}
	if len(f.held) > 0 && f.held[0].First == f.stored+1 && f.sure() == 0 {
		due = f.gapSince
	} else if !due.IsZero() && f.sure() == 0 {
		due = due.Add(sureWait)
		if f.best() == 0 {
			due = due.Add(sureWait) // the neighbours that were asked may be waiting themselves
		}
	}
	if due.Before(f.notBefore) && !due.IsZero() {
		return f.notBefore
	}
	return due
}

// told returns how far the feed is known to have got, by anybody's word.
func (f *Feed) told() uint64 {
	last := max(f.last(), f.repair.upTo())
	if n := len(f.held); n > 0 {
		last = max(last, f.held[n-1].last())
	}
	return max(last, max(f.best(), 1)-1)
}

// suppose sets the baseline to the best that is known of it: what neighbours said, or else what
// came first.
func (f *Feed) suppose(now time.Time) ([]*Envelope, verdict) {
	first := f.best()
	if first == 0 && len(f.held) > 0 {
		first = f.held[0].First
	}
	if first == 0 {
		return nil, taken
	}
	f.guessed = f.sure() == 0
	f.begin(first)
	return f.settle(now)
}

// proven reports whether a signed envelope shows that something before it is missing.
func (f *Feed) proven() bool { return f.next > 0 && len(f.held) > 0 && f.held[0].First > f.next }

// MaxSpans is how many gaps of a feed are asked for at once.
const MaxSpans = 8

// missing returns what is known to be missing, as far as upTo.
func (f *Feed) missing(upTo uint64) (spans []span) {
	if f.next == 0 || f.broken {
		return nil
	}
	next := f.next
	for _, e := range f.held {
		if len(spans) == MaxSpans {
			return spans
		}
		if e.First > next {
			spans = append(spans, span{next, e.First - 1})
		}
		next = e.Next()
	}
	if upTo >= next {
		spans = append(spans, span{next, upTo})
	}
	return spans
}
