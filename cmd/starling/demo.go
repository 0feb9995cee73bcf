package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
)

const (
	stepTime = 10 * time.Second // for each step
	demoTime = 60 * time.Second // for all of them
)

func demoCommand(a *cli.App) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show and check everything, inside this process",
		Long: `Demo runs three nodes in this process, on 127.0.0.1 only, and touches nothing outside of it: no file,
no other address, nobody on the network. It walks through log-in, rooms, messages of every kind, a forged
message, a duplicate log-in, leaving, online status and log-out, and checks at every step that what should arrive did, and
that what should not did not. Each step is shown with its latency.

It ends with 0 if every step did what it should, and with 1 otherwise, after at most a minute.`,
		Example: "  starling demo\n  starling demo --json",
		Args:    cli.NoArguments,
		RunE: a.Action(func(cmd *cobra.Command, _ []string) error {
			log, err := a.Log()
			if err != nil {
				return err
			}
			tell := tellText(a.Stdout)
			if asJSON {
				tell = tellJSON(a.Stdout)
			}
			c := &cast{log: log}
			return errors.Join(runDemo(cmd.Context(), c.steps(), tell), c.close())
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

// runDemo runs every step, also those after one that failed, and shows each.
func runDemo(ctx context.Context, steps []step, tell func(any) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoTime, fmt.Errorf("the demo took more than %v", demoTime))
	defer cancel()
	begin := time.Now()
	failed := 0
	for _, s := range steps {
		r := runStep(ctx, s)
		if !r.OK {
			failed++
		}
		if err := tell(r); err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d steps did not do what they should", failed, len(steps))
	}
	return tell(summary{len(steps), time.Since(begin)})
}

func runStep(ctx context.Context, s step) stepResult {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	begin := time.Now()
	took, detail, err := s.run(ctx)
	if err != nil {
		return stepResult{Step: s.name, Ms: cli.ToMillis(time.Since(begin)), Error: prose.Plain(err)}
	}
	return stepResult{Step: s.name, OK: true, Ms: cli.ToMillis(took), Detail: detail}
}

// summary ends a demo in which every step succeeded.
type summary struct {
	steps int
	took  time.Duration
}

// tellJSON writes one object per step, and no summary: the exit code serves as one.
func tellJSON(out io.Writer) func(any) error {
	return func(v any) error {
		r, ok := v.(stepResult)
		if !ok {
			return nil
		}
		return json.NewEncoder(out).Encode(r)
	}
}

func tellText(out io.Writer) func(any) error {
	return func(v any) (err error) {
		switch v := v.(type) {
		case stepResult:
			verdict, text := "ok", v.Detail
			if !v.OK {
				verdict, text = "FAIL", v.Error
			}
			_, err = fmt.Fprintf(out, "%-4s  %-19s %9.3f ms  %s\n", verdict, v.Step, float64(v.Ms), text)
		case summary:
			_, err = fmt.Fprintf(out, "\nAll %d steps did what they should, in %.1f s, on 127.0.0.1 only.\n", v.steps, v.took.Seconds())
		}
		return err
	}
}
