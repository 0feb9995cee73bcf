package mesh

import (
	"crypto/sha256"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// envelope is a verified envelope: its device key has signed it, and its items can be walked.
type envelope struct {
	*wire.Envelope
	device identity.PublicKey
	peer   peer.ID // of device
	feed   FeedID
	tag    feedTag
	hash   [sha256.Size]byte // of the sealed bytes
	sealed []byte            // never written to
	size   int               // of the sealed bytes
	came   time.Time         // when it came or, if it had to be fetched, was first published or received
	parked time.Time         // when it began to wait for its author
	late   time.Duration     // see transit
	via    peer.ID           // the neighbour that it came from; "" when it was parked
	how    way               // in which it came
	stored bool              // the store gave it: its author's presence is no news
}

func newEnvelope(now time.Time, e *wire.Envelope, sealed []byte) (*envelope, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(e.Device)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return &envelope{
		Envelope: e,
		device:   identity.PublicKey(e.Device),
		peer:     id,
		feed:     FeedID(e.Feed),
		tag:      tagFeed(identity.PublicKey(e.Device), FeedID(e.Feed)),
		hash:     sha256.Sum256(sealed),
		sealed:   sealed,
		size:     len(sealed),
		came:     now,
	}, nil
}

// head is how far this node's own feed has got.
type head struct {
	last uint64            // sequence of its last item; 0: none yet
	hash [sha256.Size]byte // of its last sealed envelope
}

// next returns the head after an envelope of count items.
func (h head) next(count uint32, sealed []byte) head {
	return head{h.last + uint64(count), sha256.Sum256(sealed)}
}

// previous returns what the next envelope names as the one before it.
func (h head) previous() []byte {
	if h.last == 0 {
		return nil
	}
	return h.hash[:]
}

// last is the sequence of the envelope's last item.
func (e *envelope) last() uint64 { return e.Next() - 1 }
