package mesh

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peerstore"

	"github.com/starling-mesh/starling/internal/meshtest"
)

// pair is two stations on a simulated network, not connected, though each knows the other's
// address.
type pair struct {
	net        *meshtest.Net
	all        *hellos
	alice, bob *station
}

func inPair(t *testing.T, o meshtest.Options, f func(*testing.T, *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o.Hosts = 2
		if o.Latency == 0 {
			o.Latency = 5 * time.Millisecond
		}
		net, all := meshtest.New(t, o), newHellos()
		p := &pair{net, all, all.station(t, net.Host(0), "alice"), all.station(t, net.Host(1), "bob")}
		for i := range 2 {
			to := net.Info(1 - i)
			net.Host(i).Peerstore().AddAddrs(to.ID, to.Addrs, peerstore.PermanentAddrTTL)
		}
		f(t, p)
	})
}

// took checks how long something lasted since start, in the bubble's time.
func took(t *testing.T, what string, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got < want || got > want+want/50+50*time.Millisecond {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

// ended checks how a send ended: with outcome, and with cause if there is one.
func ended(t *testing.T, what string, err, outcome, cause error) {
	t.Helper()
	other := ErrUnreachable
	if outcome == ErrUnreachable {
		other = ErrUnconfirmed
	}
	if !errors.Is(err, outcome) || errors.Is(err, other) || cause != nil && !errors.Is(err, cause) {
		t.Errorf("%s: got %v, want %v (%v)", what, err, outcome, cause)
	}
}

// send makes alice send bob a text, with a deadline in a minute.
func (p *pair) send(t *testing.T, text string) Pending[Receipt] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s, err := p.alice.SendAsync(ctx, p.bob.login(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deaf replaces bob by a process that reads and never answers.
func (p *pair) deaf() {
	p.bob.Close()
	p.bob.host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
		buf := make([]byte, 64<<10)
		for {
			if _, err := s.Read(buf); err != nil {
				return
			}
		}
	})
}

func TestTheReceiptsRoundTripIsThatOfTheNetwork(t *testing.T) {
	inPair(t, meshtest.Options{Latency: 40 * time.Millisecond}, func(t *testing.T, p *pair) {
		for i := range 2 { // the first one dials: its time on the wire is the same
			r, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
			if err != nil || r.RTT < 80*time.Millisecond || r.RTT > 130*time.Millisecond {
				t.Errorf("send %d: got %v, %v, want 80ms", i, r.RTT, err)
			}
		}
	})
}

func TestAPeerThatCannotBeReachedIsSaidToBeSoAtTheDeadline(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Cut(0, 1)
		start := time.Now()
		r, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "no deadline of its own", err, ErrUnreachable, nil)
		took(t, "the send", start, 12*time.Second)
		if r.ID != 1 {
			t.Errorf("ID: got %d", r.ID)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is the end of a context, and there was none", err)
		}
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = p.alice.Send(ctx, p.bob.login(), []byte("x"))
		ended(t, "a context's deadline", err, ErrUnreachable, context.DeadlineExceeded)
		took(t, "the send", start, 3*time.Second)
	})
}

func TestNobodyIsDialledForASendThatHasEnded(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Cut(0, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.alice.Send(ctx, p.bob.login(), []byte("x"))
		ended(t, "the send", err, ErrUnreachable, context.DeadlineExceeded)
		synctest.Wait()
		p.alice.out.mu.Lock()
		l := p.alice.out.lanes[laneKey{p.net.ID(1), Reliable}]
		p.alice.out.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.dial != nil {
			t.Error("the dial goes on")
		}
	})
}

func TestAPeerWithoutAnAddressIsUnreachableAtOnce(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.alice.host.Peerstore().ClearAddrs(p.bob.host.ID())
		start := time.Now()
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "no address", err, ErrUnreachable, nil)
		took(t, "the send", start, 0)
	})
}

func TestAPeerThatSpeaksNoStarlingIsUnreachableAtOnce(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.bob.Close()
		start := time.Now()
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "no such protocol", err, ErrUnreachable, nil)
		took(t, "the send", start, 0)
	})
}

func TestAPeerWithoutAnAddressThatWasConnectedMayComeBack(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(1, 0) // bob dials: alice never got an address of his
		p.alice.host.Network().ClosePeer(p.bob.host.ID())
		time.Sleep(time.Second)
		p.net.Cut(0, 1)
		p.alice.host.Peerstore().ClearAddrs(p.bob.host.ID())
		s := p.send(t, "x")
		time.Sleep(10 * time.Second)
		p.net.Heal()
		p.net.Connect(1, 0)
		if _, err := s.Result(); err != nil {
			t.Error(err)
		}

		p.net.Cut(0, 1)
		p.alice.host.Network().ClosePeer(p.bob.host.ID())
		time.Sleep(placeLife + time.Second)
		start := time.Now()
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "long after", err, ErrUnreachable, nil)
		took(t, "the send", start, 0)
	})
}

// longestPause is the longest time until a lane tries again: its longest pause, varied, and some
// round trips.
const longestPause = maxPause + maxPause/4 + 100*time.Millisecond

func TestAPeerThatIsStartingIsWaitedFor(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *pair) Pending[Receipt]{
		"it was sent to before": func(t *testing.T, p *pair) Pending[Receipt] {
			if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("before")); err != nil {
				t.Fatal(err)
			}
			p.bob.Close()
			time.Sleep(time.Second) // identify has told alice
			return p.send(t, "x")
		},
		"it could not be reached": func(t *testing.T, p *pair) Pending[Receipt] {
			p.bob.Close()
			p.net.Cut(0, 1)
			s := p.send(t, "x")
			time.Sleep(15 * time.Second) // a dial has failed
			p.net.Heal()
			for !p.net.Connected(0, 1) {
				time.Sleep(time.Millisecond)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
				s := before(t, p)
				time.Sleep(startWait / 2) // bob's host is there, and has no mesh yet
				select {
				case <-s.Done():
					_, err := s.Result()
					t.Fatalf("ended early: %v", err)
				default:
				}
				p.bob = p.all.station(t, p.bob.host, "bob")
				start := time.Now()
				if _, err := s.Result(); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > longestPause {
					t.Errorf("it took %v", took)
				}
				if got := fmt.Sprint(p.bob.inbox.texts()); got != "[x]" {
					t.Errorf("bob has %v", got)
				}
			})
		})
	}
}

func TestAPeerThatHasLeftStarlingIsUnreachableSoon(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("before")); err != nil {
			t.Fatal(err)
		}
		p.bob.Close()
		time.Sleep(time.Second) // identify has told alice
		for i, want := range []time.Duration{startWait, 0} {
			start := time.Now()
			_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
			ended(t, "no such protocol any more", err, ErrUnreachable, nil)
			if got := time.Since(start); got < want || got > want+longestPause {
				t.Errorf("send %d took %v, want about %v", i, got, want)
			}
		}
	})
}

func TestAPeerThatStaysSilentLeavesTheSendUnconfirmed(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.deaf()
		start := time.Now()
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "silence", err, ErrUnconfirmed, errNoAnswer)
		took(t, "the send", start, 12*time.Second)

		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		s, err := p.alice.SendAsync(ctx, p.bob.login(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Result()
		ended(t, "silence until the context's deadline", err, ErrUnconfirmed, context.DeadlineExceeded)
		took(t, "the send", start, 2*time.Second)
	})
}

func TestASendThatIsGivenUpBeforeItIsWrittenWasNeverSent(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Cut(0, 1)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := p.alice.SendAsync(ctx, p.bob.login(), []byte("given up"))
		if err != nil {
			t.Fatal(err)
		}
		kept, err := p.alice.SendAsync(t.Context(), p.bob.login(), []byte("kept"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cancel()
		_, err = s.Result()
		ended(t, "given up", err, ErrUnreachable, context.Canceled)
		p.net.Heal()
		if _, err := kept.Result(); err != nil {
			t.Errorf("kept: %v", err)
		}
		if got := fmt.Sprint(p.bob.inbox.texts()); got != "[kept]" {
			t.Errorf("bob has %v", got)
		}
	})
}

func TestUnreliableMessagesThatWaitTooLongAreDropped(t *testing.T) {
	for _, mode := range []Mode{UnreliableOrdered, UnreliableUnordered} {
		inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
			p.net.Cut(0, 1)
			start := time.Now()
			_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("late"), WithMode(mode))
			ended(t, mode.String(), err, ErrUnreachable, errLate)
			took(t, mode.String(), start, LateAfter)
			p.net.Heal()
			time.Sleep(20 * time.Second)
			if got := p.bob.inbox.texts(); len(got) != 0 {
				t.Errorf("bob has %q", got)
			}
		})
	}
}

func TestUnreliableMessagesAreNotWrittenAgain(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		unreliable := WithMode(UnreliableOrdered)
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("first"), unreliable); err != nil {
			t.Fatal(err)
		}
		p.net.Cut(0, 1)
		s, err := p.alice.SendAsync(t.Context(), p.bob.login(), []byte("second"), unreliable)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		p.alice.host.Network().ClosePeer(p.bob.host.ID())
		_, err = s.Result()
		ended(t, "after the break", err, ErrUnconfirmed, errBroken)
		p.net.Heal()
		p.net.Connect(0, 1)
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("third"), unreliable); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(p.bob.inbox.texts()); got != "[first third]" {
			t.Errorf("bob has %v", got)
		}
	})
}

func TestALargeReliableMessageDelaysNoUnreliableOne(t *testing.T) {
	inPair(t, meshtest.Options{Bandwidth: 500_000, Latency: 10 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		unreliable := WithMode(UnreliableOrdered)
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("warm"), unreliable); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var large Pending[Receipt]
		for range 10 { // 640 KiB: 10 s of this link
			s, err := p.alice.SendAsync(ctx, p.bob.login(), make([]byte, MaxMessage))
			if err != nil {
				t.Fatal(err)
			}
			large = s
		}
		time.Sleep(100 * time.Millisecond)
		for i := range 10 {
			begin := time.Now()
			if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("small"), unreliable); err != nil {
				t.Errorf("small message %d: %v", i, err)
			}
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("small message %d took %v", i, d)
			}
		}
		select {
		case <-large.Done():
			t.Errorf("the large ones were through in %v: this proves little", time.Since(start))
		default:
		}
		if _, err := large.Result(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnIdleStreamIsClosedAndTheNextMessageIsNoRepeat(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		var want []string
		for i := range 4 {
			text := fmt.Sprint(i)
			want = append(want, text)
			for _, mode := range []Mode{Reliable, UnreliableOrdered} {
				if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte(text), WithMode(mode)); err != nil {
					t.Fatal(err)
				}
			}
			if i == 2 { // on the same stream
				continue
			}
			time.Sleep(idleStream + time.Second)
			p.alice.out.mu.Lock()
			lanes := len(p.alice.out.lanes)
			p.alice.out.mu.Unlock()
			p.bob.in.mu.Lock()
			streams := len(p.bob.in.streams)
			p.bob.in.mu.Unlock()
			if lanes != 0 || streams != 0 {
				t.Errorf("after being idle: %d lanes, %d streams", lanes, streams)
			}
		}
		var got []string
		for i, text := range p.bob.inbox.texts() {
			if i%2 == 0 {
				got = append(got, text)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || p.bob.Stats().DirectRepeated != 0 {
			t.Errorf("bob has %v, want %v", got, want)
		}
	})
}

func TestAStreamWithTrafficNowAndThenStaysOpen(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		for range 10 {
			if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(idleStream - time.Minute)
		}
		if n := p.alice.Stats().DirectStreamsOpened; n != 1 {
			t.Errorf("%d streams were opened, want 1", n)
		}
	})
}

func TestAStreamThatHasGoneSilentIsReplaced(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.bob.Close()
		silent := true
		p.bob.host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
			r := newRaw(t, s)
			r.want("OPEN")
			mute := silent
			silent = false
			for {
				f, ok := r.next()
				if !ok {
					return
				}
				if !mute {
					r.ack(f.Sequence)
				}
			}
		})
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x"))
		ended(t, "into silence", err, ErrUnconfirmed, nil)
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("x")); err != nil {
			t.Errorf("on the next stream: %v", err)
		}
	})
}

func TestALogOutOfTheSenderCountsFromTheNextMessage(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		bob := p.bob.login()
		if _, err := p.alice.Send(t.Context(), bob, []byte("x")); err != nil {
			t.Fatal(err)
		}
		p.alice.who.be(t, "alice", false)
		_, err := p.alice.Send(t.Context(), bob, []byte("x"))
		if !errors.Is(err, ErrNotLoggedIn) {
			t.Errorf("here: got %v", err)
		}
		s, err := pending(p.alice.enqueue(t.Context(), bob, message{to: "bob", payload: []byte("x")})) // as a node that does not obey
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Result()
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != NotLoggedIn {
			t.Errorf("there: got %v", err)
		}
	})
}
