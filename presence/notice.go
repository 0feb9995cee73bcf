package presence

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/walltime"
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

// notices sends statements to peers whose log-in they end, and takes such statements.
type notices struct {
	*people
	hellos  *greeter
	observe func(*identity.Statement)
	told    *lru.Cache[notice, time.Time] // notices sent, and when
}

func newNotices(hellos *greeter, observe func(*identity.Statement)) *notices {
	return &notices{people: hellos.people, hellos: hellos, observe: observe, told: newLRU[notice, time.Time](maxTold)}
}

// sendLocked sends notices that were not sent recently.
func (o *notices) sendLocked(notices []notice) {
	for _, n := range notices {
		c := o.contacts[n.to]
		if c == nil {
			continue
		}
		key := notice{to: n.to, sum: sha256.Sum256(n.st.Sealed())}
		if at, ok := o.told.Get(key); ok && o.clock.Since(at) < noticePause {
			continue
		}
		o.told.Add(key, o.clock.Now())
		o.tasks.Go(func() { o.give(c, n.st) })
	}
}

// give sends a statement to a peer, and tries again if that fails.
func (o *notices) give(c *contact, st *identity.Statement) {
	for attempt := range noticeTries {
		o.mu.Lock()
		conns := c.newestFirst()
		o.mu.Unlock()
		if len(conns) == 0 {
			return
		}
		if o.sendNotice(conns[attempt%len(conns)], st) == nil {
			return
		}
		pause := time.NewTimer(helloPause(attempt))
		select {
		case <-pause.C:
		case <-c.gone:
		case <-o.ctx.Done():
		}
		pause.Stop()
		if o.ctx.Err() != nil {
			return
		}
	}
}

func (e *env) sendNotice(conn network.Conn, st *identity.Statement) error {
	ctx, cancel := context.WithTimeout(e.ctx, noticeTimeout)
	defer cancel()
	s, err := e.open(ctx, conn, NoticeProtocol)
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

// serve accepts a statement from a peer with which a hello is complete. The statement proves
// itself, so it does not matter who sends it.
func (o *notices) serve(ctx context.Context, s network.Stream) {
	_ = s.SetDeadline(walltime.In(noticeTimeout))
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !o.hellos.allow(ctx, s.Conn(), func(c *contact) *rate.Limiter { return c.notices }) {
		o.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	var n wire.Notice
	err := wire.NewReader(s, maxNotice).Next(&n)
	var st *identity.Statement
	if err == nil {
		st, err = o.verifier.Verify(n.Statement, o.clock.Now())
	}
	if err != nil {
		o.stats.badNotice.Add(1)
		o.cfg.log.Debug("notice refused", "peer", s.Conn().RemotePeer(), "err", err)
		_ = s.Reset()
		return
	}
	o.observe(st)
	_ = s.Close()
}
