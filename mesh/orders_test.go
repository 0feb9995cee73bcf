package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// enter joins with a token that carries a role.
func (g *guild) enter(i int, role string) *Room {
	g.t.Helper()
	r, err := g.tryEnter(i, role)
	require.NoError(g.t, err)
	return r
}

func (g *guild) tryEnter(i int, role string) (*Room, error) {
	g.t.Helper()
	return g.flock.at[i].Join(g.t.Context(), "ops", WithToken(g.token(i, 24*time.Hour, func(c *identity.Claims) { c.Rooms["ops"] = role })))
}

// enterAll makes the first station a moderator and the others members, and reads who they are.
func (g *guild) enterAll() (rooms []*Room) {
	g.t.Helper()
	for i := range g.flock.at {
		role := "member"
		if i == 0 {
			role = identity.RoleModerator
		}
		rooms = append(rooms, g.enter(i, role))
	}
	for _, r := range rooms {
		read(g.t, r, len(rooms)-1)
	}
	return rooms
}

func ownToken(r *Room) (token string) {
	r.do(func(st *stay.Stay, _ time.Time) { token = st.Own().Token })
	return token
}

func ownUser(r *Room) (user string) {
	r.do(func(st *stay.Stay, _ time.Time) { user = st.Own().Statement.User })
	return user
}

// overheard is what reaches a node of a room, beside orders.
type overheard struct {
	room [32]byte
	m    *Mesh

	mu    sync.Mutex
	heard []string
}

// overhear records what a station receives on its room and sync streams.
func (g *guild) overhear(i int, room [32]byte) *overheard {
	m := g.flock.at[i].Mesh
	o := &overheard{room: room, m: m}
	m.host.SetStreamHandler(RoomProtocol, func(s network.Stream) { m.handleRoomStream(&tee{Stream: s, to: o}) })
	for _, p := range m.host.Network().Peers() { // streams that are open bypass it
		for _, c := range m.host.Network().ConnsToPeer(p) {
			for _, s := range c.GetStreams() {
				if s.Protocol() == RoomProtocol && s.Stat().Direction == network.DirInbound {
					_ = s.Reset()
				}
			}
		}
	}
	time.Sleep(2 * time.Second)
	return o
}

// tee copies what is read of a stream of frames.
type tee struct {
	network.Stream
	to  *overheard
	buf bytes.Buffer
}

func (t *tee) Read(b []byte) (int, error) {
	n, err := t.Stream.Read(b)
	t.buf.Write(b[:n])
	for {
		rest := bytes.NewReader(t.buf.Bytes())
		var f wire.RoomFrame
		if wire.NewReader(onlyReader{rest}, maxRoomFrame).Next(&f) != nil {
			return n, err
		}
		frame, _ := wire.AppendFrame(nil, &f)
		t.buf.Next(len(frame))
		if f.GetOrders() == nil && bytes.Equal(f.Room, t.to.room[:]) {
			t.to.mu.Lock()
			t.to.heard = append(t.to.heard, strings.Fields(f.String())[0]+" "+fmt.Sprintf("%T", f.Body))
			t.to.mu.Unlock()
		}
	}
}

type onlyReader struct{ io.Reader }

// forget drops what was heard, and returns what else was counted until now.
func (o *overheard) forget() (counted uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = nil
	return o.counted()
}

func (o *overheard) counted() uint64 {
	s := o.m.Stats()
	return s.EnvelopesTaken + s.EnvelopeDuplicates + s.EnvelopesRejected + s.EnvelopesStale + s.EnvelopesPulled + s.DirectTaken
}

// nags makes a station ask its neighbours for everything, over and over.
func (g *guild) nag(r *Room) {
	m := r.mesh
	for _, p := range m.host.Network().Peers() {
		r.do(func(st *stay.Stay, now time.Time) { st.Again(now, p) })
		m.tell(p, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Query_{Query: new(wire.RoomFrame_Query)}})
		var feeds []*wire.Want
		r.do(func(st *stay.Stay, _ time.Time) {
			for tag := range st.Inspect().Positions {
				feeds = append(feeds, &wire.Want{Feed: tag[:], First: 1})
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		if s, err := m.host.NewStream(ctx, p, SyncProtocol); err == nil {
			_ = wire.WriteFrame(s, &wire.SyncRequest{Room: r.tag[:], Wants: feeds})
			_ = s.CloseWrite()
			_ = s.SetReadDeadline(time.Now().Add(3 * time.Second))
			var reply wire.SyncReply
			if wire.NewReader(s, stay.MaxSyncReply).Next(&reply) == nil {
				g.t.Errorf("an answer of %d envelopes to one that was put out", len(reply.Envelopes))
			}
			_ = s.Reset()
		}
		cancel()
	}
}

// last reads events until the stay ends, and returns why it did.
func last(t *testing.T, r *Room) error {
	t.Helper()
	for {
		if _, err := recv(t, r); err != nil {
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			return err
		}
	}
}

func TestOneWhoIgnoresAnOrderReceivesNothing(t *testing.T) {
	for name, order := range map[string]func(context.Context, *Room) error{
		"kick":      func(ctx context.Context, r *Room) error { return r.Kick(ctx, "u3") },
		"ban":       func(ctx context.Context, r *Room) error { return r.Ban(ctx, "u3", time.Time{}) },
		"dismissal": func(ctx context.Context, r *Room) error { return r.Dismiss(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			inGuild(t, 5, func(t *testing.T, g *guild) {
				g.flock.at[3].defiant = true
				newcomer := g.flock.at[4]
				g.flock.at = g.flock.at[:4]
				rooms := g.enterAll()
				g.flock.at = append(g.flock.at, newcomer)
				outcast := rooms[3]
				spy := g.overhear(3, outcast.tag)
				_, err := outcast.PublishText(t.Context(), "hello")
				require.NoError(t, err)
				for _, r := range rooms[:3] {
					require.Equal(t, []string{"u3:hello"}, read(t, r, 1))
				}

				require.NoError(t, order(t.Context(), rooms[0]))
				if name == "dismissal" {
					for i, r := range rooms[:3] {
						require.ErrorIs(t, last(t, r), ErrDismissed)
						rooms[i] = g.enter(i, map[bool]string{true: identity.RoleModerator, false: "member"}[i == 0])
					}
				} else {
					for _, r := range rooms[:3] {
						require.Equal(t, []string{"-u3 kicked"}, read(t, r, 1))
					}
				}
				rooms = append(rooms[:3], g.enter(4, "member")) // who has never seen the outcast
				time.Sleep(time.Second)
				emptied(t, rooms[3]) // the outcast may have greeted it before anybody told it the order
				before := spy.forget()
				for n := range 12 {
					for _, r := range rooms {
						_, err := r.PublishText(t.Context(), fmt.Sprint("secret ", n))
						require.NoError(t, err)
						_, err = r.SendText(t.Context(), "u3", "psst")
						require.ErrorIs(t, err, ErrNotMember)
					}
					g.nag(outcast)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, err := outcast.PublishText(ctx, "let me in")
					require.ErrorIs(t, err, ErrUnconfirmed)
					cancel()
				}
				require.Empty(t, spy.heard)
				require.Equal(t, before, spy.counted())
				for _, r := range rooms {
					require.Len(t, r.Members(), 4)
					r.do(func(st *stay.Stay, _ time.Time) { require.Equal(t, 3, st.NeighbourCount()) })
					for _, text := range emptied(t, r) {
						require.NotContains(t, text, "u3", "whatever it says or is said of it")
					}
				}
			})
		})
	}
}

// emptied returns what is queued.
func emptied(t *testing.T, r *Room) (got []string) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		ev, err := r.Recv(ctx)
		cancel()
		if err != nil {
			require.True(t, errors.Is(err, context.DeadlineExceeded), err)
			return got
		}
		got = append(got, line(ev))
	}
}
