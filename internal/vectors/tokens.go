package vectors

import "encoding/json"

// Tokens are the tokens of an app with an issuer, and its lists of revocations.
type Tokens struct {
	About        string          `json:"about"`
	AppName      string          `json:"app_name"`
	App          Hex             `json:"app"`
	Issuers      json.RawMessage `json:"issuers"` // a JSON Web Key Set
	AtMS         int64           `json:"at_ms"`
	LeewayMS     int64           `json:"leeway_ms"`
	Accepted     []Token         `json:"accepted"`
	Refused      []Token         `json:"refused"`
	Lists        []List          `json:"lists"`
	RefusedLists []Refused       `json:"refused_lists"`
}

// Token is a token as it is shown, and whether it is accepted.
type Token struct {
	Name   string `json:"name"`
	Token  string `json:"token"`
	User   string `json:"user"`   // who shows it
	Device Hex    `json:"device"` // on which device
	Room   string `json:"room"`   // to enter which room; empty: to log in
	AtMS   int64  `json:"at_ms,omitempty"`
	// Why it is refused; as in the last column of the table of reasons in TOKENS.md.
	Why string `json:"why,omitempty"`
}

// List is a list of revocations that is valid.
type List struct {
	Sealed
	Version  uint64           `json:"version,string"`
	IssuedMS int64            `json:"issued_ms"`
	Users    map[string]int64 `json:"users"`   // to the time before which tokens are revoked
	Tokens   map[string]int64 `json:"tokens"`  // by jti; to when they expire, or 0
	Revoked  []string         `json:"revoked"` // names of accepted tokens that it revokes
}
