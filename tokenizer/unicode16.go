package tokenizer

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Go's tables are those of Unicode 15.0, Hugging Face's of 16.0. The difference, by general
// category, as Oniguruma 6.9 has it; entries that Go learns later do no harm.
var since15 = func() map[string]*unicode.RangeTable {
	m := map[string]*unicode.RangeTable{}
	for name, list := range map[string]string{
		"Lu": "1C89 A7CB-A7CC A7DA A7DC 10D50-10D65",
		"Ll": "1C8A A7CD A7DB 10D70-10D85",
		"Lm": "10D4E 10D6F 16D40-16D42 16D6B-16D6C",
		"Lo": "105C0-105F3 10D4A-10D4D 10D4F 10EC2-10EC4 11380-11389 1138B 1138E 11390-113B5 113B7 113D1 113D3 11BC0-11BE0 " +
			"13460-143FA 16100-1611D 16D43-16D6A 18CFF 1E5D0-1E5ED 1E5F0 2EBF0-2EE5D",
		"M": "897 10D69-10D6D 10EFC 113B8-113C0 113C2 113C5 113C7-113CA 113CC-113D0 113D2 113E1-113E2 11F5A 1611E-1612F 1E5EE-1E5EF",
		"N": "10D40-10D49 116D0-116E3 11BF0-11BF9 16130-16139 16D70-16D79 1CCF0-1CCF9 1E5F1-1E5FA",
		"P": "1B4E-1B4F 1B7F 10D6E 113D4-113D5 113D7-113D8 11BE1 16D6D-16D6F 1E5FF",
		"S": "2427-2429 2FFC-2FFF 31E4-31E5 31EF 10D8E-10D8F 1CC00-1CCEF 1CD00-1CEB3 1F8B2-1F8BB 1F8C0-1F8C1 1FA89 1FA8F 1FABE " +
			"1FAC6 1FADC 1FADF 1FAE9 1FBCB-1FBEF",
		"Han": "2EBF0-2EE5D",
	} {
		t := &unicode.RangeTable{}
		for _, r := range strings.Fields(list) {
			lo, hi, ok := strings.Cut(r, "-")
			if !ok {
				hi = lo
			}
			a, _ := strconv.ParseUint(lo, 16, 32)
			b, _ := strconv.ParseUint(hi, 16, 32)
			if b <= 0xFFFF {
				t.R16 = append(t.R16, unicode.Range16{Lo: uint16(a), Hi: uint16(b), Stride: 1})
			} else {
				t.R32 = append(t.R32, unicode.Range32{Lo: uint32(a), Hi: uint32(b), Stride: 1})
			}
		}
		m[name] = t
	}
	return m
}()

// newer are the tables that add to Go's table of that name.
func newer(name string) (list []*unicode.RangeTable) {
	names := []string{name}
	switch name {
	case "L":
		names = []string{"Lu", "Ll", "Lm", "Lo"}
	case "Nd":
		names = []string{"N"}
	}
	for _, n := range names {
		if t := since15[n]; t != nil {
			list = append(list, t)
		}
	}
	return list
}

var (
	letters = append(newer("L"), unicode.L)
	numbers = append(newer("N"), unicode.N)
	marks   = append(newer("M"), unicode.M)
	digits  = append(newer("N"), unicode.Nd)
	puncts  = append(newer("P"), unicode.P)
	symbols = append(newer("S"), unicode.S)

	// \w of Rust's regex crate, and of Oniguruma but for a few characters.
	words = slices.Concat(letters, marks, digits, []*unicode.RangeTable{unicode.Nl, unicode.Pc, unicode.Other_Alphabetic})
)

func inAny(tables ...*unicode.RangeTable) func(rune) bool {
	return func(r rune) bool { return unicode.In(r, tables...) }
}

func isNumber(r rune) bool {
	if r < 0x80 {
		return r >= '0' && r <= '9'
	}
	return unicode.In(r, numbers...)
}

// isWord is \w of Rust's regex crate, by which added tokens are single words: letters, marks,
// decimal digits, connectors, joiners.
func isWord(r rune) bool {
	if r < 0x80 {
		return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	return unicode.In(r, words...) || unicode.Is(unicode.Join_Control, r)
}

// onigWord is \w of Oniguruma: no joiners, but the numbers of Latin-1.
func onigWord(r rune) bool {
	switch r {
	case '²', '³', '¹', '¼', '½', '¾':
		return true
	case 0x200C, 0x200D:
		return false
	}
	return isWord(r)
}

// isPunct is the Punctuation pre-tokenizer's: all of ASCII's, and \p{P}.
func isPunct(r rune) bool {
	if r < 0x80 {
		return r >= '!' && r <= '/' || r >= ':' && r <= '@' || r >= '[' && r <= '`' || r >= '{' && r <= '~'
	}
	return unicode.In(r, puncts...)
}
