package stay

import (
	"crypto/sha256"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Envelope is a verified envelope: its device key has signed it, and its items can be walked.
type Envelope struct {
	*wire.Envelope
	device identity.PublicKey
	Peer   peer.ID // of device
	Feed   FeedID
	tag    FeedTag
	hash   [sha256.Size]byte // of the sealed bytes
	sealed []byte            // never written to
	Size   int               // of the sealed bytes
	came   time.Time         // when it came or, if it had to be fetched, was first published or received
	parked time.Time         // when it began to wait for its author
	Late   time.Duration     // see transit
	via    peer.ID           // the neighbour that it came from; "" when it was parked
	how    Way               // in which it came
	stored bool              // the store gave it: its author's presence is no news
	at     time.Time         // when it came here

	counted       bool // messages and own are known
	messages, own int  // see count
}

func newEnvelope(now time.Time, e *wire.Envelope, sealed []byte) (*Envelope, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(e.Device)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return &Envelope{
		Envelope: e,
		device:   identity.PublicKey(e.Device),
		Peer:     id,
		Feed:     FeedID(e.Feed),
		tag:      TagFeed(identity.PublicKey(e.Device), FeedID(e.Feed)),
		hash:     sha256.Sum256(sealed),
		sealed:   sealed,
		Size:     len(sealed),
		came:     now,
		at:       now,
	}, nil
}

// Fresh reports whether an envelope was published a moment ago, as far as is known.
func (e *Envelope) Fresh(now time.Time) bool { return now.Sub(e.came) < time.Second }

// Head is how far this node's own feed has got.
type Head struct {
	Last uint64            // sequence of its last item; 0: none yet
	hash [sha256.Size]byte // of its last sealed envelope
}

// Next returns the head after an envelope of count items.
func (h Head) Next(count uint32, sealed []byte) Head {
	return Head{h.Last + uint64(count), sha256.Sum256(sealed)}
}

// Previous returns what the next envelope names as the one before it.
func (h Head) Previous() []byte {
	if h.Last == 0 {
		return nil
	}
	return h.hash[:]
}

// last is the sequence of the envelope's last item.
func (e *Envelope) last() uint64 { return e.Next() - 1 }

// entry returns the sealed roster entry that is the envelope's only item; nil: it has none.
func (e *Envelope) entry() []byte {
	if e.Count != 1 || e.Scheme != 0 {
		return nil
	}
	kind, sealed, _, err := wire.NextItem(e.Content)
	if err != nil || kind != wire.Kind_KIND_ROSTER {
		return nil
	}
	return sealed
}
