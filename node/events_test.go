package node

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// samples has one event of each type, in the order of docs/EVENTS.md.
func samples(t *testing.T) []Event {
	id, err := peer.Decode("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
	require.NoError(t, err)
	login := identity.Login{User: "bob", Key: identity.PublicKey{1, 2, 3}, Peer: id}
	rival := identity.Login{User: "bob", Key: identity.PublicKey{9}, Peer: id}
	head := func(kind, room string) Header {
		return Header{Type: kind, Seq: 17, Time: time.Date(2030, 1, 2, 3, 4, 5, 600_000_000, time.UTC), Room: room}
	}
	sent := time.Date(2030, 1, 2, 3, 4, 5, 599_000_000, time.UTC)
	member := mesh.Member{Login: login, Info: []byte("at lunch"), Since: sent}
	return []Event{
		&PeerUp{Header: head(TypePeerUp, ""), Peer: Peer{login, true}, Addr: "/ip4/192.168.1.7/tcp/4001"},
		&PeerChanged{Header: head(TypePeerChanged, ""), Peer: Peer{login, false}},
		&PeerDown{Header: head(TypePeerDown, ""), Peer: Peer{Login: identity.Login{Peer: id}}},
		&PeerFailed{Header: head(TypePeerFailed, ""), Peer: id, Addrs: []string{"/ip4/192.168.1.7/tcp/4001/p2p/" + id.String()}, Reason: NobodyThere, Detail: "connection refused"},
		&SettingDiffers{Header: head(TypeSettingDiffers, ""), Peer: id, Setting: "grace", Ours: "10s", Theirs: "5s"},
		&IdentityConflict{Header: head(TypeIdentityConflict, ""), User: "bob", Pinned: identity.PublicKey{9}, Other: login},
		&IdentityConflict{Header: head(TypeIdentityConflict, ""), User: "bob", Other: login, Rival: &rival},
		&LoggedOut{Header: head(TypeLoggedOut, ""), User: "bob", Reason: Replaced, By: &login},
		&TokenExpiring{Header: head(TypeTokenExpiring, ""), Expires: sent.Add(30 * time.Second)},
		&TokenEnded{Header: head(TypeTokenEnded, ""), Reason: "expired 2m0s ago"},
		&DuplicateDevice{Header: head(TypeDuplicateDevice, ""), Peer: id},
		&AddrsChanged{Header: head(TypeAddrsChanged, ""), Addrs: []string{"/ip4/192.168.1.7/tcp/4001/p2p/" + id.String()}},
		&ConnectionChanged{
			Header: head(TypeConnectionChanged, ""), State: Reconnecting, Before: Disconnected, Elapsed: 1250 * time.Millisecond, LoggedIn: true,
			Reason: whyDialling,
		},
		&mesh.DirectMessage{Header: head(mesh.TypeDirectMessage, ""), From: login, Kind: mesh.Text, Data: []byte("hi"), Sent: sent},
		&mesh.DirectMessage{Header: head(mesh.TypeDirectMessage, "ops"), From: login, Data: []byte{0, 255}, Sent: sent},
		&mesh.Message{Header: head(mesh.TypeMessage, "ops"), From: login, Kind: mesh.Text, Data: []byte("hi"), Sent: sent, Feed: mesh.FeedID{0xab}, Number: 3},
		&mesh.JoinDelayed{Header: head(mesh.TypeJoinDelayed, "ops"), Members: 2},
		&mesh.RoomReady{Header: head(mesh.TypeRoomReady, "ops"), Join: mesh.Rejoin, Elapsed: 1200 * time.Millisecond},
		&mesh.MemberJoined{Header: head(mesh.TypeMemberJoined, "ops"), Member: member},
		&mesh.MemberLeft{Header: head(mesh.TypeMemberLeft, "ops"), Member: member, Reason: mesh.Dropped},
		&mesh.MemberSilent{Header: head(mesh.TypeMemberSilent, "ops"), Member: member},
		&mesh.MemberHeard{Header: head(mesh.TypeMemberHeard, "ops"), Member: member},
		&mesh.RoomSize{Header: head(mesh.TypeRoomSize, "ops"), Members: 500, Large: true},
		&mesh.TokenExpiring{Header: head(mesh.TypeTokenExpiring, "ops"), Expires: sent.Add(30 * time.Second)},
		&mesh.GapLost{Header: head(mesh.TypeGapLost, "ops"), From: login, Feed: mesh.FeedID{0xab}, First: 4, Last: 9},
		&mesh.Lagged{Header: head("lagged", "ops"), Missed: 12},
		&mesh.RoomEnded{
			Header: Header{Type: mesh.TypeRoomEnded, Seq: 17, Time: head("", "").Time, Room: "ops", Stay: 3},
			Reason: mesh.EndReplaced, Detail: mesh.ErrReplaced.Error(), Err: mesh.ErrReplaced,
		},
	}
}

func TestEventsHaveTheDocumentedJSON(t *testing.T) {
	doc, err := os.ReadFile("../docs/EVENTS.md")
	require.NoError(t, err)
	var want []string
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(doc), -1) {
		want = append(want, strings.TrimSpace(m[1]))
	}
	var got []string
	for _, ev := range samples(t) {
		raw, err := json.Marshal(ev)
		require.NoError(t, err)
		got = append(got, string(raw))
	}
	require.Equal(t, strings.Join(want, "\n"), strings.Join(got, "\n"), "docs/EVENTS.md and the code differ")
}

// A new type of event needs a sample here, and with it a place in docs/EVENTS.md. The comment of
// Event names it.
func TestEveryTypeOfEventHasASample(t *testing.T) {
	has := make(map[string]bool)
	for _, ev := range samples(t) {
		has[ev.Head().Type] = true
	}
	for _, file := range []string{"events.go", "../mesh/events.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		list := regexp.MustCompile(`(?m)((?:^//.*\n)+)^type Event `).FindStringSubmatch(string(source))
		require.NotNil(t, list, file)
		types := regexp.MustCompile(`(?m)^\tType(\w+)\s+= "(\w+)"$`).FindAllStringSubmatch(string(source), -1)
		require.Greater(t, len(types), 7, file)
		for _, m := range types {
			require.True(t, has[m[2]], "%s has no sample in samples() and none in docs/EVENTS.md", m[2])
			require.Contains(t, list[1], "["+m[1]+"]", "%s: the comment of Event does not name it", file)
		}
	}
}
