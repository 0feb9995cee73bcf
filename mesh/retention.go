package mesh

import (
	"cmp"
	"fmt"
	"time"

	"github.com/starling-mesh/starling/internal/wire"
)

// Retention bounds the broadcasts of a room that a node keeps, its own and those of others, so that
// members that missed some can fetch them. A zero field means its default.
type Retention struct {
	Messages int           // default 131,072
	Bytes    int           // of envelopes as they travel; default 32 MiB
	Age      time.Duration // since they were published, as far as ages add up along the way; default 10 min
}

// DefaultRetention is what a node keeps of a room by default. It covers some minutes of a busy
// room: enough for a train's tunnel, and little enough for a phone.
var DefaultRetention = Retention{Messages: 1 << 17, Bytes: 32 << 20, Age: 10 * time.Minute}

// filled returns r with defaults in place of zero fields.
func (r Retention) filled() Retention {
	return Retention{
		Messages: cmp.Or(r.Messages, DefaultRetention.Messages),
		Bytes:    cmp.Or(r.Bytes, DefaultRetention.Bytes),
		Age:      cmp.Or(r.Age, DefaultRetention.Age),
	}
}

// validate returns an error for limits that New would reject.
func (r Retention) validate() error {
	if r.Messages < 0 || r.Bytes < wire.MaxEnvelope || r.Age < 0 {
		return fmt.Errorf("retention of %d messages, %d bytes and %v does not hold one envelope of %d bytes", r.Messages, r.Bytes, r.Age, wire.MaxEnvelope)
	}
	return nil
}
