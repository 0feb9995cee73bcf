package presence

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// foreignTime is how long a peer of another app is not dialled. It may later come back as one
	// of ours.
	foreignTime = 10 * time.Minute
	// refusedTime is the same for a peer refused for another reason: its clock may be set right,
	// for example.
	refusedTime = time.Minute
	// refuseGrace is how long a refused peer has to read why.
	refuseGrace = time.Second
	maxReason   = 256 // bytes
)

type refusal struct {
	err   *HelloError
	until time.Time
}

// Foreign reports whether this node or that peer recently refused a hello: within the last 10
// minutes if the peer is of another app, within the last minute for any other reason. A search for
// peers should not dial it.
func (d *Directory) Foreign(p peer.ID) bool { return d.hellos.shake.foreign(p) }

// foreign is [Directory.Foreign].
func (x *handshake) foreign(p peer.ID) bool {
	r, ok := x.refusals.Get(p)
	return ok && x.clock.Now().Before(r.until)
}

// noteRefusal stores a refusal, wakes callers that wait for the hello, and notifies the observer.
func (x *handshake) noteRefusal(err *HelloError) {
	x.stats.refused.Add(1)
	x.cfg.log.Debug("hello refused", "peer", err.Peer, "remote", err.Remote, "err", err.Reason)
	pause := refusedTime
	if err.code == wire.Refusal_OTHER_APP {
		pause = foreignTime
	}
	was, known := x.refusals.Get(err.Peer)
	known = known && x.clock.Now().Before(was.until) && was.err.Remote == err.Remote &&
		was.err.code == err.code && was.err.fault == err.fault
	x.refusals.Add(err.Peer, refusal{err: err, until: x.clock.Now().Add(pause)})
	x.mu.Lock()
	if c := x.contacts[err.Peer]; c != nil {
		c.final = err
		c.settleLocked(err)
	}
	x.mu.Unlock()
	if !known { // a peer that keeps coming back is reported once
		x.events.push(Refused{Peer: err.Peer, Reason: err.Reason, Err: err})
	}
}

// frame returns the refusal in its wire form.
func (e *HelloError) frame() *wire.Refusal {
	text := e.Reason
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return &wire.Refusal{Code: e.code, Text: text, Token: e.fault}
}

// remoteRefusal reads a refusal by a peer. Its text is shown to people, so control characters for
// their terminal are removed.
func remoteRefusal(p peer.ID, r *wire.Refusal) *HelloError {
	text := r.Text
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	text = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, strings.ToValidUTF8(text, ""))
	e := &HelloError{Peer: p, Remote: true, Reason: text, code: r.Code, fault: r.Token}
	switch r.Code {
	case wire.Refusal_OTHER_APP:
		e.Err = identity.ErrOtherApp
	case wire.Refusal_CLOCK:
		e.Err = identity.ErrClock
	}
	if e.Reason == "" {
		e.Reason = strings.ToLower(r.Code.String())
	}
	if r.Token != wire.TokenFault_TOKEN_UNSPECIFIED {
		e.Err = faultError(e.Reason, r)
	}
	return e
}

// badFrame returns the refusal for a frame that could not be read because of its contents, and nil
// for one that did not arrive.
func badFrame(p peer.ID, err error) *HelloError {
	var size *wire.SizeError
	switch {
	case errors.As(err, &size), errors.Is(err, wire.ErrLength), errors.Is(err, proto.Error):
		return &HelloError{Peer: p, Reason: fmt.Sprintf("malformed hello: %v", err), Err: err, code: wire.Refusal_BAD_FRAME}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, net.ErrClosed), errors.Is(err, network.ErrReset):
		return nil
	}
	return nil
}
