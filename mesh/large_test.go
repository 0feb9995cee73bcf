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
			require.Len(t, got, limit-1, "station %d", i)
			for _, line := range got[:limit-2] {
				require.True(t, strings.HasPrefix(line, "+u"), line)
			}
			require.Equal(t, fmt.Sprintf("large %d", limit), got[limit-2], "station %d: the last one who came makes it large", i)
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
