package tokenizer

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// bpe is byte-pair encoding: a piece of text becomes symbols, and the pair of neighbours with
// the lowest rank (leftmost on a tie) merges until no pair has a rank.
//
// Sennrich et al. 2016, arXiv:1508.07909. Byte-level vocabularies (GPT-2, Llama 3) start from
// bytes; SentencePiece vocabularies (Llama 2) from characters, with <0xNN> tokens for bytes of
// characters that the vocabulary lacks.
type bpe struct {
	keys   []string     // by id: the text that the token stands for, "" where there is none
	index  *stringIndex // over keys
	merges *pairTable

	byteLevel bool
	byteIDs   [256]int32 // byte level: the symbol of a byte; else the <0xNN> token; -1: none
	runeIDs   [128]int32 // symbol of an ASCII character, when not byteLevel; -1: none

	whole     bool            // a piece that is a token needs no merging (ignore_merges)
	reached   []atomic.Uint32 // by id: whether merging the token's own text gives the token
	fallback  bool            // byte_fallback
	unk       int32           // -1: characters without a symbol are dropped
	fuseUnk   bool
	virtual   map[string]int32 // characters that occur only inside tokens; ids ≥ len(keys)
	virtualAt []string         // texts of virtual ids

	prefix, suffix string // continuing_subword_prefix and end_of_word_suffix

	// Which characters stand side by side in a token; nil with byteLevel, whose text comes in
	// words already. Where two characters never do, no merge crosses, and text is cut there: a
	// SentencePiece text, which is one piece, falls into words.
	near      map[[2]rune]struct{}
	nearASCII [128][2]uint64
}

const (
	reachUnknown = iota
	reachYes
	reachNo
)

// init derives the symbol tables once keys, index and merges are set.
func (m *bpe) init() {
	m.reached = make([]atomic.Uint32, len(m.keys))
	for i := range m.runeIDs {
		m.runeIDs[i] = m.symbol(string(rune(i)))
	}
	if m.byteLevel || m.prefix != "" || m.suffix != "" || m.merges.n == 0 || !m.keepsAll() {
		return
	}
	m.near = map[[2]rune]struct{}{}
	for _, s := range m.keys {
		prev := rune(-1)
		for _, r := range s {
			switch {
			case prev < 0:
			case prev < utf8.RuneSelf && r < utf8.RuneSelf:
				m.nearASCII[prev][r>>6] |= 1 << (r & 63)
			default:
				m.near[[2]rune{prev, r}] = struct{}{}
			}
			prev = r
		}
		if len(m.near) > maxNear {
			m.near = nil
			return
		}
	}
}

// maxNear bounds what is kept to cut text; Gemma's vocabulary has half of it.
const maxNear = 1 << 20

// keepsAll reports whether every character gives a symbol, so that characters side by side in the
// text are side by side when symbols merge; and symbols of bytes never merge.
func (m *bpe) keepsAll() bool {
	bytes := map[int32]bool{}
	for _, id := range m.byteIDs {
		if id < 0 && m.unk < 0 {
			return false
		}
		bytes[id] = id >= 0
	}
	for _, s := range m.merges.slots {
		if s.key != noPair && (bytes[int32(s.key>>32)] || bytes[int32(uint32(s.key))]) {
			return false
		}
	}
	return m.unk >= 0 || m.fallback
}

// cut returns the length of the beginning of piece that no merge leaves.
func (m *bpe) cut(piece string) int {
	prev, n := utf8.DecodeRuneInString(piece)
	for n < len(piece) {
		r, w := utf8.DecodeRuneInString(piece[n:])
		if prev < utf8.RuneSelf && r < utf8.RuneSelf {
			if m.nearASCII[prev][r>>6]>>(r&63)&1 == 0 {
				break
			}
		} else if _, ok := m.near[[2]rune{prev, r}]; !ok {
			break
		}
		prev = r
		n += w
	}
	return n
}

func (m *bpe) symbol(s string) int32 {
	if id, ok := m.index.find(s); ok {
		return id
	}
	if id, ok := m.virtual[s]; ok {
		return id
	}
	return -1
}

type scratch struct {
	sym  []int32
	link []int32
	rank []int32
	heap []uint64
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// encode appends the tokens of one pre-tokenized piece.
func (m *bpe) encode(dst []int32, piece string, s *scratch) []int32 {
	if m.near == nil {
		return m.encodeWord(dst, piece, s)
	}
	start := len(dst)
	for piece != "" {
		n := m.cut(piece)
		at := len(dst)
		dst = m.encodeWord(dst, piece[:n], s)
		if m.fuseUnk && at > start && len(dst) > at && dst[at] == m.unk && dst[at-1] == m.unk {
			dst = append(dst[:at], dst[at+1:]...)
		}
		piece = piece[n:]
	}
	return dst
}

// encodeWord appends the tokens of a piece, or of a part of one that no merge leaves.
func (m *bpe) encodeWord(dst []int32, piece string, s *scratch) []int32 {
	if piece == "" {
		return dst
	}
	id, found := m.index.find(piece)
	if found {
		if m.whole {
			return append(dst, id)
		}
		switch m.reached[id].Load() {
		case reachYes:
			return append(dst, id)
		case reachUnknown:
			at := len(dst)
			dst = m.merge(dst, piece, s)
			v := uint32(reachNo)
			if len(dst) == at+1 && dst[at] == id {
				v = reachYes
			}
			m.reached[id].Store(v)
			return dst
		}
	}
	return m.merge(dst, piece, s)
}

func (m *bpe) merge(dst []int32, piece string, s *scratch) []int32 {
	s.sym = s.sym[:0]
	if m.byteLevel {
		for i := 0; i < len(piece); i++ {
			if id := m.byteIDs[piece[i]]; id >= 0 {
				s.sym = append(s.sym, id)
			} else if m.unk >= 0 {
				s.sym = m.appendUnk(s.sym)
			}
		}
	} else {
		m.runeSymbols(piece, s)
	}
	switch {
	case m.merges.n == 0:
	case len(s.sym) <= 24:
		s.mergeShort(m.merges)
	default:
		s.mergeLong(m.merges)
	}
	if m.virtual == nil {
		return append(dst, s.sym...)
	}
	for _, id := range s.sym {
		if int(id) < len(m.keys) {
			dst = append(dst, id)
		} else {
			dst = m.appendMissing(dst, m.virtualAt[int(id)-len(m.keys)])
		}
	}
	return dst
}

// runeSymbols turns a piece into one symbol per character; characters without a symbol become
// byte tokens, the unknown token, or nothing.
func (m *bpe) runeSymbols(piece string, s *scratch) {
	affix := m.prefix != "" || m.suffix != ""
	for i := 0; i < len(piece); {
		if c := piece[i]; c < utf8.RuneSelf && !affix {
			if id := m.runeIDs[c]; id >= 0 {
				s.sym = append(s.sym, id)
				i++
				continue
			}
		}
		_, n := utf8.DecodeRuneInString(piece[i:])
		ch := piece[i : i+n]
		if affix {
			if i > 0 {
				ch = m.prefix + ch
			}
			if i+n == len(piece) {
				ch += m.suffix
			}
		}
		if id := m.symbol(ch); id >= 0 {
			s.sym = append(s.sym, id)
		} else {
			s.sym = m.appendMissing(s.sym, ch)
		}
		i += n
	}
}

func (m *bpe) appendMissing(dst []int32, ch string) []int32 {
	if m.fallback {
		all := true
		for i := 0; i < len(ch); i++ {
			all = all && m.byteIDs[ch[i]] >= 0
		}
		if all {
			for i := 0; i < len(ch); i++ {
				dst = append(dst, m.byteIDs[ch[i]])
			}
			return dst
		}
	}
	if m.unk >= 0 {
		return m.appendUnk(dst)
	}
	return dst
}

func (m *bpe) appendUnk(dst []int32) []int32 {
	if m.fuseUnk && len(dst) > 0 && dst[len(dst)-1] == m.unk {
		return dst
	}
	return append(dst, m.unk)
}

// mergeShort merges s.sym in place by looking for the best pair each time: O(n²), and the
// fastest way for words.
func (s *scratch) mergeShort(t *pairTable) {
	n := len(s.sym)
	if n < 2 {
		return
	}
	s.rank = s.rank[:0]
	for i := 0; i+1 < n; i++ {
		r, _ := t.get(s.sym[i], s.sym[i+1])
		s.rank = append(s.rank, r)
	}
	rank, sym := s.rank, s.sym
	for len(rank) > 0 {
		best, at := int32(noRank), -1
		for i, r := range rank {
			if r < best {
				best, at = r, i
			}
		}
		if at < 0 {
			break
		}
		_, id := t.get(sym[at], sym[at+1])
		sym[at] = id
		sym = append(sym[:at+1], sym[at+2:]...)
		rank = append(rank[:at], rank[at+1:]...)
		if at < len(rank) {
			rank[at], _ = t.get(id, sym[at+1])
		}
		if at > 0 {
			rank[at-1], _ = t.get(sym[at-1], id)
		}
	}
	s.sym = sym
}

// mergeLong merges s.sym in place with a heap of pairs over a linked list: O(n log n) whatever
// the text, so a megabyte of one letter costs no more per byte than prose.
//
// A symbol that has taken others in stands at its first place, the places of the others are -1.
// link of its first place is where the next one begins, and link of its last place is its first.
// An entry of the heap is a pair's rank above the place of its left symbol; it holds as long as
// the pair that is there now has that rank.
func (s *scratch) mergeLong(t *pairTable) {
	n := len(s.sym)
	if n > math.MaxInt32-1 {
		panic("tokenizer: piece of more than 2^31 symbols")
	}
	sym := s.sym
	link := slices.Grow(s.link[:0], n)[:n]
	h := slices.Grow(s.heap[:0], n)
	for i := range sym {
		link[i] = int32(i + 1)
		if i > 0 {
			if r, _ := t.get(sym[i-1], sym[i]); r != noRank {
				h = append(h, uint64(r)<<32|uint64(i-1))
			}
		}
	}
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
	push := func(i, j int32) {
		if r, _ := t.get(sym[i], sym[j]); r != noRank {
			h = append(h, uint64(r)<<32|uint64(uint32(i)))
			siftUp(h, len(h)-1)
		}
	}
	for len(h) > 0 {
		e := h[0]
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
		siftDown(h, 0)
		i := int32(uint32(e))
		if sym[i] < 0 {
			continue // it has been taken in since
		}
		j := link[i]
		if int(j) >= n {
			continue
		}
		r, id := t.get(sym[i], sym[j])
		if r != int32(e>>32) {
			continue // one of the two has merged since
		}
		sym[i], sym[j] = id, -1
		k := link[j]
		link[i] = k
		link[k-1] = i
		if int(k) < n {
			push(i, k)
		}
		if i > 0 {
			p := i - 1
			if sym[p] < 0 {
				p = link[p]
			}
			push(p, i)
		}
	}
	s.link, s.heap = link, h
	out := 0
	for i := 0; i < n; i = int(link[i]) {
		sym[out] = sym[i]
		out++
	}
	s.sym = sym[:out]
}

func siftDown(h []uint64, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[i] <= h[c] {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

func siftUp(h []uint64, i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h[p] <= h[i] {
			return
		}
		h[i], h[p] = h[p], h[i]
		i = p
	}
}
