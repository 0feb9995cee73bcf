package presence

import (
	"crypto/ed25519"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Any contents of a hello are checked without a panic, and what is used of it is within its bounds.
func FuzzHelloIsJudged(f *testing.F) {
	seed := make([]byte, ed25519.SeedSize)
	key := ed25519.NewKeyFromSeed(seed)
	keys := &identity.Keys{Device: key, User: key}
	app := identity.NewAppID("fuzz")
	now := time.Now()
	st, err := keys.Sign(identity.Statement{App: app, User: "alice", Sequence: 1, Issued: now, Expires: now.Add(1e6 * time.Hour)})
	require.NoError(f, err)
	good := &wire.Hello{
		App: app[:], Statement: st.Sealed(), Incarnation: 1, Nonce: make([]byte, nonceSize),
		Limits: &wire.Limits{MaxMessage: 1}, Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 0, 1}},
	}
	raw, err := proto.Marshal(good)
	require.NoError(f, err)
	f.Add(raw)
	f.Add(raw[:40])
	f.Add([]byte{})
	e := &env{app: app, id: keys.PeerID(), verifier: identity.NewVerifier(app), cfg: config{log: slog.New(slog.DiscardHandler)}}
	x := &handshake{people: newPeople(e)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var h wire.Hello
		if proto.Unmarshal(raw, &h) != nil {
			return
		}
		s, refusal := x.checkHello(keys.PeerID(), &h)
		if refusal != nil {
			require.NotEmpty(t, refusal.Reason)
			require.LessOrEqual(t, len(refusal.frame().Text), maxReason)
			remoteRefusal(keys.PeerID(), refusal.frame())
			return
		}
		require.LessOrEqual(t, len(s.Addrs), wire.MaxAddrs)
		if s.Statement != nil {
			require.Equal(t, keys.PeerID(), s.Statement.Peer)
		}
	})
}
