package vectors

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"io"
	"slices"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/node"
)

// stranger is a peer written from docs/PROTOCOL.md: a libp2p host with GossipSub, and the plain
// functions of this package. It uses no code of identity, presence, mesh or wire.
type stranger struct {
	t           *testing.T
	host        host.Host
	device      ed25519.PrivateKey
	user        ed25519.PrivateKey
	name        string
	app         []byte
	incarnation uint64
	ahead       time.Duration // how far its clock is ahead
	statement   []byte
	greeted     chan greeted // hellos that others have opened with it
}

// greeted is what a hello has shown about the other side.
type greeted struct {
	statement   message
	incarnation uint64
	refusal     message
}

// world returns a simulated network with a real node on host 0 and a stranger on host 1.
func world(t *testing.T, opts ...node.Option) (*meshtest.Net, *node.Node, *stranger) {
	t.Helper()
	zoe := key(9)
	net := meshtest.New(t, meshtest.Options{Hosts: 2, Latency: 5 * time.Millisecond, Key: func(i int) crypto.PrivKey {
		if i == 0 {
			return nil
		}
		k, err := crypto.UnmarshalEd25519PrivateKey(zoe)
		require.NoError(t, err)
		return k
	}})
	n, err := node.New(append([]node.Option{node.WithHost(net.Host(0)), node.WithoutMDNS()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	z := &stranger{
		t: t, host: net.Host(1), device: zoe, user: zoe, name: "zoe", app: appID("starling"), incarnation: 77,
		greeted: make(chan greeted, 16),
	}
	z.sign(true)
	z.host.SetStreamHandler("/starling/hello/1.0.0", z.serveHello)
	return net, n, z
}

// put and the functions below it write protobuf.

func put(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func putInt(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func putFixed(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), v)
}

func framed(body []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(body))), body...) }

func seal(k ed25519.PrivateKey, domain string, body []byte) []byte {
	return append(ed25519.Sign(k, append([]byte(domain), body...)), body...)
}

func pub(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) }

// sign makes the stranger's statement again.
func (z *stranger) sign(loggedIn bool) {
	now := uint64(time.Now().Add(z.ahead).UnixMilli())
	var st []byte
	st = put(st, 1, z.app)
	st = put(st, 2, []byte(z.name))
	st = put(st, 3, pub(z.user))
	if !z.user.Equal(z.device) {
		st = put(st, 4, ed25519.Sign(z.user, append([]byte("starling/device/1\x00"), pub(z.device)...)))
	}
	st = put(st, 5, pub(z.device))
	st = putInt(st, 6, now)
	st = putInt(st, 7, now)
	st = putInt(st, 8, now+3_600_000)
	if loggedIn {
		st = putInt(st, 9, 1)
	}
	z.statement = seal(z.device, "starling/statement/1\x00", st)
}

func (z *stranger) hello(nonce []byte) (h []byte) {
	h = put(h, 1, z.app)
	h = put(h, 2, z.statement)
	h = putFixed(h, 4, z.incarnation)
	h = putInt(h, 5, 256<<10)
	h = put(h, 6, putInt(nil, 1, 65536))
	h = put(h, 7, nonce)
	for _, a := range z.host.Addrs() {
		h = put(h, 8, a.Bytes())
	}
	return put(h, 100, []byte("of a later version"))
}

// stream opens a stream for one exchange of at most a minute.
func (z *stranger) stream(to peer.ID, proto protocol.ID) (network.Stream, *bufio.Reader) {
	z.t.Helper()
	s, err := z.host.NewStream(network.WithNoDial(context.Background(), ""), to, proto)
	require.NoError(z.t, err)
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	return s, bufio.NewReader(s)
}

func (z *stranger) write(s network.Stream, body []byte) {
	z.t.Helper()
	_, err := s.Write(framed(body))
	require.NoError(z.t, err)
}

// next reads one frame.
func next(r *bufio.Reader) (message, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	m, ok := parse(body)
	if !ok {
		return nil, io.ErrNoProgress
	}
	return m, nil
}

func (z *stranger) read(r *bufio.Reader) message {
	z.t.Helper()
	m, err := next(r)
	require.NoError(z.t, err)
	return m
}

// proves checks what the other side has shown and signed. The initiator and the responder are
// signed as raw peer IDs.
func (z *stranger) proves(h message, sig, nonce []byte, other peer.ID, initiator, responder peer.ID) greeted {
	z.t.Helper()
	require.Equal(z.t, z.app, h.bytes(1))
	require.Len(z.t, h.bytes(7), 16)
	require.True(z.t, signs([]byte(other)[6:], "", signedByHello(nonce, h.bytes(2), []byte(initiator), []byte(responder)), sig))
	g := greeted{incarnation: h.fixed64(4)}
	if len(h.bytes(2)) > 0 {
		st, why := plainStatement(h.bytes(2), z.app, time.Now().UnixMilli())
		require.Empty(z.t, why)
		require.Equal(z.t, []byte(other), peerIDBytes(st.bytes(5)))
		g.statement = st
	}
	return g
}

// greet opens a hello and runs it to its end, when the other side has accepted the proof.
func (z *stranger) greet(to peer.ID) greeted {
	z.t.Helper()
	s, r := z.stream(to, "/starling/hello/1.0.0")
	nonce := bytes.Repeat([]byte{0x5a}, 16)
	z.write(s, z.hello(nonce))
	reply := z.read(r)
	if len(reply[1]) > 0 {
		refusal, _ := parse(reply.bytes(1))
		_ = s.Close()
		return greeted{refusal: refusal}
	}
	theirs, ok := parse(reply.bytes(2))
	require.True(z.t, ok)
	g := z.proves(theirs, reply.bytes(3), nonce, to, z.host.ID(), to)
	proof := ed25519.Sign(z.device, signedByHello(theirs.bytes(7), z.statement, []byte(z.host.ID()), []byte(to)))
	z.write(s, put(nil, 2, proof))
	require.NoError(z.t, s.CloseWrite())
	_, err := next(r)
	require.ErrorIs(z.t, err, io.EOF)
	return g
}

// serveHello answers a hello.
func (z *stranger) serveHello(s network.Stream) {
	from := s.Conn().RemotePeer()
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(s)
	h, err := next(r)
	if err != nil {
		return
	}
	nonce := bytes.Repeat([]byte{0xa5}, 16)
	proof := ed25519.Sign(z.device, signedByHello(h.bytes(7), z.statement, []byte(from), []byte(z.host.ID())))
	if _, err := s.Write(framed(put(put(nil, 2, z.hello(nonce)), 3, proof))); err != nil {
		return
	}
	m, err := next(r)
	if err != nil {
		return
	}
	if len(m[1]) > 0 {
		refusal, _ := parse(m.bytes(1))
		z.greeted <- greeted{refusal: refusal}
	} else {
		z.greeted <- z.proves(h, m.bytes(2), nonce, from, from, z.host.ID())
	}
	_ = s.Close()
}

// seat is a stranger's stay in a room.
type seat struct {
	z     *stranger
	tag   [32]byte
	feed  []byte
	topic *pubsub.Topic
	sub   *pubsub.Subscription
	next  uint64
	tip   []byte
	entry []byte
	order uint64
	out   network.Stream
	in    chan message // frames of the room protocol
}

// enter subscribes to a room's topic and announces the stranger, which has completed a hello with
// the node.
func (z *stranger) enter(room string, to peer.ID) *seat {
	z.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	z.t.Cleanup(stop)
	ps, err := pubsub.NewGossipSub(ctx, z.host,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(), pubsub.WithFloodPublish(true),
		pubsub.WithMaxMessageSize(4<<20), pubsub.WithPeerOutboundQueueSize(4096), pubsub.WithValidateQueueSize(4096),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return string(messageID(m.GetTopic(), m.Data)) }))
	require.NoError(z.t, err)
	s := &seat{
		z: z, tag: [32]byte(roomTag(z.app, room, "")), feed: bytes.Repeat([]byte{0x77}, 16), next: 1,
		order: uint64(time.Now().UnixMilli()), in: make(chan message, 64),
	}
	s.topic, err = ps.Join(topicName(s.tag))
	require.NoError(z.t, err)
	s.sub, err = s.topic.Subscribe(pubsub.WithBufferSize(4096))
	require.NoError(z.t, err)
	z.host.SetStreamHandler("/starling/room/1.0.0", func(in network.Stream) {
		defer in.Reset()
		for r := bufio.NewReader(in); ; {
			m, err := next(r)
			if err != nil {
				return
			}
			s.in <- m
		}
	})
	s.sign(1)
	// Until the node knows the subscription, nothing published reaches it.
	for len(s.topic.ListPeers()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	s.out, _ = z.stream(to, "/starling/room/1.0.0")
	_ = s.out.SetDeadline(time.Time{})
	return s
}

// sign makes the stranger's roster entry again: state 1 is joined, 2 is left.
func (s *seat) sign(state uint64) {
	var e []byte
	e = put(e, 1, s.z.statement)
	e = put(e, 2, s.tag[:])
	e = put(e, 3, s.feed)
	e = putInt(e, 4, s.order)
	e = putInt(e, 5, state)
	e = put(e, 6, []byte("from the document"))
	s.order++
	s.entry = seal(s.z.device, "starling/roster/1\x00", e)
}

// publish seals items and publishes them as the feed's next envelope.
func (s *seat) publish(items ...Item) []byte {
	s.z.t.Helper()
	sealed := s.write(items...)
	require.NoError(s.z.t, s.topic.Publish(context.Background(), sealed))
	return sealed
}

// write seals items as the feed's next envelope.
func (s *seat) write(items ...Item) []byte {
	var content []byte
	for _, it := range items {
		content = put(content, 1, put(putInt(nil, 1, uint64(it.Kind)), 2, it.Payload))
	}
	var e []byte
	e = put(e, 1, s.z.app)
	e = put(e, 2, s.tag[:])
	e = put(e, 3, pub(s.z.device))
	e = put(e, 4, s.feed)
	e = putInt(e, 5, s.next)
	e = putInt(e, 6, uint64(len(items)))
	e = put(e, 7, s.tip)
	e = putInt(e, 8, uint64(time.Now().UnixMilli()))
	e = put(e, 11, content)
	sealed := seal(s.z.device, "starling/envelope/1\x00", e)
	s.next, s.tip = s.next+uint64(len(items)), sum(sealed)
	return sealed
}

// greeting sends the node this member's entry, the digests of its roster and of its heads, and asks
// for the same. It asks for messages published up to age ago.
func (s *seat) greeting(digest, heads []byte, age time.Duration) {
	g := putInt(put(put(nil, 1, s.entry), 2, digest), 4, 1)
	g = put(put(g, 5, heads), 6, putInt(nil, 1, uint64(age.Milliseconds())))
	s.z.write(s.out, put(put(nil, 1, s.tag[:]), 2, g))
}

// answer answers the node's question, for the stay with the feed of that tag, and passes on
// entries.
func (s *seat) answer(asker []byte, entries ...[]byte) {
	digest := make([]byte, 32)
	s.z.write(s.out, put(put(nil, 1, s.tag[:]), 2, put(put(put(nil, 1, s.entry), 2, digest), 5, digest)))
	s.positions(asker, Position{Tag: s.own(), Last: s.next - 1, First: s.next})
	s.roster(asker, entries...)
}

// heads sends the node how far this member has got.
func (s *seat) heads(list ...Position) { s.positions(nil, list...) }

// positions is heads, or the answer to a question of the stay with the feed of that tag.
func (s *seat) positions(asker []byte, list ...Position) {
	var h []byte
	for _, p := range list {
		raw := putInt(put(nil, 1, p.Tag), 2, p.Last)
		if p.First > 0 {
			raw = putInt(raw, 3, p.First)
		}
		h = put(h, 1, raw)
	}
	s.z.write(s.out, put(put(nil, 1, s.tag[:]), 6, put(h, 3, asker)))
}

// position returns the next position that the node sends for a feed.
func (s *seat) position(tag []byte) Position {
	s.z.t.Helper()
	for {
		h := s.hear(6)
		for _, p := range positionsOf(s.z.t, h.all(1)) {
			if p.First > 0 {
				require.Equal(s.z.t, s.own(), h.bytes(3), "it says whose question it answers")
			}
			if bytes.Equal(p.Tag, tag) {
				return p
			}
		}
	}
}

// own returns the tag of the stranger's feed.
func (s *seat) own() []byte { return feedTag(pub(s.z.device), s.feed) }

// fetch asks the node for what is missing, and returns the only frame of its answer.
func (s *seat) fetch(from peer.ID, wants ...Position) (message, error) {
	s.z.t.Helper()
	out, r := s.z.stream(from, "/starling/sync/1.0.0")
	q := put(nil, 1, s.tag[:])
	for _, w := range wants {
		raw := putInt(put(nil, 1, w.Tag), 2, w.First)
		if w.Last > 0 {
			raw = putInt(raw, 3, w.Last)
		}
		q = put(q, 2, raw)
	}
	s.z.write(out, q)
	require.NoError(s.z.t, out.CloseWrite())
	a, err := next(r)
	if err != nil {
		return nil, err
	}
	require.True(s.z.t, plainReply(a, s.z.app, s.tag[:], wants))
	_, err = next(r)
	require.ErrorIs(s.z.t, err, io.EOF)
	return a, nil
}

// serve answers each question of the node with envelopes of the stranger's own feed, whatever it
// asks for, and passes the questions to asked.
func (s *seat) serve(asked chan<- message, envelopes ...[]byte) {
	s.z.host.SetStreamHandler("/starling/sync/1.0.0", func(in network.Stream) {
		defer in.Close()
		q, err := next(bufio.NewReader(in))
		if err != nil {
			return
		}
		asked <- q
		answer := put(nil, 1, s.entry)
		for _, sealed := range envelopes {
			answer = putInt(put(answer, 2, sealed), 3, 0)
		}
		_, _ = in.Write(framed(answer))
	})
}

// roster sends entries, with no more to come: the answer to a question of the stay with the feed of
// that tag, or of none.
func (s *seat) roster(asker []byte, entries ...[]byte) {
	var r []byte
	for _, e := range entries {
		r = put(r, 1, e)
	}
	s.z.write(s.out, put(put(nil, 1, s.tag[:]), 3, put(putInt(r, 3, 1), 4, asker)))
}

// hear returns the next frame of the room protocol whose body is in field num.
func (s *seat) hear(num protowire.Number) message {
	s.z.t.Helper()
	for {
		select {
		case m := <-s.in:
			require.Equal(s.z.t, s.tag[:], m.bytes(1))
			if len(m[num]) > 0 {
				body, ok := parse(m.bytes(num))
				require.True(s.z.t, ok)
				return body
			}
		case <-time.After(time.Minute):
			s.z.t.Fatalf("no frame with field %d", num)
		}
	}
}

// envelope returns the next envelope that another member has published, judged by the document.
func (s *seat) envelope() message {
	s.z.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		msg, err := s.sub.Next(ctx)
		require.NoError(s.z.t, err)
		if msg.ReceivedFrom == s.z.host.ID() {
			continue
		}
		m, why := plainEnvelope(msg.Data, s.z.app, s.tag[:])
		require.Empty(s.z.t, why)
		return m
	}
}

// itemsOf returns the items of an envelope except roster entries.
func itemsOf(t *testing.T, e message) []Item {
	t.Helper()
	all, ok := plainItems(e.bytes(11))
	require.True(t, ok)
	return slices.DeleteFunc(all, func(it Item) bool { return it.Kind == 3 })
}
