// Command report reads the output of go test -bench, one file for each round. It prints the median
// of every figure, and the ratios between figures of the same round.
//
//	go run ./report round1.txt round2.txt round3.txt
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// round is the figures of one run: by benchmark, then by unit.
type round map[string]map[string]float64

// results are the rounds, and the benchmarks and units in the order in which they first appeared.
type results struct {
	rounds []round
	names  []string
	units  map[string][]string
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(files []string, w io.Writer) error {
	res := results{units: make(map[string][]string)}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = res.read(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(res.names) == 0 {
		return fmt.Errorf("no benchmarks in %d files", len(files))
	}
	return res.print(w)
}

// read adds a round.
func (res *results) read(r io.Reader) error {
	this := make(round)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, figures, ok, err := parse(lines.Text())
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if !slices.Contains(res.names, name) {
			res.names = append(res.names, name)
		}
		this[name] = make(map[string]float64)
		for _, f := range figures {
			this[name][f.unit] = f.value
			if !slices.Contains(res.units[name], f.unit) {
				res.units[name] = append(res.units[name], f.unit)
			}
		}
	}
	res.rounds = append(res.rounds, this)
	return lines.Err()
}

type figure struct {
	value float64
	unit  string
}

// parse reads a line of go test -bench: name-procs, iterations, and pairs of value and unit. For
// other lines ok is false.
func parse(line string) (name string, figures []figure, ok bool, err error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "Benchmark") {
		return "", nil, false, nil
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return "", nil, false, nil
	}
	name = strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	for pairs := fields[2:]; len(pairs) > 0; pairs = pairs[2:] {
		if len(pairs) == 1 {
			return "", nil, false, fmt.Errorf("a value without a unit: %s", line)
		}
		v, err := strconv.ParseFloat(pairs[0], 64)
		if err != nil {
			return "", nil, false, fmt.Errorf("%s: %w", line, err)
		}
		figures = append(figures, figure{v, pairs[1]})
	}
	return name, figures, true, nil
}

// spread is the median of some values, and their range.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	slices.Sort(values)
	n := len(values)
	return spread{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]}
}

// of returns the spread of a figure over the rounds; ok is false if no round has it.
func (res *results) of(name, unit string) (spread, bool) {
	var values []float64
	for _, r := range res.rounds {
		if v, ok := r[name][unit]; ok {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return spread{}, false
	}
	return spreadOf(values), true
}

// ratio returns the spread of a figure of one benchmark over the same figure of another, round by
// round.
func (res *results) ratio(name, base, unit string) (spread, bool) {
	var values []float64
	for _, r := range res.rounds {
		v, ok := r[name][unit]
		b, also := r[base][unit]
		if ok && also && b != 0 {
			values = append(values, v/b)
		}
	}
	if len(values) == 0 {
		return spread{}, false
	}
	return spreadOf(values), true
}

func (res *results) print(w io.Writer) error {
	fmt.Fprintf(w, "medians of %d rounds\n\n", len(res.rounds))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range res.names {
		fmt.Fprintf(table, "%s", name)
		for _, unit := range res.units[name] {
			if s, ok := res.of(name, unit); ok {
				fmt.Fprintf(table, "\t%s %s", number(s.median), unit)
			}
		}
		fmt.Fprintln(table)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nratios (median of the ratios of each round, lowest to highest)\n\n")
	for _, c := range comparisons {
		s, ok := res.ratio(c.name, c.base, c.unit)
		if !ok {
			continue
		}
		fmt.Fprintf(w, "%s: %s × %s (%s to %s)%s\n", c.what, number(s.median), c.than, number(s.low), number(s.high), c.judge(s.median))
	}
	return nil
}

// number prints a figure with three digits, or all before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
