package tokenizer

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonScan walks JSON that encoding/json has already checked. Vocabularies are objects and lists
// of hundreds of thousands of short strings, which reflection reads at a tenth of the speed, and
// an object's repeated keys must be seen, not silently dropped.
type jsonScan struct {
	s  string
	at int
}

func (j *jsonScan) peek() byte {
	for j.at < len(j.s) {
		switch c := j.s[j.at]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			j.at++
		default:
			return c
		}
	}
	return 0
}

// open steps into an object or list and reports whether there was one.
func (j *jsonScan) open(c byte) bool {
	if j.peek() != c {
		return false
	}
	j.at++
	return true
}

// done reports whether the object or list ends here, and steps out of it.
func (j *jsonScan) done() bool {
	switch j.peek() {
	case '}', ']':
		j.at++
		return true
	case 0:
		return true
	}
	return false
}

func (j *jsonScan) string() (string, bool) {
	if j.peek() != '"' {
		return "", false
	}
	start := j.at + 1
	for i := start; i < len(j.s); i++ {
		switch j.s[i] {
		case '\\':
			i++
		case '"':
			j.at = i + 1
			raw := j.s[start:i]
			if strings.IndexByte(raw, '\\') < 0 {
				return raw, true
			}
			return unescapeJSON(raw), true
		}
	}
	return "", false
}

func (j *jsonScan) number() (string, bool) {
	j.peek()
	start := j.at
	for j.at < len(j.s) && strings.IndexByte("+-.eE0123456789", j.s[j.at]) >= 0 {
		j.at++
	}
	return j.s[start:j.at], j.at > start
}

func (j *jsonScan) int32() (int32, bool) {
	s, ok := j.number()
	n, err := strconv.ParseInt(s, 10, 32)
	return int32(n), ok && err == nil
}

// skip steps over a value and returns its text.
func (j *jsonScan) skip() string {
	c := j.peek()
	start := j.at
	switch c {
	case '"':
		for j.at++; j.at < len(j.s) && j.s[j.at] != '"'; j.at++ {
			if j.s[j.at] == '\\' {
				j.at++
			}
		}
		j.at++
	case '{', '[':
		for depth := 0; j.at < len(j.s); j.at++ {
			switch j.s[j.at] {
			case '"':
				j.skip()
				j.at--
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					j.at++
					return j.s[start:j.at]
				}
			}
		}
	default:
		for j.at < len(j.s) && strings.IndexByte(",:}] \t\r\n", j.s[j.at]) < 0 {
			j.at++
		}
	}
	j.at = min(j.at, len(j.s))
	return j.s[start:j.at]
}

// take removes the members of these names from an object and returns the object without them.
func take(object string, names map[string]*string) json.RawMessage {
	j := &jsonScan{s: object}
	if !j.open('{') {
		return json.RawMessage(object)
	}
	rest := []byte("{")
	for !j.done() {
		key, ok := j.string()
		value := j.skip()
		if dst := names[key]; dst != nil && ok {
			*dst = value
			continue
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(append(rest, quoteJSON(key)...), ':'), value...)
	}
	return append(rest, '}')
}

func unescapeJSON(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			b = append(b, '\n')
		case 't':
			b = append(b, '\t')
		case 'r':
			b = append(b, '\r')
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 < len(s)+1 && strings.HasPrefix(s[i+1:], `\u`) {
					if r2 := utf16.DecodeRune(r, hex4(s[i+3:])); r2 != utf8.RuneError {
						r = r2
						i += 6
					}
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func hex4(s string) rune {
	if len(s) < 4 {
		return utf8.RuneError
	}
	n, err := strconv.ParseUint(s[:4], 16, 32)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// quoteJSON writes s as a JSON string, as Hugging Face writes it: UTF-8, nothing escaped that
// need not be.
func quoteJSON(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}
