package mesh

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// OrderKeeper keeps what a node knows of the orders in rooms from one run to the next, as bytes
// that only the mesh reads. identity.Dir is one. Its methods are safe for concurrent use.
type OrderKeeper interface {
	// Orders returns what was set last for a room; nil: nothing.
	Orders(room [32]byte) []byte
	// SetOrders saves it, on disk when it returns. With no bytes it deletes what is there.
	SetOrders(room [32]byte, kept []byte) error
}

// WithOrderKeeper keeps orders beyond the life of the mesh, so that a ban outlives restarts of the
// members. The default is nil: in memory alone.
func WithOrderKeeper(k OrderKeeper) Option { return tie(func(c *config) { c.keeper = k }) }

// maxKeptRooms is how many rooms with orders are remembered after they were left.
const maxKeptRooms = 256

// keptOrders is what this process knows of the orders in rooms, beyond the stays in them.
type keptOrders struct {
	mu    sync.Mutex
	rooms map[[32]byte]keptRoom
	dirty map[[32]byte]struct{} // to be saved
	wake  task.Wake
}

type keptRoom struct {
	stay.KeptOrders
	at time.Time
}

func (k *keptOrders) init() {
	k.rooms, k.dirty, k.wake = make(map[[32]byte]keptRoom), make(map[[32]byte]struct{}), task.NewWake()
}

// set remembers what a stay knows. It does no I/O.
func (k *keptOrders) set(now time.Time, room [32]byte, kept stay.KeptOrders) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, was := k.rooms[room]; !was && len(kept.Orders) == 0 {
		return
	}
	k.rooms[room] = keptRoom{kept, now}
	for len(k.rooms) > maxKeptRooms {
		oldest := room
		for tag, r := range k.rooms {
			if r.at.Before(k.rooms[oldest].at) {
				oldest = tag
			}
		}
		delete(k.rooms, oldest)
	}
	k.dirty[room] = struct{}{}
	k.wake.Set()
}

// of returns what is known of a room's orders before a stay begins there.
func (m *Mesh) keptOf(now time.Time, room [32]byte, door *stay.Door) stay.KeptOrders {
	m.kept.mu.Lock()
	r, ok := m.kept.rooms[room]
	m.kept.mu.Unlock()
	if ok || m.cfg.keeper == nil || door.Authority == nil {
		return r.KeptOrders
	}
	raw := m.cfg.keeper.Orders(room)
	kept := decodeOrders(now, raw, door)
	if len(raw) > 0 && len(kept.Orders) == 0 {
		m.kept.mu.Lock()
		m.kept.dirty[room] = struct{}{} // all of it is over
		m.kept.mu.Unlock()
		m.kept.wake.Set()
	}
	return kept
}

// keepLoop notes what a room knows of orders whenever that changes.
func (r *Room) keepLoop() {
	for {
		select {
		case <-r.keep:
		case <-r.ctx.Done():
			return
		}
		r.mu.Lock()
		kept, over := r.stay.KeepOrders(), r.over
		r.mu.Unlock()
		if !over {
			r.mesh.kept.set(r.mesh.clock.Now(), r.tag, kept)
		}
	}
}

// saveLoop saves what the rooms have noted, until the mesh closes.
func (m *Mesh) saveLoop() {
	for {
		select {
		case <-m.kept.wake:
			m.saveOrders()
		case <-m.ctx.Done():
			m.saveOrders()
			return
		}
	}
}

func (m *Mesh) saveOrders() {
	m.kept.mu.Lock()
	todo := make(map[[32]byte]stay.KeptOrders, len(m.kept.dirty))
	for tag := range m.kept.dirty {
		todo[tag] = m.kept.rooms[tag].KeptOrders
	}
	clear(m.kept.dirty)
	m.kept.mu.Unlock()
	for tag, kept := range todo {
		if err := m.cfg.keeper.SetOrders(tag, encodeOrders(kept)); err != nil {
			m.log.Warn("orders not saved", "err", err)
		}
	}
}

// orderRecord and barRecord are the JSON in an [OrderKeeper]. Times are in ms since 1970.
type orderRecord struct {
	Sealed []byte `json:"sealed"`
	Born   int64  `json:"born"`
}

type barRecord struct {
	Peer   []byte `json:"peer"`
	User   string `json:"user"`
	Role   string `json:"role,omitempty"`
	Stay   []byte `json:"stay"`
	Heeded int64  `json:"heeded,omitempty"`
	Seen   int64  `json:"seen,omitempty"`
}

type ordersRecord struct {
	Orders []orderRecord `json:"orders"`
	Barred []barRecord   `json:"barred"`
}

func encodeOrders(kept stay.KeptOrders) []byte {
	if len(kept.Orders) == 0 {
		return nil
	}
	var rec ordersRecord
	for _, o := range kept.Orders {
		rec.Orders = append(rec.Orders, orderRecord{o.Sealed(), o.Born.UnixMilli()})
	}
	for _, b := range kept.Barred {
		r := barRecord{Peer: []byte(b.Peer), User: b.User, Role: b.Role, Stay: b.Stay[:], Heeded: b.Heeded}
		if !b.Seen.IsZero() {
			r.Seen = b.Seen.UnixMilli()
		}
		rec.Barred = append(rec.Barred, r)
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		panic("mesh: " + err.Error()) // it holds nothing that JSON lacks
	}
	return raw
}

// decodeOrders verifies what was kept. What no longer holds is left out.
func decodeOrders(now time.Time, raw []byte, door *stay.Door) (kept stay.KeptOrders) {
	var rec ordersRecord
	if len(raw) == 0 || json.Unmarshal(raw, &rec) != nil {
		return kept
	}
	for _, r := range rec.Orders {
		if o, err := door.OpenOrder(now, r.Sealed); err == nil {
			kept.Orders = append(kept.Orders, &stay.HeldOrder{Order: o, Born: time.UnixMilli(r.Born)})
		}
	}
	for _, r := range rec.Barred {
		p, err := peer.IDFromBytes(r.Peer)
		if err != nil || len(r.Stay) != len(stay.FeedTag{}) {
			continue
		}
		b := stay.KeptBar{Peer: p, User: r.User, Role: r.Role, Stay: stay.FeedTag(r.Stay), Heeded: r.Heeded}
		if r.Seen != 0 {
			b.Seen = time.UnixMilli(r.Seen)
		}
		kept.Barred = append(kept.Barred, b)
	}
	return kept
}
