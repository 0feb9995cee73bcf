package vectors

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/mesh"
)

// sections returns the sections of the page by number, without blocks of code.
func sections(t *testing.T) map[int]string {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "PROTOCOL.md"))
	require.NoError(t, err)
	out := make(map[int]string)
	plain := regexp.MustCompile("(?s)\n```.*?\n```").ReplaceAllString(string(text), "")
	for i, part := range strings.Split(plain, "\n## ") {
		if i == 0 {
			continue
		}
		number, _, _ := strings.Cut(part, ".")
		n, err := strconv.Atoi(number)
		require.NoError(t, err, part[:20])
		out[n] = part
	}
	return out
}

// labels returns the first cells of the rows of limits and times.
func labels(t *testing.T) (out []string) {
	row := regexp.MustCompile(`(?m)^\| (.+?) \| .+ \|$`)
	for _, n := range []int{11, 12} {
		for _, m := range row.FindAllStringSubmatch(sections(t)[n], -1)[1:] {
			out = append(out, m[1])
		}
	}
	require.Greater(t, len(out), 100)
	return out
}

// sources calls f with each Go file below a directory of the module, of tests or of the rest.
func sources(t *testing.T, dir string, tests bool, f func(path string)) {
	require.NoError(t, filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && strings.HasSuffix(path, "_test.go") == tests {
			f(path)
		}
		return err
	}))
}

func TestEveryRowOfLimitsAndTimesIsHeldByATest(t *testing.T) {
	texts := make(map[string]bool)
	for _, dir := range []string{"identity", "internal/wire", "internal/vectors", "mesh", "presence", "node"} {
		sources(t, dir, true, func(path string) {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					text, err := strconv.Unquote(l.Value)
					require.NoError(t, err)
					texts[text] = true
				}
				return true
			})
		})
	}
	digits := regexp.MustCompile(`\d+`)
	for _, label := range labels(t) {
		if !texts[label] && !texts[digits.ReplaceAllString(label, "%d")] {
			t.Errorf("no test says the row %q: see Says", label)
		}
	}
}

// names are references to rows in the text.
var names = regexp.MustCompile(`(?:^|\W)\[([^\]]+)\](?:[^(]|$)`)

func TestTheTextNamesRowsThatExist(t *testing.T) {
	rows := "; " + strings.Join(labels(t), "; ") + "; "
	for n, text := range sections(t) {
		if n < 5 {
			continue // the first have other brackets
		}
		for _, m := range names.FindAllStringSubmatch(strings.Join(strings.Fields(text), " "), -1) {
			require.True(t, strings.Contains(rows, "; "+m[1]+"; "), "section %d: no row [%s]", n, m[1])
		}
	}
}

// amounts are times, and sizes of more than a key or a hash.
var amounts = regexp.MustCompile(`\b(\d[\d.,]* (ms|s|min|h|KiB|MiB|seconds|minutes)\b|\d+,\d{3}\b|\d{3,} bytes|\d{4,}\b)`)

func TestTheTextRepeatsNoNumberOfARow(t *testing.T) {
	may := []string{
		"253402300799999", "9999", "1970", // the years of two times
		"1 ms",  // the least difference between two times
		"1 min", // beyond the asker's retention: more than clocks and the way can change
	}
	for n, text := range sections(t) {
		if n < 5 || n > 18 || n >= 11 && n <= 14 {
			continue
		}
		if n == 9 { // the settings of GossipSub are a table of their own, held by package mesh
			before, rest, _ := strings.Cut(text, "\n### 9.1")
			_, after, _ := strings.Cut(rest, "\n### 9.2")
			text = before + after
		}
		for line := range strings.Lines(text) {
			for _, found := range amounts.FindAllString(line, -1) {
				if !slices.Contains(may, found) {
					t.Errorf("section %d: %q: name the row instead:\n%s", n, found, line)
				}
			}
		}
	}
}

// clock is what constants need of package time, for a check that imports nothing else.
type clock struct{}

func (clock) Import(path string) (*types.Package, error) {
	if path != "time" {
		return nil, fmt.Errorf("%s is not imported", path)
	}
	pkg := types.NewPackage("time", "time")
	name := types.NewTypeName(token.NoPos, pkg, "Duration", nil)
	unit := types.NewNamed(name, types.Typ[types.Int64], nil)
	pkg.Scope().Insert(name)
	for text, d := range map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour} {
		pkg.Scope().Insert(types.NewConst(token.NoPos, pkg, text, unit, constant.MakeInt64(int64(d))))
	}
	pkg.MarkComplete()
	return pkg, nil
}

// constants returns the constants of the packages below a directory, by name with a small first
// letter. They need not be exported, and may move between these packages.
func constants(t *testing.T, dir string) map[string]int64 {
	files, set := make(map[string][]*ast.File), token.NewFileSet()
	sources(t, dir, false, func(path string) {
		file, err := parser.ParseFile(set, path, nil, 0)
		require.NoError(t, err)
		files[filepath.Dir(path)] = append(files[filepath.Dir(path)], file)
	})
	out := make(map[string]int64)
	for at, list := range files {
		all := types.Config{Importer: clock{}, Error: func(error) {}} // the rest of the code has errors, without its imports
		pkg, _ := all.Check(at, set, list, nil)
		for _, name := range pkg.Scope().Names() {
			if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok {
				if v, ok := constant.Int64Val(constant.ToInt(c.Val())); ok {
					out[strings.ToLower(name[:1])+name[1:]] = v
				}
			}
		}
	}
	return out
}

// Most rows are held by the package whose constants they show. These are of rules inside mesh: the
// test finds their constants by name, wherever the rules live.
func TestTheProtocolHasTheLimitsOfTheRulesOfRooms(t *testing.T) {
	all := constants(t, "mesh")
	n := func(name string) int64 {
		v, ok := all[name]
		require.True(t, ok, "no constant %s", name)
		return v
	}
	ms := func(name string) string { return fmt.Sprintf("%d ms", n(name)/int64(time.Millisecond)) }
	s := func(name string) string { return fmt.Sprintf("%g s", time.Duration(n(name)).Seconds()) }
	minutes := func(name string) string { return fmt.Sprintf("%g min", time.Duration(n(name)).Minutes()) }
	half := func(name string, unit time.Duration) string { // and up to half as long again
		return fmt.Sprintf("%d to %d", n(name)/int64(unit), n(name)*3/2/int64(unit))
	}
	says := func(label, format string, args ...any) { Says(t, label, fmt.Sprintf(format, args...)) }

	says("part of a roster in one frame", "32,768")
	require.EqualValues(t, 32768, n("rosterPart"))
	says("direct: the window; this implementation's", "%d sequences; %d sequences, %d messages, %d MiB",
		n("windowRefusals"), n("windowSpan"), n("windowMessages"), n("windowBytes")>>20)
	says("direct: senders that are remembered", "%d", n("maxSeen"))
	says("neighbours asked before a gap is given up; before a word is forgotten", "%d; %d", n("allSources"), n("enoughSources"))
	says("asked again before a gap is given up", "%d times", n("maxAgain"))
	says("roster entries in a frame of an answer", "%d", n("maxWants"))
	says("rosters to one neighbour", "%d MiB/s after %d MiB", n("rosterRate")>>20, n("rosterBurst")>>20)
	says("members that may be parted", "%d", n("maxParted"))
	says("retained in a room", "131,072 messages, %d MiB", mesh.DefaultRetention.Bytes>>20)
	require.EqualValues(t, 131072, mesh.DefaultRetention.Messages)
	says("messages that a Past asks for", "131,072")
	require.EqualValues(t, 131072, n("maxAsked"))
	says("words of neighbours of one clock", "%d", n("maxClocks"))
	says("neighbours whose positions in a feed are kept", "%d", n("maxSources"))
	says("neighbours compared with after a change; sent the position of a quiet feed", "%d; %d", n("newsPeers"), n("announcePeers"))
	says("members of a small room", "%d", n("closeRoom"))
	says("members of a larger room that acknowledge at once", "%d", n("fastAcks"))
	says("envelopes under way to a neighbour", "%d to %d", n("minWindow"), n("maxWindow"))
	says("members among whom turns are taken", "%d", n("maxTurns"))
	says("receipts of a neighbour that wait for their envelope", "%d", n("maxEarly"))

	says("rates: a burst; of one feed; as others judge it", "%s of the rate; %s; %s", s("burst"), s("sealed"), s("tolerance"))
	says("rates: allowed beyond the rate", "1/%d of it", n("leeway"))
	says("rate of bytes, if there is one", "262,144/s at least")
	require.EqualValues(t, 262144, n("minBytes"))
	says("items of one member that are no messages", "%d at once, then %d/s and twice the rate of messages; each %d KiB of one count as one more",
		n("ownBurst"), n("ownItems"), n("ownBytes")>>10)
	says("direct: messages are counted by", "%s, for %s; %s of the rate may come together",
		ms("binTime"), fmt.Sprintf("%g s", time.Duration(n("binTime")*n("binCount")).Seconds()), s("peerTolerance"))
	says("direct: messages taken beyond what is counted", "%d messages, %d MiB", n("oldMessages"), n("oldBytes")>>20)
	says("direct: messages over the rate before the stream is reset", "%d, then 1/s", n("refusals"))
	says("devices whose rates are judged in a room", "%d", n("maxAuthors"))
	says("a device that ignored the rate is barred", "%s", minutes("barredFor"))
	says("rates: a device that has left is remembered", "%s", minutes("authorLife"))
	says("rates: an envelope that was under way for less time than those before", "%s; %s within %s of the first",
		ms("jitter"), s("maxShorter"), s("firstWhile"))
	says("direct: the clock of a sender ahead of its first message", "%s", s("peerAhead"))
	says("a room stream that broke is opened again", "after %s", ms("greetAgainWait"))
	says("rosters are compared after a change; without one; when that of heads differs", "after %d to %d ms; every %s s; after %s",
		n("newsDelay")/int64(time.Millisecond), 2*n("newsDelay")/int64(time.Millisecond), half("digestEvery", time.Second), s("compareEvery"))
	says("joining: neighbours are waited for; if none answers", "%s; %s", s("joinWait"), s("joinEnd"))
	says("a goodbye waits to be acknowledged", "%s", ms("goodbyeWait"))
	says("a LEFT waits for the feed that it ends; while that is being fetched", "%s; %s", s("lostWait"), s("lackWait"))
	says("a LEFT in a neighbour's first answer ends a stay at once", "up to %s after joining began", s("firstAnswer"))
	says("direct: a stream without messages is closed; without answers is reset", "after %s; after %s", minutes("idleStream"), s("silentAfter"))
	says("a turn to accuse, for each member; an answer to it, for each member; at most", "%s; %d ms; %s",
		ms("memberSpread"), n("memberSpread")/2/int64(time.Millisecond), s("lostFor"))
	says("what a neighbour says that it has is asked for", "after %s ms", half("claimWait", time.Millisecond))
	says("another neighbour is asked as well", "after %s", ms("hedgeWait"))
	says("what all lack is asked for again", "every %s", ms("retryWait"))
	says("what was fetched is announced", "after %s", ms("fetchedWait"))
	says("an acknowledgement waits; it does not after a silence", "%s; of %s", ms("ackDelay"), ms("ackIdle"))
	says("an acknowledgement in a larger room waits, for each member; at most", "%s; %s", ms("ackSpread"), s("maxAckDelay"))
	says("a neighbour that acknowledges nothing holds up the others; if all are silent", "%s; %s", ms("windowStall"), s("windowStallAll"))
	says("a question about the past: allowed for its way; at most", "%s; %s", ms("transitSlack"), s("maxTransitSlack"))
	says("age of an envelope that gossip has brought, at most", "%s", s("maxGossipAge"))
	says("neighbours are asked where a feed begins", "every %s", ms("seekEvery"))
	says("receipts for others: gathered", "%s", ms("relayDelay"))
	says("receipts: asked for again at the soonest", "%s, %d ms", ms("soonestAsk"), 2*n("soonestAsk")/int64(time.Millisecond))
}
