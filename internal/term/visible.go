package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Writer is f, or where f is a terminal a Writer that shows control characters instead of passing them on: names, texts
// and errors come from files and from models, and an escape in them would move the cursor, rename the window or type
// into the shell. Newlines and tabs pass. A file or a pipe gets the bytes as they are.
func Writer(f *os.File) io.Writer {
	if !term.IsTerminal(int(f.Fd())) {
		return f
	}
	return &visible{w: f}
}

// Raw is what is behind a Writer, for what this program itself says to the terminal: see Visible for the rest.
func Raw(w io.Writer) io.Writer {
	if v, ok := w.(*visible); ok {
		return v.w
	}
	return w
}

// Visible is s with its control characters as \x1b, \u009b, \u202e and so on.
func Visible(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || hidden(r) }) < 0 {
		return s
	}
	return string(appendVisible(nil, []byte(s)))
}

// hidden says whether a terminal would obey r instead of showing it: C0 and C1 controls and DEL (ECMA-48), and what
// changes the direction of text (Unicode Standard Annex 9), with which a line can be made to read as another one.
func hidden(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

func appendVisible(dst, src []byte) []byte {
	for len(src) > 0 {
		r, n := utf8.DecodeRune(src)
		switch {
		case r == utf8.RuneError && n == 1: // a terminal that does not read UTF-8 takes 0x9b for the beginning of a command
			dst = fmt.Appendf(dst, `\x%02x`, src[0])
		case r == '\r' && len(src) > 1 && src[1] == '\n':
			dst = append(dst, '\r')
		case hidden(r) && r < 0x80:
			dst = fmt.Appendf(dst, `\x%02x`, r)
		case hidden(r):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, src[:n]...)
		}
		src = src[n:]
	}
	return dst
}

// visible writes to a terminal.
type visible struct {
	w io.Writer

	mu   sync.Mutex
	rest []byte // the beginning of a character whose end is not there yet
	out  []byte
}

func (v *visible) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	text := append(v.rest, b...)
	whole := len(text) - unfinished(text)
	v.out = appendVisible(v.out[:0], text[:whole])
	v.rest = append([]byte(nil), text[whole:]...)
	if _, err := v.w.Write(v.out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Flush shows what never became a character.
func Flush(w io.Writer) error {
	v, ok := w.(*visible)
	if !ok {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out = appendVisible(v.out[:0], v.rest)
	v.rest = nil
	_, err := v.w.Write(v.out)
	return err
}

// unfinished is how many bytes at the end of b may be the beginning of a character.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}
