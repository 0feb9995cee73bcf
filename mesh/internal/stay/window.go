package stay

import (
	"cmp"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// minWindow and maxWindow bound how many envelopes may be under way to one neighbour; 256 of
	// the largest are 64 MiB. The window grows while confirmations come soon. Once receivers are
	// busy, everything that is under way waits there for its turn, from every publisher: with 16 a
	// room of eight had more than twice the delay.
	minWindow, maxWindow = 4, 256
	// windowDelay is how much later than in the best case confirmations may come for the window to
	// grow. More delay means a queue on the way, which makes nothing faster.
	windowDelay = 10 * time.Millisecond
	// windowStall is how long a neighbour may confirm nothing before it no longer holds up the
	// others. If all are silent, the network or the machine is more likely to be busy, and
	// WindowStallAll applies.
	windowStall    = 150 * time.Millisecond
	WindowStallAll = time.Second
	// maxMarks bounds what is remembered for neighbours that confirm nothing.
	maxMarks = 4096
)

// window tracks how much of this node's own feed is under way to each neighbour: published, and not
// confirmed. What has been written to a connection is not yet taken. Without the window, a
// publisher that is faster than its receivers fills all the buffers in between, which is tens of
// megabytes and seconds of delay. It is a plain state machine: the caller passes the time and holds
// the lock. The zero value is empty.
type window struct {
	sum   uint64 // envelopes published
	marks []mark // of the latest, by rising last and sum
	peers map[peer.ID]*peerWindow
}

type mark struct {
	last uint64 // sequence of the envelope's last item
	sum  uint64 // envelopes published with it
	sent time.Time
}

// peerWindow is what one neighbour has confirmed. A neighbour that never confirmed anything has
// none, and is not waited for.
type peerWindow struct {
	sum   uint64        // envelopes confirmed
	limit uint64        // how many may be under way
	best  time.Duration // from publishing to confirmation
	heard time.Time     // when the last confirmation came
}

// published notes an envelope that ends with item last.
func (w *window) published(now time.Time, last uint64) {
	if len(w.marks) >= maxMarks {
		w.marks = slices.Delete(w.marks, 0, maxMarks/2)
	}
	w.sum++
	w.marks = append(w.marks, mark{last, w.sum, now})
}

// confirmed notes that a neighbour has the envelope that ends with item last, and reports whether
// that is news.
func (w *window) confirmed(now time.Time, p peer.ID, last uint64) bool {
	i, found := slices.BinarySearchFunc(w.marks, last, func(m mark, last uint64) int { return cmp.Compare(m.last, last) })
	if !found {
		return false // confirmed by all, or never published
	}
	m := w.marks[i]
	took := now.Sub(m.sent)
	pw := w.peers[p]
	if pw == nil {
		if w.peers == nil {
			w.peers = make(map[peer.ID]*peerWindow)
		}
		pw = &peerWindow{limit: minWindow, best: took}
		w.peers[p] = pw
	}
	if m.sum <= pw.sum {
		return false
	}
	pw.sum, pw.heard, pw.best = m.sum, now, min(pw.best, took)
	if took <= pw.best+windowDelay {
		pw.limit = min(pw.limit+1, maxWindow)
	} else {
		pw.limit = max(pw.limit*3/4, minWindow)
	}
	w.trim()
	return true
}

// forget drops a neighbour that has gone.
func (w *window) forget(p peer.ID) {
	delete(w.peers, p)
	w.trim()
}

// trim drops the marks that all neighbours have confirmed.
func (w *window) trim() {
	if len(w.peers) == 0 {
		return
	}
	least := w.sum
	for _, pw := range w.peers {
		least = min(least, pw.sum)
	}
	w.marks = slices.Delete(w.marks, 0, w.after(least))
}

// after returns the index of the first mark beyond sum.
func (w *window) after(sum uint64) int {
	i, _ := slices.BinarySearchFunc(w.marks, sum+1, func(m mark, sum uint64) int { return cmp.Compare(m.sum, sum) })
	return i
}

// blocked returns how long the next envelope should wait at most; 0: not at all.
func (w *window) blocked(now time.Time) time.Duration {
	var wait, waitAll time.Duration
	full := 0
	for _, pw := range w.peers {
		if w.sum-pw.sum < pw.limit {
			continue
		}
		full++
		silent := now.Sub(w.silentSince(pw))
		wait = max(wait, max(windowStall, 2*pw.best)-silent)
		waitAll = max(waitAll, max(WindowStallAll, 2*pw.best)-silent)
	}
	if full > 0 && full == len(w.peers) {
		wait = waitAll
	}
	return max(wait, 0)
}

// silentSince returns when a neighbour's last confirmation came or, if that is later, when the
// first envelope that it has not confirmed was published.
func (w *window) silentSince(pw *peerWindow) time.Time {
	if i := w.after(pw.sum); i < len(w.marks) && w.marks[i].sent.After(pw.heard) {
		return w.marks[i].sent
	}
	return pw.heard
}
