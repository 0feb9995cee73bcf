package presence

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

// storedBudget is how long a search looks into the DHT.
const storedBudget = 1500 * time.Millisecond

// openKads makes the instances of the DHT and starts to store this node's log-ins there.
func (d *Directory) openKads() error {
	for _, scope := range d.cfg.scopes {
		k, err := newKad(d, scope)
		if err != nil {
			return errors.Join(err, d.closeKads())
		}
		d.kads = append(d.kads, k)
	}
	for _, k := range d.kads {
		d.tasks.Go(k.publish)
	}
	return nil
}

func (d *Directory) closeKads() error {
	var errs []error
	for _, k := range d.kads {
		errs = append(errs, k.close())
	}
	return errors.Join(errs...)
}

// newsLocked wakes everything that waits for a change of this node's statement.
func (d *Directory) newsLocked() {
	d.news.Tell()
	for _, k := range d.kads {
		k.kick()
	}
}

// farewell waits until connected peers and the nodes that keep the log-in have been told that it
// has ended, or until ctx ends.
func (d *Directory) farewell(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { d.bury(ctx) })
	d.waitTold(ctx)
	wg.Wait()
}

// recordKey returns the key of a wanted user's record. In open mode that needs the user key, or its
// fingerprint.
func (d *Directory) recordKey(w want) (key string, ok bool) {
	if w.vouched {
		return userRecordKey(d.app, w.User), true
	}
	if w.fixed {
		return keyRecordKey(d.app, w.key.Fingerprint()), true
	}
	if w.Fingerprint != "" {
		return keyRecordKey(d.app, w.Fingerprint), true
	}
	return "", false
}

// seekStored looks for a user in every instance of the DHT at once. It calls found for every valid
// record. If only the name is known, it instead calls device for every device that provides the
// name. It also asks the nodes in also if they are near. It reports whether everybody who should
// know has answered: in at least one instance, and in every one that has nodes.
func (d *Directory) seekStored(ctx context.Context, w want, also []peer.ID, found func(*record), device func(peer.AddrInfo)) (complete bool) {
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		any, all = false, true
	)
	ended := func(r walked) {
		mu.Lock()
		defer mu.Unlock()
		any = any || r.complete
		all = all && (r.complete || r.alone)
	}
	for _, k := range d.kads {
		wg.Go(func() {
			if key, ok := d.recordKey(w); ok {
				ended(k.seek(ctx, key, also, func(_ peer.ID, r *record) { found(r) }))
				return
			}
			ended(k.seekName(ctx, w.User, also, device))
		})
	}
	wg.Wait()
	return any && all
}

// searchStored adds what the DHT has to a search.
func (d *Directory) searchStored(ctx context.Context, h *hunt) {
	if len(d.kads) == 0 || ctx.Err() != nil {
		return
	}
	budget, cancel := context.WithTimeout(ctx, storedBudget)
	defer cancel()
	d.seekStored(budget, h.w, nil, func(r *record) {
		d.Observe(r.st)
		if r.st.User == h.w.User && loggedIn(r.st, time.Now()) {
			h.try(ctx, candidate{login: r.st.Login(), st: r.st, addrs: r.addrs, source: Stored})
		}
	}, func(info peer.AddrInfo) {
		h.try(ctx, candidate{login: identity.Login{User: h.w.User, Peer: info.ID}, addrs: info.Addrs, source: Stored, unproved: true})
	})
}
