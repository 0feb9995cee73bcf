package mesh

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh/internal/stay"
)

// rejoin connects the parts of a network again.
func (g *guild) rejoin() {
	g.net.Heal()
	g.net.ConnectAll()
}

// agree checks that rooms know the same orders.
func agree(t *testing.T, rooms ...*Room) {
	t.Helper()
	sums := func(r *Room) (out []string) {
		r.do(func(st *stay.Stay, _ time.Time) {
			for _, o := range st.Orders() {
				out = append(out, fmt.Sprintf("%v %s by %s %x", o.Kind, o.User, o.By, o.Sum()))
			}
		})
		return out
	}
	want := sums(rooms[0])
	for i, r := range rooms {
		require.Equal(t, want, sums(r), "room %d", i)
		require.Equal(t, rooms[0].Bans(), r.Bans())
	}
}

// An order reaches the other part of a room that was parted when that is whole again: from any
// member that knows it, not from its signer alone.
func TestAnOrderCrossesASplitThatHeals(t *testing.T) {
	for _, kind := range []identity.OrderKind{identity.Kick, identity.Ban, identity.Dismiss} {
		for _, defiant := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, " defiant ", defiant), func(t *testing.T) {
				inGuild(t, 5, func(t *testing.T, g *guild) { // 0 and 1; 2, 3, and 4 who is put out
					g.flock.at[4].defiant = defiant
					rooms := g.enterAll()
					g.net.Split([]int{0, 1}, []int{2, 3, 4})
					time.Sleep(30 * time.Second)
					for _, r := range rooms {
						emptied(t, r)
					}
					outcast := rooms[4]
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					switch kind {
					case identity.Kick:
						require.NoError(t, rooms[0].Kick(ctx, "u4"))
					case identity.Ban:
						require.NoError(t, rooms[0].Ban(ctx, "u4", time.Time{}))
					case identity.Dismiss:
						require.NoError(t, rooms[0].Dismiss(ctx))
						require.ErrorIs(t, last(t, rooms[1]), ErrDismissed)
						rooms[0], rooms[1] = g.enter(0, "moderator"), g.enter(1, "member")
					}
					time.Sleep(10 * time.Second)
					g.rejoin()
					time.Sleep(3 * time.Second)
					if kind == identity.Dismiss {
						for i := range 2 {
							require.ErrorIs(t, last(t, rooms[2+i]), ErrDismissed)
							rooms[2+i] = g.enter(2+i, "member")
						}
					}
					rooms = rooms[:4]
					spy := g.overhear(4, outcast.tag)
					for i, r := range rooms {
						require.Len(t, r.Members(), 4, "room %d: %v", i, users(r))
						emptied(t, r)
					}
					before := spy.forget()
					for i, r := range rooms {
						_, err := r.PublishText(t.Context(), fmt.Sprint("whole ", i))
						require.NoError(t, err)
					}
					for _, r := range rooms {
						require.Len(t, read(t, r, 3), 3)
						quiet(t, r, 20*time.Second)
					}
					agree(t, rooms...)
					if !defiant {
						want := map[identity.OrderKind]error{identity.Kick: ErrKicked, identity.Ban: ErrBanned, identity.Dismiss: ErrDismissed}[kind]
						require.ErrorIs(t, last(t, outcast), want)
					}
					require.Equal(t, before, spy.counted())
					require.Empty(t, spy.heard)
				})
			})
		}
	}
}

func TestAMemberThatWasAwayHearsOfTheOrderThatPutItOut(t *testing.T) {
	for name, c := range map[string]struct {
		order func(*Room) error
		want  error
	}{
		"kick":      {func(r *Room) error { return r.Kick(context.Background(), "u2") }, ErrKicked},
		"ban":       {func(r *Room) error { return r.Ban(context.Background(), "u2", time.Time{}) }, ErrBanned},
		"dismissal": {func(r *Room) error { return r.Dismiss(context.Background()) }, ErrDismissed},
	} {
		t.Run(name, func(t *testing.T) {
			inGuild(t, 3, func(t *testing.T, g *guild) {
				rooms := g.enterAll()
				g.net.Isolate(2)
				time.Sleep(5 * time.Second)
				require.NoError(t, c.order(rooms[0]))
				if name == "dismissal" {
					require.ErrorIs(t, last(t, rooms[1]), ErrDismissed)
					g.enter(1, "member") // he remembers it
				}
				time.Sleep(11 * time.Minute) // beyond all that is remembered of members that left
				require.Equal(t, 1, len(rooms[2].Members()))
				g.rejoin()
				start := time.Now()
				require.ErrorIs(t, last(t, rooms[2]), c.want)
				require.Less(t, time.Since(start), 3*time.Second)
			})
		})
	}
}

// Two moderators say opposite things of one user, each in a part of the room of its own, in the
// same millisecond and one after the other.
func TestModeratorsWhoContradictEachOtherEndAlikeEverywhere(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second} {
		for _, banLast := range []bool{true, false} {
			t.Run(fmt.Sprint(after, banLast), func(t *testing.T) {
				inGuild(t, 5, func(t *testing.T, g *guild) {
					a, b := g.enter(0, "moderator"), g.enter(1, "moderator")
					witness, other := g.enter(2, "member"), g.enter(3, "member")
					target := g.enter(4, "member")
					all := []*Room{a, b, witness, other}
					for _, r := range append(all, target) {
						read(t, r, 4)
					}
					g.net.Split([]int{0, 2}, []int{1, 3, 4})
					g.net.Split([]int{1, 3}, []int{4})
					time.Sleep(time.Minute)
					ban := func(r *Room) { require.NoError(t, r.Ban(t.Context(), "u4", time.Time{})) }
					lift := func(r *Room) {
						now := time.Now()
						sealed, err := identity.SignOrder(r.mesh.key, r.mesh.app, r.tag, ownToken(r), identity.Order{Kind: identity.Unban, User: "u4", Issued: now})
						require.NoError(t, err)
						require.NoError(t, r.Submit(t.Context(), sealed))
					}
					if banLast {
						lift(a)
						time.Sleep(after)
						ban(b)
					} else {
						ban(a)
						time.Sleep(after)
						lift(b)
					}
					time.Sleep(time.Minute)
					g.net.Heal()
					for i := range 4 {
						for j := range i {
							if !g.net.Connected(i, j) {
								g.net.Connect(i, j)
							}
						}
					}
					time.Sleep(3 * time.Second)
					agree(t, all...)
					g.net.ConnectAll()
					time.Sleep(3 * time.Second)
					banned := len(a.Bans()) == 1
					if after > 0 {
						require.Equal(t, banLast, banned, "the later one counts")
					}
					for i, r := range all {
						require.Equal(t, banned, !contains(users(r), "u4"), "room %d: %v", i, users(r))
					}
					if banned {
						require.ErrorIs(t, last(t, target), ErrBanned)
					} else {
						_, err := target.PublishText(t.Context(), "still here")
						require.NoError(t, err)
					}

					// Against each other neither can do anything.
					require.ErrorIs(t, a.Kick(t.Context(), "u1"), ErrOutranked)
					for _, pair := range [][2]*Room{{a, b}, {b, a}} {
						by := pair[0]
						sealed, err := identity.SignOrder(by.mesh.key, by.mesh.app, by.tag, ownToken(by),
							identity.Order{Kind: identity.Ban, User: ownUser(pair[1]), Issued: time.Now()})
						require.NoError(t, err)
						require.NoError(t, by.Submit(t.Context(), sealed))
					}
					time.Sleep(2 * time.Second)
					agree(t, all...)
					for _, r := range all {
						require.Subset(t, users(r), []string{"u0", "u1", "u2", "u3"})
					}
				})
			})
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// memory is an OrderKeeper of one node.
type memory struct{ sync.Map }

func (m *memory) Orders(room [32]byte) []byte {
	kept, _ := m.Load(room)
	raw, _ := kept.([]byte)
	return raw
}

func (m *memory) SetOrders(room [32]byte, kept []byte) error {
	if m.Store(room, kept); kept == nil {
		m.Delete(room)
	}
	return nil
}

// All members restart, one after the other or all at once; so does the one who is put out.
func TestOrdersOutliveRestarts(t *testing.T) {
	for _, kind := range []identity.OrderKind{identity.Kick, identity.Ban, identity.Dismiss} {
		t.Run(kind.String(), func(t *testing.T) {
			keepers := make([]memory, 4)
			with := func(i int) []Option { return []Option{WithOrderKeeper(&keepers[i])} }
			inGuildWith(t, 4, with, func(t *testing.T, g *guild) {
				g.flock.at[3].defiant = true
				rooms := g.enterAll()
				outcast := rooms[3]
				until := time.Now().Add(5 * time.Minute).Truncate(time.Millisecond)
				switch kind {
				case identity.Kick:
					require.NoError(t, rooms[0].Kick(t.Context(), "u3"))
				case identity.Ban:
					require.NoError(t, rooms[0].Ban(t.Context(), "u3", until))
				case identity.Dismiss:
					require.NoError(t, rooms[0].Dismiss(t.Context()))
				}
				time.Sleep(time.Second)
				spy := g.overhear(3, outcast.tag)
				before := spy.forget() // the members that restart do not have to learn first who is out
				for i := range 3 {
					g.restart(i)
				}
				for i := range 3 {
					for j := range 4 {
						if i != j && !g.net.Connected(i, j) {
							g.net.Connect(i, j)
						}
					}
				}
				rooms = rooms[:0]
				for i := range 3 {
					rooms = append(rooms, g.enter(i, map[bool]string{true: "moderator", false: "member"}[i == 0]))
				}
				for n := range 5 {
					for _, r := range rooms {
						_, err := r.PublishText(t.Context(), fmt.Sprint("secret ", n))
						require.NoError(t, err)
					}
					g.nag(outcast)
					time.Sleep(time.Second)
				}
				require.Empty(t, spy.heard)
				require.Equal(t, before, spy.counted())
				for _, r := range rooms {
					require.Len(t, r.Members(), 3)
				}

				g.restart(3) // and obeys from now on
				for i := range 3 {
					g.net.Connect(3, i)
				}
				_, err := g.tryEnter(3, "member")
				if kind != identity.Ban {
					require.NoError(t, err)
					return
				}
				var out *PutOutError
				require.ErrorAs(t, err, &out)
				require.True(t, until.Equal(out.Until))
				time.Sleep(time.Until(until) + time.Second)
				g.enter(3, "member")
				time.Sleep(5 * time.Second)
				for i := range keepers {
					keepers[i].Range(func(any, any) bool { t.Errorf("station %d: a ban that has ended is forgotten", i); return false })
				}
			})
		})
	}
}
