package mesh

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// flock is simulated hosts with a mesh each, whose users are u0, u1 and so on.
type flock struct {
	t   *testing.T
	net *meshtest.Net
	all *hellos
	at  []*station
}

// inBubble runs f with n stations on a simulated network. f connects them.
func inBubble(t *testing.T, n int, f func(*testing.T, *flock), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fl := &flock{t: t, net: meshtest.New(t, meshtest.Options{Hosts: n, Latency: 5 * time.Millisecond}), all: newHellos()}
		for i := range n {
			fl.at = append(fl.at, fl.all.station(t, fl.net.Host(i), fmt.Sprintf("u%d", i), opts...))
		}
		f(t, fl)
	})
}

// join enters the room with station i.
func (f *flock) join(i int, room string, opts ...JoinOption) *Room {
	f.t.Helper()
	r, err := f.at[i].Join(f.t.Context(), room, opts...)
	require.NoError(f.t, err)
	return r
}

// joinAll enters the room with every station at once, and waits until each knows all.
func (f *flock) joinAll(room string) []*Room {
	f.t.Helper()
	rooms := make([]*Room, len(f.at))
	errs := make(chan error, len(f.at))
	for i, s := range f.at {
		go func() {
			var err error
			rooms[i], err = s.Join(f.t.Context(), room)
			errs <- err
		}()
	}
	for range f.at {
		require.NoError(f.t, <-errs)
	}
	for i, r := range rooms {
		ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
		require.NoError(f.t, r.WaitPeers(ctx, len(f.at)-1), "station %d", i)
		cancel()
	}
	return rooms
}

// line is an event in short: "u1:hello", "u1>hello" for one to this member alone, "+u1", "-u1
// quit", "?u1" and "!u1" when it is silent and heard again, "ready first", "delayed 1", "lagged 3",
// "lost u1 2-3".
func line(ev Event) string {
	switch ev := ev.(type) {
	case *Message:
		return ev.From.User + ":" + string(ev.Data)
	case *DirectMessage:
		return ev.From.User + ">" + string(ev.Data)
	case *MemberJoined:
		return "+" + ev.Member.User
	case *MemberLeft:
		return "-" + ev.Member.User + " " + string(ev.Reason)
	case *RoomSize:
		if ev.Large {
			return fmt.Sprintf("large %d", ev.Members)
		}
		return fmt.Sprintf("small %d", ev.Members)
	case *JoinDelayed:
		return fmt.Sprintf("delayed %d", ev.Members)
	case *RoomReady:
		return fmt.Sprintf("ready %s", ev.Join)
	case *MemberSilent:
		return "?" + ev.Member.User
	case *MemberHeard:
		return "!" + ev.Member.User
	case *Lagged:
		return fmt.Sprintf("lagged %d", ev.Missed)
	case *GapLost:
		return fmt.Sprintf("lost %s %d-%d", ev.From.User, ev.First, ev.Last)
	}
	return fmt.Sprintf("%T", ev)
}

// recv reads an event, or the end of the stay. It waits for a minute: the beats of a room go on, so
// in a bubble a wait without a limit never ends.
func recv(t *testing.T, r *Room) (Event, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return passing(ctx, r)
}

// next reads one event, as recv does.
func next(t *testing.T, r *Room) Event {
	t.Helper()
	ev, err := recv(t, r)
	require.NoError(t, err)
	return ev
}

// read reads n events.
func read(t *testing.T, r *Room, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range n {
		ev, err := passing(ctx, r)
		require.NoError(t, err, "after %q", got)
		got = append(got, line(ev))
	}
	return got
}

// passing returns the room's next event, but passes over those that say how this node and the
// members can be reached, which have tests of their own.
func passing(ctx context.Context, r *Room) (Event, error) {
	for {
		ev, err := r.Recv(ctx)
		switch ev.(type) {
		case *JoinDelayed, *RoomReady, *MemberSilent, *MemberHeard:
			continue
		}
		return ev, err
	}
}

// quiet checks that nothing more comes within d.
func quiet(t *testing.T, r *Room, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	ev, err := passing(ctx, r)
	if err == nil {
		t.Fatalf("an event nobody sent: %s", line(ev))
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func users(r *Room) (names []string) {
	for _, m := range r.Members() {
		names = append(names, m.User)
	}
	return names
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func disconnect(t *testing.T, f *flock, i, j int) {
	t.Helper()
	require.NoError(t, f.net.Host(i).Network().ClosePeer(f.net.ID(j)))
	require.NoError(t, f.net.Host(j).Network().ClosePeer(f.net.ID(i)))
	synctest.Wait()
}

// cutOff lets nothing reach or leave station i, and ends its connections.
func (f *flock) cutOff(i int) {
	f.t.Helper()
	f.net.Isolate(i)
	for j := range f.at {
		if j != i {
			disconnect(f.t, f, i, j)
		}
	}
}

// settled connects all stations, lets all enter the room, and passes over what that told them.
func (f *flock) settled(room string) []*Room {
	f.t.Helper()
	f.net.ConnectAll()
	rooms := f.joinAll(room)
	settle()
	for _, r := range rooms {
		during(f.t, r, 5*time.Second)
	}
	return rooms
}

// inside returns what a room's stay holds.
func (r *Room) inside() stay.Inside {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stay.Inspect()
}
