package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// SyncProtocol is the protocol over which a member asks neighbours for missing broadcasts: one
// question a stream.
const SyncProtocol protocol.ID = "/starling/sync/1.0.0"

const (
	// maxSyncRequest bounds the frame of a question in bytes.
	maxSyncRequest = 32 << 10
	// syncTimeout is how long either side has to take or send the next frame. An answer ends after
	// serveTime: a member that wants more asks again. pullTime is when the asking member turns to
	// another neighbour, whatever has come: otherwise frames that keep coming and bring nothing
	// would keep a feed waiting for ever.
	syncTimeout = 3 * time.Second
	serveTime   = 4 * time.Second
	pullTime    = 8 * time.Second
	// maxAskers is how many questions a node answers at once, one of each neighbour. Each holds one
	// frame.
	maxAskers = 64
	// serveRate and serveBurst bound the bytes that one neighbour is sent: in a second, and after a
	// pause. Two whole rings are sent as fast as they go.
	serveRate  = 8 << 20
	serveBurst = 64 << 20
)

var errNotServed = errors.New("not a member of that room")

// repairs are the questions of neighbours under way.
type repairs struct {
	mu     sync.Mutex
	askers map[peer.ID]struct{} // neighbours that are being answered
}

func (p *repairs) init() { p.askers = make(map[peer.ID]struct{}) }

// enter admits one question of each neighbour at a time.
func (p *repairs) enter(id peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, again := p.askers[id]; again || len(p.askers) >= maxAskers {
		return false
	}
	p.askers[id] = struct{}{}
	return true
}

func (p *repairs) leave(id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.askers, id)
}

// pull asks a neighbour and takes its answer.
func (r *Room) pull(p stay.Pull) {
	start := r.mesh.clock.Now()
	o := r.exchange(p)
	o.Slow = r.mesh.clock.Since(start) >= syncTimeout
	if o.Err != nil {
		r.mesh.stats.pullsFailed.Add(1)
		r.mesh.log.Debug("no answer to a pull", "room", r.name, "peer", p.From, "err", o.Err)
	}
	now := r.mesh.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stay.Answered(now, p, o)
}

func (r *Room) exchange(p stay.Pull) (o stay.Outcome) {
	o = stay.NewOutcome(p)
	r.mesh.stats.pulls.Add(1)
	opening, cancel := context.WithTimeout(network.WithNoDial(r.ctx, "neighbour"), syncTimeout)
	s, err := r.mesh.host.NewStream(opening, p.From, SyncProtocol)
	cancel()
	if err != nil {
		o.Err = err
		return o
	}
	defer func() { _ = s.Reset() }()
	ctx, cancel := context.WithTimeout(r.ctx, pullTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(walltime.In(syncTimeout))
	if o.Err = wire.WriteFrame(s, r.stay.Request(p)); o.Err != nil {
		return o
	}
	if o.Err = s.CloseWrite(); o.Err != nil {
		return o
	}
	in := wire.NewReader(s, stay.MaxSyncReply)
	for size := 0; ; {
		var reply wire.SyncReply
		if err := in.Next(&reply); err != nil {
			if !errors.Is(err, io.EOF) {
				o.Err = err
				return o
			}
			r.mesh.heard(p.From, r.mesh.clock.Now(), false)
			return o
		}
		r.mesh.heard(p.From, r.mesh.clock.Now(), false)
		size += 64 + proto.Size(&reply) // empty frames count as well
		if size > 2*stay.SyncAnswer {
			o.Err = fmt.Errorf("answer of more than %d bytes", 2*stay.SyncAnswer)
			return o
		}
		if o.Err = r.takeReply(p.From, &reply, &o); o.Err != nil {
			r.mesh.violation(p.From, o.Err)
			return o
		}
		_ = s.SetDeadline(walltime.In(syncTimeout))
	}
}

// takeReply takes a part of an answer.
func (r *Room) takeReply(from peer.ID, reply *wire.SyncReply, o *stay.Outcome) error {
	now := r.mesh.clock.Now()
	entries, envelopes, err := o.Open(now, r.door, r.mesh.cfg.retention.Age, reply)
	for _, entry := range entries {
		r.do(func(st *stay.Stay, now time.Time) { st.TakeEntry(now, from, entry) })
	}
	for _, e := range envelopes {
		r.mesh.stats.envelopesPulled.Add(1)
		_, _ = r.receive(r.mesh.clock.Now(), from, e, stay.Repaired)
	}
	return err
}

// handleSync answers one question.
func (m *Mesh) handleSync(s network.Stream) {
	if !m.talk.Enter() {
		_ = s.Reset()
		return
	}
	defer m.talk.Leave()
	p := s.Conn().RemotePeer()
	if !m.repairs.enter(p) {
		m.stats.pullsRefused.Add(1)
		_ = s.Reset()
		return
	}
	defer m.repairs.leave(p)
	if err := m.answer(p, s); err != nil {
		m.log.Debug("pull not answered", "peer", p, "err", err)
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (m *Mesh) answer(p peer.ID, s network.Stream) error {
	defer context.AfterFunc(m.ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(walltime.In(syncTimeout))
	var q wire.SyncRequest
	if err := wire.NewReader(s, maxSyncRequest).Next(&q); err != nil {
		return err
	}
	if len(q.Room) != len([32]byte{}) || len(q.Wants) > stay.MaxWants+stay.MaxSpans {
		m.violation(p, stay.ErrBadSync)
		return stay.ErrBadSync
	}
	r := m.roomByTag([32]byte(q.Room))
	if r == nil || !r.serves(p) {
		return errNotServed
	}
	return r.serve(s, m.links.budget(p).served, q.Wants)
}

// serves reports whether a peer may have this room's broadcasts: it is a member, and its token is
// valid.
func (r *Room) serves(p peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stay.Serves(r.mesh.clock.Now(), p)
}

// serve writes what is retained of wants, in parts.
func (r *Room) serve(s network.Stream, served *rate.Limiter, wants []*wire.Want) error {
	budget, end := stay.SyncAnswer, r.mesh.clock.Now().Add(serveTime)
	for len(wants) > 0 {
		left := budget
		part, rest := r.part(wants, &budget)
		if err := served.WaitN(r.ctx, left-budget); err != nil {
			return err
		}
		if len(rest) > 0 && (budget <= 0 || r.mesh.clock.Now().After(end)) {
			part.More, rest = true, nil
		}
		if !r.serves(s.Conn().RemotePeer()) {
			return errNotServed // it was put out meanwhile
		}
		_ = s.SetWriteDeadline(walltime.In(syncTimeout))
		if err := wire.WriteFrame(s, part); err != nil {
			return err
		}
		r.mesh.stats.envelopesServed.Add(uint64(len(part.Envelopes)))
		r.mesh.stats.bytesServed.Add(uint64(left - budget))
		wants = rest
	}
	return nil
}

// part returns the next frame of an answer, and which wants it leaves over.
func (r *Room) part(wants []*wire.Want, budget *int) (*wire.SyncReply, []*wire.Want) {
	now := r.mesh.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stay.Part(now, wants, stay.SyncPart, budget)
}
