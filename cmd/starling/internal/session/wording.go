package session

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// Tone is what kind of line the chat says.
type Tone uint8

const (
	Speech  Tone = iota // what somebody says, or what was asked for
	Aside               // the result of what was typed
	Novelty             // what has happened
	Warning             // what the user should look at
)

// Line is what the chat says of an event. The zero value says nothing. The text may go on over
// several lines.
type Line struct {
	Tone Tone
	Text string
}

func plainly(format string, args ...any) Line { return Line{Speech, fmt.Sprintf(format, args...)} }
func news(format string, args ...any) Line    { return Line{Novelty, fmt.Sprintf(format, args...)} }

// Note returns an aside, in the words of [fmt.Sprintf].
func Note(format string, args ...any) Line { return Line{Aside, fmt.Sprintf(format, args...)} }

// Alarm returns a warning, in the words of [fmt.Sprintf].
func Alarm(format string, args ...any) Line { return Line{Warning, fmt.Sprintf(format, args...)} }

// String returns the line as the line chat prints it: its first two characters show its tone, and
// what follows below is as far to the right.
func (l Line) String() string {
	if l.Tone == Speech {
		return l.Text
	}
	return map[Tone]string{Aside: "  ", Novelty: "* ", Warning: "! "}[l.Tone] + strings.ReplaceAll(l.Text, "\n", "\n  ")
}

// Wording puts events into words, and remembers what it needs to do so: who is called what, and
// what has been said already. It has no lock.
type Wording struct {
	rooms   int // entered: with more than one, each line names its room
	me      identity.Login
	vouched bool // in app mode a name is one user, whatever the key
	// keys has the key that each name alone stands for: the pinned one, or the first seen; zero:
	// none.
	keys   map[string]identity.PublicKey
	were   map[string]bool  // members who were in a room before us, as room/key
	addrs  map[string]bool  // reported already
	missed map[peer.ID]bool // given by --peer, and not connected
	Now    func() time.Time
	Zone   *time.Location
}

func NewWording() *Wording {
	return &Wording{
		keys: make(map[string]identity.PublicKey), were: make(map[string]bool), addrs: make(map[string]bool),
		missed: make(map[peer.ID]bool), Now: time.Now, Zone: time.Local,
	}
}

// Say puts an event into words. The line is empty if people need not see the event.
func (w *Wording) Say(event Event) Line {
	switch ev := event.(type) {
	case Heard:
		return w.heard(ev.Event)
	case Ready:
		return w.ready(ev)
	case Entered:
		return w.entered(ev)
	case Exited:
		w.rooms--
		return news("you have left %s", ev.Room)
	case Sent:
		if !ev.Pinned.IsZero() {
			w.Means(NameAlone(ev.To), ev.Pinned)
		}
		return Note("%s", ev)
	case Who:
		return w.who(ev)
	case Ordered:
		return w.ordered(ev)
	case Status:
		return w.status(ev)
	case Help:
		return Line{Text: strings.Join(ev.Lines, "\n")}
	case Waiting:
		return Note("waiting for the results of %s; Ctrl-C ends it", prose.Count(ev.Messages, "message"))
	case Trouble:
		return Alarm("%s", prose.SafeAside(ev.Detail))
	case Bye:
		return w.bye(ev)
	case Renewed:
		what := "your log-in"
		if ev.Room != "" {
			what = ev.Room
		}
		return news("a newer token for %s is in use, until %s", what, w.clock(ev.Expires))
	}
	return Line{}
}

// heard puts an event of the mesh into words.
func (w *Wording) heard(event mesh.Event) Line {
	switch ev := event.(type) {
	case *mesh.Message:
		return plainly("%s%s: %s", w.inRoom(ev.Room), w.Name(ev.From), Payload(ev.Kind, ev.Data))
	case *mesh.DirectMessage:
		room := w.inRoom(ev.Room)
		if ev.Room == "" {
			room = "[no room] "
		}
		return plainly("%s%s to you: %s", room, w.Name(ev.From), Payload(ev.Kind, ev.Data))
	case *mesh.MemberJoined:
		return w.member(ev)
	case *mesh.MemberLeft:
		return news("%s %s %s", w.Name(ev.Member.Login), leftWords(ev.Reason), ev.Room)
	case *mesh.MemberSilent:
		return news("%s does not answer in %s", w.Name(ev.Member.Login), ev.Room)
	case *mesh.MemberHeard:
		return news("%s answers again in %s", w.Name(ev.Member.Login), ev.Room)
	case *mesh.JoinDelayed:
		return Alarm("no member of %s has answered for 5 s", ev.Room)
	case *mesh.RoomReady:
		if ev.Join == mesh.Rejoin {
			return news("you are connected to %s again, after %s", ev.Room, ev.Elapsed.Round(time.Second/10))
		}
	case *mesh.RoomSize:
		if ev.Large {
			return news("%s has %s: who joins and leaves is no longer shown", ev.Room, prose.Count(ev.Members, "member"))
		}
		return news("%s has %s: who joins and leaves is shown again", ev.Room, prose.Count(ev.Members, "member"))
	case *mesh.GapLost:
		return Alarm("%s of %s in %s could not be recovered",
			prose.Count(int(ev.Last-ev.First+1), "message"), w.Name(ev.From), ev.Room)
	case *mesh.Lagged:
		return Alarm("%s in %s went by unseen: this terminal was too slow", prose.Count(ev.Missed, "message"), ev.Room)
	case *node.PeerFailed:
		w.missed[ev.Peer] = true
		return failedWords(ev)
	case *node.PeerUp:
		if !w.missed[ev.Peer.Peer] {
			return Line{}
		}
		delete(w.missed, ev.Peer.Peer)
		return news("connected to --peer %s: it is %s", ev.Peer.Peer, cmp.Or(w.Name(ev.Peer.Login), "nobody yet"))
	case *node.IdentityConflict:
		w.Means(ev.User, ev.Pinned)
		return w.conflict(ev)
	case *node.DuplicateDevice:
		return Alarm("two nodes run with one device key (%s): a data directory was copied. They cut each other off; give one of them\n"+
			"another directory, and carry the user over with \"starling id export\".", ev.Peer)
	case *node.SettingDiffers:
		return Alarm("the node %s has the setting %s at %s, and this one at %s: all nodes of an app need the same.",
			ev.Peer, ev.Setting, prose.SafeAside(ev.Theirs), ev.Ours)
	case *mesh.TokenExpiring:
		what := "log-in"
		if ev.Room != "" {
			what = "stay in " + ev.Room
		}
		return Alarm("your token ends at %s, and your %s with it", w.clock(ev.Expires), what)
	case *node.TokenEnded:
		return Alarm("others no longer count your log-in. Your token: %s", prose.SafeAside(ev.Reason))
	case *node.AddrsChanged:
		return w.addresses(shareable(ev.Addrs))
	case *node.ConnectionChanged:
		return connectionWords(ev.State)
	case *node.LoggedOut:
		if ev.Reason == node.Replaced && ev.By != nil {
			return Alarm("%s has logged in on another device (%s): this one is out.", ev.User, ev.By.Peer)
		}
	}
	return Line{}
}

// connectionWords says what a state of the node's own connection means for who types.
func connectionWords(s node.ConnectionState) Line {
	switch s {
	case node.Disconnected:
		return Alarm("the connection to the others is lost; looking for them again")
	case node.Lost:
		return Alarm("still no connection: the others show you as gone by now")
	case node.Failed:
		return Alarm("there is no usable network; waiting for one")
	case node.Reconnected:
		return news("connected again")
	}
	return Line{} // the usual
}

// conflict says who has a name, and to which of them the name alone goes.
func (w *Wording) conflict(ev *node.IdentityConflict) Line {
	switch other := ev.Other.Address(); {
	case ev.User == w.me.User:
		return Alarm("somebody else is called %s, as you are, with the key %s: /msg %s TEXT goes there.\n"+
			"Others tell you apart by your key, %s.", ev.User, ev.Other.Key.Fingerprint(), other, w.me.Key.Fingerprint())
	case !ev.Pinned.IsZero():
		return Alarm("somebody else is called %s too, with the key %s. /msg %s goes to the key that you know (%s), and\n"+
			"/msg %s to the other one.", ev.User, ev.Other.Key.Fingerprint(), ev.User, ev.Pinned.Fingerprint(), other)
	case ev.Rival == nil:
		return Line{}
	default:
		return Alarm("two users are called %s, and the name alone means neither of them while both are here: write to one of them with\n"+
			"/msg %s TEXT or\n/msg %s TEXT", ev.User, ev.Rival.Address(), other)
	}
}

// failedWords says why a --peer is not connected, and what to do about it.
func failedWords(ev *node.PeerFailed) Line {
	at := "--peer " + strings.Join(ev.Addrs, "\n--peer ")
	switch ev.Reason {
	case node.NobodyThere:
		return Alarm("nobody answers (%s); still trying:\n%s", prose.SafeAside(ev.Detail), at)
	case node.OtherPeer:
		return Alarm("another peer is at this address (%s). Ask for the right one:\n%s", prose.SafeAside(ev.Detail), at)
	case node.OtherApp:
		return Alarm("that is a node of another app: both sides need the same --app, and the same --issuers if there are any:\n%s", at)
	case node.ItIsUs:
		return Alarm("this address is your own:\n%s", at)
	}
	return Alarm("cannot talk to this peer: %s. Still trying:\n%s", prose.SafeAside(ev.Detail), at)
}

// inRoom returns the prefix of what happens in a room, once there is more than one.
func (w *Wording) inRoom(room string) string {
	if w.rooms < 2 {
		return ""
	}
	return "[" + room + "] "
}

func (w *Wording) ready(ev Ready) Line {
	w.me, w.vouched = ev.Login, ev.Vouched
	w.keys[ev.User] = ev.Key
	var b strings.Builder
	fmt.Fprintf(&b, "You are %s, key %s, peer %s.\n", ev.User, ev.Key.Fingerprint(), ev.Peer)
	if ev.Data == "" {
		b.WriteString("The key is in memory only: the next start is somebody new to the others.\n")
	}
	how := "Others start with one of"
	if ev.MDNS {
		how = "Others on this network find you by themselves; from elsewhere they start with one of"
	}
	b.WriteString(how + "\n")
	for _, a := range ev.Addrs {
		fmt.Fprintf(&b, "  --peer %s\n", a)
		w.addrs[a] = true
	}
	b.WriteString("What you type goes to the room; /help lists the rest; Ctrl-C leaves.")
	return Line{Text: b.String()}
}

// addresses reports addresses that have not been reported before.
func (w *Wording) addresses(addrs []string) Line {
	var fresh []string
	for _, a := range addrs {
		if !w.addrs[a] {
			w.addrs[a] = true
			fresh = append(fresh, "--peer "+a)
		}
	}
	if len(fresh) == 0 {
		return Line{}
	}
	return news("you can also be reached with %s", strings.Join(fresh, "\n"))
}

// shareable returns the addresses to give to others: loopback addresses only if there are no
// others.
func shareable(addrs []string) []string {
	var far []string
	for _, s := range addrs {
		if a, err := ma.NewMultiaddr(s); err == nil && !manet.IsIPLoopback(a) {
			far = append(far, s)
		}
	}
	if len(far) == 0 {
		return append([]string{}, addrs...)
	}
	return far
}

func (w *Wording) entered(ev Entered) Line {
	w.rooms++
	var others []identity.Login
	for _, m := range ev.Members {
		others = append(others, m.Login)
		w.were[ev.Room+"/"+m.Key.String()] = true
	}
	return news("you are in %s, with %s", ev.Room, w.names(others))
}

// member skips members that were named on entering.
func (w *Wording) member(ev *mesh.MemberJoined) Line {
	key := ev.Room + "/" + ev.Member.Key.String()
	if w.were[key] {
		delete(w.were, key)
		return Line{}
	}
	as := ""
	if role := PlainRole(ev.Member.Role); role != "" {
		as = " as " + prose.SafeAside(role)
	}
	return news("%s has joined %s%s", w.Name(ev.Member.Login), ev.Room, as)
}

// PlainRole returns a role if it is worth showing. The role that everybody has is not.
func PlainRole(role string) string {
	if role == "member" {
		return ""
	}
	return role
}

// clock writes a time of day, and the date if it is not today.
func (w *Wording) clock(at time.Time) string {
	at, now := at.In(w.Zone), w.Now().In(w.Zone)
	if at.YearDay() != now.YearDay() || at.Year() != now.Year() {
		return at.Format("15:04 on 2 January 2006")
	}
	return at.Format(time.TimeOnly)
}

func leftWords(r mesh.LeaveReason) string {
	switch r {
	case mesh.Quit:
		return "has left"
	case mesh.Dropped:
		return "is gone (connection lost) from"
	case mesh.Evicted:
		return "broke the rules, and was removed from"
	case mesh.Kicked:
		return "was put out of"
	}
	return fmt.Sprintf("is out (%s) of", r)
}

func (w *Wording) who(ev Who) Line {
	var b strings.Builder
	if ev.Room != "" {
		var members []identity.Login
		for _, m := range ev.Members {
			members = append(members, m.Login)
		}
		fmt.Fprintf(&b, "in %s, with you: %s\n", ev.Room, w.names(members))
	}
	fmt.Fprintf(&b, "online: %s", w.names(ev.Online))
	return Note("%s", &b)
}

func (w *Wording) bye(ev Bye) Line {
	switch ev.Reason {
	case ByeReplaced:
		return plainly("Bye. The chat goes on where you logged in last.")
	case ByeFailed:
		return Line{}
	}
	return plainly("Bye.")
}
