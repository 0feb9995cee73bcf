package node

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/presence"
)

// walk is a connectivity with a clock of its own.
type walk struct {
	*connectivity
	now  time.Time
	told []transition
}

const testGrace = 10 * time.Second

// begin returns the state of a node that has started.
func begin(usable bool) *walk {
	w := &walk{connectivity: newConnectivity(testGrace), now: time.Unix(1e9, 0)}
	w.do(w.start(w.now, usable))
	return w
}

func (w *walk) do(all []transition) { w.told = append(w.told, all...) }

// wait lets time pass, and looks whenever something is due.
func (w *walk) wait(d time.Duration) {
	for end := w.now.Add(d); ; {
		due := w.due()
		if due.IsZero() || due.After(end) {
			w.now = end
			w.do(w.look(w.now))
			return
		}
		if due.After(w.now) {
			w.now = due
		}
		w.do(w.look(w.now))
	}
}

func (w *walk) meet(p string)   { w.do(w.met(w.now, peer.ID(p))) }
func (w *walk) lose(p string)   { w.do(w.gone(w.now, peer.ID(p), presence.Lost)) }
func (w *walk) part(p string)   { w.do(w.gone(w.now, peer.ID(p), presence.SaidGoodbye)) }
func (w *walk) trim(p string)   { w.do(w.gone(w.now, peer.ID(p), presence.Trimmed)) }
func (w *walk) refuse(p string) { w.do(w.refused(w.now, peer.ID(p))) }
func (w *walk) see(usable bool) { w.do(w.interfaces(w.now, usable)) }
func (w *walk) dial()           { w.do(w.dialling(w.now)) }

// path returns the states that were told, in order.
func (w *walk) path() string {
	var all []string
	for _, t := range w.told {
		all = append(all, string(t.to))
	}
	return strings.Join(all, " ")
}

// cutOff returns the state of a node that has just lost its only peer.
func cutOff() *walk {
	w := begin(true)
	w.meet("bob")
	w.lose("bob")
	w.wait(lossShows)
	return w
}

// ways lead to each row of the table in docs/EVENTS.md.
var ways = map[string]func() *walk{
	"connecting":                 func() *walk { return begin(false) },
	"failed":                     func() *walk { w := begin(false); w.wait(failAfter); return w },
	"connected":                  func() *walk { return begin(true) },
	"reconnected":                func() *walk { w := begin(true); w.see(false); w.see(true); return w },
	"disconnected, no interface": func() *walk { w := begin(true); w.see(false); return w },
	"disconnected, nodes lost":   cutOff,
	"reconnecting":               func() *walk { w := cutOff(); w.dial(); return w },
	"lost, no interface": func() *walk {
		w := begin(true)
		w.see(false)
		w.wait(time.Minute)
		return w
	},
	"lost, nodes lost": func() *walk { w := cutOff(); w.wait(time.Minute); return w },
}

// inputs are the columns of the table.
var inputs = map[string]func(*walk){
	"an interface":  func(w *walk) { w.see(true) },
	"no interface":  func(w *walk) { w.see(false) },
	"a node":        func(w *walk) { w.meet("carol") },
	"last one lost": func(w *walk) { w.meet("carol"); w.lose("carol"); w.wait(lossShows) },
	"last goodbye":  func(w *walk) { w.meet("carol"); w.part("carol"); w.wait(lossShows) },
	"a dial":        func(w *walk) { w.dial() },
	"time":          func(w *walk) { w.wait(time.Hour) },
	"close":         func(w *walk) { w.do(w.close(w.now)) },
}

func TestTheGraphOfConnectionsIsAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/EVENTS.md")
	require.NoError(t, err)
	table := regexp.MustCompile(`(?m)^\| State \| an interface .*\n\|[-|]+\n((?:\|.*\n)+)`).FindStringSubmatch(string(doc))
	require.NotNil(t, table)
	cells := func(row string) (out []string) {
		for _, c := range strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|") {
			out = append(out, strings.ReplaceAll(strings.TrimSpace(c), "`", ""))
		}
		return out
	}
	columns := cells(strings.SplitN(table[0], "\n", 2)[0])
	rows := strings.Split(strings.TrimSpace(table[1]), "\n")
	require.Len(t, rows, len(ways))
	require.Len(t, columns, len(inputs)+1)
	for _, row := range rows {
		cell := cells(row)
		require.Len(t, cell, len(columns), row)
		state, _, _ := strings.Cut(cell[0], ",")
		for i, column := range columns[1:] {
			way, input := ways[cell[0]], inputs[column]
			require.NotNil(t, way, "no way leads to %q", cell[0])
			require.NotNil(t, input, "no input %q", column)
			want := cell[i+1]
			if want == "–" {
				require.Contains(t, column, "last", "only somebody who is there can go")
				require.NotEmpty(t, way().lost)
				continue
			}
			w := way()
			require.Equal(t, state, string(w.state), "the way to %q", cell[0])
			input(w)
			require.Equal(t, want, string(w.state), "%s: %s", cell[0], column)
		}
	}
}

func TestTheTimesOfConnectionsAreAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/EVENTS.md")
	require.NoError(t, err)
	text := strings.Join(strings.Fields(string(doc)), " ")
	for _, says := range []string{
		fmt.Sprintf("`connecting` lasts %v s.", failAfter.Seconds()),
		fmt.Sprintf("back within %v s.", lossShows.Seconds()),
		fmt.Sprintf("silence within %v s,", noticed.Seconds()),
		fmt.Sprintf("lost in the last %v minutes", giveUp.Minutes()),
	} {
		require.True(t, strings.Contains(text, says), "docs/EVENTS.md does not say %q", says)
	}
}

func TestALossGoesThroughItsStatesInOrder(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	w.wait(time.Minute)
	w.lose("bob")
	w.wait(lossShows + 250*time.Millisecond)
	w.dial()
	w.wait(time.Hour)
	w.dial()
	w.meet("bob")
	w.wait(time.Hour)
	require.Equal(t, "connecting connected disconnected reconnecting lost reconnected", w.path())
	elapsed := []time.Duration{
		0, 0, time.Minute + lossShows, 250 * time.Millisecond, noticed + testGrace - lossShows - 250*time.Millisecond,
		time.Hour + lossShows + 250*time.Millisecond - noticed - testGrace,
	}
	for i, tr := range w.told {
		require.Equal(t, elapsed[i], tr.elapsed, "%+v", tr)
		if i > 0 {
			require.Equal(t, w.told[i-1].to, tr.from)
		}
	}
}

func TestWhatIsNoLossLeavesANodeConnected(t *testing.T) {
	for name, do := range map[string]func(w *walk){
		"alone":                       func(*walk) {},
		"a goodbye":                   func(w *walk) { w.meet("bob"); w.part("bob") },
		"a trimmed connection":        func(w *walk) { w.meet("bob"); w.trim("bob") },
		"a peer that is refused":      func(w *walk) { w.meet("bob"); w.refuse("bob"); w.lose("bob") },
		"a peer of another app":       func(w *walk) { w.refuse("eve"); w.lose("eve") },
		"one of two":                  func(w *walk) { w.meet("bob"); w.meet("carol"); w.lose("bob") },
		"a connection after another":  func(w *walk) { w.meet("bob"); w.lose("bob"); w.wait(lossShows - 1); w.meet("bob") },
		"somebody else in time":       func(w *walk) { w.meet("bob"); w.lose("bob"); w.wait(lossShows - 1); w.meet("carol") },
		"a goodbye long after a loss": func(w *walk) { w.meet("bob"); w.meet("carol"); w.lose("bob"); w.wait(giveUp); w.part("carol") },
		"a goodbye, and the lost one is back": func(w *walk) {
			w.meet("bob")
			w.meet("carol")
			w.lose("bob")
			w.meet("bob")
			w.part("carol")
			w.part("bob")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := begin(true)
			do(w)
			w.dial()
			w.wait(time.Hour)
			require.Equal(t, "connecting connected", w.path())
		})
	}
}

func TestALostNodeCountsWhileItIsDialledAlsoAfterAnothersGoodbye(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	w.meet("carol")
	w.lose("bob")
	w.wait(giveUp - time.Second)
	w.part("carol")
	w.wait(lossShows)
	require.Equal(t, Disconnected, w.state)
	w.refuse("bob") // it is there, and is no node of this app any more
	require.Equal(t, Reconnected, w.state)
}

func TestALostNodeThatIsRefusedIsMissedNoMoreButOthersAre(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	w.meet("carol")
	w.lose("bob")
	w.lose("carol")
	w.wait(lossShows / 2)
	w.refuse("bob")
	w.wait(lossShows / 2)
	require.Equal(t, Disconnected, w.state)
	w.meet("carol")
	require.Equal(t, Reconnected, w.state)
}

func TestAnInterfaceThatComesBackIsNotEnoughWhileNodesAreLost(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	w.see(false)
	w.dial() // in vain
	w.wait(time.Second / 2)
	w.lose("bob")
	w.wait(time.Second / 2)
	require.Equal(t, Disconnected, w.state)
	w.see(true)
	require.Equal(t, Disconnected, w.state)
	w.dial()
	require.Equal(t, Reconnecting, w.state)
	w.see(false)
	require.Equal(t, Disconnected, w.state)
	w.see(true)
	w.wait(noticed + testGrace - time.Second - 1)
	require.Equal(t, Disconnected, w.state, "the time runs since the first loss")
	w.wait(1)
	require.Equal(t, Lost, w.state)
	w.meet("bob")
	require.Equal(t, "connecting connected disconnected reconnecting disconnected lost reconnected", w.path())
}

func TestAnInterfaceThatIsBackBeforeTheConnectionsEndReconnects(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	w.see(false)
	w.see(true)
	require.Equal(t, "connecting connected disconnected reconnected", w.path())
}

func TestTheLinkIsKnownToBeDownBeforeTheStateShowsIt(t *testing.T) {
	w := begin(true)
	w.meet("bob")
	require.False(t, w.linkDown())
	w.lose("bob")
	require.Equal(t, Connected, w.state)
	require.True(t, w.linkDown())
	w.meet("bob")
	require.False(t, w.linkDown())
	w.part("bob")
	require.False(t, w.linkDown())
	w.see(false)
	require.True(t, w.linkDown())
}

func TestNothingFollowsAfterTheClose(t *testing.T) {
	w := begin(true)
	w.do(w.close(w.now))
	w.meet("bob")
	w.lose("bob")
	w.see(false)
	w.dial()
	w.wait(time.Hour)
	require.Equal(t, "connecting connected disconnected", w.path())
	require.Equal(t, whyClosed, w.told[2].why)
	require.Zero(t, w.due())
}

func TestNothingIsToldBeforeTheStart(t *testing.T) {
	c := newConnectivity(testGrace)
	now := time.Unix(1e9, 0)
	require.Empty(t, c.met(now, "bob"))
	require.Empty(t, c.gone(now, "bob", presence.Lost))
	require.Zero(t, c.due())
	require.Len(t, c.start(now, true), 2)
	require.Len(t, c.look(now.Add(lossShows)), 1, "bob was lost meanwhile")
}

func TestLostNodesAreBounded(t *testing.T) {
	w := begin(true)
	w.meet("last")
	for i := range maxTargets + 100 {
		p := fmt.Sprint("p", i)
		w.meet(p)
		w.lose(p)
		w.now = w.now.Add(time.Millisecond)
		require.LessOrEqual(t, len(w.lost), maxTargets)
	}
	require.NotContains(t, w.lost, peer.ID("p0"))
	require.Contains(t, w.lost, peer.ID(fmt.Sprint("p", maxTargets+99)))
	w.part("last")
	w.wait(lossShows)
	require.Equal(t, Disconnected, w.state)
}
