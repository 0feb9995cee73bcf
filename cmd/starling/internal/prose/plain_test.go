package prose

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrorsAreToldWithoutThePackagesTheyComeFrom(t *testing.T) {
	for in, want := range map[string]string{
		"node: mesh: join ops: identity: token: expired":     "join ops: token: expired",
		"node: address \"x\": no\nnode: the node: is it on?": "address \"x\": no\nthe node: is it on?",
		"send to bob: peer unreachable (presence: no)":       "send to bob: peer unreachable (no)",
		"out of nodes: 3": "out of nodes: 3",
	} {
		require.Equal(t, want, Plain(errors.New(in)))
	}
}
