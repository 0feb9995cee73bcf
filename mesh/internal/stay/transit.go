package stay

import "time"

// transit estimates how much of an envelope's way it spent in queues: how much longer it took than
// the fastest one of its sender. The two clocks need not agree. The zero value knows no envelope.
type transit struct {
	known   bool
	fastest time.Duration
	// told is the shortest time between what the sender calls sent and when the envelope was
	// published, according to the ages that neighbours stated for fetched envelopes.
	heard bool
	told  time.Duration
}

// before reports whether what the sender calls sent was certainly before a time here.
func (t *transit) before(sent, at time.Time) bool { return t.known && sent.Add(t.fastest).Before(at) }

// onItsWay returns how long an envelope was under way, or more or less by the difference of the
// clocks. A sender's clock may show anything; the bound keeps differences of results from
// overflowing.
func onItsWay(sent, came time.Time) time.Duration {
	const bound = 100 * 365 * 24 * time.Hour
	return min(max(came.Sub(sent), -bound), bound)
}

// fetched takes an envelope's age as a neighbour stated it: the envelope was published at came.
func (t *transit) fetched(sent, came time.Time) {
	if took := onItsWay(sent, came); !t.heard || took < t.told {
		t.heard, t.told = true, took
	}
}

func (t *transit) late(sent, came time.Time) time.Duration {
	took := onItsWay(sent, came)
	if !t.known || took < t.fastest {
		t.known, t.fastest = true, took
	}
	return took - t.fastest
}
