package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxMessage is the largest payload of one message in bytes, as known from RTC messaging.
	MaxMessage = 64 << 10
	// MaxEnvelope bounds a sealed envelope in bytes.
	MaxEnvelope = 256 << 10
	// MaxContent bounds the items of one envelope in bytes. It leaves the other fields 16 KiB, far
	// more than version 1 fills.
	MaxContent = 240 << 10

	keySize  = 32
	feedSize = 16
)

// EnvelopeError reports why no member may accept an envelope.
type EnvelopeError struct{ Reason string }

func (e *EnvelopeError) Error() string { return "envelope: " + e.Reason }

var errEnvelopeSize = &EnvelopeError{fmt.Sprintf("more than %d bytes", MaxEnvelope)}

// AppendItem appends one item to the serialised Items in dst.
func AppendItem(dst []byte, kind Kind, payload []byte) []byte {
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(itemBody(kind, len(payload))))
	dst = protowire.AppendTag(dst, 1, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(kind))
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	return protowire.AppendBytes(dst, payload)
}

// ItemSize returns how many bytes AppendItem adds for a payload of size bytes.
func ItemSize(kind Kind, size int) int {
	body := itemBody(kind, size)
	return 1 + protowire.SizeVarint(uint64(body)) + body
}

func itemBody(kind Kind, size int) int {
	return 1 + protowire.SizeVarint(uint64(kind)) + 1 + protowire.SizeBytes(size)
}

// NextItem splits the first item off serialised Items. The payload shares content's memory, with no
// capacity to append into. It skips unknown fields.
func NextItem(content []byte) (kind Kind, payload, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(content)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return 0, nil, nil, errItems
	}
	item, m := protowire.ConsumeBytes(content[n:])
	if m < 0 {
		return 0, nil, nil, errItems
	}
	rest = content[n+m:]
	for len(item) > 0 {
		num, typ, n := protowire.ConsumeTag(item)
		if n < 0 || !num.IsValid() {
			return 0, nil, nil, errItems
		}
		item = item[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(item)
			if n < 0 {
				return 0, nil, nil, errItems
			}
			kind, item = Kind(v), item[n:]
		case num == 2 && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(item)
			if n < 0 {
				return 0, nil, nil, errItems
			}
			payload, item = v[:len(v):len(v)], item[n:]
		default:
			n := protowire.ConsumeFieldValue(num, typ, item)
			if n < 0 {
				return 0, nil, nil, errItems
			}
			item = item[n:]
		}
	}
	return kind, payload, rest, nil
}

var errItems = errors.New("items are malformed")

// SealEnvelope serialises, signs and seals e. It checks nothing.
func SealEnvelope(key ed25519.PrivateKey, e *Envelope) ([]byte, error) {
	var opts proto.MarshalOptions
	buf := make([]byte, SignatureSize, SignatureSize+opts.Size(e))
	opts.UseCachedSize = true
	buf, err := opts.MarshalAppend(buf, e)
	if err != nil {
		return nil, err
	}
	copy(buf, Sign(DomainEnvelope, key, buf[SignatureSize:]))
	return buf, nil
}

// OpenEnvelope verifies a sealed envelope as far as the bytes alone allow, so that every member
// gets the same result. The result shares no memory with sealed.
func OpenEnvelope(sealed []byte) (*Envelope, error) {
	if len(sealed) > MaxEnvelope {
		return nil, errEnvelopeSize
	}
	sig, body, err := Split(sealed)
	if err != nil {
		return nil, err
	}
	e := new(Envelope)
	if err := proto.Unmarshal(body, e); err != nil {
		return nil, &EnvelopeError{"not a protobuf message"}
	}
	switch {
	case len(e.App) != keySize, len(e.Room) != keySize, len(e.Device) != keySize, len(e.Feed) != feedSize:
		return nil, &EnvelopeError{"a field has the wrong length"}
	case e.First == 0 || e.First+uint64(e.Count) < e.First:
		return nil, &EnvelopeError{"the sequence is out of range"}
	case e.First == 1 && len(e.Previous) != 0, e.First > 1 && len(e.Previous) != sha256.Size:
		return nil, &EnvelopeError{"the previous hash does not fit the sequence"}
	case len(e.Content) > MaxContent:
		return nil, &EnvelopeError{fmt.Sprintf("content of more than %d bytes", MaxContent)}
	case e.Count == 0:
		return nil, &EnvelopeError{"a wrong count of items"}
	}
	// The content of a later version's scheme cannot be checked; it is passed on as it is.
	if e.Scheme == 0 {
		if err := checkItems(e.Content, e.Count); err != nil {
			return nil, err
		}
	}
	// Last, since it costs the most.
	if !Check(DomainEnvelope, e.Device, body, sig) {
		return nil, ErrSignature
	}
	return e, nil
}

// ParseEnvelope reads an envelope that was verified before.
func ParseEnvelope(sealed []byte) (*Envelope, error) {
	_, body, err := Split(sealed)
	if err != nil {
		return nil, err
	}
	e := new(Envelope)
	return e, proto.Unmarshal(body, e)
}

// checkItems accepts unknown kinds: they count in the sequence, and a later version may have them.
func checkItems(content []byte, count uint32) error {
	var n uint32
	for len(content) > 0 {
		kind, payload, rest, err := NextItem(content)
		switch {
		case err != nil:
			return &EnvelopeError{"malformed items"}
		case kind == Kind_KIND_UNSPECIFIED:
			return &EnvelopeError{"an item without a kind"}
		case len(payload) > MaxMessage:
			return &EnvelopeError{fmt.Sprintf("an item of more than %d bytes", MaxMessage)}
		case (kind == Kind_KIND_TEXT || kind == Kind_KIND_BINARY) && len(payload) == 0:
			return &EnvelopeError{"an empty message"}
		case kind == Kind_KIND_TEXT && !utf8.Valid(payload):
			return &EnvelopeError{"text that is not UTF-8"}
		}
		content = rest
		n++
	}
	if n != count {
		return &EnvelopeError{"a wrong count of items"}
	}
	return nil
}

// Continues reports whether e names previous as the hash of the envelope before it.
func (e *Envelope) Continues(previous [sha256.Size]byte) bool {
	return bytes.Equal(e.Previous, previous[:])
}

// Next returns the sequence that follows e's last item.
func (e *Envelope) Next() uint64 { return e.First + uint64(e.Count) }
