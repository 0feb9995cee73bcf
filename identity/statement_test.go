package identity_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

func TestAStatementSurvivesTheRoundTrip(t *testing.T) {
	for name, keys := range map[string]*identity.Keys{
		"one key":           oneKey(1),
		"certified device":  oneKey(1).WithUser(seeded(2)),
		"second of devices": oneKey(3).WithUser(seeded(2)),
	} {
		t.Run(name, func(t *testing.T) {
			in := statement()
			in.Token = "token"
			signed, err := keys.Sign(in)
			require.NoError(t, err)
			got, err := identity.Verify(signed.Sealed(), testApp, testTime)
			require.NoError(t, err)
			require.Equal(t, signed, got)
			require.Equal(t, identity.Login{User: "alice", Key: keys.UserKey(), Peer: keys.PeerID()}, got.Login())
			require.Equal(t, keys.DeviceKey(), got.Device)
			require.Equal(t, "token", got.Token)
			require.True(t, got.LoggedIn)
			require.True(t, got.Issued.Equal(testTime))
			require.NoError(t, got.CheckPeer(keys.PeerID()))
			require.Less(t, len(signed.Sealed()), 400)
		})
	}
}

// goldenStatement is statement() as sealed when version 1 of the protocol was fixed: with the
// device key from the seed 01 00 … 00, certified by the user key from the seed 02 00 … 00. Every
// later version must read it.
const goldenStatement = "281b8e2d574784b83ad935b1e56f414c541fbc6a1116bf79d9a9df5b0613ee3953d911f5076335fbfee13042ed32e220" +
	"672aa8d887a5d580f4dcabece06bdf070a205c8436ced77f6eadcfd6edad1caa925bf4a4c64ae3ccc5b04c58939a9124cf081205616c6963651a20" +
	"6b79c57e6a095239282c04818e96112f3f03a4001ba97a564c23852a3f1ea5fc2240d5454fe7dc3da25bb527680478a4b56c54b72d6d437704e4b1" +
	"43bdeb01b26287205f183c50de962f7e3d0864e81b208a548e621e430b481523e114e3ee0dea042a20cecc1507dc1ddd7295951c290888f095adb9" +
	"044d1b73d696e6df065d683bd4fc30809494caca3338809494caca334080ccadf3ca334801"

func TestAStatementOfTheFirstVersionIsReadForEver(t *testing.T) {
	sealed, err := hex.DecodeString(goldenStatement)
	require.NoError(t, err)
	got, err := identity.Verify(sealed, testApp, testTime)
	require.NoError(t, err)
	want, err := oneKey(1).WithUser(seeded(2)).Sign(statement())
	require.NoError(t, err)
	require.Equal(t, want.Login(), got.Login())
	require.Equal(t, []any{want.App, want.Device, want.Sequence, want.Issued, want.Expires, want.LoggedIn},
		[]any{got.App, got.Device, got.Sequence, got.Issued, got.Expires, got.LoggedIn})
}

func TestAnAlteredStatementIsRefusedWhicheverByteItIs(t *testing.T) {
	signed, err := oneKey(1).WithUser(seeded(2)).Sign(statement())
	require.NoError(t, err)
	sealed := signed.Sealed()
	verifier := identity.NewVerifier(testApp)
	_, err = verifier.Verify(sealed, testTime) // the genuine one is now in the cache
	require.NoError(t, err)
	for i := range sealed {
		for _, flip := range []byte{0x01, 0x80} {
			altered := signed.Sealed()
			altered[i] ^= flip
			_, err := identity.Verify(altered, testApp, testTime)
			var stErr *identity.StatementError
			require.ErrorAs(t, err, &stErr, "byte %d", i)
			_, err = verifier.Verify(altered, testTime)
			require.ErrorAs(t, err, &stErr, "byte %d, cached", i)
		}
	}
	for n := range sealed {
		_, err := identity.Verify(sealed[:n], testApp, testTime)
		require.Error(t, err, "cut to %d bytes", n)
	}
	_, err = identity.Verify(append(sealed, 0), testApp, testTime)
	require.Error(t, err, "one byte more")
}

func TestStatementsAreJudgedByTheTime(t *testing.T) {
	keys := oneKey(1)
	for _, tc := range []struct {
		name   string
		change func(*identity.Statement)
		is     error
		text   string
	}{
		{"expired", func(s *identity.Statement) {
			s.Issued, s.Expires = testTime.Add(-2*time.Hour), testTime.Add(-time.Minute)
		}, identity.ErrExpired, "statement: expired 1m0s ago"},
		{"expires now", func(s *identity.Statement) {
			s.Issued, s.Expires = testTime.Add(-2*time.Hour), testTime
		}, identity.ErrExpired, "statement: expired 0s ago"},
		{"issued in the future", func(s *identity.Statement) {
			s.Issued = testTime.Add(identity.MaxSkew + time.Second)
		}, identity.ErrClock, "statement: issued 2m1s in the future: check the clock of this device and of alice's"},
		{"sequence in the future", func(s *identity.Statement) {
			s.Sequence = 1 + uint64(testTime.Add(identity.MaxSkew).UnixMilli())
		}, identity.ErrClock, "statement: sequence 1772366520001 is more than 2m0s ahead of the time: check the clock of this device and of alice's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := statement()
			tc.change(&st)
			signed, err := keys.Sign(st)
			require.NoError(t, err)
			_, err = identity.Verify(signed.Sealed(), testApp, testTime)
			require.EqualError(t, err, tc.text)
			require.ErrorIs(t, err, tc.is)
		})
	}
	for name, change := range map[string]func(*identity.Statement){
		"issued two minutes ahead":   func(s *identity.Statement) { s.Issued = testTime.Add(identity.MaxSkew) },
		"sequence two minutes ahead": func(s *identity.Statement) { s.Sequence = uint64(testTime.Add(identity.MaxSkew).UnixMilli()) },
		"expires in a moment":        func(s *identity.Statement) { s.Expires = testTime.Add(time.Millisecond) },
	} {
		st := statement()
		change(&st)
		signed, err := keys.Sign(st)
		require.NoError(t, err)
		_, err = identity.Verify(signed.Sealed(), testApp, testTime)
		require.NoError(t, err, name)
	}
}

func TestAStatementOfAnotherAppIsRefused(t *testing.T) {
	signed, err := oneKey(1).Sign(statement())
	require.NoError(t, err)
	_, err = identity.Verify(signed.Sealed(), identity.NewAppID("other"), testTime)
	require.EqualError(t, err, "statement: signed for another app")
	require.ErrorIs(t, err, identity.ErrOtherApp)
}

func TestAStatementShownByAnotherPeerIsRefused(t *testing.T) {
	mine, thief := oneKey(1), oneKey(2)
	signed, err := mine.Sign(statement())
	require.NoError(t, err)
	err = signed.CheckPeer(thief.PeerID())
	require.EqualError(t, err, "statement: of peer "+mine.PeerID().String()+", shown by peer "+thief.PeerID().String())
}

// forge seals any statement with the device's key, as a hostile peer can.
func forge(t *testing.T, device byte, change func(*wire.Statement)) []byte {
	t.Helper()
	d, u := oneKey(device).DeviceKey(), oneKey(2).UserKey()
	msg := &wire.Statement{
		App: testApp[:], User: "alice", UserKey: u[:], Device: d[:],
		Certificate: wire.Sign(wire.DomainDevice, seeded(2), d[:]),
		Sequence:    1, IssuedMs: testTime.UnixMilli(), ExpiresMs: testTime.Add(time.Hour).UnixMilli(), LoggedIn: true,
	}
	change(msg)
	body, err := proto.Marshal(msg)
	require.NoError(t, err)
	return wire.Seal(wire.DomainStatement, seeded(device), body)
}

func TestForgedStatementsAreRefused(t *testing.T) {
	_, err := identity.Verify(forge(t, 1, func(*wire.Statement) {}), testApp, testTime)
	require.NoError(t, err, "unchanged, the forgery is genuine")
	deviceOf := func(b byte) []byte { k := oneKey(b).DeviceKey(); return k[:] }
	for _, tc := range []struct {
		name   string
		change func(*wire.Statement)
		text   string
		is     error
	}{
		{"certificate by another user key", func(s *wire.Statement) {
			s.Certificate = wire.Sign(wire.DomainDevice, seeded(3), s.Device)
		}, "the user key has not certified the device key", identity.ErrSignature},
		{"certificate of another device", func(s *wire.Statement) {
			s.Certificate = wire.Sign(wire.DomainDevice, seeded(2), deviceOf(3))
		}, "the user key has not certified the device key", identity.ErrSignature},
		{"certificate signed for another purpose", func(s *wire.Statement) {
			s.Certificate = wire.Sign(wire.DomainHello, seeded(2), s.Device)
		}, "the user key has not certified the device key", identity.ErrSignature},
		{"no certificate", func(s *wire.Statement) { s.Certificate = nil }, "certificate of 0 bytes", nil},
		{"half a certificate", func(s *wire.Statement) { s.Certificate = s.Certificate[:32] }, "certificate of 32 bytes", nil},
		{"needless certificate", func(s *wire.Statement) { s.UserKey = s.Device }, "certificate for a device key that is the user key", nil},
		{"another device", func(s *wire.Statement) {
			s.Device = deviceOf(3)
			s.Certificate = wire.Sign(wire.DomainDevice, seeded(2), s.Device)
		}, "the device's signature does not verify", identity.ErrSignature},
		{"no app", func(s *wire.Statement) { s.App = nil }, "app ID of 0 bytes", nil},
		{"no keys", func(s *wire.Statement) { s.UserKey, s.Device = nil, nil }, "keys of 0 and 0 bytes", nil},
		{"long key", func(s *wire.Statement) { s.UserKey = make([]byte, 33) }, "keys of 33 and 32 bytes", nil},
		{"wrong user", func(s *wire.Statement) { s.User = "al ice" }, `user ID "al ice": ' ' is not one of a-z A-Z 0-9 _ @ . -`, nil},
		{"empty user", func(s *wire.Statement) { s.User = "" }, `user ID "": empty`, identity.ErrEmptyID},
		{"no sequence", func(s *wire.Statement) { s.Sequence = 0 }, "no sequence", nil},
		{"no time", func(s *wire.Statement) { s.IssuedMs, s.ExpiresMs = 0, 0 }, "valid from 0 to 0 ms", nil},
		{"expires before it is issued", func(s *wire.Statement) { s.IssuedMs, s.ExpiresMs = 20, 10 }, "valid from 20 to 10 ms", nil},
		{"expires after all time", func(s *wire.Statement) { s.IssuedMs, s.ExpiresMs = 1, 1<<63-1 }, "valid from 1 to 9223372036854775807 ms", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := identity.Verify(forge(t, 1, tc.change), testApp, testTime)
			require.EqualError(t, err, "statement: "+tc.text)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
		})
	}
	t.Run("signed for another purpose", func(t *testing.T) {
		sealed := forge(t, 1, func(*wire.Statement) {})
		_, err := identity.Verify(wire.Seal(wire.DomainRoster, seeded(1), sealed[64:]), testApp, testTime)
		require.ErrorIs(t, err, identity.ErrSignature)
	})
	t.Run("garbage under a good signature", func(t *testing.T) {
		_, err := identity.Verify(wire.Seal(wire.DomainStatement, seeded(1), []byte("\xff\xff\xff")), testApp, testTime)
		require.EqualError(t, err, "statement: malformed")
	})
	t.Run("too short", func(t *testing.T) {
		_, err := identity.Verify(make([]byte, 64), testApp, testTime)
		require.EqualError(t, err, "statement: 64 bytes are too few")
	})
}

func TestAFieldOfALaterVersionIsIgnoredAndCovered(t *testing.T) {
	sealed := forge(t, 1, func(s *wire.Statement) {
		s.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 0x03, 'n', 'e', 'w'}) // field 100
	})
	st, err := identity.Verify(sealed, testApp, testTime)
	require.NoError(t, err)
	require.Equal(t, sealed, st.Sealed())
	sealed[len(sealed)-1] = 'x'
	_, err = identity.Verify(sealed, testApp, testTime)
	require.ErrorIs(t, err, identity.ErrSignature)
}

func TestOversizeStatementsAreNeitherSignedNorVerified(t *testing.T) {
	st := statement()
	st.Token = strings.Repeat("t", identity.MaxStatement)
	_, err := oneKey(1).Sign(st)
	require.ErrorContains(t, err, "bytes, at most 8192 are allowed")
	for _, verify := range []func([]byte) error{
		func(b []byte) error { _, err := identity.Verify(b, testApp, testTime); return err },
		func(b []byte) error { _, err := identity.NewVerifier(testApp).Verify(b, testTime); return err },
	} {
		require.EqualError(t, verify(make([]byte, identity.MaxStatement+1)), "statement: 8193 bytes, at most 8192 are allowed")
	}
	st.Token = strings.Repeat("t", 4<<10)
	signed, err := oneKey(1).Sign(st)
	require.NoError(t, err)
	_, err = identity.Verify(signed.Sealed(), testApp, testTime)
	require.NoError(t, err, "a token of 4 KiB fits")
}

func TestSignRefusesWhatNobodyWouldAccept(t *testing.T) {
	st := statement()
	st.User = ""
	_, err := oneKey(1).Sign(st)
	require.ErrorIs(t, err, identity.ErrEmptyID)
	st = statement()
	st.Expires = st.Issued
	_, err = oneKey(1).Sign(st)
	require.ErrorContains(t, err, "statement: valid from ")
}

func TestTheOrderOfLogInsIsTheSameForEverybody(t *testing.T) {
	sign := func(device byte, sequence uint64, issued time.Time) *identity.Statement {
		st := statement()
		st.Sequence, st.Issued = sequence, issued
		signed, err := oneKey(device).WithUser(seeded(9)).Sign(st)
		require.NoError(t, err)
		return signed
	}
	low, high := byte(1), byte(2)
	if oneKey(low).PeerID() > oneKey(high).PeerID() {
		low, high = high, low
	}
	order := []*identity.Statement{ // each is newer than all before it
		sign(high, 1, testTime.Add(time.Hour)),
		sign(low, 2, testTime.Add(time.Minute)),
		sign(high, 2, testTime),
		sign(high, 2, testTime.Add(time.Second)),
		sign(low, 3, testTime.Add(-time.Hour)),
	}
	for i, a := range order {
		for j, b := range order {
			require.Equal(t, i > j, a.Newer(b), "%d newer than %d", i, j)
		}
	}
}

func TestTheNextSequenceFollowsTheHighestAndTheClock(t *testing.T) {
	ms := uint64(testTime.UnixMilli())
	skew := uint64(identity.MaxSkew.Milliseconds())
	require.Equal(t, ms, identity.NextSequence(0, testTime))
	require.Equal(t, ms, identity.NextSequence(ms-1, testTime))
	require.Equal(t, ms+1, identity.NextSequence(ms, testTime))
	require.Equal(t, ms+5001, identity.NextSequence(ms+5000, testTime), "the clock went back a little")
	require.Equal(t, ms+skew, identity.NextSequence(ms+skew-1, testTime), "the last that others accept")
	require.Equal(t, ms, identity.NextSequence(ms+skew, testTime), "others would refuse one more")
	require.Equal(t, ms, identity.NextSequence(ms+1<<40, testTime), "a clock that was a year ahead")
	require.Equal(t, uint64(1), identity.NextSequence(0, time.UnixMilli(-5)))
}

func TestAVerifierJudgesTheTimeOfWhatItRemembers(t *testing.T) {
	signed, err := oneKey(1).Sign(statement())
	require.NoError(t, err)
	v := identity.NewVerifier(testApp)
	first, err := v.Verify(signed.Sealed(), testTime)
	require.NoError(t, err)
	second, err := v.Verify(signed.Sealed(), testTime.Add(time.Hour))
	require.NoError(t, err)
	require.Same(t, first, second)
	_, err = v.Verify(signed.Sealed(), testTime.Add(25*time.Hour))
	require.ErrorIs(t, err, identity.ErrExpired)
	_, err = v.Verify(signed.Sealed(), testTime.Add(-time.Hour))
	require.ErrorIs(t, err, identity.ErrClock)
	_, err = identity.NewVerifier(identity.NewAppID("other")).Verify(signed.Sealed(), testTime)
	require.ErrorIs(t, err, identity.ErrOtherApp)
}

func TestTheSealedBytesCannotBeChangedFromOutside(t *testing.T) {
	signed, err := oneKey(1).Sign(statement())
	require.NoError(t, err)
	in := signed.Sealed()
	v := identity.NewVerifier(testApp)
	st, err := v.Verify(in, testTime)
	require.NoError(t, err)
	clear(in)
	clear(st.Sealed())
	require.Equal(t, signed.Sealed(), st.Sealed())
}

func FuzzVerifyAcceptsAnyBytes(f *testing.F) {
	for _, keys := range []*identity.Keys{oneKey(1), oneKey(1).WithUser(seeded(2))} {
		signed, err := keys.Sign(statement())
		require.NoError(f, err)
		f.Add(signed.Sealed())
		f.Add(signed.Sealed()[:100])
	}
	f.Add([]byte{})
	f.Add(make([]byte, 65))
	key := oneKey(1)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = identity.Verify(data, testApp, testTime)
		// Also under a valid signature, or the fuzzer would never get past the signature check.
		if len(data) <= 64 {
			return
		}
		st, err := identity.Verify(wire.Seal(wire.DomainStatement, key.Device, data[64:]), testApp, testTime)
		if err != nil {
			return
		}
		require.NoError(t, identity.CheckUser(st.User))
		require.NoError(t, st.CheckPeer(key.PeerID()))
		require.True(t, st.Expires.After(st.Issued))
	})
}

func BenchmarkVerify(b *testing.B) {
	for name, keys := range map[string]*identity.Keys{"one key": oneKey(1), "certified": oneKey(1).WithUser(seeded(2))} {
		signed, err := keys.Sign(statement())
		require.NoError(b, err)
		sealed := signed.Sealed()
		b.Run(name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := identity.Verify(sealed, testApp, testTime); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/cached", func(b *testing.B) {
			v := identity.NewVerifier(testApp)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(sealed, testTime); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	keys, st := oneKey(1), statement()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Sign(st); err != nil {
			b.Fatal(err)
		}
	}
}
