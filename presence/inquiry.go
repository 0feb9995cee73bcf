package presence

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// evidence is the newest known about one user who may be meant.
type evidence struct {
	st      *identity.Statement
	source  Source
	known   time.Time // when the evidence arrived
	online  bool      // its device has just proved that it is there and logged in
	refuted bool      // its device is there, but not logged in as that user
}

// inquiry is the state of one question about a user.
type inquiry struct {
	d    *Directory
	w    want
	ctx  context.Context
	stop context.CancelFunc // called when it is answered
	wg   sync.WaitGroup

	mu      sync.Mutex
	claims  map[identity.PublicKey]*evidence // by user key; in app mode under the zero key
	visits  map[attempt]context.CancelFunc
	silent  bool          // a device that was named could not be asked
	heard   chan struct{} // closed with the first evidence
	buried  chan struct{} // closed with the first log-out found in the directory
	settled chan struct{} // closed when one user is known to be online
}

// inquire asks everybody who may know, until the answer is certain or the time is up.
func (d *Directory) inquire(w want) (verdict, error) {
	ctx, cancel := context.WithTimeout(d.ctx, statusTimeout)
	defer cancel()
	q := &inquiry{
		d: d, w: w, ctx: ctx, stop: cancel,
		claims: make(map[identity.PublicKey]*evidence), visits: make(map[attempt]context.CancelFunc),
		heard: make(chan struct{}), buried: make(chan struct{}), settled: make(chan struct{}),
	}
	q.wg.Go(q.greeted)
	complete := q.gather()
	q.wait()
	cancel()
	q.wg.Wait()
	return q.verdict(complete, time.Now())
}

// gather collects claims, from the nearest source to the farthest, and reports whether the
// directory was complete.
func (q *inquiry) gather() (complete bool) {
	d := q.d
	if q.atHand() {
		head := time.NewTimer(statusHead)
		defer head.Stop()
		select {
		case <-q.settled:
			return false
		case <-head.C:
		case <-q.ctx.Done():
			return false
		}
	}
	for _, r := range d.cfg.store.Remembered() {
		if r.Login.User == q.w.User && q.w.means(r.Login.User, r.Login.Key) && !q.saidGoodbye(r.Login.Peer) {
			q.visit(r.Login.Peer, parseStrings(r.Addrs), Remembered)
		}
	}
	if !noWhois {
		d.whois(q.ctx, q.w.User, q.w.key, func(l located) { q.hear(l.st, l.addrs, Whois, time.Now()) })
	}
	if d.dht.Empty() || q.ctx.Err() != nil {
		return false
	}
	start := time.Now()
	if !q.look(start) || !q.nobody() {
		return false
	}
	// The directory knows nobody. A log-in made just before the question may still be on its way
	// there. If it is not there by the time it would have arrived, there was none.
	wait := time.NewTimer(time.Until(start.Add(storeGrace)))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-q.ctx.Done():
		return false
	}
	return q.seek(q.ctx, start)
}

// nobody reports whether nothing at all is known about the user.
func (q *inquiry) nobody() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.claims) == 0
}

// look searches the directory for as long as that is useful, and reports whether it was complete.
func (q *inquiry) look(start time.Time) (complete bool) {
	ctx, cancel := context.WithTimeout(q.ctx, seekBudget)
	defer cancel()
	// Ends with ctx. If a log-in is known, the search need not be complete: anything newer is found
	// soon, or not at all.
	go func() {
		select {
		case <-q.heard:
		case <-ctx.Done():
			return
		}
		rest := time.NewTimer(storedBudget - time.Since(start))
		defer rest.Stop()
		select {
		case <-rest.C:
		// The log-out is of a device that was a node of the directory and is usually gone: the
		// search would wait for it.
		case <-q.buried:
			rest.Reset(min(buriedRest, storedBudget-time.Since(start)))
			select {
			case <-rest.C:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		cancel()
	}()
	return q.seek(ctx, start)
}

// seek adds what the directory has.
func (q *inquiry) seek(ctx context.Context, start time.Time) (complete bool) {
	d := q.d
	return d.dht.Seek(ctx, q.w.stored(), d.statuses.mourned(start), func(r *dht.Record) {
		d.Observe(r.Statement)
		q.hear(r.Statement, r.Addrs, Stored, r.Issued)
	}, func(info peer.AddrInfo) { q.visit(info.ID, info.Addrs, Stored) })
}

// greeted adds what the hellos under way show. While one is under way, a user cannot be said to be
// offline.
func (q *inquiry) greeted() {
	all := q.d.awaitHellos(q.ctx, func() bool { return q.atHand() })
	q.mu.Lock()
	defer q.mu.Unlock()
	q.silent = q.silent || !all
}

// noWhois lets tests ask only the DHT.
var noWhois = false

// atHand adds what is known on this node, and reports whether a connected device should be able to
// answer.
func (q *inquiry) atHand() (live bool) {
	type seen struct {
		st    *identity.Statement
		known time.Time
	}
	var connected []seen
	now := time.Now()
	q.d.mu.Lock()
	for _, c := range q.d.names[q.w.User] {
		connected = append(connected, seen{c.session.Statement, c.heard})
		live = live || c.loggedIn(now) && q.w.means(q.w.User, c.session.Statement.UserKey)
	}
	q.d.mu.Unlock()
	for _, s := range connected {
		q.hear(s.st, nil, Connected, s.known)
	}
	for _, gone := range q.d.statuses.departed.Values() {
		if gone.st.LoggedIn && now.Sub(gone.when) > mournFor {
			continue // the directory has to answer
		}
		q.hear(gone.st, nil, Remembered, gone.when)
	}
	return live
}

// hear adds a verified statement. If it is of a log-in, and the newest, its device is asked.
func (q *inquiry) hear(st *identity.Statement, addrs []ma.Multiaddr, source Source, known time.Time) {
	if st.User != q.w.User || !q.w.means(st.User, st.UserKey) {
		return
	}
	now := time.Now()
	if q.d.cfg.authority != nil && st.Grant() == nil {
		return
	}
	stored := source == Stored
	if !st.LoggedIn {
		source = Goodbye
	}
	q.mu.Lock()
	key := q.key(st)
	was := q.claims[key]
	if was == nil || st.Newer(was.st) {
		q.claims[key] = &evidence{st: st, source: source, known: known}
	} else if was.st.Newer(st) {
		q.mu.Unlock()
		return
	}
	q.firstLocked()
	if stored && !st.LoggedIn {
		q.buryLocked(st.Peer)
	}
	q.mu.Unlock()
	if loggedIn(st, now) {
		q.visit(st.Peer, addrs, source)
	}
}

// buryLocked records that the directory has a log-out of a device. If that device is being dialled,
// because it is remembered or was quitting when the question came, the inquiry does not wait for
// the dial.
func (q *inquiry) buryLocked(p peer.ID) {
	select {
	case <-q.buried:
	default:
		close(q.buried)
	}
	for v, cancel := range q.visits {
		if v.peer == p {
			time.AfterFunc(buriedRest, cancel)
		}
	}
}

func (q *inquiry) key(st *identity.Statement) identity.PublicKey {
	if q.w.vouched {
		return identity.PublicKey{}
	}
	return st.UserKey
}

// saidGoodbye reports whether the newest known about a device is that it is logged out: there is no
// need to dial it.
func (q *inquiry) saidGoodbye(p peer.ID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.claims {
		if c.st.Peer == p && !c.st.LoggedIn {
			return true
		}
	}
	return false
}

func (q *inquiry) firstLocked() {
	select {
	case <-q.heard:
	default:
		close(q.heard)
	}
}

// visit asks a device in the background.
func (q *inquiry) visit(p peer.ID, addrs []ma.Multiaddr, source Source) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := attempt{p, source}
	if q.visits[key] != nil || len(q.visits) == maxVisits || p == q.d.id || q.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(q.ctx)
	q.visits[key] = cancel
	q.wg.Go(func() {
		defer cancel()
		s, err := q.d.probe(ctx, p, addrs)
		q.answer(p, s, err, source)
	})
}

// answer adds what a device has stated about itself.
func (q *inquiry) answer(p peer.ID, s identity.Session, err error, source Source) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.silent = q.silent || source != Remembered
		return
	}
	if st := s.Statement; st != nil && q.w.means(st.User, st.UserKey) && (!q.w.vouched || st.Grant() != nil) {
		key := q.key(st)
		c := q.claims[key]
		if c == nil || !c.st.Newer(st) {
			c = &evidence{st: st, source: Goodbye, known: now}
			if loggedIn(st, now) {
				c.source, c.online = Probed, true
			} else if st.LoggedIn {
				c.source, c.refuted = Probed, true // its token has ended
			}
			q.claims[key] = c
		}
		if c.online && q.w.exact() {
			q.settleLocked()
		}
		return
	}
	for _, c := range q.claims { // the device is there, but as somebody else
		if c.st.Peer == p && !c.online {
			c.refuted, c.source, c.known = true, Probed, now
		}
	}
}

func (q *inquiry) settleLocked() {
	select {
	case <-q.settled:
	default:
		close(q.settled)
		q.stop()
	}
}

// wait waits for the devices that were asked.
func (q *inquiry) wait() {
	all := make(chan struct{})
	go func() { // ends before inquire does, which waits for the same group
		q.wg.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-q.ctx.Done():
	}
}

// verdict judges all the evidence.
func (q *inquiry) verdict(complete bool, now time.Time) (verdict, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var online, live, gone []*evidence
	for _, c := range q.claims {
		switch {
		case c.online:
			online = append(online, c)
		case c.st.LoggedIn && !c.refuted && loggedIn(c.st, now):
			live = append(live, c)
		default:
			gone = append(gone, c)
		}
	}
	pick := func(state State, cs []*evidence) (verdict, error) {
		best := cs[0]
		for _, c := range cs {
			if c.known.After(best.known) {
				best = c
			}
		}
		return verdict{state: state, login: best.st.Login(), source: best.source, known: best.known}, nil
	}
	switch {
	case len(online) > 1:
		e := &ConflictError{User: q.w.User}
		for _, c := range online {
			e.Found = append(e.Found, c.st.Login())
		}
		return verdict{}, e
	case len(online) == 1:
		return pick(Online, online)
	case len(live) > 0:
		return pick(Unreachable, live)
	case len(gone) > 0:
		return pick(Offline, gone)
	case complete && !q.silent:
		return verdict{state: Offline, source: Stored, known: now}, nil
	}
	return verdict{state: Unreachable, source: Nothing, known: now}, nil
}

// probe connects to a device, or checks that a connected one still answers, and returns what it
// states about itself.
func (d *Directory) probe(ctx context.Context, p peer.ID, addrs []ma.Multiaddr) (identity.Session, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "status"), probeTimeout)
	defer cancel()
	to := peer.AddrInfo{ID: p, Addrs: addrs}
	if d.host.Network().Connectedness(p) != network.Connected {
		return d.Connect(ctx, to) // the hello proves that it is there
	}
	d.mu.Lock()
	c := d.contacts[p]
	fresh := c != nil && c.known && time.Since(c.heard) < freshFor
	d.mu.Unlock()
	for attempt := 0; !fresh; attempt++ {
		if d.pingAny(ctx, p) {
			d.Heard(identity.Login{Peer: p})
			break
		}
		if d.host.Network().Connectedness(p) != network.Connected && ctx.Err() == nil {
			break // the connection has ended: make another
		}
		if !pauseCrossed(ctx, attempt) {
			return identity.Session{}, errNoAnswer
		}
	}
	return d.Connect(ctx, to)
}
