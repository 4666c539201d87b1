package grammar

import (
	"bytes"
	"slices"
)

// A Vocab is a model's tokens as a trie of their bytes. It is immutable.
type Vocab struct {
	size     int
	stop     []int32
	stops    []uint64 // bit set of stop
	token    [][]byte
	alphabet *[256]bool // bytes that some token spells alone

	// The trie in depth-first order: the children of i start at i+1; the subtree of i ends
	// before end[i].
	char  []byte
	depth []int32 // 1 for a first byte
	up    []int32
	end   []int32
	first []int32 // tokens of node i: ids[first[i]:first[i+1]]
	ids   []int32
}

// NewVocab indexes a vocabulary. spell returns the bytes that a token adds to a text, none for
// control tokens, which a grammar never allows; stop are the tokens that end a text, which are
// allowed where the grammar may end.
func NewVocab(size int, spell func(id int32) []byte, stop []int32) *Vocab {
	v := &Vocab{
		size: size, token: make([][]byte, size), alphabet: new([256]bool),
		stops: make([]uint64, (size+63)/64),
	}
	for _, id := range stop {
		if id >= 0 && int(id) < size {
			v.stop = append(v.stop, id)
			v.stops[id/64] |= 1 << (id % 64)
		}
	}
	order := make([]int32, 0, size)
	for id := range int32(size) {
		b := spell(id)
		if len(b) == 0 || v.stops[id/64]>>(id%64)&1 == 1 {
			continue
		}
		v.token[id] = bytes.Clone(b)
		order = append(order, id)
		if len(b) == 1 {
			v.alphabet[b[0]] = true
		}
	}
	slices.SortFunc(order, func(a, b int32) int {
		if c := bytes.Compare(v.token[a], v.token[b]); c != 0 {
			return c
		}
		return int(a - b)
	})
	var path []int32
	var last []byte
	for _, id := range order {
		t := v.token[id]
		n := 0
		for n < len(last) && n < len(t) && last[n] == t[n] {
			n++
		}
		for _, i := range path[n:] {
			v.end[i] = int32(len(v.char))
		}
		path = path[:n]
		for ; n < len(t); n++ {
			i, up := int32(len(v.char)), int32(-1)
			if n > 0 {
				up = path[n-1]
			}
			path = append(path, i)
			v.char = append(v.char, t[n])
			v.depth = append(v.depth, int32(n+1))
			v.up = append(v.up, up)
			v.end = append(v.end, 0)
			v.first = append(v.first, int32(len(v.ids)))
		}
		v.ids = append(v.ids, id)
		last = t
	}
	for _, i := range path {
		v.end[i] = int32(len(v.char))
	}
	v.first = append(v.first, int32(len(v.ids)))
	return v
}

// Size is the number of tokens.
func (v *Vocab) Size() int { return v.size }
