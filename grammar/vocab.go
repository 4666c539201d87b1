package grammar

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// A Vocab is a model's tokens as a trie of their bytes. It is safe for concurrent use.
type Vocab struct {
	// Named finds the token that a grammar names by its text, such as <think>. It may be nil.
	Named func(text string) (id int32, ok bool)

	ctx      context.Context // what is compiled stops when it ends; nil: never
	turn     *turn           // of a Cache
	longest  int             // bytes of the longest token
	spreads  *spreads        // of rules that many grammars have, such as strings
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
		stops: make([]uint64, (size+63)/64), spreads: &spreads{of: map[string]*spread{}},
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
		v.longest = max(v.longest, len(b))
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

// Within returns the vocabulary for compilations that stop, with the context's error, when ctx ends.
func (v *Vocab) Within(ctx context.Context) *Vocab {
	w := *v
	w.ctx = ctx
	w.turn, _ = ctx.Value(turnKey{}).(*turn)
	return &w
}

// cancelled is why a compilation must stop, nil if it need not.
func (v *Vocab) cancelled() error {
	switch {
	case v.turn != nil:
		return v.turn.pause(v.ctx)
	case v.ctx == nil:
		return nil
	}
	return context.Cause(v.ctx)
}

// spreads are shared by the grammars of a vocabulary, by what a rule reads and in which of its states.
type spreads struct {
	mu    sync.Mutex
	of    map[string]*spread
	bytes int
}

func (s *spreads) get(key string) *spread {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[key]
}

func (s *spreads) put(key string, x *spread) {
	n := x.size() + len(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes += n; s.bytes > maxMasks {
		clear(s.of)
		s.bytes = n
	}
	s.of[key] = x
}
