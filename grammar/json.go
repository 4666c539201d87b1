package grammar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"
)

// JSONObject is any JSON object, nested at most 24 deep.
func JSONObject(v *Vocab) (*Grammar, error) {
	b := &builder{v: v}
	j := b.json()
	top := b.addRule("object")
	b.rules[top] = b.call(j.any(24).object)
	return compile(v, b)
}

// jsonRules are the rules for JSON that schemas share.
type jsonRules struct {
	b       *builder
	str     int32
	number  int32
	integer int32
	word    [3]int32 // null, true, false
	space   int32
	values  []anyRules
	leaf    map[string]int32 // of strings and numbers, by what restricts them
	made    bool
}

// json is the rules that all schemas of a grammar share.
func (b *builder) json() *jsonRules {
	if b.shared == nil {
		b.shared = &jsonRules{b: b, leaf: map[string]int32{}}
	}
	return b.shared
}

// anyRules are values nested at most some depth.
type anyRules struct{ value, object, array int32 }

func (j *jsonRules) init() {
	if j.made {
		return
	}
	j.made = true
	b := j.b
	rule := func(name string, f frag) int32 {
		r := b.addRule(name)
		b.rules[r] = f
		return r
	}
	j.space = rule("space", b.space())
	j.str = rule("string", b.quoted(b.star(b.jsonChar())))
	j.integer = rule("integer", b.cat(b.opt(b.lit("-")), b.digits(15)))
	j.number = rule("number", b.cat(
		b.opt(b.lit("-")), b.digits(15),
		b.opt(b.cat(b.lit("."), b.repeat(b.digit, 1, 15))),
		b.opt(b.cat(b.alt(b.lit("e"), b.lit("E")), b.opt(b.alt(b.lit("+"), b.lit("-"))), b.repeat(b.digit, 1, 2))),
	))
	for i, w := range []string{"null", "true", "false"} {
		j.word[i] = rule(w, b.lit(w))
	}
}

// any returns the rules for values of every type nested at most depth deep.
func (j *jsonRules) any(depth int) anyRules {
	j.init()
	b := j.b
	for d := len(j.values); d <= depth; d++ {
		r := anyRules{object: -1, array: -1, value: b.addRule("value")}
		scalars := []frag{b.call(j.str), b.call(j.number)}
		for _, w := range j.word {
			scalars = append(scalars, b.call(w))
		}
		if d > 0 {
			below := j.values[d-1].value
			r.object, r.array = b.addRule("object"), b.addRule("array")
			member := func() frag { return b.cat(b.call(j.str), b.lit(":"), b.call(j.space), b.call(below)) }
			b.rules[r.object] = j.list("{", "}", member)
			b.rules[r.array] = j.list("[", "]", func() frag { return b.call(below) })
			scalars = append(scalars, b.call(r.object), b.call(r.array))
		}
		b.rules[r.value] = b.alt(scalars...)
		j.values = append(j.values, r)
	}
	return j.values[depth]
}

func (b *builder) digit() frag { return b.bytes('0', '9') }

// digits is a whole number of at most n digits without leading zeros.
func (b *builder) digits(n int) frag {
	return b.alt(b.lit("0"), b.cat(b.bytes('1', '9'), b.repeat(b.digit, 0, n-1)))
}

// space is the white space between JSON's tokens: none, one blank, or a line end and up to 24 blanks
// of indentation. It is bounded so that a model cannot go on with it for ever.
func (b *builder) space() frag {
	return b.opt(b.alt(b.lit(" "), b.cat(b.lit("\n"), b.repeat(func() frag {
		return b.alt(b.lit(" "), b.lit("\t"))
	}, 0, 24))))
}

// list is open, items between commas, close.
func (j *jsonRules) list(open, close string, item func() frag) frag {
	b := j.b
	space := func() frag { return b.call(j.space) }
	next := b.cat(b.lit(","), space(), item())
	return b.cat(b.lit(open), space(), b.opt(b.cat(item(), b.star(next), space())), b.lit(close))
}

func (b *builder) quoted(body frag) frag { return b.cat(b.lit(`"`), body, b.lit(`"`)) }

// jsonChar is one character as it may stand in a JSON string: itself, or an escape of one that is
// not half a surrogate pair.
func (b *builder) jsonChar() frag {
	hex := func() frag { return b.alt(b.digit(), b.bytes('a', 'f'), b.bytes('A', 'F')) }
	short := b.cat(b.lit(`\`), b.alt(b.lit(`"`), b.lit(`\`), b.lit("/"), b.lit("b"), b.lit("f"), b.lit("n"), b.lit("r"), b.lit("t")))
	long := b.cat(b.lit(`\u`), b.alt(
		b.cat(b.alt(b.digit(), b.bytes('a', 'c'), b.bytes('A', 'C'), b.bytes('e', 'f'), b.bytes('E', 'F')), hex()),
		b.cat(b.alt(b.lit("d"), b.lit("D")), b.bytes('0', '7')),
	), hex(), hex())
	return b.alt(b.runes([]runeRange{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, utf8.MaxRune}}), short, long)
}

// jsonRunes is one character of the ranges as a JSON string spells it, each in one way only.
func (b *builder) jsonRunes(rs []runeRange) frag {
	f := frag{b.state(), b.state()}
	to := func(x frag) {
		b.link(f.in, x.in)
		b.link(x.out, f.out)
	}
	var plain []runeRange
	for _, r := range rs {
		for c := r.lo; c <= min(r.hi, 0x1f); c++ {
			to(b.lit(escapeJSON(c)))
		}
		for _, p := range []runeRange{{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, utf8.MaxRune}} {
			if p.lo, p.hi = max(p.lo, r.lo), min(p.hi, r.hi); p.lo <= p.hi {
				plain = append(plain, p)
			}
		}
		for _, c := range []rune{'"', '\\'} {
			if r.lo <= c && c <= r.hi {
				to(b.lit(escapeJSON(c)))
			}
		}
	}
	if len(plain) > 0 {
		to(b.runes(plain))
	}
	return f
}

// escapeJSON spells a character in a JSON string, escaped only where it must be.
func escapeJSON(c rune) string {
	switch c {
	case '"', '\\':
		return `\` + string(c)
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	}
	if c < 0x20 {
		return fmt.Sprintf(`\u%04x`, c)
	}
	return string(c)
}

// object is a JSON object with its members in order: a schema's properties are written in the
// order in which it lists them.
type object struct {
	keys []string
	vals map[string]any
}

func (o *object) get(key string) (any, bool) {
	v, ok := o.vals[key]
	return v, ok
}

// decode reads JSON into nil, bool, json.Number, string, []any and *object.
func decode(src []byte) (any, error) {
	if !utf8.Valid(src) {
		return nil, errorf("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return v, nil
		}
		err = fmt.Errorf("more after the value at byte %d", d.InputOffset())
	}
	return nil, errorf("JSON: %v", err)
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > 100 {
		return nil, fmt.Errorf("nested more than 100 deep")
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	case json.Delim('{'):
		o := &object{vals: map[string]any{}}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			key, ok := k.(string)
			if !ok {
				return nil, fmt.Errorf("a key is not a string")
			}
			v, err := decodeValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			if _, twice := o.vals[key]; !twice {
				o.keys = append(o.keys, key)
			}
			o.vals[key] = v
		}
		_, err = d.Token()
		return o, err
	}
	return t, nil
}

// encode is decode backwards, compact, with nothing escaped that need not be.
func encode(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return fmt.Append(dst, v)
	case json.Number:
		return append(dst, v...)
	case string:
		return appendString(dst, v)
	case []any:
		dst = append(dst, '[')
		for i, x := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = encode(dst, x)
		}
		return append(dst, ']')
	case *object:
		dst = append(dst, '{')
		for i, k := range v.keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			dst = encode(dst, v.vals[k])
		}
		return append(dst, '}')
	}
	panic(fmt.Sprintf("grammar: %T in decoded JSON", v))
}

func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, c := range s {
		dst = append(dst, escapeJSON(c)...)
	}
	return append(dst, '"')
}
