package stay

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestWhatAnAuthorMakesOthersCarryIsBounded(t *testing.T) {
	st, _ := begunStay(t, time.Now(), new(deafWorld))
	envelopes := func(tag byte, from, n int) {
		fd := &Feed{tag: FeedTag{tag}}
		for i := range n {
			e := &Envelope{
				Envelope: &wire.Envelope{First: uint64(from+i) + 1, Count: 1, Receipts: &wire.ReceiptsWanted{}},
				hash:     sha256.Sum256(fmt.Append(nil, tag, from+i)),
			}
			st.carry(time.Now(), fd, e)
			st.carry(time.Now(), fd, e)
		}
	}
	envelopes(1, 0, 10)
	envelopes(2, 0, 3*maxCarriedOfFeed)
	require.Len(t, st.relays.byFeed[FeedTag{2}], maxCarriedOfFeed)
	require.Len(t, st.relays.byFeed[FeedTag{1}], 10, "nobody pushes out the others")
	for tag := byte(3); tag < 50; tag++ {
		envelopes(tag, 0, maxCarriedOfFeed)
	}
	require.LessOrEqual(t, len(st.relays.byHash), maxCarried)
	require.Len(t, st.relays.byFeed[FeedTag{1}], 10)
	st.carry(time.Now(), &Feed{tag: FeedTag{60}}, &Envelope{
		Envelope: &wire.Envelope{First: 1, Count: 1, Receipts: &wire.ReceiptsWanted{Collectors: make([][]byte, maxCollectors+1)}}, hash: [32]byte{1},
	})
	require.Nil(t, st.relays.byHash[[32]byte{1}], "too many collectors")
	st.passDue(time.Now().Add(carryLife))
	require.Empty(t, st.relays.byHash)
	require.Empty(t, st.relays.byFeed)
	require.Zero(t, st.relays.waiting.len())
}

func FuzzReceiptAsk(f *testing.F) {
	f.Add([]byte{0x0a, 0x20})
	f.Add(append([]byte{0x0a, 0x20}, bytes.Repeat([]byte{7}, 32)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		st := new(Stay)
		st.relays.init()
		n := &carried{hash: [32]byte(bytes.Repeat([]byte{7}, 32)), passed: make(map[deviceHint]struct{})}
		st.relays.byHash[n.hash] = n
		for range MaxAsks + 1 {
			st.asked(time.Time{}, new(Feed), new(Envelope), in)
		}
		if n.asks > MaxAsks || len(n.collectors) > maxCollectors {
			t.Fatalf("%d asks, %d collectors", n.asks, len(n.collectors))
		}
	})
}
