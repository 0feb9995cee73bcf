package session

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSendsToOneTargetKeepTheirOrderAndHoldUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSends(func(f func()) { f() })
		var mu sync.Mutex
		var order []string
		send := func(target string, n int, d time.Duration) {
			require.True(t, s.send(t.Context(), target, func() func() {
				time.Sleep(d) // as long as finding a user takes
				mu.Lock()
				defer mu.Unlock()
				order = append(order, fmt.Sprint(target, n))
				return nil
			}))
		}
		send("slow", 1, time.Second)
		send("slow", 2, 0)
		send("fast", 1, 0)
		send("fast", 2, 0)
		s.wait()
		require.Equal(t, []string{"fast1", "fast2", "slow1", "slow2"}, order)
		require.Empty(t, s.lanes, "an idle lane is kept")
	})
}

func TestResultsAreWaitedForSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSends(func(f func()) { f() })
		begin := time.Now()
		for range 10 {
			s.send(t.Context(), "bob", func() func() { return func() { time.Sleep(time.Second) } })
		}
		require.True(t, s.settle(t.Context()))
		require.Equal(t, time.Second, time.Since(begin))
		require.Zero(t, s.pending())
		s.wait()
	})
}

func TestTooManySendsUnderWayStopTheReaderOfLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSends(func(f func()) { f() })
		answer := make(chan struct{})
		for range maxSends {
			require.True(t, s.send(t.Context(), "bob", func() func() { return func() { <-answer } }))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.False(t, s.send(ctx, "bob", func() func() { panic("taken over the bound") }))
		require.Equal(t, maxSends, s.pending())
		require.False(t, s.settle(ctx))

		close(answer)
		require.True(t, s.settle(t.Context()))
		require.True(t, s.send(t.Context(), "bob", func() func() { return nil }))
		s.wait()
	})
}
