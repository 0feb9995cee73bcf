package stay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/wire"
)

func TestAFeedThatGoesOnFromTheStoreMustContinueIt(t *testing.T) {
	end := [32]byte{1}
	f := &Feed{stored: 5, end: &end}
	f.begin(6)
	_, v := f.take(time.Now(), &Envelope{Envelope: &wire.Envelope{First: 6, Count: 1, Previous: make([]byte, 32)}})
	require.Equal(t, forked, v)
	f = &Feed{stored: 5, end: &end}
	f.begin(7) // what lies between is from before this stay
	_, v = f.take(time.Now(), &Envelope{Envelope: &wire.Envelope{First: 7, Count: 1, Previous: make([]byte, 32)}})
	require.Equal(t, taken, v)
}
