package node

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

const (
	// lostPause is the least time between two starts of mDNS because a peer was lost: each start
	// sends a handful of multicast packets, and a LAN that falls apart loses many peers at once.
	lostPause = 10 * time.Second
	// movedPause is the same for changes of the interfaces, which come in groups too.
	movedPause = time.Second
)

// serviceName returns the name under which nodes of an app announce themselves: 60 bits of a hash,
// since a service name may have 15 characters. Peers of another app whose hash has the same bits by
// chance are refused by hello.
func serviceName(app identity.AppID) string {
	sum := sha256.Sum256(append([]byte("starling/mdns/1\x00"), app[:]...))
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return "_sl" + strings.ToLower(text[:12]) + "._udp"
}

// lan announces the node on the local network and looks for others, for as long as run runs. It
// restarts mDNS when the interfaces have changed, since go-libp2p's service keeps the addresses
// that it started with. It also restarts it when a peer of the LAN was lost, since the library
// below reports a peer only once an hour.
type lan struct {
	host    host.Host
	service string
	log     *slog.Logger
	clock   walltime.Clock
	found   func(peer.AddrInfo)

	mu    sync.Mutex
	pace  pacer
	poked task.Wake

	open   mdns.Service // only run uses it
	failed string       // the last error, to log each once
	starts int
}

func newLAN(h host.Host, app identity.AppID, log *slog.Logger, clock walltime.Clock, found func(peer.AddrInfo)) *lan {
	return &lan{host: h, service: serviceName(app), log: log, clock: clock, found: found, poked: task.NewWake()}
}

// again asks for a new start, at the earliest pause after the last one.
func (l *lan) again(pause time.Duration) {
	l.mu.Lock()
	l.pace.ask(l.clock.Now(), pause)
	l.mu.Unlock()
	l.poked.Set()
}

// run serves until ctx ends. When it returns, mDNS has stopped.
func (l *lan) run(ctx context.Context) {
	defer l.stop()
	l.again(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.poked:
		case <-timer.C:
		}
		l.mu.Lock()
		now := l.clock.Now()
		due := l.pace.due(now)
		wait := l.pace.wait(now)
		l.mu.Unlock()
		if due {
			l.restart()
		}
		timer.Reset(wait)
	}
}

func (l *lan) restart() {
	l.stop()
	if onlyLoopback(l.host) {
		return // nobody else could dial what we would announce
	}
	s := mdns.NewMdnsService(freshHost{l.host}, l.service, l)
	if err := s.Start(); err != nil {
		s.Close()
		if l.failed != err.Error() {
			l.failed = err.Error()
			l.log.Warn("no discovery on the local network", "err", err)
		}
		return
	}
	l.open, l.failed = s, ""
	l.starts++
	l.log.Debug("mDNS started", "service", l.service)
}

func (l *lan) stop() {
	if l.open != nil {
		l.open.Close()
		l.open = nil
	}
}

// HandlePeerFound implements mdns.Notifee. It is called from any goroutine and does not block.
func (l *lan) HandlePeerFound(info peer.AddrInfo) { l.found(info) }

// onlyLoopback reports whether no address of h can be dialled from another machine.
func onlyLoopback(h host.Host) bool {
	addrs, err := freshAddrs(h.Network())
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if !manet.IsIPLoopback(a) {
			return false
		}
	}
	return true
}

// pacer keeps a minimum time between requested starts.
type pacer struct {
	last time.Time // when something was last due
	at   time.Time // when it is next due; zero: not asked for
}

// ask makes a start due pause after the last one, or earlier if that was asked for before.
func (p *pacer) ask(now time.Time, pause time.Duration) {
	at := now
	if !p.last.IsZero() {
		at = later(now, p.last.Add(pause))
	}
	if p.at.IsZero() || at.Before(p.at) {
		p.at = at
	}
}

func (p *pacer) due(now time.Time) bool {
	if p.at.IsZero() || p.at.After(now) {
		return false
	}
	p.at, p.last = time.Time{}, now
	return true
}

// wait returns how long until a start is due, and an hour if none was asked for.
func (p *pacer) wait(now time.Time) time.Duration {
	if p.at.IsZero() {
		return time.Hour
	}
	return max(0, p.at.Sub(now))
}
