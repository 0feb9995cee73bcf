package mesh

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// hide makes the others not know that a station is logged in. What it returns tells them.
func (f *flock) hide(i int) (tell func()) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.all.sessions[f.at[i].host.ID()] = identity.Session{Incarnation: f.at[i].who.incarnation}
	return f.at[i].who.tell
}

// A name that is pinned while messages to it are on their way back means the pinned key from then
// on, for what is sent from then on.
func TestAMessageToAPinnedNameDoesNotFollowEarlierOnes(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		f.at[1].who.be(t, "x", true)
		rooms := []*Room{f.join(0, "ops"), f.join(1, "ops")}
		require.NoError(t, rooms[0].WaitPeers(t.Context(), 1))
		tell := f.hide(0)
		var sends []Pending[Receipt]
		for i := range 10 {
			s, err := rooms[0].SendAsync(t.Context(), "x", fmt.Append(nil, i))
			require.NoError(t, err)
			sends = append(sends, s)
		}
		time.Sleep(20 * time.Millisecond)
		require.Positive(t, f.at[1].Stats().DirectTurned)
		_, ok := f.at[0].cfg.pins.Pin("x", identity.PublicKey{42}) // another x
		require.True(t, ok)
		last, err := rooms[0].SendAsync(t.Context(), "x", []byte("for the pinned x"))
		require.NoError(t, err)
		tell()
		for _, s := range sends {
			_, err := s.Result()
			require.NoError(t, err)
		}
		_, err = last.Result()
		require.ErrorIs(t, err, ErrNotMember)
	})
}

// x refuses a message and leaves. Another x joins: a message that was accepted then is for that
// one, whatever becomes of the first.
func TestOneWhoIsNotFoundEndsTheMessagesToNobodyElse(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		f.at[1].who.be(t, "x", true)
		f.at[2].who.be(t, "x", true)
		here, former := f.join(0, "ops"), f.join(1, "ops")
		require.NoError(t, here.WaitPeers(t.Context(), 1))
		f.hide(0)
		first, err := here.SendAsync(t.Context(), "x", []byte("0"))
		require.NoError(t, err)
		time.Sleep(390 * time.Millisecond) // it has come back three times, and waits for 400 ms
		var leaving sync.WaitGroup
		leaving.Go(func() { _ = former.Leave(t.Context()) })
		for len(here.Members()) > 1 {
			time.Sleep(time.Millisecond)
		}
		f.all.mu.Lock()
		delete(f.all.sessions, f.at[1].host.ID()) // he has logged out as well
		f.all.mu.Unlock()
		f.at[0].who.tell()
		f.join(2, "ops")
		require.NoError(t, here.WaitPeers(t.Context(), 1))
		second, err := here.SendAsync(t.Context(), "x", []byte("1"))
		require.NoError(t, err)
		_, err = first.Result()
		require.ErrorIs(t, err, ErrRefused)
		r, err := second.Result()
		require.NoError(t, err)
		require.Equal(t, f.at[2].login(), r.To)
		leaving.Wait()
	})
}

func TestARoomThatWasLeftIsForgotten(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		_, err := rooms[0].Send(t.Context(), "u1", []byte("x"))
		require.NoError(t, err)
		_, err = rooms[0].SendAsync(t.Context(), "nobody", []byte("x"))
		require.NoError(t, err)
		left := weak.Make(rooms[0])
		for _, r := range rooms {
			require.NoError(t, r.Leave(t.Context()))
			_, err = r.SendAsync(t.Context(), "u1", []byte("x"))
			require.ErrorIs(t, err, ErrLeft)
		}
		clear(rooms)
		time.Sleep(time.Hour)
		for left.Value() != nil {
			runtime.GC() // a test that times out here has found what keeps it
			time.Sleep(time.Second)
		}
	})
}

func TestManyMessagesToAMemberThatDoesNotKnowThisOneYetKeepTheirOrder(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, f *flock) {
		f.net.Chain() // u0 and u2 are not connected
		rooms := f.joinAll("ops")
		read(t, rooms[2], 2)
		tell := f.hide(0)
		time.AfterFunc(60*time.Millisecond, tell)
		var sends []Pending[Receipt]
		var want []string
		for i := range 200 {
			s, err := rooms[0].SendAsync(t.Context(), "u2", fmt.Append(nil, i))
			require.NoError(t, err)
			sends, want = append(sends, s), append(want, fmt.Sprint("u0>", i))
		}
		for _, s := range sends {
			_, err := s.Result()
			require.NoError(t, err)
		}
		require.Equal(t, want, read(t, rooms[2], 200))
		require.Positive(t, f.at[2].Stats().DirectTurned)
	})
}

// A member refuses a message between two that it takes, as one that leaves and joins again does.
// The acknowledgement of the first must not let the refused one go after the third.
func TestARefusedMessageDoesNotArriveAfterALaterOne(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, f *flock) {
		f.net.ConnectAll()
		rooms := f.joinAll("ops")
		var mu sync.Mutex
		var got []string
		refused := false
		f.at[1].host.SetStreamHandler(DirectProtocol, func(s network.Stream) {
			defer s.Reset()
			r := newRaw(t, s)
			for owed := uint64(0); ; {
				if owed > 0 && !r.r.Ready() {
					r.ack(owed)
					owed = 0
				}
				m, ok := r.next()
				if !ok {
					return
				}
				if m.Type != wire.DirectFrame_MESSAGE {
					continue
				}
				mu.Lock()
				again := refused
				refused = refused || string(m.Payload) == "1"
				if takes := string(m.Payload) != "1" || again; takes {
					got = append(got, string(m.Payload))
					owed = m.Sequence
				} else {
					_, _ = r.Write((&wire.Direct{Type: wire.DirectFrame_REFUSE, Sequence: m.Sequence, Reason: wire.DirectFrame_NOT_MEMBER}).AppendFrame(nil))
				}
				mu.Unlock()
			}
		})
		_, err := rooms[0].Send(t.Context(), "u1", []byte("first")) // there is a stream
		require.NoError(t, err)
		sends := make([]Pending[Receipt], 3)
		for i := range sends {
			if i == 2 {
				time.Sleep(3 * time.Millisecond)
			}
			sends[i], err = rooms[0].SendAsync(t.Context(), "u1", fmt.Append(nil, i))
			require.NoError(t, err)
		}
		want := []string{"first"}
		for i, s := range sends {
			if _, err := s.Result(); err == nil {
				want = append(want, fmt.Sprint(i))
			} else {
				require.ErrorIs(t, err, ErrRefused)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, want, got)
	})
}
