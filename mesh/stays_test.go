package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
)

// wanderer is a station whose user joins, leaves, is cut off and comes back.
type wanderer struct {
	user  string
	room  *Room // nil: outside
	stays []*wandererStay
	away  bool        // it is cut off
	back  []time.Time // when it was connected again
}

// wandererStay is what happened in one stay.
type wandererStay struct {
	called, left time.Time // when Join and Leave were called
	unheard      bool      // when it left, it or another member was cut off
	events       []Event
	ends         []error
	read         chan struct{} // closed at the end of the events
}

// wander lets members join, leave, be cut off and come back at random, and returns what was wrong.
func wander(t *testing.T, seed uint64) (faults []string) {
	synctest.Test(t, func(t *testing.T) {
		const members = 4
		rng := rand.New(rand.NewPCG(seed, 0x57a7))
		f := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: members, Latency: 5 * time.Millisecond, Seed: seed + 1}), all: newHellos()}
		all := make([]*wanderer, members)
		for i := range members {
			all[i] = &wanderer{user: fmt.Sprintf("u%d", i)}
			f.at = append(f.at, f.all.station(t, f.net.Host(i), all[i].user))
		}
		f.net.ConnectAll()
		f.net.Loss(float64(rng.IntN(3)) * 2.5)
		reconnect := func() {
			for i := range members {
				for j := range i {
					if !all[i].away && !all[j].away {
						for range 20 {
							if f.net.TryConnect(i, j) == nil {
								break
							}
						}
					}
				}
			}
		}
		for range 14 {
			i := rng.IntN(members)
			w := all[i]
			switch {
			case w.room == nil:
				s := &wandererStay{called: time.Now(), read: make(chan struct{})}
				r, err := f.at[i].Join(t.Context(), "ops")
				if err != nil {
					faults = append(faults, fmt.Sprintf("%s cannot join: %v", w.user, err))
					continue
				}
				w.room, w.stays = r, append(w.stays, s)
				go s.follow(r)
			case w.away || rng.IntN(2) == 0:
				if w.away = !w.away; w.away {
					f.cutOff(i)
					break
				}
				f.net.Heal()
				for k, other := range all {
					if other.away {
						f.net.Isolate(k)
					}
				}
				reconnect()
				w.back = append(w.back, time.Now())
			default:
				s := w.stays[len(w.stays)-1]
				s.left, s.unheard = time.Now(), slices.ContainsFunc(all, func(o *wanderer) bool { return o.away && o.room != nil })
				_ = w.room.Leave(t.Context())
				w.room = nil
			}
			for _, w := range all {
				if w.room != nil {
					_, _ = w.room.PublishAsync(t.Context(), []byte(w.user))
				}
			}
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(3*time.Second)))
		}
		f.net.Heal()
		f.net.Loss(0)
		for _, w := range all {
			if w.away {
				w.away, w.back = false, append(w.back, time.Now())
			}
		}
		reconnect()
		time.Sleep(40 * time.Second)
		var present []string
		for _, w := range all {
			if w.room != nil {
				present = append(present, w.user)
			}
		}
		for _, w := range all {
			if w.room != nil {
				var got []string
				for _, m := range w.room.Members() {
					got = append(got, m.User)
				}
				if !slices.Equal(present, got) {
					faults = append(faults, fmt.Sprintf("%s has %q in the room, not %q", w.user, got, present))
				}
			}
		}
		var leaving sync.WaitGroup
		for _, w := range all {
			if w.room != nil {
				w.stays[len(w.stays)-1].left = time.Now()
				leaving.Go(func() { _ = w.room.Leave(t.Context()) })
			}
		}
		leaving.Wait()
		for _, w := range all {
			for k, s := range w.stays {
				<-s.read
				faults = append(faults, s.judge(all, fmt.Sprintf("%s in stay %d", w.user, k))...)
			}
		}
	})
	return faults
}

// follow reads all events of a stay, and twice its end.
func (s *wandererStay) follow(r *Room) {
	defer close(s.read)
	for len(s.ends) < 2 {
		ev, err := r.Recv(context.Background())
		if err != nil {
			s.ends = append(s.ends, err)
		} else {
			s.events = append(s.events, ev)
		}
	}
}

// judge returns what is wrong with the events of a stay.
func (s *wandererStay) judge(all []*wanderer, name string) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, name+": "+fmt.Sprintf(format, args...)) }
	if !errors.Is(s.ends[0], ErrLeft) || s.ends[1] != s.ends[0] {
		fault("it ends with %v", s.ends)
	}
	first := slices.IndexFunc(s.events, func(ev Event) bool { _, delayed := ev.(*JoinDelayed); return !delayed })
	if first < 0 {
		fault("no events")
		return faults
	}
	if ready, ok := s.events[first].(*RoomReady); !ok || ready.Join != FirstJoin {
		fault("the first event is %s", line(s.events[first]))
	}
	rank, since := 0, time.Time{}
	there := make(map[string]bool)
	for i, ev := range s.events {
		at, h := 0, ev.Head()
		switch ev := ev.(type) {
		case *RoomReady:
			rank, since = 0, h.Time
			if ev.Join == FirstJoin && i != first {
				fault("it is ready first at event %d", i)
			}
		case *MemberLeft:
			at = 1
			if !there[ev.Member.User] {
				fault("%s left without having come", ev.Member.User)
			}
			there[ev.Member.User] = false
			if ev.Reason == Quit && !all[index(ev.Member.User)].leftBy(h.Time, ev.Member.Since) {
				fault("%s quit at %v, but has not", ev.Member.User, h.Time.Sub(s.called))
			}
		case *MemberJoined:
			at = 2
			if there[ev.Member.User] {
				fault("%s has come twice", ev.Member.User)
			}
			there[ev.Member.User] = true
			if !all[index(ev.Member.User)].insideAt(h.Time, all) {
				fault("%s has come at %v, but was not there", ev.Member.User, h.Time.Sub(s.called))
			}
		case *Message:
			at = 3
			if goes(s.events[i:], ev.From.User, h.Time) {
				at = 1 // nothing of a stay comes after its end
			}
		case *MemberSilent, *MemberHeard:
			continue
		}
		if h.Time.Equal(since) && at > 0 {
			if at < rank {
				fault("%s after what should come later", line(ev))
			}
			rank = max(rank, at)
		}
	}
	return faults
}

// goes reports whether the user leaves at a time.
func goes(events []Event, user string, at time.Time) bool {
	return slices.ContainsFunc(events, func(ev Event) bool {
		left, ok := ev.(*MemberLeft)
		return ok && left.Member.User == user && left.Time.Equal(at)
	})
}

func index(user string) int { return int(user[1] - '0') }

// moment is how long news may take while packets are lost. unheardFor is how long a member counts
// as one whose goodbye could not be heard: its silence is noticed, and the grace ends.
const (
	moment     = 5 * time.Second
	unheardFor = (11+10)*time.Second + moment
)

// leftBy reports whether the user may be said to have left at a time, by another that has known it
// since: it has left, and has not been back for longer than the other knows it.
func (w *wanderer) leftBy(at, since time.Time) bool {
	left := false
	for _, s := range w.stays {
		if s.left.IsZero() || s.left.After(at) {
			return left && since.Before(s.called.Add(moment))
		}
		left = true
	}
	return left
}

// insideAt reports whether the user was in the room at a time, as far as others can know.
func (w *wanderer) insideAt(at time.Time, all []*wanderer) bool {
	return slices.ContainsFunc(w.stays, func(s *wandererStay) bool {
		if at.Before(s.called) {
			return false
		}
		late := s.left
		for _, other := range all {
			for _, back := range other.back {
				if back.After(late) && !back.After(at) {
					late = back // it may have been away when the user left
				}
			}
		}
		wait := moment
		if s.unheard {
			wait = unheardFor
		}
		return s.left.IsZero() || !at.After(late.Add(wait))
	})
}

// Every join has one outcome and every stay one end. A stay begins with the event that it is ready,
// and nothing of an earlier one reaches it: not even if members come, go, are cut off and come back
// while packets are lost.
func TestStaysBeginOnceEndOnceAndDoNotReachIntoEachOther(t *testing.T) {
	for _, seed := range meshtest.Seeds(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			require.Empty(t, wander(t, seed))
		})
	}
}
