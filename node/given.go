package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// Failure is why there is no connection to a peer of [WithPeers].
type Failure string

const (
	NobodyThere Failure = "unreachable" // none of its addresses answers
	OtherPeer   Failure = "other_peer"  // a peer with another ID answers
	OtherApp    Failure = "other_app"   // it is a node of another app
	NoNode      Failure = "no_node"     // it is a libp2p peer that does not speak Starling's protocols
	Refused     Failure = "refused"     // one of the two nodes refused the other
	ItIsUs      Failure = "self"        // the address is this node's own
)

// PeerFailed says that a peer of [WithPeers] could not be connected to. It comes after the first
// failed attempt, and again if the reason changes or if the peer was connected meanwhile. The
// attempts go on; a [PeerUp] says that one succeeded.
type PeerFailed struct {
	Header
	Peer   peer.ID  `json:"peer"`
	Addrs  []string `json:"addrs"` // as given
	Reason Failure  `json:"reason"`
	Detail string   `json:"detail"` // for people
}

// maxFailureDetail bounds Detail, in bytes: a part of it may come from the peer.
const maxFailureDetail = 256

// given returns the addresses of a peer of [WithPeers], and none for others.
func (n *Node) given(p peer.ID) (addrs []string) {
	for _, s := range n.cfg.peers {
		if info, err := parsePeer(s); err == nil && info.ID == p {
			addrs = append(addrs, s)
		}
	}
	return addrs
}

// checkGiven waits for the hello of a given peer that is connected now.
func (n *Node) checkGiven(ctx context.Context, p peer.ID) {
	_, err := n.presence.Peer(ctx, p)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, presence.ErrNotConnected), errors.Is(err, presence.ErrClosed):
	default:
		n.peerFailed(p, err)
	}
}

// peerFailed reports that a given peer could not be connected to, unless that was reported before.
// It ignores other peers.
func (n *Node) peerFailed(p peer.ID, err error) {
	addrs := n.given(p)
	if len(addrs) == 0 {
		return
	}
	reason, detail := failure(err)
	news := false
	n.dialer.with(func(core *redialer) { news = core.failed(p, reason) })
	if news {
		n.queue.PushNotice(&PeerFailed{Header: Header{Type: TypePeerFailed}, Peer: p, Addrs: addrs, Reason: reason, Detail: detail})
	}
}

// failure turns an error of a dial or of a hello into a reason and a short text.
func failure(err error) (reason Failure, detail string) {
	refused, isRefused := errors.AsType[*presence.HelloError](err)
	mismatch, isOther := errors.AsType[sec.ErrPeerIDMismatch](err)
	switch {
	case isOther:
		reason, detail = OtherPeer, fmt.Sprintf("the peer there is %s", mismatch.Actual)
	case errors.Is(err, identity.ErrOtherApp):
		reason, detail = OtherApp, "it is a node of another app"
	case isRefused:
		reason, detail = Refused, refused.Reason
	case errors.Is(err, presence.ErrNoHello):
		reason, detail = NoNode, "it is a libp2p peer, and no node of this kind"
	case errors.Is(err, errOwnAddress):
		reason, detail = ItIsUs, err.Error()
	default:
		reason, detail = NobodyThere, dialCauses(err)
	}
	if len(detail) > maxFailureDetail {
		detail = strings.ToValidUTF8(detail[:maxFailureDetail], "")
	}
	return reason, detail
}

var errOwnAddress = errors.New("the address is this node's own")

// dialCauses returns the reasons why dials failed, each once.
func dialCauses(err error) string {
	dial, ok := errors.AsType[*swarm.DialError](err)
	if !ok || len(dial.DialErrors) == 0 {
		return oneCause(err)
	}
	var causes []string
	for _, e := range dial.DialErrors {
		if c := oneCause(e.Cause); !slices.Contains(causes, c) {
			causes = append(causes, c)
		}
	}
	slices.Sort(causes) // they come in any order
	return strings.Join(causes, "; ")
}

func oneCause(err error) string {
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number.Error()
	}
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer"
	}
	return err.Error()
}
