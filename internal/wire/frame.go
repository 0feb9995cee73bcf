package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// SizeError reports a frame whose announced length is over the reader's limit. Both are in bytes.
type SizeError struct {
	Size  uint64
	Limit int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("frame of %d bytes is over the limit of %d", e.Size, e.Limit)
}

// ErrLength reports a length prefix that is not a varint of at most ten bytes.
var ErrLength = errors.New("frame length is not a varint")

// AppendFrame appends m as a frame to dst.
func AppendFrame(dst []byte, m proto.Message) ([]byte, error) {
	var opts proto.MarshalOptions
	dst = binary.AppendUvarint(dst, uint64(opts.Size(m)))
	opts.UseCachedSize = true
	return opts.MarshalAppend(dst, m)
}

// WriteFrame writes m as a frame in one call of w.Write.
func WriteFrame(w io.Writer, m proto.Message) error {
	frame, err := AppendFrame(nil, m)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

// Reader reads frames. It is for one goroutine at a time.
type Reader struct {
	r     *bufio.Reader
	limit int
	buf   []byte
}

// readerBuffer is the size of a Reader's buffer in bytes: one read fetches a burst of small frames.
const readerBuffer = 16 << 10

// NewReader returns a Reader that refuses frames of more than limit bytes.
func NewReader(r io.Reader, limit int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, readerBuffer), limit: limit}
}

// Next reads one frame into m, which it resets first. It returns io.EOF at the end of the stream
// between two frames, io.ErrUnexpectedEOF inside one, a *SizeError for a frame over the limit, and
// ErrLength for a length that is no varint.
func (r *Reader) Next(m proto.Message) error {
	raw, err := r.NextRaw()
	if err != nil {
		return err
	}
	return proto.Unmarshal(raw, m)
}

// NextRaw is Next for callers that decode the frame themselves. The bytes are valid until the next
// call.
func (r *Reader) NextRaw() ([]byte, error) {
	size, err := r.length()
	if err != nil {
		return nil, err
	}
	if size > uint64(r.limit) {
		return nil, &SizeError{Size: size, Limit: r.limit}
	}
	n := int(size)
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return r.buf, nil
}

// Peek blocks until the first byte of the next frame has arrived, and consumes nothing. A caller
// can wait without a deadline between frames, and set one for the rest of a frame.
func (r *Reader) Peek() error {
	_, err := r.r.Peek(1)
	return err
}

func (r *Reader) length() (uint64, error) {
	var size uint64
	for shift := uint(0); shift < 64; shift += 7 {
		b, err := r.r.ReadByte()
		if err != nil {
			if shift > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if shift == 63 && b > 1 {
			return 0, ErrLength
		}
		size |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return size, nil
		}
	}
	return 0, ErrLength
}
