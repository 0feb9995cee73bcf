package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// The demo's app and rooms. Nobody else is in them: no other node is ever connected.
const (
	appName  = "starling.demo"
	roomName = "demo"
	sideRoom = "side"
)

// cast is who takes part in a demo.
type cast struct {
	log    *slog.Logger
	ctx    context.Context // of the watches; ends with the demo
	stop   context.CancelFunc
	bobKey []byte // the user key that bob has on both of his devices
	alice  *player
	bob    *player
	carol  *player
	laptop *player // bob's second device

	vouched []*player // nodes of an app with an issuer, separate from those above
}

// player is one node of the demo, with everything that its streams of events have delivered.
type player struct {
	*node.Node
	name   string
	outer  *watch // events of the node: messages outside rooms
	room   *mesh.Room
	inRoom *watch
}

// newPlayer makes a node on loopback, in memory.
func (c *cast) newPlayer(name string, opts ...node.Option) (*player, error) {
	opts = append([]node.Option{
		node.WithApp(appName), node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS(),
		node.WithLogger(c.log.With("node", name)),
	}, opts...)
	n, err := node.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &player{Node: n, name: name}
	for _, a := range n.Addrs() {
		if ip, err := manet.ToIP(a); err != nil || !ip.IsLoopback() {
			return nil, errors.Join(fmt.Errorf("%s listens on %s, outside of loopback", name, a), n.Close())
		}
	}
	p.outer = newWatch(c.ctx, name, n.Recv)
	return p, nil
}

func (p *player) connect(ctx context.Context, others ...*player) error {
	for _, o := range others {
		if err := p.Connect(ctx, o.Addrs()[0].String()); err != nil {
			return fmt.Errorf("%s to %s: %w", p.name, o.name, err)
		}
	}
	return nil
}

// awaitLogin waits until p has received and verified o's log-in.
func (p *player) awaitLogin(ctx context.Context, o *player) error {
	want := node.Peer{Login: o.Self(), LoggedIn: true}
	_, err := p.outer.await(ctx, 0, "log-in of "+o.name, func(ev mesh.Event) bool {
		switch ev := ev.(type) {
		case *node.PeerUp:
			return ev.Peer == want
		case *node.PeerChanged:
			return ev.Peer == want
		}
		return false
	})
	return err
}

func (c *cast) join(ctx context.Context, p *player, opts ...mesh.JoinOption) (err error) {
	if p.room, err = p.Join(ctx, roomName, opts...); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.inRoom = newWatch(c.ctx, p.name+" in the room", p.room.Recv)
	return nil
}

// close ends the demo, whatever state it is in.
func (c *cast) close() error {
	if c.stop == nil {
		return nil
	}
	var errs []error
	all := append(c.vouched, c.laptop, c.carol, c.bob, c.alice)
	for _, p := range all {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	c.stop()
	for _, p := range all {
		if p != nil {
			<-p.outer.done
			if p.inRoom != nil {
				<-p.inRoom.done
			}
		}
	}
	return errors.Join(errs...)
}
