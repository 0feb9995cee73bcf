package presence_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/presence"
)

// asks is what status says of users, one after the other, and how long that took in virtual time.
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

// exact is the address of node i's user key.
func (r *rig) exact(i int) identity.Address {
	return identity.Address{User: fmt.Sprintf("user%d", i), Fingerprint: r.nodes[i].keys.UserKey().Fingerprint()}
}

func (a asks) at(percent int) time.Duration { return a.took[(len(a.took)-1)*percent/100] }

func (a asks) log(t *testing.T, what string) {
	t.Logf("%s: %d asked, median %v, p99 %v, most %v; %v", what, len(a.took), a.at(50).Round(time.Millisecond),
		a.at(99).Round(time.Millisecond), a.at(100).Round(time.Millisecond), a.state)
}

// apart closes the connections of one host to all others but those in keep.
func (r *rig) apart(from int, keep ...int) {
	for i := range r.nodes {
		if i != from && !slices.Contains(keep, i) && r.net.Host(from).Network().Connectedness(r.net.ID(i)) == network.Connected {
			require.NoError(r.t, r.net.Host(from).Network().ClosePeer(r.net.ID(i)))
		}
	}
	time.Sleep(200 * time.Millisecond)
}

func TestStatusOfUsersKnownOnlyToTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		presence.WithoutWhois(t)
		const n = crowd
		r := &rig{t: t, net: meshtest.New(t, meshtest.Options{
			Hosts: n, Latency: 50 * time.Millisecond, Libp2p: func(int) []libp2p.Option { return nil },
		})}
		for i := range n {
			opts := []presence.Option{presence.WithDHT(presence.LAN)}
			if i == 0 {
				opts = append(opts, presence.WithRemembered(forgetful{}))
			}
			r.nodes = append(r.nodes, r.start(i, keysOf(t, r.net.HostKey(i)), testApp, opts...))
		}
		defer r.close()
		r.net.Random(4)
		time.Sleep(20 * time.Second)
		var all []int
		for i, node := range r.nodes {
			node.login(fmt.Sprintf("user%d", i))
			if i > 0 {
				all = append(all, i)
			}
		}
		time.Sleep(20 * time.Second)
		asker := r.nodes[0]

		var known asks
		known.state = make(map[presence.State]int)
		for _, i := range all { // each from a node that is connected to four others alone
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
		time.Sleep(3 * time.Minute) // what is stored of those beyond has lapsed
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
		for _, i := range gone { // without a word
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

// forgetful remembers nobody.
type forgetful struct{}

func (forgetful) Remember(identity.Remembered) error { return nil }
func (forgetful) Remembered() []identity.Remembered  { return nil }
func (forgetful) Sequence() uint64                   { return 0 }
func (forgetful) SetSequence(uint64) error           { return nil }
