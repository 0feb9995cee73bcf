package vectors

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// tokenReasons are the errors of identity, with their names in the vectors.
var tokenReasons = []struct {
	why string
	err error
}{
	{"clock", identity.ErrClock}, {"missing", identity.ErrTokenMissing}, {"size", identity.ErrTokenSize},
	{"malformed", identity.ErrTokenMalformed}, {"algorithm", identity.ErrTokenAlgorithm}, {"issuer", identity.ErrTokenIssuer},
	{"app", identity.ErrTokenApp}, {"user", identity.ErrTokenUser}, {"unbound", identity.ErrTokenUnbound},
	{"device", identity.ErrTokenDevice}, {"purpose", identity.ErrTokenPurpose}, {"room", identity.ErrTokenRoom},
	{"not_yet_valid", identity.ErrTokenNotYetValid}, {"expired", identity.ErrTokenExpired}, {"revoked", identity.ErrTokenRevoked},
}

func tokenReason(err error) string {
	for _, r := range tokenReasons {
		if errors.Is(err, r.err) {
			return r.why
		}
	}
	return ""
}

// authorityOf returns the authority that judges the vectors.
func authorityOf(t *testing.T, v *Tokens) *identity.Authority {
	issuers, err := identity.ParseIssuers(v.Issuers)
	require.NoError(t, err)
	a, err := identity.NewAuthority(v.AppName, issuers, identity.WithLeeway(time.Duration(v.LeewayMS)*time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, identity.AppID(v.App), a.App())
	return a
}

func judged(a *identity.Authority, c Token, at time.Time) error {
	var err error
	if c.Room == "" {
		_, err = a.Login(c.Token, c.User, identity.PublicKey(c.Device), at)
	} else {
		_, err = a.Room(c.Token, c.User, identity.PublicKey(c.Device), c.Room, at)
	}
	return err
}

func TestIdentityJudgesTokens(t *testing.T) {
	var v Tokens
	Read(t, "token", &v)
	a, at := authorityOf(t, &v), time.UnixMilli(v.AtMS)
	for _, c := range v.Accepted {
		require.NoError(t, judged(a, c, at), c.Name)
	}
	for _, c := range v.Refused {
		err := judged(a, c, at)
		require.Error(t, err, c.Name)
		require.Equal(t, c.Why, tokenReason(err), "%s: %v", c.Name, err)
	}
}

func TestIdentityJudgesRevocations(t *testing.T) {
	var v Tokens
	Read(t, "token", &v)
	at := time.UnixMilli(v.AtMS)
	for _, l := range v.Lists {
		a := authorityOf(t, &v)
		newer, err := a.Revoke(l.Sealed.Sealed)
		require.NoError(t, err, l.Name)
		require.True(t, newer)
		list := a.Revocations()
		require.Equal(t, []any{l.Version, l.IssuedMS, len(l.Users), len(l.Tokens)},
			[]any{list.Version, list.Issued.UnixMilli(), len(list.Users), len(list.Tokens)}, l.Name)
		revoked := []string{}
		for _, c := range v.Accepted {
			if err := judged(a, c, at); err != nil {
				require.Equal(t, "revoked", tokenReason(err))
				revoked = append(revoked, c.Name)
			}
		}
		require.Equal(t, l.Revoked, revoked, l.Name)
	}
	a := authorityOf(t, &v)
	for _, c := range v.RefusedLists {
		_, err := a.Revoke(c.Sealed)
		require.ErrorIs(t, err, identity.ErrRevocations, c.Name)
	}
}
