package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Pull asks a neighbour and takes its answer, over links that may fail in the middle.
func (r *simStay) Pull(p Pull) {
	r.w.at(r.w.now, func() { r.pull(p) })
}

func (r *simStay) pull(p Pull) {
	w, i, j, start := r.w, r.dev.i, simIndex(p.From), r.w.now
	for _, q := range p.wants {
		w.note("%d asks %d for %v of feed %d", i, j, q.span, w.feeds[q.feed.tag].number())
	}
	o := NewOutcome(p)
	end := func(at time.Time, failed bool) {
		w.at(at, func() {
			if failed {
				o.Err = errUnasked
			}
			o.Slow = w.now.Sub(start) >= syncTimeout
			w.note("%d has asked %d: %v", i, j, o.Err)
			r.st.Answered(r.dev.now(), p, o)
			for _, w := range p.wants {
				r.hasTried(w.feed, p.From)
			}
		})
	}
	ok := func() bool { return w.connected(i, j) && w.passes(i, j) }
	switch {
	case !w.connected(i, j), w.rng.IntN(20) == 0:
		end(w.now.Add(simQuick), true)
		return
	case !w.passes(i, j):
		end(w.now.Add(syncTimeout), true)
		return
	}
	pace := simQuick
	if w.rng.IntN(10) == 0 {
		pace = w.between(simSlow, 2*time.Second)
	}
	w.after(w.between(simQuick, simSlow), func() {
		if !ok() {
			end(start.Add(syncTimeout), true)
			return
		}
		q := w.all[j].stay
		if q == nil || !q.st.Serves(q.dev.now(), r.dev.id) {
			end(w.now.Add(simSlow), true)
			return
		}
		at, parts := w.now.Add(w.between(simQuick, simSlow)+pace), q.serve(r.st.Request(p).Wants)
		var step func()
		step = func() {
			if !ok() {
				end(w.now.Add(syncTimeout), true)
				return
			}
			if len(parts) == 0 {
				end(w.now, false)
				return
			}
			for _, raw := range parts[0].Envelopes {
				e := w.sealed[string(raw)].env
				w.note("%d gives %d items %d to %d of feed %d", j, i, e.First, e.Next()-1, w.feeds[TagFeed(identity.PublicKey(e.Device), FeedID(e.Feed))].number())
			}
			r.takeReply(p.From, parts[0], &o)
			parts = parts[1:]
			w.after(pace, step)
		}
		w.at(at, step)
	})
}

func (r *simStay) serve(wants []*wire.Want) (parts []*wire.SyncReply) {
	budget := 4 * r.w.part
	for len(wants) > 0 {
		var part *wire.SyncReply
		if part, wants = r.st.Part(r.dev.now(), wants, r.w.part, &budget); len(wants) > 0 && budget <= 0 {
			part.More, wants = true, nil
		}
		parts = append(parts, part)
	}
	return parts
}

func (r *simStay) takeReply(from peer.ID, reply *wire.SyncReply, o *Outcome) {
	now := r.dev.now()
	entries, envelopes, err := o.Open(now, r.w.door, r.w.limits.Age, reply)
	if err != nil {
		r.w.breach("%d gives %d an answer that it refuses: %v", simIndex(from), r.dev.i, err)
		return
	}
	for _, e := range entries {
		r.st.TakeEntry(now, from, e)
	}
	for _, e := range envelopes {
		r.st.Receive(now, from, e, Repaired)
	}
}

// simPoll is a broadcast whose receipts are awaited.
type simPoll struct {
	by          *simStay
	poll        *Poll
	first, last uint64 // of its envelope; 0: not sealed
	until       time.Time
	ended       bool
}

// end checks what is known of a broadcast when it has ended.
func (p *simPoll) end(acked int, cause error) {
	if p.ended {
		p.by.w.breach("a confirmed broadcast of %d ends twice", p.by.dev.i)
	}
	p.ended = true
	for _, a := range p.poll.Asked() {
		if !a.Delivered {
			continue
		}
		i := simIndex(a.Member.Peer)
		for n := p.first; n <= p.last; n++ {
			if p.by.kinds[n-1].message && !p.by.w.hasGot(i, p.by.st.journal.self, n) {
				p.by.w.breach("%d confirms number %d of feed %d, which it has not handed up", i, n, p.by.number())
			}
		}
	}
}

// hasGot reports whether any stay of a device has handed up a message.
func (w *simWorld) hasGot(i int, tag FeedTag, n uint64) bool {
	for _, r := range w.stays {
		if r.dev.i == i && r.gotten(tag) != nil {
			if _, ok := r.gotten(tag)[n]; ok {
				return true
			}
		}
	}
	return false
}
