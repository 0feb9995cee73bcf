package presence

import (
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/identity"
)

// ownDeviceLocked handles a statement signed by our device key: if we did not sign it, another node
// has our key.
func (d *Directory) ownDeviceLocked(st *identity.Statement) {
	switch {
	case d.self != nil && !st.Newer(d.self): // ours, or from an earlier run
		return
	case d.self == nil && !st.Issued.After(d.started):
		return
	}
	if !d.twin {
		d.twin = true
		d.cfg.log.Warn("another node uses this node's device key: was the data directory copied?", "peer", d.id)
		d.events.push(DuplicateDevice{Peer: d.id})
	}
}

// probeTwin asks the earlier incarnation of a peer whether it still lives, after another has
// spoken. A restarted node leaves a dead connection behind; two nodes with one key leave two live
// ones. Each of the two is then sent the other's statement.
func (d *Directory) probeTwin(c *contact, old network.Conn, was identity.Session, conn network.Conn, now identity.Session) {
	session, _, _, err := d.initiate(old, nil)
	if err != nil || session.Incarnation != was.Incarnation {
		return // the usual case: it is dead
	}
	d.mu.Lock()
	again := c.twins
	c.twins = true
	d.mu.Unlock()
	if again {
		return
	}
	d.cfg.log.Debug("two nodes use one device key", "peer", c.id)
	d.events.push(DuplicateDevice{Peer: c.id})
	if session.Statement != nil {
		_ = d.sendNotice(conn, session.Statement)
	}
	if now.Statement != nil {
		_ = d.sendNotice(old, now.Statement)
	}
}
