package presence

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/vectors"
	"github.com/starling-mesh/starling/internal/wire"
)

// The tests of this file compare what presence makes and judges with docs/vectors. They run in
// bubbles, whose time begins when the vectors were made.

func vectorKeys(t *testing.T) (alice, bob *identity.Keys) {
	var v vectors.Names
	vectors.Read(t, "names", &v)
	key := func(i int) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(v.Keys[i].Seed) }
	return &identity.Keys{Device: key(0), User: key(0)}, &identity.Keys{Device: key(1), User: key(2)}
}

// vectorNode returns a directory with those keys on a simulated host.
func vectorNode(t *testing.T, keys *identity.Keys, app identity.AppID) *Directory {
	net := meshtest.New(t, meshtest.Options{Hosts: 1, Key: func(int) crypto.PrivKey { return keys.Libp2p() }})
	d, err := New(net.Host(0), app, keys)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestANodeShowsTheStatementsOfTheVectors(t *testing.T) {
	var v vectors.Hello
	vectors.Read(t, "hello", &v)
	alice, bob := vectorKeys(t)
	synctest.Test(t, func(t *testing.T) {
		d := vectorNode(t, alice, identity.AppID(v.App))
		require.Equal(t, v.AtMS, time.Now().UnixMilli())
		require.NoError(t, d.Login(t.Context(), "alice"))
		mine, _ := d.hellos.shake.ownHello()
		require.Equal(t, []byte(v.Initiator.Statement), mine.Statement)
		require.Equal(t, []any{v.App, v.Initiator.MaxEnvelope, v.Initiator.MaxMessage},
			[]any{vectors.Hex(mine.App), mine.MaxEnvelope, mine.Limits.MaxMessage})
		require.Len(t, mine.Nonce, len(v.Initiator.Nonce))
		require.Zero(t, mine.Capabilities, "version 1 has none")
	})
	synctest.Test(t, func(t *testing.T) {
		d := vectorNode(t, bob, identity.AppID(v.App))
		require.NoError(t, d.SetUser("bob"))
		mine, _ := d.hellos.shake.ownHello()
		require.Equal(t, []byte(v.Responder.Statement), mine.Statement)
	})
}

func TestANodeTakesTheHellosOfTheVectors(t *testing.T) {
	var v vectors.Hello
	vectors.Read(t, "hello", &v)
	alice, bob := vectorKeys(t)
	a, b := alice.PeerID(), bob.PeerID()
	synctest.Test(t, func(t *testing.T) {
		d := vectorNode(t, bob, identity.AppID(v.App))
		var hello wire.Hello
		require.NoError(t, wire.NewReader(bytes.NewReader(v.Frames.Hello), maxHello).Next(&hello))
		var reply wire.HelloReply
		require.NoError(t, wire.NewReader(bytes.NewReader(v.Frames.Reply), maxHello).Next(&reply))
		for _, c := range []struct {
			p     peer.ID
			hello *wire.Hello
			want  vectors.Party
		}{{a, &hello, v.Initiator}, {b, reply.Hello, v.Responder}} {
			got, refusal := d.hellos.shake.checkHello(c.p, c.hello)
			require.Nil(t, refusal)
			require.Equal(t, c.want.PeerID, got.Statement.Peer.String())
			require.Equal(t, []any{c.want.Incarnation, int(c.want.MaxEnvelope), int(c.want.MaxMessage), int64(c.want.GraceMS)},
				[]any{got.Incarnation, got.MaxEnvelope, got.MaxMessage, got.Grace.Milliseconds()})
			require.Equal(t, identity.Rates{
				Direct:    identity.Rate{Messages: int(c.want.Rates.DirectMessages), Bytes: int(c.want.Rates.DirectBytes)},
				Broadcast: identity.Rate{Messages: int(c.want.Rates.BroadcastMessages), Bytes: int(c.want.Rates.BroadcastBytes)},
				Room:      int(c.want.Rates.RoomMessages), LargeRoom: int(c.want.Rates.LargeRoomMessages),
			}, *got.Rates)
			var addrs []string
			for _, addr := range got.Addrs {
				addrs = append(addrs, addr.String())
			}
			require.Equal(t, c.want.Addrs, addrs)
		}
		var bye wire.Hello
		require.NoError(t, wire.NewReader(bytes.NewReader(v.Frames.Goodbye), maxHello).Next(&bye))
		got, refusal := d.hellos.shake.checkHello(a, &bye)
		require.Nil(t, refusal)
		require.True(t, got.Closing)
		_, refusal = d.hellos.shake.checkHello(b, &hello)
		require.NotNil(t, refusal, "alice's statement, shown by bob")
		require.Equal(t, wire.Refusal_BAD_STATEMENT, refusal.code)

		require.Equal(t, []byte(v.Responder.Proof.Signature), d.hellos.shake.proof(v.Initiator.Nonce, v.Responder.Statement, a, b))
		require.Equal(t, []byte(v.Responder.Proof.Signed), append([]byte(wire.DomainHello), transcript(v.Initiator.Nonce, v.Responder.Statement, a, b)...))
		require.Nil(t, checkProof(b, reply.Proof, hello.Nonce, reply.Hello, a, b))
		require.Nil(t, checkProof(a, v.Initiator.Proof.Signature, v.Responder.Nonce, &hello, a, b))
		require.Nil(t, checkProof(a, v.Anonymous.Signature, v.Responder.Nonce, new(wire.Hello), a, b))
		for _, c := range v.Refused {
			require.NotNil(t, checkProof(a, c.Signature, v.Responder.Nonce, &hello, a, b), "%s: accepted", c.Name)
		}
	})
}

func TestRefusalsAreThoseOfTheVectors(t *testing.T) {
	var v vectors.Hello
	vectors.Read(t, "hello", &v)
	for _, r := range v.Refusals {
		refusal := &HelloError{Reason: r.Text, code: wire.Refusal_Code(r.Code)}
		frame, err := wire.AppendFrame(nil, &wire.HelloReply{Refusal: refusal.frame()})
		require.NoError(t, err)
		require.Equal(t, []byte(r.Frame), frame)
	}
}

func TestTheProtocolHasTheLimitsOfThisPackage(t *testing.T) {
	says := func(what, format string, args ...any) { vectors.Says(t, what, fmt.Sprintf(format, args...)) }
	comma := func(n int) string { return fmt.Sprintf("%d,%03d", n/1000, n%1000) }

	says("sealed statement", "%s", comma(identity.MaxStatement))
	says("frame: revocations", "%s", comma(maxList))
	says("token", "%s", comma(identity.MaxToken))
	says("sealed list of revocations", "%s", comma(identity.MaxRevocations))
	says("questions for revocations of one peer", "%g/s after a burst of %d", listRate, listBurst)
	says("revocations", "%g s", listTimeout.Seconds())
	says("leeway of a token", "%g s, unless the app says otherwise", identity.DefaultLeeway.Seconds())
	says("a log-in is taken back before its token's end, with the leeway", "%g s", tokenHaste.Seconds())
	says("user, room, app ID", "%d", identity.MaxID)
	says("frame: hello", "%s", comma(maxHello))
	says("frame: whois request; reply", "%s; %s", comma(maxWhois), comma(maxWhoisBack))
	says("frame: notice", "%s", comma(maxNotice))
	says("multiaddrs of a device; each", "%d; %d", wire.MaxAddrs, wire.MaxAddr)
	says("statement: life", "any; issued for %g h", defaults().life.Hours())
	says("clock ahead of the verifier's", "%g min", identity.MaxSkew.Minutes())
	says("hellos opened by one peer", "%d at once, %d/s after a burst of %d; %d at once by all", maxInboundPeer, helloRate, helloBurst, maxInbound)
	says("whois questions of one peer", "%d/s after a burst of %d", whoisRate, whoisBurst)
	says("notices of one peer", "%d/s after a burst of %d", noticeRate, noticeBurst)

	says("text of a refusal", "%d", maxReason)
	says("hello: tries with a peer that does not speak it", "%d", maxUnsupported)
	says("whois: log-ins in an answer; peers asked", "%d; %d", maxLocated, whoisAsked)
	says("issuers of an app", "%d", identity.MaxIssuers)

	says("hello; waiting for one", "%g s", helloTimeout.Seconds())
	says("hello: the other side opens one", "after %d ms", helloNudge.Milliseconds())
	says("hello: tried again", "after 250 ms, 1 s, 4 s (with a peer that is known, %d times), 16 s, and then every minute; each pause up to half as long again", knownTries-2)
	for i, d := range []time.Duration{250 * time.Millisecond, time.Second, 4 * time.Second, 16 * time.Second, time.Minute, time.Minute} {
		require.GreaterOrEqual(t, helloPause(i), d)
		require.Less(t, helloPause(i), d*3/2)
	}
	says("a node that closes says goodbye", "%d ms at most", closeGrace.Milliseconds())
	says("notice: to the same peer again; tries", "after %g s; %d", noticePause.Seconds(), noticeTries)
	says("a refused peer may read why", "%g s", refuseGrace.Seconds())
	says("a refused peer is not dialled", "%g min (OTHER_APP), 30 s to %g min", foreignTime.Minutes(), refusedTime.Minutes())
	says("whois: for all answers; to serve one", "%d ms; %g s", whoisBudget.Milliseconds(), whoisTimeout.Seconds())
	says("notice", "%g s", noticeTimeout.Seconds())
	says("frame: watch request; watch", "%s; %s", comma(maxWhois), comma(maxNotice))
	says("watches of one peer; of all", "%d; %d", maxWatchersPeer, maxWatchers)
	says("directory: an absence is judged again", "%g s", storeGrace.Seconds())
	says("directory: a node that fell silent counts as one", "%g min", recentlyLostFor.Minutes())
	says("watch: beat; missed", "%g s; %g s", beatEvery.Seconds(), beatMissed.Seconds())
	says("statement: life, renewed", "%g h, %g h", defaults().life.Hours(), (defaults().life / 3).Hours())
}
