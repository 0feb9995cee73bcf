package presence

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
)

// Option is a setting of a [Directory], for its lifetime.
type Option func(*config)

type config struct {
	log        *slog.Logger
	clock      walltime.Clock
	pins       *identity.Pins
	observer   func(Event)
	store      Store
	authority  *identity.Authority // nil: open mode
	maxMessage int                 // bytes
	grace      time.Duration       // unstated: not stated
	rates      *identity.Rates     // nil: not stated
	life       time.Duration       // of a statement
	scopes     []Scope             // of the DHT; none: no DHT
}

func defaults() config {
	return config{
		log:        slog.New(slog.DiscardHandler),
		pins:       identity.NewPins(),
		observer:   func(Event) {},
		store:      newMemory(),
		maxMessage: 64 << 10,
		grace:      unstated,
		life:       24 * time.Hour,
		scopes:     []Scope{},
	}
}

// validate reports all faults at once.
func (c *config) validate() error {
	var errs []error
	if c.log == nil {
		errs = append(errs, errors.New("WithLogger: nil"))
	}
	if c.pins == nil {
		errs = append(errs, errors.New("WithPins: nil"))
	}
	if c.observer == nil {
		errs = append(errs, errors.New("WithObserver: nil"))
	}
	if c.store == nil {
		errs = append(errs, errors.New("WithRemembered: nil"))
	}
	if c.maxMessage < 1 || c.maxMessage > maxMessageLimit {
		errs = append(errs, fmt.Errorf("WithMaxMessage: %d bytes, want 1 to %d", c.maxMessage, maxMessageLimit))
	}
	if c.grace < 0 && c.grace != unstated {
		errs = append(errs, fmt.Errorf("WithGrace: %v is negative", c.grace))
	}
	if r := c.rates; r != nil && min(r.Direct.Messages, r.Direct.Bytes, r.Broadcast.Messages, r.Broadcast.Bytes, r.Room, r.LargeRoom) < 0 {
		errs = append(errs, fmt.Errorf("WithRates: %+v has a negative rate", *r))
	}
	if c.life < minLife || c.life > maxLife {
		errs = append(errs, fmt.Errorf("WithStatementLife: %v, want %v to %v", c.life, minLife, maxLife))
	}
	for i, s := range c.scopes {
		if s != LAN && s != WAN || slices.Contains(c.scopes[:i], s) {
			errs = append(errs, fmt.Errorf("WithDHT: %q twice, or not a scope", s))
		}
	}
	return errors.Join(errs...)
}

const (
	maxMessageLimit = 1 << 20
	minLife         = 10 * time.Second
	maxLife         = 30 * 24 * time.Hour
)

// WithPins sets the pins that resolve names. The default is pins in memory.
func WithPins(p *identity.Pins) Option { return func(c *config) { c.pins = p } }

// WithObserver sets the function that receives every [Event], one at a time and in order. It must
// not block, and may call every method of the directory but Close. By default events are dropped.
func WithObserver(f func(Event)) Option { return func(c *config) { c.observer = f } }

// WithRemembered sets the store that keeps peers and the log-in sequence from one run to the next:
// an [*identity.Dir]. The default remembers the last 256 peers while the directory is open.
func WithRemembered(s Store) Option { return func(c *config) { c.store = s } }

// WithAuthority sets the authority that judges tokens. This selects app mode: every log-in needs a
// token. The directory's app must be the authority's. The default is open mode.
func WithAuthority(a *identity.Authority) Option { return func(c *config) { c.authority = a } }

// WithLogger sets the logger. The default discards. Faults of peers are logged at Debug.
func WithLogger(l *slog.Logger) Option { return func(c *config) { c.log = l } }

// WithClock sets the clock from which the directory reads the time. The default is the machine's
// clock. It is for tests of this module, which run nodes whose clocks are wrong; no other module
// can make a clock.
func WithClock(c walltime.Clock) Option { return func(cfg *config) { cfg.clock = c } }

// WithMaxMessage sets the largest message, in bytes, that this node says it accepts. The default is
// 65,536; New refuses less than 1 and more than 1 MiB. All nodes of an app should use the same
// value: see [SettingDiffers].
func WithMaxMessage(bytes int) Option { return func(c *config) { c.maxMessage = bytes } }

// WithGrace states the grace of rooms (mesh.WithGrace) to peers, since all nodes of an app should
// have the same: see [SettingDiffers]. By default none is stated. New refuses a negative one.
func WithGrace(d time.Duration) Option { return func(c *config) { c.grace = d } }

// WithRates states the rates of the app (mesh.WithRates) to peers, since all nodes of an app should
// have the same: see [SettingDiffers]. By default none are stated. New refuses negative ones.
func WithRates(r identity.Rates) Option { return func(c *config) { c.rates = &r } }

// WithStatementLife sets how long a statement is valid. It is signed again when a third of that
// time is over. The default is 24 h; New refuses less than 10 s and more than 30 days.
func WithStatementLife(d time.Duration) Option { return func(c *config) { c.life = d } }

// WithDHT makes the node part of the app's own DHT, in each of the scopes: log-ins are stored and
// looked up there. The default is none: then only peers that are or were connected, and the users
// that connected peers name, are found.
func WithDHT(scopes ...Scope) Option { return func(c *config) { c.scopes = scopes } }
