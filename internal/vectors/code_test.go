package vectors

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// The tests of this file compare the vectors with packages identity and wire. Those of mesh,
// presence and node do the same for their parts.

func TestIdentityDerivesTheNames(t *testing.T) {
	var v Names
	Read(t, "names", &v)
	for _, k := range v.Keys {
		keys := &identity.Keys{Device: ed25519.NewKeyFromSeed(k.Seed), User: ed25519.NewKeyFromSeed(k.Seed)}
		require.Equal(t, []byte(k.Public), append([]byte(nil), keysPublic(keys)...))
		require.Equal(t, k.Base32, keys.UserKey().String())
		require.Equal(t, k.Fingerprint, keys.UserKey().Fingerprint())
		require.Equal(t, k.PeerID, keys.PeerID().String())
		require.Equal(t, string(k.PeerIDBytes), string(keys.PeerID()))
	}
	for _, a := range v.Apps {
		require.Equal(t, identity.AppID(a.ID), identity.NewAppID(a.Name))
	}
	for _, r := range v.Rooms {
		require.Equal(t, [32]byte(r.Tag), identity.AppID(r.App).RoomTag(r.Room, r.Secret))
	}
}

func keysPublic(k *identity.Keys) []byte { key := k.UserKey(); return key[:] }

// whyOf returns the reason that the vectors give for an error of identity or wire.
func whyOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, identity.ErrClock):
		return "clock"
	case errors.Is(err, identity.ErrExpired):
		return "expired"
	case errors.Is(err, identity.ErrOtherApp):
		return "other app"
	case errors.Is(err, identity.ErrSignature), errors.Is(err, wire.ErrSignature):
		return "signature"
	}
	return "malformed"
}

// because returns a case's reason in the form that whyOf returns: sizes have no error of their own.
func because(why string) string {
	if why == "size" {
		return "malformed"
	}
	return why
}

func TestIdentityJudgesStatements(t *testing.T) {
	var v Statements
	Read(t, "statement", &v)
	app, verifier := identity.AppID(v.App), identity.NewVerifier(identity.AppID(v.App))
	ms := func(own int64) time.Time {
		if own != 0 {
			return time.UnixMilli(own)
		}
		return time.UnixMilli(v.AtMS)
	}
	for _, s := range v.Accepted {
		for range 2 { // the second time from the verifier's cache
			got, err := verifier.Verify(s.Sealed.Sealed, ms(s.AtMS))
			require.NoError(t, err, s.Name)
			require.Equal(t,
				[]any{s.User, s.PeerID, s.Sequence, s.IssuedMS, s.ExpiresMS, s.LoggedIn, s.Token, []byte(s.Sealed.Sealed)},
				[]any{got.User, got.Peer.String(), got.Sequence, got.Issued.UnixMilli(), got.Expires.UnixMilli(), got.LoggedIn, got.Token, got.Sealed()}, s.Name)
			require.Equal(t, []identity.PublicKey{identity.PublicKey(s.UserKey), identity.PublicKey(s.Device)},
				[]identity.PublicKey{got.UserKey, got.Device}, s.Name)
		}
	}
	for _, c := range v.Refused {
		_, err := identity.Verify(c.Sealed, app, ms(c.AtMS))
		require.Error(t, err, "%s: accepted", c.Name)
		if c.Why != "" {
			require.Equal(t, because(c.Why), whyOf(err), "%s: %v", c.Name, err)
		}
		_, err = verifier.Verify(c.Sealed, ms(c.AtMS))
		require.Error(t, err, "%s: accepted", c.Name)
	}
	for _, p := range v.Order {
		n, err := identity.Verify(p.Newer, app, ms(0))
		require.NoError(t, err, p.Name)
		o, err := identity.Verify(p.Older, app, ms(0))
		require.NoError(t, err, p.Name)
		require.True(t, n.Newer(o), p.Name)
		require.False(t, o.Newer(n), p.Name)
	}
}

func TestWireJudgesEnvelopes(t *testing.T) {
	var v Envelopes
	Read(t, "envelope", &v)
	for _, e := range append(append(v.Feed, v.Accepted...), v.Forks...) {
		got, err := wire.OpenEnvelope(e.Sealed.Sealed)
		require.NoError(t, err, e.Name)
		require.Equal(t, []any{e.First, e.Count, e.SentMS, e.Scheme, e.Epoch}, []any{got.First, got.Count, got.SentMs, got.Scheme, got.Epoch}, e.Name)
		require.True(t, bytes.Equal(e.Previous, got.Previous), e.Name)
		if e.Scheme != 0 {
			continue
		}
		var all []Item
		for content := got.Content; len(content) > 0; {
			kind, payload, rest, err := wire.NextItem(content)
			require.NoError(t, err)
			all, content = append(all, Item{uint32(kind), payload}), rest
		}
		require.Len(t, all, len(e.Items), e.Name)
		for i := range all {
			require.Equal(t, e.Items[i].Kind, all[i].Kind, e.Name)
			require.True(t, bytes.Equal(e.Items[i].Payload, all[i].Payload), e.Name)
		}
	}
	first, err := wire.OpenEnvelope(v.Feed[0].Sealed.Sealed)
	require.NoError(t, err)
	second, err := wire.OpenEnvelope(v.Feed[1].Sealed.Sealed)
	require.NoError(t, err)
	require.Equal(t, first.Next(), second.First)
	require.True(t, second.Continues([32]byte(v.Feed[0].Hash)))
	for _, c := range v.Refused {
		if c.Why == "other app" || c.Why == "other room" {
			continue // the room has to judge it
		}
		_, err := wire.OpenEnvelope(c.Sealed)
		require.Error(t, err, "%s: accepted", c.Name)
		if c.Why != "" {
			require.Equal(t, because(c.Why), whyOf(err), "%s: %v", c.Name, err)
		}
	}
}

func TestWireReadsDirectFrames(t *testing.T) {
	var v Direct
	Read(t, "direct", &v)
	const limit = 80 << 10
	for _, f := range v.Accepted {
		want := wire.Direct{
			Type: wire.DirectFrame_Type(f.Type), Sequence: f.Sequence, Kind: wire.Kind(f.Kind), SentMS: f.SentMS,
			Reason: wire.DirectFrame_Reason(f.Reason), Sender: f.Sender, Receiver: f.Receiver, Class: wire.DirectFrame_Class(f.Class),
		}
		var got wire.Direct
		require.NoError(t, wire.NewDirectReader(bytes.NewReader(f.Frame), limit, func(bool) {}).Next(&got), f.Name)
		require.Equal(t, [3]string{string(f.Room), f.To, string(f.Payload)}, [3]string{string(got.Room), string(got.To), string(got.Payload)}, f.Name)
		fields := got
		fields.Room, fields.To, fields.Payload = nil, nil, nil
		require.Equal(t, want, fields, f.Name)

		var generated wire.DirectFrame
		require.NoError(t, wire.NewReader(bytes.NewReader(f.Frame), limit).Next(&generated), f.Name)
		if len(generated.ProtoReflect().GetUnknown()) == 0 {
			require.Equal(t, []byte(f.Frame), got.AppendFrame(nil), f.Name)
			again, err := wire.AppendFrame(nil, &generated)
			require.NoError(t, err)
			require.Equal(t, []byte(f.Frame), again, f.Name)
		}
	}
	for _, c := range v.Refused {
		require.Error(t, wire.NewDirectReader(bytes.NewReader(c.Bytes), limit, func(bool) {}).Next(new(wire.Direct)), c.Name)
		require.Error(t, wire.NewReader(bytes.NewReader(c.Bytes), limit).Next(new(wire.DirectFrame)), c.Name)
	}
}

func TestWireReadsTheOtherFrames(t *testing.T) {
	var hello Hello
	Read(t, "hello", &hello)
	var dir Directory
	Read(t, "directory", &dir)
	var roster Roster
	Read(t, "roster", &roster)
	var pull Sync
	Read(t, "sync", &pull)
	for _, c := range []struct {
		frame Hex
		into  proto.Message
		says  func(proto.Message) Hex // returns one field of the frame
		want  Hex
	}{
		{hello.Frames.Hello, new(wire.Hello), func(m proto.Message) Hex { return m.(*wire.Hello).Nonce }, hello.Initiator.Nonce},
		{hello.Frames.Reply, new(wire.HelloReply), func(m proto.Message) Hex { return m.(*wire.HelloReply).Proof }, hello.Responder.Proof.Signature},
		{hello.Frames.Proof, new(wire.HelloProof), func(m proto.Message) Hex { return m.(*wire.HelloProof).Proof }, hello.Initiator.Proof.Signature},
		{dir.Request.Frame, new(wire.WhoisRequest), func(m proto.Message) Hex { return m.(*wire.WhoisRequest).UserKey }, dir.Request.UserKey},
		{dir.Reply.Frame, new(wire.WhoisReply), func(m proto.Message) Hex { return m.(*wire.WhoisReply).Found[0].Statement }, dir.Reply.Found[0].Statement},
		{dir.Watch.Request, new(wire.WatchRequest), func(m proto.Message) Hex { return m.(*wire.WatchRequest).App }, dir.Watch.App},
		{dir.Watch.Frame, new(wire.WatchFrame), func(m proto.Message) Hex { return m.(*wire.WatchFrame).Statement }, dir.Watch.Statement},
		{dir.Watch.Beat, new(wire.WatchFrame), func(m proto.Message) Hex { return m.(*wire.WatchFrame).Statement }, nil},
		{dir.Notice.Frame, new(wire.Notice), func(m proto.Message) Hex { return m.(*wire.Notice).Statement }, dir.Notice.Statement},
		{roster.Greeting.Frame, new(wire.RoomFrame), func(m proto.Message) Hex { return m.(*wire.RoomFrame).GetGreeting().Heads }, roster.Greeting.Heads},
		{roster.Part.Frame, new(wire.RoomFrame), func(m proto.Message) Hex { return m.(*wire.RoomFrame).GetRoster().Entries[1] }, roster.Part.Entries[1]},
		{pull.Frame, new(wire.RoomFrame), func(m proto.Message) Hex { return m.(*wire.RoomFrame).GetHeads().Feeds[0].Feed }, pull.Heads.Positions[0].Tag},
		{pull.Request.Frame, new(wire.SyncRequest), func(m proto.Message) Hex { return m.(*wire.SyncRequest).Room }, pull.Room},
		{pull.Reply.Frame, new(wire.SyncReply), func(m proto.Message) Hex { return m.(*wire.SyncReply).Envelopes[0] }, pull.Reply.Envelopes[0]},
	} {
		require.NoError(t, wire.NewReader(bytes.NewReader(c.frame), len(c.frame)).Next(c.into))
		require.Empty(t, c.into.ProtoReflect().GetUnknown())
		require.Equal(t, c.want, c.says(c.into))
		again, err := wire.AppendFrame(nil, c.into)
		require.NoError(t, err)
		require.Equal(t, []byte(c.frame), again)
	}
}
