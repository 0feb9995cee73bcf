package vectors

// Orders are the orders of a room of the app of token.json.
type Orders struct {
	About    string    `json:"about"`
	App      Hex       `json:"app"`
	RoomName string    `json:"room_name"`
	Room     Hex       `json:"room"`
	AtMS     int64     `json:"at_ms"`
	LifeMS   int64     `json:"life_ms"` // of a kick and of a dismissal
	Accepted []Order   `json:"accepted"`
	Refused  []Refused `json:"refused"`
	Winners  []Winner  `json:"winners"`
	Digest   Hex       `json:"digest"` // of the accepted orders, if each were kept
	Hashed   Hex       `json:"hashed"` // what it is the hash of
	Frame    Hex       `json:"frame"`  // a RoomFrame with the accepted orders
}

// Order is an order that holds at the file's time.
type Order struct {
	Sealed
	Kind     int    `json:"kind"`
	User     string `json:"user"`
	Stay     Hex    `json:"stay"`
	IssuedMS int64  `json:"issued_ms"`
	UntilMS  int64  `json:"until_ms"`
	By       string `json:"by"`  // the user who signed; empty: an issuer
	Kid      string `json:"kid"` // the issuer key that signed; empty: a user
}

// Winner says which of several accepted orders counts for a user of a role.
type Winner struct {
	Name   string   `json:"name"`
	Role   string   `json:"role"`
	Orders []string `json:"orders"` // names of accepted orders about one user, in any sequence
	Banned bool     `json:"banned"`
}
