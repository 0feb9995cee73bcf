package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
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
	var sends []*Pending
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
		if p, err := alice.SendAsync(t.Context(), c.to, []byte(c.data), c.opts...); !c.check(err) || p != nil {
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
	send := func(d outgoing) error {
		p, err := alice.sendDirect(t.Context(), to.Peer, d)
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
		d     outgoing
		want  Reason
	}{
		{"full", func() { bob.inbox.full.Store(true) }, outgoing{to: "bob"}, QueueFull},
		{"another user", func() { bob.inbox.full.Store(false) }, outgoing{to: "carol"}, WrongUser},
		{"not logged in", func() { bob.who.be(t, "bob", false) }, outgoing{to: "bob"}, NotLoggedIn},
		{"no user", func() { bob.who.be(t, "", false) }, outgoing{to: "bob"}, NotLoggedIn},
		{"no user, in a room", func() {}, outgoing{to: "bob", room: &room}, NotMember},
		{"not in that room", func() { bob.who.be(t, "bob", true) }, outgoing{to: "bob", room: &room}, NotMember},
		{"sender not logged in", func() { alice.who.be(t, "alice", false) }, outgoing{to: "bob"}, NotLoggedIn},
		{"sender without identity", func() { alice.who.be(t, "", false) }, outgoing{to: "bob"}, NoIdentity},
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
	if err := send(outgoing{to: "bob", payload: []byte("at last")}); err != nil {
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

func TestOrderAndOnceHoldWhileTheConnectionBreaksUnderAPipeline(t *testing.T) {
	const messages = 20_000
	alice, bob := tcpPair(t)
	done, broken := make(chan struct{}), make(chan int)
	go func() { // each time that bob has some more
		n := 0
		defer func() { broken <- n }()
		for next := 500; ; next += 700 {
			for bob.inbox.len() < next {
				select {
				case <-bob.inbox.more:
				case <-done:
					return
				}
			}
			alice.host.Network().ClosePeer(bob.host.ID())
			n++
		}
	}()
	sends := make([]*Pending, messages)
	for i := range sends {
		p, err := alice.SendAsync(t.Context(), bob.login(), fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		if p.ID() != uint64(i+1) {
			t.Fatalf("send %d has ID %d", i, p.ID())
		}
		sends[i] = p
	}
	for i, p := range sends {
		if r, err := p.Result(); err != nil || r.ID != uint64(i+1) {
			t.Fatalf("message %d: %+v, %v", i, r, err)
		}
	}
	close(done)
	n := <-broken
	got := bob.inbox.texts()
	if len(got) != messages {
		t.Errorf("bob has %d messages, want %d", len(got), messages)
	}
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
	if s := alice.Stats(); n < 5 || s.DirectResent == 0 {
		t.Errorf("the connection broke %d times and %d messages were resent: this proves little", n, s.DirectResent)
	}
}

func TestARefusedMessageStaysRefusedWhenItIsRepeated(t *testing.T) {
	alice, bob := tcpPair(t)
	raw := openRaw(t, alice.host, bob, Reliable, 7)
	bob.inbox.full.Store(true)
	raw.message(1, "first")
	raw.wantRefusal(1, QueueFull)
	bob.inbox.full.Store(false)

	raw = openRaw(t, alice.host, bob, Reliable, 7) // as after a break
	raw.message(1, "first")
	raw.wantRefusal(1, QueueFull)
	raw.message(2, "second")
	raw.wantAck(2)
	if got := bob.inbox.texts(); len(got) != 1 || got[0] != "second" {
		t.Errorf("bob has %q", got)
	}
	if s := bob.Stats(); s.DirectRepeated != 1 || s.DirectTurned != 1 || s.DirectTaken != 1 {
		t.Errorf("bob counts %+v", s)
	}
}

func TestARestartedReceiverTakesOnlyWhatWasNeverWrittenToTheFormer(t *testing.T) {
	all := newHellos()
	alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
	connect(t, alice.host, host)

	// The former process reads one message, and answers nothing.
	former := all.identityOf(t, host).be(t, "bob", true)
	read := make(chan network.Stream, 1)
	host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
		r := newRaw(t, s)
		r.want("OPEN")
		r.want("MESSAGE")
		read <- s
	})
	written, err := alice.SendAsync(t.Context(), former.login(), []byte("written"))
	if err != nil {
		t.Fatal(err)
	}
	s := <-read
	host.RemoveStreamHandler(DirectProtocol)

	// The next one is another process with the same key. Alice's lane learns it when the stream breaks.
	bob := all.station(t, host, "bob")
	s.Reset()
	r, err := written.Result()
	if !errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrUnreachable) || !errors.Is(err, errRestarted) || r.ID != 1 {
		t.Errorf("written to the former: got %+v, %v", r, err)
	}
	if _, err := alice.Send(t.Context(), bob.login(), []byte("new")); err != nil {
		t.Errorf("sent to the next one: %v", err)
	}
	if got := bob.inbox.texts(); len(got) != 1 || got[0] != "new" {
		t.Errorf("bob has %q", got)
	}
}

func TestAReceiverThatHelloHasNotYetToldOfTurnsTheStreamAwayAndNothingIsLost(t *testing.T) {
	all := newHellos()
	alice := all.station(t, tcpHost(t), "alice")
	bob := all.station(t, tcpHost(t), "bob")
	connect(t, alice.host, bob.host)
	truth := bob.who.incarnation
	bob.who.incarnation = 1 // what the last hello told
	bob.who.tell()
	bob.who.incarnation = truth
	p, err := alice.SendAsync(t.Context(), bob.login(), []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	for alice.Stats().DirectStreamsOpened < 2 { // the first has been turned away
		select {
		case <-p.Done():
			_, err := p.Result()
			t.Fatalf("ended early: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	bob.who.tell()
	if _, err := p.Result(); err != nil {
		t.Errorf("got %v, want delivered: no process has taken it", err)
	}
	if got := bob.inbox.texts(); len(got) != 1 {
		t.Errorf("bob has %q", got)
	}
}

func TestTwoThatSendToEachOtherAtOnceNeedNoTieBreak(t *testing.T) {
	alice, bob := tcpPair(t)
	const messages = 500
	var wg sync.WaitGroup
	flood := func(from, to *station) {
		for i := range messages {
			if _, err := from.Send(t.Context(), to.login(), fmt.Append(nil, i)); err != nil {
				t.Error(err)
				return
			}
		}
	}
	wg.Go(func() { flood(alice, bob) })
	wg.Go(func() { flood(bob, alice) })
	wg.Wait()
	for _, s := range []*station{alice, bob} {
		for i, text := range s.inbox.texts() {
			if text != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, text)
			}
		}
		if st := s.Stats(); st.DirectStreamsOpened != 1 || st.DirectTaken != messages {
			t.Errorf("counts %+v", st)
		}
	}
}

func TestCloseEndsEverySendWithOneResult(t *testing.T) {
	all := newHellos()
	alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
	connect(t, alice.host, host)
	who := all.identityOf(t, host).be(t, "bob", true)
	arrived := make(chan struct{}, 1)
	host.SetStreamHandler(DirectProtocol, func(s network.Stream) { // reads, and answers nothing
		r := newRaw(t, s)
		r.want("OPEN")
		r.want("MESSAGE")
		arrived <- struct{}{}
	})
	var sends []*Pending
	for range 3 * windowMessages {
		p, err := alice.SendAsync(t.Context(), who.login(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		sends = append(sends, p)
	}
	blocked := make(chan error, 1)
	go func() {
		_, err := alice.Send(context.Background(), who.login(), []byte("y"))
		blocked <- err
	}()
	<-arrived
	var closing sync.WaitGroup
	for range 3 {
		closing.Go(func() {
			if err := alice.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			for i, p := range sends {
				select {
				case <-p.Done():
				default:
					t.Errorf("send %d has not ended when Close returns", i)
				}
			}
		})
	}
	closing.Wait()
	if err := <-blocked; !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send under way: got %v", err)
	}
	_, first := sends[0].Result()
	_, last := sends[len(sends)-1].Result()
	if !errors.Is(first, ErrUnconfirmed) || !errors.Is(first, ErrClosed) {
		t.Errorf("the first, which arrived: got %v", first)
	}
	if !errors.Is(last, ErrUnreachable) || !errors.Is(last, ErrClosed) {
		t.Errorf("the last, beyond the window: got %v", last)
	}
	if _, err := alice.Send(context.Background(), who.login(), []byte("z")); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after Close: got %v", err)
	}
	if s := alice.Stats(); s.DirectSent != s.DirectFailed {
		t.Errorf("counts %+v", s)
	}
}

func TestAContextEndsItsOwnSendAndNoOther(t *testing.T) {
	all := newHellos()
	alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
	connect(t, alice.host, host)
	who := all.identityOf(t, host).be(t, "bob", true)
	answer := make(chan struct{})
	arrived := make(chan struct{}, 1)
	host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
		r := newRaw(t, s)
		r.want("OPEN")
		for range 3 {
			r.want("MESSAGE")
		}
		arrived <- struct{}{}
		<-answer
		r.ack(3)
	})
	ctx, cancel := context.WithCancel(t.Context())
	send := func(ctx context.Context, text string) *Pending {
		p, err := alice.SendAsync(ctx, who.login(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, second := send(t.Context(), "first"), send(ctx, "second")
	synchronous := make(chan error, 1)
	go func() {
		_, err := alice.Send(ctx, who.login(), []byte("third"))
		synchronous <- err
	}()
	<-arrived
	cancel()
	_, err := second.Result()
	for name, err := range map[string]error{"SendAsync": err, "Send": <-synchronous} {
		if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnconfirmed) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v, want cancelled and unconfirmed", name, err)
		}
	}
	if _, err := first.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: got %v, want what ended the wait", err)
	}
	close(answer)
	if _, err := first.Result(); err != nil {
		t.Errorf("the other send: %v", err)
	}
	if _, err := first.Wait(ctx); err != nil {
		t.Errorf("Wait for what has ended, with an ended context: %v", err)
	}
	if p, err := alice.SendAsync(ctx, who.login(), []byte("fourth")); p != nil || !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("with an ended context: got %v, %v, want cancelled, nothing sent", p, err)
	}
}

func TestAFullLaneHoldsCallersBackUntilThereIsRoom(t *testing.T) {
	all := newHellos()
	alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
	connect(t, alice.host, host)
	who := all.identityOf(t, host).be(t, "bob", true)
	answer := make(chan struct{})
	host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
		r := newRaw(t, s)
		r.want("OPEN")
		<-answer
		for {
			f, ok := r.next()
			if !ok {
				return
			}
			r.ack(f.Sequence)
		}
	})
	for range laneMessages {
		if _, err := alice.SendAsync(t.Context(), who.login(), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if p, err := alice.SendAsync(ctx, who.login(), []byte("x")); p != nil || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("full: got %v, %v, want to be held back until the deadline", p, err)
	}
	if n := alice.Stats().DirectSent; n != laneMessages {
		t.Errorf("%d accepted, want %d", n, laneMessages)
	}
	close(answer)
	if r, err := alice.Send(t.Context(), who.login(), []byte("x")); err != nil || r.ID != laneMessages+1 {
		t.Errorf("with room: got %+v, %v, want ID %d", r, err, laneMessages+1)
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
