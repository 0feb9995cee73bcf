package identity_test

import (
	"fmt"
	"sync"
	"testing"

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
	pins.Lookup("user1")   // looked at, which is no use
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
