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
	defer func() {
		if err := recover(); err != nil && ctx.Err() == nil { // Ctrl-C is no failure
			log.Fatal(err)
		}
	}()
	hello(ctx, os.Args[1])
}

func hello(ctx context.Context, user string) {
	n, err := node.New(node.WithApp("example.hello")) // finds others on this network by itself
	check(err)
	defer n.Close() // leaves the room, and says so
	check(n.Login(ctx, user))
	room, err := n.Join(ctx, "ops") // a room need not be created
	check(err)
	check(room.WaitPeers(ctx, 1))           // until somebody else is there
	_, err = room.PublishText(ctx, "hello") // to all in the room
	check(err)
	for ev, err := range room.Events(ctx) { // queued since Join: nothing is missed
		check(err)
		if m, ok := ev.(*mesh.Message); ok {
			fmt.Printf("%s: %s\n", m.From, m.Data)
		}
	}
}

// check ends the program if err is not nil: as a panic, so that the node is closed.
func check(err error) {
	if err != nil {
		panic(err)
	}
}
