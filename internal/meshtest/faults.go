package meshtest

import "fmt"

// rules decide which packets are lost. Guarded by Net.mu.
type rules struct {
	cut    map[[2]int]bool
	paused map[int]bool
	dead   map[int]bool
	loss   float64 // share, 0 to 1
	drop   func(from, to, size int) bool
}

func pair(i, j int) [2]int {
	if i > j {
		i, j = j, i
	}
	return [2]int{i, j}
}

// blockedLocked reports whether no packets currently pass from one host to another.
func (r *rules) blockedLocked(from, to int) bool {
	return r.dead[from] || r.dead[to] || r.paused[from] || r.paused[to] || r.cut[pair(from, to)]
}

// Cut drops all packets between hosts i and j, in both directions, until [Net.Heal].
func (n *Net) Cut(i, j int) { n.Split([]int{i}, []int{j}) }

// Split drops all packets between any host of a and any host of b until [Net.Heal]. It does not
// affect hosts in neither, or connections within a and within b.
func (n *Net) Split(a, b []int) {
	for _, i := range append(append([]int(nil), a...), b...) {
		n.node(i) // panics unless it exists
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rules.cut == nil {
		n.rules.cut = make(map[[2]int]bool)
	}
	for _, i := range a {
		for _, j := range b {
			if i != j {
				n.rules.cut[pair(i, j)] = true
			}
		}
	}
}

// Isolate cuts host i off from every other.
func (n *Net) Isolate(i int) {
	var rest []int
	for j := range n.Len() {
		if j != i {
			rest = append(rest, j)
		}
	}
	n.Split([]int{i}, rest)
}

// Heal undoes every [Net.Cut], [Net.Split], [Net.Isolate] and [Net.Drop]. It does not reconnect
// hosts.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules.cut = nil
	n.rules.drop = nil
}

// Loss drops the given percentage of all packets at random. 0 ends it.
func (n *Net) Loss(percent float64) {
	if percent < 0 || percent > 100 {
		panic(fmt.Sprintf("meshtest: loss of %v percent", percent))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules.loss = percent / 100
}

// Drop sets a rule of the test: packets for which it returns true are lost, until [Net.Heal]. The
// rule is called with the network's lock held and must not call the network's methods. size is in
// bytes of UDP payload.
func (n *Net) Drop(rule func(from, to, size int) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules.drop = rule
}

// Pause drops all packets to and from host i until [Net.Resume]. The host keeps running: unlike a
// stopped process, it notices the silence.
func (n *Net) Pause(i int) {
	n.node(i)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rules.paused == nil {
		n.rules.paused = make(map[int]bool)
	}
	n.rules.paused[i] = true
}

// Resume ends a [Net.Pause].
func (n *Net) Resume(i int) {
	n.node(i)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.rules.paused, i)
}

// Kill ends host i as a crash does: nothing leaves or reaches it from now on, and then it is
// closed, so that no peer receives a good-bye. The test still has to close what it built on the
// host.
func (n *Net) Kill(i int) {
	h := n.Host(i)
	n.mu.Lock()
	if n.rules.dead == nil {
		n.rules.dead = make(map[int]bool)
	}
	n.rules.dead[i] = true
	n.mu.Unlock()
	h.Close()
}

// Restart starts host i again with its key, address and options. It first closes the host if it
// still runs; peers then receive a good-bye, unless the host was killed. The new host has no
// connections. Cuts and pauses remain.
func (n *Net) Restart(i int) {
	n.t.Helper()
	n.Host(i).Close()
	n.mu.Lock()
	delete(n.rules.dead, i)
	n.mu.Unlock()
	n.start(i)
}
