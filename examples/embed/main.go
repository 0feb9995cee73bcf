// Embed answers: how does a program get a node of its own, and what can it do with it?
//
//	go run ./examples/embed
//
// Here two nodes run in one process and on loopback only, so that the example shows something
// anywhere and ends by itself. A real program has one node. Without WithListen and WithoutMDNS it
// finds the others on its network; with WithDataDir it is the same user after a restart.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	alice := start(node.WithListen("/ip4/127.0.0.1/tcp/0"))
	defer alice.Close()
	room := enter(ctx, alice, "alice")

	bob := start(node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithPeers(alice.Addrs()[0].String()))
	defer bob.Close()
	bobsRoom := enter(ctx, bob, "bob")
	check(bobsRoom.WaitPeers(ctx, 1))

	_, err := bobsRoom.PublishText(ctx, "hello") // to all in the room
	check(err)
	_, err = bobsRoom.SendText(ctx, "alice", "psst") // to one of them; returns when her node has taken it
	check(err)
	check(bobsRoom.Leave(ctx))

	for ev, err := range room.Events(ctx) { // queued since Join: nothing is missed
		check(err)
		switch ev := ev.(type) {
		case *mesh.Message:
			fmt.Printf("%s says to all: %s\n", ev.From, ev.Data)
		case *mesh.DirectMessage:
			fmt.Printf("%s says to alice alone: %s\n", ev.From, ev.Data)
		case *mesh.MemberLeft:
			fmt.Printf("%s has left\n", ev.Member)
			return
		}
	}
}

func start(opts ...node.Option) *node.Node {
	n, err := node.New(append([]node.Option{node.WithApp("example.embed"), node.WithoutMDNS()}, opts...)...)
	check(err)
	return n
}

func enter(ctx context.Context, n *node.Node, user string) *mesh.Room {
	check(n.Login(ctx, user))
	room, err := n.Join(ctx, "ops")
	check(err)
	return room
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
