package tokenizer

import "strings"

// Byte-level vocabularies write each byte as one printable character: bytes that are printable
// in Latin-1 stand for themselves, the other 68 become U+0100, U+0101, … in order. A space is Ġ.
// Source: openai/gpt-2 src/encoder.py, bytes_to_unicode.
var (
	byteToRune [256]rune
	runeToByte [0x144]int16 // -1: not a byte's character
)

func init() {
	for i := range runeToByte {
		runeToByte[i] = -1
	}
	extra := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = extra
			extra++
		}
		byteToRune[b] = r
		runeToByte[r] = int16(b)
	}
}

// byteLevelText writes bytes in the byte-level alphabet.
func byteLevelText(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/4)
	for i := 0; i < len(s); i++ {
		b.WriteRune(byteToRune[s[i]])
	}
	return b.String()
}

// byteLevelBytes reads the byte-level alphabet; ok is false when s has a character outside it.
func byteLevelBytes(s string) (raw string, ok bool) {
	plain := true
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			plain = false
			break
		}
	}
	if plain {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if int(r) >= len(runeToByte) || runeToByte[r] < 0 {
			return "", false
		}
		b = append(b, byte(runeToByte[r]))
	}
	return string(b), true
}
