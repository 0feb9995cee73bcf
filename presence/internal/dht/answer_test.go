package dht

import (
	"strings"
	"testing"

	pb "github.com/libp2p/go-libp2p-kad-dht/pb"
	record2 "github.com/libp2p/go-libp2p-record"
	recpb "github.com/libp2p/go-libp2p-record/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// putRequest returns a request like those that publish sends.
func putRequest() *pb.Message {
	req := pb.NewMessage(pb.Message_PUT_VALUE, []byte("/starling/a"), 0)
	req.Record = record2.MakePutRecord("/starling/a", []byte("sealed"))
	return req
}

func encode(t testing.TB, m *pb.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	require.NoError(t, err)
	return raw
}

func TestAnAnswerHoldsWhatWasAskedForOrIsRefused(t *testing.T) {
	get := pb.NewMessage(pb.Message_GET_VALUE, []byte("/starling/a"), 0)
	find := pb.NewMessage(pb.Message_FIND_NODE, []byte("someone"), 0)
	with := func(m *pb.Message, rec *recpb.Record) *pb.Message {
		m = proto.Clone(m).(*pb.Message)
		m.Record = rec
		return m
	}
	for _, c := range []struct {
		name   string
		req    *pb.Message
		answer *pb.Message
		ok     bool
	}{
		{"the record that was put", putRequest(), putRequest(), true},
		{"nothing at all, which decodes as a PUT_VALUE", putRequest(), new(pb.Message), false},
		{"no record", putRequest(), with(putRequest(), nil), false},
		{"an empty record", putRequest(), with(putRequest(), new(recpb.Record)), false},
		{"another value", putRequest(), with(putRequest(), record2.MakePutRecord("/starling/a", []byte("x"))), false},
		{"another key", putRequest(), with(putRequest(), record2.MakePutRecord("/starling/b", []byte("sealed"))), false},
		{"no record to a question", get, get, true},
		{"a record to a question", get, with(get, record2.MakePutRecord("/starling/a", []byte("x"))), true},
		{"a record of another key", get, with(get, record2.MakePutRecord("/starling/b", []byte("x"))), false},
		{"a record without a value", get, with(get, record2.MakePutRecord("/starling/a", nil)), false},
		{"nothing to a question", get, new(pb.Message), false},
		{"an answer of another type", get, find, false},
		{"an answer about another key", find, pb.NewMessage(pb.Message_FIND_NODE, []byte("else"), 0), false},
		{"an answer without a key, as the library gives", find, pb.NewMessage(pb.Message_FIND_NODE, nil, 0), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readAnswer(c.req, encode(t, c.answer))
			if !c.ok {
				require.ErrorIs(t, err, errAnswer)
				return
			}
			require.NoError(t, err)
			require.True(t, proto.Equal(c.answer.GetRecord(), got.GetRecord()))
		})
	}
}

func TestAnAnswerNamesOnlyNodesThatCanBeDialled(t *testing.T) {
	id, err := peer.Decode("12D3KooWNaEFADvRaAopGCdgEPp8wKB3XW2YzCUxgkzizsTh9odk")
	require.NoError(t, err)
	good := []byte{4, 127, 0, 0, 1, 6, 0, 1}
	req := pb.NewMessage(pb.Message_GET_PROVIDERS, []byte("name"), 0)
	m := pb.NewMessage(pb.Message_GET_PROVIDERS, []byte("name"), 0)
	m.CloserPeers = []*pb.Message_Peer{
		{}, {Id: []byte("x")}, {Id: []byte(strings.Repeat("x", 1000))},
		{Id: []byte(id), Addrs: [][]byte{nil, {}, {255}, []byte(strings.Repeat("\x04", 300)), good}},
	}
	for range 2 * maxAnswerNodes {
		m.ProviderPeers = append(m.ProviderPeers, &pb.Message_Peer{Id: []byte(id)})
	}
	got, err := readAnswer(req, encode(t, m))
	require.NoError(t, err)
	require.Len(t, got.CloserPeers, 1)
	require.Equal(t, [][]byte{good}, got.CloserPeers[0].Addrs)
	require.Len(t, got.ProviderPeers, maxAnswerNodes-len(m.CloserPeers))
}
