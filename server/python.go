package server

import (
	"encoding/json"
	"strconv"
	"strings"
)

// pythonArguments reads keyword arguments up to the closing parenthesis, as in f(a=1, b='x'), and writes them as a
// JSON object. n is how much of text that is; ok is false if they are not whole yet, n then −1 if they never will be.
func pythonArguments(text string) (object string, n int, ok bool) {
	p := &pythonReader{text: text}
	var b strings.Builder
	b.WriteByte('{')
	for first := true; ; first = false {
		p.space()
		if p.take(")") {
			b.WriteByte('}')
			return b.String(), p.at, true
		}
		if !first && !p.take(",") {
			return "", p.failed(), false
		}
		if p.space(); p.take(")") {
			b.WriteByte('}')
			return b.String(), p.at, true
		}
		name := p.word()
		p.space()
		if name == "" || !p.take("=") {
			return "", p.failed(), false
		}
		p.space()
		value, ok := p.value(0)
		if !ok {
			return "", p.failed(), false
		}
		if !first {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(name) + ": " + value)
	}
}

type pythonReader struct {
	text string
	at   int
}

// failed is −1 if something is wrong with the text, and 0 if it only ends early.
func (p *pythonReader) failed() int {
	if p.at < len(p.text) {
		return -1
	}
	return 0
}

func (p *pythonReader) space() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *pythonReader) take(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *pythonReader) word() string {
	from := p.at
	for p.at < len(p.text) && (p.text[p.at] == '_' || p.text[p.at]|0x20 >= 'a' && p.text[p.at]|0x20 <= 'z' || p.at > from && p.text[p.at] >= '0' && p.text[p.at] <= '9') {
		p.at++
	}
	return p.text[from:p.at]
}

// value reads a literal and writes it as JSON.
func (p *pythonReader) value(depth int) (string, bool) {
	if p.at >= len(p.text) || depth > 100 {
		return "", false
	}
	switch c := p.text[p.at]; {
	case c == '"' || c == '\'':
		return p.quoted(c)
	case c == '[' || c == '(' || c == '{':
		return p.list(depth)
	case c == '-' || c == '+' || c == '.' || c >= '0' && c <= '9':
		from := p.at
		for p.at < len(p.text) && strings.IndexByte("+-.0123456789eE_", p.text[p.at]) >= 0 {
			p.at++
		}
		number := strings.ReplaceAll(strings.TrimPrefix(p.text[from:p.at], "+"), "_", "")
		if p.at < len(p.text) && !json.Valid([]byte(number)) {
			f, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return "", false
			}
			number = strconv.FormatFloat(f, 'g', -1, 64)
		}
		return number, p.at < len(p.text)
	}
	switch p.word() {
	case "True", "true":
		return "true", true
	case "False", "false":
		return "false", true
	case "None", "null":
		return "null", true
	}
	return "", false
}

// list reads a list, a tuple or a dictionary.
func (p *pythonReader) list(depth int) (string, bool) {
	object := p.text[p.at] == '{'
	end := map[byte]string{'[': "]", '(': ")", '{': "}"}[p.text[p.at]]
	p.at++
	var items []string
	for {
		if p.space(); p.take(end) {
			break
		}
		if len(items) > 0 {
			if !p.take(",") {
				return "", false
			}
			if p.space(); p.take(end) {
				break
			}
		}
		v, ok := p.value(depth + 1)
		if !ok {
			return "", false
		}
		if object {
			p.space()
			if !strings.HasPrefix(v, `"`) {
				v = strconv.Quote(v)
			}
			if !p.take(":") {
				return "", false
			}
			p.space()
			x, ok := p.value(depth + 1)
			if !ok {
				return "", false
			}
			v += ": " + x
		}
		items = append(items, v)
	}
	if object {
		return "{" + strings.Join(items, ", ") + "}", true
	}
	return "[" + strings.Join(items, ", ") + "]", true
}

// quoted reads a string and writes it as JSON.
func (p *pythonReader) quoted(quote byte) (string, bool) {
	var b strings.Builder
	for i := p.at + 1; i < len(p.text); i++ {
		switch c := p.text[i]; c {
		case quote:
			p.at = i + 1
			out, err := marshal(b.String())
			return string(out), err == nil
		case '\\':
			if i+1 >= len(p.text) {
				p.at = len(p.text)
				return "", false
			}
			i++
			switch c := p.text[i]; c {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case 'b':
				b.WriteByte('\b')
			case 'f':
				b.WriteByte('\f')
			case 'u', 'x', 'U':
				size := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
				if i+size >= len(p.text) {
					p.at = len(p.text)
					return "", false
				}
				r, err := strconv.ParseUint(p.text[i+1:i+1+size], 16, 32)
				if err != nil {
					p.at = i
					return "", false
				}
				i += size
				if r >= 0xd800 && r < 0xdc00 && strings.HasPrefix(p.text[i+1:], `\u`) && i+7 <= len(p.text) { // JSON's pairs
					if low, err := strconv.ParseUint(p.text[i+3:i+7], 16, 32); err == nil && low >= 0xdc00 && low < 0xe000 {
						r = 0x10000 + (r-0xd800)<<10 + low - 0xdc00
						i += 6
					}
				}
				b.WriteRune(rune(r))
			case '/', '\\', '"', '\'':
				b.WriteByte(c)
			default:
				b.WriteByte('\\')
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
		}
	}
	p.at = len(p.text)
	return "", false
}
