package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

// SyncProtocol is the protocol over which a member asks neighbours for missing broadcasts: one
// question a stream.
const SyncProtocol protocol.ID = "/starling/sync/1.0.0"

const (
	// syncPart is how many bytes of envelopes travel in one frame, at least one envelope.
	// syncAnswer is how many travel in the answer to one question: a member that wants more asks
	// again, after others have had their turn.
	syncPart   = 256 << 10
	syncAnswer = 4 << 20
	// maxSyncRequest and maxSyncReply bound a frame in bytes. A part exceeds syncPart by less than
	// one envelope, and the roster entries of its feeds come on top.
	maxSyncRequest = 32 << 10
	maxSyncReply   = syncPart + wire.MaxEnvelope + maxEntry + 64<<10
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

var (
	errBadSync = errors.New("malformed sync frame")
	errUnasked = errors.New("answer with an envelope that was not asked for")
)

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

// repairLocked asks neighbours for what is missing, and gives up what nobody has.
func (r *Room) repairLocked(now time.Time) {
	if len(r.journal.lacking) == 0 {
		return
	}
	all := slices.Collect(maps.Keys(r.neighbours))
	idle := slices.DeleteFunc(slices.Clone(all), func(p peer.ID) bool { return r.neighbours[p].pulled })
	pulls, lost := r.journal.plan(now, idle, all, r.roster.apart() || r.apartLocked(now, ""))
	for _, a := range lost {
		r.arrivedLocked(now, a)
	}
	for _, p := range pulls {
		n := r.neighbours[p.from]
		n.pulled = true
		if !r.mesh.tasks.Go(func() { r.pull(p) }) {
			return
		}
	}
}

// pull asks a neighbour and takes its answer.
func (r *Room) pull(p pull) {
	start := time.Now()
	o := r.exchange(p)
	o.slow = time.Since(start) >= syncTimeout
	if o.err != nil {
		r.mesh.stats.pullsFailed.Add(1)
		r.mesh.log.Debug("no answer to a pull", "room", r.name, "peer", p.from, "err", o.err)
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.neighbours[p.from]; n != nil {
		n.pulled = false
	}
	r.journal.answered(now, p, o)
	r.armTimer()
}

func (r *Room) exchange(p pull) (o outcome) {
	r.mesh.stats.pulls.Add(1)
	opening, cancel := context.WithTimeout(network.WithNoDial(r.ctx, "neighbour"), syncTimeout)
	s, err := r.mesh.host.NewStream(opening, p.from, SyncProtocol)
	cancel()
	if err != nil {
		o.err = err
		return o
	}
	defer func() { _ = s.Reset() }()
	ctx, cancel := context.WithTimeout(r.ctx, pullTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	wants := make([]*wire.Want, len(p.wants))
	for i, w := range p.wants {
		wants[i] = &wire.Want{Feed: w.feed.tag[:], First: w.span.first, Last: w.span.last}
	}
	_ = s.SetDeadline(time.Now().Add(syncTimeout))
	if o.err = wire.WriteFrame(s, &wire.SyncRequest{Room: r.tag[:], Wants: wants}); o.err != nil {
		return o
	}
	if o.err = s.CloseWrite(); o.err != nil {
		return o
	}
	o.gone = make(map[feedTag]uint64)
	asked := asked{wants: p.wants, reached: make(map[feedTag]uint64)}
	in := wire.NewReader(s, maxSyncReply)
	for size := 0; ; {
		var reply wire.SyncReply
		if err := in.Next(&reply); err != nil {
			if !errors.Is(err, io.EOF) {
				o.err = err
			}
			return o
		}
		size += 64 + proto.Size(&reply) // empty frames count as well
		if size > 2*syncAnswer {
			o.err = fmt.Errorf("answer of more than %d bytes", 2*syncAnswer)
			return o
		}
		if o.err = r.takeReply(p, asked, &reply, &o); o.err != nil {
			r.mesh.violation(p.from, o.err)
			return o
		}
		_ = s.SetDeadline(time.Now().Add(syncTimeout))
	}
}

// asked says what an answer may bring: what was asked for, each envelope once.
type asked struct {
	wants   []want
	reached map[feedTag]uint64 // the last item of each feed so far
}

func (a asked) admit(e *envelope) bool {
	for _, w := range a.wants {
		if w.feed.tag == e.tag && e.last() >= w.span.first && (w.span.last == 0 || e.First <= w.span.last) {
			if e.First <= a.reached[e.tag] {
				return false
			}
			a.reached[e.tag] = e.last()
			return true
		}
	}
	return false
}

// takeReply takes a part of an answer. Everything in it proves itself, and is checked as if it had
// come by gossip. What was not asked for is a breach; otherwise an answer could flood a member.
func (r *Room) takeReply(p pull, asked asked, reply *wire.SyncReply, o *outcome) error {
	now := time.Now()
	if len(reply.AgesMs) != len(reply.Envelopes) || len(reply.Entries) > maxWants || len(reply.Gone) > maxWants+maxSpans {
		return errBadSync
	}
	for _, sealed := range reply.Entries {
		entry, err := r.door.open(sealed, now)
		if errors.Is(err, wire.ErrSignature) || errors.Is(err, wire.ErrTruncated) {
			return err
		}
		if err == nil && entry.joined {
			r.introduceFeed(now, p.from, entry)
		}
	}
	for i, sealed := range reply.Envelopes {
		e, err := r.openEnvelope(sealed)
		if err != nil {
			return err
		}
		if !asked.admit(e) {
			return errUnasked
		}
		age := min(time.Duration(min(reply.AgesMs[i], uint64(time.Hour/time.Millisecond)))*time.Millisecond, r.mesh.cfg.retention.Age+time.Minute)
		e.came = now.Add(-age)
		r.mesh.stats.envelopesPulled.Add(1)
		r.receive(p.from, e, repaired)
	}
	for _, g := range reply.Gone {
		if len(g.Feed) != len(feedTag{}) {
			return errBadSync
		}
		o.gone[feedTag(g.Feed)] = g.Last
	}
	o.more = o.more || reply.More
	return nil
}

// introduceFeed notes the author of a feed, even if the member's place in the roster has changed
// since.
func (r *Room) introduceFeed(now time.Time, via peer.ID, entry *rosterEntry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving {
		return
	}
	r.journal.open(now, entry)
	if s := r.hearsayLocked(now, via, entry); s != nil && !r.leaving {
		r.claimLocked(now, s)
	}
}

// handleSync answers one question.
func (m *Mesh) handleSync(s network.Stream) {
	if !m.tasks.Enter() {
		_ = s.Reset()
		return
	}
	defer m.tasks.Leave()
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
	_ = s.SetDeadline(time.Now().Add(syncTimeout))
	var q wire.SyncRequest
	if err := wire.NewReader(s, maxSyncRequest).Next(&q); err != nil {
		return err
	}
	if len(q.Room) != len([32]byte{}) || len(q.Wants) > maxWants+maxSpans {
		m.violation(p, errBadSync)
		return errBadSync
	}
	r := m.roomByTag([32]byte(q.Room))
	if r == nil || !r.serves(p) {
		return errors.New("not a member of that room")
	}
	return r.serve(s, m.links.budget(p).served, q.Wants)
}

// serves reports whether a peer may have this room's broadcasts: it is a member, and its token is
// valid.
func (r *Room) serves(p peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	seat := r.roster.devices[p]
	return r.neighbours[p] != nil && seat != nil && seat.present && r.door.holds(seat.entry, time.Now()) == nil
}

// serve writes what is retained of wants, in parts.
func (r *Room) serve(s network.Stream, served *rate.Limiter, wants []*wire.Want) error {
	budget, end := syncAnswer, time.Now().Add(serveTime)
	for len(wants) > 0 {
		left := budget
		part, rest := r.part(wants, &budget)
		if err := served.WaitN(r.ctx, left-budget); err != nil {
			return err
		}
		if len(rest) > 0 && (budget <= 0 || time.Now().After(end)) {
			part.More, rest = true, nil
		}
		_ = s.SetWriteDeadline(time.Now().Add(syncTimeout))
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
	now := time.Now()
	out := new(wire.SyncReply)
	size := 0
	named := make(map[feedTag]struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(wants) > 0 && size < syncPart && len(named) < maxWants/2 {
		w := wants[0]
		if len(w.Feed) != len(feedTag{}) || w.First == 0 || w.Last != 0 && w.Last < w.First {
			wants = wants[1:]
			continue
		}
		tag := feedTag(w.Feed)
		f := r.journal.feeds[tag]
		list, gone, more := r.journal.serve(tag, span{w.First, w.Last}, syncPart-size)
		if _, ok := named[tag]; !ok && f != nil && f.entry != nil && len(list) > 0 {
			named[tag] = struct{}{}
			out.Entries = append(out.Entries, f.entry.sealed)
			size += len(f.entry.sealed)
		}
		if gone > 0 {
			out.Gone = append(out.Gone, &wire.Position{Feed: w.Feed, Last: gone})
		}
		for _, k := range list {
			out.Envelopes = append(out.Envelopes, k.sealed)
			out.AgesMs = append(out.AgesMs, uint64(max(now.Sub(k.at), 0)/time.Millisecond))
			size += len(k.sealed)
		}
		if !more {
			wants = wants[1:]
			continue
		}
		wants = append([]*wire.Want{{Feed: w.Feed, First: list[len(list)-1].last() + 1, Last: w.Last}}, wants[1:]...)
	}
	*budget -= size
	return out, wants
}
