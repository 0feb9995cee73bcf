package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// tokens shows an app whose issuer says who is a user: dora and emil are, mallory is not.
func (c *cast) tokens(ctx context.Context) (took time.Duration, detail string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return 0, "", err
	}
	issuer, err := identity.NewIssuer(appName, key)
	if err != nil {
		return 0, "", err
	}
	issuers, err := identity.NewIssuers(issuer.Public())
	if err != nil {
		return 0, "", err
	}
	var all []*player
	for _, name := range []string{"dora", "emil", "mallory"} {
		p, err := c.newPlayer(name, node.WithIssuers(issuers))
		if err != nil {
			return 0, "", err
		}
		c.vouched, all = append(c.vouched, p), append(all, p)
	}
	dora, emil, mallory := all[0], all[1], all[2]
	if err := emil.connect(ctx, dora); err != nil {
		return 0, "", err
	}
	begin := time.Now()
	for _, p := range []*player{dora, emil} {
		token, err := issuer.Issue(identity.Claims{
			User: p.name, Device: p.DeviceKey(), Login: true, Rooms: map[string]string{roomName: "member"}, ID: p.name,
		})
		if err != nil {
			return 0, "", err
		}
		if err := p.Login(ctx, p.name); !errors.Is(err, identity.ErrTokenMissing) {
			return 0, "", fmt.Errorf("%s without a token: %v", p.name, err)
		}
		if err := p.Login(ctx, p.name, node.LoginToken(token)); err != nil {
			return 0, "", fmt.Errorf("%s: %w", p.name, err)
		}
		if err := mallory.Login(ctx, p.name, node.LoginToken(token)); !errors.Is(err, identity.ErrTokenDevice) {
			return 0, "", fmt.Errorf("mallory with the token of %s: %v", p.name, err)
		}
		if err := c.join(ctx, p, mesh.WithToken(token)); err != nil {
			return 0, "", err
		}
	}
	if err := errors.Join(dora.awaitLogin(ctx, emil), emil.awaitLogin(ctx, dora), dora.room.WaitPeers(ctx, 1)); err != nil {
		return 0, "", err
	}
	if _, err := emil.room.SendText(ctx, dora.name, "in"); err != nil {
		return 0, "", err
	}
	took = time.Since(begin)

	begin = time.Now()
	if err := revoke(issuer, dora, emil.name); err != nil {
		return 0, "", err
	}
	_, err = awaitFor(ctx, dora.inRoom, 0, "the end of emil's stay", func(ev *mesh.MemberLeft) bool { return ev.Member.User == emil.name })
	if err == nil {
		_, err = awaitFor(ctx, emil.outer, 0, "the end of emil's token", func(ev *node.TokenEnded) bool { return ev.Revoked })
	}
	if err != nil {
		return 0, "", err
	}
	return took, fmt.Sprintf("with an issuer: no log-in without a token, nor with another's; a revoked one was out after %v",
		time.Since(begin).Round(time.Millisecond/10)), nil
}

// revoke gives one node the revocation of a token.
func revoke(issuer *identity.Issuer, at *player, jti string) error {
	var none *identity.Revocations
	next := none.Next(time.Now())
	next.Tokens[jti] = time.Time{}
	list, err := issuer.Revoke(next)
	if err == nil {
		_, err = at.Revoke(list)
	}
	return err
}
