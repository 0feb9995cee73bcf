// Lanchat answers: what is the least that a chat between machines on one network needs?
//
//	go run ./examples/lanchat -user alice     on one machine
//	go run ./examples/lanchat -user bob       on another
//
// They find each other by mDNS, with no address and no server given. Typed lines go to everybody in
// the room; the end of standard input ends the program. -peer is for machines that mDNS does not
// reach. Every start makes new keys; "starling chat" keeps them and can do more.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func main() {
	user := flag.String("user", "guest", "your `name`")
	roomName := flag.String("room", "lobby", "the `name` of the room")
	listen := flag.String("listen", "", "a `multiaddr` to listen on (default: all interfaces)")
	peer := flag.String("peer", "", "the `multiaddr` of somebody who is not on this network")
	noMDNS := flag.Bool("no-mdns", false, "do not look for others on this network")
	flag.Parse()

	opts := []node.Option{node.WithApp("example.lanchat")}
	if *listen != "" {
		opts = append(opts, node.WithListen(*listen))
	}
	if *peer != "" {
		opts = append(opts, node.WithPeers(*peer))
	}
	if *noMDNS {
		opts = append(opts, node.WithoutMDNS())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := chat(ctx, *user, *roomName, opts); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func chat(ctx context.Context, user, roomName string, opts []node.Option) error {
	n, err := node.New(opts...)
	if err != nil {
		return err
	}
	defer n.Close() // leaves the room, so that the others see it leave
	if err := n.SetUser(user); err != nil {
		return err
	}
	room, err := n.Join(ctx, roomName)
	if err != nil {
		return err
	}
	fmt.Printf("%s is in %s, at %s\n", user, roomName, n.Addrs()[0])
	go say(ctx, room)
	for ev, err := range room.Events(ctx) {
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case *mesh.Message:
			fmt.Printf("%s: %q\n", ev.From, ev.Data) // quoted: it may contain anything
		case *mesh.MemberJoined:
			fmt.Printf("* %s is here\n", ev.Member)
		case *mesh.MemberLeft:
			fmt.Printf("* %s is gone\n", ev.Member)
		}
	}
	return nil
}

// say publishes the typed lines. At the end of the input it leaves the room, which ends the events
// too.
func say(ctx context.Context, room *mesh.Room) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := room.PublishText(ctx, lines.Text()); err != nil {
			log.Print(err)
		}
	}
	room.Leave(ctx)
}
