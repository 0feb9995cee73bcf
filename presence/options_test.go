package presence

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
)

// A field that is added to config needs a default, and a line in validate that refuses an invalid
// value.
func TestEverySettingHasADefaultAndACheck(t *testing.T) {
	good := defaults()
	require.NoError(t, good.validate())
	typ := reflect.TypeFor[config]()
	for i := range typ.NumField() {
		if name := typ.Field(i).Name; name == "authority" || name == "clock" || name == "rates" {
			// No authority means open mode, and New checks it against the app; the zero clock is
			// the machine's; and rates need not be stated.
			continue
		}
		require.False(t, reflect.ValueOf(good).Field(i).IsZero(), "%s has no default", typ.Field(i).Name)
	}
	for _, wrong := range []struct {
		field  string
		option Option
		text   string
	}{
		{"log", WithLogger(nil), "WithLogger: nil"},
		{"pins", WithPins(nil), "WithPins: nil"},
		{"observer", WithObserver(nil), "WithObserver: nil"},
		{"store", WithRemembered(nil), "WithRemembered: nil"},
		{"maxMessage", WithMaxMessage(0), "WithMaxMessage: 0 bytes, want 1 to 1048576"},
		{"grace", WithGrace(-time.Second), "WithGrace: -1s is negative"},
		{"the least negative grace", WithGrace(-1), "WithGrace: -1ns is negative"},
		{"rates", WithRates(identity.Rates{Room: -1}), "WithRates: {Direct:{Messages:0 Bytes:0} Broadcast:{Messages:0 Bytes:0} Room:-1 LargeRoom:0} has a negative rate"},
		{"life", WithStatementLife(time.Second), "WithStatementLife: 1s, want 10s to 720h0m0s"},
		{"scopes", WithDHT("moon"), `WithDHT: "moon" twice, or not a scope`},
	} {
		c := defaults()
		wrong.option(&c)
		require.EqualError(t, c.validate(), wrong.text)
	}
	require.Equal(t, 9+2, typ.NumField(), "the table above misses a field")
}

func TestAllWrongOptionsAreReportedTogether(t *testing.T) {
	_, err := New(nil, identity.AppID{}, nil, WithMaxMessage(-1), WithLogger(nil), WithStatementLife(0))
	require.EqualError(t, err, "options: "+strings.Join([]string{
		"WithLogger: nil",
		"WithMaxMessage: -1 bytes, want 1 to 1048576",
		"WithStatementLife: 0s, want 10s to 720h0m0s",
	}, "\n"))
}

func TestAnObserverThatIsTooSlowPutsHellosOff(t *testing.T) {
	release := make(chan struct{})
	var got []Event
	d := newDispatcher(func(ev Event) {
		<-release
		got = append(got, ev)
	})
	go d.run()
	for i := range maxEvents + 1 {
		require.False(t, d.full() && i < maxEvents, "event %d", i)
		d.push(PeerDown{Peer: "p"})
	}
	for !d.full() { // run has taken the first batch
		d.push(PeerDown{Peer: "p"})
	}
	close(release)
	d.end()
	require.GreaterOrEqual(t, len(got), maxEvents)
	d.push(PeerDown{})
	require.False(t, d.full())
}

func TestWhatANodeWithoutADirectoryRemembersIsBounded(t *testing.T) {
	m := newMemory()
	at := time.Now()
	for i := range maxMemory + 10 {
		r := identity.Remembered{Seen: at.Add(time.Duration(i))}
		r.Login.Peer = peerN(i)
		require.NoError(t, m.Remember(r))
	}
	all := m.Remembered()
	require.Len(t, all, maxMemory)
	require.Equal(t, peerN(maxMemory+9), all[0].Login.Peer, "seen last comes first")
	require.Equal(t, peerN(10), all[maxMemory-1].Login.Peer)
}

func TestPausesGrow(t *testing.T) {
	for n, low := range []time.Duration{250 * time.Millisecond, time.Second, 4 * time.Second, 16 * time.Second, time.Minute, time.Minute} {
		for range 100 {
			p := helloPause(n)
			require.GreaterOrEqual(t, p, low)
			require.Less(t, p, low+low/2)
		}
	}
	require.Less(t, helloPause(1<<20), 2*time.Minute)
}

func peerN(i int) peer.ID { return peer.ID(strconv.Itoa(i)) }

func TestAPeerThatIsKnownIsGreetedAgainSoonForAWhile(t *testing.T) {
	g := &greeter{people: &people{}}
	for n, low := range []time.Duration{250 * time.Millisecond, time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second, 16 * time.Second, time.Minute, time.Minute} {
		p := g.pause(&contact{known: true}, n)
		require.GreaterOrEqual(t, p, low, "%d", n)
		require.Less(t, p, low+low/2, "%d", n)
	}
}
