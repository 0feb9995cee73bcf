package mesh

import "cmp"

// beginning is what neighbours have said of where a feed begins for this node, by what it has of the feed and when that was published. The
// zero value is nothing.
//
// One that has something of the feed that is for this node says so, and the lowest such word counts: nothing is lost by it. One that has
// nothing of it says that the feed begins behind its last item. That is no more than that everything up to there is from before this
// node's time, so the highest such word counts: who says less has got less far.
type beginning struct {
	sworn bool   // claim is the author's word, which settles it
	claim uint64 // the first item that is for this node; 0: nobody has any, or is sure
	none  uint64 // the item behind what is surely not for this node; 0: nobody has said
	least uint64 // the lowest word of that kind, if the highest was a lie
	guess uint64 // claim by those who cannot be sure: the feed may have begun before their time, or the question was late
}

// hear takes the word of a neighbour that has the feed through last. One that has nothing of it and cannot be sure has
// said nothing, unless it is that the feed has only its first item yet: that is the author's entry, and nothing is lost by it.
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

// lowest is the lower of two items of which 0 is none.
func lowest(a, b uint64) uint64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// sure is where the feed begins by the word of those who are sure; 0: there are none.
func (b *beginning) sure() uint64 { return cmp.Or(b.claim, b.none) }

// best is where the feed begins by the best word there is; 0: there is none.
func (b *beginning) best() uint64 { return cmp.Or(b.claim, b.none, b.guess) }
