package mesh

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/internal/events"
	"github.com/starling-mesh/starling/internal/walltime"
)

// MaxMessage is the greatest size of a message, in bytes, and the default of [WithMaxMessage].
const MaxMessage = 64 << 10

// config is what the options of New record. Its defaults are in defaultConfig, its checks in
// validate; a test fails for a field that lacks one of them.
type config struct {
	log         *slog.Logger
	clock       walltime.Clock
	inbox       func(*DirectMessage, int) bool
	sendTimeout time.Duration
	grace       time.Duration
	large       int
	degree      int
	queue       QueueLimits
	maxMessage  int
	heartbeat   time.Duration
	retention   Retention
	rates       Rates
	pins        *identity.Pins
	authority   *identity.Authority // nil: open mode
	store       *Store              // nil: in memory
	linkDown    func() bool
	events      *events.Queue[Event] // nil: each room has a stream of its own
	keeper      OrderKeeper          // nil: orders in memory
}

func defaultConfig() config {
	return config{
		log:         slog.New(slog.DiscardHandler),
		inbox:       func(*DirectMessage, int) bool { return false },
		sendTimeout: 12 * time.Second,
		grace:       10 * time.Second,
		large:       500,
		degree:      MinMeshDegree,
		queue:       DefaultQueue,
		maxMessage:  MaxMessage,
		heartbeat:   time.Second,
		retention:   DefaultRetention,
		rates:       DefaultRates,
		pins:        identity.NewPins(),
		linkDown:    func() bool { return false },
	}
}

func (c *config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.log != nil, "no logger")
	check(c.inbox != nil, "no inbox function")
	check(c.sendTimeout > 0, "send timeout %v is not positive", c.sendTimeout)
	check(c.grace >= 0, "grace %v is negative", c.grace)
	check(c.large >= 2, "a large room of %d members is none", c.large)
	check(c.degree >= MinMeshDegree && c.degree <= MaxMeshDegree, "a mesh degree of %d is not in %d to %d", c.degree, MinMeshDegree, MaxMeshDegree)
	check(c.queue.Events > 0 && c.queue.Bytes >= c.maxMessage,
		"a queue of %d events and %d bytes does not hold one message of %d bytes", c.queue.Events, c.queue.Bytes, c.maxMessage)
	check(c.maxMessage > 0 && c.maxMessage <= MaxMessage, "a message limit of %d bytes is not in 1 to %d", c.maxMessage, MaxMessage)
	check(c.heartbeat >= 100*time.Millisecond, "heartbeat %v is under 100ms", c.heartbeat)
	check(c.pins != nil, "no pins")
	check(c.linkDown != nil, "no function that tells the state of the link")
	errs = append(errs, c.retention.validate(), checkRates(c.rates))
	return errors.Join(errs...)
}

// Option is a setting for the lifetime of a [Mesh].
type Option interface{ apply(*config) }

// Setting is an [Option] about rooms and messages alone. The other options connect a mesh to what
// is around it, which package node does by itself: node.WithMesh takes settings.
type Setting func(*config)

func (s Setting) apply(c *config) { s(c) }

// tie is an [Option] that is no [Setting].
type tie func(*config)

func (t tie) apply(c *config) { t(c) }

// Settings are the values that a [Mesh] works with. The options of the same names describe them.
type Settings struct {
	SendTimeout time.Duration
	Grace       time.Duration
	LargeRoom   int
	MeshDegree  int
	Queue       QueueLimits
	MaxMessage  int
	Heartbeat   time.Duration
	Retention   Retention
	Rates       Rates
}

// Settle returns the values that a mesh with these settings has: the defaults where none is given.
// If [New] would reject them, it returns that error.
func Settle(given ...Setting) (Settings, error) {
	c := defaultConfig()
	for _, s := range given {
		s.apply(&c)
	}
	return Settings{
		SendTimeout: c.sendTimeout, Grace: c.grace, LargeRoom: c.large, MeshDegree: c.degree,
		Queue: c.queue, MaxMessage: c.maxMessage, Heartbeat: c.heartbeat, Retention: c.retention, Rates: c.rates,
	}, c.validate()
}

// WithLogger sets where the mesh logs. The default discards everything. What a peer does wrong is
// logged at Debug, so that no peer can fill a disk.
func WithLogger(log *slog.Logger) Option { return tie(func(c *config) { c.log = log }) }

// WithClock sets the clock from which the mesh reads the time. Pass that of the mesh's Identity, so
// that both use the same. The default is the machine's clock. It is for tests of this module, which
// run nodes whose clocks are wrong; no other module can make a clock.
func WithClock(c walltime.Clock) Option { return tie(func(cfg *config) { cfg.clock = c }) }

// WithInbox sets the function that takes direct messages outside rooms, with their size in bytes.
// It reports whether it took the message; false refuses it to its sender as [QueueFull]. It is
// called from many goroutines, one message at a time for each sender and mode, and must not block.
// The default takes none.
func WithInbox(take func(msg *DirectMessage, size int) bool) Option {
	return tie(func(c *config) { c.inbox = take })
}

// WithSendTimeout sets how long a send to one user waits for its answer when its context has no
// deadline. The default is 12 s, the acknowledgement timeout that users of such services know. New
// rejects 0 and less.
func WithSendTimeout(d time.Duration) Setting { return func(c *config) { c.sendTimeout = d } }

// WithGrace sets how long a member that fell silent stays in the room before it counts as dropped.
// The grace begins when the connection to the member ends. On members that had no connection to it,
// it begins when another member accuses it, 1 to 2 s later (in large rooms up to 3.5 s, or 6 s with
// a grace of 20 s or more). The accused member has that time to answer. Use one value per app: a
// member that does not hear of its accusation within the shortest grace is dropped there although
// it is alive, and joins again when it answers. The default is 10 s. With less than a few seconds
// an accusation can drop living members for a moment; at 0 a member is dropped at once by each node
// that loses its connection to it. New rejects a negative value.
func WithGrace(d time.Duration) Setting { return func(c *config) { c.grace = d } }

// WithLargeRoom sets from how many members on, this node included, a room is large: see [RoomSize].
// The default is 500, as users of such services know. New rejects less than 2.
func WithLargeRoom(members int) Setting { return func(c *config) { c.large = members } }

// MinMeshDegree and MaxMeshDegree bound [WithMeshDegree]. MaxMeshDegree is GossipSub's own default.
const (
	MinMeshDegree = 3
	MaxMeshDegree = 6
)

// WithMeshDegree sets to how many neighbours a member passes on what it receives, in a room in
// which not all members are connected to each other: GossipSub's D. The default is [MinMeshDegree],
// which costs least; repair fetches what a thin topic mesh misses. With 4, what is published
// reaches the far end of a room of 200 in little more than half of the time, for 40 % more bytes;
// beyond 4 only the bytes grow (docs/design/013-large-rooms.md has the figures). It applies to all
// rooms of the node. New rejects values outside MinMeshDegree to MaxMeshDegree.
func WithMeshDegree(d int) Setting { return func(c *config) { c.degree = d } }

// WithQueue sets how many events, and how many bytes of payload, wait for the reader of a room.
// Beyond that, the oldest broadcasts are dropped (see [Lagged]) and direct messages are refused to
// their senders. See [QueueLimits] for the defaults. New rejects limits that do not hold one
// message.
func WithQueue(limits QueueLimits) Setting { return func(c *config) { c.queue = limits.filled() } }

// WithMaxMessage sets the greatest size of a message, in bytes, sent or received. The default, and
// the most that New accepts, is [MaxMessage]. All nodes of an app must have the same value.
func WithMaxMessage(n int) Setting { return func(c *config) { c.maxMessage = n } }

// WithRetention sets what a room keeps of its broadcasts for members that missed some. See
// [Retention] for the defaults. New rejects one that does not hold one envelope of 256 KiB, or is
// negative.
func WithRetention(r Retention) Setting { return func(c *config) { c.retention = r.filled() } }

// WithRates sets how much a sender may send in a second: [Rates]. A second of it may be sent at
// once after a silence. What is over a rate is refused at once, with a [*RateError] and no ID;
// calls that wait, and [WithWaiting], wait for the rate instead. What the library itself publishes
// in a room, such as entries and receipts, does not count as messages.
//
// Others are judged by the same rates. A member whose broadcasts exceed them is put out of the room
// here ([Evicted]), within 2 s, and its next stays are refused for a minute. Direct messages over
// the rate are refused ([RateExceeded]); if they go on, the stream is reset. Both go by when the
// sender says that it sent: messages that were held up, or that were fetched later, do not count as
// a burst. The totals of rooms are not enforced on others.
//
// All nodes of an app must have the same rates: a node with lower ones puts out others that keep to
// theirs. The default is [DefaultRates]. New rejects negative rates, and rates of bytes under
// [MinRateBytes] other than 0.
func WithRates(r Rates) Setting { return func(c *config) { c.rates = r } }

// WithHeartbeat sets the GossipSub heartbeat. The default is 1 s, as in the GossipSub v1.0
// specification. A shorter one repairs the topic mesh sooner and sends more control traffic. New
// rejects less than 100 ms.
func WithHeartbeat(d time.Duration) Setting { return func(c *config) { c.heartbeat = d } }

// WithPins sets the pins that say which key a name means, in rooms and outside them. Pass those of
// the mesh's Identity, so that both use the same. The default is pins in memory. In app mode, where
// a token proves the name, they are not used.
func WithPins(p *identity.Pins) Option { return tie(func(c *config) { c.pins = p }) }

// WithStore keeps what rooms retain also on disk, so that the next run goes on with it: see
// [Store]. One mesh at a time uses a store. The caller closes it, after the mesh. The default is
// nil: in memory alone.
func WithStore(s *Store) Option { return tie(func(c *config) { c.store = s }) }

// WithLink sets the function that reports whether this node's own link to other nodes is known to
// be down. Sends that fail meanwhile say so: see [ErrDisconnected]. It is called with locks held,
// so it must neither block nor call the mesh. By default the link is never known to be down.
func WithLink(down func() bool) Option { return tie(func(c *config) { c.linkDown = down }) }

// WithEvents makes the events of all rooms go to one queue, in place of a stream for each room, and
// lets [WithQueue] bound that alone. The end of a stay is an event there: see [RoomEnded]. It is
// for node.WithAllEvents; no other module can make a queue. The default is nil.
func WithEvents(q *events.Queue[Event]) Option { return tie(func(c *config) { c.events = q }) }

// WithAuthority sets the authority that checks room tokens: app mode. It must be of the app of the
// mesh's Identity. The default is nil, open mode, in which everybody may join every room.
func WithAuthority(a *identity.Authority) Option { return tie(func(c *config) { c.authority = a }) }

// SendOption is a setting of one send to one user.
type SendOption interface{ applySend(*sendConfig) }

// PublishOption is a setting of one broadcast.
type PublishOption interface{ applyPublish(*publishConfig) }

type sendConfig struct {
	kind Kind
	mode Mode
	wait bool
}

type publishConfig struct {
	kind Kind
	wait bool
}

// TextOption is what [AsText] returns. It is an option of both sends and broadcasts.
type TextOption struct{}

func (TextOption) applySend(c *sendConfig)       { c.kind = Text }
func (TextOption) applyPublish(c *publishConfig) { c.kind = Text }

// AsText marks a message as text. It must be valid UTF-8, or the call returns [ErrNotText].
func AsText() TextOption { return TextOption{} }

// WaitOption is what [WithWaiting] returns. It is an option of both sends and broadcasts.
type WaitOption struct{}

func (WaitOption) applySend(c *sendConfig)       { c.wait = true }
func (WaitOption) applyPublish(c *publishConfig) { c.wait = true }

// WithWaiting makes a call that would fail with [ErrQueueFull] or [ErrRateExceeded] wait instead,
// until its context ends: for programs that send as fast as the network takes it. The calls that
// wait for the result ([Mesh.Send], [Room.Send], [Room.Publish]) do so anyway.
func WithWaiting() WaitOption { return WaitOption{} }

// WithMode sets how hard a send to one user tries. The default is [Reliable].
func WithMode(m Mode) SendOption { return modeOption(m) }

type modeOption Mode

func (m modeOption) applySend(c *sendConfig) { c.mode = Mode(m) }
