package tokenizer

import (
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

// matcher finds added tokens in text, leftmost first and longest first: a trie over bytes.
type matcher struct {
	first [256]bool
	nodes []trieNode
	toks  []AddedToken
}

type trieNode struct {
	next map[byte]int32
	tok  int32 // index in toks, -1: none
}

func newMatcher(toks []AddedToken, content func(AddedToken) string) *matcher {
	if len(toks) == 0 {
		return nil
	}
	m := &matcher{toks: toks, nodes: []trieNode{{tok: -1}}}
	for i, t := range toks {
		c := content(t)
		if c == "" {
			continue
		}
		m.first[c[0]] = true
		at := int32(0)
		for j := 0; j < len(c); j++ {
			n, ok := m.nodes[at].next[c[j]]
			if !ok {
				n = int32(len(m.nodes))
				m.nodes = append(m.nodes, trieNode{tok: -1})
				if m.nodes[at].next == nil {
					m.nodes[at].next = map[byte]int32{}
				}
				m.nodes[at].next[c[j]] = n
			}
			at = n
		}
		m.nodes[at].tok = int32(i)
	}
	return m
}

// longest returns the index in toks of the longest token that s starts with and its length.
func (m *matcher) longest(s string, special bool) (tok int32, n int) {
	tok = -1
	at := int32(0)
	for i := 0; i < len(s); i++ {
		next, ok := m.nodes[at].next[s[i]]
		if !ok {
			break
		}
		at = next
		if t := m.nodes[at].tok; t >= 0 && (special || !m.toks[t].Special) {
			tok, n = t, i+1
		}
	}
	return tok, n
}

// fragment is a stretch of text, or one added token.
type fragment struct {
	text string
	id   int32 // ≥ 0: an added token
}

// cut appends s to dst as fragments.
func (m *matcher) cut(dst []fragment, s string, special bool) []fragment {
	at := 0
	for i := 0; i < len(s); {
		if !m.first[s[i]] {
			i++
			continue
		}
		t, n := m.longest(s[i:], special)
		if t < 0 {
			i++
			continue
		}
		tok := &m.toks[t]
		start, end := i, i+n
		i = end
		if tok.SingleWord && (wordBefore(s[:start]) || wordAfter(s[end:])) {
			continue
		}
		if tok.LStrip {
			start = max(at, len(strings.TrimRightFunc(s[:start], unicode.IsSpace)))
		}
		if tok.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if at < start {
			dst = append(dst, fragment{text: s[at:start], id: -1})
		}
		dst = append(dst, fragment{text: s[start:end], id: tok.ID})
		at = end
		i = max(i, end)
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
