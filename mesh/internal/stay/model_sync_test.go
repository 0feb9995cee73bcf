package stay

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

func (r *simRoom) repair(now time.Time) {
	idle := slices.DeleteFunc(r.ids(), func(p peer.ID) bool { return r.neighbours[p].pulled })
	for f := range r.journal.lacking {
		if f.stalled(now) {
			r.hasTried(f, f.repair.from)
		}
	}
	pulls, lost := r.journal.plan(now, idle, r.ids(), r.roster.apart())
	for _, a := range sortedArrivals(lost) {
		r.arrived(now, a)
	}
	slices.SortFunc(pulls, func(a, b Pull) int { return cmp.Compare(a.From, b.From) })
	for _, p := range pulls {
		slices.SortStableFunc(p.wants, func(a, b want) int { return bytes.Compare(a.feed.tag[:], b.feed.tag[:]) })
		r.neighbours[p.From].pulled = true
		r.pull(p)
	}
}

func sortedArrivals(list []arrival) []arrival {
	list = slices.DeleteFunc(list, func(a arrival) bool { return a.feed == nil })
	slices.SortFunc(list, func(a, b arrival) int { return bytes.Compare(a.feed.tag[:], b.feed.tag[:]) })
	return list
}

// simPart is a frame of an answer.
type simPart struct {
	entries []*Entry
	parcels []*simParcel
	ages    []time.Duration
	gone    map[FeedTag]uint64
	more    bool
}

// pull asks a neighbour and takes its answer, over links that may fail in the middle.
func (r *simRoom) pull(p Pull) {
	w, i, j, start := r.w, r.dev.i, simIndex(p.From), r.w.now
	o := Outcome{gone: make(map[FeedTag]uint64)}
	end := func(at time.Time, failed bool) {
		w.at(at, func() {
			if failed {
				o.Err = errUnasked
			}
			o.Slow = w.now.Sub(start) >= syncTimeout
			if n := r.neighbours[p.From]; n != nil {
				n.pulled = false
			}
			r.journal.answered(w.now, p, o)
			r.noteTried(p)
			r.arm()
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
	asked := asked{wants: p.wants, reached: make(map[FeedTag]uint64)}
	pace := simQuick
	if w.rng.IntN(10) == 0 {
		pace = w.between(simSlow, 2*time.Second)
	}
	w.after(w.between(simQuick, simSlow), func() {
		if !ok() {
			end(start.Add(syncTimeout), true)
			return
		}
		q := w.all[j].room
		if q == nil || !q.serves(r.dev.id) {
			end(w.now.Add(simSlow), true)
			return
		}
		at, parts := w.now.Add(w.between(simQuick, simSlow)+pace), q.serve(p.wants)
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
			r.takeReply(p, asked, parts[0], &o)
			parts = parts[1:]
			w.after(pace, step)
		}
		w.at(at, step)
	})
}

func (r *simRoom) serves(p peer.ID) bool {
	seat := r.roster.devices[p]
	return r.neighbours[p] != nil && seat != nil && seat.present
}

func (r *simRoom) serve(asked []want) (parts []*simPart) {
	now, budget := r.w.now, 4*r.w.part
	type open struct {
		tag FeedTag
		span
	}
	var wants []open
	for _, w := range asked {
		wants = append(wants, open{w.feed.tag, w.span})
	}
	for len(wants) > 0 {
		out, size := &simPart{gone: make(map[FeedTag]uint64)}, 0
		for len(wants) > 0 && size < r.w.part {
			q := wants[0]
			f := r.journal.feeds[q.tag]
			list, gone, more := r.journal.serve(q.tag, q.span, r.w.part-size)
			if f != nil && f.entry != nil && len(list) > 0 {
				out.entries = append(out.entries, f.entry)
			}
			if gone > 0 {
				out.gone[q.tag] = gone
			}
			for _, k := range list {
				out.parcels = append(out.parcels, r.w.parcel(q.tag, k.First))
				out.ages = append(out.ages, max(now.Sub(k.At), 0).Truncate(time.Millisecond))
				size += len(k.Sealed)
			}
			if wants = wants[1:]; more {
				wants = append([]open{{q.tag, span{list[len(list)-1].Last() + 1, q.last}}}, wants...)
			}
		}
		if budget -= size; len(wants) > 0 && budget <= 0 {
			out.more, wants = true, nil
		}
		parts = append(parts, out)
	}
	return parts
}

func (r *simRoom) takeReply(p Pull, asked asked, reply *simPart, o *Outcome) {
	now := r.w.now
	for _, entry := range reply.entries {
		if entry.Joined && !r.leaving {
			r.journal.open(now, entry)
			if s := r.take(now, entry, r.hearsay(p.From)); s != nil {
				r.claim(now, s)
			}
		}
	}
	for i, parcel := range reply.parcels {
		e := r.open(parcel)
		if !asked.admit(e) {
			r.w.breach("%d gives %d an envelope that it was not asked for", simIndex(p.From), r.dev.i)
			return
		}
		e.came = now.Add(-min(reply.ages[i], r.w.limits.Age+time.Minute))
		r.receive(p.From, e, Repaired)
	}
	for tag, gone := range reply.gone {
		o.gone[tag] = gone
	}
	o.more = o.more || reply.more
}
