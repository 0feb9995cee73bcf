package mesh

// early are messages to this node alone that came while the room was not ready, or not ready again:
// nothing comes before the event that it is. They were acknowledged, so they are queued in any
// case.
type early struct {
	list  []*DirectMessage
	bytes int
}

// maxAwait and maxAwaitBytes bound them. Others are refused, as if the program did not read.
const (
	maxAwait      = 1024
	maxAwaitBytes = 1 << 20
)

func (e *early) add(msg *DirectMessage, size int) bool {
	if len(e.list) >= maxAwait || e.bytes+size > maxAwaitBytes {
		return false
	}
	e.list, e.bytes = append(e.list, msg), e.bytes+size
	return true
}

// handUp queues what came early. The room's lock is held.
func (r *Room) handUp() {
	for _, msg := range r.early.list {
		r.queue.PushNotice(msg)
	}
	r.early = early{}
}
