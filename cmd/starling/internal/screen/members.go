package screen

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-mesh/starling/cmd/starling/internal/prose"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// seat is a member of a room, with the name that is shown.
type seat struct {
	mesh.Member
	name string
}

// enter adds a member, in the order of names, or updates it.
func (t *talk) enter(m mesh.Member, name string) {
	s := seat{m, name}
	if i := t.seatOf(m.Login); i >= 0 {
		t.members[i] = s
		return
	}
	at, _ := slices.BinarySearchFunc(t.members, s, func(a, b seat) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)), strings.Compare(a.name, b.name))
	})
	t.members = slices.Insert(t.members, at, s)
}

// exit removes a member.
func (t *talk) exit(m mesh.Member) {
	if i := t.seatOf(m.Login); i >= 0 {
		t.members = slices.Delete(t.members, i, i+1)
	}
}

func (t *talk) seatOf(l identity.Login) int {
	return slices.IndexFunc(t.members, func(s seat) bool { return s.Key == l.Key && s.User == l.User })
}

// maxStandings bounds what is remembered of users who are no longer on the screen.
const maxStandings = 512

// lookAround informs the asker which users are on the screen, if that has changed.
func (t *tui) lookAround() {
	var users []string
	add := func(l identity.Login) {
		if l.User != "" && (l.User != t.me.User || l.Key != t.me.Key) {
			users = append(users, l.Address().String())
		}
	}
	if _, right := t.sides(); right > 0 {
		for _, s := range t.here.members[:min(len(t.here.members), t.bodyHeight())] {
			add(s.Login)
		}
	}
	for _, k := range t.talks {
		if k.direct() {
			add(t.whom(k))
		}
	}
	slices.Sort(users)
	users = slices.Compact(users)
	if slices.Equal(users, t.looked) {
		return
	}
	t.looked = users
	t.attend(slices.Clone(users))
}

// learn keeps an answer of the asker.
func (t *tui) learn(s standing) {
	if len(t.standings) >= maxStandings {
		for user := range t.standings {
			if !slices.Contains(t.looked, user) {
				delete(t.standings, user)
			}
		}
	}
	t.standings[s.user] = s
}

// news makes the asker ask about a user who has just come or gone.
func (t *tui) news(p node.Peer) {
	if p.User != "" {
		t.stir(p.Address().String())
	}
}

// standing returns what is known of whether a user is online. Until the asker has an answer, a
// connection counts as online.
func (t *tui) standing(l identity.Login) (s standing, known bool) {
	if l.User == "" {
		return s, false
	}
	if s, known = t.standings[l.Address().String()]; known {
		return s, true
	}
	for _, p := range t.peers {
		if p.LoggedIn && p.User == l.User && p.Key == l.Key {
			return standing{Status: presence.Status{State: presence.Online, Source: presence.Connected}, at: t.now()}, true
		}
	}
	return s, false
}

// dot shows whether a user is online, by shape and by colour.
func (t *tui) dot(l identity.Login) string {
	s, known := t.standing(l)
	switch {
	case !known:
		return t.theme.dim.Render("·")
	case s.State == presence.Online:
		return t.theme.good.Render("●")
	case s.State == presence.Offline:
		return t.theme.dim.Render("○")
	}
	return t.theme.warn.Render("?")
}

// evidence is how the standing of a user is known.
type evidence uint8

const (
	isConnected evidence = iota
	hasAnswered
	hasNoLogin
	hasLoggedOut
	gaveNoAnswer
	notFound
)

// String returns the evidence in a word or two.
func (e evidence) String() string {
	return [...]string{"connected", "answered", "no log-in", "logged out", "no answer", "not found"}[e]
}

// evidence returns how the standing of a user is known.
func (t *tui) evidence(l identity.Login, s standing) evidence {
	switch {
	case s.State == presence.Online && (s.Source == presence.Connected || t.connected(l)):
		return isConnected // also when it had to ask: the words must not change each time
	case s.State == presence.Online:
		return hasAnswered
	case s.State == presence.Offline && s.Source == presence.Stored:
		return hasNoLogin
	case s.State == presence.Offline:
		return hasLoggedOut
	case s.Login.User != "":
		return gaveNoAnswer
	}
	return notFound
}

// memberList lists the members of the room, or says what is known of the user of a direct
// conversation.
func (t *tui) memberList(width, height int) []string {
	th, k := t.theme, t.here
	switch {
	case k == t.home:
		return pad(nil, height)
	case k.direct():
		return pad(t.userCard(k, width), height)
	case !k.joined:
		return pad([]string{th.title.Render(" MEMBERS")}, height)
	}
	rows := []string{th.title.Render(fmt.Sprintf(" MEMBERS %d", len(k.members)+1))}
	self := t.theme.good.Render("●")
	if t.uncounted {
		self = th.warn.Render("?")
	}
	rows = append(rows, t.memberRows(self, th.self.Render(t.cells.cut(t.me.User, width-8))+th.dim.Render(" you"), k.role, "", width)...)
	for i, s := range k.members {
		own := t.memberRows(t.dot(s.Login), t.theme.name(s.name).Render(t.cells.cut(s.name, width-4)), session.PlainRole(s.Role), t.how(s.Login), width)
		if left := height - len(rows); len(own) > left || len(own) == left && i < len(k.members)-1 {
			rows = append(rows[:min(len(rows), height-1)], th.dim.Render(fmt.Sprintf("   and %d more", len(k.members)-i)))
			break
		}
		rows = append(rows, own...)
	}
	return pad(rows, height)
}

// how says how the standing of a member is known; "" if the member is connected.
func (t *tui) how(l identity.Login) string {
	s, known := t.standing(l)
	if !known {
		return ""
	}
	if how := t.evidence(l, s); how != isConnected {
		return how.String()
	}
	return ""
}

// memberRows shows a member on one line. If the role or the evidence does not fit after the name,
// it uses two.
func (t *tui) memberRows(dot, name, role, how string, width int) []string {
	first, below := " "+dot+" "+name, ""
	role = prose.Safe(role)
	room := width - 1 - t.cells.width(first)
	if role != "" {
		if t.cells.width(role)+1 <= room {
			first += t.theme.dim.Render(" " + role)
			room -= t.cells.width(role) + 1
		} else {
			below = role
		}
	}
	switch {
	case how == "":
	case below == "" && t.cells.width(how)+2 <= room:
		first += strings.Repeat(" ", room-t.cells.width(how)) + t.theme.dim.Render(how)
	case below == "":
		below = how
	default:
		below += " · " + how
	}
	if below == "" {
		return []string{first}
	}
	return []string{first, t.theme.dim.Render(t.cells.cut("   "+below, width-1))}
}

// userCard says what is known of the user of a direct conversation.
func (t *tui) userCard(k *talk, width int) []string {
	th, l := t.theme, t.whom(k)
	rows := []string{th.title.Render(" USER"), " " + t.dot(l) + " " + th.name(k.user).Render(t.cells.cut(k.user, width-4))}
	words := []string{"asking…"}
	if s, known := t.standing(l); known {
		words = []string{s.State.String(), t.evidence(l, s).String()}
		if s.Source == presence.Goodbye {
			words = append(words, "at "+s.at.Add(-s.Age).In(t.zone).Format("15:04"))
		}
	} else if l.User == "" {
		words = []string{"not met yet"}
	}
	for _, w := range words {
		rows = append(rows, th.dim.Render(t.cells.cut("   "+w, width-1)))
	}
	if !l.Key.IsZero() {
		rows = append(rows, "", th.title.Render(" KEY"))
		fp := l.Key.Fingerprint()
		if half := len(fp) / 2; width < len(fp)+2 {
			rows = append(rows, th.dim.Render(" "+fp[:half]), th.dim.Render(" "+fp[half:]))
		} else {
			rows = append(rows, th.dim.Render(" "+fp))
		}
	}
	var shared []string
	for _, r := range t.talks {
		if r.seatOf(l) >= 0 {
			shared = append(shared, th.dim.Render(" # "+t.cells.cut(r.room, width-4)))
		}
	}
	if len(shared) > 0 {
		rows = append(append(rows, "", th.title.Render(" ALSO IN")), shared...)
	}
	return rows
}
