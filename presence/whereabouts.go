package presence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/identity"
)

// whereabouts judges where a user is logged in. A log-in counts when its device has confirmed it by
// a hello.
type whereabouts struct {
	*inquiry
	confirmed []clue
	others    []clue // under the name, but with another key than the one wanted
	live      bool   // there is proof of a matching log-in
}

// search looks for a user who is not among the connected.
func (f *finder) search(addr identity.Address) (Found, error) {
	j := new(whereabouts)
	j.inquiry = f.newInquiry(f.resolve(addr), j, findTimeout, maxCandidates)
	j.run()
	if f.ctx.Err() != nil {
		return Found{}, ErrClosed
	}
	found, err := j.result()
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) {
		if late, err := f.findConnected(addr); err == nil { // connected or logged in meanwhile
			return late, nil
		}
	}
	return found, err
}

// begin adds to others the connected users who are not wanted. Those who are wanted may have come
// since Find has looked: see greeted.
func (j *whereabouts) begin(connected []clue) (head time.Duration) {
	now := j.f.clock.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range connected {
		if loggedIn(c.st, now) && !j.w.means(c.st.User, c.st.UserKey) {
			j.others = append(j.others, c)
		}
	}
	return 0
}

// greeted adds matching users whose hello has just completed.
func (j *whereabouts) greeted(connected []clue) (enough bool) {
	now := j.f.clock.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range connected {
		if loggedIn(c.st, now) && j.w.means(c.st.User, c.st.UserKey) {
			j.confirmLocked(c)
			enough = true
		}
	}
	return enough
}

func (j *whereabouts) unheard() {}

func (j *whereabouts) weigh(c clue) bool {
	if c.st != nil && (c.st.User != j.w.User || !loggedIn(c.st, j.f.clock.Now())) {
		return false
	}
	if !c.unproved && !j.w.means(c.login.User, c.login.Key) {
		if c.st != nil && c.login.Key != j.f.userKey { // proved to exist; a remembered log-in proves nothing
			j.mu.Lock()
			j.others = append(j.others, c)
			j.mu.Unlock()
		}
		return false
	}
	return !j.f.hellos.shake.foreign(c.login.Peer)
}

// ask connects to the device.
func (j *whereabouts) ask(ctx context.Context, c clue) (identity.Session, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "find user"), confirmTimeout)
	defer cancel()
	s, err := j.f.state(ctx, c)
	if err != nil {
		j.f.cfg.log.Debug("candidate not confirmed", "peer", c.login.Peer, "err", err)
	}
	return s, err
}

func (j *whereabouts) answer(c clue, s identity.Session, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.live = j.live || c.st != nil
		return
	}
	if st := s.Statement; loggedIn(st, j.f.clock.Now()) && j.w.means(st.User, st.UserKey) {
		j.confirmLocked(clue{login: st.Login(), st: st, addrs: s.Addrs, source: c.source})
	}
}

func (j *whereabouts) confirmLocked(c clue) {
	if j.confirmed = append(j.confirmed, c); len(j.confirmed) == 1 {
		close(j.first)
	}
	if j.w.exact() {
		j.stop()
	}
}

func (j *whereabouts) stored() (complete bool) {
	ctx, cancel := context.WithTimeout(j.ctx, storedBudget)
	defer cancel()
	return j.seek(ctx, nil)
}

// result judges all the evidence, once the inquiry has ended.
func (j *whereabouts) result() (Found, error) {
	switch {
	case len(j.confirmed) > 0:
		return j.f.settle(j.w, j.confirmed)
	case j.live:
		return Found{}, fmt.Errorf("%w: %s", ErrUnreachable, j.w)
	case len(j.others) > 0 && j.w.Fingerprint == "":
		return Found{}, &ConflictError{User: j.w.User, Pinned: j.w.key, Found: logins(j.others)}
	}
	return Found{}, &NotFoundError{Address: j.w.Address, Others: logins(j.others)}
}
