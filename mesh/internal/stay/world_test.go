package stay

import (
	"crypto/ed25519"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

// plenty is what a room retains by default.
var plenty = Retention{Messages: 1 << 17, Bytes: 32 << 20, Age: 10 * time.Minute}

const ms = time.Millisecond

// What package mesh does around a stay: how long a goodbye may take, and after how long a neighbour
// that answers a question counts as slow.
const (
	goodbyeWait = 500 * time.Millisecond
	syncTimeout = 3 * time.Second
)

// simSchedules is how many random schedules the rules of rooms run through.
var simSchedules = meshtest.Sized[uint64](300, 5000)

// deafWorld is a world in which nothing answers. It counts.
type deafWorld struct{ counts [Counters]int }

func (*deafWorld) Tell(peer.ID, *wire.RoomFrame)                  {}
func (*deafWorld) Allow(peer.ID, int) bool                        { return true }
func (*deafWorld) Say(wire.Kind, []byte)                          {}
func (*deafWorld) AskReceipts([]byte) bool                        { return true }
func (*deafWorld) Deliver(identity.Login, *Envelope, []Item) bool { return true }
func (*deafWorld) Notice(Notice)                                  {}
func (*deafWorld) Pull(Pull)                                      {}
func (*deafWorld) Rehear(peer.ID, *wire.RoomFrame_Receipts)       {}
func (*deafWorld) Refute()                                        {}
func (*deafWorld) Link(peer.ID) Link                              { return Linked }
func (*deafWorld) Spoke(peer.ID) time.Time                        { return time.Time{} }
func (*deafWorld) Keep(peer.ID, bool)                             {}
func (*deafWorld) Bar(peer.ID, bool)                              {}
func (*deafWorld) Identify(peer.ID)                               {}
func (*deafWorld) Unreported(peer.ID)                             {}
func (*deafWorld) Know(*Entry)                                    {}
func (*deafWorld) Ended(uint64, int)                              {}
func (*deafWorld) Wake(Waiter)                                    {}
func (w *deafWorld) Count(c Counter, n int)                       { w.counts[c] += n }

// user returns the keys and the log-in of a user of an app.
func user(tb testing.TB, app identity.AppID, name string, seed byte) (*identity.Keys, *identity.Statement) {
	tb.Helper()
	secret := [ed25519.SeedSize]byte{seed}
	key := ed25519.NewKeyFromSeed(secret[:])
	keys := &identity.Keys{Device: key, User: key}
	st, err := keys.Sign(identity.Statement{App: app, User: name, Sequence: 1, Issued: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		tb.Fatal(err)
	}
	return keys, st
}

// begunStay returns a stay of u0 in a room, with its world and its door.
func begunStay(tb testing.TB, now time.Time, world World) (*Stay, *Door) {
	tb.Helper()
	return begunStayOf(tb, identity.NewAppID("test"), now, world)
}

func begunStayOf(tb testing.TB, app identity.AppID, now time.Time, world World) (*Stay, *Door) {
	tb.Helper()
	return enter(tb, app, "u0", FeedID{1}, now, world)
}

// enter returns a stay of a user in a room, with its world and its door. Two stays of the same user
// are of the same node.
func enter(tb testing.TB, app identity.AppID, name string, feed FeedID, now time.Time, world World) (*Stay, *Door) {
	tb.Helper()
	keys, st := user(tb, app, name, name[len(name)-1]-'0')
	log := slog.New(slog.DiscardHandler)
	tag := app.RoomTag("ops", "")
	door := NewDoor("ops", app, tag, log, identity.NewVerifier(app), nil)
	s := New(now, Config{
		Room: "ops", Tag: tag, Self: keys.PeerID(), Key: keys.Device, Feed: feed, Door: door, Grace: 10 * time.Second, Large: 500,
		Retention: plenty, Rand: rand.New(rand.NewPCG(1, 1)), Log: log,
	}, world)
	own, err := SignEntry(keys.Device, tag, Entry{Statement: st, Feed: feed, Sequence: uint64(now.UnixMilli()), Joined: true})
	if err != nil {
		tb.Fatal(err)
	}
	s.Enter(now, own)
	return s, door
}
