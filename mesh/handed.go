package mesh

import (
	"maps"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

const (
	// maxHandedRooms is how many rooms that were left are remembered.
	maxHandedRooms = 64
	// handedFor is how long after leaving a room the node remembers what it had handed up, in
	// multiples of its retention: by then nobody retains it any more.
	handedFor = 2
)

// handedRooms is how far the rooms of this process handed up the broadcasts of others, so that a
// program that joins again at once gets nothing twice and nothing out of order.
type handedRooms struct {
	mu    sync.Mutex
	rooms map[[32]byte]handedRoom
}

type handedRoom struct {
	feeds  map[stay.FeedTag]uint64
	latest map[peer.ID]stay.Mark
	until  time.Time
}

// keep remembers how far a stay that ends has got.
func (h *handedRooms) keep(now time.Time, tag [32]byte, st *stay.Stay) {
	feeds, latest := st.Handed()
	room := handedRoom{feeds, latest, now.Add(handedFor * st.Retention.Age)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms == nil {
		h.rooms = make(map[[32]byte]handedRoom)
	}
	h.rooms[tag] = room
	for len(h.rooms) > maxHandedRooms {
		var oldest [32]byte
		until := time.Time{}
		for t, r := range h.rooms {
			if until.IsZero() || r.until.Before(until) {
				oldest, until = t, r.until
			}
		}
		delete(h.rooms, oldest)
	}
}

// of returns what was handed up in earlier stays in a room. The caller owns the maps.
func (h *handedRooms) of(now time.Time, tag [32]byte) (map[stay.FeedTag]uint64, map[peer.ID]stay.Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room, ok := h.rooms[tag]
	if !ok || now.After(room.until) {
		return nil, make(map[peer.ID]stay.Mark)
	}
	return maps.Clone(room.feeds), maps.Clone(room.latest)
}
