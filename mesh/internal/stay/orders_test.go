package stay

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// court is a room of an app with an issuer, and those who give orders there.
type court struct {
	t         *testing.T
	door      *Door
	authority *identity.Authority
	issuer    *identity.Issuer
	keys      map[string]ed25519.PrivateKey
	tokens    map[string]string
}

var courtEpoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// convene returns a court with some moderators.
func convene(t *testing.T, moderators ...string) *court {
	t.Helper()
	issuer, err := identity.NewIssuer("acme", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	require.NoError(t, err)
	issuers, err := identity.NewIssuers(issuer.Public())
	require.NoError(t, err)
	authority, err := identity.NewAuthority("acme", issuers)
	require.NoError(t, err)
	app := issuers.AppID("acme")
	c := &court{t: t, authority: authority, issuer: issuer, keys: make(map[string]ed25519.PrivateKey), tokens: make(map[string]string)}
	c.door = NewDoor("ops", app, app.RoomTag("ops", ""), slog.New(slog.DiscardHandler), identity.NewVerifier(app, identity.WithAuthority(authority)), authority)
	for i, m := range moderators {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i + 1)
		c.keys[m] = ed25519.NewKeyFromSeed(seed)
		c.tokens[m], err = issuer.Issue(identity.Claims{
			User: m, Device: identity.PublicKey(c.keys[m].Public().(ed25519.PublicKey)), Rooms: map[string]string{"ops": identity.RoleModerator},
			Issued: courtEpoch.Add(-time.Hour), Expires: courtEpoch.Add(48 * time.Hour), ID: m,
		})
		require.NoError(t, err)
	}
	return c
}

// order returns an order by a moderator, or by the issuer if there is none of that name.
func (c *court) order(by string, after time.Duration, o identity.Order) *identity.Order {
	c.t.Helper()
	o.Issued = courtEpoch.Add(after)
	var sealed []byte
	var err error
	if key, ok := c.keys[by]; ok {
		sealed, err = identity.SignOrder(key, c.authority.App(), c.door.tag, c.tokens[by], o)
	} else {
		sealed, err = c.issuer.Order("ops", "", o)
	}
	require.NoError(c.t, err)
	out, err := c.door.OpenOrder(o.Issued, sealed)
	require.NoError(c.t, err)
	return out
}

func ban(user string) identity.Order   { return identity.Order{Kind: identity.Ban, User: user} }
func unban(user string) identity.Order { return identity.Order{Kind: identity.Unban, User: user} }

// Whatever the sequence in which nodes hear of orders, they know the same in the end, and judge
// alike.
func TestOrdersInAnySequenceLeadToTheSameVerdicts(t *testing.T) {
	c := convene(t, "ann", "bob", "cat")
	var all []*identity.Order
	for i, by := range []string{"ann", "bob", "cat", ""} {
		for n := range 6 {
			user := fmt.Sprint("u", (i+n)%3)
			kind := []func(string) identity.Order{ban, unban}[(i+n)%2](user)
			all = append(all, c.order(by, time.Duration(n/2)*time.Second, kind)) // many in one millisecond
		}
		all = append(all, c.order(by, time.Second, identity.Order{Kind: identity.Kick, User: "u1", Stay: [16]byte{7}}))
		all = append(all, c.order(by, 2*time.Second, identity.Order{Kind: identity.Dismiss}))
	}
	now := courtEpoch.Add(time.Minute)
	verdicts := func(seed uint64) (out []string) {
		random := rand.New(rand.NewPCG(seed, seed))
		r := newOrders(c.door)
		for range 2 { // and again
			random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, o := range all {
				r.add(now, o, 0)
			}
		}
		out = append(out, fmt.Sprintf("%x", r.sum()))
		for _, role := range []string{"member", identity.RoleModerator} {
			for u := range 3 {
				for _, tag := range []FeedTag{{7}, {8}} {
					o := r.against(now, standing{user: fmt.Sprint("u", u), role: role, tag: tag, heeded: courtEpoch.Add(time.Hour).UnixMilli()})
					if o == nil {
						out = append(out, "in")
					} else {
						out = append(out, fmt.Sprintf("%v by %q", o.Kind, o.By))
					}
				}
			}
		}
		return out
	}
	want := verdicts(1)
	require.Contains(t, want, "in")
	for seed := range uint64(200) {
		require.Equal(t, want, verdicts(seed+2))
	}
}

func TestWhoOutranksWhom(t *testing.T) {
	c := convene(t, "ann", "bob")
	now := courtEpoch.Add(time.Minute)
	for name, tt := range map[string]struct {
		orders []*identity.Order
		role   string
		banned bool
	}{
		"a moderator bans a member":              {[]*identity.Order{c.order("ann", 0, ban("u"))}, "member", true},
		"a moderator bans a moderator":           {[]*identity.Order{c.order("ann", 0, ban("u"))}, "moderator", false},
		"the issuer bans a moderator":            {[]*identity.Order{c.order("", 0, ban("u"))}, "moderator", true},
		"the later of two moderators counts":     {[]*identity.Order{c.order("ann", time.Second, ban("u")), c.order("bob", 0, unban("u"))}, "member", true},
		"also if it lifts":                       {[]*identity.Order{c.order("ann", 0, ban("u")), c.order("bob", 1, unban("u")), c.order("bob", time.Second, unban("u"))}, "member", false},
		"the issuer counts before a later one":   {[]*identity.Order{c.order("", 0, unban("u")), c.order("ann", time.Second, ban("u"))}, "member", false},
		"a moderator does not lift the issuer's": {[]*identity.Order{c.order("", 0, ban("u")), c.order("ann", time.Second, unban("u"))}, "member", true},
		"a ban is of its user":                   {[]*identity.Order{c.order("", 0, ban("v"))}, "member", false},
		"one's own later word replaces":          {[]*identity.Order{c.order("ann", time.Second, unban("u")), c.order("ann", 0, ban("u"))}, "member", false},
	} {
		r := newOrders(c.door)
		for _, o := range tt.orders {
			r.add(now, o, 0)
		}
		require.Equal(t, tt.banned, r.banned(now, "u", tt.role) != nil, name)
	}
}

func TestABanThatHasEndedIsForgotten(t *testing.T) {
	c := convene(t, "ann")
	r := newOrders(c.door)
	o := ban("u")
	o.Until = courtEpoch.Add(time.Minute)
	require.True(t, r.add(courtEpoch, c.order("ann", 0, o), 0))
	require.False(t, r.add(courtEpoch, c.order("ann", 0, o), 0), "no news")
	require.NotNil(t, r.banned(o.Until.Add(-1), "u", "member"))
	require.Nil(t, r.banned(o.Until, "u", "member"))
	r.expire(o.Until)
	require.Empty(t, r.all)
	require.Empty(t, r.about)
	require.Nil(t, r.sum())
	require.False(t, r.add(o.Until, c.order("ann", 0, o), 0), "a late copy")

	kick := c.order("ann", 0, identity.Order{Kind: identity.Kick, User: "u", Stay: [16]byte{1}})
	require.True(t, r.add(courtEpoch, kick, 0))
	r.expire(courtEpoch.Add(identity.OrderLife - 1))
	require.Len(t, r.all, 1)
	r.expire(courtEpoch.Add(identity.OrderLife))
	require.Empty(t, r.all)
}

func TestTheOrdersThatARoomRemembersAreBounded(t *testing.T) {
	var names []string
	for i := range MaxOrders/MaxOrdersOf + 1 {
		names = append(names, fmt.Sprint("mod", i))
	}
	c := convene(t, names...)
	now := courtEpoch.Add(time.Hour)
	var all []*identity.Order
	for i, by := range append(names, "") {
		for n := range MaxOrdersOf + 2 {
			o := ban(fmt.Sprint("u", n))
			if n%2 == 0 {
				o = identity.Order{Kind: identity.Kick, User: "u", Stay: [16]byte{byte(i), byte(n), 1}}
			}
			all = append(all, c.order(by, time.Duration(n)*time.Second, o))
		}
	}
	var want []byte
	for seed := range uint64(2) {
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		r := newOrders(c.door)
		for i, o := range all {
			r.add(now, o, 0)
			if i == MaxOrdersOf+1 || len(r.all) > MaxOrders {
				require.LessOrEqual(t, len(r.all), MaxOrders)
			}
		}
		require.Len(t, r.all, MaxOrders)
		of := make(map[string]int)
		bans := 0
		for _, o := range r.all {
			if of[o.By]++; o.Kind == identity.Ban {
				bans++
			}
		}
		for by, n := range of {
			require.LessOrEqual(t, n, MaxOrdersOf, by)
		}
		require.Equal(t, (len(names)+1)*(MaxOrdersOf/2+1), bans, "kicks make room first")
		if want == nil {
			want = r.sum()
		}
		require.Equal(t, want, r.sum(), "whatever came first")
	}
}

// A dismissal ends what was there when it was given, by the age that neighbours state and not by
// clocks.
func TestADismissalEndsTheStaysThatWereThereBefore(t *testing.T) {
	c := convene(t, "ann")
	d := c.order("ann", 0, identity.Order{Kind: identity.Dismiss})
	kick := c.order("ann", 0, identity.Order{Kind: identity.Kick, User: "u"})
	for name, tt := range map[string]struct {
		clock  time.Duration // of this node, ahead
		heard  time.Duration // after it was given
		age    time.Duration // as a neighbour says
		seen   time.Duration // of the stay, likewise; 0: not yet
		heeded bool
		out    bool
	}{
		"a stay from before":                         {seen: -time.Minute, heard: time.Second, age: time.Second, out: true},
		"that says that it is new":                   {seen: -time.Minute, heard: time.Second, age: time.Second, heeded: true, out: true},
		"a stay from after it":                       {seen: time.Minute, heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true},
		"that does not say so":                       {seen: time.Minute, heard: 2 * time.Minute, age: 2 * time.Minute, out: true},
		"a stay that comes":                          {heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true},
		"that does not know of it":                   {heard: 2 * time.Minute, age: 2 * time.Minute, out: true},
		"after it, by a clock that is behind":        {clock: -10 * time.Minute, seen: time.Minute, heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true},
		"before it, by a clock that is behind":       {clock: -10 * time.Minute, seen: -time.Minute, heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true, out: true},
		"after it, by a clock that is ahead":         {clock: time.Minute, seen: time.Second, heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true},
		"before it, by a clock that is ahead":        {clock: time.Minute, seen: -time.Second, heard: 2 * time.Minute, age: 2 * time.Minute, heeded: true, out: true},
		"a neighbour that lies that it is new":       {seen: 3 * time.Minute, heard: 10 * time.Minute, age: 0, heeded: true},
		"it ends what began within the skew":         {seen: time.Minute, heard: 10 * time.Minute, age: 0, heeded: true, out: true},
		"a neighbour that lies that it is long past": {seen: -time.Minute, heard: time.Second, age: time.Hour, heeded: true},
	} {
		at := func(after time.Duration) time.Time { return courtEpoch.Add(after + tt.clock) }
		for _, o := range []*identity.Order{d, kick} {
			r := newOrders(c.door)
			require.True(t, r.add(at(tt.heard), o, tt.age), name)
			require.False(t, r.add(at(tt.heard), o, 0), "the first word counts")
			s := standing{user: "u", role: "member"}
			if tt.seen != 0 {
				s.seen = at(tt.seen)
			}
			if tt.heeded {
				s.heeded = r.heeds(at(tt.heard), "u")
				require.NotZero(t, s.heeded)
			}
			require.Equal(t, tt.out, r.against(at(tt.heard), s) != nil, "%s: %v", name, o.Kind)
		}
	}
}

func TestTheLoserCountsOnceTheWinnersTokenIsRevoked(t *testing.T) {
	c := convene(t, "ann", "bob")
	now := courtEpoch.Add(time.Minute)
	r := newOrders(c.door)
	r.add(now, c.order("ann", 0, ban("u")), 0)
	r.add(now, c.order("bob", time.Second, unban("u")), 0)
	require.Nil(t, r.banned(now, "u", "member"))
	list, err := c.issuer.Revoke(identity.Revocations{Version: 1, Issued: now, Tokens: map[string]time.Time{"bob": {}}})
	require.NoError(t, err)
	_, err = c.authority.Revoke(list)
	require.NoError(t, err)
	require.NotNil(t, r.banned(now, "u", "member"))
	r.expire(now)
	require.Len(t, r.all, 1)
}
