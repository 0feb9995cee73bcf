package mesh

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// What is on its way to one who is put out is not written any more.
func TestDirectMessagesOnTheirWayEndWithAKick(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		g.flock.at[2].defiant = true
		rooms := g.enterAll()
		g.net.Cut(1, 2)
		require.NoError(t, g.net.Host(1).Network().ClosePeer(g.net.ID(2)))
		var waiting []Pending[Receipt]
		for n := range 20 {
			p, err := rooms[1].SendAsync(t.Context(), "u2", fmt.Append(nil, "psst ", n))
			require.NoError(t, err)
			waiting = append(waiting, p)
		}
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, rooms[0].Kick(t.Context(), "u2"))
		for _, p := range waiting {
			_, err := p.Wait(t.Context())
			require.ErrorIs(t, err, ErrNotMember)
		}
		_, err := rooms[1].SendText(t.Context(), "u2", "psst")
		require.ErrorIs(t, err, ErrNotMember)
		g.net.Heal()
		g.net.Connect(1, 2)
		time.Sleep(20 * time.Second)
		require.Zero(t, g.flock.at[2].Stats().DirectTaken)
	})
}

// Rooms are apart: who is put out of one is a member of the others.
func TestOtherRoomsWithTheSamePeerGoOn(t *testing.T) {
	inGuild(t, 2, func(t *testing.T, g *guild) {
		g.flock.at[1].defiant = true
		token := func(i int, role string) JoinOption {
			return WithToken(g.token(i, time.Hour, func(c *identity.Claims) { c.Rooms = map[string]string{"ops": role, "lobby": role} }))
		}
		ops, lobby := g.flock.join(0, "ops", token(0, "moderator")), g.flock.join(0, "lobby", token(0, "moderator"))
		out, in := g.flock.join(1, "ops", token(1, "member")), g.flock.join(1, "lobby", token(1, "member"))
		read(t, ops, 1)
		read(t, lobby, 1)
		read(t, in, 1)
		require.NoError(t, ops.Kick(t.Context(), "u1"))
		require.Equal(t, []string{"-u1 kicked"}, read(t, ops, 1))
		for n := range 20 {
			_, err := lobby.PublishText(t.Context(), fmt.Sprint("to all ", n))
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprint("u0:to all ", n)}, read(t, in, 1))
			_, err = in.PublishText(t.Context(), fmt.Sprint("back ", n))
			require.NoError(t, err)
			require.Equal(t, []string{fmt.Sprint("u1:back ", n)}, read(t, lobby, 1))
			_, err = lobby.SendText(t.Context(), "u1", "psst")
			require.NoError(t, err)
			read(t, in, 1)
			_, err = ops.PublishText(t.Context(), "secret")
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		require.Empty(t, emptied(t, lobby))
		require.Equal(t, []string{"ready first", "+u0"}, emptied(t, out))
		require.Zero(t, g.flock.at[0].Stats().Pulls, "nothing had to be repaired")
	})
}

// A member that knows the order does not pass on what the outcast publishes: it reaches nobody who
// is not connected to the outcast.
func TestWhatAnOutcastPublishesIsNotPassedOn(t *testing.T) {
	inGuild(t, 3, func(t *testing.T, g *guild) {
		g.flock.at[2].defiant = true
		rooms := g.enterAll()
		g.net.Cut(0, 2)
		require.NoError(t, g.net.Host(0).Network().ClosePeer(g.net.ID(2)))
		time.Sleep(5 * time.Second)
		_, err := rooms[2].PublishText(t.Context(), "by way of u1")
		require.NoError(t, err)
		require.Equal(t, []string{"u2:by way of u1"}, read(t, rooms[0], 1))
		require.NoError(t, rooms[0].Kick(t.Context(), "u2"))
		time.Sleep(time.Second)
		count := func() uint64 {
			s := g.flock.at[0].Stats()
			return s.EnvelopesTaken + s.EnvelopesRejected + s.EnvelopesStale + s.EnvelopesPulled
		}
		before := count()
		for n := range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = rooms[2].PublishText(ctx, fmt.Sprint("and again ", n))
			require.Error(t, err)
			cancel()
		}
		require.Equal(t, before, count())
	})
}
