package presence

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// notice is a statement to send to a peer, identified by its hash.
type notice struct {
	to  peer.ID
	sum [sha256.Size]byte
	st  *identity.Statement
}

const (
	// noticePause is how long the same notice is not sent again to the same peer.
	noticePause   = 30 * time.Second
	noticeTimeout = 5 * time.Second
	noticeTries   = 4
	maxNotice     = identity.MaxStatement + 64
)

// noticeLocked sends notices that were not sent recently.
func (d *Directory) noticeLocked(notices []notice) {
	for _, n := range notices {
		c := d.contacts[n.to]
		if c == nil {
			continue
		}
		key := notice{to: n.to, sum: sha256.Sum256(n.st.Sealed())}
		if at, ok := d.told.Get(key); ok && time.Since(at) < noticePause {
			continue
		}
		d.told.Add(key, time.Now())
		d.tasks.Go(func() { d.give(c, n.st) })
	}
}

// give sends a statement to a peer, and tries again if that fails.
func (d *Directory) give(c *contact, st *identity.Statement) {
	for attempt := range noticeTries {
		d.mu.Lock()
		conns := c.newestFirst()
		d.mu.Unlock()
		if len(conns) == 0 {
			return
		}
		if d.sendNotice(conns[attempt%len(conns)], st) == nil {
			return
		}
		pause := time.NewTimer(helloPause(attempt))
		select {
		case <-pause.C:
		case <-c.gone:
		case <-d.ctx.Done():
		}
		pause.Stop()
		if d.ctx.Err() != nil {
			return
		}
	}
}

func (d *Directory) sendNotice(conn network.Conn, st *identity.Statement) error {
	ctx, cancel := context.WithTimeout(d.ctx, noticeTimeout)
	defer cancel()
	s, err := d.open(ctx, conn, NoticeProtocol)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	err = wire.WriteFrame(s, &wire.Notice{Statement: st.Sealed()})
	if err == nil {
		err = s.CloseWrite()
	}
	if err == nil { // the peer closes its side when it has read
		if err = wire.NewReader(s, maxNotice).Next(&wire.Notice{}); errors.Is(err, io.EOF) {
			return s.Close()
		}
	}
	_ = s.Reset()
	return err
}

// serveNotice accepts a statement from a peer with which a hello is complete. The statement proves
// itself, so it does not matter who sends it.
func (d *Directory) serveNotice(ctx context.Context, s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(noticeTimeout))
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !d.allow(ctx, s.Conn(), func(c *contact) *rate.Limiter { return c.notices }) {
		d.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	var n wire.Notice
	err := wire.NewReader(s, maxNotice).Next(&n)
	var st *identity.Statement
	if err == nil {
		st, err = d.verifier.Verify(n.Statement, time.Now())
	}
	if err != nil {
		d.stats.badNotice.Add(1)
		d.cfg.log.Debug("notice refused", "peer", s.Conn().RemotePeer(), "err", err)
		_ = s.Reset()
		return
	}
	d.Observe(st)
	_ = s.Close()
}

// allow reports whether the peer of a connection is within a limit and has completed a hello. The
// last message of a hello may still be on its way when the peer opens its next stream, so allow
// waits for it.
func (d *Directory) allow(ctx context.Context, conn network.Conn, limiter func(*contact) *rate.Limiter) bool {
	c := d.connected(conn, false)
	if c == nil || !limiter(c).Allow() {
		return false
	}
	_, err := d.Peer(ctx, conn.RemotePeer())
	return err == nil
}
