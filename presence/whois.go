package presence

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// whoisBudget is how long connected peers may take to answer, all together.
	whoisBudget = 300 * time.Millisecond
	// whoisAsked is how many connected peers are asked, chosen at random.
	whoisAsked = 8
	// maxLocated is how many log-ins an answer contains.
	maxLocated = 8
	// whoisTimeout bounds answering one question.
	whoisTimeout = 2 * time.Second
	maxWhois     = 1 << 10
	maxWhoisBack = maxLocated * (identity.MaxStatement + wire.MaxAddrs*(wire.MaxAddr+4) + 16)
)

// located is a log-in that a peer has named: proved by its statement, but not yet confirmed by its
// device.
type located struct {
	st    *identity.Statement
	addrs []ma.Multiaddr
}

// whois asks connected peers where users are, and answers such questions.
type whois struct {
	*people
	hellos  *greeter
	observe func(*identity.Statement)
}

// ask asks connected peers about a user and calls found for each verified log-in that they name,
// from several goroutines. It returns when all have answered, or after 300 ms.
func (w *whois) ask(ctx context.Context, user string, key identity.PublicKey, found func(located)) {
	ctx, cancel := context.WithTimeout(ctx, whoisBudget)
	defer cancel()
	req := &wire.WhoisRequest{App: w.app[:], User: user}
	if !key.IsZero() {
		req.UserKey = key[:]
	}
	var wg sync.WaitGroup
	for _, p := range w.some(whoisAsked) {
		wg.Go(func() {
			reply, err := w.request(ctx, p, req)
			if err != nil && ctx.Err() == nil && w.host.Network().Connectedness(p) != network.NotConnected {
				reply, err = w.request(ctx, p, req) // it was asked on a connection that has ended, and has another
			}
			if err != nil {
				w.cfg.log.Debug("whois failed", "peer", p, "err", err)
				return
			}
			for i, l := range reply.Found {
				if i == maxLocated {
					break
				}
				st, err := w.verifier.Verify(l.Statement, w.clock.Now())
				if err != nil {
					w.stats.badNotice.Add(1)
					w.cfg.log.Debug("whois answer refused", "peer", p, "err", err)
					continue
				}
				w.observe(st)
				found(located{st: st, addrs: wire.ParseAddrs(l.Addrs)})
			}
		})
	}
	wg.Wait()
}

func (w *whois) request(ctx context.Context, p peer.ID, req *wire.WhoisRequest) (*wire.WhoisReply, error) {
	open := network.WithAllowLimitedConn(network.WithNoDial(ctx, "whois"), "whois")
	s, err := w.host.NewStream(open, p, WhoisProtocol)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if deadline, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(deadline)
	}
	err = wire.WriteFrame(s, req)
	if err == nil {
		err = s.CloseWrite()
	}
	var reply wire.WhoisReply
	if err == nil {
		err = wire.NewReader(s, maxWhoisBack).Next(&reply)
	}
	if err != nil {
		_ = s.Reset()
		return nil, err
	}
	_ = s.Close()
	return &reply, nil
}

// serve answers with the log-ins of connected peers. It never passes on what others have
// reported.
func (w *whois) serve(ctx context.Context, s network.Stream) {
	p := s.Conn().RemotePeer()
	_ = s.SetDeadline(walltime.In(whoisTimeout))
	ctx, cancel := context.WithTimeout(ctx, whoisTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !w.hellos.allow(ctx, s.Conn(), func(c *contact) *rate.Limiter { return c.asks }) {
		w.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	var req wire.WhoisRequest
	if err := wire.NewReader(s, maxWhois).Next(&req); err != nil {
		w.cfg.log.Debug("whois request refused", "peer", p, "err", err)
		_ = s.Reset()
		return
	}
	if len(req.App) != len(w.app) || identity.AppID(req.App) != w.app || identity.CheckUser(req.User) != nil ||
		len(req.UserKey) != 0 && len(req.UserKey) != len(identity.PublicKey{}) {
		_ = s.Reset()
		return
	}
	var key identity.PublicKey
	copy(key[:], req.UserKey)
	if err := wire.WriteFrame(s, w.located(p, req.User, key)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// located lists the connected log-ins of a user, except the asker's own.
func (w *whois) located(asker peer.ID, user string, key identity.PublicKey) *wire.WhoisReply {
	now := w.clock.Now()
	reply := new(wire.WhoisReply)
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, c := range w.names[user] {
		st := c.session.Statement
		if p == asker || !c.loggedIn(now) || !key.IsZero() && key != st.UserKey {
			continue
		}
		l := &wire.Located{Statement: st.Sealed()}
		for _, a := range c.whereLocked() {
			if len(l.Addrs) < wire.MaxAddrs {
				l.Addrs = append(l.Addrs, a.Bytes())
			}
		}
		if reply.Found = append(reply.Found, l); len(reply.Found) == maxLocated {
			break
		}
	}
	return reply
}

// whereLocked returns the addresses of a contact: those that we have dialled ourselves, which work,
// and those that it states.
func (c *contact) whereLocked() []ma.Multiaddr {
	var out []ma.Multiaddr
	for conn := range c.conns {
		if l := c.conns[conn]; l.dialled && !l.limited {
			out = append(out, l.remote)
		}
	}
	return ma.Unique(append(out, c.session.Addrs...))
}
