package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// JSONSchema compiles a JSON schema. What it writes is valid by the schema; it may be less than all
// that is valid:
//
//	type                  one or a list of them; integers have up to 15 digits, numbers 15 and 15
//	enum, const           alone or with type
//	properties, required  written in the order of properties; optional ones may be left out
//	additionalProperties  a schema: used if there are no properties; otherwise nothing is added
//	items, prefixItems, minItems, maxItems
//	anyOf                 alone; oneOf if its branches exclude each other by type or a const member
//	allOf                 of one schema
//	$ref                  "#/…" inside the document, recursive too
//	pattern               Go's regular expressions; searched for, as the standard says
//	format                date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uuid
//	minLength, maxLength  in characters
//	minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf   (of whole numbers)
//
// Titles, descriptions, defaults and unknown words are passed over. A word that restricts and is
// not in the list is an error that names it and where it stands.
func JSONSchema(v *Vocab, src []byte) (*Grammar, error) {
	b := &builder{}
	top := b.addRule("root")
	s := newSchema(b, src)
	b.rules[top] = s.frag(s.doc, "#")
	return compile(v, b)
}

type schema struct {
	b     *builder
	doc   any
	json  jsonRules
	rules map[*object]int32 // of schemas that $ref names
	leaf  map[string]int32  // of strings and numbers, by what restricts them
	depth int
}

func newSchema(b *builder, src []byte) *schema {
	doc, err := decode(src)
	if err != nil && b.err == nil {
		b.err = err
	}
	return &schema{b: b, doc: doc, json: jsonRules{b: b}, rules: map[*object]int32{}, leaf: map[string]int32{}}
}

// anyDepth is how deep values that a schema leaves open may nest.
const anyDepth = 8

// Words that assert something and that the code below does not look at; an error, as passing over
// them would write what is not valid.
var unsupported = []string{
	"not", "if", "then", "else", "patternProperties", "propertyNames", "dependentRequired",
	"dependentSchemas", "dependencies", "minProperties", "maxProperties", "uniqueItems", "contains",
	"minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties", "additionalItems",
	"$dynamicRef", "$recursiveRef",
}

// Words that assert something, by what they apply to.
var assertions = map[string]string{
	"properties": "object", "required": "object", "additionalProperties": "object",
	"items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
	"pattern": "string", "format": "string", "minLength": "string", "maxLength": "string",
	"minimum": "number", "maximum": "number", "exclusiveMinimum": "number",
	"exclusiveMaximum": "number", "multipleOf": "number",
	"type": "", "enum": "", "const": "", "anyOf": "", "oneOf": "", "allOf": "", "$ref": "",
}

var types = []string{"object", "array", "string", "number", "integer", "boolean", "null"}

func (s *schema) fail(at, format string, a ...any) frag {
	return s.b.fail("schema at %s: %s", at, fmt.Sprintf(format, a...))
}

// frag is the automaton of one schema; at is its JSON pointer, for errors.
func (s *schema) frag(v any, at string) frag {
	b := s.b
	if b.err != nil {
		return b.empty()
	}
	if s.depth++; s.depth > 200 {
		return s.fail(at, "nested more than 200 deep")
	}
	defer func() { s.depth-- }()
	if v == true {
		return b.call(s.json.any(anyDepth).value)
	}
	if v == false {
		return b.nothing()
	}
	o, ok := v.(*object)
	if !ok {
		return s.fail(at, "a schema is an object, true or false")
	}
	var says []string
	for _, k := range o.keys {
		if slices.Contains(unsupported, k) {
			if x := o.vals[k]; x == false && k == "uniqueItems" {
				continue
			}
			return s.fail(at, "%q is not supported", k)
		}
		if _, ok := assertions[k]; ok {
			says = append(says, k)
		}
	}
	alone := func(word string, with ...string) bool {
		for _, k := range says {
			if k != word && !slices.Contains(with, k) {
				s.fail(at, "%q next to %q is not supported: put it inside", k, word)
				return false
			}
		}
		return true
	}
	switch {
	case slices.Contains(says, "$ref"):
		if !alone("$ref") {
			return b.empty()
		}
		return s.ref(o.vals["$ref"], at)
	case slices.Contains(says, "const"):
		if !alone("const", "type") {
			return b.empty()
		}
		return s.literals([]any{o.vals["const"]}, o, at)
	case slices.Contains(says, "enum"):
		list, ok := o.vals["enum"].([]any)
		if !ok || len(list) == 0 {
			return s.fail(at, "enum needs a list of values")
		}
		if !alone("enum", "type") {
			return b.empty()
		}
		return s.literals(list, o, at)
	case slices.Contains(says, "anyOf"), slices.Contains(says, "oneOf"), slices.Contains(says, "allOf"):
		word := says[slices.IndexFunc(says, func(k string) bool { return strings.HasSuffix(k, "Of") && k != "multipleOf" })]
		list, ok := o.vals[word].([]any)
		if !ok || len(list) == 0 {
			return s.fail(at, "%s needs a list of schemas", word)
		}
		if !alone(word, "type") {
			return b.empty()
		}
		if t, ok := o.get("type"); ok {
			for i, x := range list {
				if y, ok := x.(*object); !ok || !equal(y.vals["type"], t) {
					return s.fail(fmt.Sprintf("%s/%s/%d", at, word, i), "must have the same type as the schema around it")
				}
			}
		}
		if word == "allOf" && len(list) > 1 {
			return s.fail(at, "allOf of more than one schema is not supported: merge them")
		}
		if word == "oneOf" {
			for i := range list {
				for j := range i {
					if !s.disjoint(list[i], list[j]) {
						return s.fail(at, "oneOf: branches %d and %d may overlap: use anyOf", j, i)
					}
				}
			}
		}
		var fs []frag
		for i, x := range list {
			fs = append(fs, s.frag(x, fmt.Sprintf("%s/%s/%d", at, word, i)))
		}
		return b.alt(fs...)
	}
	names := s.typeNames(o, says, at)
	var fs []frag
	for _, t := range names {
		fs = append(fs, s.typed(t, o, at))
	}
	return b.alt(fs...)
}

// typeNames are the types that a schema without combinators may have. Without "type", words about
// one type say nothing of the others, but what is written is of a type that they speak of.
func (s *schema) typeNames(o *object, says []string, at string) []string {
	t, ok := o.get("type")
	if !ok {
		var names []string
		for _, k := range says {
			if a := assertions[k]; a != "" && !slices.Contains(names, a) {
				names = append(names, a)
			}
		}
		if names == nil {
			return []string{"any"}
		}
		return names
	}
	list, ok := t.([]any)
	if !ok {
		list = []any{t}
	}
	var names []string
	for _, x := range list {
		n, _ := x.(string)
		if !slices.Contains(types, n) {
			s.fail(at, "unknown type %s", encode(nil, x))
			return nil
		}
		names = append(names, n)
	}
	if slices.Contains(names, "number") {
		names = slices.DeleteFunc(names, func(n string) bool { return n == "integer" })
	}
	return names
}

func (s *schema) typed(t string, o *object, at string) frag {
	b := s.b
	s.json.init()
	switch t {
	case "any":
		return b.call(s.json.any(anyDepth).value)
	case "null":
		return b.call(s.json.word[0])
	case "boolean":
		return b.alt(b.call(s.json.word[1]), b.call(s.json.word[2]))
	case "object":
		return s.object(o, at)
	case "array":
		return s.array(o, at)
	case "string":
		return s.string(o, at)
	}
	return s.numeric(o, t == "integer", at)
}

// ref is a call of the rule of the schema that a "$ref" names.
func (s *schema) ref(v any, at string) frag {
	name, ok := v.(string)
	if !ok || name != "#" && !strings.HasPrefix(name, "#/") {
		return s.fail(at, "$ref %s: only references into the document are supported, such as #/$defs/name", encode(nil, v))
	}
	target := s.doc
	for _, step := range strings.Split(name, "/")[1:] {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch x := target.(type) {
		case *object:
			target, ok = x.get(step)
		case []any:
			i, err := strconv.Atoi(step)
			if ok = err == nil && i >= 0 && i < len(x); ok {
				target = x[i]
			}
		default:
			ok = false
		}
		if !ok {
			return s.fail(at, "$ref %q: there is no %q", name, step)
		}
	}
	o, ok := target.(*object)
	if !ok {
		return s.frag(target, name)
	}
	r, ok := s.rules[o]
	if !ok {
		r = s.b.addRule(name)
		s.rules[o] = r
		depth := s.depth
		s.depth = 0
		f := s.frag(o, name)
		s.b.rules[r] = f
		s.depth = depth
	}
	return s.b.call(r)
}

// literals is one of the values, if the schema's type allows it.
func (s *schema) literals(list []any, o *object, at string) frag {
	names := types
	if _, ok := o.get("type"); ok {
		names = s.typeNames(o, nil, at)
	}
	r := s.b.addRule(at)
	var fs []frag
	for _, x := range list {
		t := typeOf(x)
		if slices.Contains(names, t) || t == "integer" && slices.Contains(names, "number") {
			fs = append(fs, s.b.lit(string(encode(nil, x))))
		}
	}
	s.b.rules[r] = s.b.alt(fs...)
	return s.b.call(r)
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case *object:
		return "object"
	case json.Number:
		if r, ok := rational(v); ok && r.IsInt() {
			return "integer"
		}
	}
	return "number"
}

func equal(x, y any) bool {
	return x != nil && y != nil && string(encode(nil, x)) == string(encode(nil, y))
}

// disjoint reports that no value is valid by both schemas, as far as types and required members
// with constant values tell.
func (s *schema) disjoint(x, y any) bool {
	p, ok1 := s.resolve(x).(*object)
	q, ok2 := s.resolve(y).(*object)
	if !ok1 || !ok2 {
		return false
	}
	if a, ok := constants(p); ok {
		if b, ok := constants(q); ok {
			return !slices.ContainsFunc(a, func(v string) bool { return slices.Contains(b, v) })
		}
	}
	t, _ := p.vals["type"].(string)
	u, _ := q.vals["type"].(string)
	if t == "" || u == "" {
		return false
	}
	if t != u {
		return !(t == "integer" && u == "number" || t == "number" && u == "integer")
	}
	pp, _ := p.vals["properties"].(*object)
	qp, _ := q.vals["properties"].(*object)
	if t != "object" || pp == nil || qp == nil {
		return false
	}
	pr, _ := p.vals["required"].([]any)
	qr, _ := q.vals["required"].([]any)
	for _, k := range pp.keys {
		if slices.Contains(pr, any(k)) && slices.Contains(qr, any(k)) && s.disjoint(pp.vals[k], qp.vals[k]) {
			return true
		}
	}
	return false
}

func (s *schema) resolve(v any) any {
	for range 10 {
		o, ok := v.(*object)
		if !ok {
			return v
		}
		name, ok := o.vals["$ref"].(string)
		if !ok {
			return v
		}
		v = s.doc
		for _, step := range strings.Split(name, "/")[1:] {
			if o, ok = v.(*object); !ok {
				return nil
			}
			v = o.vals[step]
		}
	}
	return nil
}

func constants(o *object) ([]string, bool) {
	list, ok := o.vals["enum"].([]any)
	if c, has := o.get("const"); has {
		list, ok = []any{c}, true
	}
	var out []string
	for _, x := range list {
		if r, isNum := x.(json.Number); isNum {
			if q, fine := rational(r); fine {
				out = append(out, q.RatString())
				continue
			}
		}
		if _, composed := x.(*object); composed {
			return nil, false
		}
		out = append(out, string(encode(nil, x)))
	}
	return out, ok
}

func (s *schema) object(o *object, at string) frag {
	b := s.b
	props := &object{vals: map[string]any{}}
	if p, ok := o.get("properties"); ok {
		if props, ok = p.(*object); !ok {
			return s.fail(at, "properties is not an object")
		}
	}
	var required []string
	if r, ok := o.get("required"); ok {
		list, ok := r.([]any)
		if !ok {
			return s.fail(at, "required is not a list")
		}
		for _, x := range list {
			k, ok := x.(string)
			if !ok {
				return s.fail(at, "required: %s is not a name", encode(nil, x))
			}
			required = append(required, k)
		}
	}
	more, ok := o.get("additionalProperties")
	if !ok {
		more = true
	}
	keys := slices.Clone(props.keys)
	for _, k := range required {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	r := b.addRule(at)
	if len(keys) == 0 && more != false {
		value := b.addRule(at + "/additionalProperties")
		b.rules[value] = s.frag(more, at+"/additionalProperties")
		b.rules[r] = b.list("{", "}", func() frag {
			return b.cat(b.call(s.json.str), b.lit(":"), b.space(), b.call(value))
		}, 0, -1)
		if s.json.init(); b.err != nil {
			return b.empty()
		}
		return b.call(r)
	}
	// Before property i, state none[i] has written nothing so far, some[i] has.
	none, some := b.state(), b.state()
	open := b.lit("{")
	b.link(open.out, none)
	for _, k := range keys {
		sub, ok := props.get(k)
		if !ok {
			sub = more
		}
		value := b.addRule(at + "/properties/" + k)
		b.rules[value] = s.frag(sub, at+"/properties/"+k)
		member := func() frag {
			return b.cat(b.lit(string(appendString(nil, k))+":"), b.space(), b.call(value))
		}
		first := b.cat(b.space(), member())
		next := b.cat(b.lit(","), b.space(), member())
		b.link(none, first.in)
		b.link(some, next.in)
		n, m := b.state(), b.state()
		b.link(first.out, m)
		b.link(next.out, m)
		if !slices.Contains(required, k) {
			b.link(none, n)
			b.link(some, m)
		}
		none, some = n, m
		if b.err != nil {
			return b.empty()
		}
	}
	end := b.cat(b.space(), b.empty())
	b.link(some, end.in)
	b.link(none, end.out)
	shut := b.lit("}")
	b.link(end.out, shut.in)
	b.rules[r] = frag{open.in, shut.out}
	return b.call(r)
}

const maxCount = 4096

// count reads a keyword that is a number of things, at most maxCount.
func (s *schema) count(o *object, word string, otherwise int, at string) int {
	v, ok := o.get(word)
	if !ok {
		return otherwise
	}
	if n, ok := v.(json.Number); ok {
		if r, ok := rational(n); ok && r.IsInt() && r.Sign() >= 0 {
			if i := r.Num(); i.IsInt64() && i.Int64() <= maxCount {
				return int(i.Int64())
			}
			if word == "maxLength" || word == "maxItems" {
				return maxCount
			}
		}
	}
	s.fail(at, "%s must be a whole number from 0 to %d", word, maxCount)
	return otherwise
}

func (s *schema) array(o *object, at string) frag {
	b := s.b
	lo, hi := s.count(o, "minItems", 0, at), s.count(o, "maxItems", -1, at)
	var prefix []any
	if p, ok := o.get("prefixItems"); ok {
		if prefix, ok = p.([]any); !ok {
			return s.fail(at, "prefixItems is not a list")
		}
	}
	items, ok := o.get("items")
	if !ok {
		items = true
	}
	if _, tuple := items.([]any); tuple {
		return s.fail(at, "items is a list: use prefixItems")
	}
	r := b.addRule(at)
	if len(prefix) == 0 {
		if items == false {
			if lo > 0 {
				return b.nothing()
			}
			return b.lit("[]")
		}
		if hi >= 0 && hi < lo {
			return b.nothing()
		}
		item := b.addRule(at + "/items")
		b.rules[item] = s.frag(items, at+"/items")
		b.rules[r] = b.list("[", "]", func() frag { return b.call(item) }, lo, hi)
		return b.call(r)
	}
	// Positions in order; the list may close wherever it is long enough.
	shut := b.cat(b.space(), b.lit("]"))
	f := b.lit("[")
	at0 := f.out
	if lo == 0 {
		empty := b.lit("]")
		b.link(at0, empty.in)
		b.link(empty.out, shut.out)
	}
	n := 0
	one := func(rule int32) {
		lead := b.cat(b.space(), b.call(rule))
		if n > 0 {
			lead = b.cat(b.lit(","), b.space(), b.call(rule))
		}
		b.link(at0, lead.in)
		at0 = lead.out
		if n++; n >= lo {
			b.link(at0, shut.in)
		}
	}
	for i, p := range prefix {
		if hi >= 0 && n >= hi {
			break
		}
		item := b.addRule(fmt.Sprintf("%s/prefixItems/%d", at, i))
		b.rules[item] = s.frag(p, fmt.Sprintf("%s/prefixItems/%d", at, i))
		one(item)
	}
	if items != false && (hi < 0 || n < hi) {
		item := b.addRule(at + "/items")
		b.rules[item] = s.frag(items, at+"/items")
		for n < lo && b.err == nil {
			one(item)
		}
		if hi < 0 {
			more := b.star(b.cat(b.lit(","), b.space(), b.call(item)))
			b.link(at0, more.in)
			b.link(more.out, shut.in)
		}
		for n < hi && b.err == nil {
			one(item)
		}
	}
	b.rules[r] = frag{f.in, shut.out}
	return b.call(r)
}

// Formats whose whole language is not needed: every text that matches is valid.
var formats = map[string]string{
	"date":      `(19|20)\d\d-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))`,
	"time":      `([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):[0-5]\d)`,
	"duration":  `P(\d{1,4}Y)?(\d{1,2}M)?\d{1,3}D(T\d{1,2}H(\d{1,2}M(\d{1,2}S)?)?)?`,
	"email":     `[a-z0-9_+-]{1,20}(\.[a-z0-9_+-]{1,20}){0,2}@[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z]{2,10}){1,2}`,
	"hostname":  `[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z][a-z0-9]{0,20}){0,3}`,
	"ipv4":      `((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`,
	"ipv6":      `([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}`,
	"uri":       `https?://[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z]{2,10}){1,3}(/[A-Za-z0-9._~-]{0,40}){0,8}(\?[A-Za-z0-9._~=&-]{0,80})?`,
	"uuid":      `[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
	"date-time": "",
}

func init() { formats["date-time"] = formats["date"] + "T" + formats["time"] }

func (s *schema) string(o *object, at string) frag {
	b := s.b
	lo, hi := s.count(o, "minLength", 0, at), s.count(o, "maxLength", -1, at)
	if b.err != nil {
		return b.empty()
	}
	var patterns []string // each with whether it is searched for
	var search []bool
	if p, ok := o.get("pattern"); ok {
		expr, ok := p.(string)
		if !ok {
			return s.fail(at, "pattern is not a string")
		}
		patterns, search = append(patterns, expr), append(search, true)
	}
	if f, ok := o.get("format"); ok {
		name, _ := f.(string)
		expr, ok := formats[name]
		if !ok {
			return s.fail(at, "format %s is not supported", encode(nil, f))
		}
		patterns, search = append(patterns, expr), append(search, false)
	}
	if len(patterns) == 0 && lo == 0 && hi < 0 {
		return b.call(s.json.str)
	}
	key := fmt.Sprintf("%d %d %q", lo, hi, patterns)
	if r, ok := s.leaf[key]; ok {
		return b.call(r)
	}
	var all []state
	meet := func(f frag) {
		d, err := b.subsets(f, everyByte)
		if err == nil && all != nil {
			d, err = intersect(all, d)
		}
		if err != nil && b.err == nil {
			s.fail(at, "%v", err)
		}
		all = d
	}
	for i, p := range patterns {
		meet(b.regex(p, search[i], (*builder).jsonRunes))
	}
	if len(patterns) == 0 || lo > 0 || hi >= 0 {
		if hi >= 0 && hi < lo {
			return b.nothing()
		}
		one, err := b.subsets(b.jsonChar(), everyByte)
		if err != nil {
			return b.empty()
		}
		meet(b.repeat(func() frag { return b.embed(one) }, lo, hi))
	}
	r := b.addRule(at)
	s.leaf[key] = r
	b.rules[r] = b.quoted(b.embed(all))
	return b.call(r)
}

// rational reads a JSON number exactly; not ok if its exponent is absurd.
func rational(n json.Number) (*big.Rat, bool) {
	t := string(n)
	if i := strings.IndexAny(t, "eE"); i >= 0 {
		if e, err := strconv.Atoi(t[i+1:]); err != nil || e > 60 || e < -60 {
			return nil, false
		}
	}
	if len(t) > 100 {
		return nil, false
	}
	return new(big.Rat).SetString(t)
}
