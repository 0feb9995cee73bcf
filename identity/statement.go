package identity

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// MaxStatement is the most bytes of a sealed statement. A statement usually has about 300. One
	// with a token of 4 KiB stays below 5 KiB.
	MaxStatement = 8 << 10
	// MaxSkew is how far two clocks may differ: a statement from further in the future is refused.
	MaxSkew = 2 * time.Minute
)

var (
	// ErrClock reports a statement from the future: the clock of its issuer is ahead, or ours is
	// behind.
	ErrClock = errors.New("clocks disagree")
	// ErrOtherApp reports a statement that was signed for another app.
	ErrOtherApp = errors.New("statement of another app")
	// ErrExpired reports a statement whose time is over.
	ErrExpired = errors.New("statement has expired")
	// ErrSignature reports a statement or certificate that its key did not sign.
	ErrSignature = errors.New("signature does not verify")
)

// StatementError reports a statement that was refused. Err is one of [ErrClock], [ErrOtherApp],
// [ErrExpired], [ErrSignature], an [*IDError], a [*TokenError], or nil for a malformed statement.
type StatementError struct {
	Reason string
	Err    error
}

func (e *StatementError) Error() string { return "statement: " + e.Reason }

// Unwrap returns Err.
func (e *StatementError) Unwrap() error { return e.Err }

// Statement is signed by a device and says which user is on it and whether that user is logged in.
// A value from [Keys.Sign] or [Verify] is shared and read only.
type Statement struct {
	App      AppID
	User     string
	UserKey  PublicKey
	Device   PublicKey
	Peer     peer.ID   // derived from Device
	Sequence uint64    // of the log-in; see [NextSequence]. It stays the same when the statement is signed again
	Issued   time.Time // in whole milliseconds, as all times here
	Expires  time.Time
	LoggedIn bool   // false: the device has an identity, but receives nothing outside rooms
	Token    string // in app mode; empty in open mode, and before any log-in

	sealed    []byte
	authority *Authority // whose rules it was verified under; nil: open mode
	grant     *Grant     // what Token says; nil: no token
}

// Subject identifies what counts as one user; a later log-in of the same subject ends an earlier
// one. In open mode that is the name with the user key, in app mode the name alone, since issuers
// vouch for it. It is comparable.
type Subject struct {
	User string
	Key  PublicKey // zero in app mode
}

// Subject returns the subject that the statement is about. In app mode only a [Statement.Grant], or
// a room's token, proves it.
func (s *Statement) Subject() Subject {
	if s.authority != nil {
		return Subject{User: s.User}
	}
	return Subject{User: s.User, Key: s.UserKey}
}

// SameUser reports whether l is a log-in of the statement's user.
func (s *Statement) SameUser(l Login) bool {
	return s.User == l.User && (s.authority != nil || s.UserKey == l.Key)
}

// Grant returns what the statement's token grants. It is verified except for the time: see
// [Statement.CheckLogin]. It is nil without a token, and in open mode.
func (s *Statement) Grant() *Grant { return s.grant }

// LoggedInAt reports whether the statement is of a log-in that counts at that time: the statement
// says so and has not expired. In app mode its token must not have expired either, with the leeway,
// and must not be revoked now.
func (s *Statement) LoggedInAt(now time.Time) bool {
	return s.LoggedIn && s.Expires.After(now) && s.CheckLogin(now) == nil
}

// CheckLogin returns why the token of a log-in does not count at that time: a [*StatementError]
// that wraps a [*TokenError]. It returns nil for a statement without a log-in, and in open mode.
func (s *Statement) CheckLogin(now time.Time) error {
	if s.authority == nil || !s.LoggedIn {
		return nil
	}
	if err := s.authority.Check(s.grant, now); err != nil {
		return badToken(err)
	}
	return nil
}

// Sign signs st with this device key and this user key. It takes App, User, Sequence, Issued,
// Expires, LoggedIn and Token from st and fills in the rest. It cuts times to milliseconds. It
// refuses a statement that [Verify] would refuse from any device.
func (k *Keys) Sign(st Statement) (*Statement, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	device, user := k.DeviceKey(), k.UserKey()
	msg := &wire.Statement{
		App:         st.App[:],
		User:        st.User,
		UserKey:     user[:],
		Certificate: k.Certificate(),
		Device:      device[:],
		Sequence:    st.Sequence,
		IssuedMs:    st.Issued.UnixMilli(),
		ExpiresMs:   st.Expires.UnixMilli(),
		LoggedIn:    st.LoggedIn,
		Token:       st.Token,
	}
	out, err := fromWire(msg)
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if size := wire.SignatureSize + len(body); size > MaxStatement {
		return nil, oversize(size)
	}
	out.sealed = wire.Seal(wire.DomainStatement, k.Device, body)
	return out, nil
}

// Verify opens a sealed statement and checks everything about it that can be checked from its
// bytes, the app and the time. It does not know which peer showed the statement: see
// [Statement.CheckPeer]. All errors are [*StatementError]. It is safe to call with any bytes.
func Verify(sealed []byte, app AppID, now time.Time) (*Statement, error) {
	st, err := open(sealed)
	if err != nil {
		return nil, err
	}
	if err := st.check(app, now); err != nil {
		return nil, err
	}
	return st, nil
}

// open makes the checks that depend only on the bytes.
func open(sealed []byte) (*Statement, error) {
	if len(sealed) > MaxStatement {
		return nil, oversize(len(sealed))
	}
	sig, body, err := wire.Split(sealed)
	if err != nil {
		return nil, &StatementError{Reason: fmt.Sprintf("%d bytes are too few", len(sealed))}
	}
	var msg wire.Statement
	if err := proto.Unmarshal(body, &msg); err != nil {
		return nil, &StatementError{Reason: "malformed"}
	}
	st, err := fromWire(&msg)
	if err != nil {
		return nil, err
	}
	if !wire.Check(wire.DomainStatement, msg.Device, body, sig) {
		return nil, &StatementError{Reason: "the device's signature does not verify", Err: ErrSignature}
	}
	if len(msg.Certificate) > 0 && !wire.Check(wire.DomainDevice, msg.UserKey, msg.Device, msg.Certificate) {
		return nil, &StatementError{Reason: "the user key has not certified the device key", Err: ErrSignature}
	}
	st.sealed = bytes.Clone(sealed)
	return st, nil
}

// fromWire checks the fields one by one. The caller must check the signatures.
func fromWire(msg *wire.Statement) (*Statement, error) {
	malformed := func(format string, a ...any) (*Statement, error) {
		return nil, &StatementError{Reason: fmt.Sprintf(format, a...)}
	}
	if len(msg.App) != len(AppID{}) {
		return malformed("app ID of %d bytes", len(msg.App))
	}
	if len(msg.UserKey) != len(PublicKey{}) || len(msg.Device) != len(PublicKey{}) {
		return malformed("keys of %d and %d bytes", len(msg.UserKey), len(msg.Device))
	}
	switch same := bytes.Equal(msg.UserKey, msg.Device); {
	case same && len(msg.Certificate) != 0:
		return malformed("certificate for a device key that is the user key")
	case !same && len(msg.Certificate) != wire.SignatureSize:
		return malformed("certificate of %d bytes", len(msg.Certificate))
	}
	if err := CheckUser(msg.User); err != nil {
		return nil, &StatementError{Reason: err.Error(), Err: err}
	}
	if msg.Sequence == 0 {
		return malformed("no sequence")
	}
	if msg.IssuedMs <= 0 || msg.ExpiresMs <= msg.IssuedMs || msg.ExpiresMs > maxMilli {
		return malformed("valid from %d to %d ms", msg.IssuedMs, msg.ExpiresMs)
	}
	device := PublicKey(msg.Device)
	id, err := peerID(device)
	if err != nil {
		return malformed("device key: %v", err)
	}
	return &Statement{
		App:      AppID(msg.App),
		User:     msg.User,
		UserKey:  PublicKey(msg.UserKey),
		Device:   device,
		Peer:     id,
		Sequence: msg.Sequence,
		Issued:   time.UnixMilli(msg.IssuedMs).UTC(),
		Expires:  time.UnixMilli(msg.ExpiresMs).UTC(),
		LoggedIn: msg.LoggedIn,
		Token:    msg.Token,
	}, nil
}

// maxMilli is the last millisecond of the year 9999, where RFC 3339 ends.
const maxMilli = 253402300799999

// check makes the checks that depend on the app and the time.
func (s *Statement) check(app AppID, now time.Time) error {
	if s.App != app {
		return &StatementError{Reason: "signed for another app", Err: ErrOtherApp}
	}
	if ahead := s.Issued.Sub(now); ahead > MaxSkew {
		return &StatementError{Err: ErrClock, Reason: fmt.Sprintf(
			"issued %v in the future: check the clock of this device and of %s's", ahead.Round(time.Millisecond), s.User)}
	}
	if limit := uint64(max(now.Add(MaxSkew).UnixMilli(), 0)); s.Sequence > limit {
		return &StatementError{Err: ErrClock, Reason: fmt.Sprintf(
			"sequence %d is more than %v ahead of the time: check the clock of this device and of %s's", s.Sequence, MaxSkew, s.User)}
	}
	if !s.Expires.After(now) {
		return &StatementError{Err: ErrExpired, Reason: fmt.Sprintf("expired %v ago", now.Sub(s.Expires).Round(time.Millisecond))}
	}
	return nil
}

func oversize(size int) error {
	return &StatementError{Reason: fmt.Sprintf("%d bytes, at most %d are allowed", size, MaxStatement)}
}

// CheckPeer returns a [*StatementError] unless the statement is of the device with that peer ID. A
// peer that shows a statement as its own must be that device.
func (s *Statement) CheckPeer(p peer.ID) error {
	if s.Peer != p {
		return &StatementError{Reason: fmt.Sprintf("of peer %s, shown by peer %s", s.Peer, p)}
	}
	return nil
}

// Sealed returns a copy of the signed bytes.
func (s *Statement) Sealed() []byte { return bytes.Clone(s.sealed) }

// Login returns the user, key and peer that the statement names.
func (s *Statement) Login() Login { return Login{User: s.User, Key: s.UserKey, Peer: s.Peer} }

// Newer reports whether s supersedes o. Between two devices the higher (Sequence, Peer) wins, so
// that every node computes the same result. Between two statements of one log-in, the one issued
// later wins.
func (s *Statement) Newer(o *Statement) bool {
	return cmp.Or(cmp.Compare(s.Sequence, o.Sequence), cmp.Compare(s.Peer, o.Peer), s.Issued.Compare(o.Issued)) > 0
}

// NextSequence returns the sequence of a new log-in: the time in milliseconds, or one above the
// highest sequence seen if that is more. It ignores a highest that is more than [MaxSkew] ahead.
// Such a sequence comes from a wrong clock: everybody would refuse it, and following it would lock
// the user out until that time.
func NextSequence(highest uint64, now time.Time) uint64 {
	ms := uint64(max(now.UnixMilli(), 1))
	if highest >= uint64(max(now.Add(MaxSkew).UnixMilli(), 1)) {
		return ms
	}
	return max(highest+1, ms)
}
