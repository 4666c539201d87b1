package model

import "testing"

// TestHeadShare: every part of every head once, and for few heads the same work for every thread.
func TestHeadShare(t *testing.T) {
	for heads := 1; heads <= 40; heads++ {
		for _, group := range []int{1, 2, 3, 4, 8} {
			for threads := 1; threads <= 16; threads++ {
				var h headShare
				n := h.plan(heads, group, threads)
				done := make([]float64, heads)
				work := make([]float64, threads)
				for i := range n {
					head, part, parts := h.piece(i)
					if head >= heads || part >= parts || group%parts != 0 {
						t.Fatalf("%d heads of %d, %d threads: piece %d is part %d of %d of head %d", heads, group, threads, i, part, parts, head)
					}
					done[head] += 1 / float64(parts)
					work[i*threads/n] += 1 / float64(parts)
				}
				for head, d := range done {
					if d != 1 {
						t.Fatalf("%d heads of %d, %d threads: head %d done %g times", heads, group, threads, head, d)
					}
				}
				for _, w := range work {
					if h.parts > 1 && w != work[0] {
						t.Fatalf("%d heads of %d, %d threads: work %v", heads, group, threads, work)
					}
				}
			}
		}
	}
	var h headShare
	if n := h.plan(5, 4, 2); n != 6 || h.parts != 2 {
		t.Errorf("5 heads on 2 threads: %d pieces, the last head in %d parts", n, h.parts)
	}
}
