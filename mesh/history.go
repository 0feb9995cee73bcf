package mesh

import (
	"fmt"
	"math"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

// History is what a member gets of broadcasts that were published before it joined. The zero value is [SinceJoined].
type History struct{ past past }

// past is how far back a member wants the feeds that are new to it, before its own joining.
type past struct {
	age   time.Duration
	count int
	all   bool
}

// SinceJoined is no history: what is published from the moment of joining on, which is the default.
var SinceJoined = History{}

// AllHistory is everything that the neighbours still retain.
var AllHistory = History{past{all: true}}

// LastMessages is the last n broadcasts of the room. At 0 or less it is [SinceJoined].
func LastMessages(n int) History { return History{past{count: min(max(n, 0), math.MaxInt32)}} }

// LastFor is what was published in the time d before joining, as the neighbours that give it saw it: clocks need not
// agree. At 0 or less it is [SinceJoined].
func LastFor(d time.Duration) History { return History{past{age: max(d, 0)}} }

// String says it in words.
func (h History) String() string {
	switch {
	case h.past.all:
		return "all that is retained"
	case h.past.count > 0:
		return fmt.Sprintf("last %d messages", h.past.count)
	case h.past.age > 0:
		return "last " + h.past.age.String()
	}
	return "since joined"
}

// WithHistory sets what to get of broadcasts from before joining, as far as neighbours retain them. They come as events like
// others, each feed in its order, after Join has returned. The default is [SinceJoined].
func WithHistory(h History) JoinOption { return func(c *joinConfig) { c.past = h.past } }

// transitSlack is what a question is allowed to take on its way, beside what one to that neighbour took before: what was
// published while it travelled is younger when it arrives than the stay was when it was asked. A question of a stay that is
// ready and took longer is asked again; what was published before that is none of a newcomer's business.
const (
	transitSlack    = 50 * time.Millisecond
	maxTransitSlack = 30 * time.Second
)

// ask is what a member tells neighbours that joined so long ago, with what the question may take on its way.
func (p past) ask(joined, slack time.Duration) *wire.Past {
	age := joined + p.age + slack
	if p.all {
		age = math.MaxInt64
	}
	return &wire.Past{AgeMs: uint64(max(age/time.Millisecond, 1)), Count: uint32(p.count)} // not 0, which an answer could not repeat
}

// late is how much longer a question was under way than was allowed for, when its answer comes to a stay that joined so
// long ago, and was ready after a time: what the neighbour says of beginnings can be too late by that. The answer repeats the age
// that was asked for.
func (p past) late(asked, joined, ready time.Duration) time.Duration {
	if p.all {
		return 0
	}
	before := joined + p.age - asked // how long after joining began what the answer surely has
	if asked-p.age < ready {
		before -= ready // asked while joining: what was published until then is not owed
	}
	return max(before, 0)
}

// since is from when on a member that joined at a time wants what was published; zero: always.
func (p past) since(joined time.Time) time.Time {
	if p.all || p.count > 0 {
		return time.Time{}
	}
	return joined.Add(-p.age)
}

// maxAsked bounds the messages that one member can have a neighbour count.
const maxAsked = 1 << 17

// pastAsked is what a neighbour wants.
func pastAsked(p *wire.Past) (age time.Duration, count int) {
	ms := min(p.GetAgeMs(), uint64(math.MaxInt64/time.Millisecond))
	return time.Duration(ms) * time.Millisecond, int(min(p.GetCount(), maxAsked))
}
