package jinja

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Values of a template are nil, bool, int64, float64, string, *List, *Map, Undefined, and
// callables. Everything else that a caller passes becomes one of them in Value.

// List is a Python list or tuple.
type List struct {
	Items []any
	Tuple bool

	// kind says that it is something else that can be gone through: a view of a dict, by the name of
	// its type, or a generator. Neither has elements by number; a generator is true even when it has
	// nothing to give, and gives everything once.
	kind string
}

const generator = "generator"

// plain reports whether v is a list or tuple indeed.
func (l *List) plain() bool { return l.kind == "" }

// Map is a Python dict: entries in the order in which they were set.
type Map struct {
	keys   []any
	values []any
	index  map[any]int
}

// Undefined is the value of a name or member that does not exist. It prints as nothing and is
// false; most other uses are errors that say why.
type Undefined struct{ why string }

// markup is text that the filters safe and escape have marked as HTML. What is added to it with +
// is escaped (so Jinja does, also where nobody writes HTML); any other use makes it a string again.
type markup string

func unmark(v any) any {
	if m, ok := v.(markup); ok {
		return string(m)
	}
	return v
}

// marked escapes what joins markup.
func marked(v any) markup {
	if m, ok := v.(markup); ok {
		return m
	}
	return markup(html.EscapeString(str(v)))
}

// callable is a function of the template language.
type callable struct {
	name string
	fn   func(x *exec, a *callArgs) (any, error)
}

type callArgs struct {
	pos    []any
	names  []string
	values []any
}

// namespace is what namespace() returns: the one value a template may change.
type namespace struct{ vars *Map }

// NewMap returns an empty map.
func NewMap() *Map { return &Map{index: map[any]int{}} }

// key makes equal Python keys equal Go keys: 1 is 1.0 is True.
func key(k any) (any, bool) {
	switch k := unmark(k).(type) {
	case nil, string, int64:
		return k, true
	case Undefined: // all of them are equal
		return Undefined{}, true
	case bool:
		if k {
			return int64(1), true
		}
		return int64(0), true
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<62 {
			return int64(k), true
		}
		return k, k == k
	case *List: // a tuple of a few short values
		if !k.Tuple || len(k.Items) > 8 {
			return nil, false
		}
		for _, item := range k.Items {
			if s, ok := item.(string); ok && len(s) < 1000 {
				continue
			}
			if _, _, _, ok := number(item); !ok {
				return nil, false
			}
		}
		return tupleKey(repr(k)), true
	}
	return nil, false
}

type tupleKey string

// Set sets the value of a key; a new key comes last.
func (m *Map) Set(name string, value any) { m.set(name, value) }

func (m *Map) set(k, v any) bool {
	h, ok := key(k)
	if !ok {
		return false
	}
	if i, ok := m.index[h]; ok {
		m.values[i] = v
		return true
	}
	m.index[h] = len(m.keys)
	m.keys = append(m.keys, k)
	m.values = append(m.values, v)
	return true
}

// Get returns the value of a key.
func (m *Map) Get(name string) (any, bool) { return m.get(name) }

func (m *Map) get(k any) (any, bool) {
	h, ok := key(k)
	if !ok {
		return nil, false
	}
	i, ok := m.index[h]
	if !ok {
		return nil, false
	}
	return m.values[i], true
}

// Len is the number of entries.
func (m *Map) Len() int { return len(m.keys) }

// Value converts a Go value to a template's: what encoding/json would write, objects in its order.
// Maps and lists of this package, and JSON in a json.RawMessage, keep the order of their entries.
func Value(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, int64, float64, string, *List, *Map, Undefined:
		return v, nil
	case int:
		return int64(v), nil
	case []any:
		l := &List{Items: make([]any, len(v))}
		for i := range v {
			var err error
			if l.Items[i], err = Value(v[i]); err != nil {
				return nil, err
			}
		}
		return l, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return FromJSON(b.Bytes())
}

// FromJSON reads a JSON value; objects become Maps in the order of the text.
func FromJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := fromJSON(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err == nil {
		return nil, errors.New("text after the JSON value")
	}
	return v, nil
}

func fromJSON(d *json.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, errors.New("JSON nests too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			l := &List{Items: []any{}}
			for d.More() {
				v, err := fromJSON(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			_, err = d.Token()
			return l, err
		}
		m := NewMap()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := fromJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			m.set(k, v)
		}
		_, err = d.Token()
		return m, err
	case json.Number:
		if !strings.ContainsAny(t.String(), ".eE") {
			if n, err := t.Int64(); err == nil {
				return n, nil
			}
		}
		f, err := t.Float64()
		return f, err
	}
	return t, nil
}

func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string, markup:
		return "str"
	case *List:
		switch {
		case v.kind != "":
			return v.kind
		case v.Tuple:
			return "tuple"
		}
		return "list"
	case *Map:
		return "dict"
	case Undefined:
		return "Undefined"
	case *namespace:
		return "Namespace"
	case *loop:
		return "LoopContext"
	}
	return "function"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, Undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *List:
		return len(v.Items) > 0 || v.kind == generator
	case *Map:
		return v.Len() > 0
	}
	return true
}

// number returns a value as a number; bools count.
func number(v any) (i int64, f float64, isFloat, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			i = 1
		}
		return i, float64(i), false, true
	case int64:
		return v, float64(v), false, true
	case float64:
		return 0, v, true, true
	}
	return 0, 0, false, false
}

// equal and compare are charged for each value they look at: lists that hold lists twice over
// grow exponentially.
func (x *exec) equal(a, b any) bool {
	a, b = unmark(a), unmark(b)
	x.work--
	if x.work < 0 {
		return false
	}
	if ai, af, aF, ok := number(a); ok {
		bi, bf, bF, ok := number(b)
		if !ok {
			return false
		}
		if aF || bF {
			return af == bf
		}
		return ai == bi
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		s, ok := b.(string)
		x.work -= len(s) / 64
		return ok && a == s
	case Undefined:
		_, ok := b.(Undefined)
		return ok
	case *List:
		l, ok := b.(*List)
		if a == l {
			return true
		}
		if !ok || a.Tuple != l.Tuple || a.kind != l.kind || a.kind == generator || len(a.Items) != len(l.Items) {
			return false
		}
		for i := range a.Items {
			if !x.equal(a.Items[i], l.Items[i]) {
				return false
			}
		}
		return true
	case *Map:
		m, ok := b.(*Map)
		if a == m {
			return true
		}
		if !ok || a.Len() != m.Len() {
			return false
		}
		for i, k := range a.keys {
			v, ok := m.get(k)
			if !ok || !x.equal(a.values[i], v) {
				return false
			}
		}
		return true
	}
	return a == b
}

// compare orders numbers, strings and lists.
func (x *exec) compare(a, b any) (int, error) {
	a, b = unmark(a), unmark(b)
	x.work--
	if x.work < 0 {
		return 0, errTooMuch
	}
	if ai, af, aF, ok := number(a); ok {
		if bi, bf, bF, ok := number(b); ok {
			if aF || bF {
				return cmp.Compare(af, bf), nil
			}
			return cmp.Compare(ai, bi), nil
		}
	}
	switch a := a.(type) {
	case Undefined: // what has no such attribute is sorted as equal
		if _, ok := b.(Undefined); ok {
			return 0, nil
		}
	case string:
		if s, ok := b.(string); ok {
			return strings.Compare(a, s), nil
		}
	case *List:
		if l, ok := b.(*List); ok && a.Tuple == l.Tuple && a.plain() && l.plain() {
			for i := range min(len(a.Items), len(l.Items)) {
				if !x.equal(a.Items[i], l.Items[i]) {
					return x.compare(a.Items[i], l.Items[i])
				}
			}
			return len(a.Items) - len(l.Items), nil
		}
	}
	return 0, fmt.Errorf("'<' not supported between instances of '%s' and '%s'", typeName(a), typeName(b))
}

// str is Python's str(): what {{ v }} prints.
func str(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case Undefined:
		return ""
	}
	return repr(v)
}

// repr is Python's repr(), cut off where it grows past any sense.
func repr(v any) string {
	var b strings.Builder
	writeRepr(&b, v, 0)
	return b.String()
}

func writeRepr(b *strings.Builder, v any, depth int) {
	if depth > maxNesting || b.Len() > maxText {
		b.WriteString("...")
		return
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatRepr(v))
	case string:
		b.WriteString(stringRepr(v))
	case markup:
		b.WriteString(stringRepr(string(v)))
	case Undefined:
		b.WriteString("Undefined")
	case *List:
		open, end := "[", "]"
		switch {
		case v.kind != "" && v.kind != generator:
			open, end = v.kind+"([", "])"
		case v.Tuple:
			open, end = "(", ")"
			if len(v.Items) == 1 {
				end = ",)"
			}
		}
		b.WriteString(open)
		for i, item := range v.Items {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRepr(b, item, depth+1)
		}
		b.WriteString(end)
	case *Map:
		b.WriteString("{")
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRepr(b, k, depth+1)
			b.WriteString(": ")
			writeRepr(b, v.values[i], depth+1)
		}
		b.WriteString("}")
	case *namespace:
		b.WriteString("<Namespace ")
		writeRepr(b, v.vars, depth+1)
		b.WriteString(">")
	default:
		fmt.Fprintf(b, "<%s>", typeName(v))
	}
}

func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, err := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if err != nil || exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func stringRepr(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\\' || r == rune(quote):
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7F:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0x7F && !strconv.IsPrint(r):
			switch {
			case r <= 0xFF:
				fmt.Fprintf(&b, `\x%02x`, r)
			case r <= 0xFFFF:
				fmt.Fprintf(&b, `\u%04x`, r)
			default:
				fmt.Fprintf(&b, `\U%08x`, r)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte(quote)
	return b.String()
}

// toJSON is Python's json.dumps with ensure_ascii off, as transformers sets it up.
type toJSON struct {
	b           strings.Builder
	indent      string // "" with one: on one line
	lines       bool
	item, colon string
	sortKeys    bool
	ascii       bool
}

func (j *toJSON) write(v any, depth int) error {
	if depth > maxNesting {
		return errors.New("tojson: value nests too deeply")
	}
	if j.b.Len() > maxText {
		return errTooLong
	}
	newline := func(depth int) {
		if j.lines {
			j.b.WriteByte('\n')
			for range depth {
				j.b.WriteString(j.indent)
			}
		}
	}
	switch v := v.(type) {
	case nil:
		j.b.WriteString("null")
	case bool:
		j.b.WriteString(strconv.FormatBool(v))
	case int64:
		j.b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		switch {
		case math.IsNaN(v):
			j.b.WriteString("NaN")
		case math.IsInf(v, 1):
			j.b.WriteString("Infinity")
		case math.IsInf(v, -1):
			j.b.WriteString("-Infinity")
		default:
			j.b.WriteString(floatRepr(v))
		}
	case string:
		j.string(v)
	case markup:
		j.string(string(v))
	case *List:
		if !v.plain() {
			return fmt.Errorf("tojson: object of type %s is not JSON serializable", typeName(v))
		}
		if len(v.Items) == 0 {
			j.b.WriteString("[]")
			return nil
		}
		j.b.WriteByte('[')
		for i, item := range v.Items {
			if i > 0 {
				j.b.WriteString(j.item)
			}
			newline(depth + 1)
			if err := j.write(item, depth+1); err != nil {
				return err
			}
		}
		newline(depth)
		j.b.WriteByte(']')
	case *Map:
		if v.Len() == 0 {
			j.b.WriteString("{}")
			return nil
		}
		order := make([]int, v.Len())
		for i := range order {
			order[i] = i
		}
		if j.sortKeys {
			slices.SortStableFunc(order, func(a, b int) int {
				return strings.Compare(str(v.keys[a]), str(v.keys[b]))
			})
		}
		j.b.WriteByte('{')
		for n, i := range order {
			if n > 0 {
				j.b.WriteString(j.item)
			}
			newline(depth + 1)
			switch k := v.keys[i].(type) {
			case string:
				j.string(k)
			case nil, bool, int64, float64:
				j.b.WriteByte('"')
				if err := j.write(k, depth+1); err != nil {
					return err
				}
				j.b.WriteByte('"')
			default:
				return fmt.Errorf("tojson: keys must be str, int, float, bool or None, not %s", typeName(k))
			}
			j.b.WriteString(j.colon)
			if err := j.write(v.values[i], depth+1); err != nil {
				return err
			}
		}
		newline(depth)
		j.b.WriteByte('}')
	default:
		return fmt.Errorf("tojson: object of type %s is not JSON serializable", typeName(v))
	}
	return nil
}

func (j *toJSON) string(s string) {
	j.b.WriteByte('"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			j.b.WriteByte('\\')
			j.b.WriteByte(c)
		case c == '\n':
			j.b.WriteString(`\n`)
		case c == '\r':
			j.b.WriteString(`\r`)
		case c == '\t':
			j.b.WriteString(`\t`)
		case c == '\b':
			j.b.WriteString(`\b`)
		case c == '\f':
			j.b.WriteString(`\f`)
		case c < ' ':
			fmt.Fprintf(&j.b, `\u%04x`, c)
		case c >= utf8.RuneSelf && j.ascii:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r >= 0x10000 {
				r -= 0x10000
				fmt.Fprintf(&j.b, `\u%04x\u%04x`, 0xD800+r>>10, 0xDC00+r&0x3FF)
			} else {
				fmt.Fprintf(&j.b, `\u%04x`, r)
			}
			i += n
			continue
		default:
			j.b.WriteByte(c)
		}
		i++
	}
	j.b.WriteByte('"')
}
