package mesh

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// said is a broadcast of a member that comes and goes.
type said struct {
	who, stay, number int
	at                time.Time
}

func (s said) text() string { return fmt.Sprintf("%d %d %d", s.who, s.stay, s.number) }

// before is the order of what one member says.
func (s said) before(o said) bool {
	return cmp.Or(cmp.Compare(s.stay, o.stay), cmp.Compare(s.number, o.number)) < 0
}

// stayOf is one stay of a member: when it called Join and Join returned, when it called Leave and
// Leave returned, and what happened.
type stayOf struct {
	called, ready, leaving, left time.Time
	feed                         FeedID
	said                         []said
	unsure                       []bool // of each that it said: Publish reported an error
	heard                        []said // at is when it was told
	lost                         map[FeedID]uint64
	gone                         []gone
}

// gone is that a member was told, at a time, that another has left.
type gone struct {
	who int
	at  time.Time
}

// comers are members that come and go at random, half of the time at once, and publish four times a
// second.
type comers struct {
	members int
	links   string // "chain", "chain and two", "ring", "all"
	loss    float64
	early   time.Duration // how old, at most, what was published before a member called Join may be
	settle  time.Duration // within this time a member gets what was published, or learns that it is lost
}

func (c comers) String() string {
	return fmt.Sprintf("%d in %s with %g%% loss", c.members, c.links, c.loss)
}

// connect makes the connections.
func (c comers) connect(n *meshtest.Net, rng *rand.Rand) {
	switch c.links {
	case "all":
		n.ConnectAll()
		return
	case "ring":
		n.Connect(0, c.members-1)
		for i := 0; i < c.members; i += 3 {
			n.Connect(i, (i+c.members/2)%c.members)
		}
	case "chain and two":
		for range 2 {
			i := rng.IntN(c.members - 2)
			n.Connect(i, i+2+rng.IntN(c.members-i-2))
		}
	}
	n.Chain()
}

// faults is what a run of comers has shown, in words, with how much was delivered from before Join
// was called, and how old that was.
type faults struct {
	found     []string
	delivered int
	early     int
	earliest  time.Duration
}

const (
	// comersLatency is how long anything takes over one link.
	comersLatency = 5 * time.Millisecond
	// heartbeat is how soon GossipSub offers a message to the neighbours that it did not send it
	// to.
	heartbeat = time.Second
	// soonTold is settle if all are connected. settleTime is settle if the neighbours of a member
	// may wait for what they lack themselves before they give it up.
	soonTold   = 5 * time.Second
	settleTime = stay.ApartWait + 10*time.Second
	// underWay is how old a message may be that was under way at the moment of joining: some round
	// trips, and the repair of lost packets.
	underWay = time.Second
	// carriedOver is the same if the room falls into parts whenever a member is away: what
	// GossipSub had just carried through one part reaches the other when they come together.
	carriedOver = 6 * time.Second
)

func (c comers) run(t *testing.T, seed uint64, lasts time.Duration) (found faults) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0xc0))
		f := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: c.members, Latency: comersLatency, Seed: seed + 1}), all: newHellos()}
		for i := range c.members {
			f.at = append(f.at, f.all.station(t, f.net.Host(i), fmt.Sprintf("u%d", i)))
		}
		c.connect(f.net, rng)
		f.net.Loss(c.loss)
		linked := make([][]bool, c.members)
		for i := range linked {
			linked[i] = make([]bool, c.members)
			for j := range linked {
				linked[i][j] = i != j && f.net.Connected(i, j)
			}
		}
		end := time.Now().Add(lasts)
		stays := make([][]*stayOf, c.members)
		var wg sync.WaitGroup
		for i := range c.members {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
				for time.Now().Before(end) {
					s := c.stay(f, i, len(stays[i]), rng, end)
					if stays[i] = append(stays[i], s); s.left.IsZero() {
						return // its join has failed
					}
					if rng.IntN(2) == 0 {
						time.Sleep(time.Duration(rng.IntN(10000)) * time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
		f.net.Loss(0)
		found = c.judge(stays, linked)
	})
	return found
}

// stay joins, publishes for a random time, and leaves.
func (c comers) stay(f *flock, i, number int, rng *rand.Rand, end time.Time) *stayOf {
	s := &stayOf{called: time.Now(), lost: make(map[FeedID]uint64)}
	r, err := f.at[i].Join(context.Background(), "ops")
	if err != nil {
		f.t.Errorf("join %d of u%d: %v", number, i, err)
		return s
	}
	s.ready, s.feed = time.Now(), r.id
	var reader sync.WaitGroup
	reader.Go(func() {
		for ev, err := range r.Events(context.Background()) {
			if err != nil {
				return
			}
			switch ev := ev.(type) {
			case *Message:
				var m said
				if _, err := fmt.Sscanf(string(ev.Data), "%d %d %d", &m.who, &m.stay, &m.number); err != nil {
					f.t.Errorf("%q: %v", ev.Data, err)
				}
				m.at = time.Now()
				s.heard = append(s.heard, m)
			case *MemberLeft:
				g := gone{at: time.Now()}
				if _, err := fmt.Sscanf(ev.Member.User, "u%d", &g.who); err != nil {
					f.t.Errorf("%q: %v", ev.Member.User, err)
				}
				s.gone = append(s.gone, g)
			case *GapLost:
				s.lost[ev.Feed] += ev.Last - ev.First + 1
			}
		}
	})
	var sent []Pending[Published]
	until := time.Now().Add(time.Duration(1000+rng.IntN(40000)) * time.Millisecond)
	if until.After(end) {
		until = end.Add(c.settle) // the last stays see everything that comes
	}
	for time.Now().Before(until) {
		if time.Now().Before(end) {
			m := said{who: i, stay: number, number: len(s.said), at: time.Now()}
			p, err := r.PublishAsync(context.Background(), []byte(m.text()), AsText())
			if err != nil {
				f.t.Errorf("u%d: %v", i, err)
				break
			}
			s.said, sent = append(s.said, m), append(sent, p)
		}
		time.Sleep(250 * time.Millisecond)
	}
	s.leaving = time.Now()
	_ = r.Leave(context.Background())
	reader.Wait()
	for _, p := range sent {
		_, err := p.Result()
		s.unsure = append(s.unsure, err != nil)
	}
	s.left = time.Now()
	return s
}

// reach returns which members are connected to a member, through members that are all in the room
// before a time and for a while after.
func (c comers) reach(all [][]*stayOf, linked [][]bool, from int, at time.Time) []bool {
	there := make([]bool, len(all))
	for i, stays := range all {
		there[i] = slices.ContainsFunc(stays, func(s *stayOf) bool { return s.ready.Before(at) && s.leaving.After(at.Add(c.settle)) })
	}
	seen := make([]bool, len(all))
	seen[from] = true
	for way := []int{from}; len(way) > 0; way = way[1:] {
		for j := range all {
			if linked[way[0]][j] && there[j] && !seen[j] {
				seen[j] = true
				way = append(way, j)
			}
		}
	}
	return seen
}

// distances returns how many links away each member is from one of them, in the room or not.
func distances(linked [][]bool, from int) []int {
	far := make([]int, len(linked))
	for way := []int{from}; len(way) > 0; way = way[1:] {
		for j, ok := range linked[way[0]] {
			if ok && j != from && far[j] == 0 {
				far[j] = far[way[0]] + 1
				way = append(way, j)
			}
		}
	}
	return far
}

// knew reports whether a neighbour of a member had been told that a stay was over when the member
// called Join.
func knew(all [][]*stayOf, neighbours []bool, from *stayOf, who int, called time.Time) bool {
	for j, stays := range all {
		if neighbours[j] && slices.ContainsFunc(stays, func(s *stayOf) bool {
			return s.leaving.After(called) && slices.ContainsFunc(s.gone, func(g gone) bool {
				return g.who == who && !g.at.Before(from.leaving) && g.at.Before(called)
			})
		}) {
			return true
		}
	}
	return false
}

// judge compares what everybody was told with what everybody said.
func (c comers) judge(all [][]*stayOf, linked [][]bool) (f faults) {
	fault := func(format string, args ...any) { f.found = append(f.found, fmt.Sprintf(format, args...)) }
	known := make(map[[3]int]bool) // what anybody was told
	for _, stays := range all {
		for _, s := range stays {
			for _, m := range s.heard {
				known[[3]int{m.who, m.stay, m.number}] = true
			}
		}
	}
	for i, mine := range all {
		had := make(map[[3]int]bool)
		last := make(map[int]said)
		links := distances(linked, i)
		for k, s := range mine {
			here := make(map[[3]int]bool)
			for _, m := range s.heard {
				f.delivered++
				from := all[m.who][m.stay]
				published := from.said[m.number].at
				name := fmt.Sprintf("u%d in stay %d: %q after %v", i, k, m.text(), m.at.Sub(s.called))
				at := [3]int{m.who, m.stay, m.number}
				if had[at] {
					fault("%s: twice", name)
				}
				had[at], here[at] = true, true
				if was, ok := last[m.who]; ok && !was.before(m) {
					fault("%s: out of order after %q", name, was.text())
				}
				last[m.who] = m
				if before := s.called.Sub(published); before > 0 {
					f.early++
					f.earliest = max(f.earliest, before)
					if before > c.early {
						fault("%s: published %v before Join", name, before)
					}
					// The news that a stay is over may itself be under way: GossipSub passes it on
					// at once to some neighbours, and to the others at its next heartbeat.
					news := heartbeat + time.Duration(links[m.who])*comersLatency
					if !from.left.IsZero() && (from.left.Add(news).Before(s.called) || knew(all, linked[i], from, m.who, s.called)) {
						fault("%s: of a stay that had ended %v before Join", name, s.called.Sub(from.left))
					}
				}
			}
			for j, theirs := range all {
				for k2, from := range theirs {
					missing, which := 0, -1
					for n, m := range from.said {
						if j != i && (!from.unsure[n] || known[[3]int{j, k2, n}]) && m.at.After(s.ready) && m.at.Before(s.leaving.Add(-c.settle)) && !here[[3]int{j, k2, n}] && c.reach(all, linked, j, m.at)[i] {
							if missing++; which < 0 {
								which = n
							}
						}
					}
					if missing > 0 && s.lost[from.feed] < uint64(missing) {
						fault("u%d in stay %d (%v long): %d of %d of u%d's stay %d are missing from number %d on, published %v after Join, %d told",
							i, k, s.leaving.Sub(s.ready), missing, len(from.said), j, k2, which, from.said[which].at.Sub(s.called), s.lost[from.feed])
					}
				}
			}
		}
	}
	slices.Sort(f.found)
	return f
}

// With STARLING_LONG all shapes run. STARLING_LASTS is how long each run lasts.
func TestMembersThatComeAndGoAreToldNothingOldAndMissNothing(t *testing.T) {
	lasts := comersLast
	if s := os.Getenv("STARLING_LASTS"); s != "" {
		var err error
		lasts, err = time.ParseDuration(s)
		require.NoError(t, err, "STARLING_LASTS")
	}
	for _, c := range []comers{
		{6, "chain and two", 0, carriedOver, settleTime}, {6, "chain", 0, carriedOver, settleTime}, {6, "chain", 5, carriedOver, settleTime},
		{6, "ring", 0, carriedOver, settleTime}, {6, "ring", 5, carriedOver, settleTime}, {6, "all", 0, underWay, soonTold}, {6, "all", 5, underWay, soonTold},
		{16, "chain", 0, carriedOver, settleTime}, {16, "chain", 5, carriedOver, settleTime}, {16, "ring", 0, carriedOver, settleTime}, {16, "ring", 5, carriedOver, settleTime},
		{16, "all", 0, underWay, soonTold}, {16, "all", 5, underWay, soonTold},
	} {
		if c.members > comersMost {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			var all faults
			for _, seed := range meshtest.Seeds(t, 0) {
				f := c.run(t, seed, lasts)
				t.Logf("seed %d: %d delivered, %d from before Join was called, at most %v", seed, f.delivered, f.early, f.earliest)
				for _, l := range f.found[:min(len(f.found), 20)] {
					t.Errorf("seed %d: %s", seed, l)
				}
				if n := len(f.found); n > 20 {
					t.Errorf("seed %d: and %d more", seed, n-20)
				}
				all.delivered += f.delivered
			}
		})
	}
}

// In a long chain each of them lacks the same, and must not wait for it after the others: the last
// would learn of it too late, as one did in these schedules.
func TestMembersOfALongChainWaitAtTheSameTime(t *testing.T) {
	for _, seed := range []uint64{39, 61} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := comers{16, "chain", 0, carriedOver, settleTime}
			for _, f := range c.run(t, seed, time.Minute).found {
				require.NotContains(t, f, "missing")
			}
		})
	}
}
