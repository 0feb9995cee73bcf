package presence_test

import (
	"context"
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// start returns a directory on its own host, on loopback, and a function that closes both.
func start(app string, opts ...presence.Option) (*presence.Directory, host.Host, func(), error) {
	keys, err := identity.GenerateKeys()
	if err != nil {
		return nil, nil, nil, err
	}
	h, err := libp2p.New(libp2p.Identity(keys.Libp2p()), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := presence.New(h, identity.NewAppID(app), keys, opts...)
	if err != nil {
		h.Close()
		return nil, nil, nil, err
	}
	return d, h, func() { d.Close(); h.Close() }, nil
}

// Two nodes meet, and one finds the other's user by name.
func Example() {
	met := make(chan string, 1)
	alice, aliceHost, closeAlice, err := start("example", presence.WithObserver(func(ev presence.Event) {
		if up, ok := ev.(presence.PeerUp); ok {
			met <- up.Session.Statement.User
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeAlice()
	bob, bobHost, closeBob, err := start("example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeBob()

	ctx := context.Background()
	if err := bob.Login(ctx, "bob"); err != nil {
		fmt.Println(err)
		return
	}
	if err := aliceHost.Connect(ctx, *host.InfoFromHost(bobHost)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("met", <-met)
	found, err := alice.Find(ctx, identity.Address{User: "bob"})
	fmt.Println("found", found.Login, found.Source, err)
	fmt.Println("proved:", found.Login == bob.Self().Login())
	// Output:
	// met bob
	// found bob connected <nil>
	// proved: true
}

// Find searches for a user who is not connected. If it finds the user, it pins the name.
func ExampleDirectory_Find() {
	alice, _, closeAlice, err := start("example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer closeAlice()
	_, err = alice.Find(context.Background(), identity.Address{User: "carol"})
	fmt.Println(err)
	// Output:
	// user not found: carol
}

// One user on two devices: the later log-in stays.
func ExampleDirectory_Login() {
	first, err := identity.GenerateKeys()
	if err != nil {
		fmt.Println(err)
		return
	}
	device, err := identity.GenerateKeys()
	if err != nil {
		fmt.Println(err)
		return
	}
	replaced := make(chan presence.Replaced, 1)
	app, ctx := identity.NewAppID("example"), context.Background()
	var hosts []host.Host
	var dirs []*presence.Directory
	for _, keys := range []*identity.Keys{first, device.WithUser(first.User)} {
		h, err := libp2p.New(libp2p.Identity(keys.Libp2p()), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer h.Close()
		d, err := presence.New(h, app, keys, presence.WithObserver(func(ev presence.Event) {
			if ev, ok := ev.(presence.Replaced); ok {
				replaced <- ev
			}
		}))
		if err != nil {
			fmt.Println(err)
			return
		}
		defer d.Close()
		hosts, dirs = append(hosts, h), append(dirs, d)
	}
	phone, laptop := dirs[0], dirs[1]
	fmt.Println("phone:", phone.Login(ctx, "alice"))
	if err := hosts[1].Connect(ctx, *host.InfoFromHost(hosts[0])); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("laptop:", laptop.Login(ctx, "alice"))
	ev := <-replaced
	fmt.Println("replaced by the laptop:", ev.By == laptop.Self().Login())
	fmt.Println("phone logged in:", phone.Self().LoggedIn)
	// Output:
	// phone: <nil>
	// laptop: <nil>
	// replaced by the laptop: true
	// phone logged in: false
}
