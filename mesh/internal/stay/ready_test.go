package stay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// A stay that loses its only neighbour while it joins, and then begins, is cut off like any other.
func TestCutOffWhileJoiningIsReadyAgain(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.Subscribed(r.now, u1.Statement.Peer)
	r.greet(u1)
	r.w.link = Apart
	r.Disconnected(r.now, u1.Statement.Peer)
	require.True(t, r.Agreed(r.now, nil))
	r.Begin(r.now)
	require.Equal(t, []string{"ready", "+u1"}, r.w.cut())
	r.pass(5 * time.Second)
	r.w.link = Linked
	r.meet(u1)
	r.pass(4 * time.Second)
	require.Contains(t, r.w.cut(), "ready again")
}

// The only neighbour leaves the room, but stays connected. Others are in the room.
func TestCutOffByANeighbourThatLeavesIsReadyAgain(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1, u2)
	r.Begin(r.now)
	r.pass(time.Second)
	require.Equal(t, []string{"ready", "+u1", "+u2"}, r.w.cut())
	r.apply(r.now, r.entry("u1", 1, false))
	r.Unsubscribed(r.now, u1.Statement.Peer)
	require.Zero(t, r.NeighbourCount())
	require.Equal(t, 2, r.Present())
	r.pass(20 * time.Second)
	r.w.cut()
	r.meet(u2)
	r.pass(4 * time.Second)
	require.Contains(t, r.w.cut(), "ready again")
}

// GossipSub's word that the last other member is gone often comes before its goodbye.
func TestAMemberWhoseOnlyOtherSaysGoodbyeIsNotCutOff(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.settle()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(100 * ms)
	r.apply(r.now, r.entry("u1", 1, false))
	r.pass(20 * time.Second)
	require.Equal(t, []string{"-u1 quit"}, r.w.cut())
	r.meet(r.entry("u2", 2, true))
	r.pass(4 * time.Second)
	require.Equal(t, []string{"+u2"}, r.w.cut())
}

// A peer that has subscribed to the topic, and never says who it is, is no member.
func TestCutOffThoughAStrangerIsSubscribedIsReadyAgain(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Begin(r.now)
	r.Subscribed(r.now, "stranger")
	r.pass(time.Second)
	r.w.cut()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.Disconnected(r.now, u2.Statement.Peer)
	r.pass(5 * time.Second)
	require.ElementsMatch(t, []string{"?u1", "?u2"}, r.w.cut())
	r.meet(u1)
	r.meet(u2)
	r.pass(4 * time.Second)
	require.Contains(t, r.w.cut(), "ready again")
}

// The time for answers begins anew with each cut.
func TestTheHoldOfASecondCutLastsUntilTheNeighbourAnswers(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1, u2)
	r.settle()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(1100 * ms)
	r.Subscribed(r.now, u1.Statement.Peer) // hold begins
	require.False(t, r.cut.heard.IsZero())
	r.pass(500 * ms)
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(2450 * ms)
	r.Subscribed(r.now, u1.Statement.Peer)
	r.greet(u1)
	r.pass(100 * ms) // round trips
	before := r.w.cut()
	r.roster_(u1.Statement.Peer, r.entry("u3", 3, true), r.entry("u2", 2, false))
	r.pass(4 * time.Second)
	all := append(before, r.w.cut()...)
	before = slices.DeleteFunc(before, func(l string) bool { return l == "?u1" })
	require.Empty(t, before, "the neighbour has not answered: %q", all)
	require.Contains(t, all, "ready again")
}

// A stay that is cut off tells nothing but silence and the end of graces, until it is ready again.
func TestNothingOfAContactThatEndsComesBeforeTheStayIsReadyAgain(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.settle()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(1500 * ms)
	r.Subscribed(r.now, u2.Statement.Peer)
	r.greet(u2)
	r.Receive(r.now, u2.Statement.Peer, r.envelope(u2, 1, "hi"), Gossiped)
	r.pass(100 * ms)
	r.Disconnected(r.now, u2.Statement.Peer)
	r.pass(8 * time.Second)
	got := r.w.cut()
	ready := slices.Index(got, "ready again")
	come := slices.Index(got, "+u2")
	require.False(t, come >= 0 && (ready < 0 || ready > come), "%q", got)
}

// When the hold ends, the stay looks again in time for what is due then.
func TestTheStayLooksInTimeAfterAHold(t *testing.T) {
	r := newRig(t)
	u1, u2, u3 := r.entry("u1", 1, true), r.entry("u2", 2, true), r.entry("u3", 3, true)
	r.meet(u1, u2, u3)
	r.Begin(r.now)
	r.pass(20 * time.Second)
	r.w.cut()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(3 * time.Second)
	require.Equal(t, []string{"?u1"}, r.w.cut())
	r.Subscribed(r.now, u1.Statement.Peer)
	r.greet(u1)
	r.pass(300 * ms) // compare etc.
	r.roster.suspect(r.now, r.roster.devices[u2.Statement.Peer], u1.Statement.Peer)
	due := r.now.Add(r.roster.replyWait())
	r.now = r.now.Add(ms)
	r.Tick(r.now)
	r.now = r.now.Add(mindEvery)
	r.roster_(u1.Statement.Peer)
	wait := r.Tick(r.now)
	require.Contains(t, r.w.cut(), "ready again")
	require.False(t, r.now.Add(wait).After(due), "looks %v after it is due", r.now.Add(wait).Sub(due))
}

// A neighbour knows that a member has left and joined again. A newcomer learns that it is there.
func TestAMemberThatHasLeftAndIsBackIsNotHiddenFromNewcomers(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Begin(r.now)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
	r.pass(time.Second)
	r.roster_(u2.Statement.Peer, r.entry("u1", 1, false)) // the goodbye waits
	again := r.entry("u1", 9, true)
	r.greet(again) // its next stay
	s := r.roster.devices[u1.Statement.Peer]
	require.NotNil(t, s.goodbye)
	require.NotNil(t, s.coming)
	// A newcomer that knows nobody.
	n := newRoster(r.Door, newJournal(FeedTag{}, plenty), "newcomer", 10*time.Second)
	for _, e := range r.roster.unknown("newcomer", nil) {
		n.hearsay(r.now, e, time.Time{})
	}
	var names []string
	for _, m := range n.members() {
		names = append(names, m.User)
	}
	require.Contains(t, names, "u1")
}

// What one member can make this node hold up is bounded in bytes.
func TestWhatIsHeldUpIsBoundedInBytes(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	p := u1.Statement.Peer
	r.meet(u1, u2)
	r.Begin(r.now)
	r.Receive(r.now, p, r.envelope(u1, 1, "a"), Gossiped)
	r.pass(time.Second)
	require.Equal(t, []string{"ready", "+u1", "+u2", "u1:a"}, r.w.cut())
	r.Disconnected(r.now, p)
	r.pass(1100 * ms)
	r.Subscribed(r.now, p) // and it does not answer
	r.greet(u1)
	most, big := 0, string(make([]byte, wire.MaxMessage))
	for i := range uint64(1200) {
		r.Receive(r.now, p, r.envelope(u1, 3+3*i, big, big, big), Gossiped)
		bytes := 0
		for _, h := range r.held.list {
			for _, it := range h.items {
				bytes += len(it.Data)
			}
		}
		most = max(most, bytes)
	}
	require.Positive(t, most)
	require.LessOrEqual(t, most, maxHeldUpBytes, "%d MiB", most>>20)
}

// Nothing comes before the event that the stay is ready again, whatever a member sends.
func TestABusyRoomDoesNotBreakTheOrder(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	p := u1.Statement.Peer
	r.meet(u1, u2)
	r.Begin(r.now)
	r.Receive(r.now, p, r.envelope(u1, 1, "a"), Gossiped)
	r.pass(time.Second)
	r.w.cut()
	r.Disconnected(r.now, p)
	r.pass(1100 * ms)
	r.Subscribed(r.now, p)
	r.greet(u1)
	for i := range uint64(5000) {
		r.Receive(r.now, p, r.envelope(u1, 3+i, fmt.Sprint(i)), Gossiped)
	}
	r.roster_(p)
	r.pass(100 * ms)
	got := r.w.cut()
	require.Equal(t, "ready again", got[0])
}

// A member that gives way to another during a hold was reported, so its end is too.
func TestAMemberThatGivesWayDuringAHoldIsReported(t *testing.T) {
	r := newRig(t)
	r.Large = 10 * MaxMembers
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.Begin(r.now)
	for i := range MaxMembers {
		r.hearsay(r.now, u1.Statement.Peer, entry(fmt.Sprint("x", i), fmt.Sprint("device ", i), 1, 1, true))
	}
	for i := range MaxMembers {
		r.apply(r.now, entry(fmt.Sprint("x", i), fmt.Sprint("device ", i), 1, 1, true))
	}
	require.Equal(t, MaxMembers, r.Present())
	r.w.cut()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(1100 * ms)
	r.meet(u1) // the hold begins
	r.apply(r.now, entry("honest", "h", 1, 1, true))
	require.True(t, r.Holding())
	r.pass(100 * ms)
	got := r.w.cut()
	require.Contains(t, got, "+honest")
	require.True(t, slices.ContainsFunc(got, func(l string) bool { return l[0] == '-' }), "%q", got)
}

// Nothing of a stay comes after its end, though the device now belongs to another user.
func TestMessagesOfAUserWhoseDeviceAnotherHasComeBeforeItsEnd(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Begin(r.now)
	r.Receive(r.now, u2.Statement.Peer, r.envelope(u2, 1, "a"), Gossiped)
	r.pass(time.Second)
	r.w.cut()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.Disconnected(r.now, u2.Statement.Peer)
	r.pass(1100 * ms)
	r.Subscribed(r.now, u1.Statement.Peer)
	r.greet(u1)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u2, 3, "b"), Gossiped)
	r.apply(r.now, r.entry("u2", 2, false))
	// the same device, another user
	keys, _ := user(t, identity.NewAppID("test"), "u2", 2)
	st, err := keys.Sign(identity.Statement{App: identity.NewAppID("test"), User: "u7", Sequence: 2, Issued: time.Now(), Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	r.seq++
	e, err := SignEntry(keys.Device, r.Tag, Entry{Statement: st, Feed: FeedID{77}, Sequence: r.seq, Joined: true})
	require.NoError(t, err)
	r.apply(r.now, e)
	r.roster_(u1.Statement.Peer)
	r.pass(3 * time.Second)
	got := r.w.cut()
	require.Contains(t, got, "u2:b")
	require.Less(t, slices.Index(got, "u2:b"), slices.Index(got, "-u2 quit"), "%q", got)
}

// A message to this member alone, of a member whose grace is not over, comes after the event too.
func TestADirectOfAPresentMemberBeginsTheHold(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.Begin(r.now)
	r.pass(time.Second)
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(1500 * ms)
	r.Connected(r.now, u1.Statement.Peer)
	require.True(t, r.HearDirect(r.now, u1.Statement.Login()))
	require.Equal(t, r.now, r.cut.heard, "the stay is not ready again")
}

// The reader is full when what was held up is handed over: no receipt says that it has that.
func TestWhatIsHeldUpIsConfirmedIfTheProgramHasIt(t *testing.T) {
	for _, full := range []bool{false, true} {
		r := newRig(t)
		u1 := r.entry("u1", 1, true)
		r.meet(u1)
		r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
		r.settle()
		r.Disconnected(r.now, u1.Statement.Peer)
		r.pass(1100 * ms)
		r.Subscribed(r.now, u1.Statement.Peer)
		r.greet(u1)
		e := r.envelope(u1, 3, "b")
		e.Receipts = &wire.ReceiptsWanted{}
		r.Receive(r.now, u1.Statement.Peer, e, Gossiped)
		require.Contains(t, r.relays.byHash, e.hash)
		require.Nil(t, r.relays.byHash[e.hash].own, "the program has not got it")
		r.w.full = full
		r.roster_(u1.Statement.Peer)
		r.pass(100 * ms)
		require.Contains(t, r.w.cut(), "u1:b")
		require.Equal(t, full, r.relays.byHash[e.hash].own == nil)
	}
}

// So much is held up that the stay waits no longer, and the program has no space for all of it.
func TestNoReceiptSaysThatTheProgramHasWhatFoundNoSpace(t *testing.T) {
	r := newRig(t)
	u1 := r.entry("u1", 1, true)
	r.meet(u1)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
	r.settle()
	r.Disconnected(r.now, u1.Statement.Peer)
	r.pass(1100 * ms)
	r.Subscribed(r.now, u1.Statement.Peer)
	r.greet(u1)
	e := r.envelope(u1, 3, make([]string, maxHeldUp+1)...)
	e.Receipts = &wire.ReceiptsWanted{}
	r.w.full = true
	r.Receive(r.now, u1.Statement.Peer, e, Gossiped)
	require.False(t, r.Holding())
	require.Nil(t, r.relays.byHash[e.hash].own)
}

func TestAGoodbyeThatWaitsIsPassedOn(t *testing.T) {
	r := newRig(t)
	u1, u2 := r.entry("u1", 1, true), r.entry("u2", 2, true)
	r.meet(u1)
	r.meet(u2)
	r.Receive(r.now, u1.Statement.Peer, r.envelope(u1, 1, "a"), Gossiped)
	r.settle()
	left := r.entry("u1", 1, false)
	r.roster_(u2.Statement.Peer, left)
	require.NotNil(t, r.roster.devices[u1.Statement.Peer].goodbye, "its last messages may be on their way")
	require.Contains(t, r.roster.unknown("newcomer", nil), left)
	require.NotContains(t, r.roster.unknown("newcomer", r.roster.names()), left, "one that names it has it")
}

// The names of a whole roster fit into the frame that bounds them, with an entry of any size.
func TestTheNamesOfAFullRosterFitAFrame(t *testing.T) {
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "me", 10*time.Second)
	for i := range MaxMembers {
		e := entry(fmt.Sprint("u", i), fmt.Sprint("device ", i), 1, 1, true)
		s, c := r.apply(epoch, e)
		require.Equal(t, joined, c)
		s.feed.next = 2 // something of it has come
		e = entry(fmt.Sprint("u", i), fmt.Sprint("device ", i), 2, 1, false)
		r.hearsay(epoch, e, time.Time{})
		require.NotNil(t, s.goodbye)
	}
	require.LessOrEqual(t, len(r.names())+MaxEntry, RosterPart+MaxEntry+4<<10)
	require.LessOrEqual(t, len(r.names()), RosterPart+MaxEntry+4<<10, "even with an empty entry")
}
