package mesh

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/starling-mesh/starling/internal/meshtest"
	"github.com/starling-mesh/starling/internal/wire"
)

// victimEnv makes the test binary a node that publishes until it is killed, with the store that it
// names.
const victimEnv = "STARLING_STORE_VICTIM"

// crash is a testing.TB for a process that is not a test.
type crash struct{ testing.TB }

func (crash) Helper()           {}
func (crash) Cleanup(func())    {}
func (crash) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// victimHost returns a host on loopback with the victim's key.
func victimHost() (host.Host, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		return nil, err
	}
	return libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery())
}

// victim publishes, and prints how far its feed is on the disk.
func victim(path string) error {
	store, err := OpenStore(path, 0)
	if err != nil {
		return err
	}
	h, err := victimHost()
	if err != nil {
		return err
	}
	s := newHellos().station(crash{}, h, "victim", WithStore(store))
	ctx := context.Background()
	r, err := s.Join(ctx, "ops")
	if err != nil {
		return err
	}
	for {
		var last Pending[Published]
		for range 1 + rand.N(50) {
			if last, err = r.PublishAsync(ctx, make([]byte, 1+rand.N(2048)), WithWaiting()); err != nil {
				return err
			}
		}
		p, err := last.Result()
		if err != nil {
			return err
		}
		if err := r.Flush(ctx); err != nil {
			return err
		}
		fmt.Println(p.Feed, p.Number)
	}
}

// onDisk checks that the hash chain of each feed in the file of a store is whole, from its first
// item to how far the file says that it has got, and returns that.
func onDisk(t *testing.T, s *Store, tag [32]byte) map[string]uint64 {
	t.Helper()
	through := make(map[string]uint64)
	require.NoError(t, s.db.View(func(tx *bolt.Tx) error {
		room := tx.Bucket(roomsBucket).Bucket(tag[:])
		if room == nil {
			return nil // killed before it had written anything
		}
		feeds, err := loadRoom(time.Now(), room)
		require.NoError(t, err)
		for _, f := range feeds {
			next, hash, id := uint64(1), []byte(nil), ""
			for _, k := range f.List {
				e, err := wire.OpenEnvelope(k.Sealed)
				require.NoError(t, err)
				require.Equal(t, next, e.First)
				require.Equal(t, next, k.First)
				require.Equal(t, hash, e.Previous)
				sum := sha256.Sum256(k.Sealed)
				next, hash, id = e.Next(), sum[:], FeedID(e.Feed).String()
			}
			require.NotEmpty(t, id)
			require.Equal(t, f.Through+1, next)
			require.Equal(t, f.End[:], hash)
			through[id] = f.Through
		}
		return nil
	}))
	return through
}

func TestAStoreSurvivesBeingKilledAtAnyMoment(t *testing.T) {
	seed := meshtest.Number(t, "STARLING_SEED", uint64(time.Now().UnixNano()))
	t.Logf("STARLING_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 20))
	path := filepath.Join(t.TempDir(), "history.db")
	acked := make(map[string]uint64) // by feed
	for round := range 20 {
		lines, later := rng.IntN(12), time.Duration(rng.Int64N(int64(20*time.Millisecond)))
		feed, number := killed(t, path, lines, later)
		if feed != "" {
			acked[feed] = number
		}
		s, err := OpenStore(path, 0)
		require.NoError(t, err)
		require.Empty(t, s.SetAside(), "round %d", round)
		tag := newHellos().app.RoomTag("ops", "")
		through := onDisk(t, s, tag)
		for feed, number := range acked {
			require.GreaterOrEqual(t, through[feed], number, "round %d: feed %s", round, feed)
		}
		if round%5 == 4 {
			served(t, s, acked)
		}
		require.NoError(t, s.Close())
	}
}

// killed runs a victim, kills it a moment after it has printed so many lines, and returns what it
// printed last.
func killed(t *testing.T, path string, lines int, later time.Duration) (feed string, number uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := bufio.NewScanner(out)
	for n := 0; said.Scan(); n++ {
		_, err := fmt.Sscan(said.Text(), &feed, &number)
		require.NoError(t, err)
		if n == lines {
			time.AfterFunc(later, func() { _ = cmd.Process.Kill() }) // whatever it is doing then
		}
	}
	require.ErrorContains(t, cmd.Wait(), "signal: killed")
	return feed, number
}

// served checks that a node with the store sends a newcomer all of these feeds.
func served(t *testing.T, s *Store, acked map[string]uint64) {
	t.Helper()
	all := newHellos()
	h, err := victimHost()
	require.NoError(t, err)
	a := all.station(t, h, "victim", WithStore(s))
	_, err = a.Join(t.Context(), "ops")
	require.NoError(t, err)
	b := all.station(t, tcpHost(t), "bob", WithQueue(QueueLimits{Events: 1 << 20, Bytes: 1 << 30}))
	connect(t, b.host, h)
	r, err := b.Join(t.Context(), "ops", WithHistory(AllHistory))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(map[string]uint64)
	for missing := len(acked); missing > 0; {
		ev, err := passing(ctx, r)
		require.NoError(t, err, "%d feeds are not complete: have %v, want %v", missing, got, acked)
		switch ev := ev.(type) {
		case *GapLost, *Lagged:
			t.Fatal(line(ev))
		case *Message:
			feed := ev.Feed.String()
			require.Equal(t, max(got[feed], 1)+1, ev.Number, "feed %s", feed)
			if got[feed] = ev.Number; ev.Number == acked[feed] {
				missing--
			}
		}
	}
	require.NoError(t, b.Close())
	require.NoError(t, a.Close())
	require.NoError(t, h.Close())
}
