package stay

import (
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// SyncPart is how many bytes of envelopes travel in one frame, at least one envelope.
	// SyncAnswer is how many travel in the answer to one question: a member that wants more asks
	// again, after others have had their turn.
	SyncPart   = 256 << 10
	SyncAnswer = 4 << 20
	// MaxSyncReply bounds a frame of an answer in bytes. A part exceeds SyncPart by less than one
	// envelope, and the roster entries of its feeds come on top.
	MaxSyncReply = SyncPart + wire.MaxEnvelope + MaxEntry + 64<<10
)

var (
	// ErrBadSync reports a malformed frame of a question or an answer.
	ErrBadSync = errors.New("malformed sync frame")
	errUnasked = errors.New("answer with an envelope that was not asked for")
)

// repair asks neighbours for what is missing, and gives up what nobody has.
func (st *Stay) repair(now time.Time) {
	if st.journal.lacking.len() == 0 {
		return
	}
	if !st.hears(now) {
		st.journal.renew(now)
	}
	all := slices.Collect(st.shuffled())
	idle := slices.DeleteFunc(slices.Clone(all), func(p peer.ID) bool { return st.neighbours[p].pulled })
	pulls, lost := st.journal.plan(now, idle, all, st.roster.apart() || st.apart(now, ""), st.back(now))
	for _, a := range lost {
		st.arrived(now, a)
	}
	for _, p := range pulls {
		st.neighbours[p.From].pulled = true
		st.world.Pull(p)
	}
}

// Answered ends a pull. What it brought has been taken before.
func (st *Stay) Answered(now time.Time, p Pull, o Outcome) {
	if n := st.neighbours[p.From]; n != nil {
		n.pulled = false
	}
	st.journal.answered(now, p, o)
	st.world.Wake(ForTimer)
}

// Request returns the question of a pull.
func (st *Stay) Request(p Pull) *wire.SyncRequest {
	wants := make([]*wire.Want, len(p.wants))
	for i, w := range p.wants {
		wants[i] = &wire.Want{Feed: w.feed.tag[:], First: w.span.first, Last: w.span.last}
	}
	return &wire.SyncRequest{Room: st.Tag[:], Wants: wants}
}

// asked says what an answer may bring: what was asked for, each envelope once.
type asked struct {
	wants   []want
	reached map[FeedTag]uint64 // the last item of each feed so far
}

func (a asked) admit(e *Envelope) bool {
	for _, w := range a.wants {
		if w.feed.tag == e.tag && e.last() >= w.span.first && (w.span.last == 0 || e.First <= w.span.last) {
			if e.First <= a.reached[e.tag] {
				return false
			}
			a.reached[e.tag] = e.last()
			return true
		}
	}
	return false
}

// Outcome is the result of a pull.
type Outcome struct {
	asked asked
	gone  map[FeedTag]uint64 // what the neighbour will never have: each feed through this item
	more  bool               // it has more than fitted
	Slow  bool               // it took so long that another neighbour may be faster
	Err   error
}

// NewOutcome returns the outcome of a pull that has brought nothing yet.
func NewOutcome(p Pull) Outcome {
	return Outcome{asked: asked{p.wants, make(map[FeedTag]uint64)}, gone: make(map[FeedTag]uint64)}
}

// Open verifies a part of an answer. Everything in it proves itself, and is checked as if it had
// come by gossip. What was not asked for is a breach; otherwise an answer could flood a member.
// With an error it returns what came before the breach.
func (o *Outcome) Open(now time.Time, d *Door, keep time.Duration, reply *wire.SyncReply) (entries []*Entry, envelopes []*Envelope, err error) {
	if len(reply.AgesMs) != len(reply.Envelopes) || len(reply.Entries) > MaxWants || len(reply.Gone) > MaxWants+MaxSpans {
		return nil, nil, ErrBadSync
	}
	for _, sealed := range reply.Entries {
		entry, err := d.open(sealed, now)
		if errors.Is(err, wire.ErrSignature) || errors.Is(err, wire.ErrTruncated) {
			return entries, nil, err
		}
		if err == nil && entry.Joined {
			entries = append(entries, entry)
		}
	}
	for i, sealed := range reply.Envelopes {
		e, err := d.OpenEnvelope(now, sealed)
		if err != nil {
			return entries, envelopes, err
		}
		if !o.asked.admit(e) {
			return entries, envelopes, errUnasked
		}
		age := min(time.Duration(min(reply.AgesMs[i], uint64(time.Hour/time.Millisecond)))*time.Millisecond, keep+time.Minute)
		e.came = now.Add(-age)
		envelopes = append(envelopes, e)
	}
	for _, g := range reply.Gone {
		if len(g.Feed) != len(FeedTag{}) {
			return entries, envelopes, ErrBadSync
		}
		o.gone[FeedTag(g.Feed)] = g.Last
	}
	o.more = o.more || reply.More
	return entries, envelopes, nil
}

// TakeEntry notes the author of a feed that an answer brings, even if the member's place in the
// roster has changed since.
func (st *Stay) TakeEntry(now time.Time, via peer.ID, entry *Entry) {
	if st.leaving || entry.Joined && st.barred(now, entry.Statement.Peer, entry.Tag()) {
		return
	}
	st.journal.open(now, entry)
	if s := st.hearsay(now, via, entry); s != nil && !st.leaving {
		st.claim(now, s)
	}
}

// Serves reports whether a peer may have this room's broadcasts: it is a member, and its token is
// valid.
func (st *Stay) Serves(now time.Time, p peer.ID) bool {
	seat := st.roster.devices[p]
	return st.neighbours[p] != nil && seat != nil && seat.present && st.Door.holds(seat.entry, now) == nil
}

// Part returns the next frame of an answer with about size bytes of envelopes, and which wants it
// leaves over. It takes the frame's bytes from budget.
func (st *Stay) Part(now time.Time, wants []*wire.Want, part int, budget *int) (*wire.SyncReply, []*wire.Want) {
	out := new(wire.SyncReply)
	size := 0
	named := make(map[FeedTag]struct{})
	for len(wants) > 0 && size < part && len(named) < MaxWants/2 {
		w := wants[0]
		if len(w.Feed) != len(FeedTag{}) || w.First == 0 || w.Last != 0 && w.Last < w.First {
			wants = wants[1:]
			continue
		}
		tag := FeedTag(w.Feed)
		f := st.journal.feeds[tag]
		list, gone, more := st.journal.serve(tag, span{w.First, w.Last}, part-size)
		if _, ok := named[tag]; !ok && f != nil && f.entry != nil && len(list) > 0 {
			named[tag] = struct{}{}
			out.Entries = append(out.Entries, f.entry.Sealed)
			size += len(f.entry.Sealed)
		}
		if gone > 0 {
			out.Gone = append(out.Gone, &wire.Position{Feed: w.Feed, Last: gone})
		}
		for _, k := range list {
			out.Envelopes = append(out.Envelopes, k.Sealed)
			out.AgesMs = append(out.AgesMs, uint64(max(now.Sub(k.At), 0)/time.Millisecond))
			size += len(k.Sealed)
		}
		if !more {
			wants = wants[1:]
			continue
		}
		wants = append([]*wire.Want{{Feed: w.Feed, First: list[len(list)-1].Last() + 1, Last: w.Last}}, wants[1:]...)
	}
	*budget -= size
	return out, wants
}
