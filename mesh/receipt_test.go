package mesh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
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
	for hash, last = range rooms[0].inside().Awaited {
	}
	require.NotZero(t, last)
	return rooms, p, hash, last
}

// receiptOf signs a receipt of body as a station does.
func receiptOf(s *station, body []byte) *wire.Receipt {
	return &wire.Receipt{Device: s.key.Public().(ed25519.PublicKey), Signature: wire.Sign(wire.DomainReceipt, s.key, body)}
}

func receiptFrame(tag stay.FeedTag, hash [sha256.Size]byte, last uint64, list ...*wire.Receipt) *wire.RoomFrame_Receipts {
	return &wire.RoomFrame_Receipts{Feed: tag[:], Last: last, Envelope: hash[:], List: list}
}

func TestReceiptsThatProveNothingCountForNothing(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		rooms, p, hash, last := awaited(t, f)
		a, tag, bad, victim := rooms[0], rooms[0].stay.Own().Tag(), f.at[1], f.at[2]
		own := stay.ReceiptBody(a.tag, tag, last, hash)
		device := victim.key.Public().(ed25519.PublicKey)
		other := sha256.Sum256([]byte("another envelope"))
		for name, receipt := range map[string]*wire.Receipt{
			"signed by another":          {Device: device, Signature: receiptOf(bad, own).Signature},
			"of another envelope":        receiptOf(victim, stay.ReceiptBody(a.tag, tag, last, other)),
			"of another room":            receiptOf(victim, stay.ReceiptBody([32]byte{1}, tag, last, hash)),
			"of another feed":            receiptOf(victim, stay.ReceiptBody(a.tag, stay.FeedTag{1}, last, hash)),
			"of another place":           receiptOf(victim, stay.ReceiptBody(a.tag, tag, last+1, hash)),
			"under the domain of a list": {Device: device, Signature: wire.Sign(wire.DomainRoster, victim.key, own)},
			"no signature at all":        {Device: device, Signature: make([]byte, 64)},
		} {
			require.ErrorIs(t, a.hearReceipts(bad.host.ID(), receiptFrame(tag, hash, last, receipt)), wire.ErrSignature, name)
		}
		good := receiptOf(victim, own)
		for name, q := range map[string]*wire.RoomFrame_Receipts{
			"none":              receiptFrame(tag, hash, last),
			"too many":          receiptFrame(tag, hash, last, make([]*wire.Receipt, stay.MaxReceipts+1)...),
			"a short device":    receiptFrame(tag, hash, last, &wire.Receipt{Device: device[:31], Signature: good.Signature}),
			"a short signature": receiptFrame(tag, hash, last, &wire.Receipt{Device: device, Signature: good.Signature[:63]}),
			"a short feed":      {Feed: tag[:15], Last: last, Envelope: hash[:], List: []*wire.Receipt{good}},
			"a short envelope":  {Feed: tag[:], Last: last, Envelope: hash[:31], List: []*wire.Receipt{good}},
			"no place":          receiptFrame(tag, hash, 0, good),
		} {
			require.ErrorIs(t, a.hearReceipts(bad.host.ID(), q), stay.ErrBadReceipts, name)
		}
		// A genuine receipt of something else is simply not wanted.
		stranger := f.all.station(t, f.net.Host(f.net.NewHost(nil)), "stranger")
		for name, q := range map[string]*wire.RoomFrame_Receipts{
			"of an envelope that was not":      receiptFrame(tag, other, last, receiptOf(victim, stay.ReceiptBody(a.tag, tag, last, other))),
			"of a feed that was not":           receiptFrame(stay.FeedTag{1}, hash, last, receiptOf(victim, stay.ReceiptBody(a.tag, stay.FeedTag{1}, last, hash))),
			"of a place that it does not have": receiptFrame(tag, hash, last+1, receiptOf(victim, stay.ReceiptBody(a.tag, tag, last+1, hash))),
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
		good := receiptOf(f.at[2], stay.ReceiptBody(rooms[0].tag, rooms[0].stay.Own().Tag(), last, hash))
		require.NoError(t, rooms[0].hearReceipts(f.at[1].host.ID(), receiptFrame(rooms[0].stay.Own().Tag(), hash, last, good, good)))
		c, err := p.Result()
		require.NoError(t, err)
		confirmed(t, c, rooms)
		// And for its own envelope only.
		p, err = rooms[0].PublishConfirmedAsync(deadline(t, 3*time.Second), []byte("another"), AsText())
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, rooms[0].hearReceipts(f.at[1].host.ID(), receiptFrame(rooms[0].stay.Own().Tag(), hash, last, good)))
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
			Receipts: receiptFrame(rooms[0].stay.Own().Tag(), hash, last, forged),
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
		relay, tag := rooms[1], rooms[0].stay.Own().Tag()
		carried := relay.inside().Carried
		require.Len(t, carried, 1)
		var hash [sha256.Size]byte
		var n stay.Carried
		for hash, n = range carried {
		}
		sent := f.at[1].Stats().ReceiptFramesSent
		body := stay.ReceiptBody(relay.tag, tag, n.Last, hash)
		ghosts := f.all.station(t, f.net.Host(f.net.NewHost(nil)), "ghost")
		for i := range 2000 {
			other := sha256.Sum256(fmt.Append(nil, i))
			ahead := receiptFrame(tag, other, n.Last+1, receiptOf(f.at[2], body), receiptOf(f.at[2], body), receiptOf(f.at[2], body))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), ahead))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, other, n.Last, receiptOf(f.at[2], body))))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, hash, n.Last, receiptOf(ghosts, body))))
			require.NoError(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, hash, n.Last, receiptOf(f.at[2], body))))
		}
		in := relay.inside()
		require.Len(t, in.Carried, 1)
		require.Equal(t, n.Passed, in.Carried[hash].Passed)
		for _, nb := range in.Near {
			require.LessOrEqual(t, nb.Early, stay.MaxEarly)
		}
		require.Zero(t, in.Carried[hash].Queued)
		require.Equal(t, sent, f.at[1].Stats().ReceiptFramesSent)
		require.ErrorIs(t, relay.hearReceipts(f.at[2].host.ID(), receiptFrame(tag, hash, n.Last,
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
		tag := rooms[0].stay.Own().Tag()
		var hash [sha256.Size]byte
		var last uint64
		for hash, last = range rooms[0].inside().Awaited {
		}
		// The end of the chain says that it has the envelope, and then takes it no more: only what
		// has overtaken can be passed on.
		early := receiptOf(f.at[3], stay.ReceiptBody(rooms[0].tag, tag, last, hash))
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

func TestAnAuthorsQuestionsAreBounded(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		_, err := rooms[0].PublishConfirmed(t.Context(), []byte("once"), AsText())
		require.NoError(t, err)
		sent := f.at[1].Stats().ReceiptFramesSent
		carried := rooms[1].inside().Carried
		require.Len(t, carried, 1)
		for hash := range carried { // as if it had never been confirmed
			device := f.at[1].key.Public().(ed25519.PublicKey)
			ask, err := proto.Marshal(&wire.ReceiptAsk{Envelope: hash[:], Missing: [][]byte{device[:8]}})
			require.NoError(t, err)
			for range 10 {
				rooms[0].outbox.push(wire.Kind_KIND_ASK, ask)
			}
		}
		settle()
		require.Equal(t, sent+stay.MaxAsks, f.at[1].Stats().ReceiptFramesSent)
	})
}

func TestAReceiptSignsWhatTheProtocolSays(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		settle()
		_, err := rooms[0].PublishConfirmed(t.Context(), []byte("sign here"), AsText())
		require.NoError(t, err)
		kept := rooms[0].retained(rooms[0].stay.Own().Tag(), rooms[0].inside().Head.Last)
		require.Len(t, kept, 1)
		e, err := wire.ParseEnvelope(kept[0].Sealed)
		require.NoError(t, err)
		require.NotNil(t, e.Receipts)
		tag := sha256.Sum256(append(bytes.Clone(e.Device), e.Feed...))
		hash := sha256.Sum256(kept[0].Sealed)
		signed := append([]byte("starling/receipt/1\x00"), e.Room...)
		signed = append(signed, tag[:16]...)
		signed = append(signed, 0, 0, 0, 0, 0, 0, 0, byte(e.First+uint64(e.Count)-1))
		signed = append(signed, hash[:]...)
		own := rooms[1].inside().Carried[hash].Own
		require.True(t, ed25519.Verify(own.Device, signed, own.Signature))
		require.Equal(t, []byte(f.at[1].key.Public().(ed25519.PublicKey)), own.Device)
	})
}
