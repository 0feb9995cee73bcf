package identity

import (
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// verifierCache is how many verified statements a Verifier keeps: a full room of members, a few times over. At
// 8 KiB each that is at most 16 MiB, and at the usual 300 B less than 1 MiB.
const verifierCache = 2048

// Verifier is [Verify] with a memory: a statement seen before costs a hash instead of two signatures. The
// time is judged on every call. It is safe for concurrent use.
type Verifier struct {
	app   AppID
	cache *lru.Cache[[sha256.Size]byte, *Statement]
}

// NewVerifier returns a verifier of one app's statements.
func NewVerifier(app AppID) *Verifier {
	cache, err := lru.New[[sha256.Size]byte, *Statement](verifierCache)
	if err != nil {
		panic("identity: " + err.Error()) // only a size below 1 fails
	}
	return &Verifier{app: app, cache: cache}
}

// Verify is [Verify] for the verifier's app. Callers with equal bytes get the same *Statement. Only what
// verified is kept, so that forgeries cannot displace it.
func (v *Verifier) Verify(sealed []byte, now time.Time) (*Statement, error) {
	if len(sealed) > MaxStatement {
		return nil, oversize(len(sealed))
	}
	sum := sha256.Sum256(sealed)
	st, ok := v.cache.Get(sum)
	if !ok {
		var err error
		if st, err = open(sealed); err != nil {
			return nil, err
		}
	}
	if err := st.check(v.app, now); err != nil {
		return nil, err
	}
	if !ok {
		v.cache.Add(sum, st)
	}
	return st, nil
}
