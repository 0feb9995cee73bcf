package node

import (
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/presence"
)

// A directory that lacks a method of these would not be asked, and nothing else would show it.
var (
	_ mesh.Identity = (*presence.Directory)(nil)
	_ mesh.Observer = (*presence.Directory)(nil)
)

// observe turns what presence sees into events of the node and into peers to redial. It is called
// without locks and does not block.
func (n *Node) observe(ev presence.Event) {
	switch ev := ev.(type) {
	case presence.PeerUp:
		n.peerUp(ev.Peer, ev.Session)
		n.follow(ev.Peer, ev.Session)
	case presence.PeerChanged:
		n.peerChanged(ev.Peer, ev.Session)
		n.follow(ev.Peer, ev.Session)
	case presence.PeerDown:
		n.peerDown(ev.Peer)
		n.monitor.gone(ev.Peer, ev.Reason)
	case presence.SettingDiffers:
		n.log.Debug("a peer has another setting", "peer", ev.Peer, "setting", ev.Setting, "ours", ev.Ours, "theirs", ev.Theirs)
		n.queue.PushNotice(&SettingDiffers{
			Header: Header{Type: TypeSettingDiffers}, Peer: ev.Peer, Setting: ev.Setting, Ours: ev.Ours, Theirs: ev.Theirs,
		})
	case presence.Conflict:
		out := &IdentityConflict{Header: Header{Type: TypeIdentityConflict}, User: ev.User, Pinned: ev.Pinned, Other: ev.Other}
		if ev.Pinned.IsZero() {
			out.Rival = &ev.Rival
		}
		n.queue.PushNotice(out)
	case presence.Replaced:
		n.replaced(ev.By)
	case presence.TokenExpiring:
		n.queue.PushNotice(&TokenExpiring{Header: Header{Type: TypeTokenExpiring}, Expires: ev.Expires})
	case presence.TokenEnded:
		n.queue.PushNotice(&TokenEnded{
			Header: Header{Type: TypeTokenEnded}, Revoked: errors.Is(ev.Err, identity.ErrTokenRevoked), Reason: tokenReason(ev.Err),
		})
	case presence.DuplicateDevice:
		n.log.Warn("two nodes use one device key: a data directory was copied", "peer", ev.Peer)
		n.queue.PushNotice(&DuplicateDevice{Header: Header{Type: TypeDuplicateDevice}, Peer: ev.Peer})
	case presence.Refused:
		n.log.Debug("peer refused", "peer", ev.Peer, "reason", ev.Reason)
		pause := refusedPause
		if errors.Is(ev.Err, identity.ErrOtherApp) {
			pause = foreignPause
		}
		n.dialer.with(func(core *redialer) { core.refuse(n.clock.Now(), ev.Peer, pause) })
		n.peerFailed(ev.Peer, ev.Err)
		n.monitor.refused(ev.Peer)
	}
}

// follow notes whether a connected node is there for as long as it can be, or has said goodbye.
func (n *Node) follow(p peer.ID, s identity.Session) {
	if s.Closing {
		n.monitor.gone(p, presence.SaidGoodbye)
		return
	}
	n.monitor.met(p)
	if n.monitor.linkDown() {
		n.monitor.lookAround() // the peer may be connected over loopback
	}
}

func (n *Node) peerUp(p peer.ID, s identity.Session) {
	pub, addrs := public(n.clock.Now(), p, s), n.addrsOf(p, s)
	n.mu.Lock()
	n.peers[p] = pub
	n.mu.Unlock()
	n.dialer.want(n.clock.Now(), p, addrs, connected)
	n.dialer.with(func(core *redialer) { core.met(p) })
	ev := &PeerUp{Header: Header{Type: TypePeerUp}, Peer: pub}
	if conns := n.host.Network().ConnsToPeer(p); len(conns) > 0 {
		ev.Addr = conns[0].RemoteMultiaddr().String()
	}
	n.queue.PushNotice(ev)
}

func (n *Node) peerChanged(p peer.ID, s identity.Session) {
	pub, addrs := public(n.clock.Now(), p, s), n.addrsOf(p, s)
	n.dialer.want(n.clock.Now(), p, addrs, connected) // it may have moved
	n.mu.Lock()
	before, known := n.peers[p]
	if known {
		n.peers[p] = pub
	}
	n.mu.Unlock()
	if known && before != pub {
		n.queue.PushNotice(&PeerChanged{Header: Header{Type: TypePeerChanged}, Peer: pub})
	}
}

func (n *Node) peerDown(p peer.ID) {
	n.mu.Lock()
	pub, known := n.peers[p]
	delete(n.peers, p)
	n.mu.Unlock()
	if known {
		n.queue.PushNotice(&PeerDown{Header: Header{Type: TypePeerDown}, Peer: pub})
	}
}

// replaced makes this node leave its rooms, since the same user has logged in on another device.
func (n *Node) replaced(by identity.Login) {
	user := n.User()
	n.tasks.Go(func() { n.mesh.EvictAll(mesh.ErrReplaced) })
	n.queue.PushNotice(&LoggedOut{Header: Header{Type: TypeLoggedOut}, User: user, Reason: Replaced, By: &by})
	n.log.Info("logged out: the user is on another device", "user", user, "peer", by.Peer)
}

// public returns a peer as the events show it.
func public(now time.Time, p peer.ID, s identity.Session) Peer {
	login, ok := s.Login()
	if !ok {
		return Peer{Login: identity.Login{Peer: p}}
	}
	return Peer{Login: login, LoggedIn: s.Statement.LoggedInAt(now)}
}

// addrsOf returns the addresses to dial a connected peer at again: those at which this node reached
// it, then those that it names itself.
func (n *Node) addrsOf(p peer.ID, s identity.Session) []ma.Multiaddr {
	var reached []ma.Multiaddr
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if c.Stat().Direction == network.DirOutbound {
			reached = append(reached, c.RemoteMultiaddr())
		}
	}
	return merge(reached, s.Addrs)
}
