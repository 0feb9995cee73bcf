package wire

import (
	"bytes"
	"testing"

	ma "github.com/multiformats/go-multiaddr"
	"github.com/stretchr/testify/require"
)

func TestOfStatedAddressesOnlyThoseThatAreValidAreRead(t *testing.T) {
	good := ma.StringCast("/ip4/127.0.0.1/tcp/1").Bytes()
	long := ma.StringCast("/dns/" + string(bytes.Repeat([]byte{'a'}, MaxAddr))).Bytes()
	require.Len(t, ParseAddrs([][]byte{nil, {}, {0xff, 0xff}, long, good, good[:3]}), 1)
	var many [][]byte
	for range MaxAddrs + 1 {
		many = append(many, []byte{0xff}, good)
	}
	require.Len(t, ParseAddrs(many), MaxAddrs)
	require.Empty(t, ParseAddrs(nil))
}
