package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// forger is a peer that follows none of our rules: a bare libp2p host on a room's topic, which
// hears everything published there and publishes whatever bytes it likes.
type forger struct {
	host  host.Host
	key   ed25519.PrivateKey
	topic *pubsub.Topic
	sub   *pubsub.Subscription
	stop  context.CancelFunc
}

// newForger connects a forger to every one of peers and subscribes it to the room's topic.
func newForger(ctx context.Context, app identity.AppID, room string, peers [][]ma.Multiaddr) (f *forger, err error) {
	keys, err := identity.GenerateKeys()
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(libp2p.Identity(keys.Libp2p()), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
	if err != nil {
		return nil, err
	}
	own, stop := context.WithCancel(context.Background())
	f = &forger{host: h, key: keys.Device, stop: stop}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	ps, err := pubsub.NewGossipSub(own, h, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithFloodPublish(true), pubsub.WithMessageIdFn(func(msg *pb.Message) string {
			sum := sha256.Sum256(msg.Data)
			return string(sum[:])
		}))
	if err != nil {
		return nil, err
	}
	// The topic as in docs/PROTOCOL.md. Anyone who knows the app and the room can compute it: it is
	// no secret that keeps a forger out.
	tag := app.RoomTag(room, "")
	name := "/starling/room/1/" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(tag[:]))
	if f.topic, err = ps.Join(name); err != nil {
		return nil, err
	}
	if f.sub, err = f.topic.Subscribe(pubsub.WithBufferSize(1024)); err != nil {
		return nil, err
	}
	for _, addrs := range peers {
		infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			if err := h.Connect(ctx, info); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// listening waits until n peers are known to be on the topic.
func (f *forger) listening(ctx context.Context, n int) error {
	err := until(ctx, func() bool { return len(f.topic.ListPeers()) >= n })
	if err != nil {
		return fmt.Errorf("the forger sees %d of %d members on the topic: %w", len(f.topic.ListPeers()), n, err)
	}
	return nil
}

// overhear waits for the next envelope on the topic that match accepts, and returns it with its
// bytes.
func (f *forger) overhear(ctx context.Context, match func(*wire.Envelope) bool) (*wire.Envelope, []byte, error) {
	for {
		msg, err := f.sub.Next(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("the forger overheard no envelope: %w", err)
		}
		e, err := wire.OpenEnvelope(msg.Data)
		if err == nil && match(e) {
			return e, msg.Data, nil
		}
	}
}

// publish sends bytes on the topic, to every member directly.
func (f *forger) publish(ctx context.Context, data []byte) error { return f.topic.Publish(ctx, data) }

// next forges the envelope that would follow e in its author's feed. All of it is right except the
// signature, which only the author's key could make.
func (f *forger) next(e *wire.Envelope, sealed []byte, text string) ([]byte, error) {
	forged := proto.CloneOf(e)
	hash := sha256.Sum256(sealed)
	forged.First, forged.Count, forged.Previous = e.Next(), 1, hash[:]
	forged.Content = wire.AppendItem(nil, wire.Kind_KIND_TEXT, []byte(text))
	return wire.SealEnvelope(f.key, forged)
}

// ofPeer reports whether an envelope names the device of that peer as its author.
func ofPeer(e *wire.Envelope, p peer.ID) bool {
	pub, err := crypto.UnmarshalEd25519PublicKey(e.Device)
	return err == nil && p.MatchesPublicKey(pub)
}

func (f *forger) close() error {
	if f.sub != nil {
		f.sub.Cancel()
	}
	f.stop()
	return f.host.Close()
}
