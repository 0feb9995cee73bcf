package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

// SubcommandsOnly refuses the arguments of a command that has subcommands: the first is a mistyped
// one.
func SubcommandsOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), SuggestCommand(cmd, args[0]))
}

// NoArguments refuses the arguments of a command that takes none.
func NoArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%q takes no arguments, and got %q", cmd.CommandPath(), args[0])
}

// AtMostOne refuses a second argument. what names the first, such as "a file".
func AtMostOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("%q takes at most %s, and got %q too", cmd.CommandPath(), what, args[1])
		}
		return nil
	}
}

// ExactlyOne refuses no argument, and a second one.
func ExactlyOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%q needs %s", cmd.CommandPath(), what)
		}
		return AtMostOne(what)(cmd, args)
	}
}
