package presence

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// inquiry collects evidence about a user from all who may have some: connected peers, hellos under
// way, remembered peers, what connected peers answer, and the DHT. It asks the devices to which the
// evidence leads, in the background. What the evidence means is for its judge: [whereabouts] for
// Find, [availability] for Status.
type inquiry struct {
	f     *finder
	w     want
	judge judge
	most  int // devices that it asks
	ctx   context.Context
	stop  context.CancelFunc // called when nothing more is needed
	first chan struct{}      // once it is closed, the devices have only confirmGrace left
	wg    sync.WaitGroup

	mu    sync.Mutex // guards the judge's state too
	asked map[attempt]context.CancelFunc
}

// clue is evidence that a user may be, or have been, logged in on a device. st is the device's
// statement. It is nil in two cases: the log-in is remembered, or only a name and a place.
type clue struct {
	login    identity.Login
	st       *identity.Statement
	addrs    []ma.Multiaddr
	source   Source
	known    time.Time // when the evidence arrived; zero: unknown
	unproved bool      // only a name and a place: the device has to prove the key
}

// attempt is a place that was tried. A peer may be tried twice: at its remembered address, and at
// the one that others name.
type attempt struct {
	peer   peer.ID
	source Source
}

// judge says what evidence means for a question. Its methods are called without the inquiry's lock,
// weigh, ask and answer from several goroutines.
type judge interface {
	// begin takes the users with the name who are connected at the start. It returns how long they
	// have to answer before others are asked too.
	begin(connected []clue) (head time.Duration)
	// greeted takes the same again whenever a hello may have ended. It reports whether the inquiry
	// need not wait for further ones.
	greeted(connected []clue) (enough bool)
	// unheard learns that hellos under way have not ended.
	unheard()
	// weigh takes a clue, and reports whether its device should be asked.
	weigh(clue) bool
	// ask asks the device of a clue what it states about itself.
	ask(context.Context, clue) (identity.Session, error)
	// answer takes the result of ask.
	answer(clue, identity.Session, error)
	// stored looks in the DHT, with seek, for as long as that is useful. It reports whether the DHT
	// was complete.
	stored() (complete bool)
}

// newInquiry returns an inquiry that has limit for all it does.
func (f *finder) newInquiry(w want, j judge, limit time.Duration, most int) *inquiry {
	q := &inquiry{f: f, w: w, judge: j, most: most, first: make(chan struct{}), asked: make(map[attempt]context.CancelFunc)}
	q.ctx, q.stop = context.WithTimeout(f.ctx, limit)
	return q
}

// noWhois lets tests ask only the DHT.
var noWhois = false

// run collects evidence until there is no more, the judge stops it, or the time is up. It reports
// whether the DHT was complete.
func (q *inquiry) run() (complete bool) {
	head := q.judge.begin(q.connected())
	q.wg.Go(q.hellos)
	complete = q.gather(head)
	q.wait()
	q.stop()
	q.wg.Wait()
	return complete
}

// gather asks from the nearest source to the farthest.
func (q *inquiry) gather(head time.Duration) (complete bool) {
	if head > 0 && !q.pause(head) {
		return false
	}
	for _, r := range q.f.cfg.store.Remembered() {
		if r.Login.User == q.w.User {
			q.lead(clue{login: r.Login, addrs: parseStrings(r.Addrs), source: Remembered})
		}
	}
	if !noWhois {
		q.f.whois.ask(q.ctx, q.w.User, q.w.key, func(l located) {
			q.lead(clue{login: l.st.Login(), st: l.st, addrs: l.addrs, source: Whois, known: q.f.clock.Now()})
		})
	}
	if q.f.dht.Empty() || q.ctx.Err() != nil {
		return false
	}
	return q.judge.stored()
}

// pause returns false if the inquiry ends first.
func (q *inquiry) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-q.ctx.Done():
		return false
	}
}

// connected returns the connected users who have the name.
func (q *inquiry) connected() (all []clue) {
	q.f.mu.Lock()
	defer q.f.mu.Unlock()
	for _, c := range q.f.names[q.w.User] {
		st := c.session.Statement
		all = append(all, clue{login: st.Login(), st: st, addrs: slices.Clone(c.session.Addrs), source: Connected, known: c.heard})
	}
	return all
}

// hellos waits for those that are under way.
func (q *inquiry) hellos() {
	if !q.f.hellos.awaitHellos(q.ctx, func() bool { return q.judge.greeted(q.connected()) }) {
		q.judge.unheard()
	}
}

// seek looks in the DHT, and at the nodes in also. It reports whether the DHT was complete.
func (q *inquiry) seek(ctx context.Context, also []peer.ID) (complete bool) {
	return q.f.dht.Seek(ctx, q.w.stored(), also, func(r *dht.Record) {
		q.f.observe(r.Statement)
		q.lead(clue{login: r.Statement.Login(), st: r.Statement, addrs: r.Addrs, source: Stored, known: r.Issued})
	}, func(info peer.AddrInfo) {
		q.lead(clue{login: identity.Login{User: q.w.User, Peer: info.ID}, addrs: info.Addrs, source: Stored, unproved: true})
	})
}

// lead follows a clue: if the judge wants that, it asks the device, once.
func (q *inquiry) lead(c clue) {
	if !q.judge.weigh(c) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	key := attempt{c.login.Peer, c.source}
	if q.asked[key] != nil || len(q.asked) == q.most || c.login.Peer == q.f.id {
		return
	}
	ctx, cancel := context.WithCancel(q.ctx)
	q.asked[key] = cancel
	q.wg.Go(func() {
		defer cancel()
		s, err := q.judge.ask(ctx, c)
		q.judge.answer(c, s, err)
	})
}

// wait waits for the hellos under way, and for the devices that were asked.
func (q *inquiry) wait() {
	all := make(chan struct{})
	go func() { // ends before run does, which waits for the same group
		q.wg.Wait()
		close(all)
	}()
	select {
	case <-all:
		return
	case <-q.ctx.Done():
		return
	case <-q.first:
	}
	grace := time.NewTimer(confirmGrace)
	defer grace.Stop()
	select {
	case <-all:
	case <-q.ctx.Done():
	case <-grace.C:
	}
}

func parseStrings(addrs []string) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, text := range addrs {
		if a, err := ma.NewMultiaddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}
