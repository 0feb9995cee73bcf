package node_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

const (
	// devices log in as one user, and observers ask for that user.
	devices, observers = 3, 3
	// healTime is how long after the end of a split everybody knows what is true.
	healTime = 25 * time.Second
)

// deviceSeeds are the schedules of [TestAUserOnThreeDevicesIsOneAfterEachSplit]. In each something
// was wrong once: a status of the other side of a split, two log-ins at once for minutes, and a
// directory that was empty after a short cut.
var deviceSeeds = []uint64{10, 70, 178}

// A user logs in and out on three devices at random while the network is split and healed at
// random; it also joins a room now and then, in which the others are if the seed is odd. After each
// split one device is logged in at most: the one that logged in last, if it has not logged out.
// Everybody who asks then gets the answer that is true, and sees in the room who is there.
func TestAUserOnThreeDevicesIsOneAfterEachSplit(t *testing.T) {
	key := userKey(t)
	for _, seed := range meshtest.Seeds(t, deviceSeeds...) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &deviceRun{
					sim: newSim(t, devices+observers, func(i int) []node.Option {
						if i < devices {
							return []node.Option{node.WithUserKey(key)}
						}
						return nil
					}),
					rand: rand.New(rand.NewPCG(seed, 0)), last: -1,
				}
				d.ConnectAll()
				for i := devices; i < devices+observers; i++ {
					d.login(i, fmt.Sprint("u", i))
					if seed%2 == 1 {
						d.rooms = append(d.rooms, d.join(i, "ops"))
					}
				}
				d.settle()
				for range 4 {
					d.split()
				}
			})
		})
	}
}

type deviceRun struct {
	*sim
	rand  *rand.Rand
	rooms []*mesh.Room // of the observers
	last  int          // the device that logged in last, if it has not logged out; -1: it has, or none did
	log   []string
}

func (d *deviceRun) note(format string, args ...any) {
	d.log = append(d.log, fmt.Sprintf("%v: ", time.Now().Format("04:05.000"))+fmt.Sprintf(format, args...))
}

// act logs a device in, or out.
func (d *deviceRun) act() {
	i := d.rand.IntN(devices)
	n := d.nodes[i]
	if n.LoggedIn() && d.rand.IntN(3) == 0 {
		d.note("%d logs out", i)
		require.NoError(d.t, n.Logout(within(d.t)))
		if d.last == i {
			d.last = -1
		}
	} else if !n.LoggedIn() {
		d.note("%d logs in", i)
		d.login(i, "alice")
		d.last = i
		if _, in := n.Room("ops"); !in && d.rand.IntN(2) == 0 {
			d.note("%d joins", i)
			d.join(i, "ops")
		}
	}
}

// split parts the network for 5 to 215 s, and looks after its healing.
func (d *deviceRun) split() {
	var sides [2][]int
	for i := range devices + observers {
		side := d.rand.IntN(2)
		sides[side] = append(sides[side], i)
	}
	d.note("split %v", sides)
	d.Split(sides[0], sides[1])
	ends := time.Now().Add(5*time.Second + time.Duration(d.rand.Int64N(int64(210*time.Second))))
	for range d.rand.IntN(5) {
		if time.Sleep(time.Duration(d.rand.Int64N(int64(40 * time.Second)))); time.Now().After(ends) {
			break
		}
		d.act()
	}
	time.Sleep(time.Until(ends))
	d.note("healed")
	d.Heal()
	time.Sleep(healTime)
	d.look()
	for range d.rand.IntN(3) {
		d.act()
		time.Sleep(time.Duration(d.rand.Int64N(int64(5 * time.Second))))
	}
}

func (d *deviceRun) look() {
	defer func() {
		if d.t.Failed() {
			d.t.Fatalf("%v", d.log)
		}
	}()
	want, self := presence.Offline, identity.Login{}
	for i, n := range d.nodes[:devices] {
		if !n.LoggedIn() {
			continue
		}
		if want == presence.Online {
			d.t.Errorf("%d is logged in as well as %v", i, self)
		}
		want, self = presence.Online, n.Self()
		if d.last >= 0 && d.last != i {
			d.t.Errorf("%d is logged in, and %d logged in last", i, d.last)
		}
	}
	if d.last >= 0 && !d.nodes[d.last].LoggedIn() {
		d.t.Errorf("%d logged in last, and is not logged in", d.last)
	}
	for _, r := range d.rooms {
		var got, want []identity.Login
		for _, m := range r.Members() {
			got = append(got, m.Login)
		}
		for _, n := range d.nodes {
			if _, ok := n.Room("ops"); ok {
				want = append(want, n.Self())
			}
		}
		require.ElementsMatch(d.t, want, got, "%v", d.log)
	}
	for i := devices; i < devices+observers; i++ {
		s, err := d.nodes[i].Status(within(d.t), "alice")
		if err != nil {
			d.t.Errorf("%d asks: %v", i, err)
		}
		if s.State != want || want == presence.Online && s.Login != self {
			d.t.Errorf("%d is told %v of %v (%v, %v old), want %v of %v", i, s.State, s.Login, s.Source, s.Age, want, self)
		}
	}
}
