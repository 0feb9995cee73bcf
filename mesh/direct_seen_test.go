package mesh

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestARepeatIsAnsweredTheSameWayAsLongAsItMayCome(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var s seen
	answered := map[uint64]Reason{}
	seq := uint64(0)
	for range 60_000 {
		switch rng.IntN(1000) {
		case 0:
			seq += uint64(rng.IntN(3 * windowRefusals)) // gives up many at once
		case 1, 2, 3:
			seq += uint64(rng.IntN(9))
		}
		seq++
		if what, _ := s.look(seq); what != unseen {
			t.Fatalf("sequence %d, never used: got %d", seq, what)
		}
		reason := Reason(0)
		if rng.IntN(10) == 0 {
			reason = Reason(1 + rng.IntN(15))
		}
		s.record(seq, reason)
		answered[seq] = reason

		back := seq - uint64(rng.IntN(windowRefusals+10))
		was := answered[back] // one that was skipped counts as taken
		if back == 0 || back > seq {
			continue
		}
		what, why := s.look(back)
		if seq-back >= windowRefusals {
			if what != tooOld {
				t.Fatalf("sequence %d with %d the highest: got %d, want tooOld", back, seq, what)
			}
		} else if what != repeated || why != was {
			t.Fatalf("sequence %d with %d the highest: got %d for %d, want repeated for %d", back, seq, what, why, was)
		}
	}
}

func TestSequencesAtTheEndOfTheirRangeAreHarmless(t *testing.T) {
	var s seen
	s.record(1, QueueFull)
	s.record(math.MaxUint64, WrongUser)
	if what, _ := s.look(1); what != tooOld {
		t.Errorf("1: got %d, want tooOld", what)
	}
	if what, why := s.look(math.MaxUint64); what != repeated || why != WrongUser {
		t.Errorf("the highest: got %d for %v, want repeated for %v", what, why, WrongUser)
	}
	if what, why := s.look(math.MaxUint64 - windowRefusals + 1); what != repeated || why != 0 {
		t.Errorf("the oldest kept: got %d for %v, want repeated, taken", what, why)
	}
}

func TestEveryReasonFitsWhatAReceiverRemembers(t *testing.T) {
	for r := range reasonText {
		if r == 0 || r > 15 {
			t.Errorf("%v is %d: half a byte holds 1 to 15", r, r)
		}
	}
}
