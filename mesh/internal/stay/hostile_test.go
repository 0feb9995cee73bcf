package stay

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func FuzzRosterEntry(f *testing.F) {
	keys, err := identity.GenerateKeys()
	if err != nil {
		f.Fatal(err)
	}
	app := identity.NewAppID("fuzz")
	st, err := keys.Sign(identity.Statement{App: app, User: "u", Sequence: 1, Issued: epoch, Expires: epoch.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	tag := app.RoomTag("ops", "")
	body, err := proto.Marshal(&wire.RosterEntry{
		Statement: st.Sealed(), Room: tag[:], Feed: make([]byte, 16), Sequence: 1, State: wire.RosterEntry_JOINED, Addrs: [][]byte{{1}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Seal(wire.DomainRoster, keys.Device, body))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := NewDoor("", app, tag, slog.New(slog.DiscardHandler), identity.NewVerifier(app), nil).open(in, epoch)
		if err == nil && (len(e.Info) > maxInfo || len(e.Addrs) > maxAddrs || e.Statement == nil) {
			t.Fatalf("accepted %+v", e)
		}
	})
}

func TestAMemberThatSpeaksForItselfFindsRoomAmongGhosts(t *testing.T) {
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "me", time.Second)
	ghost := func(i int) *Entry {
		return entry(fmt.Sprint("u", i), fmt.Sprint("device ", i), 1, 1, true)
	}
	for i := range MaxMembers + 10 {
		r.hearsay(epoch, ghost(i), time.Time{})
	}
	require.Equal(t, maxUnheard, r.present, "hearsay has a bound of its own")
	for i := range MaxMembers {
		r.apply(epoch, ghost(i)) // a device can speak for itself and never be heard again
	}
	require.Len(t, r.seats, MaxMembers)
	s, c := r.apply(epoch, entry("honest", "h", 1, 1, true))
	require.Equal(t, joined, c)
	require.True(t, s.present)
	require.Len(t, r.pushed, 1)
	require.Equal(t, Dropped, r.pushed[0].reason)
	require.Equal(t, MaxMembers, r.present)
}

func TestAFloodOfMembersStaysWithinTheRoster(t *testing.T) {
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "me", time.Second)
	for i := range MaxMembers + 10 {
		keys, err := identity.GenerateKeys()
		require.NoError(t, err)
		e := &Entry{
			Statement: &identity.Statement{User: fmt.Sprint("u", i), UserKey: keys.UserKey(), Peer: keys.PeerID()},
			Sequence:  1, Joined: i%2 == 0,
		}
		r.apply(epoch, e)
	}
	require.LessOrEqual(t, len(r.seats), MaxMembers)
	require.Equal(t, (MaxMembers+10)/2, r.present, "those who left made room")
}
