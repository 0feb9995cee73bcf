package stay

import (
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// askEvery is how often one neighbour is asked for its roster, at most. While the two rosters
	// go on to differ, for instance because one node does not believe that a member is there, that
	// time doubles up to maxGap, or up to newsGap if the last answer had something new: then more
	// may follow. compareEvery is how often a neighbour that asks for our heads is asked for its
	// own.
	askEvery     = 250 * time.Millisecond
	newsGap      = 2 * askEvery
	maxGap       = 5 * time.Second
	compareEvery = time.Second
	// MaxAsking is how many neighbours are asked at a time. In a crowd they would otherwise all
	// send the same: one that is asked later is told what the node knows by then. Most rooms are
	// small enough to ask all at once. A neighbour that does not answer is not waited for longer
	// than askPatience: in the time that Join gives them 256 are asked, whether they answer or not.
	MaxAsking   = 32
	askPatience = 250 * time.Millisecond
)

// purpose is what a greeting is for.
type purpose uint8

const (
	answer  purpose = iota // it says who we are, and by digests what we know
	compare                // the peer is to reply in kind, and send its heads if they differ
	ask                    // and what its roster has that ours lacks
)

// inquiry is what a room has asked a neighbour, and has yet to ask it. It is a plain state machine:
// the caller passes the time.
type inquiry struct {
	asked     time.Time     // when we last asked it for its roster
	gap       time.Duration // how long after that it may be asked again
	pending   bool          // it has not answered that question
	compared  time.Time     // when we last asked it only whether its roster is ours
	comparing bool          // it has not answered that question
	want      purpose       // how to greet it when its time has come; answer: not at all
	wantAt    time.Time     // when that is; zero: as soon as fewer neighbours are being asked
}

// greet notes that the neighbour is greeted.
func (q *inquiry) greet(now time.Time, why purpose) {
	switch why {
	case ask:
		q.asked, q.pending, q.comparing = now, true, false
		q.gap = min(max(2*q.gap, askEvery), maxGap)
	case compare:
		q.compared, q.comparing = now, true
	case answer:
		return
	}
	q.want, q.wantAt = answer, time.Time{}
}

// hear notes the neighbour's greeting, and returns how to greet it in turn; answer: not at all. The
// answer to an ask needs nothing: heads and roster follow it.
func (q *inquiry) hear(now time.Time, reply, sameRoster, sameHeads bool) purpose {
	comparing := q.comparing
	q.comparing = comparing && reply
	if sameRoster {
		q.gap = askEvery
	}
	switch {
	case !reply && !comparing:
		return answer
	case !sameRoster:
		return ask
	case reply && !sameHeads && now.Sub(q.asked) >= compareEvery && now.Sub(q.compared) >= compareEvery:
		return compare
	}
	return answer
}

// inquire notes that the neighbour is to be asked as soon as allowed. Until then it is compared
// with, since by then it may have nothing new to send. A fresh neighbour, for instance one that has
// just subscribed, may be asked whenever the last time was.
func (q *inquiry) inquire(now time.Time, fresh bool) {
	switch at := q.asked.Add(q.gap); {
	case fresh || !now.Before(at):
		q.want, q.wantAt = ask, time.Time{}
	case q.want != ask:
		q.want, q.wantAt = compare, at
	}
}

// compareSoon notes that the neighbour is to be asked for its heads, at the earliest so long after
// the last question to it.
func (q *inquiry) compareSoon(wait time.Duration) {
	at := q.compared
	if q.asked.After(at) {
		at = q.asked
	}
	at = at.Add(wait)
	if q.want == answer || !q.wantAt.IsZero() && at.Before(q.wantAt) {
		q.want, q.wantAt = compare, at
	}
}

// told notes that the neighbour has sent everything that it knows and we did not, and whether
// anything of that is news.
func (q *inquiry) told(news bool) {
	q.pending = false
	if news {
		q.gap = min(q.gap, newsGap)
		if at := q.asked.Add(q.gap); at.Before(q.wantAt) {
			q.wantAt = at
		}
	}
}

// neighbours are the neighbours in one room.
type neighbours map[peer.ID]*neighbour

// asking counts the neighbours that are being asked, and returns when the first of them will have
// been waited for long enough.
func (ns neighbours) asking(now time.Time) (count int, until time.Time) {
	for _, n := range ns {
		if end := n.asked.Add(askPatience); n.pending && now.Before(end) {
			count++
			until = earlier(until, end)
		}
	}
	return count, until
}

// next returns the peers of ids to greet now, with at most limit questions outstanding, and when to
// call it again (zero: never). The caller greets them.
func (ns neighbours) next(now time.Time, ids iter.Seq[peer.ID], limit int) (greet []peer.ID, due time.Time) {
	busy, until := ns.asking(now)
	for p := range ids {
		switch n := ns[p]; {
		case n.want == answer:
		case now.Before(n.wantAt):
			due = earlier(due, n.wantAt)
		case n.want == ask && busy >= limit:
			due = earlier(due, earlier(until, now.Add(askPatience)))
		default:
			if n.want == ask {
				busy++
			}
			greet = append(greet, p)
		}
	}
	return greet, due
}
