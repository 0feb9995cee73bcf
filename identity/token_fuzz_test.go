package identity_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// judge checks what must be true for any token.
func judge(t *testing.T, a *identity.Authority, token string) {
	g, err := a.Inspect(token, testTime)
	if err != nil {
		if g != nil || !errors.As(err, new(*identity.TokenError)) {
			t.Fatalf("a grant %v, and the error %T %v", g, err, err)
		}
		return
	}
	require.NoError(t, identity.CheckUser(g.User))
	require.False(t, g.Device.IsZero() && g.Expires.IsZero())
	require.LessOrEqual(t, len(token), identity.MaxToken)
	require.LessOrEqual(t, len(g.ID), identity.MaxTokenID)
	require.NotEmpty(t, g.ID)
	require.LessOrEqual(t, len(g.Rooms), identity.MaxTokenRooms)
	require.True(t, g.Login || len(g.Rooms) > 0)
	require.True(t, testTime.Before(a.Until(g)))
	for room, role := range g.Rooms {
		require.NoError(t, identity.CheckRoom(room))
		require.LessOrEqual(t, len(role), identity.MaxRole)
		require.NotEmpty(t, role)
	}
	again, err := a.Inspect(token, testTime)
	require.NoError(t, err)
	require.Equal(t, g, again)
}

func FuzzToken(f *testing.F) {
	a := newAuthority(f)
	f.Add(genuine(f, claims()))
	f.Add("a.b.c")
	f.Add("..")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) { judge(t, a, token) })
}

// FuzzSignedClaims tests the code behind the signature check, which FuzzToken does not reach.
func FuzzSignedClaims(f *testing.F) {
	a := newAuthority(f)
	raw, err := json.Marshal(claims(set("nbf", testTime.Unix())))
	require.NoError(f, err)
	head := `{"alg":"EdDSA","typ":"JWT","kid":"` + root.Kid + `"}`
	f.Add(head, string(raw))
	f.Add(head, `{"exp":1e10}`)
	f.Add(`{"alg":"none"}`, `{}`)
	f.Fuzz(func(t *testing.T, header, claims string) { judge(t, a, signRaw(header, claims)) })
}

// FuzzRevocations signs its input, so that it gets past the signature check.
func FuzzRevocations(f *testing.F) {
	full, err := newIssuer(f).Revoke(identity.Revocations{
		Version: 3, Issued: testTime, Users: map[string]time.Time{"alice": testTime}, Tokens: map[string]time.Time{"x": testTime, "y": {}},
	})
	require.NoError(f, err)
	f.Add(full[wire.SignatureSize:], true)
	f.Add(full, false)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, body []byte, signed bool) {
		a := newAuthority(t)
		if signed {
			body = wire.Seal(wire.DomainRevocations, issuerKey, body)
		}
		newer, err := a.Revoke(body)
		if err != nil {
			require.ErrorIs(t, err, identity.ErrRevocations)
			require.Nil(t, a.Revocations())
			return
		}
		require.True(t, newer)
		list := a.Revocations()
		require.Positive(t, list.Version)
		require.Equal(t, body, list.Sealed())
		again, err := newIssuer(t).Revoke(list.Next(testTime))
		require.NoError(t, err, "what was opened can be signed again")
		newer, err = a.Revoke(again)
		require.NoError(t, err)
		require.True(t, newer)
	})
}

func FuzzIssuers(f *testing.F) {
	issuers, err := identity.NewIssuers(root, identity.NewIssuerKey(device))
	require.NoError(f, err)
	f.Add(issuers.Marshal())
	f.Add([]byte(`{"keys":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := identity.ParseIssuers(text)
		if err != nil {
			require.ErrorAs(t, err, new(*identity.IssuersError))
			return
		}
		again, err := identity.ParseIssuers(i.Marshal())
		require.NoError(t, err)
		require.Equal(t, i, again)
	})
}
