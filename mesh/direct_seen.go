package mesh

// windowRefusals is how far back, in sequences, a receiver remembers which messages it refused and
// why. A sender writes nothing again that is further back (see windowSpan).
const windowRefusals = 4096

// seen is what a receiver remembers of the messages of one sender incarnation in one mode, in
// constant memory. With it the receiver answers a repeat as it answered the first, and delivers
// nothing twice. Every sequence up to highest counts as taken unless its refusal is on record: a
// correct sender never uses a sequence below another that it has used.
type seen struct {
	highest  uint64
	refusals *[windowRefusals / 2]byte // half a byte for each sequence: the reason, 0 for none; nil until the first
}

// standing is what is known of a sequence.
type standing uint8

const (
	unseen   standing = iota // to be judged, then recorded
	repeated                 // answered before
	tooOld                   // further back than a correct sender goes
)

// look returns the standing of a sequence and, for a repeated one, why it was refused; 0 if it was
// taken.
func (s *seen) look(seq uint64) (standing, Reason) {
	switch {
	case seq > s.highest:
		return unseen, 0
	case s.highest-seq >= windowRefusals:
		return tooOld, 0
	case s.refusals == nil:
		return repeated, 0
	}
	i := seq % windowRefusals
	return repeated, Reason(s.refusals[i/2] >> (4 * (i % 2)) & 0xf)
}

// record keeps the answer to an unseen sequence: a reason below 16, or 0 for taken.
func (s *seen) record(seq uint64, reason Reason) {
	if s.refusals != nil {
		// Records that leave the window must not be taken for those of sequences that enter it.
		if seq-s.highest >= windowRefusals {
			clear(s.refusals[:])
		} else {
			for skipped := s.highest + 1; skipped != seq; skipped++ {
				s.set(skipped, 0)
			}
		}
	} else if reason != 0 {
		s.refusals = new([windowRefusals / 2]byte)
	}
	s.highest = seq
	if s.refusals != nil {
		s.set(seq, reason)
	}
}

func (s *seen) set(seq uint64, reason Reason) {
	i := seq % windowRefusals
	shift := 4 * (i % 2)
	s.refusals[i/2] = s.refusals[i/2]&^(0xf<<shift) | byte(reason&0xf)<<shift
}
