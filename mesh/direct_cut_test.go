package mesh

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/starling-mesh/starling/internal/meshtest"
)

func TestAShortCutCostsNothingButTime(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		var sends []Pending[Receipt]
		for i := range 1000 {
			if i == 500 {
				p.net.Cut(0, 1)
			}
			s, err := p.alice.SendAsync(t.Context(), p.bob.login(), fmt.Append(nil, i))
			if err != nil {
				t.Fatal(err)
			}
			sends = append(sends, s)
		}
		time.Sleep(5 * time.Second)
		p.net.Heal()
		for i, s := range sends {
			if _, err := s.Result(); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		p.wantOnceInOrder(t, 1000)
	})
}

func (p *pair) wantOnceInOrder(t *testing.T, n int) {
	t.Helper()
	got := p.bob.inbox.texts()
	if len(got) != n {
		t.Errorf("bob has %d messages, want %d", len(got), n)
	}
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
}

func TestAPatientSendOutlivesALostConnection(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		p.net.Connect(0, 1)
		var sends []Pending[Receipt]
		for i := range 200 {
			if i == 100 {
				// Bob cannot acknowledge what he takes from here on.
				p.net.Drop(func(from, _, _ int) bool { return from == 1 })
			}
			s, err := p.alice.SendAsync(ctx, p.bob.login(), fmt.Append(nil, i))
			if err != nil {
				t.Fatal(err)
			}
			sends = append(sends, s)
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		if p.net.Connected(0, 1) {
			t.Fatal("the connection should be lost")
		}
		p.net.Drop(nil)
		p.net.Heal()
		for i, s := range sends {
			if _, err := s.Result(); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		p.wantOnceInOrder(t, 200)
		if p.bob.Stats().DirectRepeated == 0 {
			t.Error("no message came twice: this proves little")
		}
	})
}

func TestALongCutEndsSendsAndTheNextOneAfterItWorks(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("before")); err != nil {
			t.Fatal(err)
		}
		p.net.Cut(0, 1)
		start := time.Now()
		_, err := p.alice.Send(t.Context(), p.bob.login(), []byte("lost"))
		ended(t, "written into the cut", err, ErrUnconfirmed, nil)
		took(t, "the send", start, 12*time.Second)
		time.Sleep(2 * time.Minute)
		p.net.Heal()
		if _, err := p.alice.Send(t.Context(), p.bob.login(), []byte("after")); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(p.bob.inbox.texts()); got != "[before after]" {
			t.Errorf("bob has %v", got)
		}
	})
}

func TestWhatWasNeverWrittenReachesARestartedReceiver(t *testing.T) {
	inPair(t, meshtest.Options{}, func(t *testing.T, p *pair) {
		p.deaf()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		send := func(text string) Pending[Receipt] {
			s, err := p.alice.SendAsync(ctx, p.bob.login(), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		written := send("written")
		time.Sleep(time.Second)
		p.net.Cut(0, 1)
		p.net.Host(0).Network().ClosePeer(p.net.ID(1))
		waiting := []Pending[Receipt]{send("0"), send("1")}
		time.Sleep(time.Second)

		p.bob.host.RemoveStreamHandler(DirectProtocol)
		p.bob = p.all.station(t, p.bob.host, "bob") // another process
		p.net.Heal()
		_, err := written.Result()
		ended(t, "written to the former", err, ErrUnconfirmed, errRestarted)
		for _, s := range waiting {
			if _, err := s.Result(); err != nil {
				t.Errorf("never written: %v", err)
			}
		}
		p.wantOnceInOrder(t, 2)
	})
}

func TestMessagesKeepFlowingOverALossyNetwork(t *testing.T) {
	inPair(t, meshtest.Options{Jitter: 20 * time.Millisecond}, func(t *testing.T, p *pair) {
		p.net.Connect(0, 1)
		p.net.Loss(10)
		var sends []Pending[Receipt]
		for i := range 300 {
			s, err := p.alice.SendAsync(t.Context(), p.bob.login(), fmt.Append(nil, i))
			if err != nil {
				t.Fatal(err)
			}
			sends = append(sends, s)
			time.Sleep(time.Millisecond)
		}
		for i, s := range sends {
			if _, err := s.Result(); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
		p.wantOnceInOrder(t, 300)
		p.net.Loss(0)
	})
}
