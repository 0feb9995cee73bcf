package mesh

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// What is published while the question travels must be in the answer, also to a newcomer.
func TestTheQuestionOfANewcomerAllowsForItsWay(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		member := f.insider("ops", 0)
		asked := make(chan time.Duration, 100)
		member.host.SetStreamHandler(RoomProtocol, func(s network.Stream) {
			r := wire.NewReader(s, maxRoomFrame)
			for frame := new(wire.RoomFrame); r.Next(frame) == nil; frame = new(wire.RoomFrame) {
				if past := frame.GetGreeting().GetPast(); past != nil {
					asked <- time.Duration(past.AgeMs) * time.Millisecond
				}
			}
		})
		f.join(0, "ops")
		require.NotEmpty(t, asked)
		require.Equal(t, stay.TransitSlack, <-asked)
	})
}

func TestANewcomerGetsNothingThatWasPublishedJustBeforeItJoined(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		first := f.join(0, "ops")
		time.Sleep(5 * time.Second)
		_, err := first.PublishText(t.Context(), "before")
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond) // the way, by which ages come out too young, takes 5 ms
		newcomer := f.join(1, "ops")
		require.Equal(t, []string{"+u0"}, read(t, newcomer, 1))
		_, err = first.PublishText(t.Context(), "after")
		require.NoError(t, err)
		require.Equal(t, []string{"u0:after"}, read(t, newcomer, 1))
	})
}
