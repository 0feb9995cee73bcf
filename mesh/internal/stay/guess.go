package stay

import (
	"cmp"
	"time"
)

// doubtTime is how long after a feed began with a guess each neighbour that mentions it is asked
// where it begins. By then those that fetch what the guess skipped have it, or have given it up.
// After that, new neighbours are asked, and from time to time an old one, for as long as anybody
// may retain what was skipped.
const doubtTime = ApartWait + lackWait

// guess notes whether the baseline of a feed is a guess that may have skipped something.
func (j *journal) guess(now time.Time, f *Feed, guessed bool) {
	if f.guessed = guessed; guessed && f.floor > 2 { // item 1 is the author's entry
		f.guessedAt = now
		j.guesses.add(f)
	} else {
		j.guesses.remove(f)
	}
}

// doubts reports whether a neighbour may know that the baseline of some feed is wrong.
func (j *journal) doubts() bool { return j.guesses.len() > 0 }

// doubted reports whether to ask a neighbour that mentions a feed where it begins.
func (j *journal) doubted(now time.Time, f *Feed) bool {
	return j.guesses.has(f) && now.Sub(f.guessedAt) < doubtTime
}

// sweepGuesses forgets the guesses that nobody can correct any more.
func (j *journal) sweepGuesses(now time.Time) {
	for f := range j.guesses.all() {
		if now.Sub(f.guessedAt) > j.ring.limits.Age {
			j.guesses.remove(f)
		}
	}
}

// reportSkipped returns what a feed that began with a guess has skipped, once a neighbour has
// something from before that for this node, or is sure where the feed begins. It has its say once
// for each item. A neighbour that cannot be sure may itself learn later of a still earlier
// beginning.
func (j *journal) reportSkipped(now time.Time, f *Feed, first, last uint64, sure bool) arrival {
	if !f.guessed || first == 0 || first > last && (!sure || f.untouched()) || f.entry == nil || f.broken {
		return arrival{} // also while another neighbour may yet correct the baseline
	}
	if sure {
		j.guess(now, f, false)
	}
	first = max(first, 2) // the first item is the author's roster entry, which is known
	skipped := cmp.Or(f.lostByGuess, f.floor)
	if first >= skipped {
		return arrival{}
	}
	f.lostByGuess, f.supposed = first, time.Time{} // what is reported lost must not come after all
	f.tellAt = now.Add(fetchedWait)                // neighbours may have made the same guess
	j.moved.add(f)
	return arrival{feed: f, lost: span{first, skipped - 1}}
}
