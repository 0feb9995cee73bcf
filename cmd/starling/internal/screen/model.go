package screen

import (
	"cmp"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/node"
)

// occurrence is what the screen is brought: one of [told], [standing] and [leaving].
type occurrence interface{ occurs() }

func (told) occurs()     {}
func (standing) occurs() {}
func (leaving) occurs()  {}

// told is an event of the session.
type told struct{ event session.Event }

// leaving says that the session has begun to end.
type leaving struct{}

// happened brings occurrences to the screen, in their order.
type happened []occurrence

// tui is the chat as a screen: events and key presses go in, lines for the session and a picture
// come out. It starts no goroutine, asks nobody, and knows no clock but now.
type tui struct {
	send      func(session.Typed) bool // passes a line to the session; false: it can take no more now
	interrupt func()                   // what Ctrl-C means
	attend    func([]string)           // sets who is on the screen, as name#key, to be asked about
	stir      func(string)             // reports that there was news of one of them
	now       func() time.Time
	zone      *time.Location

	words *session.Wording // puts events into the words of the line chat
	me    session.Ready
	talks []*talk
	home  *talk           // shown when there is no other; not listed
	here  *talk           // shown
	enter map[string]bool // rooms of the command line that have not been entered yet
	clock int             // for talk.active
	peers map[peer.ID]node.Peer
	sent  map[int]sending // by line
	lines int             // passed to the session so far, as it counts them

	looked    []string            // who is on the screen, as passed to attend
	standings map[string]standing // whether they are online, by name#key

	expiring  map[string]time.Time // tokens that are about to expire, by room; "": of the log-in
	uncounted bool                 // others do not count the log-in, because of its token

	history  []string // typed lines, oldest first
	recalled int      // which of them is shown; len(history): none
	draft    string   // what was typed before going back
	complete completion

	width, height int
	cells         cells
	dark          bool
	theme         theme
	look          int // grows when entries must be drawn again
	closing       bool
}

// sending is a message without a result.
type sending struct {
	talk  *talk
	entry *entry
}

// maxHistory is how many typed lines can be gone back to.
const maxHistory = 500

func newTUI(send func(session.Typed) bool, interrupt func()) *tui {
	home := &talk{user: "starling"}
	return &tui{
		home: home, here: home, enter: make(map[string]bool),
		send: send, interrupt: interrupt, attend: func([]string) {}, stir: func(string) {}, now: time.Now, zone: time.Local,
		words: session.NewWording(), peers: make(map[peer.ID]node.Peer), sent: make(map[int]sending), standings: make(map[string]standing), expiring: make(map[string]time.Time),
		width: 80, height: 24, cells: cells{ansi.WcWidth}, dark: true, theme: newTheme(true),
	}
}

// Init asks whether the terminal is light or dark.
func (t *tui) Init() tea.Cmd { return tea.RequestBackgroundColor }

// Update takes what has happened.
func (t *tui) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	cmd := t.update(msg)
	t.lookAround()
	return t, cmd
}

func (t *tui) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case happened:
		for _, what := range msg {
			t.take(what)
		}
	case tea.WindowSizeMsg:
		t.width, t.height = msg.Width, msg.Height
	case tea.BackgroundColorMsg:
		if dark := msg.IsDark(); dark != t.dark {
			t.dark, t.theme = dark, newTheme(dark)
			t.look++
		}
	case tea.ModeReportMsg:
		// The renderer uses the same report: both must agree on how wide an emoji is.
		if msg.Mode == ansi.ModeUnicodeCore && (msg.Value == ansi.ModeReset || msg.Value == ansi.ModeSet || msg.Value == ansi.ModePermanentlySet) {
			t.cells.method = ansi.GraphemeWidth
			t.look++
		}
	case tea.PasteMsg:
		t.typed(msg.Content)
	case tea.KeyPressMsg:
		return t.press(msg)
	}
	return nil
}

// room returns the conversation of a room, or nil when the room is not open here.
func (t *tui) room(name string) *talk {
	for _, k := range t.talks {
		if k.room == name && name != "" {
			return k
		}
	}
	return nil
}

// openRoom is like room, but makes the conversation if there is none.
func (t *tui) openRoom(name string) *talk {
	if k := t.room(name); k != nil {
		return k
	}
	return t.open(&talk{room: name})
}

// open lists a conversation: rooms first, in the order entered, then users.
func (t *tui) open(k *talk) *talk {
	t.touch(k)
	at := len(t.talks)
	if !k.direct() {
		at = slices.IndexFunc(t.talks, (*talk).direct)
		if at < 0 {
			at = len(t.talks)
		}
	}
	t.talks = slices.Insert(t.talks, at, k)
	if t.here == t.home {
		t.show(k)
	}
	t.trim()
	return k
}

// trim closes the direct conversation that was quiet for longest when there are too many.
func (t *tui) trim() {
	var oldest *talk
	n := 0
	for _, k := range t.talks {
		if !k.direct() {
			continue
		}
		n++
		if k != t.here && (oldest == nil || k.active < oldest.active) {
			oldest = k
		}
	}
	if n > maxDirect && oldest != nil {
		t.drop(oldest)
	}
}

// drop takes a conversation off the list. If it was shown, the one that was active last takes its
// place.
func (t *tui) drop(k *talk) {
	t.talks = slices.DeleteFunc(t.talks, func(o *talk) bool { return o == k })
	if t.here != k {
		return
	}
	if len(t.talks) == 0 {
		t.show(t.home)
		return
	}
	t.show(slices.MaxFunc(t.talks, func(a, b *talk) int { return cmp.Compare(a.active, b.active) }))
}

func (t *tui) touch(k *talk) {
	t.clock++
	k.active = t.clock
}

// show brings a conversation to the middle of the screen.
func (t *tui) show(k *talk) {
	t.here = k
	t.touch(k)
	k.unread, k.below, k.failed = 0, 0, false
	k.up = 0
	t.complete = completion{}
	t.recalled, t.draft = len(t.history), ""
}

// step shows the next conversation of the list, or the one before.
func (t *tui) step(by int) {
	if i := slices.Index(t.talks, t.here); i >= 0 {
		t.show(t.talks[(i+by+len(t.talks))%len(t.talks)])
	}
}

// add puts an entry into a conversation, and counts what is not seen.
func (t *tui) add(k *talk, e *entry) {
	if e.at.IsZero() {
		e.at = t.now()
	}
	k.add(e)
	if e.from != "" {
		t.touch(k)
	}
	heard := e.from != "" && !e.self
	if k == t.here {
		if k.up > 0 {
			k.up += len(t.draw(e, t.middle()))
			k.below++
		}
		return
	}
	if heard {
		k.unread++
	}
}

// tell shows the chat's own words in a conversation; if k is nil, in the one that is shown.
func (t *tui) tell(k *talk, said session.Line) {
	if k == nil {
		k = t.here
	}
	if said.Text == "" {
		return
	}
	t.add(k, &entry{text: strings.TrimRight(said.Text, "\n"), alarm: said.Tone == session.Warning})
}

// connected reports whether there is a connection to a user's node.
func (t *tui) connected(l identity.Login) bool {
	if l.Peer != "" {
		_, up := t.peers[l.Peer]
		return up
	}
	for _, p := range t.peers {
		if p.User == l.User && p.Key == l.Key {
			return true
		}
	}
	return false
}
