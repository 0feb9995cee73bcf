package presence

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// RevocationsProtocol is the protocol with which a peer that has an older list of revocations
// fetches a newer one.
const RevocationsProtocol protocol.ID = "/starling/revocations/1.0.0"

const (
	listTimeout = 10 * time.Second
	maxList     = identity.MaxRevocations + 16
	listRate    = 0.2 // per second; an honest peer asks once per list
	listBurst   = 4
)

// RevocationStore is an optional interface of a [Store]. It keeps an app's list of revocations from
// one run to the next, so that a restart does not let in again those who were shut out.
// [*identity.Dir] implements it.
type RevocationStore interface {
	Revocations(app identity.AppID) []byte
	SetRevocations(app identity.AppID, sealed []byte) error
}

// lists is the state of exchanging lists with one peer. Directory.mu guards it.
type lists struct {
	asks     *rate.Limiter // limits what the peer may open
	fetching bool
	useless  [sha256.Size]byte // of a list that the peer says it has and that we cannot use
}

func newLists() lists { return lists{asks: rate.NewLimiter(listRate, listBurst)} }

// loadList loads the stored list.
func (d *Directory) loadList() {
	store, ok := d.cfg.store.(RevocationStore)
	if !ok {
		return
	}
	sealed := store.Revocations(d.app)
	if sealed == nil {
		return
	}
	if _, err := d.cfg.authority.Revoke(sealed); err != nil {
		d.cfg.log.Warn("kept list of revocations", "err", err)
	}
}

// listHead returns what our hello says about our list; nil if there is none.
func (d *Directory) listHead() *wire.RevocationsHead {
	if d.cfg.authority == nil {
		return nil
	}
	version, sum := d.cfg.authority.Revocations().Head()
	if version == 0 {
		return nil
	}
	return &wire.RevocationsHead{Version: version, Hash: sum[:]}
}

// tellList stores a list that is new here, and announces it to the peers.
func (d *Directory) tellList() {
	list := d.cfg.authority.Revocations()
	_, sum := list.Head()
	d.mu.Lock()
	if sum == d.listTold || d.closing {
		d.mu.Unlock()
		return
	}
	d.listTold = sum
	d.version++
	for _, c := range d.contacts {
		if c.known {
			d.kickLocked(c)
		}
	}
	d.mu.Unlock()
	if store, ok := d.cfg.store.(RevocationStore); ok {
		if err := store.SetRevocations(d.app, list.Sealed()); err != nil {
			d.cfg.log.Warn("keep list of revocations", "err", err)
		}
	}
}

// wantList fetches the list that a peer has, if it should replace ours.
func (d *Directory) wantList(conn network.Conn, head *wire.RevocationsHead) {
	a := d.cfg.authority
	if a == nil || head == nil || len(head.Hash) != sha256.Size {
		return
	}
	theirs := [sha256.Size]byte(head.Hash)
	if !newerHead(a, head.Version, theirs) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.contacts[conn.RemotePeer()]
	if c == nil || c.lists.fetching || c.lists.useless == theirs {
		return
	}
	c.lists.fetching = d.tasks.Go(func() {
		useless, err := d.fetchList(d.ctx, conn, head.Version, theirs)
		if err != nil {
			d.cfg.log.Debug("list of revocations not taken", "peer", c.id, "err", err)
		}
		if useless {
			d.stats.badList.Add(1)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		c.lists.fetching = false
		if useless {
			c.lists.useless = theirs
		}
	})
}

// newerHead reports whether a list with that head should replace ours.
func newerHead(a *identity.Authority, version uint64, sum [sha256.Size]byte) bool {
	ours := a.Revocations()
	mine, mySum := ours.Head()
	return !(mine == version && mySum == sum) && !ours.Supersedes(version, sum)
}

var errOlderList = errors.New("presence: an older list than the peer said it has")

// heed fetches the list of a peer that says that our token was revoked, before the peer hangs up.
// The peer's word counts for nothing; the issuer's list decides.
func (d *Directory) heed(ctx context.Context, conn network.Conn, refusal *RefusedError) {
	if d.cfg.authority == nil || refusal.fault != wire.TokenFault_TOKEN_REVOKED {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refuseGrace)
	defer cancel()
	if _, err := d.fetchList(ctx, conn, 0, [sha256.Size]byte{}); err != nil {
		d.cfg.log.Debug("list of revocations not taken", "peer", conn.RemotePeer(), "err", err)
	}
}

// fetchList asks a peer for its list. useless means that asking again would not help.
func (d *Directory) fetchList(ctx context.Context, conn network.Conn, version uint64, sum [sha256.Size]byte) (useless bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	s, err := d.open(ctx, conn, RevocationsProtocol)
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_ = s.CloseWrite() // an error means that the peer has already answered and closed
	var reply wire.RevocationsReply
	if err = wire.NewReader(s, maxList).Next(&reply); err != nil {
		_ = s.Reset()
		return badFrame(conn.RemotePeer(), err) != nil, err
	}
	_ = s.Close()
	// A newer list wakes tendTokens, which tells the other peers.
	if _, err := d.cfg.authority.Revoke(reply.List); err != nil {
		return true, err
	}
	if newerHead(d.cfg.authority, version, sum) {
		return true, errOlderList
	}
	return false, nil
}

// mayHaveList reports whether a peer may have our list: a peer with which a hello is complete, or
// that we have refused because of the list.
func (d *Directory) mayHaveList(ctx context.Context, conn network.Conn) bool {
	c := d.connected(conn, false)
	if c == nil {
		return false
	}
	d.mu.Lock()
	refused := (*RefusedError)(nil)
	revoked := errors.As(c.final, &refused) && !refused.Remote && refused.fault == wire.TokenFault_TOKEN_REVOKED
	d.mu.Unlock()
	if revoked {
		return c.lists.asks.Allow()
	}
	return d.allow(ctx, conn, func(c *contact) *rate.Limiter { return c.lists.asks })
}

// serveList sends our list to a peer.
func (d *Directory) serveList(ctx context.Context, s network.Stream) {
	_ = s.SetDeadline(time.Now().Add(listTimeout))
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !d.mayHaveList(ctx, s.Conn()) {
		d.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	reply := new(wire.RevocationsReply)
	if list := d.cfg.authority.Revocations(); list != nil {
		reply.List = list.Sealed()
	}
	if err := wire.WriteFrame(s, reply); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}
