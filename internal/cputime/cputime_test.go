package cputime_test

import (
	"crypto/sha256"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/starling-mesh/starling/internal/cputime"
)

func TestWorkCounts(t *testing.T) {
	if runtime.GOOS == "windows" {
		require.Zero(t, cputime.Now())
		return
	}
	begin, sum := cputime.Now(), make([]byte, 1<<20)
	require.Eventually(t, func() bool {
		h := sha256.Sum256(sum)
		copy(sum, h[:])
		return cputime.Now() > begin
	}, 10*time.Second, time.Microsecond)
}
