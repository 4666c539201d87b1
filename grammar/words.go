package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// place is a schema, or a part of one, and its JSON pointer.
type place struct {
	v  any
	at string
}

// kinds is a set of types of values. Numbers are two: whole ones and others.
type kinds uint8

const (
	null kinds = 1 << iota
	boolean
	whole
	fractional
	text
	array
	object_
	numbers  = whole | fractional
	anything = null | boolean | numbers | text | array | object_
)

var typeKinds = map[string]kinds{
	"null": null, "boolean": boolean, "integer": whole, "number": numbers, "string": text,
	"array": array, "object": object_, "any": anything,
}

// kindOf is the type of a value.
func kindOf(v any) kinds {
	t := typeOf(v)
	if t == "number" {
		return fractional
	}
	return typeKinds[t]
}

// piece is a conjunction: values of some types, with all that is demanded of each. A schema is a union of pieces.
type piece struct {
	s     *schema
	at    string
	types kinds
	typed bool  // a word gave types
	about kinds // the types that words speak of
	// Values that alone are allowed, if set, and values that are not.
	only    []any
	limited bool
	except  []any

	lo, hi    *bound
	multiples []*big.Rat

	length   counter
	patterns []pattern

	lists    []listWords
	items    counter
	unique   string // where it is demanded
	contains []place

	objects  []objectWords
	required []string
	members  counter
	names    []place
}

type pattern struct {
	expr   string
	at     string
	format bool // the whole text, not a search
	not    bool
}

// listWords are what one schema says of the items of an array.
type listWords struct {
	prefix []place
	rest   place
}

// objectWords are what one schema says of the members of an object.
type objectWords struct {
	props    *object
	patterns *object
	more     any
	open     bool // more was written down
	hidden   bool // these are no list of what there is
	at       string
}

// Words that only explain, by which a schema is not narrowed, are not in the list; an unknown word is one of them.
var assertions = map[string]kinds{
	"properties": object_, "required": object_, "additionalProperties": object_, "patternProperties": object_,
	"propertyNames": object_, "minProperties": object_, "maxProperties": object_, "dependencies": object_,
	"dependentRequired": object_, "dependentSchemas": object_, "unevaluatedProperties": object_,
	"items": array, "prefixItems": array, "additionalItems": array, "minItems": array, "maxItems": array,
	"uniqueItems": array, "contains": array, "minContains": array, "maxContains": array, "unevaluatedItems": array,
	"pattern": text, "format": text, "contentEncoding": text, "minLength": text, "maxLength": text, unlike: text,
	"minimum": numbers, "maximum": numbers, "exclusiveMinimum": numbers, "exclusiveMaximum": numbers,
	"multipleOf": numbers, "divisibleBy": numbers,
	"type": 0, "enum": 0, "const": 0, "anyOf": 0, "oneOf": 0, "allOf": 0, "$ref": 0, "not": 0, "if": 0,
	"disallow": 0, "extends": 0, "$dynamicRef": 0, "$recursiveRef": 0, other: 0,
}

// Words of this package alone, which negation needs: values that are excluded, a pattern that must not be found.
const other, unlike = "\x00except", "\x00unlike"

const maxPieces = 600

// pieces expands a conjunction of schemas into the union that it is.
func (s *schema) pieces(n []place) []*piece {
	if s.depth++; s.depth > 200 {
		s.fail(n[0].at, "nested more than 200 deep")
		s.depth--
		return nil
	}
	defer func() { s.depth-- }()
	if err := s.b.v.cancelled(); err != nil && s.b.err == nil {
		s.b.err = err
		s.b.n = append(s.b.n, nstate{})
	}
	p := &piece{s: s, at: n[0].at, types: anything, length: counter{0, -1}, items: counter{0, -1}, members: counter{0, -1}}
	var choices []choice
	seen := map[any]bool{}
	for k := 0; k < len(n) && s.b.err == nil; k++ {
		switch v := n[k].v.(type) {
		case bool:
			if !v {
				return nil
			}
		case *object:
			if seen[v] {
				continue
			}
			seen[v] = true
			if len(seen) > 1000 {
				s.fail(n[k].at, "joins more than 1000 schemas")
				return nil
			}
			more, ors := s.words(p, v, n[k].at)
			n = append(n[:k+1:k+1], append(more, n[k+1:]...)...)
			choices = append(choices, ors...)
		default:
			s.fail(n[k].at, "a schema is an object, true or false")
		}
	}
	if s.b.err != nil || p.types == 0 {
		return nil
	}
	return s.choose(p, choices)
}

// choice is a disjunction: one of the branches holds. With one, no other may.
type choice struct {
	branches []place
	one      bool
	at       string
}

// choose multiplies a piece with the choices that are left.
func (s *schema) choose(p *piece, choices []choice) []*piece {
	out := []*piece{p}
	for _, c := range choices {
		var next, any []*piece
		parts := make([][]*piece, len(c.branches))
		for i, x := range c.branches {
			parts[i] = s.pieces([]place{x})
		}
		if s.b.err != nil {
			return nil
		}
		for _, q := range out {
			for i := range c.branches {
				for _, x := range parts[i] {
					y := s.both(q, x)
					if y == nil {
						continue
					}
					alone := []*piece{y}
					any = append(any, y)
					for j := range c.branches {
						if !c.one || j == i {
							continue
						}
						alone = s.without(alone, parts[j], c.branches[j])
					}
					if next = append(next, alone...); len(next) > maxPieces {
						s.fail(c.at, "has more than %d combinations", maxPieces)
						return nil
					}
				}
			}
		}
		if len(next) == 0 && len(any) > 0 {
			s.drop(c.at, "oneOf", "its branches overlap, and cannot be told apart: use anyOf, or a property that is a different const in each")
			next = any
		}
		out = next
	}
	return out
}

// without is what of the pieces is not valid by a branch, whose pieces are parts.
func (s *schema) without(from, parts []*piece, branch place) []*piece {
	var out, none []*piece
	for _, y := range from {
		if !slices.ContainsFunc(parts, func(x *piece) bool { return !s.disjoint(y, x, 0) }) {
			out = append(out, y)
			continue
		}
		if none == nil {
			err, dropped := s.b.err, len(s.dropped)
			none = s.pieces([]place{s.negate(branch)})
			if s.b.err != nil || len(s.dropped) > dropped { // what cannot be negated exactly is left to the error below
				none = nil
			}
			s.b.err, s.dropped = err, s.dropped[:dropped]
		}
		for _, x := range none {
			if z := s.both(y, x); z != nil && len(out) < 100 { // as many as are of use
				out = append(out, z)
			}
		}
	}
	return out
}

// drop passes over a word that cannot be enforced, where that is allowed, and fails otherwise.
func (s *schema) drop(at, word, why string) bool {
	if s.loose {
		s.dropped = append(s.dropped, Dropped{At: at, Word: word, Why: why})
		return true
	}
	s.fail(at, "%q is not supported here: %s", word, why)
	return false
}

// words adds what a schema says to p. Schemas that must hold too and choices are returned.
func (s *schema) words(p *piece, o *object, at string) (all []place, ors []choice) {
	sub := func(word string) place { return place{o.vals[word], at + "/" + escape(word)} }
	list := func(word string) []place {
		l, ok := o.vals[word].([]any)
		if !ok || len(l) == 0 {
			s.fail(at, "%s needs a list of schemas", word)
		}
		var out []place
		for i, x := range l {
			out = append(out, place{x, fmt.Sprintf("%s/%s/%d", at, word, i)})
		}
		return out
	}
	for _, k := range o.keys {
		about, ok := assertions[k]
		if !ok {
			continue
		}
		if o.vals[k] == false && k == "uniqueItems" {
			continue
		}
		p.about |= about
		switch k {
		case "$ref":
			if t, ok := s.ref(o, at); ok {
				all = append(all, t)
			}
		case "$dynamicRef", "$recursiveRef":
			s.drop(at, k, "a reference that depends on the place it is used from")
		case "type":
			p.typed = true
			p.types &= s.types(o.vals[k], at)
		case "const":
			p.allow([]any{o.vals[k]})
		case "enum":
			l, ok := o.vals[k].([]any)
			if !ok || len(l) == 0 {
				s.fail(at, "enum needs a list of values")
			}
			p.allow(l)
		case other:
			p.except = append(p.except, o.vals[k].([]any)...)
		case "allOf":
			all = append(all, list(k)...)
		case "extends":
			if _, ok := o.vals[k].([]any); ok {
				all = append(all, list(k)...)
			} else {
				all = append(all, sub(k))
			}
		case "anyOf", "oneOf":
			ors = append(ors, choice{list(k), k == "oneOf", at})
		case "not":
			ors = append(ors, s.denied(sub(k), at, k))
		case "disallow":
			ors = append(ors, s.denied(place{&object{[]string{"type"}, map[string]any{"type": o.vals[k]}}, at}, at, k))
		case "if":
			then, ok1 := o.get("then")
			otherwise, ok2 := o.get("else")
			if !ok1 {
				then = true
			}
			if !ok2 {
				otherwise = true
			}
			if then == true && otherwise == true {
				continue
			}
			no := s.negate(sub(k))
			if no.v == false && otherwise != false {
				no.v = false // only where the condition holds
			}
			ors = append(ors, choice{[]place{
				s.synthetic(at+"/then", "allOf", []any{o.vals[k], then}, o.vals[k], 't'),
				s.synthetic(at+"/else", "allOf", []any{no.v, otherwise}, o.vals[k], 'e'),
			}, false, at})
		default:
			s.typeWord(p, o, k, at, &ors)
		}
	}
	s.listWords(p, o, at)
	s.objectWords(p, o, at)
	return all, ors
}

// synthetic makes {word: v} once for each origin, so that recursive schemas come back to the same one.
func (s *schema) synthetic(at, word string, v, origin any, kind byte) place {
	key := [2]any{origin, kind}
	if _, ok := origin.(*object); ok {
		if x, ok := s.made[key]; ok {
			return place{x, at}
		}
	}
	x := &object{keys: []string{word}, vals: map[string]any{word: v}}
	if _, ok := origin.(*object); ok {
		s.made[key] = x
	}
	return place{x, at}
}

func (s *schema) types(v any, at string) kinds {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var t kinds
	for _, x := range list {
		n, _ := x.(string)
		k, ok := typeKinds[n]
		if !ok {
			s.fail(at, "unknown type %s", encode(nil, x))
		}
		t |= k
	}
	return t
}

// allow narrows the values to a list.
func (p *piece) allow(list []any) {
	if p.limited {
		p.only = slices.DeleteFunc(slices.Clone(p.only), func(x any) bool { return !among(x, list) })
		return
	}
	p.limited = true
	for _, x := range list {
		if !among(x, p.only) {
			p.only = append(p.only, x)
		}
	}
}

func among(x any, list []any) bool {
	return slices.ContainsFunc(list, func(y any) bool { return equal(x, y) })
}

// equal is JSON schema's equality: numbers by value, objects whatever their order.
func equal(x, y any) bool {
	switch a := x.(type) {
	case json.Number:
		b, ok := y.(json.Number)
		if !ok {
			return false
		}
		r, ok1 := rational(a)
		q, ok2 := rational(b)
		return ok1 && ok2 && r.Cmp(q) == 0 || a == b
	case []any:
		b, ok := y.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	case *object:
		b, ok := y.(*object)
		if !ok || len(a.keys) != len(b.keys) {
			return false
		}
		for k, v := range a.vals {
			w, ok := b.vals[k]
			if !ok || !equal(v, w) {
				return false
			}
		}
		return true
	}
	switch y.(type) {
	case []any, *object, json.Number:
		return false
	}
	return x == y
}

// narrow is the part of two counters' ranges that both have.
func (c counter) narrow(d counter) counter {
	c.min = max(c.min, d.min)
	if c.max < 0 || d.max >= 0 && d.max < c.max {
		c.max = d.max
	}
	return c
}

func (c counter) empty() bool { return c.max >= 0 && c.max < c.min }

func tighten(old *bound, v *big.Rat, open bool, sign int) *bound {
	if v == nil || old != nil && (old.v.Cmp(v)*sign > 0 || old.v.Cmp(v) == 0 && old.open) {
		return old
	}
	return &bound{v, open}
}

// typeWord adds one word about one type.
func (s *schema) typeWord(p *piece, o *object, k, at string, ors *[]choice) {
	v := o.vals[k]
	number := func() *big.Rat {
		if n, ok := v.(json.Number); ok {
			if r, ok := rational(n); ok {
				return r
			}
		}
		s.fail(at, "%s must be a number, not beyond 1e60", k)
		return nil
	}
	switch k {
	case "minimum":
		p.lo = tighten(p.lo, number(), o.vals["exclusiveMinimum"] == true, 1)
	case "maximum":
		p.hi = tighten(p.hi, number(), o.vals["exclusiveMaximum"] == true, -1)
	case "exclusiveMinimum":
		if _, draft4 := v.(bool); !draft4 {
			p.lo = tighten(p.lo, number(), true, 1)
		}
	case "exclusiveMaximum":
		if _, draft4 := v.(bool); !draft4 {
			p.hi = tighten(p.hi, number(), true, -1)
		}
	case "multipleOf", "divisibleBy":
		if r := number(); r != nil {
			if r.Sign() <= 0 {
				s.fail(at, "%s must be above 0", k)
			}
			p.multiples = append(p.multiples, r)
		}
	case "minLength":
		p.length.min = max(p.length.min, s.count(v, k, at))
	case "maxLength":
		p.length = p.length.narrow(counter{0, s.count(v, k, at)})
	case "minItems":
		p.items.min = max(p.items.min, s.count(v, k, at))
	case "maxItems":
		p.items = p.items.narrow(counter{0, s.count(v, k, at)})
	case "minProperties":
		p.members.min = max(p.members.min, s.count(v, k, at))
	case "maxProperties":
		p.members = p.members.narrow(counter{0, s.count(v, k, at)})
	case "pattern", unlike:
		expr, ok := v.(string)
		if !ok {
			s.fail(at, "pattern is not a string")
		}
		p.patterns = append(p.patterns, pattern{expr: expr, at: at, not: k == unlike})
	case "format":
		name, _ := v.(string)
		if expr, ok := formats[name]; ok {
			p.patterns = append(p.patterns, pattern{expr: expr, at: at, format: true})
		}
	case "contentEncoding":
		if v == "base64" {
			p.patterns = append(p.patterns, pattern{expr: base64, at: at, format: true})
		}
	case "uniqueItems":
		p.unique = at
	case "contains":
		if n, ok := o.vals["minContains"].(json.Number); ok && n == "0" {
			return
		}
		p.contains = append(p.contains, place{v, at + "/contains"})
	case "minContains":
		if n, _ := v.(json.Number); n != "0" && n != "1" {
			s.drop(at, k, "only 0 and 1 can be")
		}
	case "maxContains":
		s.drop(at, k, "what is contained cannot be counted")
	case "required":
		if _, draft3 := v.(bool); draft3 { // the object around it looks at it
			return
		}
		list, ok := v.([]any)
		if !ok {
			s.fail(at, "required is not a list")
		}
		for _, x := range list {
			name, ok := x.(string)
			if !ok {
				s.fail(at, "required: %s is not a name", encode(nil, x))
			}
			p.require(name)
		}
	case "propertyNames":
		p.names = append(p.names, place{v, at + "/propertyNames"})
	case "unevaluatedProperties":
		for _, w := range []string{"$ref", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "patternProperties"} {
			if _, ok := o.get(w); ok && v != true {
				s.drop(at, k, "next to "+w)
				return
			}
		} // else it is additionalProperties, and objectWords reads it
	case "unevaluatedItems":
		if v != true {
			s.drop(at, k, "use items")
		}
	case "dependencies", "dependentRequired", "dependentSchemas":
		deps, ok := v.(*object)
		if !ok {
			s.fail(at, "%s is not an object", k)
			return
		}
		for _, name := range deps.keys {
			where := at + "/" + k + "/" + escape(name)
			then := deps.vals[name]
			if one, ok := then.(string); ok {
				then = []any{one}
			}
			if l, ok := then.([]any); ok {
				then = &object{[]string{"required"}, map[string]any{"required": append([]any{name}, l...)}}
			} else {
				then = &object{[]string{"required", "allOf"}, map[string]any{"required": []any{name}, "allOf": []any{then}}}
			}
			*ors = append(*ors, choice{[]place{s.absent(name, where), {then, where}}, false, at})
		}
	}
}

// absent is a schema of objects without a member.
func (s *schema) absent(name, at string) place {
	props := &object{[]string{name}, map[string]any{name: false}}
	return place{&object{[]string{"properties", hidden}, map[string]any{"properties": props, hidden: true}}, at}
}

// hidden marks properties that no schema listed: they do not close an object.
const hidden = "\x00hidden"

func (p *piece) require(name string) {
	if !slices.Contains(p.required, name) {
		p.required = append(slices.Clip(p.required), name)
	}
}

const maxCount = 1 << 16

// count reads a keyword that is a number of things.
func (s *schema) count(v any, word, at string) int32 {
	if n, ok := v.(json.Number); ok {
		if r, ok := rational(n); ok && r.IsInt() && r.Sign() >= 0 {
			if i := r.Num(); i.IsInt64() && i.Int64() <= maxCount {
				return int32(i.Int64())
			}
			if strings.HasPrefix(word, "max") {
				return maxCount // less than allowed, and enough
			}
		}
	}
	s.fail(at, "%s must be a whole number from 0 to %d", word, maxCount)
	return 0
}

func (s *schema) listWords(p *piece, o *object, at string) {
	w := listWords{rest: place{true, at}}
	said := false
	places := func(word string) {
		l, ok := o.vals[word].([]any)
		if !ok {
			s.fail(at, "%s is not a list", word)
		}
		for i, x := range l {
			w.prefix = append(w.prefix, place{x, fmt.Sprintf("%s/%s/%d", at, word, i)})
		}
	}
	rest := func(word string) {
		if v, ok := o.get(word); ok {
			said = true
			w.rest = place{v, at + "/" + word}
		}
	}
	if _, ok := o.get("prefixItems"); ok {
		said = true
		places("prefixItems")
	}
	if _, tuple := o.vals["items"].([]any); tuple {
		said = true
		places("items")
		rest("additionalItems")
	} else {
		rest("items")
	}
	if said {
		p.lists = append(slices.Clip(p.lists), w)
	}
}

func (s *schema) objectWords(p *piece, o *object, at string) {
	w := objectWords{props: &object{}, patterns: &object{}, more: true, at: at}
	said := false
	read := func(word string, into **object) {
		v, ok := o.get(word)
		if !ok {
			return
		}
		said = true
		x, ok := v.(*object)
		if !ok {
			s.fail(at, "%s is not an object", word)
			x = &object{}
		}
		*into = x
	}
	read("properties", &w.props)
	read("patternProperties", &w.patterns)
	v, ok := o.get("additionalProperties")
	if !ok {
		v, ok = o.get("unevaluatedProperties")
	}
	if ok {
		said = true
		w.more, w.open = v, v != false
	}
	for _, k := range w.props.keys {
		if x, ok := w.props.vals[k].(*object); ok && x.vals["required"] == true {
			p.require(k)
		}
	}
	_, w.hidden = o.get(hidden)
	if said {
		p.objects = append(slices.Clip(p.objects), w)
	}
}

// both is the conjunction of two pieces, nil if it is plainly empty.
func (s *schema) both(x, y *piece) *piece {
	p := *x
	p.types &= y.types
	p.typed = x.typed || y.typed
	p.about = x.about | y.about
	switch {
	case x.limited && y.limited:
		p.allow(y.only)
	case y.limited:
		p.limited, p.only = true, y.only
	}
	join := slices.Concat[[]any]
	p.except = join(x.except, y.except)
	if y.lo != nil {
		p.lo = tighten(x.lo, y.lo.v, y.lo.open, 1)
	}
	if y.hi != nil {
		p.hi = tighten(x.hi, y.hi.v, y.hi.open, -1)
	}
	p.multiples = slices.Concat(x.multiples, y.multiples)
	p.length, p.items, p.members = x.length.narrow(y.length), x.items.narrow(y.items), x.members.narrow(y.members)
	p.patterns = slices.Concat(x.patterns, y.patterns)
	p.lists = slices.Concat(x.lists, y.lists)
	if p.unique == "" {
		p.unique = y.unique
	}
	p.contains = slices.Concat(x.contains, y.contains)
	p.objects = slices.Concat(x.objects, y.objects)
	for _, k := range y.required {
		p.require(k)
	}
	p.names = slices.Concat(x.names, y.names)
	if s.void(&p) {
		return nil
	}
	return &p
}

// void reports that no value is in p, as far as can be seen without looking into members and items, except that a
// required member that cannot be is seen.
func (s *schema) void(p *piece) bool {
	if p.limited {
		return !slices.ContainsFunc(p.only, func(v any) bool { return s.takes(p, v, 0) })
	}
	t := p.types
	if p.length.empty() {
		t &^= text
	}
	if p.items.empty() {
		t &^= array
	}
	if p.members.empty() || slices.ContainsFunc(p.required, func(k string) bool {
		return slices.ContainsFunc(p.member(k), func(x place) bool { return x.v == false })
	}) {
		t &^= object_
	}
	if p.lo != nil && p.hi != nil {
		if c := p.lo.v.Cmp(p.hi.v); c > 0 || c == 0 && (p.lo.open || p.hi.open) {
			t &^= numbers
		}
	}
	p.types = t
	return t == 0
}

// member is what all schemas of p say of the member with a name.
func (p *piece) member(name string) []place {
	var out []place
	for _, w := range p.objects {
		found := false
		if v, ok := w.props.get(name); ok {
			found = true
			out = append(out, place{v, w.at + "/properties/" + escape(name)})
		}
		for _, expr := range w.patterns.keys {
			if p.s.matches(pattern{expr: expr, at: w.at}, name) {
				found = true
				out = append(out, place{w.patterns.vals[expr], w.at + "/patternProperties/" + escape(expr)})
			}
		}
		if !found {
			out = append(out, place{w.more, w.at + "/additionalProperties"})
		}
	}
	return out
}

// item is what all schemas of p say of item i; prefix is how many items have a word of their own.
func (p *piece) item(i int) []place {
	var out []place
	for _, w := range p.lists {
		if i < len(w.prefix) {
			out = append(out, w.prefix[i])
		} else {
			out = append(out, w.rest)
		}
	}
	if out == nil {
		out = []place{{true, p.at + "/items"}}
	}
	return out
}

func (p *piece) prefix() int {
	n := 0
	for _, w := range p.lists {
		n = max(n, len(w.prefix))
	}
	return n
}

// takes reports that v is valid by p; in doubt it is not.
func (s *schema) takes(p *piece, v any, depth int) bool {
	if depth > 20 || kindOf(v)&p.types == 0 {
		return false
	}
	if p.limited && !among(v, p.only) || among(v, p.except) {
		return false
	}
	valid := func(n []place, v any) bool {
		for _, x := range n {
			if x.v == true {
				continue
			}
			if !slices.ContainsFunc(s.pieces([]place{x}), func(q *piece) bool { return s.takes(q, v, depth+1) }) {
				return false
			}
		}
		return true
	}
	in := func(n int, c counter) bool { return n >= int(c.min) && (c.max < 0 || n <= int(c.max)) }
	switch v := v.(type) {
	case string:
		for _, x := range p.patterns {
			if !s.matches(x, v) {
				return false
			}
		}
		return in(len([]rune(v)), p.length)
	case json.Number:
		r, ok := rational(v)
		if !ok {
			return false
		}
		if p.lo != nil && (r.Cmp(p.lo.v) < 0 || r.Cmp(p.lo.v) == 0 && p.lo.open) ||
			p.hi != nil && (r.Cmp(p.hi.v) > 0 || r.Cmp(p.hi.v) == 0 && p.hi.open) {
			return false
		}
		return !slices.ContainsFunc(p.multiples, func(m *big.Rat) bool { return !new(big.Rat).Quo(r, m).IsInt() })
	case []any:
		for i, x := range v {
			if !valid(p.item(i), x) || p.unique != "" && among(x, v[:i]) {
				return false
			}
		}
		for _, c := range p.contains {
			if !slices.ContainsFunc(v, func(x any) bool { return valid([]place{c}, x) }) {
				return false
			}
		}
		return in(len(v), p.items)
	case *object:
		for _, k := range v.keys {
			if !valid(p.member(k), v.vals[k]) || !valid(p.names, k) {
				return false
			}
		}
		if slices.ContainsFunc(p.required, func(k string) bool { _, ok := v.get(k); return !ok }) {
			return false
		}
		return in(len(v.keys), p.members)
	}
	return true
}

// disjoint reports that no value is in both pieces; in doubt it does not.
func (s *schema) disjoint(x, y *piece, depth int) bool {
	p := s.both(x, y)
	if p == nil {
		return true
	}
	if p.types&^object_ != 0 || p.limited || depth > 4 {
		return false
	}
	for _, k := range p.required {
		a, b := x.member(k), y.member(k)
		if len(a) == 0 || len(b) == 0 {
			continue
		}
		apart := true
		for _, u := range s.pieces(a) {
			for _, w := range s.pieces(b) {
				if apart = apart && s.disjoint(u, w, depth+1); !apart {
					break
				}
			}
		}
		if apart {
			return true
		}
	}
	return false
}

// denied is the choice of all the ways not to be valid by a schema.
func (s *schema) denied(x place, at, word string) choice {
	n := s.negate(x)
	if n.v == false && x.v != true {
		if o, ok := x.v.(*object); ok && s.says(o) {
			s.drop(at, word, "its opposite cannot be written as a schema")
			n.v = true
		}
	}
	return choice{branches: []place{n}, at: at}
}

// says reports that a schema asserts anything.
func (s *schema) says(o *object) bool {
	return slices.ContainsFunc(o.keys, func(k string) bool { _, ok := assertions[k]; return ok })
}

// negate is a schema of values that are not valid by x: as many of them as can be described.
func (s *schema) negate(x place) place {
	o, ok := x.v.(*object)
	if !ok {
		return place{x.v == false, x.at}
	}
	key := [2]any{o, byte('n')}
	if n, ok := s.made[key]; ok {
		return place{n, x.at}
	}
	holder := &object{keys: []string{"anyOf"}, vals: map[string]any{}}
	s.made[key] = holder
	var ways []any
	is := func(kv ...any) *object {
		n := &object{vals: map[string]any{}}
		for i := 0; i < len(kv); i += 2 {
			n.keys = append(n.keys, kv[i].(string))
			n.vals[kv[i].(string)] = kv[i+1]
		}
		return n
	}
	way := func(kv ...any) { ways = append(ways, is(kv...)) }
	not := func(v any) any { return s.negate(place{v, x.at}).v }
	_, refers := o.get("$ref") // old drafts ignore what stands beside it
	for _, k := range o.keys {
		if refers && k != "$ref" {
			continue
		}
		v := o.vals[k]
		number := func() (n int64, ok bool) {
			i, err := strconv.ParseInt(fmt.Sprint(v), 10, 32)
			return i, err == nil
		}
		switch k {
		case "$ref":
			if t, ok := s.ref(o, x.at); ok {
				ways = append(ways, not(t.v))
			}
		case "type":
			var names []any
			left := anything &^ s.types(v, x.at)
			for _, t := range []string{"object", "array", "string", "boolean", "null"} {
				if left&typeKinds[t] != 0 {
					names = append(names, t)
				}
			}
			if left&numbers == numbers {
				names = append(names, "number")
			}
			if len(names) > 0 {
				way("type", names)
			}
		case "const":
			way(other, []any{v})
		case "enum":
			if l, ok := v.([]any); ok {
				way(other, l)
			}
		case other:
			way("enum", v)
		case "not":
			ways = append(ways, v)
		case "allOf":
			if l, ok := v.([]any); ok {
				for _, y := range l {
					ways = append(ways, not(y))
				}
			}
		case "anyOf", "oneOf":
			if l, ok := v.([]any); ok {
				var all []any
				for _, y := range l {
					all = append(all, not(y))
				}
				way("allOf", all)
			}
		case "required":
			if l, ok := v.([]any); ok {
				for _, y := range l {
					if name, ok := y.(string); ok {
						n := s.absent(name, x.at).v.(*object)
						n.keys, n.vals["type"] = append(n.keys, "type"), "object"
						ways = append(ways, n)
					}
				}
			}
		case "properties":
			if props, ok := v.(*object); ok {
				for _, name := range props.keys {
					if n := not(props.vals[name]); n != false {
						way("type", "object", "required", []any{name}, "properties", is(name, n), hidden, true)
					}
				}
			}
		case "pattern":
			way("type", "string", unlike, v)
		case unlike:
			way("type", "string", "pattern", v)
		case "minLength", "minItems", "minProperties":
			if n, ok := number(); ok && n > 0 {
				way("type", ofWord(k), "max"+k[3:], json.Number(strconv.FormatInt(n-1, 10)))
			}
		case "maxLength", "maxItems", "maxProperties":
			if n, ok := number(); ok {
				way("type", ofWord(k), "min"+k[3:], json.Number(strconv.FormatInt(n+1, 10)))
			}
		case "minimum":
			w := "exclusiveMaximum"
			if o.vals["exclusiveMinimum"] == true {
				w = "maximum"
			}
			way("type", "number", w, v)
		case "maximum":
			w := "exclusiveMinimum"
			if o.vals["exclusiveMaximum"] == true {
				w = "minimum"
			}
			way("type", "number", w, v)
		case "exclusiveMinimum":
			if _, draft4 := v.(bool); !draft4 {
				way("type", "number", "maximum", v)
			}
		case "exclusiveMaximum":
			if _, draft4 := v.(bool); !draft4 {
				way("type", "number", "minimum", v)
			}
		case "items":
			if n := not(v); n != false {
				if _, tuple := v.([]any); !tuple {
					if _, prefixed := o.get("prefixItems"); !prefixed {
						way("type", "array", "contains", n)
					}
				}
			}
		case "contains":
			if _, bounds := o.get("minContains"); !bounds {
				way("type", "array", "items", not(v))
			}
		}
	}
	ways = slices.DeleteFunc(ways, func(w any) bool { return w == false })
	if len(ways) == 0 {
		s.made[key] = nil
		delete(s.made, key)
		return place{false, x.at}
	}
	holder.vals["anyOf"] = ways
	return place{holder, x.at}
}

// ofWord is the type that a word is about.
func ofWord(word string) string {
	switch assertions[word] {
	case text:
		return "string"
	case array:
		return "array"
	}
	return "object"
}

var escaper, unescaper = strings.NewReplacer("~", "~0", "/", "~1"), strings.NewReplacer("~1", "/", "~0", "~")

// escape spells a step of a JSON pointer.
func escape(step string) string { return escaper.Replace(step) }

// ref finds the schema that a "$ref" in o names, inside the document.
func (s *schema) ref(o *object, at string) (place, bool) {
	name, ok := o.vals["$ref"].(string)
	if !ok {
		s.fail(at, "$ref %s is not a string", encode(nil, o.vals["$ref"]))
		return place{}, false
	}
	s.index()
	if id, both := o.vals["$id"].(string); both && !strings.HasPrefix(id, "#") && !strings.HasPrefix(name, "#") {
		s.drop(at, "$ref", "next to $id, which drafts read differently")
		return place{true, at}, s.b.err == nil
	}
	home := s.homes[o]
	if home.base == nil {
		home = s.homes[nil]
	}
	fragment, target := "", any(nil)
	u, err := url.Parse(name)
	if err == nil {
		u = home.base.ResolveReference(u)
		fragment = u.Fragment
		target, ok = s.ids[u.String()]
		if ok = ok && fragment != ""; ok {
			fragment = ""
		} else {
			u.Fragment, u.RawFragment = "", ""
			target, ok = s.ids[u.String()]
			ok = ok && (fragment == "" || fragment[0] == '/')
		}
	}
	if err != nil || !ok {
		if s.drop(at, "$ref", fmt.Sprintf("%q: only references into the document are supported, such as #/$defs/name", name)) {
			return place{true, at}, true
		}
		return place{}, false
	}
	for i, step := range strings.Split(fragment, "/") {
		if i == 0 {
			continue
		}
		step = unescaper.Replace(step)
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
			s.fail(at, "$ref %q: there is no %q", name, step)
			return place{}, false
		}
	}
	if target == any(o) {
		s.fail(at, "$ref %q refers to itself: nothing matches it", name)
		return place{}, false
	}
	return place{target, "#" + fragment}, true
}

// home is the resource that a schema is part of: references are relative to it.
type home struct {
	base *url.URL
	root any
}

// index finds the schemas that have names of their own.
func (s *schema) index() {
	if s.ids != nil {
		return
	}
	s.ids = map[string]any{}
	s.homes = map[*object]home{}
	word := "$id"
	if o, ok := s.doc.(*object); ok {
		if d, _ := o.vals["$schema"].(string); strings.Contains(d, "draft-03") || strings.Contains(d, "draft-04") {
			word = "id"
		}
	}
	var visit func(v any, in home, depth int)
	visit = func(v any, in home, depth int) {
		if depth > 100 {
			return
		}
		switch x := v.(type) {
		case *object:
			if id, ok := x.vals[word].(string); ok {
				if u, err := url.Parse(id); err == nil {
					u = in.base.ResolveReference(u)
					if strings.HasPrefix(id, "#") {
						s.ids[u.String()] = x
					} else {
						u.Fragment, u.RawFragment = "", ""
						in = home{u, x}
						s.ids[u.String()] = x
					}
				}
			}
			if name, ok := x.vals["$anchor"].(string); ok {
				u := *in.base
				u.Fragment = name
				s.ids[u.String()] = x
			}
			if depth == 0 {
				s.homes[nil] = in
			}
			s.homes[x] = in
			for _, k := range x.keys {
				switch k {
				case "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies":
					if named, ok := x.vals[k].(*object); ok {
						for _, y := range named.vals {
							visit(y, in, depth+1)
						}
					}
				case "items", "additionalItems", "prefixItems", "contains", "additionalProperties", "propertyNames", "not", "if",
					"then", "else", "unevaluatedProperties", "unevaluatedItems", "allOf", "anyOf", "oneOf", "extends":
					visit(x.vals[k], in, depth+1)
				}
			}
		case []any:
			for _, y := range x {
				visit(y, in, depth+1)
			}
		}
	}
	top := home{&url.URL{}, s.doc}
	s.homes[nil] = top
	s.ids[""] = s.doc
	visit(s.doc, top, 0)
}
