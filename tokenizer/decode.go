package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Decode returns the text of tokens. Special tokens leave no text; bytes that are not UTF-8
// become U+FFFD, one for each longest part that could have begun a character.
func (t *Tokenizer) Decode(ids []int32) string {
	d := t.NewDecoder()
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(d.Push(id))
	}
	b.WriteString(d.Flush())
	return b.String()
}

// Decoder turns a stream of tokens into text, whole characters only.
type Decoder struct {
	// Special writes special tokens as their names instead of leaving them out.
	Special bool
	// Show are special tokens that are written as their names all the same: the marks of thoughts and calls.
	Show []int32

	t     *Tokenizer
	strip int  // spaces still to drop at the start of the text
	begun bool // a token was decoded, so that the joiner comes in front of the next
	held  []byte
}

// NewDecoder starts a text, or continues one: prior is what came before, and only a text that
// begins (nothing but special tokens before) loses the space that SentencePiece vocabularies put
// in front of their first word.
func (t *Tokenizer) NewDecoder(prior ...int32) *Decoder {
	d := &Decoder{t: t, strip: t.stripLeft}
	for _, id := range prior {
		if !t.IsSpecial(id) {
			d.strip, d.begun = 0, true
			break
		}
	}
	return d
}

// Push adds a token and returns the text that is now certain: what came before it is complete
// characters, and a character whose bytes are still arriving is held back. An id outside the
// vocabulary adds nothing.
func (d *Decoder) Push(id int32) string {
	if id < 0 || int(id) >= len(d.t.tokens) {
		return ""
	}
	tok := &d.t.tokens[id]
	if tok.kind == control && !d.Special && !slices.Contains(d.Show, id) || tok.kind == unused {
		return ""
	}
	s := tok.bytes
	if d.begun {
		if d.t.joiner != "" {
			s = d.t.joiner + s
		}
	} else {
		for d.strip > 0 && strings.HasPrefix(s, " ") {
			s = s[1:]
			d.strip--
		}
		if s == "" {
			return ""
		}
		d.strip = 0
	}
	d.begun = true
	if len(d.held) == 0 && utf8.ValidString(s) {
		return s
	}
	d.held = append(d.held, s...)
	out, rest := takeUTF8(d.held, false)
	d.held = append(d.held[:0], rest...)
	return out
}

// Flush ends the text: bytes that wait for the rest of a character become U+FFFD.
func (d *Decoder) Flush() string {
	out, _ := takeUTF8(d.held, true)
	d.held = d.held[:0]
	return out
}

// takeUTF8 converts b to valid UTF-8, keeping back an unfinished character at its end unless
// all is asked for. Each longest beginning of a character that cannot be finished gives one
// U+FFFD, the practice of the WHATWG encoding standard.
func takeUTF8(b []byte, all bool) (out string, rest []byte) {
	var s strings.Builder
	for len(b) > 0 {
		if b[0] < utf8.RuneSelf {
			n := 1
			for n < len(b) && b[n] < utf8.RuneSelf {
				n++
			}
			s.Write(b[:n])
			b = b[n:]
			continue
		}
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			s.Write(b[:n])
			b = b[n:]
			continue
		}
		n, open := prefixLen(b)
		if open && !all {
			break
		}
		s.WriteString("\uFFFD")
		b = b[n:]
	}
	return s.String(), b
}

// prefixLen returns the length of the longest beginning of a UTF-8 character at b[0], at least
// 1, and whether b ends inside it.
func prefixLen(b []byte) (n int, open bool) {
	need, lo, hi := 0, byte(0x80), byte(0xBF)
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	default:
		return 1, false
	}
	for n = 1; n <= need; n++ {
		if n == len(b) {
			return n, true
		}
		if b[n] < lo || b[n] > hi {
			return n, false
		}
		lo, hi = 0x80, 0xBF
	}
	return n, false
}
