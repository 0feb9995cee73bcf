package node

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/mesh"
)

// config is what the options of New record. Its defaults are in defaultConfig, its checks in
// validate; a test fails for a field that lacks either.
type config struct {
	app         string
	dataDir     string
	listen      []string
	peers       []string
	mdns        bool
	portMapping bool
	dht         bool
	wan         bool
	connsLow    int
	connsHigh   int
	host        host.Host
	userKey     []byte
	issuers     identity.Issuers
	issuersFile string
	leeway      time.Duration
	log         *slog.Logger
	clock       walltime.Clock
	mesh        []mesh.Setting
	keepHistory bool
	allEvents   bool
	interfaces  func() (usable, known bool) // in place of the system's, in tests; nil: the system's
}

func defaultConfig() config {
	return config{
		app:       "starling",
		mdns:      true,
		dht:       true,
		connsLow:  160,
		connsHigh: 224,
		leeway:    identity.DefaultLeeway,
		log:       slog.New(slog.DiscardHandler),
	}
}

// validate reports all mistakes at once.
func (c *config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := identity.CheckApp(c.app); err != nil {
		errs = append(errs, err)
	}
	for _, a := range c.listen {
		if _, err := parseListen(a); err != nil {
			errs = append(errs, err)
		}
	}
	for _, a := range c.peers {
		if _, err := parsePeer(a); err != nil {
			errs = append(errs, err)
		}
	}
	if c.userKey != nil {
		if _, err := identity.ParseKey(c.userKey); err != nil {
			errs = append(errs, fmt.Errorf("user key: %w", err))
		}
	}
	check(c.issuers.IsZero() || c.issuersFile == "", "WithIssuers and WithIssuersFile exclude each other")
	check(c.leeway >= 0 && c.leeway <= identity.MaxLeeway, "a leeway of %v is not in 0 to %v", c.leeway, identity.MaxLeeway)
	check(c.host == nil || len(c.listen) == 0, "WithHost and WithListen exclude each other: the host listens already")
	check(c.host == nil || !c.portMapping, "WithHost and WithPortMapping exclude each other: the host was built already")
	check(!c.keepHistory || c.dataDir != "", "WithHistoryStore needs WithDataDir, for that is where it is kept")
	check(c.dht || !c.wan, "WithWAN and WithoutDHT exclude each other")
	check(c.log != nil, "no logger")
	check(c.connsLow > 0 && c.connsLow < c.connsHigh && c.connsHigh <= maxConns,
		"connections from %d to %d: want 0 < low < high <= %d", c.connsLow, c.connsHigh, maxConns)
	if _, err := mesh.Settle(c.mesh...); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Option is a setting for the lifetime of a [Node].
type Option func(*config)

// WithApp names the app. Nodes of different apps never see each other's users, rooms or messages.
// The default is "starling"; New rejects a name outside [a-zA-Z0-9_@.-]{1,128} with an
// [*identity.IDError].
func WithApp(name string) Option { return func(c *config) { c.app = name } }

// WithDataDir keeps keys, listen ports, pins and the addresses of peers in a directory, so that the
// next start has the same user and the same ports. New makes the directory (0700) if it is missing.
// It fails with [identity.ErrInUse] while another node holds it, and with an [*identity.KeyError]
// for a key file that it cannot read. The default, "", keeps everything in memory: every start is a
// new user on a new device.
func WithDataDir(path string) Option { return func(c *config) { c.dataDir = path } }

// WithListen sets the addresses to listen on, such as "/ip4/0.0.0.0/tcp/4001" or
// "/ip4/127.0.0.1/udp/0/quic-v1". Port 0 is the port kept from the last start, if there is a data
// directory, or else any free one. If a given port is in use, New fails with a [*ListenError]. The
// default is TCP and QUIC on all interfaces, port 0, over IPv4, and over IPv6 as far as the machine
// has it. Several calls add up.
func WithListen(multiaddrs ...string) Option {
	return func(c *config) { c.listen = append(c.listen, multiaddrs...) }
}

// WithPeers adds peers to connect to at once and for ever, by multiaddr with a peer ID:
// "/ip4/192.0.2.7/tcp/4001/p2p/12D3…". Several addresses of one peer are several arguments. Several
// calls add up.
func WithPeers(multiaddrs ...string) Option {
	return func(c *config) { c.peers = append(c.peers, multiaddrs...) }
}

// WithoutDHT leaves the node out of the app's directory: its own log-ins are not stored for others,
// and it finds only users that connected peers know. The default is to take part in the directory
// of the local network, of which every node there holds a part.
func WithoutDHT() Option { return func(c *config) { c.dht = false } }

// WithWAN makes the node take part in the app's directory on the internet as well. With a public
// address it holds a part of it; otherwise it only asks and stores. It enters the directory through
// peers that were given or met. The default is the local network alone.
func WithWAN() Option { return func(c *config) { c.wan = true } }

// WithoutMDNS keeps the node from announcing itself and looking for others on the local network. By
// default it does both, unless every address that it listens on is loopback.
func WithoutMDNS() Option { return func(c *config) { c.mdns = false } }

// WithPortMapping asks the router, by UPnP or NAT-PMP, to let connections from the internet in. The
// default does not ask, since it makes the node reachable from everywhere.
func WithPortMapping() Option { return func(c *config) { c.portMapping = true } }

// WithConnections sets the connection manager's watermarks. Above high, it closes connections until
// low are left, but keeps those to given peers and to members of joined rooms. The default is 160
// and 224. New rejects a low that is not below high, a low below 1, and a high above 1024.
func WithConnections(low, high int) Option {
	return func(c *config) { c.connsLow, c.connsHigh = low, high }
}

// WithHost runs the node on a libp2p host that the caller made and closes, after the node. It must
// have an Ed25519 key, which is then the device key; a data directory must have the same key. The
// caller chooses everything else that New sets up on a host of its own: transports, dial order,
// limits, connection manager.
func WithHost(h host.Host) Option { return func(c *config) { c.host = h } }

// WithUserKey sets the user key, in the form that [identity.ExportUserKey] returns, instead of the
// one in the data directory. The default is the data directory's, or else the device key.
func WithUserKey(pemText []byte) Option { return func(c *config) { c.userKey = pemText } }

// WithIssuers selects app mode: a user is valid if one of these issuers vouches for it with a
// token, given to [Node.Login] and [mesh.WithToken]. An app of the same name with other issuers, or
// with none, is another app. The default is open mode, in which every user chooses a name.
func WithIssuers(issuers identity.Issuers) Option { return func(c *config) { c.issuers = issuers } }

// WithIssuersFile is [WithIssuers] with the issuers in a file: a JSON Web Key Set, as `starling
// issuer new` writes it. New fails with an [*identity.IssuersError] for a file that it cannot use.
func WithIssuersFile(path string) Option { return func(c *config) { c.issuersFile = path } }

// WithLeeway sets by how much the clocks of issuers and nodes may differ: a token counts that long
// before it begins and after it expires. The default is 120 s; New rejects less than 0 and more
// than 10 min. It is one value per app, equal on all its nodes: see [SettingDiffers].
func WithLeeway(d time.Duration) Option { return func(c *config) { c.leeway = d } }

// WithClock sets the clock from which all of the node reads the time. The default is the machine's
// clock, to which libp2p keeps in any case. It is for tests of this module, which run nodes whose
// clocks are wrong; no other module can make a clock.
func WithClock(c walltime.Clock) Option { return func(cfg *config) { cfg.clock = c } }

// WithLogger sets where the node logs. The default discards everything. Info is for the lifetime of
// the node, Warn for degraded service, Debug for single messages and peers. Whatever a peer does
// wrong is Debug, so that no peer can fill a disk.
func WithLogger(log *slog.Logger) Option { return func(c *config) { c.log = log } }

// WithMesh sets how rooms and messages work on this node: [mesh.WithGrace], [mesh.WithRetention]
// and all else that is a [mesh.Setting]. [mesh.WithQueue] also bounds the node's own stream of
// events, and [mesh.WithSendTimeout] bounds [Node.Send]. New rejects what [mesh.New] would reject.
// Several calls add up. The grace, the rates and the largest message must be equal on all nodes of
// an app: see [SettingDiffers].
func WithMesh(settings ...mesh.Setting) Option {
	return func(c *config) { c.mesh = append(c.mesh, settings...) }
}

// WithHistoryStore keeps what rooms retain ([mesh.WithRetention]) in the file history.db of the
// data directory, up to [mesh.DefaultStoreLimit] for all rooms. So this node can send others, after
// a restart, the broadcasts that they missed. That includes its own, such as those that nobody had
// acknowledged when it crashed. Its own program receives stored broadcasts only if it joins with
// [mesh.WithHistory] or [mesh.WithResume]. See [mesh.Store] for what a crash can lose.
//
// The file holds what was said in rooms unencrypted, readable only by its owner (0600). A damaged
// file is set aside as history.db.damaged, with a warning, and a new one begun. New fails with a
// [*mesh.StoreError] for a file that it cannot use, such as one of another version. The default
// keeps rooms in memory. New rejects this option without [WithDataDir].
func WithHistoryStore() Option { return func(c *config) { c.keepHistory = true } }

// WithAllEvents gives the node one stream with its own events and those of all its rooms, from the
// first event on: [Node.AllEvents]. It takes the place of the other streams: [Node.Recv],
// [Node.Events], and Recv and Events of a room then return [mesh.ErrOtherStream]. So no queue fills
// up that nobody reads, and [mesh.WithQueue] bounds all that waits. The default is a stream for the
// node and one for each room.
func WithAllEvents() Option { return func(c *config) { c.allEvents = true } }

// AddrError reports a multiaddr that cannot be used where it was given.
type AddrError struct {
	Value string // as given
	Err   error
}

func (e *AddrError) Error() string { return fmt.Sprintf("address %q: %v", e.Value, e.Err) }

// Unwrap returns Err.
func (e *AddrError) Unwrap() error { return e.Err }

// parsePeer reads the address of a peer, which must include its peer ID.
func parsePeer(s string) (peer.AddrInfo, error) {
	info, err := peer.AddrInfoFromString(s)
	switch {
	case errors.Is(err, peer.ErrInvalidAddr):
		err = errors.New("it must end in /p2p/ and a peer ID")
	case err == nil && len(info.Addrs) == 0:
		err = errors.New("a peer ID alone cannot be dialled: put where it is in front, such as /ip4/192.0.2.7/tcp/4001")
	}
	if err != nil {
		return peer.AddrInfo{}, &AddrError{s, err}
	}
	return *info, nil
}

// parseListen reads an address to listen on: an IP address with TCP or QUIC.
func parseListen(s string) (ma.Multiaddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, &AddrError{s, err}
	}
	var rest []int
	_, after := ma.SplitFirst(a)
	ma.ForEach(after, func(c ma.Component) bool {
		rest = append(rest, c.Protocol().Code)
		return true
	})
	tcp := len(rest) == 1 && rest[0] == ma.P_TCP
	quic := len(rest) == 2 && rest[0] == ma.P_UDP && rest[1] == ma.P_QUIC_V1
	if _, err := manet.ToIP(a); err != nil || !tcp && !quic {
		return nil, &AddrError{s, errors.New("want /ip4/ or /ip6/, then /tcp/PORT or /udp/PORT/quic-v1")}
	}
	return a, nil
}
