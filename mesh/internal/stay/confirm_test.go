package stay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// A caller that has its result may look at the counters at once.
func TestAReceiptIsCountedBeforeItsBroadcastEnds(t *testing.T) {
	w := new(deafWorld)
	st, _ := begunStay(t, time.Now(), w)
	var device identity.PublicKey
	p := &Poll{members: map[identity.PublicKey]int{device: 0}, open: 1, sentAt: time.Now(), asked: make([]Asked, 1)}
	p.end = func(int, error) { require.Equal(t, 1, w.counts[CountReceiptsTaken]) }
	st.confirms.sent[[32]byte{}] = &confirming{pending: []*Poll{p}}
	st.confirmed(time.Now(), [32]byte{}, []*wire.Receipt{{Device: device[:]}})
	require.True(t, p.Ended())
}
