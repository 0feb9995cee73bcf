package identity

// Rate is how much of one kind of message a sender may send in a second. The zero value is no
// limit.
type Rate struct {
	Messages int // a second; 0: no limit
	Bytes    int // a second, with the few bytes that frame each message; 0: no limit
}

// Rates are the rates of an app. They should be equal on all its nodes: a node limits itself to
// them, and judges others by them. The zero value is no limit at all.
type Rates struct {
	Direct    Rate // of the messages of one sender to single users, in rooms and outside
	Broadcast Rate // of the broadcasts of one sender
	// Room is how many broadcasts a second a room should have in all, and LargeRoom the same for a
	// large room; 0: no limit. Nobody counts for all, so each sender limits itself by what it has
	// received in the room.
	Room, LargeRoom int
}
