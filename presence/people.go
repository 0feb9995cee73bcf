package presence

import (
	"context"
	"math/rand/v2"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

// people has the connected peers, and the lock of a directory. The lock also guards the states of
// the directory's parts that say so.
type people struct {
	*env

	mu       sync.Mutex
	closing  bool // accept nothing new
	contacts map[peer.ID]*contact
	names    index[string]           // of sessions, by user ID
	subjects index[identity.Subject] // of sessions, by user: see identity.Subject
	progress task.Changes            // a contact has confirmed a statement, or is gone
}

func newPeople(e *env) *people {
	return &people{
		env: e, contacts: make(map[peer.ID]*contact), names: make(index[string]), subjects: make(index[identity.Subject]),
	}
}

// handle makes a stream handler from f. It refuses streams once closing has begun, and ends f's
// stream when the directory is closed.
func (p *people) handle(f func(context.Context, network.Stream)) network.StreamHandler {
	return func(s network.Stream) {
		if !p.enter() {
			_ = s.Reset()
			return
		}
		defer p.tasks.Leave()
		defer context.AfterFunc(p.ctx, func() { _ = s.Reset() })()
		f(p.ctx, s)
	}
}

// enter counts the caller among the tasks. It returns false once closing has begun.
func (p *people) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closing && p.tasks.Enter()
}

// index finds contacts by a value from their statement.
type index[K comparable] map[K]map[peer.ID]*contact

func (x index[K]) add(key K, c *contact) {
	if x[key] == nil {
		x[key] = make(map[peer.ID]*contact)
	}
	x[key][c.id] = c
}

func (x index[K]) remove(key K, c *contact) {
	delete(x[key], c.id)
	if len(x[key]) == 0 {
		delete(x, key)
	}
}

func (p *people) indexLocked(c *contact) {
	if st := c.session.Statement; st != nil {
		p.names.add(st.User, c)
		p.subjects.add(st.Subject(), c)
	}
}

func (p *people) unindexLocked(c *contact) {
	if st := c.session.Statement; st != nil {
		p.names.remove(st.User, c)
		p.subjects.remove(st.Subject(), c)
	}
}

// some returns up to n random peers with which a hello is complete.
func (p *people) some(n int) []peer.ID {
	p.mu.Lock()
	var all []peer.ID
	for p, c := range p.contacts {
		if c.known {
			all = append(all, p)
		}
	}
	p.mu.Unlock()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}

// alive records that a connected peer has just proved to be there.
func (p *people) alive(id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.contacts[id]; c != nil {
		c.heard = p.clock.Now()
	}
}

// namedLocked returns the statements of the connected users with a name.
func (p *people) namedLocked(user string) (all []*identity.Statement) {
	for _, c := range p.names[user] {
		all = append(all, c.session.Statement)
	}
	return all
}
