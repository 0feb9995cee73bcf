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

// claim is a name used by a key.
type claim struct {
	user string
	key  identity.PublicKey
}

// notice is a statement to hand to a peer, by its hash.
type notice struct {
	to  peer.ID
	sum [sha256.Size]byte
	st  *identity.Statement
}

const (
	// noticePause is how long the same notice is not given again to the same peer.
	noticePause   = 30 * time.Second
	noticeTimeout = 5 * time.Second
	noticeTries   = 4
	maxNotice     = identity.MaxStatement + 64
)

// Observe takes in a verified statement that came by another way than hello, for example of a member of a room. It is judged as
// one from a hello is: it may show a conflict, end this node's log-in, or be handed to the log-in that it ends.
func (d *Directory) Observe(st *identity.Statement) {
	if st == nil || st.App != d.app {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closing {
		d.noticeLocked(d.observeLocked(st))
	}
}

// observeLocked draws the conclusions from a verified statement. It returns the notices to give.
func (d *Directory) observeLocked(st *identity.Statement) []notice {
	if st.Peer == d.id {
		d.ownDeviceLocked(st)
		return nil
	}
	if d.cfg.authority != nil && st.Grant() == nil {
		return nil // in app mode a name without a token is only a claim
	}
	if d.oursLocked(st) {
		d.ownUserLocked(st)
		return nil
	}
	if d.cfg.authority == nil {
		d.conflictLocked(st)
	}
	return d.rivalsLocked(st)
}

// ownDeviceLocked looks at a statement that our device key has signed: if we did not, another node has our key.
func (d *Directory) ownDeviceLocked(st *identity.Statement) {
	switch {
	case d.self != nil && !st.Newer(d.self): // ours, or of an earlier run
		return
	case d.self == nil && !st.Issued.After(d.started):
		return
	}
	if !d.twin {
		d.twin = true
		d.cfg.log.Warn("another node uses this node's device key: was the data directory copied?", "peer", d.id)
		d.events.push(DuplicateDevice{Peer: d.id})
	}
}

// oursLocked reports whether a statement is of our user.
func (d *Directory) oursLocked(st *identity.Statement) bool {
	if d.cfg.authority != nil {
		return st.User == d.user
	}
	return st.UserKey == d.userKey
}

// ownUserLocked looks at a statement of our user on another device.
func (d *Directory) ownUserLocked(st *identity.Statement) {
	d.highest = max(d.highest, st.Sequence)
	if was, ok := d.devices.Get(st.Peer); ok && was.Newer(st) {
		st = was // an old statement, shown again, does not undo a log-out
	} else {
		d.devices.Add(st.Peer, st)
	}
	if !d.in || !loggedIn(st, time.Now()) || !st.Newer(d.self) {
		return // if it is the other that has to go, it will find that in our hello
	}
	d.logoutLocked()
	d.cfg.log.Info("logged out: the user has logged in elsewhere", "peer", st.Peer)
	d.events.push(Displaced{By: st.Login()})
}

// conflictLocked looks for a name that belongs to another key here.
func (d *Directory) conflictLocked(st *identity.Statement) {
	holder, held := d.userKey, st.User == d.user
	if !held {
		holder, held = d.cfg.pins.Lookup(st.User)
	}
	if !held {
		holder, held = d.firstOther(st)
	}
	if !held || holder == st.UserKey {
		return
	}
	if _, again, _ := d.conflicts.PeekOrAdd(claim{user: st.User, key: st.UserKey}, struct{}{}); !again {
		d.events.push(Conflict{User: st.User, Pinned: holder, Other: st.Login()})
	}
}

// firstOther returns the key of another connected peer under the name that st uses.
func (d *Directory) firstOther(st *identity.Statement) (identity.PublicKey, bool) {
	for _, c := range d.names[st.User] {
		if key := c.session.Statement.UserKey; key != st.UserKey {
			return key, true
		}
	}
	return identity.PublicKey{}, false
}

// rivalsLocked looks for two log-ins of one user other than ours. The later one is handed to the peer of the earlier one,
// if that is connected: so they find out who has to go even if they never meet.
func (d *Directory) rivalsLocked(st *identity.Statement) []notice {
	now := time.Now()
	if !loggedIn(st, now) {
		return nil
	}
	var out []notice
	for _, c := range d.subjects[st.Subject()] {
		other := c.session.Statement
		if c.id == st.Peer || !loggedIn(other, now) {
			continue
		}
		winner, loser := st, other
		if other.Newer(st) {
			winner, loser = other, st
		}
		if d.contacts[loser.Peer] != nil {
			out = append(out, notice{to: loser.Peer, st: winner})
		}
	}
	return out
}

// noticeLocked gives notices that were not given lately.
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
		d.goLocked(func() { d.give(c, n.st) })
	}
}

// give hands a statement to a peer, and tries again if that fails.
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

// serveNotice takes a statement from a peer that we have had a hello with. The statement proves itself, so it does not matter
// who hands it over.
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

// allow reports whether the peer of a connection is within a limit, and known by a hello. The last message of a hello may
// still be on its way when the peer opens its next stream: that is waited for.
func (d *Directory) allow(ctx context.Context, conn network.Conn, limiter func(*contact) *rate.Limiter) bool {
	c := d.connected(conn, false)
	if c == nil || !limiter(c).Allow() {
		return false
	}
	_, err := d.Peer(ctx, conn.RemotePeer())
	return err == nil
}

// probeTwin asks the earlier incarnation of a peer whether it still lives, after another has spoken. A restarted node leaves a
// dead connection behind; two nodes with one key leave two live ones. Both are told, by the other's statement.
func (d *Directory) probeTwin(c *contact, old network.Conn, was identity.Session, conn network.Conn, now identity.Session) {
	session, _, _, err := d.initiate(old, nil)
	if err != nil || session.Incarnation != was.Incarnation {
		return // the usual end: it is dead
	}
	d.mu.Lock()
	again := c.twins
	c.twins = true
	d.mu.Unlock()
	if again {
		return
	}
	d.cfg.log.Debug("two nodes use one device key", "peer", c.id)
	d.events.push(DuplicateDevice{Peer: c.id})
	if session.Statement != nil {
		_ = d.sendNotice(conn, session.Statement)
	}
	if now.Statement != nil {
		_ = d.sendNotice(old, now.Statement)
	}
}
