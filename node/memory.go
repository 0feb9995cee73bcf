package node

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
)

// maxNoted bounds the peers that wait to be written to the data directory: as many as it keeps.
const maxNoted = 1024

// memory holds the peers to remember until the watch writes them, since presence's observer may not wait for a disk.
// The caller holds the lock.
type memory struct {
	noted map[peer.ID]identity.Remembered
}

func (m *memory) note(login identity.Login, addrs []ma.Multiaddr, now time.Time) {
	if len(addrs) == 0 {
		return
	}
	if m.noted == nil {
		m.noted = make(map[peer.ID]identity.Remembered)
	}
	if _, known := m.noted[login.Peer]; !known && len(m.noted) >= maxNoted {
		return
	}
	r := identity.Remembered{Login: login, Seen: now}
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, a.String())
	}
	m.noted[login.Peer] = r
}

func (m *memory) take() map[peer.ID]identity.Remembered {
	noted := m.noted
	m.noted = nil
	return noted
}

// flush writes the peers that were met since the last time.
func (n *Node) flush() {
	n.mu.Lock()
	noted := n.memory.take()
	n.mu.Unlock()
	if n.dir == nil {
		return
	}
	for _, r := range noted {
		if err := n.dir.Remember(r); err != nil {
			n.log.Warn("peer not remembered", "peer", r.Login.Peer, "err", err)
			return
		}
	}
}

// recall has the peers dialled that earlier runs have met.
func (n *Node) recall(now time.Time) {
	all := n.dir.Remembered()
	for _, r := range all[:min(len(all), maxKept)] {
		var addrs []ma.Multiaddr
		for _, s := range r.Addrs {
			if a, err := ma.NewMultiaddr(s); err == nil {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 {
			n.dialer.want(now, r.Login.Peer, addrs, kept)
		}
	}
}
