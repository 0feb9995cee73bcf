package presence_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// status returns the status of a user as n sees it.
func (n *node) status(user string) presence.Status {
	n.t.Helper()
	a, err := identity.ParseAddress(user)
	require.NoError(n.t, err)
	start := time.Now()
	s, err := n.Status(context.Background(), a)
	require.NoError(n.t, err)
	require.LessOrEqual(n.t, time.Since(start), 5*time.Second, "status of %s", user)
	return s
}

// dhtRig makes a DHT of n nodes that are at first connected in a chain.
func dhtRig(t *testing.T, n int) *rig {
	r := newRig(t, n, presence.WithDHT(presence.LAN))
	r.net.Chain()
	time.Sleep(10 * time.Second)
	return r
}

// stored waits until the directory has n's log-in.
func (n *node) stored() {
	n.t.Helper()
	soon(n.t, 30*time.Second, "the log-in is stored", func() bool { return n.Keepers() > 0 })
	time.Sleep(2 * time.Second)
}

// part ends the connection between two hosts, as a connection manager would.
func (r *rig) part(a, b int) {
	r.t.Helper()
	require.NoError(r.t, r.net.Host(a).Network().ClosePeer(r.net.ID(b)))
	time.Sleep(100 * time.Millisecond)
}

func TestAUserWhoIsNotConnectedIsFoundInTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dhtRig(t, 5)
		defer r.close()
		presence.WithoutWhois(t)
		a, b := r.nodes[0], r.nodes[4]
		b.login("dora")
		b.stored()
		a.login("alice")
		for _, who := range []string{"dora", "dora#" + b.keys.UserKey().Fingerprint()} {
			r.part(0, 4)
			s := a.status(who)
			require.Equal(t, presence.Online, s.State, "%s: %+v", who, s)
			require.Equal(t, b.me(), s.Login)
		}
		r.part(0, 4)
		f, err := a.find("dora")
		require.NoError(t, err)
		require.Equal(t, b.id, f.Login.Peer)
	})
}

func TestStatusNeedsEvidenceToSayOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dhtRig(t, 6)
		defer r.close()
		a, b := r.nodes[0], r.nodes[5]
		_, err := a.Status(context.Background(), identity.Address{User: "dora"})
		require.ErrorIs(t, err, presence.ErrNotLoggedIn)
		a.login("alice")
		s := a.status("alice")
		require.Equal(t, presence.Online, s.State)
		require.Equal(t, presence.Self, s.Source)
		s = a.status("nobody")
		require.Equal(t, presence.Offline, s.State, "the whole directory has answered")
		require.Equal(t, presence.Stored, s.Source)

		b.login("dora")
		b.stored()
		require.Equal(t, presence.Online, a.status("dora").State)
		require.NoError(t, b.Logout(context.Background()))
		s = a.status("dora")
		require.Equal(t, presence.Offline, s.State)
		require.Equal(t, presence.Goodbye, s.Source)

		b.login("dora")
		b.stored()
		require.Equal(t, presence.Online, a.status("dora").State)
		r.net.Isolate(5)
		time.Sleep(6 * time.Second)
		s = a.status("dora")
		require.Equal(t, presence.Unreachable, s.State, "%+v", s)
		require.GreaterOrEqual(t, s.Age, 6*time.Second)
		require.Equal(t, presence.Unreachable, a.status("nobody").State, "a node of the directory is silent")
		r.net.Heal()
		soon(t, time.Minute, "dora is online again", func() bool { return a.status("dora").State == presence.Online })
	})
}

func TestALogOutIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dhtRig(t, 6)
		defer r.close()
		presence.WithoutWhois(t)
		a, b := r.nodes[0], r.nodes[5]
		b.login("dora")
		b.stored()
		r.part(0, 5)
		start := time.Now()
		require.NoError(t, b.Close())
		require.LessOrEqual(t, time.Since(start), time.Second)
		r.net.Kill(5)
		time.Sleep(time.Second)
		a.login("alice")
		s := a.status("dora#" + b.keys.UserKey().Fingerprint())
		require.Equal(t, presence.Offline, s.State, "%+v", s)
		require.Equal(t, presence.Goodbye, s.Source)
		require.Equal(t, b.id, s.Login.Peer)
	})
}

func TestAStoredLogOutIsAnAnswerWithoutWaitingForTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dhtRig(t, 6)
		defer r.close()
		presence.WithoutWhois(t)
		a, b := r.nodes[0], r.nodes[5]
		a.login("alice")
		b.login("dora")
		b.stored()
		soon(t, time.Minute, "a has met dora, and remembers where she was", func() bool { return a.status("dora").State == presence.Online })
		r.part(0, 5)
		require.NoError(t, b.Close())
		// Without a notice that it is closed: a dial waits for its timeout.
		r.net.Kill(5)
		r.part(0, 5)
		a.Forget()
		require.False(t, r.connected(0, 5))
		start := time.Now()
		s := a.status("dora#" + b.keys.UserKey().Fingerprint())
		t.Logf("%v after %v", s.State, time.Since(start))
		require.Equal(t, presence.Offline, s.State, "%+v", s)
		require.Equal(t, presence.Goodbye, s.Source)
		require.LessOrEqual(t, time.Since(start), 600*time.Millisecond)
	})
}

func TestTwoLogInsThatMeetOnlyInTheDirectoryEndWithOne(t *testing.T) {
	for _, c := range []struct {
		name  string
		gap   time.Duration
		cut   bool // the later one cannot dial the earlier one
		limit time.Duration
	}{
		{"at once", 0, false, 3 * time.Second},
		{"one after the other", 20 * time.Second, false, 3 * time.Second},
		{"at once, and apart", 0, true, 10 * time.Second},
		// This takes until the earlier one is stored again.
		{"one after the other, and apart", 20 * time.Second, true, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 6, presence.WithDHT(presence.LAN))
				defer r.close()
				r.sameUser(0, 5, presence.WithDHT(presence.LAN))
				r.net.Cut(0, 5)
				for _, n := range r.nodes[1:5] {
					// Otherwise they would pass the statement of one to the other.
					n.Deafen()
				}
				r.net.Chain()
				time.Sleep(10 * time.Second)
				require.False(t, r.connected(0, 5))
				if !c.cut {
					r.net.Heal()
				}
				a, b := r.nodes[0], r.nodes[5]
				a.login("alice")
				time.Sleep(c.gap)
				b.login("alice")
				start := time.Now()
				soon(t, c.limit, "one log-in", func() bool { return a.loggedIn() != b.loggedIn() })
				t.Logf("one of two after %v", time.Since(start))
				oneLeft(t, time.Second, a, b)
				require.Equal(t, !c.cut, r.connected(0, 5))
				if c.gap > 0 {
					require.True(t, b.loggedIn(), "the later one")
				}
			})
		})
	}
}

func TestTheEarlierLogInIsDialledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 6, presence.WithDHT(presence.LAN))
		defer r.close()
		r.sameUser(0, 5, presence.WithDHT(presence.LAN))
		r.net.Cut(0, 5)
		for _, n := range r.nodes[1:5] {
			n.Deafen()
		}
		r.net.Chain()
		time.Sleep(10 * time.Second)
		a, b := r.nodes[0], r.nodes[5]
		a.login("alice")
		time.Sleep(20 * time.Second)
		b.login("alice")
		// Nothing of the earlier log-in is left in the directory.
		time.Sleep(14 * time.Second)
		require.True(t, a.loggedIn() && b.loggedIn())
		r.net.Heal()
		soon(t, 12*time.Second, "the earlier has been told", func() bool { return !a.loggedIn() })
		require.True(t, b.loggedIn())
	})
}

func TestAFreshLogInIsStoredAtOnceThoughSomeNodesAreSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, silent = 12, 4
		r := dhtRig(t, n)
		defer r.close()
		for i := n - silent; i < n; i++ {
			r.net.Isolate(i)
		}
		a := r.nodes[0]
		a.login("alice")
		key := dht.KeyOfKey(testApp, a.keys.UserKey().Fingerprint())
		have := func() (count int) {
			for _, node := range r.nodes[1 : n-silent] {
				if node.Stored(key) != nil {
					count++
				}
			}
			return count
		}
		start := time.Now()
		soon(t, 200*time.Millisecond, "all that answer keep it", func() bool { return have() == n-silent-1 })
		t.Logf("stored after %v", time.Since(start))
		require.NoError(t, a.Logout(t.Context()))
		require.False(t, r.nodes[1].Stored(key).Statement.LoggedIn, "a log-out in the middle of storing is stored too")
		time.Sleep(20 * time.Second)
		for _, node := range r.nodes[1 : n-silent] {
			require.False(t, node.Stored(key).Statement.LoggedIn)
		}
	})
}

func TestAStrangerIsNotToldOfflineOfAFreshLogIn(t *testing.T) {
	// More than keep a record, so that the asking node is usually no keeper.
	const n = 32
	for _, exact := range []bool{true, false} {
		t.Run(map[bool]string{true: "by key", false: "by name"}[exact], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				presence.WithoutWhois(t)
				r := &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 50 * time.Millisecond})}
				for i := range n {
					r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp,
						presence.WithDHT(presence.LAN), presence.WithRemembered(forgetful{})))
				}
				defer r.close()
				r.net.Random(4)
				time.Sleep(20 * time.Second)
				asker := r.nodes[0]
				asker.login("alice")
				time.Sleep(10 * time.Second)
				apart := 0
				// for each, the question comes at a different time after the log-in
				for i := 1; i <= 16; i++ {
					r.part(0, i)
					asker.Forget()
					r.nodes[i].login(fmt.Sprintf("user%d", i))
					time.Sleep(time.Duration(i-1) * 40 * time.Millisecond)
					if !r.connected(0, i) {
						apart++
					}
					addr := r.exact(i)
					if !exact {
						addr.Fingerprint = ""
					}
					start := time.Now()
					s, err := asker.Status(context.Background(), addr)
					require.NoError(t, err)
					require.Equal(t, presence.Online, s.State, "%v after the log-in: %+v", time.Duration(i-1)*40*time.Millisecond, s)
					require.LessOrEqual(t, time.Since(start), 3*time.Second)
				}
				t.Logf("%d of 16 were asked after from apart", apart)
				require.Greater(t, apart, 4)
				start := time.Now()
				require.Equal(t, presence.Offline, asker.status("nobody").State)
				require.GreaterOrEqual(t, time.Since(start), time.Second, "a second look")
			})
		})
	}
}

func TestALogInIsStoredAnewWhenAddressesChangeAndAfterSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		elsewhere := ma.StringCast("/ip4/10.9.9.9/udp/4001/quic-v1")
		var moved atomic.Bool
		r := &rig{t: t, net: meshtest.New(t, meshtest.Options{Hosts: 4, Latency: latency, Libp2p: func(i int) []libp2p.Option {
			return []libp2p.Option{libp2p.AddrsFactory(func(addrs []ma.Multiaddr) []ma.Multiaddr {
				if i == 0 && moved.Load() {
					return []ma.Multiaddr{elsewhere}
				}
				return addrs
			})}
		}})}
		for i := range 4 {
			r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp, presence.WithDHT(presence.LAN)))
		}
		defer r.close()
		r.net.Chain()
		time.Sleep(10 * time.Second)
		a := r.nodes[0]
		a.login("alice")
		// It was compared a second time, and is not due for a minute.
		time.Sleep(10 * time.Second)
		key := dht.KeyOfKey(testApp, a.keys.UserKey().Fingerprint())
		all := func(ok func(*dht.Record) bool) func() bool {
			return func() bool {
				for _, n := range r.nodes[1:] {
					if !ok(n.Stored(key)) {
						return false
					}
				}
				return true
			}
		}
		require.Equal(t, []ma.Multiaddr{r.net.Addr(0)}, r.nodes[1].Stored(key).Addrs)
		start := time.Now()
		time.Sleep(20 * time.Second)
		require.True(t, r.nodes[1].Stored(key).Issued.Before(start), "nothing has happened")

		moved.Store(true)
		// libp2p checks every 5 s.
		soon(t, 7*time.Second, "the new address", all(func(rec *dht.Record) bool {
			return slices.Equal([]string{elsewhere.String()}, texts(rec.Addrs))
		}))
		time.Sleep(3 * time.Second)
		woke := time.Now()
		require.True(t, r.nodes[1].Stored(key).Issued.Before(woke))
		a.Refresh()
		soon(t, time.Second, "a new record", all(func(rec *dht.Record) bool { return !rec.Issued.Before(woke) }))

		require.NoError(t, a.Logout(t.Context()))
		time.Sleep(time.Second)
		a.Refresh()
		time.Sleep(5 * time.Second)
		require.False(t, r.nodes[1].Stored(key).Statement.LoggedIn, "who has logged out stays out")
	})
}

func texts(addrs []ma.Multiaddr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func TestTheDirectoryLosesItsOnlyOtherMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, presence.WithDHT(presence.LAN))
		defer r.close()
		a, b, c := r.nodes[0], r.nodes[1], r.nodes[2]
		r.meet(0, 2)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, a.DHTSize())
		r.net.Kill(2)
		require.NoError(t, c.Close())
		start := time.Now()
		a.login("alice")
		require.Zero(t, time.Since(start), "log-in waits for nobody")
		require.Equal(t, presence.Unreachable, a.status("bob").State)
		r.meet(0, 1)
		b.login("bob")
		soon(t, time.Second, "bob", func() bool { return a.sees(b) })
		require.Equal(t, presence.Online, a.status("bob").State)
		require.Equal(t, presence.Online, b.status("alice").State)
		soon(t, 10*time.Second, "the directory is of two again", func() bool { return a.Keepers() == 1 && b.Keepers() == 1 })
		soon(t, time.Minute, "the dead one is out", func() bool { return !a.DHTHas(c.id) })
		require.Equal(t, presence.Offline, a.status("carol").State)
	})
}

func TestAFloodOfRecordsThatValidateStaysWithinTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := dhtRig(t, 3)
		defer r.close()
		a, b := r.nodes[0], r.nodes[1]
		const bound = 40
		b.SetStoredBound(bound)
		var refused int
		for i := range 200 {
			keys := &identity.Keys{Device: seeded(byte(i)), User: seeded(byte(i))}
			now := time.Now()
			st, err := keys.Sign(identity.Statement{
				App: testApp, User: "mallory", Sequence: uint64(now.UnixMilli()), LoggedIn: true, Issued: now, Expires: now.Add(time.Hour),
			})
			require.NoError(t, err)
			sealed, err := dht.Seal(keys, st, nil, now, time.Minute)
			require.NoError(t, err)
			if a.Store(context.Background(), b.id, dht.KeyOfKey(testApp, keys.UserKey().Fingerprint()), sealed) != nil {
				refused++
			}
			if i == 150 {
				require.Positive(t, refused, "the share of one peer")
				time.Sleep(time.Minute) // its share grows again
			}
		}
		count, bytes, most, mostBytes := b.StoredBound()
		t.Logf("%d of 200 refused, %d kept, %d bytes", refused, count, bytes)
		require.Equal(t, bound, most)
		require.Equal(t, bound, count, "full, and no more")
		require.LessOrEqual(t, bytes, mostBytes)
		require.Greater(t, 200-refused, bound, "more were accepted than are kept")
		require.Equal(t, presence.Offline, func() presence.State { a.login("alice"); return a.status("bob").State }())
	})
}
