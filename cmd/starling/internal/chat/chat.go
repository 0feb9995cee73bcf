// Package chat is the command starling chat: a session shown as JSON for programs, line by line for
// people, or by package screen.
package chat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/screen"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/cmd/starling/internal/token"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/node"
)

// options are the flags of the chat command.
type options struct {
	user, app, data      string
	rooms, peers, listen []string
	ephemeral, noMDNS    bool
	keepHistory          bool
	issuers, token       string // files
	revocations          string // file
	json, plain          bool
}

// Command returns the command starling chat.
func Command(a *cli.App) *cobra.Command {
	var f options
	cmd := &cobra.Command{
		Use:   "chat",
		Short: "Talk with others",
		Long: `Chat enters a room and shows what is said in it. What you type goes to everybody there; a line that
begins with a slash is a command:

` + strings.Join(session.HelpLines(), "\n") + `

Others who run it on the same network are found automatically. From elsewhere, start with --peer and
an address that the other side shows when it starts.

Your name is claimed, not registered: others recognise you by your key. It stays in the data directory,
so you are the same user after a restart. "starling id export" carries it to another device.

An app with its own issuer decides who its users are: with --issuers and --token your name is the one in
the token, and nobody else can have it. When the token is about to expire, a newer one is read from its file.

What is said in rooms is kept for 10 minutes, in memory, for others who missed some of it. With
--keep-history it is kept in the data directory as well: if nobody had yet received what you said before
the chat was closed or killed, others get it when you are back. Nothing is shown to you again. To forget
it, remove history.db from that directory.

Every message has a result: delivered (to one user) with the time it took, sent (to a room), refused by
the other side, not sent, or unknown, which means that it may have arrived.

On a terminal the chat fills the screen: rooms and direct conversations on the left, members on the right,
and after each of your messages how far it has come. With --plain, or if input or output is not a terminal,
it works line by line.

The chat ends at /quit, Ctrl-C or the end of standard input, and leaves its rooms first. At the end of
standard input and at /quit it waits for the results of what was sent; Ctrl-C does not.`,
		Example: `  starling chat                                      as yourself, in the lobby
  starling chat --user bob --room ops --room dev     as bob, in two rooms; ops is the current one
  starling chat --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…
                                                     with somebody who is not on this network
  starling chat --ephemeral --user guest             with a new key that is forgotten at the end
  tail -f build.log | starling chat --json --room builds
                                                     from a script: one JSON object a line comes back`,
		Args: cli.NoArguments,
		RunE: a.Action(func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("user") && f.token == "" { // the token says who the user is
				f.user = cli.DefaultUser()
			}
			return run(cmd.Context(), a, f)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.user, "user", "", "the `NAME` that others see (default: your name on this system)")
	flags.StringArrayVar(&f.rooms, "room", []string{"lobby"}, "a room to enter, by `NAME`; may be given again")
	flags.StringArrayVar(&f.peers, "peer", nil, "the `MULTIADDR` of somebody to connect to, with /p2p/ at its end; may be given again")
	flags.StringArrayVar(&f.listen, "listen", nil, "a `MULTIADDR` to listen on, instead of all interfaces by TCP and QUIC; may be given again")
	flags.StringVar(&f.data, "data", "", "the `DIR` for keys and what is remembered (default: starling in your configuration directory)")
	flags.BoolVar(&f.ephemeral, "ephemeral", false, "keep nothing: a new key, in memory")
	flags.BoolVar(&f.keepHistory, "keep-history", false, "keep what is said in rooms for 10 minutes on disk too, in history.db of the data directory, not encrypted: others get what they missed of it after a restart")
	flags.StringVar(&f.app, "app", "starling", "the `NAME` of the app: nodes of other apps are not seen")
	flags.StringVar(&f.issuers, "issuers", "", "the `FILE` with the issuers of the app, if its users need tokens (see: starling token)")
	flags.StringVar(&f.token, "token", "", "the `FILE` with your token, or - for the first line of standard input")
	flags.StringVar(&f.revocations, "revocations", "", "a `FILE` with revoked tokens, to be sent to all nodes")
	flags.BoolVar(&f.noMDNS, "no-mdns", false, "do not look for others on this network, or be found by them")
	flags.BoolVar(&f.plain, "plain", false, "line by line, even on a terminal")
	flags.BoolVar(&f.json, "json", false, "write JSON objects, one a line (see: starling help json)")
	return cmd
}

// check refuses impossible flags, all at once. Addresses are left to node.New.
func (f *options) check() error {
	var errs []error
	add := func(err error, format string, args ...any) {
		if err != nil {
			errs = append(errs, fmt.Errorf(format+": %w", append(slices.Clip(args), err)...))
		}
	}
	addID := func(flag string, err error) {
		if id, ok := errors.AsType[*identity.IDError](err); ok {
			add(id.Err, "%s %q", flag, id.Value)
		}
	}
	if f.token == "" || f.user != "" {
		addID("--user", identity.CheckUser(f.user))
	}
	addID("--app", identity.CheckApp(f.app))
	for _, r := range f.rooms {
		addID("--room", identity.CheckRoom(r))
	}
	if f.ephemeral && f.data != "" {
		errs = append(errs, errors.New("--data and --ephemeral exclude each other"))
	}
	if f.ephemeral && f.keepHistory {
		errs = append(errs, errors.New("--keep-history and --ephemeral exclude each other"))
	}
	if (f.issuers == "") != (f.token == "") {
		errs = append(errs, errors.New("--issuers and --token go together: who vouches for users, and that you are one"))
	}
	if f.revocations != "" && f.issuers == "" {
		errs = append(errs, errors.New("--revocations needs --issuers"))
	}
	if f.ephemeral && f.token != "" {
		errs = append(errs, errors.New("--ephemeral and --token exclude each other: a token is bound to a key that is kept"))
	}
	if f.json && f.plain {
		errs = append(errs, errors.New("--json and --plain exclude each other"))
	}
	if len(errs) > 0 {
		return cli.Usage(errors.Join(errs...))
	}
	return nil
}

// run runs the command: it chooses a view, talks until the end, and says goodbye.
func run(ctx context.Context, a *cli.App, f options) error {
	var v session.View = newTextView(a.Stdout)
	switch {
	case f.json:
		v = &jsonView{out: a.Stdout}
	case !f.plain && f.token != "-" && screen.Available(a.System):
		if done, err := underKeeper(ctx, a, f); done {
			return err
		}
		s := screen.New(a.Stdin.(*os.File), a.Stdout.(*os.File), a.Interrupt)
		defer s.Adapt(ctx, a)()
		v = s
	}
	var reason string
	var err error
	v.Guard(func() { reason, err = talk(ctx, a, f, v) })
	code := cli.ExitCode(err)
	if err != nil && f.json {
		if _, signalled := errors.AsType[*cli.SignalError](err); !signalled && code != cli.ExitReplaced {
			v.Show(session.Trouble{Head: session.NewHead("error", ""), Code: troubleCode(err), Detail: err.Error()})
		}
	}
	if e := v.Show(session.Bye{Head: session.NewHead("bye", ""), Reason: reason, Code: code}); e != nil && err == nil {
		err = fmt.Errorf("standard output: %w", e)
	}
	return err
}

// underKeeper runs the whole command in a child process, unless this process already is one, and
// ends as the child ended.
func underKeeper(ctx context.Context, a *cli.App, f options) (done bool, err error) {
	if !a.Whole || a.Kept || f.check() != nil {
		return false, nil
	}
	code, err := screen.Keep(ctx, a)
	switch {
	case code == 0 && err != nil:
		return false, nil // run without a keeper, then
	case err != nil:
		return true, &cli.CodedError{Code: code, Err: err}
	case code != cli.ExitOK:
		return true, &cli.CodedError{Code: code, Err: &cli.ToldError{Err: fmt.Errorf("exit code %d", code)}}
	}
	return true, nil
}

// talk checks the flags, opens the node, and talks until the end.
func talk(ctx context.Context, a *cli.App, f options, v session.View) (reason string, err error) {
	if err := f.check(); err != nil {
		return session.ByeFailed, err
	}
	log, err := a.Log()
	if err != nil {
		return session.ByeFailed, err
	}
	opts := []node.Option{node.WithApp(f.app), node.WithLogger(log)}
	if !f.ephemeral {
		if f.data, err = cli.DataDir(f.data); err != nil {
			return session.ByeFailed, err
		}
		opts = append(opts, node.WithDataDir(f.data))
	}
	if f.keepHistory {
		opts = append(opts, node.WithHistoryStore())
	}
	if len(f.listen) > 0 {
		opts = append(opts, node.WithListen(f.listen...))
	}
	if len(f.peers) > 0 {
		opts = append(opts, node.WithPeers(f.peers...))
	}
	if f.noMDNS {
		opts = append(opts, node.WithoutMDNS())
	}
	var held *session.Pass
	if f.issuers != "" {
		if held, err = session.ReadPass(a.Stdin, f.token); err != nil {
			return session.ByeFailed, err
		}
		if f.user == "" {
			f.user, _ = token.Claimed(held.Token())
		}
		opts = append(opts, node.WithIssuersFile(f.issuers))
	}
	n, err := node.New(opts...)
	if wrong := wrongAddrs(err); len(wrong) > 0 {
		return session.ByeFailed, cli.Usage(errors.Join(wrong...))
	}
	if err != nil {
		return session.ByeFailed, cli.AdviseInUse(err,
			"Another starling is running with it. Give this one keys of its own: --data DIR, or --ephemeral.")
	}
	c := session.New(n, v, held)
	if f.revocations != "" {
		if err := revokeFrom(n, f.revocations); err != nil {
			return session.ByeFailed, errors.Join(err, c.Close())
		}
	}
	about := session.Ready{MDNS: !f.noMDNS, App: f.app, Data: f.data, Rooms: unique(f.rooms), Vouched: f.issuers != ""}
	input := func(ctx context.Context) <-chan session.Typed { return session.ReadLines(ctx, a.Stdin) }
	s, full := v.(*screen.Screen)
	if full {
		s.Follow(n.Status, c.Background)
		input = func(context.Context) <-chan session.Typed { return s.Lines() }
	}
	reason, err = c.Run(ctx, f.user, about, input)
	if full {
		s.Leave()
	}
	if e := c.Close(); e != nil && err == nil {
		reason, err = session.ByeFailed, e
	}
	return reason, err
}

// revokeFrom passes the list of revocations in a file to the node.
func revokeFrom(n *node.Node, path string) error {
	list, err := token.ReadList(path)
	if err != nil {
		return err
	}
	if _, err := n.Revoke(list); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// wrongAddrs returns the addresses of the command line that New refused.
func wrongAddrs(err error) (wrong []error) {
	switch e := err.(type) {
	case *node.AddrError:
		return []error{fmt.Errorf("address %q: %w", e.Value, e.Err)}
	case interface{ Unwrap() error }:
		return wrongAddrs(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			wrong = append(wrong, wrongAddrs(err)...)
		}
	}
	return wrong
}

func troubleCode(err error) string {
	switch {
	case cli.ExitCode(err) == cli.ExitUsage:
		return "usage"
	case errors.Is(err, identity.ErrInUse):
		return "data_dir_in_use"
	case isA[*identity.KeyError](err):
		return "key"
	case isA[*identity.TokenError](err):
		return session.CodeToken
	case isA[*identity.IssuersError](err), errors.Is(err, identity.ErrRevocations):
		return "issuers"
	case isA[*node.ListenError](err):
		return "listen"
	case isA[*session.RoomError](err):
		return session.CodeRoom
	}
	return "failed"
}

func isA[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func unique(names []string) []string {
	var all []string
	for _, n := range names {
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return all
}
