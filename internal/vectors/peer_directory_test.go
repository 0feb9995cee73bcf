package vectors

import (
	"bufio"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

// dhtMessage returns a message of libp2p's Kademlia: a type and a key, to which further fields can
// be appended.
func dhtMessage(kind uint64, key string) []byte { return put(putInt(nil, 1, kind), 2, []byte(key)) }

func TestAPeerFromTheDocumentIsANodeOfTheDirectory(t *testing.T) {
	const putValue, getValue, addProvider = 0, 1, 2
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		proto := protocol.ID("/starling/dht/" + dhtTag(z.app) + "/lan/kad/1.0.0")
		stored, provided := make(chan message, 16), make(chan message, 16)
		values := make(map[string][]byte)
		var mu sync.Mutex
		z.host.SetStreamHandler(proto, func(s network.Stream) {
			defer s.Reset()
			for r := bufio.NewReader(s); ; {
				m, err := next(r)
				if err != nil {
					return
				}
				answer := dhtMessage(m.varint(1), m.text(2))
				mu.Lock()
				switch m.varint(1) {
				case putValue:
					values[m.text(2)] = m.bytes(3)
					answer = put(answer, 3, m.bytes(3))
					stored <- m
				case getValue:
					if rec := values[m.text(2)]; rec != nil {
						answer = put(answer, 3, rec)
					}
				}
				mu.Unlock()
				if m.varint(1) == addProvider { // it has no answer
					provided <- m
					continue
				}
				if _, err := s.Write(framed(answer)); err != nil {
					return
				}
			}
		})
		net.Connect(1, 0)
		z.greet(n.ID())
		time.Sleep(5 * time.Second)
		require.NoError(t, n.Login(t.Context(), "alice"))

		key := recordPath(dhtHash(z.app, "key", n.Self().Key.Fingerprint()))
		at := Place{App: z.app, Key: key}
		m := <-stored
		require.Equal(t, key, m.text(2))
		rec, ok := parse(m.bytes(3))
		require.True(t, ok)
		first, why := plainRecord(rec.bytes(2), at, nil, time.Now().UnixMilli(), 180_000)
		require.Empty(t, why)
		require.Equal(t, []string{net.Addr(0).String()}, multiaddrs(t, first.all(2)))
		require.Equal(t, string(append([]byte{0x12, 0x20}, dhtHash(z.app, "name", "alice")...)), (<-provided).text(2))
		time.Sleep(10 * time.Second)
		for len(stored) > 0 {
			<-stored
		}
		require.NoError(t, n.Logout(t.Context()))
		m = <-stored
		rec, _ = parse(m.bytes(3))
		last, why := plainRecord(rec.bytes(2), at, nil, time.Now().UnixMilli(), 180_000)
		require.Empty(t, why)
		require.True(t, betterRecord(last, first))
		_, _, st, _ := open(last.bytes(1))
		require.Zero(t, st.varint(9), "a tombstone")

		// The other direction: zoe's record at the node, and one of hers that it must refuse.
		hers := recordPath(dhtHash(z.app, "key", fingerprint(pub(z.user))))
		now := uint64(time.Now().UnixMilli())
		record := put(nil, 1, z.statement)
		for _, a := range z.host.Addrs() {
			record = put(record, 2, a.Bytes())
		}
		sealed := seal(z.device, "starling/record/1\x00", putInt(putInt(record, 3, now), 4, now+180_000))
		ask := func(kind uint64, key string, value []byte) (message, error) {
			s, r := z.stream(n.ID(), proto)
			defer s.Reset()
			m := dhtMessage(kind, key)
			if value != nil {
				m = put(m, 3, put(put(nil, 1, []byte(key)), 2, value))
			}
			z.write(s, m)
			return next(r)
		}
		_, err := ask(putValue, hers, sealed)
		require.NoError(t, err)
		got, err := ask(getValue, hers, nil)
		require.NoError(t, err)
		kept, ok := parse(got.bytes(3))
		require.True(t, ok)
		require.Equal(t, sealed, kept.bytes(2))
		_, err = ask(putValue, key, sealed)
		require.Error(t, err, "under alice's key")
	})
}

func TestAPeerFromTheDocumentWatchesAndIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, n, z := world(t)
		require.NoError(t, n.Login(t.Context(), "alice"))
		net.Connect(1, 0)
		z.greet(n.ID())

		s, r := z.stream(n.ID(), "/starling/watch/1.0.0")
		z.write(s, put(nil, 1, z.app))
		says := func() (loggedIn uint64) {
			st, why := plainStatement(z.read(r).bytes(1), z.app, time.Now().UnixMilli())
			require.Empty(t, why)
			require.Equal(t, "alice", st.text(2))
			return st.varint(9)
		}
		require.EqualValues(t, 1, says())
		start := time.Now()
		require.Empty(t, z.read(r).all(1), "a beat")
		require.InDelta(t, 2*time.Second, time.Since(start), float64(20*time.Millisecond))
		require.NoError(t, n.Logout(t.Context()))
		require.Zero(t, says())
		require.NoError(t, n.Login(t.Context(), "alice"))
		require.EqualValues(t, 1, says())

		news := make(chan []byte)
		asked := make(chan message, 1)
		first := z.statement
		z.host.SetStreamHandler("/starling/watch/1.0.0", func(s network.Stream) {
			defer s.Reset()
			m, err := next(bufio.NewReader(s))
			if err != nil {
				return
			}
			asked <- m
			for st := first; ; st = <-news {
				frame := []byte(nil)
				if st != nil {
					frame = put(frame, 1, st)
				}
				if _, err := s.Write(framed(frame)); err != nil || st == nil {
					return
				}
			}
		})
		// identify reports the new protocol at the next connection.
		z.host.Network().ClosePeer(n.ID())
		time.Sleep(100 * time.Millisecond)
		net.Connect(1, 0)
		z.greet(n.ID())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		states := make(chan presence.State, 16)
		go func() {
			for status, err := range n.Watch(ctx, "zoe") {
				if err != nil {
					return
				}
				states <- status.State
			}
		}()
		require.Equal(t, presence.Online, <-states)
		require.Equal(t, z.app, (<-asked).bytes(1))
		time.Sleep(time.Second)
		z.sign(false)
		news <- z.statement
		z.greet(n.ID())
		start = time.Now()
		require.Equal(t, presence.Offline, <-states)
		require.Less(t, time.Since(start), time.Second)
		cancel()
		select { // a later watch by the node may wait for news
		case news <- nil:
		case <-time.After(time.Second):
		}
	})
}
