package mesh

import "testing"

func TestTheQueueKeepsItsOrderWhicheverEndItIsFilledFrom(t *testing.T) {
	var (
		f    fifo
		want []*sending
	)
	for i := range 5000 {
		p := &sending{id: uint64(i)}
		switch i % 7 {
		case 0, 1, 2:
			f.push(p)
			want = append(want, p)
		case 3:
			f.pushFront(p)
			want = append([]*sending{p}, want...)
		case 4:
			if got := f.pop(); got != want[0] {
				t.Fatalf("pop: got %d, want %d", got.id, want[0].id)
			}
			want = want[1:]
		case 5:
			if got := f.popLast(); got != want[len(want)-1] {
				t.Fatalf("popLast: got %d", got.id)
			}
			want = want[:len(want)-1]
		case 6:
			f.push(p)
			want = append(want, p)
			if i%70 == 6 {
				for len(want) > 3 {
					if got := f.pop(); got != want[0] {
						t.Fatalf("pop: got %d, want %d", got.id, want[0].id)
					}
					want = want[1:]
				}
			}
		}
		if f.len() != len(want) {
			t.Fatalf("length: got %d, want %d", f.len(), len(want))
		}
		for j, p := range want {
			if f.at(j) != p {
				t.Fatalf("at %d: got %d, want %d", j, f.at(j).id, p.id)
			}
		}
	}
}
