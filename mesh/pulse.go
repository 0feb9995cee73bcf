package mesh

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

const (
	// pulseEvery is how long a node sends nothing to a neighbour before it sends a beat.
	// pulseMissed is the silence after which the connection to a neighbour that beats is closed. A
	// QUIC connection does not report a dead peer for 30 s, and after a shorter cut it may carry
	// nothing for as long as the cut took: a new one is there in a few round trips.
	pulseEvery  = 2500 * time.Millisecond
	pulseMissed = 11 * time.Second
	// pulseTick is how often a node looks. If it looks late, it was held up itself, and starts
	// every neighbour's time again.
	pulseTick = 500 * time.Millisecond
	pulseLate = 2 * time.Second
	// pulseQuiet is the silence after which a neighbour is sent a beat every pulseAgain. After a
	// pause of the link the transport repairs what was lost when something new passes, and
	// otherwise only after as long again. So a neighbour that was paused for 8 s keeps its
	// connection. Who hears a neighbour again goes on for pulseStill, since the neighbour may not
	// hear it yet: the transport repairs each direction by what passes in that direction.
	pulseQuiet = 4500 * time.Millisecond
	pulseAgain = 250 * time.Millisecond
	pulseStill = time.Second
	// pulseHush is the silence after which a neighbour is shown as silent: it has missed two beats,
	// and does not answer those that it is sent every pulseAgain. One that has not beaten yet is
	// asked after pulseQuiet, and does not answer that.
	pulseHush = 7 * time.Second
)

// pulses tells living neighbours from dead ones. It is a plain state machine: the caller passes the
// time.
type pulses struct {
	mu    sync.Mutex
	peers map[peer.ID]*pulse
	tick  time.Time // the last look
}

type pulse struct {
	said  time.Time // when something was last sent to the peer
	heard time.Time // when it was last heard, or when listening began
	spoke time.Time // when it last said something
	beats bool      // it beats, so its silence means something
	often time.Time // until when to send it a beat every pulseAgain
	asked bool      // it was asked whether it is there, and not heard since
	hush  bool      // it was reported as silent, and not heard since
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

// heard notes that a peer has sent something, or a beat. It reports whether the peer had been
// reported as silent.
func (ps *pulses) heard(p peer.ID, now time.Time, beat bool) (again bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	pl := ps.of(p, now)
	again = pl.hush
	pl.heard, pl.spoke, pl.beats = now, now, pl.beats || beat
	pl.asked, pl.hush = false, false
	return again
}

// spokeAt returns when a peer last said something over its present connection; zero: it has not.
func (ps *pulses) spokeAt(p peer.ID) time.Time {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if pl := ps.peers[p]; pl != nil {
		return pl.spoke
	}
	return time.Time{}
}

// forget drops a peer that is no longer connected.
func (ps *pulses) forget(p peer.ID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.peers, p)
}

// pulseWork is what is to be done about neighbours.
type pulseWork struct {
	beat, ask    []peer.ID     // send these a beat, ask these whether they are there
	hushed, dead []peer.ID     // report these as silent, give these up
	next         time.Duration // when to look again
}

// look returns what is to be done now.
func (ps *pulses) look(now time.Time, neighbours map[peer.ID][32]byte) (w pulseWork) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	late := !ps.tick.IsZero() && now.Sub(ps.tick) > pulseLate
	ps.tick, w.next = now, pulseTick
	for p := range neighbours {
		pl := ps.of(p, now)
		if late {
			pl.heard = now
		}
		silence := now.Sub(pl.heard)
		switch {
		case pl.beats && silence >= pulseMissed:
			w.dead = append(w.dead, p)
			delete(ps.peers, p)
			continue
		case (pl.beats || pl.asked) && silence >= pulseHush && !pl.hush:
			pl.hush = true
			w.hushed = append(w.hushed, p)
		case !pl.beats && !pl.asked && silence >= pulseQuiet:
			pl.asked = true
			w.ask = append(w.ask, p)
		}
		if pl.beats && silence >= pulseQuiet {
			pl.often = now.Add(pulseStill)
		}
		wait := pulseEvery
		if now.Before(pl.often) {
			wait, w.next = pulseAgain, pulseAgain
		}
		if now.Sub(pl.said) >= wait {
			w.beat = append(w.beat, p)
		}
	}
	for p := range ps.peers {
		if _, ok := neighbours[p]; !ok {
			delete(ps.peers, p)
		}
	}
	return w
}

// heard notes that a peer has sent something over its connection, or a beat.
func (m *Mesh) heard(p peer.ID, now time.Time, beat bool) {
	if m.pulses.heard(p, now, beat) {
		m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Audible(now, p) }) })
	}
}

// pulseLoop beats, reports neighbours that are silent, and closes the connections to those that
// stay so.
func (m *Mesh) pulseLoop() {
	timer := time.NewTimer(pulseTick)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-m.ctx.Done():
			return
		}
		neighbours := make(map[peer.ID][32]byte) // with a room that both nodes are in
		m.eachRoom(func(r *Room) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for p := range r.stay.Neighbours() {
				neighbours[p] = r.tag
			}
		})
		work := m.pulses.look(m.clock.Now(), neighbours)
		timer.Reset(work.next)
		for _, p := range work.ask {
			if r := m.roomByTag(neighbours[p]); r != nil {
				r.do(func(st *stay.Stay, now time.Time) { st.Probe(now, p) })
			}
		}
		for _, p := range work.hushed {
			m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Hushed(now, p) }) })
		}
		for _, p := range work.beat {
			tag := neighbours[p]
			m.tell(p, &wire.RoomFrame{Room: tag[:], Body: &wire.RoomFrame_Beat_{Beat: &wire.RoomFrame_Beat{}}})
		}
		for _, p := range work.dead {
			m.stats.neighboursSilent.Add(1)
			m.log.Debug("closing the connection to a silent neighbour", "peer", p)
			m.tasks.Go(func() {
				if err := m.host.Network().ClosePeer(p); err != nil {
					m.log.Debug("not closed", "peer", p, "err", err)
				}
			})
		}
	}
}
