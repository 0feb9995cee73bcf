package vectors

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Hex is bytes that JSON has in hexadecimal.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// Names are the values derived from keys and names.
type Names struct {
	About string `json:"about"`
	Keys  []Key  `json:"keys"`
	Apps  []App  `json:"apps"`
	Rooms []Room `json:"rooms"`
}

// Key is an Ed25519 key pair and the forms in which people see it.
type Key struct {
	Name        string `json:"name"`
	Seed        Hex    `json:"seed"` // the private key of RFC 8032
	Public      Hex    `json:"public"`
	Base32      string `json:"base32"`
	Fingerprint string `json:"fingerprint"`
	PeerID      string `json:"peer_id"` // as a device key
	PeerIDBytes Hex    `json:"peer_id_bytes"`
}

// App is an app ID and what is derived from it.
type App struct {
	Name string `json:"name"`
	ID   Hex    `json:"id"`
	MDNS string `json:"mdns"`
}

// Room is a room tag and its topic.
type Room struct {
	App    Hex    `json:"app"`
	Room   string `json:"room"`
	Secret string `json:"secret"`
	Tag    Hex    `json:"tag"`
	Topic  string `json:"topic"`
}

// Sealed is a sealed object and its parts.
type Sealed struct {
	Name      string `json:"name"`
	Domain    Hex    `json:"domain"`
	Key       Hex    `json:"key"` // the public key that signed
	Body      Hex    `json:"body"`
	Signature Hex    `json:"signature"`
	Sealed    Hex    `json:"sealed"`
}

// Refused is a sealed object that must be refused, and why: "signature", "malformed", "size",
// "clock", "expired" or "other app".
type Refused struct {
	Name   string `json:"name"`
	Why    string `json:"why"`
	Sealed Hex    `json:"sealed"`
	AtMS   int64  `json:"at_ms,omitempty"` // the time at which to judge it, if not the file's
}

// Statements are login statements.
type Statements struct {
	About    string      `json:"about"`
	App      Hex         `json:"app"`
	AtMS     int64       `json:"at_ms"`
	Accepted []Statement `json:"accepted"`
	Refused  []Refused   `json:"refused"`
	Order    []Pair      `json:"order"`
}

// Pair is two sealed objects of which the first supersedes the second.
type Pair struct {
	Name  string `json:"name"`
	Newer Hex    `json:"newer"`
	Older Hex    `json:"older"`
}

// Statement is a statement that is valid at the file's time, or at its own.
type Statement struct {
	Sealed
	AtMS        int64  `json:"at_ms,omitempty"`
	User        string `json:"user"`
	UserKey     Hex    `json:"user_key"`
	Certificate Hex    `json:"certificate"`
	Device      Hex    `json:"device"`
	PeerID      string `json:"peer_id"`
	Sequence    uint64 `json:"sequence,string"`
	IssuedMS    int64  `json:"issued_ms"`
	ExpiresMS   int64  `json:"expires_ms"`
	LoggedIn    bool   `json:"logged_in"`
	Token       string `json:"token"`
}

// Hello is an exchange of hellos.
type Hello struct {
	About     string      `json:"about"`
	App       Hex         `json:"app"`
	AtMS      int64       `json:"at_ms"`
	Initiator Party       `json:"initiator"`
	Responder Party       `json:"responder"`
	Frames    HelloFrames `json:"frames"`
	Refused   []BadProof  `json:"refused_proofs"`
	Anonymous Proof       `json:"proof_without_statement"`
	Refusals  []Refusal   `json:"refusals"`
}

// Party is one side of a hello.
type Party struct {
	PeerID      string   `json:"peer_id"`
	Statement   Hex      `json:"statement"`
	Incarnation uint64   `json:"incarnation,string"`
	MaxEnvelope uint32   `json:"max_envelope"`
	MaxMessage  uint32   `json:"max_message"`
	GraceMS     uint32   `json:"grace_ms"`
	Rates       Rates    `json:"rates"`
	Nonce       Hex      `json:"nonce"`
	Addrs       []string `json:"addrs"`
	Proof       Proof    `json:"proof"`
}

// Rates are what a side of a hello states of the app's rates, in a second.
type Rates struct {
	DirectMessages    uint64 `json:"direct_messages,string"`
	DirectBytes       uint64 `json:"direct_bytes,string"`
	BroadcastMessages uint64 `json:"broadcast_messages,string"`
	BroadcastBytes    uint64 `json:"broadcast_bytes,string"`
	RoomMessages      uint64 `json:"room_messages,string"`
	LargeRoomMessages uint64 `json:"large_room_messages,string"`
}

// Proof is a signature over the other side's nonce, and exactly what is signed.
type Proof struct {
	Key       Hex `json:"key"`
	Signed    Hex `json:"signed"`
	Signature Hex `json:"signature"`
}

// BadProof is a signature that does not prove the initiator.
type BadProof struct {
	Name      string `json:"name"`
	Signature Hex    `json:"signature"`
}

// HelloFrames are the three frames, each preceded by its length, and the first frame of the hello
// with which alice says goodbye.
type HelloFrames struct {
	Hello   Hex `json:"hello"`
	Reply   Hex `json:"reply"`
	Proof   Hex `json:"proof"`
	Goodbye Hex `json:"goodbye"`
}

// Refusal is a frame with a refusal.
type Refusal struct {
	Name  string `json:"name"`
	Frame Hex    `json:"frame"`
	Code  uint32 `json:"code"`
	Text  string `json:"text"`
}

// Directory has the frames of whois, notice and watch.
type Directory struct {
	About   string `json:"about"`
	Request struct {
		Frame   Hex    `json:"frame"`
		App     Hex    `json:"app"`
		User    string `json:"user"`
		UserKey Hex    `json:"user_key"`
	} `json:"whois_request"`
	Reply struct {
		Frame Hex       `json:"frame"`
		Found []Located `json:"found"`
	} `json:"whois_reply"`
	Notice struct {
		Frame     Hex `json:"frame"`
		Statement Hex `json:"statement"`
	} `json:"notice"`
	Watch struct {
		Request   Hex `json:"request"` // a frame
		App       Hex `json:"app"`
		Frame     Hex `json:"frame"` // with a statement
		Statement Hex `json:"statement"`
		Beat      Hex `json:"beat"` // a frame
	} `json:"watch"`
}

// Records are what the directory keeps, and where.
type Records struct {
	About    string          `json:"about"`
	AtMS     int64           `json:"at_ms"`
	LifeMS   int64           `json:"life_ms"` // the longest life in the instance
	Apps     []RecordApp     `json:"apps"`
	Keys     []RecordKey     `json:"keys"`
	Accepted []Record        `json:"accepted"`
	Refused  []RefusedRecord `json:"refused"`
	Order    []Pair          `json:"order"` // records of the first app
}

// RecordApp is an app's instances of the DHT.
type RecordApp struct {
	App Hex    `json:"app"`
	Tag string `json:"tag"`
	LAN string `json:"lan"` // protocol IDs
	WAN string `json:"wan"`
}

// RecordKey is a key in the DHT.
type RecordKey struct {
	App     Hex    `json:"app"`
	Purpose string `json:"purpose"` // "user", "key" or "name"
	Of      string `json:"of"`      // a user, or a fingerprint
	Hash    Hex    `json:"hash"`
	Key     Hex    `json:"key"` // of the DHT: text for records, a multihash for providers
}

// Place is where a record is stored.
type Place struct {
	App     Hex    `json:"app"`
	AppMode bool   `json:"app_mode"` // with the issuers of token.json
	Key     string `json:"key"`
}

// Record is a record that is valid at its place.
type Record struct {
	Sealed
	At        Place    `json:"at"`
	Statement Hex      `json:"statement"`
	Addrs     []string `json:"addrs"`
	IssuedMS  int64    `json:"issued_ms"`
	ExpiresMS int64    `json:"expires_ms"`
	Tombstone bool     `json:"tombstone"`
}

// RefusedRecord is a record that must be refused at its place: also for its "key", its "time", or
// its "token".
type RefusedRecord struct {
	Refused
	At Place `json:"at"`
}

// Located is one log-in in an answer to whois.
type Located struct {
	Statement Hex      `json:"statement"`
	Addrs     []string `json:"addrs"`
}

// Roster has roster entries, and the digest of a roster.
type Roster struct {
	About    string    `json:"about"`
	App      Hex       `json:"app"`
	Room     Hex       `json:"room"`
	AtMS     int64     `json:"at_ms"`
	Accepted []Entry   `json:"accepted"`
	Refused  []Refused `json:"refused"`
	Order    []Pair    `json:"order"`
	Digest   struct {
		Entries []Hex `json:"entries"` // all entries known in the room, in any order
		Hashed  Hex   `json:"hashed"`
		Digest  Hex   `json:"digest"`
	} `json:"digest"`
	Greeting Greeting    `json:"greeting"`
	Part     RosterFrame `json:"roster"`
	BadParts []BadFrame  `json:"bad_rosters"` // frames of the room protocol that break its rules
	Query    Hex         `json:"query"`       // a frame
	Absent   Hex         `json:"absent"`      // a frame
}

// Entry is a valid roster entry.
type Entry struct {
	Sealed
	Statement Hex      `json:"statement"`
	Feed      Hex      `json:"feed"`
	Sequence  uint64   `json:"sequence,string"`
	Joined    bool     `json:"joined"`
	Info      Hex      `json:"info"`
	Addrs     []string `json:"addrs"`
}

// Greeting is a frame of the room protocol.
type Greeting struct {
	Frame     Hex    `json:"frame"`
	Entry     Hex    `json:"entry"`
	Digest    Hex    `json:"digest"`
	Reply     bool   `json:"reply"`
	Heads     Hex    `json:"heads"` // a digest
	PastAgeMS uint64 `json:"past_age_ms,string"`
	PastCount uint32 `json:"past_count"`
	Known     []Hex  `json:"known"` // names of the entries in the digest
	Compare   bool   `json:"compare"`
	ClockMS   uint64 `json:"clock_ms,string"`
}

// RosterFrame is a frame of the room protocol.
type RosterFrame struct {
	Frame   Hex   `json:"frame"`
	Entries []Hex `json:"entries"`
	Last    bool  `json:"last"`
	Answers Hex   `json:"answers"` // the feed tag of the stay that asked
}

// Sync is how members tell each other how far they have got, and how they fetch what they miss.
type Sync struct {
	About string    `json:"about"`
	Room  Hex       `json:"room"`
	Tags  []FeedTag `json:"feed_tags"`
	Heads struct {
		// All positions that a member has, in any order.
		Positions []Position `json:"positions"`
		AgeMS     uint64     `json:"age_ms,string"` // of the Past that the frame answers
		Answers   Hex        `json:"answers"`       // the feed tag of the stay that asked
		Hashed    Hex        `json:"hashed"`
		Digest    Hex        `json:"digest"`
	} `json:"heads_digest"`
	// A frame of the room protocol with these positions, and one that nobody has asked for.
	Frame      Hex        `json:"heads"`
	Unasked    Hex        `json:"unasked_heads"` // with the first position alone
	BadHeads   []BadFrame `json:"bad_heads"`     // frames of the room protocol that break its rules
	Request    SyncFrame  `json:"request"`
	Reply      SyncAnswer `json:"reply"`
	BadReplies []BadFrame `json:"bad_replies"` // to that request
}

// FeedTag is the name of a feed in positions.
type FeedTag struct {
	Device Hex `json:"device"`
	Feed   Hex `json:"feed"`
	Tag    Hex `json:"tag"`
}

// Position is a place in a feed.
type Position struct {
	Tag   Hex    `json:"tag"`
	Last  uint64 `json:"last,string"`
	First uint64 `json:"first,string"`

	Unsure  bool   `json:"unsure,omitempty"`
	ClockMS uint64 `json:"clock_ms,string,omitempty"`
}

// SyncFrame is the request for what is missing.
type SyncFrame struct {
	Frame Hex        `json:"frame"`
	Wants []Position `json:"wants"`
}

// SyncAnswer is a frame of the answer.
type SyncAnswer struct {
	Frame     Hex        `json:"frame"`
	Entries   []Hex      `json:"entries"`
	Envelopes []Hex      `json:"envelopes"`
	AgesMS    []uint64   `json:"ages_ms"`
	Gone      []Position `json:"gone"`
	More      bool       `json:"more"`
}

// Envelopes are envelopes published in a room.
type Envelopes struct {
	About    string     `json:"about"`
	App      Hex        `json:"app"`
	Room     Hex        `json:"room"`
	Topic    string     `json:"topic"`
	Feed     []Envelope `json:"feed"` // one feed from its beginning, in order
	Accepted []Envelope `json:"accepted"`
	Refused  []Refused  `json:"refused"`
	// Each is valid by itself, but does not continue the feed's first envelope.
	Forks []Envelope `json:"forks"`
}

// Envelope is a valid envelope.
type Envelope struct {
	Sealed
	Feed      Hex    `json:"feed"`
	First     uint64 `json:"first,string"`
	Count     uint32 `json:"count"`
	Previous  Hex    `json:"previous"`
	SentMS    int64  `json:"sent_ms"`
	Scheme    uint32 `json:"scheme"`
	Epoch     uint32 `json:"epoch"`
	Content   Hex    `json:"content"`
	Items     []Item `json:"items"` // absent under a later version's scheme
	Hash      Hex    `json:"hash"`
	MessageID Hex    `json:"message_id"`
}

// Item is one item of an envelope.
type Item struct {
	Kind    uint32 `json:"kind"`
	Payload Hex    `json:"payload"`
}

// Direct has frames of the direct protocol.
type Direct struct {
	About    string        `json:"about"`
	Accepted []DirectFrame `json:"accepted"`
	Refused  []BadFrame    `json:"refused"`
}

// DirectFrame is a frame preceded by its length, and the contents of the frame.
type DirectFrame struct {
	Name     string `json:"name"`
	Frame    Hex    `json:"frame"`
	Type     uint32 `json:"type"`
	Sequence uint64 `json:"sequence,string"`
	Kind     uint32 `json:"kind"`
	Room     Hex    `json:"room"`
	To       string `json:"to"`
	Payload  Hex    `json:"payload"`
	SentMS   int64  `json:"sent_ms"`
	Reason   uint32 `json:"reason"`
	Sender   uint64 `json:"sender,string"`
	Receiver uint64 `json:"receiver,string"`
	Class    uint32 `json:"class"`
}

// BadFrame is a sequence of bytes that breaks the protocol.
type BadFrame struct {
	Name  string `json:"name"`
	Bytes Hex    `json:"bytes"`
}

// Read reads docs/vectors/NAME.json into to. It fails the test if the file has a field that to does
// not have.
func Read(t testing.TB, name string, to any) {
	t.Helper()
	raw, err := os.ReadFile(path(t, name))
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		err = dec.Decode(to)
	}
	if err != nil {
		t.Fatalf("vectors: %s: %v", name, err)
	}
}

// Says fails the test unless a table of docs/PROTOCOL.md has a row with these cells, which the
// caller makes from its constants.
func Says(t testing.TB, cells ...string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(path(t, "")), "..", "PROTOCOL.md"))
	if err != nil {
		t.Fatalf("vectors: %v", err)
	}
	if row := "| " + strings.Join(cells, " | ") + " |\n"; !strings.Contains(string(raw), row) {
		t.Errorf("docs/PROTOCOL.md has no row %q", row)
	}
}

// path finds the file from the directory of the package under test.
func path(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, e := os.Stat(filepath.Join(dir, "go.mod")); e == nil {
			return filepath.Join(dir, "docs", "vectors", name+".json")
		}
		if dir == filepath.Dir(dir) {
			err = fmt.Errorf("no go.mod above")
		}
	}
	t.Fatalf("vectors: %v", err)
	return ""
}
