package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

func TestWhoTakesTheNameOfOneWhoWasAnsweredGetsNothingMeantForHer(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		alice := s.comes(alices)
		s.write(alices, inRoom, "bob", "hi")
		s.settle()
		s.write(bobs, inRoom, alice.Self().Address().String(), "hello, whoever is called alice by now")
		her := alice.Self()

		stranger := s.comes(strangers)
		s.write(bobs, inRoom, "alice", "both are here")
		require.Len(t, s.got(alices), 2)
		conflict := await(t, s.bob, func(ev *node.IdentityConflict) bool { return true })
		require.Equal(t, her.Key, conflict.Pinned)
		require.Equal(t, stranger.Self(), conflict.Other)

		s.goes(alices)
		s.refuses(her.Key, stranger.Self())
		require.Empty(t, s.got(strangers))
		s.goes(strangers)
		stranger = s.comes(strangers)
		s.refuses(her.Key, stranger.Self())
		require.Empty(t, s.got(strangers))

		s.comes(alices)
		s.write(bobs, inRoom, "alice", "are you back?")
		require.Equal(t, []string{"are you back?"}, s.got(alices))
		require.Empty(t, s.got(strangers))
	})
}

func TestASendToTheOneOfThatNamePinsIt(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		her := s.comes(alices).Self()
		s.write(bobs, inRoom, "alice", "hi")
		require.Equal(t, []string{"hi"}, s.got(alices))
		stranger := s.comes(strangers)
		s.goes(alices)
		s.refuses(her.Key, stranger.Self())
		require.Empty(t, s.got(strangers))
		s.write(bobs, inRoom, stranger.Self().Address().String(), "who are you?")
		require.Equal(t, []string{"who are you?"}, s.got(strangers))
		s.refuses(her.Key, stranger.Self())
	})
}

func TestAPipelinedSendPinsTheNameToo(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		her := s.comes(alices).Self()
		send := s.bob.SendAsync
		if inRoom {
			send = s.in[bobs].SendAsync
		}
		_, err := send(within(t), "alice", []byte("hi")) // nobody asks for its result
		require.NoError(t, err)
		require.Equal(t, []string{"hi"}, s.got(alices))
		s.goes(alices)
		s.refuses(her.Key, s.comes(strangers).Self())
		require.Empty(t, s.got(strangers))
	})
}

func TestAPipelinedAnswerPinsTheName(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		her := s.comes(alices).Self()
		s.write(alices, inRoom, "bob", "hi")
		s.settle()
		send := s.bob.SendAsync
		if inRoom {
			send = s.in[bobs].SendAsync
		}
		p, err := send(within(t), her.Address().String(), []byte("hello"))
		require.NoError(t, err)
		_, err = p.Result()
		require.NoError(t, err)
		s.goes(alices)
		s.refuses(her.Key, s.comes(strangers).Self())
		require.Empty(t, s.got(strangers))
	})
}

func TestAnAnswerHoldsAfterARestart(t *testing.T) {
	for way, inRoom := range ways {
		t.Run(way, func(t *testing.T) {
			dir := t.TempDir()
			d, err := identity.OpenDir(dir)
			require.NoError(t, err)
			key := d.Keys().Libp2p()
			require.NoError(t, d.Close())
			synctest.Test(t, func(t *testing.T) {
				s := newTown(t, 3, nil)
				home := s.NewHost(key)
				start := func() {
					s.nodes = append(s.nodes[:home], nil)
					n := s.run(home, node.WithDataDir(dir))
					require.NoError(t, n.Login(within(t), "bob"))
				}
				start()
				s.Connect(home, alices)
				her := s.login(alices, "alice").Self()
				s.settle()
				if inRoom {
					s.in[home], s.in[alices] = s.join(home, "ops"), s.join(alices, "ops")
					s.settle()
				}
				s.write(alices, inRoom, s.nodes[home].Self().Address().String(), "hi")
				s.settle()
				s.write(home, inRoom, her.Address().String(), "hello")

				require.NoError(t, s.nodes[home].Close())
				s.goes(alices)
				require.NoError(t, s.Host(home).Network().ClosePeer(s.ID(alices)))
				s.settle()
				start()
				s.Connect(home, strangers)
				s.login(strangers, "alice")
				s.bob = s.nodes[home]
				s.settle()
				delete(s.in, home)
				if inRoom {
					s.in[bobs], s.in[strangers] = s.join(home, "ops"), s.join(strangers, "ops")
					s.settle()
				}
				s.refuses(her.Key, s.nodes[strangers].Self())
				require.Empty(t, s.got(strangers))
				conflict := await(t, s.bob, func(ev *node.IdentityConflict) bool { return true })
				require.Equal(t, her.Key, conflict.Pinned)
			})
		})
	}
}

func TestOfTwoStrangersOfOneNameNeitherIsTakenForTheOther(t *testing.T) {
	scenes(t, 4, func(t *testing.T, s *town, inRoom bool) {
		one, two := s.comes(strangers).Self(), s.comes(others).Self()
		s.refuses(identity.PublicKey{}, one, two)
		if inRoom {
			_, err := s.in[bobs].SendText(within(t), "alice", "secret")
			require.ErrorIs(t, err, mesh.ErrAmbiguous)
		}
		conflict := await(t, s.bob, func(ev *node.IdentityConflict) bool { return true })
		require.True(t, conflict.Pinned.IsZero(), "nobody has answered either")
		require.Equal(t, two, conflict.Other)
		for _, n := range []int{strangers, others} { // they come and go
			s.goes(n)
			s.comes(n)
		}
		none[*node.IdentityConflict](t, drained(s.bob))
		s.refuses(identity.PublicKey{}, one, two)
		require.Empty(t, s.got(strangers))
		require.Empty(t, s.got(others))
	})
}

func TestAKeyThatHasSaidGoodbyeIsNoRival(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		stranger := s.comes(strangers)
		if inRoom {
			require.NoError(t, s.in[strangers].Leave(within(t)))
		}
		require.NoError(t, stranger.Logout(within(t)))
		s.settle()
		require.True(t, s.Connected(bobs, strangers))
		s.comes(alices)
		none[*node.IdentityConflict](t, drained(s.bob))
		s.write(bobs, inRoom, "alice", "hi")
		require.Equal(t, []string{"hi"}, s.got(alices))
	})
}

func TestTheStrangerWhoCameFirstAndWasAnsweredHasTheName(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		stranger := s.comes(strangers).Self()
		s.write(strangers, inRoom, "bob", "hi, alice here")
		s.settle()
		s.write(bobs, inRoom, stranger.Address().String(), "hi")
		alice := s.comes(alices).Self()
		conflict := await(t, s.bob, func(ev *node.IdentityConflict) bool { return true })
		require.Equal(t, stranger.Key, conflict.Pinned)
		require.Equal(t, alice, conflict.Other)
		s.write(bobs, inRoom, "alice", "you told me")
		require.Equal(t, []string{"hi", "you told me"}, s.got(strangers))
		s.write(bobs, inRoom, alice.Address().String(), "and you?")
		require.Equal(t, []string{"and you?"}, s.got(alices))
		s.goes(strangers)
		s.refuses(stranger.Key, alice)
	})
}

// A message is answered by name as well, in a chat of lines: the answer must not reach the next
// user of that name.
func TestTheNameOfOneWhoHasWrittenIsNotAnothersMeanwhile(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		her := s.comes(alices).Self()
		s.write(alices, inRoom, "bob", "what is the door code?")
		s.settle()
		s.goes(alices)
		stranger := s.comes(strangers).Self()
		s.refuses(identity.PublicKey{}, her, stranger)
		require.Empty(t, s.got(strangers))
		s.comes(alices)
		s.write(bobs, inRoom, her.Address().String(), "1234")
		require.Equal(t, []string{"1234"}, s.got(alices))
		s.write(bobs, inRoom, "alice", "and the garage's 5678")
		require.Equal(t, []string{"and the garage's 5678"}, s.got(alices))
		require.Empty(t, s.got(strangers))
	})
}

func TestAliceOnAnotherDeviceIsAliceStill(t *testing.T) {
	key := userKey(t)
	for way, inRoom := range ways {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTown(t, 4, func(i int) []node.Option {
					if i == alices || i == others {
						return []node.Option{node.WithUserKey(key)}
					}
					return nil
				})
				if inRoom {
					s.enters(bobs)
				}
				her := s.comes(alices).Self()
				s.write(alices, inRoom, "bob", "hi")
				s.settle()
				s.write(bobs, inRoom, her.Address().String(), "hello")
				s.comes(strangers)
				s.comes(others) // her other device: the one before is logged out
				s.write(bobs, inRoom, "alice", "on the phone?")
				require.Equal(t, []string{"on the phone?"}, s.got(others))
				require.Empty(t, s.got(strangers))
				var conflicts []identity.PublicKey
				for _, ev := range drained(s.bob) {
					if c, ok := ev.(*node.IdentityConflict); ok {
						conflicts = append(conflicts, c.Other.Key)
					}
				}
				require.Equal(t, []identity.PublicKey{s.nodes[strangers].Self().Key}, conflicts)
			})
		})
	}
}

func TestAliceWhoHasLostHerKeysIsAskedForByHerNewOne(t *testing.T) {
	scenes(t, 4, func(t *testing.T, s *town, inRoom bool) {
		former := s.comes(alices).Self()
		s.write(alices, inRoom, "bob", "hi")
		s.settle()
		s.write(bobs, inRoom, former.Address().String(), "hello")
		s.goes(alices)
		now := s.comes(others).Self()
		conflict := await(t, s.bob, func(ev *node.IdentityConflict) bool { return true })
		require.Equal(t, former.Key, conflict.Pinned)
		require.Equal(t, now, conflict.Other)
		s.refuses(former.Key, now)
		s.write(bobs, inRoom, now.Address().String(), "is it you?")
		require.Equal(t, []string{"is it you?"}, s.got(others))
	})
}

func TestASendToAKeyThatIsAwayNamesWhoElseHasItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTown(t, 3, nil)
		her := s.comes(alices).Self()
		s.says("alice", "hi")
		s.goes(alices)
		stranger := s.comes(strangers).Self()
		_, err := s.bob.SendText(within(t), her.Address().String(), "secret")
		require.ErrorIs(t, err, presence.ErrNotFound)
		require.Contains(t, err.Error(), stranger.Address().String())
		absent, ok := errors.AsType[*presence.NotFoundError](err)
		require.True(t, ok)
		require.Equal(t, []identity.Login{stranger}, absent.Others)
		time.Sleep(time.Second)
		require.Empty(t, s.got(strangers))
	})
}

func TestWithTokensANameIsTheUserWhateverTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t)
		s := newSim(t, 3, b.options)
		s.ConnectAll()
		bob := b.enter(s, 0, "bob", time.Hour)
		join := func(i int) *mesh.Room {
			r, err := s.nodes[i].Join(within(t), "ops", mesh.WithToken(b.token(s.nodes[i], s.nodes[i].User(), time.Hour)))
			require.NoError(t, err)
			return r
		}
		room := join(0)
		for i := range 2 { // alice on one device, then on another whose keys are unrelated
			alice := b.enter(s, 1+i, "alice", time.Hour)
			hers := join(1 + i)
			s.settle()
			for _, send := range []func(context.Context, string, string, ...mesh.SendOption) (mesh.Receipt, error){bob.SendText, room.SendText} {
				receipt, err := send(within(t), "alice", "where are you?")
				require.NoError(t, err)
				require.Equal(t, alice.Self(), receipt.To)
			}
			for _, from := range []recver{alice, hers} {
				require.Equal(t, "where are you?", string(await[*mesh.DirectMessage](t, from, nil).Data))
			}
			_, err := alice.SendText(within(t), "bob", "here")
			require.NoError(t, err)
			_, pinned := bob.Pinned("alice")
			require.False(t, pinned)
		}
		none[*node.IdentityConflict](t, drained(bob))
	})
}

// Of a name, the node remembers four keys that have written under it.
func TestAnAnswerPinsThoughManyStrangersHaveWrittenUnderTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTown(t, 7, nil)
		for i := 2; i < 6; i++ {
			s.comes(i)
			s.write(i, false, "bob", "hi, alice here")
			s.settle()
			s.goes(i)
		}
		her := s.comes(alices).Self()
		s.write(alices, false, "bob", "it is me")
		s.settle()
		s.write(bobs, false, her.Address().String(), "I know")
		key, ok := s.bob.Pinned("alice")
		require.True(t, ok, "an answer to a key pins it")
		require.Equal(t, her.Key, key)
	})
}

// She writes in the room and is answered outside, or the other way round.
func TestAnAnswerByTheOtherWayPinsTheNameToo(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		if !inRoom {
			s.enters(bobs)
		}
		her := s.comes(alices).Self()
		s.write(alices, inRoom, "bob", "hi")
		s.settle()
		s.write(bobs, !inRoom, her.Address().String(), "hello")
		key, ok := s.bob.Pinned("alice")
		require.True(t, ok)
		require.Equal(t, her.Key, key)
		s.comes(strangers)
		s.goes(alices)
		s.refuses(her.Key, s.nodes[strangers].Self())
		s.goes(strangers)
		s.comes(strangers)
		s.refuses(her.Key, s.nodes[strangers].Self())
		require.Empty(t, s.got(strangers))
	})
}

// Both are there, but only the stranger is in the room.
func TestANameThatTwoHaveMeansNeitherInARoomWithOneOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, nil)
		bob, her, stranger := s.login(0, "bob"), s.login(1, "alice"), s.login(2, "alice")
		for i := 1; i < 3; i++ {
			require.NoError(t, bob.Connect(within(t), s.PeerAddr(i)))
		}
		room := s.join(0, "ops")
		s.join(2, "ops")
		s.settle()
		_, err := room.SendText(within(t), "alice", "a secret")
		require.ErrorIs(t, err, mesh.ErrAmbiguous)
		conflict, ok := errors.AsType[*identity.ConflictError](err)
		require.True(t, ok)
		require.ElementsMatch(t, []identity.Login{her.Self(), stranger.Self()}, conflict.Found)
		_, pinned := bob.Pinned("alice")
		require.False(t, pinned)
		require.NoError(t, her.Logout(within(t)))
		s.settle()
		receipt, err := room.SendText(within(t), "alice", "not for her")
		require.NoError(t, err, "nobody else is there any more")
		require.Equal(t, stranger.Self(), receipt.To)
	})
}

// A message that may have arrived pins the name as one that has: the next must not go to another
// user who takes the name.
func TestAMessageThatMayHaveArrivedPinsTheName(t *testing.T) {
	scenes(t, 3, func(t *testing.T, s *town, inRoom bool) {
		her := s.comes(alices).Self()
		send := s.bob.SendText
		if inRoom {
			send = s.in[bobs].SendText
		}
		s.Cut(bobs, alices)
		_, err := send(within(t), "alice", "part one of a secret")
		require.ErrorIs(t, err, mesh.ErrUnconfirmed)
		key, pinned := s.bob.Pinned("alice")
		require.True(t, pinned)
		require.Equal(t, her.Key, key)
		require.NoError(t, s.nodes[alices].Close())
		s.nodes[alices] = nil
		delete(s.in, alices)
		time.Sleep(time.Minute) // she is dropped
		s.refuses(her.Key, s.comes(strangers).Self())
		require.Empty(t, s.got(strangers))
	})
}
