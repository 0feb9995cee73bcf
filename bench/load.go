package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-mesh/starling/internal/cputime"
)

// messageSize is the payload of every broadcast, in bytes: that of a chat message in its JSON.
const messageSize = 256

var epoch = time.Now()

// stamp is what a broadcast begins with.
type stamp struct {
	run       uint32
	publisher uint32
	number    uint64 // within the run, of one publisher, from 0
	sent      time.Duration
}

func (s stamp) put(data []byte) {
	binary.LittleEndian.PutUint32(data, s.run)
	binary.LittleEndian.PutUint32(data[4:], s.publisher)
	binary.LittleEndian.PutUint64(data[8:], s.number)
	binary.LittleEndian.PutUint64(data[16:], uint64(s.sent))
}

func stampOf(data []byte) stamp {
	return stamp{
		binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:]),
		binary.LittleEndian.Uint64(data[8:]), time.Duration(binary.LittleEndian.Uint64(data[16:])),
	}
}

// crowd is a room whose members all read.
type crowd struct {
	*room
	stop context.CancelFunc
	wg   sync.WaitGroup
	runs atomic.Uint32
	run  atomic.Pointer[run]

	mu  sync.Mutex
	err error // of a reader
}

func gather(r *room) *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{room: r, stop: cancel}
	for i, m := range r.members {
		c.wg.Go(func() {
			if err := c.read(ctx, i, m); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				c.err = fmt.Errorf("member %d: %w", i, err)
				c.mu.Unlock()
			}
		})
	}
	return c
}

func (c *crowd) disperse() {
	c.stop()
	c.close()
	c.wg.Wait()
}

func (c *crowd) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read counts what one member receives.
func (c *crowd) read(ctx context.Context, i int, m member) error {
	for {
		data, err := m.next(ctx)
		if err != nil {
			return err
		}
		now := time.Since(epoch)
		s := stampOf(data)
		r := c.run.Load()
		if r == nil || s.run != r.id {
			if c.strict {
				return fmt.Errorf("message %d of publisher %d of a run that is over", s.number, s.publisher)
			}
			continue
		}
		if err := r.take(i, s, now-s.sent, len(data)); err != nil && c.strict {
			return err
		}
	}
}

// run is one measurement: some members publish some messages, and all others receive them.
type run struct {
	id       uint32
	window   int
	readers  int // of each message
	seen     []seen
	sources  []source
	received atomic.Int64
	want     int64
	done     chan struct{} // closed when all have arrived
}

// seen is what one member has received. Its reader owns it until done is closed.
type seen struct {
	next    []uint64 // by publisher: the number that comes next in order
	turned  uint64   // arrived out of order, or twice
	latency histogram
	_       [64]byte
}

// source records how many messages of one publisher have arrived.
type source struct {
	arrived atomic.Int64  // deliveries of its messages
	more    chan struct{} // holds a token when some of them have arrived
	_       [64]byte
}

// begin makes a new run the current one. In it, all publishers together send the given number of
// broadcasts.
func (c *crowd) begin(messages int) *run {
	n := len(c.members)
	r := &run{
		id: c.runs.Add(1), window: c.window, readers: n - 1, seen: make([]seen, n), sources: make([]source, n),
		want: int64(messages) * int64(n-1), done: make(chan struct{}),
	}
	for i := range r.seen {
		r.seen[i].next = make([]uint64, n)
		r.sources[i].more = make(chan struct{}, 1)
	}
	c.run.Store(r)
	return r
}

func (r *run) take(i int, s stamp, latency time.Duration, size int) error {
	mine := &r.seen[i]
	var err error
	if want := mine.next[s.publisher]; s.number != want {
		mine.turned++
		err = fmt.Errorf("message %d of publisher %d, want %d", s.number, s.publisher, want)
	} else if size != messageSize {
		err = fmt.Errorf("%d bytes, want %d", size, messageSize)
	}
	mine.next[s.publisher] = max(mine.next[s.publisher], s.number+1)
	mine.latency.add(latency)
	from := &r.sources[s.publisher]
	if n := from.arrived.Add(1); r.window > 0 && n%int64(r.readers) == 0 {
		select {
		case from.more <- struct{}{}:
		default:
		}
	}
	if r.received.Add(1) == r.want {
		close(r.done)
	}
	return err
}

// stalled is how long no message must arrive for the missing ones to count as lost.
const stalled = 5 * time.Second

// await waits until everything has arrived, or nothing arrives any more. It returns how many
// deliveries are missing.
func (c *crowd) await(r *run) (lost int64, err error) {
	ticker := time.NewTicker(stalled / 10)
	defer ticker.Stop()
	before, since := int64(-1), time.Now()
	for {
		select {
		case <-r.done:
			return 0, c.failed()
		case <-ticker.C:
			if err := c.failed(); err != nil {
				return 0, err
			}
			if now := r.received.Load(); now != before {
				before, since = now, time.Now()
			} else if time.Since(since) >= stalled {
				return r.want - now, nil
			}
		}
	}
}

// allow waits until a publisher may send message number without having more than the window under
// way. Messages that do not arrive for a while are taken for lost.
func (r *run) allow(ctx context.Context, publisher, number int) {
	if r.window == 0 {
		return
	}
	from := &r.sources[publisher]
	for int64(number)-from.arrived.Load()/int64(r.readers) >= int64(r.window) {
		select {
		case <-from.more:
		case <-time.After(stalled / 2):
			return
		case <-ctx.Done():
			return
		}
	}
}

// outcome is the result of a run.
type outcome struct {
	deliveries int64
	lost       int64
	turned     uint64
	elapsed    time.Duration // from the first publish to the last delivery
	cpu        time.Duration
	latency    histogram
}

func (o *outcome) rate() float64 { return float64(o.deliveries) / o.elapsed.Seconds() }

// finish waits for a run and sums it up.
func (c *crowd) finish(r *run, start time.Time, cpu time.Duration) (outcome, error) {
	lost, err := c.await(r)
	o := outcome{deliveries: r.want - lost, lost: lost, elapsed: time.Since(start), cpu: cputime.Now() - cpu}
	if lost > 0 {
		o.elapsed -= stalled
		c.run.Store(nil) // the readers may still be using it
		return o, err
	}
	for i := range r.seen {
		o.turned += r.seen[i].turned
		o.latency.merge(&r.seen[i].latency)
	}
	return o, err
}

// flood publishes the given number of broadcasts, by all publishers together, as fast as the room
// takes them.
func (c *crowd) flood(messages, publishers int) (outcome, error) {
	publishers = min(publishers, messages)
	r := c.begin(messages)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cpu, start := cputime.Now(), time.Now()
	err := each(publishers, func(p int) error {
		data := make([]byte, messageSize)
		share := messages / publishers
		if p < messages%publishers {
			share++
		}
		for number := range share {
			r.allow(ctx, p, number)
			stamp{r.id, uint32(p), uint64(number), time.Since(epoch)}.put(data)
			if err := c.members[p].publish(ctx, data); err != nil {
				return err
			}
		}
		return c.members[p].settle(ctx)
	})
	if err != nil {
		return outcome{}, err
	}
	return c.finish(r, start, cpu)
}

// beat is how often a paced publisher checks which messages are due.
const beat = time.Millisecond

// pace publishes for a while at a fixed rate of deliveries a second, by all members together. The
// latency counts from when a message was due to be handed over in its beat, so it includes any wait
// in publish.
func (c *crowd) pace(rate float64, d time.Duration) (outcome, error) {
	n := len(c.members)
	each1 := rate / float64(n-1) / float64(n) // messages a second of one publisher
	share := max(int(each1*d.Seconds()), 1)
	r := c.begin(share * n)
	r.window = 0
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cpu, start := cputime.Now(), time.Now()
	err := each(n, func(p int) error {
		data := make([]byte, messageSize)
		offset := time.Duration(float64(p) / float64(n) / each1 * float64(time.Second)) // not all at once
		for number := 0; number < share; {
			now := time.Since(start)
			due := min(int((now-offset).Seconds()*each1)+1, share)
			sent := time.Since(epoch)
			for ; number < due; number++ {
				stamp{r.id, uint32(p), uint64(number), sent}.put(data)
				if err := c.members[p].publish(ctx, data); err != nil {
					return err
				}
			}
			time.Sleep(beat)
		}
		return c.members[p].settle(ctx)
	})
	if err != nil {
		return outcome{}, err
	}
	return c.finish(r, start, cpu)
}

// single publishes one message and returns how long it took until every other member had it.
func (c *crowd) single(publisher int, data []byte) (time.Duration, error) {
	r := c.begin(1)
	start := time.Now()
	stamp{r.id, uint32(publisher), 0, start.Sub(epoch)}.put(data)
	if err := c.members[publisher].publish(context.Background(), data); err != nil {
		return 0, err
	}
	// Usually only the message must be waited for, so there is no ticker.
	patience := time.NewTimer(stalled)
	defer patience.Stop()
	select {
	case <-r.done:
		return time.Since(start), nil
	case <-patience.C:
		if err := c.failed(); err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("%d of %d members have it", r.received.Load(), r.want)
	}
}

// each runs f for 0 to n-1 at once and returns the first error.
func each(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}
