// Package demo is the command starling demo: three nodes in one process, with every promise
// checked.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
)

const (
	stepTime = 10 * time.Second // for each step
	allTime  = 60 * time.Second // for all of them
)

// Command returns the command starling demo.
func Command(a *cli.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show and check everything, inside this process",
		Long: `Demo runs three nodes in this process, on 127.0.0.1 only, and touches nothing outside of it: no file,
no other address, no other node. It goes through log-in, rooms, messages of every kind, a forged
message, a duplicate log-in, leaving, online status and log-out. At every step it checks that
everything arrived that should, and nothing else. Each step is shown with its latency.

It ends with 0 if every step did what it should, and with 1 otherwise, after at most a minute.`,
		Example: "  starling demo\n  starling demo --json",
		Args:    cli.NoArguments,
		RunE: a.Action(func(cmd *cobra.Command, _ []string) error {
			log, err := a.Log()
			if err != nil {
				return err
			}
			var out output = textOutput{a.Stdout}
			if asJSON {
				out = jsonOutput{a.Stdout}
			}
			c := &cast{log: log}
			return errors.Join(run(cmd.Context(), c.steps(), out), c.close())
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, `write one object per step: {"step":…,"ok":true,"ms":…,"detail":…}`)
	return cmd
}

// step is one thing that the demo shows. run does it, verifies it, and returns how long the thing
// itself took, without its preparation and the checks after it.
type step struct {
	name string
	run  func(ctx context.Context) (took time.Duration, detail string, err error)
}

// stepResult is the outcome of a step, as it is shown.
type stepResult struct {
	Step   string     `json:"step"`
	OK     bool       `json:"ok"`
	Ms     cli.Millis `json:"ms"`
	Detail string     `json:"detail,omitempty"`
	Error  string     `json:"error,omitempty"`
}

// run runs every step, also those after one that failed, and shows each.
func run(ctx context.Context, steps []step, out output) error {
	ctx, cancel := context.WithTimeoutCause(ctx, allTime, fmt.Errorf("the demo took more than %v", allTime))
	defer cancel()
	begin := time.Now()
	failed := 0
	for _, s := range steps {
		r := runStep(ctx, s)
		if !r.OK {
			failed++
		}
		if err := out.step(r); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d steps did not do what they should", failed, len(steps))
	}
	return out.end(summary{len(steps), time.Since(begin)})
}

func runStep(ctx context.Context, s step) stepResult {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	begin := time.Now()
	took, detail, err := s.run(ctx)
	if err != nil {
		return stepResult{Step: s.name, Ms: cli.ToMillis(time.Since(begin)), Error: err.Error()}
	}
	return stepResult{Step: s.name, OK: true, Ms: cli.ToMillis(took), Detail: detail}
}

// summary ends a demo in which every step succeeded.
type summary struct {
	steps int
	took  time.Duration
}

// output shows a demo.
type output interface {
	step(stepResult) error
	end(summary) error
}

// jsonOutput writes one object per step, and no summary: the exit code serves as one.
type jsonOutput struct{ io.Writer }

func (o jsonOutput) step(r stepResult) error { return json.NewEncoder(o).Encode(r) }
func (o jsonOutput) end(summary) error       { return nil }

// textOutput writes one line per step, for people.
type textOutput struct{ io.Writer }

func (o textOutput) step(r stepResult) error {
	verdict, text := "ok", r.Detail
	if !r.OK {
		verdict, text = "FAIL", r.Error
	}
	_, err := fmt.Fprintf(o, "%-4s  %-19s %9.3f ms  %s\n", verdict, r.Step, float64(r.Ms), text)
	return err
}

func (o textOutput) end(s summary) error {
	_, err := fmt.Fprintf(o, "\nAll %d steps did what they should, in %.1f s, on 127.0.0.1 only.\n", s.steps, s.took.Seconds())
	return err
}
