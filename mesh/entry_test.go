package mesh

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestTwoRoomsThatAreJoinedAtOnceHaveRisingSequences(t *testing.T) {
	var s entrySequence
	s.signed(10)
	calls := 0
	got := s.raise(func(highest uint64) uint64 {
		if calls++; calls == 1 {
			s.signed(20) // another room signs, between this one's look at the highest and its setting it
		}
		return highest + 1
	})
	require.EqualValues(t, 21, got)
	require.EqualValues(t, 21, s.highest.Load())
}

func TestTheHighestSequenceThatWasSignedNeverFalls(t *testing.T) {
	var s entrySequence
	s.raise(func(uint64) uint64 {
		if s.highest.Load() < 20 {
			s.signed(20)
		}
		return 15
	})
	require.EqualValues(t, 20, s.highest.Load())
}

func TestASequenceThatIsTooFarAheadIsNotFollowed(t *testing.T) {
	var s entrySequence
	now := time.Now()
	ahead := uint64(now.Add(2 * identity.MaxSkew).UnixMilli()) // signed by a clock that has been set back since
	s.signed(ahead)
	require.EqualValues(t, now.UnixMilli(), s.next(now))
	require.Equal(t, ahead, s.highest.Load())
}
