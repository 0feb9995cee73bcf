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
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
)

// crowd is how many nodes the large simulations have.
var crowd = meshtest.Sized(20, 50)

// asks is the result of asking for the status of several users one after the other, and how long
// each took in virtual time.
type asks struct {
	took  []time.Duration
	state map[presence.State]int
}

func (r *rig) ask(from *node, users []int) asks {
	r.t.Helper()
	a := asks{state: make(map[presence.State]int)}
	for _, i := range users {
		start := time.Now()
		s, err := from.Status(context.Background(), r.exact(i))
		require.NoError(r.t, err)
		took := time.Since(start)
		require.LessOrEqual(r.t, took, 5*time.Second)
		a.took = append(a.took, took)
		a.state[s.State]++
	}
	slices.Sort(a.took)
	return a
}

// exact returns the address of node i's user key.
func (r *rig) exact(i int) identity.Address {
	return identity.Address{User: fmt.Sprintf("user%d", i), Fingerprint: r.nodes[i].keys.UserKey().Fingerprint()}
}

func (a asks) at(percent int) time.Duration { return a.took[(len(a.took)-1)*percent/100] }

func (a asks) log(t *testing.T, what string) {
	t.Logf("%s: %d asked, median %v, p99 %v, most %v; %v", what, len(a.took), a.at(50).Round(time.Millisecond),
		a.at(99).Round(time.Millisecond), a.at(100).Round(time.Millisecond), a.state)
}

// apart closes the connections of one host to all others except those in keep.
func (r *rig) apart(from int, keep ...int) {
	for i := range r.nodes {
		if i != from && !slices.Contains(keep, i) && r.net.Host(from).Network().Connectedness(r.net.ID(i)) == network.Connected {
			require.NoError(r.t, r.net.Host(from).Network().ClosePeer(r.net.ID(i)))
		}
	}
	time.Sleep(200 * time.Millisecond)
}

// newCrowd makes a directory of many nodes, each at first connected to four others, and logged in.
// Node 0, which asks, remembers no peers.
func newCrowd(t *testing.T) (r *rig, door *gate) {
	t.Helper()
	door = new(gate)
	presence.WithoutWhois(t)
	r = &rig{t: t, net: meshtest.New(t, meshtest.Options{
		Hosts: crowd, Latency: 50 * time.Millisecond, Libp2p: func(i int) []libp2p.Option {
			if i == 0 {
				return []libp2p.Option{libp2p.ConnectionGater(door)}
			}
			return nil
		},
	})}
	for i := range crowd {
		opts := []presence.Option{presence.WithDHT(presence.LAN)}
		if i == 0 {
			opts = append(opts, presence.WithRemembered(forgetful{}))
		}
		r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp, opts...))
	}
	r.net.Random(4)
	time.Sleep(20 * time.Second)
	for i, node := range r.nodes {
		node.login(fmt.Sprintf("user%d", i))
	}
	time.Sleep(20 * time.Second)
	return r, door
}

// gate lets a host refuse incoming connections.
type gate struct{ shut atomic.Bool }

func (g *gate) InterceptPeerDial(peer.ID) bool               { return true }
func (g *gate) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool  { return !g.shut.Load() }
func (g *gate) InterceptSecured(dir network.Direction, _ peer.ID, _ network.ConnMultiaddrs) bool {
	return dir == network.DirOutbound || !g.shut.Load()
}
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// lonely leaves node 0 with only the connections in keep, and with no knowledge of other nodes.
func (r *rig) lonely(keep ...int) {
	r.t.Helper()
	for _, i := range keep {
		if !r.connected(0, i) {
			r.net.Connect(0, i)
		}
	}
	time.Sleep(500 * time.Millisecond) // for the hello, and the directory's own exchange
	for range 100 {                    // it may be storing its own log-in
		r.apart(0, keep...)
		if len(r.net.Host(0).Network().Peers()) == len(keep) {
			break
		}
	}
	require.Len(r.t, r.net.Host(0).Network().Peers(), len(keep))
	for i := range r.nodes {
		if !slices.Contains(keep, i) {
			r.net.Host(0).Peerstore().ClearAddrs(r.net.ID(i))
		}
	}
	r.nodes[0].Forget()
	r.nodes[0].ForgetLost()
}

func TestStatusFromFewConnectionsOfUsersKnownOnlyToTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := crowd
		r, door := newCrowd(t)
		defer r.close()
		asker := r.nodes[0]
		door.shut.Store(true) // or storing nodes would connect to it
		gone, left := upTo(n-n/5, n), upTo(1, n-n/5)
		some := slices.DeleteFunc(slices.Clone(left), func(i int) bool { return i%2 == 0 })
		r.lonely(1, 2, n-1)
		for _, i := range gone { // without a good-bye
			r.net.Isolate(i)
		}
		// each asks for all of them, every time while connected to three others
		each := func(users []int) asks {
			all := asks{state: make(map[presence.State]int)}
			for k, i := range users {
				var keep []int
				for j := k; len(keep) < 3; j += 7 {
					if p := left[j%len(left)]; p != i && !slices.Contains(keep, p) {
						keep = append(keep, p)
					}
				}
				if k > 0 { // the first time one of the three has vanished
					r.lonely(keep...)
				}
				one := r.ask(asker, []int{i})
				all.took = append(all.took, one.took...)
				for s, n := range one.state {
					all.state[s] += n
				}
			}
			slices.Sort(all.took)
			return all
		}
		lost := each(gone)
		lost.log(t, "from three connections: those who vanished")
		require.Equal(t, len(gone), lost.state[presence.Unreachable])
		hit := each(some)
		hit.log(t, "from three connections: the others")
		require.Zero(t, hit.state[presence.Offline], "a false offline")
		require.Equal(t, len(some), hit.state[presence.Online])
	})
}

func TestStatusOfUsersKnownOnlyToTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := crowd
		r, _ := newCrowd(t)
		defer r.close()
		all := upTo(1, n)
		asker := r.nodes[0]

		var known asks
		known.state = make(map[presence.State]int)
		// Each from a node that is connected to only four others.
		for _, i := range all {
			r.apart(0, (i+1)%n, (i+2)%n, (i+3)%n, (i+4)%n)
			for j := range r.nodes {
				if !r.connected(0, j) {
					r.net.Host(0).Peerstore().ClearAddrs(r.net.ID(j))
				}
			}
			asker.Forget()
			one := r.ask(asker, []int{i})
			known.took = append(known.took, one.took...)
			for s, n := range one.state {
				known.state[s] += n
			}
		}
		slices.Sort(known.took)
		known.log(t, "known only to the directory")
		require.Equal(t, n-1, known.state[presence.Online])
		require.LessOrEqual(t, known.at(50), time.Second)

		r.net.Split(upTo(0, n/2), upTo(n/2, n))
		time.Sleep(6 * time.Second)
		cut := r.ask(asker, upTo(n/2, n))
		cut.log(t, "across a cut, after 6 s")
		require.Equal(t, n/2, cut.state[presence.Unreachable])
		// The records of those beyond the cut have lapsed.
		time.Sleep(3 * time.Minute)
		cut = r.ask(asker, upTo(n/2, n))
		cut.log(t, "across a cut, after five minutes")
		require.Zero(t, cut.state[presence.Offline])
		require.Zero(t, cut.state[presence.Online])
		r.net.Heal()
		r.net.Random(4)
		time.Sleep(time.Minute)
		healed := r.ask(asker, all)
		healed.log(t, "healed")
		require.Equal(t, n-1, healed.state[presence.Online])

		gone, left := upTo(n-n/5, n), upTo(1, n-n/5)
		for _, i := range gone { // without a good-bye
			r.net.Isolate(i)
		}
		r.apart(0, 1, 2, 3, n-1)
		hit := r.ask(asker, left)
		hit.log(t, "a fifth has vanished: the others")
		require.Zero(t, hit.state[presence.Offline], "a false offline")
		lost := r.ask(asker, gone)
		lost.log(t, "a fifth has vanished: those")
		require.Equal(t, n/5, lost.state[presence.Unreachable])
	})
}

func upTo(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// forgetful remembers no peers.
type forgetful struct{}

func (forgetful) Remember(identity.Remembered) error { return nil }
func (forgetful) Remembered() []identity.Remembered  { return nil }
func (forgetful) Sequence() uint64                   { return 0 }
func (forgetful) SetSequence(uint64) error           { return nil }
