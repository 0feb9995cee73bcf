package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// FlagError adds to the error for an unknown flag the one that was probably meant.
func FlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return fmt.Errorf("%w, did you mean --%s?", err, near)
	}
	return err
}

// SuggestCommand returns ", did you mean …?" for the command below parent that typed is close to.
func SuggestCommand(parent *cobra.Command, typed string) string {
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
			names = append(names, c.Name())
		}
	}
	if near := Nearest(typed, names); near != "" {
		return fmt.Sprintf(", did you mean %q?", near)
	}
	return ""
}

// Nearest returns the candidate that typed is at most two slips away from, or that begins with
// typed; or "". Of two that are as near, it returns the one with the same first letter.
func Nearest(typed string, candidates []string) string {
	best, distance := "", 3
	for _, c := range candidates {
		d := slips(strings.ToLower(typed), c)
		if len(typed) > 1 && strings.HasPrefix(c, strings.ToLower(typed)) {
			d = 1
		}
		sameStart := typed != "" && best != "" && c[0] == typed[0] && best[0] != typed[0]
		if d < len(c) && (d < distance || d == distance && sameStart) {
			best, distance = c, d
		}
	}
	return best
}

// slips is the number of letters to insert, delete, replace or swap with the next to turn a into b.
func slips(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
