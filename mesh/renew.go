package mesh

import (
	"bytes"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

// renew announces the node's entry again if its statement has changed. The feed goes on, and the
// sequence rises by only one: it must not win over a join of the same user elsewhere in the
// meantime.
func (r *Room) renew() {
	st := r.mesh.who.Self()
	r.mu.Lock()
	old, leaving := r.stay.Own(), r.stay.Leaving()
	r.mu.Unlock()
	if st == nil || leaving || st.User != old.Statement.User || bytes.Equal(st.Sealed(), old.Statement.Sealed()) {
		return
	}
	if err := r.reissue(st, old.Token); err != nil {
		r.mesh.log.Warn("roster entry not renewed", "room", r.name, "err", err)
	}
}

// reissue signs the node's entry again and announces it.
func (r *Room) reissue(st *identity.Statement, token string) error {
	now := r.mesh.clock.Now()
	grant, err := r.door.Admit(token, st, now)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.stay.Leaving() {
		defer r.mu.Unlock()
		return r.reasonLocked()
	}
	entry, err := r.signEntry(st, true, r.stay.Own().Sequence+1, token, r.stay.Heeds(now))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	entry.Grant = grant
	r.stay.Renew(now, entry)
	r.mu.Unlock()
	_, err = r.outbox.add(r.ctx, wire.Kind_KIND_ROSTER, entry.Sealed, noID, accept{})
	return err
}

// UpdateToken shows the members another token before the present one ends. If it is refused, with
// an *identity.TokenError, nothing changes: the stay goes on until the old token ends. In open mode
// it returns [ErrOpenMode].
func (r *Room) UpdateToken(token string) error {
	if r.door.Authority == nil {
		return ErrOpenMode
	}
	r.mu.Lock()
	st := r.stay.Own().Statement
	r.mu.Unlock()
	return r.reissue(st, token)
}

// refute answers accusations: it signs the node's entry again.
func (r *Room) refute() {
	r.mu.Lock()
	own := r.stay.Own()
	r.mu.Unlock()
	if err := r.reissue(own.Statement, own.Token); err != nil {
		r.mesh.log.Debug("accusation not refuted", "room", r.name, "err", err)
	}
}
