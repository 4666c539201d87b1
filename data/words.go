package data

import (
	"sort"
	"strings"
	"unicode"
)

// words counts the pieces that GPT-2's pre-tokenizer cuts a text into: contractions, runs of letters, of digits
// and of other signs, each with one space before it, and runs of white space.
func words(text string) map[string]int {
	n := map[string]int{}
	for len(text) > 0 {
		l := wordLen(text)
		n[text[:l]]++
		text = text[l:]
	}
	return n
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func wordLen(s string) int {
	for _, c := range []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"} {
		if strings.HasPrefix(s, c) {
			return len(c)
		}
	}
	rest := strings.TrimPrefix(s, " ")
	lead := len(s) - len(rest)
	for _, class := range []func(rune) bool{
		unicode.IsLetter, unicode.IsNumber,
		func(r rune) bool { return !unicode.IsSpace(r) && !unicode.IsLetter(r) && !unicode.IsNumber(r) },
	} {
		if n := span(rest, class); n > 0 {
			return lead + n
		}
	}
	// White space; the last sign of it belongs to the word that follows.
	n := span(s, unicode.IsSpace)
	if n < len(s) {
		last := 0
		for i := range s[:n] {
			last = i
		}
		if last > 0 {
			return last
		}
	}
	return n
}

func span(s string, in func(rune) bool) int {
	for i, r := range s {
		if !in(r) {
			return i
		}
	}
	return len(s)
}
