package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

var (
	// ErrKicked, ErrBanned and ErrDismissed end the stay of a member that an order has put out; the
	// error is then a [*PutOutError]. After ErrKicked and ErrDismissed the room may be joined
	// again. ErrBanned is also why a user who is banned cannot join.
	ErrKicked    = errors.New("kicked out of the room")
	ErrBanned    = errors.New("banned from the room")
	ErrDismissed = errors.New("the room was dismissed")

	// ErrNotModerator says that the room token of this node's user does not carry the role
	// [identity.RoleModerator], which the call needs.
	ErrNotModerator = errors.New("only a moderator may do that")
	// ErrOutranked says that an order would have no effect: the user is a moderator too, or an
	// issuer has said otherwise.
	ErrOutranked = errors.New("outranked")
)

// PutOutError says that an order has put this node's user out of a room. errors.Is finds
// [ErrKicked], [ErrBanned] or [ErrDismissed].
type PutOutError struct {
	Kind  error     // one of these three
	By    string    // the user who gave the order; empty: an issuer of the app
	Until time.Time // when a ban ends; zero: it does not, or it is no ban
}

func (e *PutOutError) Error() string {
	text := e.Kind.Error()
	if !e.Until.IsZero() {
		text += " until " + e.Until.UTC().Format(time.RFC3339)
	}
	if e.By != "" {
		text += " by " + e.By
	}
	return text
}

// Unwrap returns Kind.
func (e *PutOutError) Unwrap() error { return e.Kind }

func putOut(o *identity.Order) *PutOutError {
	e := &PutOutError{By: o.By}
	switch o.Kind {
	case identity.Ban:
		e.Kind, e.Until = ErrBanned, o.Until
	case identity.Dismiss:
		e.Kind = ErrDismissed
	default:
		e.Kind = ErrKicked
	}
	return e
}

// BannedUser is a user who may not be in a room.
type BannedUser struct {
	User  string
	By    string    // the user who gave the order; empty: an issuer of the app
	Since time.Time // by that one's clock, in ms
	Until time.Time // zero: it has no end; in ms
}

// Kick puts a member out of the room. The member may join again. This node's room token must carry
// the role [identity.RoleModerator]: see "Who may put whom out" in the package's documentation.
//
// Kick takes effect on this node at once, and on every member that it reaches. It returns when a
// neighbour has acknowledged the order, or at once if there is none. If none does in time (see
// [Room.Publish]), it returns [ErrUnconfirmed]; the order holds here, and reaches the others when
// the network is whole again.
//
// It returns [ErrOpenMode] in open mode, [ErrNotModerator] without the role, [ErrOutranked] for
// another moderator, [ErrSelf] for this node's own user, and [ErrNotMember] if the user is not in
// the room. Then nothing was sent.
func (r *Room) Kick(ctx context.Context, user string) error {
	return r.command(ctx, identity.Order{Kind: identity.Kick, User: user})
}

// Ban is [Room.Kick] of a user who may also not join again until then; the zero time means for
// ever. The user need not be in the room. A later ban of the same user, or [Room.Unban], replaces
// it. It fails as Kick does, and with an error for a time that is not ahead.
//
// A room remembers 512 orders, and 128 of each signer: beyond that the oldest ones are forgotten,
// bans after all others.
func (r *Room) Ban(ctx context.Context, user string, until time.Time) error {
	return r.command(ctx, identity.Order{Kind: identity.Ban, User: user, Until: until})
}

// Unban lifts the bans of a user by all moderators, and not those by an issuer. It fails as
// [Room.Kick] does. If the user is not banned, it returns [ErrNotMember], and if an issuer has
// banned the user, [ErrOutranked].
func (r *Room) Unban(ctx context.Context, user string) error {
	return r.command(ctx, identity.Order{Kind: identity.Unban, User: user})
}

// Dismiss ends the stays of all members, other moderators and this node included, also of those
// that are cut off and hear of it later. Everybody may join anew. It returns when the order has
// been written to the neighbours; the stay then ends with [ErrDismissed]. It fails as [Room.Kick]
// does, and with [ErrUnreachable] if ctx ends before.
func (r *Room) Dismiss(ctx context.Context) error {
	return r.command(ctx, identity.Order{Kind: identity.Dismiss})
}

// Submit gives the room an order that an issuer has signed (see [identity.Issuer.Order]), or that a
// moderator has. Everybody may pass one on. It returns as [Room.Kick] does, with an
// [*identity.OrderError] for an order that does not hold.
func (r *Room) Submit(ctx context.Context, sealed []byte) error {
	if r.door.Authority == nil {
		return ErrOpenMode
	}
	o, err := r.door.OpenOrder(r.mesh.clock.Now(), sealed)
	if err != nil {
		return err
	}
	return r.give(ctx, o)
}

// Bans returns the users who are banned from the room as far as this node knows, in no order. The
// caller owns the result.
func (r *Room) Bans() []BannedUser {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.mesh.clock.Now()
	var out []BannedUser
	seen := make(map[string]struct{})
	for _, o := range r.stay.Orders() {
		if _, again := seen[o.User]; again || o.Kind != identity.Ban {
			continue
		}
		seen[o.User] = struct{}{}
		if b := r.stay.BanOf(now, o.User, ""); b != nil {
			out = append(out, BannedUser{b.User, b.By, b.Issued, b.Until})
		}
	}
	return out
}

// command checks, signs and gives an order of this node's user.
func (r *Room) command(ctx context.Context, o identity.Order) error {
	a := r.door.Authority
	if a == nil {
		return ErrOpenMode
	}
	now := r.mesh.clock.Now()
	if o.Kind != identity.Dismiss {
		if err := identity.CheckUser(o.User); err != nil {
			return err
		}
	}
	if !o.Until.IsZero() && !o.Until.After(now) {
		return fmt.Errorf("a ban of %s that ends at %s has ended", o.User, o.Until.UTC().Format(time.RFC3339))
	}
	r.mu.Lock()
	token, err := r.mayOrderLocked(now, &o)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	sealed, err := identity.SignOrder(r.mesh.key, r.mesh.app, r.tag, token, o)
	if err != nil {
		return err
	}
	signed, err := r.door.OpenOrder(now, sealed)
	if err != nil {
		return err
	}
	return r.give(ctx, signed)
}

// mayOrderLocked completes an order, and returns the token to sign it with, or why this node's user
// cannot give it.
func (r *Room) mayOrderLocked(now time.Time, o *identity.Order) (token string, err error) {
	own := r.stay.Own()
	switch {
	case r.stay.Leaving():
		return "", r.reasonLocked()
	case own.Grant == nil || own.Grant.Rooms[r.name] != identity.RoleModerator:
		return "", ErrNotModerator
	case o.User == own.Statement.User:
		return "", ErrSelf
	}
	// What is ordered later counts, also by a clock that is behind the one of the order before.
	if o.Issued = now; !r.stay.Ordered(o.User).Before(now) {
		o.Issued = r.stay.Ordered(o.User).Add(time.Millisecond)
	}
	role, of, there := r.stay.StayOf(o.User)
	if there && o.Kind != identity.Unban && identity.RankOf(role) >= identity.RankOf(identity.RoleModerator) {
		return "", fmt.Errorf("%w: %s is a moderator too", ErrOutranked, o.User)
	}
	switch o.Kind {
	case identity.Kick:
		if !there {
			return "", fmt.Errorf("%w %s: %s", ErrNotMember, r.name, o.User)
		}
		o.Stay = of
	case identity.Ban:
		if by, says := r.stay.IssuerOf(now, o.User); says {
			return "", fmt.Errorf("%w: an issuer has given a %v of %s", ErrOutranked, by, o.User)
		}
	case identity.Unban:
		ban := r.stay.BanOf(now, o.User, "")
		switch {
		case ban == nil:
			return "", fmt.Errorf("%s is not banned: %w", o.User, ErrNotMember)
		case ban.By == "":
			return "", fmt.Errorf("%w: an issuer has banned %s", ErrOutranked, o.User)
		}
		o.Until = r.stay.BansEnd(o.User)
	}
	return own.Token, nil
}

// give takes an order into effect here, and hands it to the neighbours.
func (r *Room) give(ctx context.Context, o *identity.Order) error {
	if o.Kind == identity.Dismiss {
		return r.dismiss(ctx, o)
	}
	r.mu.Lock()
	if r.stay.Leaving() {
		defer r.mu.Unlock()
		return r.reasonLocked()
	}
	r.stay.Order(r.mesh.clock.Now(), o, false)
	r.mu.Unlock()
	p, err := r.outbox.add(ctx, wire.Kind_KIND_ORDER, o.Sealed(), noID, accept{wait: true})
	if err != nil {
		return err
	}
	_, err = Pending[Published]{p.id, p.index, p.batch}.Wait(ctx)
	return err
}

// dismiss publishes a dismissal before it takes effect here, since that ends the stay.
func (r *Room) dismiss(ctx context.Context, o *identity.Order) error {
	p, err := r.outbox.add(ctx, wire.Kind_KIND_ORDER, o.Sealed(), noID, accept{wait: true})
	if err != nil {
		return err
	}
	sent, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	select {
	case <-p.batch.sealed:
		if r.awaitEcho(sent, p.batch.first) {
			r.awaitFlow(sent, 0)
		}
	case <-sent.Done():
	case <-r.ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return blame(&sendError{outcome: ErrUnreachable, cause: err}, r.outbox.link)
	}
	r.do(func(st *stay.Stay, now time.Time) { st.Order(now, o, true) })
	return nil
}

func (r *Room) hearOrders(p peer.ID, q *wire.RoomFrame_Orders) error {
	if err := stay.CheckOrders(q); err != nil || r.door.Authority == nil {
		return err
	}
	var entry *stay.Entry
	if len(q.Entry) > 0 {
		var err error
		if entry, err = r.door.OpenGreeting(r.mesh.clock.Now(), p, &wire.RoomFrame_Greeting{Entry: q.Entry}); err != nil {
			return err
		}
	}
	r.mu.Lock()
	known := r.stay.KnownOrders(q)
	r.mu.Unlock()
	list, err := r.door.OpenOrders(r.mesh.clock.Now(), p, q, known)
	r.do(func(st *stay.Stay, now time.Time) { st.HearOrders(now, p, list, entry) })
	return err
}
