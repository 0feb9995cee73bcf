package mesh

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

// stillWell checks that a station serves an honest peer as if nothing had happened.
func stillWell(t *testing.T, honest, s *station) {
	t.Helper()
	n := s.inbox.len()
	if _, err := honest.Send(t.Context(), s.login(), []byte("well?")); err != nil {
		t.Errorf("an honest peer's message: %v", err)
	}
	if got := s.inbox.texts(); len(got) != n+1 || got[n] != "well?" {
		t.Errorf("the station took %d messages, want 1", len(got)-n)
	}
}

func TestAStreamThatBreaksTheProtocolIsResetAndNothingElse(t *testing.T) {
	all := newHellos()
	bob, honest := all.station(t, tcpHost(t), "bob"), all.station(t, tcpHost(t), "alice")
	mallory := tcpHost(t)
	all.identityOf(t, mallory).be(t, "mallory", true)
	connect(t, mallory, bob.host)
	connect(t, honest.host, bob.host)
	open := wire.Direct{Type: wire.DirectFrame_OPEN, Sender: 1, Receiver: bob.who.incarnation}
	message := wire.Direct{Type: wire.DirectFrame_MESSAGE, Sequence: 5, Kind: wire.Kind_KIND_BINARY, To: []byte("bob"), Payload: []byte("x")}
	repeat := message
	repeat.Sequence = 4
	badClass := open
	badClass.Class = 3
	endless := []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}
	for i, c := range []struct {
		name   string
		stream [][]byte
		taken  int
	}{
		{"garbage", [][]byte{[]byte("\x05hello, who is there?")}, 0},
		{"an endless length", [][]byte{endless}, 0},
		{"a length over the limit", [][]byte{open.AppendFrame(nil), {0x81, 0x80, 0x05}}, 0}, // 80 KiB + 1
		{"a length of 2^63", [][]byte{open.AppendFrame(nil), {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1}}, 0},
		{"no OPEN", [][]byte{message.AppendFrame(nil)}, 0},
		{"an unknown class", [][]byte{badClass.AppendFrame(nil)}, 0},
		{"two OPENs", [][]byte{open.AppendFrame(nil), open.AppendFrame(nil)}, 0},
		{"an answer", [][]byte{open.AppendFrame(nil), (&wire.Direct{Type: wire.DirectFrame_ACK, Sequence: 1}).AppendFrame(nil)}, 0},
		{"sequence 0", [][]byte{open.AppendFrame(nil), (&wire.Direct{Type: wire.DirectFrame_MESSAGE}).AppendFrame(nil)}, 0},
		{"a sequence twice on one stream", [][]byte{open.AppendFrame(nil), message.AppendFrame(message.AppendFrame(nil))}, 1},
		{"a sequence that falls", [][]byte{open.AppendFrame(nil), repeat.AppendFrame(message.AppendFrame(nil))}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			had, violations := bob.inbox.len(), bob.Stats().DirectViolations
			open.Sender = uint64(10 + i)
			r := dialRaw(t, mallory, bob)
			for _, b := range c.stream {
				if _, err := r.Write(b); err != nil {
					break // reset already
				}
			}
			for { // what was right is answered, and then the stream ends
				if _, ok := r.next(); !ok {
					break
				}
			}
			if got := bob.inbox.len() - had; got > c.taken {
				t.Errorf("took %d messages, want at most %d", got, c.taken)
			}
			for bob.Stats().DirectViolations == violations {
				time.Sleep(time.Millisecond) // the reset overtakes the count
			}
			stillWell(t, honest, bob)
		})
	}
	t.Run("bytes after which nothing comes", func(t *testing.T) {
		r := dialRaw(t, mallory, bob)
		r.write(open.AppendFrame(nil))
		r.write([]byte{200, 1, 1, 2, 3})
		r.CloseWrite()
		r.wantReset()
		stillWell(t, honest, bob)
	})
}

func TestMalformedMessagesAreRefusedOneByOne(t *testing.T) {
	all := newHellos()
	bob := all.station(t, tcpHost(t), "bob", WithMaxMessage(100))
	mallory := tcpHost(t)
	all.identityOf(t, mallory).be(t, "mallory", true)
	connect(t, mallory, bob.host)
	good := wire.Direct{Type: wire.DirectFrame_MESSAGE, Kind: wire.Kind_KIND_BINARY, To: []byte("bob"), Payload: []byte("x")}
	with := func(change func(*wire.Direct)) wire.Direct {
		f := good
		change(&f)
		return f
	}
	r := openRaw(t, mallory, bob, Reliable, 1)
	for i, c := range []struct {
		f    wire.Direct
		want Reason
	}{
		{with(func(f *wire.Direct) { f.Payload = nil }), Malformed},
		{with(func(f *wire.Direct) { f.Kind = 0 }), Malformed},
		{with(func(f *wire.Direct) { f.Kind = wire.Kind_KIND_ROSTER }), Malformed},
		{with(func(f *wire.Direct) { f.Kind = -1 }), Malformed},
		{with(func(f *wire.Direct) { f.Kind, f.Payload = wire.Kind_KIND_TEXT, []byte{0xff} }), Malformed},
		{with(func(f *wire.Direct) { f.Room = make([]byte, 31) }), Malformed},
		{with(func(f *wire.Direct) { f.Room = make([]byte, 32) }), NotMember},
		{with(func(f *wire.Direct) { f.Payload = make([]byte, 101) }), TooLong},
		{with(func(f *wire.Direct) { f.To = nil }), WrongUser},
	} {
		c.f.Sequence = uint64(i + 1)
		r.send(c.f)
		r.wantRefusal(c.f.Sequence, c.want)
	}
	good.Sequence = 100
	r.send(good)
	r.wantAck(100)
	if got := bob.inbox.texts(); len(got) != 1 || got[0] != "x" {
		t.Errorf("bob has %q", got)
	}
}

func TestOldSequencesAreNeverDeliveredAgainAndJumpsCostNothing(t *testing.T) {
	all := newHellos()
	bob := all.station(t, tcpHost(t), "bob")
	mallory := tcpHost(t)
	all.identityOf(t, mallory).be(t, "mallory", true)
	connect(t, mallory, bob.host)

	r := openRaw(t, mallory, bob, Reliable, 1)
	r.message(10, "ten")
	r.wantAck(10)
	r.message(1<<40, "far")
	r.wantAck(1 << 40)
	r.message(math.MaxUint64, "last")
	r.wantAck(math.MaxUint64)

	r = openRaw(t, mallory, bob, Reliable, 1)
	r.message(math.MaxUint64-1, "skipped before")
	r.wantAck(math.MaxUint64 - 1) // a repeat, as far as bob can know
	r.message(math.MaxUint64, "last")
	r.wantAck(math.MaxUint64)

	r = openRaw(t, mallory, bob, Reliable, 1)
	r.message(10, "ten")
	r.wantReset() // further back than any sender goes

	r = openRaw(t, mallory, bob, UnreliableOrdered, 1) // each mode counts for itself
	r.message(10, "other mode")
	r.wantAck(10)
	r = openRaw(t, mallory, bob, Reliable, 2) // and each process
	r.message(10, "other process")
	r.wantAck(10)
	r = openRaw(t, mallory, bob, Reliable, 1)
	r.wantReset() // the former process has ended
	if got, want := fmt.Sprint(bob.inbox.texts()), "[ten far last other mode other process]"; got != want {
		t.Errorf("bob has %v, want %v", got, want)
	}
}

func TestASenderThatMeansAnotherIncarnationIsTurnedAway(t *testing.T) {
	alice, bob := tcpPair(t)
	r := dialRaw(t, alice.host, bob)
	r.send(wire.Direct{Type: wire.DirectFrame_OPEN, Sender: 1, Receiver: bob.who.incarnation + 1})
	r.message(1, "for your predecessor")
	r.wantAnswer(wire.Direct{Type: wire.DirectFrame_REFUSE, Reason: wire.DirectFrame_INCARNATION})
	r.wantReset()
	if got := bob.inbox.texts(); len(got) != 0 {
		t.Errorf("bob has %q", got)
	}
}

func TestANewStreamOfAModeEndsTheOneBefore(t *testing.T) {
	alice, bob := tcpPair(t)
	older := openRaw(t, alice.host, bob, Reliable, 1)
	older.message(1, "one")
	older.wantAck(1)
	other := openRaw(t, alice.host, bob, UnreliableOrdered, 1)
	other.message(1, "other mode")
	other.wantAck(1)
	newer := openRaw(t, alice.host, bob, Reliable, 1)
	newer.message(2, "two")
	newer.wantAck(2)
	older.wantReset()
	other.message(2, "other mode again")
	other.wantAck(2)
	newer.message(3, "three")
	newer.wantAck(3)
}

func TestANewStreamWaitsForTheMessageThatTheOneBeforeIsDelivering(t *testing.T) {
	all := newHellos()
	delivering, finish := make(chan struct{}, 10), make(chan struct{})
	taken := 0
	bob := all.station(t, tcpHost(t), "bob", WithInbox(func(*DirectMessage, int) bool {
		taken++ // the race detector checks that one comes at a time
		delivering <- struct{}{}
		<-finish
		return true
	}))
	alice := tcpHost(t)
	all.identityOf(t, alice).be(t, "alice", true)
	connect(t, alice, bob.host)
	older := openRaw(t, alice, bob, Reliable, 1)
	older.message(1, "one")
	<-delivering
	newer := openRaw(t, alice, bob, Reliable, 1)
	newer.message(1, "one")
	newer.message(2, "two")
	older.wantReset() // and only now may the newer one be served
	finish <- struct{}{}
	newer.wantAck(1)
	finish <- struct{}{}
	newer.wantAck(2)
	if taken != 2 {
		t.Errorf("bob took %d messages, want 2", taken)
	}
}

func TestAPeerHoldsFewStreams(t *testing.T) {
	alice, bob := tcpPair(t)
	const tries = 5 * maxPeerStreams
	ended := make(chan struct{}, tries)
	for range tries { // none says OPEN
		r := dialRaw(t, alice.host, bob)
		r.write([]byte{20})
		go func() {
			r.next()
			ended <- struct{}{}
		}()
	}
	for range tries - maxPeerStreams {
		<-ended
	}
	bob.in.mu.Lock()
	held, peers := len(bob.in.streams), len(bob.in.perPeer)
	bob.in.mu.Unlock()
	if held != maxPeerStreams || peers != 1 {
		t.Errorf("bob holds %d streams of %d peers, want %d of 1", held, peers, maxPeerStreams)
	}
}

func TestManySendersAreRememberedForLongAndThenForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in inbound
		in.init()
		stream := func(i int) *inStream {
			s := &inStream{peer: peer.ID(fmt.Sprint(i)), done: make(chan struct{})}
			in.streams[s] = struct{}{}
			in.perPeer[s.peer]++
			return s
		}
		for i := range maxSeen {
			s := stream(i)
			from, before := in.claim(s, Reliable)
			if from == nil || before != nil {
				t.Fatalf("sender %d: got %v after %v", i, from, before)
			}
			in.remove(s, from)
		}
		time.Sleep(seenFor - 1)
		first := stream(0)
		back, _ := in.claim(first, Reliable) // is back, and stays
		if from, _ := in.claim(stream(-1), Reliable); from != nil {
			t.Errorf("a new sender displaced one that was seen %v ago", seenFor-1)
		}
		time.Sleep(time.Nanosecond)
		if from, _ := in.claim(stream(-2), Reliable); from == nil {
			t.Error("a new sender found no place though many are forgotten")
		}
		if len(in.senders) != maxSeen {
			t.Errorf("%d are remembered, want %d", len(in.senders), maxSeen)
		}
		if in.senders[laneKey{peer.ID("0"), Reliable}] != back || in.senders[laneKey{peer.ID("1"), Reliable}] != nil {
			t.Error("the wrong one was forgotten")
		}
	})
}

func TestAReceiverThatLiesCannotMakeASenderLie(t *testing.T) {
	for name, answer := range map[string][]wire.Direct{
		"acknowledges what was never sent": {{Type: wire.DirectFrame_ACK, Sequence: 2}},
		"acknowledges 0":                   {{Type: wire.DirectFrame_ACK}},
		"refuses what was never sent":      {{Type: wire.DirectFrame_REFUSE, Sequence: 9, Reason: 1}},
		"sends messages":                   {{Type: wire.DirectFrame_MESSAGE, Sequence: 1, Payload: []byte("x")}},
		"sends large frames":               {{Type: wire.DirectFrame_ACK, Sequence: 1, Payload: make([]byte, 300)}},
	} {
		t.Run(name, func(t *testing.T) {
			all := newHellos()
			alice, host := all.station(t, tcpHost(t), "alice"), tcpHost(t)
			connect(t, alice.host, host)
			who := all.identityOf(t, host).be(t, "bob", true)
			lies := true
			host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
				r := newRaw(t, s)
				r.want("OPEN")
				f := r.want("MESSAGE")
				if !lies {
					r.ack(f.Sequence)
					return
				}
				lies = false // the next stream is honest
				for _, f := range answer {
					r.write(f.AppendFrame(nil))
				}
				r.wantReset()
			})
			if _, err := alice.Send(t.Context(), who.login(), []byte("x")); err != nil {
				t.Errorf("got %v, want delivered over the stream after the lie", err)
			}
			if s := alice.Stats(); s.DirectViolations != 1 || s.DirectStreamsOpened != 2 || s.DirectDelivered != 1 {
				t.Errorf("counts %+v", s)
			}
		})
	}
}

func TestHalfOpenStreamsEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Options{Hosts: 2, Latency: 5 * time.Millisecond})
		all := newHellos()
		bob := all.station(t, net.Host(0), "bob")
		defer bob.Close()
		all.identityOf(t, net.Host(1)).be(t, "mallory", true)
		net.Connect(1, 0)
		ends := func(what string, after time.Duration, begin func(*raw)) {
			t.Helper()
			r := dialRaw(t, net.Host(1), bob)
			begin(r)
			start := time.Now()
			r.wantReset()
			if took := time.Since(start); took < after-100*time.Millisecond || took > after+100*time.Millisecond {
				t.Errorf("%s: ended after %v, want %v", what, took, after)
			}
		}
		open := (&wire.Direct{Type: wire.DirectFrame_OPEN, Sender: 1, Receiver: bob.who.incarnation}).AppendFrame(nil)
		ends("half an OPEN", openWithin, func(r *raw) { r.write(open[:3]) })
		ends("half a message", frameWithin, func(r *raw) {
			r.write(open)
			r.write([]byte{100, 1, 2, 3})
		})
		ends("a message byte by byte", frameWithin, func(r *raw) {
			r.write(open)
			r.write([]byte{100})
			go func() {
				for range 200 {
					time.Sleep(time.Second)
					if _, err := r.Write([]byte{0}); err != nil {
						return
					}
				}
			}()
		})
		r := dialRaw(t, net.Host(1), bob)
		r.write(open)
		time.Sleep(time.Hour) // idle streams may idle
		r.message(1, "after an hour")
		r.wantAck(1)
		r.Reset()
		time.Sleep(time.Second)
		bob.in.mu.Lock()
		defer bob.in.mu.Unlock()
		if len(bob.in.streams) != 0 || len(bob.in.perPeer) != 0 || bob.in.idle.Len() != 1 {
			t.Errorf("%d streams of %d peers are left, and %d senders remembered", len(bob.in.streams), len(bob.in.perPeer), bob.in.idle.Len())
		}
	})
}

func TestASenderThatReadsNoAnswersOnlyHoldsUpItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Options{Hosts: 3, Latency: time.Millisecond})
		all := newHellos()
		bob := all.station(t, net.Host(0), "bob")
		defer bob.Close()
		honest := all.station(t, net.Host(2), "alice")
		defer honest.Close()
		all.identityOf(t, net.Host(1)).be(t, "mallory", true)
		net.ConnectAll()
		bob.inbox.full.Store(true) // so that each message costs an answer of its own
		r := openRaw(t, net.Host(1), bob, Reliable, 1)
		r.SetWriteDeadline(time.Now().Add(time.Minute))
		frame := wire.Direct{Type: wire.DirectFrame_MESSAGE, Kind: wire.Kind_KIND_BINARY, To: []byte("bob"), Payload: []byte("x")}
		var written int
		for {
			frame.Sequence++
			n, err := r.Write(frame.AppendFrame(nil))
			written += n
			if err != nil {
				break // bob reads no more
			}
			if written > 64<<20 {
				t.Fatal("bob reads on for ever, and keeps answers that nobody takes")
			}
		}
		bob.inbox.full.Store(false)
		stillWell(t, honest, bob)
		_, err := honest.Send(t.Context(), bob.login(), []byte("still"))
		if errors.Is(err, ErrUnconfirmed) {
			t.Error(err)
		}
		r.Reset()
	})
}
