package mesh

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

func TestTheFileKeepsWithinTheRetention(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		for i := range 40 {
			published(t, rooms[0], "u0", fmt.Sprint(i), 1)
			time.Sleep(time.Second)
		}
		require.NoError(t, rooms[1].Flush(t.Context()))
		count := 0
		for _, f := range k.stored(1, rooms[1]) {
			count += len(f.List)
		}
		require.Equal(t, 10, count)
		time.Sleep(2 * time.Minute)
		require.NoError(t, rooms[1].Flush(t.Context()))
		for _, f := range k.stored(1, rooms[1]) {
			require.LessOrEqual(t, len(f.List), 1, "the last of each feed is kept")
		}
		time.Sleep(time.Minute) // nothing was said for twice the age
		require.NoError(t, rooms[1].Flush(t.Context()))
		for _, f := range k.stored(1, rooms[1]) {
			require.True(t, len(f.List) == 0 || f.Tag == rooms[1].stay.Own().Tag(), "nobody speaks of the feed any more")
		}
	}, WithRetention(Retention{Messages: 10, Age: time.Minute}))
}

func TestAgesGoOnWhileNoProcessRuns(t *testing.T) {
	keep(t, 1, func(t *testing.T, k *keepers) {
		r := k.join(0, "ops")
		published(t, r, "u0", "old", 3)
		time.Sleep(40 * time.Second)
		published(t, r, "u0", "young", 1)
		time.Sleep(time.Second)
		k.die(0)
		time.Sleep(30 * time.Second)
		k.back(0)
		r = k.join(0, "ops")
		var old []stay.Kept
		for tag, list := range r.inside().Retained {
			if tag != r.stay.Own().Tag() {
				require.Nil(t, old)
				old = list
			}
		}
		require.Len(t, old, 1)
		require.InDelta(t, 31, time.Since(old[0].At).Seconds(), 0.01)
	}, WithRetention(Retention{Age: time.Minute}))
}

func TestAClockThatWasSetMakesNothingOlderThanItIs(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ at, want time.Duration }{{-time.Minute, -time.Minute}, {0, 0}, {time.Hour, 0}, {math.MaxInt64, 0}} {
		in := binary.BigEndian.AppendUint64(nil, uint64(now.Add(c.at).UnixMilli()))
		if c.at == math.MaxInt64 {
			in = binary.BigEndian.AppendUint64(nil, math.MaxUint64)
		}
		require.InDelta(t, c.want.Seconds(), readTime(now, in).Sub(now).Seconds(), 0.002)
	}
	require.True(t, readTime(now, appendTime(nil, now, time.Time{})).IsZero())
}

func TestAStoreGoesByTheClockOfItsMesh(t *testing.T) {
	for _, ahead := range []time.Duration{-100 * time.Second, 100 * time.Second} {
		var wrong meshtest.Clock
		wrong.Set(ahead)
		clock := walltime.From(wrong.Now)
		keep(t, 1, func(t *testing.T, k *keepers) {
			r := k.join(0, "ops")
			published(t, r, "u0", "m", 3)
			time.Sleep(time.Second)
			k.die(0)
			time.Sleep(30 * time.Second)
			k.back(0)
			synctest.Wait()
			feeds := k.stored(0, r)
			require.Len(t, feeds, 1)
			require.NotEmpty(t, feeds[0].List)
			ages := []time.Time{k.store[0].rooms[r.tag].used, feeds[0].Used}
			for _, kept := range feeds[0].List {
				ages = append(ages, kept.At)
			}
			for i, at := range ages {
				require.InDelta(t, 31, clock.Since(at).Seconds(), 1, "%v ahead, %d: %v", ahead, i, at)
			}
		}, WithRetention(Retention{Age: time.Minute}), WithClock(clock))
	}
}

func TestAllRoomsTogetherKeepWithinTheLimit(t *testing.T) {
	keep(t, 1, func(t *testing.T, k *keepers) {
		k.die(0)
		k.limit = 1 << 20
		k.back(0)
		big := make([]byte, MaxMessage)
		fill := func(room string, n int) *Room {
			r := k.join(0, room)
			for range n {
				_, err := r.Publish(t.Context(), big)
				require.NoError(t, err)
			}
			require.NoError(t, r.Flush(t.Context()))
			return r
		}
		first, second := fill("first", 8), fill("second", 4)
		require.NoError(t, first.Leave(t.Context()))
		time.Sleep(time.Second)
		third := fill("third", 6)
		require.Empty(t, k.stored(0, first), "it was left, and gave way")
		require.EqualValues(t, 5, k.stored(0, second)[0].Through)
		require.EqualValues(t, 7, k.stored(0, third)[0].Through)
		fourth := fill("fourth", 8) // there is no space for all of it
		list := k.stored(0, fourth)[0]
		require.Less(t, list.Through, uint64(9))
		require.Equal(t, list.List[len(list.List)-1].First, list.Through, "it says what is there")
		require.LessOrEqual(t, k.store[0].bytes, k.limit)
		require.NoError(t, second.Leave(t.Context()))
		time.Sleep(time.Second)
		require.NoError(t, fourth.Flush(t.Context()))
		require.EqualValues(t, 9, k.stored(0, fourth)[0].Through, "now there is")
	})
}

func TestWhatAWrongClockHidesStaysInTheFile(t *testing.T) {
	for _, ahead := range []bool{true, false} {
		t.Run(fmt.Sprint(ahead), func(t *testing.T) {
			keep(t, 1, func(t *testing.T, k *keepers) {
				r := k.join(0, "ops")
				published(t, r, "u0", "m", 3)
				time.Sleep(time.Second)
				k.die(0)
				db, err := bolt.Open(k.files[0], 0o600, nil)
				require.NoError(t, err)
				old := r.stay.Own().Tag()
				require.NoError(t, db.Update(func(tx *bolt.Tx) error {
					b := tx.Bucket(roomsBucket).Bucket(r.tag[:]).Bucket(feedsBucket)
					record := append([]byte{}, b.Get(old[:])...)
					if record[recordSize] ^= 1; ahead { // the entry does not open; if ahead, the clock may be why
						binary.BigEndian.PutUint64(record[24:], uint64(time.Now().Add(time.Hour).UnixMilli()))
					}
					return b.Put(old[:], record)
				}))
				require.NoError(t, db.Close())
				k.back(0)
				r = k.join(0, "ops")
				require.NoError(t, r.Flush(t.Context()))
				left := 0
				for _, f := range k.stored(0, r) {
					if f.Tag == old {
						left = len(f.List)
					}
				}
				require.Equal(t, ahead, left > 0)
			})
		})
	}
}

func TestARoomGoesOnWhileItsHistoryCannotBeWritten(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		k.net.ConnectAll()
		rooms := k.joinAll("ops")
		require.NoError(t, rooms[0].Flush(t.Context()))
		s := k.store[0]
		require.NoError(t, s.db.Close())
		want := published(t, rooms[0], "u0", "m", 10)
		require.Equal(t, want, messages(t, rooms[1], 10))
		var failed *StoreError
		require.ErrorAs(t, rooms[0].Flush(t.Context()), &failed)
		require.Equal(t, k.files[0], failed.Path)
		require.NoError(t, k.join(0, "another").Leave(t.Context()), "it begins without")

		synctest.Wait() // the writer waits before it tries again
		var err error
		s.db, err = bolt.Open(k.files[0], 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, rooms[0].Flush(t.Context()))
		through := uint64(0)
		for _, f := range k.stored(0, rooms[0]) {
			through = max(through, f.Through)
		}
		require.EqualValues(t, 11, through)
	})
}

func TestAStoreIsOfOneMeshAtATime(t *testing.T) {
	all := newHellos()
	s, err := OpenStore(filepath.Join(t.TempDir(), "history.db"), 0)
	require.NoError(t, err)
	defer s.Close()
	a := all.station(t, tcpHost(t), "alice", WithStore(s))
	h := tcpHost(t)
	_, err = New(h, all.identityOf(t, h), WithStore(s))
	require.ErrorContains(t, err, "another mesh uses it")
	require.NoError(t, a.Close())
	b, err := New(h, all.identityOf(t, h), WithStore(s))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = OpenStore(s.path, 0)
	require.ErrorIs(t, err, identity.ErrInUse)
}

func TestFlushWithoutAStoreSaysSo(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		require.ErrorIs(t, f.join(0, "ops").Flush(t.Context()), ErrNoStore)
	})
}

func TestAStoreOfAnotherVersionIsLeftAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := OpenStore(path, 0)
	require.NoError(t, err)
	require.NoError(t, s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, storeSchema+1))
	}))
	require.NoError(t, s.Close())
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = OpenStore(path, 0)
	require.ErrorIs(t, err, ErrStoreVersion)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "schema 2, and this one knows 1; use that version, or remove the file")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestADamagedStoreIsSetAside(t *testing.T) {
	for name, harm := range map[string]func([]byte) []byte{
		"garbage":     func([]byte) []byte { return []byte("this is no database, and was never one") },
		"zeroes":      func(raw []byte) []byte { return make([]byte, len(raw)) },
		"cut short":   func(raw []byte) []byte { return raw[:9000] },
		"overwritten": func(raw []byte) []byte { return append(raw[:8192:8192], make([]byte, len(raw)-8192)...) },
	} {
		t.Run(name, func(t *testing.T) {
			keep(t, 1, func(t *testing.T, k *keepers) {
				published(t, k.join(0, "ops"), "u0", "m", 100)
				time.Sleep(time.Second)
				k.die(0)
				raw, err := os.ReadFile(k.files[0])
				require.NoError(t, err)
				harmed := harm(raw)
				require.NoError(t, os.WriteFile(k.files[0], harmed, 0o600))
				s, err := OpenStore(k.files[0], 0)
				require.NoError(t, err)
				defer s.Close()
				require.Equal(t, k.files[0]+".damaged", s.SetAside())
				aside, err := os.ReadFile(s.SetAside())
				require.NoError(t, err)
				require.Equal(t, harmed, aside)
				require.Empty(t, s.rooms)
			})
		})
	}
}

func TestBroadcastsThatTheDiskHasChangedAreNotServed(t *testing.T) {
	keep(t, 2, func(t *testing.T, k *keepers) {
		r := k.join(0, "ops")
		for i := range 10 {
			time.Sleep(200 * time.Millisecond) // an envelope each
			published(t, r, "u0", fmt.Sprint(i), 1)
			time.Sleep(200 * time.Millisecond)
		}
		tag := r.tag
		k.die(0)
		db, err := bolt.Open(k.files[0], 0o600, nil)
		require.NoError(t, err)
		require.NoError(t, db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(roomsBucket).Bucket(tag[:]).Bucket(envelopesBucket)
			k, v := b.Cursor().First()
			for range 4 {
				c := b.Cursor()
				c.Seek(k)
				k, v = c.Next()
			}
			changed := append([]byte{}, v...)
			changed[len(changed)-1] ^= 1
			return b.Put(k, changed)
		}))
		require.NoError(t, db.Close())
		k.back(0)
		k.join(0, "ops")
		k.net.ConnectAll()
		b := k.join(1, "ops", WithHistory(AllHistory))
		var got []string
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for len(got) < 10 {
			ev, err := passing(ctx, b)
			require.NoError(t, err, got)
			if _, ok := ev.(*MemberJoined); !ok {
				got = append(got, line(ev))
			}
		}
		require.Equal(t, []string{
			"u0:0 0", "u0:1 0", "u0:2 0", "lost u0 5-5", "u0:4 0", "u0:5 0", "u0:6 0", "u0:7 0", "u0:8 0", "u0:9 0",
		}, got)
		require.Zero(t, k.at[1].Stats().RoomViolations)
		require.Zero(t, k.at[1].Stats().Forks)
	})
}

func TestBroadcastsUnderATokenThatHasEndedAreNotTakenFromTheFile(t *testing.T) {
	for _, life := range []time.Duration{time.Hour, time.Minute} {
		t.Run(life.String(), func(t *testing.T) {
			inGuild(t, 1, func(t *testing.T, g *guild) {
				s := g.flock.at[0]
				require.NoError(t, s.Close())
				store, err := OpenStore(filepath.Join(t.TempDir(), "history.db"), 0)
				require.NoError(t, err)
				defer store.Close()
				s.who.incarnation += 1 << 32
				s.Mesh, err = New(s.host, s.who, WithAuthority(g.at[0]), WithStore(store))
				require.NoError(t, err)
				defer s.Close()
				r := g.join(0, life)
				published(t, r, "u0", "m", 3)
				require.NoError(t, r.Leave(t.Context()))
				old := r.stay.Own().Tag()
				time.Sleep(life/60 + 4*time.Minute) // beyond the leeway, and within what is retained
				r = g.join(0, time.Hour)
				require.NoError(t, r.Flush(t.Context()))
				require.Equal(t, life == time.Hour, slices.Contains(r.inside().Feeds, old))
			})
		})
	}
}
