package presence

import (
	"context"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// Scope is how far an instance of the DHT reaches.
type Scope string

// The scopes.
const (
	LAN Scope = "lan" // every node is a server, at every address that it has
	// Only nodes with public addresses are servers, and only those addresses are passed on.
	WAN Scope = "wan"
)

// openDHT makes the instances of the DHT, which start to store this node's log-ins.
func (d *Directory) openDHT() (err error) {
	cfg := dht.Config{
		Host: d.host, App: d.app, Keys: d.keys, Verifier: d.verifier, Vouched: d.cfg.authority != nil,
		Clock: d.clock, Log: d.cfg.log,
	}
	for _, s := range d.cfg.scopes {
		cfg.Scopes = append(cfg.Scopes, dht.Scope(s))
	}
	if d.dht, err = dht.New(cfg, dhtNode{people: d.people, own: d.own, rivals: d.rivals, shake: d.hellos.shake}); err != nil {
		return err
	}
	d.finder.dht = d.dht
	return nil
}

// dhtNode is this node as its DHT sees it.
type dhtNode struct {
	*people
	own    *account
	rivals *rivals
	shake  *handshake
}

// Shown implements [dht.Node].
func (n dhtNode) Shown() *identity.Statement {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || n.own.self == nil || !n.own.in || !n.own.self.LoggedIn {
		return nil
	}
	return n.own.self
}

// Observe implements [dht.Node].
func (n dhtNode) Observe(st *identity.Statement) { n.rivals.observe(st) }

// Foreign implements [dht.Node].
func (n dhtNode) Foreign(p peer.ID) bool { return n.shake.foreign(p) }

// Refresh stores this node's log-in again in the directory, in the background. While the computer
// slept, the record may have lapsed, and nodes that kept it may be gone. Call it after sleep; the
// directory notices changes of the host's addresses by itself. While logged out, or without a DHT,
// it does nothing.
func (d *Directory) Refresh() { d.dht.Renew() }

// retract tells the nodes that keep the record of the log-in that it has ended. It does its best
// for at most a second.
func (d *Directory) retract(ctx context.Context) {
	if st := d.Self(); st != nil && !st.LoggedIn {
		d.dht.Retract(ctx, st)
	}
}

// stored is how the DHT is asked for a wanted user: by the fingerprint of the user key, if known.
func (w want) stored() identity.Address {
	a := w.Address
	if w.fixed {
		a.Fingerprint = w.key.Fingerprint()
	}
	return a
}
