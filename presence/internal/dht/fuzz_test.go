package dht

import (
	"bytes"
	"crypto/ed25519"
	"testing"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// Anything stored in the directory is checked without a panic, whether signed by its device or not,
// and every check gives the same result.
func FuzzRecordIsJudged(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	keys := &identity.Keys{Device: key, User: key}
	now := time.Now()
	issuer, err := identity.NewIssuer("fuzz", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	require.NoError(f, err)
	issuers, err := identity.NewIssuers(issuer.Public())
	require.NoError(f, err)
	authority, err := identity.NewAuthority("fuzz", issuers)
	require.NoError(f, err)
	token, err := issuer.Issue(identity.Claims{User: "alice", Device: keys.DeviceKey(), Issued: now, Expires: now.Add(1e6 * time.Hour)})
	require.NoError(f, err)
	open := &Rules{app: identity.NewAppID("fuzz"), verifier: identity.NewVerifier(identity.NewAppID("fuzz")), life: lanLife}
	vouched := &Rules{
		app: authority.App(), verifier: identity.NewVerifier(authority.App(), identity.WithAuthority(authority)), vouched: true, life: lanLife,
	}
	good := make(map[*Rules][]byte)
	for _, v := range []*Rules{open, vouched} {
		st := identity.Statement{App: v.app, User: "alice", Sequence: 1, LoggedIn: true, Issued: now, Expires: now.Add(1e6 * time.Hour)}
		if v.vouched {
			st.Token = token
		}
		signed, err := keys.Sign(st)
		require.NoError(f, err)
		good[v], err = Seal(keys, signed, []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.7/tcp/4001")}, now, lanLife)
		require.NoError(f, err)
		_, err = v.check(v.key(signed), good[v], now)
		require.NoError(f, err)
		f.Add(good[v], false)
		f.Add(good[v][wire.SignatureSize:], true)
		f.Add(good[v][:100], false)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, raw []byte, sign bool) {
		if sign {
			raw = wire.Seal(wire.DomainRecord, key, raw)
		}
		for _, v := range []*Rules{open, vouched} {
			keyOf := KeyOfKey(v.app, keys.UserKey().Fingerprint())
			if v.vouched {
				keyOf = KeyOfUser(v.app, "alice")
			}
			r, err := v.check(keyOf, raw, now)
			best, choice := v.Select(keyOf, [][]byte{raw, good[v], raw})
			require.NoError(t, choice, "one is good")
			if err != nil {
				require.Nil(t, r)
				continue
			}
			require.LessOrEqual(t, len(raw), maxRecord)
			require.LessOrEqual(t, len(r.Addrs), wire.MaxAddrs)
			require.Equal(t, v.app, r.Statement.App)
			require.Equal(t, keyOf, v.key(r.Statement))
			require.LessOrEqual(t, r.expires.Sub(r.Issued), v.life)
			require.False(t, v.vouched && r.Statement.Grant() == nil)
			require.Contains(t, []int{0, 1}, best, "the first of equal ones")
			require.Error(t, v.Validate(keyOf[:len(keyOf)-1], raw))
		}
	})
}

// Any answer in the directory is checked without a panic, and what is returned of it is safe to use
// without further checks.
func FuzzAnswerIsJudged(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	id := []byte((&identity.Keys{Device: key, User: key}).PeerID())
	for t := range pb.Message_MessageType_name {
		m := putRequest()
		m.Type = pb.Message_MessageType(t)
		m.CloserPeers = []*pb.Message_Peer{{Id: id, Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 0, 1}, {}}}, {}}
		m.ProviderPeers = m.CloserPeers
		raw := encode(f, m)
		f.Add(raw, t)
		f.Add(raw[:len(raw)/2], t)
		f.Add([]byte{}, t)
	}
	f.Fuzz(func(t *testing.T, raw []byte, kind int32) {
		req := putRequest()
		if req.Type = pb.Message_MessageType(kind); req.Type != pb.Message_PUT_VALUE {
			req.Record = nil
		}
		got, err := readAnswer(req, raw)
		if err != nil {
			require.ErrorIs(t, err, errAnswer)
			return
		}
		require.Equal(t, req.Type, got.Type)
		if req.Type == pb.Message_PUT_VALUE {
			require.True(t, proto.Equal(req.Record, &recpb.Record{Key: got.Record.Key, Value: got.Record.Value}))
		}
		for _, list := range [][]*pb.Message_Peer{got.CloserPeers, got.ProviderPeers} {
			require.LessOrEqual(t, len(list), maxAnswerNodes)
			for _, info := range pb.PBPeersToPeerInfos(list) {
				require.NoError(t, info.ID.Validate())
				require.LessOrEqual(t, len(info.Addrs), wire.MaxAddrs)
				require.NotContains(t, info.Addrs, ma.Multiaddr(nil))
			}
		}
	})
}
