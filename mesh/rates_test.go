package mesh

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/rates"
)

// over checks that a call was refused for a rate, and returns when it would not be.
func over(t *testing.T, err error, limit RateLimit, rate int) time.Duration {
	t.Helper()
	require.ErrorIs(t, err, ErrRateExceeded)
	var e *RateError
	require.ErrorAs(t, err, &e)
	require.Equal(t, RateError{Limit: limit, Rate: rate, After: e.After}, *e)
	require.Positive(t, e.After)
	require.LessOrEqual(t, e.After, time.Second)
	return e.After
}

func TestBroadcastsOverTheRateAreRefusedAtOnceAndTheRateIsBackInASecond(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		time.Sleep(time.Second)
		burst := func() (accepted int, err error) {
			for {
				if _, err = rooms[0].PublishAsync(t.Context(), []byte("x")); err != nil {
					return accepted, err
				}
				accepted++
			}
		}
		began := time.Now()
		n, err := burst()
		require.Equal(t, 65, n)
		after := over(t, err, BroadcastMessages, 65)
		require.Less(t, after, time.Second/65+time.Millisecond)
		require.Zero(t, time.Since(began), "nothing waits")
		p, err := f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"))
		require.NoError(t, err, "sends to one user count apart")
		require.EqualValues(t, 66, p.ID(), "what was refused has no ID")
		time.Sleep(after)
		n, _ = burst()
		require.Equal(t, 1, n)
		time.Sleep(time.Second)
		n, _ = burst()
		require.Equal(t, 65, n)
		_, err = rooms[0].PublishConfirmedAsync(t.Context(), []byte("x"))
		over(t, err, BroadcastMessages, 65)
		time.Sleep(time.Second)
		other := f.join(0, "elsewhere")
		n, _ = burst()
		require.Equal(t, 65, n)
		_, err = other.PublishAsync(t.Context(), []byte("x"))
		over(t, err, BroadcastMessages, 65)
		time.Sleep(time.Second)
		require.Zero(t, f.at[1].Stats().RatesIgnored)
		require.EqualValues(t, 65+1+65+65, f.at[1].Stats().MessagesTaken, "what was accepted has arrived")
	}, WithRates(Rates{Broadcast: Rate{Messages: 65}}))
}

func TestCallsThatWaitWaitForTheRate(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		began := time.Now()
		for range 30 {
			_, err := rooms[0].PublishAsync(t.Context(), []byte("x"), WithWaiting())
			require.NoError(t, err)
		}
		require.InDelta(t, 2, time.Since(began).Seconds(), 0.01, "10 at once, and 10 a second")
		began = time.Now()
		for range 30 {
			_, err := f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"), WithWaiting())
			require.NoError(t, err)
		}
		require.InDelta(t, 2, time.Since(began).Seconds(), 0.01)

		for name, send := range map[string]func(context.Context) error{
			"broadcast":   func(ctx context.Context) error { _, err := rooms[0].Publish(ctx, []byte("x")); return err },
			"in the room": func(ctx context.Context) error { _, err := rooms[0].Send(ctx, "u1", []byte("x")); return err },
			"outside": func(ctx context.Context) error {
				_, err := f.at[0].Send(ctx, f.at[1].login(), []byte("x"))
				return err
			},
		} {
			for range 10 {
				_, _ = rooms[0].PublishAsync(t.Context(), []byte("x"))
				_, _ = f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := send(ctx)
			cancel()
			require.ErrorIs(t, err, ErrUnreachable, name)
			require.ErrorIs(t, err, ErrRateExceeded, name)
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.NoError(t, send(t.Context()), name)
		}
	}, WithRates(Rates{Broadcast: Rate{Messages: 10}, Direct: Rate{Messages: 10}}))
}

func TestSendsToOneUserCountTogetherInRoomsAndOutside(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		for i := range 100 {
			var err error
			if i%2 == 0 {
				_, err = rooms[0].SendAsync(t.Context(), "u1", []byte("x"), WithMode(Mode(i%3)))
			} else {
				_, err = f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"), WithMode(Mode(i%3)))
			}
			require.NoError(t, err, i)
		}
		_, err := rooms[0].SendAsync(t.Context(), "u1", []byte("x"))
		over(t, err, DirectMessages, 100)
		_, err = f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"))
		over(t, err, DirectMessages, 100)
		_, err = rooms[0].PublishAsync(t.Context(), []byte("x"))
		require.NoError(t, err, "broadcasts count apart")
		time.Sleep(time.Second)
		for range 100 {
			_, err := f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"))
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		s := f.at[0].Stats()
		require.EqualValues(t, []any{uint64(200), uint64(200)}, []any{s.DirectSent, s.DirectDelivered})
	}, WithRates(Rates{Direct: Rate{Messages: 100}}))
}

func TestASendThatIsNotAcceptedCostsNothingOfTheRate(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		f.net.Isolate(1)
		full := 0
		for range 5000 {
			if _, err := rooms[0].SendAsync(t.Context(), "u1", []byte("x")); errors.Is(err, ErrQueueFull) {
				full++
			} else {
				require.NoError(t, err)
			}
		}
		require.Equal(t, 5000-4096, full)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 500 {
			_, err := f.at[0].SendAsync(ended, f.at[1].login(), []byte("x"))
			require.ErrorIs(t, err, context.Canceled)
		}
		for range 5000 - 4096 {
			_, err := f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"), WithMode(UnreliableOrdered))
			require.NoError(t, err)
		}
		_, err := f.at[0].SendAsync(t.Context(), f.at[1].login(), []byte("x"), WithMode(UnreliableOrdered))
		over(t, err, DirectMessages, 5000)
	}, WithRates(Rates{Direct: Rate{Messages: 5000}}))
}

func TestBytesAreLimitedApartFromMessages(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		data := make([]byte, MaxMessage)
		n := 0
		var err error
		for ; err == nil; n++ {
			_, err = f.at[0].SendAsync(t.Context(), f.at[1].login(), data)
		}
		over(t, err, DirectBytes, 1<<20)
		require.Equal(t, 16+1, n)
		for n, err = 0, nil; err == nil; n++ {
			_, err = rooms[0].PublishAsync(t.Context(), data)
		}
		over(t, err, BroadcastBytes, 1<<20)
		require.Equal(t, 15+1, n, "each item has a few bytes more")
		time.Sleep(2 * time.Second)
		for range 100 {
			_, err := rooms[0].PublishAsync(t.Context(), data, WithWaiting())
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		require.Zero(t, f.at[1].Stats().RatesIgnored)
		require.EqualValues(t, 115, f.at[1].Stats().MessagesTaken)
	}, WithRates(Rates{Direct: Rate{Bytes: 1 << 20}, Broadcast: Rate{Bytes: 1 << 20}}), WithQueue(QueueLimits{Bytes: 64 << 20}))
}

func TestARoomsTotalIsWhatIsHeardAndWhatIsSent(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		time.Sleep(time.Second)
		publish := func(i, n int) (accepted int, err error) {
			for range n {
				if _, err = rooms[i].PublishAsync(t.Context(), []byte("x")); err != nil {
					return accepted, err
				}
				accepted++
			}
			return accepted, nil
		}
		for i := range 2 {
			n, err := publish(i, 40)
			require.NoError(t, err)
			require.Equal(t, 40, n)
		}
		time.Sleep(20 * time.Millisecond)
		n, err := publish(2, 65)
		require.InDelta(t, 100-80, n, 3, "80 have been heard")
		over(t, err, RoomMessages, 100)
		time.Sleep(time.Second)
		n, err = publish(2, 65)
		require.NoError(t, err, "after a second all is there again")
		require.Equal(t, 65, n)
		// While others take up all of the rate, this one has none of it; it is never in debt.
		for range 30 {
			_, _ = publish(0, 65)
			_, _ = publish(1, 65)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		_, err = publish(2, 65)
		require.NoError(t, err)
	}, WithRates(Rates{Room: 100}))
}

func TestWhatTheRoomsTotalRefusesCostsNothingElsewhere(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		other := f.join(0, "elsewhere")
		for i := range 100 {
			_, err := rooms[0].PublishAsync(t.Context(), []byte("x"))
			if i < 10 {
				require.NoError(t, err)
			} else {
				over(t, err, RoomMessages, 10)
			}
		}
		_, err := other.PublishAsync(t.Context(), []byte("x"))
		require.NoError(t, err)
	}, WithRates(Rates{Broadcast: Rate{Messages: 20}, Room: 10}))
}

func TestALargeRoomHasAnotherTotal(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		first := f.join(0, "ops")
		most := func() (n int) {
			time.Sleep(2 * time.Second)
			for {
				if _, err := first.PublishAsync(t.Context(), []byte("x")); err != nil {
					require.ErrorIs(t, err, ErrRateExceeded)
					return n
				}
				n++
			}
		}
		require.Equal(t, 50, most())
		second := f.join(1, "ops")
		f.join(2, "ops")
		require.Equal(t, 20, most())
		require.NoError(t, second.Leave(t.Context()))
		require.Equal(t, 50, most())
	}, WithRates(Rates{Room: 50, LargeRoom: 20}), WithLargeRoom(3))
}

func TestWhatTheNetworkHoldsUpIsSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock walltime.Clock
		var all throttle
		all.init(Rate{Messages: 100}, BroadcastMessages, clock)
		var none paces
		open := func() *outbox {
			o := newOutbox(func() bool { return false })
			o.pace = pace{clock: clock, accepts: &all, sealed: none.of([32]byte{1}, all.rate)}
			return o
		}
		o := open()
		add := func(n int) (accepted int, err error) {
			for range n {
				if _, err = o.add(t.Context(), wire.Kind_KIND_TEXT, []byte("x"), func() uint64 { return 1 }, accept{}); err != nil {
					return accepted, err
				}
				accepted++
			}
			return accepted, nil
		}
		n, err := add(200)
		require.Equal(t, 100, n)
		require.ErrorIs(t, err, ErrRateExceeded)
		time.Sleep(time.Second)
		n, err = add(200)
		require.Equal(t, 25, n, "no more may wait than can be sent at once")
		require.ErrorIs(t, err, ErrQueueFull)
		b, wait := o.take()
		require.Zero(t, wait)
		require.EqualValues(t, 125, b.count)

		time.Sleep(100 * time.Millisecond)
		n, _ = add(50)
		require.Equal(t, 50, n)
		o.push(wire.Kind_KIND_BEAT, nil)
		b, wait = o.take()
		require.Nil(t, b, "it comes too soon after the last ones")
		require.Equal(t, 400*time.Millisecond, wait)
		n, _ = add(10)
		require.Equal(t, 10, n)
		time.Sleep(wait)
		b, _ = o.take()
		require.EqualValues(t, 51, b.count, "nothing was added meanwhile")
		b, wait = o.take()
		require.Nil(t, b)
		require.Equal(t, 100*time.Millisecond, wait)

		_, sealed := o.end(ErrLeft)
		none.keep(clock.Now(), [32]byte{1}, sealed)
		o = open() // it joins again
		time.Sleep(50 * time.Millisecond)
		n, _ = add(30)
		require.Equal(t, 30, n)
		b, wait = o.take()
		require.Nil(t, b, "the others remember what it has sent")
		require.Equal(t, 250*time.Millisecond, wait)
		none.keep(clock.Now().Add(2*time.Second), [32]byte{2}, sealed)
		require.Empty(t, none.rooms, "after that nobody has to")
	})
}

func TestRatesThatMakeNoSenseAreRefused(t *testing.T) {
	for name, r := range map[string]Rates{
		"-1 direct messages":            {Direct: Rate{Messages: -1}},
		"262143 direct bytes":           {Direct: Rate{Bytes: MinRateBytes - 1}},
		"-1 broadcasts":                 {Broadcast: Rate{Messages: -1}},
		"5 bytes of broadcasts":         {Broadcast: Rate{Bytes: 5}},
		"-2 broadcasts in a room":       {Room: -2},
		"-2 broadcasts in a large room": {LargeRoom: -2},
		"2000000001 direct messages a":  {Direct: Rate{Messages: maxRate + 1}},
	} {
		require.ErrorContains(t, checkRates(r), "a rate of "+name)
	}
	require.NoError(t, checkRates(Rates{}))
	require.NoError(t, checkRates(DefaultRates))
	require.NoError(t, checkRates(Rates{Direct: Rate{Messages: 1, Bytes: MinRateBytes}, Broadcast: Rate{Messages: maxRate, Bytes: maxRate}, Room: 1, LargeRoom: 1}))
}

func TestRateErrorsSayWhatTheLimitIs(t *testing.T) {
	for l := DirectMessages; l <= RoomMessages; l++ {
		require.NotContains(t, l.String(), "rate limit")
	}
	require.Equal(t, "rate limit 99", RateLimit(99).String())
	require.EqualError(t, &RateError{Limit: BroadcastMessages, Rate: 65, After: 1}, "rate exceeded: 65 broadcasts a second")
	require.NotErrorIs(t, fmt.Errorf("x: %w", &RateError{}), ErrQueueFull)
}

func TestAPeerThatSendsTooManyMessagesIsRefusedAndThenReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flock{t: t, all: newHellos()}
		f.net = meshtest.New(t, meshtest.Options{Hosts: 2, Latency: 5 * time.Millisecond})
		bob := f.all.station(t, f.net.Host(0), "bob", WithRates(Rates{Direct: Rate{Messages: 100}}))
		mallory := f.net.Host(1)
		f.all.identityOf(t, mallory).be(t, "mallory", true)
		f.net.Connect(0, 1)
		time.Sleep(time.Second)
		streams := []*raw{openRaw(t, mallory, bob, Reliable, 7), openRaw(t, mallory, bob, UnreliableUnordered, 7)}
		began, seq := time.Now(), uint64(0)
		send := func(r *raw) error {
			seq++
			m := wire.Direct{
				Type: wire.DirectFrame_MESSAGE, Sequence: seq, Kind: wire.Kind_KIND_BINARY, To: []byte("bob"), Payload: []byte("x"), SentMS: time.Now().UnixMilli(),
			}
			_, err := r.Write(m.AppendFrame(nil))
			return err
		}
		answers := make(chan wire.Direct, 1000)
		for _, r := range streams {
			go func() {
				for {
					a, ok := r.next()
					if !ok {
						return
					}
					answers <- a
				}
			}()
		}
		for bob.Stats().DirectViolations == 0 {
			require.Less(t, time.Since(began), 2500*time.Millisecond, "at twice the rate, in two modes together")
			_ = send(streams[seq%2])
			time.Sleep(5 * time.Millisecond)
			synctest.Wait() // what arrives at this time has been taken: the message, and the answer to the one before
		}
		refused := 0
		for len(answers) > 0 {
			if a := <-answers; a.Type == wire.DirectFrame_REFUSE {
				require.Equal(t, wire.DirectFrame_RATE, a.Reason)
				refused++
			}
		}
		require.Equal(t, 32, refused)
		for bob.Stats().DirectViolations < 2 { // the other stream
			require.Less(t, time.Since(began), 3*time.Second)
			_, _ = send(streams[0]), send(streams[1])
			time.Sleep(5 * time.Millisecond)
		}
		taken := bob.inbox.len()
		require.InDelta(t, 100*(time.Since(began).Seconds()+1.25), taken, 60)
		again := openRaw(t, mallory, bob, Reliable, 7)
		for bob.Stats().DirectViolations < 3 {
			_ = send(again)
			require.Less(t, time.Since(began), 3*time.Second, "a new stream does not help")
		}
		time.Sleep(time.Minute)
		later := openRaw(t, mallory, bob, Reliable, 7)
		require.NoError(t, send(later))
		later.wantAck(seq)
	})
}

// If only bytes are limited, a peer is judged by them a share of a second's worth at a time.
func TestAPeerIsHeldToItsRateOfBytes(t *testing.T) {
	const rate, size = 1 << 20, 16 << 10
	for name, c := range map[string]struct {
		times int // the rate
		want  rates.Ruling
	}{"at the rate": {1, rates.Within}, "at twice the rate": {2, rates.Ignores}} {
		t.Run(name, func(t *testing.T) {
			in := inbound{rate: Rate{Bytes: rate}}
			peer := in.rateOf("peer")
			begun := time.UnixMilli(1e12)
			worst, now := rates.Within, begun
			for range rate / size { // the burst that a sender has
				worst = max(worst, peer.rules(now, now.UnixMilli(), size))
			}
			for worst != rates.Ignores && now.Sub(begun) < 2*time.Second {
				now = now.Add(time.Second * size / rate / time.Duration(c.times))
				worst = max(worst, peer.rules(now, now.UnixMilli(), size))
			}
			require.Equal(t, c.want, worst)
		})
	}
}
