package demo

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/starling-mesh/starling/presence"
)

// status makes alice watch carol, who logs out and in again, and checks the evidence of each
// answer.
func (c *cast) status(ctx context.Context) (took time.Duration, detail string, err error) {
	next, stop := iter.Pull2(c.alice.Watch(ctx, "carol"))
	defer stop()
	expect := func(state presence.State, sources ...presence.Source) error {
		s, err, more := next()
		switch {
		case err != nil:
			return err
		case !more:
			return fmt.Errorf("the watch ended before carol was %s", state)
		case s.State != state || s.Login != c.carol.Self():
			return fmt.Errorf("carol is %s with the log-in %s on %s, want %s", s.State, s.Login, s.Login.Peer, state)
		}
		for _, source := range sources {
			if s.Source == source {
				return nil
			}
		}
		return fmt.Errorf("carol is %s, known by %q, want one of %q", s.State, s.Source, sources)
	}
	if err := expect(presence.Online, presence.Connected, presence.Probed); err != nil {
		return 0, "", err
	}
	begin := time.Now()
	if err := c.carol.Logout(ctx); err != nil {
		return 0, "", err
	}
	if err := expect(presence.Offline, presence.Goodbye); err != nil {
		return 0, "", err
	}
	took = time.Since(begin)
	if err := c.carol.Login(ctx, "carol"); err != nil {
		return 0, "", err
	}
	if err := expect(presence.Online, presence.Connected, presence.Probed); err != nil {
		return 0, "", err
	}
	return took, "alice saw carol online by her connection, offline by the goodbye that she signed, and online again", nil
}
