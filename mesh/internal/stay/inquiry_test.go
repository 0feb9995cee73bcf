package stay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
)

func TestFewAreAskedAtATime(t *testing.T) {
	const limit = 8
	ns := make(neighbours)
	var ids []peer.ID
	for i := range 3 * limit {
		p := peer.ID(fmt.Sprint(i))
		ids = append(ids, p)
		ns[p] = new(neighbour)
		ns[p].inquire(epoch, true)
		greet, _ := ns.next(epoch, slices.Values(ids), limit)
		if i < limit {
			require.Equal(t, []peer.ID{p}, greet)
			ns[p].greet(epoch, ask)
		}
	}
	greet, due := ns.next(epoch, slices.Values(ids), limit)
	require.Empty(t, greet)
	require.Equal(t, epoch.Add(askPatience), due, "one that does not answer holds up nobody for longer")

	ns["0"].told(false)
	greet, _ = ns.next(after(time.Millisecond), slices.Values(ids), limit)
	require.Equal(t, ids[limit:limit+1], greet)
	ns[greet[0]].greet(after(time.Millisecond), ask)

	// Nobody else answers: the others have their turn all the same, and none has to wait for
	// something else to happen.
	now, asked := due, limit+1
	for rounds := 0; asked < len(ids); rounds++ {
		require.Less(t, rounds, 4)
		greet, due = ns.next(now, slices.Values(ids), limit)
		require.NotEmpty(t, greet)
		for _, p := range greet {
			ns[p].greet(now, ns[p].want)
		}
		asked += len(greet)
		require.Equal(t, asked < len(ids), !due.IsZero(), "somebody is left, and somebody comes for him")
		now = due
	}
}

func TestWhoGoesOnToDifferIsAskedMoreAndMoreSeldom(t *testing.T) {
	// within returns how often a neighbour is asked in a minute.
	within := func(n *neighbour, news func(asked int) bool) (asked int, now time.Time) {
		for now = epoch; now.Before(after(time.Minute)); now = now.Add(10 * time.Millisecond) {
			if n.inquire(now, false); n.want == ask {
				n.greet(now, ask)
				n.told(news(asked))
				asked++
			}
		}
		return asked, now
	}
	asked, _ := within(new(neighbour), func(int) bool { return true })
	require.Equal(t, 121, asked, "after 0.25 s, and then every 0.5 s: each answer has something new")
	asked, _ = within(new(neighbour), func(asked int) bool { return asked%20 == 9 })
	require.Equal(t, 18, asked, "news at the tenth time: 0.5, 1, 2, 4 and 5 s again")
	n := new(neighbour)
	asked, now := within(n, func(int) bool { return false })
	require.Equal(t, 16, asked, "after 0.25, 0.5, 1, 2, 4 and then every 5 s")
	n.inquire(n.asked.Add(time.Millisecond), false)
	require.Equal(t, n.asked.Add(maxGap), n.wantAt)
	n.told(true)
	require.Equal(t, n.asked.Add(newsGap), n.wantAt, "also what was put off before")
	n.greet(now, ask)
	n.hear(now, true, true, true)
	n.inquire(n.asked.Add(askEvery), false)
	require.Equal(t, ask, n.want, "they agree")
}

func TestAnAnswerToAComparisonIsAskedForWhatItShows(t *testing.T) {
	n := new(neighbour)
	require.Equal(t, answer, n.hear(epoch, false, false, false), "heads and roster follow what was asked for")
	n.greet(epoch, compare)
	require.Equal(t, ask, n.hear(epoch, false, false, true))
	require.Equal(t, answer, n.hear(epoch, false, false, true), "once")
	require.Equal(t, ask, n.hear(epoch, true, false, true))
	require.Equal(t, answer, n.hear(epoch, true, true, false), "just compared with")
	require.Equal(t, compare, n.hear(after(compareEvery), true, true, false))
}
