package presence

import (
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/starling-mesh/starling/identity"
)

// probeTwin asks the earlier incarnation of a peer whether it still lives, after another has
// spoken. A restarted node leaves a dead connection behind; two nodes with one key leave two live
// ones. Each of the two is then sent the other's statement.
func (g *greeter) probeTwin(c *contact, old network.Conn, was identity.Session, conn network.Conn, now identity.Session) {
	session, _, _, err := g.shake.initiate(old, nil)
	if err != nil || session.Incarnation != was.Incarnation {
		return // the usual case: it is dead
	}
	g.mu.Lock()
	again := c.twins
	c.twins = true
	g.mu.Unlock()
	if again {
		return
	}
	g.cfg.log.Debug("two nodes use one device key", "peer", c.id)
	g.events.push(DuplicateDevice{Peer: c.id})
	if session.Statement != nil {
		_ = g.sendNotice(conn, session.Statement)
	}
	if now.Statement != nil {
		_ = g.sendNotice(old, now.Statement)
	}
}
