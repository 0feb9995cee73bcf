package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrDirect reports bytes that are not a DirectFrame.
var ErrDirect = errors.New("malformed direct frame")

// Direct is a [DirectFrame] for the path that every direct message takes. It has the same bytes,
// but is coded by hand so that neither encoding nor decoding allocates. In a decoded one, Room, To
// and Payload are slices of the frame's bytes.
type Direct struct {
	Type     DirectFrame_Type
	Sequence uint64
	Kind     Kind
	Room     []byte
	To       []byte
	Payload  []byte
	SentMS   int64
	Reason   DirectFrame_Reason
	Sender   uint64
	Receiver uint64
	Class    DirectFrame_Class
}

// The field numbers of DirectFrame.
const (
	directType = iota + 1
	directSequence
	directKind
	directRoom
	directTo
	directPayload
	directSentMS
	directReason
	directSender
	directReceiver
	directClass
)

func appendVarint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendBytes(dst []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), v)
}

func appendFixed64(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendFixed64(protowire.AppendTag(dst, field, protowire.Fixed64Type), v)
}

// Append appends d to dst as a protobuf message, without the length of a frame. To must be valid
// UTF-8.
func (d *Direct) Append(dst []byte) []byte {
	dst = appendVarint(dst, directType, uint64(d.Type))
	dst = appendVarint(dst, directSequence, d.Sequence)
	dst = d.appendContent(dst)
	dst = appendVarint(dst, directReason, uint64(d.Reason))
	dst = appendFixed64(dst, directSender, d.Sender)
	dst = appendFixed64(dst, directReceiver, d.Receiver)
	return appendVarint(dst, directClass, uint64(d.Class))
}

func (d *Direct) appendContent(dst []byte) []byte {
	dst = appendVarint(dst, directKind, uint64(d.Kind))
	dst = appendBytes(dst, directRoom, d.Room)
	dst = appendBytes(dst, directTo, d.To)
	dst = appendBytes(dst, directPayload, d.Payload)
	return appendVarint(dst, directSentMS, uint64(d.SentMS))
}

// AppendFrame appends d to dst as a frame.
func (d *Direct) AppendFrame(dst []byte) []byte {
	// Bytes of the length that frames here usually have.
	const room = 3
	start := len(dst)
	dst = d.Append(append(dst, make([]byte, room)...))
	size := len(dst) - start - room
	n := protowire.SizeVarint(uint64(size))
	if n < room {
		copy(dst[start+n:], dst[start+room:])
		dst = dst[:start+n+size]
	} else if n > room {
		dst = append(dst, make([]byte, n-room)...)
		copy(dst[start+n:], dst[start+room:start+room+size])
	}
	binary.PutUvarint(dst[start:start+n], uint64(size))
	return dst
}

// AppendContent appends to dst the part of a MESSAGE that is known before it has a sequence.
// [AppendMessageFrame] takes that part each time the message is written.
func (d *Direct) AppendContent(dst []byte) []byte {
	// 32: tags, lengths and two varints
	return d.appendContent(slices.Grow(dst, 32+len(d.Room)+len(d.To)+len(d.Payload)))
}

// AppendMessageFrame appends a MESSAGE as a frame to dst.
func AppendMessageFrame(dst []byte, sequence uint64, content []byte) []byte {
	size := 2 + len(content) // 2: the type
	if sequence != 0 {
		size += 1 + protowire.SizeVarint(sequence)
	}
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = appendVarint(dst, directType, uint64(DirectFrame_MESSAGE))
	dst = appendVarint(dst, directSequence, sequence)
	return append(dst, content...)
}

// Decode sets d to the protobuf message in b; d keeps slices of b. It accepts and refuses the same
// bytes as proto.Unmarshal.
func (d *Direct) Decode(b []byte) error {
	*d = Direct{}
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 || field > protowire.MaxValidNumber {
			return ErrDirect
		}
		b = b[n:]
		var (
			v   uint64
			raw []byte
		)
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			raw, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, typ, b)
		}
		if n < 0 {
			return ErrDirect
		}
		b = b[n:]
		if err := d.set(field, typ, v, raw); err != nil {
			return err
		}
	}
	return nil
}

// set stores one field. It ignores a field that is unknown, or of another wire type.
func (d *Direct) set(field protowire.Number, typ protowire.Type, v uint64, raw []byte) error {
	switch typ {
	case protowire.VarintType:
		switch field {
		case directType:
			d.Type = DirectFrame_Type(v)
		case directSequence:
			d.Sequence = v
		case directKind:
			d.Kind = Kind(v)
		case directSentMS:
			d.SentMS = int64(v)
		case directReason:
			d.Reason = DirectFrame_Reason(v)
		case directClass:
			d.Class = DirectFrame_Class(v)
		}
	case protowire.Fixed64Type:
		switch field {
		case directSender:
			d.Sender = v
		case directReceiver:
			d.Receiver = v
		}
	case protowire.BytesType:
		switch field {
		case directRoom:
			d.Room = raw
		case directTo:
			if !utf8.Valid(raw) {
				return ErrDirect
			}
			d.To = raw
		case directPayload:
			d.Payload = raw
		}
	}
	return nil
}

// DirectReader reads frames of DirectFrame without copying them. It is for one goroutine at a time.
type DirectReader struct {
	r          io.Reader
	limit      int
	stalled    func(bool)
	told       bool // stalled was last called with true
	buf        []byte
	start, end int // what has been read from r and not yet taken
}

// directBuffer is the size of a DirectReader's buffer in bytes, until a frame needs more. One read
// fetches a burst of small frames, and an idle stream costs little.
const directBuffer = 16 << 10

// NewDirectReader returns a reader that refuses frames of more than limit bytes. It calls
// stalled(true) when it must wait for the rest of a frame that has begun, and stalled(false) when
// the rest has come, so that the caller can set a deadline for it. There is no such call while it
// waits for a frame to begin.
func NewDirectReader(r io.Reader, limit int, stalled func(bool)) *DirectReader {
	return &DirectReader{r: r, limit: limit, stalled: stalled, buf: make([]byte, directBuffer)}
}

// Next reads one frame into d, which is valid until the next call. It returns io.EOF at the end of
// the stream between two frames, io.ErrUnexpectedEOF inside one, a *SizeError for a frame over the
// limit, ErrLength for a length that is no varint, and ErrDirect for bytes that are not a
// DirectFrame.
func (r *DirectReader) Next(d *Direct) error {
	for {
		head, size, err := r.peek()
		if err != nil {
			return err
		}
		if head > 0 && r.end-r.start >= head+size {
			if r.told {
				r.told = false
				r.stalled(false)
			}
			frame := r.buf[r.start+head : r.start+head+size : r.start+head+size]
			r.start += head + size
			return d.Decode(frame)
		}
		if err := r.fill(head + size); err != nil {
			return err
		}
	}
}

// Ready reports whether Next would return without reading from the stream.
func (r *DirectReader) Ready() bool {
	head, size, err := r.peek()
	return err != nil || head > 0 && r.end-r.start >= head+size
}

// peek returns the length of the next frame's head and of the rest; head is 0 while it is
// incomplete.
func (r *DirectReader) peek() (head, size int, err error) {
	v, n := binary.Uvarint(r.buf[r.start:r.end])
	if n < 0 || n == 0 && r.end-r.start >= binary.MaxVarintLen64 {
		return 0, 0, ErrLength
	}
	if v > uint64(r.limit) {
		return 0, 0, &SizeError{Size: v, Limit: r.limit}
	}
	return n, int(v), nil
}

// fill reads once, with room for a frame of need bytes.
func (r *DirectReader) fill(need int) error {
	if r.start == r.end {
		r.start, r.end = 0, 0
	} else if !r.told {
		r.told = true
		r.stalled(true)
	}
	if need > len(r.buf) {
		buf := make([]byte, max(need, min(2*len(r.buf), r.limit+binary.MaxVarintLen64)))
		r.end = copy(buf, r.buf[r.start:r.end])
		r.buf, r.start = buf, 0
	} else if r.start > 0 && (r.start+need > len(r.buf) || r.end == len(r.buf)) {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	n, err := r.r.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		return nil // a lasting error is returned again
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) && r.start != r.end {
		return io.ErrUnexpectedEOF
	}
	return err
}
