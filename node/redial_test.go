package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

var t0 = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func addr(i int) []ma.Multiaddr {
	return []ma.Multiaddr{ma.StringCast(fmt.Sprintf("/ip4/10.0.0.%d/tcp/4001", i))}
}

// script drives a redialer: it dials whatever is due, at the time it is due, and records when.
type script struct {
	*redialer
	now   time.Time
	dials []time.Duration // since t0, of any peer
}

func newScript() *script {
	r := newRedialer("me")
	r.jitter = func() float64 { return 0.5 } // pauses without variation
	return &script{redialer: r, now: t0}
}

// failUntil lets time pass; every dial fails at once.
func (s *script) failUntil(end time.Duration) []time.Duration {
	s.dials = nil
	for {
		start, next := s.due(s.now, false)
		for _, a := range start {
			s.dials = append(s.dials, s.now.Sub(t0))
			s.dialled(s.now, a.peer, false)
		}
		if len(start) > 0 {
			continue
		}
		if next.IsZero() || next.Sub(t0) > end {
			s.now = t0.Add(end)
			return s.dials
		}
		s.now = next
	}
}

func seconds(n ...float64) (out []time.Duration) {
	for _, s := range n {
		out = append(out, time.Duration(s*float64(time.Second)))
	}
	return out
}

func TestALostPeerIsDialledAtOnceThenEverySecondThenLessAndNotForEver(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), connected)
	s.link(s.now, "bob", true)
	s.met("bob")
	require.Empty(t, s.failUntil(5*time.Second), "connected peers are not dialled")
	s.link(s.now, "bob", false)
	got := s.failUntil(60 * time.Second)
	require.Equal(t, seconds(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 21, 29, 39, 49, 59), got)
	got = s.failUntil(time.Hour)
	require.NotEmpty(t, got)
	last := got[len(got)-1]
	require.Greater(t, last, 10*time.Minute)
	require.Less(t, last, 16*time.Minute)
	require.Empty(t, s.targets, "given up, and forgotten")
}

func TestOneOfThoseOnTheOtherSideOfASplitIsDialledSoon(t *testing.T) {
	for _, c := range []struct {
		lost  int
		every time.Duration // on average, of any of them
	}{{1, recentPause}, {5, recentPause / 5}, {500, recentSpread}} {
		t.Run(fmt.Sprint(c.lost), func(t *testing.T) {
			s := newScript()
			s.jitter = rand.New(rand.NewPCG(1, 2)).Float64
			for i := range c.lost {
				p := peer.ID(fmt.Sprint("p", i))
				s.want(s.now, p, addr(1), connected)
				s.link(s.now, p, true)
				s.met(p)
			}
			for i := range c.lost {
				s.link(s.now, peer.ID(fmt.Sprint("p", i)), false)
			}
			s.failUntil(3 * time.Minute)
			got := s.failUntil(9 * time.Minute)
			require.InEpsilon(t, 6*time.Minute/c.every, len(got), 0.2)
		})
	}
}

func TestAMemberOfARoomIsDialledAtOnceAndEverySecondWhileTheRoomWantsIt(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), connected)
	s.rooms(s.now, map[peer.ID]bool{"bob": true})
	s.link(s.now, "bob", true)
	s.met("bob")
	s.failUntil(5 * time.Second)
	s.link(s.now, "bob", false)
	got := s.failUntil(64 * time.Second)
	require.Len(t, got, 60)
	for i, at := range got {
		require.Equal(t, time.Duration(5+i)*time.Second, at)
	}
	s.jitter = func() float64 { return 0 }
	require.Equal(t, 750*time.Millisecond, s.pause(s.now, s.targets["bob"]))
	s.jitter = func() float64 { return 1 }
	require.Equal(t, 1250*time.Millisecond, s.pause(s.now, s.targets["bob"]))
}

func TestGivenPeersAndRoomMembersAreDialledForEver(t *testing.T) {
	for _, why := range []reason{given, inRoom} {
		s := newScript()
		s.want(s.now, "bob", addr(1), connected)
		s.want(s.now, "bob", nil, why)
		s.failUntil(10 * time.Hour)
		got := s.failUntil(11 * time.Hour)
		require.Len(t, got, 120, "every 30 s in the eleventh hour")
	}
}

func TestARememberedPeerIsTriedSlowlyAndKeptInMind(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), kept)
	require.Equal(t, seconds(0, 5, 15, 35, 75, 155), s.failUntil(200*time.Second))
	s.failUntil(10 * time.Hour)
	require.Len(t, s.failUntil(11*time.Hour), 12, "every 5 min")
}

func TestAMemberOfARoomIsWantedOnlyIfItWasConnected(t *testing.T) {
	s := newScript()
	wanted := map[peer.ID]bool{"bob": true, "carol": true}
	s.rooms(s.now, wanted)
	require.Empty(t, s.targets)
	s.want(s.now, "bob", addr(1), connected)
	s.rooms(s.now, wanted)
	require.True(t, s.wants("bob", inRoom))
	delete(wanted, "bob")
	s.rooms(s.now, wanted)
	require.False(t, s.wants("bob", inRoom))
	require.True(t, s.wants("bob", connected))
}

func TestNewAddressesAreTriedWithoutWaitingForThePauseToEnd(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), kept)
	s.failUntil(100 * time.Second)
	s.want(s.now, "bob", addr(1), kept)
	require.Empty(t, s.failUntil(101*time.Second), "nothing new")
	s.want(s.now, "bob", addr(2), onLAN)
	got := s.failUntil(101 * time.Second)
	require.NotEmpty(t, got)
	require.Equal(t, 101*time.Second, got[0])
}

func TestOfTwoThatHearOfEachOtherTheHigherPeerIDWaits(t *testing.T) {
	s := newScript() // self is "me"
	s.want(s.now, "alice", addr(1), onLAN)
	s.want(s.now, "zoe", addr(2), onLAN)
	start, next := s.due(s.now, false)
	require.Len(t, start, 1)
	require.Equal(t, peer.ID("zoe"), start[0].peer)
	require.Equal(t, t0.Add(yield), next)
}

func TestAPeerOfAnotherAppIsLeftAlone(t *testing.T) {
	s := newScript()
	s.want(s.now, "zoe", addr(1), onLAN)
	start, _ := s.due(s.now, false)
	require.Len(t, start, 1)
	s.dialled(s.now, "zoe", true)
	s.link(s.now, "zoe", true)
	s.refuse(s.now, "zoe", foreignPause)
	s.link(s.now, "zoe", false) // hello has closed the connection
	s.want(s.now.Add(time.Second), "zoe", addr(1), onLAN)
	s.want(s.now.Add(2*time.Second), "zoe", addr(2), onLAN)
	require.Empty(t, s.failUntil(9*time.Minute))
	s.wake(s.now)
	require.Empty(t, s.failUntil(9*time.Minute+time.Second), "not on waking either")
	require.NotEmpty(t, s.failUntil(11*time.Minute), "it may be ours by then")
}

// A peer that refuses the hello closes the connection, which both sides had opened without fault.
func TestAPeerThatRefusesAgainAndAgainIsDialledEverLess(t *testing.T) {
	for _, c := range []struct {
		name  string
		early bool // the end of the connection shows before the end of the dial
		told  bool // the first refusal was reported: others are not, nor is one from before it was a target
		first time.Duration
	}{
		{"told", false, true, refusedPause}, {"told, early", true, true, refusedPause},
		{"not told", false, false, 0}, {"not told, early", true, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScript()
			s.want(s.now, "given", addr(1), given)
			if c.told {
				s.refuse(s.now, "given", refusedPause)
			}
			var dials []time.Duration
			for s.now.Sub(t0) < 10*time.Minute {
				start, next := s.due(s.now, false)
				for _, a := range start {
					dials = append(dials, s.now.Sub(t0))
					s.now = s.now.Add(5 * time.Millisecond)
					if !c.early {
						s.dialled(s.now, a.peer, true)
					}
					s.link(s.now, a.peer, true)
					s.link(s.now, a.peer, false)
					if c.early {
						s.dialled(s.now, a.peer, true)
					}
				}
				if len(start) == 0 {
					s.now = next
				}
			}
			require.Equal(t, c.first, dials[0])
			require.Less(t, len(dials), 40)
			last := dials[len(dials)-1] - dials[len(dials)-2]
			require.InDelta(t, wantedPause, last, float64(time.Second))

			// Once it has proved who it is, a lost connection is opened again at once.
			s.link(s.now, "given", true)
			s.met("given")
			s.link(s.now, "given", false)
			start, _ := s.due(s.now, false)
			require.Len(t, start, 1)
		})
	}
}

func TestWakingMakesEveryoneDueWhoIsNotConnected(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), given)
	s.want(s.now, "carol", addr(2), connected)
	s.link(s.now, "carol", true)
	s.failUntil(time.Hour)
	s.wake(s.now)
	start, _ := s.due(s.now, false)
	require.Len(t, start, 1)
	require.Equal(t, peer.ID("bob"), start[0].peer)
}

func TestWhoWasLostTogetherWithAPeerThatIsBackIsDialledAtOnce(t *testing.T) {
	s := newScript()
	for i, p := range []peer.ID{"anna", "bob", "carol", "dave"} {
		s.want(s.now, p, addr(i), connected)
		s.link(s.now, p, true)
	}
	s.link(s.now, "bob", false)
	s.failUntil(8 * time.Second)
	s.link(s.now, "carol", false)
	s.failUntil(time.Minute)
	s.link(s.now, "dave", false) // for another reason
	s.failUntil(170 * time.Second)
	s.link(s.now, "bob", true)
	start, _ := s.due(s.now, false)
	require.Len(t, start, 1)
	require.Equal(t, peer.ID("carol"), start[0].peer)
	s.dialled(s.now, "carol", false)
	require.Equal(t, seconds(171, 172, 173), s.failUntil(173*time.Second), "and quickly again")
}

func TestDialsUnderWayAreBoundedAndServedByReason(t *testing.T) {
	s := newScript()
	for i := range 100 {
		s.want(s.now, peer.ID(fmt.Sprintf("kept%02d", i)), addr(i), kept)
	}
	s.want(s.now, "given", addr(101), given)
	start, next := s.due(s.now, false)
	require.Len(t, start, maxDialling)
	require.Equal(t, peer.ID("given"), start[0].peer)
	require.Zero(t, next)
	more, _ := s.due(s.now, false)
	require.Empty(t, more)
	s.dialled(s.now, "given", true)
	more, _ = s.due(s.now, false)
	require.Len(t, more, 1)
}

func TestWhileCrowdedOnlyWantedPeersAreDialled(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), connected)
	s.want(s.now, "carol", addr(2), given)
	start, next := s.due(s.now, true)
	require.Len(t, start, 1)
	require.Equal(t, peer.ID("carol"), start[0].peer)
	require.Zero(t, next)
}

func TestTargetsAreBoundedAndGivenOnesStay(t *testing.T) {
	s := newScript()
	s.want(s.now, "given", addr(1), given)
	s.want(s.now, "lost", addr(1), connected)
	for i := range maxTargets + 50 {
		s.want(s.now.Add(time.Duration(i)), peer.ID(fmt.Sprintf("lan%d", i)), addr(1), onLAN)
	}
	require.Len(t, s.targets, maxTargets)
	require.True(t, s.wants("given", given))
	require.False(t, s.wants("lost", connected), "announcements crowd out what matters no more than they do")
	s.want(s.now, "kept", addr(1), kept)
	require.False(t, s.wants("kept", kept), "what matters least finds no room")
}

func TestAPeerHasAtMostSixteenAddressesTheNewestFirst(t *testing.T) {
	s := newScript()
	for i := range 40 {
		s.want(s.now, "bob", addr(i), onLAN)
	}
	got := s.targets["bob"].addrs
	require.Len(t, got, 16)
	require.Equal(t, addr(39)[0].String(), got[0].String())
}

func TestADialThatSucceedsAndLeavesNoConnectionIsNotRepeatedAtOnce(t *testing.T) {
	s := newScript()
	s.want(s.now, "bob", addr(1), given)
	s.due(s.now, false)
	s.dialled(s.now, "bob", true)
	start, next := s.due(s.now, false)
	require.Empty(t, start)
	require.Equal(t, t0.Add(quickPause), next)
}

func TestJitterSpreadsPauses(t *testing.T) {
	s := newScript()
	tg := &target{why: given, failures: 1}
	for _, c := range []struct {
		j    float64
		want time.Duration
	}{{0, 750 * time.Millisecond}, {0.5, time.Second}, {0.9999999999, 1250 * time.Millisecond}} {
		s.jitter = func() float64 { return c.j }
		require.InDelta(t, c.want, s.pause(t0, tg), float64(time.Microsecond))
	}
}

func TestANodeDoesNotDialItself(t *testing.T) {
	s := newScript()
	s.want(s.now, "me", addr(1), given)
	require.Empty(t, s.targets)
}
