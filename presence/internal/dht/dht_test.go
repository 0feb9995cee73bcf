package dht

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestAPeerThatIsGoneIsTakenOutOfTheRoutingTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4, nil)
		defer r.close()
		r.net.Chain()
		time.Sleep(10 * time.Second)
		gone := r.net.ID(1)
		require.NotEmpty(t, r.nodes[0].first().Kad.RoutingTable().Find(gone))
		require.NoError(t, r.nodes[1].Close())
		require.NoError(t, r.net.Host(1).Close())
		time.Sleep(time.Second)
		require.Empty(t, r.nodes[0].first().Kad.RoutingTable().Find(gone))
	})
}

// sought is what a look-up has found.
type sought struct {
	records  []*Record
	devices  []peer.ID
	complete bool
}

func (n *node) seek(t *testing.T, user identity.Address) (out sought) {
	t.Helper()
	var mu sync.Mutex
	out.complete = n.Seek(t.Context(), user, nil, func(r *Record) {
		mu.Lock()
		defer mu.Unlock()
		out.records = append(out.records, r)
	}, func(info peer.AddrInfo) {
		mu.Lock()
		defer mu.Unlock()
		out.devices = append(out.devices, info.ID)
	})
	return out
}

func TestALogInIsStoredAndFoundUntilItIsRetracted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 5, nil)
		defer r.close()
		r.net.Chain()
		time.Sleep(10 * time.Second)
		a, b := r.nodes[0], r.nodes[4]
		exact := identity.Address{User: "dora", Fingerprint: b.keys.UserKey().Fingerprint()}
		got := a.seek(t, exact)
		require.True(t, got.complete)
		require.Empty(t, got.records)

		st := b.sign(t, "dora", true)
		b.show(st)
		soon(t, 30*time.Second, "the log-in is stored", func() bool { return b.first().Keepers() > 0 })
		time.Sleep(2 * time.Second)
		got = a.seek(t, exact)
		require.True(t, got.complete)
		require.NotEmpty(t, got.records)
		for _, rec := range got.records {
			require.Equal(t, st.Sealed(), rec.Statement.Sealed())
			require.Equal(t, b.cfg.Host.Addrs(), rec.Addrs)
		}
		got = a.seek(t, identity.Address{User: "dora"})
		require.Equal(t, []peer.ID{r.net.ID(4)}, got.devices, "a name leads to devices")
		require.Empty(t, got.records)

		end := b.sign(t, "dora", false)
		b.show(end)
		b.Retract(t.Context(), end)
		require.Zero(t, b.first().Keepers())
		got = a.seek(t, exact)
		require.NotEmpty(t, got.records)
		for _, rec := range got.records {
			require.False(t, rec.Statement.LoggedIn)
		}
	})
}

func TestALaterLogInOfTheUserIsPassedOnAndNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 5, nil)
		defer r.close()
		a, b := r.nodes[0], r.nodes[4]
		a.keys, b.keys = a.keys.WithUser(seeded(200)), b.keys.WithUser(seeded(200))
		r.net.Chain()
		time.Sleep(10 * time.Second)
		earlier := a.sign(t, "dora", true)
		time.Sleep(time.Second)
		later := b.sign(t, "dora", true)
		b.show(later)
		soon(t, 30*time.Second, "the log-in is stored", func() bool { return b.first().Keepers() > 0 })
		time.Sleep(2 * time.Second)

		a.show(earlier)
		time.Sleep(5 * time.Second)
		require.Nil(t, a.Shown())
		require.NotEmpty(t, a.seen())
		for _, st := range a.seen() {
			require.Equal(t, later.Sealed(), st.Sealed())
		}
		keepers := 0
		key := KeyOfKey(testApp, a.keys.UserKey().Fingerprint())
		for i, n := range r.nodes[:4] {
			if kept := n.kept(key); kept != nil {
				rec, err := n.first().Rules.Open(kept, time.Now())
				require.NoError(t, err)
				require.Equal(t, later.Sealed(), rec.Statement.Sealed(), "node %d", i)
				keepers++
			}
		}
		require.Positive(t, keepers)
	})
}

func TestNoStreamHandlerOutlivesTheDHT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		ours := func() []protocol.ID {
			return slices.DeleteFunc(r.net.Host(0).Mux().Protocols(), func(p protocol.ID) bool { return p[:len("/starling")] != "/starling" })
		}
		require.Len(t, ours(), 1)
		r.close()
		require.Empty(t, ours())
		require.NoError(t, r.nodes[0].Close(), "again")
	})
}
