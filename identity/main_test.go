package identity_test

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-mesh/starling/identity"
)

// holdDir is an environment variable. With it the test binary becomes a process that holds a data
// directory until its standard input ends.
const holdDir = "STARLING_TEST_HOLD_DIR"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdDir); path != "" {
		os.Exit(hold(path))
	}
	goleak.VerifyTestMain(m)
}

func hold(path string) int {
	d, err := identity.OpenDir(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := d.Close(); err != nil {
		return 1
	}
	return 0
}

var (
	testApp  = identity.NewAppID("identity.test")
	testTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// seeded returns a key that is the same in every run.
func seeded(b byte) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = b
	return ed25519.NewKeyFromSeed(seed)
}

// oneKey returns the keys of a node whose device key is its user key.
func oneKey(b byte) *identity.Keys { return &identity.Keys{Device: seeded(b), User: seeded(b)} }

// statement returns what the tests sign: alice, logged in at testTime for a day.
func statement() identity.Statement {
	return identity.Statement{
		App: testApp, User: "alice", LoggedIn: true,
		Sequence: identity.NextSequence(0, testTime),
		Issued:   testTime, Expires: testTime.Add(24 * time.Hour),
	}
}
