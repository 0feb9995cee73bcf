package mesh

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// keepers is a flock whose stations have a store each, and can die and come back.
type keepers struct {
	*flock
	opts  []Option
	files []string
	store []*Store
	limit int64
}

// keep runs f with n stations on a simulated network. f connects them.
func keep(t *testing.T, n int, f func(*testing.T, *keepers), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := &keepers{flock: &flock{
			t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 5 * time.Millisecond}), all: newHellos(),
		}, opts: opts}
		for i := range n {
			k.files = append(k.files, filepath.Join(t.TempDir(), "history.db"))
			k.store, k.at = append(k.store, nil), append(k.at, nil)
			k.start(i)
		}
		f(t, k)
	})
}

func (k *keepers) start(i int) {
	k.t.Helper()
	s, err := OpenStore(k.files[i], k.limit)
	require.NoError(k.t, err)
	require.Empty(k.t, s.SetAside())
	k.t.Cleanup(func() { _ = s.Close() })
	k.store[i] = s
	k.at[i] = k.all.station(k.t, k.net.Host(i), fmt.Sprintf("u%d", i), append([]Option{WithStore(s)}, k.opts...)...)
}

// die kills a station: nobody hears from it any more, and its file stays as it is at this moment.
func (k *keepers) die(i int) {
	k.t.Helper()
	synctest.Wait() // no write is under way
	raw, err := os.ReadFile(k.files[i])
	require.NoError(k.t, err)
	k.net.Kill(i)
	require.NoError(k.t, k.at[i].Close())
	require.NoError(k.t, k.store[i].Close())
	require.NoError(k.t, os.WriteFile(k.files[i], raw, 0o600))
}

// back starts a station that has died. It is connected to nobody.
func (k *keepers) back(i int) {
	k.t.Helper()
	k.net.Restart(i)
	k.start(i)
}

// stored returns the envelopes of a room that its file has, by feed.
func (k *keepers) stored(i int, r *Room) (feeds []stay.StoredFeed) {
	k.t.Helper()
	feeds, done := k.store[i].load(k.t.Context(), k.at[i].Mesh, r.tag)
	done()
	return feeds
}

// unsaid checks that nothing more is said, or lost, within d. Members may come and go.
func unsaid(t *testing.T, r *Room, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		ev, err := passing(ctx, r)
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return
		}
		switch ev.(type) {
		case *Message, *GapLost, *Lagged:
			t.Fatalf("an event nobody expects: %s", line(ev))
		}
	}
}

func TestARestartedNodeServesWhatADeadOneHadPublished(t *testing.T) {
	keep(t, 3, func(t *testing.T, k *keepers) {
		k.net.Connect(0, 1)
		k.join(2, "ops") // u2 is there from the beginning, and alone
		a, b := k.join(0, "ops"), k.join(1, "ops")
		read(t, b, 1)
		want := published(t, a, "u0", "m", 20)
		require.Equal(t, want, messages(t, b, 20))
		time.Sleep(time.Second)
		k.die(0)
		k.die(1)
		time.Sleep(time.Minute)
		k.back(1)
		b = k.join(1, "ops")
		c, _ := k.at[2].Room("ops")
		k.net.Connect(1, 2)
		require.Equal(t, want, messages(t, c, 20))
		for _, m := range b.Members() {
			require.NotEqual(t, "u0", m.User, "the file made a member of the dead")
		}
		unsaid(t, c, 20*time.Second)
		unsaid(t, b, 20*time.Second) // its own app had it all
		require.Zero(t, k.at[1].Stats().Forks)
	})
}

func TestAPublisherThatDiedUnconfirmedDeliversLater(t *testing.T) {
	keep(t, 3, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		want := published(t, rooms[0], "u0", "heard", 3)
		for i := 1; i < 3; i++ {
			require.Equal(t, want, messages(t, rooms[i], 3))
		}
		k.net.Isolate(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := rooms[0].PublishText(ctx, "unheard")
		require.ErrorIs(t, err, ErrUnconfirmed)
		k.die(0)
		time.Sleep(30 * time.Second)
		k.net.Heal()
		k.back(0)
		again := k.join(0, "ops") // alone: nobody is connected yet
		k.net.Connect(0, 1)
		k.net.Connect(0, 2)
		for i := 1; i < 3; i++ {
			require.Equal(t, []string{"u0:unheard"}, messages(t, rooms[i], 1))
		}
		after := published(t, again, "u0", "after", 2)
		for i := 1; i < 3; i++ {
			require.Equal(t, after, messages(t, rooms[i], 2))
		}
		for i := 1; i < 3; i++ {
			unsaid(t, rooms[i], 20*time.Second)
		}
	})
}

func TestARestartedNodeGetsNothingTwiceAndNothingFromBeforeItsStay(t *testing.T) {
	keep(t, 3, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		first := published(t, rooms[0], "u0", "first", 5)
		require.Equal(t, first, messages(t, rooms[2], 5))
		time.Sleep(time.Second)
		k.die(2)
		published(t, rooms[0], "u0", "away", 5)
		time.Sleep(30 * time.Second)
		k.back(2)
		for i := range 2 {
			k.net.Connect(i, 2)
		}
		again := k.join(2, "ops")
		now := published(t, rooms[0], "u0", "now", 5)
		require.Equal(t, now, messages(t, again, 5))
		unsaid(t, again, 30*time.Second)
	})
}

func TestAResumedStayGivesWhatTheAppHadNotRead(t *testing.T) {
	for _, others := range []bool{false, true} {
		t.Run(fmt.Sprintf("others there %v", others), func(t *testing.T) {
			keep(t, 3, func(t *testing.T, k *keepers) {
				k.net.ConnectAll()
				rooms := k.joinAll("ops")
				var cursor Cursor
				want := published(t, rooms[0], "u0", "m", 5)
				time.Sleep(time.Second)
				theirs := published(t, rooms[1], "u1", "first of this feed", 2) // it reads none of these
				time.Sleep(time.Second)
				for n := 0; n < 3; { // it reads three of five
					ev := next(t, rooms[2])
					if _, ok := ev.(*Message); ok {
						require.True(t, cursor.Add(ev))
						n++
					}
				}
				want = want[3:]
				k.die(2)
				if others {
					want = append(want, published(t, rooms[0], "u0", "away", 3)...)
				} else {
					k.die(0)
					k.die(1)
				}
				time.Sleep(30 * time.Second)
				k.back(2)
				if others {
					k.net.Connect(0, 2)
					k.net.Connect(1, 2)
				}
				again := k.join(2, "ops", WithResume(cursor))
				var mine, hers []string
				for _, m := range messages(t, again, len(want)+len(theirs)) {
					if strings.HasPrefix(m, "u0") {
						mine = append(mine, m)
					} else {
						hers = append(hers, m)
					}
				}
				require.Equal(t, want, mine)
				require.Equal(t, theirs, hers)
				if others {
					more := published(t, rooms[0], "u0", "on", 2)
					require.Equal(t, more, messages(t, again, 2))
				}
				unsaid(t, again, 30*time.Second)
			})
		})
	}
}

func TestAHistoryPolicyIsServedFromTheOwnStore(t *testing.T) {
	for _, c := range []struct {
		history History
		want    int // of the last of 10
	}{{SinceJoined, 0}, {LastMessages(3), 3}, {LastFor(64500 * time.Millisecond), 4}, {AllHistory, 10}} {
		t.Run(c.history.String(), func(t *testing.T) {
			keep(t, 2, func(t *testing.T, k *keepers) {
				k.net.ConnectAll()
				k.join(1, "ops")
				a := k.join(0, "ops") // its entry is the first item of its feed that u1 gets
				var all []string
				for i := range 10 {
					all = append(all, published(t, a, "u0", fmt.Sprint(i), 1)...)
					time.Sleep(time.Second)
				}
				k.die(0)
				k.die(1)
				time.Sleep(time.Minute)
				k.back(1)
				again := k.join(1, "ops", WithHistory(c.history))
				require.Equal(t, all[10-c.want:], append([]string{}, messages(t, again, c.want)...))
				unsaid(t, again, 20*time.Second)
				require.Equal(t, []string{"u1"}, users(again), "the file made a member of the dead")
			})
		})
	}
}

func TestARestartInAnInstantGivesNothingTwice(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		want := published(t, rooms[0], "u0", "m", 3)
		require.Equal(t, want, messages(t, rooms[1], 3))
		require.NoError(t, rooms[1].Flush(t.Context()))
		k.die(1)
		k.back(1)
		again := k.join(1, "ops") // sooner after than a question may have travelled
		time.Sleep(1100 * time.Millisecond)
		k.net.Connect(0, 1)
		unsaid(t, again, 20*time.Second)
		want = published(t, rooms[0], "u0", "on", 3)
		require.Equal(t, want, messages(t, again, 3))
	})
}

func TestWhatTheStoreHasIsStaleWhenItComesAgain(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		want := published(t, rooms[0], "u0", "m", 3)
		require.Equal(t, want, messages(t, rooms[1], 3))
		require.NoError(t, rooms[1].Flush(t.Context()))
		k.die(1)
		k.back(1)
		again := k.join(1, "ops")
		for _, f := range k.stored(1, again) {
			for _, kept := range f.List {
				e, err := again.door.OpenEnvelope(time.Now(), kept.Sealed)
				require.NoError(t, err)
				again.receive(time.Now(), k.net.ID(0), e, stay.Gossiped)
			}
		}
		unsaid(t, again, 20*time.Second)
		require.Positive(t, k.at[1].Stats().EnvelopesStale)
	})
}

func TestWhatAPublisherLostWithItsDiskItHasFromNeighbours(t *testing.T) {
	keep(t, 3, func(t *testing.T, k *keepers) {
		k.net.Connect(0, 1)
		c := k.join(2, "ops") // knows nobody yet
		a, b := k.join(0, "ops"), k.join(1, "ops")
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		want := published(t, a, "u0", "written", 3)
		require.Equal(t, want, messages(t, b, 3))
		require.NoError(t, a.Flush(t.Context()))
		want = append(want, published(t, a, "u0", "not written", 2)...)
		require.Equal(t, want[3:], messages(t, b, 2))
		k.die(0)
		time.Sleep(30 * time.Second)
		k.back(0)
		k.join(0, "ops")
		k.net.Connect(0, 1)
		time.Sleep(10 * time.Second)
		k.die(1)
		k.net.Connect(0, 2)
		require.Equal(t, want, messages(t, c, 5))
	})
}

func TestAHoleInTheFileIsToldAsLost(t *testing.T) {
	keep(t, 3, func(t *testing.T, k *keepers) {
		k.net.Connect(0, 1)
		a, b := k.join(0, "ops"), k.join(1, "ops")
		require.NoError(t, a.WaitPeers(t.Context(), 1))
		var want []string
		for i := range 9 {
			want = append(want, published(t, a, "u0", fmt.Sprint(i), 1)...) // numbers 2 to 10
			time.Sleep(10 * time.Second)
		}
		var cursor Cursor
		for n := 0; n < 2; {
			ev := next(t, b)
			if _, ok := ev.(*Message); ok {
				require.True(t, cursor.Add(ev))
				n++
			}
		}
		tag := a.stay.Own().Tag()
		k.die(0)
		k.die(1)
		db, err := bolt.Open(k.files[1], 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			room := tx.Bucket(roomsBucket).Bucket(b.tag[:])
			for n := uint64(4); n < 8; n++ {
				require.NoError(t, room.Bucket(envelopesBucket).Delete(envelopeKey(tag, n)))
			}
			return nil
		}))
		require.NoError(t, db.Close())
		k.back(1)
		again := k.join(1, "ops", WithResume(cursor))
		unsaid(t, again, 20*time.Second) // somebody may have it
		k.net.Connect(1, 2)
		k.join(2, "ops", WithHistory(LastFor(50*time.Second)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var got []string
		for len(got) < 4 {
			ev, err := passing(ctx, again)
			require.NoError(t, err, got)
			if _, ok := ev.(*MemberJoined); !ok {
				got = append(got, line(ev))
			}
		}
		require.Equal(t, append([]string{"lost u0 4-7"}, want[6:]...), got)
		require.Zero(t, k.at[2].Stats().RoomViolations, "no feed begins behind its end")
	})
}

func TestTheNextStayOfOneProcessGoesOnFromTheStore(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		a := k.join(0, "ops")
		want := published(t, a, "u0", "m", 3)
		require.NoError(t, a.Leave(t.Context()))
		b := k.join(1, "ops")
		k.join(0, "ops")
		k.net.ConnectAll()
		require.NoError(t, b.Leave(t.Context()))
		b = k.join(1, "ops", WithHistory(AllHistory))
		require.Equal(t, want, messages(t, b, 3))
	})
}
