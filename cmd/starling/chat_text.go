package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

// textLocked puts an event into words, or returns "" if people need not see it.
func (v *textView) textLocked(event any) string {
	switch ev := event.(type) {
	case ready:
		return v.readyLocked(ev)
	case entered:
		return v.enteredLocked(ev)
	case exited:
		v.rooms--
		return "* you have left " + ev.Room
	case sent:
		if !ev.pinned.IsZero() {
			v.meansLocked(nameAlone(ev.To), ev.pinned)
		}
		return "  " + ev.String()
	case who:
		return v.whoLocked(ev)
	case status:
		return v.statusLocked(ev)
	case help:
		return strings.Join(ev.Lines, "\n")
	case waiting:
		return fmt.Sprintf("  waiting for the results of %s; Ctrl-C ends it", count(ev.Messages, "message"))
	case trouble:
		return "! " + safeText(ev.Detail)
	case bye:
		return v.byeLocked(ev)
	case *mesh.Message:
		return fmt.Sprintf("%s%s: %s", v.roomLocked(ev.Room), v.nameLocked(ev.From), payload(ev.Kind, ev.Data))
	case *mesh.DirectMessage:
		room := v.roomLocked(ev.Room)
		if ev.Room == "" {
			room = "[no room] "
		}
		return fmt.Sprintf("%s%s to you: %s", room, v.nameLocked(ev.From), payload(ev.Kind, ev.Data))
	case *mesh.MemberJoined:
		return v.memberLocked(ev)
	case *mesh.MemberLeft:
		return fmt.Sprintf("* %s %s %s", v.nameLocked(ev.Member.Login), leftWords(ev.Reason), ev.Room)
	case *mesh.RoomSize:
		if ev.Large {
			return fmt.Sprintf("* %s has %s: who joins and leaves is not told any more", ev.Room, count(ev.Members, "member"))
		}
		return fmt.Sprintf("* %s has %s: who joins and leaves is told again", ev.Room, count(ev.Members, "member"))
	case *mesh.GapLost:
		return fmt.Sprintf("! %s of %s in %s could not be recovered",
			count(int(ev.Last-ev.First+1), "message"), v.nameLocked(ev.From), ev.Room)
	case *mesh.Lagged:
		return fmt.Sprintf("! %s in %s went by unseen: this terminal was too slow", count(ev.Missed, "message"), ev.Room)
	case *node.PeerFailed:
		v.missed[ev.Peer] = true
		return failedWords(ev)
	case *node.PeerUp:
		if !v.missed[ev.Peer.Peer] {
			return ""
		}
		delete(v.missed, ev.Peer.Peer)
		return fmt.Sprintf("* connected to --peer %s: it is %s", ev.Peer.Peer, cmp.Or(v.nameLocked(ev.Peer.Login), "nobody yet"))
	case *node.IdentityConflict:
		v.meansLocked(ev.User, ev.Pinned)
		return v.conflictLocked(ev)
	case *node.DuplicateDevice:
		return fmt.Sprintf("! two nodes run with one device key (%s): a data directory was copied. They cut each other off; give one of them\n"+
			"  another directory, and carry the user over with \"starling id export\".", ev.Peer)
	case *mesh.TokenExpiring:
		what := "log-in"
		if ev.Room != "" {
			what = "stay in " + ev.Room
		}
		return fmt.Sprintf("! your token ends at %s, and your %s with it", v.clock(ev.Expires), what)
	case renewed:
		what := "your log-in"
		if ev.Room != "" {
			what = ev.Room
		}
		return fmt.Sprintf("* a newer token for %s is in use, until %s", what, v.clock(ev.Expires))
	case *node.TokenEnded:
		return "! others no longer count your log-in. Your token: " + safeText(ev.Reason)
	case *node.AddrsChanged:
		return v.addrsLocked(shareable(ev.Addrs))
	case *node.LoggedOut:
		if ev.Reason == node.Duplicate && ev.By != nil {
			return fmt.Sprintf("! %s has logged in on another device (%s): this one is out.", ev.User, ev.By.Peer)
		}
	}
	return ""
}

// conflictLocked says who has a name, and to which of them the name alone goes.
func (v *textView) conflictLocked(ev *node.IdentityConflict) string {
	switch other := ev.Other.Address(); {
	case ev.User == v.me.User:
		return fmt.Sprintf("! somebody else is called %s, as you are, with the key %s: /msg %s TEXT goes there.\n"+
			"  Others tell you apart by your key, %s.", ev.User, ev.Other.Key.Fingerprint(), other, v.me.Key.Fingerprint())
	case !ev.Pinned.IsZero():
		return fmt.Sprintf("! somebody else is called %s too, with the key %s. /msg %s goes to the key that you know (%s), and\n"+
			"  /msg %s to the other one.", ev.User, ev.Other.Key.Fingerprint(), ev.User, ev.Pinned.Fingerprint(), other)
	case ev.Rival == nil:
		return ""
	default:
		return fmt.Sprintf("! two users are called %s, and the name alone is neither of them while both are here: write to one of them by\n"+
			"  /msg %s TEXT or\n  /msg %s TEXT", ev.User, ev.Rival.Address(), other)
	}
}

// failedWords says why a --peer is not connected, and what to do about it.
func failedWords(ev *node.PeerFailed) string {
	at := "--peer " + strings.Join(ev.Addrs, "\n  --peer ")
	switch ev.Reason {
	case node.NobodyThere:
		return fmt.Sprintf("! nobody answers (%s), trying on:\n  %s", safeText(ev.Detail), at)
	case node.OtherPeer:
		return fmt.Sprintf("! another peer is at this address (%s). Ask for the right one:\n  %s", safeText(ev.Detail), at)
	case node.OtherApp:
		return fmt.Sprintf("! that is a node of another app: both sides need the same --app, and the same --issuers if there are any:\n  %s", at)
	case node.ItIsUs:
		return fmt.Sprintf("! this address is your own:\n  %s", at)
	}
	return fmt.Sprintf("! no talking to this peer: %s. Trying on:\n  %s", safeText(ev.Detail), at)
}

// roomLocked returns the prefix of what happens in a room, once there is more than one.
func (v *textView) roomLocked(room string) string {
	if v.rooms < 2 {
		return ""
	}
	return "[" + room + "] "
}

func (v *textView) readyLocked(ev ready) string {
	v.me, v.vouched = ev.Login, ev.vouched
	v.keys[ev.User] = ev.Key
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
		v.addrs[a] = true
	}
	b.WriteString("What you type goes to the room; /help lists the rest; Ctrl-C leaves.")
	return b.String()
}

// addrsLocked reports addresses that have not been reported before.
func (v *textView) addrsLocked(addrs []string) string {
	var lines []string
	for _, a := range addrs {
		if !v.addrs[a] {
			v.addrs[a] = true
			lines = append(lines, "* you can also be reached with --peer "+a)
		}
	}
	return strings.Join(lines, "\n")
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

func (v *textView) enteredLocked(ev entered) string {
	v.rooms++
	var others []identity.Login
	for _, m := range ev.Members {
		others = append(others, m.Login)
		v.were[ev.Room+"/"+m.Key.String()] = true
	}
	return fmt.Sprintf("* you are in %s, with %s", ev.Room, v.namesLocked(others))
}

// memberLocked skips members that were named on entering.
func (v *textView) memberLocked(ev *mesh.MemberJoined) string {
	key := ev.Room + "/" + ev.Member.Key.String()
	if v.were[key] {
		delete(v.were, key)
		return ""
	}
	as := ""
	if role := plainRole(ev.Member.Role); role != "" {
		as = " as " + safeText(role)
	}
	return fmt.Sprintf("* %s has joined %s%s", v.nameLocked(ev.Member.Login), ev.Room, as)
}

// plainRole returns a role if it is worth showing. The role that everybody has is not.
func plainRole(role string) string {
	if role == "member" {
		return ""
	}
	return role
}

// clock writes a time of day, and the date if it is not today.
func (v *textView) clock(at time.Time) string {
	at, now := at.In(v.zone), v.now().In(v.zone)
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
		return "told different members different things, and was put out of"
	}
	return fmt.Sprintf("is out (%s) of", r)
}

func (v *textView) whoLocked(ev who) string {
	var b strings.Builder
	if ev.Room != "" {
		var members []identity.Login
		for _, m := range ev.Members {
			members = append(members, m.Login)
		}
		fmt.Fprintf(&b, "  in %s, with you: %s\n", ev.Room, v.namesLocked(members))
	}
	fmt.Fprintf(&b, "  online: %s", v.namesLocked(ev.Online))
	return b.String()
}

func (v *textView) byeLocked(ev bye) string {
	switch ev.Reason {
	case byeDisplaced:
		return "Bye. The chat goes on where you logged in last."
	case byeFailed:
		return ""
	}
	return "Bye."
}
