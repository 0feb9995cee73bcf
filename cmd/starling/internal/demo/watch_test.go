package demo

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/mesh"
)

func TestAWatchFindsWhatCameAndWhatComesOfOneType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := events.NewQueue(events.Kind[mesh.Event]{
			Stamp: func(ev mesh.Event, seq uint64, at time.Time) { ev.Head().Seq, ev.Head().Time = seq, at },
		}, 100, 1<<20)
		w := newWatch(t.Context(), "bob", q.Recv)
		text := func(want string) func(*mesh.Message) bool {
			return func(m *mesh.Message) bool { return string(m.Data) == want }
		}
		q.PushBroadcast(&mesh.Message{Data: []byte("before")}, 6)
		synctest.Wait()
		mark := w.mark()
		require.Equal(t, 1, mark)
		time.AfterFunc(time.Second, func() {
			q.PushNotice(&mesh.MemberLeft{})
			q.PushBroadcast(&mesh.Message{Data: []byte("one")}, 3)
			q.PushBroadcast(&mesh.Message{Data: []byte("two")}, 3)
		})

		got, err := awaitFor(t.Context(), w, 0, "message", text("before"))
		require.NoError(t, err)
		require.Equal(t, "before", string(got.Data))
		got, err = awaitFor(t.Context(), w, mark, "message", text("two"))
		require.NoError(t, err)
		require.Equal(t, "two", string(got.Data))
		require.Len(t, w.after(mark), 3)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = awaitFor(ctx, w, mark, "an old message", text("before"))
		require.EqualError(t, err, "bob: no an old message within the time for a step")

		q.End(mesh.ErrLeft)
		_, err = awaitFor(t.Context(), w, 0, "a third", text("three"))
		require.EqualError(t, err, "bob: the stream ended before a third")
		<-w.done
	})
}
