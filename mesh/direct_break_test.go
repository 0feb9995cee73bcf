package mesh

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

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
	sends := make([]Pending[Receipt], messages)
	for i := range sends {
		p, err := alice.SendAsync(t.Context(), bob.login(), fmt.Append(nil, i), WithWaiting())
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

	// The next one is another process with the same key. Alice's lane notices when the stream
	// breaks.
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
	bob.who.incarnation = 1 // what the last hello said
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

// untilLaneFails waits until an attempt has failed to open the stream that messages to a peer wait
// for.
func (s *station) untilLaneFails(t *testing.T, p peer.ID) {
	t.Helper()
	for {
		s.out.mu.Lock()
		l := s.out.lanes[laneKey{p, Reliable}]
		s.out.mu.Unlock()
		l.mu.Lock()
		err := l.book.lastErr
		l.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAPeerThatComesBackIsFoundBeforeLibp2pWouldDialAgain(t *testing.T) {
	all := newHellos()
	alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
	who := all.identityOf(t, host).be(t, "bob", true)
	key, addrs := host.Peerstore().PrivKey(host.ID()), host.Addrs()
	connect(t, alice.host, host)
	host.Close()
	for alice.host.Network().Connectedness(host.ID()) == network.Connected {
		time.Sleep(time.Millisecond)
	}

	s, err := alice.SendAsync(t.Context(), who.login(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	alice.untilLaneFails(t, host.ID()) // from now on libp2p refuses to dial for 5 s
	start := time.Now()
	again, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrs(addrs...), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	bob := all.station(t, again, "bob")
	if _, err := s.Result(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := bob.inbox.len(); n != 1 {
		t.Errorf("bob has %d messages", n)
	}
}

func TestAPeerThatSaidItHasNoAddressesIsFoundWhereItWas(t *testing.T) {
	all := newHellos()
	alice, bob := all.station(t, tcpHost(t), "alice"), all.station(t, tcpHost(t), "bob")
	connect(t, alice.host, bob.host)
	addrs := bob.host.Network().ListenAddresses()
	bob.host.Network().(*swarm.Swarm).ListenClose(addrs...)
	for len(alice.host.Peerstore().Addrs(bob.host.ID())) > 0 { // as identify reports for a host that closes
		time.Sleep(time.Millisecond)
	}
	alice.host.Network().ClosePeer(bob.host.ID())
	s, err := alice.SendAsync(t.Context(), bob.login(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	alice.untilLaneFails(t, bob.host.ID())
	if err := bob.host.Network().Listen(addrs...); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Result(); err != nil {
		t.Error(err)
	}
}
