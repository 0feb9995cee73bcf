package meshtest_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

const echoProtocol protocol.ID = "/meshtest/echo"

// echo makes a host send back what it receives.
func echo(h host.Host) {
	h.SetStreamHandler(echoProtocol, func(s network.Stream) {
		defer s.Close()
		io.Copy(s, s)
	})
}

// roundTrip sends size bytes from host i to host j and back over a new stream and returns how long
// that took.
func roundTrip(n *meshtest.Net, i, j, size int, timeout time.Duration) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := n.Host(i).NewStream(network.WithNoDial(ctx, "test"), n.ID(j), echoProtocol)
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	s.SetDeadline(start.Add(timeout))
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, size))
		s.CloseWrite()
		sent <- err
	}()
	got, err := io.Copy(io.Discard, s)
	if err := <-sent; err != nil {
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	if got != int64(size) {
		return 0, fmt.Errorf("%d of %d bytes came back", got, size)
	}
	return time.Since(start), nil
}

func network2(t *testing.T, o meshtest.Options) *meshtest.Net {
	o.Hosts = 2
	n := meshtest.New(t, o)
	echo(n.Host(0))
	echo(n.Host(1))
	n.Connect(0, 1)
	return n
}

func TestLatencyIsVirtual(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 30 * time.Second / 100})
		_, err := roundTrip(n, 0, 1, 10, time.Minute) // negotiates the protocol once
		require.NoError(t, err)
		took, err := roundTrip(n, 0, 1, 10, time.Minute)
		require.NoError(t, err)
		require.InDelta(t, 600*time.Millisecond, took, float64(60*time.Millisecond), "one round trip of two latencies, got %v", took)
		time.Sleep(time.Hour)
	})
	if d := time.Since(real); d > time.Minute {
		t.Fatalf("an hour of virtual time took %v", d)
	}
}

func TestACutDropsAndAHealRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		n.Cut(0, 1)
		_, err := roundTrip(n, 0, 1, 10, 2*time.Second)
		require.Error(t, err, "nothing passes a cut")
		n.Heal()
		_, err = roundTrip(n, 0, 1, 10, 5*time.Second)
		require.NoError(t, err, "QUIC survives two seconds of silence")
	})
}

func TestALongCutEndsTheConnectionAndANewOneCanBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		n.Cut(1, 0)
		time.Sleep(time.Minute)
		require.False(t, n.Connected(0, 1), "an idle time-out ended it")
		require.Error(t, n.TryConnect(0, 1), "dial through a cut")
		n.Heal()
		time.Sleep(10 * time.Second) // after the dial back-off
		n.Connect(0, 1)
		_, err := roundTrip(n, 0, 1, 10, time.Second)
		require.NoError(t, err)
	})
}

func TestASplitSeparatesOnlyItsSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Options{Hosts: 4, Latency: 5 * time.Millisecond})
		for i := range n.Len() {
			echo(n.Host(i))
		}
		n.ConnectAll()
		n.Split([]int{0, 1}, []int{2, 3})
		for i := range 4 {
			for j := range i {
				_, err := roundTrip(n, i, j, 10, time.Second)
				if same := i/2 == j/2; (err == nil) != same {
					t.Errorf("round trip %d to %d: error %v, same side %v", i, j, err, same)
				}
			}
		}
	})
}

func TestIsolateCutsOneHostFromAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Options{Hosts: 3, Latency: 5 * time.Millisecond})
		for i := range n.Len() {
			echo(n.Host(i))
		}
		n.ConnectAll()
		n.Isolate(2)
		_, err := roundTrip(n, 0, 1, 10, time.Second)
		require.NoError(t, err)
		_, err = roundTrip(n, 0, 2, 10, time.Second)
		require.Error(t, err)
		_, err = roundTrip(n, 1, 2, 10, time.Second)
		require.Error(t, err)
	})
}

func TestPacketsInFlightMeetACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: time.Second})
		time.Sleep(10 * time.Second) // identify has finished
		s, err := n.Host(0).NewStream(context.Background(), n.ID(1), echoProtocol)
		require.NoError(t, err)
		defer s.Reset()
		time.Sleep(10 * time.Second)
		before := n.Traffic(1).BytesReceived
		_, err = s.Write(make([]byte, 500))
		require.NoError(t, err)
		time.Sleep(500 * time.Millisecond) // half-way
		n.Cut(0, 1)
		time.Sleep(10 * time.Second)
		got := n.Traffic(1).BytesReceived - before
		require.Less(t, got, 200, "only what was sent earlier arrived")
	})
}

func TestLossCostsTimeOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		clean, err := roundTrip(n, 0, 1, 500_000, time.Minute)
		require.NoError(t, err)
		n.Loss(20)
		before, after := n.Traffic(0), n.Traffic(1)
		lossy, err := roundTrip(n, 0, 1, 500_000, 10*time.Minute)
		require.NoError(t, err)
		require.Greater(t, lossy, 2*clean)
		sent := n.Traffic(0).PacketsSent - before.PacketsSent
		got := n.Traffic(1).PacketsReceived - after.PacketsReceived
		require.InDelta(t, 0.8, float64(got)/float64(sent), 0.06, "%d of %d packets arrived", got, sent)
		n.Loss(100)
		_, err = roundTrip(n, 0, 1, 10, 5*time.Second)
		require.Error(t, err)
	})
}

func TestBandwidthLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond, Bandwidth: 8_000_000})
		took, err := roundTrip(n, 0, 1, 2_000_000, time.Minute)
		require.NoError(t, err)
		// 2 MB at 1 MB/s take 2 s one way; the way back overlaps.
		require.Greater(t, took, 1900*time.Millisecond)
		require.Less(t, took, 4*time.Second)
	})
}

func TestJitterReordersAndNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond, Jitter: 5 * time.Millisecond})
		_, err := roundTrip(n, 0, 1, 200_000, time.Minute)
		require.NoError(t, err)
	})
}

func TestAPausedHostComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		n.Pause(1)
		_, err := roundTrip(n, 0, 1, 10, 2*time.Second)
		require.Error(t, err)
		n.Resume(1)
		_, err = roundTrip(n, 0, 1, 10, 5*time.Second)
		require.NoError(t, err)
	})
}

func TestAKilledHostSaysNothingAndRestartsAsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		id, sent := n.ID(1), n.Traffic(0)
		time.Sleep(2 * time.Second)
		n.Kill(1)
		time.Sleep(time.Second)
		require.True(t, n.Connected(0, 1), "no good-bye was heard")
		_, err := roundTrip(n, 0, 1, 10, time.Second)
		require.Error(t, err)
		require.Greater(t, n.Traffic(0).PacketsSent, sent.PacketsSent)

		n.Restart(1)
		echo(n.Host(1))
		require.Equal(t, id, n.ID(1))
		require.Equal(t, n.Addr(1).String(), n.Host(1).Addrs()[0].String())
		time.Sleep(time.Minute)
		require.False(t, n.Connected(0, 1))
		n.Connect(0, 1)
		_, err = roundTrip(n, 0, 1, 10, time.Second)
		require.NoError(t, err)
	})
}

func TestARuleOfTheTestDropsOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: 5 * time.Millisecond})
		n.Drop(func(from, to, size int) bool { return from == 1 && to == 0 })
		before := n.Traffic(1).PacketsReceived
		_, err := roundTrip(n, 0, 1, 10, time.Second)
		require.Error(t, err)
		require.Greater(t, n.Traffic(1).PacketsReceived, before, "the other direction is open")
		n.Heal()
		_, err = roundTrip(n, 0, 1, 10, 5*time.Second)
		require.NoError(t, err)
	})
}

func TestThirtyHostsAreQuick(t *testing.T) {
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Options{Hosts: 30, Latency: 10 * time.Millisecond})
		n.Random(6)
		degree := 0
		for i := range n.Len() {
			peers := len(n.Host(i).Network().Peers())
			require.NotZero(t, peers)
			degree += peers
		}
		require.Equal(t, 30*6, degree)
	})
	t.Logf("took %v", time.Since(real))
	if d := time.Since(real); d > 20*time.Second {
		t.Fatalf("took %v", d)
	}
}

func TestTopologies(t *testing.T) {
	for _, c := range []struct {
		name    string
		connect func(*meshtest.Net)
		degrees []int
	}{
		{"all", (*meshtest.Net).ConnectAll, []int{3, 3, 3, 3}},
		{"chain", (*meshtest.Net).Chain, []int{1, 2, 2, 1}},
		{"star", func(n *meshtest.Net) { n.Star(2) }, []int{1, 1, 3, 1}},
		{"random, more than there are", func(n *meshtest.Net) { n.Random(9) }, []int{3, 3, 3, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Options{Hosts: 4, Latency: time.Millisecond})
				c.connect(n)
				synctest.Wait()
				for i, want := range c.degrees {
					if got := len(n.Host(i).Network().Peers()); got != want {
						t.Errorf("host %d has %d peers, want %d", i, got, want)
					}
				}
			})
		})
	}
}

func TestOneSeedMakesTheSameHosts(t *testing.T) {
	ids := func(seed uint64) (ids []string) {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.New(t, meshtest.Options{Hosts: 2, Seed: seed})
			ids = []string{n.ID(0).String(), n.ID(1).String()}
		})
		return ids
	}
	require.Equal(t, ids(7), ids(7))
	require.NotEqual(t, ids(7), ids(8))
}

func TestHostsTakeKeysAndOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Options{Hosts: 1, Libp2p: func(i int) []libp2p.Option {
			return []libp2p.Option{libp2p.UserAgent(fmt.Sprintf("host %d", i))}
		}})
		cm, err := connmgr.NewConnManager(1, 2)
		require.NoError(t, err)
		key := n.Key()
		i := n.NewHost(key, libp2p.ConnectionManager(cm))
		require.Equal(t, 1, i)
		require.True(t, n.HostKey(1).Equals(key))
		require.True(t, n.ID(1).MatchesPrivateKey(key))
		require.Same(t, cm, n.Host(1).ConnManager())
		n.Connect(0, 1)
		synctest.Wait()
		agent, err := n.Host(0).Peerstore().Get(n.ID(1), "AgentVersion")
		require.NoError(t, err)
		require.Equal(t, "host 1", agent)
	})
}

func TestClosingTwiceIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := network2(t, meshtest.Options{Latency: time.Millisecond})
		n.Close()
		n.Close()
		require.False(t, n.Connected(0, 1))
	})
}

// A host of libp2p closes connections that come faster than it accepts them.
func TestManyHostsConnectToEachAtOnce(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.New(t, meshtest.Options{Hosts: 32, Latency: 5 * time.Millisecond})
			n.ConnectAll()
			time.Sleep(time.Second)
			for i := range n.Len() {
				require.Len(t, n.Host(i).Network().Peers(), n.Len()-1, "host %d", i)
			}
		})
	}
}
