package presence

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// The tests of this file show evidence to the judges of an inquiry, without an inquiry around them:
// no host, no network.

// piece is one piece of evidence: a clue, or the answer of its device.
type piece struct {
	clue   clue
	answer bool             // the device was asked
	said   identity.Session // what it has answered
	failed bool             // it could not be asked
}

func session(st *identity.Statement) identity.Session { return identity.Session{Statement: st} }

func clueOf(st *identity.Statement, source Source) clue {
	return clue{login: st.Login(), st: st, source: source, known: time.Now()}
}

// finderOf returns what judges need of a finder.
func finderOf(keys *identity.Keys) *finder {
	p := newPeople(envOf(keys))
	own := newAccount(p.env)
	return newFinder(own, newGreeter(p, own, nil, nil), nil, newInquiries(p.clock), nil)
}

// inquiryOf returns an inquiry that asks nobody.
func inquiryOf(t *testing.T, f *finder, user string) *inquiry {
	f.ctx, f.stop = context.WithCancel(t.Context())
	return f.newInquiry(f.resolve(identity.Address{User: user}), nil, time.Minute, 1)
}

func TestAVerdictNeedsEvidence(t *testing.T) {
	dora, other := keysFrom(2, 2), keysFrom(3, 3)
	in, out := stated(t, dora, "dora", true, 0), stated(t, dora, "dora", false, time.Minute)
	elsewhere := stated(t, dora, "bob", true, time.Minute)
	rival := stated(t, other, "dora", true, 0)
	for _, c := range []struct {
		name     string
		pieces   []piece
		complete bool // the DHT was
		unheard  bool
		want     State
		source   Source
	}{
		{"nothing", nil, false, false, Unreachable, Nothing},
		{"nothing, in a complete directory", nil, true, false, Offline, Stored},
		{"nothing, in a complete directory, while a hello is under way", nil, true, true, Unreachable, Nothing},
		{"a log-in", []piece{{clue: clueOf(in, Stored)}}, true, false, Unreachable, Stored},
		{"a log-out", []piece{{clue: clueOf(out, Stored)}}, false, false, Offline, Goodbye},
		{"a log-in, and a later log-out", []piece{{clue: clueOf(in, Whois)}, {clue: clueOf(out, Stored)}}, false, false, Offline, Goodbye},
		{"a log-out, and an earlier log-in", []piece{{clue: clueOf(out, Stored)}, {clue: clueOf(in, Whois)}}, false, false, Offline, Goodbye},
		{"another user's log-in", []piece{{clue: clueOf(elsewhere, Whois)}}, false, false, Unreachable, Nothing},
		{"a device that answers", []piece{{clue: clueOf(in, Whois), answer: true, said: session(in)}}, false, false, Online, Probed},
		{"a device that says it is logged out", []piece{{clue: clueOf(in, Whois), answer: true, said: session(out)}}, false, false, Offline, Goodbye},
		{"a device of somebody else by now", []piece{{clue: clueOf(in, Whois), answer: true, said: session(elsewhere)}}, false, false, Offline, Probed},
		{"a device without a user by now", []piece{{clue: clueOf(in, Whois), answer: true}}, false, false, Offline, Probed},
		{"a silent device", []piece{{clue: clueOf(in, Whois), answer: true, failed: true}}, true, false, Unreachable, Whois},
		{"a provider that is silent", []piece{{
			clue: clue{login: identity.Login{User: "dora", Peer: dora.PeerID()}, source: Stored, unproved: true}, answer: true, failed: true,
		}}, true, false, Unreachable, Nothing},
		{"a remembered device that is silent", []piece{{
			clue: clue{login: in.Login(), source: Remembered}, answer: true, failed: true,
		}}, true, false, Offline, Stored},
		{"one of two users answers", []piece{
			{clue: clueOf(rival, Whois)}, {clue: clueOf(in, Whois), answer: true, said: session(in)},
		}, false, false, Online, Probed},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newAvailability()
			j.inquiry = inquiryOf(t, finderOf(keysFrom(1, 1)), "dora")
			defer j.stop()
			for _, p := range c.pieces {
				asks := j.weigh(p.clue)
				if p.answer {
					require.True(t, asks, "the device is worth a question")
					j.answer(p.clue, p.said, failure(p.failed))
				}
			}
			if c.unheard {
				j.unheard()
			}
			v, err := j.verdict(c.complete, time.Now())
			require.NoError(t, err)
			require.Equal(t, []any{c.want, c.source}, []any{v.state, v.source})
			about := in.Login()
			if c.source == Nothing || c.source == Stored && c.want == Offline {
				about = identity.Login{} // no log-in is known
			}
			require.Equal(t, about, v.login)
		})
	}
}

func failure(failed bool) error {
	if failed {
		return errors.New("silence")
	}
	return nil
}

func TestTwoUsersWhoAnswerToANameAreAConflict(t *testing.T) {
	j := newAvailability()
	j.inquiry = inquiryOf(t, finderOf(keysFrom(1, 1)), "dora")
	defer j.stop()
	for _, keys := range []*identity.Keys{keysFrom(2, 2), keysFrom(3, 3)} {
		st := stated(t, keys, "dora", true, 0)
		require.True(t, j.weigh(clueOf(st, Whois)))
		j.answer(clueOf(st, Whois), session(st), nil)
		require.NoError(t, j.ctx.Err(), "there may be more")
	}
	_, err := j.verdict(false, time.Now())
	conflict := (*ConflictError)(nil)
	require.ErrorAs(t, err, &conflict)
	require.Len(t, conflict.Found, 2)
}

func TestAUserIsWhereADeviceHasConfirmedIt(t *testing.T) {
	me, dora, other := keysFrom(1, 1), keysFrom(2, 2), keysFrom(3, 3)
	in, rival := stated(t, dora, "dora", true, 0), stated(t, other, "dora", true, 0)
	out := stated(t, dora, "dora", false, time.Minute)
	search := func(t *testing.T, pin bool) *whereabouts {
		f := finderOf(me)
		if pin {
			_, ok := f.cfg.pins.Pin("dora", dora.UserKey())
			require.True(t, ok)
		}
		j := new(whereabouts)
		j.inquiry = inquiryOf(t, f, "dora")
		t.Cleanup(j.stop)
		return j
	}
	t.Run("nowhere", func(t *testing.T) {
		j := search(t, false)
		require.False(t, j.weigh(clueOf(out, Whois)), "nobody dials a log-out")
		_, err := j.result()
		require.ErrorIs(t, err, ErrNotFound)
	})
	t.Run("confirmed", func(t *testing.T) {
		j := search(t, false)
		require.True(t, j.weigh(clueOf(in, Whois)))
		j.answer(clueOf(in, Whois), session(in), nil)
		<-j.first
		require.NoError(t, j.ctx.Err(), "another user may have the name")
		found, err := j.result()
		require.NoError(t, err)
		require.Equal(t, Found{Login: in.Login(), Source: Whois}, found)
		key, ok := j.f.cfg.pins.Lookup("dora")
		require.True(t, ok)
		require.Equal(t, dora.UserKey(), key, "pinned")
	})
	t.Run("confirmed under a pinned name", func(t *testing.T) {
		j := search(t, true)
		require.True(t, j.weigh(clueOf(in, Stored)))
		j.answer(clueOf(in, Stored), session(in), nil)
		require.Error(t, j.ctx.Err(), "nobody else can be meant")
	})
	t.Run("not there", func(t *testing.T) {
		j := search(t, false)
		require.True(t, j.weigh(clueOf(in, Whois)))
		j.answer(clueOf(in, Whois), session(out), nil)
		_, err := j.result()
		require.ErrorIs(t, err, ErrNotFound)
	})
	t.Run("silent", func(t *testing.T) {
		j := search(t, false)
		require.True(t, j.weigh(clueOf(in, Whois)))
		j.answer(clueOf(in, Whois), identity.Session{}, failure(true))
		_, err := j.result()
		require.ErrorIs(t, err, ErrUnreachable, "there is proof of the log-in")
	})
	t.Run("remembered, and silent", func(t *testing.T) {
		j := search(t, false)
		c := clue{login: in.Login(), source: Remembered}
		require.True(t, j.weigh(c))
		j.answer(c, identity.Session{}, failure(true))
		_, err := j.result()
		require.ErrorIs(t, err, ErrNotFound, "a memory proves nothing")
	})
	t.Run("another key", func(t *testing.T) {
		j := search(t, true)
		require.False(t, j.weigh(clueOf(rival, Whois)))
		_, err := j.result()
		conflict := (*ConflictError)(nil)
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, dora.UserKey(), conflict.Pinned)
		require.Equal(t, []identity.Login{rival.Login()}, conflict.Found)
	})
	t.Run("two keys", func(t *testing.T) {
		j := search(t, false)
		for _, st := range []*identity.Statement{in, rival} {
			require.True(t, j.weigh(clueOf(st, Whois)))
			j.answer(clueOf(st, Whois), session(st), nil)
		}
		_, err := j.result()
		conflict := (*ConflictError)(nil)
		require.ErrorAs(t, err, &conflict)
		require.Len(t, conflict.Found, 2)
	})
}
