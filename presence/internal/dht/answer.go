package dht

import (
	"bytes"
	"errors"
	"fmt"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/starling-mesh/starling/internal/wire"
)

// Bounds on one answer in the DHT. Any node may have sent it: it need not have completed a hello.
const (
	// maxAnswer bounds an answer in bytes: 20 nodes and the one asked for, each of up to 8 KiB as
	// the library sends them, and a record.
	maxAnswer = 256 << 10
	// maxAnswerNodes is how many nodes or devices of one answer are read; the rest is skipped.
	maxAnswerNodes = 256
	// maxAnswerNode bounds one of them in bytes, twice what the library sends; a larger one is
	// skipped.
	maxAnswerNode = 16 << 10
	// maxAnswerID bounds a peer ID in bytes. The ID of an Ed25519 key has 38.
	maxAnswerID = 64
	// maxAnswerRecord bounds a record with its key and time, in bytes.
	maxAnswerRecord = maxRecord + 1<<10
)

// answerLimit returns the largest size of an answer, in bytes. The library fills an answer to
// GET_PROVIDERS up to the limit of libp2p.
func answerLimit(t pb.Message_MessageType) int {
	if t == pb.Message_GET_PROVIDERS {
		return network.MessageSizeMax
	}
	return maxAnswer
}

// errAnswer reports that a node of the DHT sent something that does not answer the request.
var errAnswer = errors.New("dht: not an answer to the request")

// readAnswer decodes an answer to a request and checks it. The result is safe to use without
// further checks: it has the type of the request, a PUT_VALUE holds the record that was put, any
// other record has the requested key and a value, and every node has a valid peer ID and addresses
// that parse. The library would dereference a missing record.
func readAnswer(req *pb.Message, raw []byte) (*pb.Message, error) {
	// PUT_VALUE is 0, the type of a message without one.
	out := pb.NewMessage(pb.Message_PUT_VALUE, req.GetKey(), req.GetClusterLevel())
	for nodes := 0; len(raw) > 0; {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return nil, notAnswer("%v", protowire.ParseError(n))
		}
		raw = raw[n:]
		if n = protowire.ConsumeFieldValue(num, typ, raw); n < 0 {
			return nil, notAnswer("%v", protowire.ParseError(n))
		}
		value := raw[:n]
		raw = raw[n:]
		if num == answerCloser || num == answerProvide {
			if nodes++; nodes > maxAnswerNodes {
				continue
			}
		}
		if err := answerField(req, out, num, typ, value); err != nil {
			return nil, err
		}
	}
	if out.Type != req.GetType() {
		return nil, notAnswer("type %d to a request of type %d", out.Type, req.GetType())
	}
	return out, checkAnswer(req, out)
}

// The fields of a message of the DHT.
const (
	answerType    protowire.Number = 1
	answerKey     protowire.Number = 2
	answerRecord  protowire.Number = 3
	answerCloser  protowire.Number = 8
	answerProvide protowire.Number = 9
)

// answerField reads one field. It ignores unknown fields.
func answerField(req, out *pb.Message, num protowire.Number, typ protowire.Type, value []byte) error {
	switch num {
	case answerType:
		if typ != protowire.VarintType {
			return notAnswer("field %d of kind %d", num, typ)
		}
		t, _ := protowire.ConsumeVarint(value)
		out.Type = pb.Message_MessageType(int32(t))
		return nil
	case answerKey, answerRecord, answerCloser, answerProvide:
	default:
		return nil
	}
	if typ != protowire.BytesType {
		return notAnswer("field %d of kind %d", num, typ)
	}
	body, _ := protowire.ConsumeBytes(value)
	switch num {
	case answerKey:
		if len(body) > 0 && !bytes.Equal(body, req.GetKey()) {
			return notAnswer("another key")
		}
	case answerRecord:
		if len(body) > maxAnswerRecord {
			return notAnswer("record of %d bytes", len(body))
		}
		out.Record = new(recpb.Record)
		if err := proto.Unmarshal(body, out.Record); err != nil {
			return notAnswer("record: %v", err)
		}
	case answerCloser:
		out.CloserPeers = appendNode(out.CloserPeers, body)
	case answerProvide:
		out.ProviderPeers = appendNode(out.ProviderPeers, body)
	}
	return nil
}

// appendNode appends a node if it is valid, without those of its addresses that are not.
func appendNode(nodes []*pb.Message_Peer, body []byte) []*pb.Message_Peer {
	if len(body) > maxAnswerNode {
		return nodes
	}
	var said pb.Message_Peer
	if proto.Unmarshal(body, &said) != nil || len(said.Id) > maxAnswerID {
		return nodes
	}
	if _, err := peer.IDFromBytes(said.Id); err != nil {
		return nodes
	}
	node := &pb.Message_Peer{Id: said.Id, Connection: said.Connection}
	for _, a := range said.Addrs {
		if len(node.Addrs) == wire.MaxAddrs {
			break
		}
		if len(a) == 0 || len(a) > wire.MaxAddr { // an empty one parses, to nil
			continue
		}
		if _, err := ma.NewMultiaddrBytes(a); err == nil {
			node.Addrs = append(node.Addrs, a)
		}
	}
	return append(nodes, node)
}

// checkAnswer checks the contents of an answer of the right type, and drops what does not belong
// there.
func checkAnswer(req, out *pb.Message) error {
	rec := out.Record
	switch req.GetType() {
	case pb.Message_PUT_VALUE:
		switch want := req.GetRecord(); {
		case rec == nil:
			return notAnswer("no record")
		case !bytes.Equal(rec.GetKey(), want.GetKey()) || !bytes.Equal(rec.GetValue(), want.GetValue()):
			return notAnswer("another record than was put")
		}
		out.CloserPeers, out.ProviderPeers = nil, nil
	case pb.Message_GET_VALUE:
		if rec != nil && (!bytes.Equal(rec.GetKey(), req.GetKey()) || len(rec.GetValue()) == 0) {
			return notAnswer("a record of another key, or without a value")
		}
		out.ProviderPeers = nil
	case pb.Message_GET_PROVIDERS:
		out.Record = nil
	case pb.Message_FIND_NODE:
		out.Record, out.ProviderPeers = nil, nil
	default:
		out.Record, out.CloserPeers, out.ProviderPeers = nil, nil, nil
	}
	return nil
}

func notAnswer(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errAnswer}, args...)...)
}
