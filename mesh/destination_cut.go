package mesh

import (
	"errors"
	"slices"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// errCutOff says that the receiver is not to be found while this node's own link is down, so that
// it may be there. The message waits for the link, until its deadline.
var errCutOff = errors.New("the link is down")

// cutPause is how long a message waits before its receiver is looked for again.
const cutPause = time.Second

func isConflict(err error) bool {
	_, ok := errors.AsType[*identity.ConflictError](err)
	return ok
}

// isMissing reports whether an address means one of the Missing.
func (r *Room) isMissing(to identity.Address) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.stay.Missing(), func(m stay.Member) bool { return to.Matches(m.User, m.Key) })
}
