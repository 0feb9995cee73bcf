package meshtest

import (
	"container/heap"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// mtu is the largest UDP payload that passes: Ethernet's 1500 bytes less the headers of IPv6
	// and UDP.
	mtu = 1452
	// maxQueue bounds how long a packet waits for a limited link. A longer queue drops packets, as
	// a router's buffer does.
	maxQueue = 200 * time.Millisecond
)

// Traffic counts what a host's socket sent and received. Dropped packets count only as sent.
type Traffic struct {
	PacketsSent, PacketsReceived int
	BytesSent, BytesReceived     int // of UDP payload
}

// socket is a simulated UDP socket. Packets wait in the receiving socket, ordered by arrival, until
// they are due.
type socket struct {
	net  *Net
	host int
	at   netip.AddrPort
	// Holds one token: set by an earlier packet, a new deadline, or Close.
	wake chan struct{}

	mu       sync.Mutex // guards what follows
	queue    arrivals
	order    uint64
	closed   bool
	deadline time.Time // of reads
	upFree   time.Time // when the uplink is free again
	downFree time.Time // when the downlink is free again
	traffic  Traffic
}

var _ net.PacketConn = (*socket)(nil)

func (n *Net) listen(host int, at netip.AddrPort) (*socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.shut:
		return nil, net.ErrClosed
	case n.sock[at] != nil:
		return nil, fmt.Errorf("meshtest: %s: address already in use", at)
	}
	s := &socket{net: n, host: host, at: at, wake: make(chan struct{}, 1)}
	n.sock[at] = s
	return s, nil
}

// Traffic returns what host i has sent and received since it was started.
func (n *Net) Traffic(i int) Traffic {
	at := netip.AddrPortFrom(n.node(i).ip, port)
	n.mu.Lock()
	s := n.sock[at]
	n.mu.Unlock()
	if s == nil {
		return Traffic{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.traffic
}

// WriteTo sends a packet. Like UDP, it does not report a loss.
func (s *socket) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("meshtest: not a UDP address: %v", to)
	}
	dst := u.AddrPort()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())

	now := time.Now()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, net.ErrClosed
	}
	s.traffic.PacketsSent++
	s.traffic.BytesSent += len(b)
	leaves, ok := s.net.pass(&s.upFree, now, len(b))
	s.mu.Unlock()
	if !ok || len(b) > mtu {
		return len(b), nil
	}

	n := s.net
	n.mu.Lock()
	peer := n.sock[dst]
	if peer == nil || n.rules.blockedLocked(s.host, peer.host) ||
		n.rules.loss > 0 && n.rng.Float64() < n.rules.loss ||
		n.rules.drop != nil && n.rules.drop(s.host, peer.host, len(b)) {
		n.mu.Unlock()
		return len(b), nil
	}
	due := leaves.Add(n.opts.Latency)
	if n.opts.Jitter > 0 {
		due = due.Add(time.Duration(n.rng.Int64N(int64(n.opts.Jitter))))
	}
	n.mu.Unlock()
	peer.push(packet{due: due, from: s.at, host: s.host, data: slices.Clone(b)})
	return len(b), nil
}

// pass returns when a link that is free at *free has transmitted size bytes handed to it at the
// given time. It returns false if the link's queue is too long.
func (n *Net) pass(free *time.Time, at time.Time, size int) (time.Time, bool) {
	if n.opts.Bandwidth <= 0 {
		return at, true
	}
	start := at
	if free.After(at) {
		start = *free
	}
	if start.Sub(at) > maxQueue {
		return time.Time{}, false
	}
	*free = start.Add(time.Duration(float64(size*8) / float64(n.opts.Bandwidth) * float64(time.Second)))
	return *free, true
}

func (s *socket) push(p packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	due, ok := s.net.pass(&s.downFree, p.due, len(p.data))
	if !ok {
		return
	}
	s.order++
	p.due, p.order = due, s.order
	heap.Push(&s.queue, p)
	if s.queue[0].order == p.order {
		s.wakeLocked()
	}
}

func (s *socket) wakeLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ReadFrom returns the next packet that is due and whose path has not been cut since it was sent.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p, wait, err := s.next()
		switch {
		case err != nil:
			return 0, nil, err
		case p.data != nil:
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-due:
		case <-s.wake:
		}
	}
}

// next returns a packet, or how long to wait for one (0: until woken), or why there will be none.
func (s *socket) next() (packet, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case s.closed:
			s.wakeLocked() // for another reader
			return packet{}, 0, net.ErrClosed
		case !s.deadline.IsZero() && !now.Before(s.deadline):
			return packet{}, 0, os.ErrDeadlineExceeded
		}
		var wait time.Duration
		if !s.deadline.IsZero() {
			wait = s.deadline.Sub(now)
		}
		if len(s.queue) == 0 {
			return packet{}, wait, nil
		}
		if d := s.queue[0].due.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			return packet{}, wait, nil
		}
		p := heap.Pop(&s.queue).(packet)
		if s.net.lostInFlight(p.host, s.host) {
			continue
		}
		s.traffic.PacketsReceived++
		s.traffic.BytesReceived += len(p.data)
		return p, 0, nil
	}
}

// lostInFlight reports whether a packet meets on arrival a fault that began after it was sent. It
// takes Net.mu inside socket.mu; no code takes them in the other order.
func (n *Net) lostInFlight(from, to int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rules.blockedLocked(from, to)
}

func (s *socket) Close() error {
	s.net.mu.Lock()
	if s.net.sock[s.at] == s {
		delete(s.net.sock, s.at)
	}
	s.net.mu.Unlock()
	s.shut()
	return nil
}

func (s *socket) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.queue = nil
	s.wakeLocked()
}

func (s *socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

func (s *socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

func (s *socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.wakeLocked()
	return nil
}

func (s *socket) SetWriteDeadline(time.Time) error { return nil } // writes do not block

// SetReadBuffer and SetWriteBuffer keep quic-go from warning that it cannot set them.
func (s *socket) SetReadBuffer(int) error { return nil }

func (s *socket) SetWriteBuffer(int) error { return nil }

// packet is one datagram in flight. Its data is never nil: an empty one is an empty slice.
type packet struct {
	due   time.Time
	order uint64 // of pushing; orders packets due at the same time
	from  netip.AddrPort
	host  int // the sender's number
	data  []byte
}

// arrivals is a heap of packets by (due, order).
type arrivals []packet

func (a arrivals) Len() int { return len(a) }

func (a arrivals) Less(i, j int) bool {
	if a[i].due.Equal(a[j].due) {
		return a[i].order < a[j].order
	}
	return a[i].due.Before(a[j].due)
}

func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

func (a *arrivals) Push(x any) { *a = append(*a, x.(packet)) }

func (a *arrivals) Pop() any {
	old := *a
	p := old[len(old)-1]
	old[len(old)-1] = packet{}
	*a = old[:len(old)-1]
	return p
}
