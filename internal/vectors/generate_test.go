package vectors

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

var update = flag.Bool("update", false, "write docs/vectors anew")

// TestVectorsAreWhatTheCodeMakes makes all vectors from fixed keys and a fixed time, and compares
// them with the files.
func TestVectorsAreWhatTheCodeMakes(t *testing.T) {
	for name, made := range map[string]any{
		"names":     makeNames(),
		"statement": makeStatements(t),
		"hello":     makeHello(t),
		"directory": makeDirectory(t),
		"roster":    makeRoster(t),
		"envelope":  makeEnvelopes(t),
		"direct":    makeDirect(t),
		"token":     makeTokens(t),
		"order":     makeOrders(t),
		"record":    makeRecords(t),
		"sync":      makeSync(t),
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.MarshalIndent(made, "", "\t")
			require.NoError(t, err)
			text = append(text, '\n')
			file := path(t, name)
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				require.NoError(t, os.WriteFile(file, text, 0o644))
			}
			has, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(text), string(has), "if the change is wanted: go test ./internal/vectors -update")

			read := reflect.New(reflect.TypeOf(made))
			Read(t, name, read.Interface())
			again, err := json.Marshal(read.Interface())
			require.NoError(t, err)
			require.JSONEq(t, string(text), string(again), "what the files say can be read")
		})
	}
}

// at is when the vectors were made: the time at which a testing/synctest bubble starts.
var at = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) Hex { return Hex(k.Public().(ed25519.PublicKey)) }

var (
	alice = &identity.Keys{Device: key(1), User: key(1)}
	bob   = &identity.Keys{Device: key(2), User: key(3)} // on a second device
	carol = &identity.Keys{Device: key(4), User: key(4)}
	app   = identity.NewAppID("starling")
	ops   = app.RoomTag("ops", "")
	feedA = bytes.Repeat([]byte{0xa1}, 16)
	feedB = bytes.Repeat([]byte{0xb2}, 16)
	feedC = bytes.Repeat([]byte{0xc3}, 16)
)

func makeNames() Names {
	n := Names{About: "Keys with their texts, app IDs with the mDNS service, room tags with the topic. See Names and keys in PROTOCOL.md."}
	for i, name := range []string{"alice", "bob's device", "bob", "carol"} {
		k := &identity.Keys{Device: key(byte(i + 1)), User: key(byte(i + 1))}
		n.Keys = append(n.Keys, Key{
			Name: name, Seed: k.Device.Seed(), Public: public(k.Device),
			Base32: k.UserKey().String(), Fingerprint: k.UserKey().Fingerprint(),
			PeerID: k.PeerID().String(), PeerIDBytes: Hex(k.PeerID()),
		})
	}
	for _, name := range []string{"starling", "acme.ops", "A", strings.Repeat("z", 128)} {
		id := identity.NewAppID(name)
		n.Apps = append(n.Apps, App{Name: name, ID: id[:], MDNS: mdnsName(id)})
	}
	for _, r := range []struct{ app, room, secret string }{
		{"starling", "ops", ""}, {"starling", "ops", "open sesame"}, {"starling", "Ops", ""}, {"acme.ops", "ops", ""},
		{"starling", "a", "b\x00c"},
	} {
		id := identity.NewAppID(r.app)
		tag := id.RoomTag(r.room, r.secret)
		n.Rooms = append(n.Rooms, Room{App: id[:], Room: r.room, Secret: r.secret, Tag: tag[:], Topic: topicName(tag)})
	}
	return n
}

// part splits a sealed object into its parts.
func part(name, domain string, signer ed25519.PrivateKey, sealed []byte) Sealed {
	return Sealed{
		Name: name, Domain: Hex(domain), Key: public(signer),
		Body: sealed[wire.SignatureSize:], Signature: sealed[:wire.SignatureSize], Sealed: sealed,
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	require.NoError(t, err)
	return body
}

func frame(t *testing.T, m proto.Message) Hex {
	body := marshal(t, m)
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...)
}

// flip returns b with one bit of byte i altered; a negative i counts from the end.
func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[(i+len(b))%len(b)] ^= 1
	return b
}

// unknown appends a protobuf field of a later version.
func unknown(body []byte) []byte { return append(bytes.Clone(body), 0xfa, 0x07, 2, 'h', 'i') } // field 127

// addrs encodes the addresses that the parties listen on.
func addrs(t *testing.T, texts ...string) (raw [][]byte) {
	for _, s := range texts {
		a, err := ma.NewMultiaddr(s)
		require.NoError(t, err)
		raw = append(raw, a.Bytes())
	}
	return raw
}

var (
	aliceAddrs = []string{"/ip4/192.0.2.7/tcp/4001", "/ip4/192.0.2.7/udp/4001/quic-v1"}
	bobAddrs   = []string{"/ip6/2001:db8::2/tcp/4001"}
)

// cases collects what must be refused.
type cases []Refused

func (c *cases) add(name, why string, sealed []byte) {
	*c = append(*c, Refused{Name: name, Why: why, Sealed: sealed})
}

// tampered adds the alterations that can be made to any sealed object.
func (c *cases) tampered(t *testing.T, good []byte, domain, other string, signer, stranger ed25519.PrivateKey) {
	body := good[wire.SignatureSize:]
	require.Equal(t, good, wire.Seal(domain, signer, body))
	c.add("the first bit of the signature altered", "signature", flip(good, 0))
	c.add("the last bit of the body altered", "signature", flip(good, -1))
	c.add("signed under the prefix of another kind of object", "signature", wire.Seal(other, signer, body))
	c.add("signed without the zero byte of the prefix", "signature", wire.Seal(strings.TrimSuffix(domain, "\x00"), signer, body))
	c.add("signed by another key", "signature", wire.Seal(domain, stranger, body))
	c.add("a field behind that was not signed", "signature", append(bytes.Clone(good), 0xf8, 0x07, 0x01))
	c.add("a byte behind", "malformed", append(bytes.Clone(good), 0))
	c.add("a byte in front", "", append([]byte{0}, good...)) // the signature shifts into the body
	c.add("the last byte missing", "malformed", good[:len(good)-1])
	c.add("a signature and no body", "malformed", good[:wire.SignatureSize])
	c.add("nothing", "malformed", nil)
}
