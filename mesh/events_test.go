package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/starling-mesh/starling/identity"
)

func TestTheEndOfAStayHasAReason(t *testing.T) {
	for _, c := range []struct {
		why  error
		want EndReason
	}{
		{ErrLeft, EndLeft},
		{ErrClosed, EndClosed},
		{fmt.Errorf("closed: %w", ErrClosed), EndClosed},
		{ErrReplaced, EndReplaced},
		{&identity.TokenError{Err: identity.ErrTokenExpired}, EndToken},
		{&PutOutError{Kind: ErrKicked}, EndKicked},
		{&PutOutError{Kind: ErrBanned}, EndBanned},
		{&PutOutError{Kind: ErrDismissed}, EndDismissed},
		{errors.New("the program says so"), EndOther},
	} {
		ev := newRoomEnded(c.why)
		if ev.Reason != c.want || ev.Err != c.why || ev.Detail != c.why.Error() {
			t.Errorf("%v: got %+v, want the reason %s", c.why, ev, c.want)
		}
	}
}

func TestEventsHaveAStableJSONForm(t *testing.T) {
	p, err := peer.Decode("12D3KooWBEVc1SqQLLgkdyLKLtdKdtS6sKS4dzaq61jvgNCFy1zd")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))
	head := func(typ, room string) Header { return Header{Type: typ, Seq: 1<<63 + 1, Time: at.UTC(), Room: room} }
	alice := identity.Login{User: "alice", Key: identity.PublicKey{1, 2, 3}, Peer: p}
	key := alice.Key.Fingerprint()
	member := Member{Login: alice, Info: []byte{0xff, 0}, Since: at}
	who := `{"user":"alice","key":"` + key + `","peer":"` + p.String() + `"}`
	in := `{"user":"alice","key":"` + key + `","peer":"` + p.String() + `","info":"/wA=","since":"2026-01-02T02:04:05.0000006Z"}`
	const seq = `"seq":"9223372036854775809","time":"2026-01-02T02:04:05.0000006Z"`
	for _, c := range []struct {
		ev   Event
		want string
	}{
		{
			&Message{Header: head(TypeMessage, "ops"), From: alice, Kind: Text, Data: []byte("grüß\n"), Sent: at, Feed: FeedID{0xab}, Number: 1 << 63},
			`{"type":"message",` + seq + `,"room":"ops","from":` + who + `,"kind":"text","text":"grüß\n","sent":"2026-01-02T02:04:05.0000006Z","feed":"ab000000000000000000000000000000","number":"9223372036854775808"}`,
		},
		{
			&Message{Header: head(TypeMessage, "ops"), From: alice, Kind: Binary, Data: []byte("\x00\xff\xfe"), Sent: at, Number: 1},
			`{"type":"message",` + seq + `,"room":"ops","from":` + who + `,"kind":"binary","data":"AP/+","sent":"2026-01-02T02:04:05.0000006Z","feed":"00000000000000000000000000000000","number":"1"}`,
		},
		{
			&DirectMessage{Header: head(TypeDirectMessage, ""), From: alice, Kind: Text, Data: []byte("psst"), Sent: at},
			`{"type":"direct_message",` + seq + `,"from":` + who + `,"kind":"text","text":"psst","sent":"2026-01-02T02:04:05.0000006Z"}`,
		},
		{
			&DirectMessage{Header: head(TypeDirectMessage, "ops"), From: alice, Kind: Binary, Data: []byte("psst"), Sent: at},
			`{"type":"direct_message",` + seq + `,"room":"ops","from":` + who + `,"kind":"binary","data":"cHNzdA==","sent":"2026-01-02T02:04:05.0000006Z"}`,
		},
		{
			&MemberJoined{Header: head(TypeMemberJoined, "ops"), Member: member},
			`{"type":"member_joined",` + seq + `,"room":"ops","member":` + in + `}`,
		},
		{
			&MemberLeft{Header: head(TypeMemberLeft, "ops"), Member: member, Reason: Dropped},
			`{"type":"member_left",` + seq + `,"room":"ops","member":` + in + `,"reason":"dropped"}`,
		},
		{
			&RoomSize{Header: head(TypeRoomSize, "ops"), Members: 500, Large: true},
			`{"type":"room_size",` + seq + `,"room":"ops","members":500,"large":true}`,
		},
		{
			&GapLost{Header: head(TypeGapLost, "ops"), From: alice, Feed: FeedID{1}, First: 7, Last: 9},
			`{"type":"gap_lost",` + seq + `,"room":"ops","from":` + who + `,"feed":"01000000000000000000000000000000","first":"7","last":"9"}`,
		},
		{
			&Lagged{Header: head("lagged", "ops"), Missed: 3},
			`{"type":"lagged",` + seq + `,"room":"ops","missed":3}`,
		},
	} {
		got, err := json.Marshal(c.ev)
		if err != nil {
			t.Errorf("%s: %v", c.ev.Head().Type, err)
		}
		if string(got) != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.ev.Head().Type, got, c.want)
		}
	}
}
