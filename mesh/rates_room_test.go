package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// listen reads a room in the background, and returns what it counts. Stop ends it.
type listener struct {
	messages, left atomic.Int64
	evicted        chan string
	stop           func()
}

func listen(r *Room) *listener {
	l := &listener{evicted: make(chan string, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for ev, err := range r.Events(ctx) {
			if err != nil {
				return
			}
			switch ev := ev.(type) {
			case *Message:
				l.messages.Add(1)
			case *MemberLeft:
				if l.left.Add(1); ev.Reason == Evicted {
					l.evicted <- ev.Member.User
				}
			}
		}
	}()
	return l
}

// says publishes an envelope of messages that it says it sealed at a time.
func (m *insider) says(sent time.Time, messages int) {
	m.t.Helper()
	var content []byte
	for i := range messages {
		content = wire.AppendItem(content, wire.Kind_KIND_TEXT, fmt.Appendf(nil, "%d", m.next+uint64(i)))
	}
	m.items(sent, messages, content)
}

func (m *insider) items(sent time.Time, count int, content []byte) {
	m.t.Helper()
	sealed, err := wire.SealEnvelope(m.key, &wire.Envelope{
		App: m.f.all.app[:], Room: m.tag[:], Device: m.key.Public().(ed25519.PublicKey), Feed: m.feed[:],
		First: m.next, Count: uint32(count), Previous: m.tip, SentMs: sent.UnixMilli(), Content: content,
	})
	require.NoError(m.t, err)
	sum := sha256.Sum256(sealed)
	m.next, m.tip = m.next+uint64(count), sum[:]
	m.publish(sealed)
}

// rejoin makes it leave and begin another stay, as the same device.
func (m *insider) rejoin(to []*Room) {
	m.t.Helper()
	gone := m.entryOf("mallory", func(e *wire.RosterEntry) {
		e.Feed, e.State, e.Sequence = m.feed[:], wire.RosterEntry_LEFT, uint64(time.Now().UnixMilli())
	})
	m.items(time.Now(), 1, wire.AppendItem(nil, wire.Kind_KIND_ROSTER, gone))
	time.Sleep(10 * time.Millisecond)
	m.feed, m.next, m.tip = FeedID{}, 1, nil
	_, _ = rand.Read(m.feed[:])
	m.entry = m.entryOf("mallory", func(e *wire.RosterEntry) { e.Feed, e.Sequence = m.feed[:], uint64(time.Now().UnixMilli()) })
	for _, r := range to {
		m.tell(r.mesh.host.ID(), &wire.RoomFrame{Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{Entry: m.entry}}})
	}
	m.items(time.Now(), 1, wire.AppendItem(nil, wire.Kind_KIND_ROSTER, m.entry))
}

func TestAMemberThatIgnoresTheRateIsPutOutByEachMemberWithinTwoSeconds(t *testing.T) {
	const rate = 65
	type flood func(m *insider, rooms []*Room, since time.Duration, i int)
	truth := func(m *insider, _ []*Room, _ time.Duration, _ int) { m.says(time.Now(), 1) }
	for name, c := range map[string]struct {
		times int // the rate
		do    flood
	}{
		"twice the rate":     {2, truth},
		"ten times the rate": {10, truth},
		"twice, with a clock that runs ahead": {2, func(m *insider, _ []*Room, since time.Duration, _ int) {
			m.says(time.Now().Add(since), 1)
		}},
		"ten times, with a clock that runs ahead": {10, func(m *insider, _ []*Room, since time.Duration, _ int) {
			m.says(time.Now().Add(20*since), 1)
		}},
		"twice, a minute later each time": {2, func(m *insider, _ []*Room, _ time.Duration, i int) {
			m.says(time.Now().Add(time.Duration(i)*time.Minute), 1)
		}},
		"twice, with a clock that goes back": {2, func(m *insider, _ []*Room, since time.Duration, _ int) {
			m.says(time.Now().Add(-2*since), 1)
		}},
		"twice, behind a gap": {2, func(m *insider, _ []*Room, _ time.Duration, i int) {
			if i == 10 {
				m.next++
			}
			m.says(time.Now(), 1)
		}},
		"twice, leaving and joining again": {2, func(m *insider, rooms []*Room, _ time.Duration, i int) {
			if i%40 == 39 {
				m.rejoin(rooms)
			}
			m.says(time.Now(), 1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 3, func(t *testing.T, f *flock) {
				f.net.ConnectAll()
				rooms := f.joinAll("ops")
				ears := make([]*listener, len(rooms))
				for i, r := range rooms {
					ears[i] = listen(r)
					defer ears[i].stop()
				}
				m := f.insider("ops")
				m.items(time.Now(), 1, wire.AppendItem(nil, wire.Kind_KIND_ROSTER, m.entry))
				time.Sleep(time.Second)
				began := time.Now()
				by := func() (n int) {
					for _, l := range ears {
						n += len(l.evicted)
					}
					return n
				}
				for i := 0; by() < len(rooms); i++ {
					require.Less(t, time.Since(began), 2*time.Second, "%d of %d have put it out", by(), len(rooms))
					c.do(m, rooms, time.Since(began), i)
					time.Sleep(time.Second / time.Duration(rate*c.times))
				}
				for i, s := range f.at {
					require.Equal(t, "mallory", <-ears[i].evicted)
					require.EqualValues(t, 1, s.Stats().RatesIgnored, "member %d", i)
					require.Len(t, rooms[i].Members(), len(rooms))
				}
			}, WithRates(Rates{Broadcast: Rate{Messages: rate}}))
		})
	}
}

func TestABarredDeviceIsNeitherTakenNorPassedOnAndComesBackLater(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		m := f.insider("ops", 0) // the others get its broadcasts from member 0 alone
		m.items(time.Now(), 1, wire.AppendItem(nil, wire.Kind_KIND_ROSTER, m.entry))
		time.Sleep(time.Second)
		ears := make([]*listener, len(rooms))
		for i, r := range rooms {
			ears[i] = listen(r)
			defer ears[i].stop()
		}
		first := m.feed
		m.says(time.Now(), 200)
		for i := range 10 {
			time.Sleep(50 * time.Millisecond)
			m.says(time.Now(), 1)
			require.Zero(t, ears[0].messages.Load(), "after %d more", i)
		}
		barred := f.at[0].Stats().EnvelopesBarred
		require.NotZero(t, barred)
		taken := f.at[1].Stats().EnvelopesTaken
		m.says(time.Now(), 1)
		time.Sleep(time.Second)
		require.Greater(t, f.at[0].Stats().EnvelopesBarred, barred)
		require.Equal(t, taken, f.at[1].Stats().EnvelopesTaken, "it is not passed on")

		joined := func() bool { return strings.Contains(fmt.Sprint(users(rooms[0])), "mallory") }
		require.False(t, joined())
		m.rejoin(rooms[:1])
		time.Sleep(time.Second)
		require.False(t, joined(), "a new stay is not taken")
		time.Sleep(stay.BarredFor)
		m.entry = m.entryOf("mallory", func(e *wire.RosterEntry) { e.Feed, e.Sequence = first[:], uint64(time.Now().UnixMilli()) })
		m.tell(f.net.ID(0), &wire.RoomFrame{Body: &wire.RoomFrame_Greeting_{Greeting: &wire.RoomFrame_Greeting{Entry: m.entry}}})
		time.Sleep(time.Second)
		require.False(t, joined(), "its stay of then is never taken again")
		m.rejoin(rooms[:1])
		m.says(time.Now(), 1)
		time.Sleep(time.Second)
		require.True(t, joined(), "a minute later it is")
		require.EqualValues(t, 1, ears[0].messages.Load())
	}, WithRates(Rates{Broadcast: Rate{Messages: 65}}))
}

func TestWhatIsFetchedLongAfterItWasPublishedIsNoBurst(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")} // apart
		ear := listen(rooms[1])
		defer ear.stop()
		for range 60 {
			for range 20 {
				_, err := rooms[0].PublishAsync(t.Context(), []byte("x"))
				require.NoError(t, err)
			}
			time.Sleep(time.Second)
		}
		f.net.Connect(0, 1)
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 60*20, ear.messages.Load())
		require.Zero(t, f.at[1].Stats().RatesIgnored)
	}, WithRates(Rates{Broadcast: Rate{Messages: 20}}))
}

func TestADirectMessageOfABarredMemberIsRefused(t *testing.T) {
	synced(t, func(t *testing.T, f *flock, rooms []*Room) {
		rooms[1].do(func(st *stay.Stay, now time.Time) { require.True(t, st.Bar(now, f.net.ID(0))) })
		_, err := rooms[0].SendText(t.Context(), "u1", "hi")
		var refused *RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, NotMember, refused.Reason)
	})
}

func TestTheLibrarysOwnItemsAndUnknownOnesAreNoWayRoundTheRate(t *testing.T) {
	for name, c := range map[string]struct {
		kind    wire.Kind
		payload int
		every   time.Duration
		out     bool
	}{
		"beats at four times the rate":       {wire.Kind_KIND_BEAT, 0, time.Second / 260, false},
		"beats at 20 times the rate":         {wire.Kind_KIND_BEAT, 0, time.Second / 1300, true},
		"orders at four times the rate":      {wire.Kind_KIND_ORDER, 100, time.Second / 260, false},
		"large suspicions at twice the rate": {wire.Kind_KIND_SUSPICION, 64 << 10, time.Second / 130, true},
		"another kind at twice the rate":     {77, 10, time.Second / 130, true},
	} {
		inBubble(t, 1, func(t *testing.T, f *flock) {
			room := f.join(0, "ops")
			ear := listen(room)
			defer ear.stop()
			m := f.insider("ops")
			m.items(time.Now(), 1, wire.AppendItem(nil, wire.Kind_KIND_ROSTER, m.entry))
			time.Sleep(time.Second)
			for began := time.Now(); time.Since(began) < 2*time.Second && len(ear.evicted) == 0; {
				m.items(time.Now(), 1, wire.AppendItem(nil, c.kind, make([]byte, c.payload)))
				time.Sleep(c.every)
			}
			require.Equal(t, c.out, len(ear.evicted) == 1, name)
		}, WithRates(Rates{Broadcast: Rate{Messages: 65}}))
	}
}

// synced runs f with two members of a room.
func synced(t *testing.T, f func(*testing.T, *flock, []*Room), opts ...Option) {
	inBubble(t, 2, func(t *testing.T, fl *flock) {
		fl.net.ConnectAll()
		f(t, fl, fl.joinAll("ops"))
	}, opts...)
}

// Honest members publish at 99 % of the rate, all of a second at once: over a network that loses 5
// % of all packets, with one that is cut off for half a minute while it goes on, and another whose
// clock is set. In the long form they are ten, for ten minutes.
func TestHonestMembersAreNeverPutOut(t *testing.T) {
	rate, members, seconds := meshtest.Sized(20, 65), meshtest.Sized(5, 10), meshtest.Sized(150, 600)
	rates := WithRates(Rates{Broadcast: Rate{Messages: rate}})
	var clock meshtest.Clock
	inBubble(t, members-1, func(t *testing.T, f *flock) {
		f.at = append(f.at, f.all.station(t, f.net.Host(f.net.NewHost(nil)), "last", rates, WithClock(walltime.From(clock.Now))))
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		ears := make([]*listener, len(rooms))
		for i, r := range rooms {
			ears[i] = listen(r)
			defer ears[i].stop()
		}
		f.net.Loss(5)
		share := float64(rate) * 0.99
		owed, sent := make([]float64, len(rooms)), make([]int, len(rooms))
		for second := range seconds {
			switch second {
			case 20:
				f.net.Pause(1)
			case 50:
				f.net.Resume(1)
			case 80:
				clock.Set(time.Hour)
			case 100:
				clock.Set(-40 * time.Second)
			case 120:
				clock.Set(0)
			}
			for j := 0; second >= 50 && j < members; j++ {
				if j != 1 && !f.net.Connected(1, j) { // a node dials again
					f.net.Connect(1, j)
				}
			}
			for i, r := range rooms {
				for owed[i] += share; owed[i] >= 1; owed[i]-- {
					if _, err := r.PublishAsync(t.Context(), []byte("x")); err == nil {
						sent[i]++
					}
				}
			}
			time.Sleep(time.Second)
		}
		f.net.Loss(0)
		time.Sleep(30 * time.Second)
		all := 0
		for i, n := range sent {
			require.Greater(t, n, int(share*float64(seconds))*95/100, "member %d was refused", i)
			all += n
			require.Zero(t, f.at[i].Stats().RatesIgnored, "member %d", i)
		}
		for i, s := range f.at {
			require.EqualValues(t, all-sent[i], ears[i].messages.Load(), "what member %d has got: %+v", i, s.Stats())
			require.Len(t, rooms[i].Members(), members)
		}
	}, rates)
}
