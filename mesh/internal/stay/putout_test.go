package stay

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// gatekeeper is a world that records who is barred, and who is asked who it is.
type gatekeeper struct {
	deafWorld
	barred map[peer.ID]bool
	asked  []peer.ID
	told   map[peer.ID]int // frames other than orders
	out    *identity.Order // has put this node out
	ready  bool            // the program was told that the room is ready
}

func (g *gatekeeper) Notice(n Notice) {
	switch n := n.(type) {
	case PutOut:
		g.out = n.Order
	case Ready:
		g.ready = true
	}
}

func (g *gatekeeper) Tell(p peer.ID, frame *wire.RoomFrame) {
	if frame.GetOrders() == nil {
		g.told[p]++
	}
}

func (g *gatekeeper) Bar(p peer.ID, barred bool) { g.barred[p] = barred }
func (g *gatekeeper) Identify(p peer.ID)         { g.asked = append(g.asked, p) }

// member returns a stay of a user of the court who holds no role.
func (c *court) member(user string, now time.Time, world World) *Stay {
	c.t.Helper()
	s := c.comer(user, now, world, KeptOrders{})
	s.Begin(now)
	return s
}

// comer returns a stay that has just begun, on a node that has kept orders.
func (c *court) comer(user string, now time.Time, world World, kept KeptOrders) *Stay {
	c.t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, "member "+user)
	keys := &identity.Keys{Device: ed25519.NewKeyFromSeed(seed), User: ed25519.NewKeyFromSeed(seed)}
	st, err := c.authority.Sign(keys, identity.Statement{App: c.authority.App(), User: user, Sequence: 1, Issued: now, Expires: now.Add(time.Hour)})
	require.NoError(c.t, err)
	token, err := c.issuer.Issue(identity.Claims{
		User: user, Device: keys.DeviceKey(), Rooms: map[string]string{"ops": "member"}, Issued: now.Add(-time.Hour), Expires: now.Add(48 * time.Hour),
	})
	require.NoError(c.t, err)
	grant, err := c.door.Admit(token, st, now)
	require.NoError(c.t, err)
	s := New(now, Config{
		Room: "ops", Tag: c.door.tag, Self: keys.PeerID(), Key: keys.Device, Feed: FeedID{1}, Door: c.door, Grace: 10 * time.Second, Large: 500,
		Retention: plenty, Rand: rand.New(rand.NewPCG(1, 1)), Log: slog.New(slog.DiscardHandler), Kept: kept,
	}, world)
	own, err := SignEntry(keys.Device, c.door.tag, Entry{Statement: st, Feed: FeedID{1}, Sequence: uint64(now.UnixMilli()), Joined: true, Token: token})
	require.NoError(c.t, err)
	own.Grant = grant
	s.Enter(now, own)
	return s
}

// While somebody is banned, a subscribed peer that is no member gets nothing until it has shown who
// it is. It is asked once.
func TestAPeerThatOnlyListensShowsOnceWhoItIs(t *testing.T) {
	c := convene(t, "ann")
	now := courtEpoch
	w := &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)}
	st := c.member("u", now, w)
	tick := func() {
		for range 5 {
			now = now.Add(time.Second)
			st.Tick(now)
		}
	}
	st.Subscribed(now, "early")
	require.Empty(t, w.asked, "nobody is banned")
	st.Order(now, c.order("ann", 0, ban("mallory")), false)
	st.Subscribed(now, "late")
	require.True(t, w.barred["late"], "at once")
	require.NotContains(t, st.neighbours, peer.ID("late"))
	tick()
	require.Equal(t, []peer.ID{"early", "late"}, w.asked)
	require.True(t, w.barred["early"] && w.barred["late"])
	require.Empty(t, st.neighbours)

	st.Proved(now, "early", "bob")
	st.Proved(now, "late", "mallory")
	tick()
	require.False(t, w.barred["early"])
	require.NotNil(t, st.neighbours["early"])
	require.True(t, w.barred["late"])
	require.Len(t, w.asked, 2)

	clear(w.told)
	st.Introduce(now, "late")
	st.Introduce(now, "early")
	st.Connected(now, "late")
	st.Again(now, "late")
	st.HearQuery(now, "late")
	require.Equal(t, map[peer.ID]int{"early": 1}, w.told)

	st.Subscribed(now, "nobody")
	st.Proved(now, "nobody", "")
	tick()
	require.True(t, w.barred["nobody"])
	require.Len(t, w.asked, 3)

	st.Order(now, c.order("ann", time.Second, ban("bob")), false)
	tick()
	require.True(t, w.barred["early"], "banned since")
	st.Order(now, c.order("ann", 2*time.Second, unban("bob")), false)
	st.Order(now, c.order("ann", 2*time.Second, unban("mallory")), false)
	tick()
	require.Equal(t, map[peer.ID]bool{"early": false, "late": false, "nobody": false}, w.barred, "nobody is banned any more")
	require.Len(t, st.neighbours, 3)
	st.Disconnected(now, "late")
	require.Len(t, st.neighbours, 2)
}

// An order that comes while a member's next stay waits for the end of the present one holds for
// both.
func TestAStayThatWaitsForTheEndOfTheFormerOneIsPutOutToo(t *testing.T) {
	c := convene(t, "ann")
	now := courtEpoch
	w := &gatekeeper{barred: make(map[peer.ID]bool), told: make(map[peer.ID]int)}
	st := c.member("u", now, w)
	other := c.member("v", now, w)
	entry := other.Own()
	st.Meet(now, entry, 1)
	next, err := SignEntry(other.Key, c.door.tag, Entry{
		Statement: entry.Statement, Feed: FeedID{2}, Sequence: entry.Sequence + 1, Joined: true, Token: entry.Token,
	})
	require.NoError(t, err)
	next.Grant = entry.Grant
	st.apply(now, next)
	s := st.roster.devices[other.Self]
	require.NotNil(t, s.coming)

	st.Order(now, c.order("ann", 0, ban("v")), false)
	require.Equal(t, 1, st.Present())
	for range 60 {
		now = now.Add(time.Second)
		st.Tick(now)
		require.Equal(t, 1, st.Present())
	}
	require.Equal(t, Kicked, s.reason)
}

func TestAFrameOfOrdersThatDoNotHoldCostsLittle(t *testing.T) {
	c := convene(t, "ann")
	q := new(wire.RoomFrame_Orders)
	add := func(sealed []byte) { q.Orders, q.AgesMs = append(q.Orders, sealed), append(q.AgesMs, 0) }
	for n := range maxRefused {
		o := ban(fmt.Sprint("u", n))
		o.Issued = courtEpoch.Add(-3 * time.Hour) // before the token
		sealed, err := identity.SignOrder(c.keys["ann"], c.authority.App(), c.door.tag, c.tokens["ann"], o)
		require.NoError(t, err)
		add(sealed)
	}
	good, known := c.order("ann", 0, ban("v")), c.order("ann", 0, ban("w"))
	list, err := c.door.OpenOrders(courtEpoch, "p", q, make([]*identity.Order, len(q.Orders)))
	require.NoError(t, err)
	require.Empty(t, list)
	add(good.Sealed())
	add(known.Sealed())
	had := make([]*identity.Order, len(q.Orders))
	had[len(had)-1] = known
	list, err = c.door.OpenOrders(courtEpoch, "p", q, had)
	require.NoError(t, err)
	require.Len(t, list, 1, "what is known costs nothing")
	q.Orders, q.AgesMs = q.Orders[1:], q.AgesMs[1:]
	list, err = c.door.OpenOrders(courtEpoch, "p", q, had[1:])
	require.NoError(t, err)
	require.Len(t, list, 2)
	q.Orders[0] = append([]byte(nil), q.Orders[0]...)
	q.Orders[0][0]++
	_, err = c.door.OpenOrders(courtEpoch, "p", q, had[1:])
	require.ErrorIs(t, err, identity.ErrSignature, "a breach")
}

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
