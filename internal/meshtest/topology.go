package meshtest

import "sync"

// ConnectAll connects every host with every other.
func (n *Net) ConnectAll() {
	n.t.Helper()
	var pairs [][2]int
	for i := range n.Len() {
		for j := range i {
			pairs = append(pairs, [2]int{i, j})
		}
	}
	n.connect(pairs)
}

// Chain connects every host with the next: 0 - 1 - 2 - …
func (n *Net) Chain() {
	n.t.Helper()
	var pairs [][2]int
	for i := 1; i < n.Len(); i++ {
		pairs = append(pairs, [2]int{i - 1, i})
	}
	n.connect(pairs)
}

// Ring connects every host with the next ones, as many as given. The last hosts are connected with
// the first, so each host has twice as many connections.
func (n *Net) Ring(next int) {
	n.t.Helper()
	count := n.Len()
	var pairs [][2]int
	for i := range count {
		for k := 1; k <= next; k++ {
			pairs = append(pairs, [2]int{i, (i + k) % count})
		}
	}
	n.connect(pairs)
}

// Cycles connects the hosts in the given number of random cycles. Each host has two connections for
// each cycle, or fewer where two cycles share one. If any one host is gone, the rest is connected.
func (n *Net) Cycles(cycles int) {
	n.t.Helper()
	count := n.Len()
	var (
		pairs [][2]int
		have  = make(map[[2]int]bool)
	)
	for range cycles {
		n.mu.Lock()
		order := n.rng.Perm(count)
		n.mu.Unlock()
		for k := range count {
			if p := pair(order[k], order[(k+1)%count]); !have[p] {
				have[p] = true
				pairs = append(pairs, p)
			}
		}
	}
	n.connect(pairs)
}

// Star connects every host with the given one.
func (n *Net) Star(centre int) {
	n.t.Helper()
	var pairs [][2]int
	for i := range n.Len() {
		if i != centre {
			pairs = append(pairs, [2]int{i, centre})
		}
	}
	n.connect(pairs)
}

// Random connects the hosts into one connected graph with an average of degree connections per
// host: a random tree first, then random pairs. If the number of hosts does not allow that degree,
// it connects all pairs.
func (n *Net) Random(degree int) {
	n.t.Helper()
	n.connect(n.randomPairs(degree))
}

func (n *Net) randomPairs(degree int) [][2]int {
	count := n.Len()
	if degree >= count-1 {
		degree = count - 1
	}
	want := count * degree / 2
	n.mu.Lock()
	defer n.mu.Unlock()
	var (
		pairs [][2]int
		have  = make(map[[2]int]bool)
	)
	add := func(i, j int) {
		if p := pair(i, j); i != j && !have[p] {
			have[p] = true
			pairs = append(pairs, p)
		}
	}
	order := n.rng.Perm(count)
	for k := 1; k < count; k++ {
		add(order[k], order[n.rng.IntN(k)])
	}
	for len(pairs) < want {
		add(n.rng.IntN(count), n.rng.IntN(count))
	}
	return pairs
}

// acceptQueue is how many connections a host of libp2p holds that it has not accepted yet. It
// closes one that comes when there are as many, after the host that dials has reported success.
const acceptQueue = 16

// connect makes all connections, at most acceptQueue to each host at once. One after the other, the
// round trips of a large topology would take seconds of virtual time.
func (n *Net) connect(pairs [][2]int) {
	n.t.Helper()
	for len(pairs) > 0 {
		var (
			wg   sync.WaitGroup
			errs = make([]error, len(pairs))
			to   = make(map[int]int)
			left [][2]int
		)
		for k, p := range pairs {
			if to[p[1]]++; to[p[1]] > acceptQueue {
				left = append(left, p)
				continue
			}
			wg.Go(func() { errs[k] = n.TryConnect(p[0], p[1]) })
		}
		wg.Wait()
		for k, err := range errs {
			if err != nil {
				n.t.Fatalf("meshtest: connect %d to %d: %v", pairs[k][0], pairs[k][1], err)
			}
		}
		pairs = left
	}
}
