package stay

import (
	"cmp"
	"time"
)

// doubtTime is how long after a feed began with a guess a neighbour that mentions it is soon asked
// where it begins. By then those that fetch what the guess skipped have it, or have given it up.
// After that, a neighbour is asked no more often than that, for as long as anybody may retain what
// was skipped.
const doubtTime = ApartWait + lackWait

// guess notes whether the baseline of a feed is a guess.
func (j *journal) guess(now time.Time, f *Feed, guessed bool) {
	f.guessed = guessed
	switch {
	case !j.correctable(f):
		j.guesses.remove(f)
	case !j.guesses.has(f):
		f.guessedAt = now
		j.guesses.add(f)
	}
}

// correctable reports whether a neighbour could still say that a guess has skipped something. Item
// 1 is the author's entry, and is not missed.
func (j *journal) correctable(f *Feed) bool {
	if !f.guessed || f.entry == nil || f.broken || !j.history && j.stays.old(f) {
		return false
	}
	from := max(f.handed+1, 2)
	if !j.history {
		from = max(from, f.stored+1)
	}
	return cmp.Or(f.lostByGuess, f.floor) > from
}

// doubts reports whether a neighbour may know that the baseline of some feed is wrong.
func (j *journal) doubts() bool { return j.guesses.len() > 0 }

// doubtEvery returns how often to ask a neighbour that mentions a feed where it begins; 0: there is
// nothing to ask.
func (j *journal) doubtEvery(now time.Time, f *Feed) time.Duration {
	switch {
	case !j.guesses.has(f):
		return 0
	case now.Sub(f.guessedAt) < doubtTime:
		return compareEvery
	}
	return doubtTime
}

// sweepGuesses forgets the guesses that nobody can correct any more.
func (j *journal) sweepGuesses(now time.Time) {
	for f := range j.guesses.all() {
		if !j.correctable(f) || now.Sub(f.guessedAt) > j.ring.limits.Age {
			j.guesses.remove(f)
		}
	}
}

// reportSkipped returns what a feed that began with a guess has skipped, once a neighbour has
// something from before that for this node, or is sure where the feed begins. It has its say once
// for each item. A neighbour that cannot be sure may itself learn later of a still earlier
// beginning.
func (j *journal) reportSkipped(now time.Time, f *Feed, first, last uint64, sure bool) arrival {
	if !j.correctable(f) || first == 0 || first > last && (!sure || f.untouched()) {
		return arrival{} // also while another neighbour may yet correct the baseline
	}
	first = max(first, 2)
	skipped := cmp.Or(f.lostByGuess, f.floor)
	if first < skipped {
		f.lostByGuess, f.supposed = first, time.Time{} // what is reported lost must not come after all
	}
	if j.guess(now, f, !sure); first >= skipped {
		return arrival{}
	}
	f.tellAt = now.Add(fetchedWait) // neighbours may have made the same guess
	j.moved.add(f)
	return arrival{feed: f, lost: span{first, skipped - 1}}
}
