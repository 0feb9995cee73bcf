package mesh

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// maxPlaces bounds the peers whose places are remembered: several times more than a node has
	// connections. Each takes about 200 bytes.
	maxPlaces = 1024
	// placeLife is how long after its connection ended a peer is expected to come back: as long as
	// libp2p keeps its addresses.
	placeLife = 15 * time.Minute
)

// places records which peers were connected recently, and where this node had dialled them. A host
// that closes sometimes tells its peers by identify that it has no addresses any more, and libp2p
// then forgets those that it knew. A peer that restarts is back at the same place a moment later.
type places struct {
	mu     sync.Mutex
	byPeer *simplelru.LRU[peer.ID, lastPlace]
}

type lastPlace struct {
	addr ma.Multiaddr // nil: this node never dialled it
	lost time.Time    // when its last connection ended; zero: it is connected
}

func (p *places) init() {
	var err error
	if p.byPeer, err = simplelru.NewLRU[peer.ID, lastPlace](maxPlaces, nil); err != nil {
		panic("mesh: " + err.Error()) // only a size below 1 fails
	}
}

// met notes a connection.
func (p *places) met(c network.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, _ := p.byPeer.Get(c.RemotePeer())
	if at.lost = (time.Time{}); c.Stat().Direction == network.DirOutbound {
		at.addr = c.RemoteMultiaddr()
	}
	p.byPeer.Add(c.RemotePeer(), at)
}

// left notes that a peer's last connection has ended.
func (p *places) left(now time.Time, id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.byPeer.Get(id); ok {
		at.lost = now
		p.byPeer.Add(id, at)
	}
}

// of returns where a peer was last dialled, if it was, and whether it is connected or was recently.
func (p *places) of(now time.Time, id peer.ID) (addrs []ma.Multiaddr, lately bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.byPeer.Get(id)
	if !ok || !at.lost.IsZero() && now.Sub(at.lost) > placeLife {
		return nil, false
	}
	if at.addr != nil {
		addrs = []ma.Multiaddr{at.addr}
	}
	return addrs, true
}
