package mesh

import (
	"fmt"
	"math"
	"time"

	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// History says what a member gets of the broadcasts published before it joined. The zero value is
// [SinceJoined].
type History struct{ past stay.Past }

// SinceJoined is no history: only what is published after joining. It is the default.
var SinceJoined = History{}

// AllHistory is everything that the neighbours still retain.
var AllHistory = History{everything}

var everything = stay.Past{All: true}

// LastMessages is the last n broadcasts of the room. If n is 0 or less, it is [SinceJoined].
func LastMessages(n int) History { return History{stay.Past{Count: min(max(n, 0), math.MaxInt32)}} }

// LastFor is what was published in the time d before joining, as measured by the neighbours that
// send it: clocks need not agree. If d is 0 or less, it is [SinceJoined].
func LastFor(d time.Duration) History { return History{stay.Past{Age: max(d, 0)}} }

// String returns the history in words.
func (h History) String() string {
	switch {
	case h.past.All:
		return "all that is retained"
	case h.past.Count > 0:
		return fmt.Sprintf("last %d messages", h.past.Count)
	case h.past.Age > 0:
		return "last " + h.past.Age.String()
	}
	return "since joined"
}

// WithHistory sets which broadcasts from before joining to get, as far as neighbours retain them.
// They come as events like others, each feed in order, after Join has returned. The default is
// [SinceJoined].
func WithHistory(h History) JoinOption { return func(c *joinConfig) { c.past = h.past } }
