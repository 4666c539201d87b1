package jinja

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tEOF tokenKind = iota
	tData
	tBlockBegin
	tBlockEnd
	tVarBegin
	tVarEnd
	tName
	tString
	tInt
	tFloat
	tOp
)

type token struct {
	kind tokenKind
	text string
	line int
}

// lexer cuts a template into tokens with trim_blocks and lstrip_blocks on: the newline after a
// block tag goes, and so do the blanks between the start of a line and a block tag.
type lexer struct {
	src  string
	pos  int
	line int
	toks []token
}

func lex(src string) ([]token, error) {
	src = strings.ReplaceAll(src, "\r\n", "\n")
	src = strings.ReplaceAll(src, "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{src: src, line: 1}
	if err := l.run(); err != nil {
		return nil, err
	}
	l.emit(tEOF, "")
	return l.toks, nil
}

func (l *lexer) emit(k tokenKind, text string) {
	l.toks = append(l.toks, token{k, text, l.line})
}

// skip moves over n bytes and counts their lines.
func (l *lexer) skip(n int) {
	l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
	l.pos += n
}

func (l *lexer) errorf(format string, args ...any) error {
	return &Error{Line: l.line, Err: fmt.Errorf(format, args...)}
}

func (l *lexer) run() error {
	lineStart := true // the text so far ends a line
	for l.pos < len(l.src) {
		rest := l.src[l.pos:]
		i := 0
		for {
			j := strings.IndexByte(rest[i:], '{')
			if j < 0 || i+j+1 >= len(rest) {
				i = -1
				break
			}
			i += j
			if c := rest[i+1]; c == '{' || c == '%' || c == '#' {
				break
			}
			i++
		}
		if i < 0 {
			l.emit(tData, rest)
			l.skip(len(rest))
			return nil
		}
		kind := rest[i+1]
		sign := byte(0)
		if i+2 < len(rest) && (rest[i+2] == '-' || rest[i+2] == '+') {
			sign = rest[i+2]
		}
		data := rest[:i]
		switch {
		case sign == '-':
			data = strings.TrimRightFunc(data, unicode.IsSpace)
		case sign != '+' && kind != '{':
			if nl := strings.LastIndexByte(data, '\n') + 1; nl > 0 || lineStart {
				if strings.TrimSpace(data[nl:]) == "" {
					data = data[:nl]
				}
			}
		}
		if data != "" {
			l.emit(tData, data)
		}
		l.skip(i + 2)
		if sign != 0 {
			l.skip(1)
		}
		lineStart = false
		switch kind {
		case '#':
			end := strings.Index(l.src[l.pos:], "#}")
			if end < 0 {
				return l.errorf("comment without an end")
			}
			minus := end > 0 && l.src[l.pos+end-1] == '-'
			plus := end > 0 && l.src[l.pos+end-1] == '+'
			l.skip(end + 2)
			lineStart = l.afterTag(minus, plus, true)
		case '%':
			if n, sign, ok := l.rawTag("raw"); ok && sign != '+' {
				var err error
				if lineStart, err = l.raw(n, sign); err != nil {
					return err
				}
				continue
			}
			l.emit(tBlockBegin, "")
			var err error
			if lineStart, err = l.inside("%}"); err != nil {
				return err
			}
		case '{':
			l.emit(tVarBegin, "")
			var err error
			if lineStart, err = l.inside("}}"); err != nil {
				return err
			}
		}
	}
	return nil
}

// afterTag removes the white space that a tag's end takes along; it reports whether a line ended.
func (l *lexer) afterTag(minus, plus, block bool) bool {
	switch {
	case minus:
		rest := l.src[l.pos:]
		n := len(rest) - len(strings.TrimLeftFunc(rest, unicode.IsSpace))
		l.skip(n)
		return n > 0 && rest[n-1] == '\n'
	case block && !plus && strings.HasPrefix(l.src[l.pos:], "\n"):
		l.skip(1)
		return true
	}
	return false
}

// rawTag matches the rest of a tag of one word; n is its length, plus what ends it: '-', '+' or 0.
func (l *lexer) rawTag(word string) (n int, sign byte, ok bool) {
	rest := l.src[l.pos:]
	s := strings.TrimLeftFunc(rest, unicode.IsSpace)
	if s, ok = strings.CutPrefix(s, word); !ok {
		return 0, 0, false
	}
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[0], s[1:]
	}
	if s, ok = strings.CutPrefix(s, "%}"); !ok {
		return 0, 0, false
	}
	return len(rest) - len(s), sign, true
}

// raw reads what stands between raw, whose tag ends n bytes further, and endraw. A newline behind
// raw stays, unlike that behind other tags.
func (l *lexer) raw(n int, sign byte) (lineStart bool, err error) {
	l.skip(n)
	lineStart = l.afterTag(sign == '-', false, false)
	start := l.pos
	for at := l.pos; ; {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			return false, l.errorf("raw without endraw")
		}
		at += i
		end := &lexer{src: l.src, pos: at + 2}
		open := byte(0)
		if end.pos < len(l.src) && (l.src[end.pos] == '-' || l.src[end.pos] == '+') {
			open = l.src[end.pos]
			end.pos++
		}
		n, sign, ok := end.rawTag("endraw")
		if !ok {
			at += 2
			continue
		}
		data := l.src[start:at]
		switch open {
		case '-':
			data = strings.TrimRightFunc(data, unicode.IsSpace)
		case 0:
			if nl := strings.LastIndexByte(data, '\n') + 1; strings.TrimSpace(data[nl:]) == "" && (nl > 0 || lineStart) {
				data = data[:nl]
			}
		}
		if data != "" {
			l.emit(tData, data)
		}
		l.skip(end.pos + n - l.pos)
		return l.afterTag(sign == '-', sign == '+', true), nil
	}
}

var operators = []string{
	"**", "//", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";",
}

// inside reads the tokens of a tag up to its end.
func (l *lexer) inside(end string) (lineStart bool, err error) {
	var open []byte // brackets
	for {
		rest := l.src[l.pos:]
		if rest == "" {
			return false, l.errorf("tag without an end")
		}
		if len(open) == 0 {
			sign := byte(0)
			s := rest
			if s[0] == '-' || s[0] == '+' && end == "%}" {
				sign, s = s[0], s[1:]
			}
			if strings.HasPrefix(s, end) {
				kind := tBlockEnd
				if end == "}}" {
					kind = tVarEnd
				}
				l.emit(kind, "")
				l.skip(len(rest) - len(s) + len(end))
				return l.afterTag(sign == '-', sign == '+', end == "%}"), nil
			}
		}
		r, n := utf8.DecodeRuneInString(rest)
		switch {
		case unicode.IsSpace(r):
			l.skip(n)
		case r == '_' || unicode.IsLetter(r):
			for n < len(rest) {
				r, w := utf8.DecodeRuneInString(rest[n:])
				if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
					break
				}
				n += w
			}
			l.emit(tName, rest[:n])
			l.skip(n)
		case r >= '0' && r <= '9':
			l.number(rest)
		case r == '"' || r == '\'':
			s, n, ok := pyString(rest)
			if !ok {
				return false, l.errorf("string without an end")
			}
			l.emit(tString, s)
			l.skip(n)
		default:
			op := ""
			for _, o := range operators {
				if strings.HasPrefix(rest, o) {
					op = o
					break
				}
			}
			if op == "" {
				return false, l.errorf("unexpected character %q", r)
			}
			switch op {
			case "(", "[", "{":
				open = append(open, op[0])
			case ")", "]", "}":
				want := map[string]byte{")": '(', "]": '[', "}": '{'}[op]
				if len(open) == 0 || open[len(open)-1] != want {
					return false, l.errorf("unexpected %q", op)
				}
				open = open[:len(open)-1]
			}
			l.emit(tOp, op)
			l.skip(len(op))
		}
	}
}

func (l *lexer) number(rest string) {
	digits := func(i int, more string) int {
		for i < len(rest) && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '_' || strings.IndexByte(more, rest[i]) >= 0) {
			i++
		}
		return i
	}
	if len(rest) > 2 && rest[0] == '0' && strings.IndexByte("xXoObB", rest[1]) >= 0 {
		n := digits(2, "abcdefABCDEF")
		l.emit(tInt, rest[:n])
		l.skip(n)
		return
	}
	n := digits(0, "")
	kind := tInt
	if n+1 < len(rest) && rest[n] == '.' && rest[n+1] >= '0' && rest[n+1] <= '9' {
		kind = tFloat
		n = digits(n+1, "")
	}
	if n < len(rest) && (rest[n] == 'e' || rest[n] == 'E') {
		m := n + 1
		if m < len(rest) && (rest[m] == '+' || rest[m] == '-') {
			m++
		}
		if m < len(rest) && rest[m] >= '0' && rest[m] <= '9' {
			kind = tFloat
			n = digits(m, "")
		}
	}
	l.emit(kind, strings.ReplaceAll(rest[:n], "_", ""))
	l.skip(n)
}

// pyString reads a quoted string with Python's escapes; n is its length in the source.
func pyString(s string) (text string, n int, ok bool) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == quote:
			return b.String(), i + 1, true
		case c != '\\':
			b.WriteByte(c)
			continue
		}
		i++
		if i >= len(s) {
			break
		}
		hex := func(digits int) bool {
			var v rune
			for k := 1; k <= digits; k++ {
				if i+k >= len(s) {
					return false
				}
				d := strings.IndexByte("0123456789abcdef", s[i+k]|0x20)
				if d < 0 || s[i+k] < '0' {
					return false
				}
				v = v<<4 | rune(d)
			}
			b.WriteRune(v)
			i += digits
			return true
		}
		switch c := s[i]; c {
		case '\n':
		case '\\', '\'', '"':
			b.WriteByte(c)
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'a':
			b.WriteByte('\a')
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'v':
			b.WriteByte('\v')
		case 'x', 'u', 'U':
			if !hex(map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]) {
				b.WriteByte('\\')
				b.WriteByte(c)
			}
		default:
			if c >= '0' && c <= '7' {
				v := rune(0)
				k := 0
				for k < 3 && i+k < len(s) && s[i+k] >= '0' && s[i+k] <= '7' {
					v = v<<3 | rune(s[i+k]-'0')
					k++
				}
				b.WriteRune(v)
				i += k - 1
				break
			}
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return "", 0, false
}
