package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
)

// State is whether messages to a user will arrive.
type State uint8

// The states. Their numbers are the ones known from RTC messaging.
const (
	Offline     State = 0 // logged out, with evidence
	Online      State = 1 // logged in, and its device has just answered
	Unreachable State = 2 // not known; a message sent now should be expected to fail
)

var stateNames = [...]string{Offline: "offline", Online: "online", Unreachable: "unreachable"}

// String returns "offline", "online" or "unreachable".
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", s)
}

// MarshalText returns the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// The further sources of a [Status].
const (
	Probed  Source = "probe"   // its device has just answered
	Goodbye Source = "goodbye" // its device has stated, signed, that it is logged out
	Nothing Source = "none"    // there is no evidence
)

// Status is the answer to whether a user is online, and the evidence for it.
type Status struct {
	User   string
	State  State
	Login  identity.Login // the log-in that the answer is about; zero: none is known
	Source Source         // how it is known
	Age    time.Duration  // how old the evidence is
}

// MarshalJSON returns {"user":…, "state":"online", "login":{…}, "source":…, "age_ms":…}, without
// login if none is known.
func (s Status) MarshalJSON() ([]byte, error) {
	out := struct {
		User   string          `json:"user"`
		State  State           `json:"state"`
		Login  *identity.Login `json:"login,omitempty"`
		Source Source          `json:"source"`
		Age    int64           `json:"age_ms"`
	}{User: s.User, State: s.State, Source: s.Source, Age: s.Age.Milliseconds()}
	if s.Login.Peer != "" {
		out.Login = &s.Login
	}
	return json.Marshal(out)
}

const (
	// freshFor is how long a peer counts as there after it was last heard from.
	freshFor = 5 * time.Second
	// statusTimeout bounds a whole inquiry.
	statusTimeout = 4500 * time.Millisecond
	// probeTimeout is how long a device has to answer.
	probeTimeout = 2 * time.Second
	// statusCache is how long an answer is reused.
	statusCache = time.Second
	// statusHead is how long connected devices have to answer before others are asked too.
	statusHead = 300 * time.Millisecond
	// seekBudget is how long an inquiry searches the DHT while nothing is known, storedBudget how
	// long once something is.
	seekBudget = 3 * time.Second
	// logoutRest is how long an inquiry goes on after it has found a log-out in the directory:
	// nodes that answer at all have done so by then.
	logoutRest = 500 * time.Millisecond
	// storeGrace is how long a log-in may take to reach the nearest nodes that its device knows:
	// two round trips, to ask and to store, and dials before that. An unknown user counts as
	// offline only if still unknown that long after the question.
	storeGrace = time.Second

	maxCached   = 1024 // answers
	maxDeparted = 1024 // log-ins of peers that were connected
	maxLost     = 256  // peers that were connected

	// recentlyLostFor is how long a device that fell silent counts as possibly there. For that long
	// its log-in may still be live, and the directory is not complete without its answer as a node.
	// So after a network split, users on the other side are unreachable rather than offline for
	// that long, though their records lapse after 3 minutes.
	recentlyLostFor = 10 * time.Minute
	maxVisits       = 8 // devices that one inquiry dials
)

// Status returns whether a user is logged in and reachable, with the evidence. It answers at once
// for this node's own user, for a connected device heard from in the last 5 s, and for 1 s after
// the last answer; otherwise within 5 s.
//
// [Online] means that the device has proved to be there. [Offline] requires evidence: a signed
// log-out, a device that says that the user is not logged in on it, or a directory in which all the
// nearest nodes have answered, once at the start and again a second later, and none knows a log-in.
// Everything else is [Unreachable]; a timeout never means Offline.
//
// Errors are an [*identity.IDError], [ErrNotLoggedIn] while this node is not logged in, a
// [*ConflictError] for a name that several connected users have, [ErrClosed], or the error of ctx.
func (d *Directory) Status(ctx context.Context, addr identity.Address) (Status, error) {
	return d.finder.status(ctx, addr)
}

// status is [Directory.Status].
func (f *finder) status(ctx context.Context, addr identity.Address) (Status, error) {
	if err := identity.CheckUser(addr.User); err != nil {
		return Status{}, err
	}
	w := f.resolve(addr)
	now := f.clock.Now()
	v, ok, err := f.statusAtHand(w, now)
	if err != nil {
		return Status{}, err
	}
	if !ok {
		if v, err = f.statuses.share(ctx, f, w); err != nil {
			return Status{}, err
		}
	}
	return Status{User: addr.User, State: v.state, Login: v.login, Source: v.source, Age: max(f.clock.Since(v.known), 0)}, nil
}

// verdict is an answer.
type verdict struct {
	state  State
	login  identity.Login
	source Source
	known  time.Time // when the evidence arrived
}

// statusAtHand answers without a round trip, if it can.
func (f *finder) statusAtHand(w want, now time.Time) (v verdict, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closing:
		return v, false, ErrClosed
	case !f.own.in:
		return v, false, ErrNotLoggedIn
	}
	if self := f.own.self; w.means(self.User, self.UserKey) {
		if !loggedIn(self, now) { // its token has ended
			return verdict{state: Unreachable, login: self.Login(), source: Self, known: now}, true, nil
		}
		return verdict{state: Online, login: self.Login(), source: Self, known: now}, true, nil
	}
	var best *contact
	for _, c := range f.names[w.User] {
		st := c.session.Statement
		if !w.means(st.User, st.UserKey) || !c.loggedIn(now) {
			continue
		}
		if best != nil && st.UserKey != best.session.Statement.UserKey && !w.vouched {
			return v, false, nil // several users: an inquiry has to decide
		}
		if best == nil || st.Newer(best.session.Statement) {
			best = c
		}
	}
	if best == nil || now.Sub(best.heard) >= freshFor {
		return v, false, nil
	}
	return verdict{state: Online, login: best.session.Statement.Login(), source: Connected, known: best.heard}, true, nil
}

// Heard records that a connected peer has just proved to be there: something that it signed, or
// that came over a connection with it, has arrived and cannot have been under way for long. It
// saves [Directory.Status] a round trip.
func (d *Directory) Heard(p identity.Login) { d.alive(p.Peer) }

// inquiries shares the questions under way, and remembers the latest answers and the devices that
// have gone.
type inquiries struct {
	clock    walltime.Clock
	cache    *lru.Cache[string, verdict] // by address; the field at has the time of each answer
	at       *lru.Cache[string, time.Time]
	touched  *lru.Cache[string, time.Time] // users about whom there was news, and when
	departed *lru.Cache[identity.Subject, departure]
	lost     *lru.Cache[peer.ID, time.Time] // peers that left without a good-bye, and when

	mu    sync.Mutex
	under map[string]*asked
}

// departure is the latest known about a device when its connection ended.
type departure struct {
	st   *identity.Statement
	when time.Time // it was last heard from
}

type asked struct {
	done chan struct{}
	v    verdict
	err  error
}

func newInquiries(clock walltime.Clock) *inquiries {
	return &inquiries{
		clock:    clock,
		cache:    newLRU[string, verdict](maxCached),
		at:       newLRU[string, time.Time](maxCached),
		touched:  newLRU[string, time.Time](maxCached),
		departed: newLRU[identity.Subject, departure](maxDeparted),
		lost:     newLRU[peer.ID, time.Time](maxLost),
		under:    make(map[string]*asked),
	}
}

// changed records that earlier answers about a user may be out of date. It may be called with the
// lock of people held.
func (q *inquiries) changed(p peer.ID, st *identity.Statement) {
	q.lost.Remove(p)
	if st != nil {
		q.touched.Add(st.User, q.clock.Now())
		if was, ok := q.departed.Peek(st.Subject()); ok && st.Newer(was.st) {
			q.departed.Remove(st.Subject())
		}
	}
}

// parted remembers a device whose last connection has ended. It may be called with the lock
// of people held.
func (q *inquiries) parted(p peer.ID, st *identity.Statement, heard time.Time) {
	if st == nil || st.LoggedIn {
		q.lost.Add(p, q.clock.Now())
	}
	if st == nil {
		return
	}
	q.touched.Add(st.User, q.clock.Now())
	if was, ok := q.departed.Peek(st.Subject()); !ok || !was.st.Newer(st) {
		q.departed.Add(st.Subject(), departure{st, heard})
	}
}

// recentlyLost returns the peers that left without a good-bye not long ago.
func (q *inquiries) recentlyLost(now time.Time) (out []peer.ID) {
	for _, p := range q.lost.Keys() {
		if at, ok := q.lost.Peek(p); ok && now.Sub(at) < recentlyLostFor {
			out = append(out, p)
		}
	}
	return out
}

// cached returns a recent answer, unless there has been news since.
func (q *inquiries) cached(key, user string, now time.Time) (verdict, bool) {
	at, ok := q.at.Get(key)
	if !ok || now.Sub(at) >= statusCache {
		return verdict{}, false
	}
	if news, ok := q.touched.Peek(user); ok && !news.Before(at) {
		return verdict{}, false
	}
	return q.cache.Get(key)
}

// share joins the inquiry under way, or starts one.
func (q *inquiries) share(ctx context.Context, f *finder, w want) (verdict, error) {
	key := w.Address.String()
	q.mu.Lock()
	if v, ok := q.cached(key, w.User, q.clock.Now()); ok {
		q.mu.Unlock()
		return v, nil
	}
	a := q.under[key]
	if a == nil {
		a = &asked{done: make(chan struct{})}
		f.mu.Lock()
		started := !f.closing && f.tasks.Go(func() {
			a.v, a.err = f.inquire(w)
			q.mu.Lock()
			delete(q.under, key)
			if a.err == nil {
				q.cache.Add(key, a.v)
				q.at.Add(key, q.clock.Now())
			}
			q.mu.Unlock()
			close(a.done)
		})
		f.mu.Unlock()
		if !started {
			q.mu.Unlock()
			return verdict{}, ErrClosed
		}
		q.under[key] = a
	}
	q.mu.Unlock()
	select {
	case <-a.done:
		if f.ctx.Err() != nil {
			return verdict{}, ErrClosed
		}
		return a.v, a.err
	case <-ctx.Done():
		return verdict{}, ctx.Err()
	case <-f.ctx.Done():
		return verdict{}, ErrClosed
	}
}

var errNoAnswer = errors.New("no answer")
