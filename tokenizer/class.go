package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// Character classes of the pre-tokenizers' regular expressions, one bit set per character.
const (
	isL  uint8 = 1 << iota // \p{L}
	isN                    // \p{N}
	isZ                    // \s: White_Space
	isNL                   // \r or \n
	isM                    // \p{M}
)

// asciiClass and pageClass are tables so that a scanner's step is one load. pageClass covers
// the planes that have letters; above it only a few marks exist.
var asciiClass = func() (t [utf8.RuneSelf]uint8) {
	for r := range rune(utf8.RuneSelf) {
		t[r] = slowClass(r)
	}
	return t
}()

const pageClassLen = 0x34000

var pageClass = sync.OnceValue(func() *[pageClassLen]uint8 {
	t := new([pageClassLen]uint8)
	set := func(bit uint8, tables ...*unicode.RangeTable) {
		for _, tab := range tables {
			for _, r := range tab.R16 {
				for c := int(r.Lo); c <= int(r.Hi); c += int(r.Stride) {
					t[c] |= bit
				}
			}
			for _, r := range tab.R32 {
				for c := int(r.Lo); c <= int(r.Hi) && c < pageClassLen; c += int(r.Stride) {
					t[c] |= bit
				}
			}
		}
	}
	set(isL, letters...)
	set(isN, numbers...)
	set(isM, marks...)
	set(isZ, unicode.White_Space)
	t['\n'] |= isNL
	t['\r'] |= isNL
	return t
})

func slowClass(r rune) (c uint8) {
	switch {
	case unicode.In(r, letters...):
		c = isL
	case unicode.In(r, numbers...):
		c = isN
	case unicode.In(r, marks...):
		c = isM
	case unicode.Is(unicode.White_Space, r):
		c = isZ
	}
	if r == '\n' || r == '\r' {
		c |= isNL
	}
	return c
}

// classAt returns the class and length of the character at s[i]; an invalid byte is a
// character of no class.
func classAt(s string, i int, page *[pageClassLen]uint8) (class uint8, n int) {
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	if r < pageClassLen {
		return page[r], n
	}
	return slowClass(r), n
}
