// Package jinja renders the templates that chat models bring along: the part of Jinja 2 that such
// templates use, with the settings and extra functions of Hugging Face transformers
// (trim_blocks, lstrip_blocks, loop controls, raise_exception, strftime_now, tojson without HTML
// escapes, generation blocks). Values cannot be changed by a template, as in Jinja's
// ImmutableSandboxedEnvironment.
//
// A template comes with a model, so it is not trusted: time, depth and size are bounded, and
// whatever goes past a bound is an error.
//
// Language: https://jinja.palletsprojects.com/en/stable/templates/.
package jinja

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds.
const (
	MaxSource = 1 << 20 // bytes of a template; see Parse
	maxText   = 1 << 25 // bytes of a string, and of the output
	maxItems  = 1 << 20 // items of a list
	maxWork   = 1 << 24 // steps of a rendering; making four bytes of text is one
	maxValues = 1 << 27 // bytes of the lists, maps and texts that a rendering makes
	maxDepth  = 100     // macros and loops that call themselves
)

var (
	errTooLong = fmt.Errorf("text of more than %d MiB", maxText>>20)
	errTooMuch = errors.New("rendering takes too long")
	errTooBig  = fmt.Errorf("rendering makes more than %d MiB of values", maxValues>>20)
	errTooDeep = fmt.Errorf("calls nest more than %d deep", maxDepth)
)

// Error is a problem in a template, or with the values it was given.
type Error struct {
	Line int // of the template
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("jinja: line %d: %v", e.Line, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Raised is the error of a template that called raise_exception: the conversation is not one that
// the model was made for.
type Raised struct{ Message string }

func (e *Raised) Error() string { return e.Message }

// Template is a compiled template, safe for concurrent use.
type Template struct{ body []stmt }

// Options are what a rendering may know of the world.
type Options struct {
	Now time.Time // what strftime_now tells; zero means the time of the rendering
}

// Render runs the template with the variables; their values go through Value.
func (t *Template) Render(vars map[string]any, o *Options) (string, error) {
	x := &exec{work: maxWork, room: maxValues, out: new(strings.Builder), now: time.Now()}
	if o != nil && !o.Now.IsZero() {
		x.now = o.Now
	}
	root := &scope{vars: map[string]any{}}
	for name, v := range vars {
		var err error
		if root.vars[name], err = Value(v); err != nil {
			return "", fmt.Errorf("jinja: variable %q: %w", name, err)
		}
	}
	if _, err := x.run(t.body, &scope{vars: map[string]any{}, parent: root}); err != nil {
		return "", err
	}
	return x.out.String(), nil
}

// exec is one rendering.
type exec struct {
	work  int // steps left
	room  int // bytes of values left
	depth int
	out   *strings.Builder
	now   time.Time
}

// scope holds the variables of a block; loops, macros and with open new ones.
type scope struct {
	vars   map[string]any
	parent *scope
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	v, ok := globals[name]
	return v, ok
}

func (s *scope) child() *scope { return &scope{vars: map[string]any{}, parent: s} }

// charge counts n bytes of new text.
func (x *exec) charge(n int) error {
	if n > maxText {
		return errTooLong
	}
	if x.work -= n/4 + 1; x.work < 0 {
		return errTooMuch
	}
	return x.make(n)
}

// make counts n bytes of a new value.
func (x *exec) make(n int) error {
	if x.room -= n; x.room < 0 {
		return errTooBig
	}
	return nil
}

// Bytes of a map without entries, of an entry, and of a list without items, with what Go needs
// around them.
const (
	mapBytes   = 400
	entryBytes = 100
	listBytes  = 64
)

// touch counts work that goes through the whole of a value.
func (x *exec) touch(v any) error {
	switch v := v.(type) {
	case string:
		x.work -= len(v) / 64
	case *List:
		x.work -= 8 * len(v.Items)
	case *Map:
		x.work -= 8 * v.Len()
	}
	if x.work < 0 {
		return errTooMuch
	}
	return nil
}

func (x *exec) write(s string) error {
	if x.out.Len()+len(s) > maxText {
		return errTooLong
	}
	if err := x.charge(len(s)); err != nil {
		return err
	}
	x.out.WriteString(s)
	return nil
}

// capture runs statements and returns what they write.
func (x *exec) capture(body []stmt, s *scope) (string, error) {
	outer := x.out
	x.out = new(strings.Builder)
	_, err := x.run(body, s)
	text := x.out.String()
	x.out = outer
	return text, err
}

func (x *exec) enter() error {
	if x.depth++; x.depth > maxDepth {
		return errTooDeep
	}
	return nil
}
func (x *exec) leave() { x.depth-- }

type control uint8

const (
	goOn control = iota
	breakLoop
	continueLoop
)

// locate puts the line of n on an error that has none.
func locate(n interface{ line() int }, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Line: n.line(), Err: err}
}

func (x *exec) run(body []stmt, s *scope) (control, error) {
	for _, n := range body {
		if x.work--; x.work < 0 {
			return goOn, locate(n, errTooMuch)
		}
		c, err := x.stmt(n, s)
		if err != nil {
			return goOn, locate(n, err)
		}
		if c != goOn {
			return c, nil
		}
	}
	return goOn, nil
}

func (x *exec) stmt(n stmt, s *scope) (control, error) {
	switch n := n.(type) {
	case *outputStmt:
		if n.expr == nil {
			return goOn, x.write(n.text)
		}
		v, err := x.eval(n.expr, s)
		if err != nil {
			return goOn, err
		}
		return goOn, x.write(str(v))
	case *ifStmt:
		v, err := x.eval(n.cond, s)
		if err != nil {
			return goOn, err
		}
		if truth(v) {
			return x.run(n.then, s)
		}
		return x.run(n.orly, s)
	case *forStmt:
		v, err := x.eval(n.iter, s)
		if err != nil {
			return goOn, err
		}
		return goOn, x.forLoop(n, v, s, 0)
	case *setStmt:
		return goOn, x.set(n, s)
	case *macroStmt:
		s.vars[n.name] = x.macro(n, s)
		return goOn, x.make(mapBytes) // the scope that it holds on to
	case *callStmt:
		inner := s.child()
		call := n.call.(*callExpr)
		a, err := x.args(call.args, inner)
		if err != nil {
			return goOn, err
		}
		a.names = append(a.names, "caller")
		a.values = append(a.values, x.macro(n.caller, s))
		fn, err := x.eval(call.fn, inner)
		if err != nil {
			return goOn, err
		}
		v, err := x.call(fn, a)
		if err != nil {
			return goOn, err
		}
		return goOn, x.write(str(v))
	case *filterStmt:
		text, err := x.capture(n.body, s.child())
		if err != nil {
			return goOn, err
		}
		v, err := x.filters(text, n.filters, s)
		if err != nil {
			return goOn, err
		}
		return goOn, x.write(str(v))
	case *withStmt:
		inner := s.child()
		for i, name := range n.names {
			v, err := x.eval(n.values[i], s)
			if err != nil {
				return goOn, err
			}
			inner.vars[name] = v
		}
		return x.run(n.body, inner)
	case *groupStmt:
		return x.run(n.body, s.child())
	case *breakStmt:
		return breakLoop, nil
	case *continueStmt:
		return continueLoop, nil
	}
	return goOn, fmt.Errorf("unknown statement %T", n)
}

func (x *exec) filters(v any, list []filter, s *scope) (any, error) {
	for _, f := range list {
		a, err := x.args(f.args, s)
		if err != nil {
			return nil, err
		}
		if v, err = x.filter(f.name, v, a); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (x *exec) set(n *setStmt, s *scope) error {
	var v any
	var err error
	if n.value != nil {
		v, err = x.eval(n.value, s)
	} else {
		var text string
		if text, err = x.capture(n.body, s.child()); err == nil {
			v, err = x.filters(text, n.filters, s)
		}
	}
	if err != nil {
		return err
	}
	values := []any{v}
	if n.tuple {
		if values, err = x.iterate(v); err != nil {
			return err
		}
		if len(values) != len(n.targets) {
			return fmt.Errorf("%d values for %d variables", len(values), len(n.targets))
		}
	}
	for i, t := range n.targets {
		switch t := t.(type) {
		case *nameExpr:
			s.vars[t.name] = values[i]
		case *attrExpr:
			base := t.x.(*nameExpr)
			ns, _ := s.get(base.name)
			space, ok := ns.(*namespace)
			if !ok {
				return fmt.Errorf("cannot assign attribute %q: %q is not a namespace", t.name, base.name)
			}
			space.vars.set(t.name, values[i])
		}
	}
	return nil
}

// loop is the variable of that name inside a for.
type loop struct {
	index   int
	items   []any
	depth   int
	changed []any // what loop.changed was last called with
	again   func(any) (any, error)
}

func (x *exec) forLoop(n *forStmt, v any, s *scope, depth int) error {
	if err := x.enter(); err != nil {
		return err
	}
	defer x.leave()
	items, err := x.iterate(v)
	if err != nil {
		return err
	}
	bind := func(inner *scope, item any) error {
		if !n.tuple {
			inner.vars[n.targets[0]] = item
			return nil
		}
		parts, err := x.iterate(item)
		if err != nil {
			return err
		}
		if len(parts) != len(n.targets) {
			return fmt.Errorf("%d values for %d variables", len(parts), len(n.targets))
		}
		for i, name := range n.targets {
			inner.vars[name] = parts[i]
		}
		return nil
	}
	if n.filter != nil {
		var kept []any
		for _, item := range items {
			inner := s.child()
			if err := bind(inner, item); err != nil {
				return err
			}
			ok, err := x.eval(n.filter, inner)
			if err != nil {
				return err
			}
			if truth(ok) {
				kept = append(kept, item)
			}
		}
		items = kept
	}
	if len(items) == 0 {
		_, err := x.run(n.orly, s.child())
		return err
	}
	l := &loop{items: items, depth: depth}
	if n.recursive {
		l.again = func(v any) (any, error) {
			outer := x.out
			x.out = new(strings.Builder)
			err := x.forLoop(n, v, s, depth+1)
			text := x.out.String()
			x.out = outer
			return text, err
		}
	}
	for i, item := range items {
		l.index = i
		inner := s.child()
		inner.vars["loop"] = l
		if err := bind(inner, item); err != nil {
			return err
		}
		c, err := x.run(n.body, inner)
		if err != nil {
			return err
		}
		if c == breakLoop {
			break
		}
	}
	return nil
}

// attr returns a member of the loop variable.
func (l *loop) attr(name string) any {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.index + 1)
	case "index0":
		return int64(l.index)
	case "revindex":
		return int64(n - l.index)
	case "revindex0":
		return int64(n - l.index - 1)
	case "first":
		return l.index == 0
	case "last":
		return l.index == n-1
	case "length":
		return int64(n)
	case "depth":
		return int64(l.depth + 1)
	case "depth0":
		return int64(l.depth)
	case "previtem":
		if l.index > 0 {
			return l.items[l.index-1]
		}
		return Undefined{"there is no previous item"}
	case "nextitem":
		if l.index < n-1 {
			return l.items[l.index+1]
		}
		return Undefined{"there is no next item"}
	case "cycle":
		return &callable{"cycle", func(_ *exec, a *callArgs) (any, error) {
			if len(a.pos) == 0 {
				return nil, errors.New("no items for cycling given")
			}
			return a.pos[l.index%len(a.pos)], nil
		}}
	case "changed":
		return &callable{"changed", func(x *exec, a *callArgs) (any, error) {
			same := l.changed != nil && len(l.changed) == len(a.pos)
			for i := range a.pos {
				same = same && x.equal(l.changed[i], a.pos[i])
			}
			l.changed = append([]any{}, a.pos...)
			return !same, nil
		}}
	}
	return Undefined{fmt.Sprintf("'loop' has no attribute '%s'", name)}
}

// macro makes a macro callable; it sees the variables around its definition.
func (x *exec) macro(m *macroStmt, s *scope) *callable {
	return &callable{m.name, func(x *exec, a *callArgs) (any, error) {
		if err := x.enter(); err != nil {
			return nil, err
		}
		defer x.leave()
		inner := s.child()
		n := min(len(a.pos), len(m.params))
		for i, p := range m.params[:n] {
			inner.vars[p] = a.pos[i]
		}
		inner.vars["varargs"] = &List{Items: a.pos[n:], Tuple: true}
		rest := NewMap()
	names:
		for i, name := range a.names {
			for k, p := range m.params {
				if p == name {
					if k < n {
						return nil, fmt.Errorf("macro %q got several values for %q", m.name, name)
					}
					inner.vars[p] = a.values[i]
					continue names
				}
			}
			if name == "caller" {
				inner.vars[name] = a.values[i]
				continue
			}
			rest.set(name, a.values[i])
		}
		inner.vars["kwargs"] = rest
		for i, p := range m.params {
			if _, ok := inner.vars[p]; ok {
				continue
			}
			d := i - (len(m.params) - len(m.defaults))
			if d < 0 {
				inner.vars[p] = Undefined{fmt.Sprintf("parameter %q was not provided", p)}
				continue
			}
			v, err := x.eval(m.defaults[d], inner)
			if err != nil {
				return nil, err
			}
			inner.vars[p] = v
		}
		return x.capture(m.body, inner)
	}}
}

// iterate returns the items of a value that can be gone through.
func (x *exec) iterate(v any) ([]any, error) {
	v = unmark(v)
	switch v := v.(type) {
	case *List:
		x.work -= len(v.Items)
		return v.Items, nil
	case *Map:
		x.work -= len(v.keys)
		return v.keys, nil
	case string:
		if err := x.charge(8 * len(v)); err != nil {
			return nil, err
		}
		items := make([]any, 0, len(v))
		for len(v) > 0 {
			_, n := utf8.DecodeRuneInString(v)
			items = append(items, v[:n])
			v = v[n:]
		}
		return items, nil
	case Undefined:
		return nil, nil
	}
	return nil, fmt.Errorf("'%s' object is not iterable", typeName(v))
}

func (x *exec) args(a args, s *scope) (*callArgs, error) {
	c := &callArgs{names: append([]string(nil), a.names...)}
	for _, e := range a.pos {
		v, err := x.eval(e, s)
		if err != nil {
			return nil, err
		}
		c.pos = append(c.pos, v)
	}
	if a.star != nil {
		v, err := x.eval(a.star, s)
		if err != nil {
			return nil, err
		}
		items, err := x.iterate(v)
		if err != nil {
			return nil, err
		}
		c.pos = append(c.pos, items...)
	}
	for _, e := range a.values {
		v, err := x.eval(e, s)
		if err != nil {
			return nil, err
		}
		c.values = append(c.values, v)
	}
	if a.stars != nil {
		v, err := x.eval(a.stars, s)
		if err != nil {
			return nil, err
		}
		m, ok := v.(*Map)
		if !ok {
			return nil, fmt.Errorf("argument after ** must be a mapping, not %s", typeName(v))
		}
		if x.work -= 4 * m.Len(); x.work < 0 {
			return nil, errTooMuch
		}
		if err := x.make(32 * m.Len()); err != nil {
			return nil, err
		}
		for i, k := range m.keys {
			name, ok := k.(string)
			if !ok {
				return nil, errors.New("keywords must be strings")
			}
			c.names = append(c.names, name)
			c.values = append(c.values, m.values[i])
		}
	}
	return c, nil
}

func (x *exec) call(fn any, a *callArgs) (any, error) {
	switch fn := fn.(type) {
	case *callable:
		return fn.fn(x, a)
	case *loop:
		if fn.again == nil {
			return nil, errors.New("the loop is not recursive")
		}
		if len(a.pos) != 1 {
			return nil, errors.New("loop() takes one argument")
		}
		return fn.again(a.pos[0])
	case Undefined:
		return nil, fn.err()
	}
	return nil, fmt.Errorf("'%s' object is not callable", typeName(fn))
}

func (u Undefined) err() error { return errors.New(u.why) }

func (x *exec) eval(e expr, s *scope) (any, error) {
	if x.work--; x.work < 0 {
		return nil, locate(e, errTooMuch)
	}
	v, err := x.eval1(e, s)
	if err != nil {
		return nil, locate(e, err)
	}
	return v, nil
}

func (x *exec) eval1(e expr, s *scope) (any, error) {
	switch e := e.(type) {
	case *constExpr:
		return e.value, nil
	case *nameExpr:
		if v, ok := s.get(e.name); ok {
			return v, nil
		}
		return Undefined{fmt.Sprintf("'%s' is undefined", e.name)}, nil
	case *listExpr:
		l := &List{Items: make([]any, 0, len(e.items)), Tuple: e.tuple}
		for _, item := range e.items {
			v, err := x.eval(item, s)
			if err != nil {
				return nil, err
			}
			l.Items = append(l.Items, v)
		}
		return l, x.make(listBytes + 16*len(e.items))
	case *dictExpr:
		m := NewMap()
		if err := x.make(mapBytes + entryBytes*len(e.keys)); err != nil {
			return nil, err
		}
		for i := range e.keys {
			k, err := x.eval(e.keys[i], s)
			if err != nil {
				return nil, err
			}
			v, err := x.eval(e.values[i], s)
			if err != nil {
				return nil, err
			}
			if !m.set(k, v) {
				return nil, fmt.Errorf("unhashable type: '%s'", typeName(k))
			}
		}
		return m, nil
	case *unaryExpr:
		v, err := x.eval(e.x, s)
		if err != nil {
			return nil, err
		}
		if e.op == "not" {
			return !truth(v), nil
		}
		i, f, isFloat, ok := number(v)
		if u, undefined := v.(Undefined); undefined {
			return nil, u.err()
		}
		switch {
		case !ok:
			return nil, fmt.Errorf("bad operand type for unary %s: '%s'", e.op, typeName(v))
		case e.op == "+" && isFloat:
			return f, nil
		case e.op == "+":
			return i, nil
		case isFloat:
			return -f, nil
		}
		return -i, nil
	case *binaryExpr:
		return x.binary(e, s)
	case *compareExpr:
		return x.comparison(e, s)
	case *condExpr:
		v, err := x.eval(e.cond, s)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			return x.eval(e.then, s)
		}
		if e.orly == nil {
			return Undefined{"the inline if-expression evaluated to false and no else section was defined"}, nil
		}
		return x.eval(e.orly, s)
	case *attrExpr:
		v, err := x.eval(e.x, s)
		if err != nil {
			return nil, err
		}
		return x.attr(v, e.name)
	case *indexExpr:
		v, err := x.eval(e.x, s)
		if err != nil {
			return nil, err
		}
		if sl, ok := e.index.(*sliceExpr); ok {
			return x.slice(v, sl, s)
		}
		i, err := x.eval(e.index, s)
		if err != nil {
			return nil, err
		}
		return x.item(v, i)
	case *callExpr:
		fn, err := x.eval(e.fn, s)
		if err != nil {
			return nil, err
		}
		a, err := x.args(e.args, s)
		if err != nil {
			return nil, err
		}
		return x.call(fn, a)
	case *filterExpr:
		v, err := x.eval(e.x, s)
		if err != nil {
			return nil, err
		}
		a, err := x.args(e.args, s)
		if err != nil {
			return nil, err
		}
		return x.filter(e.name, v, a)
	case *testExpr:
		v, err := x.eval(e.x, s)
		if err != nil {
			return nil, err
		}
		a, err := x.args(e.args, s)
		if err != nil {
			return nil, err
		}
		ok, err := x.test(e.name, v, a)
		return ok != e.not, err
	}
	return nil, fmt.Errorf("unknown expression %T", e)
}

func (x *exec) comparison(e *compareExpr, s *scope) (any, error) {
	a, err := x.eval(e.x, s)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		b, err := x.eval(e.ys[i], s)
		if err != nil {
			return nil, err
		}
		ok, err := x.relation(op, a, b)
		if err != nil || !ok {
			return false, err
		}
		a = b
	}
	return true, nil
}

func (x *exec) relation(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return x.equal(a, b), nil
	case "!=":
		return !x.equal(a, b), nil
	case "in":
		return x.contains(b, a)
	case "not in":
		ok, err := x.contains(b, a)
		return !ok, err
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(Undefined); ok {
			return false, u.err()
		}
	}
	c, err := x.compare(a, b)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

func (x *exec) contains(list, v any) (bool, error) {
	list, v = unmark(list), unmark(v)
	switch l := list.(type) {
	case string:
		sub, ok := v.(string)
		if !ok {
			if u, ok := v.(Undefined); ok {
				return false, u.err()
			}
			return false, fmt.Errorf("'in <string>' requires string as left operand, not %s", typeName(v))
		}
		x.work -= len(l) / 64
		return strings.Contains(l, sub), nil
	case *Map:
		_, ok := l.get(v)
		return ok, nil
	case *List:
		for _, item := range l.Items {
			if x.equal(item, v) {
				return true, nil
			}
		}
		return false, nil
	case Undefined:
		return false, nil
	}
	return false, fmt.Errorf("argument of type '%s' is not iterable", typeName(list))
}

func (x *exec) binary(e *binaryExpr, s *scope) (any, error) {
	a, err := x.eval(e.x, s)
	if err != nil {
		return nil, err
	}
	switch e.op {
	case "and":
		if !truth(a) {
			return a, nil
		}
		return x.eval(e.y, s)
	case "or":
		if truth(a) {
			return a, nil
		}
		return x.eval(e.y, s)
	}
	b, err := x.eval(e.y, s)
	if err != nil {
		return nil, err
	}
	_, am := a.(markup)
	_, bm := b.(markup)
	if am || bm {
		if _, ok := unmark(b).(string); e.op == "+" && ok {
			if _, ok := unmark(a).(string); ok {
				l, r := marked(a), marked(b)
				return l + r, x.charge(len(l) + len(r))
			}
		}
		a, b = unmark(a), unmark(b)
	}
	if e.op == "~" {
		l, r := str(a), str(b)
		if err := x.charge(len(l) + len(r)); err != nil {
			return nil, err
		}
		return l + r, nil
	}
	return x.arith(e.op, a, b)
}

var errOverflow = errors.New("number too large")

func (x *exec) arith(op string, a, b any) (any, error) {
	for _, v := range []any{a, b} {
		if u, ok := v.(Undefined); ok {
			return nil, u.err()
		}
	}
	ai, af, aF, aok := number(a)
	bi, bf, bF, bok := number(b)
	if aok && bok {
		return numeric(op, ai, bi, af, bf, aF || bF)
	}
	switch op {
	case "+":
		switch l := a.(type) {
		case string:
			if r, ok := b.(string); ok {
				if err := x.charge(len(l) + len(r)); err != nil {
					return nil, err
				}
				return l + r, nil
			}
		case *List:
			if r, ok := b.(*List); ok && l.Tuple == r.Tuple {
				return x.repeat(l.Tuple, 1, l.Items, r.Items)
			}
		}
	case "*":
		if aok && !aF {
			a, b, bi, bok, bF = b, a, ai, true, false
		}
		if bok && !bF {
			n := max(bi, 0)
			switch l := a.(type) {
			case string:
				if n > maxText || int(n)*len(l) > maxText {
					return nil, errTooLong
				}
				if err := x.charge(int(n) * len(l)); err != nil {
					return nil, err
				}
				return strings.Repeat(l, int(n)), nil
			case *List:
				if n > maxItems {
					return nil, errTooMuch
				}
				return x.repeat(l.Tuple, int(n), l.Items)
			}
		}
	case "%":
		if l, ok := a.(string); ok {
			return x.percent(l, b)
		}
	}
	return nil, fmt.Errorf("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

// repeat joins lists, n times over.
func (x *exec) repeat(tuple bool, n int, lists ...[]any) (any, error) {
	size := 0
	for _, l := range lists {
		size += len(l)
	}
	if size > 0 && n > maxItems/size {
		return nil, fmt.Errorf("list of more than %d items", maxItems)
	}
	if err := x.charge(16 * size * n); err != nil {
		return nil, err
	}
	out := make([]any, 0, size*n)
	for range n {
		for _, l := range lists {
			out = append(out, l...)
		}
	}
	return &List{Items: out, Tuple: tuple}, nil
}

func numeric(op string, a, b int64, af, bf float64, float bool) (any, error) {
	if (op == "/" || op == "//" || op == "%") && bf == 0 {
		return nil, errors.New("division by zero")
	}
	if op == "/" {
		return af / bf, nil
	}
	if float || op == "**" && b < 0 {
		switch op {
		case "+":
			return af + bf, nil
		case "-":
			return af - bf, nil
		case "*":
			return af * bf, nil
		case "//":
			return math.Floor(af / bf), nil
		case "%":
			r := math.Mod(af, bf)
			if r != 0 && (r < 0) != (bf < 0) {
				r += bf
			}
			return r, nil
		}
		return math.Pow(af, bf), nil
	}
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c, nil
		}
		return nil, errOverflow
	case "*":
		return multiply(a, b)
	case "//", "%":
		if a == math.MinInt64 && b == -1 {
			return nil, errOverflow
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) {
			q--
			r += b
		}
		if op == "%" {
			return r, nil
		}
		return q, nil
	}
	result := int64(1)
	var v any
	var err error
	for base := a; b > 0; b >>= 1 {
		if b&1 != 0 {
			if v, err = multiply(result, base); err != nil {
				return nil, err
			}
			result = v.(int64)
		}
		if b > 1 {
			if v, err = multiply(base, base); err != nil {
				return nil, err
			}
			base = v.(int64)
		}
	}
	return result, nil
}

func multiply(a, b int64) (any, error) {
	if a == 0 || b == 0 {
		return int64(0), nil
	}
	c := a * b
	if c/b != a || a == math.MinInt64 && b == -1 || b == math.MinInt64 && a == -1 {
		return nil, errOverflow
	}
	return c, nil
}

// attr is v.name: a method or member first, an entry of a map otherwise.
func (x *exec) attr(v any, name string) (any, error) {
	v = unmark(v)
	switch v := v.(type) {
	case Undefined:
		return nil, v.err()
	case *loop:
		return v.attr(name), nil
	case *namespace:
		if w, ok := v.vars.get(name); ok {
			return w, nil
		}
	case *Map:
		if m, ok, err := method(v, name); ok || err != nil {
			return m, err
		}
		if w, ok := v.get(name); ok {
			return w, nil
		}
		return Undefined{fmt.Sprintf("'dict object' has no attribute '%s'", name)}, nil
	case *callable:
		if name == "name" {
			return v.name, nil
		}
	default:
		if m, ok, err := method(v, name); ok || err != nil {
			return m, err
		}
	}
	if v == nil {
		return Undefined{fmt.Sprintf("'None' has no attribute '%s'", name)}, nil
	}
	return Undefined{fmt.Sprintf("'%s object' has no attribute '%s'", typeName(v), name)}, nil
}

// item is v[i]: an entry first, a method or member otherwise.
func (x *exec) item(v, i any) (any, error) {
	v, i = unmark(v), unmark(i)
	if u, ok := i.(Undefined); ok {
		if _, ok := v.(*Map); !ok {
			return nil, u.err()
		}
	}
	switch v := v.(type) {
	case Undefined:
		return nil, v.err()
	case *Map:
		if w, ok := v.get(i); ok {
			return w, nil
		}
		if s, ok := i.(string); ok {
			return x.attr(v, s)
		}
		return Undefined{fmt.Sprintf("'dict object' has no attribute %s", repr(i))}, nil
	case *List:
		if n, _, isFloat, ok := number(i); ok && !isFloat {
			if n < 0 {
				n += int64(len(v.Items))
			}
			if n >= 0 && n < int64(len(v.Items)) {
				return v.Items[n], nil
			}
			return Undefined{fmt.Sprintf("%s object has no element %s", typeName(v), repr(i))}, nil
		}
	case string:
		if n, _, isFloat, ok := number(i); ok && !isFloat {
			r := []rune(v)
			if err := x.charge(len(v) / 4); err != nil {
				return nil, err
			}
			if n < 0 {
				n += int64(len(r))
			}
			if n >= 0 && n < int64(len(r)) {
				return string(r[n]), nil
			}
			return Undefined{fmt.Sprintf("str object has no element %s", repr(i))}, nil
		}
	}
	if s, ok := i.(string); ok {
		return x.attr(v, s)
	}
	return Undefined{fmt.Sprintf("'%s object' has no element %s", typeName(v), repr(i))}, nil
}

// slice is v[start:stop:step].
func (x *exec) slice(v any, e *sliceExpr, s *scope) (any, error) {
	var bound [3]*int64
	for i, part := range []expr{e.start, e.stop, e.step} {
		if part == nil {
			continue
		}
		w, err := x.eval(part, s)
		if err != nil {
			return nil, err
		}
		if w == nil {
			continue
		}
		n, _, isFloat, ok := number(w)
		if !ok || isFloat {
			return nil, errors.New("slice indices must be integers or None")
		}
		bound[i] = &n
	}
	pick := func(n int) ([]int, error) {
		step := int64(1)
		if bound[2] != nil {
			step = *bound[2]
		}
		if step == 0 {
			return nil, errors.New("slice step cannot be zero")
		}
		lo, hi := int64(0), int64(n)
		if step < 0 {
			lo, hi = -1, int64(n)-1
		}
		at := func(b *int64, absent int64) int64 {
			if b == nil {
				return absent
			}
			i := *b
			if i < 0 {
				i += int64(n)
			}
			return min(max(i, lo), hi)
		}
		start, stop := at(bound[0], lo), at(bound[1], hi)
		if step < 0 {
			start, stop = at(bound[0], hi), at(bound[1], lo)
		}
		var list []int
		for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
			list = append(list, int(i))
			if step > int64(n) || -step > int64(n) {
				break
			}
		}
		return list, x.charge(8 * len(list))
	}
	switch v := unmark(v).(type) {
	case *List:
		list, err := pick(len(v.Items))
		out := make([]any, len(list))
		for i, k := range list {
			out[i] = v.Items[k]
		}
		return &List{Items: out, Tuple: v.Tuple}, err
	case string:
		if err := x.charge(4 * len(v)); err != nil {
			return nil, err
		}
		r := []rune(v)
		list, err := pick(len(r))
		out := make([]rune, len(list))
		for i, k := range list {
			out[i] = r[k]
		}
		return string(out), err
	case Undefined:
		return nil, v.err()
	}
	return nil, fmt.Errorf("'%s' object is not subscriptable", typeName(v))
}
