package presence

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// availability judges whether a user is online.
type availability struct {
	*inquiry
	claims      map[identity.PublicKey]*evidence // by user key; in app mode under the zero key
	silent      bool                             // a device that was named could not be asked
	heard       chan struct{}                    // closed with the first evidence
	logoutFound chan struct{}                    // closed with the first log-out found in the directory
}

// evidence is the newest known about one user who may be meant.
type evidence struct {
	st      *identity.Statement
	source  Source
	known   time.Time // when the evidence arrived
	online  bool      // its device has just proved that it is there and logged in
	refuted bool      // its device is there, but not logged in as that user
}

func newAvailability() *availability {
	return &availability{claims: make(map[identity.PublicKey]*evidence), heard: make(chan struct{}), logoutFound: make(chan struct{})}
}

// inquire asks everybody who may know, until the answer is certain or the time is up.
func (f *finder) inquire(w want) (verdict, error) {
	j := newAvailability()
	j.inquiry = f.newInquiry(w, j, statusTimeout, maxVisits)
	complete := j.run()
	return j.verdict(complete, f.clock.Now())
}

// begin gives connected devices some time to answer, if there are any that should be able to.
func (j *availability) begin(connected []clue) (head time.Duration) {
	if j.greeted(connected) {
		return statusHead
	}
	return 0
}

// greeted adds what is known on this node.
func (j *availability) greeted(connected []clue) (live bool) {
	now := j.f.clock.Now()
	for _, c := range connected {
		live = live || loggedIn(c.st, now) && j.w.means(j.w.User, c.st.UserKey)
		c.addrs = nil // it is connected
		j.lead(c)
	}
	for _, gone := range j.f.statuses.departed.Values() {
		if gone.st.LoggedIn && now.Sub(gone.when) > recentlyLostFor {
			continue // the directory has to answer
		}
		j.lead(clue{login: gone.st.Login(), st: gone.st, source: Remembered, known: gone.when})
	}
	return live
}

// unheard: while a hello is under way, a user cannot be said to be offline.
func (j *availability) unheard() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.silent = true
}

// weigh adds a statement. If it is of a log-in, and the newest, its device is asked.
func (j *availability) weigh(c clue) bool {
	switch {
	case j.ctx.Err() != nil && c.st == nil:
		return false
	case c.unproved:
		return true
	case c.st == nil:
		return j.w.means(c.login.User, c.login.Key) && !j.saidGoodbye(c.login.Peer)
	}
	return j.hear(c) && loggedIn(c.st, j.f.clock.Now()) && j.ctx.Err() == nil
}

// hear adds a verified statement, and reports whether it is the newest known.
func (j *availability) hear(c clue) bool {
	st := c.st
	if st.User != j.w.User || !j.w.means(st.User, st.UserKey) || j.w.vouched && st.Grant() == nil {
		return false
	}
	source := c.source
	if !st.LoggedIn {
		source = Goodbye
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	key := j.key(st)
	was := j.claims[key]
	if was == nil || st.Newer(was.st) {
		j.claims[key] = &evidence{st: st, source: source, known: c.known}
	} else if was.st.Newer(st) {
		return false
	}
	closeOnce(j.heard)
	if c.source == Stored && !st.LoggedIn {
		j.noteLogoutLocked(st.Peer)
	}
	return true
}

// noteLogoutLocked records that the directory has a log-out of a device. If that device is being
// dialled, because it is remembered or was quitting when the question came, the inquiry does not
// wait for the dial.
func (j *availability) noteLogoutLocked(p peer.ID) {
	closeOnce(j.logoutFound)
	for at, cancel := range j.asked {
		if at.peer == p {
			time.AfterFunc(logoutRest, cancel)
		}
	}
}

// closeOnce closes a channel unless it is closed. The caller holds the lock that guards it.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (j *availability) key(st *identity.Statement) identity.PublicKey {
	if j.w.vouched {
		return identity.PublicKey{}
	}
	return st.UserKey
}

// saidGoodbye reports whether the newest known about a device is that it is logged out: there is no
// need to dial it.
func (j *availability) saidGoodbye(p peer.ID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.claims {
		if c.st.Peer == p && !c.st.LoggedIn {
			return true
		}
	}
	return false
}

func (j *availability) ask(ctx context.Context, c clue) (identity.Session, error) {
	return j.f.probe(ctx, c)
}

// answer adds what a device has stated about itself.
func (j *availability) answer(asked clue, s identity.Session, err error) {
	now := j.f.clock.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.silent = j.silent || asked.source != Remembered
		return
	}
	if st := s.Statement; st != nil && j.w.means(st.User, st.UserKey) && (!j.w.vouched || st.Grant() != nil) {
		key := j.key(st)
		c := j.claims[key]
		if c == nil || !c.st.Newer(st) {
			c = &evidence{st: st, source: Goodbye, known: now}
			if loggedIn(st, now) {
				c.source, c.online = Probed, true
			} else if st.LoggedIn {
				c.source, c.refuted = Probed, true // its token has ended
			}
			j.claims[key] = c
		}
		if c.online && j.w.exact() {
			j.stop()
		}
		return
	}
	for _, c := range j.claims { // the device is there, but as somebody else
		if c.st.Peer == asked.login.Peer && !c.online {
			c.refuted, c.source, c.known = true, Probed, now
		}
	}
}

// stored looks in the DHT, and a second time if it knows nobody. A log-in made just before the
// question may still be on its way there. If it is not there by the time it would have arrived,
// there was none.
func (j *availability) stored() (complete bool) {
	start := j.f.clock.Now()
	if !j.look(start) || !j.nobody() {
		return false
	}
	return j.pause(j.f.clock.Until(start.Add(storeGrace))) && j.seek(j.ctx, j.f.statuses.recentlyLost(start))
}

// nobody reports whether nothing at all is known about the user.
func (j *availability) nobody() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.claims) == 0
}

// look searches the DHT for as long as that is useful, and reports whether it was complete.
func (j *availability) look(start time.Time) (complete bool) {
	ctx, cancel := context.WithTimeout(j.ctx, seekBudget)
	defer cancel()
	// Ends with ctx. If a log-in is known, the search need not be complete: anything newer is found
	// soon, or not at all.
	go func() {
		select {
		case <-j.heard:
		case <-ctx.Done():
			return
		}
		rest := time.NewTimer(storedBudget - j.f.clock.Since(start))
		defer rest.Stop()
		select {
		case <-rest.C:
		// The log-out is of a device that was a node of the directory and is usually gone: the
		// search would wait for it.
		case <-j.logoutFound:
			rest.Reset(min(logoutRest, storedBudget-j.f.clock.Since(start)))
			select {
			case <-rest.C:
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
		cancel()
	}()
	return j.seek(ctx, j.f.statuses.recentlyLost(start))
}

// verdict judges all the evidence, once the inquiry has ended.
func (j *availability) verdict(complete bool, now time.Time) (verdict, error) {
	var online, live, gone []*evidence
	for _, c := range j.claims {
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
		e := &ConflictError{User: j.w.User}
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
	case complete && !j.silent:
		return verdict{state: Offline, source: Stored, known: now}, nil
	}
	return verdict{state: Unreachable, source: Nothing, known: now}, nil
}

// probe connects to a device, or checks that a connected one still answers, and returns what it
// states about itself.
func (f *finder) probe(ctx context.Context, clue clue) (identity.Session, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "status"), probeTimeout)
	defer cancel()
	p := clue.login.Peer
	if f.host.Network().Connectedness(p) != network.Connected {
		return f.state(ctx, clue) // the hello proves that it is there
	}
	f.mu.Lock()
	c := f.contacts[p]
	fresh := c != nil && c.known && f.clock.Since(c.heard) < freshFor
	f.mu.Unlock()
	for attempt := 0; !fresh; attempt++ {
		if f.pingAny(ctx, p) != nil {
			f.alive(p)
			break
		}
		if f.host.Network().Connectedness(p) != network.Connected && ctx.Err() == nil {
			break // the connection has ended: make another
		}
		if !pauseCrossed(ctx, attempt) {
			return identity.Session{}, errNoAnswer
		}
	}
	return f.state(ctx, clue)
}
