package mesh

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A room fills, and is told member by member until it is large. It talks, and empties until it is
// told member by member again. Nobody is connected to all.
func TestALargeCrowdIsCountedAndHearsEverything(t *testing.T) {
	limit := multitude
	leavers := limit/10 + 10
	inBubble(t, limit, func(t *testing.T, f *flock) {
		f.net.Random(10)
		rooms := f.joinAll("ops")
		settle()
		for i, r := range rooms {
			got := lines(told(t, r, 0))
			last := len(got) - 1
			for _, line := range got[:last] {
				require.True(t, strings.HasPrefix(line, "+u"), line)
			}
			require.Equal(t, fmt.Sprintf("large %d", limit), got[last], "station %d: the last one who came makes it large", i)
		}

		var speakers sync.WaitGroup
		for i := range 5 {
			speakers.Go(func() {
				for n := range 20 {
					_, err := rooms[i].PublishText(t.Context(), fmt.Sprint(n))
					require.NoError(t, err)
				}
			})
		}
		speakers.Wait()
		settle()
		for i, r := range rooms {
			next := make(map[string]int)
			for _, line := range lines(told(t, r, 0)) {
				from, text, _ := strings.Cut(line, ":")
				require.Equal(t, fmt.Sprint(next[from]), text, "station %d of %s", i, from)
				next[from]++
			}
			for n := range 5 {
				if n != i {
					require.Equal(t, 20, next[fmt.Sprintf("u%d", n)], "station %d", i)
				}
			}
		}

		for _, r := range rooms[:leavers] {
			require.NoError(t, r.Leave(t.Context()))
			time.Sleep(100 * time.Millisecond)
		}
		settle()
		for i, r := range rooms[leavers:] {
			got := lines(told(t, r, 0))
			require.Equal(t, fmt.Sprintf("small %d", limit-limit/10-1), got[0], "station %d", leavers+i)
			require.Len(t, got, leavers-limit/10, "those who leave then are named")
			for _, line := range got[1:] {
				require.True(t, strings.HasPrefix(line, "-u") && strings.HasSuffix(line, " quit"), line)
			}
			require.Len(t, r.Members(), limit-leavers)
		}
		for _, s := range f.at {
			s.EvictAll(ErrLeft)
		}
	}, WithLargeRoom(limit))
}

func TestALargeRoomTellsItsSizeInsteadOfItsMembers(t *testing.T) {
	inBubble(t, 12, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		a := f.join(0, "ops")
		others := make([]*Room, 12)
		events := func() []timed { return told(t, a, 2*time.Second) }
		for i := 1; i < 9; i++ {
			others[i] = f.join(i, "ops")
			require.Equal(t, []string{fmt.Sprintf("+u%d", i)}, lines(events()))
		}
		others[9] = f.join(9, "ops")
		require.Equal(t, []string{"large 10"}, lines(events()))
		others[10] = f.join(10, "ops")
		require.Empty(t, events())
		require.Len(t, a.Members(), 11)
		for _, i := range []int{10, 9} { // 9 are left, and it stays large
			require.NoError(t, others[i].Leave(t.Context()))
			require.Empty(t, events())
		}
		require.Len(t, a.Members(), 9)
		require.NoError(t, others[8].Leave(t.Context()))
		require.Equal(t, []string{"small 8"}, lines(events()))
		require.NoError(t, others[7].Leave(t.Context()))
		require.Equal(t, []string{"-u7 quit"}, lines(events()))
		others[7] = f.join(7, "ops")
		require.Equal(t, []string{"+u7"}, lines(events()))
		require.Equal(t, []string{"u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7"}, users(a))
	}, WithLargeRoom(10))
}
