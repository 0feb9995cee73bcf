package identity_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

func TestIssuersAreReadAsTheyWereWritten(t *testing.T) {
	second := identity.IssuerKey{Kid: "2026-a", Key: public(seeded(50))}
	issuers, err := identity.NewIssuers(root, second)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "issuers.json")
	require.NoError(t, os.WriteFile(path, issuers.Marshal(), 0o644))
	got, err := identity.ReadIssuers(path)
	require.NoError(t, err)
	require.Equal(t, issuers, got)
	require.Equal(t, root, got.Root())
	require.Equal(t, []identity.IssuerKey{root, second}, got.Keys())
	key, ok := got.Key("2026-a")
	require.True(t, ok)
	require.Equal(t, second.Key, key)
	_, ok = got.Key("2026-b")
	require.False(t, ok)
	require.Equal(t, `{
  "root": "`+root.Kid+`",
  "keys": [
    {
      "kty": "OKP",
      "crv": "Ed25519",
      "x": "`+jwkOf(root.Key)["x"].(string)+`",
      "use": "sig",
      "alg": "EdDSA",
      "kid": "`+root.Kid+`"
    },
    {
      "kty": "OKP",
      "crv": "Ed25519",
      "x": "`+jwkOf(second.Key)["x"].(string)+`",
      "use": "sig",
      "alg": "EdDSA",
      "kid": "2026-a"
    }
  ]
}
`, string(issuers.Marshal()))
}

// The example of RFC 8037, appendix A.3.
func TestTheIDOfAnIssuerKeyIsItsThumbprint(t *testing.T) {
	raw, err := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	require.NoError(t, err)
	require.Equal(t, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", identity.NewIssuerKey(identity.PublicKey(raw)).Kid)
}

func TestTheAppIsItsNameAndItsRoot(t *testing.T) {
	other := identity.NewIssuerKey(public(seeded(50)))
	one, err := identity.NewIssuers(root)
	require.NoError(t, err)
	both, err := identity.NewIssuers(root, other)
	require.NoError(t, err)
	swapped, err := identity.NewIssuers(other, root)
	require.NoError(t, err)
	id := one.AppID(acme)
	require.Equal(t, identity.NewIssuedAppID(acme, root.Key), id)
	require.Equal(t, id, both.AppID(acme), "further keys come and go")
	require.NotEqual(t, id, swapped.AppID(acme), "the root does not")
	require.NotEqual(t, id, one.AppID("acme.dev"))
	require.NotEqual(t, id, identity.NewAppID(acme), "nor is it the app in open mode")
	require.Equal(t, id, newAuthority(t).App())
}

func TestAKeySetOfOtherToolsIsRead(t *testing.T) {
	ours := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":"a","x":%q}`, jwkOf(root.Key)["x"])
	next := fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":"b","use":"sig","key_ops":["verify"],"x":%q}`, jwkOf(device)["x"])
	for _, c := range []struct{ name, text, want string }{
		{"the first is the root", `{"keys":[` + ours + `,` + next + `]}`, "a b"},
		{"unless another is named", `{"keys":[` + ours + `,` + next + `],"root":"b"}`, "b a"},
		{"other kinds of key are passed over", `{"keys":[{"kty":"RSA","n":"x","e":"AQAB","kid":"r"},{"kty":"OKP","crv":"X25519","x":"AA"},` + next + `]}`, "b"},
		{"and keys for encryption", `{"keys":[` + strings.Replace(next, `"sig"`, `"enc"`, 1) + `,` + ours + `]}`, "a"},
		{"other members are passed over", `{"keys":[` + ours + `],"issuer":"x"}`, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i, err := identity.ParseIssuers([]byte(c.text))
			require.NoError(t, err)
			var kids []string
			for _, k := range i.Keys() {
				kids = append(kids, k.Kid)
			}
			require.Equal(t, c.want, strings.Join(kids, " "))
		})
	}
}

func TestIssuersThatCannotBeUsedAreRefused(t *testing.T) {
	one := func(change string) string {
		k := map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": jwkOf(root.Key)["x"]}
		name, value, set := strings.Cut(change, "=")
		if set {
			k[name] = value
		} else {
			delete(k, name)
		}
		raw, _ := json.Marshal(k)
		return string(raw)
	}
	many := strings.Repeat(one("y")+",", identity.MaxIssuers)
	for i := range identity.MaxIssuers {
		many = strings.Replace(many, `"a"`, fmt.Sprintf(`"a%d"`, i), 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "not a JSON object"},
		{"no keys", "{}", `no list "keys", which a JSON Web Key Set has`},
		{"an empty list", `{"keys":[]}`, "no Ed25519 key in it"},
		{"none of ours", `{"keys":[{"kty":"RSA"}]}`, "no Ed25519 key in it"},
		{"a key that is no object", `{"keys":[1]}`, "key 1: not a JSON object"},
		{"no type", `{"keys":[` + one("kty") + `]}`, "key 1: kty is no string"},
		{"no key", `{"keys":[` + one("x") + `]}`, "key 1: x is no string"},
		{"a broken key", `{"keys":[` + one("x=AAAA") + `]}`, "key 1: x is not the base64url of 32 bytes"},
		{"no kid", `{"keys":[` + one("kid") + `]}`, "key 1: kid is no string"},
		{"an empty kid", `{"keys":[` + one("kid=") + `]}`, `kid "": want 1 to 64 printable characters without spaces`},
		{"a private key", `{"keys":[` + one("y") + `,` + one("d=AAAA") + `]}`, "key 2: it is a private key: only the public half belongs here"},
		{"a secret", `{"keys":[{"kty":"oct","k":"AAAA"}]}`, "key 1: it is a private key: only the public half belongs here"},
		{"one kid twice", `{"keys":[` + one("y") + `,` + one("y") + `]}`, `kid "a" appears twice`},
		{"a root that is not there", `{"keys":[` + one("y") + `],"root":"b"}`, `the root "b" is not among the keys`},
		{"a root that is no string", `{"keys":[` + one("y") + `],"root":1}`, "root is no string"},
		{"too many", `{"keys":[` + many + one("kid=last") + `]}`, "17 keys, at most 16 are allowed"},
		{"too large", `{"x":"` + strings.Repeat("x", 64<<10) + `"}`, "more than 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := identity.ParseIssuers([]byte(c.text))
			require.EqualError(t, err, "issuers: "+c.want)
			var bad *identity.IssuersError
			require.ErrorAs(t, err, &bad)
			path := filepath.Join(t.TempDir(), "issuers.json")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			_, err = identity.ReadIssuers(path)
			require.EqualError(t, err, "issuers "+path+": "+c.want)
		})
	}
	_, err := identity.ReadIssuers("/nowhere/issuers.json")
	require.EqualError(t, err, "issuers /nowhere/issuers.json: no such file or directory")
	require.True(t, errors.Is(err, fs.ErrNotExist))
	_, err = identity.NewIssuers(identity.IssuerKey{Kid: "a"})
	require.EqualError(t, err, `issuers: kid "a" has no key`)
}

func TestAnAuthorityNeedsAnAppIssuersAndAPlausibleLeeway(t *testing.T) {
	_, err := identity.NewAuthority("a b", identity.Issuers{}, identity.WithLeeway(time11min))
	require.EqualError(t, err, "authority: "+strings.Join([]string{
		`app ID "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`, "no issuers", "leeway 11m0s, want 0 to 10m0s",
	}, "\n"))
}
