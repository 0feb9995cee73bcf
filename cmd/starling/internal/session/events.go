package session

import (
	"encoding/json"
	"time"

	"github.com/starling-mesh/starling/cmd/starling/internal/cli"
	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/mesh"
)

// JSONHelp is `starling help json`: the contract with programs that read the chat.
const JSONHelp = `With --json, starling chat writes one JSON object a line to standard output, and nothing else there.
It takes the same lines on standard input as without.

Every object has "type" and "time" (RFC 3339). 64-bit numbers are strings. The events of the mesh
(message, direct_message, join_delayed, room_ready, member_joined, member_left, member_silent, member_heard,
room_size, gap_lost, lagged, peer_up, peer_changed, peer_down, peer_failed, setting_differs, identity_conflict,
duplicate_device, logged_out, addrs_changed, connection_changed, token_expiring, token_ended)
also have "seq". It counts per room, and for events without "room" per node. Missing numbers are events that
were dropped because this program read too slowly. Text is in "text"; binary data is base64 in "data".
The chat's own objects have no "seq":

  ready   first of all: user, key (fingerprint), peer (ID), addrs (to give to others as --peer), mdns
          (others on this network find this one by themselves), app, data (directory;
          absent with --ephemeral), rooms (about to be entered, the first is current)
  entered the room "room" is ready: what is sent now reaches every member of "members"; in app mode, "role"
          is the user's own
  exited  the room "room" has been left
  sent    the result of a message, exactly one for each: line (the line of standard input that asked
          for it), id (absent if it was not accepted), ok, room or to or both; key (fingerprint of the user
          that the name in "to" meant, absent if nothing was sent); if ok, to one user: rtt_ms, and
          to a room: neighbours, the connected members that it was sent to (0: nobody is there yet); if not
          ok: error (a code, below) and detail (words)
  who     room, members, online
  status  the answer to /status: line, ok, user; if ok: state (online, offline or unreachable, which
          means that neither can be established), login (absent if none is known), source (how it is known: self,
          connected, probe, goodbye, directory, whois, remembered, none) and age_ms (of that evidence);
          if not ok: error (a code of "sent") and detail
  order   the result of /kick, /ban, /unban or /dismiss: line, ok, room, order (which of them), user;
          until (of a ban that has an end); if not ok: error (a code, below) and detail
  token   a newer token is in use: expires, room (absent: of the log-in), line if /token asked for it
  help    lines
  waiting the chat is ending, and messages (how many) have no result yet
  error   code, detail, and line if a line of standard input was at fault
  bye     last of all: reason (quit, eof, signal, replaced or failed), code (the exit code)

Codes of "sent": not_sent (the other side has certainly seen nothing), unknown (it may have arrived),
refused (its node said no, detail says why), not_member, not_found, ambiguous, conflict, not_joined,
not_logged_in, too_long, empty, self, not_text, bad_id, closed, failed.
Codes of "order": these, and not_moderator, outranked, open_mode, bad_time.
Other codes: line, usage, data_dir_in_use, key, listen, room, token, issuers, failed.

The chat ends at the end of standard input: to only listen, keep it open, as in
  sleep infinity | starling chat --json`

// Event is what a session hands to its view: one of [Ready], [Entered], [Exited], [Sent], [Who],
// [Status], [Ordered], [Renewed], [Help], [Waiting], [Trouble], [Bye], and [Heard] for those of the
// mesh.
type Event interface{ event() }

func (Ready) event()   {}
func (Entered) event() {}
func (Exited) event()  {}
func (Sent) event()    {}
func (Who) event()     {}
func (Status) event()  {}
func (Renewed) event() {}
func (Help) event()    {}
func (Waiting) event() {}
func (Trouble) event() {}
func (Bye) event()     {}
func (Heard) event()   {}

// Heard is an event of the node or of a room, as the mesh reports it.
type Heard struct{ Event mesh.Event }

// MarshalJSON returns the event as the mesh writes it.
func (h Heard) MarshalJSON() ([]byte, error) { return json.Marshal(h.Event) }

// Head is the first part of every object of the chat's own.
type Head struct {
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	Room string    `json:"room,omitempty"`
}

// NewHead returns the head of an event of that type, now. room is empty outside rooms.
func NewHead(typ, room string) Head { return Head{typ, time.Now(), room} }

// Ready says who this is. It is the first object of a chat.
type Ready struct {
	Head
	identity.Login
	Addrs []string `json:"addrs"`
	MDNS  bool     `json:"mdns"` // others on this network find this node by themselves
	App   string   `json:"app"`
	Data  string   `json:"data,omitempty"`
	Rooms []string `json:"rooms"`

	Vouched bool `json:"-"` // in app mode a name is one user, whatever the key
}

// Entered says that a room is ready.
type Entered struct {
	Head
	Role    string        `json:"role,omitempty"` // the user's own, in app mode
	Members []mesh.Member `json:"members"`
}

// Exited says that the user has left a room.
type Exited struct{ Head }

// Sent is the result of one message.
type Sent struct {
	Head
	Line int    `json:"line"`
	ID   uint64 `json:"id,string,omitempty"`
	OK   bool   `json:"ok"`
	To   string `json:"to,omitempty"`  // a user; empty: all in the room
	Key  string `json:"key,omitempty"` // the fingerprint of the user that To meant; empty: not sent to anyone
	// Neighbours is how many members a message to a room was handed to; the others get it from
	// them.
	Neighbours *int       `json:"neighbours,omitempty"`
	RTT        cli.Millis `json:"rtt_ms,omitempty"`
	Relayed    bool       `json:"relayed,omitempty"`
	Error      string     `json:"error,omitempty"`
	Detail     string     `json:"detail,omitempty"`

	Login  identity.Login     `json:"-"` // the log-in that it was sent to; zero: none
	Pinned identity.PublicKey `json:"-"` // the key that the name in To is pinned to now; zero: none
	Reason mesh.Reason        `json:"-"` // why the receiver refused it; zero: it did not
}

// Who answers /who.
type Who struct {
	Head
	Members []mesh.Member    `json:"members"`
	Online  []identity.Login `json:"online"`
}

// Renewed says that a newer token is in use: for a room or, if Room is empty, for the log-in.
type Renewed struct {
	Head
	Line    int       `json:"line,omitempty"`
	Expires time.Time `json:"expires"`
}

// Help answers /help.
type Help struct {
	Head
	Lines []string `json:"lines"`
}

// Waiting says that the chat was asked to end, and for how many messages it still waits.
type Waiting struct {
	Head
	Messages int `json:"messages"`
}

// Codes of errors.
const (
	CodeLine  = "line"  // a typed line is wrong
	CodeRoom  = "room"  // a room cannot be entered, or the stay in it has ended
	CodeToken = "token" // a token is refused
)

// Trouble reports an error other than a failed send.
type Trouble struct {
	Head
	Line   int    `json:"line,omitempty"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Bye is the last object of a chat.
type Bye struct {
	Head
	Reason string `json:"reason"`
	Code   int    `json:"code"`
}
