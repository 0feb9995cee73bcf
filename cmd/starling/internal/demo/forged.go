package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh"
)

func (c *cast) forgedRefused(ctx context.Context) (took time.Duration, detail string, err error) {
	receivers := []*player{c.bob, c.carol}
	var addrs [][]ma.Multiaddr
	for _, p := range append(receivers, c.alice) {
		addrs = append(addrs, p.Addrs())
	}
	app := identity.NewAppID(appName)
	mallory, err := newForger(ctx, app, roomName, addrs)
	if err != nil {
		return 0, "", fmt.Errorf("forger: %w", err)
	}
	defer func() { err = errors.Join(err, mallory.close()) }()
	if err := mallory.listening(ctx, len(addrs)); err != nil {
		return 0, "", err
	}

	// Genuine messages from alice, until the forger overhears one: her node sends it the room's
	// messages once it knows that the forger is on the topic.
	marks := []int{c.bob.inRoom.mark(), c.carol.inRoom.mark()}
	genuine, sealed, said, err := c.overheard(ctx, mallory)
	if err != nil {
		return 0, "", err
	}

	// Three messages that alice never sent: the next of her feed under a wrong signature, her own
	// with one bit flipped, her own with one byte more. And her own again, unchanged.
	begin := time.Now()
	forged, err := mallory.next(genuine, sealed, "forged: send money")
	if err != nil {
		return 0, "", err
	}
	turned := bytes.Clone(sealed)
	turned[bytes.LastIndex(turned, []byte("genuine"))] ^= 0x20
	before := []mesh.Stats{c.bob.Stats().Mesh, c.carol.Stats().Mesh}
	for _, data := range [][]byte{forged, turned, append(bytes.Clone(sealed), 0), sealed} {
		if err := mallory.publish(ctx, data); err != nil {
			return 0, "", fmt.Errorf("forger: %w", err)
		}
	}
	// They did arrive: each receiver has counted three refusals.
	for i, p := range receivers {
		if err := until(ctx, func() bool { return p.Stats().Mesh.EnvelopesRejected >= before[i].EnvelopesRejected+3 }); err != nil {
			return 0, "", fmt.Errorf("%s has not seen the forged messages: %d refused", p.name,
				p.Stats().Mesh.EnvelopesRejected-before[i].EnvelopesRejected)
		}
	}
	took = time.Since(begin)

	// The genuine message that comes next is not held up by the one that claimed its place.
	const last = "genuine, after the forged ones"
	if _, err := c.alice.room.PublishText(ctx, last); err != nil {
		return 0, "", err
	}
	said = append(said, last)
	for i, p := range receivers {
		if _, err := awaitFor(ctx, p.inRoom, marks[i], "genuine message after the forged ones",
			func(m *mesh.Message) bool { return string(m.Data) == last }); err != nil {
			return 0, "", err
		}
		var texts []string
		for _, ev := range p.inRoom.after(marks[i]) {
			if m, ok := ev.(*mesh.Message); ok {
				texts = append(texts, string(m.Data))
			}
		}
		if !slices.Equal(texts, said) {
			return 0, "", fmt.Errorf("%s got %q, and alice said %q", p.name, texts, said)
		}
	}
	return took, "three messages in alice's name and a replay: none delivered, and her next one was", nil
}

// overheard makes alice publish until the forger has heard a message. It returns that message and
// all that she said.
func (c *cast) overheard(ctx context.Context, mallory *forger) (e *wire.Envelope, sealed []byte, said []string, err error) {
	device := c.alice.Self().Peer
	for ctx.Err() == nil {
		said = append(said, fmt.Sprintf("genuine %d", len(said)+1))
		if _, err := c.alice.room.PublishText(ctx, said[len(said)-1]); err != nil {
			return nil, nil, nil, err
		}
		soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		e, sealed, err = mallory.overhear(soon, func(e *wire.Envelope) bool {
			return ofPeer(e, device) && bytes.Contains(e.Content, []byte(said[len(said)-1]))
		})
		cancel()
		if err == nil {
			return e, sealed, said, nil
		}
	}
	return nil, nil, nil, err
}
