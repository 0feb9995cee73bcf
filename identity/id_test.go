package identity_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestWrongIDsAreRefusedWithTheReason(t *testing.T) {
	long := strings.Repeat("a", 129)
	for _, tc := range []struct{ name, id, why string }{
		{"empty", "", `"": empty`},
		{"129 characters", long, `"` + long[:128] + `"…: 129 bytes, at most 128 are allowed`},
		{"space", "a b", `"a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`},
		{"slash", "a/b", `"a/b": '/' is not one of a-z A-Z 0-9 _ @ . -`},
		{"hash", "a#b", `"a#b": '#' is not one of a-z A-Z 0-9 _ @ . -`},
		{"unicode", "alíce", `"alíce": 'í' is not one of a-z A-Z 0-9 _ @ . -`},
		{"invalid UTF-8", "a\xff", `"a\xff": '�' is not one of a-z A-Z 0-9 _ @ . -`},
		{"NUL", "a\x00", `"a\x00": '\x00' is not one of a-z A-Z 0-9 _ @ . -`},
		{"newline", "alice\n", `"alice\n": '\n' is not one of a-z A-Z 0-9 _ @ . -`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for kind, check := range map[string]func(string) error{
				"user": identity.CheckUser, "room": identity.CheckRoom, "app": identity.CheckApp,
			} {
				err := check(tc.id)
				require.EqualError(t, err, kind+" ID "+tc.why)
				var idErr *identity.IDError
				require.ErrorAs(t, err, &idErr)
				require.Equal(t, kind, idErr.Kind)
				require.Equal(t, tc.id, idErr.Value, "the value is given whole")
				if tc.id == "" {
					require.ErrorIs(t, err, identity.ErrEmptyID)
				} else {
					require.NotErrorIs(t, err, identity.ErrEmptyID)
				}
			}
		})
	}
}

func TestRightIDsPass(t *testing.T) {
	for _, id := range []string{"a", "A-Z_0.9@host", strings.Repeat("z", 128), "...", "-", "@"} {
		require.NoError(t, identity.CheckUser(id))
		require.NoError(t, identity.CheckRoom(id))
		require.NoError(t, identity.CheckApp(id))
	}
}

func TestUserInfoOver200BytesIsRefused(t *testing.T) {
	require.NoError(t, identity.CheckInfo(nil))
	require.NoError(t, identity.CheckInfo(make([]byte, 200)))
	err := identity.CheckInfo(make([]byte, 201))
	require.EqualError(t, err, "user info of 201 bytes is over the limit of 200")
	require.Equal(t, &identity.InfoSizeError{Size: 201}, err)
}

func TestAddressesAreParsed(t *testing.T) {
	const print = "abcdefghijkl2345"
	for in, want := range map[string]identity.Address{
		"alice":                   {User: "alice"},
		"a.b@c":                   {User: "a.b@c"},
		"alice#" + print:          {User: "alice", Fingerprint: print},
		"alice#ABCDEFGHIJKL2345":  {User: "alice", Fingerprint: print},
		"Alice#" + print:          {User: "Alice", Fingerprint: print},
		"x_y-z#2222222222222222":  {User: "x_y-z", Fingerprint: "2222222222222222"},
		"x_y-z#aaaaaaaaaaaaaaaa":  {User: "x_y-z", Fingerprint: "aaaaaaaaaaaaaaaa"},
		"x_y-z#aaaaaaaaAAAAAAAA":  {User: "x_y-z", Fingerprint: "aaaaaaaaaaaaaaaa"},
		strings.Repeat("u", 128):  {User: strings.Repeat("u", 128)},
		"7#" + "7777777777777777": {User: "7", Fingerprint: "7777777777777777"},
	} {
		got, err := identity.ParseAddress(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
		again, err := identity.ParseAddress(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
}

func TestWrongAddressesAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                        `user ID "": empty`,
		"#abcdefghijkl2345":       `user ID "": empty`,
		"a b":                     `user ID "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`,
		"alice#":                  `address "alice#": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
		"alice#abc":               `address "alice#abc": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
		"alice#abcdefghijkl234":   `address "alice#abcdefghijkl234": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
		"alice#abcdefghijkl23456": `address "alice#abcdefghijkl23456": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
		"alice#abcdefghijkl2341":  `address "alice#abcdefghijkl2341": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
		"alice#abcdefgh#jkl2345":  `address "alice#abcdefgh#jkl2345": after '#' belongs a fingerprint of 16 characters of a-z 2-7`,
	} {
		_, err := identity.ParseAddress(in)
		require.EqualError(t, err, want)
	}
	var addrErr *identity.AddressError
	_, err := identity.ParseAddress("alice#abc")
	require.ErrorAs(t, err, &addrErr)
	require.Equal(t, "alice#abc", addrErr.Value)
	var idErr *identity.IDError
	_, err = identity.ParseAddress("a/b#abcdefghijkl2345")
	require.ErrorAs(t, err, &idErr)
	require.Equal(t, "a/b", idErr.Value)
}

func TestAnAddressMatchesNameAndKey(t *testing.T) {
	alice, other := oneKey(1).UserKey(), oneKey(2).UserKey()
	exact := identity.Address{User: "alice", Fingerprint: alice.Fingerprint()}
	require.True(t, exact.Matches("alice", alice))
	require.False(t, exact.Matches("alice", other))
	require.False(t, exact.Matches("bob", alice))
	loose := identity.Address{User: "alice"}
	require.True(t, loose.Matches("alice", alice))
	require.True(t, loose.Matches("alice", other))
	require.False(t, loose.Matches("Alice", alice))
}
