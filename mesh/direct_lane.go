package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	multistream "github.com/multiformats/go-multistream"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
)

const (
	// idleStream is how long after its last message an outgoing stream is closed and forgotten.
	idleStream = 5 * time.Minute
	// minPause and maxPause bound the pauses between attempts to open a stream. They double each
	// time and vary by a quarter.
	minPause, maxPause = 50 * time.Millisecond, time.Second
	// silentAfter is when a stream is given up together with an unanswered message: the message has
	// waited that long for its answer, and nothing else has been answered in that time.
	silentAfter = 10 * time.Second
	// openTimeout bounds one attempt, so that one lost packet of a dial does not use up the whole
	// deadline.
	openTimeout = 10 * time.Second
	// startWait is how long a peer that could be sent to before, or could not be reached a moment
	// ago, may lack the protocol before that counts as final. Its next process is starting, and has
	// a host before it has a mesh.
	startWait = 2 * time.Second
)

type laneKey struct {
	peer peer.ID
	mode Mode
}

// outbound holds the lanes of a mesh.
type outbound struct {
	mu    sync.Mutex
	lanes map[laneKey]*lane
	// base is the highest sequence that a lane which is gone had used. A new lane to the same peer
	// must not use a sequence twice; nothing else of the old lane need be remembered.
	base [UnreliableUnordered + 1]uint64
}

// lane is the one way from here to one peer in one mode. One goroutine connects and writes, another
// reads the answers. The ledger records what is owed.
type lane struct {
	m    *Mesh
	key  laneKey
	wake task.Wake // the writer has something to look at

	mu      sync.Mutex
	book    ledger
	retired bool
	space   task.Changes // there is space for callers that wait
	due     time.Time    // when timer fires
	timer   *time.Timer
	idle    *time.Timer        // wakes the lane when it has been idle for long
	dial    context.CancelFunc // ends the attempt under way
	stream  *outStream
	peerInc uint64 // the peer's incarnation, once known is set
	known   bool
	// mute is until when to ask again a peer that lacks the protocol; zero: the last attempt did
	// not end so.
	mute time.Time
	used time.Time       // last accepted or answered
	to   *identity.Login // the receiver of the last message; messages share it
}

// lane returns the lane of a key, and starts it if there is none. It returns nil if the mesh is
// closed.
func (m *Mesh) lane(key laneKey) *lane {
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	if l := m.out.lanes[key]; l != nil {
		return l
	}
	l := &lane{m: m, key: key, wake: task.NewWake(), used: m.clock.Now()}
	l.book = ledger{unreliable: key.mode != Reliable, stats: &m.stats, seq: m.out.base[key.mode]}
	if !m.tasks.Go(l.run) {
		return nil
	}
	m.out.lanes[key] = l
	return l
}

// accept assigns p its ID and queues it. If it returns a channel, there is no space until that is
// closed.
func (l *lane) accept(p *sending, to identity.Login, now time.Time) (space <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		if l.m.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return nil, errRetired
	}
	if p.home != nil && p.home.key.room != nil && l.m.gate.bars() && !l.m.gate.admits(to.Peer, topicName(p.home.key.room.tag)) {
		return nil, ErrNotMember // it was put out since it was found
	}
	if l.book.full(p.size) {
		return l.space.Next(), nil
	}
	if l.to == nil || *l.to != to {
		l.to = new(identity.Login) // not &to, which would cost each send an allocation
		*l.to = to
	}
	p.lane.Store(l)
	p.to.Store(l.to)
	if p.id == 0 {
		p.id = l.m.nextID()
		l.m.stats.directSent.Add(1)
	}
	l.used = now
	l.book.add(p)
	l.armLocked(p.limit())
	l.signal()
	return nil, nil
}

// signal makes the writer look for work.
func (l *lane) signal() {
	l.wake.Set()
}

// abandon ends p because its context has ended. It reports false if p is no longer with this lane.
func (l *lane) abandon(p *sending, cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.lane.Load() != l {
		return false
	}
	l.book.abandon(p, cause)
	l.easeLocked()
	return true
}

// easeLocked is called after every end of a message: it lets in callers that wait for space, and
// stops a dial that nobody needs any more.
func (l *lane) easeLocked() {
	// At half full, so that a caller that pipelines is woken once for many messages.
	if l.book.queue.len()+l.book.sent.len() <= laneMessages/2 && l.book.queueBytes+l.book.sentBytes <= laneBytes/2 {
		l.space.Tell()
	}
	if l.dial != nil && !l.book.wants() {
		l.dial()
	}
}

// armLocked makes the timer fire at t at the latest.
func (l *lane) armLocked(t time.Time) {
	if t.IsZero() || !l.due.IsZero() && !t.Before(l.due) {
		return
	}
	l.due = t
	if l.timer == nil {
		l.timer = time.AfterFunc(l.m.clock.Until(t), l.sweep)
		return
	}
	l.timer.Reset(l.m.clock.Until(t))
}

// sweep ends what is overdue. One timer serves all messages of the lane.
func (l *lane) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return
	}
	now := l.m.clock.Now()
	due, stuck := l.book.expire(now)
	l.due = time.Time{}
	l.armLocked(due)
	l.easeLocked()
	if s := l.stream; s != nil && !stuck.IsZero() && now.Sub(stuck) >= silentAfter && now.Sub(s.heard) >= silentAfter {
		s.fail(errNoAnswer) // though the connection lives: the next message starts on a new stream
	}
}

// run connects, writes, and connects again, until the lane has been idle for long or the mesh
// closes.
func (l *lane) run() {
	l.mu.Lock()
	l.idle = time.AfterFunc(idleStream, l.checkIdle)
	l.mu.Unlock()
	pause := minPause
	for l.waitWork() || !l.retire() {
		answered := false
		if s, err := l.open(); err != nil {
			l.failed(err)
		} else {
			answered = l.serve(s)
		}
		if answered {
			pause = minPause
			continue
		}
		l.pause(pause)
		pause = min(2*pause, maxPause)
	}
}

// withdraw ends the messages of a room that are on their way to a peer, because the peer was put
// out of it. No further one is accepted.
func (m *Mesh) withdraw(p peer.ID, room [32]byte) {
	m.out.mu.Lock()
	var lanes []*lane
	for key, l := range m.out.lanes {
		if key.peer == p {
			lanes = append(lanes, l)
		}
	}
	m.out.mu.Unlock()
	for _, l := range lanes {
		l.mu.Lock()
		l.book.withdraw(room)
		l.easeLocked()
		l.mu.Unlock()
	}
}

// interrupt wakes every lane from whatever it waits for. m.ctx has ended, so each lane will end.
func (o *outbound) interrupt() {
	o.mu.Lock()
	lanes := slices.Collect(maps.Values(o.lanes))
	o.mu.Unlock()
	for _, l := range lanes {
		l.mu.Lock()
		if l.stream != nil {
			l.stream.fail(ErrClosed)
		}
		l.mu.Unlock()
		l.signal()
	}
}

// checkIdle wakes the lane if it may end. It runs every few minutes, so that no message has to
// reset a timer.
func (l *lane) checkIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return
	}
	next := idleStream
	if l.idleLocked() {
		l.signal() // and again later, if a message comes first
	} else if !l.book.wants() {
		next -= l.m.clock.Since(l.used)
	}
	l.idle.Reset(next)
}

func (l *lane) idleLocked() bool { return !l.book.wants() && l.m.clock.Since(l.used) >= idleStream }

// waitWork waits until there is something to send. It reports false when the lane is to end.
func (l *lane) waitWork() bool {
	for l.m.ctx.Err() == nil {
		l.mu.Lock()
		wants, over := l.book.wants(), l.idleLocked()
		l.mu.Unlock()
		if wants || over {
			return wants
		}
		<-l.wake
	}
	return false
}

// pause waits for about d before the next attempt, or until the mesh closes.
func (l *lane) pause(d time.Duration) {
	d += time.Duration(rand.Int64N(int64(d/2))) - d/4
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.m.ctx.Done():
	}
}

// failed records why no stream could be opened. If trying again cannot help, it ends what waits.
func (l *lane) failed(err error) {
	var unsupported multistream.ErrNotSupported[protocol.ID]
	hopeless := errors.Is(err, swarm.ErrGaterDisallowedConnection)
	if errors.Is(err, network.ErrNoRemoteAddrs) || errors.Is(err, swarm.ErrNoAddresses) {
		_, lately := l.m.places.of(l.m.clock.Now(), l.key.peer)
		hopeless = !lately && !l.m.cfg.linkDown() // the peer may come back, and dial us
	}
	l.m.log.Debug("direct stream not opened", "peer", l.key.peer, "mode", l.key.mode, "err", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.As(err, &unsupported) {
		now := l.m.clock.Now()
		if l.mute.IsZero() {
			l.mute = now
			if l.known || l.book.lastErr != nil {
				l.mute = now.Add(startWait)
			}
		}
		hopeless = !now.Before(l.mute)
	} else {
		l.mute = time.Time{}
	}
	// As text: if a context ended in there, it was not the caller's.
	l.book.lastErr = errors.New(strings.ReplaceAll(err.Error(), "\n  * ", " "))
	if hopeless {
		l.book.failQueue(err)
		l.easeLocked()
	}
}

// open dials the peer if need be, learns which process it is, and opens a stream to it.
func (l *lane) open() (*outStream, error) {
	ctx, cancel := context.WithTimeout(l.m.ctx, openTimeout)
	defer cancel()
	l.mu.Lock()
	if !l.book.wants() {
		l.mu.Unlock()
		return nil, context.Canceled
	}
	l.dial = cancel
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.dial = nil
		l.mu.Unlock()
	}()

	ctx = network.WithAllowLimitedConn(ctx, "starling direct message")
	h, p := l.m.host, l.key.peer
	if sw, ok := h.Network().(interface{ Backoff() *swarm.DialBackoff }); ok {
		sw.Backoff().Clear(p) // the pauses of this lane are shorter
	}
	info := peer.AddrInfo{ID: p}
	if len(h.Peerstore().Addrs(p)) == 0 {
		info.Addrs, _ = l.m.places.of(l.m.clock.Now(), p)
	}
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	session, err := l.m.who.Peer(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	raw, err := h.NewStream(ctx, p, DirectProtocol)
	if err != nil {
		return nil, err
	}
	l.m.stats.directStreamsOpened.Add(1)
	return l.begin(raw, session.Incarnation), nil
}

// begin makes a new stream to an incarnation of the peer this lane's stream.
func (l *lane) begin(raw network.Stream, incarnation uint64) *outStream {
	s := &outStream{Stream: raw, tasks: &l.m.tasks, relayed: raw.Conn().Stat().Limited, heard: l.m.clock.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known && l.peerInc != incarnation {
		l.book.restarted()
	}
	l.peerInc, l.known, l.mute = incarnation, true, time.Time{}
	l.book.lastErr = nil
	l.book.opened()
	l.stream = s
	if l.m.ctx.Err() != nil {
		s.fail(ErrClosed) // interrupt has been called already
	}
	return s
}

// retire ends the lane, because the mesh closes or the lane has long been idle. It reports false,
// ending nothing, if a message has come in between.
func (l *lane) retire() bool {
	l.m.out.mu.Lock()
	defer l.m.out.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.book.wants() && l.m.ctx.Err() == nil {
		return false
	}
	l.retired = true
	l.book.failAll(ErrClosed)
	if l.timer != nil {
		l.timer.Stop()
	}
	l.idle.Stop()
	l.space.Tell()
	base := &l.m.out.base[l.key.mode]
	*base = max(*base, l.book.seq)
	delete(l.m.out.lanes, l.key)
	return true
}
