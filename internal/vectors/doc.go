// Package vectors reads the test vectors of docs/vectors, for the tests of every package that
// encodes a part of the protocol.
//
//	var names vectors.Names
//	vectors.Read(t, "names", &names)
//	for _, app := range names.Apps {
//		require.Equal(t, [32]byte(app.ID), [32]byte(identity.NewAppID(app.Name)))
//	}
//
// The files belong to the protocol, not to the code: docs/PROTOCOL.md says what they mean, and a
// peer in another language can be tested with them unchanged. The tests of this package generate
// them again from fixed keys and a fixed time and compare; after an intended change, write them
// with
//
//	go test ./internal/vectors -update
//
// A second test checks every vector with nothing but the standard library and a reader of protobuf
// fields. A third is a peer, written from the document alone, that talks to a real node.
package vectors
