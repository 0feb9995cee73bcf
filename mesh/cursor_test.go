package mesh

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAReaderThatLaggedHasWhatItMissedFromTheRing(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		want := published(t, rooms[0], "u0", "m", 100)
		time.Sleep(2 * time.Second) // everything is there, and nobody has read
		want = append(want, published(t, rooms[0], "u0", "later", 3)...)
		var cursor Cursor
		var got []string
		lagged := 0
		for len(got) < len(want) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			ev, err := passing(ctx, rooms[1])
			cancel()
			require.NoError(t, err, "%d of %d", len(got), len(want))
			switch ev := ev.(type) {
			case *Lagged:
				lagged += ev.Missed
				for ev := range rooms[1].Replay(&cursor) {
					got = append(got, line(ev))
				}
			case *Message:
				if cursor.Add(ev) {
					got = append(got, line(ev))
				}
			}
		}
		require.Positive(t, lagged)
		require.Equal(t, want, got)
		for range rooms[1].Replay(&cursor) {
			t.Fatal("there is nothing more")
		}
	}, WithQueue(QueueLimits{Events: 20, Bytes: 1 << 20}))
}

func TestAReplayTellsWhatIsNoLongerRetained(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		var want []string
		for range 10 {
			want = append(want, published(t, rooms[0], "u0", "m", 1)...)
			time.Sleep(time.Second)
		}
		var got []string
		var cursor Cursor
		for ev := range rooms[1].Replay(&cursor) {
			got = append(got, line(ev))
		}
		require.Equal(t, append([]string{"lost u0 2-7"}, want[6:]...), got)
	}, WithRetention(Retention{Messages: 5}))
}

func TestAStayGoesOnWhereAnEarlierOneWasRead(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		var cursor Cursor
		want := published(t, rooms[0], "u0", "first", 5)
		for n := 0; n < 3; { // it reads three of five, and stops
			ev := next(t, rooms[2])
			if _, ok := ev.(*Message); ok {
				require.True(t, cursor.Add(ev))
				require.False(t, cursor.Add(ev))
				n++
			}
		}
		text, err := cursor.MarshalText()
		require.NoError(t, err)
		require.NoError(t, rooms[2].Leave(t.Context()))
		time.Sleep(10 * time.Second)
		want = append(want, published(t, rooms[0], "u0", "away", 4)...)
		theirs := published(t, rooms[1], "u1", "first of this feed", 2)
		time.Sleep(10 * time.Second)

		var kept Cursor
		require.NoError(t, kept.UnmarshalText(text))
		again := f.join(2, "ops", WithResume(kept))
		want = append(want, published(t, rooms[0], "u0", "back", 2)...)
		require.ElementsMatch(t, append(want[3:], theirs...), messages(t, again, len(want)-3+len(theirs)))
		quiet(t, again, 20*time.Second)
	})
}

func TestACursorIsReadAsItWasWritten(t *testing.T) {
	var c Cursor
	for i := range maxCursor + 100 {
		msg := &Message{Number: uint64(i) + 1}
		msg.Feed = FeedID{byte(i), byte(i >> 8)}
		msg.From.Peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
		require.True(t, c.Add(msg))
	}
	require.LessOrEqual(t, len(c.places), maxCursor)
	text, err := c.MarshalText()
	require.NoError(t, err)
	var d Cursor
	require.NoError(t, d.UnmarshalText(text))
	again, err := d.MarshalText()
	require.NoError(t, err)
	require.Equal(t, string(text), string(again))
	for n := range 60 { // within the first feed
		require.ErrorIs(t, d.UnmarshalText(text[:12+n]), errCursor, n)
	}
	require.ErrorIs(t, d.UnmarshalText([]byte("AA")), errCursor, "another version")
}

func TestAPublisherThatOutrunsTheRoomIsToldSoUnlessItWaits(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		var refused, accepted int
		for range 200 {
			_, err := rooms[0].PublishAsync(t.Context(), make([]byte, MaxMessage))
			if err == nil {
				accepted++
				continue
			}
			require.ErrorIs(t, err, ErrQueueFull)
			refused++
		}
		require.Positive(t, refused)
		require.Len(t, messages(t, rooms[1], accepted), accepted)
		for range 200 {
			_, err := rooms[0].PublishAsync(t.Context(), make([]byte, MaxMessage), WithWaiting())
			require.NoError(t, err)
		}
		require.Len(t, messages(t, rooms[1], 200), 200)
	})
}
