package wire

import ma "github.com/multiformats/go-multiaddr"

// Bounds on the addresses that a device states.
const (
	MaxAddrs = 16
	MaxAddr  = 256 // bytes
)

// ParseAddrs returns the multiaddrs that a device states, at most MaxAddrs. It skips those that are
// not valid here: a later version may know more kinds of address.
func ParseAddrs(raw [][]byte) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, b := range raw {
		if len(out) == MaxAddrs {
			break
		}
		if len(b) == 0 || len(b) > MaxAddr {
			continue
		}
		if a, err := ma.NewMultiaddrBytes(b); err == nil {
			out = append(out, a)
		}
	}
	return out
}
