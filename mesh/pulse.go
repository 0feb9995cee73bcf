package mesh

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// pulseEvery is how long a node says nothing to a neighbour before it sends a beat, and pulseMissed after which silence of
	// a neighbour that beats its connection is closed. A connection of QUIC does not tell of a dead peer for 30 s, and after a
	// cut of less it may say nothing for as long as the cut took: a new one is there in a few round trips.
	pulseEvery  = 2500 * time.Millisecond
	pulseMissed = 11 * time.Second
	// pulseTick is how often a node looks. One that looks late was held up itself, and gives everybody time anew.
	pulseTick = time.Second
	pulseLate = 2 * time.Second
)

// pulses tell living neighbours from dead ones. It is a plain state machine: the caller brings the time.
type pulses struct {
	mu    sync.Mutex
	peers map[peer.ID]*pulse
	tick  time.Time // the last
}

type pulse struct {
	said  time.Time // when something was last sent to it
	heard time.Time // when it was last heard of
	beats bool      // it beats: its silence means something
}

func (ps *pulses) of(p peer.ID, now time.Time) *pulse {
	if ps.peers == nil {
		ps.peers = make(map[peer.ID]*pulse)
	}
	if ps.peers[p] == nil {
		ps.peers[p] = &pulse{heard: now}
	}
	return ps.peers[p]
}

// said notes that something is being sent to a peer.
func (ps *pulses) said(p peer.ID, now time.Time) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.of(p, now).said = now
}

// heard notes that a peer has sent something, or a beat.
func (ps *pulses) heard(p peer.ID, now time.Time, beat bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	pl := ps.of(p, now)
	pl.heard, pl.beats = now, pl.beats || beat
}

// forget drops a peer that is no longer connected.
func (ps *pulses) forget(p peer.ID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.peers, p)
}

// look gives which of the neighbours to send a beat, and which to give up.
func (ps *pulses) look(now time.Time, neighbours map[peer.ID][32]byte) (beat, dead []peer.ID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	late := !ps.tick.IsZero() && now.Sub(ps.tick) > pulseLate
	ps.tick = now
	for p := range neighbours {
		pl := ps.of(p, now)
		if late {
			pl.heard = now
		}
		switch {
		case pl.beats && now.Sub(pl.heard) >= pulseMissed:
			dead = append(dead, p)
			delete(ps.peers, p)
		case now.Sub(pl.said) >= pulseEvery:
			beat = append(beat, p)
		}
	}
	for p := range ps.peers {
		if _, ok := neighbours[p]; !ok {
			delete(ps.peers, p)
		}
	}
	return beat, dead
}

// pulseLoop beats, and closes the connections to neighbours that no longer do.
func (m *Mesh) pulseLoop() {
	tick := time.NewTicker(pulseTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
		neighbours := make(map[peer.ID][32]byte) // with a room that both are in
		m.eachRoom(func(r *Room) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for p := range r.neighbours {
				neighbours[p] = r.tag
			}
		})
		beat, dead := m.pulses.look(time.Now(), neighbours)
		for _, p := range beat {
			tag := neighbours[p]
			m.tell(p, &wire.RoomFrame{Room: tag[:], Body: &wire.RoomFrame_Beat_{Beat: &wire.RoomFrame_Beat{}}})
		}
		for _, p := range dead {
			m.stats.neighboursSilent.Add(1)
			m.log.Debug("closing the connection to a silent neighbour", "peer", p)
			m.goTask(func() {
				if err := m.host.Network().ClosePeer(p); err != nil {
					m.log.Debug("not closed", "peer", p, "err", err)
				}
			})
		}
	}
}
