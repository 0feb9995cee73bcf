package stay

import (
	"math"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

// Past is how far before its own joining a member wants the feeds that are new to it.
type Past struct {
	Age   time.Duration
	Count int
	All   bool
}

// TransitSlack is how much longer a question may take on its way than the previous one to that
// neighbour. What was published while the question travelled is, when it arrives, younger than the
// stay was when it asked. A stay that is ready repeats a question that took longer. What the answer
// has from before the stay is passed over by its age.
const (
	TransitSlack    = 50 * time.Millisecond
	maxTransitSlack = 30 * time.Second
)

// ask returns the question of a member that joined so long ago. slack is what the question may take
// on its way.
func (p Past) ask(joined, slack time.Duration) *wire.Past {
	age := joined + p.Age + slack
	if p.All {
		age = math.MaxInt64
	}
	return &wire.Past{AgeMs: uint64(max(age/time.Millisecond, 1)), Count: uint32(p.Count)} // not 0, which an answer could not repeat
}

// late returns how much longer than allowed a question was under way, when its answer comes to a
// stay that joined so long ago and was ready after a time. What the neighbour says of beginnings
// can be too late by that. The answer repeats the age that was asked for.
func (p Past) late(asked, joined, ready time.Duration) time.Duration {
	if p.All {
		return 0
	}
	before := joined + p.Age - asked // the answer certainly has what was published from this long after joining began
	if asked-p.Age-TransitSlack < ready {
		before -= ready // asked while joining: the newcomer has no claim to what was published until then
	}
	return max(before, 0)
}

// since returns from when on a member that joined at a time wants what was published; zero: always.
func (p Past) since(joined time.Time) time.Time {
	if p.All || p.Count > 0 {
		return time.Time{}
	}
	return joined.Add(-p.Age)
}

// maxAsked bounds how many messages one member can make a neighbour count.
const maxAsked = 1 << 17

// pastAsked returns what a neighbour wants.
func pastAsked(p *wire.Past) (age time.Duration, count int) {
	ms := min(p.GetAgeMs(), uint64(math.MaxInt64/time.Millisecond))
	return time.Duration(ms) * time.Millisecond, int(min(p.GetCount(), maxAsked))
}
