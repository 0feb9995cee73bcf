package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
)

// What the commands write with --json, as other programs read it.
type (
	madeIssuer struct{ Kid, Key, Issuers, Root string }
	grant      struct {
		Token, User string
		Login       bool
		Rooms       map[string]string
		Expires     time.Time
		ID          string `json:"jti"`
	}
	verified struct {
		OK            bool
		Grant         *grant
		Error, Detail string
	}
	revoked struct {
		File    string
		Version uint64 `json:",string"`
		Users   map[string]time.Time
		Tokens  map[string]*time.Time
	}
)

// acme is a directory with an issuer, and one with the keys of a device.
type acme struct {
	t                *testing.T
	dir, data        string
	issuers, peer    string
	device, kid, key string
}

func newAcme(t *testing.T) *acme {
	t.Helper()
	a := &acme{t: t, dir: filepath.Join(t.TempDir(), "acme"), data: t.TempDir()}
	got := runHere("issuer", "new", "--dir", a.dir, "--json")
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	var made madeIssuer
	require.NoError(t, json.Unmarshal([]byte(got.out), &made))
	a.issuers, a.kid, a.key = made.Issuers, made.Kid, made.Key
	a.peer, a.device = deviceOf(t, a.data)
	return a
}

// deviceOf makes the keys in a data directory, and returns the peer ID and the fingerprint of the
// device key.
func deviceOf(t *testing.T, data string) (peer, device string) {
	t.Helper()
	got := runHere("id", "--data", data, "--json")
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	var id shownID
	require.NoError(t, json.Unmarshal([]byte(got.out), &id))
	key, err := identity.ParseDeviceKey(string(id.Device))
	require.NoError(t, err)
	return id.Peer, key.Fingerprint()
}

// issue returns a token for alice on the device, or for what the flags say instead.
func (a *acme) issue(flags ...string) string {
	a.t.Helper()
	got := runHere(append([]string{"token", "issue", "--dir", a.dir, "--user", "alice", "--device", a.peer}, flags...)...)
	require.Equal(a.t, cli.ExitOK, got.code, got.errOut)
	require.Empty(a.t, got.errOut)
	return strings.TrimSuffix(got.out, "\n")
}

// verify checks a token with the issuers.
func (a *acme) verify(token string, flags ...string) ran {
	a.t.Helper()
	return runHere(append([]string{"token", "verify", token, "--issuers", a.issuers}, flags...)...)
}

func TestAnIssuerIsMadeOnceAndCanHaveFurtherKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "issuer")
	none := runHere("issuer", "new", "--dir", dir, "--add")
	require.Equal(t, ran{cli.ExitFailed, "", "starling: there is no issuer in " + dir + " yet; \"starling issuer new\" without --add makes it\n"}, none)
	first := runHere("issuer", "new", "--dir", dir)
	require.Equal(t, cli.ExitOK, first.code, first.errOut)
	key, issuers := filepath.Join(dir, "issuer.key"), filepath.Join(dir, "issuers.json")
	require.Regexp(t, `^kid      [\w-]{43}\nkey      `+regexp.QuoteMeta(key)+`  \(keep it secret: who has it says who is a user\)\nissuers  `+
		regexp.QuoteMeta(issuers)+`  \(for every node of the app: starling chat --issuers FILE\)\n$`, first.out)
	if info, err := os.Stat(key); runtime.GOOS != "windows" {
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	before, err := os.ReadFile(issuers)
	require.NoError(t, err)
	again := runHere("issuer", "new", "--dir", dir)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: " + issuers + " is there already, and is not overwritten; --add makes a further key\n"}, again)
	after, err := os.ReadFile(issuers)
	require.NoError(t, err)
	require.Equal(t, before, after)

	added := runHere("issuer", "new", "--dir", dir, "--add", "--json")
	require.Equal(t, cli.ExitOK, added.code, added.errOut)
	var made madeIssuer
	require.NoError(t, json.Unmarshal([]byte(added.out), &made))
	require.Equal(t, filepath.Join(dir, "issuer-2.key"), made.Key)
	all, err := identity.ReadIssuers(issuers)
	require.NoError(t, err)
	require.Len(t, all.Keys(), 2)
	require.Equal(t, made.Root, all.Root().Kid)
	require.NotEqual(t, made.Kid, made.Root)
	require.Contains(t, first.out, made.Root)

	peer, _ := deviceOf(t, t.TempDir())
	by := runHere("token", "issue", "--dir", dir, "--key", made.Key, "--user", "alice", "--device", peer)
	require.Equal(t, cli.ExitOK, by.code, by.errOut)
	require.Contains(t, runHere("token", "verify", strings.TrimSpace(by.out), "--issuers", issuers).out, "kid      "+made.Kid+"\n")
}

func TestAnIssuedTokenIsVerified(t *testing.T) {
	a := newAcme(t)
	token := a.issue("--app", "acme", "--login", "--room", "ops:moderator", "--room", "dev", "--life", "8h", "--id", "t-1")
	require.Equal(t, 2, strings.Count(token, "."))
	got := a.verify(token, "--app", "acme")
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	require.Regexp(t, `^good\nuser     alice\ndevice   `+a.device+`\nfor      logging in, the room dev \(member\), the room ops \(moderator\)\n`+
		`expires  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\njti      t-1\nkid      `+a.kid+`\n$`, got.out)

	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	require.Equal(t, got, a.verify(file, "--app", "acme"))
	require.Equal(t, got, runWith(token+"\n", "token", "verify", "-", "--issuers", a.issuers, "--app", "acme"))
	require.Equal(t, got, a.verify(token, "--app", "acme", "--user", "alice", "--device", a.peer, "--room", "ops"))

	asJSON := a.verify(token, "--app", "acme", "--json")
	require.Equal(t, cli.ExitOK, asJSON.code)
	var v verified
	require.NoError(t, json.Unmarshal([]byte(asJSON.out), &v))
	require.True(t, v.OK)
	require.Equal(t, map[string]string{"ops": "moderator", "dev": "member"}, v.Grant.Rooms)
	require.WithinDuration(t, time.Now().Add(8*time.Hour), v.Grant.Expires, time.Minute)

	var issued grant
	require.NoError(t, json.Unmarshal([]byte(a.issue("--json")), &issued))
	require.Equal(t, "alice", issued.User)
	require.True(t, issued.Login)
	require.Len(t, issued.ID, 26)
	require.Equal(t, cli.ExitOK, a.verify(issued.Token).code)
}

func TestARefusedTokenSaysWhyAndEndsWith1(t *testing.T) {
	a := newAcme(t)
	other := newAcme(t)
	good := a.issue()
	head, rest, _ := strings.Cut(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + rest
	for _, c := range []struct {
		token, code, detail string
		flags               []string
	}{
		{a.issue("--life", "1ns"), "expired", "expired ", []string{"--leeway", "0s"}},
		{other.issue(), "issuer", "which is not one of this app's issuers", nil},
		{none, "algorithm", `signed by "none", only EdDSA is allowed`, nil},
		{head + "." + rest + "!", "malformed", "its signature is not base64url", nil},
		{"a.b.c", "malformed", "its header is not base64url", nil},
		{strings.Repeat("a", 5000) + ".b.c", "size", "5004 bytes, at most 4096 are allowed", nil},
		{good, "app", `it is for the app "starling", this is "acme"`, []string{"--app", "acme"}},
		{good, "user", `it was issued to the user "alice", not to "bob"`, []string{"--user", "bob", "--device", a.peer}},
		{good, "device", "it is bound to the device key " + a.device, []string{"--user", "alice", "--device", other.peer}},
		{good, "room", `it does not admit to the room "ops"`, []string{"--room", "ops"}},
		{a.issue("--room", "ops"), "device", "it is bound to the device key " + a.device, []string{"--user", "alice", "--device", other.peer}},
	} {
		t.Run(c.code, func(t *testing.T) {
			got := a.verify(c.token, c.flags...)
			require.Equal(t, cli.ExitFailed, got.code)
			require.Empty(t, got.out)
			require.Contains(t, got.errOut, "starling: token refused: ")
			require.Contains(t, got.errOut, c.detail)
			got = a.verify(c.token, append(c.flags, "--json")...)
			require.Equal(t, cli.ExitFailed, got.code)
			require.Empty(t, got.errOut, "it is told once")
			var v verified
			require.NoError(t, json.Unmarshal([]byte(got.out), &v))
			require.False(t, v.OK)
			require.Nil(t, v.Grant)
			require.Equal(t, c.code, v.Error)
			require.Contains(t, v.Detail, c.detail)
		})
	}
}

func TestShowReadsATokenAndTrustsNothing(t *testing.T) {
	a := newAcme(t)
	token := a.issue("--id", "t-1")
	got := runHere("token", "show", token)
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	require.Contains(t, got.out, "  \"alg\": \"EdDSA\",\n")
	require.Contains(t, got.out, "  \"sub\": \"alice\"\n")
	require.Contains(t, got.out, "\nnot verified: \"starling token verify\" does that\n")
	asJSON := runWith(token, "token", "show", "-", "--json")
	var shown struct {
		Header, Claims map[string]any
		Verified       *bool
	}
	require.NoError(t, json.Unmarshal([]byte(asJSON.out), &shown))
	require.Equal(t, "t-1", shown.Claims["jti"])
	require.Equal(t, a.kid, shown.Header["kid"])
	require.NotNil(t, shown.Verified)
	require.False(t, *shown.Verified)

	evil := base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte("{\"x\":\"\u202e\u009b2J\"}")) + "."
	got = runHere("token", "show", evil)
	require.Equal(t, cli.ExitOK, got.code)
	require.Contains(t, got.out, `"x": "\u202e\u009b2J"`, "what is in it does not reach the terminal as it is")
	require.Equal(t, ran{cli.ExitFailed, "", "starling: not a token: its header is not JSON in base64url\n"}, runHere("token", "show", "a.b.c"))
	require.Equal(t, ran{cli.ExitFailed, "", "starling: nonsense is neither a token nor a file: no such file or directory\n"}, runHere("token", "show", "nonsense"))
}

func TestRevocationsAtOnceAreAllKept(t *testing.T) {
	a := newAcme(t)
	const at = 8
	var revoking sync.WaitGroup
	for i := range at {
		revoking.Go(func() {
			got := runHere("token", "revoke", "--id", fmt.Sprint("id", i), "--dir", a.dir)
			assert.Equal(t, cli.ExitOK, got.code, got.errOut)
		})
	}
	revoking.Wait()
	var shown revoked
	require.NoError(t, json.Unmarshal([]byte(runHere("token", "revoke", "--list", "--dir", a.dir, "--json").out), &shown))
	require.Len(t, shown.Tokens, at)

	require.NoError(t, os.WriteFile(shown.File+".lock", nil, 0o600))
	got := runHere("token", "revoke", "--id", "more", "--dir", a.dir)
	require.Equal(t, cli.ExitFailed, got.code)
	require.Contains(t, got.errOut, "another command is changing")
}

func TestRevokedTokensAreRefused(t *testing.T) {
	a := newAcme(t)
	one, two := a.issue("--id", "one"), a.issue("--id", "two")
	list := filepath.Join(a.dir, "starling.revocations")
	require.Equal(t, ran{cli.ExitOK, "nothing is revoked\nversion  0\nfile     " + list + "\n", ""}, runHere("token", "revoke", "--list", "--dir", a.dir))
	got := runHere("token", "revoke", one, "--dir", a.dir)
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	require.Regexp(t, `^token    one, until it expires at \S+Z\nversion  \d{13}\nfile     `+regexp.QuoteMeta(list)+`\n$`, got.out)
	refused := a.verify(one, "--revocations", list)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: token refused: its issuer has revoked it\n"}, refused)
	require.Equal(t, cli.ExitOK, a.verify(two, "--revocations", list).code)

	got = runHere("token", "revoke", "--user", "alice", "--id", "other", "--dir", a.dir, "--json")
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	var shown revoked
	require.NoError(t, json.Unmarshal([]byte(got.out), &shown))
	require.Contains(t, shown.Users, "alice")
	require.Contains(t, shown.Tokens, "one", "what was revoked stays so")
	require.NotNil(t, shown.Tokens["one"])
	require.Nil(t, shown.Tokens["other"])
	require.Equal(t, cli.ExitFailed, a.verify(two, "--revocations", list).code)
	before := shown.Version

	require.Equal(t, ran{cli.ExitFailed, "", "starling: bob is not in the list\n"}, runHere("token", "revoke", "--forgive", "bob", "--dir", a.dir))
	got = runHere("token", "revoke", "--forgive", "alice", "--forgive", "other", "--dir", a.dir, "--json")
	require.Equal(t, cli.ExitOK, got.code, got.errOut)
	require.NoError(t, json.Unmarshal([]byte(got.out), &shown))
	require.Greater(t, shown.Version, before)
	require.Equal(t, cli.ExitOK, a.verify(two, "--revocations", list).code)
	require.Equal(t, cli.ExitFailed, a.verify(one, "--revocations", list).code)
	require.Equal(t, got.out, runHere("token", "revoke", "--list", "--dir", a.dir, "--json").out)

	other := newAcme(t)
	foreign := runHere("token", "revoke", other.issue(), "--dir", a.dir)
	require.Equal(t, cli.ExitFailed, foreign.code)
	require.Contains(t, foreign.errOut, "is not a token of this issuer: ")
	taken := runHere("token", "verify", one, "--issuers", other.issuers, "--revocations", list)
	require.Equal(t, cli.ExitFailed, taken.code)
	require.Contains(t, taken.errOut, list+": list of revocations refused: ")
}

func TestWrongUsageOfTokensIsToldTogether(t *testing.T) {
	a := newAcme(t)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"issue"}, []string{`--user "": empty`, `--device "": want the peer ID that "starling id" shows, or its JSON Web Key`}},
		{[]string{"issue", "--user", "a b", "--device", "x", "--room", "o ps", "--room", "dev", "--room", "dev:boss", "--life", "-1s", "--app", ""},
			[]string{
				`--user "a b": ' ' is not one of a-z A-Z 0-9 _ @ . -`, `--app "": empty`,
				`--device "x": want the peer ID that "starling id" shows, or its JSON Web Key`, "--life -1s: want more than 0",
				`--room "o ps": ' ' is not one of a-z A-Z 0-9 _ @ . -`, `--room "dev": given twice`,
			}},
		{[]string{"issue", "--user", "alice", "--device", a.peer, "--room", "ops:", "--dir", a.dir},
			[]string{`this token would be refused: rooms: the role "": want 1 to 32 characters`}},
		{[]string{"verify"}, []string{`"starling token verify" needs a token`}},
		{[]string{"verify", "x", "--user", "alice"}, []string{"--user and --device go together: who shows a token, and on which device"}},
		{[]string{"verify", "x", "--leeway", "1h"}, []string{"--leeway 1h0m0s: want 0 to 10m0s"}},
		{[]string{"verify", "x", "--room", "a/b"}, []string{`--room "a/b": '/' is not one of a-z A-Z 0-9 _ @ . -`}},
		{[]string{"revoke"}, []string{"say what to revoke: a token, --user or --id; or --list to see what is"}},
		{[]string{"revoke", "x", "--list"}, []string{"--list changes nothing: leave out what to revoke"}},
		{[]string{"revoke", "--user", "", "--dir", a.dir}, []string{`--user "": empty`}},
		{[]string{"isue"}, []string{`unknown command "isue" for "starling token", did you mean "issue"?`}},
	} {
		got := runHere(append([]string{"token"}, c.args...)...)
		require.Equal(t, cli.ExitUsage, got.code, "%v", c.args)
		require.Empty(t, got.out)
		help := "starling token " + c.args[0]
		if c.args[0] == "isue" {
			help = "starling token"
		}
		require.Equal(t, "starling: "+strings.Join(c.want, "\n")+"\nRun '"+help+" --help' for usage.\n", got.errOut)
	}
}

func TestWithoutAnIssuerNothingIsIssued(t *testing.T) {
	dir := t.TempDir()
	peer, _ := deviceOf(t, t.TempDir())
	got := runHere("token", "issue", "--user", "alice", "--device", peer, "--dir", dir)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: there is no issuer in " + dir + "; \"starling issuer new\" makes one\n"}, got)
	a, other := newAcme(t), newAcme(t)
	got = runHere("token", "issue", "--user", "alice", "--device", peer, "--dir", a.dir, "--key", other.key)
	require.Equal(t, ran{cli.ExitFailed, "", "starling: the key in " + other.key + " is not one of those in " + a.issuers + ": no node would trust it\n"}, got)
	got = runHere("token", "verify", "a.b.c", "--issuers", filepath.Join(dir, "issuers.json"))
	require.Equal(t, ran{cli.ExitFailed, "", "starling: issuers " + filepath.Join(dir, "issuers.json") + ": no such file or directory\n"}, got)
}
