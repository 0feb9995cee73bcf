package presence

import (
	"context"
	"errors"
	"iter"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
	"github.com/starling-mesh/starling/internal/wire"
)

// WatchProtocol is the protocol for watching a device: the device pushes its statement at every
// change, and a regular beat.
const WatchProtocol protocol.ID = "/starling/watch/1.0.0"

const (
	// beatEvery is how often a watched device signals that it is still there. beatMissed is how
	// long a watcher waits for a beat.
	beatEvery  = 2 * time.Second
	beatMissed = 5 * time.Second
	// watchPause is how often the status of a user who is not online is checked.
	watchPause = 5 * time.Second
	// watchSettle is the least time between two checks of a user.
	watchSettle = 250 * time.Millisecond
	// maxWatchers is how many watch streams a device serves, maxWatchersPeer how many from one
	// peer.
	maxWatchers     = 256
	maxWatchersPeer = 4
)

// watches follows what devices push, and pushes what this one shows.
type watches struct {
	*people
	own     *account
	hellos  *greeter
	observe func(*identity.Statement)
	gate    chan struct{} // a token for each watch that is served: see maxWatchers
}

func newWatches(own *account, hellos *greeter, observe func(*identity.Statement)) *watches {
	return &watches{people: hellos.people, own: own, hellos: hellos, observe: observe, gate: make(chan struct{}, maxWatchers)}
}

// Watch ranges over the status of a user: the current one first, and then every change. It ends
// silently when the directory is closed; if ctx ends or [Directory.Status] fails, the last pair has
// the error. While the user is online the device pushes its changes, so that a log-out shows at
// once, and a crash after 5 s at the latest. Otherwise Watch checks the user's status every 5 s.
// This node must be logged in, as for Status. Every loop has its own stream: a device serves 256 of
// them, 4 from one peer.
func (d *Directory) Watch(ctx context.Context, addr identity.Address) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		var last Status
		for first := true; ; first = false {
			s, err := d.Status(ctx, addr)
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				yield(Status{}, err)
				return
			}
			if first || s.State != last.State || s.Login != last.Login {
				if last = s; !yield(s, nil) {
					return
				}
			}
			if s.State == Online && s.Source != Self {
				d.watches.follow(ctx, s.Login.Peer)
			} else {
				d.watches.rest(ctx, watchPause)
			}
			d.watches.rest(ctx, watchSettle)
			if err := ctx.Err(); err != nil {
				yield(Status{}, err)
				return
			}
		}
	}
}

// rest waits for some time, or until a peer comes or goes.
func (w *watches) rest(ctx context.Context, most time.Duration) {
	w.mu.Lock()
	progress := w.progress.Next()
	w.mu.Unlock()
	if most <= watchSettle {
		progress = nil
	}
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-progress:
	case <-t.C:
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
}

// follow reads what a device pushes until it sends something new or falls silent.
func (w *watches) follow(ctx context.Context, p peer.ID) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	err := w.read(ctx, p)
	if err == nil || ctx.Err() != nil {
		return
	}
	w.cfg.log.Debug("watch ended", "peer", p, "err", err)
	// It serves too many watches, or does not know the protocol: ask now and then.
	if errors.Is(err, errWatchRefused) {
		w.rest(ctx, watchPause)
		return
	}
	w.mu.Lock() // it was silent for so long that it has to be asked
	if c := w.contacts[p]; c != nil {
		c.heard = time.Time{}
	}
	w.mu.Unlock()
}

var errWatchRefused = errors.New("watch refused")

// read returns nil when there may be news of the peer.
func (w *watches) read(ctx context.Context, p peer.ID) error {
	open, cancel := context.WithTimeout(network.WithAllowLimitedConn(network.WithNoDial(ctx, "watch"), "watch"), probeTimeout)
	defer cancel()
	s, err := w.host.NewStream(open, p, WatchProtocol)
	if err != nil {
		return refusedWatch(err)
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.SetDeadline(walltime.In(beatMissed))
	if err := wire.WriteFrame(s, &wire.WatchRequest{App: w.app[:]}); err != nil {
		return err
	}
	r := wire.NewReader(s, maxNotice)
	for first := true; ; first = false {
		_ = s.SetReadDeadline(walltime.In(beatMissed))
		var f wire.WatchFrame
		if err := r.Next(&f); err != nil {
			switch {
			case s.Conn().IsClosed() && w.host.Network().Connectedness(p) != network.NotConnected:
				return nil // it was on the one of two connections that was given up: look again
			case first:
				return refusedWatch(err)
			}
			return err
		}
		w.alive(p)
		if len(f.Statement) == 0 {
			continue
		}
		st, err := w.verifier.VerifyLapsed(f.Statement, w.clock.Now())
		if err == nil {
			err = st.CheckPeer(p)
		}
		if err != nil {
			w.stats.badNotice.Add(1)
			return err
		}
		if !first || !loggedIn(st, w.clock.Now()) { // it may have changed before the stream was open
			w.observe(st)
			return w.awaitNews(ctx, p, st)
		}
	}
}

// refusedWatch distinguishes a refusal from silence.
func refusedWatch(err error) error {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return errors.Join(errWatchRefused, err)
}

// awaitNews waits briefly for the hello with which the peer reports the same.
func (w *watches) awaitNews(ctx context.Context, p peer.ID, st *identity.Statement) error {
	limit := w.clock.Now().Add(time.Second)
	for w.clock.Now().Before(limit) && ctx.Err() == nil {
		w.mu.Lock()
		c, progress := w.contacts[p], w.progress.Next()
		known := c == nil || c.known && c.session.Statement != nil && !st.Newer(c.session.Statement)
		w.mu.Unlock()
		if known {
			return nil
		}
		t := time.NewTimer(w.clock.Until(limit))
		select {
		case <-progress:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// serve pushes this node's statement and a beat until the watcher leaves.
func (w *watches) serve(ctx context.Context, s network.Stream) {
	defer func() { _ = s.Reset() }()
	select {
	case w.gate <- struct{}{}:
		defer func() { <-w.gate }()
	default:
		w.stats.limited.Add(1)
		return
	}
	_ = s.SetDeadline(walltime.In(noticeTimeout))
	p := s.Conn().RemotePeer()
	c := w.hellos.connected(s.Conn(), false)
	if c == nil || !w.may(c, 1) {
		w.stats.limited.Add(1)
		return
	}
	defer w.may(c, -1)
	if _, err := w.hellos.peer(ctx, p); err != nil {
		return
	}
	var req wire.WatchRequest
	r := wire.NewReader(s, maxWhois)
	if err := r.Next(&req); err != nil || len(req.App) != len(w.app) || identity.AppID(req.App) != w.app {
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	w.mu.Lock()
	started := w.tasks.Go(func() { // ends with the stream
		defer close(gone)
		_ = r.Next(&req)
	})
	w.mu.Unlock()
	if !started {
		return
	}
	defer func() {
		_ = s.Reset()
		<-gone
	}()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	var told *identity.Statement
	for first := true; ; first = false {
		w.mu.Lock()
		st, news := w.own.self, w.own.news.Next()
		w.mu.Unlock()
		f := new(wire.WatchFrame)
		if st != nil && (st != told || first) {
			f.Statement = st.Sealed()
			told = st
		}
		_ = s.SetWriteDeadline(walltime.In(beatMissed))
		if err := wire.WriteFrame(s, f); err != nil {
			return
		}
		select {
		case <-beat.C:
		case <-news:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// may changes the number of a peer's watches by by. It returns false if that would be too
// many.
func (w *watches) may(c *contact, by int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.watches+by > maxWatchersPeer {
		return false
	}
	c.watches += by
	return true
}
