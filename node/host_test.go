package node

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func onLoopback(t *testing.T, opts ...Option) *Node {
	t.Helper()
	n, err := New(append([]Option{WithListen("/ip4/127.0.0.1/tcp/0"), WithoutMDNS()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func TestOnlyLoopbackIsNotAnnounced(t *testing.T) {
	n := onLoopback(t)
	require.True(t, onlyLoopback(n.host))
	// So mDNS may be on here, and sends nothing.
	quiet, err := New(WithListen("/ip4/127.0.0.1/tcp/0"))
	require.NoError(t, err)
	quiet.lan.again(0)
	require.NoError(t, quiet.Close())
	require.Zero(t, quiet.lan.starts)
}

func TestTheServiceNameIsTheAppsAndFitsALabel(t *testing.T) {
	name := serviceName(identity.NewAppID("starling"))
	require.Regexp(t, regexp.MustCompile(`^_[a-z][a-z0-9]{13}\._udp$`), name)
	require.Equal(t, name, serviceName(identity.NewAppID("starling")))
	require.NotEqual(t, name, serviceName(identity.NewAppID("other")))
}

func TestAFrozenPeerIsFoundByYamuxInSeconds(t *testing.T) {
	mine := newYamux().(*yamux.Transport).Config()
	require.Equal(t, 5*time.Second, mine.KeepAliveInterval)
	require.Equal(t, 4*time.Second, mine.ConnectionWriteTimeout)
	theirs := *yamux.DefaultTransport.Config()
	require.NotEqual(t, theirs.KeepAliveInterval, mine.KeepAliveInterval, "the default, which others use, is not changed")
	theirs.KeepAliveInterval, theirs.ConnectionWriteTimeout = mine.KeepAliveInterval, mine.ConnectionWriteTimeout
	require.Equal(t, theirs, *mine, "everything else is the default")
}

func TestTheCallersHostMustHaveTheRightKey(t *testing.T) {
	newHost := func(key crypto.PrivKey) host.Host {
		opts := []libp2p.Option{libp2p.NoListenAddrs}
		if key != nil {
			opts = append(opts, libp2p.Identity(key))
		}
		h, err := libp2p.New(opts...)
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	key, _, err := crypto.GenerateSecp256k1Key(rand.Reader)
	require.NoError(t, err)
	_, err = New(WithHost(newHost(key)), WithoutMDNS())
	require.EqualError(t, err, "host: its key is Secp256k1, want Ed25519")

	dir := t.TempDir()
	_, err = New(WithHost(newHost(nil)), WithDataDir(dir), WithoutMDNS())
	require.ErrorIs(t, err, ErrOtherDevice)

	d, err := identity.OpenDir(dir) // the directory was released
	require.NoError(t, err)
	own := d.Keys().Libp2p()
	require.NoError(t, d.Close())
	n, err := New(WithHost(newHost(own)), WithDataDir(dir), WithoutMDNS())
	require.NoError(t, err)
	require.NoError(t, n.Close())
}

func TestGivenPeersAndMembersAreProtected(t *testing.T) {
	bob := onLoopback(t)
	alice := onLoopback(t, WithPeers(bob.Addrs()[0].String()))
	conns := alice.host.ConnManager()
	require.True(t, conns.IsProtected(bob.ID(), protectGiven))
	require.NoError(t, alice.SetUser("alice"))
	require.NoError(t, bob.SetUser("bob"))
	ctx := t.Context()
	require.NoError(t, alice.Connect(ctx, bob.Addrs()[0].String()))
	room, err := alice.Join(ctx, "ops")
	require.NoError(t, err)
	_, err = bob.Join(ctx, "ops")
	require.NoError(t, err)
	require.NoError(t, room.WaitPeers(ctx, 1))
	members := func() bool { return conns.IsProtected(bob.ID(), protectRoom) }
	require.Eventually(t, members, time.Minute, 10*time.Millisecond)
	require.True(t, alice.dialer.wants(bob.ID(), inRoom))
	require.NoError(t, room.Leave(ctx))
	require.Eventually(t, func() bool { return !members() }, time.Minute, 10*time.Millisecond)
	require.False(t, alice.dialer.wants(bob.ID(), inRoom))
	require.True(t, conns.IsProtected(bob.ID(), protectGiven))
}

func TestOldInterfaceAddressesGoAndOthersStay(t *testing.T) {
	n := onLoopback(t)
	f := new(freshener)
	fresh := func(given ...string) (out []string) {
		var addrs []ma.Multiaddr
		for _, a := range given {
			addrs = append(addrs, ma.StringCast(a))
		}
		for _, a := range f.factory(addrs) {
			out = append(out, a.String())
		}
		return out
	}
	const observed, old = "/ip4/198.51.100.7/tcp/4001", "/ip4/192.168.7.7/tcp/4001"
	require.Equal(t, []string{observed}, fresh(observed), "while the host is being built")
	f.use(n.host)
	mine := fresh()
	require.Len(t, mine, 1)
	require.Regexp(t, "^/ip4/127.0.0.1/tcp/[0-9]+$", mine[0])
	f.ever[string(ma.StringCast(old).Bytes())] = true // an interface had it before the laptop moved
	require.Equal(t, []string{mine[0], observed}, fresh(old, observed, mine[0]))
}

func TestSleepIsSurvivedByProbingEveryone(t *testing.T) {
	bob := onLoopback(t)
	alice := onLoopback(t)
	require.NoError(t, alice.Connect(t.Context(), bob.Addrs()[0].String()))
	alice.revive(alice.ctx, change{slept: true})
	alice.probe(alice.ctx, alice.host.Network().ConnsToPeer(bob.ID())[0])
	require.Len(t, alice.host.Network().Peers(), 1, "who answers stays")
	bob.host.RemoveStreamHandler("/ipfs/ping/1.0.0")
	require.Eventually(t, func() bool { // identify pushes what bob no longer speaks
		has, err := alice.host.Peerstore().SupportsProtocols(bob.ID(), "/ipfs/ping/1.0.0")
		return err == nil && len(has) == 0
	}, time.Minute, 10*time.Millisecond)
	alice.probe(alice.ctx, alice.host.Network().ConnsToPeer(bob.ID())[0])
	require.Len(t, alice.host.Network().Peers(), 1, "who has no ping answers too")
}

func TestSleepIsFollowedByANewRecordInTheDirectory(t *testing.T) {
	bob := onLoopback(t)
	alice := onLoopback(t)
	require.NoError(t, alice.Connect(t.Context(), bob.Addrs()[0].String()))
	require.NoError(t, alice.Login(t.Context(), "alice"))

	var prefix protocol.ID
	for _, p := range bob.host.Mux().Protocols() {
		if cut, ok := strings.CutSuffix(string(p), "/kad/1.0.0"); ok {
			prefix = protocol.ID(cut)
		}
	}
	asker, err := libp2p.New(libp2p.NoListenAddrs)
	require.NoError(t, err)
	defer asker.Close()
	client, err := dht.New(asker, dht.ProtocolPrefix(prefix), dht.Mode(dht.ModeClient), dht.Validator(record.NamespacedValidator{}))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, asker.Connect(t.Context(), peer.AddrInfo{ID: bob.ID(), Addrs: bob.host.Addrs()}))
	rpc, err := pb.NewProtocolMessenger(client.MessageSender())
	require.NoError(t, err)
	mac := hmac.New(sha256.New, alice.app[:])
	mac.Write([]byte("starling/dht/key/1\x00" + alice.Self().Key.Fingerprint()))
	key := "/starling/" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(mac.Sum(nil)))
	kept := func() []byte { // alice's record at bob's node
		rec, _, err := rpc.GetValue(t.Context(), bob.ID(), key)
		if err != nil {
			return nil
		}
		return rec.GetValue()
	}
	var before []byte
	changes := func() bool {
		now := kept()
		changed := now != nil && !bytes.Equal(before, now)
		before = now
		return changed
	}
	require.Eventually(t, changes, time.Minute, 10*time.Millisecond, "stored")
	require.Eventually(t, changes, time.Minute, 10*time.Millisecond, "compared again after 5 s; the next is after a minute")
	alice.revive(alice.ctx, change{slept: true})
	require.Eventually(t, changes, 30*time.Second, 10*time.Millisecond, "stored anew")
}

func TestTheDataDirectoryIsPrivate(t *testing.T) {
	dir := t.TempDir() + "/data"
	onLoopback(t, WithDataDir(dir))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}
