package mesh_test

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/mesh"
)

func ExampleRoom_PublishConfirmed() {
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
	if _, err := bm.Join(ctx, "ops"); err != nil {
		panic(err)
	}

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // by then there is an answer
	defer cancel()
	c, err := here.PublishConfirmed(ctx, []byte("evacuate"), mesh.AsText())
	if err != nil {
		panic(err)
	}
	for _, m := range c.Members {
		if m.Delivered {
			fmt.Println(m.Member.User, "has it")
		} else {
			fmt.Println(m.Member.User, "may not have it")
		}
	}
	fmt.Println(len(c.Unknown()), "unknown")
	// Output:
	// bob has it
	// 0 unknown
}
