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
)

// State is whether a user can be written to.
type State uint8

// The states. Their numbers are those that users of RTC messaging know.
const (
	Offline     State = 0 // logged out: there is evidence
	Online      State = 1 // logged in, and has answered just now
	Unreachable State = 2 // it cannot be told; who sends now should expect to fail
)

var stateNames = [...]string{Offline: "offline", Online: "online", Unreachable: "unreachable"}

// String returns "offline", "online" or "unreachable".
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", s)
}

// MarshalText gives the name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// The further sources of a [Status].
const (
	Probed  Source = "probe"   // its device has answered just now
	Goodbye Source = "goodbye" // its device has said, signed, that it is logged out
	Nothing Source = "none"    // there is no evidence
)

// Status is the answer to whether a user is online, and what it rests on.
type Status struct {
	User   string
	State  State
	Login  identity.Login // the log-in that the answer is about; zero: none is known
	Source Source         // how it is known
	Age    time.Duration  // how old the evidence is
}

// MarshalJSON gives {"user":…, "state":"online", "login":{…}, "source":…, "age_ms":…}, without login if none is known.
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
	// freshFor is how long a peer that has proved to be there counts as there.
	freshFor = 5 * time.Second
	// statusTimeout bounds a whole inquiry.
	statusTimeout = 4500 * time.Millisecond
	// probeTimeout is what a device has to answer.
	probeTimeout = 2 * time.Second
	// statusCache is how long an answer is given again.
	statusCache = time.Second
	// statusHead is how long the devices that are connected have before others are asked too.
	statusHead = 300 * time.Millisecond
	// seekBudget is how long an inquiry looks into the DHT while nothing is known, and storedBudget once something is.
	seekBudget = 3 * time.Second
	// buriedRest is how long an inquiry goes on that has found a log-out in the directory: the nodes that answer at all have by then.
	buriedRest = 500 * time.Millisecond
	// storeGrace is how long a log-in may take to get to the nearest nodes that its device knows: to ask and to store, two round trips, and dials before
	// that. A user whom nobody knows is offline only if nobody knows her that long after the question.
	storeGrace = time.Second

	maxCached   = 1024 // answers
	maxDeparted = 1024 // log-ins of peers that were connected
	maxLost     = 256  // peers that were connected

	// mournFor is how long a device that fell silent counts as one that may be there: its log-in, and it as a node of the directory, without
	// whose answer the directory is not complete. It makes the users across a cut unreachable instead of offline for that long, though what was stored
	// of them lapses after 3 minutes.
	mournFor  = 10 * time.Minute
	maxVisits = 8 // devices that one inquiry dials
)

// Status says whether a user is logged in and reachable, with the evidence. It answers at once for this node's own user, for a
// connected device that was heard of in the last 5 s, and for 1 s after the last answer; otherwise within 5 s.
//
// [Online] means that the device has proved to be there. [Offline] means evidence: a signed log-out, a device that says so itself, or a
// directory of which all the nearest nodes answered, now and a second later, and none knows a log-in. Everything else is [Unreachable]; a timeout is never
// Offline.
//
// Errors are an [*identity.IDError], [ErrNotLoggedIn] while this node is not logged in, a [*ConflictError] for a name that several
// connected users have, [ErrClosed], or that of ctx.
func (d *Directory) Status(ctx context.Context, addr identity.Address) (Status, error) {
	if err := identity.CheckUser(addr.User); err != nil {
		return Status{}, err
	}
	w := d.resolve(addr)
	now := time.Now()
	v, ok, err := d.statusAtHand(w, now)
	if err != nil {
		return Status{}, err
	}
	if !ok {
		if v, err = d.statuses.share(ctx, d, w); err != nil {
			return Status{}, err
		}
	}
	return Status{User: addr.User, State: v.state, Login: v.login, Source: v.source, Age: max(time.Since(v.known), 0)}, nil
}

// verdict is an answer.
type verdict struct {
	state  State
	login  identity.Login
	source Source
	known  time.Time // when the evidence came
}

// statusAtHand answers without a round trip, if it can.
func (d *Directory) statusAtHand(w want, now time.Time) (v verdict, ok bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closing:
		return v, false, ErrClosed
	case !d.in:
		return v, false, ErrNotLoggedIn
	}
	if self := d.self; w.means(self.User, self.UserKey) {
		if !loggedIn(self, now) { // its token has ended
			return verdict{state: Unreachable, login: self.Login(), source: Self, known: now}, true, nil
		}
		return verdict{state: Online, login: self.Login(), source: Self, known: now}, true, nil
	}
	var best *contact
	for _, c := range d.names[w.User] {
		st := c.session.Statement
		if !w.means(st.User, st.UserKey) || !c.loggedIn(now) {
			continue
		}
		if best != nil && st.UserKey != best.session.Statement.UserKey && !w.vouched {
			return v, false, nil // several users: for an inquiry to say
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

// Heard notes that a connected peer has just proved to be there: something that it has signed, or that came on a connection with it, has arrived
// and cannot have been under way for long. It spares [Directory.Status] a round trip.
func (d *Directory) Heard(p identity.Login) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.contacts[p.Peer]; c != nil {
		c.heard = time.Now()
	}
}

// inquiries shares the questions that are under way, and remembers the last answers and who has gone.
type inquiries struct {
	cache    *lru.Cache[string, verdict] // by address; known when answered is in at
	at       *lru.Cache[string, time.Time]
	touched  *lru.Cache[string, time.Time] // users about whom there was news
	departed *lru.Cache[identity.Subject, departure]
	lost     *lru.Cache[peer.ID, time.Time] // who went without a good-bye, and when

	mu    sync.Mutex
	under map[string]*asked
}

// departure is the last that was known of a device when its connection ended.
type departure struct {
	st   *identity.Statement
	when time.Time // it was heard last
}

type asked struct {
	done chan struct{}
	v    verdict
	err  error
}

func newInquiries() *inquiries {
	return &inquiries{
		cache:    newLRU[string, verdict](maxCached),
		at:       newLRU[string, time.Time](maxCached),
		touched:  newLRU[string, time.Time](maxCached),
		departed: newLRU[identity.Subject, departure](maxDeparted),
		lost:     newLRU[peer.ID, time.Time](maxLost),
		under:    make(map[string]*asked),
	}
}

// changed notes that what was answered about a user may hold no longer. It may be called with the directory's lock held.
func (q *inquiries) changed(p peer.ID, st *identity.Statement) {
	q.lost.Remove(p)
	if st != nil {
		q.touched.Add(st.User, time.Now())
		if was, ok := q.departed.Peek(st.Subject()); ok && st.Newer(was.st) {
			q.departed.Remove(st.Subject())
		}
	}
}

// parted remembers a device whose last connection has ended. It may be called with the directory's lock held.
func (q *inquiries) parted(p peer.ID, st *identity.Statement, heard time.Time) {
	if st == nil || st.LoggedIn {
		q.lost.Add(p, time.Now())
	}
	if st == nil {
		return
	}
	q.touched.Add(st.User, time.Now())
	if was, ok := q.departed.Peek(st.Subject()); !ok || !was.st.Newer(st) {
		q.departed.Add(st.Subject(), departure{st, heard})
	}
}

// mourned returns the peers that went without a good-bye, not long ago.
func (q *inquiries) mourned(now time.Time) (out []peer.ID) {
	for _, p := range q.lost.Keys() {
		if at, ok := q.lost.Peek(p); ok && now.Sub(at) < mournFor {
			out = append(out, p)
		}
	}
	return out
}

// cached returns an answer that was given just now, unless there was news since.
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

// share joins the inquiry that is under way, or starts one.
func (q *inquiries) share(ctx context.Context, d *Directory, w want) (verdict, error) {
	key := w.Address.String()
	q.mu.Lock()
	if v, ok := q.cached(key, w.User, time.Now()); ok {
		q.mu.Unlock()
		return v, nil
	}
	a := q.under[key]
	if a == nil {
		a = &asked{done: make(chan struct{})}
		d.mu.Lock()
		started := !d.closing && d.tasks.Go(func() {
			a.v, a.err = d.inquire(w)
			q.mu.Lock()
			delete(q.under, key)
			if a.err == nil {
				q.cache.Add(key, a.v)
				q.at.Add(key, time.Now())
			}
			q.mu.Unlock()
			close(a.done)
		})
		d.mu.Unlock()
		if !started {
			q.mu.Unlock()
			return verdict{}, ErrClosed
		}
		q.under[key] = a
	}
	q.mu.Unlock()
	select {
	case <-a.done:
		if d.ctx.Err() != nil {
			return verdict{}, ErrClosed
		}
		return a.v, a.err
	case <-ctx.Done():
		return verdict{}, ctx.Err()
	case <-d.ctx.Done():
		return verdict{}, ErrClosed
	}
}

var errNoAnswer = errors.New("presence: no answer")
