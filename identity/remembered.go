package identity

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	bolt "go.etcd.io/bbolt"
)

const (
	// maxRemembered bounds the peers that are kept: 1024, with at most 16 addresses of 256 bytes
	// each.
	maxRemembered      = 1024
	maxRememberedAddrs = 16
	maxAddr            = 256
	// seenStep is how far Seen must advance before that alone causes a write.
	seenStep = time.Minute
)

// Remembered is a peer that the node has met: where to look for it, and who it was.
type Remembered struct {
	Login Login    // User is empty and Key zero if the peer showed no identity
	Addrs []string // multiaddrs without /p2p; the first 16 of at most 256 bytes are kept
	Seen  time.Time
}

type remembered struct {
	Remembered
	saved time.Time // the value of Seen on the disk
}

type peerRecord struct {
	User  string    `json:"user,omitempty"`
	Key   []byte    `json:"key,omitempty"`
	Addrs []string  `json:"addrs,omitempty"`
	Seen  time.Time `json:"seen"`
}

// Remember saves a peer, or updates it. It writes if something changed or if Seen is at least a
// minute later than on the disk; Close writes the rest. It keeps at most 1024 peers, those seen
// most recently.
func (d *Dir) Remember(r Remembered) error {
	if r.Login.Peer == "" {
		return &DirError{Path: d.path, Err: errors.New("a peer without an ID cannot be remembered")}
	}
	r.Addrs = boundAddrs(r.Addrs)
	r.Seen = r.Seen.UTC().Round(0)

	d.mu.Lock()
	old := d.peers[r.Login.Peer]
	entry := &remembered{Remembered: r}
	write := true
	if old != nil {
		entry.saved = old.saved
		same := old.Login == r.Login && slices.Equal(old.Addrs, r.Addrs)
		write = !same || r.Seen.Sub(old.saved) >= seenStep
	}
	if write {
		entry.saved = r.Seen
	}
	d.peers[r.Login.Peer] = entry
	evicted := d.evictPeerLocked()
	d.mu.Unlock()

	if !write && evicted == "" {
		return nil
	}
	return d.save(savePeers(r.Login.Peer, evicted))
}

// Remembered returns the peers that are kept, those seen most recently first.
func (d *Dir) Remembered() []Remembered {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Remembered, 0, len(d.peers))
	for _, r := range d.peers {
		c := r.Remembered
		c.Addrs = slices.Clone(c.Addrs)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b Remembered) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.Login.Peer, b.Login.Peer))
	})
	return all
}

// evictPeerLocked makes room: when there is one peer too many, it removes the one seen least
// recently and returns its ID.
func (d *Dir) evictPeerLocked() peer.ID {
	if len(d.peers) <= maxRemembered {
		return ""
	}
	var oldest *remembered
	for _, r := range d.peers {
		if oldest == nil || r.Seen.Before(oldest.Seen) {
			oldest = r
		}
	}
	delete(d.peers, oldest.Login.Peer)
	return oldest.Login.Peer
}

// flushPeers writes every peer whose Seen is not yet on the disk.
func (d *Dir) flushPeers() {
	d.mu.Lock()
	var stale []peer.ID
	for id, r := range d.peers {
		if !r.saved.Equal(r.Seen) {
			stale = append(stale, id)
		}
	}
	d.mu.Unlock()
	if len(stale) > 0 {
		_ = d.save(savePeers(stale...)) // the error stays in d.failed, which Close returns
	}
}

// savePeers stores the current record of each of these peers, or deletes it if there is none.
func savePeers(ids ...peer.ID) func(*Dir, *bolt.Tx) error {
	return func(d *Dir, tx *bolt.Tx) error {
		bucket := tx.Bucket(peersBucket)
		for _, id := range ids {
			if id == "" {
				continue
			}
			raw, err := d.encodePeer(id)
			if err != nil {
				return err
			}
			if raw == nil {
				err = bucket.Delete([]byte(id.String()))
			} else {
				err = bucket.Put([]byte(id.String()), raw)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func (d *Dir) encodePeer(id peer.ID) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.peers[id]
	if r == nil {
		return nil, nil
	}
	rec := peerRecord{User: r.Login.User, Addrs: r.Addrs, Seen: r.Seen}
	if !r.Login.Key.IsZero() {
		rec.Key = r.Login.Key[:]
	}
	return json.Marshal(rec)
}

func decodePeer(k, v []byte) (Remembered, error) {
	id, err := peer.Decode(string(k))
	if err != nil {
		return Remembered{}, err
	}
	var rec peerRecord
	if err := json.Unmarshal(v, &rec); err != nil {
		return Remembered{}, err
	}
	login := Login{User: rec.User, Peer: id}
	switch len(rec.Key) {
	case 0:
	case len(PublicKey{}):
		login.Key = PublicKey(rec.Key)
	default:
		return Remembered{}, errors.New("key of the wrong length")
	}
	return Remembered{Login: login, Addrs: rec.Addrs, Seen: rec.Seen}, nil
}

func boundAddrs(addrs []string) []string {
	var out []string
	for _, a := range addrs {
		if len(out) < maxRememberedAddrs && a != "" && len(a) <= maxAddr {
			out = append(out, a)
		}
	}
	return out
}
