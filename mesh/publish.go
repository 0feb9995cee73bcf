package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	pubsub "github.com/libp2p/go-libp2p-pubsub"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/rates"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// Published reports how many neighbours, who pass it on, have a broadcast. It does not say who else
// has received it.
type Published struct {
	ID     uint64 // of the send: one count over all sends of this node, from 1
	Feed   FeedID
	Number uint64 // place in the feed, rising; not from 1, since the feed also counts what members say about themselves
	// Neighbours is how many directly connected members it was handed to. At 0 the node was alone.
	Neighbours int
	// Acked is how many of them had acknowledged it when this result was made: at least one, unless
	// the node was alone in the room.
	Acked int
}

// publication is an accepted broadcast, ended or not: what its [Pending] is about.
type publication struct {
	id    uint64
	index uint32 // within the batch
	batch *batch
}

// batch collects the items of one envelope.
type batch struct {
	content  []byte // serialised wire.Items
	count    uint32
	messages int             // among them
	full     bool            // takes no more items
	confirm  []*confirmation // whose results wait for receipts of the envelope
	sealed   chan struct{}   // closed when it has been handed to GossipSub, or never will be
	done     chan struct{}
	link     func() bool // reports whether this node's link is down

	// Written before sealed is closed, read after.
	feed       FeedID
	first      uint64
	neighbours int
	deadline   time.Time // for the first acknowledgement
	alone      bool      // nobody was there, but the link was down

	// Written before done is closed, read after.
	acked int
	err   error
}

// fits reports whether the batch still takes an item of so many bytes.
func (b *batch) fits(size int) bool { return !b.full && len(b.content)+size <= wire.MaxContent }

// isMessage reports whether an item is a program's own, and not the library's.
func isMessage(kind wire.Kind) bool {
	return kind == wire.Kind_KIND_TEXT || kind == wire.Kind_KIND_BINARY
}

func (o *outbox) newBatch() *batch {
	return &batch{sealed: make(chan struct{}), done: make(chan struct{}), link: o.link}
}

// last is the number of the batch's last item.
func (b *batch) last() uint64 { return b.first + uint64(b.count) - 1 }

// fail ends a batch that was never sealed.
func (b *batch) fail(err error) {
	for _, p := range b.confirm {
		p.fail(err)
	}
	close(b.sealed)
	b.end(err)
}

func (b *batch) end(err error) {
	b.err = err
	b.content = nil
	close(b.done)
}

// maxWaiting is how many full batches may wait behind the one under way: 8 × 240 KiB.
const maxWaiting = 8

// outbox takes items in and hands out batches: whatever came while the last batch was under way. So
// an idle room sends at once, and a busy one packs.
type outbox struct {
	link func() bool // reports whether this node's link is down

	mu     sync.Mutex
	queue  []*batch // the last one still takes items
	closed error
	pace   pace
	space  task.Changes // a batch was taken out
	ready  task.Wake    // there is a batch
}

func newOutbox(link func() bool) *outbox {
	return &outbox{link: link, ready: task.NewWake()}
}

// accept says how an item is to be taken in.
type accept struct {
	wait    bool          // for space, instead of failing with ErrQueueFull
	confirm *confirmation // wants receipts of the item's envelope
}

// add appends an item. The payload is copied. number returns the send's
// ID, and is called when the item has been accepted.
func (o *outbox) add(ctx context.Context, kind wire.Kind, payload []byte, number func() uint64, how accept) (publication, error) {
	size := wire.ItemSize(kind, len(payload))
	for {
		p, space, err := o.tryAdd(kind, payload, size, number, how.confirm)
		over, _ := err.(*RateError)
		if space == nil && (over == nil || !how.wait) {
			return p, err
		}
		if !how.wait {
			return publication{}, ErrQueueFull
		}
		if over != nil {
			if err := sleep(ctx, over.After); err != nil {
				return publication{}, &sendError{outcome: ErrUnreachable, cause: fmt.Errorf("%w: %w", over, err)}
			}
			continue
		}
		select {
		case <-space:
		case <-ctx.Done():
			return publication{}, blame(&sendError{outcome: ErrUnreachable, cause: ctx.Err()}, o.link)
		}
	}
}

// tryAdd returns the channel to wait on when there is no space.
func (o *outbox) tryAdd(kind wire.Kind, payload []byte, size int, number func() uint64, confirm *confirmation) (publication, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return publication{}, nil, o.closed
	}
	var b *batch
	if n := len(o.queue); n > 0 && o.queue[n-1].fits(size) {
		b = o.queue[n-1]
	} else if n >= maxWaiting {
		return publication{}, o.space.Next(), nil
	}
	if isMessage(kind) {
		if most := o.pace.most(); most > 0 && o.pace.waiting >= most {
			return publication{}, o.space.Next(), nil
		}
		if err := o.pace.take(size); err != nil {
			return publication{}, nil, err
		}
		o.pace.waiting++
	}
	if b == nil {
		b = o.newBatch()
		o.queue = append(o.queue, b)
	}
	b.content = wire.AppendItem(b.content, kind, payload)
	p := publication{id: number(), index: b.count, batch: b}
	b.count++
	if isMessage(kind) {
		b.messages++
	}
	if confirm != nil {
		confirm.publication = p
		b.confirm = append(b.confirm, confirm)
	}
	o.ready.Set()
	return p, nil, nil
}

// push appends this node's own item about members, and never waits: there are few of them.
func (o *outbox) push(kind wire.Kind, payload []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return
	}
	if n := len(o.queue); n == 0 || !o.queue[n-1].fits(wire.ItemSize(kind, len(payload))) {
		o.queue = append(o.queue, o.newBatch())
	}
	b := o.queue[len(o.queue)-1]
	b.content = wire.AppendItem(b.content, kind, payload)
	b.count++
	o.ready.Set()
}

// take removes and returns the oldest batch. If there is none it returns nil, and also if its
// messages would come too soon after those before: then it returns how long to wait. Nothing is
// added to that batch meanwhile.
func (o *outbox) take() (*batch, time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return nil, 0
	}
	b := o.queue[0]
	if o.pace.accepts != nil {
		if wait, _ := o.pace.sealed.Take(o.pace.clock.Now(), b.messages, len(b.content)); wait > 0 {
			b.full = true
			o.ready.Set()
			return nil, wait
		}
	}
	o.pace.waiting -= b.messages
	o.queue[0] = nil
	o.queue = o.queue[1:]
	if len(o.queue) > 0 {
		o.ready.Set()
	}
	o.space.Tell()
	return b, 0
}

// last appends the feed's last item, in a batch of its own, and refuses further ones with err.
func (o *outbox) last(kind wire.Kind, payload []byte, err error) *batch {
	b := o.newBatch()
	o.mu.Lock()
	if closed := o.closed; closed != nil {
		o.mu.Unlock()
		b.fail(closed)
		return b
	}
	defer o.mu.Unlock()
	o.closed = err
	b.content, b.count = wire.AppendItem(nil, kind, payload), 1
	o.queue = append(o.queue, b)
	o.ready.Set()
	return b
}

// end refuses further items with err, and returns the batches that have not been taken out, and how
// much of the room's rate is left.
func (o *outbox) end(err error) ([]*batch, rates.Bucket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = err
	}
	rest := o.queue
	o.queue = nil
	o.space.Tell()
	return rest, o.pace.sealed
}

// Publish sends a message to every other member. It waits while the network takes less than is
// published, or a rate allows no more ([WithRates]), and returns when a neighbour has acknowledged
// the message. If the node is alone in the room, it succeeds at once. Data is not empty and at most
// the limit of [WithMaxMessage]; it is copied.
//
// If no neighbour acknowledges the message within the time of [WithSendTimeout], or if ctx ends
// before, it returns [ErrUnconfirmed]: the node may be cut off. If it is known to be
// ([ErrDisconnected]), that holds also for a node that sees nobody else in the room. The message
// stays in the room's ring and reaches the others when the network is whole again, if that is
// within the [Retention]. If ctx ends while the message waits to be accepted, it returns
// [ErrUnreachable]. In a room that was left it returns [ErrLeft].
func (r *Room) Publish(ctx context.Context, data []byte, opts ...PublishOption) (Published, error) {
	p, err := r.PublishAsync(ctx, data, append(slices.Clip(opts), WithWaiting())...)
	if err != nil {
		return Published{}, err
	}
	return p.Wait(ctx)
}

// PublishText is [Room.Publish] of a text.
func (r *Room) PublishText(ctx context.Context, text string) (Published, error) {
	return r.Publish(ctx, []byte(text), AsText())
}

// PublishAsync is [Room.Publish] for callers that pipeline: it returns at once. If the queue of
// 2 MiB is full, it returns [ErrQueueFull]; if the message is over a rate ([WithRates]), a
// [*RateError]. If [WithWaiting] is given, it waits instead. Messages that queue up share an
// envelope. If ctx ends [Pending.Wait], the error is also [ErrUnconfirmed].
func (r *Room) PublishAsync(ctx context.Context, data []byte, opts ...PublishOption) (Pending[Published], error) {
	var cfg publishConfig
	for _, o := range opts {
		o.applyPublish(&cfg)
	}
	if err := checkPayload(cfg.kind, data, r.mesh.cfg.maxMessage); err != nil {
		return Pending[Published]{}, err
	}
	p, err := r.outbox.add(ctx, kindToWire(cfg.kind), data, r.mesh.nextID, accept{wait: cfg.wait})
	if err != nil {
		return Pending[Published]{}, err
	}
	return Pending[Published]{p.id, p.index, p.batch}, nil
}

// checkPayload returns why a message is refused locally, in a room or outside, or nil.
func checkPayload(kind Kind, data []byte, limit int) error {
	switch {
	case len(data) == 0:
		return ErrEmpty
	case len(data) > limit:
		return &SizeError{Size: len(data), Limit: limit}
	case kind > Text:
		return fmt.Errorf("unknown %v", kind)
	case kind == Text && !utf8.Valid(data):
		return ErrNotText
	}
	return nil
}

// publishLoop sends one batch after the other until the room ends.
func (r *Room) publishLoop() {
	for {
		select {
		case <-r.outbox.ready:
		case <-r.ctx.Done():
			return
		}
		if !r.awaitNewcomers() || !r.awaitFlow(r.ctx, flowWindow) || !r.awaitWindow() {
			return
		}
		b, wait := r.outbox.take()
		if b != nil {
			r.seal(b)
		} else if sleep(r.ctx, wait) != nil {
			return
		}
	}
}

// awaitNewcomers waits until GossipSub knows every connected member that the roster knows. It
// reports false when the room ends first.
func (r *Room) awaitNewcomers() bool {
	for {
		r.mu.Lock()
		wait, changed := r.stay.AwaitNewcomers(r.mesh.clock.Now()), r.changed.Next()
		r.mu.Unlock()
		if wait == 0 {
			return r.ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// awaitFlow waits until no neighbour that still takes bytes has more than limit bytes waiting. It
// reports false when ctx ends first.
func (r *Room) awaitFlow(ctx context.Context, limit int) bool {
	var timer *time.Timer
	for {
		blocked, moved, wait := r.mesh.flow.blocked(limit, r.mesh.clock.Now())
		if !blocked {
			return ctx.Err() == nil
		}
		if timer == nil {
			timer = time.NewTimer(wait)
			defer timer.Stop()
		} else {
			timer.Reset(wait)
		}
		select {
		case <-moved:
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitWindow waits until the neighbours have acknowledged most of what is under way to them. What
// is published meanwhile gathers in one envelope. It reports false when the room ends first.
func (r *Room) awaitWindow() bool {
	for {
		r.mu.Lock()
		wait := r.stay.AwaitWindow(r.mesh.clock.Now())
		r.mu.Unlock()
		if wait == 0 {
			return r.ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-r.acknowledged:
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// seal makes a batch the feed's next envelope and publishes it. One goroutine at a time calls it.
func (r *Room) seal(b *batch) {
	r.mu.Lock()
	head, neighbours, receipts := r.stay.Next(len(b.confirm) > 0)
	b.neighbours = neighbours
	r.mu.Unlock()

	sealed, err := wire.SealEnvelope(r.mesh.key, &wire.Envelope{
		App: r.mesh.app[:], Room: r.tag[:], Device: r.device[:], Feed: r.id[:],
		First: head.Last + 1, Count: b.count, Previous: head.Previous(),
		SentMs: r.mesh.clock.Now().UnixMilli(), Content: b.content, Receipts: receipts,
	})
	if err == nil && len(sealed) > wire.MaxEnvelope {
		err = errors.New("envelope over the limit") // GossipSub would take it and drop it
	}
	if err != nil {
		b.fail(fmt.Errorf("room %s: %w", r.name, err))
		return
	}
	b.feed, b.first, b.content = r.id, head.Last+1, nil
	b.deadline = r.mesh.clock.Now().Add(r.mesh.cfg.sendTimeout)
	// Kept first: whatever becomes of it on the way, neighbours that learn of it can fetch it from
	// here.
	alone, over := r.retain(b, head.Next(b.count, sealed), sealed)
	r.mesh.stats.envelopesPublished.Add(1)
	r.mesh.stats.messagesPublished.Add(uint64(b.count))
	if err := r.topic.Publish(r.mesh.ctx, sealed, pubsub.WithValidatorData(ownEnvelope(b.first))); err != nil {
		r.mesh.log.Debug("broadcast left to repair", "room", r.name, "err", err)
	}
	close(b.sealed)
	switch {
	case alone:
		b.end(nil)
	case over != nil:
		b.end(&sendError{outcome: ErrUnconfirmed, cause: over})
	}
}

// retain notes a sealed batch as the end of the node's own feed, and reports whether nobody is
// there to acknowledge it, and why nobody can any more if the stay has ended meanwhile.
func (r *Room) retain(b *batch, h stay.Head, sealed []byte) (alone bool, over error) {
	polls := make([]*stay.Poll, len(b.confirm))
	for i, p := range b.confirm {
		polls[i] = p.poll
	}
	now := r.mesh.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	alone = r.stay.Published(now, h, b.count, sealed, b.deadline, polls)
	if len(polls) > 0 {
		r.stay.EndPolls(r.why)
	}
	switch {
	case r.over:
		return alone, r.why
	case !alone:
		r.unacked = append(r.unacked, b)
	case r.mesh.cfg.linkDown(): // it sees nobody, which means nothing
		b.alone = true
		r.stay.AwaitAck(h.Last, b.deadline)
		r.unacked = append(r.unacked, b)
		return false, nil
	}
	return alone, nil
}
