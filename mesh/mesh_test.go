package mesh

import (
	"errors"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
)

func TestCloseMayBeCalledAgainAndLeavesTheHostAlone(t *testing.T) {
	all := newHellos()
	h := tcpHost(t)
	for range 3 { // one after another on the same host
		m, err := New(h, all.identityOf(t, h))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, p := range h.Mux().Protocols() {
			if strings.HasPrefix(string(p), "/starling/") {
				t.Errorf("%s is still served", p)
			}
		}
	}
	if len(h.Network().ListenAddresses()) == 0 {
		t.Error("the host was closed too")
	}
}

func TestAMeshDoesNotPassForTheOneBeforeIt(t *testing.T) {
	all := newHellos()
	h := tcpHost(t)
	who := all.identityOf(t, h)
	m, err := New(h, who)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := New(h, who); err == nil || !strings.Contains(err.Error(), "incarnation") {
		t.Errorf("with the same incarnation: got %v", err)
	}
	m, err = New(h, all.identityOf(t, h))
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

func TestAfterCloseNothingEnters(t *testing.T) {
	all := newHellos()
	h := tcpHost(t)
	m, err := New(h, all.identityOf(t, h))
	if err != nil {
		t.Fatal(err)
	}
	if !m.tasks.Enter() {
		t.Fatal("an open mesh lets nobody in")
	}
	closed := make(chan error)
	go func() { closed <- m.Close() }()
	<-m.ctx.Done()
	if m.tasks.Enter() || m.tasks.Go(func() { t.Error("it ran") }) {
		t.Error("a closing mesh let somebody in")
	}
	select {
	case <-closed:
		t.Error("Close did not wait for who was inside")
	default:
	}
	m.tasks.Leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestAHostWithAnotherKindOfKeyIsRefused(t *testing.T) {
	key, _, err := crypto.GenerateKeyPair(crypto.Secp256k1, 0)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.NoListenAddrs, libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := New(h, new(fakeIdentity)); err == nil || !strings.Contains(err.Error(), "want Ed25519") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsSayWhichReceiverReasonsMeanWhat(t *testing.T) {
	for r, text := range reasonText {
		err := error(&RefusedError{Reason: r})
		if !strings.Contains(err.Error(), text) || !errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnconfirmed) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if got := Reason(14).String(); got != "reason 14" {
		t.Errorf("an unknown reason reads %q", got)
	}
}
