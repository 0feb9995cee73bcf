package stay

import "iter"

// set is a set that is walked in the order in which its elements were added, unlike a map: what a
// stay does must not depend on anything but its input. The zero value is empty.
type set[K comparable] struct {
	at      map[K]int
	list    []K // the zero value in place of what was removed
	walking int
}

func (s *set[K]) len() int { return len(s.at) }

func (s *set[K]) has(k K) bool {
	_, ok := s.at[k]
	return ok
}

func (s *set[K]) add(k K) {
	if s.has(k) {
		return
	}
	if s.at == nil {
		s.at = make(map[K]int)
	}
	if len(s.list) == cap(s.list) {
		s.compact()
	}
	s.at[k] = len(s.list)
	s.list = append(s.list, k)
}

func (s *set[K]) remove(k K) {
	i, ok := s.at[k]
	if !ok {
		return
	}
	delete(s.at, k)
	var zero K
	s.list[i] = zero
	if len(s.at) == 0 && s.walking == 0 {
		s.list = s.list[:0]
	}
}

// compact drops the places of what was removed, if there are many.
func (s *set[K]) compact() {
	if s.walking > 0 || len(s.list) < 2*len(s.at) {
		return
	}
	var zero K
	n := 0
	for _, k := range s.list {
		if k != zero {
			s.list[n], s.at[k] = k, n
			n++
		}
	}
	clear(s.list[n:])
	s.list = s.list[:n]
}

// all yields the elements. Some may be added or removed meanwhile; what is added is yielded as
// well.
func (s *set[K]) all() iter.Seq[K] {
	return func(yield func(K) bool) {
		s.compact()
		s.walking++
		defer func() { s.walking-- }()
		var zero K
		for i := 0; i < len(s.list); i++ {
			if k := s.list[i]; k != zero && !yield(k) {
				return
			}
		}
	}
}
