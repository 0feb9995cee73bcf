package rates

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestABucketHoldsASecondAndFillsInOne(t *testing.T) {
	b := NewBucket(identity.Rate{Messages: 65}, Burst)
	take := func(at time.Duration) (n int) {
		for {
			wait, of := b.Take(epoch.Add(at), 1, 1000)
			if wait > 0 {
				require.Equal(t, Messages, of)
				require.LessOrEqual(t, wait, time.Second/65+1)
				return n
			}
			n++
		}
	}
	require.Equal(t, 65, take(0))
	require.Equal(t, 0, take(time.Second/65-ms), "the next one is not there yet")
	require.Equal(t, 1, take(time.Second/65+1))
	require.Equal(t, 65, take(time.Second/65+1+time.Second), "all is there again after a second")
	require.Equal(t, 65, take(time.Hour), "and not more after an hour")
	require.Equal(t, 32, take(time.Hour+time.Second/2))
}

func TestABucketSaysHowLongToWaitAndForWhat(t *testing.T) {
	b := NewBucket(identity.Rate{Messages: 10, Bytes: 1000}, Burst)
	wait, _ := b.Take(epoch, 1, 900)
	require.Zero(t, wait)
	wait, of := b.Take(epoch, 1, 200)
	require.Equal(t, Bytes, of)
	require.Equal(t, 100*time.Millisecond, wait)
	wait, _ = b.Take(epoch, 1, 100)
	require.Zero(t, wait, "what was refused has cost nothing")
	wait, _ = b.Take(epoch.Add(199*time.Millisecond), 1, 200)
	require.Equal(t, time.Millisecond, wait)
	wait, _ = b.Take(epoch.Add(200*time.Millisecond), 1, 200)
	require.Zero(t, wait)
}

func TestABucketTakesBackWhatIsNotSent(t *testing.T) {
	b := NewBucket(identity.Rate{Messages: 1, Bytes: 100}, Burst)
	wait, _ := b.Take(epoch, 1, 100)
	require.Zero(t, wait)
	b.Return(1, 100)
	require.True(t, b.Full(epoch))
	wait, _ = b.Take(epoch, 1, 100)
	require.Zero(t, wait)
	require.False(t, b.Full(epoch))
}

func TestSpendingLeavesABucketEmptyAtTheLeast(t *testing.T) {
	b := NewBucket(identity.Rate{Messages: 100}, Burst)
	b.Spend(epoch, 5000, 0)
	wait, _ := b.Take(epoch, 1, 0)
	require.Equal(t, 10*time.Millisecond, wait, "others cannot keep this node from sending for long")
	wait, _ = b.Take(epoch.Add(time.Second), 100, 0)
	require.Zero(t, wait)
	b.SetRate(identity.Rate{})
	wait, _ = b.Take(epoch.Add(2*time.Second), 1000, 0)
	require.Zero(t, wait, "no limit")
}
