package presence

import "github.com/libp2p/go-libp2p/core/peer"

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

func (d *Directory) indexLocked(c *contact) {
	if st := c.session.Statement; st != nil {
		d.names.add(st.User, c)
		d.subjects.add(st.Subject(), c)
	}
}

func (d *Directory) unindexLocked(c *contact) {
	if st := c.session.Statement; st != nil {
		d.names.remove(st.User, c)
		d.subjects.remove(st.Subject(), c)
	}
}
