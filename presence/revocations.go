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
	"github.com/starling-mesh/starling/internal/walltime"
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

// revocations exchanges lists of revoked tokens with the peers. In open mode there are none.
type revocations struct {
	*people
	announce func()            // makes the peers learn that our list has changed; called with the lock held
	told     [sha256.Size]byte // the list that peers have been told about; the lock of people guards it
}

// lists is the state of exchanging lists with one peer. The lock of people guards it.
type lists struct {
	asks     *rate.Limiter // limits what the peer may open
	fetching bool
	useless  [sha256.Size]byte // of a list that the peer says it has and that we cannot use
}

func newLists() lists { return lists{asks: rate.NewLimiter(listRate, listBurst)} }

// load loads the stored list.
func (r *revocations) load() {
	store, ok := r.cfg.store.(RevocationStore)
	if !ok {
		return
	}
	sealed := store.Revocations(r.app)
	if sealed == nil {
		return
	}
	if _, err := r.cfg.authority.Revoke(sealed); err != nil {
		r.cfg.log.Warn("kept list of revocations", "err", err)
	}
}

// head returns what our hello says about our list; nil if there is none.
func (r *revocations) head() *wire.RevocationsHead {
	if r.cfg.authority == nil {
		return nil
	}
	version, sum := r.cfg.authority.Revocations().Head()
	if version == 0 {
		return nil
	}
	return &wire.RevocationsHead{Version: version, Hash: sum[:]}
}

// tell stores a list that is new here, and announces it to the peers.
func (r *revocations) tell() {
	list := r.cfg.authority.Revocations()
	_, sum := list.Head()
	r.mu.Lock()
	if sum == r.told || r.closing {
		r.mu.Unlock()
		return
	}
	r.told = sum
	r.announce()
	r.mu.Unlock()
	if store, ok := r.cfg.store.(RevocationStore); ok {
		if err := store.SetRevocations(r.app, list.Sealed()); err != nil {
			r.cfg.log.Warn("keep list of revocations", "err", err)
		}
	}
}

// want fetches the list that a peer has, if it should replace ours.
func (r *revocations) want(conn network.Conn, head *wire.RevocationsHead) {
	a := r.cfg.authority
	if a == nil || head == nil || len(head.Hash) != sha256.Size {
		return
	}
	theirs := [sha256.Size]byte(head.Hash)
	if !newerHead(a, head.Version, theirs) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.contacts[conn.RemotePeer()]
	if c == nil || c.lists.fetching || c.lists.useless == theirs {
		return
	}
	c.lists.fetching = r.tasks.Go(func() {
		useless, err := r.fetch(r.ctx, conn, head.Version, theirs)
		if err != nil {
			r.cfg.log.Debug("list of revocations not taken", "peer", c.id, "err", err)
		}
		if useless {
			r.stats.badList.Add(1)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
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

var errOlderList = errors.New("an older list than the peer said it has")

// heed fetches the list of a peer that says that our token was revoked, before the peer hangs up.
// The peer's word counts for nothing; the issuer's list decides.
func (r *revocations) heed(ctx context.Context, conn network.Conn, refusal *HelloError) {
	if r.cfg.authority == nil || refusal.fault != wire.TokenFault_TOKEN_REVOKED {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refuseGrace)
	defer cancel()
	if _, err := r.fetch(ctx, conn, 0, [sha256.Size]byte{}); err != nil {
		r.cfg.log.Debug("list of revocations not taken", "peer", conn.RemotePeer(), "err", err)
	}
}

// fetch asks a peer for its list. useless means that asking again would not help.
func (r *revocations) fetch(ctx context.Context, conn network.Conn, version uint64, sum [sha256.Size]byte) (useless bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	s, err := r.open(ctx, conn, RevocationsProtocol)
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
	if _, err := r.cfg.authority.Revoke(reply.List); err != nil {
		return true, err
	}
	if newerHead(r.cfg.authority, version, sum) {
		return true, errOlderList
	}
	return false, nil
}

// serve sends our list to a peer.
func (r *revocations) serve(ctx context.Context, s network.Stream, may func(context.Context, network.Conn) bool) {
	_ = s.SetDeadline(walltime.In(listTimeout))
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !may(ctx, s.Conn()) {
		r.stats.limited.Add(1)
		_ = s.Reset()
		return
	}
	reply := new(wire.RevocationsReply)
	if list := r.cfg.authority.Revocations(); list != nil {
		reply.List = list.Sealed()
	}
	if err := wire.WriteFrame(s, reply); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}
