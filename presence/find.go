package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
)

// Source is the way in which a user was found.
type Source string

// The sources of a [Found].
const (
	Self       Source = "self"       // this node's own log-in
	Connected  Source = "connected"  // a connected peer
	Remembered Source = "remembered" // a peer met before, connected again
	Whois      Source = "whois"      // a connected peer said where it is; connected since
	Stored     Source = "directory"  // the DHT said where it is; connected since
)

// Found is a log-in that Find has found, confirmed by its device's hello.
type Found struct {
	Login  identity.Login
	Addrs  []ma.Multiaddr // as its device states them
	Source Source
}

const (
	// findTimeout bounds a whole search.
	findTimeout = 5 * time.Second
	// confirmTimeout bounds connecting to one place where the user may be.
	confirmTimeout = 4 * time.Second
	// confirmGrace is how long a search waits for other places once the first is confirmed: several
	// users may have the name.
	confirmGrace = 300 * time.Millisecond
	// maxCandidates is how many places one search tries: peers name them, and each costs a dial.
	maxCandidates = 16
)

// Find returns where a user is logged in. It knows connected peers at once. Otherwise it waits for
// hellos under way, dials remembered peers, asks connected ones and looks in the DHT if there is
// one ([WithDHT]), which takes up to 5 s. The result is confirmed by a hello: the device is
// connected, and logged in as that user with that key.
//
// If a name is not pinned yet, Find pins it to the key that it finds. It returns a [*ConflictError]
// instead if it finds several keys, or if another key has written to this node under the name (see
// [identity.Pins]). An address with a fingerprint is searched for exactly, and pins nothing. The
// node's own name means its own key. In app mode nothing is pinned and there are no conflicts: a
// name is one user, proved by a token.
//
// Errors are an [*identity.IDError], a [*NotFoundError], [ErrUnreachable], a [*ConflictError],
// [ErrClosed], or the error of ctx.
func (d *Directory) Find(ctx context.Context, addr identity.Address) (Found, error) {
	if err := identity.CheckUser(addr.User); err != nil {
		return Found{}, err
	}
	found, err := d.findConnected(addr)
	if !errors.Is(err, errSearch) {
		return found, err
	}
	return d.share(ctx, addr)
}

// errSearch reports that the connected peers do not answer the question.
var errSearch = errors.New("presence: not among the connected")

// want is what an address means on this node.
type want struct {
	identity.Address
	key   identity.PublicKey // the key that the name stands for
	fixed bool               // key is valid

	vouched bool // app mode: a name is one user, whatever the key
}

func (d *Directory) resolve(addr identity.Address) want {
	w := want{Address: addr, vouched: d.cfg.authority != nil}
	if addr.Fingerprint != "" || w.vouched {
		return w
	}
	d.mu.Lock()
	own := d.user == addr.User
	d.mu.Unlock()
	if own {
		w.key, w.fixed = d.userKey, true
	} else {
		w.key, w.fixed = d.cfg.pins.Lookup(addr.User)
	}
	return w
}

// exact reports whether at most one user can be meant.
func (w want) exact() bool { return w.fixed || w.vouched || w.Fingerprint != "" }

func (w want) means(user string, key identity.PublicKey) bool {
	return w.Matches(user, key) && (!w.fixed || w.key == key)
}

func (d *Directory) findConnected(addr identity.Address) (Found, error) {
	w := d.resolve(addr)
	now := time.Now()
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return Found{}, ErrClosed
	}
	if self := d.self; loggedIn(self, now) && w.means(self.User, self.UserKey) {
		d.mu.Unlock()
		return Found{Login: self.Login(), Source: Self}, nil
	}
	right := d.connectedLocked(w, now)
	d.mu.Unlock()
	if len(right) == 0 {
		return Found{}, errSearch
	}
	return d.settle(w, right)
}

// connectedLocked returns the log-ins of connected peers that match w.
func (d *Directory) connectedLocked(w want, now time.Time) (right []candidate) {
	for _, c := range d.names[w.User] {
		if st := c.session.Statement; c.loggedIn(now) && w.means(st.User, st.UserKey) {
			right = append(right, candidate{login: st.Login(), st: st, addrs: slices.Clone(c.session.Addrs), source: Connected})
		}
	}
	return right
}

// candidate is a log-in that may be the one searched for. st is its device's statement, or nil if
// the log-in is only remembered.
type candidate struct {
	login  identity.Login
	st     *identity.Statement
	addrs  []ma.Multiaddr
	source Source

	// The login is only a name and a place: its device has to prove the key.
	unproved bool
}

// settle chooses between confirmed candidates, of which there must be at least one.
func (d *Directory) settle(w want, confirmed []candidate) (Found, error) {
	slices.SortFunc(confirmed, func(a, b candidate) int { // by user, the latest log-in first
		if !w.vouched && a.login.Key != b.login.Key {
			return slices.Compare(a.login.Key[:], b.login.Key[:])
		}
		return cmp.Or(cmp.Compare(b.st.Sequence, a.st.Sequence), cmp.Compare(b.login.Peer, a.login.Peer))
	})
	first := confirmed[0]
	if w.vouched {
		return Found{Login: first.login, Addrs: first.addrs, Source: first.source}, nil
	}
	if last := confirmed[len(confirmed)-1]; first.login.Key != last.login.Key {
		return Found{}, &ConflictError{User: w.User, Found: logins(confirmed)}
	}
	if w.Fingerprint == "" && first.login.Key != d.userKey {
		if others := d.cfg.pins.Others(first.login); len(others) > 0 {
			return Found{}, &ConflictError{User: w.User, Found: append(logins(confirmed), others...)}
		}
		if pinned, ok := d.cfg.pins.Pin(w.User, first.login.Key); !ok {
			return Found{}, &ConflictError{User: w.User, Pinned: pinned, Found: logins(confirmed)}
		}
	}
	return Found{Login: first.login, Addrs: first.addrs, Source: first.source}, nil
}

func logins(cs []candidate) []identity.Login {
	var out []identity.Login
	for _, c := range cs {
		if !slices.Contains(out, c.login) {
			out = append(out, c.login)
		}
	}
	return out
}

// search is one search, for which several callers may wait.
type search struct {
	done  chan struct{}
	found Found
	err   error
}

// share joins the search for addr that is under way, or starts one. If the ctx of a caller ends,
// the search goes on for the others.
func (d *Directory) share(ctx context.Context, addr identity.Address) (Found, error) {
	key := addr.String()
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return Found{}, ErrClosed
	}
	s := d.searches[key]
	if s == nil {
		s = &search{done: make(chan struct{})}
		d.searches[key] = s
		d.tasks.Go(func() {
			s.found, s.err = d.search(addr)
			d.mu.Lock()
			delete(d.searches, key)
			d.mu.Unlock()
			close(s.done)
		})
	}
	d.mu.Unlock()
	select {
	case <-s.done:
		found := s.found // other callers read it too
		found.Addrs = slices.Clone(found.Addrs)
		return found, s.err
	case <-ctx.Done():
		return Found{}, ctx.Err()
	}
}

// attempt is a place that was tried. A peer may be tried twice: at its remembered address, and at
// the one that others name.
type attempt struct {
	peer   peer.ID
	source Source
}

// hunt is the state of one search.
type hunt struct {
	d    *Directory
	w    want
	stop context.CancelFunc // called when the user is found
	wg   sync.WaitGroup

	mu        sync.Mutex
	tried     map[attempt]bool
	confirmed []candidate
	others    []candidate   // under the name, but with another key than the one wanted
	live      bool          // there is proof of a matching log-in
	first     chan struct{} // closed with the first confirmed
}

func (d *Directory) search(addr identity.Address) (Found, error) {
	ctx, cancel := context.WithTimeout(d.ctx, findTimeout)
	defer cancel()
	h := &hunt{d: d, w: d.resolve(addr), stop: cancel, tried: make(map[attempt]bool), first: make(chan struct{})}
	h.connected()
	h.wg.Go(func() { d.awaitHellos(ctx, h.greeted) })
	for _, r := range d.cfg.store.Remembered() {
		if r.Login.User == addr.User {
			h.try(ctx, candidate{login: r.Login, addrs: parseStrings(r.Addrs), source: Remembered})
		}
	}
	d.whois(ctx, addr.User, h.w.key, func(l located) {
		if l.st.User == addr.User && loggedIn(l.st, time.Now()) {
			h.try(ctx, candidate{login: l.st.Login(), st: l.st, addrs: l.addrs, source: Whois})
		}
	})
	d.searchStored(ctx, h)
	h.wait(ctx)
	cancel()
	h.wg.Wait()
	if d.ctx.Err() != nil {
		return Found{}, ErrClosed
	}
	found, err := h.result()
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) {
		if late, err := d.findConnected(addr); err == nil { // connected or logged in meanwhile
			return late, nil
		}
	}
	return found, err
}

// connected adds to others the connected users who have the name but are not wanted.
func (h *hunt) connected() {
	now := time.Now()
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	for _, c := range h.d.names[h.w.User] {
		if c.loggedIn(now) && !h.w.means(h.w.User, c.session.Statement.UserKey) {
			h.others = append(h.others, candidate{login: c.session.Statement.Login()})
		}
	}
}

// try connects to a candidate in the background.
func (h *hunt) try(ctx context.Context, c candidate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.unproved && !h.w.means(c.login.User, c.login.Key) {
		if c.st != nil && c.login.Key != h.d.userKey { // proved to exist; a remembered log-in proves nothing
			h.others = append(h.others, c)
		}
		return
	}
	key := attempt{c.login.Peer, c.source}
	if h.tried[key] || len(h.tried) == maxCandidates || c.login.Peer == h.d.id || h.d.Foreign(c.login.Peer) {
		return
	}
	h.tried[key] = true
	h.wg.Go(func() {
		got, ok, err := h.d.confirm(ctx, h.w, c)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.live = h.live || err != nil && c.st != nil
		if !ok {
			return
		}
		h.confirmLocked(got)
	})
}

func (h *hunt) confirmLocked(got candidate) {
	if h.confirmed = append(h.confirmed, got); len(h.confirmed) == 1 {
		close(h.first)
	}
	if h.w.exact() {
		h.stop()
	}
}

// greeted adds matching users whose hello has just completed, and reports whether there are any.
func (h *hunt) greeted() bool {
	h.d.mu.Lock()
	right := h.d.connectedLocked(h.w, time.Now())
	h.d.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range right {
		h.confirmLocked(c)
	}
	return len(right) > 0
}

// wait waits until every candidate was tried. Once one is confirmed, it waits only confirmGrace for
// the rest.
func (h *hunt) wait(ctx context.Context) {
	all := make(chan struct{})
	go func() { // ends before search does, which waits for the same group
		h.wg.Wait()
		close(all)
	}()
	select {
	case <-all:
		return
	case <-ctx.Done():
		return
	case <-h.first:
	}
	grace := time.NewTimer(confirmGrace)
	defer grace.Stop()
	select {
	case <-all:
	case <-ctx.Done():
	case <-grace.C:
	}
}

func (h *hunt) result() (Found, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case len(h.confirmed) > 0:
		return h.d.settle(h.w, h.confirmed)
	case h.live:
		return Found{}, fmt.Errorf("presence: %w: %s", ErrUnreachable, h.w)
	case len(h.others) > 0 && h.w.Fingerprint == "":
		return Found{}, &ConflictError{User: h.w.User, Pinned: h.w.key, Found: logins(h.others)}
	}
	return Found{}, &NotFoundError{Address: h.w.Address, Others: logins(h.others)}
}

// confirm connects to a candidate and checks its hello. An error means that the candidate could not
// be asked.
func (d *Directory) confirm(ctx context.Context, w want, c candidate) (got candidate, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	p := c.login.Peer
	s, err := d.Connect(network.WithAllowLimitedConn(ctx, "find user"), peer.AddrInfo{ID: p, Addrs: c.addrs})
	if err != nil {
		d.cfg.log.Debug("candidate not confirmed", "peer", p, "err", err)
		return c, false, err
	}
	if st := s.Statement; loggedIn(st, time.Now()) && w.means(st.User, st.UserKey) {
		return candidate{login: st.Login(), st: st, addrs: s.Addrs, source: c.source}, true, nil
	}
	return c, false, nil
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
