package presence_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/identity"
	"github.com/starling-mesh/starling/presence"
)

// muteHost has an event bus that accepts no subscribers; a directory with a DHT needs to subscribe.
type muteHost struct{ host.Host }

var errMute = errors.New("no subscribers")

func (h muteHost) EventBus() event.Bus { return muteBus{h.Host.EventBus()} }

type muteBus struct{ event.Bus }

func (muteBus) Subscribe(any, ...event.SubscriptionOpt) (event.Subscription, error) {
	return nil, errMute
}

func TestNoStreamHandlerOutlivesTheDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bare(t, 1)
		defer r.close()
		h := r.net.Host(0)
		ours := func() []protocol.ID {
			return slices.DeleteFunc(h.Mux().Protocols(), func(p protocol.ID) bool { return p[:len("/starling")] != "/starling" })
		}
		require.Empty(t, ours())
		a := authority(t, identity.DefaultLeeway)
		n := r.vouch(0, a, presence.WithDHT(presence.LAN))
		require.Len(t, ours(), 6, "hello, whois, notice, watch, revocations and the DHT")
		require.NoError(t, n.Close())
		require.Empty(t, ours(), "after Close")

		_, err := presence.New(muteHost{h}, a.App(), keysOf(t, r.net.HostKey(0)), presence.WithAuthority(a), presence.WithDHT(presence.LAN))
		require.ErrorIs(t, err, errMute)
		require.Empty(t, ours(), "after a New that failed")
	})
}
