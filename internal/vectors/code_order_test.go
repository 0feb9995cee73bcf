package vectors

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// orderReason names the reason in the vectors why identity has refused an order.
func orderReason(err error) string {
	for _, r := range []struct {
		why string
		err error
	}{
		{"malformed", identity.ErrOrderMalformed}, {"signature", identity.ErrSignature}, {"other app", identity.ErrOrderApp},
		{"other room", identity.ErrOrderRoom}, {"role", identity.ErrOrderRole}, {"expired", identity.ErrOrderExpired},
	} {
		if errors.Is(err, r.err) {
			return r.why
		}
	}
	var token *identity.TokenError
	switch {
	case errors.As(err, &token), errors.Is(err, identity.ErrTokenDevice):
		return "token"
	case errors.Is(err, identity.ErrTokenIssuer):
		return "issuer"
	case errors.Is(err, identity.ErrClock):
		return "clock"
	}
	return ""
}

func TestIdentityJudgesOrders(t *testing.T) {
	var v Orders
	Read(t, "order", &v)
	var tokens Tokens
	Read(t, "token", &tokens)
	a, at := authorityOf(t, &tokens), time.UnixMilli(v.AtMS)
	orders := make(map[string]*identity.Order)
	for _, c := range v.Accepted {
		o, err := a.OpenOrder(c.Sealed.Sealed, v.RoomName, [32]byte(v.Room), at)
		require.NoError(t, err, c.Name)
		until := int64(0)
		if !o.Until.IsZero() {
			until = o.Until.UnixMilli()
		}
		require.Equal(t, []any{c.Kind, c.User, c.IssuedMS, c.UntilMS, c.By, c.Kid}, []any{int(o.Kind), o.User, o.Issued.UnixMilli(), until, o.By, o.Kid}, c.Name)
		stay := [16]byte{}
		copy(stay[:], c.Stay)
		require.Equal(t, stay, o.Stay, c.Name)
		orders[c.Name] = o
	}
	for _, c := range v.Refused {
		_, err := a.OpenOrder(c.Sealed, v.RoomName, [32]byte(v.Room), at)
		require.Error(t, err, c.Name)
		if c.Why != "" {
			require.Equal(t, c.Why, orderReason(err), "%s: %v", c.Name, err)
		}
	}
	for _, w := range v.Winners {
		var best *identity.Order
		for _, name := range w.Orders {
			o := orders[name]
			if o.Rank() > identity.RankOf(w.Role) && (best == nil || o.Rank() > best.Rank() || o.Rank() == best.Rank() && o.Later(best)) {
				best = o
			}
		}
		require.Equal(t, w.Banned, best != nil && best.Kind == identity.Ban, w.Name)
	}
}
