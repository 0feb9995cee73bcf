package identity_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// requireNode is an environment variable. If it is set, a missing Node.js is a failure instead of a
// skip.
const requireNode = "STARLING_REQUIRE_NODE"

// blocks returns the code of one language in docs/TOKENS.md.
func blocks(t *testing.T, language string) (all []string) {
	t.Helper()
	doc, err := os.ReadFile("../docs/TOKENS.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		all = append(all, m[1])
	}
	return all
}

// nodeIssuer writes the program of the document into its own directory, and returns a function that
// runs it there.
func nodeIssuer(t *testing.T) (dir string, issue func(args ...string) string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv(requireNode) != "" {
			t.Fatalf("%s is set, and there is no Node.js: %v", requireNode, err)
		}
		t.Skipf("install Node.js 16 or newer, which runs the program of docs/TOKENS.md: %v", err)
	}
	programs := blocks(t, "js")
	require.Len(t, programs, 1)
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "issue.mjs"), []byte(programs[0]), 0o600))
	return dir, func(args ...string) string {
		t.Helper()
		cmd := exec.Command(node, append([]string{"issue.mjs"}, args...)...)
		cmd.Dir = dir
		var complaints strings.Builder
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		require.NoError(t, err, complaints.String())
		return strings.TrimSuffix(string(out), "\n")
	}
}

func TestATokenOfTheNodeProgramOfTheDocumentIsAccepted(t *testing.T) {
	dir, issue := nodeIssuer(t)
	token := issue("acme", "alice", string(device.JWK()))
	issuers, err := identity.ReadIssuers(filepath.Join(dir, "issuers.json"))
	require.NoError(t, err)
	a, err := identity.NewAuthority("acme", issuers)
	require.NoError(t, err)
	now := time.Now()
	g, err := a.Login(token, "alice", device, now)
	require.NoError(t, err)
	require.Equal(t, issuers.Root().Kid, g.Kid)
	require.Equal(t, identity.NewIssuerKey(issuers.Root().Key).Kid, g.Kid, "both compute the same thumbprint")
	require.Equal(t, time.Hour, g.Expires.Sub(g.Issued))
	_, err = a.Room(token, "alice", device, "lobby", now)
	require.NoError(t, err)

	st, err := a.Sign(oneKey(1), identity.Statement{
		App: a.App(), User: "alice", LoggedIn: true, Token: token,
		Sequence: identity.NextSequence(0, now), Issued: now, Expires: now.Add(time.Hour),
	})
	require.NoError(t, err)
	_, err = identity.NewVerifier(a.App(), identity.WithAuthority(a)).Verify(st.Sealed(), now)
	require.NoError(t, err, "and so is the log-in with it")

	_, err = a.Login(token, "bob", device, now)
	require.ErrorIs(t, err, identity.ErrTokenUser)
	_, err = a.Room(token, "alice", device, "ops", now)
	require.ErrorIs(t, err, identity.ErrTokenRoom)
	_, err = a.Login(token, "alice", device, now.Add(2*time.Hour))
	require.ErrorIs(t, err, identity.ErrTokenExpired)
	_, err = newAuthority(t).Inspect(token, now)
	require.ErrorIs(t, err, identity.ErrTokenIssuer)
}

func TestTheNodeProgramTakesAnIssuerKeyOfOurs(t *testing.T) {
	dir, issue := nodeIssuer(t)
	text, err := identity.MarshalKey(issuerKey)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "issuer.key"), text, 0o600))
	_, err = newAuthority(t).Login(issue(acme, "alice", string(device.JWK())), "alice", device, time.Now())
	require.NoError(t, err)
}

func TestTheIssuerKeyOfTheNodeProgramIsReadHere(t *testing.T) {
	dir, issue := nodeIssuer(t)
	issue(acme, "alice", string(device.JWK()))
	key, err := identity.ReadKey(filepath.Join(dir, "issuer.key"))
	require.NoError(t, err)
	issuers, err := identity.ReadIssuers(filepath.Join(dir, "issuers.json"))
	require.NoError(t, err)
	require.Equal(t, issuers.Root().Key, public(key))
}

func TestTheSamplesOfTheDocumentAreGood(t *testing.T) {
	samples := blocks(t, "json")
	require.Len(t, samples, 3)
	var c jwt.MapClaims
	require.NoError(t, json.Unmarshal([]byte(samples[1]), &c))
	var h struct{ Kid string }
	require.NoError(t, json.Unmarshal([]byte(samples[0]), &h))
	issuers, err := identity.ParseIssuers([]byte(samples[2]))
	require.NoError(t, err)
	require.Equal(t, h.Kid, issuers.Root().Kid)

	// The sample's key is the public one of RFC 8037, whose private half does not matter here: our
	// own key signs instead.
	own, err := identity.NewIssuers(identity.IssuerKey{Kid: h.Kid, Key: public(issuerKey)})
	require.NoError(t, err)
	a, err := identity.NewAuthority("acme", own)
	require.NoError(t, err)
	g, err := a.Inspect(signRaw(samples[0], samples[1]), time.Unix(1900000000, 0))
	require.NoError(t, err)
	require.True(t, g.Login)
	require.Equal(t, map[string]string{"ops": "moderator", "lobby": "member"}, g.Rooms)
}
