// Package identity says who a node is, and proves it to other nodes without asking a third party.
//
//	dir, err := identity.OpenDir(path) // keys, ports, pins: created if they are missing
//	if err != nil {
//		return err // *identity.DirError (in use: identity.ErrInUse) or *identity.KeyError
//	}
//	defer dir.Close()
//	now := time.Now()
//	st, err := dir.Keys().Sign(identity.Statement{
//		App: identity.NewAppID("starling"), User: "alice", LoggedIn: true,
//		Sequence: identity.NextSequence(dir.Sequence(), now), Issued: now, Expires: now.Add(24 * time.Hour),
//	})
//	…
//	got, err := identity.Verify(st.Sealed(), identity.NewAppID("starling"), time.Now()) // on any other node
//	fmt.Println(got.User, got.UserKey.Fingerprint(), got.Peer)
//
// # Who needs what
//
// A program with a node needs [Login], [Address] and [ConflictError]; in app mode also [Issuers]
// ([ReadIssuers]) and, to tell errors of tokens apart, [TokenError]. To carry a user to another
// device it needs [ExportUserKey] and [ImportUserKey].
//
// A backend that issues tokens needs [ReadKey], [NewIssuer], [Claims], [ParseDeviceKey] and
// [Revocations], and no node.
//
// The rest is for the packages that are built on this one: [Keys], [Dir], [Pins], [Statement],
// [Verifier], [Authority], [Grant], [Session] and [Remembered].
//
// # Keys
//
// A device key is the libp2p key of one node; the node's peer ID derives from it. A user key
// identifies the user and certifies device keys. By default the two are one key. [ExportUserKey]
// and [ImportUserKey] carry the user key to a second device, which keeps its own device key. So the
// same user on another device can be told apart from somebody else with the same name.
//
// # Names
//
// In open mode everybody chooses a name. Names are not unique; user keys are. [Pins] remember which
// key a name meant when it was first used. An [Address] such as alice#k3q2… names exactly one key.
//
// # Statements
//
// A [Statement] is the one signed object about a log-in: a hello shows it, a directory keeps it,
// rooms list it. It travels sealed and is verified on the bytes received; nothing is ever
// marshalled again to be verified. [Verify] accepts any bytes, reads at most 8 KiB, and tolerates
// clocks that are two minutes off.
//
// # Data directory
//
// A [Dir] holds the keys, each in a file that only its owner may read, written so that a crash
// leaves either the old file or the new one. It also holds a database with ports, pins, remembered
// peers, the log-in sequence and lists of revocations. Its lock keeps out a second node: two nodes
// with one device key would cut each other's connections.
package identity
