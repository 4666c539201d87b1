package jinja

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Nodes of a template. A node is a statement (exec) or an expression (eval), see eval.go.
type (
	stmt interface{ line() int }
	expr interface{ line() int }

	at int // the line of a node

	outputStmt struct {
		at
		text string // literal text, when value is nil
		expr expr
	}
	ifStmt struct {
		at
		cond       expr
		then, orly []stmt
	}
	forStmt struct {
		at
		targets   []string
		tuple     bool
		iter      expr
		filter    expr
		body      []stmt
		orly      []stmt
		recursive bool
	}
	setStmt struct {
		at
		targets []expr // nameExpr or attrExpr of a namespace
		tuple   bool
		value   expr
		body    []stmt   // block form
		filters []filter // block form
	}
	macroStmt struct {
		at
		name     string
		params   []string
		defaults []expr // of the last len(defaults) parameters
		body     []stmt
	}
	callStmt struct {
		at
		caller *macroStmt
		call   expr
	}
	filterStmt struct {
		at
		filters []filter
		body    []stmt
	}
	withStmt struct {
		at
		names  []string
		values []expr
		body   []stmt
	}
	breakStmt    struct{ at }
	continueStmt struct{ at }
	groupStmt    struct { // generation
		at
		body []stmt
	}

	constExpr struct {
		at
		value any
	}
	nameExpr struct {
		at
		name string
	}
	listExpr struct {
		at
		items []expr
		tuple bool
	}
	dictExpr struct {
		at
		keys, values []expr
	}
	unaryExpr struct {
		at
		op string
		x  expr
	}
	binaryExpr struct {
		at
		op   string
		x, y expr
	}
	compareExpr struct {
		at
		x   expr
		ops []string
		ys  []expr
	}
	condExpr struct {
		at
		cond, then, orly expr
	}
	attrExpr struct {
		at
		x    expr
		name string
	}
	indexExpr struct {
		at
		x, index expr
	}
	sliceExpr struct {
		at
		start, stop, step expr
	}
	callExpr struct {
		at
		fn expr
		args
	}
	filterExpr struct {
		at
		x expr
		filter
	}
	testExpr struct {
		at
		x    expr
		name string
		not  bool
		args
	}

	filter struct {
		name string
		args
	}
	args struct {
		pos    []expr
		names  []string
		values []expr
		star   expr
		stars  expr
	}
)

func (a at) line() int { return int(a) }

// Bounds on how deep statements and expressions nest.
const (
	maxNesting = 200
	maxChain   = 2000
)

type parser struct {
	toks  []token
	i     int
	depth int
	loops int
}

type parseError struct{ err error }

// Parse compiles a template.
func Parse(src string) (t *Template, err error) {
	if len(src) > MaxSource {
		return nil, fmt.Errorf("jinja: template of %d bytes; the limit is %d", len(src), MaxSource)
	}
	toks, err := lex(src)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	defer func() {
		if r := recover(); r != nil {
			pe, ok := r.(parseError)
			if !ok {
				panic(r)
			}
			t, err = nil, pe.err
		}
	}()
	body, end := p.statements()
	if end != "" {
		p.failf("unexpected %s", end)
	}
	return &Template{body: body}, nil
}

func (p *parser) failf(format string, args ...any) {
	panic(parseError{&Error{Line: p.peek().line, Err: fmt.Errorf(format, args...)}})
}

func (p *parser) enter() {
	if p.depth++; p.depth > maxNesting {
		p.failf("nested too deeply")
	}
}
func (p *parser) leave() { p.depth-- }

// chain counts the links of "a + b + c …", which nest to the left.
func (p *parser) chain(n *int) {
	if *n++; *n > maxChain {
		p.failf("expression of more than %d links", maxChain)
	}
}

func (p *parser) peek() token { return p.toks[p.i] }
func (p *parser) next() token {
	t := p.toks[p.i]
	if t.kind != tEOF {
		p.i++
	}
	return t
}
func (p *parser) here() at { return at(p.peek().line) }

func (p *parser) isOp(s string) bool   { t := p.peek(); return t.kind == tOp && t.text == s }
func (p *parser) isName(s string) bool { t := p.peek(); return t.kind == tName && t.text == s }
func (p *parser) op(s string) bool {
	if p.isOp(s) {
		p.i++
		return true
	}
	return false
}

func (p *parser) word(s string) bool {
	if p.isName(s) {
		p.i++
		return true
	}
	return false
}

func (p *parser) needOp(s string) {
	if !p.op(s) {
		p.failf("expected %q, got %s", s, p.peek())
	}
}

func (p *parser) needName() string {
	if t := p.next(); t.kind == tName {
		return t.text
	}
	p.i--
	p.failf("expected a name, got %s", p.peek())
	return ""
}

func (t token) String() string {
	switch t.kind {
	case tEOF:
		return "the end of the template"
	case tBlockEnd:
		return `"%}"`
	case tVarEnd:
		return `"}}"`
	case tData:
		return "text"
	}
	return strconv.Quote(t.text)
}

func (p *parser) blockEnd() {
	if p.peek().kind != tBlockEnd {
		p.failf("expected the end of the tag, got %s", p.peek())
	}
	p.i++
}

// statements reads up to one of the end words, whose tag it opens: the word is the next token
// and returned. Without one it reads to the end.
func (p *parser) statements(ends ...string) (list []stmt, end string) {
	p.enter()
	defer p.leave()
	for {
		t := p.peek()
		switch t.kind {
		case tEOF:
			if len(ends) > 0 {
				p.failf("the template ends without %s", ends[len(ends)-1])
			}
			return list, ""
		case tData:
			p.i++
			list = append(list, &outputStmt{at: at(t.line), text: t.text})
		case tVarBegin:
			p.i++
			e := p.tuple(true)
			if p.peek().kind != tVarEnd {
				p.failf("expected the end of the expression, got %s", p.peek())
			}
			p.i++
			list = append(list, &outputStmt{at: at(t.line), expr: e})
		case tBlockBegin:
			p.i++
			name := p.peek()
			if name.kind != tName {
				p.failf("expected the name of a tag, got %s", name)
			}
			if slices.Contains(ends, name.text) {
				return list, name.text
			}
			p.i++
			list = append(list, p.statement(name))
		default:
			p.failf("unexpected %s", t)
		}
	}
}

// body reads the statements of a tag up to its end word, and the end tag.
func (p *parser) body(end string) []stmt {
	list, _ := p.statements(end)
	p.i++
	p.blockEnd()
	return list
}

func (p *parser) statement(tag token) stmt {
	line := at(tag.line)
	switch tag.text {
	case "if":
		return p.ifStmt(line)
	case "for":
		return p.forStmt(line)
	case "set":
		return p.setStmt(line)
	case "macro":
		m := p.macro(line, p.needName())
		p.blockEnd()
		m.body = p.body("endmacro")
		return m
	case "call":
		m := &macroStmt{at: line, name: "caller"}
		if p.isOp("(") {
			m = p.macro(line, "caller")
		}
		call := p.unary(true)
		if _, ok := call.(*callExpr); !ok {
			p.failf("call without a call")
		}
		p.blockEnd()
		m.body = p.body("endcall")
		return &callStmt{line, m, call}
	case "filter":
		f := &filterStmt{at: line}
		f.filters = append(f.filters, p.filter())
		for p.op("|") {
			f.filters = append(f.filters, p.filter())
		}
		p.blockEnd()
		f.body = p.body("endfilter")
		return f
	case "with":
		w := &withStmt{at: line}
		for p.peek().kind != tBlockEnd {
			if len(w.names) > 0 {
				p.needOp(",")
			}
			w.names = append(w.names, p.needName())
			p.needOp("=")
			w.values = append(w.values, p.expression())
		}
		p.blockEnd()
		w.body = p.body("endwith")
		return w
	case "break", "continue":
		if p.loops == 0 {
			p.failf("%s outside a loop", tag.text)
		}
		p.blockEnd()
		if tag.text == "break" {
			return &breakStmt{line}
		}
		return &continueStmt{line}
	case "generation":
		p.blockEnd()
		return &groupStmt{line, p.body("endgeneration")}
	case "block": // a template is never extended, so a block is its contents
		name := p.needName()
		p.blockEnd()
		g := &groupStmt{at: line}
		g.body, _ = p.statements("endblock")
		p.i++
		p.word(name)
		p.blockEnd()
		return g
	}
	p.failf("unknown tag %q", tag.text)
	return nil
}

func (p *parser) ifStmt(line at) stmt {
	s := &ifStmt{at: line, cond: p.tuple(false)}
	p.blockEnd()
	var end string
	s.then, end = p.statements("elif", "else", "endif")
	elif := p.here()
	p.i++
	switch end {
	case "elif":
		p.enter()
		s.orly = []stmt{p.ifStmt(elif)}
		p.leave()
		return s
	case "else":
		p.blockEnd()
		s.orly, _ = p.statements("endif")
		p.i++
	}
	p.blockEnd()
	return s
}

func (p *parser) forStmt(line at) stmt {
	s := &forStmt{at: line}
	s.targets, s.tuple = p.names("in")
	if !p.word("in") {
		p.failf("expected in, got %s", p.peek())
	}
	s.iter = p.tuple(false)
	if p.word("if") {
		s.filter = p.expression()
	}
	s.recursive = p.word("recursive")
	p.blockEnd()
	p.loops++
	var end string
	s.body, end = p.statements("else", "endfor")
	p.loops--
	p.i++
	if end == "else" {
		p.blockEnd()
		s.orly = p.body("endfor")
		return s
	}
	p.blockEnd()
	return s
}

// names reads the targets of a loop: "a", "a, b" or "(a, b)".
func (p *parser) names(end string) (list []string, tuple bool) {
	paren := p.op("(")
	for {
		list = append(list, p.needName())
		if !p.op(",") {
			break
		}
		tuple = true
		if p.isName(end) || p.isOp(")") {
			break
		}
	}
	if paren {
		p.needOp(")")
	}
	return list, tuple
}

func (p *parser) setStmt(line at) stmt {
	s := &setStmt{at: line}
	paren := p.op("(")
	for {
		var t expr = &nameExpr{p.here(), p.needName()}
		if p.op(".") {
			t = &attrExpr{p.here(), t, p.needName()}
		}
		s.targets = append(s.targets, t)
		if !p.op(",") {
			break
		}
		s.tuple = true
		if p.isOp("=") || p.isOp(")") {
			break
		}
	}
	if paren {
		p.needOp(")")
	}
	if p.op("=") {
		s.value = p.tuple(true)
		p.blockEnd()
		return s
	}
	for p.op("|") {
		s.filters = append(s.filters, p.filter())
	}
	p.blockEnd()
	if s.tuple {
		p.failf("a block can be set to one variable only")
	}
	s.body = p.body("endset")
	return s
}

// macro reads the parameters of a macro.
func (p *parser) macro(line at, name string) *macroStmt {
	m := &macroStmt{at: line, name: name}
	p.needOp("(")
	for !p.op(")") {
		if len(m.params) > 0 {
			p.needOp(",")
		}
		m.params = append(m.params, p.needName())
		if p.op("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			p.failf("parameter without a default after one with")
		}
	}
	return m
}

// Expressions, in the order of their precedence.

// tuple reads an expression, or several with commas between them. Without cond a following "if"
// is not read as part of it: in a for tag it is the loop's filter.
func (p *parser) tuple(cond bool) expr {
	line := p.here()
	item := p.or
	if cond {
		item = p.conditional
	}
	first := item()
	if !p.isOp(",") {
		return first
	}
	list := &listExpr{at: line, items: []expr{first}, tuple: true}
	for p.op(",") {
		if k := p.peek().kind; k == tBlockEnd || k == tVarEnd || p.isOp(")") {
			break
		}
		list.items = append(list.items, item())
	}
	return list
}

func (p *parser) expression() expr { return p.conditional() }

func (p *parser) conditional() expr {
	p.enter()
	defer p.leave()
	line := p.here()
	e := p.or()
	for n := 0; p.isName("if"); {
		p.chain(&n)
		p.i++
		c := &condExpr{at: line, cond: p.or(), then: e}
		if p.word("else") {
			c.orly = p.conditional()
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	line := p.here()
	e := p.and()
	for n := 0; p.word("or"); {
		p.chain(&n)
		e = &binaryExpr{line, "or", e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	line := p.here()
	e := p.not()
	for n := 0; p.word("and"); {
		p.chain(&n)
		e = &binaryExpr{line, "and", e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	line := p.here()
	if p.word("not") {
		p.enter()
		defer p.leave()
		return &unaryExpr{line, "not", p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	c := &compareExpr{at: p.here(), x: p.sum()}
	for {
		t := p.peek()
		op := ""
		switch {
		case t.kind == tOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			op = t.text
		case t.kind == tName && t.text == "in":
			op = "in"
		case t.kind == tName && t.text == "not" && p.toks[p.i+1].kind == tName && p.toks[p.i+1].text == "in":
			op = "not in"
			p.i++
		}
		if op == "" {
			break
		}
		p.i++
		c.ops = append(c.ops, op)
		c.ys = append(c.ys, p.sum())
	}
	if len(c.ops) == 0 {
		return c.x
	}
	return c
}

// left reads a left-associative chain of the operators.
func (p *parser) left(sub func() expr, ops ...string) expr {
	line := p.here()
	e := sub()
	for n := 0; ; {
		p.chain(&n)
		t := p.peek()
		if t.kind != tOp || !slices.Contains(ops, t.text) {
			return e
		}
		p.i++
		e = &binaryExpr{line, t.text, e, sub()}
	}
}

func (p *parser) sum() expr     { return p.left(p.concat, "+", "-") }
func (p *parser) concat() expr  { return p.left(p.product, "~") }
func (p *parser) product() expr { return p.left(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr {
	return p.left(func() expr { return p.unary(true) }, "**")
}

func (p *parser) unary(filters bool) expr {
	p.enter()
	defer p.leave()
	line := p.here()
	var e expr
	switch {
	case p.op("-"):
		e = &unaryExpr{line, "-", p.unary(false)}
	case p.op("+"):
		e = &unaryExpr{line, "+", p.unary(false)}
	default:
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filtered(e)
	}
	return e
}

func (p *parser) postfix(e expr) expr {
	for n := 0; ; {
		p.chain(&n)
		switch {
		case p.isOp("."), p.isOp("["):
			e = p.subscript(e)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) filtered(e expr) expr {
	for n := 0; ; {
		p.chain(&n)
		line := p.here()
		switch {
		case p.op("|"):
			e = &filterExpr{line, e, p.filter()}
			for p.isOp(".") || p.isOp("[") { // {{ x | first.y }} is not Jinja, (x|first)["y"] is
				p.failf("unexpected %s after a filter", p.peek())
			}
		case p.word("is"):
			e = p.test(e, line)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) filter() filter {
	f := filter{name: p.needName()}
	for p.op(".") {
		f.name += "." + p.needName()
	}
	if p.isOp("(") {
		f.args = p.arguments()
	}
	return f
}

func (p *parser) test(x expr, line at) expr {
	t := &testExpr{at: line, x: x, not: p.word("not")}
	t.name = p.needName()
	switch tok := p.peek(); {
	case p.isOp("("):
		t.args = p.arguments()
	case tok.kind == tName && !slices.Contains([]string{"else", "or", "and", "if", "in", "not", "is", "recursive"}, tok.text),
		tok.kind == tString, tok.kind == tInt, tok.kind == tFloat, p.isOp("["), p.isOp("{"):
		t.args.pos = []expr{p.postfix(p.primary())}
	}
	return t
}

func (p *parser) subscript(x expr) expr {
	line := p.here()
	if p.op(".") {
		t := p.next()
		switch t.kind {
		case tName:
			return &attrExpr{line, x, t.text}
		case tInt:
			n, err := strconv.ParseInt(t.text, 10, 64)
			if err != nil {
				p.failf("number %s", t.text)
			}
			return &indexExpr{line, x, &constExpr{line, n}}
		}
		p.i--
		p.failf("expected a name, got %s", p.peek())
	}
	p.needOp("[")
	var parts [3]expr
	n := 0
	colon := false
	for !p.isOp("]") && n < 3 {
		if p.op(":") {
			colon = true
			n++
			continue
		}
		if parts[n] != nil {
			break
		}
		parts[n] = p.expression()
	}
	p.needOp("]")
	if colon {
		return &indexExpr{line, x, &sliceExpr{line, parts[0], parts[1], parts[2]}}
	}
	if parts[0] == nil {
		p.failf("empty subscript")
	}
	return &indexExpr{line, x, parts[0]}
}

func (p *parser) call(fn expr) expr {
	line := p.here()
	return &callExpr{line, fn, p.arguments()}
}

func (p *parser) arguments() (a args) {
	p.needOp("(")
	for first := true; !p.op(")"); first = false {
		if !first {
			p.needOp(",")
			if p.op(")") {
				break
			}
		}
		switch {
		case p.op("**"):
			a.stars = p.expression()
		case p.op("*"):
			a.star = p.expression()
		case p.peek().kind == tName && p.toks[p.i+1].kind == tOp && p.toks[p.i+1].text == "=":
			a.names = append(a.names, p.next().text)
			p.i++
			a.values = append(a.values, p.expression())
		default:
			if len(a.names) > 0 {
				p.failf("positional argument after a named one")
			}
			a.pos = append(a.pos, p.expression())
		}
	}
	return a
}

func (p *parser) primary() expr {
	t := p.next()
	line := at(t.line)
	switch t.kind {
	case tName:
		switch t.text {
		case "true", "True":
			return &constExpr{line, true}
		case "false", "False":
			return &constExpr{line, false}
		case "none", "None":
			return &constExpr{line, nil}
		}
		return &nameExpr{line, t.text}
	case tString:
		if p.peek().kind != tString {
			return &constExpr{line, t.text}
		}
		var s strings.Builder
		s.WriteString(t.text)
		for p.peek().kind == tString {
			s.WriteString(p.next().text)
		}
		return &constExpr{line, s.String()}
	case tInt:
		n, err := strconv.ParseInt(t.text, 0, 64)
		if err != nil {
			n, err = strconv.ParseInt(t.text, 10, 64)
		}
		if err != nil {
			p.failf("number %s", t.text)
		}
		return &constExpr{line, n}
	case tFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.failf("number %s", t.text)
		}
		return &constExpr{line, f}
	case tOp:
		switch t.text {
		case "(":
			if p.op(")") {
				return &listExpr{at: line, tuple: true}
			}
			e := p.tuple(true)
			p.needOp(")")
			return e
		case "[":
			l := &listExpr{at: line}
			for !p.op("]") {
				if len(l.items) > 0 {
					p.needOp(",")
					if p.op("]") {
						break
					}
				}
				l.items = append(l.items, p.expression())
			}
			return l
		case "{":
			d := &dictExpr{at: line}
			for !p.op("}") {
				if len(d.keys) > 0 {
					p.needOp(",")
					if p.op("}") {
						break
					}
				}
				d.keys = append(d.keys, p.expression())
				p.needOp(":")
				d.values = append(d.values, p.expression())
			}
			return d
		}
	}
	if t.kind != tEOF {
		p.i--
	}
	p.failf("unexpected %s", t)
	return nil
}
