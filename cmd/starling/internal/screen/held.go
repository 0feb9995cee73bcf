package screen

import (
	"bytes"
	"io"
	"sync"
)

// heldBack keeps the last of what is written to standard error while the terminal shows something
// else.
type heldBack struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// maxHeldBack is more than a screen full of lines.
const maxHeldBack = 64 << 10

func (h *heldBack) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p)
	if over := h.buf.Len() - maxHeldBack; over > 0 {
		h.buf.Next(over)
		_, _ = h.buf.ReadBytes('\n')
	}
	return len(p), nil
}

func (h *heldBack) writeTo(w io.Writer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, _ = h.buf.WriteTo(w)
}
