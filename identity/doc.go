// Package identity says who a node is, and proves it to other nodes without asking a third.
//
//	dir, err := identity.OpenDir(path) // keys, ports, pins: made if they are missing
//	if err != nil {
//		return err // *identity.DirError (held by another process: identity.ErrInUse) or *identity.KeyError
//	}
//	defer dir.Close()
//	now := time.Now()
//	st, err := dir.Keys().Sign(identity.Statement{
//		App: identity.NewAppID("starling"), User: "alice", LoggedIn: true,
//		Sequence: identity.NextSequence(dir.Sequence(), now), Issued: now, Expires: now.Add(24 * time.Hour),
//	})
//	…
//	got, err := identity.Verify(st.Sealed(), identity.NewAppID("starling"), time.Now()) // at anybody else's
//	fmt.Println(got.User, got.UserKey.Fingerprint(), got.Peer)
//
// # Keys
//
// A device key is the libp2p key of one node and gives it its peer ID. A user key says who the user is; it certifies
// device keys. By default the two are one key. [ExportUserKey] and [ImportUserKey] carry the user key to a second
// device, which keeps a device key of its own: so the same user on another device, and somebody else with the same
// name, are told apart.
//
// # Names
//
// In open mode everybody chooses a name, and names are not unique: what is unique is the user key. [Pins] remember
// which key a name meant when it was first used. An [Address] such as alice#k3q2… names one key exactly.
//
// # Statements
//
// A [Statement] is the one signed object about a log-in: what hello shows, what a directory keeps, what rooms list.
// It travels sealed, and is verified on the bytes that came; nothing is ever marshalled again to be verified.
// [Verify] accepts any bytes, reads at most 8 KiB, and needs no clock better than two minutes.
//
// # Data directory
//
// A [Dir] holds the keys, each in a file that only its owner may read, written so that a crash leaves the old file
// or the new one; and one database with ports, pins, remembered peers and the log-in sequence. Its lock keeps a
// second node out: two nodes with one device key would cut each other's connections.
package identity
