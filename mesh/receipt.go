package mesh

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// maxReceipts bounds the receipts in one frame: those of the largest room that confirms.
	maxReceipts = MaxConfirmed
	// maxCollectors bounds how many members gather receipts. It is the square root of MaxConfirmed,
	// so that a collector gathers from as many members as there are collectors.
	maxCollectors = 16
	// gatherDelay is how long receipts are gathered that go to the author next, and relayDelay
	// those that go elsewhere. gatherDelay covers the round trip of a member that is one step
	// further away, and its relayDelay.
	gatherDelay = 100 * time.Millisecond
	relayDelay  = 30 * time.Millisecond
	// carryLife is how long receipts of an envelope are passed on after it came.
	carryLife = time.Minute
	// maxCarried and maxCarriedOfFeed bound the envelopes whose receipts are passed on; the oldest
	// is dropped. Each takes about 10 KiB if all of 256 members have confirmed it through this
	// node.
	maxCarried       = 1024
	maxCarriedOfFeed = 256
	// maxEarly bounds the receipts from one neighbour that wait for their envelope to come: as many
	// as that neighbour has envelopes under way that this node gathers receipts for.
	maxEarly = 64
	// maxAsks is how often an author asks again for receipts of one envelope.
	maxAsks = 2
)

var errBadReceipts = errors.New("malformed receipts")

// deviceHint names a device among the members of one room: the beginning of its key.
type deviceHint [8]byte

func hint(device []byte) deviceHint { return deviceHint(device[:len(deviceHint{})]) }

// receiptBody is what a receipt signs.
func receiptBody(room [32]byte, feed feedTag, last uint64, envelope [sha256.Size]byte) []byte {
	body := make([]byte, 0, len(room)+len(feed)+8+len(envelope))
	body = append(append(body, room[:]...), feed[:]...)
	body = binary.BigEndian.AppendUint64(body, last)
	return append(body, envelope[:]...)
}

// carried is an envelope whose author wants receipts: this node's own receipt, and those that it
// passes on.
type carried struct {
	tag        feedTag
	author     peer.ID
	last       uint64
	hash       [sha256.Size]byte
	born       time.Time
	via        peer.ID // the neighbour that the envelope, or the author's last question, came from
	collectors []deviceHint
	few        bool          // the author has asked for a few that are missing
	own        *wire.Receipt // nil: not delivered
	asks       int
	passed     map[deviceHint]struct{} // devices whose receipts went on since the author last asked
	out        map[peer.ID][]*wire.Receipt
	due        time.Time // when out is sent
}

// early holds receipts that have overtaken their envelope.
type early struct {
	hash   [sha256.Size]byte
	frame  *wire.RoomFrame_Receipts
	number int
}

// keepEarly adds a frame, and drops the oldest ones if there are too many.
func (n *neighbour) keepEarly(hash [sha256.Size]byte, q *wire.RoomFrame_Receipts) {
	if len(q.List) > maxEarly {
		return
	}
	n.early = append(n.early, early{hash, q, len(q.List)})
	sum := 0
	for i := len(n.early) - 1; i >= 0; i-- {
		if sum += n.early[i].number; sum > maxEarly {
			n.early = slices.Delete(n.early, 0, i+1)
			return
		}
	}
}

// takeEarlyLocked takes the receipts that have overtaken an envelope that has just come.
func (r *Room) takeEarlyLocked(hash [sha256.Size]byte) {
	for p, n := range r.neighbours {
		n.early = slices.DeleteFunc(n.early, func(e early) bool {
			if e.hash != hash {
				return false
			}
			r.mesh.tasks.Go(func() {
				if err := r.hearReceipts(p, e.frame); err != nil {
					r.mesh.violation(p, err)
				}
			})
			return true
		})
	}
}

// carriage holds the receipts that a room passes on.
type carriage struct {
	byHash  map[[sha256.Size]byte]*carried
	byFeed  map[feedTag][]*carried // oldest first
	waiting map[*carried]struct{}  // with something in out
	swept   time.Time              // when old envelopes were last looked for
}

func (c *carriage) init() {
	c.byHash = make(map[[sha256.Size]byte]*carried)
	c.byFeed = make(map[feedTag][]*carried)
	c.waiting = make(map[*carried]struct{})
}

// carryLocked notes an envelope whose author wants receipts.
func (r *Room) carryLocked(now time.Time, f *feed, e *envelope) {
	c := &r.carriage
	if c.byHash[e.hash] != nil || len(e.Receipts.Collectors) > maxCollectors || f.broken {
		return
	}
	n := &carried{
		tag: f.tag, author: f.peer(), last: e.last(), hash: e.hash, born: now, via: e.via, collectors: hints(e.Receipts.Collectors),
		passed: make(map[deviceHint]struct{}), out: make(map[peer.ID][]*wire.Receipt),
	}
	c.byHash[e.hash] = n
	r.takeEarlyLocked(e.hash)
	c.byFeed[f.tag] = append(c.byFeed[f.tag], n)
	if len(c.byFeed[f.tag]) > maxCarriedOfFeed {
		r.dropCarriedLocked(f.tag)
	} else if len(c.byHash) > maxCarried {
		most := f.tag
		for tag, list := range c.byFeed {
			if len(list) > len(c.byFeed[most]) {
				most = tag
			}
		}
		r.dropCarriedLocked(most)
	}
}

// hints returns those of raw that are well formed.
func hints(raw [][]byte) (out []deviceHint) {
	for _, h := range raw {
		if len(h) == len(deviceHint{}) {
			out = append(out, deviceHint(h))
		}
	}
	return out
}

// dropCarriedLocked drops a feed's oldest envelope.
func (r *Room) dropCarriedLocked(tag feedTag) {
	c := &r.carriage
	list := c.byFeed[tag]
	n := list[0]
	list[0] = nil
	if c.byFeed[tag] = list[1:]; len(list) == 1 {
		delete(c.byFeed, tag)
	}
	delete(c.byHash, n.hash)
	r.passLocked(n)
}

// confirmLocked signs this node's receipt of an envelope that has just been delivered whole, and
// sends it off.
func (r *Room) confirmLocked(now time.Time, e *envelope) {
	n := r.carriage.byHash[e.hash]
	if n == nil || n.own != nil {
		return
	}
	n.own = &wire.Receipt{
		Device:    r.device[:],
		Signature: wire.Sign(wire.DomainReceipt, r.mesh.key, receiptBody(r.tag, n.tag, n.last, n.hash)),
	}
	r.forwardLocked(now, n, n.own, "")
}

// askedLocked takes an author's question for receipts that have not come. The receipts asked for
// are sent again, and by another way too if the author is not a neighbour: a node on the first way
// may keep them back.
func (r *Room) askedLocked(now time.Time, f *feed, e *envelope, payload []byte) {
	var ask wire.ReceiptAsk
	if proto.Unmarshal(payload, &ask) != nil || len(ask.Envelope) != sha256.Size ||
		len(ask.Missing) > MaxConfirmed || len(ask.Collectors) > maxCollectors {
		return
	}
	n := r.carriage.byHash[[sha256.Size]byte(ask.Envelope)]
	if n == nil || n.tag != f.tag || n.asks >= maxAsks {
		return
	}
	n.asks++
	n.few = len(ask.Missing) <= closeRoom
	n.via, n.collectors = e.via, hints(ask.Collectors)
	missing := hints(ask.Missing)
	for _, h := range missing {
		delete(n.passed, h)
	}
	if n.own == nil || !slices.Contains(missing, hint(r.device[:])) {
		return
	}
	r.forwardLocked(now, n, n.own, "")
	if r.neighbours[n.author] != nil {
		return
	}
	others := n.asks
	for p := range r.neighbours { // in random order
		if _, used := n.out[p]; !used && p != n.via && others > 0 {
			others--
			r.queueLocked(now, n, n.own, p)
		}
	}
}

// forwardLocked sends a receipt one step nearer to the author, unless it has done so before.
func (r *Room) forwardLocked(now time.Time, n *carried, receipt *wire.Receipt, from peer.ID) {
	if _, again := n.passed[hint(receipt.Device)]; again {
		return
	}
	n.passed[hint(receipt.Device)] = struct{}{}
	if to := r.hopLocked(n, from); to != "" {
		r.queueLocked(now, n, receipt, to)
	}
}

// queueLocked adds a receipt to those that wait to go to a neighbour together.
func (r *Room) queueLocked(now time.Time, n *carried, receipt *wire.Receipt, to peer.ID) {
	n.out[to] = append(n.out[to], receipt)
	delay := relayDelay
	switch {
	case r.roster.present <= closeRoom:
		delay = 0
	case to == n.author && !r.gathersLocked(n) && len(n.collectors) == 0 && n.few:
		delay = 0
	case to == n.author:
		delay = gatherDelay
	case r.neighbours[n.author] != nil:
		delay = 0 // a collector waits for it
	}
	if delay == 0 || len(n.out[to]) >= maxReceipts {
		r.passLocked(n)
		return
	}
	if n.due.IsZero() {
		n.due = now.Add(delay)
		r.carriage.waiting[n] = struct{}{}
		r.armTimer()
	}
}

// passLocked sends on what has been gathered of an envelope's receipts.
func (r *Room) passLocked(n *carried) {
	for to, list := range n.out {
		r.mesh.tell(to, &wire.RoomFrame{Room: r.tag[:], Body: &wire.RoomFrame_Receipts_{Receipts: &wire.RoomFrame_Receipts{
			Feed: n.tag[:], Last: n.last, Envelope: n.hash[:], List: list,
		}}})
		r.mesh.stats.receiptFramesSent.Add(1)
	}
	clear(n.out)
	n.due = time.Time{}
	delete(r.carriage.waiting, n)
}

// passAllLocked sends on everything that has been gathered.
func (r *Room) passAllLocked() {
	for n := range r.carriage.waiting {
		r.passLocked(n)
	}
}

// passDueLocked sends on what has been gathered long enough, forgets old envelopes, and returns
// when there is something to do next.
func (r *Room) passDueLocked(now time.Time) (due time.Time) {
	for n := range r.carriage.waiting {
		if !now.Before(n.due) {
			r.passLocked(n)
		} else {
			due = earlier(due, n.due)
		}
	}
	if now.Sub(r.carriage.swept) >= carryLife/4 {
		r.carriage.swept = now
		for tag, list := range r.carriage.byFeed {
			for range list {
				if list := r.carriage.byFeed[tag]; now.Sub(list[0].born) < carryLife {
					break
				}
				r.dropCarriedLocked(tag)
			}
		}
	}
	return due
}

// gathersLocked reports whether this node is one of an envelope's collectors.
func (r *Room) gathersLocked(n *carried) bool {
	return slices.Contains(n.collectors, hint(r.device[:]))
}

// hopLocked chooses the neighbour that a receipt goes to next; "" if there is none. from is the
// neighbour that it came from.
//
// The author's neighbours send to a collector. If they know none, they send to the neighbour whose
// key comes first in an order that the envelope's hash gives, which does the same; a node that
// comes first itself sends to the author. All others send back along the way that the envelope
// came.
func (r *Room) hopLocked(n *carried, from peer.ID) peer.ID {
	if r.neighbours[n.author] == nil {
		if n.via != from && r.neighbours[n.via] != nil {
			return n.via
		}
		for p := range r.neighbours { // in random order
			if p != from {
				return p
			}
		}
		return ""
	}
	if len(n.collectors) == 0 || r.gathersLocked(n) {
		return n.author
	}
	var collectors []peer.ID
	first, rank := n.author, n.rank(r.device[:])
	for p := range r.neighbours {
		s := r.roster.devices[p]
		if s == nil || p == from || p == n.author {
			continue
		}
		device := s.entry.statement.Device[:]
		if slices.Contains(n.collectors, hint(device)) {
			collectors = append(collectors, p)
		} else if k := n.rank(device); k < rank {
			first, rank = p, k
		}
	}
	if len(collectors) > 0 {
		slices.Sort(collectors)
		return collectors[binary.BigEndian.Uint32(r.device[:])%uint32(len(collectors))]
	}
	return first
}

// rank orders the devices, differently for each envelope.
func (n *carried) rank(device []byte) uint64 {
	sum := sha256.Sum256(append(n.hash[:], device...))
	return binary.BigEndian.Uint64(sum[:])
}

// hearReceipts takes receipts from a neighbour: of this node's own broadcasts, or to be passed on.
// A false signature is a breach of the protocol: every node that passes receipts on has verified
// them.
func (r *Room) hearReceipts(p peer.ID, q *wire.RoomFrame_Receipts) error {
	if len(q.Feed) != len(feedTag{}) || len(q.Envelope) != sha256.Size || q.Last == 0 || q.Last == math.MaxUint64 ||
		len(q.List) == 0 || len(q.List) > maxReceipts {
		return errBadReceipts
	}
	for _, receipt := range q.List {
		if len(receipt.Device) != len(identity.PublicKey{}) || len(receipt.Signature) != wire.SignatureSize {
			return errBadReceipts
		}
	}
	r.mesh.stats.receiptFramesTaken.Add(1)
	tag, hash := feedTag(q.Feed), [sha256.Size]byte(q.Envelope)
	wanted := r.wanted(p, tag, hash, q)
	if len(wanted) == 0 {
		return nil
	}
	body := receiptBody(r.tag, tag, q.Last, hash)
	for _, receipt := range wanted {
		if !wire.Check(wire.DomainReceipt, receipt.Device, body, receipt.Signature) {
			return wire.ErrSignature
		}
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if tag == r.own.tag() {
		r.confirmedLocked(now, hash, wanted)
		return nil
	}
	if n := r.carriage.byHash[hash]; n != nil && !r.leaving {
		for _, receipt := range wanted {
			r.forwardLocked(now, n, receipt, p)
		}
	}
	return nil
}

// wanted returns the receipts whose signatures are worth checking: each of a member, and not had
// before.
func (r *Room) wanted(p peer.ID, tag feedTag, hash [sha256.Size]byte, q *wire.RoomFrame_Receipts) (out []*wire.Receipt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.neighbours[p]
	if n == nil {
		return nil
	}
	want := func(*wire.Receipt) bool { return false }
	if tag == r.own.tag() {
		if s := r.confirms.sent[hash]; s != nil && s.last == q.Last {
			want = func(receipt *wire.Receipt) bool { return s.awaits(identity.PublicKey(receipt.Device)) }
		}
	} else if c := r.carriage.byHash[hash]; c != nil && c.tag == tag && c.last == q.Last {
		want = func(receipt *wire.Receipt) bool {
			_, passed := c.passed[hint(receipt.Device)]
			return !passed && len(c.passed) < maxReceipts && r.knowsLocked(receipt.Device)
		}
	} else if f := r.journal.feeds[tag]; c == nil && f != nil && q.Last >= f.next {
		n.keepEarly(hash, q)
	}
	had := make(map[deviceHint]struct{}, len(q.List))
	for _, receipt := range q.List {
		if _, twice := had[hint(receipt.Device)]; !twice && want(receipt) {
			had[hint(receipt.Device)] = struct{}{}
			out = append(out, receipt)
		}
	}
	return out
}

// knowsLocked reports whether a device is, or recently was, a member's.
func (r *Room) knowsLocked(device []byte) bool {
	pub, err := crypto.UnmarshalEd25519PublicKey(device)
	if err != nil {
		return false
	}
	id, err := peer.IDFromPublicKey(pub)
	s := r.roster.devices[id]
	return err == nil && s != nil && bytes.Equal(s.entry.statement.Device[:], device)
}

// collectorsLocked chooses the members that gather the receipts of the next envelope: the square
// root of the members, if more than closeRoom could send theirs to this node directly.
func (r *Room) collectorsLocked() (out [][]byte) {
	if len(r.neighbours) <= closeRoom {
		return nil
	}
	var members [][]byte
	for p := range r.neighbours {
		if s := r.roster.devices[p]; s != nil && s.present && s.suspected.IsZero() {
			members = append(members, s.entry.statement.Device[:len(deviceHint{})])
		}
	}
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	n := int(math.Ceil(math.Sqrt(float64(len(members)))))
	return members[:min(n, maxCollectors, len(members))]
}
