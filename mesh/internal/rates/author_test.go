package rates

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

const ms = time.Millisecond

// arrival is an envelope on its way, by times since epoch.
type arrival struct {
	sealed, arrives time.Duration
	messages        int
}

// honest returns what an honest sender seals within a time that sends as much as it may, in bursts
// or steadily, and whose sealing is held up now and then. It comes in order, after delays.
func honest(r *rand.Rand, rate int, share float64, lasts time.Duration) (out []arrival) {
	accepts, sealed := NewBucket(identity.Rate{Messages: rate}, Burst), NewBucket(identity.Rate{Messages: rate}, Sealed)
	most := max(1, int(time.Duration(rate)*Sealed/time.Second))
	var heldUntil, last, slow time.Duration
	waiting, closed, owed := 0, 0, 0.0
	silent := false
	const tick = 5 * ms
	out = append(out, arrival{0, 50 * ms, 0}) // its entry
	for now := time.Duration(0); now < lasts; now += tick {
		if r.IntN(400) == 0 {
			heldUntil = now + time.Duration(r.IntN(3000))*ms // the network takes nothing
		}
		if r.IntN(1000) == 0 {
			silent = !silent && share < 1 // a bursty one gathers its burst
		}
		owed += share * float64(rate) * tick.Seconds()
		for owed >= 1 && !silent || share < 1 && !silent && r.IntN(3) == 0 {
			if wait, _ := accepts.Take(epoch.Add(now), 1, 0); waiting >= most || wait > 0 {
				break
			}
			waiting++
			owed = max(owed-1, 0)
		}
		owed = min(owed, 1)
		if waiting == 0 || now < heldUntil {
			continue
		}
		n := waiting
		if closed > 0 {
			n = closed
		}
		if wait, _ := sealed.Take(epoch.Add(now), n, 0); wait > 0 {
			closed = n
			continue
		}
		closed, waiting = 0, waiting-n
		if r.IntN(500) == 0 {
			slow = now + time.Duration(r.IntN(20_000))*ms // what is sent until then comes together
		}
		last = max(last, now+time.Duration(20+r.IntN(100))*ms, slow)
		out = append(out, arrival{now, last, n})
	}
	return out
}

func TestAnHonestAuthorIsNeverFoundGuilty(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		rate := []int{1, 3, 65, 1000}[seed%4]
		share := []float64{0.5, 0.99, 1}[seed%3]
		a := NewAuthor(identity.Rate{Messages: rate}, 10*time.Minute)
		sent := 0
		var clock time.Duration
		for i, e := range honest(r, rate, share, 10*time.Minute) {
			if late := e.arrives - e.sealed; late < time.Second && r.IntN(4000) == 0 {
				clock += time.Duration(r.IntN(7200)-3600) * time.Second // it is set
			}
			drift := e.sealed / 2000 // and it runs too slowly
			l := Load{
				SentMs: epoch.Add(e.sealed + clock - drift).UnixMilli(), At: epoch.Add(e.arrives), Messages: e.messages,
				Bytes: 100, Own: r.IntN(2),
			}
			require.True(t, a.Judge(l), "seed %d: envelope %d, sealed at %v, of %d messages, %d before", seed, i, e.sealed, e.messages, sent)
			sent += e.messages
		}
		require.Greater(t, sent, rate*100, "seed %d: it has sent next to nothing", seed)
	}
}

func TestAnHonestAuthorMayBeFetchedAllAtOnce(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		a := NewAuthor(identity.Rate{Messages: 65}, 10*time.Minute)
		at := epoch.Add(10 * time.Minute)
		if fresh { // it was known before this node was cut off
			require.True(t, a.Judge(Load{SentMs: epoch.UnixMilli(), At: epoch, Messages: 1}))
		}
		for i := range 65 * 600 {
			sent := epoch.Add(time.Duration(i) * time.Second / 65)
			require.True(t, a.Judge(Load{SentMs: sent.UnixMilli(), At: at, Fetched: true, Messages: 1}), i)
		}
		require.True(t, a.Judge(Load{SentMs: at.UnixMilli(), At: at.Add(20 * ms), Messages: 65}), "the burst after it")
		for i := range 100 { // now gossip has shown how long its envelopes take
			if now := at.Add(time.Duration(i) * time.Second / 650); !a.Judge(Load{SentMs: now.Add(time.Duration(i) * time.Second).UnixMilli(), At: now, Messages: 1}) {
				return
			}
		}
		require.Fail(t, "it was not found guilty")
	}
}

func TestTheFirstThatComesOfAnAuthorMayHaveBeenHeldUp(t *testing.T) {
	a := NewAuthor(identity.Rate{Messages: 65}, 10*time.Minute)
	const late = 5 * time.Second
	for i := range 65 * 20 {
		sent := time.Duration(i) * time.Second / 65
		at := max(sent, late) + time.Duration(i)*ms/2 // it takes a moment to come
		require.True(t, a.Judge(Load{SentMs: epoch.Add(sent).UnixMilli(), At: epoch.Add(at), Messages: 1}), i)
	}
}

// sealed are envelopes by when they were sealed, by the author's clock, and when they came.
type sealed struct {
	by, came time.Duration
	messages int
}

func TestWhatAnHonestAuthorsClockAndNetworkMayDo(t *testing.T) {
	const second, rate = time.Second, 65
	backlog := func(from, until, came time.Duration) (list []sealed) {
		for at := from; at < until; at += second / rate {
			list = append(list, sealed{at, came, 1})
		}
		return list
	}
	for name, list := range map[string][]sealed{
		"its first envelope is late, and later the others come unevenly": {
			{0, 3 * second, 0}, {5 * second, 5*second + 20*ms, 1}, {10 * second, 11 * second, rate}, {11 * second, 11*second + 20*ms, rate},
		},
		"its clock is set back while it sends": {
			{0, 0, 0}, {9 * second, 9 * second, rate}, {-second, 9900 * ms, 58}, {0, 10900 * ms, rate},
		},
		"its clock is set as what was held up comes": {
			{0, 0, 0}, {9 * second, 30 * second, rate}, {-second, 30 * second, 58}, {0, 30 * second, rate},
		},
		"its clock is set forward amid what was held up": append(append([]sealed{{0, 0, 0}},
			backlog(10*second, 20*second, 30*second)...), backlog(3620*second, 3630*second, 30*second)...),
	} {
		a := NewAuthor(identity.Rate{Messages: rate}, 10*time.Minute)
		for i, e := range list {
			ok := a.Judge(Load{SentMs: epoch.Add(e.by).UnixMilli(), At: epoch.Add(e.came), Messages: e.messages})
			require.True(t, ok, "%s: envelope %d", name, i)
		}
	}
}

func TestAnAuthorThatWasFetchedIsKnownOnceGossipBringsIt(t *testing.T) {
	a := NewAuthor(identity.Rate{Messages: 65}, 10*time.Minute)
	require.True(t, a.Judge(Load{SentMs: epoch.UnixMilli(), At: epoch, Fetched: true}))
	at := func(d time.Duration) time.Time { return epoch.Add(time.Minute + d) }
	require.True(t, a.Judge(Load{SentMs: at(0).UnixMilli(), At: at(0), Messages: 1}))
	for d := time.Duration(0); d < 2*time.Second; d += time.Second / 130 {
		if !a.Judge(Load{SentMs: at(3 * d).UnixMilli(), At: at(d), Messages: 1}) {
			return
		}
	}
	require.Fail(t, "its clock may run ahead")
}

// liars are what a sender may say of the time, by the time since it began.
var liars = map[string]func(r *rand.Rand, since time.Duration) time.Duration{
	"it tells the truth":           func(_ *rand.Rand, d time.Duration) time.Duration { return d },
	"its clock runs twice as fast": func(_ *rand.Rand, d time.Duration) time.Duration { return 2 * d },
	"it runs 100 times as fast":    func(_ *rand.Rand, d time.Duration) time.Duration { return 100 * d },
	"each is a day after the last": func(_ *rand.Rand, d time.Duration) time.Duration { return d * 1e6 },
	"its clock stands still":       func(_ *rand.Rand, d time.Duration) time.Duration { return 0 },
	"its clock runs backwards":     func(_ *rand.Rand, d time.Duration) time.Duration { return -d },
	"its clock says anything": func(r *rand.Rand, d time.Duration) time.Duration {
		return time.Duration(r.Int64N(2*int64(time.Hour))) - time.Hour
	},
	"it goes ahead and back": func(r *rand.Rand, d time.Duration) time.Duration {
		return d + time.Duration(r.IntN(2))*time.Minute
	},
}

func TestAnAuthorThatIgnoresTheRateIsFoundGuiltyWithinTwoSeconds(t *testing.T) {
	for name, says := range liars {
		for _, times := range []int{2, 3, 10, 100} {
			for _, perEnvelope := range []int{1, 20} {
				for _, before := range []time.Duration{0, time.Minute} {
					r := rand.New(rand.NewPCG(1, 1))
					const rate = 65
					a := NewAuthor(identity.Rate{Messages: rate}, 10*time.Minute)
					require.True(t, a.Judge(Load{SentMs: epoch.Add(-time.Second).UnixMilli(), At: epoch.Add(-time.Second), Own: 1}), "its entry")
					start := before // it has kept to the rate until then
					for at := time.Duration(0); at < start; at += time.Second / rate {
						require.True(t, a.Judge(Load{SentMs: epoch.Add(at).UnixMilli(), At: epoch.Add(at + 20*ms), Messages: 1}))
					}
					guilty := false
					var at time.Duration
					for !guilty && at < 2*time.Second {
						l := Load{SentMs: epoch.Add(start + says(r, at)).UnixMilli(), At: epoch.Add(start + at + 20*ms), Messages: perEnvelope}
						guilty = !a.Judge(l)
						at += time.Duration(perEnvelope) * time.Second / time.Duration(rate*times)
					}
					require.True(t, guilty, "%s, at %d times the rate, %d in an envelope, after %v", name, times, perEnvelope, before)
				}
			}
		}
	}
}

func TestNothingThatAnAuthorSaysRaisesItsRate(t *testing.T) {
	const rate = 100
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		a := NewAuthor(identity.Rate{Messages: rate}, 10*time.Minute)
		var now time.Duration
		said, sent := epoch.UnixMilli(), 0
		require.True(t, a.Judge(Load{SentMs: said, At: epoch}))
		for range 2000 {
			now += time.Duration(r.IntN(1+r.IntN(40))) * ms
			switch r.IntN(4) {
			case 0:
				said += r.Int64N(2_000_000) - 1_000_000
			case 1:
				said = epoch.Add(now).UnixMilli()
			case 2:
				said += r.Int64N(1000)
			case 3:
				said = []int64{math.MaxInt64, math.MinInt64, 0}[r.IntN(3)]
			}
			n := 1 + r.IntN(20)
			b := a // it tries, and does not send what would find it guilty
			if b.Judge(Load{SentMs: said, At: epoch.Add(now), Messages: n}) {
				a, sent = b, sent+n
			}
			most := (now + Tolerance + jitter + maxShorter).Seconds() * rate * (leeway + 1) / leeway
			require.LessOrEqual(t, float64(sent), most+1, "seed %d, after %v", seed, now)
		}
		require.Greater(t, sent, 100)
	}
}

func TestBytesAndTheLibrarysOwnItemsAreJudgedToo(t *testing.T) {
	count := func(rate identity.Rate, l Load) (n int) {
		a := NewAuthor(rate, time.Minute)
		l.SentMs, l.At = epoch.UnixMilli(), epoch
		for n < 100_000 && a.Judge(l) {
			n++
		}
		return n
	}
	require.Equal(t, 15, count(identity.Rate{Bytes: 10_500}, Load{Bytes: 1102}), "bytes at once")
	require.Equal(t, 100_000, count(identity.Rate{Bytes: 10_500}, Load{Messages: 1000, Own: 1000}))
	require.Equal(t, 102, count(identity.Rate{Messages: 65}, Load{Messages: 1, Bytes: 1 << 20}))
	require.Equal(t, ownBurst, count(identity.Rate{Messages: 65}, Load{Own: 1}), "suspicions and the like, at once")
	require.Equal(t, ownBurst/17, count(identity.Rate{Messages: 65}, Load{Own: Weight(64 << 10)}), "large ones")
	require.Equal(t, 1, Weight(0))
}
