package node

import (
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// fieldRules says for every field of config what makes New refuse it, and whether its zero value is
// its default. The test below fails for a new field until it is listed here.
var fieldRules = map[string]struct {
	bad         func(*config) // nil: nothing can be checked before New runs, for the reason in free
	free        string
	zeroDefault bool
}{
	"app":         {bad: func(c *config) { c.app = "a b" }},
	"dataDir":     {free: "opening it is the check", zeroDefault: true},
	"listen":      {bad: func(c *config) { c.listen = []string{"/ip4/0.0.0.0/tcp/x"} }, zeroDefault: true},
	"peers":       {bad: func(c *config) { c.peers = []string{"/ip4/1.2.3.4/tcp/1"} }, zeroDefault: true},
	"mdns":        {free: "both values are good"},
	"dht":         {free: "both values are good"},
	"clock":       {free: "every clock is good", zeroDefault: true},
	"wan":         {bad: func(c *config) { c.wan, c.dht = true, false }, zeroDefault: true},
	"portMapping": {bad: func(c *config) { c.portMapping, c.host = true, anyHost{} }, zeroDefault: true},
	"connsLow":    {bad: func(c *config) { c.connsLow = 0 }},
	"connsHigh":   {bad: func(c *config) { c.connsHigh = c.connsLow }},
	"host":        {bad: func(c *config) { c.host, c.listen = anyHost{}, []string{"/ip4/127.0.0.1/tcp/0"} }, zeroDefault: true},
	"userKey":     {bad: func(c *config) { c.userKey = []byte("no key") }, zeroDefault: true},
	"issuers":     {bad: func(c *config) { c.issuers, c.issuersFile = someIssuers(), "x" }, zeroDefault: true},
	"issuersFile": {free: "reading it is the check", zeroDefault: true},
	"leeway":      {bad: func(c *config) { c.leeway = identity.MaxLeeway + 1 }},
	"log":         {bad: func(c *config) { c.log = nil }},
	"keepHistory": {bad: func(c *config) { c.keepHistory = true }, zeroDefault: true},
	"interfaces":  {free: "tests of this package alone set it", zeroDefault: true},
	"allEvents":   {free: "both values are good", zeroDefault: true},
	"mesh":        {bad: func(c *config) { c.mesh = []mesh.Setting{mesh.WithGrace(-1)} }, zeroDefault: true},
}

type anyHost struct{ host.Host }

func someIssuers() identity.Issuers {
	issuers, err := identity.NewIssuers(identity.NewIssuerKey(identity.PublicKey{1}))
	if err != nil {
		panic(err)
	}
	return issuers
}

func TestEveryOptionHasADefaultAndACheck(t *testing.T) {
	kind, def := reflect.TypeFor[config](), reflect.ValueOf(defaultConfig())
	for i := range kind.NumField() {
		name := kind.Field(i).Name
		rule, ok := fieldRules[name]
		if !ok {
			t.Errorf("config.%s has no rule: add a default, a check and a rule", name)
			continue
		}
		if got := def.Field(i).IsZero(); got != rule.zeroDefault {
			t.Errorf("config.%s: zero by default is %v, want %v", name, got, rule.zeroDefault)
		}
		if rule.bad == nil {
			require.NotEmpty(t, rule.free, name)
			continue
		}
		c := defaultConfig()
		require.NoError(t, c.validate())
		rule.bad(&c)
		if c.validate() == nil {
			t.Errorf("config.%s: a bad value passes validate", name)
		}
	}
}

func TestAllMistakesInOptionsAreReportedTogether(t *testing.T) {
	_, err := New(WithApp(""), WithListen("nonsense"), WithPeers("/ip4/1.2.3.4/tcp/1"), WithLogger(nil),
		WithMesh(mesh.WithSendTimeout(-time.Second)), WithMesh(mesh.WithGrace(-time.Hour), mesh.WithQueue(mesh.QueueLimits{Bytes: 100})), WithConnections(5, 5))
	require.ErrorIs(t, err, identity.ErrEmptyID)
	for _, want := range []string{
		"app ID", `address "nonsense"`, `address "/ip4/1.2.3.4/tcp/1": it must end in /p2p/`, "no logger",
		"send timeout -1s is not positive", "grace -1h0m0s is negative", "a queue of 8192 events and 100 bytes", "connections from 5 to 5",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestOptionsOnlyRecord(t *testing.T) {
	c := defaultConfig()
	log := slog.New(slog.DiscardHandler)
	for _, o := range []Option{
		WithApp("acme"), WithDataDir("/x"), WithListen("a"), WithListen("b", "c"), WithPeers("p"), WithPeers("q"), WithoutMDNS(), WithoutDHT(), WithWAN(),
		WithPortMapping(), WithConnections(1, 2), WithHost(anyHost{}), WithUserKey([]byte("k")), WithIssuers(someIssuers()), WithIssuersFile("i"), WithLeeway(6), WithLogger(log),
	} {
		o(&c)
	}
	require.Equal(t, config{
		app: "acme", dataDir: "/x", listen: []string{"a", "b", "c"}, peers: []string{"p", "q"}, wan: true, portMapping: true,
		connsLow: 1, connsHigh: 2, host: anyHost{}, userKey: []byte("k"), issuers: someIssuers(), issuersFile: "i", leeway: 6, log: log,
	}, c)
}

func TestSettingsOfTheMeshReachIt(t *testing.T) {
	n := onLoopback(t, WithMesh(mesh.WithMaxMessage(100), mesh.WithSendTimeout(time.Hour)), WithMesh(mesh.WithQueue(mesh.QueueLimits{Events: 7}), mesh.WithMaxMessage(5)))
	require.Equal(t, 5, n.settings.MaxMessage, "the last one counts")
	require.Equal(t, time.Hour, n.settings.SendTimeout)
	require.Equal(t, mesh.QueueLimits{Events: 7, Bytes: mesh.DefaultQueue.Bytes}, n.settings.Queue)
	require.NoError(t, n.SetUser("alice"))
	room, err := n.Join(t.Context(), "ops")
	require.NoError(t, err)
	_, err = room.PublishText(t.Context(), "123456")
	require.Equal(t, &mesh.SizeError{Size: 6, Limit: 5}, err)
}

func TestAddressesAreCheckedWhereTheyAreGiven(t *testing.T) {
	const id = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	for _, c := range []struct {
		addr         string
		peer, listen bool // may be given as
	}{
		{"/ip4/192.0.2.7/tcp/4001/p2p/" + id, true, false},
		{"/ip6/2001:db8::1/udp/4001/quic-v1/p2p/" + id, true, false},
		{"/dns4/example.org/tcp/4001/p2p/" + id, true, false},
		{"/p2p/" + id, false, false},
		{"/ip4/192.0.2.7/tcp/4001", false, true},
		{"/ip4/192.0.2.7/tcp/4001/p2p/nonsense", false, false},
		{"/ip4/0.0.0.0/udp/0/quic-v1", false, true},
		{"/ip6/::/tcp/0", false, true},
		{"/ip4/0.0.0.0/udp/0", false, false},
		{"/ip4/0.0.0.0/tcp/0/ws", false, false},
		{"/dns4/example.org/tcp/1", false, false},
		{"/ip4/256.0.0.1/tcp/1", false, false},
		{"/ip4/0.0.0.0/tcp/99999", false, false},
		{"/ip4/0.0.0.0", false, false},
		{"example.org:4001", false, false},
		{"", false, false},
	} {
		_, perr := parsePeer(c.addr)
		_, lerr := parseListen(c.addr)
		if (perr == nil) != c.peer || (lerr == nil) != c.listen {
			t.Errorf("%q: as a peer %v, to listen on %v; want good: %v, %v", c.addr, perr, lerr, c.peer, c.listen)
		}
		for _, err := range []error{perr, lerr} {
			if bad, ok := errors.AsType[*AddrError](err); err != nil && (!ok || bad.Value != c.addr) {
				t.Errorf("%q: %v is no *AddrError with it", c.addr, err)
			}
		}
	}
}

func TestTheDirectoryOfTheInternetIsOnRequest(t *testing.T) {
	instances := func(n *Node) (out []string) {
		for _, p := range n.host.Mux().Protocols() {
			if parts := strings.Split(string(p), "/"); len(parts) == 7 && parts[2] == "dht" {
				out = append(out, parts[4])
			}
		}
		slices.Sort(out)
		return out
	}
	require.Equal(t, []string{"lan"}, instances(onLoopback(t)))
	require.Equal(t, []string{"lan", "wan"}, instances(onLoopback(t, WithWAN())))
	require.Empty(t, instances(onLoopback(t, WithoutDHT())))
}
