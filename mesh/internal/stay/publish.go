package stay

import (
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

// sealed is an envelope of this node's own that no neighbour has acknowledged.
type sealed struct {
	last     uint64
	deadline time.Time
}

// newcomerWait bounds how long broadcasts wait for a member whose subscription GossipSub has not
// reported. It comes over another stream than the roster, usually within a millisecond of it.
const newcomerWait = 500 * time.Millisecond

// AwaitNewcomers returns how long a broadcast should still wait for GossipSub to know every
// connected member that the roster knows. What is published before would not reach that member, and
// a program that sees a member join may expect that it does.
func (st *Stay) AwaitNewcomers(now time.Time) (wait time.Duration) {
	for p, since := range st.newcomers {
		if left := newcomerWait - now.Sub(since); left > 0 {
			wait = max(wait, left)
		} else {
			delete(st.newcomers, p)
		}
	}
	return wait
}

// AwaitWindow returns how long a broadcast should still wait for neighbours to acknowledge what is
// under way to them.
func (st *Stay) AwaitWindow(now time.Time) time.Duration {
	if st.leaving || len(st.neighbours) > closeRoom {
		return 0 // in large rooms acknowledgements come late, so that there are few
	}
	return st.window.blocked(now)
}

// Next returns how far this node's own feed has got, and which members are to gather the receipts
// of its next envelope.
func (st *Stay) Next(confirmed bool) (h Head, neighbours int, receipts *wire.ReceiptsWanted) {
	if confirmed {
		receipts = &wire.ReceiptsWanted{Collectors: st.collectors()}
	}
	return st.head, len(st.neighbours), receipts
}

// Published notes an envelope of count items, after which this node's own feed has come to h. It
// reports whether nobody is there to acknowledge it. Otherwise the world learns of its end by the
// deadline.
func (st *Stay) Published(now time.Time, h Head, count uint32, raw []byte, deadline time.Time, polls []*Poll) (alone bool) {
	st.head = h
	if len(polls) > 0 {
		st.awaitReceipts(now, h, polls)
	}
	st.window.published(now, h.Last)
	f := st.journal.feeds[st.own.Tag()]
	f.tip = &st.head.hash
	st.journal.publish(now, f, h.Last-uint64(count)+1, count, raw)
	st.world.Wake(ForTimer)
	if st.roster.present <= 1 && len(st.neighbours) == 0 {
		return true
	}
	st.AwaitAck(h.Last, deadline)
	return false
}

// AwaitAck makes the world learn by the deadline whether a neighbour has acknowledged this node's
// own feed through last. Published does it, unless nobody is there.
func (st *Stay) AwaitAck(last uint64, deadline time.Time) {
	st.unacked = append(st.unacked, sealed{last, deadline})
	st.world.Wake(ForTimer)
}

// overdue ends broadcasts that no neighbour has acknowledged in time.
func (st *Stay) overdue(now time.Time) {
	for len(st.unacked) > 0 && !now.Before(st.unacked[0].deadline) {
		st.world.Ended(st.unacked[0].last, 0)
		st.unacked = st.unacked[1:]
	}
}
