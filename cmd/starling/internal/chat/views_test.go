package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/cmd/starling/internal/session"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

func TestJSONIsOneObjectALineInAFormThatStays(t *testing.T) {
	bob := identity.Login{User: "bob", Key: identity.PublicKey{1}, Peer: "peer of bob"}
	var out bytes.Buffer
	v := &jsonView{out: &out}
	zero := 0
	for _, ev := range []session.Event{
		session.Ready{Head: session.NewHead("ready", ""), Login: bob, Addrs: []string{"/a"}, App: "x", Rooms: []string{"ops"}},
		session.Entered{Head: session.NewHead("entered", "ops"), Members: []mesh.Member{}},
		session.Sent{Head: session.NewHead("sent", "ops"), Line: 1, ID: 1 << 60, OK: true, Neighbours: &zero},
		session.Sent{Head: session.NewHead("sent", ""), Line: 2, ID: 2, OK: true, To: "bob", RTT: cli.ToMillis(1234567 * time.Nanosecond)},
		session.Sent{Head: session.NewHead("sent", ""), Line: 3, To: "bob"}.Result(mesh.ErrEmpty),
		session.Trouble{Head: session.NewHead("error", ""), Line: 4, Code: "line", Detail: "two\nlines"},
		session.Exited{Head: session.NewHead("exited", "ops")},
		session.Bye{Head: session.NewHead("bye", ""), Reason: session.ByeSignal, Code: 130},
	} {
		require.NoError(t, v.Show(ev))
	}
	got := regexp.MustCompile(`"time":"[^"]+"`).ReplaceAllString(out.String(), `"time":"T"`)
	require.Equal(t, strings.Join([]string{
		`{"type":"ready","time":"T","user":"bob","key":"` + bob.Key.Fingerprint() + `","peer":"` + bob.Peer.String() + `","addrs":["/a"],"mdns":false,"app":"x","rooms":["ops"]}`,
		`{"type":"entered","time":"T","room":"ops","members":[]}`,
		`{"type":"sent","time":"T","room":"ops","line":1,"id":"1152921504606846976","ok":true,"neighbours":0}`,
		`{"type":"sent","time":"T","line":2,"id":"2","ok":true,"to":"bob","rtt_ms":1.235}`,
		`{"type":"sent","time":"T","line":3,"ok":false,"to":"bob","error":"empty","detail":"an empty message is not sent"}`,
		`{"type":"error","time":"T","line":4,"code":"line","detail":"two\nlines"}`,
		`{"type":"exited","time":"T","room":"ops"}`,
		`{"type":"bye","time":"T","reason":"signal","code":130}`,
	}, "\n")+"\n", got)
}

// closedPipe fails like a pipe whose reader is gone.
type closedPipe struct{}

var errBroken = errors.New("broken pipe")

func (closedPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestAViewTellsThatNobodyReadsIt(t *testing.T) {
	require.ErrorIs(t, (&jsonView{out: closedPipe{}}).Show(session.Help{}), errBroken)
	require.ErrorIs(t, newTextView(closedPipe{}).Show(session.Trouble{Detail: "x"}), errBroken)
}

func TestOnlyAViewForPeopleStandsANameForAKey(t *testing.T) {
	from := identity.Login{User: "bob", Key: identity.PublicKey{1}, Peer: "peer of bob"}
	hi := session.Heard{Event: &mesh.Message{From: from, Kind: mesh.Text, Data: []byte("hi")}}
	var out bytes.Buffer
	people, programs := newTextView(&out), &jsonView{out: &out}
	for _, v := range []session.View{people, programs} {
		_, known := v.Shown("bob")
		require.False(t, known, "nobody was shown as bob")
		require.NoError(t, v.Show(hi))
	}
	shown, known := people.Shown("bob")
	require.True(t, known)
	require.Equal(t, from.Key, shown.Key)
	_, known = programs.Shown("bob")
	require.False(t, known, "programs see the keys")
}

func TestOneLineIsShownForEachEventOfTheMesh(t *testing.T) {
	m := &mesh.Message{Header: mesh.Header{Type: "message", Seq: 7, Room: "ops"}, Kind: mesh.Text, Data: []byte("<&>\n")}
	want, err := json.Marshal(m)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, (&jsonView{out: &out}).Show(session.Heard{Event: m}))
	require.Equal(t, string(want)+"\n", out.String(), "as the mesh writes it")
	out.Reset()
	v := newTextView(&out)
	require.NoError(t, v.Show(session.Heard{Event: m}))
	require.NoError(t, v.Show(session.Bye{Reason: session.ByeFailed}))
	require.Equal(t, ": <&>\n    | \n", out.String(), "what says nothing is no line")
}
