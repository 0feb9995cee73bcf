package mesh

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

// runs returns how often a test of many schedules runs each: the number in STARLING_RUNS, or else
// few.
func runs(t *testing.T, few int) int { return meshtest.Number(t, "STARLING_RUNS", few) }

// diary records everything that one member is told, and when.
type diary struct {
	mu    sync.Mutex
	lines []timed
}

// diaryOf writes down every event of a room until it ends.
func diaryOf(t *testing.T, r *Room) *diary {
	d := new(diary)
	go func() {
		for ev, err := range r.Events(t.Context()) {
			if err != nil {
				return
			}
			d.mu.Lock()
			d.lines = append(d.lines, timed{line(ev), time.Now()})
			d.mu.Unlock()
		}
	}()
	return d
}

// take returns what was told since its last call.
func (d *diary) take() []timed {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

// parting is a room whose members are cut into groups and brought together again by few
// connections.
type parting struct {
	name    string
	groups  []int // how many members each has
	links   func(*meshtest.Net)
	bridges [][2]int // the connections by which the groups come together again
}

// completeWithin is how soon after the first connection everybody lists everybody.
const completeWithin = 3 * time.Second

func TestARoomThatWasPartedIsWholeAgainWithinThreeSeconds(t *testing.T) {
	all := (*meshtest.Net).ConnectAll
	for _, p := range []parting{
		{"one of 4", []int{3, 1}, all, [][2]int{{0, 3}}},
		{"4 and 4", []int{4, 4}, all, [][2]int{{0, 4}}},
		{"chain of 8", []int{4, 4}, (*meshtest.Net).Chain, [][2]int{{3, 4}}},
		{"one of 24 with 4 links", []int{23, 1}, func(n *meshtest.Net) { n.Cycles(2) }, [][2]int{{7, 23}}},
		{"one of 24 in a ring with 4 links", []int{23, 1}, func(n *meshtest.Net) { n.Ring(2) }, [][2]int{{7, 23}}},
		{"three groups of 4", []int{4, 4, 4}, all, [][2]int{{3, 4}, {7, 8}}},
	} {
		for _, mode := range []string{"quiet", "busy", "at once"} {
			if mode == "busy" && p.groups[0] > partedMost {
				continue
			}
			t.Run(p.name+" "+mode, func(t *testing.T) {
				var longest time.Duration
				n := runs(t, 1)
				for run := range n {
					longest = max(longest, p.run(t, uint64(run+1), mode))
				}
				t.Logf("%d runs: complete after %v at the longest", n, longest)
			})
		}
	}
}

// run parts the room for a minute, and returns how long after the connection the last member was
// listed.
func (p parting) run(t *testing.T, seed uint64, mode string) (complete time.Duration) {
	members := 0
	for _, g := range p.groups {
		members += g
	}
	synctest.Test(t, func(t *testing.T) {
		f := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: members, Latency: 5 * time.Millisecond, Seed: seed}), all: newHellos()}
		for i := range members {
			f.at = append(f.at, f.all.station(t, f.net.Host(i), fmt.Sprintf("u%d", i)))
		}
		p.links(f.net)
		rooms := f.joinAll("ops")
		diaries := make([]*diary, members)
		for i, r := range rooms {
			diaries[i] = diaryOf(t, r)
		}
		time.Sleep(5 * time.Second)
		for _, d := range diaries {
			d.take()
		}

		said := make([][]string, members)
		say := func(i int) {
			text := strconv.Itoa(len(said[i]))
			said[i] = append(said[i], fmt.Sprintf("u%d:%s", i, text))
			_, err := rooms[i].PublishAsync(t.Context(), []byte(text), AsText())
			require.NoError(t, err)
		}
		everybody := func() {
			for i := range rooms {
				say(i)
			}
		}
		// pass lets time go by; meanwhile a busy room talks.
		pass := func(d time.Duration) {
			if mode != "busy" {
				time.Sleep(d)
				return
			}
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
				everybody()
			}
		}
		group := make([]int, members)
		var sides [][]int
		for g, next := 0, 0; g < len(p.groups); g++ {
			var side []int
			for range p.groups[g] {
				group[next] = g
				side = append(side, next)
				next++
			}
			for _, other := range sides {
				f.net.Split(side, other)
			}
			sides = append(sides, side)
		}
		pass(time.Minute)
		for _, b := range p.bridges { // members that were neighbours are missed
			require.NotContains(t, users(rooms[b[0]]), fmt.Sprintf("u%d", b[1]), "seed %d", seed)
		}
		f.net.Heal()
		for _, b := range p.bridges {
			f.net.Connect(b[0], b[1])
		}
		start := time.Now()
		if mode == "at once" {
			everybody()
		}
		pass(20 * time.Second)
		pass(0)
		time.Sleep(5 * time.Second)

		for i, d := range diaries {
			got := d.take()
			from := make(map[string][]string)
			for _, l := range got {
				if user, _, ok := cutSender(l.line); ok {
					from[user] = append(from[user], l.line)
				}
			}
			for j := range members {
				user := fmt.Sprintf("u%d", j)
				var news []string
				for _, l := range got {
					if l.line == "+"+user || l.line == "-"+user+" dropped" {
						news = append(news, l.line)
						if l.line[0] == '+' {
							complete = max(complete, l.at.Sub(start))
						}
					}
				}
				if group[i] == group[j] {
					require.Empty(t, news, "seed %d: u%d of u%d, who were never parted", seed, i, j)
				} else if len(news) > 0 { // a member that is nobody's neighbour here is missed only after minutes
					require.Equal(t, []string{"-" + user + " dropped", "+" + user}, news, "seed %d: u%d of u%d", seed, i, j)
				}
				if j != i {
					require.Equal(t, said[j], from[user], "seed %d: what u%d has of u%d", seed, i, j)
				}
			}
			for _, l := range got {
				require.NotContains(t, l.line, "lost", "seed %d: u%d", seed, i)
			}
			require.Len(t, rooms[i].Members(), members, "seed %d", seed)
		}
		require.LessOrEqual(t, complete, completeWithin, "seed %d: until everybody lists everybody", seed)
		var wg sync.WaitGroup
		for _, r := range rooms {
			wg.Go(func() { _ = r.Leave(t.Context()) })
		}
		wg.Wait()
	})
	return complete
}

// cutSender splits the line of a broadcast.
func cutSender(l string) (user, text string, ok bool) {
	i := slices.Index([]byte(l), ':')
	if i < 0 {
		return "", "", false
	}
	return l[:i], l[i+1:], true
}
