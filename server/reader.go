package server

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tritlm/trit/tokenizer"
)

// partKind tells the parts of a reply apart.
type partKind int

const (
	partText      partKind = iota
	partThought            // text of a thought
	partCall               // a call begins: number, id and name
	partArguments          // text of the call's arguments, JSON
	partCallEnd            // the call is whole
	partFinish             // the reply ends
)

// part is a piece of one of an answer's replies, in the order in which it is written. Every protocol is told these.
type part struct {
	kind  partKind
	index int    // of the reply
	text  string // of partText, partThought, partArguments
	call  int    // number of the call within the reply
	id    string // of partCall
	name  string

	tokens []token // with logprobs: what this and the parts up to the next with tokens are made of
	prompt []token // with echo

	finish string // of partFinish: stop, length or calls
	stop   string // the stop string that ended it
}

// readState is where in a reply a reader is.
type readState int

const (
	readText    readState = iota
	readStart             // nothing but white space came: a thought may begin
	readThought           // inside a thought
	readCalls
)

// reader takes a reply apart as it arrives: thoughts, text, calls. What is not certain yet is held back, so that no
// mark is ever shown, nor half of one.
type reader struct {
	thought *tokenizer.ThoughtFormat // nil: the model has none
	calls   *callReader              // nil: there are no tools
	form    bool                     // what is no call is a document, which may begin like one
	state   readState
	held    string
	written bool // text of the answer was shown
	trim    bool // white space before the next text belongs to what was before it
}

// clone is a reader for another reply.
func (r reader) clone() reader {
	if r.calls != nil {
		c := *r.calls
		r.calls = &c
	}
	return r
}

// push takes more of the reply and returns the parts that are certain. finish, if not empty, says that this is all.
func (r *reader) push(more, finish string) (out []part) {
	r.held += more
	end := finish != ""
	for again := true; again; {
		switch r.state {
		case readStart:
			again = r.start(end)
		case readThought:
			again = r.think(&out, end)
		case readText:
			again = r.plain(&out, end)
		case readCalls:
			before := r.held
			r.held, again = r.calls.read(before, &out)
			if r.calls.count == 0 {
				r.calls.said += before[:len(before)-len(r.held)]
			}
			if r.calls.over {
				r.state, again, r.trim = readText, true, r.calls.count > 0
				if r.calls.count == 0 { // it was none
					r.held = r.calls.said + r.held
				}
			}
		}
	}
	if !end {
		return out
	}
	if r.state == readCalls && finish != "length" && r.calls.count == 0 {
		r.text(&out, r.calls.said+r.held) // it was none
	}
	if r.calls != nil && r.calls.whole > 0 && r.calls.whole == r.calls.count && finish == "stop" {
		finish = "calls"
	}
	r.held = ""
	return append(out, part{kind: partFinish, finish: finish})
}

func (r *reader) text(out *[]part, text string) {
	if r.trim {
		if text = strings.TrimLeft(text, " \t\r\n"); text == "" {
			return
		}
		r.trim = false
	}
	if text != "" {
		r.written = true
		*out = append(*out, part{kind: partText, text: text})
	}
}

// start decides whether the reply begins with a thought.
func (r *reader) start(end bool) (again bool) {
	head := strings.TrimLeft(r.held, " \t\r\n")
	switch {
	case strings.HasPrefix(head, r.thought.Open):
		r.state, r.held = readThought, head[len(r.thought.Open):]
		return true
	case strings.HasPrefix(r.thought.Open, head) && !end:
		return false
	}
	r.state = readText
	return true
}

// think shows a thought up to its closing mark, without the white space around it.
func (r *reader) think(out *[]part, end bool) (again bool) {
	if !r.written {
		r.held = strings.TrimLeft(r.held, "\r\n")
	}
	show := func(text string) {
		if text != "" {
			r.written = true
			*out = append(*out, part{kind: partThought, text: text})
		}
	}
	if i := strings.Index(r.held, r.thought.Close); i >= 0 {
		show(strings.TrimRight(r.held[:i], " \t\r\n"))
		r.held = r.held[i+len(r.thought.Close):]
		r.state, r.written, r.trim = readText, false, true
		return true
	}
	n := len(r.held)
	if !end {
		n = len(strings.TrimRight(r.held[:n-begun(r.held, r.thought.Close)], " \t\r\n"))
	}
	show(r.held[:n])
	r.held = r.held[n:]
	return false
}

// begun is how many bytes at the end of text a mark may begin with.
func begun(text, mark string) int {
	for n := min(len(mark)-1, len(text)); n > 0; n-- {
		if strings.HasSuffix(text, mark[:n]) {
			return n
		}
	}
	return 0
}

// plain shows text up to a call.
func (r *reader) plain(out *[]part, end bool) (again bool) {
	c := r.calls
	if c == nil || c.over {
		r.text(out, r.held)
		r.held = ""
		return false
	}
	if !c.anywhere {
		head := strings.TrimLeft(r.held, " \t\r\n")
		if !r.written && c.begins(head) {
			if r.form { // only the end tells a call from a document
				if !end {
					return false
				}
				if !c.isCall(head) {
					r.text(out, r.held)
					r.held = ""
					return false
				}
			}
			r.state, r.held = readCalls, head
			return true
		}
		if !r.written && !end && c.mayBegin(head) {
			return false
		}
		r.text(out, r.held)
		r.held = ""
		return false
	}
	first := -1
	for _, t := range c.triggers {
		if i := strings.Index(r.held, t); i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	if first >= 0 {
		if t := strings.TrimRight(r.held[:first], " \t\r\n"); t != "" {
			r.text(out, t)
		}
		r.state, r.held = readCalls, r.held[first:]
		return true
	}
	n := len(r.held)
	if !end {
		keep := 0
		for _, t := range c.triggers {
			keep = max(keep, begun(r.held, t))
		}
		n = len(strings.TrimRight(r.held[:n-keep], " \t\r\n")) // white space in front of a call is not text
	}
	r.text(out, r.held[:n])
	r.held = r.held[n:]
	return false
}

// callReader takes calls in a model's format apart.
type callReader struct {
	f        tokenizer.CallFormat
	types    map[string]map[string]string // by tool and argument: text, other or ""
	names    []string
	triggers []string
	anywhere bool

	step    callStep
	count   int    // calls begun
	whole   int    // calls ended
	over    bool   // no further call can come
	bare    bool   // a call came without arguments
	said    string // what was read of a call that has no name yet
	name    string
	args    jsonScan
	stashed string // arguments that stand in front of the name
	params  int    // arguments in tags that were written
	param   string // the one under way
	text    bool   // it is a string, shown as it arrives
	lead    bool   // its first line end is still to be dropped
}

type callStep int

const (
	callBefore  callStep = iota // marks in front of a name
	callMembers                 // in the object that holds name and arguments
	callName                    // at the name
	callValue                   // in arguments that are JSON
	callParams                  // between arguments in tags
	callParam                   // in such an argument
	callPython                  // in parentheses
	callAfter                   // marks behind a call
)

func newCallReader(f tokenizer.CallFormat, tools []tool) *callReader {
	c := &callReader{f: f, types: map[string]map[string]string{}}
	for i := range tools {
		t := &tools[i]
		c.names = append(c.names, t.Function.Name)
		list, _ := t.params()
		kinds := map[string]string{}
		for _, p := range list {
			kinds[p.name] = "other"
			if p.text || p.choices != nil {
				kinds[p.name] = "text"
			}
		}
		c.types[t.Function.Name] = kinds
	}
	c.triggers, c.anywhere = f.Triggers(c.names)
	return c
}

func (c *callReader) begins(text string) bool {
	return slices.ContainsFunc(c.triggers, func(t string) bool { return strings.HasPrefix(text, t) })
}

func (c *callReader) mayBegin(text string) bool {
	return slices.ContainsFunc(c.triggers, func(t string) bool { return strings.HasPrefix(t, text) })
}

// isCall reports that a whole reply is calls of the tools and no document.
func (c *callReader) isCall(text string) bool {
	trial := *c
	var out []part
	for again := true; again; {
		text, again = trial.read(text, &out)
	}
	for _, p := range out {
		if p.kind == partCall && !slices.Contains(c.names, p.name) {
			return false
		}
	}
	return trial.whole > 0 && trial.whole == trial.count && !trial.bare && strings.TrimSpace(text) == ""
}

// skip takes a mark from the front of text, whatever white space is around it. more says that the mark may be
// there in part.
func skip(text, mark string) (rest string, found, more bool) {
	mark = strings.TrimSpace(mark)
	head := strings.TrimLeft(text, " \t\r\n")
	switch {
	case mark == "":
		return text, true, false
	case strings.HasPrefix(head, mark):
		return head[len(mark):], true, false
	case strings.HasPrefix(mark, head):
		return text, false, true
	}
	return text, false, false
}

// read takes what it can from the front of text.
func (c *callReader) read(text string, out *[]part) (rest string, again bool) {
	switch c.step {
	case callBefore:
		return c.before(text)
	case callMembers:
		return c.members(text, out)
	case callName:
		return c.readName(text, out)
	case callValue:
		n := c.args.scan(text)
		c.argue(out, text[:n])
		if c.args.done {
			if c.step = callMembers; c.f.Style != tokenizer.CallJSON {
				c.end(out)
			}
		}
		return text[n:], c.args.done
	case callParams:
		return c.nextParam(text, out)
	case callParam:
		return c.readParam(text, out)
	case callPython:
		return c.keywords(text, out)
	}
	return c.after(text)
}

func (c *callReader) argue(out *[]part, text string) {
	if text != "" {
		*out = append(*out, part{kind: partArguments, call: c.count - 1, text: text})
	}
}

func (c *callReader) begin(out *[]part, name string) {
	c.name = name
	*out = append(*out, part{kind: partCall, call: c.count, id: "call_" + newID(), name: name})
	c.count++
	c.args, c.params = jsonScan{}, 0
}

func (c *callReader) end(out *[]part) {
	*out = append(*out, part{kind: partCallEnd, call: c.count - 1})
	c.whole++
	c.step, c.stashed, c.name = callAfter, "", ""
}

// before passes the marks in front of a call's name.
func (c *callReader) before(text string) (string, bool) {
	whole := text
	if c.count == 0 {
		next, found, more := skip(text, c.f.Begin)
		if more {
			return whole, false
		}
		if found {
			text = next
		}
	}
	next, found, more := skip(text, c.f.Open)
	if more {
		return whole, false
	}
	if !found {
		c.over = true
		return whole, false
	}
	if c.f.Style != tokenizer.CallJSON {
		c.step = callName
		return next, true
	}
	head := strings.TrimLeft(next, " \t\r\n")
	if head == "" {
		return whole, false
	}
	if head[0] != '{' {
		c.over = true
		return whole, false
	}
	c.step = callMembers
	return head[1:], true
}

// members passes the members of an object that holds name and arguments.
func (c *callReader) members(text string, out *[]part) (string, bool) {
	head := strings.TrimLeft(text, " \t\r\n,")
	if head == "" {
		return text, false
	}
	if head[0] == '}' {
		if c.name != "" {
			if !c.args.done {
				c.bare = true
				c.argue(out, "{}")
			}
			c.end(out)
			return head[1:], true
		}
		c.over = true
		return text, false
	}
	n, ok := wholeValue(head)
	if !ok {
		return text, false
	}
	var key string
	if json.Unmarshal([]byte(head[:n]), &key) != nil {
		c.over = true
		return text, false
	}
	value := strings.TrimLeft(head[n:], " \t\r\n")
	if value == "" || value[0] != ':' {
		if value != "" {
			c.over = true
		}
		return text, false
	}
	value = strings.TrimLeft(value[1:], " \t\r\n")
	if value == "" {
		return text, false
	}
	isArguments := key == c.f.ArgumentsKey || key == "arguments" || key == "parameters"
	if isArguments && c.name != "" && value[0] != '"' {
		c.step = callValue
		return value, true
	}
	n, ok = wholeValue(value)
	if !ok || n == len(value) && value[0] != '"' && value[0] != '{' && value[0] != '[' { // a number may go on
		return text, false
	}
	switch {
	case key == c.f.NameKey || key == "name" && c.f.NameKey == "":
		var name string
		if json.Unmarshal([]byte(value[:n]), &name) != nil || name == "" {
			c.over = true
			return text, false
		}
		stashed := c.stashed
		if c.begin(out, name); stashed != "" {
			c.argue(out, stashed)
			c.args.done = true
		}
	case isArguments:
		args := value[:n]
		var quoted string
		if json.Unmarshal([]byte(args), &quoted) == nil {
			args = quoted
		}
		if c.name == "" {
			c.stashed = args
		} else {
			c.argue(out, args)
			c.args.done = true
		}
	}
	return value[n:], true
}

// readName reads a name that stands by itself.
func (c *callReader) readName(text string, out *[]part) (string, bool) {
	middle := strings.TrimSpace(c.f.Middle)
	if c.f.Style == tokenizer.CallPython {
		middle = "("
	}
	i, n := -1, 0
	switch {
	case middle != "":
		i, n = strings.Index(text, middle), len(middle)
	case c.f.Style == tokenizer.CallNamed:
		i = strings.IndexByte(text, '{')
	default:
		i = strings.IndexAny(strings.TrimLeft(text, " \t\r\n"), " \t\r\n<")
		if i >= 0 {
			i += len(text) - len(strings.TrimLeft(text, " \t\r\n"))
		}
	}
	if i < 0 {
		if len(text) > 200 {
			c.over = true
		}
		return text, false
	}
	name := strings.TrimSpace(text[:i])
	if name == "" {
		c.over = true
		return text, false
	}
	rest := text[i+n:]
	if c.f.AfterID != "" {
		j := strings.Index(rest, strings.TrimSpace(c.f.AfterID))
		if j < 0 {
			return text, false
		}
		rest = rest[j+len(strings.TrimSpace(c.f.AfterID)):]
	}
	if c.f.Style == tokenizer.CallNamed {
		rest = strings.TrimLeft(rest, " \t\r\n")
		if rest == "" {
			return text, false
		}
	}
	c.begin(out, name)
	switch c.f.Style {
	case tokenizer.CallPython:
		c.step = callPython
	case tokenizer.CallXML:
		c.step = callParams
	default:
		c.step = callValue
	}
	return rest, true
}

// nextParam passes to the next argument in tags, or behind the last.
func (c *callReader) nextParam(text string, out *[]part) (string, bool) {
	rest, found, more := skip(text, c.f.ParamOpen)
	if found {
		i := strings.Index(rest, strings.TrimSpace(c.f.ParamMiddle))
		if i < 0 {
			return text, false
		}
		c.param = strings.TrimSpace(rest[:i])
		key, _ := marshal(c.param) // text always can be
		head := "{"
		if c.params > 0 {
			head = ", "
		}
		c.params++
		c.text = c.types[c.name][c.param] == "text"
		if head += string(key) + ": "; c.text {
			head += `"`
		}
		c.argue(out, head)
		c.step, c.lead = callParam, strings.HasSuffix(c.f.ParamMiddle, "\n")
		return rest[i+len(strings.TrimSpace(c.f.ParamMiddle)):], true
	}
	if more {
		return text, false
	}
	closing := c.closing()
	rest, found, more = skip(text, closing)
	if more && closing != "" {
		return text, false
	}
	if !found {
		c.over = true
		return text, false
	}
	if c.params == 0 {
		c.argue(out, "{")
	}
	c.argue(out, "}")
	c.end(out)
	return rest, true
}

// closing is the first mark behind a call's last argument; what follows it is passed over.
func (c *callReader) closing() string {
	closing := strings.TrimSpace(c.f.Close)
	if i := strings.Index(closing, ">"); i >= 0 {
		return closing[:i+1]
	}
	return closing
}

// readParam reads one argument in tags. Strings are shown as they come, other values when they are whole.
func (c *callReader) readParam(text string, out *[]part) (string, bool) {
	if c.lead {
		if text == "" {
			return text, false
		}
		text, c.lead = strings.TrimPrefix(text, "\n"), false
	}
	mark := strings.TrimSpace(c.f.ParamClose)
	i := strings.Index(text, mark)
	value := text
	if i >= 0 {
		value = text[:i]
		if strings.HasPrefix(c.f.ParamClose, "\n") {
			value = strings.TrimSuffix(value, "\n")
		}
	} else if !c.text {
		return text, false
	} else {
		n := begun(text, mark)
		value = text[:len(text)-n]
		if strings.HasPrefix(c.f.ParamClose, "\n") {
			value = strings.TrimSuffix(value, "\n")
		}
	}
	if c.text {
		quoted, _ := marshal(value)
		c.argue(out, string(quoted[1:len(quoted)-1]))
		if i < 0 {
			return text[len(value):], false
		}
		c.argue(out, `"`)
	} else {
		c.argue(out, c.value(value))
	}
	c.step = callParams
	return text[i+len(mark):], true
}

// value is an argument that was written as text, as JSON.
func (c *callReader) value(text string) string {
	t := strings.TrimSpace(text)
	if json.Valid([]byte(t)) && (t[0] != '"' || c.types[c.name][c.param] == "other") {
		return t
	}
	switch t {
	case "True", "False", "None":
		return map[string]string{"True": "true", "False": "false", "None": "null"}[t]
	}
	quoted, _ := marshal(text)
	return string(quoted)
}

// keywords reads the arguments of a call in Python's form when they are whole.
func (c *callReader) keywords(text string, out *[]part) (string, bool) {
	args, n, ok := pythonArguments(text)
	if !ok {
		if n < 0 {
			c.over = true
		}
		return text, false
	}
	c.argue(out, args)
	c.end(out)
	return text[n:], true
}

// after passes the marks behind a call.
func (c *callReader) after(text string) (string, bool) {
	whole := text
	for _, mark := range []string{c.f.Close, c.f.Separator} {
		if c.f.Style == tokenizer.CallXML && mark == c.f.Close {
			mark = strings.TrimPrefix(strings.TrimSpace(mark), c.closing())
		}
		rest, found, more := skip(text, mark)
		if more && strings.TrimSpace(mark) != "" && strings.TrimSpace(text) != "" {
			return whole, false
		}
		if found {
			text = rest
		}
	}
	head := strings.TrimLeft(text, " \t\r\n")
	if head == "" {
		return text, false
	}
	if rest, found, more := skip(text, c.f.End); strings.TrimSpace(c.f.End) != "" {
		if more {
			return text, false
		}
		if found {
			c.over = true
			return rest, false
		}
	}
	c.step = callBefore
	return text, true
}

// jsonScan follows a JSON value as it arrives.
type jsonScan struct {
	depth   int
	text    bool // inside a string
	escaped bool
	begun   bool
	done    bool
}

// scan returns how many bytes of text belong to the value.
func (s *jsonScan) scan(text string) int {
	for i := range len(text) {
		switch b := text[i]; {
		case s.text:
			switch {
			case s.escaped:
				s.escaped = false
			case b == '\\':
				s.escaped = true
			case b == '"':
				s.text = false
			}
		case b == '"':
			s.text, s.begun = true, true
		case b == '{' || b == '[':
			s.depth++
			s.begun = true
		case b == '}' || b == ']' || s.depth == 0 && (b == ',' || s.begun && (b == ' ' || b == '\n')):
			if s.depth == 0 {
				s.done = true
				return i
			}
			s.depth--
		default:
			s.begun = s.begun || b != ' ' && b != '\n'
			continue
		}
		if s.begun && s.depth == 0 && !s.text {
			s.done = true
			return i + 1
		}
	}
	return len(text)
}

// wholeValue is the length of the JSON value that text begins with.
func wholeValue(text string) (n int, ok bool) {
	var s jsonScan
	n = s.scan(text)
	return n, s.done
}
