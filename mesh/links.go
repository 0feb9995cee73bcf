package mesh

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// RoomProtocol is the protocol over which topic neighbours exchange rosters and heads of a room.
const RoomProtocol protocol.ID = "/starling/room/1.0.0"

const (
	// maxRoomFrame bounds a frame in bytes: the part of a roster that is sent at once, or the names
	// of a whole one, and one entry more.
	maxRoomFrame = stay.RosterPart + stay.MaxEntry + 4<<10
	// roomFrameTimeout is how long a peer has to finish a frame that it has begun, or to take one.
	roomFrameTimeout = 5 * time.Second
	// linkQueue is how many frames may wait for a neighbour. One that takes none loses what is
	// more, and gets it again when it next reconnects.
	linkQueue = 256
	// linkRate and linkBurst bound what one neighbour may send, in frames a second: rosters of a
	// few rooms at once, and then an occasional change. headsRate is the same for heads and
	// receipts, which cost next to nothing: a busy neighbour acknowledges every other envelope.
	linkRate  = 50
	linkBurst = 1024
	headsRate = 2000
	// rosterRate and rosterBurst bound the bytes of roster entries that one neighbour is sent, in a
	// second and after a pause. A neighbour that names what it has needs far less.
	rosterRate  = 2 << 20
	rosterBurst = 16 << 20
	// greetAgainWait is how long after a room stream broke another is opened.
	greetAgainWait = 200 * time.Millisecond
)

// links are the streams to and from topic neighbours: one each way for each peer, for all rooms
// together.
type links struct {
	mu  sync.Mutex
	out map[peer.ID]*link
	in  map[peer.ID]network.Stream
	// limits outlive streams; otherwise a peer could start with a full budget on each.
	limits map[peer.ID]budget
	// mute are the connected peers that do not take our room streams: they are in no room.
	mute map[peer.ID]struct{}

	// order is held while a notice of a connection is handled, one at a time: see watcher. Nothing
	// that holds another lock takes it.
	order sync.Mutex
}

// link carries frames to one neighbour.
type link struct {
	frames chan []byte
	stop   context.CancelFunc
}

func (m *Mesh) startLinks() {
	m.links.out = make(map[peer.ID]*link)
	m.links.in = make(map[peer.ID]network.Stream)
	m.links.limits = make(map[peer.ID]budget)
	m.links.mute = make(map[peer.ID]struct{})
	m.places.init()
	m.host.SetStreamHandler(RoomProtocol, m.handleRoomStream)
	m.host.Network().Notify((*watcher)(m))
	for _, c := range m.host.Network().Conns() {
		m.places.met(c)
	}
	m.tasks.Go(m.pulseLoop)
}

// budget bounds what a connected peer may send and be sent, over all its streams.
type budget struct {
	heads, others *rate.Limiter // frames
	served        *rate.Limiter // bytes of answers on sync streams
	rosters       *rate.Limiter // bytes of roster entries
}

func (l *links) budget(p peer.ID) budget {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.limits[p]
	if !ok {
		b = budget{rate.NewLimiter(headsRate, headsRate), rate.NewLimiter(linkRate, linkBurst), rate.NewLimiter(serveRate, serveBurst), rate.NewLimiter(rosterRate, rosterBurst)}
		l.limits[p] = b
	}
	return b
}

// wait returns when a frame may be taken. Heads and receipts cost more the more of them there are.
func (b budget) wait(ctx context.Context, frame *wire.RoomFrame) error {
	if h := frame.GetHeads(); h != nil {
		return b.heads.WaitN(ctx, 1+len(h.Feeds)/32)
	}
	if q := frame.GetReceipts(); q != nil {
		return b.heads.WaitN(ctx, 1+len(q.List)/32)
	}
	return b.others.Wait(ctx)
}

// observe passes a statement to the mesh's Identity, if it is an [Observer].
func (m *Mesh) observe(st *identity.Statement) {
	o, ok := m.who.(Observer)
	if ok && st.Peer != m.host.ID() {
		m.tasks.Go(func() { o.Observe(st) })
	}
}

// named returns the users of a name whom the mesh's Identity knows outside the rooms, if it is an
// [Observer].
func (m *Mesh) named(user string) []identity.Login {
	if o, ok := m.who.(Observer); ok {
		return o.OnlineAs(user)
	}
	return nil
}

func (m *Mesh) stopLinks() {
	m.host.RemoveStreamHandler(RoomProtocol)
	m.host.Network().StopNotify((*watcher)(m))
	m.links.mu.Lock()
	open := m.links.in
	m.links.in = nil // no further one is admitted
	m.links.mu.Unlock()
	for _, s := range open {
		_ = s.Reset() // it may wait for the connection's own writer
	}
}

// tell queues a frame for a neighbour. It never waits.
func (m *Mesh) tell(p peer.ID, frame *wire.RoomFrame) {
	raw, err := wire.AppendFrame(nil, frame)
	if err != nil {
		m.log.Error("room frame not sent", "peer", p, "err", err)
		return
	}
	m.links.mu.Lock()
	defer m.links.mu.Unlock()
	l := m.links.out[p]
	if l == nil {
		ctx, stop := context.WithCancel(m.ctx)
		l = &link{frames: make(chan []byte, linkQueue), stop: stop}
		if !m.talk.Go(func() { m.runLink(ctx, p, l) }) {
			stop()
			return
		}
		m.links.out[p] = l
	}
	m.pulses.said(p, m.clock.Now())
	select {
	case l.frames <- raw:
		m.stats.roomBytes.Add(uint64(len(raw)))
		if frame.GetBeat() == nil {
			m.stats.roomFrames.Add(1)
		}
	default:
		m.stats.roomFramesDropped.Add(1)
	}
}

// runLink writes what is queued for a neighbour until it disconnects or the stream breaks. The next
// call of tell then makes a new link.
func (m *Mesh) runLink(ctx context.Context, p peer.ID, l *link) {
	defer l.stop()
	defer m.forgetLink(p, l)
	opening, cancel := context.WithTimeout(network.WithNoDial(network.WithAllowLimitedConn(ctx, "starling/room"), "neighbour"), roomFrameTimeout)
	s, err := m.host.NewStream(opening, p, RoomProtocol)
	cancel()
	if err != nil {
		m.log.Debug("no room stream", "peer", p, "err", err)
		if errors.As(err, new(multistream.ErrNotSupported[protocol.ID])) {
			m.muted(p)
			return
		}
		m.greetAgain(ctx, p, l)
		return
	}
	defer func() { _ = s.Reset() }()
	broken := make(chan error, 1)
	if !m.talk.Go(func() {
		_, err := s.Read(make([]byte, 1)) // the other side sends nothing here: this returns when the stream has ended
		broken <- err
	}) {
		return
	}
	for {
		select {
		case raw := <-l.frames:
			_ = s.SetWriteDeadline(walltime.In(roomFrameTimeout))
			if _, err := s.Write(raw); err != nil {
				m.log.Debug("room stream broke", "peer", p, "err", err)
				m.greetAgain(ctx, p, l)
				return
			}
		case err := <-broken:
			// What was written last may be lost with it, for instance if the peer has restarted.
			m.log.Debug("room stream ended", "peer", p, "err", err)
			m.greetAgain(ctx, p, l)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (m *Mesh) muted(p peer.ID) {
	if m.host.Network().Connectedness(p) != network.NotConnected { // otherwise nothing would ever remove it
		m.links.mu.Lock()
		m.links.mute[p] = struct{}{}
		m.links.mu.Unlock()
	}
	m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Absent(now, p) }) })
}

func (m *Mesh) isMute(p peer.ID) bool {
	m.links.mu.Lock()
	defer m.links.mu.Unlock()
	_, ok := m.links.mute[p]
	return ok
}

// greetAgain repairs what was lost with a stream that broke while its connection did not.
func (m *Mesh) greetAgain(ctx context.Context, p peer.ID, l *link) {
	select {
	case <-time.After(greetAgainWait):
	case <-ctx.Done():
		return
	}
	m.forgetLink(p, l)
	m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Again(now, p) }) })
}

func (m *Mesh) forgetLink(p peer.ID, l *link) {
	m.links.mu.Lock()
	defer m.links.mu.Unlock()
	if m.links.out[p] == l {
		delete(m.links.out, p)
	}
}

func (m *Mesh) dropLink(p peer.ID) {
	m.links.mu.Lock()
	defer m.links.mu.Unlock()
	delete(m.links.mute, p)
	delete(m.links.limits, p)
	if l := m.links.out[p]; l != nil {
		l.stop()
		delete(m.links.out, p)
	}
}

// handleRoomStream reads what a neighbour sends.
func (m *Mesh) handleRoomStream(s network.Stream) {
	if !m.talk.Enter() {
		_ = s.Reset()
		return
	}
	defer m.talk.Leave()
	defer func() { _ = s.Reset() }()
	p := s.Conn().RemotePeer()
	if !m.admitRoomStream(p, s) {
		return
	}
	defer m.dismissRoomStream(p, s)

	ctx, cancel := context.WithTimeout(m.ctx, roomFrameTimeout)
	_, err := m.who.Peer(ctx, p)
	cancel()
	if err != nil {
		m.log.Debug("room stream of a peer without a hello", "peer", p, "err", err)
		return
	}
	budget := m.links.budget(p)
	r := wire.NewReader(s, maxRoomFrame)
	for {
		_ = s.SetReadDeadline(time.Time{})
		if r.Peek() != nil {
			return
		}
		_ = s.SetReadDeadline(walltime.In(roomFrameTimeout))
		var frame wire.RoomFrame
		if err := r.Next(&frame); err != nil {
			m.violation(p, err)
			return
		}
		if budget.wait(m.ctx, &frame) != nil {
			return
		}
		m.heard(p, m.clock.Now(), frame.GetBeat() != nil)
		if len(frame.Room) != len([32]byte{}) {
			m.violation(p, errBadTag)
			return
		}
		tag := [32]byte(frame.Room)
		if room := m.roomByTag(tag); room == nil {
			if frame.GetQuery() != nil {
				m.tell(p, &wire.RoomFrame{Room: tag[:], Body: &wire.RoomFrame_Absent_{Absent: &wire.RoomFrame_Absent{}}})
			}
		} else if err := room.hear(p, &frame); err != nil {
			m.violation(p, err)
			return
		}
	}
}

// admitRoomStream keeps one stream of each peer, the newest. It returns false once the mesh closes.
func (m *Mesh) admitRoomStream(p peer.ID, s network.Stream) bool {
	m.links.mu.Lock()
	if m.links.in == nil {
		m.links.mu.Unlock()
		return false
	}
	old := m.links.in[p]
	m.links.in[p] = s
	m.links.mu.Unlock()
	if old != nil {
		_ = old.Reset()
	}
	return true
}

func (m *Mesh) dismissRoomStream(p peer.ID, s network.Stream) {
	m.links.mu.Lock()
	defer m.links.mu.Unlock()
	if m.links.in[p] == s {
		delete(m.links.in, p)
	}
}

func (m *Mesh) violation(p peer.ID, err error) {
	m.stats.roomViolations.Add(1)
	m.log.Debug("room stream reset", "peer", p, "err", err)
}

// watcher gets notices of connections from the host's network. Notices of different connections
// come from several goroutines at once. They are handled one at a time, so that what is looked up
// is still true when it is acted upon. Otherwise, if the end of the first connection to a peer were
// looked up before there was a second one and reported after it, a connected neighbour would stay
// dismissed for good.
type watcher Mesh

func (w *watcher) Listen(network.Network, ma.Multiaddr)      {}
func (w *watcher) ListenClose(network.Network, ma.Multiaddr) {}

func (w *watcher) Connected(_ network.Network, c network.Conn) {
	m := (*Mesh)(w)
	m.places.met(c)
	m.links.order.Lock()
	defer m.links.order.Unlock()
	m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Connected(now, c.RemotePeer()) }) })
}

func (w *watcher) Disconnected(n network.Network, c network.Conn) {
	m, p := (*Mesh)(w), c.RemotePeer()
	m.links.order.Lock()
	defer m.links.order.Unlock()
	if n.Connectedness(p) != network.NotConnected {
		return // another connection to the peer is left
	}
	m.places.left(m.clock.Now(), p)
	m.dropLink(p)
	m.pulses.forget(p)
	m.topics.forget(p)
	m.eachRoom(func(r *Room) { r.do(func(st *stay.Stay, now time.Time) { st.Disconnected(now, p) }) })
}

func (m *Mesh) eachRoom(f func(*Room)) {
	for _, r := range m.Rooms() {
		f(r)
	}
}
