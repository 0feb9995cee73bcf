package mesh_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// card is an Identity that knows its peers beforehand. Programs use presence.Directory, which asks
// them.
type card struct {
	app   identity.AppID
	self  *identity.Statement
	peers map[peer.ID]identity.Session
}

func (c *card) App() identity.AppID       { return c.app }
func (c *card) Incarnation() uint64       { return 1 }
func (c *card) Self() *identity.Statement { return c.self }

func (c *card) Peer(_ context.Context, p peer.ID) (identity.Session, error) {
	if s, ok := c.peers[p]; ok {
		return s, nil
	}
	return identity.Session{}, errors.New("a stranger")
}

// start returns a host on loopback whose user is logged in.
func start(user string) (host.Host, *card) {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		panic(err)
	}
	raw, err := h.Peerstore().PrivKey(h.ID()).Raw()
	if err != nil {
		panic(err)
	}
	keys := &identity.Keys{Device: ed25519.PrivateKey(raw), User: ed25519.PrivateKey(raw)}
	c := &card{app: identity.NewAppID("example"), peers: make(map[peer.ID]identity.Session)}
	now := time.Now()
	c.self, err = keys.Sign(identity.Statement{
		App: c.app, User: user, LoggedIn: true, Sequence: identity.NextSequence(0, now), Issued: now, Expires: now.Add(time.Hour),
	})
	if err != nil {
		panic(err)
	}
	return h, c
}

// introduce connects two hosts whose users then know each other.
func introduce(ah host.Host, a *card, bh host.Host, b *card) {
	a.peers[bh.ID()] = identity.Session{Statement: b.self, Incarnation: 1}
	b.peers[ah.ID()] = identity.Session{Statement: a.self, Incarnation: 1}
	if err := ah.Connect(context.Background(), peer.AddrInfo{ID: bh.ID(), Addrs: bh.Addrs()}); err != nil {
		panic(err)
	}
}

func ExampleMesh_Send() {
	aliceHost, alice := start("alice")
	defer aliceHost.Close()
	bobHost, bob := start("bob")
	defer bobHost.Close()
	introduce(aliceHost, alice, bobHost, bob)

	from, err := mesh.New(aliceHost, alice)
	if err != nil {
		panic(err)
	}
	defer from.Close()
	queue := make(chan *mesh.DirectMessage, 1)
	to, err := mesh.New(bobHost, bob, mesh.WithInbox(func(m *mesh.DirectMessage, _ int) bool {
		select {
		case queue <- m:
			return true
		default:
			return false // full: the sender is told
		}
	}))
	if err != nil {
		panic(err)
	}
	defer to.Close()

	ctx := context.Background()
	receipt, err := from.Send(ctx, bob.self.Login(), []byte("psst"), mesh.AsText())
	fmt.Println("send", receipt.ID, err)
	_, err = from.Send(ctx, bob.self.Login(), []byte("hey!"), mesh.AsText())
	fmt.Println(errors.Is(err, mesh.ErrRefused), err)
	m := <-queue
	fmt.Printf("%s: %s\n", m.From, m.Data)
	// Output:
	// send 1 <nil>
	// true refused by the receiver: queue full
	// alice: psst
}

func ExampleMesh_SendAsync() {
	aliceHost, alice := start("alice")
	defer aliceHost.Close()
	bobHost, bob := start("bob")
	defer bobHost.Close()
	introduce(aliceHost, alice, bobHost, bob)

	from, err := mesh.New(aliceHost, alice)
	if err != nil {
		panic(err)
	}
	defer from.Close()
	got := 0
	to, err := mesh.New(bobHost, bob, mesh.WithInbox(func(*mesh.DirectMessage, int) bool { got++; return true }))
	if err != nil {
		panic(err)
	}

	var sends []mesh.Pending[mesh.Receipt]
	for i := range 1000 {
		p, err := from.SendAsync(context.Background(), bob.self.Login(), fmt.Append(nil, "message ", i))
		if err != nil {
			panic(err)
		}
		sends = append(sends, p)
	}
	delivered := 0
	for _, p := range sends {
		if _, err := p.Result(); err == nil {
			delivered++
		}
	}
	to.Close() // and everything that it had taken is in got
	fmt.Println(delivered, "delivered,", got, "taken")
	// Output: 1000 delivered, 1000 taken
}

func ExampleMesh_Join() {
	aliceHost, alice := start("alice")
	defer aliceHost.Close()
	bobHost, bob := start("bob")
	defer bobHost.Close()
	introduce(aliceHost, alice, bobHost, bob)
	am, err := mesh.New(aliceHost, alice)
	if err != nil {
		panic(err)
	}
	defer am.Close()
	bm, err := mesh.New(bobHost, bob)
	if err != nil {
		panic(err)
	}
	defer bm.Close()

	ctx := context.Background()
	here, err := am.Join(ctx, "ops")
	if err != nil {
		panic(err)
	}
	there, err := bm.Join(ctx, "ops", mesh.WithInfo([]byte("on call"))) // ready: nothing from here on is missed
	if err != nil {
		panic(err)
	}
	published, err := here.PublishText(ctx, "good morning")
	fmt.Println("handed to", published.Neighbours, "neighbour", err)
	_, err = here.SendText(ctx, "bob", "psst")
	fmt.Println("sent to bob alone:", err)

	for ev, err := range there.Events(ctx) { // queued since Join
		if err != nil {
			panic(err)
		}
		switch ev := ev.(type) {
		case *mesh.MemberJoined:
			fmt.Println("bob sees", ev.Member.User)
		case *mesh.Message:
			fmt.Printf("bob hears %s say %q to all\n", ev.From.User, ev.Data)
			there.Leave(ctx) // which ends the loop, after what was queued before
		}
	}
	ev, _ := here.Recv(ctx)
	fmt.Println("alice is in the room:", ev.(*mesh.RoomReady).Join)
	ev, _ = here.Recv(ctx)
	fmt.Printf("alice sees %s (%s)\n", ev.(*mesh.MemberJoined).Member.User, ev.(*mesh.MemberJoined).Member.Info)
	ev, _ = here.Recv(ctx)
	fmt.Println("alice sees him leave:", ev.(*mesh.MemberLeft).Reason)
	// Unordered output:
	// handed to 1 neighbour <nil>
	// sent to bob alone: <nil>
	// alice is in the room: first
	// bob sees alice
	// bob hears alice say "good morning" to all
	// alice sees bob (on call)
	// alice sees him leave: quit
}
