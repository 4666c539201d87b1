package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds on the merges of a vocabulary. Published ones have at most 2.3 for each token: Gemma's
// 256,000 tokens have 580,604.
const (
	maxMerges      = 1 << 21
	mergesPerToken = 4 // and 65,536
)

// mergeHalves makes the table of all merges of two tokens whose texts together are a third; rank
// is that of the whole.
func mergeHalves(texts []string, rank func(whole int32) int32) (*pairTable, error) {
	n, most := 0, min(mergesPerToken*len(texts)+1<<16, maxMerges)
	each := halves(texts)
	each(func(_, _, _ int32) bool {
		n++
		return n <= most
	})
	if n > most {
		return nil, fmt.Errorf("in more than %d ways two of the %d tokens together are a third", most, len(texts))
	}
	table := newPairTable(n)
	each(func(left, right, whole int32) bool {
		table.put(left, right, rank(whole), whole)
		return true
	})
	return table, nil
}

// halves finds every way in which a token is two tokens, one behind the other: f of each gets the
// ids of the two and of the whole, wholes in the order of their ids, until it returns false. Texts
// differ, but for empty ones, which are no tokens.
//
// Sorted, the tokens that a token begins with are the ones in front of it that are still open, a
// chain of longest beginnings; sorted by their reversed texts, the ends are. A token's two chains
// are as long as its text at most, so that the work is the length of all texts, besides sorting.
func halves(texts []string) (each func(f func(left, right, whole int32) bool)) {
	var ids []int32
	size := 0
	for id, s := range texts {
		if s != "" {
			ids = append(ids, int32(id))
			size += len(s)
		}
	}
	begin := chains(texts, ids)
	reversed := make([]string, len(texts))
	buf := make([]byte, 0, size)
	for _, id := range ids {
		from := len(buf)
		buf = append(buf, texts[id]...)
		slices.Reverse(buf[from:])
	}
	all := string(buf)
	for _, id := range ids {
		n := len(texts[id])
		reversed[id], all = all[:n], all[n:]
	}
	end := chains(reversed, ids)
	return func(f func(left, right, whole int32) bool) {
		var ends []int32
		for _, whole := range ids {
			n := len(texts[whole])
			ends = ends[:0]
			for e := end[whole]; e >= 0; e = end[e] { // longest first
				ends = append(ends, e)
			}
			k := len(ends) - 1 // shortest first, as the beginnings get shorter
			for b := begin[whole]; b >= 0; b = begin[b] {
				for k >= 0 && len(texts[ends[k]]) < n-len(texts[b]) {
					k--
				}
				if k >= 0 && len(texts[ends[k]]) == n-len(texts[b]) && !f(b, ends[k], whole) {
					return
				}
			}
		}
	}
}

// chains returns for each of ids the longest other text that its own begins with, -1 for none.
func chains(texts []string, ids []int32) []int32 {
	sorted := slices.Clone(ids)
	slices.SortFunc(sorted, func(a, b int32) int { return strings.Compare(texts[a], texts[b]) })
	longest := make([]int32, len(texts))
	var open []int32
	for _, id := range sorted {
		for len(open) > 0 && !strings.HasPrefix(texts[id], texts[open[len(open)-1]]) {
			open = open[:len(open)-1]
		}
		longest[id] = -1
		if len(open) > 0 {
			longest[id] = open[len(open)-1]
		}
		open = append(open, id)
	}
	return longest
}
