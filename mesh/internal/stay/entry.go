package stay

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// maxInfo is the most info of a member, in bytes.
	maxInfo = 200
	// MaxEntry bounds a sealed roster entry in bytes: a statement with a token, info, a room token
	// and addresses.
	MaxEntry = 20 << 10
	// maxAddrs is how many of a member's addresses are kept.
	maxAddrs    = 16
	maxAddrSize = 256
)

// Entry is a verified roster entry.
type Entry struct {
	Sealed    []byte
	name      entryName
	Statement *identity.Statement
	Feed      FeedID
	Sequence  uint64
	Joined    bool
	Info      []byte
	Addrs     [][]byte
	Token     string
	// Heeded is when the latest order was issued that could end this stay but for its having begun
	// afterwards, as far as the member knows; in ms since 1970, 0: it knows none.
	Heeded int64
	Grant  *identity.Grant // what token says; nil in open mode, and for a goodbye
}

// entryName is the name by which members compare which entries they have: the beginning of the hash
// of the sealed entry. A member that made two entries with the same name would hide only its own.
type entryName [8]byte

func nameEntry(sealed []byte) entryName {
	h := sha256.Sum256(sealed)
	return entryName(h[:])
}

// key returns the entry's user: a user is in a room only once.
func (e *Entry) key() identity.Subject { return e.Statement.Subject() }

// Tag names the feed of the entry's stay.
func (e *Entry) Tag() FeedTag { return TagFeed(e.Statement.Device, e.Feed) }

// role returns the member's role according to the room's token; empty in open mode.
func (e *Entry) role(room string) string {
	if e.Grant == nil {
		return ""
	}
	role, _ := e.Grant.Role(room)
	return role
}

// newer orders the entries of one user: the later join wins, on whatever device. The peer ID breaks
// ties, so that every member computes the same.
func (e *Entry) newer(o *Entry) bool {
	return cmp.Or(cmp.Compare(e.Sequence, o.Sequence), cmp.Compare(e.Statement.Peer, o.Statement.Peer)) > 0
}

// SignEntry returns an entry of this node's own, in a room, sealed by its device key.
func SignEntry(key ed25519.PrivateKey, room [32]byte, e Entry) (*Entry, error) {
	state := wire.RosterEntry_LEFT
	if e.Joined {
		state = wire.RosterEntry_JOINED
	}
	e.Addrs = checkAddrs(e.Addrs)
	body, err := proto.Marshal(&wire.RosterEntry{
		Statement: e.Statement.Sealed(), Room: room[:], Feed: e.Feed[:], Sequence: e.Sequence, State: state, Info: e.Info, Addrs: e.Addrs,
		Token: e.Token, HeededMs: e.Heeded,
	})
	if err != nil {
		return nil, err
	}
	e.Sealed = wire.Seal(wire.DomainRoster, key, body)
	e.name = nameEntry(e.Sealed)
	return &e, nil
}

// Door decides which users are let into a room, and verifies what they have signed. It is safe for
// concurrent use.
type Door struct {
	room      string
	app       identity.AppID
	tag       [32]byte
	log       *slog.Logger
	verifier  verifier
	unseal    func([]byte) (*wire.Envelope, error)
	Authority *identity.Authority // nil: open mode
	opened    *lru.Cache[[sha256.Size]byte, *Entry]
}

// doorCache is how many verified entries a door keeps, by their hashes. Many neighbours send a
// member the same entries, and checking a signature costs as much as hashing 60 KiB.
const doorCache = 1024

// verifier is what a door needs of an [identity.Verifier].
type verifier interface {
	VerifyLapsed(sealed []byte, now time.Time) (*identity.Statement, error)
}

// NewDoor returns the door of a room, which is open to all if authority is nil.
func NewDoor(room string, app identity.AppID, tag [32]byte, log *slog.Logger, verifier *identity.Verifier, authority *identity.Authority) *Door {
	opened, err := lru.New[[sha256.Size]byte, *Entry](doorCache)
	if err != nil {
		panic("mesh: " + err.Error()) // only a size below 1 fails
	}
	return &Door{
		room: room, app: app, tag: tag, log: log, verifier: verifier, unseal: wire.OpenEnvelope, Authority: authority, opened: opened,
	}
}

// open verifies a sealed roster entry. A goodbye needs no token, since only the device itself can
// say it.
func (d *Door) open(sealed []byte, now time.Time) (*Entry, error) {
	if len(sealed) > MaxEntry {
		return nil, fmt.Errorf("roster entry of %d bytes", len(sealed))
	}
	sum := sha256.Sum256(sealed)
	if e, ok := d.opened.Get(sum); ok {
		return d.reopen(e, now)
	}
	e, err := d.verify(sealed, now)
	if err != nil {
		return nil, err
	}
	e.name = entryName(sum[:])
	d.opened.Add(sum, e)
	return e, nil
}

// reopen checks what time changes about an entry that was valid before.
func (d *Door) reopen(e *Entry, now time.Time) (*Entry, error) {
	if _, err := d.verifier.VerifyLapsed(e.Statement.Sealed(), now); err != nil {
		return nil, err
	}
	if e.Joined {
		if _, err := d.Admit(e.Token, e.Statement, now); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (d *Door) verify(sealed []byte, now time.Time) (*Entry, error) {
	_, body, err := wire.Split(sealed)
	if err != nil {
		return nil, err
	}
	var e wire.RosterEntry
	if err := proto.Unmarshal(body, &e); err != nil {
		return nil, errors.New("roster entry is not a protobuf message")
	}
	// Whether the log-in is still valid does not matter in a room: the room's token does.
	st, err := d.verifier.VerifyLapsed(e.Statement, now)
	if err != nil {
		return nil, err
	}
	if _, err := wire.Open(wire.DomainRoster, st.Device[:], sealed); err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(e.Room, d.tag[:]):
		return nil, errors.New("roster entry of another room")
	case len(e.Feed) != len(FeedID{}):
		return nil, errors.New("roster entry without a feed")
	case e.Sequence == 0 || e.Sequence > uint64(now.Add(identity.MaxSkew).UnixMilli()):
		return nil, fmt.Errorf("roster entry: sequence %d is more than %v ahead of the time", e.Sequence, identity.MaxSkew)
	case e.State != wire.RosterEntry_JOINED && e.State != wire.RosterEntry_LEFT:
		return nil, errors.New("roster entry without a state")
	case e.HeededMs < 0 || e.HeededMs > now.Add(identity.MaxSkew).UnixMilli():
		return nil, fmt.Errorf("roster entry: it heeds an order that is more than %v ahead of the time", identity.MaxSkew)
	case len(e.Info) > maxInfo:
		return nil, fmt.Errorf("roster entry with %d bytes of user information", len(e.Info))
	}
	joined := e.State == wire.RosterEntry_JOINED
	var grant *identity.Grant
	if joined {
		if grant, err = d.Admit(e.Token, st, now); err != nil {
			return nil, err
		}
	}
	return &Entry{
		Sealed:    bytes.Clone(sealed),
		Statement: st,
		Feed:      FeedID(e.Feed),
		Sequence:  e.Sequence,
		Joined:    joined,
		Info:      e.Info,
		Addrs:     checkAddrs(e.Addrs),
		Token:     e.Token,
		Heeded:    e.HeededMs,
		Grant:     grant,
	}, nil
}

// OpenEnvelope checks all of an envelope that its bytes alone can show.
func (d *Door) OpenEnvelope(now time.Time, sealed []byte) (*Envelope, error) {
	e, err := d.unseal(sealed)
	if err != nil {
		return nil, err
	}
	switch {
	case [32]byte(e.App) != d.app:
		return nil, errors.New("envelope of another app")
	case [32]byte(e.Room) != d.tag:
		return nil, errors.New("envelope of another room")
	}
	return newEnvelope(now, e, sealed)
}

// Admit checks the token with which a user on a device would be in the room. In open mode no token
// is needed.
func (d *Door) Admit(token string, st *identity.Statement, now time.Time) (*identity.Grant, error) {
	if d.Authority == nil {
		return nil, nil
	}
	return d.Authority.Room(token, st.User, st.Device, d.room, now)
}

// holds returns why an entry that was let in no longer counts: its token has ended or was revoked.
// It is cheap enough to call for every message.
func (d *Door) holds(e *Entry, now time.Time) error {
	if d.Authority == nil || e.Grant == nil {
		return nil
	}
	return d.Authority.Check(e.Grant, now)
}

// until returns when an entry stops counting here, if nothing revokes it; zero: never.
func (d *Door) until(e *Entry) time.Time {
	if d.Authority == nil || e.Grant == nil {
		return time.Time{}
	}
	return d.Authority.Until(e.Grant)
}

func checkAddrs(addrs [][]byte) [][]byte {
	addrs = addrs[:min(len(addrs), maxAddrs)]
	return slices.DeleteFunc(addrs, func(a []byte) bool { return len(a) > maxAddrSize })
}
