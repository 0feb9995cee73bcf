package presence

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

var pureApp = identity.NewAppID("pure")

// keysFrom returns keys from seeds: the same every time.
func keysFrom(device, user byte) *identity.Keys {
	key := func(b byte) ed25519.PrivateKey {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = b
		return ed25519.NewKeyFromSeed(seed)
	}
	return &identity.Keys{Device: key(device), User: key(user)}
}

// envOf returns what the parts of a directory share, without a host.
func envOf(keys *identity.Keys) *env {
	cfg := defaults()
	return &env{
		id: keys.PeerID(), app: pureApp, keys: keys, userKey: keys.UserKey(), cfg: cfg,
		verifier: identity.NewVerifier(pureApp), events: newDispatcher(cfg.observer), started: time.Now(),
	}
}

// stated returns a statement of now, with a sequence so much later than now.
func stated(t *testing.T, keys *identity.Keys, user string, in bool, later time.Duration) *identity.Statement {
	t.Helper()
	now := time.Now()
	st, err := keys.Sign(identity.Statement{
		App: pureApp, User: user, Sequence: uint64(now.Add(later).UnixMilli()), LoggedIn: in, Issued: now, Expires: now.Add(time.Hour),
	})
	require.NoError(t, err)
	return st
}

// loggedInAccount returns the account of a node on which alice has logged in, and counts its
// changes.
func loggedInAccount(t *testing.T) (o *account, changes *int) {
	t.Helper()
	o, changes = newAccount(envOf(keysFrom(1, 9))), new(int)
	o.changed = func() { *changes++ }
	sequence, err := o.loginLocked("alice", "")
	require.NoError(t, err)
	require.Equal(t, sequence, o.self.Sequence)
	require.True(t, o.in && o.self.LoggedIn)
	require.Equal(t, 1, *changes)
	return o, changes
}

func TestALaterLogInElsewhereEndsTheAccountsOwn(t *testing.T) {
	o, changes := loggedInAccount(t)
	sequence := o.self.Sequence
	o.ownUserLocked(stated(t, keysFrom(2, 9), "alice", true, -time.Hour))
	require.True(t, o.in, "an earlier one does not")
	later := stated(t, keysFrom(2, 9), "alice", true, time.Minute)
	o.ownUserLocked(later)
	require.False(t, o.in || o.self.LoggedIn)
	require.Equal(t, sequence, o.self.Sequence, "the log-out ranks no higher than the log-in")
	require.Equal(t, []Event{Replaced{By: later.Login()}}, o.events.queue)
	require.Equal(t, 2, *changes)

	again, err := o.loginLocked("alice", "")
	require.NoError(t, err)
	require.Greater(t, again, later.Sequence)
	require.True(t, o.self.Newer(later))
}

func TestTheEndOfALaterLogInIsOutranked(t *testing.T) {
	for _, device := range []byte{2, 3, 4, 5} { // with higher and lower peer IDs
		o, _ := loggedInAccount(t)
		ended := stated(t, keysFrom(device, 9), "alice", false, time.Minute)
		o.ownUserLocked(ended)
		require.True(t, o.in && o.self.LoggedIn)
		require.True(t, o.self.Newer(ended))
		require.LessOrEqual(t, o.self.Sequence, ended.Sequence+1, "no higher than it must")
		require.Empty(t, o.events.queue)
		o.tasks.Close()
		o.tasks.Wait()
		require.Equal(t, o.self.Sequence, o.cfg.store.Sequence(), "a new log-in after a restart ranks above it")
	}
}

func TestAnOldStatementShownAgainDoesNotUndoALogOut(t *testing.T) {
	o, _ := loggedInAccount(t)
	in := stated(t, keysFrom(2, 9), "alice", true, time.Minute)
	ended := stated(t, keysFrom(2, 9), "alice", false, 2*time.Minute)
	o.ownUserLocked(ended)
	o.ownUserLocked(in)
	require.True(t, o.in)
	require.Empty(t, o.events.queue)
}

func TestStatementsOfOneLogInAreOrderedByTime(t *testing.T) {
	o, _ := loggedInAccount(t)
	first, now := o.self, o.self.Issued
	require.NoError(t, o.signLocked(now.Add(-time.Minute), first.Sequence, true))
	require.True(t, o.self.Newer(first), "the clock was set back a little")
	require.NoError(t, o.signLocked(now.Add(-time.Hour), first.Sequence, true))
	require.Equal(t, now.Add(-time.Hour).UnixMilli(), o.self.Issued.UnixMilli(), "others would refuse the time before")
}

func TestAnAccountHasOneUser(t *testing.T) {
	o := newAccount(envOf(keysFrom(1, 9)))
	o.changed = func() {}
	sequence, err := o.setUserLocked("alice")
	require.NoError(t, err)
	require.NotZero(t, sequence)
	require.False(t, o.self.LoggedIn)
	sequence, err = o.setUserLocked("alice")
	require.NoError(t, err)
	require.Zero(t, sequence, "nothing has changed")
	_, err = o.setUserLocked("bob")
	require.ErrorIs(t, err, ErrOtherUser)
	_, err = o.loginLocked("bob", "")
	require.ErrorIs(t, err, ErrOtherUser)
	_, err = o.loginLocked("alice", "")
	require.NoError(t, err)
	_, err = o.loginLocked("alice", "")
	require.ErrorIs(t, err, ErrLoggedIn)
}

func TestAStatementByThisDeviceThatItDidNotMakeRevealsATwin(t *testing.T) {
	o, _ := loggedInAccount(t)
	o.ownDeviceLocked(o.self)
	o.ownDeviceLocked(stated(t, keysFrom(1, 9), "alice", true, -time.Hour))
	require.Empty(t, o.events.queue, "its own, and one of an earlier run")
	for range 2 {
		o.ownDeviceLocked(stated(t, keysFrom(1, 9), "alice", true, time.Minute))
	}
	require.Equal(t, []Event{DuplicateDevice{Peer: o.id}}, o.events.queue, "once")
}
