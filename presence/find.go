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

// Source says how a user was found.
type Source string

// The sources of a [Found].
const (
	Self       Source = "self"       // it is this node's own log-in
	Connected  Source = "connected"  // a connected peer
	Remembered Source = "remembered" // a peer met before, connected anew
	Whois      Source = "whois"      // a connected peer told where it is; connected since
	Stored     Source = "directory"  // the DHT told where it is; connected since
)

// Found is a log-in that Find has found, confirmed by the hello of its device.
type Found struct {
	Login  identity.Login
	Addrs  []ma.Multiaddr // that its device gives for itself
	Source Source
}

const (
	// findTimeout bounds a whole search.
	findTimeout = 5 * time.Second
	// confirmTimeout bounds the connecting to one place where the user may be.
	confirmTimeout = 4 * time.Second
	// confirmGrace is how long a first contact waits for further places to answer, once one has: several may hold the
	// name.
	confirmGrace = 300 * time.Millisecond
	// maxCandidates is how many places are tried in one search: peers name them, and each costs a dial.
	maxCandidates = 16
)

// Find returns where a user is logged in. Connected peers are known at once; otherwise it waits for hellos that are under way, dials
// remembered peers and asks connected ones, which takes up to 5 s. What it returns is confirmed by hello: the device is connected, and
// logged in as that user with that key.
//
// A name that is not pinned yet is pinned to the key that is found, unless several are, or another key has written to
// this node under the name (see [identity.Pins]): that is a [*ConflictError]. An address with a fingerprint is looked
// for exactly, and pins nothing. The own name means the own key. In app mode nothing is pinned and there are no
// conflicts: a name is one user, whom a token proves.
//
// Errors are an [*identity.IDError], a [*NotFoundError], [ErrUnreachable], a [*ConflictError], [ErrClosed], or that of
// ctx.
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

// errSearch says that connected peers do not answer the question.
var errSearch = errors.New("presence: not among the connected")

// want is what an address means here.
type want struct {
	identity.Address
	key   identity.PublicKey // that the name belongs to here
	fixed bool               // key holds

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

// connectedLocked returns the log-ins of connected peers that are meant.
func (d *Directory) connectedLocked(w want, now time.Time) (right []candidate) {
	for _, c := range d.names[w.User] {
		if st := c.session.Statement; c.loggedIn(now) && w.means(st.User, st.UserKey) {
			right = append(right, candidate{login: st.Login(), st: st, addrs: slices.Clone(c.session.Addrs), source: Connected})
		}
	}
	return right
}

// candidate is a log-in that may be the one; st is its device's, or nil for one that is only remembered.
type candidate struct {
	login  identity.Login
	st     *identity.Statement
	addrs  []ma.Multiaddr
	source Source

	unproved bool // the login is only a name and a place: its device has to show the key
}

// settle decides between confirmed candidates, at least one.
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

// search is one search that several callers may wait for.
type search struct {
	done  chan struct{}
	found Found
	err   error
}

// share joins the search for addr that is under way, or starts one. A caller whose ctx ends leaves it to the others.
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
		found := s.found // which others read too
		found.Addrs = slices.Clone(found.Addrs)
		return found, s.err
	case <-ctx.Done():
		return Found{}, ctx.Err()
	}
}

// attempt is a place that was tried. A peer may be tried twice: at where it was, and at where others say that it is.
type attempt struct {
	peer   peer.ID
	source Source
}

// hunt is the state of one search.
type hunt struct {
	d    *Directory
	w    want
	stop context.CancelFunc // there is a winner
	wg   sync.WaitGroup

	mu        sync.Mutex
	tried     map[attempt]bool
	confirmed []candidate
	others    []candidate   // under the name, and of another key than the one wanted
	live      bool          // a log-in that was wanted is claimed, with proof
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

// connected notes the connected users of the name who are not the one wanted.
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

// try connects to a candidate behind the caller's back.
func (h *hunt) try(ctx context.Context, c candidate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.unproved && !h.w.means(c.login.User, c.login.Key) {
		if c.st != nil && c.login.Key != h.d.userKey { // proved to exist; what is only remembered proves nothing
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

// greeted takes in whom the hellos of connected peers have shown, and reports whether one is meant.
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

// wait waits until every candidate was tried; for the remaining ones only a moment longer once one is confirmed.
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

// confirm connects to a candidate and lets its hello decide. An error says that it could not be asked.
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
