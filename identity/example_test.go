package identity_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/starling-mesh/starling/identity"
)

// What one device signs, any other can verify from the bytes alone.
func Example() {
	keys, err := identity.GenerateKeys()
	if err != nil {
		fmt.Println(err)
		return
	}
	app, now := identity.NewAppID("starling"), time.Now()
	st, err := keys.Sign(identity.Statement{
		App: app, User: "alice", LoggedIn: true,
		Sequence: identity.NextSequence(0, now), Issued: now, Expires: now.Add(24 * time.Hour),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	sealed := st.Sealed() // the bytes to send

	got, err := identity.Verify(sealed, app, time.Now())
	fmt.Println(got.User, got.UserKey == keys.UserKey(), got.Peer == keys.PeerID(), err)
	sealed[100] ^= 1
	_, err = identity.Verify(sealed, app, time.Now())
	fmt.Println(err != nil)
	// Output:
	// alice true true <nil>
	// true
}

// A second device of a user keeps its own device key.
func ExampleImportUserKey() {
	base, err := os.MkdirTemp("", "starling")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(base)
	phone, laptop := filepath.Join(base, "phone"), filepath.Join(base, "laptop")
	first, err := identity.OpenDir(phone)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer first.Close()

	text, err := identity.ExportUserKey(phone)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := identity.ImportUserKey(laptop, text); err != nil {
		fmt.Println(err)
		return
	}
	second, err := identity.OpenDir(laptop)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer second.Close()
	fmt.Println("same user:", first.Keys().UserKey() == second.Keys().UserKey())
	fmt.Println("same device:", first.Keys().PeerID() == second.Keys().PeerID())
	// Output:
	// same user: true
	// same device: false
}

func ExampleOpenDir() {
	path, err := os.MkdirTemp("", "starling")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(path)
	dir, err := identity.OpenDir(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = identity.OpenDir(path)
	fmt.Println("a second time:", errors.Is(err, identity.ErrInUse))
	fmt.Println("close:", dir.Close())
	// Output:
	// a second time: true
	// close: <nil>
}

func ExamplePins() {
	genuine, _ := identity.GenerateKeys()
	somebody, _ := identity.GenerateKeys()
	pins := identity.NewPins()
	_, ok := pins.Pin("alice", genuine.UserKey())
	fmt.Println("first use:", ok)
	pinned, ok := pins.Pin("alice", somebody.UserKey())
	fmt.Println("another key:", ok, pinned == genuine.UserKey())
	// Output:
	// first use: true
	// another key: false true
}

func ExampleParseAddress() {
	for _, s := range []string{"alice", "alice#7jgynq5vkgvgzv6d", "alice#short", "al ice"} {
		a, err := identity.ParseAddress(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Printf("%s, key %q\n", a.User, a.Fingerprint)
	}
	// Output:
	// alice, key ""
	// alice, key "7jgynq5vkgvgzv6d"
	// address "alice#short": after '#' belongs a fingerprint of 16 characters of a-z 2-7
	// user ID "al ice": ' ' is not one of a-z A-Z 0-9 _ @ . -
}

func ExampleCheckUser() {
	fmt.Println(identity.CheckUser("alice@example.org"))
	fmt.Println(identity.CheckUser(""))
	// Output:
	// <nil>
	// user ID "": empty
}
