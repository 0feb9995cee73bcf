package stay

import "cmp"

// beginning is what neighbours have said about where a feed begins for this node, judging by what
// they have of the feed and when that was published. The zero value means that they have said
// nothing.
//
// A neighbour that has items of the feed that are for this node says which is the first. The lowest
// of these claims counts, so nothing is lost. A neighbour that has no such item says that the feed
// begins behind its last item. That only means that everything up to there is from before this
// node's time, so the highest of these counts: a lower one comes from a neighbour that has got less
// far.
type beginning struct {
	sworn bool   // claim is the author's word, which settles it
	claim uint64 // the first item that is for this node; 0: nobody has any, or is sure
	none  uint64 // the item behind what is certainly not for this node; 0: nobody has said
	least uint64 // the lowest word of the same kind as none, if the highest was a lie
	guess uint64 // claims by neighbours that cannot be sure: the feed may have begun before them, or the question was late
}

// hear takes the word of a neighbour that has the feed through last. A neighbour that has nothing
// for this node and cannot be sure has said nothing, unless it says that the feed has only its
// first item yet: that is the author's entry, and nothing is lost by it.
func (b *beginning) hear(first, last uint64, sure, author bool) {
	switch {
	case first == 0 || b.sworn && !author:
	case sure && author:
		b.sworn, b.claim = true, first
	case sure && first <= last:
		b.claim = lowest(b.claim, first)
	case sure:
		b.none, b.least = max(b.none, first), lowest(b.least, first)
	case first <= last || first <= 2:
		b.guess = lowest(b.guess, first)
	}
}

// lowest returns the lower of two items; 0 means no item.
func lowest(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// sure returns where the feed begins according to neighbours that are sure; 0: there are none.
func (b *beginning) sure() uint64 { return cmp.Or(b.claim, b.none) }

// best returns where the feed begins according to the best word there is; 0: there is none.
func (b *beginning) best() uint64 { return cmp.Or(b.claim, b.none, b.guess) }
