package mesh

import (
	"container/list"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

const (
	// maxDirectFrame bounds a frame in bytes: a message of MaxMessage, its room, user and numbers,
	// and what later versions may add.
	maxDirectFrame = 80 << 10
	// maxPeerStreams bounds the streams that one peer may hold: one for each mode, and as many
	// again that are just being opened to replace them.
	maxPeerStreams = 6
	// maxSeen bounds the senders that are remembered, 24 B to 2 KiB each. No sender that spoke
	// within seenFor is forgotten for another: a new one is turned away instead, and tries again.
	maxSeen = 8192
	// seenFor is how long after its stream ended a sender is remembered at least. It is more than
	// resendHorizon, so that a message that is written again is recognised.
	seenFor = 2 * resendHorizon
	// openWithin bounds the time from the start of a stream to its OPEN. frameWithin bounds the
	// time from a frame's first byte to its last: 64 KiB at 35 kbit/s.
	openWithin  = 5 * time.Second
	frameWithin = 15 * time.Second
)

// inbound is what peers send here.
type inbound struct {
	clock walltime.Clock
	rate  Rate // of what one peer sends here

	mu      sync.Mutex
	closed  bool
	streams map[*inStream]struct{}
	perPeer map[peer.ID]int
	senders map[laneKey]*sender
	idle    *list.List // of *sender without a stream, the longest idle first
}

func (in *inbound) init() {
	in.streams = make(map[*inStream]struct{})
	in.perPeer = make(map[peer.ID]int)
	in.senders = make(map[laneKey]*sender)
	in.idle = list.New()
}

// sender is what is remembered of one peer in one mode.
type sender struct {
	key  laneKey
	rate *peerRate // of this peer in all modes; nil: there is no limit

	// Guarded by inbound's mutex.
	stream *inStream     // the latest stream; nil: none
	place  *list.Element // in idle, while stream is nil
	since  time.Time     // when it became idle

	// Owned by the goroutine of the latest stream, once the stream before it has ended.
	incarnation uint64
	former      uint64 // the incarnation before, which has ended
	seen        seen
}

// inStream is a stream that a peer opened.
type inStream struct {
	network.Stream
	peer peer.ID
	done chan struct{} // closed when nothing of this stream will be delivered any more
}

var (
	errSuperseded = errors.New("superseded by a newer stream")
	errFull       = errors.New("too many senders")
	errFormer     = errors.New("of a process that has ended")
)

// admit counts a new stream, or refuses it.
func (in *inbound) admit(raw network.Stream) *inStream {
	s := &inStream{Stream: raw, peer: raw.Conn().RemotePeer(), done: make(chan struct{})}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.perPeer[s.peer] >= maxPeerStreams {
		return nil
	}
	in.perPeer[s.peer]++
	in.streams[s] = struct{}{}
	return s
}

// remove undoes what admit and claim began.
func (in *inbound) remove(s *inStream, from *sender) {
	close(s.done)
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.streams, s)
	if in.perPeer[s.peer]--; in.perPeer[s.peer] == 0 {
		delete(in.perPeer, s.peer)
	}
	if from != nil && from.stream == s {
		from.stream, from.since = nil, in.clock.Now()
		from.place = in.idle.PushBack(from)
	}
}

// claim makes s the one stream of its sender, and returns the stream before it, if any, which the
// caller must end and wait for. It returns no sender if too many are remembered.
func (in *inbound) claim(s *inStream, mode Mode) (from *sender, before *inStream) {
	key := laneKey{s.peer, mode}
	in.mu.Lock()
	defer in.mu.Unlock()
	from = in.senders[key]
	if from == nil {
		if len(in.senders) >= maxSeen {
			oldest := in.idle.Front()
			if oldest == nil || in.clock.Since(oldest.Value.(*sender).since) < seenFor {
				return nil, nil
			}
			delete(in.senders, in.idle.Remove(oldest).(*sender).key)
		}
		from = &sender{key: key, rate: in.rateOf(s.peer)}
		in.senders[key] = from
	}
	if from.place != nil {
		in.idle.Remove(from.place)
		from.place = nil
	}
	before, from.stream = from.stream, s
	return from, before
}

// peerRate judges what one peer sends in all modes.
type peerRate struct {
	// If only bytes are limited, they are judged by the share, and credit is what is left of it.
	share  int
	credit atomic.Int64

	mu    sync.Mutex
	judge rates.Peer
}

// rateOf returns what judges a peer that has a new mode.
func (in *inbound) rateOf(p peer.ID) *peerRate {
	if in.rate == (Rate{}) {
		return nil
	}
	for mode := Reliable; mode <= UnreliableUnordered; mode++ {
		if from := in.senders[laneKey{p, mode}]; from != nil {
			return from.rate
		}
	}
	r := &peerRate{judge: rates.NewPeer(in.rate)}
	if in.rate.Messages == 0 {
		r.share = in.rate.Bytes / creditShare
	}
	return r
}

// rules judges a message that has not come before.
func (r *peerRate) rules(now time.Time, sentMs int64, bytes int) rates.Ruling {
	if r == nil {
		return rates.Within
	}
	if r.share > 0 && r.credit.Add(-int64(bytes)) >= 0 {
		return rates.Within
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.share == 0 {
		return r.judge.Judge(now, sentMs, bytes)
	}
	r.credit.Add(int64(bytes))
	ruling := r.judge.Judge(now, sentMs, bytes+r.share)
	if ruling == rates.Within {
		r.credit.Add(int64(r.share))
	}
	return ruling
}

// resetAll ends every stream and admits no further ones.
func (in *inbound) resetAll() {
	in.mu.Lock()
	in.closed = true
	streams := make([]*inStream, 0, len(in.streams))
	for s := range in.streams {
		streams = append(streams, s)
	}
	in.mu.Unlock()
	for _, s := range streams {
		s.ResetWithError(network.StreamShutdown)
	}
}
