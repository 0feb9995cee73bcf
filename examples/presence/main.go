// Presence answers: how does a program know whether a user is online?
//
//	go run ./examples/presence
//
// It runs two nodes. Alice asks for bob's status once, then watches it: his device pushes changes,
// so his log-out shows at once.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/starling-mesh/starling/node"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	alice, err := start()
	if err != nil {
		return err
	}
	defer alice.Close()
	bob, err := start()
	if err != nil {
		return err
	}
	defer bob.Close()
	if err := alice.Connect(ctx, bob.Addrs()[0].String()); err != nil {
		return err
	}
	if err := alice.Login(ctx, "alice"); err != nil { // asking needs a log-in
		return err
	}
	if err := bob.Login(ctx, "bob"); err != nil {
		return err
	}
	for len(alice.Online()) == 0 { // until his log-in has arrived, which any event may report
		if _, err := alice.Recv(ctx); err != nil {
			return err
		}
	}
	s, err := alice.Status(ctx, "bob")
	if err != nil {
		return err
	}
	fmt.Printf("bob is %s\n", s.State)

	asked := false
	for s, err := range alice.Watch(ctx, "bob") { // first the current status, then every change
		if err != nil {
			return err
		}
		fmt.Printf("watched: bob is %s\n", s.State)
		if asked {
			return nil
		}
		asked = true
		if err := bob.Logout(ctx); err != nil {
			return err
		}
	}
	return nil
}

// start makes a node that is reachable only on this machine.
func start() (*node.Node, error) {
	return node.New(node.WithApp("example.presence"), node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS())
}
