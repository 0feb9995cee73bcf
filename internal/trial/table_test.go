package trial

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// seed is what all schedules and networks depend on.
var seed = readSeed()

func readSeed() uint64 {
	text, ok := os.LookupEnv("STARLING_SEED")
	if !ok {
		return 1
	}
	seed, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		panic(fmt.Errorf("STARLING_SEED: %w", err))
	}
	return seed
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		table.print(os.Stdout)
		os.Exit(code)
	}))
}

// results are tallies by scenario and column. Several goroutines add them.
type results struct {
	mu  sync.Mutex
	all map[string]map[string]tally
}

var table = results{all: make(map[string]map[string]tally)}

func (r *results) put(scenario, column string, t tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[scenario] == nil {
		r.all[scenario] = make(map[string]tally)
	}
	r.all[scenario][column] = t
}

// print writes the table in Markdown.
func (r *results) print(w io.Writer) {
	if len(r.all) == 0 {
		return
	}
	fmt.Fprintf(w, "\nSeed %d.\n\n", seed)
	fmt.Fprintln(w, "| Scenario | nodes | bare: of all | bare: across the fault | bare with redial: of all | across | ours | recovered after the link's return | after packets pass |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	for _, sc := range scenarios {
		row, ok := r.all[sc.name]
		if !ok {
			continue
		}
		bare, redial, ours := row["bare"], row["redial"], row["ours"]
		fmt.Fprintf(w, "| %s | %d | %v | %v | %v | %v | %v | %s | %s |\n", sc.name, sc.members,
			bare.share, bare.across, redial.share, redial.across, ours.share, ours.after(ours.recovered), ours.after(ours.healed))
	}
}

// after returns a recovery time as the table shows it.
func (t tally) after(d time.Duration) string {
	switch {
	case t.across.due == 0:
		return "–"
	case t.across.got < t.across.due:
		return "not all"
	}
	return d.Round(10 * time.Millisecond).String()
}
