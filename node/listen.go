package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ListenError reports an address that the node was told to listen on but cannot.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string {
	way := ""
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		way = " (stop the program that has it, or listen on port 0: any free one)"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		way = " (this machine has no such address; /ip4/0.0.0.0 stands for all that it has)"
	case errors.Is(e.Err, syscall.EACCES):
		way = " (ports below 1024 are for the system; listen on port 0: any free one)"
	}
	return fmt.Sprintf("listen on %s: %v%s", e.Addr, e.Err, way)
}

// Unwrap returns Err. errors.Is(err, syscall.EADDRINUSE) reports whether the port is in use.
func (e *ListenError) Unwrap() error { return e.Err }

// defaultListen are the addresses that a node listens on unless it is given others. IPv6 comes last
// and may fail.
var defaultListen = []string{
	"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1",
	"/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1",
}

// ports are the ports that a node listens on, by protocol: "tcp" and "udp".
type ports map[string]int

// listener opens the listening sockets of a host, with one port for each protocol where possible.
type listener struct {
	network network.Network
	log     *slog.Logger
	kept    ports // from the last start
	chosen  ports // in this start
}

// listen opens all addresses. If addresses were given, each must open; of the defaults, one is
// enough.
func (l *listener) listen(given []string) error {
	addrs, must := given, true
	if len(addrs) == 0 {
		addrs, must = defaultListen, false
	}
	l.chosen = make(ports)
	var errs []error
	for _, s := range addrs {
		a, err := parseListen(s)
		if err != nil {
			return err
		}
		if err := l.open(a); err != nil {
			errs = append(errs, err)
			if must {
				return err
			}
			l.log.Warn("not listening", "addr", s, "err", err)
		}
	}
	if len(errs) == len(addrs) {
		return errors.Join(errs...)
	}
	return nil
}

// open listens on one address. For port 0 it tries the preferred ports first.
func (l *listener) open(a ma.Multiaddr) error {
	proto, given := portOf(a)
	if given != 0 {
		return l.try(a, given)
	}
	for _, port := range l.wanted(proto) {
		if l.try(a, port) == nil {
			return nil
		}
		if port == l.kept[proto] {
			l.log.Warn("the port of the last start is taken", "addr", a, "port", port)
		}
	}
	return l.try(a, 0)
}

// wanted returns the ports to try for a protocol: the one that another address of this start has,
// the one of the last start, and the other protocol's, so that a firewall needs only one number.
func (l *listener) wanted(proto string) []int {
	var want []int
	for _, port := range []int{l.chosen[proto], l.kept[proto], l.chosen["tcp"], l.chosen["udp"]} {
		if port == 0 {
			continue
		}
		want = append(want, port)
		if port == l.chosen[proto] {
			break
		}
	}
	return want
}

func (l *listener) try(a ma.Multiaddr, port int) error {
	at := withPort(a, port)
	if err := probe(at, port); err != nil {
		return &ListenError{at.String(), err}
	}
	before := l.network.ListenAddresses()
	if err := l.add(at); err != nil {
		return &ListenError{at.String(), inner(err)}
	}
	if proto, _ := portOf(a); l.chosen[proto] == 0 {
		l.chosen[proto] = newPort(before, l.network.ListenAddresses(), proto)
	}
	return nil
}

// probe returns an error if another program listens on the port. libp2p would not notice: its TCP
// sockets share a port with any other program of the same user that allows sharing, such as a
// second node.
func probe(a ma.Multiaddr, port int) error {
	if port == 0 {
		return nil
	}
	network, at, err := manet.DialArgs(a)
	if err != nil {
		return err
	}
	var sock interface{ Close() error }
	if network == "tcp4" || network == "tcp6" {
		sock, err = net.Listen(network, at)
	} else {
		sock, err = net.ListenPacket(network, at)
	}
	if err != nil {
		return inner(err)
	}
	return sock.Close()
}

// inner returns the cause without the address, which is in ListenError.
func inner(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// add listens on one address. The swarm's own Listen would turn the error into text.
func (l *listener) add(a ma.Multiaddr) error {
	if s, ok := l.network.(interface{ AddListenAddr(ma.Multiaddr) error }); ok {
		return s.AddListenAddr(a)
	}
	return l.network.Listen(a)
}

// portOf returns the protocol under an address, "tcp" or "udp", and its port.
func portOf(a ma.Multiaddr) (proto string, port int) {
	ma.ForEach(a, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_TCP, ma.P_UDP:
			proto = c.Protocol().Name
			port, _ = strconv.Atoi(c.Value())
			return false
		}
		return true
	})
	return proto, port
}

func withPort(a ma.Multiaddr, port int) ma.Multiaddr {
	out := slices.Clone(a)
	for i := range out {
		if code := out[i].Code(); code == ma.P_TCP || code == ma.P_UDP {
			c, err := ma.NewComponent(out[i].Protocol().Name, strconv.Itoa(port))
			if err != nil {
				panic(err) // ports come from addresses and from the kernel
			}
			out[i] = *c
		}
	}
	return out
}

// newPort returns the port of the listener that was not there before.
func newPort(before, after []ma.Multiaddr, proto string) int {
	for _, a := range after {
		if p, port := portOf(a); p == proto && !ma.Contains(before, a) {
			return port
		}
	}
	return 0
}
