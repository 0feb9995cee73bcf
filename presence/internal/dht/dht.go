// Package dht keeps the log-ins of an app in a Kademlia DHT of its nodes, and finds them there. It
// stores signed records, so that it does not matter which node keeps them. It judges nothing but
// records: what a log-in found there means is for the caller.
//
// A node may be part of two instances, one of its LAN and one of the internet. Each walks to the
// nodes nearest to a key by itself, since the library does not report whether all of them have
// answered, and the absence of a record means something only if they have.
package dht

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/task"
	"github.com/starling-mesh/starling/internal/walltime"
)

// Config is what a DHT is made of. All fields but Clock are required.
type Config struct {
	Host     host.Host
	App      identity.AppID
	Keys     *identity.Keys
	Verifier *identity.Verifier
	Vouched  bool    // app mode: a name is one user, and a log-in has a token
	Scopes   []Scope // an instance for each; none: the DHT finds and stores nothing
	Clock    walltime.Clock
	Log      *slog.Logger
}

// Node is what a DHT needs from the node around it. The DHT calls it from several goroutines, and
// holds none of its locks then.
type Node interface {
	// Shown returns the node's statement if it is of a log-in; nil: the node is logged out.
	Shown() *identity.Statement
	// Observe takes a verified statement from the DHT about the node's own user.
	Observe(*identity.Statement)
	// Foreign reports whether a peer should not be dialled.
	Foreign(peer.ID) bool
}

// DHT is this node's part in the instances. All methods are safe for concurrent use.
type DHT struct {
	cfg       Config
	id        peer.ID
	node      Node
	instances []*Instance
	limited   atomic.Uint64

	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	tasks task.Group
}

// New makes the instances and starts to store the node's log-ins there. It does not wait for other
// nodes.
func New(cfg Config, node Node) (*DHT, error) {
	d := &DHT{cfg: cfg, id: cfg.Host.ID(), node: node}
	d.ctx, d.stop = context.WithCancel(context.Background())
	for _, scope := range cfg.Scopes {
		k, err := newInstance(d, scope)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.instances = append(d.instances, k)
	}
	for _, k := range d.instances {
		d.tasks.Go(k.publish)
	}
	return d, nil
}

// Close ends everything that the DHT does, removes its stream handlers from the host, and returns
// when all its goroutines have ended. The log-in remains where it is stored: see [DHT.Retract].
func (d *DHT) Close() error {
	d.tasks.Close()
	d.stop()
	d.tasks.Wait()
	var errs []error
	for _, k := range d.instances {
		errs = append(errs, k.close())
	}
	return errors.Join(errs...)
}

// Empty reports whether there are no instances.
func (d *DHT) Empty() bool { return len(d.instances) == 0 }

// Instances returns the instances, in the order of their scopes.
func (d *DHT) Instances() []*Instance { return d.instances }

// Limited returns how many requests to store here were refused because one peer had sent too many.
func (d *DHT) Limited() uint64 { return d.limited.Load() }

// Wake reports that the node's statement has changed. It never blocks.
func (d *DHT) Wake() {
	for _, k := range d.instances {
		k.wake.Set()
	}
}

// Renew stores the node's log-in again, in the background. While the node is logged out, it does
// nothing. It never blocks.
func (d *DHT) Renew() {
	for _, k := range d.instances {
		k.renew.Set()
	}
}

// Retract sends the end of a log-in to the nodes that keep the log-in. It does its best for at most
// a second.
func (d *DHT) Retract(ctx context.Context, st *identity.Statement) {
	if d.Empty() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tombstoneGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, k := range d.instances {
		wg.Go(func() { k.retract(ctx, st) })
	}
	wg.Wait()
}

// Seek looks for a user in every instance at once, until the walks have ended or ctx ends. It calls
// found for every valid record, from several goroutines. In open mode a record is found only by the
// fingerprint of its user key. For a name alone, Seek instead calls device for every device that
// provides the name: the device has to say who it is. Seek also asks the nodes in also.
//
// It reports whether everybody who should know has answered: in at least one instance, and in every
// one that has nodes.
func (d *DHT) Seek(ctx context.Context, user identity.Address, also []peer.ID, found func(*Record), device func(peer.AddrInfo)) (complete bool) {
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
	for _, k := range d.instances {
		wg.Go(func() {
			if key, ok := d.keyOf(user); ok {
				ended(k.seek(ctx, key, also, func(_ peer.ID, r *Record) { found(r) }))
				return
			}
			ended(k.seekName(ctx, user.User, also, device))
		})
	}
	wg.Wait()
	return any && all
}

// keyOf returns the key of a user's record.
func (d *DHT) keyOf(user identity.Address) (key string, ok bool) {
	if d.cfg.Vouched {
		return KeyOfUser(d.cfg.App, user.User), true
	}
	if user.Fingerprint != "" {
		return KeyOfKey(d.cfg.App, user.Fingerprint), true
	}
	return "", false
}
