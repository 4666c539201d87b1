package tokenizer

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// NewChars makes a tokenizer whose tokens are characters: the id of vocab[i] is i. Characters
// outside vocab encode to nothing; see Check.
func NewChars(vocab []rune) (*Tokenizer, error) {
	p := &parts{
		what:    "characters",
		decoder: json.RawMessage(`{"type":"Fuse"}`),
		merges:  noMerges,
	}
	for i, r := range vocab {
		if !utf8.ValidRune(r) || r == utf8.RuneError {
			return nil, fmt.Errorf("tokenizer: vocab[%d] is %U, not a character", i, r)
		}
		p.tokens = append(p.tokens, token{text: string(r), kind: normal})
	}
	return p.assemble()
}

// NewBytes makes the tokenizer whose 256 tokens are bytes; the id of a byte is its value.
func NewBytes() *Tokenizer {
	p := &parts{what: "bytes", merges: noMerges}
	p.byteLevelStages()
	for _, r := range byteToRune {
		p.tokens = append(p.tokens, token{text: string(r), kind: normal})
	}
	t, err := p.assemble()
	if err != nil {
		panic(err) // nothing in it comes from outside
	}
	return t
}

func noMerges([]string, *stringIndex) (*pairTable, error) { return newPairTable(0), nil }

// TrainBPE makes a byte-level BPE vocabulary of at most size tokens from texts: the 256 bytes,
// then merges of the most frequent pairs, then special tokens, of which the first, if any, is BOS
// and the last EOS. Text is cut as for Qwen 2. The result depends on texts alone, not on their
// order: among pairs of equal frequency the lowest ids merge first. Merging stops early when no
// pair occurs twice.
func TrainBPE(texts []string, size int, special ...string) (*Tokenizer, error) {
	if size < 256+len(special) {
		return nil, fmt.Errorf("tokenizer: a byte-level vocabulary has at least %d tokens, not %d", 256+len(special), size)
	}
	p := &parts{what: "trained vocabulary"}
	p.byteLevelStages(reQwen2)

	// Tokens 0 to 255 are the bytes in the order of their characters, as in GPT-2.
	order := slices.Clone(byteToRune[:])
	slices.Sort(order)
	var byteID [256]int32
	for id, r := range order {
		byteID[runeToByte[r]] = int32(id)
		p.tokens = append(p.tokens, token{text: string(r), kind: normal})
	}
	counts := map[string]int{}
	for _, s := range texts {
		for s != "" {
			n := scanQwen2(s)
			counts[s[:n]]++
			s = s[n:]
		}
	}
	tr := newBPETrainer(counts, &byteID)
	var merges [][2]int32
	for len(p.tokens) < size-len(special) {
		pair, ok := tr.next()
		if !ok {
			break
		}
		id := int32(len(p.tokens))
		p.tokens = append(p.tokens, token{text: p.tokens[pair[0]].text + p.tokens[pair[1]].text, kind: normal})
		merges = append(merges, pair)
		tr.merge(pair, id)
	}
	p.merges = func([]string, *stringIndex) (*pairTable, error) {
		t := newPairTable(len(merges))
		for rank, m := range merges {
			t.put(m[0], m[1], int32(rank), int32(256+rank))
		}
		return t, nil
	}
	for i, name := range special {
		if name == "" {
			return nil, fmt.Errorf("tokenizer: special token %d has no name", i)
		}
		p.added = append(p.added, AddedToken{ID: int32(len(p.tokens) + i), Content: name, Special: true})
	}
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	if n := len(special); n > 0 {
		t.bos, t.end = p.added[0].ID, p.added[n-1].ID
		t.eos = []int32{t.end}
	}
	return t, nil
}

// bpeTrainer keeps the words of a corpus as symbols, and for each pair of neighbours its
// frequency and the words it may be in, so that a merge touches only those.
type bpeTrainer struct {
	words [][]int32
	freq  []int
	count map[[2]int32]int
	where map[[2]int32][]int32 // words, some of them out of date
	queue pairQueue            // pairs at frequencies that may be out of date
}

func newBPETrainer(counts map[string]int, byteID *[256]int32) *bpeTrainer {
	t := &bpeTrainer{count: map[[2]int32]int{}, where: map[[2]int32][]int32{}}
	list := make([]string, 0, len(counts))
	for w := range counts {
		list = append(list, w)
	}
	slices.Sort(list)
	for _, w := range list {
		sym := make([]int32, len(w))
		for i := range sym {
			sym[i] = byteID[w[i]]
		}
		t.words = append(t.words, sym)
		t.freq = append(t.freq, counts[w])
		t.add(int32(len(t.words)-1), 1)
	}
	for p, n := range t.count {
		t.queue = append(t.queue, pairCount{p, n})
	}
	heap.Init(&t.queue)
	return t
}

// add counts the pairs of a word, sign times.
func (t *bpeTrainer) add(word int32, sign int) {
	sym := t.words[word]
	for i := 1; i < len(sym); i++ {
		p := [2]int32{sym[i-1], sym[i]}
		t.count[p] += sign * t.freq[word]
		if at := t.where[p]; sign > 0 && (len(at) == 0 || at[len(at)-1] != word) {
			t.where[p] = append(at, word)
		}
	}
}

// next returns the most frequent pair; ok is false when none occurs twice.
func (t *bpeTrainer) next() (pair [2]int32, ok bool) {
	for len(t.queue) > 0 {
		top := t.queue[0]
		now := t.count[top.pair]
		switch {
		case now == top.n && now >= 2:
			heap.Pop(&t.queue)
			return top.pair, true
		case now < 2:
			heap.Pop(&t.queue)
		default:
			t.queue[0].n = now
			heap.Fix(&t.queue, 0)
		}
	}
	return pair, false
}

// merge replaces the pair by id in every word.
func (t *bpeTrainer) merge(pair [2]int32, id int32) {
	fresh := map[[2]int32]bool{}
	for _, word := range t.where[pair] {
		sym := t.words[word]
		at := -1
		for i := 1; i < len(sym); i++ {
			if sym[i-1] == pair[0] && sym[i] == pair[1] {
				at = i
				break
			}
		}
		if at < 0 {
			continue
		}
		t.add(word, -1)
		out := sym[:0]
		for i := 0; i < len(sym); i++ {
			if i+1 < len(sym) && sym[i] == pair[0] && sym[i+1] == pair[1] {
				out = append(out, id)
				i++
			} else {
				out = append(out, sym[i])
			}
		}
		t.words[word] = out
		t.add(word, 1)
		for i := 1; i < len(out); i++ {
			if out[i-1] == id || out[i] == id {
				fresh[[2]int32{out[i-1], out[i]}] = true
			}
		}
	}
	delete(t.where, pair)
	delete(t.count, pair)
	for p := range fresh {
		heap.Push(&t.queue, pairCount{p, t.count[p]})
	}
}

type pairCount struct {
	pair [2]int32
	n    int
}

// pairQueue is a heap: the most frequent pair first, the lowest ids among equals.
type pairQueue []pairCount

func (q pairQueue) Len() int      { return len(q) }
func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q pairQueue) Less(i, j int) bool {
	if q[i].n != q[j].n {
		return q[i].n > q[j].n
	}
	return slices.Compare(q[i].pair[:], q[j].pair[:]) < 0
}
func (q *pairQueue) Push(x any) { *q = append(*q, x.(pairCount)) }
func (q *pairQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
