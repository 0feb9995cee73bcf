package stay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// What a node remembers of its own ban may have been lifted: members have until it is ready to say
// so.
func TestARememberedBanOfOneselfWaitsForTheOthers(t *testing.T) {
	c := convene(t, "ann")
	now := courtEpoch.Add(time.Minute)
	own, other := c.order("ann", 0, ban("u")), c.order("ann", 0, ban("v"))
	lift := c.order("ann", time.Second, unban("u"))
	for name, tt := range map[string]struct {
		told   []*identity.Order
		before bool // it is out before it is ready
		out    bool
	}{
		"nobody says anything":  {nil, false, true},
		"something else":        {[]*identity.Order{other}, false, true},
		"a member says so":      {[]*identity.Order{own}, true, true},
		"it was lifted":         {[]*identity.Order{lift}, false, false},
		"in one frame with it":  {[]*identity.Order{lift, own}, false, false},
		"in the other sequence": {[]*identity.Order{own, lift}, false, false},
	} {
		w := &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)}
		st := c.comer("u", now, w, KeptOrders{Orders: []*HeldOrder{{own, courtEpoch}}})
		var list []AgedOrder
		for _, o := range tt.told {
			list = append(list, AgedOrder{o, time.Minute})
		}
		st.HearOrders(now, "p", list, nil)
		require.Equal(t, tt.before, w.out != nil, name)
		st.Begin(now)
		require.Equal(t, tt.out, w.out != nil, name)
		require.Equal(t, !tt.out, w.ready, name)
	}
}

// A device that is put out does not answer, so a stay that joins waits no longer because of it.
func TestNobodyWaitsForTheAnswerOfAnOutcast(t *testing.T) {
	c := convene(t, "ann")
	now := courtEpoch
	kept := KeptOrders{
		Orders: []*HeldOrder{{c.order("ann", 0, ban("v")), now}},
		Barred: []KeptBar{{Peer: "out", User: "v", Role: "member", Stay: FeedTag{1}}},
	}
	st := c.comer("u", now, &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)}, kept)
	ready := func(after time.Duration, peers ...peer.ID) bool {
		ready, _ := st.Ready(now.Add(after), peers)
		return ready
	}
	st.AskAround([]peer.ID{"out"})
	require.True(t, ready(0, "out"))
	st.AskAround([]peer.ID{"elsewhere"})
	require.False(t, ready(JoinWait-1, "out"))
	require.True(t, ready(JoinWait, "out"), "nobody in the room owes an answer")
	require.False(t, ready(JoinWait, "out", "in"))
}

// A member that has ignored the rate and was banned then is not heard because the ban is lifted.
func TestTheEndOfABanDoesNotExcuseWhoIgnoredTheRate(t *testing.T) {
	for _, barred := range []bool{false, true} {
		c := convene(t, "ann")
		now := courtEpoch
		st := c.member("u", now, &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)})
		other := c.member("v", now, &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)})
		st.Meet(now, other.Own(), 1)
		f := st.roster.devices[other.Self].feed
		st.Order(now, c.order("ann", 0, ban("v")), false)
		require.True(t, f.broken)
		if barred {
			st.bar(now, f)
		}
		st.Order(now, c.order("ann", time.Second, unban("v")), false)
		require.Equal(t, barred, f.broken)
	}
}
