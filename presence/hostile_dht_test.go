package presence_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
	"github.com/starling-mesh/starling/presence/internal/dht"
)

// reply is one way to answer a request in the DHT. make returns the bytes to send; hold keeps the
// stream open after them.
type reply struct {
	name string
	make func(req *pb.Message, self, victim peer.ID) []byte
	hold bool
}

func frame(body []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(body))), body...) }

func framed(m *pb.Message) []byte {
	body, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return frame(body)
}

// like returns an answer with the type and the key of the request.
func like(req *pb.Message) *pb.Message { return pb.NewMessage(req.GetType(), req.GetKey(), 0) }

// honest answers as a node of the DHT does that knows no nodes and keeps nothing.
func honest(req *pb.Message, _, _ peer.ID) []byte {
	switch req.GetType() {
	case pb.Message_PUT_VALUE, pb.Message_PING:
		return framed(req)
	case pb.Message_ADD_PROVIDER:
		return nil
	}
	return framed(like(req))
}

// with returns a function that answers with a message that is right except for one change.
func with(change func(m *pb.Message, req *pb.Message, self, victim peer.ID)) func(*pb.Message, peer.ID, peer.ID) []byte {
	return func(req *pb.Message, self, victim peer.ID) []byte {
		m := like(req)
		if req.GetRecord() != nil {
			m.Record = proto.Clone(req.GetRecord()).(*recpb.Record)
		}
		change(m, req, self, victim)
		return framed(m)
	}
}

func raw(b []byte) func(*pb.Message, peer.ID, peer.ID) []byte {
	return func(*pb.Message, peer.ID, peer.ID) []byte { return b }
}

func nodesOf(ids [][]byte, addrs ...[]byte) (out []*pb.Message_Peer) {
	for _, id := range ids {
		out = append(out, &pb.Message_Peer{Id: id, Addrs: addrs})
	}
	return out
}

var replies = []reply{
	{"nothing", raw(nil), true},
	{"the end of the stream", raw(nil), false},
	{"an empty message", raw(frame(nil)), false},
	{"an empty message, and silence", raw(frame(nil)), true},
	{"no record", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Record = nil }), true},
	{"an empty record", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Record = new(recpb.Record) }), true},
	{"a record without a key", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Record = &recpb.Record{Value: []byte("x")} }), true},
	{"a record without a value", with(func(m, req *pb.Message, _, _ peer.ID) { m.Record = &recpb.Record{Key: req.GetKey()} }), true},
	{"a record of another key", with(func(m, _ *pb.Message, _, _ peer.ID) {
		m.Record = &recpb.Record{Key: []byte("/starling/other"), Value: []byte("x")}
	}), true},
	{"a record that is none", with(func(m, req *pb.Message, _, _ peer.ID) {
		m.Record = &recpb.Record{Key: req.GetKey(), Value: []byte("x"), TimeReceived: "never"}
	}), true},
	{"another key", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Key = []byte("/starling/other") }), true},
	{"no key", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Key = nil }), true},
	{"another type", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Type = (m.Type + 1) % 6 }), true},
	{"a type that is none", with(func(m, _ *pb.Message, _, _ peer.ID) { m.Type = -7 }), true},
	{"more than fits", raw(frame(make([]byte, 5<<20))), true},
	{"more than an integer", raw(binary.AppendUvarint(nil, 1<<63+1)), true},
	{"a length without an end", raw([]byte(strings.Repeat("\xff", 20))), true},
	{"4 MiB announced", raw(binary.AppendUvarint(nil, 4<<20)), true},
	{"no message", raw(frame([]byte(strings.Repeat("\xff", 64)))), true},
	{"a record that ends early", raw(frame([]byte{0x08, 0, 0x1a, 200, 1, 2})), true},
	{"fields of other kinds", raw(frame(protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 1))), true},
	{"half", func(req *pb.Message, self, victim peer.ID) []byte {
		b := honest(req, self, victim)
		return b[:(len(b)+1)/2]
	}, true},
	{"half, and the end", func(req *pb.Message, self, victim peer.ID) []byte {
		b := honest(req, self, victim)
		return b[:(len(b)+1)/2]
	}, false},
	{"twice", func(req *pb.Message, self, victim peer.ID) []byte {
		b := honest(req, self, victim)
		return append(slices.Clone(b), b...)
	}, true},
	{"right, and then no record", func(req *pb.Message, self, victim peer.ID) []byte {
		return append(honest(req, self, victim), framed(like(req))...)
	}, true},
	{"nodes that are none", with(func(m, _ *pb.Message, self, victim peer.ID) {
		ids := [][]byte{nil, {0}, []byte("x"), []byte(self), []byte(victim), []byte(strings.Repeat("\x00\x7f", 9000))}
		m.CloserPeers = nodesOf(ids, nil, []byte{}, []byte{4, 1}, []byte(strings.Repeat("\xff", 400)))
		m.ProviderPeers = m.CloserPeers
	}), true},
	{"nodes without an address", with(func(m, req *pb.Message, self, _ peer.ID) {
		for i := range 200 {
			m.CloserPeers = append(m.CloserPeers, &pb.Message_Peer{Id: []byte(idOf(byte(i))), Connection: -1})
		}
		m.ProviderPeers = m.CloserPeers
	}), true},
	{"a million empty nodes", raw(frame([]byte(strings.Repeat("\x42\x00", 1<<20)))), true},
	{"a million empty devices", raw(frame(append([]byte{8, 3}, strings.Repeat("\x4a\x00", 1<<20)...))), true},
}

// idOf returns the peer ID of a made-up key.
func idOf(b byte) peer.ID {
	var key [32]byte
	key[0], key[31] = b, 1
	id, err := peer.IDFromBytes(append([]byte{0, 36, 8, 1, 18, 32}, key[:]...))
	if err != nil {
		panic(err)
	}
	return id
}

// stranger is a bare libp2p host that offers a protocol of the DHT and answers requests of some
// types in its own way, without a hello.
type stranger struct {
	host   host.Host
	victim peer.ID
	reply  reply
	types  []pb.Message_MessageType // the types that it answers this way; none: all
	closed chan struct{}
	asked  atomic.Int64 // how often it has answered this way
}

func (s *stranger) serve(st network.Stream) {
	defer st.Reset()
	r := bufio.NewReader(st)
	for {
		size, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) { // the other side has nothing more to ask
			_ = st.CloseWrite()
			s.wait()
		}
		if err != nil {
			return
		}
		body := make([]byte, size)
		var req pb.Message
		if _, err := io.ReadFull(r, body); err != nil || proto.Unmarshal(body, &req) != nil {
			return
		}
		answer, hold := honest(&req, s.host.ID(), s.victim), false
		if ours := len(s.types) == 0 || slices.Contains(s.types, req.GetType()); ours {
			s.asked.Add(1)
			answer, hold = s.reply.make(&req, s.host.ID(), s.victim), s.reply.hold
		}
		if _, err := st.Write(answer); err != nil {
			return
		}
		if hold {
			s.wait()
		}
	}
}

// wait holds a stream open for longer than any request waits.
func (s *stranger) wait() {
	select {
	case <-s.closed:
	case <-time.After(time.Minute):
	}
}

// offer waits until the host knows which protocol of the DHT the victim speaks, and offers the
// same.
func (s *stranger) offer(t *testing.T) {
	t.Helper()
	var proto protocol.ID
	soon(t, time.Minute, "the victim's protocols are known", func() bool {
		all, _ := s.host.Peerstore().GetProtocols(s.victim)
		for _, p := range all {
			if strings.HasPrefix(string(p), "/starling/dht/") {
				proto = p
			}
		}
		return proto != ""
	})
	s.host.SetStreamHandler(proto, s.serve)
}

// besiege runs a victim with an honest node and with strangers that answer in different ways, and
// checks that the victim still works.
func besiege(t *testing.T, app bool, types []pb.Message_MessageType, replies []reply) {
	r := bare(t, 2)
	defer r.close()
	for i := range 2 {
		if app {
			r.vouch(i, authority(t, identity.DefaultLeeway), presence.WithDHT(presence.LAN))
		} else {
			r.nodes[i] = r.start(i, keysOf(t, r.net.HostKey(i)), testApp, presence.WithDHT(presence.LAN))
		}
	}
	victim, friend := r.nodes[0], r.nodes[1]
	r.meet(0, 1)
	closed := make(chan struct{})
	defer close(closed)
	var strangers []*stranger
	for _, way := range replies {
		i := r.net.NewHost(nil)
		s := &stranger{host: r.net.Host(i), victim: victim.id, reply: way, types: types, closed: closed}
		r.net.Connect(i, 0)
		s.offer(t)
		strangers = append(strangers, s)
	}
	time.Sleep(10 * time.Second)
	login := func(n *node, user string) {
		var opts []presence.LoginOption
		if app {
			opts = append(opts, presence.WithLoginToken(token(t, n.keys, user, time.Hour)))
		}
		require.NoError(t, n.Login(context.Background(), user, opts...))
	}
	login(victim, "alice")
	login(friend, "bob")
	key := dht.KeyOfKey(testApp, victim.keys.UserKey().Fingerprint())
	if app {
		key = dht.KeyOfUser(victim.authority.App(), "alice")
	}
	has := func() bool {
		rec := friend.Stored(key)
		return rec != nil && rec.Statement.Peer == victim.id && rec.Statement.LoggedIn
	}
	soon(t, time.Minute, "the log-in is stored where it can be", has)
	for _, user := range []string{"bob", "nobody"} { // causes every kind of request
		a := identity.Address{User: user}
		s, err := victim.Status(context.Background(), a)
		require.NoError(t, err)
		require.Equal(t, user == "bob", s.State == presence.Online, "%+v", s)
		_, err = victim.Find(context.Background(), a)
		require.Equal(t, user == "bob", err == nil, "%v", err)
	}
	// It stores its log-in again, and refreshes its routing table.
	time.Sleep(2 * time.Minute)
	require.True(t, has())
	require.True(t, victim.loggedIn())
	for _, s := range strangers {
		require.NotZero(t, s.asked.Load(), "nobody asked the one that answers %s", s.reply.name)
	}
	require.NoError(t, victim.Logout(context.Background())) // this buries the record
	require.False(t, has())
	start := time.Now()
	require.NoError(t, victim.Close())
	require.LessOrEqual(t, time.Since(start), 2*time.Second)
	r.nodes[0] = nil
}

// A stranger that offers the directory's protocol needs no hello. Whatever it answers, the node
// keeps working.
func TestNoAnswerInTheDirectoryHarmsANode(t *testing.T) {
	kinds := map[string][]pb.Message_MessageType{
		"everything":    nil,
		"PUT_VALUE":     {pb.Message_PUT_VALUE},
		"GET_VALUE":     {pb.Message_GET_VALUE},
		"GET_PROVIDERS": {pb.Message_GET_PROVIDERS},
		"ADD_PROVIDER":  {pb.Message_ADD_PROVIDER},
		"FIND_NODE":     {pb.Message_FIND_NODE, pb.Message_PING},
	}
	// Fewer than keep a record, so that the honest node is one of the nearest.
	const group = 8
	for name, types := range kinds {
		for _, app := range []bool{false, true} {
			if app && strings.Contains(name, "PROVIDER") {
				continue // nobody provides names in app mode
			}
			mode := map[bool]string{false: "open", true: "app"}[app]
			for i := 0; i < len(replies); i += group {
				some := replies[i:min(i+group, len(replies))]
				t.Run(fmt.Sprintf("%s/%s/%s", name, mode, some[0].name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { besiege(t, app, types, some) })
				})
			}
		}
	}
}

// Each of a few strangers names 40 dead nodes in every answer. That must not take all the time in
// which a log-in is stored with those that are alive.
func TestStrangersThatNameDeadNodesDoNotKeepALogInFromBeingStored(t *testing.T) {
	for _, strangers := range []int{1, 4, 8} {
		t.Run(strconv.Itoa(strangers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := bare(t, 3)
				defer r.close()
				for i := range 3 {
					r.nodes[i] = r.start(i, keysOf(t, r.net.HostKey(i)), testApp, presence.WithDHT(presence.LAN))
				}
				victim, friend := r.nodes[0], r.nodes[1]
				r.meet(0, 1)
				r.meet(1, 2)
				closed := make(chan struct{})
				defer close(closed)
				dead := ma.StringCast("/ip4/10.0.200.1/udp/4001/quic-v1").Bytes()
				names := with(func(m, _ *pb.Message, _, _ peer.ID) {
					for range 40 {
						var id [38]byte
						copy(id[:], []byte{0, 36, 8, 1, 18, 32}) // of an Ed25519 key
						_, _ = rand.Read(id[6:])
						m.CloserPeers = append(m.CloserPeers, &pb.Message_Peer{Id: id[:], Addrs: [][]byte{dead}})
					}
				})
				for range strangers {
					i := r.net.NewHost(nil)
					s := &stranger{host: r.net.Host(i), victim: victim.id, reply: reply{"dead nodes", names, true}, closed: closed,
						types: []pb.Message_MessageType{pb.Message_GET_VALUE, pb.Message_GET_PROVIDERS, pb.Message_FIND_NODE}}
					r.net.Connect(i, 0)
					s.offer(t)
				}
				time.Sleep(10 * time.Second)
				require.NoError(t, victim.Login(t.Context(), "alice"))
				require.NoError(t, friend.Login(t.Context(), "bob"))
				key := dht.KeyOfKey(testApp, victim.keys.UserKey().Fingerprint())
				for at := range 60 {
					time.Sleep(10 * time.Second)
					stored := friend.Stored(key)
					require.NotNil(t, stored, "after %d s", 10*at)
					require.Equal(t, victim.id, stored.Statement.Peer)
				}
			})
		})
	}
}
