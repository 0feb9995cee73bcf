package session

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/test"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
	"github.com/starling-mesh/starling/node"
)

func login(t *testing.T, user string, key byte) identity.Login {
	t.Helper()
	p, err := test.RandPeerID()
	require.NoError(t, err)
	return identity.Login{User: user, Key: identity.PublicKey{key}, Peer: p}
}

// shown returns the lines for some events.
func shown(t *testing.T, events ...any) string {
	t.Helper()
	var out strings.Builder
	w := NewWording()
	for _, ev := range events {
		if m, ok := ev.(mesh.Event); ok {
			ev = Heard{m}
		}
		if said := w.Say(ev.(Event)); said.Text != "" {
			out.WriteString(said.String() + "\n")
		}
	}
	return out.String()
}

func TestEventsAreShownInPlainWords(t *testing.T) {
	bob, in := login(t, "bob", 1), mesh.Header{Room: "ops"}
	member := mesh.Member{Login: bob}
	for want, ev := range map[string]any{
		"bob: hello\n":                               &mesh.Message{Header: in, From: bob, Kind: mesh.Text, Data: []byte("hello")},
		"bob: [2 bytes of binary: 00 ff]\n":          &mesh.Message{Header: in, From: bob, Data: []byte{0, 0xff}},
		"bob to you: psst\n":                         &mesh.DirectMessage{Header: in, From: bob, Kind: mesh.Text, Data: []byte("psst")},
		"bob: one\n    | two\n":                      &mesh.Message{Header: in, From: bob, Kind: mesh.Text, Data: []byte("one\ntwo")},
		"[no room] bob to you: hi\n":                 &mesh.DirectMessage{From: bob, Kind: mesh.Text, Data: []byte("hi")},
		"* bob has joined ops\n":                     &mesh.MemberJoined{Header: in, Member: member},
		"* bob has left ops\n":                       &mesh.MemberLeft{Header: in, Member: member, Reason: mesh.Quit},
		"* bob is gone (connection lost) from ops\n": &mesh.MemberLeft{Header: in, Member: member, Reason: mesh.Dropped},
		"* ops has 500 members: who joins and leaves is no longer shown\n": &mesh.RoomSize{Header: in, Members: 500, Large: true},
		"* ops has 449 members: who joins and leaves is shown again\n":     &mesh.RoomSize{Header: in, Members: 449},
		"* bob broke the rules, and was removed from ops\n":                &mesh.MemberLeft{Header: in, Member: member, Reason: mesh.Evicted},
		"! 3 messages of bob in ops could not be recovered\n":              &mesh.GapLost{Header: in, From: bob, First: 4, Last: 6},
		"! 1 message in ops went by unseen: this terminal was too slow\n":  &mesh.Lagged{Header: in, Missed: 1},
		"  sent to ops\n": Sent{Head: NewHead("sent", "ops"), OK: true},
		"  waiting for the results of 2 messages; Ctrl-C ends it\n": Waiting{Messages: 2},
		"! no such thing\n":       Trouble{Detail: "no such thing"},
		"! one\n    | two\n":      Trouble{Detail: "one\ntwo"},
		"* you have left ops\n":   Exited{NewHead("exited", "ops")},
		"  online: nobody else\n": Who{},
		"! nobody answers (connection refused); still trying:\n  --peer /a\n  --peer /b\n":                                            &node.PeerFailed{Peer: bob.Peer, Addrs: []string{"/a", "/b"}, Reason: node.NobodyThere, Detail: "connection refused"},
		"! another peer is at this address (the peer there is 12D3). Ask for the right one:\n  --peer /a\n":                           &node.PeerFailed{Addrs: []string{"/a"}, Reason: node.OtherPeer, Detail: "the peer there is 12D3"},
		"! cannot talk to this peer: the clocks \\x1b[2J disagree. Still trying:\n  --peer /a\n":                                      &node.PeerFailed{Addrs: []string{"/a"}, Reason: node.Refused, Detail: "the clocks \x1b[2J disagree"},
		"! that is a node of another app: both sides need the same --app, and the same --issuers if there are any:\n  --peer /a\n":    &node.PeerFailed{Addrs: []string{"/a"}, Reason: node.OtherApp},
		"! the node " + bob.Peer.String() + " has the setting grace at 5s, and this one at 10s: all nodes of an app need the same.\n": &node.SettingDiffers{Peer: bob.Peer, Setting: "grace", Ours: "10s", Theirs: "5s"},
		"! this address is your own:\n  --peer /a\n":                                                                                  &node.PeerFailed{Addrs: []string{"/a"}, Reason: node.ItIsUs},
		"! the connection to the others is lost; looking for them again\n":                                                            &node.ConnectionChanged{State: node.Disconnected},
		"! still no connection: the others show you as gone by now\n":                                                                 &node.ConnectionChanged{State: node.Lost},
		"! there is no usable network; waiting for one\n":                                                                             &node.ConnectionChanged{State: node.Failed},
		"* connected again\n": &node.ConnectionChanged{State: node.Reconnected},
		"Bye.\n":              Bye{Reason: ByeQuit},
		"Bye. The chat goes on where you logged in last.\n":                                       Bye{Reason: ByeReplaced},
		"! alice has logged in on another device (" + bob.Peer.String() + "): this one is out.\n": &node.LoggedOut{User: "alice", Reason: node.Replaced, By: &bob},
		"! two nodes run with one device key (" + bob.Peer.String() + "): a data directory was copied. They cut each other off; give one of them\n" +
			"  another directory, and carry the user over with \"starling id export\".\n": &node.DuplicateDevice{Peer: bob.Peer},
		"! somebody else is called bob too, with the key " + bob.Key.Fingerprint() + ". /msg bob goes to the key that you know (" + identity.PublicKey{9}.Fingerprint() + "), and\n" +
			"  /msg " + bob.Address().String() + " to the other one.\n": &node.IdentityConflict{User: "bob", Pinned: identity.PublicKey{9}, Other: bob},
		"": Bye{Reason: ByeFailed},
	} {
		require.Equal(t, want, shown(t, ev), "%T", ev)
	}
}

func TestTheFirstLinesSayWhoYouAreAndWhatToDo(t *testing.T) {
	alice := login(t, "alice", 1)
	got := shown(t, Ready{Login: alice, Addrs: []string{"/ip4/10.0.0.1/tcp/4001/p2p/" + alice.Peer.String()}, Data: "/home/alice", MDNS: true})
	require.Equal(t, "You are alice, key "+alice.Key.Fingerprint()+", peer "+alice.Peer.String()+".\n"+
		"Others on this network find you by themselves; from elsewhere they start with one of\n"+
		"  --peer /ip4/10.0.0.1/tcp/4001/p2p/"+alice.Peer.String()+"\n"+
		"What you type goes to the room; /help lists the rest; Ctrl-C leaves.\n", got)
	require.Contains(t, shown(t, Ready{Login: alice}), "The key is in memory only")
	require.Contains(t, shown(t, Ready{Login: alice}), "\nOthers start with one of\n")
}

func TestMembersWhoWereThereAreNamedOnceOnEntering(t *testing.T) {
	bob, carol := login(t, "bob", 1), login(t, "carol", 2)
	in := mesh.Header{Room: "ops"}
	got := shown(t,
		Entered{Head: NewHead("entered", "ops"), Members: []mesh.Member{{Login: bob}, {Login: carol}}},
		&mesh.MemberJoined{Header: in, Member: mesh.Member{Login: bob}},
		&mesh.MemberJoined{Header: in, Member: mesh.Member{Login: carol}},
		&mesh.MemberJoined{Header: in, Member: mesh.Member{Login: bob}},
	)
	require.Equal(t, "* you are in ops, with bob, carol\n* bob has joined ops\n", got)
	require.Equal(t, "* you are in ops, with nobody else\n", shown(t, Entered{Head: NewHead("entered", "ops")}))
}

func TestLinesNameTheRoomOnceThereAreTwo(t *testing.T) {
	bob := login(t, "bob", 1)
	hi := func(room string) *mesh.Message {
		return &mesh.Message{Header: mesh.Header{Room: room}, From: bob, Kind: mesh.Text, Data: []byte("hi")}
	}
	require.Equal(t, "* you are in ops, with nobody else\nbob: hi\n* you are in dev, with nobody else\n[ops] bob: hi\n"+
		"* you have left dev\nbob: hi\n",
		shown(t, Entered{Head: NewHead("entered", "ops")}, hi("ops"), Entered{Head: NewHead("entered", "dev")}, hi("ops"),
			Exited{NewHead("exited", "dev")}, hi("ops")))
}

func TestAnotherKeyUnderAKnownNameIsNeverShownAsThatName(t *testing.T) {
	bob, other := login(t, "bob", 1), login(t, "bob", 2)
	message := func(from identity.Login) *mesh.Message {
		return &mesh.Message{From: from, Kind: mesh.Text, Data: []byte("hi")}
	}
	require.Equal(t, "bob: hi\nbob#"+other.Key.Fingerprint()+": hi\nbob: hi\n", shown(t, message(bob), message(other), message(bob)))

	me, imposter := login(t, "alice", 3), login(t, "alice", 4)
	require.Contains(t, shown(t, Ready{Login: me}, message(imposter)), "\nalice#"+imposter.Key.Fingerprint()+": hi\n")
}

func TestWhoNamesMembersAndOnlineUsers(t *testing.T) {
	bob, carol := login(t, "bob", 1), login(t, "carol", 2)
	require.Equal(t, "  in ops, with you: bob\n  online: bob, carol\n",
		shown(t, Who{NewHead("who", "ops"), []mesh.Member{{Login: bob}}, []identity.Login{bob, carol}}))
}

func TestResultsSayWhatIsCertainAndWhatIsNot(t *testing.T) {
	to := Sent{Line: 7, To: "bob"}
	for want, err := range map[string]error{
		"delivered to bob in 1.5 ms": nil,
		"NOT SENT to bob, line 7: message of 65537 bytes is over the limit of 65536": &mesh.SizeError{Size: 65537, Limit: 65536},
		"NOT SENT to bob, line 7: an empty message is not sent":                      mesh.ErrEmpty,
		"NOT SENT to bob, line 7: no such member in this room (outside rooms: /msg)": mesh.ErrNotMember,
		"REFUSED by bob, line 7: refused by the receiver: queue full":                &mesh.RefusedError{Reason: mesh.QueueFull},
		"UNKNOWN whether bob got line 7: no answer in time: it may have arrived":     mesh.ErrUnconfirmed,
		"NOT SENT to bob, line 7: unreachable":                                       mesh.ErrUnreachable,
		"NOT SENT to bob, line 7: something else":                                    errors.New("something else"),
	} {
		s := to
		s.RTT = cli.ToMillis(1500 * time.Microsecond)
		require.Equal(t, want, s.Result(err).String())
	}
}

func TestCertaintyComesBeforeTheCause(t *testing.T) {
	// A closing mesh ends messages that it has written as unknown, and the others as not sent:
	// neither is "closed".
	for want, err := range map[string]error{
		"unknown":  errors.Join(mesh.ErrUnconfirmed, mesh.ErrClosed),
		"not_sent": errors.Join(mesh.ErrUnreachable, mesh.ErrClosed),
		"closed":   mesh.ErrClosed,
	} {
		code, _ := outcome(err)
		require.Equal(t, want, code)
	}
}

func TestAGivenPeerThatComesAfterAllIsToldOf(t *testing.T) {
	bob, carol := login(t, "bob", 1), login(t, "carol", 2)
	got := shown(t,
		&node.PeerFailed{Peer: bob.Peer, Addrs: []string{"/a"}, Reason: node.NobodyThere, Detail: "no answer"},
		&node.PeerUp{Peer: node.Peer{Login: carol}},
		&node.PeerUp{Peer: node.Peer{Login: bob}},
		&node.PeerUp{Peer: node.Peer{Login: bob}},
	)
	require.Equal(t, "! nobody answers (no answer); still trying:\n  --peer /a\n* connected to --peer "+bob.Peer.String()+": it is bob\n", got)
}

func TestTheHelpOfJSONNamesEveryEvent(t *testing.T) {
	doc, err := os.ReadFile("../../../../docs/EVENTS.md")
	require.NoError(t, err)
	streams, one, found := strings.Cut(string(doc), "## One stream of all events")
	require.True(t, found)
	_, rest, _ := strings.Cut(one, "\n## ") // the chat reads a stream for each room
	types := regexp.MustCompile(`(?m)^\{"type":"(\w+)"`).FindAllStringSubmatch(streams+rest, -1)
	require.Greater(t, len(types), 15)
	for _, m := range types {
		require.Regexp(t, `[(\s]`+m[1]+`[,)]`, JSONHelp)
	}
}
