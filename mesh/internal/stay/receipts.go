package stay

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/wire"
)

const (
	// MaxPolled is how many members, this one included, a room may have for a confirmed broadcast.
	MaxPolled = 256
	// MaxReceipts bounds the receipts in one frame: those of the largest room that confirms.
	MaxReceipts = MaxPolled
	// maxCollectors bounds how many members gather receipts. It is the square root of MaxPolled, so
	// that a collector gathers from as many members as there are collectors.
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
	// MaxEarly bounds the receipts from one neighbour that wait for their envelope to come: as many
	// as that neighbour has envelopes under way that this node gathers receipts for.
	MaxEarly = 64
	// MaxAsks is how often an author asks again for receipts of one envelope.
	MaxAsks = 2
)

// ErrBadReceipts reports a malformed frame of receipts.
var ErrBadReceipts = errors.New("malformed receipts")

// deviceHint names a device among the members of one room: the beginning of its key.
type deviceHint [8]byte

func hint(device []byte) deviceHint { return deviceHint(device[:len(deviceHint{})]) }

// ReceiptBody is what a receipt signs.
func ReceiptBody(room [32]byte, feed FeedTag, last uint64, envelope [sha256.Size]byte) []byte {
	body := make([]byte, 0, len(room)+len(feed)+8+len(envelope))
	body = append(append(body, room[:]...), feed[:]...)
	body = binary.BigEndian.AppendUint64(body, last)
	return append(body, envelope[:]...)
}

// carried is an envelope whose author wants receipts: this node's own receipt, and those that it
// passes on.
type carried struct {
	tag        FeedTag
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
	out        []bundle
	due        time.Time // when out is sent
}

// bundle is receipts that wait to go to a neighbour together.
type bundle struct {
	to   peer.ID
	list []*wire.Receipt
}

// bundle returns what waits to go to a neighbour.
func (n *carried) bundle(to peer.ID) *bundle {
	i := slices.IndexFunc(n.out, func(b bundle) bool { return b.to == to })
	if i < 0 {
		i = len(n.out)
		n.out = append(n.out, bundle{to: to})
	}
	return &n.out[i]
}

// early holds receipts that have overtaken their envelope.
type early struct {
	hash   [sha256.Size]byte
	frame  *wire.RoomFrame_Receipts
	number int
}

// keepEarly adds a frame, and drops the oldest ones if there are too many.
func (n *neighbour) keepEarly(hash [sha256.Size]byte, q *wire.RoomFrame_Receipts) {
	if len(q.List) > MaxEarly {
		return
	}
	n.early = append(n.early, early{hash, q, len(q.List)})
	sum := 0
	for i := len(n.early) - 1; i >= 0; i-- {
		if sum += n.early[i].number; sum > MaxEarly {
			n.early = slices.Delete(n.early, 0, i+1)
			return
		}
	}
}

// takeEarly takes the receipts that have overtaken an envelope that has just come.
func (st *Stay) takeEarly(hash [sha256.Size]byte) {
	for _, p := range st.order {
		n := st.neighbours[p]
		n.early = slices.DeleteFunc(n.early, func(e early) bool {
			if e.hash != hash {
				return false
			}
			st.world.Rehear(p, e.frame)
			return true
		})
	}
}

// relays holds the receipts that a room passes on.
type relays struct {
	byHash  map[[sha256.Size]byte]*carried
	byFeed  map[FeedTag][]*carried // oldest first
	waiting set[*carried]          // with something in out
	swept   time.Time              // when old envelopes were last looked for
}

func (c *relays) init() {
	c.byHash = make(map[[sha256.Size]byte]*carried)
	c.byFeed = make(map[FeedTag][]*carried)
}

// carry notes an envelope whose author wants receipts.
func (st *Stay) carry(now time.Time, f *Feed, e *Envelope) {
	c := &st.relays
	if c.byHash[e.hash] != nil || len(e.Receipts.Collectors) > maxCollectors || f.broken {
		return
	}
	n := &carried{
		tag: f.tag, author: f.peer(), last: e.last(), hash: e.hash, born: now, via: e.via, collectors: hints(e.Receipts.Collectors),
		passed: make(map[deviceHint]struct{}),
	}
	c.byHash[e.hash] = n
	st.takeEarly(e.hash)
	c.byFeed[f.tag] = append(c.byFeed[f.tag], n)
	if len(c.byFeed[f.tag]) > maxCarriedOfFeed {
		st.dropCarried(f.tag)
	} else if len(c.byHash) > maxCarried {
		most := f.tag
		for tag, list := range c.byFeed {
			if len(list) > len(c.byFeed[most]) {
				most = tag
			}
		}
		st.dropCarried(most)
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

// dropCarried drops a feed's oldest envelope.
func (st *Stay) dropCarried(tag FeedTag) {
	c := &st.relays
	list := c.byFeed[tag]
	n := list[0]
	list[0] = nil
	if c.byFeed[tag] = list[1:]; len(list) == 1 {
		delete(c.byFeed, tag)
	}
	delete(c.byHash, n.hash)
	st.pass(n)
}

// confirm signs this node's receipt of an envelope that has just been delivered whole, and sends it
// off.
func (st *Stay) confirm(now time.Time, e *Envelope) {
	n := st.relays.byHash[e.hash]
	if n == nil || n.own != nil {
		return
	}
	n.own = &wire.Receipt{
		Device:    st.device[:],
		Signature: wire.Sign(wire.DomainReceipt, st.Key, ReceiptBody(st.Tag, n.tag, n.last, n.hash)),
	}
	st.forward(now, n, n.own, "")
}

// asked takes an author's question for receipts that have not come. The receipts asked for are sent
// again, and by another way too if the author is not a neighbour: a node on the first way may keep
// them back.
func (st *Stay) asked(now time.Time, f *Feed, e *Envelope, payload []byte) {
	var ask wire.ReceiptAsk
	if proto.Unmarshal(payload, &ask) != nil || len(ask.Envelope) != sha256.Size ||
		len(ask.Missing) > MaxPolled || len(ask.Collectors) > maxCollectors {
		return
	}
	n := st.relays.byHash[[sha256.Size]byte(ask.Envelope)]
	if n == nil || n.tag != f.tag || n.asks >= MaxAsks {
		return
	}
	n.asks++
	n.few = len(ask.Missing) <= closeRoom
	n.via, n.collectors = e.via, hints(ask.Collectors)
	missing := hints(ask.Missing)
	for _, h := range missing {
		delete(n.passed, h)
	}
	if n.own == nil || !slices.Contains(missing, hint(st.device[:])) {
		return
	}
	st.forward(now, n, n.own, "")
	if st.neighbours[n.author] != nil {
		return
	}
	others := n.asks
	for p := range st.shuffled() {
		used := slices.ContainsFunc(n.out, func(b bundle) bool { return b.to == p })
		if !used && p != n.via && others > 0 {
			others--
			st.queue(now, n, n.own, p)
		}
	}
}

// forward sends a receipt one step nearer to the author, unless it has done so before.
func (st *Stay) forward(now time.Time, n *carried, receipt *wire.Receipt, from peer.ID) {
	if _, again := n.passed[hint(receipt.Device)]; again {
		return
	}
	n.passed[hint(receipt.Device)] = struct{}{}
	if to := st.hop(n, from); to != "" {
		st.queue(now, n, receipt, to)
	}
}

// queue adds a receipt to those that wait to go to a neighbour together.
func (st *Stay) queue(now time.Time, n *carried, receipt *wire.Receipt, to peer.ID) {
	out := n.bundle(to)
	out.list = append(out.list, receipt)
	delay := relayDelay
	switch {
	case st.roster.present <= closeRoom:
		delay = 0
	case to == n.author && !st.gathers(n) && len(n.collectors) == 0 && n.few:
		delay = 0
	case to == n.author:
		delay = gatherDelay
	case st.neighbours[n.author] != nil:
		delay = 0 // a collector waits for it
	}
	if delay == 0 || len(out.list) >= MaxReceipts {
		st.pass(n)
		return
	}
	if n.due.IsZero() {
		n.due = now.Add(delay)
		st.relays.waiting.add(n)
		st.world.Wake(ForTimer)
	}
}

// pass sends on what has been gathered of an envelope's receipts.
func (st *Stay) pass(n *carried) {
	for _, b := range n.out {
		st.send(b.to, &wire.RoomFrame{Room: st.Tag[:], Body: &wire.RoomFrame_Receipts_{Receipts: &wire.RoomFrame_Receipts{
			Feed: n.tag[:], Last: n.last, Envelope: n.hash[:], List: b.list,
		}}})
		st.world.Count(CountReceiptFramesSent, 1)
	}
	clear(n.out)
	n.out = n.out[:0]
	n.due = time.Time{}
	st.relays.waiting.remove(n)
}

// passAll sends on everything that has been gathered.
func (st *Stay) passAll() {
	for n := range st.relays.waiting.all() {
		st.pass(n)
	}
}

// passDue sends on what has been gathered long enough, forgets old envelopes, and returns when
// there is something to do next.
func (st *Stay) passDue(now time.Time) (due time.Time) {
	for n := range st.relays.waiting.all() {
		if !now.Before(n.due) {
			st.pass(n)
		} else {
			due = earlier(due, n.due)
		}
	}
	if now.Sub(st.relays.swept) >= carryLife/4 {
		st.relays.swept = now
		for tag, list := range st.relays.byFeed {
			for range list {
				if list := st.relays.byFeed[tag]; now.Sub(list[0].born) < carryLife {
					break
				}
				st.dropCarried(tag)
			}
		}
	}
	return due
}

// gathers reports whether this node is one of an envelope's collectors.
func (st *Stay) gathers(n *carried) bool {
	return slices.Contains(n.collectors, hint(st.device[:]))
}

// hop chooses the neighbour that a receipt goes to next; "" if there is none. from is the neighbour
// that it came from.
//
// The author's neighbours send to a collector. If they know none, they send to the neighbour whose
// key comes first in an order that the envelope's hash gives, which does the same; a node that
// comes first itself sends to the author. All others send back along the way that the envelope
// came.
func (st *Stay) hop(n *carried, from peer.ID) peer.ID {
	if st.neighbours[n.author] == nil {
		if n.via != from && st.neighbours[n.via] != nil {
			return n.via
		}
		for p := range st.shuffled() {
			if p != from {
				return p
			}
		}
		return ""
	}
	if len(n.collectors) == 0 || st.gathers(n) {
		return n.author
	}
	var collectors []peer.ID
	first, rank := n.author, n.rank(st.device[:])
	for _, p := range st.order {
		s := st.roster.devices[p]
		if s == nil || p == from || p == n.author {
			continue
		}
		device := s.entry.Statement.Device[:]
		if slices.Contains(n.collectors, hint(device)) {
			collectors = append(collectors, p)
		} else if k := n.rank(device); k < rank {
			first, rank = p, k
		}
	}
	if len(collectors) > 0 {
		slices.Sort(collectors)
		return collectors[binary.BigEndian.Uint32(st.device[:])%uint32(len(collectors))]
	}
	return first
}

// rank orders the devices, differently for each envelope.
func (n *carried) rank(device []byte) uint64 {
	sum := sha256.Sum256(append(n.hash[:], device...))
	return binary.BigEndian.Uint64(sum[:])
}

// CheckReceipts returns an error for a frame that is malformed, which is a breach of the protocol.
func CheckReceipts(q *wire.RoomFrame_Receipts) error {
	if len(q.Feed) != len(FeedTag{}) || len(q.Envelope) != sha256.Size || q.Last == 0 || q.Last == math.MaxUint64 ||
		len(q.List) == 0 || len(q.List) > MaxReceipts {
		return ErrBadReceipts
	}
	for _, receipt := range q.List {
		if len(receipt.Device) != len(identity.PublicKey{}) || len(receipt.Signature) != wire.SignatureSize {
			return ErrBadReceipts
		}
	}
	return nil
}

// CheckSignatures verifies some of the receipts of a frame. A false signature is a breach of the
// protocol: every node that passes receipts on has verified them.
func CheckSignatures(room [32]byte, q *wire.RoomFrame_Receipts, some []*wire.Receipt) error {
	body := ReceiptBody(room, FeedTag(q.Feed), q.Last, [sha256.Size]byte(q.Envelope))
	for _, receipt := range some {
		if !wire.Check(wire.DomainReceipt, receipt.Device, body, receipt.Signature) {
			return wire.ErrSignature
		}
	}
	return nil
}

// HearReceipts takes those receipts of a neighbour's frame that [Stay.Wanted] returned, once they
// are verified: of this node's own broadcasts, or to be passed on.
func (st *Stay) HearReceipts(now time.Time, p peer.ID, q *wire.RoomFrame_Receipts, wanted []*wire.Receipt) {
	hash := [sha256.Size]byte(q.Envelope)
	if FeedTag(q.Feed) == st.own.Tag() {
		st.confirmed(now, hash, wanted)
	} else if n := st.relays.byHash[hash]; n != nil && !st.leaving {
		for _, receipt := range wanted {
			st.forward(now, n, receipt, p)
		}
	}
}

// Wanted returns the receipts of a checked frame whose signatures are worth checking: each of a
// member, and not had before.
func (st *Stay) Wanted(p peer.ID, q *wire.RoomFrame_Receipts) (out []*wire.Receipt) {
	tag, hash := FeedTag(q.Feed), [sha256.Size]byte(q.Envelope)
	n := st.neighbours[p]
	if n == nil {
		return nil
	}
	want := func(*wire.Receipt) bool { return false }
	if tag == st.own.Tag() {
		if s := st.confirms.sent[hash]; s != nil && s.last == q.Last {
			want = func(receipt *wire.Receipt) bool { return s.awaits(identity.PublicKey(receipt.Device)) }
		}
	} else if c := st.relays.byHash[hash]; c != nil && c.tag == tag && c.last == q.Last {
		want = func(receipt *wire.Receipt) bool {
			_, passed := c.passed[hint(receipt.Device)]
			return !passed && len(c.passed) < MaxReceipts && st.knows(receipt.Device)
		}
	} else if f := st.journal.feeds[tag]; c == nil && f != nil && q.Last >= f.next {
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

// knows reports whether a device is, or recently was, a member's.
func (st *Stay) knows(device []byte) bool {
	pub, err := crypto.UnmarshalEd25519PublicKey(device)
	if err != nil {
		return false
	}
	id, err := peer.IDFromPublicKey(pub)
	s := st.roster.devices[id]
	return err == nil && s != nil && bytes.Equal(s.entry.Statement.Device[:], device)
}

// collectors chooses the members that gather the receipts of the next envelope: the square root of
// the members, if more than closeRoom could send theirs to this node directly.
func (st *Stay) collectors() (out [][]byte) {
	if len(st.neighbours) <= closeRoom {
		return nil
	}
	var members [][]byte
	for _, p := range st.order {
		if s := st.roster.devices[p]; s != nil && s.present && s.suspected.IsZero() {
			members = append(members, s.entry.Statement.Device[:len(deviceHint{})])
		}
	}
	st.Rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	n := int(math.Ceil(math.Sqrt(float64(len(members)))))
	return members[:min(n, maxCollectors, len(members))]
}
