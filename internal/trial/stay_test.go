package trial

import (
	"encoding/binary"
	"sync"
	"time"
)

// header is the size of a message's header in bytes: the sender's stay and its count.
const header = 8

// stay is one member's time in the room, from its join to its kill or the end.
type stay struct {
	run      *run
	id       int
	member   int
	session  session
	killed   bool
	outgoing chan *message
	stopped  chan struct{}
	count    int // messages published

	mu    sync.Mutex
	due   map[[2]int]*due // by sender's stay and count
	last  map[int]int     // by sender's stay
	owed  int
	wrong map[string]int // what must not happen, and how often
	lost  map[string]int // messages reported lost, by user
	// Messages from before the stay: not owed, and allowed once.
	extra map[[2]int]bool
}

// message is one broadcast.
type message struct {
	stay, count int
	at          time.Duration
	size        int
	outcome     func() error
	done        chan struct{} // closed when outcome is set
}

// due is a message that a stay must have.
type due struct {
	message *message
	fault   *fault        // the fault that it was across; nil: none
	at      time.Duration // when it arrived; 0: not yet
}

func (r *run) newStay(member int) *stay {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := &stay{
		run: r, id: len(r.stays), member: member, outgoing: make(chan *message, backlog), stopped: make(chan struct{}),
		due: make(map[[2]int]*due), extra: make(map[[2]int]bool), last: make(map[int]int),
		wrong: make(map[string]int), lost: make(map[string]int),
	}
	r.stays = append(r.stays, st)
	return st
}

func (s *stay) stop() {
	close(s.outgoing)
	s.session.stop()
	close(s.stopped)
}

func (m *message) data() []byte {
	data := make([]byte, max(m.size, header))
	binary.BigEndian.PutUint32(data, uint32(m.stay))
	binary.BigEndian.PutUint32(data[4:], uint32(m.count))
	return data
}

func (s *stay) expect(d *due) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due[[2]int{d.message.stay, d.message.count}] = d
	s.owed++
}

func (s *stay) message(user string, data []byte) {
	from, count := int(binary.BigEndian.Uint32(data)), int(binary.BigEndian.Uint32(data[4:]))
	s.run.mu.Lock()
	member := s.run.stays[from].member
	s.run.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if user != "" && user != userName(member) {
		s.wrong["from somebody else"]++
	}
	last, any := s.last[from]
	if !any || count > last {
		s.last[from] = count
	}
	key := [2]int{from, count}
	d := s.due[key]
	switch {
	case d == nil && s.extra[key], d != nil && d.at != 0:
		s.wrong["duplicate"]++
		return
	case d == nil:
		s.extra[key] = true
	default:
		d.at = s.run.now()
		s.owed--
	}
	if any && count <= last {
		s.wrong["out of order"]++
	}
}

func (s *stay) gap(user string, missing int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[user] += missing
}

func (s *stay) lagged(missed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong["missed by a slow reader"] += missed
}
