package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is found in the text before the model sees it: control tokens such
// as <|eot_id|>, and whole words that a vocabulary was extended with.
type AddedToken struct {
	ID      int32
	Content string
	// Special tokens carry structure, not text: they are matched only when
	// EncodeOptions.ParseSpecial is set and decode to nothing.
	Special bool
	// SingleWord matches only between characters that are no word characters; LStrip and RStrip
	// take the white space on that side along; Normalized matches after normalization.
	SingleWord, LStrip, RStrip, Normalized bool
}

// matcher finds added tokens in text: an automaton (Aho and Corasick 1975) over the tokens' texts
// backwards. It reads a text from its end and so knows, at each byte, the longest token that begins
// there, in one step per byte however many tokens there are and however alike.
//
// The nodes are numbered by their depth, so that the children of a node are neighbours.
type matcher struct {
	toks  []AddedToken
	size  []int32    // bytes of the text that each is found by
	root  [256]int32 // child of the root, 0: none
	first []int32    // the children of node n are first[n] to first[n+1]-1, ordered by label
	label []byte     // the byte that leads to the node
	fail  []int32    // the node of the longest shorter ending of the same bytes
	all   []int32    // the longest token that ends here: an index in toks, -1: none
	plain []int32    // the same without special tokens
}

// Bounds on the text of all added tokens, and of one. The largest published vocabularies of sounds
// and pictures have less than a quarter of it.
const (
	maxAddedText  = 1 << 22
	maxAddedToken = 1 << 16
)

func newMatcher(toks []AddedToken, content func(AddedToken) string) (*matcher, error) {
	type entry struct {
		text string // backwards
		tok  int32
	}
	var list []entry
	size := 0
	sizes := make([]int32, len(toks))
	for i, t := range toks {
		s := []byte(content(t))
		sizes[i] = int32(len(s))
		if size += len(s); size > maxAddedText {
			return nil, fmt.Errorf("the added tokens have more than %d MiB of text", maxAddedText>>20)
		}
		if len(s) > 0 {
			slices.Reverse(s)
			list = append(list, entry{string(s), int32(i)})
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(list, func(a, b entry) int { return strings.Compare(a.text, b.text) })
	nodes := 1
	for i := range list {
		prev, n := "", 0
		if i > 0 {
			prev = list[i-1].text
		}
		for n < len(prev) && n < len(list[i].text) && prev[n] == list[i].text[n] {
			n++
		}
		nodes += len(list[i].text) - n
	}
	m := &matcher{
		toks: toks, size: sizes, first: make([]int32, 1, nodes+1), label: make([]byte, 1, nodes), fail: make([]int32, nodes),
		all: make([]int32, 0, nodes), plain: make([]int32, 0, nodes),
	}
	type span struct{ from, to, depth int32 } // the entries below a node
	queue := make([]span, 1, nodes)
	queue[0] = span{0, int32(len(list)), 0}
	m.first[0] = 1
	for n := int32(0); int(n) < len(queue); n++ {
		s := queue[n]
		at, own := s.from, int32(-1)
		for ; at < s.to && len(list[at].text) == int(s.depth); at++ {
			own = list[at].tok // of equal ones the last counts
		}
		m.all, m.plain = append(m.all, own), append(m.plain, own)
		if own >= 0 && toks[own].Special {
			m.plain[n] = -1
		}
		for at < s.to {
			c, from := list[at].text[s.depth], at
			for at < s.to && list[at].text[s.depth] == c {
				at++
			}
			if n == 0 {
				m.root[c] = int32(len(queue))
			}
			queue = append(queue, span{from, at, s.depth + 1})
			m.label = append(m.label, c)
		}
		m.first = append(m.first, int32(len(queue)))
	}
	for n := int32(0); int(n) < nodes; n++ {
		if f := m.fail[n]; n > 0 {
			if m.all[n] < 0 {
				m.all[n] = m.all[f]
			}
			if m.plain[n] < 0 {
				m.plain[n] = m.plain[f]
			}
		}
		for c := m.first[n]; c < m.first[n+1]; c++ {
			if n > 0 {
				m.fail[c] = m.step(m.fail[n], m.label[c])
			}
		}
	}
	return m, nil
}

// step is the node for one more byte.
func (m *matcher) step(n int32, c byte) int32 {
	for n != 0 {
		from, to := m.first[n], m.first[n+1]
		if to-from > 8 {
			if i, ok := slices.BinarySearch(m.label[from:to], c); ok {
				return from + int32(i)
			}
		} else {
			for i := from; i < to; i++ {
				if m.label[i] == c {
					return i
				}
			}
		}
		n = m.fail[n]
	}
	return m.root[c]
}

// found is an added token in a text: toks[tok] begins at byte at.
type found struct{ at, tok int32 }

// find lists the longest token at each byte where one begins, from the last byte to the first.
func (m *matcher) find(s string, special bool) (list []found) {
	longest := m.plain
	if special {
		longest = m.all
	}
	n := int32(0)
	for i := len(s) - 1; i >= 0; i-- {
		if n == 0 {
			if n = m.root[s[i]]; n == 0 {
				continue
			}
		} else {
			n = m.step(n, s[i])
		}
		if tok := longest[n]; tok >= 0 {
			list = append(list, found{int32(i), tok})
		}
	}
	return list
}

// fragment is a stretch of text, or one added token.
type fragment struct {
	text string
	id   int32 // ≥ 0: an added token
}

// cut appends s to dst as fragments: the leftmost tokens, the longest first.
func (m *matcher) cut(dst []fragment, s string, special bool) []fragment {
	at, next := 0, 0
	list := m.find(s, special)
	for k := len(list) - 1; k >= 0; k-- {
		start := int(list[k].at)
		if start < next {
			continue
		}
		tok := &m.toks[list[k].tok]
		end := start + int(m.size[list[k].tok])
		next = end
		if tok.SingleWord && (wordBefore(s[:start]) || wordAfter(s[end:])) {
			continue
		}
		if tok.LStrip {
			start = at + len(strings.TrimRightFunc(s[at:start], unicode.IsSpace))
		}
		if tok.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if at < start {
			dst = append(dst, fragment{text: s[at:start], id: -1})
		}
		dst = append(dst, fragment{text: s[start:end], id: tok.ID})
		at, next = end, end
	}
	if at < len(s) {
		dst = append(dst, fragment{text: s[at:], id: -1})
	}
	return dst
}

func wordBefore(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return s != "" && isWord(r)
}

func wordAfter(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return s != "" && isWord(r)
}
