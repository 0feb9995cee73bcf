package presence

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
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

var errBehind = errors.New("presence: the observer is too far behind")

// openHello runs one hello as initiator. We know the peer once its reply is verified; the peer
// knows us once it has closed its side.
func (d *Directory) openHello(conn network.Conn) error {
	if d.events.full() {
		return errBehind
	}
	_, version, list, err := d.initiate(conn, func(s identity.Session) { d.install(conn, s, 0) })
	if err != nil {
		return err
	}
	d.confirmed(conn, version)
	d.wantList(conn, list) // not before: only now does the peer know us
	return nil
}

// initiate opens a hello and runs it to its end. It calls accept between the peer's reply and our
// proof. It returns what the peer stated, the version of our statement that the peer received, and
// which list of revocations the peer has.
func (d *Directory) initiate(conn network.Conn, accept func(identity.Session)) (session identity.Session, version uint64, list *wire.RevocationsHead, err error) {
	ctx, cancel := context.WithTimeout(d.ctx, helloTimeout)
	defer cancel()
	s, err := d.open(ctx, conn, HelloProtocol)
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
	mine, version := d.ownHello()
	if err = wire.WriteFrame(s, mine); err != nil {
		return session, 0, nil, err
	}
	frames := wire.NewReader(s, maxHello)
	var reply wire.HelloReply
	if err = frames.Next(&reply); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			err = d.refuse(conn, s, refusal, &wire.HelloProof{Refusal: refusal.frame()})
		}
		return session, 0, nil, err
	}
	if reply.Refusal != nil {
		refusal := remoteRefusal(p, reply.Refusal)
		d.heed(ctx, conn, refusal)
		_ = s.Close()
		return session, 0, nil, d.drop(conn, refusal)
	}
	session, refusal := d.checkHello(p, reply.Hello)
	if refusal == nil {
		refusal = checkProof(p, reply.Proof, mine.Nonce, reply.Hello, d.id, p)
	}
	if refusal != nil {
		err = d.refuse(conn, s, refusal, &wire.HelloProof{Refusal: refusal.frame()})
		return session, 0, nil, err
	}
	if accept != nil {
		accept(session)
	}
	proof := d.proof(reply.Hello.Nonce, mine.Statement, d.id, p)
	if err = wire.WriteFrame(s, &wire.HelloProof{Proof: proof}); err != nil {
		return session, 0, nil, err
	}
	if err = s.CloseWrite(); err != nil {
		return session, 0, nil, err
	}
	// The peer closes its side once it has accepted the proof.
	if err = frames.Next(&wire.HelloProof{}); !errors.Is(err, io.EOF) {
		return session, 0, nil, fmt.Errorf("presence: end of hello: %w", err)
	}
	return session, version, reply.Hello.GetRevocations(), s.Close()
}

// serveHello runs one hello as responder.
func (d *Directory) serveHello(ctx context.Context, s network.Stream) {
	conn := s.Conn()
	c := d.admit(conn)
	if c == nil {
		d.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	began := time.Now()
	err := d.respond(ctx, conn, s)
	d.mu.Lock()
	c.inbound--
	if err != nil && !c.failedLocked(conn, began) {
		c.settleLocked(nil)
	} else {
		c.settleLocked(err)
	}
	d.progressLocked()
	d.mu.Unlock()
	<-d.inGate
	if err != nil {
		d.stats.helloFailed.Add(1)
		d.cfg.log.Debug("hello failed", "peer", c.id, "err", err)
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// admit counts a hello that the peer of conn opens. It returns nil if there are too many.
func (d *Directory) admit(conn network.Conn) *contact {
	if d.events.full() {
		return nil
	}
	c := d.connected(conn, false)
	if c == nil {
		return nil
	}
	select {
	case d.inGate <- struct{}{}:
	default:
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.inbound >= maxInboundPeer || !c.hellos.Allow() {
		<-d.inGate
		return nil
	}
	c.inbound++
	return c
}

func (d *Directory) respond(ctx context.Context, conn network.Conn, s network.Stream) error {
	p := conn.RemotePeer()
	_ = s.SetDeadline(time.Now().Add(helloTimeout))
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })() // for transports without deadlines

	frames := wire.NewReader(s, maxHello)
	var hello wire.Hello
	if err := frames.Next(&hello); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			return d.refuse(conn, s, refusal, &wire.HelloReply{Refusal: refusal.frame()})
		}
		return err
	}
	session, refusal := d.checkHello(p, &hello)
	if refusal != nil {
		return d.refuse(conn, s, refusal, &wire.HelloReply{Refusal: refusal.frame()})
	}
	mine, version := d.ownHello()
	reply := &wire.HelloReply{Hello: mine, Proof: d.proof(hello.Nonce, mine.Statement, p, d.id)}
	if err := wire.WriteFrame(s, reply); err != nil {
		return err
	}
	var last wire.HelloProof
	if err := frames.Next(&last); err != nil {
		if refusal := badFrame(p, err); refusal != nil {
			return d.drop(conn, refusal)
		}
		return err
	}
	if last.Refusal != nil {
		refusal := remoteRefusal(p, last.Refusal)
		d.heed(ctx, conn, refusal)
		_ = s.Close()
		return d.drop(conn, refusal)
	}
	if refusal := checkProof(p, last.Proof, mine.Nonce, &hello, p, d.id); refusal != nil {
		return d.drop(conn, refusal)
	}
	d.install(conn, session, version)
	d.wantList(conn, hello.Revocations)
	return nil
}

// ownHello returns our current hello, and the version of the statement in it.
func (d *Directory) ownHello() (*wire.Hello, uint64) {
	d.mu.Lock()
	self, version := d.self, d.version
	d.mu.Unlock()
	h := &wire.Hello{
		App:         d.app[:],
		Incarnation: d.incarnation,
		MaxEnvelope: maxEnvelope,
		Limits:      &wire.Limits{MaxMessage: uint32(d.cfg.maxMessage)},
		Nonce:       make([]byte, nonceSize),
	}
	_, _ = rand.Read(h.Nonce) // never fails
	if self != nil {
		h.Statement = self.Sealed()
	}
	h.Revocations = d.listHead()
	for _, a := range d.host.Addrs() {
		if raw := a.Bytes(); len(h.Addrs) < wire.MaxAddrs && len(raw) <= wire.MaxAddr {
			h.Addrs = append(h.Addrs, raw)
		}
	}
	return h, version
}

// checkHello verifies what can be verified in a hello before its proof.
func (d *Directory) checkHello(p peer.ID, h *wire.Hello) (identity.Session, *RefusedError) {
	none := identity.Session{}
	if h == nil || len(h.Nonce) != nonceSize {
		return none, &RefusedError{Peer: p, Reason: "malformed hello", code: wire.Refusal_BAD_FRAME}
	}
	if len(h.App) != len(d.app) || identity.AppID(h.App) != d.app {
		return none, &RefusedError{
			Peer: p, Reason: "it is a node of another app", Err: identity.ErrOtherApp, code: wire.Refusal_OTHER_APP,
		}
	}
	session := identity.Session{
		Incarnation:  h.Incarnation,
		Capabilities: h.Capabilities,
		MaxEnvelope:  int(min(h.MaxEnvelope, 1<<30)),
		MaxMessage:   int(min(h.GetLimits().GetMaxMessage(), 1<<30)),
		Addrs:        wire.ParseAddrs(h.Addrs),
	}
	if len(h.Statement) == 0 {
		return session, nil
	}
	st, err := d.verifyHello(p, h.Statement, time.Now())
	if err == nil {
		err = st.CheckPeer(p)
	}
	if err == nil {
		session.Statement = st
		return session, nil
	}
	refusal := &RefusedError{Peer: p, Reason: err.Error(), Err: err, code: wire.Refusal_BAD_STATEMENT, fault: faultOf(err)}
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
func (d *Directory) verifyHello(p peer.ID, sealed []byte, now time.Time) (*identity.Statement, error) {
	st, err := d.verifier.Verify(sealed, now)
	if !errors.Is(err, identity.ErrTokenExpired) && !errors.Is(err, identity.ErrTokenRevoked) {
		return st, err
	}
	d.mu.Lock()
	c := d.contacts[p]
	known := c != nil && c.known
	d.mu.Unlock()
	if !known {
		return nil, err
	}
	return d.verifier.VerifyLapsed(sealed, now)
}

// proof signs the peer's nonce together with our statement and both peer IDs, so that nobody can
// pass off a recorded hello as a live one.
func (d *Directory) proof(nonce, statement []byte, initiator, responder peer.ID) []byte {
	return wire.Sign(wire.DomainHello, d.keys.Device, transcript(nonce, statement, initiator, responder))
}

// checkProof checks p's proof over our nonce.
func checkProof(p peer.ID, proof, nonce []byte, theirs *wire.Hello, initiator, responder peer.ID) *RefusedError {
	key, err := deviceKey(p)
	if err != nil || !wire.Check(wire.DomainHello, key, transcript(nonce, theirs.Statement, initiator, responder), proof) {
		return &RefusedError{
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
func (d *Directory) refuse(conn network.Conn, s network.Stream, refusal *RefusedError, frame proto.Message) error {
	d.noteRefusal(refusal)
	_ = s.SetDeadline(time.Now().Add(refuseGrace))
	if wire.WriteFrame(s, frame) == nil && s.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(s, maxRefused)) // until it has read that and closes, or the deadline
	}
	_ = d.host.Network().ClosePeer(conn.RemotePeer())
	return refusal
}

// drop drops the connection to a peer without sending a reason.
func (d *Directory) drop(conn network.Conn, refusal *RefusedError) error {
	d.noteRefusal(refusal)
	_ = d.host.Network().ClosePeer(conn.RemotePeer())
	return refusal
}
