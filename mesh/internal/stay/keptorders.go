package stay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// keptWait is how long a node that joins waits for those that it remembers as put out: they may
// have joined anew as well.
const keptWait = 500 * time.Millisecond

// KeptOrders is what a node keeps of a room's orders from one stay to the next.
type KeptOrders struct {
	Orders []*HeldOrder
	Barred []KeptBar
}

// KeptBar is a device that was put out.
type KeptBar struct {
	Peer       peer.ID
	User, Role string
	Stay       FeedTag
	Heeded     int64
	Seen       time.Time // zero: not known
}

// Heeds returns what the entry of a new stay of a user is to say of these orders.
func (k KeptOrders) Heeds(now time.Time, d *Door, user string) int64 {
	r := newOrders(d)
	for _, o := range k.Orders {
		r.put(now, o)
	}
	return r.heeds(now, user)
}

// KeepOrders returns what is to be kept of the room's orders. The caller owns it.
func (st *Stay) KeepOrders() KeptOrders {
	k := KeptOrders{Orders: st.orders.list()}
	for p, b := range st.outcasts {
		if b.doubted {
			continue
		}
		k.Barred = append(k.Barred, KeptBar{p, b.user, b.role, b.tag, b.heeded, b.seen})
	}
	return k
}

// remember takes what earlier stays kept.
func (st *Stay) remember(now time.Time, k KeptOrders) {
	for _, o := range k.Orders {
		st.orders.put(now, o)
	}
	for _, b := range k.Barred {
		s := standing{b.User, b.Role, b.Stay, b.Heeded, b.Seen}
		if o := st.orders.against(now, s); o != nil && b.Peer != st.Self {
			st.castOut(now, b.Peer, s, o)
			st.outcasts[b.Peer].kept = o.Kind != identity.Ban
		}
	}
	if len(st.orders.all) < len(k.Orders) {
		st.world.Wake(ForOrders) // some are over
	}
	st.nextReview = now.Add(keptWait)
}
