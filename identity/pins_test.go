package identity_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestTheFirstUsePinsAndAnotherKeyConflicts(t *testing.T) {
	first, second := oneKey(1).UserKey(), oneKey(2).UserKey()
	pins := identity.NewPins()
	_, ok := pins.Lookup("alice")
	require.False(t, ok)

	pinned, ok := pins.Pin("alice", first)
	require.True(t, ok)
	require.Equal(t, first, pinned)
	pinned, ok = pins.Pin("alice", first)
	require.True(t, ok)
	require.Equal(t, first, pinned)
	pinned, ok = pins.Pin("alice", second)
	require.False(t, ok)
	require.Equal(t, first, pinned)
	pinned, ok = pins.Pin("Alice", second)
	require.True(t, ok, "names are compared byte by byte")
	require.Equal(t, second, pinned)

	pins.Forget("alice")
	pins.Forget("nobody")
	_, ok = pins.Lookup("alice")
	require.False(t, ok)
	_, ok = pins.Pin("alice", second)
	require.True(t, ok)
}

func TestPinsAreBoundedAndForgetTheOneNotUsedForLongest(t *testing.T) {
	key := oneKey(1).UserKey()
	pins := identity.NewPins()
	const bound = 4096
	for i := range bound {
		pins.Pin(fmt.Sprint("user", i), key)
	}
	pins.Pin("user0", key) // used again
	pins.Lookup("user1")   // does not count as use
	pins.Pin("one more", key)
	require.Equal(t, bound, pins.Len())
	for user, want := range map[string]bool{"user0": true, "user1": false, "user2": true, "one more": true} {
		_, ok := pins.Lookup(user)
		require.Equal(t, want, ok, user)
	}
}

func TestOneOfManyPinsAtOnceWins(t *testing.T) {
	pins := identity.NewPins()
	var wg sync.WaitGroup
	won := make([]bool, 16)
	for i := range won {
		wg.Go(func() { _, won[i] = pins.Pin("alice", oneKey(byte(i)).UserKey()) })
	}
	wg.Wait()
	winners := 0
	for _, w := range won {
		if w {
			winners++
		}
	}
	require.Equal(t, 1, winners)
}

func TestAnAnswerPinsTheNameOfWhoHasWritten(t *testing.T) {
	pins := identity.NewPins()
	login := func(key byte) identity.Login { return identity.Login{User: "alice", Key: oneKey(key).UserKey()} }
	pins.Answered(login(1))
	_, pinned := pins.Lookup("alice")
	require.False(t, pinned, "nobody has written")

	pins.Heard(login(1))
	pins.Heard(login(1))
	pins.Heard(login(2))
	require.Equal(t, []identity.Login{login(2)}, pins.Others(login(1)))
	require.Equal(t, []identity.Login{login(1), login(2)}, pins.Others(login(3)))
	require.True(t, pins.Answers(login(2)))
	require.False(t, pins.Answers(login(3)))
	pins.Answered(login(3))
	pins.Answered(login(2))
	key, pinned := pins.Lookup("alice")
	require.True(t, pinned)
	require.Equal(t, login(2).Key, key)
	pins.Answered(login(1))
	key, _ = pins.Lookup("alice")
	require.Equal(t, login(2).Key, key, "the first answer has pinned it")
	require.Empty(t, pins.Others(login(3)), "the pin says who is meant")
}

func TestWhoWritesTakesALimitedMemory(t *testing.T) {
	pins := identity.NewPins()
	for i := range 200 {
		pins.Heard(identity.Login{User: "alice", Key: identity.PublicKey{byte(i)}})
	}
	require.Len(t, pins.Others(identity.Login{User: "alice", Key: identity.PublicKey{255}}), 4, "more do not make the name any clearer")
	require.True(t, pins.Answers(identity.Login{User: "alice", Key: identity.PublicKey{100}}), "it may have written")
	for i := range 2000 {
		pins.Heard(identity.Login{User: fmt.Sprint("user", i), Key: identity.PublicKey{1}})
	}
	require.False(t, pins.Answers(identity.Login{User: "user0", Key: identity.PublicKey{1}}))
	require.True(t, pins.Answers(identity.Login{User: "user1999", Key: identity.PublicKey{1}}))
}

func TestOnePeerUnderManyNamesPushesNobodyOut(t *testing.T) {
	pins := identity.NewPins()
	alice := identity.Login{User: "alice", Key: identity.PublicKey{1}, Peer: "hers"}
	pins.Heard(alice)
	for i := range 2000 {
		pins.Heard(identity.Login{User: fmt.Sprint("user", i), Key: identity.PublicKey{2}, Peer: "his"})
	}
	stranger := identity.Login{User: "alice", Key: identity.PublicKey{2}, Peer: "his"}
	require.Equal(t, []identity.Login{alice}, pins.Others(stranger))
	require.True(t, pins.Answers(alice))
	require.False(t, pins.Answers(stranger))
	for i := 1984; i < 2000; i++ {
		require.True(t, pins.Answers(identity.Login{User: fmt.Sprint("user", i), Key: identity.PublicKey{2}}), "the last 16 of one peer")
	}
	require.False(t, pins.Answers(identity.Login{User: "user1983", Key: identity.PublicKey{2}}))
}

func TestWhereSomebodyMayBeForgottenAnyMessageToAKeyIsAnAnswer(t *testing.T) {
	pins := identity.NewPins()
	alice := identity.Login{User: "alice", Key: identity.PublicKey{1}, Peer: "hers"}
	pins.Heard(alice)
	for i := range 1024 {
		pins.Heard(identity.Login{User: fmt.Sprint("user", i), Key: identity.PublicKey{2}, Peer: peer.ID(fmt.Sprint("peer", i))})
	}
	pins.Answered(alice)
	key, pinned := pins.Lookup("alice")
	require.True(t, pinned)
	require.Equal(t, alice.Key, key)
}
