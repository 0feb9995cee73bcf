package mesh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// awaited makes station 0 of three wait for a receipt of station 2, which is cut off, and returns
// its envelope.
func awaited(t *testing.T, f *flock) (rooms []*Room, p Pending[Confirmation], hash [sha256.Size]byte, last uint64) {
	t.Helper()
	f.net.ConnectAll()
	rooms = f.joinAll("ops")
	settle()
	f.net.Isolate(2)
	p, err := rooms[0].PublishConfirmedAsync(deadline(t, 9*time.Second), []byte("secret"), AsText())
	require.NoError(t, err)
	time.Sleep(100 * time.Millisecond)
	rooms[0].mu.Lock()
	defer rooms[0].mu.Unlock()
	for h, s := range rooms[0].confirms.sent {
		hash, last = h, s.last
	}
	require.NotZero(t, last)
	return rooms, p, hash, last
}

// receiptOf signs a receipt of body as a station does.
func receiptOf(s *station, body []byte) *wire.Receipt {
	return &wire.Receipt{Device: s.key.Public().(ed25519.PublicKey), Signature: wire.Sign(wire.DomainReceipt, s.key, body)}
}

func receiptFrame(tag feedTag, hash [sha256.Size]byte, last uint64, list ...*wire.Receipt) *wire.RoomFrame_Receipts {
	return &wire.RoomFrame_Receipts{Feed: tag[:], Last: last, Envelope: hash[:], List: list}
}

func TestReceiptsThatProveNothingCountForNothing(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms, p, hash, last := awaited(t, f)
		a, tag, bad, victim := rooms[0], rooms[0].own.tag(), f.at[1], f.at[2]
		own := receiptBody(a.tag, tag, last, hash)
		device := victim.key.Public().(ed25519.PublicKey)
		other := sha256.Sum256([]byte("another envelope"))
		for name, receipt := range map[string]*wire.Receipt{
			"signed by another":          {Device: device, Signature: receiptOf(bad, own).Signature},
			"of another envelope":        receiptOf(victim, receiptBody(a.tag, tag, last, other)),
			"of another room":            receiptOf(victim, receiptBody([32]byte{1}, tag, last, hash)),
			"of another feed":            receiptOf(victim, receiptBody(a.tag, feedTag{1}, last, hash)),
			"of another place":           receiptOf(victim, receiptBody(a.tag, tag, last+1, hash)),
			"under the domain of a list": {Device: device, Signature: wire.Sign(wire.DomainRoster, victim.key, own)},
			"no signature at all":        {Device: device, Signature: make([]byte, 64)},
		} {
			require.ErrorIs(t, a.hearReceipts(bad.host.ID(), receiptFrame(tag, hash, last, receipt)), wire.ErrSignature, name)
		}
		good := receiptOf(victim, own)
		for name, q := range map[string]*wire.RoomFrame_Receipts{
			"none":              receiptFrame(tag, hash, last),
			"too many":          receiptFrame(tag, hash, last, make([]*wire.Receipt, maxReceipts+1)...),
			"a short device":    receiptFrame(tag, hash, last, &wire.Receipt{Device: device[:31], Signature: good.Signature}),
			"a short signature": receiptFrame(tag, hash, last, &wire.Receipt{Device: device, Signature: good.Signature[:63]}),
			"a short feed":      {Feed: tag[:15], Last: last, Envelope: hash[:], List: []*wire.Receipt{good}},
			"a short envelope":  {Feed: tag[:], Last: last, Envelope: hash[:31], List: []*wire.Receipt{good}},
			"no place":          receiptFrame(tag, hash, 0, good),
		} {
			require.ErrorIs(t, a.hearReceipts(bad.host.ID(), q), errBadReceipts, name)
		}
		// A genuine receipt of something else is simply not wanted.
		stranger := f.all.station(t, f.net.Host(f.net.NewHost(nil)), "stranger")
		for name, q := range map[string]*wire.RoomFrame_Receipts{
			"of an envelope that was not":      receiptFrame(tag, other, last, receiptOf(victim, receiptBody(a.tag, tag, last, other))),
			"of a feed that was not":           receiptFrame(feedTag{1}, hash, last, receiptOf(victim, receiptBody(a.tag, feedTag{1}, last, hash))),
			"of a place that it does not have": receiptFrame(tag, hash, last+1, receiptOf(victim, receiptBody(a.tag, tag, last+1, hash))),
			"of one who was not asked":         receiptFrame(tag, hash, last, receiptOf(stranger, own)),
			"of the author himself":            receiptFrame(tag, hash, last, receiptOf(f.at[0], own)),
		} {
			require.NoError(t, a.hearReceipts(bad.host.ID(), q), name)
		}
		require.NoError(t, a.hearReceipts(stranger.host.ID(), receiptFrame(tag, hash, last, good)), "by one who is no neighbour")
		taken := f.at[0].Stats().ReceiptsTaken
		for range 1000 { // a replay of what has come
			require.NoError(t, a.hearReceipts(bad.host.ID(), receiptFrame(tag, hash, last, receiptOf(bad, own))))
		}
		require.Equal(t, taken, f.at[0].Stats().ReceiptsTaken)
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms, "u2")
	})
}

func TestAGenuineReceiptCountsWhoeverBringsIt(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms, p, hash, last := awaited(t, f)
		good := receiptOf(f.at[2], receiptBody(rooms[0].tag, rooms[0].own.tag(), last, hash))
		require.NoError(t, rooms[0].hearReceipts(f.at[1].host.ID(), receiptFrame(rooms[0].own.tag(), hash, last, good, good)))
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms)
		// And for its own envelope only.
		p, err = rooms[0].PublishConfirmedAsync(deadline(t, 3*time.Second), []byte("another"), AsText())
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, rooms[0].hearReceipts(f.at[1].host.ID(), receiptFrame(rooms[0].own.tag(), hash, last, good)))
		c, err = p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms, "u2")
	})
}

func TestAForgedReceiptEndsTheStreamItCameOver(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms, p, hash, last := awaited(t, f)
		forged := &wire.Receipt{Device: f.at[2].key.Public().(ed25519.PublicKey), Signature: make([]byte, 64)}
		f.at[1].tell(f.at[0].host.ID(), &wire.RoomFrame{Room: rooms[0].tag[:], Body: &wire.RoomFrame_Receipts_{
			Receipts: receiptFrame(rooms[0].own.tag(), hash, last, forged),
		}})
		time.Sleep(time.Second)
		require.EqualValues(t, 1, f.at[0].Stats().RoomViolations)
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms, "u2")
	})
}

func TestAFloodOfReceiptsIsNeitherKeptNorPassedOn(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		settle()
		f.net.Isolate(3) // so that its receipt is still to come
		p, err := rooms[0].PublishConfirmedAsync(deadline(t, 3*time.Second), []byte("to the end"), AsText())
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		relay, tag := rooms[1], rooms[0].own.tag()
		relay.mu.Lock()
		require.Len(t, relay.carriage.byHash, 1)
		var n *carried
		for _, n = range relay.carriage.byHash {
		}
		passed := len(n.passed)
		relay.mu.Unlock()
		sent := f.at[1].Stats().ReceiptFramesSent
		body := receiptBody(relay.tag, tag, n.last, n.hash)
		ghosts := f.all.station(t, f.net.Host(f.net.NewHost(nil)), "ghost")
		for i := range 2000 {
			other := sha256.Sum256(fmt.Append(nil, i))
			ahead := receiptFrame(tag, other, n.last+1, receiptOf(f.at[2], body), receiptOf(f.at[2], body), receiptOf(f.at[2], body))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), ahead))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, other, n.last, receiptOf(f.at[2], body))))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, n.hash, n.last, receiptOf(ghosts, body))))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, n.hash, n.last, receiptOf(f.at[2], body))))
		}
		relay.mu.Lock()
		require.Len(t, relay.carriage.byHash, 1)
		require.Len(t, n.passed, passed)
		for _, nb := range relay.neighbours {
			require.LessOrEqual(t, len(nb.early), maxEarly)
		}
		require.Empty(t, n.out)
		relay.mu.Unlock()
		require.Equal(t, sent, f.at[1].Stats().ReceiptFramesSent)
		require.ErrorIs(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, n.hash, n.last,
			&wire.Receipt{Device: f.at[3].key.Public().(ed25519.PublicKey), Signature: make([]byte, 64)})), wire.ErrSignature, "a relay verifies")
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms, "u3")
	})
}

func TestReceiptsThatOvertakeTheirEnvelopeWaitForIt(t *testing.T) {
	inBubble(t, 4, func(t *testing.T, f *flock) {
		f.net.Chain()
		rooms := f.joinAll("ops")
		settle()
		f.net.Cut(0, 1)
		p, err := rooms[0].PublishConfirmedAsync(deadline(t, 9*time.Second), []byte("overtaken"), AsText())
		require.NoError(t, err)
		synctest.Wait()
		rooms[0].mu.Lock()
		tag := rooms[0].own.tag()
		var hash [sha256.Size]byte
		var last uint64
		for h, s := range rooms[0].confirms.sent {
			hash, last = h, s.last
		}
		rooms[0].mu.Unlock()
		// The end of the chain says that it has the envelope, and then takes it no more: only what
		// has overtaken can be passed on.
		early := receiptOf(f.at[3], receiptBody(rooms[0].tag, tag, last, hash))
		require.NoError(t, rooms[1].hearReceipts(f.at[2].host.ID(), receiptFrame(tag, hash, last, early)))
		f.net.Cut(2, 3)
		time.Sleep(100 * time.Millisecond)
		f.net.Heal()
		f.net.Cut(2, 3)
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms)
	})
}

func TestWhatAnAuthorMakesOthersCarryIsBounded(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		r := f.join(0, "ops")
		r.mu.Lock()
		defer r.mu.Unlock()
		envelopes := func(tag byte, from, n int) {
			fd := &feed{tag: feedTag{tag}}
			for i := range n {
				e := &envelope{
					Envelope: &wire.Envelope{First: uint64(from+i) + 1, Count: 1, Receipts: &wire.ReceiptsWanted{}},
					hash:     sha256.Sum256(fmt.Append(nil, tag, from+i)),
				}
				r.carryLocked(time.Now(), fd, e)
				r.carryLocked(time.Now(), fd, e)
			}
		}
		envelopes(1, 0, 10)
		envelopes(2, 0, 3*maxCarriedOfFeed)
		require.Len(t, r.carriage.byFeed[feedTag{2}], maxCarriedOfFeed)
		require.Len(t, r.carriage.byFeed[feedTag{1}], 10, "nobody pushes out the others")
		for tag := byte(3); tag < 50; tag++ {
			envelopes(tag, 0, maxCarriedOfFeed)
		}
		require.LessOrEqual(t, len(r.carriage.byHash), maxCarried)
		require.Len(t, r.carriage.byFeed[feedTag{1}], 10)
		r.carryLocked(time.Now(), &feed{tag: feedTag{60}}, &envelope{
			Envelope: &wire.Envelope{First: 1, Count: 1, Receipts: &wire.ReceiptsWanted{Collectors: make([][]byte, maxCollectors+1)}}, hash: [32]byte{1},
		})
		require.Nil(t, r.carriage.byHash[[32]byte{1}], "too many collectors")
		r.passDueLocked(time.Now().Add(carryLife))
		require.Empty(t, r.carriage.byHash)
		require.Empty(t, r.carriage.byFeed)
		require.Empty(t, r.carriage.waiting)
	})
}

func TestAnAuthorsQuestionsAreBounded(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		_, err := rooms[0].PublishConfirmed(t.Context(), []byte("once"), AsText())
		require.NoError(t, err)
		sent := f.at[1].Stats().ReceiptFramesSent
		rooms[1].mu.Lock()
		var n *carried
		for _, n = range rooms[1].carriage.byHash {
		}
		rooms[1].mu.Unlock()
		p := &confirmation{room: rooms[0], done: make(chan struct{}), members: make(map[identity.PublicKey]int)}
		require.NoError(t, rooms[0].askMembers(p)) // as if it had never been confirmed
		rooms[0].mu.Lock()
		for range 10 {
			require.True(t, rooms[0].askAgainLocked(n.hash, &confirming{last: n.last, pending: []*confirmation{p}}))
		}
		rooms[0].mu.Unlock()
		settle()
		require.Equal(t, sent+maxAsks, f.at[1].Stats().ReceiptFramesSent)
	})
}

func TestAReceiptSignsWhatTheProtocolSays(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		_, err := rooms[0].PublishConfirmed(t.Context(), []byte("sign here"), AsText())
		require.NoError(t, err)
		rooms[0].mu.Lock()
		kept, _, _ := rooms[0].journal.answer(rooms[0].own.tag(), span{rooms[0].head.last, 0}, 1)
		rooms[0].mu.Unlock()
		require.Len(t, kept, 1)
		e, err := wire.ParseEnvelope(kept[0].sealed)
		require.NoError(t, err)
		require.NotNil(t, e.Receipts)
		tag := sha256.Sum256(append(bytes.Clone(e.Device), e.Feed...))
		hash := sha256.Sum256(kept[0].sealed)
		signed := append([]byte("starling/receipt/1\x00"), e.Room...)
		signed = append(signed, tag[:16]...)
		signed = append(signed, 0, 0, 0, 0, 0, 0, 0, byte(e.First+uint64(e.Count)-1))
		signed = append(signed, hash[:]...)
		rooms[1].mu.Lock()
		defer rooms[1].mu.Unlock()
		own := rooms[1].carriage.byHash[hash].own
		require.True(t, ed25519.Verify(own.Device, signed, own.Signature))
		require.Equal(t, []byte(f.at[1].key.Public().(ed25519.PublicKey)), own.Device)
	})
}

func FuzzReceiptAsk(f *testing.F) {
	f.Add([]byte{0x0a, 0x20})
	f.Add(append([]byte{0x0a, 0x20}, bytes.Repeat([]byte{7}, 32)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := &Room{neighbours: make(map[peer.ID]*neighbour)}
		r.carriage.init()
		n := &carried{hash: [32]byte(bytes.Repeat([]byte{7}, 32)), passed: make(map[deviceHint]struct{}), out: make(map[peer.ID][]*wire.Receipt)}
		r.carriage.byHash[n.hash] = n
		for range maxAsks + 1 {
			r.askedLocked(time.Time{}, new(feed), new(envelope), in)
		}
		if n.asks > maxAsks || len(n.collectors) > maxCollectors {
			t.Fatalf("%d asks, %d collectors", n.asks, len(n.collectors))
		}
	})
}
