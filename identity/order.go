package identity

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// RoleModerator is the role in a room token whose holder may put members out of the room.
	RoleModerator = "moderator"
	// MaxOrder is the most bytes of a sealed order: a token, and 1 KiB for all else.
	MaxOrder = MaxToken + 1<<10
	// OrderLife is how long after it was issued a kick or a dismissal is kept, so that a member
	// that was away hears of it, and so that an old copy of a member's entry does not bring it
	// back.
	OrderLife = 24 * time.Hour
)

// Reasons why an order was refused. Each comes inside an [*OrderError]. A token that does not hold
// is reported as its own error, such as [ErrTokenRevoked].
var (
	ErrOrderMalformed = errors.New("malformed order")
	ErrOrderApp       = errors.New("order for another app")
	ErrOrderRoom      = errors.New("order for another room")
	ErrOrderRole      = errors.New("order by a user without the role")
	ErrOrderExpired   = errors.New("order expired")
)

// OrderError reports an order that was refused. errors.Is finds the reason: one of the ErrOrder
// errors, [ErrSignature], [ErrClock] for an order from the future, [ErrTokenIssuer] for a foreign
// issuer key, or what is wrong with the signer's token.
type OrderError struct {
	Reason string // for people, without "order" in front
	Err    error
}

func (e *OrderError) Error() string { return "order: " + e.Reason }

// Unwrap returns Err.
func (e *OrderError) Unwrap() error { return e.Err }

func badOrder(err error, format string, args ...any) *OrderError {
	return &OrderError{Reason: fmt.Sprintf(format, args...), Err: err}
}

// OrderKind is what an order does.
type OrderKind uint8

const (
	Kick    = OrderKind(wire.OrderKind_ORDER_KICK)    // ends a stay of a user, who may join again
	Ban     = OrderKind(wire.OrderKind_ORDER_BAN)     // ends the user's stay and refuses new ones until its end
	Unban   = OrderKind(wire.OrderKind_ORDER_UNBAN)   // lifts bans
	Dismiss = OrderKind(wire.OrderKind_ORDER_DISMISS) // ends the stays of all, who may join anew
)

func (k OrderKind) String() string {
	switch k {
	case Kick:
		return "kick"
	case Ban:
		return "ban"
	case Unban:
		return "unban"
	case Dismiss:
		return "dismissal"
	}
	return fmt.Sprintf("order kind %d", uint8(k))
}

// Order is a signed word about who may be in a room. Its signer is a user whose room token carries
// [RoleModerator], or an issuer of the app, who ranks above.
type Order struct {
	Kind OrderKind
	User string // whom it is about; empty for Dismiss
	// Stay is the stay that a Kick ends. Zero: all stays of the user that began before it.
	Stay   [16]byte
	Issued time.Time // in ms; zero: [Issuer.Order] takes the time
	Until  time.Time // Ban, Unban: when it ends; zero: it does not; in ms

	// What follows is set when the order is opened.

	By    string // the user who signed it; empty: an issuer
	Grant *Grant // what the signer's token says; nil: an issuer signed
	Kid   string // of the issuer key; empty: a user signed

	sealed []byte
	sum    [sha256.Size]byte
}

// Sealed returns the signed bytes, which the caller must not change.
func (o *Order) Sealed() []byte { return o.sealed }

// Sum returns the SHA-256 of the signed bytes.
func (o *Order) Sum() [sha256.Size]byte { return o.sum }

// Rank returns how high the signer ranks: 2 for an issuer, 1 for a moderator. A member ranks 1 if
// it is a moderator, and otherwise 0: see [RankOf].
func (o *Order) Rank() int {
	if o.Grant == nil {
		return 2
	}
	return 1
}

// RankOf returns how high a member with that role ranks. An order about a member counts only if its
// signer ranks higher.
func RankOf(role string) int {
	if role == RoleModerator {
		return 1
	}
	return 0
}

// Later reports whether o was issued after another order. The hash decides between two that were
// issued in the same millisecond, so that every node computes the same.
func (o *Order) Later(than *Order) bool {
	return cmp.Or(o.Issued.Compare(than.Issued), bytes.Compare(o.sum[:], than.sum[:])) > 0
}

// Ends returns when an order may be forgotten; zero: never.
func (o *Order) Ends() time.Time {
	if o.Kind == Kick || o.Kind == Dismiss {
		return o.Issued.Add(OrderLife)
	}
	return o.Until
}

// Over reports whether an order has ended.
func (o *Order) Over(now time.Time) bool {
	end := o.Ends()
	return !end.IsZero() && !now.Before(end)
}

// Order signs an order for a room of the app, with the issuer's key: it ranks above every
// moderator's. Secret is that of the room; empty: it has none. Give the result to mesh.Room.Submit
// on any node that is in the room.
func (i *Issuer) Order(room, secret string, o Order) (sealed []byte, err error) {
	if err := CheckRoom(room); err != nil {
		return nil, err
	}
	if o.Issued.IsZero() {
		o.Issued = time.Now()
	}
	app := NewIssuedAppID(i.app, i.appRoot)
	tag := app.RoomTag(room, secret)
	return sealOrder(i.key, &wire.Order{App: app[:], Room: tag[:], Kid: i.public.Kid}, o)
}

// SignOrder signs an order with a device key, for a member whose token for that room has the role.
func SignOrder(key ed25519.PrivateKey, app AppID, tag [32]byte, token string, o Order) (sealed []byte, err error) {
	device := publicKey(key)
	return sealOrder(key, &wire.Order{App: app[:], Room: tag[:], Device: device[:], Token: token}, o)
}

func sealOrder(key ed25519.PrivateKey, msg *wire.Order, o Order) ([]byte, error) {
	msg.Kind, msg.User, msg.IssuedMs = wire.OrderKind(o.Kind), o.User, o.Issued.UnixMilli()
	if o.Stay != ([16]byte{}) {
		msg.Stay = o.Stay[:]
	}
	if !o.Until.IsZero() {
		msg.UntilMs = o.Until.UnixMilli()
	}
	if err := checkOrder(msg); err != nil {
		return nil, err
	}
	body, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	return wire.Seal(wire.DomainOrder, key, body), nil
}

// checkOrder checks what the fields say together.
func checkOrder(msg *wire.Order) error {
	kind := OrderKind(msg.Kind)
	switch {
	case msg.Kind < wire.OrderKind_ORDER_KICK || msg.Kind > wire.OrderKind_ORDER_DISMISS:
		return badOrder(ErrOrderMalformed, "of an unknown kind")
	case kind == Dismiss && msg.User != "":
		return badOrder(ErrOrderMalformed, "a dismissal names a user")
	case kind != Dismiss && CheckUser(msg.User) != nil:
		return badOrder(ErrOrderMalformed, "it names no user")
	case len(msg.Stay) != 0 && (kind != Kick || len(msg.Stay) != len(Order{}.Stay)):
		return badOrder(ErrOrderMalformed, "it names a stay that is none")
	case msg.IssuedMs <= 0 || msg.IssuedMs > maxMilli || msg.UntilMs < 0 || msg.UntilMs > maxMilli:
		return badOrder(ErrOrderMalformed, "a time out of range")
	case msg.UntilMs != 0 && (kind != Ban && kind != Unban || msg.UntilMs <= msg.IssuedMs):
		return badOrder(ErrOrderMalformed, "an end that is none")
	case (msg.Kid == "") == (len(msg.Device) == 0), (len(msg.Device) == 0) != (msg.Token == ""):
		return badOrder(ErrOrderMalformed, "it does not name one signer")
	}
	return nil
}

// OpenOrder verifies a signed order for a room, whose tag it has. It is safe to call with any
// bytes. Who is in the room does not matter: whether the order has an effect on a member also
// depends on [RankOf] its role. All errors are [*OrderError].
func (a *Authority) OpenOrder(sealed []byte, room string, tag [32]byte, now time.Time) (*Order, error) {
	if len(sealed) > MaxOrder {
		return nil, badOrder(ErrOrderMalformed, "%d bytes, at most %d are allowed", len(sealed), MaxOrder)
	}
	sig, body, err := wire.Split(sealed)
	if err != nil {
		return nil, badOrder(ErrOrderMalformed, "%d bytes are too few", len(sealed))
	}
	var msg wire.Order
	if proto.Unmarshal(body, &msg) != nil {
		return nil, badOrder(ErrOrderMalformed, "not a protobuf message")
	}
	if err := checkOrder(&msg); err != nil {
		return nil, err
	}
	o := &Order{
		Kind: OrderKind(msg.Kind), User: msg.User, Issued: time.UnixMilli(msg.IssuedMs).UTC(), Kid: msg.Kid,
		sealed: bytes.Clone(sealed), sum: sha256.Sum256(sealed),
	}
	copy(o.Stay[:], msg.Stay)
	if msg.UntilMs != 0 {
		o.Until = time.UnixMilli(msg.UntilMs).UTC()
	}
	key := ed25519.PublicKey(msg.Device)
	if msg.Kid != "" {
		issuer, ok := a.issuers.Key(msg.Kid)
		if !ok {
			return nil, badOrder(ErrTokenIssuer, "signed with the key %s, which is not one of this app's issuers", quote(msg.Kid))
		}
		key = issuer[:]
	}
	if !wire.Check(wire.DomainOrder, key, body, sig) {
		return nil, badOrder(ErrSignature, "its signature is not that of the signer that it names")
	}
	switch {
	case !bytes.Equal(msg.App, a.id[:]):
		return nil, badOrder(ErrOrderApp, "it is for another app")
	case !bytes.Equal(msg.Room, tag[:]):
		return nil, badOrder(ErrOrderRoom, "it is for another room")
	}
	if msg.Kid == "" {
		if o.Grant, err = a.signer(&msg, room); err != nil {
			return nil, err
		}
		o.By = o.Grant.User
		if err := a.Upholds(o); err != nil {
			return nil, err
		}
	}
	switch {
	case o.Issued.After(now.Add(MaxSkew)):
		return nil, badOrder(ErrClock, "issued %v ahead of the time: one of the clocks is wrong", o.Issued.Sub(now).Round(time.Second))
	case o.Over(now):
		return nil, badOrder(ErrOrderExpired, "it ended %v ago", now.Sub(o.Ends()).Round(time.Second))
	}
	return o, nil
}

// signer returns what the token of an order's signer grants.
func (a *Authority) signer(msg *wire.Order, room string) (*Grant, error) {
	g, err := a.verify(msg.Token)
	switch {
	case err != nil:
		return nil, badOrder(err, "its signer's %v", err)
	case !bytes.Equal(g.Device[:], msg.Device):
		return nil, badOrder(ErrTokenDevice, "its signer's token is bound to another device")
	case g.Rooms[room] != RoleModerator:
		return nil, badOrder(ErrOrderRole, "its signer %s is no moderator of the room %s", quote(g.User), quote(room))
	}
	return g, nil
}

// Upholds judges again an order that was opened before: its signer's token must have been valid
// when the order was issued, and must not have been revoked since. The error is an [*OrderError].
func (a *Authority) Upholds(o *Order) error {
	if o.Grant == nil {
		return nil
	}
	if err := a.Check(o.Grant, o.Issued); err != nil {
		return badOrder(err, "its signer's token did not hold then: %v", err)
	}
	return nil
}
