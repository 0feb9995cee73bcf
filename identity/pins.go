package identity

import lru "github.com/hashicorp/golang-lru/v2"

// maxPins bounds the names that are pinned. Names are pinned by what the user of this node does, not by peers, so
// the bound is for size alone: 4096 names of at most 128 bytes are below 1 MiB.
const maxPins = 4096

// Pins remembers which key a name meant when it was first used, so that nobody else can take the name over
// later. It holds at most 4096 names; when full, the one not used for longest is forgotten.
// It is safe for concurrent use.
type Pins struct {
	names *lru.Cache[string, PublicKey]
	save  func(user string) // stores what Lookup says of user now; called without locks
}

// NewPins returns pins that live in memory. A data directory has its own: [Dir.Pins].
func NewPins() *Pins { return newPins(maxPins, func(string) {}) }

func newPins(size int, save func(string)) *Pins {
	p := &Pins{save: save}
	names, err := lru.NewWithEvict(size, func(user string, _ PublicKey) { p.save(user) })
	if err != nil {
		panic("identity: " + err.Error()) // only a size below 1 fails
	}
	p.names = names
	return p
}

// Pin pins user to key if the name is not pinned yet. It returns the key that the name is pinned to, and
// whether that is key. It does not check the name.
func (p *Pins) Pin(user string, key PublicKey) (pinned PublicKey, ok bool) {
	pinned, found, _ := p.names.PeekOrAdd(user, key)
	if !found {
		p.save(user)
		return key, true
	}
	p.names.Get(user) // it was used
	return pinned, pinned == key
}

// Lookup returns the key that user is pinned to, and whether it is pinned. It does not count as use.
func (p *Pins) Lookup(user string) (PublicKey, bool) { return p.names.Peek(user) }

// Forget removes the pin of user, so that the next use pins anew. Removing one that is not there does nothing.
func (p *Pins) Forget(user string) { p.names.Remove(user) } // the eviction callback saves

// Len returns how many names are pinned.
func (p *Pins) Len() int { return p.names.Len() }
