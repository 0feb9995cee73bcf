package node_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"time"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// onLoopback keeps the examples on this machine. A program that wants to be found leaves these
// options out.
var onLoopback = []node.Option{
	node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS(),
}

// alone starts a node that is connected to no other, logged in as user.
func alone(ctx context.Context, user string, opts ...node.Option) *node.Node {
	n, err := node.New(append(slices.Clip(opts), onLoopback...)...)
	if err != nil {
		log.Fatal(err)
	}
	if err := n.Login(ctx, user); err != nil {
		log.Fatal(err)
	}
	return n
}

// Two nodes in one program meet in a room.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	alice := alone(ctx, "alice")
	defer alice.Close()
	bob := alone(ctx, "bob", node.WithPeers(alice.Addrs()[0].String()))
	defer bob.Close()

	desk, err := alice.Join(ctx, "ops")
	if err != nil {
		log.Fatal(err)
	}
	field, err := bob.Join(ctx, "ops")
	if err != nil {
		log.Fatal(err)
	}
	if err := field.WaitPeers(ctx, 1); err != nil { // alice, through the address above
		log.Fatal(err)
	}
	if _, err := field.PublishText(ctx, "all quiet"); err != nil { // to all in the room
		log.Fatal(err)
	}
	if _, err := field.SendText(ctx, "alice", "bring coffee"); err != nil { // to one of them
		log.Fatal(err)
	}
	heard := 0
	for ev, err := range desk.Events(ctx) { // queued since Join
		if err != nil {
			log.Fatal(err)
		}
		switch ev := ev.(type) {
		case *mesh.Message:
			fmt.Printf("%s to all: %s\n", ev.From, ev.Data)
			heard++
		case *mesh.DirectMessage: // takes another way than broadcasts, so either may come first
			fmt.Printf("%s to me: %s\n", ev.From, ev.Data)
			heard++
		}
		if heard == 2 {
			break
		}
	}
	// Unordered output:
	// bob to all: all quiet
	// bob to me: bring coffee
}

// A logged-in user gets messages outside rooms too, as events of the node.
func ExampleNode_Send() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	carol := alone(ctx, "carol")
	defer carol.Close()
	alice := alone(ctx, "alice")
	defer alice.Close()
	if err := alice.Connect(ctx, carol.Addrs()[0].String()); err != nil {
		log.Fatal(err)
	}

	receipt, err := alice.Send(ctx, "carol", []byte("lunch?"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("send", receipt.ID, "is in carol's queue")
	for ev, err := range carol.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if msg, ok := ev.(*mesh.DirectMessage); ok {
			fmt.Printf("%s: %s\n", msg.From, msg.Data)
			break
		}
	}
	// Output:
	// send 1 is in carol's queue
	// alice: lunch?
}

// The error of a failed send says whether it is safe to repeat it.
func ExampleNode_Send_failed() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	alice := alone(ctx, "alice")
	defer alice.Close()

	_, err := alice.SendText(ctx, "dave", "anybody there?")
	switch {
	case errors.Is(err, presence.ErrNotFound):
		fmt.Println("dave is not logged in anywhere that could be asked")
	case errors.Is(err, mesh.ErrUnreachable):
		fmt.Println("certainly not sent: repeat it")
	case errors.Is(err, mesh.ErrUnconfirmed):
		fmt.Println("it may have arrived")
	}
	// Output: dave is not logged in anywhere that could be asked
}

// Sends that do not wait for each other's receipts: each has its number at once and its result
// later.
func ExampleNode_SendAsync() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	carol := alone(ctx, "carol")
	defer carol.Close()
	alice := alone(ctx, "alice")
	defer alice.Close()
	if err := alice.Connect(ctx, carol.Addrs()[0].String()); err != nil {
		log.Fatal(err)
	}

	var sends []mesh.Pending[mesh.Receipt]
	for _, text := range []string{"one", "two", "three"} {
		p, err := alice.SendAsync(ctx, "carol", []byte(text))
		if err != nil {
			log.Fatal(err)
		}
		sends = append(sends, p)
	}
	for _, p := range sends {
		_, err := p.Result()
		fmt.Println(p.ID(), err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

// The same user key on two devices is one user: the later log-in wins.
func ExampleLoggedOut() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key := exampleKey() // from identity.ExportUserKey, or `starling id export`
	laptop := alone(ctx, "alice", node.WithUserKey(key))
	defer laptop.Close()
	phone := alone(ctx, "alice", node.WithUserKey(key))
	defer phone.Close()
	if err := phone.Connect(ctx, laptop.Addrs()[0].String()); err != nil {
		log.Fatal(err)
	}

	for ev, err := range laptop.Events(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if out, ok := ev.(*node.LoggedOut); ok {
			fmt.Println(out.User, out.Reason, out.By.Peer == phone.ID())
			break
		}
	}
	// Output: alice replaced true
}
