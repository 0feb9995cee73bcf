package stay

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAFloodOfAMemberPushesOutNobodyElse(t *testing.T) {
	for name, flood := range map[string]struct {
		count uint32
		size  int
	}{"of large envelopes": {1, 250_000}, "of many small messages": {4000, 30_000}} {
		for _, stays := range []int{1, maxStays - 6} {
			t.Run(fmt.Sprint(name, " in ", stays, " stays"), func(t *testing.T) {
				r := newRing(Retention{Messages: 1 << 17, Bytes: 32 << 20, Age: 10 * time.Minute})
				honest := entry("honest", "h", 1, 1, true)
				for i := range 100 { // of a third of all there is, in few messages
					r.add(FeedTag{1}, honest.key(), uint64(1+i), 1, make([]byte, 100_000), epoch)
				}
				for i := range 2000 {
					stay := i % stays
					r.add(FeedTag{2, byte(stay), byte(stay >> 8)}, entry("mallory", "m", 1, 1, true).key(),
						uint64(1+(i/stays)*int(flood.count)), flood.count, make([]byte, flood.size), epoch.Add(time.Duration(i)))
					require.LessOrEqual(t, r.bytes, r.limits.Bytes)
					require.LessOrEqual(t, r.messages, r.limits.Messages)
				}
				list, _ := r.from(FeedTag{1}, 1, 0, math.MaxInt)
				require.Len(t, list, 100)
			})
		}
	}
}

func TestAUserWithManyStaysIsHeardAgainWhenTheOldOnesAreForgotten(t *testing.T) {
	j := newJournal(FeedTag{}, plenty)
	r := newRoster(&Door{}, j, "me", time.Second)
	stayOf := func(n int) *Entry {
		e := entry("flapping", "f", uint64(n), 0, true)
		e.Feed = FeedID{byte(n), byte(n >> 8)}
		return e
	}
	now := epoch
	for n := 1; n <= maxStays+44; n++ {
		s, _ := r.apply(now, stayOf(n))
		require.Equal(t, n > maxStays, s.feed.broken, "stay %d", n)
	}
	require.Len(t, j.feeds, maxStays)
	now = now.Add(3 * j.ring.limits.Age)
	j.sweep(now)
	for n := maxStays + 45; n <= maxStays+150; n++ {
		s, _ := r.apply(now, stayOf(n))
		require.False(t, s.feed.broken, "stay %d", n)
	}
	require.Len(t, j.feeds, maxStays)
}

// A second device of the user says goodbye with the feed of the first.
func TestAGoodbyeOfAnotherDeviceIsNotWaitedFor(t *testing.T) {
	r := newRoster(&Door{}, newJournal(FeedTag{}, plenty), "me", time.Second)
	s, _ := r.apply(epoch, entry("u", "a", 1, 1, true))
	s.feed.begin(5)
	r.hearsay(epoch, entry("u", "b", 2, 1, false), time.Time{})
	now := epoch.Add(time.Minute)
	r.expire(now)
	require.True(t, r.due().IsZero() || r.due().After(now), "or the timer would never rest")
	require.True(t, s.present)
}
