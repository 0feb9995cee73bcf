package task_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/task"
)

func TestWakeUpsBeforeTheLoopLooksAreOne(t *testing.T) {
	w := task.NewWake()
	w.Set()
	w.Set()
	<-w
	select {
	case <-w:
		t.Fatal("woken twice")
	default:
	}
	w.Set()
	<-w
}

func TestAChangeWakesEverybodyWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu      sync.Mutex
			changes task.Changes
			value   int
			all     sync.WaitGroup
		)
		changes.Tell() // nothing waits yet
		for range 3 {
			all.Go(func() {
				for {
					mu.Lock()
					now, next := value, changes.Next()
					mu.Unlock()
					if now == 2 {
						return
					}
					<-next
				}
			})
		}
		for range 2 {
			synctest.Wait()
			mu.Lock()
			value++
			changes.Tell()
			mu.Unlock()
		}
		all.Wait()
	})
}

func TestAGroupWaitsForAllThatBeganBeforeItWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g task.Group
		end := make(chan struct{})
		spawned := false
		require.True(t, g.Enter())
		require.True(t, g.Go(func() {
			<-end
			g.Spawn(func() { spawned = true })
		}))
		require.False(t, g.Closing())
		require.True(t, g.Close(), "the first")
		require.False(t, g.Close())
		require.True(t, g.Closing())
		require.False(t, g.Enter())
		require.False(t, g.Go(func() { t.Error("it ran") }))

		waited := make(chan struct{})
		go func() {
			g.Wait()
			close(waited)
		}()
		synctest.Wait()
		g.Leave()
		synctest.Wait()
		select {
		case <-waited:
			t.Fatal("a goroutine still runs")
		default:
		}
		close(end)
		<-waited
		require.True(t, spawned, "by a goroutine that was counted")
	})
}
