package stay

import (
	"maps"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

const (
	// BarredFor is how long no new stay is taken of a device that ignored the rate. What it had
	// sent ahead is paid for by then, so that it gains nothing by joining again.
	BarredFor = time.Minute
	// maxAuthors bounds the devices that are judged. Those that have left the room give way first.
	maxAuthors = 2 * MaxMembers
	// authorLife is how long a device that has left is remembered: a device that joins again is
	// judged by what it sent in its stay before. By then it would have paid for that.
	authorLife = time.Minute
)

// author is what is known of how much a device sends.
type author struct {
	latest rates.Author // judges its present feed, and before that those before it
	feed   FeedTag      // that feed
	// former judges what comes late of its earlier feeds, in their own time.
	former      rates.Author
	used        time.Time
	barredUntil time.Time // zero: it is not
}

// load returns what an envelope has in it. Without a limit of messages nobody counts them.
func (st *Stay) load(e *Envelope) rates.Load {
	l := rates.Load{SentMs: e.SentMs, At: e.at, Fetched: e.how == Repaired, Bytes: len(e.Content)}
	if st.Rate.Messages == 0 {
		return l
	}
	if !e.counted {
		e.counted = true
		e.messages, e.own = count(e)
	}
	l.Messages, l.Own = e.messages, e.own
	return l
}

// count returns how many messages an envelope has, and how many other items, by their weight. What
// this version cannot read counts as messages.
func count(e *Envelope) (messages, own int) {
	if e.Scheme != 0 {
		return int(e.Count), 0
	}
	for content := e.Content; len(content) > 0; {
		kind, payload, rest, err := wire.NextItem(content)
		if err != nil {
			break // the validator has walked it
		}
		content = rest
		switch kind {
		case wire.Kind_KIND_ROSTER, wire.Kind_KIND_SUSPICION, wire.Kind_KIND_BEAT, wire.Kind_KIND_ASK,
			wire.Kind_KIND_ORDER:
			own += rates.Weight(len(payload))
		default:
			messages++
		}
	}
	return messages, own
}

// judge returns how many of a feed's next envelopes are within the rate of their author.
func (st *Stay) judge(now time.Time, f *Feed, ready []*Envelope) int {
	if st.Rate.Messages == 0 && st.Rate.Bytes == 0 || f.peer() == st.Self {
		return len(ready)
	}
	a := st.author(now, f)
	by := &a.latest
	if a.feed != f.tag {
		by = &a.former
	}
	for i, e := range ready {
		if !e.stored && !by.Judge(st.load(e)) {
			return i
		}
	}
	return len(ready)
}

// author returns what is known of a feed's author, and notes which feed is its present one.
func (st *Stay) author(now time.Time, f *Feed) *author {
	p := f.peer()
	a := st.authors[p]
	if a == nil {
		if len(st.authors) >= maxAuthors {
			st.forgetAuthor()
		}
		a = &author{latest: rates.NewAuthor(st.Rate, st.Retention.Age), former: rates.NewAuthor(st.Rate, st.Retention.Age)}
		st.authors[p] = a
	}
	a.used = now
	if s := st.roster.devices[p]; s != nil && s.feed == f {
		a.feed = f.tag
	}
	return a
}

// forgetAuthor drops the device that was heard least recently, of those that are not barred if
// there is one.
func (st *Stay) forgetAuthor() {
	var oldest peer.ID
	for p, a := range st.authors {
		b := st.authors[oldest]
		if b == nil || a.barredUntil.IsZero() != b.barredUntil.IsZero() && a.barredUntil.IsZero() ||
			a.barredUntil.IsZero() == b.barredUntil.IsZero() && a.used.Before(b.used) {
			oldest = p
		}
	}
	delete(st.authors, oldest)
}

// sweepAuthors forgets devices that have long been silent and are no members.
func (st *Stay) sweepAuthors(now time.Time) {
	maps.DeleteFunc(st.authors, func(p peer.ID, a *author) bool {
		s := st.roster.devices[p]
		return (s == nil || !s.present) && now.Sub(a.used) >= authorLife && !now.Before(a.barredUntil)
	})
}

// floods reports whether what is held behind a gap shows already that its author ignores the rate:
// a gap must not hide that. What is missing may have been nothing.
func (st *Stay) floods(now time.Time, f *Feed) bool {
	if st.Rate.Messages == 0 || f.next == 0 {
		return false
	}
	a := st.author(now, f)
	if a.feed != f.tag {
		return false
	}
	by := a.latest
	for _, e := range f.held {
		if !by.Judge(st.load(e)) {
			return true
		}
	}
	return false
}

// bar puts a member out of the room here because it ignores the rate of broadcasts: nothing more of
// that feed is taken, and for a while no other stay of that device.
func (st *Stay) bar(now time.Time, f *Feed) {
	st.world.Count(CountRatesIgnored, 1)
	st.log.Debug("member evicted: it ignores the rate of broadcasts", "room", st.Room, "peer", f.peer())
	st.author(now, f).barredUntil = now.Add(BarredFor)
	f.broken, f.barred = true, true
	st.journal.lack(now, f)
	st.journal.waiting.remove(f)
	if s := st.roster.devices[f.peer()]; s != nil {
		s.coming, s.goodbye = nil, nil
		if s.feed != f {
			s.feed.broken, s.feed.barred = true, true
		}
		st.note(now, s, st.roster.leave(now, s, Evicted))
	}
}

// Barred reports whether an envelope is of a stay that is not taken here because its device has
// ignored the rate.
func (st *Stay) Barred(now time.Time, e *Envelope) bool { return st.barred(now, e.Peer, e.tag) }

func (st *Stay) barred(now time.Time, p peer.ID, tag FeedTag) bool {
	if len(st.authors) == 0 {
		return false
	}
	if a := st.authors[p]; a != nil && now.Before(a.barredUntil) {
		return true
	}
	f := st.journal.feeds[tag]
	return f != nil && f.barred
}
