package mesh

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/starling-mesh/starling/identity"
)

func TestAMessageIsDeliveredWithAReceipt(t *testing.T) {
	alice, bob := tcpPair(t)
	data := []byte("binary \x00\xff\xc3\x28")
	before := time.Now()
	r, err := alice.Send(t.Context(), bob.login(), data)
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != 1 || r.RTT <= 0 || r.RTT > time.Since(before) || r.Relayed {
		t.Errorf("receipt: got %+v", r)
	}
	// The receipt says that the message is in the queue: no waiting.
	got := bob.inbox.texts()
	if len(got) != 1 || got[0] != string(data) {
		t.Fatalf("bob has %q", got)
	}
	m := bob.inbox.msgs[0]
	if m.From != alice.login() || m.Kind != Binary || m.Type != TypeDirectMessage || m.Room != "" {
		t.Errorf("message: got %+v", m)
	}
	if age := m.Sent.Sub(before.Truncate(time.Millisecond)); age < 0 || age > time.Minute {
		t.Errorf("sent %v after the test began", age)
	}
	if s := alice.Stats(); s.DirectSent != 1 || s.DirectDelivered != 1 || s.DirectStreamsOpened != 1 {
		t.Errorf("alice counts %+v", s)
	}
	if s := bob.Stats(); s.DirectTaken != 1 || s.DirectStreamsTaken != 1 || s.DirectViolations != 0 {
		t.Errorf("bob counts %+v", s)
	}
}

func TestTextAndSizesUpToTheLimitArriveAsTheyAre(t *testing.T) {
	alice, bob := tcpPair(t)
	if _, err := alice.Send(t.Context(), bob.login(), []byte("grüß dich"), AsText()); err != nil {
		t.Fatal(err)
	}
	big := []byte(strings.Repeat("0123456789abcdef", MaxMessage/16))
	for _, mode := range []Mode{Reliable, UnreliableOrdered, UnreliableUnordered} {
		if _, err := alice.Send(t.Context(), bob.login(), big, WithMode(mode)); err != nil {
			t.Fatalf("%d bytes %v: %v", len(big), mode, err)
		}
	}
	msgs := bob.inbox.await(t, 4)
	if m := msgs[0]; m.Kind != Text || string(m.Data) != "grüß dich" {
		t.Errorf("text: got %v %q", m.Kind, m.Data)
	}
	for _, m := range msgs[1:] {
		if string(m.Data) != string(big) {
			t.Errorf("large message: %d bytes, not those sent", len(m.Data))
		}
	}
}

func TestADataSliceIsTheCallersAgainWhenTheCallReturns(t *testing.T) {
	alice, bob := tcpPair(t)
	data := make([]byte, 1)
	var sends []Pending[Receipt]
	for i := range byte(100) {
		data[0] = i
		p, err := alice.SendAsync(t.Context(), bob.login(), data)
		if err != nil {
			t.Fatal(err)
		}
		sends = append(sends, p)
	}
	for _, p := range sends {
		if _, err := p.Result(); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range bob.inbox.await(t, 100) {
		if m.Data[0] != byte(i) {
			t.Fatalf("message %d holds %d", i, m.Data[0])
		}
	}
}

func TestWhatIsWrongWithASendIsSaidAtOnceAndCostsNoTrafficAndNoID(t *testing.T) {
	alice, bob := tcpPair(t, WithMaxMessage(1000))
	to := bob.login()
	self := to
	self.Peer = alice.host.ID()
	sibling := alice.login()
	sibling.Peer = bob.host.ID()
	nameless := to
	nameless.User = ""
	peerless := to
	peerless.Peer = ""
	var size *SizeError
	var id *identity.IDError
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		name  string
		to    identity.Login
		data  string
		opts  []SendOption
		check func(error) bool
	}{
		{"empty", to, "", nil, is(ErrEmpty)},
		{"too long", to, strings.Repeat("x", 1001), nil, func(err error) bool { return errors.As(err, &size) && *size == SizeError{1001, 1000} }},
		{"not text", to, "\xc3\x28", []SendOption{AsText()}, is(ErrNotText)},
		{"to this device", self, "x", nil, is(ErrSelf)},
		{"to the same user elsewhere", sibling, "x", nil, is(ErrSelf)},
		{"no user", nameless, "x", nil, is(identity.ErrEmptyID)},
		{"bad user", identity.Login{User: "a b", Key: to.Key, Peer: to.Peer}, "x", nil, func(err error) bool { return errors.As(err, &id) }},
		{"no peer", peerless, "x", nil, is(peer.ErrEmptyPeerID)},
		{"unknown mode", to, "x", []SendOption{WithMode(3)}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "unknown mode 3") }},
	} {
		if r, err := alice.Send(t.Context(), c.to, []byte(c.data), c.opts...); !c.check(err) || r != (Receipt{}) {
			t.Errorf("%s: Send gave %+v, %v", c.name, r, err)
		}
		if p, err := alice.SendAsync(t.Context(), c.to, []byte(c.data), c.opts...); !c.check(err) || p != (Pending[Receipt]{}) {
			t.Errorf("%s: SendAsync gave %v, %v", c.name, p, err)
		}
	}
	for _, loggedIn := range []string{"", "alice"} {
		alice.who.be(t, loggedIn, false)
		if _, err := alice.Send(t.Context(), to, []byte("x")); !errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("as %q, not logged in: got %v", loggedIn, err)
		}
	}
	if s := alice.Stats(); s != (Stats{}) {
		t.Errorf("alice counts %+v, want nothing", s)
	}
	alice.who.be(t, "alice", true)
	if r, err := alice.Send(t.Context(), to, []byte(strings.Repeat("x", 1000))); err != nil || r.ID != 1 {
		t.Errorf("the first that is right: got %+v, %v, want ID 1", r, err)
	}
}

func TestAReceiverSaysWhyItRefuses(t *testing.T) {
	alice, bob := tcpPair(t)
	to := bob.login()
	carol := to
	carol.User = "carol"
	room := [32]byte{1}
	send := func(d message) error {
		p, err := pending(alice.enqueue(t.Context(), to, d))
		if err != nil {
			return err
		}
		r, err := p.Result()
		if r.ID != p.ID() {
			t.Errorf("receipt of a refused send has ID %d, want %d", r.ID, p.ID())
		}
		return err
	}
	for _, c := range []struct {
		name  string
		setup func()
		d     message
		want  Reason
	}{
		{"full", func() { bob.inbox.full.Store(true) }, message{to: "bob"}, QueueFull},
		{"another user", func() { bob.inbox.full.Store(false) }, message{to: "carol"}, WrongUser},
		{"not logged in", func() { bob.who.be(t, "bob", false) }, message{to: "bob"}, NotLoggedIn},
		{"no user", func() { bob.who.be(t, "", false) }, message{to: "bob"}, NotLoggedIn},
		{"no user, in a room", func() {}, message{to: "bob", room: &room}, NotMember},
		{"not in that room", func() { bob.who.be(t, "bob", true) }, message{to: "bob", room: &room}, NotMember},
		{"sender not logged in", func() { alice.who.be(t, "alice", false) }, message{to: "bob"}, NotLoggedIn},
		{"sender without identity", func() { alice.who.be(t, "", false) }, message{to: "bob"}, NoIdentity},
	} {
		c.setup()
		c.d.payload = []byte(c.name)
		err := send(c.d)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != c.want || !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v, want refused, %v", c.name, err, c.want)
		}
		if got, want := errors.Is(err, ErrNotMember), c.want == NotMember; got != want {
			t.Errorf("%s: is ErrNotMember: %v", c.name, got)
		}
	}
	alice.who.be(t, "alice", true)
	if err := send(message{to: "bob", payload: []byte("at last")}); err != nil {
		t.Errorf("when all is well: %v", err)
	}
	if got := bob.inbox.texts(); len(got) != 1 || got[0] != "at last" {
		t.Errorf("bob has %q", got)
	}
}

func TestAReceiverWithASmallerLimitRefusesWhatIsTooLongForIt(t *testing.T) {
	all := newHellos()
	alice := all.station(t, tcpHost(t), "alice")
	bob := all.station(t, tcpHost(t), "bob", WithMaxMessage(100))
	connect(t, alice.host, bob.host)
	_, err := alice.Send(t.Context(), bob.login(), make([]byte, 101))
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != TooLong {
		t.Errorf("got %v, want refused, too long", err)
	}
}

func TestAMessageThroughARelaySaysSo(t *testing.T) {
	all := newHellos()
	middle := tcpHost(t)
	service, err := relay.New(middle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	relayed := func(user string) *station {
		h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.EnableRelay(), libp2p.DisableMetrics())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		return all.station(t, h, user)
	}
	alice, bob := relayed("alice"), relayed("bob")
	if _, err := client.Reserve(t.Context(), bob.host, peer.AddrInfo{ID: middle.ID(), Addrs: middle.Addrs()}); err != nil {
		t.Fatal(err)
	}
	circuit := ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", middle.Addrs()[0], middle.ID()))
	ctx := network.WithAllowLimitedConn(t.Context(), "test")
	if err := alice.host.Connect(ctx, peer.AddrInfo{ID: bob.host.ID(), Addrs: []ma.Multiaddr{circuit}}); err != nil {
		t.Fatal(err)
	}
	if got := alice.host.Network().Connectedness(bob.host.ID()); got != network.Limited {
		t.Fatalf("alice is %v to bob, want Limited", got)
	}
	r, err := alice.Send(t.Context(), bob.login(), []byte("by way of the middle"))
	if err != nil || !r.Relayed {
		t.Errorf("got %+v, %v, want delivered, relayed", r, err)
	}
}
