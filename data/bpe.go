package data

import (
	"container/heap"
	"fmt"
)

// TrainBPE learns a byte-level vocabulary of size tokens (Sennrich et al. 2016, arXiv:1508.07909): starting from
// the 256 bytes, the most frequent pair of neighbours inside words becomes a token, again and again. Ties go to the
// pair of lower numbers. Words are what GPT-2's pre-tokenizer cuts.
func TrainBPE(text string, size int) (*Vocab, error) {
	if size < 256 || size > 1<<20 {
		return nil, fmt.Errorf("data: a byte-level vocabulary has 256 to %d tokens, not %d", 1<<20, size)
	}
	names := byteNames()
	tokens := append([]string(nil), names[:]...)
	t := newBPETrainer(words(text))
	var merges [][2]string
	for len(tokens) < size {
		p, ok := t.best()
		if !ok {
			break // nothing occurs twice
		}
		merges = append(merges, [2]string{tokens[p.a], tokens[p.b]})
		tokens = append(tokens, tokens[p.a]+tokens[p.b])
		t.merge(p, int32(len(tokens)-1))
	}
	vocab := make(map[string]int, len(tokens))
	for i, s := range tokens {
		if _, twice := vocab[s]; twice {
			return nil, fmt.Errorf("data: two merges give %q", s)
		}
		vocab[s] = i
	}
	pre, dec := byteLevel()
	return newVocab(pre, dec, vocab, merges)
}

type pair struct{ a, b int32 }

type word struct {
	ids   []int32
	count int
}

type bpeTrainer struct {
	words  []word
	counts map[pair]int
	where  map[pair]map[int]bool
	queue  pairQueue
}

func newBPETrainer(ws map[string]int) *bpeTrainer {
	t := &bpeTrainer{counts: map[pair]int{}, where: map[pair]map[int]bool{}}
	for _, s := range sortedKeys(ws) {
		w := word{count: ws[s]}
		for _, b := range []byte(s) {
			w.ids = append(w.ids, int32(b))
		}
		t.words = append(t.words, w)
		for i := 1; i < len(w.ids); i++ {
			t.add(pair{w.ids[i-1], w.ids[i]}, w.count, len(t.words)-1)
		}
	}
	for p, n := range t.counts {
		t.queue = append(t.queue, queued{p, n})
	}
	heap.Init(&t.queue)
	return t
}

func (t *bpeTrainer) add(p pair, n, w int) {
	t.counts[p] += n
	if t.where[p] == nil {
		t.where[p] = map[int]bool{}
	}
	t.where[p][w] = true
}

// best pops the most frequent pair; entries whose count changed since are put back with the new one.
func (t *bpeTrainer) best() (pair, bool) {
	for len(t.queue) > 0 {
		q := heap.Pop(&t.queue).(queued)
		n := t.counts[q.pair]
		if n != q.count {
			if n > 1 {
				heap.Push(&t.queue, queued{q.pair, n})
			}
			continue
		}
		return q.pair, n > 1
	}
	return pair{}, false
}

func (t *bpeTrainer) merge(p pair, id int32) {
	grown := map[pair]bool{}
	for wi := range t.where[p] {
		w := &t.words[wi]
		for i := 1; i < len(w.ids); i++ {
			t.counts[pair{w.ids[i-1], w.ids[i]}] -= w.count
		}
		out := w.ids[:0]
		for i := 0; i < len(w.ids); i++ {
			if i+1 < len(w.ids) && w.ids[i] == p.a && w.ids[i+1] == p.b {
				out = append(out, id)
				i++
			} else {
				out = append(out, w.ids[i])
			}
		}
		w.ids = out
		for i := 1; i < len(out); i++ {
			q := pair{out[i-1], out[i]}
			t.add(q, w.count, wi)
			if q.a == id || q.b == id {
				grown[q] = true
			}
		}
	}
	delete(t.counts, p)
	delete(t.where, p)
	for q := range grown {
		heap.Push(&t.queue, queued{q, t.counts[q]})
	}
}

type queued struct {
	pair  pair
	count int
}

type pairQueue []queued

func (q pairQueue) Len() int { return len(q) }
func (q pairQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	switch {
	case a.count != b.count:
		return a.count > b.count
	case a.pair.a != b.pair.a:
		return a.pair.a < b.pair.a
	}
	return a.pair.b < b.pair.b
}
func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *pairQueue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *pairQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
