package presence

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
)

// The protocols of the directory.
const (
	HelloProtocol  protocol.ID = "/starling/hello/1.0.0"
	WhoisProtocol  protocol.ID = "/starling/whois/1.0.0"
	NoticeProtocol protocol.ID = "/starling/notice/1.0.0"
)

var protocols = []protocol.ID{HelloProtocol, WhoisProtocol, NoticeProtocol, WatchProtocol, RevocationsProtocol}

const (
	// helloTimeout bounds a whole hello, and how long Peer waits for one.
	helloTimeout = 5 * time.Second
	// maxHello bounds a frame of hello: a statement of 8 KiB, 16 addresses of 256 bytes, and what
	// later versions add.
	maxHello = 16 << 10
	// maxEnvelope is the largest envelope that this version accepts, in bytes.
	maxEnvelope = 256 << 10

	// maxRefused bounds how much is read and discarded from a peer that was refused, in bytes.
	maxRefused = 1 << 20

	nonceSize = 16
)

// handshake runs single hellos: what this node states and proves in them, how it judges what a peer
// states, and whom it has refused. When to run one, and what follows, is for the greeter.
type handshake struct {
	*people
	own      *account
	lists    *revocations
	refusals *lru.Cache[peer.ID, refusal] // recent ones
}

// initiate opens a hello and runs it to its end. It calls accept between the peer's reply and our
// proof. It returns what the peer stated, the version of our statement that the peer received, and
// which list of revocations the peer has.
func (x *handshake) initiate(conn network.Conn, accept func(identity.Session)) (session identity.Session, version uint64, list *wire.RevocationsHead, err error) {
	ctx, cancel := context.WithTimeout(x.ctx, helloTimeout)
	defer cancel()
	s, err := x.open(ctx, conn, HelloProtocol)
	if err != nil {
		return session, 0, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	defer func() {
		if err != nil {
			_ = s.Reset()
		}
	}()

	p := conn.RemotePeer()
	mine, version := x.ownHello()
	if err = wire.WriteFrame(s, mine); err != nil {
		return session, 0, nil, err
	}
	frames := wire.NewReader(s, maxHello)
	var reply wire.HelloReply
	if err = frames.Next(&reply); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			err = x.refuse(conn, s, refusal, &wire.HelloProof{Refusal: refusal.frame()})
		}
		return session, 0, nil, err
	}
	if reply.Refusal != nil {
		refusal := remoteRefusal(p, reply.Refusal)
		x.lists.heed(ctx, conn, refusal)
		_ = s.Close()
		return session, 0, nil, x.drop(conn, refusal)
	}
	session, refusal := x.checkHello(p, reply.Hello)
	if refusal == nil {
		refusal = checkProof(p, reply.Proof, mine.Nonce, reply.Hello, x.id, p)
	}
	if refusal != nil {
		err = x.refuse(conn, s, refusal, &wire.HelloProof{Refusal: refusal.frame()})
		return session, 0, nil, err
	}
	if accept != nil {
		accept(session)
	}
	proof := x.proof(reply.Hello.Nonce, mine.Statement, x.id, p)
	if err = wire.WriteFrame(s, &wire.HelloProof{Proof: proof}); err != nil {
		return session, 0, nil, err
	}
	if err = s.CloseWrite(); err != nil {
		return session, 0, nil, err
	}
	// The peer closes its side once it has accepted the proof.
	if err = frames.Next(&wire.HelloProof{}); !errors.Is(err, io.EOF) {
		return session, 0, nil, fmt.Errorf("end of hello: %w", err)
	}
	return session, version, reply.Hello.GetRevocations(), s.Close()
}

// respond runs a hello that a peer has opened. It returns the same as initiate.
func (x *handshake) respond(ctx context.Context, conn network.Conn, s network.Stream) (session identity.Session, version uint64, list *wire.RevocationsHead, err error) {
	p := conn.RemotePeer()
	_ = s.SetDeadline(walltime.In(helloTimeout))
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })() // for transports without deadlines

	frames := wire.NewReader(s, maxHello)
	var hello wire.Hello
	if err := frames.Next(&hello); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			return session, 0, nil, x.refuse(conn, s, refusal, &wire.HelloReply{Refusal: refusal.frame()})
		}
		return session, 0, nil, err
	}
	session, refusal := x.checkHello(p, &hello)
	if refusal != nil {
		return session, 0, nil, x.refuse(conn, s, refusal, &wire.HelloReply{Refusal: refusal.frame()})
	}
	mine, version := x.ownHello()
	reply := &wire.HelloReply{Hello: mine, Proof: x.proof(hello.Nonce, mine.Statement, p, x.id)}
	if err := wire.WriteFrame(s, reply); err != nil {
		return session, 0, nil, err
	}
	var last wire.HelloProof
	if err := frames.Next(&last); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			return session, 0, nil, x.drop(conn, refusal)
		}
		return session, 0, nil, err
	}
	if last.Refusal != nil {
		refusal := remoteRefusal(p, last.Refusal)
		x.lists.heed(ctx, conn, refusal)
		_ = s.Close()
		return session, 0, nil, x.drop(conn, refusal)
	}
	if refusal := checkProof(p, last.Proof, mine.Nonce, &hello, p, x.id); refusal != nil {
		return session, 0, nil, x.drop(conn, refusal)
	}
	return session, version, hello.Revocations, nil
}

// ownHello returns our current hello, and the version of the statement in it.
func (x *handshake) ownHello() (*wire.Hello, uint64) {
	x.mu.Lock()
	self, version, closing := x.own.self, x.own.version, x.own.closing
	x.mu.Unlock()
	h := &wire.Hello{
		App:         x.app[:],
		Incarnation: x.incarnation,
		MaxEnvelope: maxEnvelope,
		Limits:      x.limits(),
		Nonce:       make([]byte, nonceSize),
		Closing:     closing,
	}
	_, _ = rand.Read(h.Nonce) // never fails
	if self != nil {
		h.Statement = self.Sealed()
	}
	h.Revocations = x.lists.head()
	for _, a := range x.host.Addrs() {
		if raw := a.Bytes(); len(h.Addrs) < wire.MaxAddrs && len(raw) <= wire.MaxAddr {
			h.Addrs = append(h.Addrs, raw)
		}
	}
	return h, version
}

// checkHello verifies what can be verified in a hello before its proof.
func (x *handshake) checkHello(p peer.ID, h *wire.Hello) (identity.Session, *HelloError) {
	none := identity.Session{}
	if h == nil || len(h.Nonce) != nonceSize {
		return none, &HelloError{Peer: p, Reason: "malformed hello", code: wire.Refusal_BAD_FRAME}
	}
	if len(h.App) != len(x.app) || identity.AppID(h.App) != x.app {
		return none, &HelloError{
			Peer: p, Reason: "it is a node of another app", Err: identity.ErrOtherApp, code: wire.Refusal_OTHER_APP,
		}
	}
	session := identity.Session{
		Incarnation:  h.Incarnation,
		Capabilities: h.Capabilities,
		MaxEnvelope:  int(min(h.MaxEnvelope, 1<<30)),
		MaxMessage:   int(min(h.GetLimits().GetMaxMessage(), 1<<30)),
		Grace:        unstated,
		Leeway:       unstated,
		Addrs:        wire.ParseAddrs(h.Addrs),
		Closing:      h.Closing,
	}
	if l := h.Limits; l != nil {
		session.Grace, session.Leeway = fromMillis(l.GraceMs), fromMillis(l.LeewayMs)
		session.Rates = toRates(l.Rates)
	}
	if len(h.Statement) == 0 {
		return session, nil
	}
	st, err := x.verifyHello(p, h.Statement, x.clock.Now())
	if err == nil {
		err = st.CheckPeer(p)
	}
	if err == nil {
		session.Statement = st
		return session, nil
	}
	refusal := &HelloError{Peer: p, Reason: err.Error(), Err: err, code: wire.Refusal_BAD_STATEMENT, fault: faultOf(err)}
	if bad := (*identity.StatementError)(nil); errors.As(err, &bad) {
		refusal.Reason = "its statement: " + bad.Reason
	}
	switch {
	case errors.Is(err, identity.ErrClock):
		refusal.code = wire.Refusal_CLOCK
	case errors.Is(err, identity.ErrOtherApp):
		refusal.code = wire.Refusal_OTHER_APP
	}
	return none, refusal
}

// verifyHello verifies the statement in a hello. If the token of a known peer's log-in has ended,
// the peer keeps its connection, and the rooms on it; only the log-in no longer counts. The peer
// may not know yet, for example of a revocation that it learns of through this very hello.
func (x *handshake) verifyHello(p peer.ID, sealed []byte, now time.Time) (*identity.Statement, error) {
	st, err := x.verifier.Verify(sealed, now)
	if !errors.Is(err, identity.ErrTokenExpired) && !errors.Is(err, identity.ErrTokenRevoked) {
		return st, err
	}
	x.mu.Lock()
	c := x.contacts[p]
	known := c != nil && c.known
	x.mu.Unlock()
	if !known {
		return nil, err
	}
	return x.verifier.VerifyLapsed(sealed, now)
}

// proof signs the peer's nonce together with our statement and both peer IDs, so that nobody can
// pass off a recorded hello as a live one.
func (x *handshake) proof(nonce, statement []byte, initiator, responder peer.ID) []byte {
	return wire.Sign(wire.DomainHello, x.keys.Device, transcript(nonce, statement, initiator, responder))
}

// checkProof checks p's proof over our nonce.
func checkProof(p peer.ID, proof, nonce []byte, theirs *wire.Hello, initiator, responder peer.ID) *HelloError {
	key, err := deviceKey(p)
	if err != nil || !wire.Check(wire.DomainHello, key, transcript(nonce, theirs.Statement, initiator, responder), proof) {
		return &HelloError{
			Peer: p, Reason: "its proof of the device key does not verify", Err: identity.ErrSignature,
			code: wire.Refusal_BAD_STATEMENT,
		}
	}
	return nil
}

func transcript(nonce, statement []byte, initiator, responder peer.ID) []byte {
	sum := sha256.Sum256(statement)
	out := append([]byte(nil), nonce...)
	out = append(out, sum[:]...)
	out = append(out, initiator...)
	return append(out, responder...)
}

// deviceKey returns the Ed25519 key that a peer ID embeds.
func deviceKey(p peer.ID) ([]byte, error) {
	pub, err := p.ExtractPublicKey()
	if err != nil {
		return nil, err
	}
	return pub.Raw()
}

// refuse sends the peer the reason, gives it a second to read that, and drops the connection.
func (x *handshake) refuse(conn network.Conn, s network.Stream, refusal *HelloError, frame proto.Message) error {
	x.noteRefusal(refusal)
	_ = s.SetDeadline(walltime.In(refuseGrace))
	if wire.WriteFrame(s, frame) == nil && s.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(s, maxRefused)) // until it has read that and closes, or the deadline
	}
	_ = x.host.Network().ClosePeer(conn.RemotePeer())
	return refusal
}

// drop drops the connection to a peer without sending a reason.
func (x *handshake) drop(conn network.Conn, refusal *HelloError) error {
	x.noteRefusal(refusal)
	_ = x.host.Network().ClosePeer(conn.RemotePeer())
	return refusal
}
