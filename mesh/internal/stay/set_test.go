package stay

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestASetIsWalkedInTheOrderOfItsAdditions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var s set[int]
	var want []int
	for range 10_000 {
		k := 1 + rng.IntN(40)
		i := slices.Index(want, k)
		require.Equal(t, i >= 0, s.has(k))
		switch {
		case rng.IntN(2) == 0:
			s.remove(k)
			if i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
		default:
			s.add(k)
			if i < 0 {
				want = append(want, k)
			}
		}
		require.Equal(t, len(want), s.len())
		require.Equal(t, slices.Clone(want), slices.AppendSeq([]int(nil), s.all()))
		require.LessOrEqual(t, len(s.list), 128, "it does not grow for ever")
	}
}

func TestASetMayChangeWhileItIsWalked(t *testing.T) {
	var s set[int]
	for k := 1; k <= 5; k++ {
		s.add(k)
	}
	var walked []int
	for k := range s.all() {
		walked = append(walked, k)
		s.remove(k)
		switch k {
		case 1:
			s.remove(3)
		case 4:
			s.add(6)
		}
	}
	require.Equal(t, []int{1, 2, 4, 5, 6}, walked)
	require.Zero(t, s.len())
	require.Empty(t, slices.Collect(s.all()))
}
