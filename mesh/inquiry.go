package mesh

import (
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// askEvery is how often one neighbour is asked for its roster, at most. While the two go on to differ, as when one of them
	// does not believe that a member is there, that time doubles up to maxGap. compareEvery is how often the neighbour
	// is asked for its heads because it asks for ours.
	askEvery     = 250 * time.Millisecond
	maxGap       = 5 * time.Second
	compareEvery = time.Second
	// maxAsking is how many neighbours are asked at a time, so that in a crowd they do not all tell the same: who is asked later is told
	// what the node knows by then. It is so many that most rooms ask all at once, and one that does not answer is not
	// waited for longer than askPatience: in the time that Join gives them 256 are asked, whether they answer or not.
	maxAsking   = 32
	askPatience = 250 * time.Millisecond
)

// purpose is what a greeting is for.
type purpose uint8

const (
	answer  purpose = iota // it says who we are, and by digests what we know
	compare                // the peer is to say the same, and its heads where they differ
	ask                    // and what it has in its roster that we do not
)

// inquiry is what a room has asked of a neighbour, and has yet to ask. It is a plain state machine: the caller brings the time.
type inquiry struct {
	asked     time.Time     // when we last asked it for its roster
	gap       time.Duration // how long after that it may be asked again
	pending   bool          // it has not answered that
	compared  time.Time     // when we last asked it only whether its roster is ours
	comparing bool          // it has not answered that
	want      purpose       // how it is to be greeted when its time has come; answer: not at all
	wantAt    time.Time     // when that is; zero: as soon as fewer are being asked
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

// hear notes its greeting, and gives how to greet it for that; answer: not at all. The answer to an ask needs nothing: heads and
// roster follow it.
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

// inquire notes that it is to be asked as soon as that may be. Until then it is compared with, since it may have nothing new to tell by
// then. One that is fresh, as after it has subscribed, may be asked whenever that last was.
func (q *inquiry) inquire(now time.Time, fresh bool) {
	switch at := q.asked.Add(q.gap); {
	case fresh || !now.Before(at):
		q.want, q.wantAt = ask, time.Time{}
	case q.want != ask:
		q.want, q.wantAt = compare, at
	}
}

// wonder notes that it is to be asked for its heads as soon as that may be.
func (q *inquiry) wonder() {
	at := q.compared
	if q.asked.After(at) {
		at = q.asked
	}
	at = at.Add(askEvery)
	if q.want == answer || !q.wantAt.IsZero() && at.Before(q.wantAt) {
		q.want, q.wantAt = compare, at
	}
}

// told notes that it has told of all that it knows and we did not.
func (q *inquiry) told() { q.pending = false }

// neighbours are those of one room.
type neighbours map[peer.ID]*neighbour

// asking counts those that are being asked, and gives when the first of them will have been waited for long enough.
func (ns neighbours) asking(now time.Time) (count int, until time.Time) {
	for _, n := range ns {
		if end := n.asked.Add(askPatience); n.pending && now.Before(end) {
			count++
			until = earlier(until, end)
		}
	}
	return count, until
}

// next gives who of ids is to be greeted now as it is wanted, when limit may be asked at a time, and when to look again; zero: there is no need. The
// caller greets them.
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
