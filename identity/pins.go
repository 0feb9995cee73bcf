package identity

import (
	"slices"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
)

// maxPins bounds the names that are pinned. Names are pinned by what the user of this node does,
// not by peers, so the bound limits only size: 4096 names of at most 128 bytes are below 1 MiB.
const maxPins = 4096

// Peers choose the names and the keys under which they write. Once several keys have used a name,
// it is ambiguous; how many more there are does not matter.
const (
	maxWriters = 1024 // names
	maxWrote   = 4    // keys per name
	maxClaims  = 16   // names per peer
)

// Pins remembers which key a name meant when it was first used, so that nobody else can take over
// the name later. It holds at most 4096 names; when it is full, it forgets the name not used for
// longest.
//
// Until a name is pinned, Pins also remembers, in memory only, which keys have written to this node
// under it. An answer to such a key pins the name. Pins remembers this for 1024 names, 4 keys per
// name and 16 names per peer, so that no single peer can make it forget others. When it may have
// forgotten a writer, a message to any key counts as an answer. It is safe for concurrent use.
type Pins struct {
	names *lru.Cache[string, PublicKey]
	save  func(user string) // stores the current pin of user; called without locks

	mu      sync.Mutex
	writers *lru.Cache[string, []Login] // by name, one for each key; the slices are never changed
	forgot  atomic.Bool                 // other names have pushed a name out of writers
}

// NewPins returns pins kept only in memory. A data directory has its own pins: [Dir.Pins].
func NewPins() *Pins { return newPins(maxPins, func(string) {}) }

func newPins(size int, save func(string)) *Pins {
	p := &Pins{save: save}
	names, err := lru.NewWithEvict(size, func(user string, _ PublicKey) { p.save(user) })
	if err != nil {
		panic("identity: " + err.Error()) // only a size below 1 fails
	}
	p.names = names
	if p.writers, err = lru.New[string, []Login](maxWriters); err != nil {
		panic("identity: " + err.Error())
	}
	return p
}

// Pin pins user to key if the name is not pinned yet. It returns the key that the name is pinned
// to, and whether that equals key. It does not check the name.
func (p *Pins) Pin(user string, key PublicKey) (pinned PublicKey, ok bool) {
	pinned, found, _ := p.names.PeekOrAdd(user, key)
	if !found {
		p.writers.Remove(user)
		p.save(user)
		return key, true
	}
	p.names.Get(user) // counts as use
	return pinned, pinned == key
}

// Heard records that from has written to this node. It does nothing when the name is pinned.
func (p *Pins) Heard(from Login) {
	if _, pinned := p.names.Peek(from.User); pinned {
		return
	}
	if wrote, _ := p.writers.Get(from.User); hasKey(wrote, from.Key) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	wrote, _ := p.writers.Get(from.User)
	if len(wrote) == maxWrote || hasKey(wrote, from.Key) {
		return
	}
	p.claimed(from.Peer)
	wrote, _ = p.writers.Peek(from.User)
	if p.writers.Add(from.User, append(slices.Clip(wrote), from)) {
		p.forgot.Store(true)
	}
}

// claimed makes room for one more name of a peer: it drops the one under which the peer has not
// written for longest.
func (p *Pins) claimed(by peer.ID) {
	var names []string
	for _, name := range p.writers.Keys() { // the oldest first
		if wrote, _ := p.writers.Peek(name); slices.ContainsFunc(wrote, func(l Login) bool { return l.Peer == by }) {
			names = append(names, name)
		}
	}
	if len(names) < maxClaims {
		return
	}
	wrote, _ := p.writers.Peek(names[0])
	wrote = slices.DeleteFunc(slices.Clone(wrote), func(l Login) bool { return l.Peer == by })
	if len(wrote) == 0 {
		p.writers.Remove(names[0])
	} else {
		p.writers.Add(names[0], wrote)
	}
}

// Answered records that a message to a key has arrived. If that key has written to this node under
// the name, and the name is not pinned, it pins the name to the key.
func (p *Pins) Answered(to Login) {
	if p.Answers(to) {
		p.Pin(to.User, to.Key)
	}
}

// Answers reports whether a message to this key would pin its name, as an answer to what that key
// has written or may have written.
func (p *Pins) Answers(to Login) bool {
	wrote, _ := p.writers.Peek(to.User)
	if !hasKey(wrote, to.Key) && len(wrote) < maxWrote && !p.forgot.Load() {
		return false
	}
	_, pinned := p.names.Peek(to.User)
	return !pinned
}

// Others returns the logins that have written to this node under the same name with another key,
// while the name is not pinned. A message meant for one of them must not go to than by name alone.
func (p *Pins) Others(than Login) (others []Login) {
	if _, pinned := p.names.Peek(than.User); pinned {
		return nil
	}
	wrote, _ := p.writers.Peek(than.User)
	for _, l := range wrote {
		if l.Key != than.Key {
			others = append(others, l)
		}
	}
	return others
}

func hasKey(logins []Login, key PublicKey) bool {
	for i := range logins {
		if logins[i].Key == key {
			return true
		}
	}
	return false
}

// Lookup returns the key that user is pinned to, and whether it is pinned. It does not count as
// use.
func (p *Pins) Lookup(user string) (PublicKey, bool) { return p.names.Peek(user) }

// Forget removes the pin of user, so that the next use pins the name again. Removing a pin that
// does not exist does nothing.
func (p *Pins) Forget(user string) { p.names.Remove(user) } // the eviction callback saves it

// Len returns how many names are pinned.
func (p *Pins) Len() int { return p.names.Len() }
