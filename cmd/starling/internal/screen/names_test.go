package screen

import (
	"testing"

	tea "charm.land/bubbletea/v2"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
	"github.com/starling-mesh/starling/presence"
)

// imposter is another user who calls himself bob.
var imposter = person("bob", 9)

// ended sends the screen the result of the last typed message, which the node has sent to login.
func (d *desk) ended(to string, login identity.Login, pinned identity.PublicKey, err error) {
	s := session.Sent{Head: session.NewHead("sent", ""), Line: len(d.given), To: to, RTT: 0.8, Login: login, Pinned: pinned}
	d.happens(s.Result(err))
}

// last returns the last line that the session was given.
func (d *desk) last() string { return d.given[len(d.given)-1].Text }

// direct returns the conversations with users, by name.
func (d *desk) direct() (names []string) {
	for _, k := range d.ui.talks {
		if k.direct() {
			names = append(names, k.name())
		}
	}
	return names
}

func comes(who identity.Login) any { return &node.PeerUp{Peer: node.Peer{Login: who, LoggedIn: true}} }
func goes(who identity.Login) any  { return &node.PeerDown{Peer: node.Peer{Login: who}} }

// taken is the event that the imposter uses a name that is pinned to bob.
func taken() any { return &node.IdentityConflict{User: "bob", Pinned: bob.Key, Other: imposter} }

// contested is the event that two users have the name, and neither has been answered.
func contested() any { return &node.IdentityConflict{User: "bob", Other: imposter, Rival: &bob} }

func TestAnOpenConversationStaysWithItsKey(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.happens(comes(bob), whisper("", bob, "hi"))
	d.press(ctrl('n'))
	exactly := "/msg " + bob.Address().String()
	say := func(text string) {
		t.Helper()
		d.types(text + "\n")
		require.Equal(t, exactly+" "+text, d.last())
	}
	say("hello")
	d.ended("bob", bob, bob.Key, nil)
	d.happens(comes(imposter), taken())
	say("both are here")
	d.happens(goes(bob))
	say("bob is away")
	d.happens(goes(imposter), comes(imposter), &node.PeerChanged{Peer: node.Peer{Login: imposter, LoggedIn: true}})
	say("the other one is back")
	d.happens(whisper("", imposter, "it is me, bob"))
	say("is it?")
	require.Equal(t, []string{"bob", imposter.Address().String()}, d.direct())
	d.happens(goes(imposter), comes(bob), comes(imposter))
	say("really?")
	d.press(tea.KeyPressMsg{Code: '1', Mod: tea.ModAlt})
	d.types("/msg bob from the room\n")
	require.Equal(t, exactly+" from the room", d.last(), "it is shown in that conversation")
	elsewhere := bob
	elsewhere.Peer = "his phone"
	d.happens(comes(elsewhere))
	say("on another device")
	require.Equal(t, elsewhere, d.ui.here.login)
}

func TestWhatCannotBeSaidToWhoIsAwayNamesTheOtherOne(t *testing.T) {
	d := sit(t, 200, 60, "lobby")
	d.happens(comes(bob), whisper("", bob, "hi"))
	d.press(ctrl('n'))
	d.happens(comes(imposter), taken(), goes(bob))
	d.types("secret\n")
	d.ended(bob.Address().String(), identity.Login{}, bob.Key, &presence.NotFoundError{Address: bob.Address(), Others: []identity.Login{imposter}})
	require.Contains(t, d.screen(), "✗ not sent: "+bob.Address().String()+" is not logged in within reach, and "+imposter.Address().String()+" is somebody else")
}

func TestAConversationOfAContestedNameIsShownByItsKey(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.happens(comes(bob), whisper("", bob, "hi"), comes(imposter), contested(), whisper("", imposter, "no, I am bob"))
	require.Equal(t, []string{bob.Address().String(), imposter.Address().String()}, d.direct())
	for _, k := range d.ui.talks {
		if k.direct() {
			require.Equal(t, 1, k.unread, k.name())
		}
	}
	d.types("/msg bob which one are you?\n")
	require.Equal(t, "/msg bob which one are you?", d.last(), "the name alone means neither: the node says so")
	d.ended("bob", identity.Login{}, identity.PublicKey{}, &identity.ConflictError{User: "bob", Found: []identity.Login{bob, imposter}})
	d.types("still\n")
	require.Equal(t, "/msg bob still", d.last())
	require.Len(t, d.direct(), 3)

	d.types("/msg " + bob.Address().String() + " you\n")
	require.Equal(t, "/msg "+bob.Address().String()+" you", d.last())
	d.ended(bob.Address().String(), bob, bob.Key, nil)
	require.Equal(t, []string{"bob", imposter.Address().String()}, d.direct(), "an answer has settled it, and the one opened by the name is his")
	require.Equal(t, bob.Key, d.ui.here.login.Key)
	d.types("again\n")
	require.Equal(t, "/msg "+bob.Address().String()+" again", d.last())
}

func TestAConversationOpenedByANameIsOfWhomItMeant(t *testing.T) {
	t.Run("nobody of the name is known", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob\n")
		require.Empty(t, d.given)
		d.types("are you there?\n")
		require.Equal(t, "/msg bob are you there?", d.last())
		d.ended("bob", identity.Login{}, identity.PublicKey{}, presence.ErrNotFound)
		d.happens(comes(bob), comes(imposter), contested())
		d.types("and now?\n")
		require.Equal(t, "/msg bob and now?", d.last(), "for the node to refuse")
		d.ended("bob", identity.Login{}, identity.PublicKey{}, &identity.ConflictError{User: "bob", Found: []identity.Login{bob, imposter}})
		d.happens(goes(imposter))
		d.types("hello?\n")
		d.ended("bob", bob, bob.Key, nil)
		d.happens(goes(bob), comes(imposter))
		d.types("psst\n")
		require.Equal(t, "/msg "+bob.Address().String()+" psst", d.last())
	})
	t.Run("it is pinned, and he is away", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.happens(comes(imposter))
		d.types("/msg bob hi\n")
		d.happens(taken())
		d.ended("bob", identity.Login{}, bob.Key, &identity.ConflictError{User: "bob", Pinned: bob.Key, Found: []identity.Login{imposter}})
		require.Equal(t, []string{"bob"}, d.direct())
		d.types("psst\n")
		require.Equal(t, "/msg "+bob.Address().String()+" psst", d.last())
	})
	t.Run("he was there, and goes before anything is said", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.happens(comes(bob))
		d.types("/msg bob\n")
		d.happens(goes(bob), comes(imposter))
		d.types("psst\n")
		require.Equal(t, "/msg "+bob.Address().String()+" psst", d.last())
		d.ended(bob.Address().String(), identity.Login{}, identity.PublicKey{}, presence.ErrNotFound)
		d.happens(whisper("", imposter, "yes?"))
		require.Equal(t, []string{"bob", imposter.Address().String()}, d.direct())
	})
	t.Run("he is there, and the first message pins the name", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.happens(comes(bob))
		d.types("/msg bob\n")
		d.types("hi\n")
		require.Equal(t, "/msg bob hi", d.last())
		d.types("and more\n")
		require.Equal(t, "/msg "+bob.Address().String()+" and more", d.last())
	})
	t.Run("he writes first", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob\n")
		d.happens(comes(bob), whisper("", bob, "you wanted me?"))
		require.Equal(t, []string{"bob"}, d.direct())
		d.types("yes\n")
		require.Equal(t, "/msg "+bob.Address().String()+" yes", d.last())
	})
	t.Run("another one of the name writes before he has the first message", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob hi\n")
		d.happens(comes(imposter), whisper("", imposter, "yes, it is me"))
		d.ended("bob", bob, bob.Key, nil)
		require.Equal(t, []string{"bob", imposter.Address().String()}, d.direct())
		d.types("secret\n")
		require.Equal(t, "/msg "+bob.Address().String()+" secret", d.last())
	})
	t.Run("another one of the name writes while a line is being typed", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob\n")
		d.types("my password")
		d.happens(comes(imposter), whisper("", imposter, "hi"), taken())
		d.types(" is\n")
		require.Equal(t, "/msg "+bob.Address().String()+" my password is", d.last())
		require.Equal(t, []string{"bob", imposter.Address().String()}, d.direct())
	})
	t.Run("another one of the name has written and gone", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob hi\n")
		d.happens(comes(imposter), whisper("", imposter, "yes, it is me"), goes(imposter))
		d.types("secret\n")
		require.Equal(t, "/msg bob secret", d.last(), "for the node to find him")
		require.Empty(t, d.given[len(d.given)-1].User)
	})
	t.Run("he writes after a message that has not found him", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob hi\n")
		d.ended("bob", identity.Login{}, identity.PublicKey{}, presence.ErrNotFound)
		d.happens(comes(bob), whisper("", bob, "I am back"))
		require.Equal(t, []string{"bob"}, d.direct())
	})
	t.Run("another one of the name is answered", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.happens(comes(bob))
		d.types("/msg bob\n")
		d.happens(comes(imposter), contested(), whisper("", imposter, "hi"))
		require.Equal(t, bob.Address().String(), d.ui.here.name())
		d.types("/msg " + imposter.Address().String() + " who are you?\n")
		d.press(tea.KeyPressMsg{Code: '2', Mod: tea.ModAlt})
		d.types("my password")
		d.ended(imposter.Address().String(), imposter, imposter.Key, nil)
		d.types(" is\n")
		require.Equal(t, "/msg "+bob.Address().String()+" my password is", d.last())
	})
	t.Run("he writes while a line is being typed, and is answered elsewhere", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.types("/msg bob\n")
		d.types("one")
		d.happens(comes(bob), whisper("", bob, "hi"))
		d.press(ctrl('n'))
		d.types("hello\n")
		d.types("two")
		d.ended(bob.Address().String(), bob, bob.Key, nil)
		require.Equal(t, []string{"bob"}, d.direct())
		require.Equal(t, "two", d.ui.here.line.text)
		require.Equal(t, "one", d.ui.history[len(d.ui.history)-1], "it is among what was typed")
	})
	t.Run("he logs out, and his node stays", func(t *testing.T) {
		d := sit(t, 80, 24, "lobby")
		d.happens(comes(bob))
		d.types("/msg bob\n")
		d.happens(&node.PeerChanged{Peer: node.Peer{Login: bob}}, comes(imposter))
		d.types("psst\n")
		require.Equal(t, "/msg "+bob.Address().String()+" psst", d.last())
	})
	t.Run("the node has sent to another than who is shown", func(t *testing.T) {
		d := sit(t, 200, 60, "lobby")
		d.happens(comes(imposter))
		d.types("/msg bob who are you?\n")
		d.happens(whisper("", imposter, "bob"))
		d.ended("bob", bob, bob.Key, nil)
		require.Contains(t, d.screen(), "to "+bob.Address().String()+", 0.8 ms")
	})
}

func TestTheStrangerWhoCameFirstKeepsOnlyHisOwnConversation(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.happens(comes(imposter), whisper("", imposter, "hi, bob here"), goes(imposter))
	d.happens(comes(bob), whisper("", bob, "hi, bob here, really"))
	require.Equal(t, []string{"bob", bob.Address().String()}, d.direct(), "by the order in which they came")
	d.types("/msg " + bob.Address().String() + " I know\n")
	d.ended(bob.Address().String(), bob, bob.Key, nil)
	require.Equal(t, []string{imposter.Address().String(), "bob"}, d.direct(), "he was answered")
	d.types("/msg bob so there\n")
	require.Equal(t, "/msg "+bob.Address().String()+" so there", d.last())
}

func TestNamesAreShownAndCompletedByWhatTheyMean(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	completes := func(in string, want ...string) {
		t.Helper()
		d.ui.here.line.set(in)
		d.ui.complete = completion{}
		var got []string
		for _, c := range d.ui.candidates() {
			got = append(got, c.shown)
		}
		require.ElementsMatch(t, want, got, in)
		d.ui.here.line.set("")
	}
	shown := func(want ...string) {
		t.Helper()
		var got []string
		for _, s := range d.ui.here.members {
			got = append(got, s.name)
		}
		require.Equal(t, want, got)
	}
	d.happens(joined("lobby", imposter)...)
	shown("bob")
	d.happens(joined("lobby", bob)...)
	d.happens(contested())
	both := []string{imposter.Address().String(), bob.Address().String()}
	shown(both...)
	completes("/to b", both...)
	completes("/msg b", both...)
	d.types("/to " + bob.Address().String() + " hi\n")
	d.happens(session.Sent{Head: session.NewHead("sent", "lobby"), Line: len(d.given), OK: true, To: bob.Address().String(), Login: bob, Pinned: bob.Key})
	shown("bob", both[0])
	completes("/to b", "bob", both[0])
	d.happens(goes(bob), &mesh.MemberLeft{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: bob}})
	completes("/to b", both[0])
	completes("/msg b", both[0])
}

func TestWithTokensAConversationIsWithTheUser(t *testing.T) {
	d := sit(t, 80, 24, "lobby")
	d.ui.me.Vouched = true
	laptop, phone := person("bob", 2), person("bob", 3)
	d.happens(comes(laptop), whisper("", laptop, "hi"))
	d.press(ctrl('n'))
	d.types("hello\n")
	require.Equal(t, "/msg bob hello", d.last())
	d.happens(goes(laptop), comes(phone), whisper("", phone, "on the phone now"))
	require.Equal(t, []string{"bob"}, d.direct())
	d.types("fine\n")
	require.Equal(t, "/msg bob fine", d.last())
	d.ended("bob", phone, identity.PublicKey{}, nil)
	require.NotContains(t, d.screen(), "to bob#")

	carol := person("carol", 4)
	d.types("/msg carol hi\n")
	d.happens(comes(carol), whisper("", carol, "hello"))
	require.Equal(t, []string{"bob", "carol"}, d.direct())
}

// Bob speaks in the room and leaves, and a stranger called bob comes, who is shown with the key.
func TestANameAloneMeansTheUserThatItIsShownFor(t *testing.T) {
	d := sit(t, 120, 30, "lobby")
	d.happens(comes(bob))
	d.happens(joined("lobby", bob)...)
	d.happens(message("lobby", bob, "hi all"))
	d.types("/to bob hi\n")
	require.Equal(t, "/to bob hi", d.last(), "bob is there")
	d.happens(goes(bob), &mesh.MemberLeft{Header: mesh.Header{Room: "lobby"}, Member: mesh.Member{Login: bob}})
	d.happens(comes(imposter))
	d.happens(joined("lobby", imposter)...)
	d.types("/to bob a secret\n")
	require.Equal(t, "/to "+bob.Address().String()+" a secret", d.last())
	d.types("/msg bob a secret\n")
	require.Equal(t, "/msg "+bob.Address().String()+" a secret", d.last())
	d.happens(comes(bob))
	d.press(tea.KeyPressMsg{Code: '1', Mod: tea.ModAlt})
	d.types("/to bob a secret\n")
	require.Equal(t, "/to "+bob.Address().String()+" a secret", d.last(), "he is back, but not in the room")
	d.happens(&node.PeerChanged{Peer: node.Peer{Login: bob}})
	d.types("/msg bob a secret\n")
	require.Equal(t, "/msg "+bob.Address().String()+" a secret", d.last(), "his node is there, and he has logged out")
}
