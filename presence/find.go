package presence

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence/internal/dht"
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
	// storedBudget is how long a search looks into the DHT.
	storedBudget = 1500 * time.Millisecond
)

// finder finds users, and judges whether they are online.
type finder struct {
	*people
	own      *account
	hellos   *greeter
	whois    *whois
	dht      *dht.DHT
	statuses *inquiries
	observe  func(*identity.Statement)
	searches map[string]*search // under way, by address; the lock of people guards them
}

func newFinder(own *account, hellos *greeter, w *whois, statuses *inquiries, observe func(*identity.Statement)) *finder {
	return &finder{
		people: hellos.people, own: own, hellos: hellos, whois: w, observe: observe,
		statuses: statuses, searches: make(map[string]*search),
	}
}

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
	return d.finder.find(ctx, addr)
}

// Known returns the log-in that an address means if that can be told at once: from the connected
// peers. known is false if it takes a search. Otherwise it is as [Directory.Find].
func (d *Directory) Known(addr identity.Address) (login identity.Login, known bool, err error) {
	found, err := d.finder.findConnected(addr)
	if errors.Is(err, errSearch) {
		return identity.Login{}, false, nil
	}
	return found.Login, err == nil, err
}

// Locate is [Directory.Find] without the addresses, for package mesh.
func (d *Directory) Locate(ctx context.Context, addr identity.Address) (identity.Login, error) {
	found, err := d.finder.find(ctx, addr)
	return found.Login, err
}

// find is [Directory.Find].
func (f *finder) find(ctx context.Context, addr identity.Address) (Found, error) {
	if err := identity.CheckUser(addr.User); err != nil {
		return Found{}, err
	}
	found, err := f.findConnected(addr)
	if !errors.Is(err, errSearch) {
		return found, err
	}
	return f.share(ctx, addr)
}

// errSearch reports that the connected peers do not answer the question.
var errSearch = errors.New("not among the connected")

// want is what an address means on this node.
type want struct {
	identity.Address
	key   identity.PublicKey // the key that the name stands for
	fixed bool               // key is valid

	vouched bool // app mode: a name is one user, whatever the key
}

func (f *finder) resolve(addr identity.Address) want {
	w := want{Address: addr, vouched: f.cfg.authority != nil}
	if addr.Fingerprint != "" || w.vouched {
		return w
	}
	f.mu.Lock()
	own := f.own.user == addr.User
	f.mu.Unlock()
	if own {
		w.key, w.fixed = f.userKey, true
	} else {
		w.key, w.fixed = f.cfg.pins.Lookup(addr.User)
	}
	return w
}

// exact reports whether at most one user can be meant.
func (w want) exact() bool { return w.fixed || w.vouched || w.Fingerprint != "" }

func (w want) means(user string, key identity.PublicKey) bool {
	return w.Matches(user, key) && (!w.fixed || w.key == key)
}

func (f *finder) findConnected(addr identity.Address) (Found, error) {
	w := f.resolve(addr)
	now := f.clock.Now()
	f.mu.Lock()
	if f.closing {
		f.mu.Unlock()
		return Found{}, ErrClosed
	}
	if self := f.own.self; loggedIn(self, now) && w.means(self.User, self.UserKey) {
		f.mu.Unlock()
		return Found{Login: self.Login(), Source: Self}, nil
	}
	right := f.connectedLocked(w, now)
	f.mu.Unlock()
	if len(right) == 0 {
		return Found{}, errSearch
	}
	return f.settle(w, right)
}

// connectedLocked returns the log-ins of connected peers that match w.
func (f *finder) connectedLocked(w want, now time.Time) (right []clue) {
	for _, c := range f.names[w.User] {
		if st := c.session.Statement; c.loggedIn(now) && w.means(st.User, st.UserKey) {
			right = append(right, clue{login: st.Login(), st: st, addrs: slices.Clone(c.session.Addrs), source: Connected})
		}
	}
	return right
}

// settle chooses between confirmed candidates, of which there must be at least one.
func (f *finder) settle(w want, confirmed []clue) (Found, error) {
	slices.SortFunc(confirmed, func(a, b clue) int { // by user, the latest log-in first
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
	if w.Fingerprint == "" && first.login.Key != f.userKey {
		if others := f.cfg.pins.Others(first.login); len(others) > 0 {
			return Found{}, &ConflictError{User: w.User, Found: append(logins(confirmed), others...)}
		}
		if pinned, ok := f.cfg.pins.Pin(w.User, first.login.Key); !ok {
			return Found{}, &ConflictError{User: w.User, Pinned: pinned, Found: logins(confirmed)}
		}
	}
	return Found{Login: first.login, Addrs: first.addrs, Source: first.source}, nil
}

func logins(cs []clue) []identity.Login {
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
func (f *finder) share(ctx context.Context, addr identity.Address) (Found, error) {
	key := addr.String()
	f.mu.Lock()
	if f.closing {
		f.mu.Unlock()
		return Found{}, ErrClosed
	}
	s := f.searches[key]
	if s == nil {
		s = &search{done: make(chan struct{})}
		f.searches[key] = s
		f.tasks.Go(func() {
			s.found, s.err = f.search(addr)
			f.mu.Lock()
			delete(f.searches, key)
			f.mu.Unlock()
			close(s.done)
		})
	}
	f.mu.Unlock()
	select {
	case <-s.done:
		found := s.found // other callers read it too
		found.Addrs = slices.Clone(found.Addrs)
		return found, s.err
	case <-ctx.Done():
		return Found{}, ctx.Err()
	}
}

// state connects to a device that a clue has led to, unless it is connected, and returns what it
// states about itself. If the clue has overtaken the device's own word, which a cut has delayed,
// the device is asked for that word in a hello.
func (f *finder) state(ctx context.Context, c clue) (identity.Session, error) {
	to := peer.AddrInfo{ID: c.login.Peer, Addrs: c.addrs}
	s, err := f.hellos.connect(ctx, to)
	if err != nil || c.st == nil || c.st.Peer != to.ID || s.Statement != nil && !c.st.Newer(s.Statement) {
		return s, err
	}
	if conn := f.pingAny(ctx, to.ID); conn != nil {
		f.hellos.renew(ctx, conn)
	}
	return f.hellos.connect(ctx, to)
}
