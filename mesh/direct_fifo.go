package mesh

// fifo is a queue of messages that frees its memory again.
type fifo struct {
	items []*sending
	head  int
}

func (f *fifo) len() int          { return len(f.items) - f.head }
func (f *fifo) at(i int) *sending { return f.items[f.head+i] }
func (f *fifo) push(p *sending)   { f.items = append(f.items, p) }

func (f *fifo) set(i int, p *sending) { f.items[f.head+i] = p }

func (f *fifo) pop() *sending {
	p := f.items[f.head]
	f.items[f.head] = nil
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	} else if f.head >= 256 && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return p
}

func (f *fifo) popLast() *sending {
	i := len(f.items) - 1
	p := f.items[i]
	f.items[i] = nil
	f.items = f.items[:i]
	return p
}

func (f *fifo) pushFront(p *sending) {
	if f.head == 0 {
		grown := make([]*sending, 64+len(f.items), 128+2*len(f.items))
		copy(grown[64:], f.items)
		f.items, f.head = grown, 64
	}
	f.head--
	f.items[f.head] = p
}
