package node

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// reason is why a node wants a connection to a peer; it can have several at once.
type reason uint8

const (
	given reason = 1 << iota // the program gave it: for ever
	// inRoom: it was connected and is a member of a joined room, or was recently dropped from one.
	inRoom
	onLAN     // it announced itself on the local network
	connected // it was connected and belongs to our app
	kept      // it is remembered from an earlier run
)

const (
	// maxTargets bounds what the redialer knows, since any peer on the LAN can announce peers.
	// Given ones are never evicted.
	maxTargets = 2048
	// maxDialling bounds the dials under way at once.
	maxDialling = 16
	// maxKept is how many remembered peers are tried again: those seen last.
	maxKept = 64

	// A lost peer is dialled at once, then every second, and after quickTries with doubling pauses.
	// For a peer that a room wants, the pauses double only after roomTries: so a network that was
	// split for a minute or two comes together as soon as it can.
	quickPause = time.Second
	quickTries = 10
	roomTries  = 60
	// keptPause is the first pause for a peer that is only remembered. It doubles too: most such
	// peers are simply not there.
	keptPause = 5 * time.Second
	// wantedPause bounds the pauses for given peers and room members, slowPause the pauses for
	// others.
	wantedPause = 30 * time.Second
	slowPause   = 5 * time.Minute
	// recentPause bounds the pauses for peers that were lost in the last giveUp: when a split
	// heals, one of the other side is reached within seconds, however long the split was, and those
	// that were lost together with it are dialled then. Of many lost peers one is dialled every
	// recentSpread.
	recentPause  = 10 * time.Second
	recentSpread = 400 * time.Millisecond
	// giveUp is how long a peer that was lost or announced is dialled without coming back.
	giveUp = 10 * time.Minute
	// A peer that hello refuses is left alone for a while: longer if the reason is less likely to
	// change.
	foreignPause = 10 * time.Minute // it is of another app
	refusedPause = 30 * time.Second // anything else, such as clocks that disagree
	// lostTogether is the longest time between losses of peers that may have one cause, such as a
	// cable: some connections end at once, and those over which nothing is sent end after 9 s
	// (keepAlive and writeTimeout).
	lostTogether = 10 * time.Second
	// yield is how long the peer with the higher ID waits before it dials one that both have just
	// heard of on the LAN, so that they do not end up with two connections.
	yield = 300 * time.Millisecond
)

// redialer decides which peers to dial, and when. It is a plain state machine: the caller supplies
// the time and does the dialling.
type redialer struct {
	self     peer.ID
	jitter   func() float64 // in [0,1)
	targets  map[peer.ID]*target
	dialling int
}

// target is a peer to which a connection is wanted.
type target struct {
	addrs    []ma.Multiaddr
	why      reason
	up       bool
	dialling bool
	failures int
	next     time.Time // when to dial it, unless it is up or being dialled
	since    time.Time // when it was last known to be there
	lost     time.Time // when its last connection ended; zero: it has had none, or has one
	refused  time.Time // not to be dialled before
	proven   bool      // it has proved who it is, and was not refused since
	told     Failure   // why a given peer failed, as reported to the program; empty: not reported
}

// denied reports whether the peer was refused, and has not proved who it is since.
func (t *target) denied() bool { return !t.proven && !t.refused.IsZero() }

// attempt is a dial to be made.
type attempt struct {
	peer    peer.ID
	addrs   []ma.Multiaddr
	timeout time.Duration
}

func newRedialer(self peer.ID) *redialer {
	return &redialer{self: self, jitter: rand.Float64, targets: make(map[peer.ID]*target)}
}

// want adds a reason to keep a connection to p, and addresses to dial it at. A new peer is due at
// once.
func (r *redialer) want(now time.Time, p peer.ID, addrs []ma.Multiaddr, why reason) {
	if p == r.self {
		return
	}
	t := r.targets[p]
	if t == nil {
		if len(r.targets) >= maxTargets && !r.evict(why) {
			return
		}
		t = &target{next: now}
		r.targets[p] = t
		if why == onLAN && r.self > p {
			t.next = now.Add(yield)
		}
	}
	if fresh := !known(t.addrs, addrs); fresh || why&^t.why != 0 {
		// New addresses, or a new reason, are worth a try without waiting for the pause to end.
		t.failures = 0
		if t.next.After(now.Add(yield)) && now.After(t.refused) {
			t.next = now
		}
	}
	t.why |= why
	t.addrs = merge(addrs, t.addrs)
	t.since = now
}

// unwant takes a reason away.
func (r *redialer) unwant(p peer.ID, why reason) {
	t := r.targets[p]
	if t == nil {
		return
	}
	t.why &^= why
	r.drop(p, t)
}

// rooms sets which peers joined rooms want. Only peers that were connected before are dialled for
// them.
func (r *redialer) rooms(now time.Time, wanted map[peer.ID]bool) {
	for p, t := range r.targets {
		switch {
		case !wanted[p]:
			r.unwant(p, inRoom)
		case t.why&inRoom == 0 && t.why&connected != 0:
			r.want(now, p, nil, inRoom)
		}
	}
}

// wants reports whether p is wanted for one of the given reasons.
func (r *redialer) wants(p peer.ID, why reason) bool {
	t := r.targets[p]
	return t != nil && t.why&why != 0
}

// link sets whether p is connected. A peer that has lost its connection is due at once.
func (r *redialer) link(now time.Time, p peer.ID, up bool) {
	t := r.targets[p]
	if t == nil || t.up == up {
		return
	}
	alone, lost := !r.anyUp(), t.lost
	t.up, t.since, t.lost = up, now, time.Time{}
	switch {
	case !up:
		t.lost = now
	case alone:
		r.wake(now) // the network is back
	case !lost.IsZero():
		r.backWith(now, lost)
	}
	if !t.proven {
		if !up {
			r.fail(now, t) // the other side has closed it, or this node
		}
		return
	}
	t.failures = 0
	t.next = later(now, t.refused)
}

// fail makes a target wait after a failure.
func (r *redialer) fail(now time.Time, t *target) {
	t.failures++
	t.next = later(now.Add(r.pause(now, t)), t.refused)
}

// backWith makes those peers due whose pauses have grown since they were lost together with a peer
// that is back.
func (r *redialer) backWith(now, lost time.Time) {
	for _, t := range r.targets {
		if !t.up && t.failures > quickTries && !t.lost.IsZero() && t.lost.Sub(lost).Abs() <= lostTogether && !t.denied() {
			t.failures, t.next = 0, now
		}
	}
}

func (r *redialer) anyUp() bool {
	for _, t := range r.targets {
		if t.up {
			return true
		}
	}
	return false
}

// dialled records how an attempt ended.
func (r *redialer) dialled(now time.Time, p peer.ID, ok bool) {
	t := r.targets[p]
	if t == nil || !t.dialling {
		return
	}
	t.dialling = false
	r.dialling--
	switch {
	case ok && !t.proven:
		t.next = later(t.next, now.Add(quickPause)) // the end of the connection is the failure
		return
	case ok:
		t.failures = 0
		t.since = now
		// If no connection shows, or it is gone already, the next attempt waits as after a failure.
		t.next = now.Add(quickPause)
		return
	}
	r.fail(now, t)
	if t.why&(given|inRoom|kept) == 0 && now.Sub(t.since) > giveUp {
		t.why = 0
	}
	r.drop(p, t)
}

// refuse records that no hello with p is possible for now.
func (r *redialer) refuse(now time.Time, p peer.ID, pause time.Duration) {
	t := r.targets[p]
	if t == nil {
		return
	}
	t.refused, t.proven = now.Add(pause), false
	t.next = t.refused
	t.why &= given | onLAN
}

// failed records why a given peer could not be connected to, and reports whether that is new.
func (r *redialer) failed(p peer.ID, why Failure) bool {
	t := r.targets[p]
	if t == nil || t.why&given == 0 || t.told == why {
		return false
	}
	t.told = why
	return true
}

// met records that a peer has proved who it is.
func (r *redialer) met(p peer.ID) {
	if t := r.targets[p]; t != nil {
		t.told, t.proven = "", true
	}
}

// wake makes every peer due that is not connected: the node has slept, or is on another network.
func (r *redialer) wake(now time.Time) {
	for _, t := range r.targets {
		if !t.up && !t.denied() {
			t.failures, t.next = 0, now
		}
	}
}

// due returns the attempts to make now, and when to call it again (zero: when something has
// changed). While crowded, only given peers and room members are dialled: the connection manager
// has closed the others on purpose.
func (r *redialer) due(now time.Time, crowded bool) (start []attempt, next time.Time) {
	var ready []peer.ID
	for p, t := range r.targets {
		switch {
		case t.up || t.dialling || t.why == 0 || len(t.addrs) == 0 || crowded && t.why&(given|inRoom) == 0:
		case !t.next.After(now):
			ready = append(ready, p)
		case next.IsZero() || t.next.Before(next):
			next = t.next
		}
	}
	slices.SortFunc(ready, func(a, b peer.ID) int {
		x, y := r.targets[a], r.targets[b]
		return cmp.Or(cmp.Compare(rank(x.why), rank(y.why)), x.next.Compare(y.next), cmp.Compare(a, b))
	})
	for _, p := range ready[:min(len(ready), maxDialling-r.dialling)] {
		t := r.targets[p]
		t.dialling = true
		r.dialling++
		a := attempt{p, slices.Clone(t.addrs), attemptTimeout}
		if slow := t.failures%slowEvery == slowEvery-1; (t.why&inRoom != 0 || t.recent(now)) && !slow {
			a.timeout = quickTimeout
		}
		start = append(start, a)
	}
	return start, next
}

// rank is the order in which reasons are served: the lowest bit that is set.
func rank(why reason) int {
	for i := range 8 {
		if why&(1<<i) != 0 {
			return i
		}
	}
	return 8
}

// recent reports whether the peer was lost so short a time ago that it may be back soon.
func (t *target) recent(now time.Time) bool {
	return t.proven && !t.lost.IsZero() && now.Sub(t.lost) < giveUp
}

// pause returns how long to wait after a failure. It varies by a quarter, so that two nodes do not
// dial in step for ever.
func (r *redialer) pause(now time.Time, t *target) time.Duration {
	first, free, most := quickPause, quickTries, slowPause
	switch {
	case t.why&^kept == 0:
		first, free = keptPause, 1
	case t.why&inRoom != 0:
		free = roomTries
	}
	if t.why&(given|inRoom) != 0 {
		most = wantedPause
	}
	if t.recent(now) {
		most = min(most, max(recentPause, time.Duration(r.countRecent(now))*recentSpread))
	}
	d := first
	for n := t.failures - free; n > 0 && d < most; n-- {
		d *= 2
	}
	d = min(d, most)
	return d - d/4 + time.Duration(r.jitter()*float64(d/2))
}

func (r *redialer) countRecent(now time.Time) (n int) {
	for _, t := range r.targets {
		if t.recent(now) {
			n++
		}
	}
	return n
}

// drop forgets a target that has no reason left, unless it must be remembered as refused.
func (r *redialer) drop(p peer.ID, t *target) {
	if t.why == 0 && !t.dialling && t.refused.IsZero() {
		delete(r.targets, p)
	}
}

// evict makes room for a target with the given reason by dropping one that matters no more.
func (r *redialer) evict(why reason) bool {
	var worst peer.ID
	for p, t := range r.targets {
		if t.up || t.dialling || t.why&given != 0 || rank(t.why) < rank(why) {
			continue
		}
		w := r.targets[worst]
		if w == nil || cmp.Or(cmp.Compare(rank(w.why), rank(t.why)), t.since.Compare(w.since)) < 0 {
			worst = p
		}
	}
	if worst == "" {
		return false
	}
	delete(r.targets, worst)
	return true
}

// maxTargetAddrs bounds the addresses of one peer: as many as are remembered.
const maxTargetAddrs = 16

// merge puts new addresses in front of the known ones.
func merge(fresh, old []ma.Multiaddr) []ma.Multiaddr {
	out := make([]ma.Multiaddr, 0, len(fresh)+len(old))
	for _, a := range append(slices.Clone(fresh), old...) {
		if a != nil && len(out) < maxTargetAddrs && !ma.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func known(old, addrs []ma.Multiaddr) bool {
	return !slices.ContainsFunc(addrs, func(a ma.Multiaddr) bool { return !ma.Contains(old, a) })
}
