// Hello answers: what does the smallest program with a node look like?
//
//	go run ./examples/hello alice     on one machine
//	go run ./examples/hello bob       on another one of the same network
//
// Each greets the other, prints what it hears, and goes on until Ctrl-C.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		log.Fatal("usage: hello NAME")
	}
	if err := hello(ctx, os.Args[1]); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func hello(ctx context.Context, user string) error {
	n, err := node.New(node.WithApp("example.hello")) // finds others on this network by itself
	if err != nil {
		return err
	}
	defer n.Close() // leaves the room, and says so
	if err := n.Login(ctx, user); err != nil {
		return err
	}
	room, err := n.Join(ctx, "ops") // a room need not be created
	if err != nil {
		return err
	}
	if err := room.WaitPeers(ctx, 1); err != nil { // until somebody else is there
		return err
	}
	if _, err := room.PublishText(ctx, "hello"); err != nil { // to all in the room
		return err
	}
	for ev, err := range room.Events(ctx) { // queued since Join: nothing is missed
		if err != nil {
			return err
		}
		if m, ok := ev.(*mesh.Message); ok {
			fmt.Printf("%s: %s\n", m.From, m.Data)
		}
	}
	return nil
}
