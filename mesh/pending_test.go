package mesh

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

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
	var sends []Pending[Receipt]
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
	send := func(ctx context.Context, text string) Pending[Receipt] {
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
	if p, err := alice.SendAsync(ctx, who.login(), []byte("fourth")); p != (Pending[Receipt]{}) || !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnreachable) {
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
	if p, err := alice.SendAsync(ctx, who.login(), []byte("x")); p != (Pending[Receipt]{}) || !errors.Is(err, ErrQueueFull) {
		t.Errorf("full: got %v, %v, want the queue to be full", p, err)
	}
	if p, err := alice.SendAsync(ctx, who.login(), []byte("x"), WithWaiting()); p != (Pending[Receipt]{}) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
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
