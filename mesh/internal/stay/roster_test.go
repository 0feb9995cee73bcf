package stay

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// entry is a verified roster entry of a user on a device.
func entry(user, device string, sequence uint64, feed byte, in bool) *Entry {
	return &Entry{
		Statement: &identity.Statement{
			User: user, UserKey: identity.PublicKey{user[0]}, Device: identity.PublicKey{device[0]}, Peer: peer.ID(device),
		},
		Feed: FeedID{feed}, Sequence: sequence, Joined: in,
	}
}

func TestRosterFollowsTheLatestEntryOfEachUser(t *testing.T) {
	const grace = 10 * time.Second
	type input struct {
		at     time.Duration
		entry  *Entry
		heard  bool    // the entry came from another member
		alive  peer.ID // the device that was heard itself
		lost   peer.ID // the device whose connection ended
		want   change
		gone   string // who is given up, if nothing else is given
		reason LeaveReason
	}
	for name, c := range map[string]struct {
		steps   []input
		members []string
	}{
		"join and leave": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: entry("bob", "b", 2, 1, false), want: left},
			}, nil,
		},
		"a late copy of the entry does not bring a member back": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: entry("bob", "b", 2, 1, false), want: left},
				{entry: entry("bob", "b", 1, 1, true), want: outdated},
			}, nil,
		},
		"a goodbye that comes before the greeting": {
			[]input{
				{entry: entry("bob", "b", 2, 1, false), want: unchanged},
				{entry: entry("bob", "b", 1, 1, true), want: outdated},
			}, nil,
		},
		"another device of the user takes the seat, and the first cannot give it up": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: entry("bob", "c", 5, 2, true), want: rejoined},
				{entry: entry("bob", "b", 9, 1, false), want: outdated},
				{entry: entry("bob", "b", 4, 1, true), want: outdated},
			}, []string{"bob on c"},
		},
		"equal sequences are decided by the device": {
			[]input{
				{entry: entry("bob", "c", 5, 2, true), want: joined},
				{entry: entry("bob", "b", 5, 1, true), want: outdated},
				{entry: entry("bob", "d", 5, 3, true), want: rejoined},
			}, []string{"bob on d"},
		},
		"this node's own user joins elsewhere": {
			[]input{
				{entry: entry("me", "a", 5, 1, true), want: joined},
				{entry: entry("me", "b", 4, 2, true), want: outdated},
				{entry: entry("me", "b", 6, 2, true), want: replaced},
			}, []string{"me on b"},
		},
		"one name with two keys is two members": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: func() *Entry {
					e := entry("bob", "c", 1, 2, true)
					e.Statement.UserKey = identity.PublicKey{9}
					return e
				}(), want: joined},
			}, []string{"bob on c", "bob on b"},
		},
		"a device is one user at a time": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: entry("carol", "b", 2, 2, true), want: outdated},
				{entry: entry("bob", "b", 3, 1, false), want: left},
				{entry: entry("carol", "b", 4, 2, true), want: joined},
			}, []string{"carol on b"},
		},
		"back within the grace": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{at: time.Second, lost: "b"},
				{at: grace, alive: "b", want: unchanged},
				{at: time.Minute},
			}, []string{"bob on b"},
		},
		"restarted within the grace": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{at: time.Second, lost: "b"},
				{at: grace, entry: entry("bob", "b", 2, 7, true), want: rejoined},
				{at: time.Minute},
			}, []string{"bob on b"},
		},
		"dropped, and back by itself": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{at: time.Second, lost: "b"},
				{at: 3 * time.Second}, // accused
				{at: grace + time.Second - 1},
				{at: grace + time.Second, gone: "bob", reason: Dropped},
				{at: time.Minute, entry: entry("bob", "b", 1, 1, true), want: outdated}, // hearsay
				{at: time.Minute, alive: "b", want: joined},
			}, []string{"bob on b"},
		},
		"one that said goodbye is not brought back by a late message": {
			[]input{
				{entry: entry("bob", "b", 1, 1, true), want: joined},
				{entry: entry("bob", "b", 2, 1, false), want: left},
				{alive: "b", want: unchanged},
			}, nil,
		},
		"a goodbye by hearsay waits for the feed to end": {
			[]input{
				{heard: true, entry: entry("bob", "b", 1, 1, true), want: joined},
				{heard: true, entry: entry("bob", "b", 2, 1, false), want: unchanged},
				{at: lostWait - 1},
				{at: lostWait - 1, entry: entry("bob", "b", 2, 1, false), want: left},
				{at: time.Minute},
			}, nil,
		},
		"a goodbye by hearsay that nothing follows is believed": {
			[]input{
				{heard: true, entry: entry("bob", "b", 1, 1, true), want: joined},
				{heard: true, entry: entry("bob", "b", 2, 1, false), want: unchanged},
				{at: lostWait, gone: "bob", reason: Quit},
			}, nil,
		},
		"a tombstone does not last for ever": {
			[]input{
				{entry: entry("bob", "b", 2, 1, false), want: unchanged},
				{at: tombstoneLife + time.Second},
				{at: tombstoneLife + time.Second, entry: entry("bob", "b", 1, 1, true), want: joined},
			}, []string{"bob on b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "a", grace)
			for i, in := range c.steps {
				now := after(in.at)
				var got change
				switch {
				case in.heard:
					var s *seat
					if s, got = r.hearsay(now, in.entry, time.Time{}); s != nil && in.entry.Joined {
						s.feed.next = 1
					}
				case in.entry != nil:
					_, got = r.apply(now, in.entry)
				case in.alive != "":
					_, got = r.alive(now, in.alive)
				case in.lost != "":
					r.lost(now, in.lost)
				default:
					r.accusations(now, false)
					gone := r.expire(now)
					if in.gone == "" {
						require.Empty(t, gone, "step %d", i)
						continue
					}
					require.Len(t, gone, 1)
					require.Equal(t, in.gone, gone[0].User)
					require.Equal(t, in.reason, gone[0].reason)
				}
				require.Equal(t, in.want, got, "step %d", i)
			}
			var members []string
			for _, s := range r.members() {
				members = append(members, s.User+" on "+string(s.Peer))
			}
			require.ElementsMatch(t, c.members, members)
			require.Len(t, members, r.present)
		})
	}
}

func TestRostersWithTheSameMembersHaveTheSameDigest(t *testing.T) {
	a, b := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "a", time.Second), newRoster(&Door{}, newJournal(FeedTag{}, plenty), "b", time.Second)
	one, two := entry("u1", "c", 1, 1, true), entry("u2", "d", 1, 2, true)
	a.apply(epoch, one)
	a.apply(epoch, two)
	b.apply(epoch, two)
	require.NotEqual(t, a.sum(), b.sum())
	b.apply(epoch, one)
	require.Equal(t, a.sum(), b.sum())
	b.apply(epoch, entry("u1", "c", 2, 3, true))
	require.NotEqual(t, a.sum(), b.sum(), "another feed")
	b.apply(epoch, entry("u3", "e", 2, 3, false))
	before := b.sum()
	b.apply(epoch, entry("u3", "e", 3, 3, false))
	require.Equal(t, before, b.sum(), "those who left do not count")
}

// Otherwise its last broadcasts, which come late, would list it again, and for good.
func TestAMemberThatWasDroppedAndSaysGoodbyeHasLeft(t *testing.T) {
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "me", 10*time.Second)
	r.apply(epoch, entry("alice", "a", 1, 1, true))
	s := r.devices["a"]
	r.leave(epoch, s, Dropped)
	r.hearsay(after(time.Second), entry("alice", "a", 2, 1, false), time.Time{})
	require.Equal(t, unchanged, r.showed(after(2*time.Second), after(time.Second), s))
	_, c := r.spoke(after(2*time.Second), "a")
	require.Equal(t, unchanged, c)
	require.False(t, s.present)
	r.apply(after(3*time.Second), entry("alice", "a", 3, 2, true))
	require.True(t, s.present, "it has joined again")
}
