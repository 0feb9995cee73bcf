package rates

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestAnHonestPeerIsNeverRefused(t *testing.T) {
	type message struct{ sent, arrives time.Duration }
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 3))
		rate := []int{1, 20, 100}[seed%3]
		accepts := NewBucket(identity.Rate{Messages: rate}, Burst)
		found := time.Duration(r.IntN(20_000)) * ms // until then the user is searched for
		var list []message
		var cut time.Duration
		for now := time.Duration(0); now < 5*time.Minute; now += time.Second / time.Duration(rate) {
			if r.IntN(rate*60) == 0 {
				cut = now + time.Duration(r.IntN(40_000))*ms
			}
			n := 1
			if r.IntN(rate*20) == 0 {
				now += 3 * time.Second / 2 // it gathers a burst
				n = rate
			}
			for range n {
				if wait, _ := accepts.Take(epoch.Add(now), 1, 0); wait > 0 {
					break
				}
				late := time.Duration(0)
				if r.IntN(2) == 0 { // another mode, whose stream is held up
					late = time.Duration(r.IntN(500)) * ms
				}
				list = append(list, message{now, max(now+5*ms+late, cut, found)})
			}
		}
		slices.SortStableFunc(list, func(a, b message) int { return int(a.arrives - b.arrives) })
		p := NewPeer(identity.Rate{Messages: rate, Bytes: 1 << 30})
		var clock time.Duration
		for i, m := range list {
			if clock == 0 && r.IntN(rate*100) == 0 {
				clock += time.Duration(60+r.IntN(3600)) * time.Second * time.Duration(2*r.IntN(2)-1)
			}
			require.Equal(t, Within, p.Judge(epoch.Add(m.arrives), epoch.Add(m.sent+clock).UnixMilli(), 100), "seed %d: message %d", seed, i)
		}
		require.Greater(t, len(list), rate*250)
	}
}

func TestMessagesThatWaitedForMinutesAreTaken(t *testing.T) {
	p := NewPeer(identity.Rate{Messages: 100})
	at := epoch.Add(10 * time.Minute)
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(8192) {
		require.Equal(t, Within, p.Judge(at, epoch.Add(time.Duration(i)*10*ms).UnixMilli(), 1))
	}
}

func TestAPeerThatIgnoresTheRateIsRefusedAndThenGivenUp(t *testing.T) {
	for _, times := range []int{2, 10} {
		p := NewPeer(identity.Rate{Messages: 100})
		for i := range 100 * 20 { // at its rate, until it begins
			require.Equal(t, Within, p.Judge(epoch.Add(time.Duration(i)*10*ms), epoch.Add(time.Duration(i)*10*ms).UnixMilli(), 1))
		}
		var over, ignores time.Duration
		for d := time.Duration(0); d < 3*time.Second && ignores == 0; d += 10 * ms / time.Duration(times) {
			now := epoch.Add(20*time.Second + d)
			switch p.Judge(now, now.UnixMilli(), 1) {
			case Over:
				over = max(d, over)
			case Ignores:
				ignores = d
			}
		}
		require.NotZero(t, over)
		require.NotZero(t, ignores, "%d times the rate", times)
		require.Less(t, ignores, 2500*ms, "%d times the rate", times)
		now := epoch.Add(time.Minute)
		require.Equal(t, Within, p.Judge(now, now.UnixMilli(), 1), "it keeps to the rate again")
	}
}

func TestAPeerGainsOnceByWhatItSays(t *testing.T) {
	const rate = 100
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 4))
		p := NewPeer(identity.Rate{Messages: rate})
		took, now := 0, time.Duration(0)
		for now < 5*time.Minute {
			now += time.Duration(r.IntN(4)) * ms
			said := epoch.Add(now).UnixMilli()
			switch r.IntN(5) {
			case 0:
				said += r.Int64N(80_000) - 40_000
			case 1:
				said = math.MinInt64
			case 2:
				said = math.MaxInt64
			case 3:
				said += r.Int64N(2000)
			}
			p.refused = Bucket{} // it is not given up
			if p.Judge(epoch.Add(now), said, 1) == Within {
				took++
			}
		}
		gain := float64(took)/rate - now.Seconds()*(leeway+1)/leeway
		require.Less(t, gain, (binCount*binTime+peerAhead+2*time.Second).Seconds()+oldMessages/float64(rate), "seed %d: seconds of the rate", seed)
	}
}

func TestAPeerWhoseClockRunsAheadGainsLittle(t *testing.T) {
	const rate, seconds = 100, 60
	p := NewPeer(identity.Rate{Messages: rate})
	took := 0
	for i := range 10 * rate * seconds {
		p.refused = Bucket{} // it is not given up
		d := time.Duration(i) * ms
		if p.Judge(epoch.Add(d), epoch.Add(10*d).UnixMilli(), 1) == Within {
			took++
		}
	}
	require.Less(t, took, rate*(seconds+int(peerAhead/time.Second)+5)*21/20+oldMessages)
}

func TestBytesOfAPeerAreJudged(t *testing.T) {
	p := NewPeer(identity.Rate{Bytes: 1 << 20})
	n := 0
	for p.Judge(epoch, epoch.UnixMilli(), 64<<10) == Within {
		n++
	}
	require.Equal(t, 29, n, "half a second and the tolerance")
}
