// Token answers: how does an app with its own backend say who its users are?
//
//	go run ./examples/token
//
// The backend knows its users and issues tokens. Nodes need it for nothing else: their messages do
// not pass through it, and each node checks the others' tokens by itself. Here everything runs in
// one process and on loopback, so that the example shows something anywhere and ends by itself.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

const app = "example.token"

// backend alone has the issuer key.
type backend struct {
	issuer    *identity.Issuer
	passwords map[string]string
}

func newBackend() *backend {
	_, key, err := ed25519.GenerateKey(rand.Reader) // or identity.ReadKey of a file made by `starling issuer new`
	check(err)
	issuer, err := identity.NewIssuer(app, key)
	check(err)
	return &backend{issuer, map[string]string{"alice": "sesame", "bob": "swordfish"}}
}

// ServeHTTP issues a token to a client that knows the password, for the device that asks.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password := r.PostFormValue("user"), r.PostFormValue("password")
	if want, ok := b.passwords[user]; !ok || password != want {
		http.Error(w, "wrong user or password", http.StatusForbidden)
		return
	}
	device, err := identity.ParseDeviceKey(r.PostFormValue("device"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	role := "member"
	if user == "alice" {
		role = "moderator"
	}
	token, err := b.issuer.Issue(identity.Claims{
		User: user, Device: device, Login: true, Rooms: map[string]string{"ops": role},
		Expires: time.Now().Add(20 * time.Second), // an hour would do; this shows the renewal at once
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(token)
}

// dismiss revokes everything that was issued to a user.
func (b *backend) dismiss(user string) []byte {
	var before *identity.Revocations // a backend keeps its list
	next := before.Next(time.Now())
	next.Users[user] = time.Now().Add(time.Second)
	list, err := b.issuer.Revoke(next)
	check(err)
	return list
}

// client is the app on one device.
type client struct {
	*node.Node
	user, password, backend string
}

// token asks the backend for a token.
func (c *client) token(ctx context.Context) string {
	form := url.Values{"user": {c.user}, "password": {c.password}, "device": {string(c.DeviceKey().JWK())}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.backend, strings.NewReader(form.Encode()))
	check(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	check(err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		log.Fatalf("backend: %s", text)
	}
	var token string
	check(json.NewDecoder(io.LimitReader(res.Body, 16<<10)).Decode(&token))
	return token
}

// enter logs in and joins the room, with one token for both.
func (c *client) enter(ctx context.Context) *mesh.Room {
	token := c.token(ctx)
	check(c.Login(ctx, c.user, node.LoginToken(token)))
	room, err := c.Join(ctx, "ops", mesh.WithToken(token))
	check(err)
	return room
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	issuing := newBackend()
	issuers, err := identity.NewIssuers(issuing.issuer.Public()) // what every node is given, as a file
	check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{Handler: issuing, ReadTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	start := func(user, password string, opts ...node.Option) *client {
		n, err := node.New(append([]node.Option{node.WithApp(app), node.WithIssuers(issuers),
			node.WithListen("/ip4/127.0.0.1/tcp/0"), node.WithoutMDNS()}, opts...)...)
		check(err)
		return &client{n, user, password, "http://" + listener.Addr().String()}
	}
	alice := start("alice", "sesame")
	defer alice.Close()
	room := alice.enter(ctx)
	bob := start("bob", "swordfish", node.WithPeers(alice.Addrs()[0].String()))
	defer bob.Close()
	bobsRoom := bob.enter(ctx)
	check(bobsRoom.WaitPeers(ctx, 1))
	check(room.WaitPeers(ctx, 1))
	for _, m := range room.Members() {
		fmt.Printf("%s is in ops as %s\n", m.User, m.Role)
	}

	mallory := start("bob", "", node.WithPeers(alice.Addrs()[0].String()))
	defer mallory.Close()
	err = mallory.Login(ctx, "bob", node.LoginToken(bob.token(ctx))) // all nodes see it, but no other device can use it
	fmt.Println("mallory with bob's token: bound to another device:", errors.Is(err, identity.ErrTokenDevice))

	for ev, err := range bob.Events(ctx) { // a real program does this all the time, and the same for its rooms
		check(err)
		if _, ok := ev.(*node.TokenExpiring); ok {
			check(bob.UpdateLoginToken(bob.token(ctx)))
			fmt.Println("bob has a newer token before anybody noticed")
			break
		}
	}
	_, err = bobsRoom.PublishText(ctx, "hello")
	check(err)
	_, err = alice.SendText(ctx, "bob", "psst") // to the one bob that the backend knows
	check(err)

	for ev, err := range room.Events(ctx) {
		check(err)
		switch ev := ev.(type) {
		case *mesh.Message:
			fmt.Printf("%s says to all: %s\n", ev.From, ev.Data)
			_, err := mallory.Revoke(issuing.dismiss("bob")) // any node will do: they pass it on
			check(err)
		case *mesh.MemberLeft:
			fmt.Printf("%s is out\n", ev.Member)
			return
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
