package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSONSchema compiles a JSON schema of draft 4 to 2020-12. What it writes is valid by the schema; it may be less than
// all that is valid:
//
//	properties            are written in their order; optional ones may be left out
//	additionalProperties  written after the others where the schema says it, or lists no properties
//	numbers               integers have up to 15 digits, others 15 and 15
//	format                the formats of the list below; an unknown one says nothing
//	pattern               ECMA-262 without word boundaries, references to groups and lookbehind;
//	                      lookahead at the beginning
//	oneOf, not, if        where the opposite of a branch can be written as a schema
//	uniqueItems           of values that can be listed
//	$ref                  inside the document, recursive too
//
// Titles, descriptions, defaults and unknown words are passed over. A word that restricts and cannot be kept is an
// error that names it and where it stands.
func JSONSchema(v *Vocab, src []byte) (*Grammar, error) {
	b := &builder{v: v}
	top := b.addRule("root")
	s := newSchema(b, src)
	b.rules[top] = s.root()
	return compile(v, b)
}

// Dropped is a word of a schema that could not be kept.
type Dropped struct {
	At, Word string // JSON pointer of the schema, and the word in it; for tools the tool's name is before the pointer
	Why      string
}

func (d Dropped) String() string { return fmt.Sprintf("%s: %s: %s", d.At, d.Word, d.Why) }

// JSONSchemaSuperset compiles the nearest superset of a schema that can be kept: it passes over the words that
// JSONSchema refuses, and Grammar.Dropped lists them. What is no schema at all remains an error.
func JSONSchemaSuperset(v *Vocab, src []byte) (*Grammar, error) {
	doc, err := decode(src)
	if err != nil {
		return nil, err
	}
	return widen(func(doc any, dropped []Dropped) (*Grammar, error) {
		b := &builder{v: v}
		top := b.addRule("root")
		s := schemaOf(b, doc)
		s.loose = true
		b.rules[top] = s.root()
		g, err := compile(v, b)
		if err == nil {
			g.dropped = append(dropped, s.dropped...)
		}
		return g, err
	}, doc)
}

// widen compiles a document, and if that fails one of the same type without words.
func widen(compile func(any, []Dropped) (*Grammar, error), doc any) (*Grammar, error) {
	g, err := compile(doc, nil)
	if err == nil || !isGrammar(err) {
		return g, err
	}
	return compile(plainer(doc), []Dropped{{"#", "schema", err.Error()}})
}

// plainer is what is left of a schema of which nothing can be kept but its type.
func plainer(doc any) any {
	o := &object{vals: map[string]any{}}
	if x, ok := doc.(*object); ok {
		t := x.vals["type"]
		_, props := x.get("properties")
		if name, ok := t.(string); ok && typeKinds[name] != 0 {
			o.keys, o.vals["type"] = []string{"type"}, t
		} else if t == nil && props {
			o.keys, o.vals["type"] = []string{"type"}, "object"
		}
	}
	return o
}

type schema struct {
	b     *builder
	doc   any
	json  *jsonRules
	rules map[string]int32 // of conjunctions of schemas
	leaf  map[string]int32 // of strings and numbers, by what restricts them
	made  map[[2]any]*object
	ids   map[string]any
	homes map[*object]home
	match map[string]func(string) bool
	depth int

	loose   bool // words that cannot be kept are dropped
	dropped []Dropped
}

func newSchema(b *builder, src []byte) *schema {
	doc, err := decode(src)
	if err != nil && b.err == nil {
		b.err = err
	}
	return schemaOf(b, doc)
}

func schemaOf(b *builder, doc any) *schema {
	return &schema{
		b: b, doc: doc, json: b.json(), rules: map[string]int32{}, leaf: b.json().leaf,
		made: map[[2]any]*object{}, match: map[string]func(string) bool{},
	}
}

// anyDepth is how deep values that a schema leaves open may nest.
const anyDepth = 8

// maxRules bounds the conjunctions of one schema.
const maxRules = 20_000

func (s *schema) fail(at, format string, a ...any) frag {
	return s.b.fail("schema at %s: %s", at, fmt.Sprintf(format, a...))
}

func (s *schema) root() frag {
	s.json.init()
	if s.b.err != nil {
		return s.b.empty()
	}
	return s.b.call(s.value([]place{{s.doc, "#"}}))
}

// value is the rule of the values that are valid by all of n.
func (s *schema) value(n []place) int32 {
	b := s.b
	var parts []place
	key := ""
	for _, x := range n {
		for range 20 { // a reference and nothing else is what it refers to
			o, ok := x.v.(*object)
			if !ok {
				break
			}
			if _, ok := o.get("$ref"); !ok || slices.ContainsFunc(o.keys, func(k string) bool { _, says := assertions[k]; return says && k != "$ref" }) {
				break
			}
			to, ok := s.ref(o, x.at)
			if !ok {
				return 0
			}
			x = to
		}
		o, ok := x.v.(*object)
		if x.v == true || ok && !s.says(o) {
			continue
		}
		id := fmt.Sprintf("%p ", o)
		if !ok {
			id = fmt.Sprint(x.v)
		}
		if !strings.Contains(key, id) {
			key += id
			parts = append(parts, x)
		}
	}
	if len(parts) == 0 {
		return s.json.any(anyDepth).value
	}
	if r, ok := s.rules[key]; ok {
		return r
	}
	if len(s.rules) > maxRules {
		s.fail(parts[0].at, "needs more than %d rules", maxRules)
		return 0
	}
	r := b.addRule(parts[0].at)
	s.rules[key] = r
	if s.depth++; s.depth > 200 {
		s.fail(parts[0].at, "nested more than 200 deep")
		return r
	}
	var fs []frag
	for _, p := range s.pieces(parts) {
		if b.err == nil {
			fs = append(fs, s.piece(p))
		}
	}
	s.depth--
	f := b.alt(fs...)
	if b.err == nil {
		b.rules[r] = f
	}
	return r
}

// piece is the automaton of a piece.
func (s *schema) piece(p *piece) frag {
	b := s.b
	if s.void(p) {
		return b.nothing()
	}
	if p.limited {
		var fs []frag
		for _, v := range p.only {
			if s.takes(p, v, 0) {
				fs = append(fs, b.lit(string(encode(nil, v))))
			}
		}
		r := b.addRule(p.at)
		b.rules[r] = b.alt(fs...)
		return b.call(r)
	}
	types := p.types
	if !p.typed {
		if p.about == 0 && p.except == nil {
			return b.call(s.json.any(anyDepth).value)
		}
		// Words about one type say nothing of the others, but what is written is of a type that they speak of.
		if p.about&types != 0 {
			types &= p.about
		}
	}
	var fs []frag
	excluded := func(k kinds) bool {
		return slices.ContainsFunc(p.except, func(v any) bool { return kindOf(v) == k })
	}
	if types&null != 0 && !excluded(null) {
		fs = append(fs, b.call(s.json.word[0]))
	}
	if types&boolean != 0 {
		for i, v := range []bool{true, false} {
			if !among(v, p.except) {
				fs = append(fs, b.call(s.json.word[1+i]))
			}
		}
	}
	if types&whole != 0 {
		fs = append(fs, s.numeric(p))
	}
	if types&text != 0 {
		fs = append(fs, s.string(p))
	}
	if types&array != 0 && !excluded(array) {
		fs = append(fs, s.array(p))
	}
	if types&object_ != 0 && !excluded(object_) {
		fs = append(fs, s.object(p))
	}
	return b.alt(fs...)
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

// anyText reads every string's body, each character spelled in one way.
func (b *builder) anyText() frag { return b.star(b.jsonRunes([]runeRange{{0, utf8.MaxRune}})) }

// body is the automaton of what stands between a string's quotes, nil for any, and bounds on its characters.
func (s *schema) body(p *piece) (d []state, length counter, err error) {
	b := s.b
	length = p.length
	for _, x := range p.patterns {
		a, err := b.patternAutomaton(x)
		if err != nil {
			if b.v.cancelled() != nil {
				return nil, length, err
			}
			word := "pattern"
			if x.format {
				word = "format"
			}
			if !s.drop(x.at, word, strings.TrimPrefix(err.Error(), ErrGrammar.Error()+": ")) {
				return nil, length, b.err
			}
			continue
		}
		length = length.narrow(a.length)
		if d == nil {
			d = a.d
		} else if d, err = b.intersect(d, a.d); err != nil {
			return nil, length, err
		}
	}
	var not []frag
	for _, v := range p.except {
		if x, ok := v.(string); ok {
			q := string(appendString(nil, x))
			not = append(not, b.lit(q[1:len(q)-1]))
		}
	}
	if not == nil {
		return d, length, nil
	}
	if d == nil {
		if d, err = b.subsets(b.anyText(), everyByte); err != nil {
			return nil, length, err
		}
	}
	y, err := b.subsets(b.alt(not...), everyByte)
	if err == nil {
		d, err = b.minus(d, y)
	}
	return d, length, err
}

func (s *schema) string(p *piece) frag {
	b := s.b
	key := fmt.Sprint(p.length)
	for _, x := range p.patterns {
		key += fmt.Sprintf(" %v %v %q", x.format, x.not, x.expr)
	}
	for _, v := range p.except {
		if x, ok := v.(string); ok {
			key += fmt.Sprintf(" not %q", x)
		}
	}
	if r, ok := s.leaf[key]; ok {
		return b.call(r)
	}
	d, length, err := s.body(p)
	if err != nil {
		if b.err == nil {
			b.err = err
		}
		return b.empty()
	}
	if d == nil && length == (counter{0, -1}) {
		return b.call(s.json.str)
	}
	if length.empty() {
		return b.nothing()
	}
	if d == nil {
		if d, err = b.subsets(b.star(b.jsonChar()), everyByte); err != nil {
			return b.empty()
		}
	}
	r := b.addRule(p.at)
	s.leaf[key] = r
	lo, hi := lengths(d)
	if lo < 0 || length.max >= 0 && lo > length.max || hi >= 0 && hi < length.min {
		b.rules[r] = b.nothing()
		return b.call(r)
	}
	if lo < length.min || length.max >= 0 && (hi < 0 || hi > length.max) {
		b.count[r] = &length
		countCharacters(d)
	}
	b.rules[r] = b.quoted(b.embed(d))
	return b.call(r)
}

// starts finds the states of a string body's automaton in which a character begins.
func starts(d []state) []bool {
	out := make([]bool, len(d))
	left := make([]int8, len(d)) // bytes of the character that are to come; −1: not met, −2: after a backslash
	for i := range left {
		left[i] = -1
	}
	left[0] = 0
	for queue := []int32{0}; len(queue) > 0; queue = queue[1:] {
		q := queue[0]
		out[q] = left[q] == 0
		for _, e := range d[q].edges {
			n := left[q] - 1
			switch {
			case left[q] == -2 && e.lo == 'u':
				n = 4
			case left[q] == -2:
				n = 0
			case left[q] > 0:
			case e.lo == '\\':
				n = -2
			case e.lo >= 0xf0:
				n = 3
			case e.lo >= 0xe0:
				n = 2
			case e.lo >= 0x80:
				n = 1
			default:
				n = 0
			}
			if left[e.to] == -1 {
				left[e.to] = n
				queue = append(queue, e.to)
			}
		}
	}
	return out
}

// countCharacters makes the first byte of every character tick.
func countCharacters(d []state) {
	for q, first := range starts(d) {
		for i := range d[q].edges {
			d[q].edges[i].tick = first
		}
	}
}

// lengths is how many characters the texts of a string body's automaton have, at least and at most; the most is −1 if
// there is no end to it, the least if there is no text.
func lengths(d []state) (least, most int32) {
	first := starts(d)
	back := make([][]int32, len(d))
	for q := range d {
		for _, e := range d[q].edges {
			back[e.to] = append(back[e.to], int32(q))
		}
	}
	useful := make([]bool, len(d))
	var queue []int32
	for q := range d {
		if d[q].final {
			useful[q] = true
			queue = append(queue, int32(q))
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, p := range back[queue[0]] {
			if !useful[p] {
				useful[p] = true
				queue = append(queue, p)
			}
		}
	}
	if !useful[0] {
		return -1, -1
	}
	// Breadth first by bytes that begin characters, and a search for cycles.
	dist := make([]int32, len(d))
	for i := range dist {
		dist[i] = -1
	}
	dist[0] = 0
	least = -1
	for now := []int32{0}; len(now) > 0 && least < 0; {
		var next []int32
		for k := 0; k < len(now); k++ {
			q := now[k]
			if d[q].final && (least < 0 || dist[q] < least) {
				least = dist[q]
			}
			for _, e := range d[q].edges {
				if dist[e.to] >= 0 || !useful[e.to] {
					continue
				}
				dist[e.to] = dist[q]
				if first[q] {
					dist[e.to]++
					next = append(next, e.to)
				} else {
					now = append(now, e.to)
				}
			}
		}
		now = next
	}
	far := make([]int32, len(d))
	mark := make([]int8, len(d)) // 1: on the path, 2: done
	type frame struct {
		q int32
		e int
	}
	mark[0] = 1
	for path := []frame{{0, 0}}; len(path) > 0; {
		f := &path[len(path)-1]
		if f.e == len(d[f.q].edges) {
			mark[f.q] = 2
			q := f.q
			path = path[:len(path)-1]
			if len(path) > 0 {
				p := path[len(path)-1].q
				n := far[q]
				if first[p] {
					n++
				}
				far[p] = max(far[p], n)
			}
			continue
		}
		to := d[f.q].edges[f.e].to
		f.e++
		switch {
		case !useful[to]:
		case mark[to] == 1:
			return least, -1
		case mark[to] == 2:
			n := far[to]
			if first[f.q] {
				n++
			}
			far[f.q] = max(far[f.q], n)
		default:
			mark[to] = 1
			path = append(path, frame{to, 0})
		}
	}
	return least, far[0]
}

func (s *schema) array(p *piece) frag {
	b := s.b
	length := p.items
	if len(p.contains) > 1 && !s.drop(p.contains[1].at, "contains", "more than one of them") {
		return b.empty()
	}
	n := p.prefix()
	never := func(n []place) bool {
		return slices.ContainsFunc(n, func(x place) bool { return x.v == false })
	}
	for i := range n { // a position that nothing fits ends the list
		if never(p.item(i)) {
			length = length.narrow(counter{0, int32(i)})
			n = i
			break
		}
	}
	if never(p.item(n)) {
		length = length.narrow(counter{0, int32(n)})
	}
	if length.empty() {
		return b.nothing()
	}
	if length.max == 0 {
		if len(p.contains) > 0 {
			return b.nothing()
		}
		return b.lit("[]")
	}
	r := b.addRule(p.at)
	if p.unique != "" && length.max != 1 {
		if f, ok := s.set(p, n, length, r); ok {
			b.rules[r] = f
			return b.call(r)
		}
		if !s.drop(p.unique, "uniqueItems", "only of items that can be listed: give them an enum of up to 64 values, or maxItems 1") {
			return b.empty()
		}
	}
	if length.min > 0 || length.max >= 0 {
		b.count[r] = &length
	}
	// want: before an item, done: after one; [1] once what must be contained was there.
	open, shut := b.cat(b.lit("["), b.call(s.json.space)), b.lit("]")
	want := [2]int32{b.state(), b.state()}
	b.link(open.out, want[0])
	both := 1
	if len(p.contains) > 0 {
		both = 2
	} else {
		b.link(open.out, shut.in)
	}
	for i := 0; i <= n && b.err == nil; i++ {
		if length.max >= 0 && i >= int(length.max) {
			break
		}
		item := s.value(p.item(i))
		var done [2]int32
		for k := range both {
			done[k] = b.state()
		}
		one := func(from, to int, rule int32) {
			f := b.tick(rule)
			b.link(want[from], f.in)
			b.link(f.out, done[to])
		}
		for k := range both {
			one(k, k, item)
		}
		if both == 2 {
			one(0, 1, s.value(append(slices.Clone(p.item(i)), p.contains[0])))
		}
		for k := range both {
			next := b.cat(b.lit(","), b.call(s.json.space))
			b.link(done[k], next.in)
			if k == both-1 {
				end := b.call(s.json.space)
				b.link(done[k], end.in)
				b.link(end.out, shut.in)
			}
			if i == n {
				b.link(next.out, want[k])
			} else {
				want[k] = next.out
			}
		}
	}
	b.rules[r] = frag{open.in, shut.out}
	return b.call(r)
}

// values lists the values of a conjunction, if there are at most 64.
func (s *schema) values(n []place) (list []any, ok bool) {
	for _, p := range s.pieces(n) {
		switch {
		case p.limited:
			for _, v := range p.only {
				if s.takes(p, v, 0) && !among(v, list) {
					list = append(list, v)
				}
			}
		case p.typed && p.types&^(null|boolean|whole) == 0:
			var all []any
			if p.types&null != 0 {
				all = append(all, nil)
			}
			if p.types&boolean != 0 {
				all = append(all, true, false)
			}
			if p.types&whole != 0 {
				if p.lo == nil || p.hi == nil {
					return nil, false
				}
				width := new(big.Rat).Sub(p.hi.v, p.lo.v)
				if width.Cmp(big.NewRat(64, 1)) > 0 {
					return nil, false
				}
				i := new(big.Int).Div(p.lo.v.Num(), p.lo.v.Denom())
				for range 67 {
					all = append(all, json.Number(i.String()))
					i = new(big.Int).Add(i, big.NewInt(1))
				}
			}
			for _, v := range all {
				if s.takes(p, v, 0) && !among(v, list) {
					list = append(list, v)
				}
			}
		default:
			return nil, false
		}
		if len(list) > 64 {
			return nil, false
		}
	}
	return list, s.b.err == nil
}

// set is a list of different values, of which there are few. Up to eight come in any order, more in that in which
// the schema lists them.
func (s *schema) set(p *piece, prefix int, length counter, r int32) (frag, bool) {
	b := s.b
	if prefix > 0 || len(p.contains) > 0 {
		return frag{}, false
	}
	list, ok := s.values(p.item(0))
	if !ok {
		return frag{}, false
	}
	b.count[r] = &length
	item := make([]int32, len(list))
	for i, v := range list {
		item[i] = b.addRule(p.at + "/items")
		b.rules[item[i]] = b.lit(string(encode(nil, v)))
	}
	shut := b.lit("]")
	open := b.cat(b.lit("["), b.call(s.json.space))
	b.link(open.out, shut.in)
	used := map[uint64]int32{0: open.out} // want by what was written, or, in order, by how far the list is
	var want func(was uint64) int32
	done := func(was uint64) int32 {
		q := b.state()
		next, end := b.cat(b.lit(","), b.call(s.json.space)), b.call(s.json.space)
		b.link(q, next.in)
		b.link(q, end.in)
		b.link(end.out, shut.in)
		b.link(next.out, want(was))
		return q
	}
	after := map[uint64]int32{}
	fill := func(from int32, was uint64) {
		for i := range list {
			now := was | 1<<i
			if len(list) > 8 {
				if now = 1<<i | (1<<i - 1); was>>i != 0 {
					continue
				}
			} else if now == was {
				continue
			}
			f := b.tick(item[i])
			b.link(from, f.in)
			to, ok := after[now]
			if !ok {
				to = done(now)
				after[now] = to
			}
			b.link(f.out, to)
		}
	}
	want = func(was uint64) int32 {
		if q, ok := used[was]; ok {
			return q
		}
		q := b.state()
		used[was] = q
		fill(q, was)
		return q
	}
	fill(open.out, 0)
	return frag{open.in, shut.out}, true
}

func (s *schema) object(p *piece) frag {
	b := s.b
	var keys []string
	listed, open := false, false
	var patterns []string
	for _, w := range p.objects {
		listed = listed || len(w.props.keys) > 0 && !w.hidden
		open = open || w.open
		for _, k := range w.props.keys {
			if !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
		for _, x := range w.patterns.keys {
			if !slices.Contains(patterns, x) {
				patterns = append(patterns, x)
			}
		}
	}
	named := func(k string) bool { // allowed by propertyNames
		for _, n := range p.names {
			if !slices.ContainsFunc(s.pieces([]place{n}), func(q *piece) bool { return s.takes(q, k, 0) }) {
				return false
			}
		}
		return true
	}
	for _, k := range p.required {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
			listed = true
		}
	}
	all := keys
	keys = nil
	for _, k := range all {
		no := slices.ContainsFunc(p.member(k), func(x place) bool { return x.v == false }) || !named(k)
		if no && slices.Contains(p.required, k) {
			return b.nothing()
		}
		if !no {
			keys = append(keys, k)
		}
	}
	members := p.members
	closed := false
	need := members.min - int32(len(p.required))
	if need > 1 && len(keys) >= int(members.min) {
		closed = true
	}
	var others []frag // members of other names
	if !closed {
		var err error
		if others, err = s.others(p, all, patterns, open || !listed && len(patterns) == 0); err != nil {
			if b.err == nil {
				b.err = err
			}
			return b.empty()
		}
	}
	if need > 1 && len(others) > 0 && !s.drop(p.at, "minProperties", "names that are free cannot be kept apart: list the properties") {
		return b.empty()
	}
	if len(others) == 0 && int(members.min) > len(keys) || members.empty() {
		return b.nothing()
	}
	r := b.addRule(p.at)
	if members.min <= int32(len(p.required)) {
		members.min = 0
	}
	if len(others) == 0 && int(members.max) >= len(keys) {
		members.max = -1
	}
	if members.min > 0 || members.max >= 0 {
		b.count[r] = &members
	}
	// none and some: before member i, with none written so far or some.
	start := b.cat(b.lit("{"), b.call(s.json.space))
	shut := b.lit("}")
	none, some := start.out, b.state()
	last := -1 // required
	for i, k := range keys {
		if slices.Contains(p.required, k) {
			last = i
		}
	}
	if last < 0 {
		b.link(none, shut.in)
	}
	end := func(from int32) { // after a member
		e := b.call(s.json.space)
		b.link(from, e.in)
		b.link(e.out, shut.in)
	}
	for i, k := range keys {
		member := b.cat(b.lit(string(appendString(nil, k))+":"), b.call(s.json.space), b.tick(s.value(p.member(k))))
		if b.err != nil {
			return b.empty()
		}
		b.link(none, member.in)
		b.link(some, member.in)
		n, m := b.state(), b.state()
		if i >= last {
			end(member.out)
		}
		next := b.cat(b.lit(","), b.call(s.json.space))
		b.link(member.out, next.in)
		b.link(next.out, m)
		if !slices.Contains(p.required, k) {
			b.link(none, n)
			b.link(some, m)
		}
		none, some = n, m
	}
	if len(others) > 0 {
		other := b.alt(others...)
		b.link(none, other.in)
		b.link(some, other.in)
		end(other.out)
		next := b.cat(b.lit(","), b.call(s.json.space))
		b.link(other.out, next.in)
		b.link(next.out, other.in)
	}
	b.rules[r] = frag{start.in, shut.out}
	return b.call(r)
}

// others are the members of an object whose names are not among keys: for each set of patterns the names that match
// just these, and with open those that match none.
func (s *schema) others(p *piece, keys, patterns []string, open bool) ([]frag, error) {
	b := s.b
	var fs []frag
	if len(patterns) > 4 && !s.loose {
		s.drop(p.at, "patternProperties", "more than 4 of them")
		return nil, b.err
	}
	patterns = patterns[:min(len(patterns), 4)]
	if len(patterns) == 0 && !open {
		return nil, nil
	}
	var which [][]state
	for _, x := range patterns {
		a, err := b.patternAutomaton(pattern{expr: x})
		if err != nil || a.length != (counter{0, -1}) {
			if err == nil {
				err = errorf("a repetition that long")
			}
			if !s.drop(p.at, "patternProperties", strings.TrimPrefix(err.Error(), ErrGrammar.Error()+": ")) {
				return nil, b.err
			}
			return nil, nil
		}
		which = append(which, a.d)
	}
	base, err := b.subsets(b.anyText(), everyByte)
	if err != nil {
		return nil, err
	}
	free := len(keys) == 0 && len(patterns) == 0 && len(p.names) == 0
	if len(keys) > 0 {
		var lits []frag
		for _, k := range keys {
			q := string(appendString(nil, k))
			lits = append(lits, b.lit(q[1:len(q)-1]))
		}
		d, err := b.subsets(b.alt(lits...), everyByte)
		if err == nil {
			base, err = b.minus(base, d)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, n := range p.names {
		d, err := s.namesOf(n)
		if err == nil {
			base, err = b.intersect(base, d)
		}
		if err != nil {
			return nil, err
		}
	}
	for set := range 1 << len(patterns) {
		if set == 0 && !open {
			continue
		}
		var of []place
		for _, w := range p.objects {
			found := false
			for i, x := range patterns {
				if v, ok := w.patterns.get(x); ok && set>>i&1 == 1 {
					found = true
					of = append(of, place{v, w.at + "/patternProperties/" + escape(x)})
				}
			}
			if !found {
				of = append(of, place{w.more, w.at + "/additionalProperties"})
			}
		}
		if slices.ContainsFunc(of, func(x place) bool { return x.v == false }) {
			continue
		}
		name := b.call(s.json.str)
		if !free {
			d := base
			for i := range patterns {
				var err error
				if set>>i&1 == 1 {
					d, err = b.intersect(d, which[i])
				} else {
					d, err = b.minus(d, which[i])
				}
				if err != nil {
					return nil, err
				}
			}
			if lo, _ := lengths(d); lo < 0 {
				continue
			}
			r := b.addRule(p.at + "/name")
			b.rules[r] = b.quoted(b.embed(d))
			name = b.call(r)
		}
		fs = append(fs, b.cat(name, b.lit(":"), b.call(s.json.space), b.tick(s.value(of))))
	}
	return fs, b.err
}

// namesOf is the automaton of names that propertyNames allows.
func (s *schema) namesOf(n place) ([]state, error) {
	b := s.b
	var fs []frag
	for _, p := range s.pieces([]place{n}) {
		if p.limited {
			for _, v := range p.only {
				if x, ok := v.(string); ok && s.takes(p, v, 0) {
					q := string(appendString(nil, x))
					fs = append(fs, b.lit(q[1:len(q)-1]))
				}
			}
			continue
		}
		if p.types&text == 0 {
			continue
		}
		d, length, err := s.body(p)
		if err != nil {
			return nil, err
		}
		if d == nil {
			if d, err = b.subsets(b.anyText(), everyByte); err != nil {
				return nil, err
			}
		}
		if length != (counter{0, -1}) {
			one, err := b.subsets(b.jsonRunes([]runeRange{{0, utf8.MaxRune}}), everyByte)
			if err != nil {
				return nil, err
			}
			l, err := b.subsets(b.repeat(func() frag { return b.embed(one) }, int(length.min), int(length.max)), everyByte)
			if err == nil {
				d, err = b.intersect(d, l)
			}
			if err != nil {
				return nil, err
			}
		}
		fs = append(fs, b.embed(d))
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.subsets(b.alt(fs...), everyByte)
}

// Formats whose whole language is not needed: every text that matches is valid.
var formats = map[string]string{
	"date": `(19|20)\d\d-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))`,
	"time": `([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):[0-5]\d)`,
	// RFC 3339, appendix A: units follow one another without gaps, and weeks stand alone.
	"duration":  `P(\d{1,3}D(T(\d{1,2}H(\d{1,2}M(\d{1,2}S)?)?|\d{1,2}M(\d{1,2}S)?|\d{1,2}S))?|\d{1,2}M(\d{1,3}D)?|\d{1,4}Y(\d{1,2}M(\d{1,3}D)?)?|T(\d{1,2}H(\d{1,2}M(\d{1,2}S)?)?|\d{1,2}M(\d{1,2}S)?|\d{1,2}S)|\d{1,3}W)`,
	"email":     `[a-z0-9_+-]{1,20}(\.[a-z0-9_+-]{1,20}){0,2}@[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z]{2,10}){1,2}`,
	"hostname":  `[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z][a-z0-9]{0,20}){0,3}`,
	"ipv4":      `((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`,
	"ipv6":      `([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}`,
	"uri":       `https?://[a-z0-9]{1,20}(-[a-z0-9]{1,20})?(\.[a-z]{2,10}){1,3}(/[A-Za-z0-9._~-]{0,40}){0,8}(\?[A-Za-z0-9._~=&-]{0,80})?`,
	"uuid":      `[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
	"date-time": "",

	"uri-reference":         `(https?://[a-z0-9]{1,20}(\.[a-z]{2,10}){1,3})?(/[A-Za-z0-9._~-]{1,40}){1,8}(\?[A-Za-z0-9._~=&-]{0,80})?(#[A-Za-z0-9._~-]{0,40})?`,
	"uri-template":          `https?://[a-z0-9]{1,20}(\.[a-z]{2,10}){1,3}(/([A-Za-z0-9._~-]{1,40}|\{[a-z][A-Za-z0-9_]{0,20}\})){0,8}`,
	"json-pointer":          `(/([^/~\x00-\x1f"\\\x7f-\x{10ffff}]|~[01]){0,40}){0,8}`,
	"relative-json-pointer": `(0|[1-9]\d{0,3})(#|(/[A-Za-z0-9._-]{0,40}){0,8})`,
	"regex":                 `\^?([A-Za-z0-9 _,;:/@=-]|\[[a-z]{1,8}\][*+?]?|\\[dw.]){0,60}\$?`,
}

const base64 = `([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?`

func init() {
	formats["date-time"] = formats["date"] + "T" + formats["time"]
	formats["iri"], formats["iri-reference"] = formats["uri"], formats["uri-reference"]
	formats["idn-email"], formats["idn-hostname"] = formats["email"], formats["hostname"]
	formats["ip-address"], formats["host-name"] = formats["ipv4"], formats["hostname"] // draft 3
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
