package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/tokenizer"
)

// form is what a request says about the form of its answer.
type form struct {
	param   string // the field that says so
	kind    string // object, schema, regex, gbnf or choice
	source  string
	choices []string
}

// form reads the fields that ask for a form; at most one of them may.
func (o *options) form() (*form, error) {
	var found []form
	add := func(param, kind, source string) {
		found = append(found, form{param: param, kind: kind, source: source})
	}
	schema := func(param string, raw json.RawMessage) {
		if !given(raw) {
			return
		}
		text := string(raw)
		var quoted string
		if json.Unmarshal(raw, &quoted) == nil {
			text = quoted
		}
		add(param, "schema", text)
	}
	choice := func(param string, list []string) {
		if len(list) > 0 {
			b, _ := json.Marshal(list) // strings always can be
			found = append(found, form{param, "choice", string(b), list})
		}
	}
	if f := o.ResponseFormat; f != nil {
		switch f.Type {
		case "text", "":
		case "json_object":
			if given(f.Schema) {
				schema("response_format", f.Schema)
			} else {
				add("response_format", "object", "")
			}
		case "json_schema":
			switch {
			case f.JSONSchema != nil && given(f.JSONSchema.Schema):
				schema("response_format", f.JSONSchema.Schema)
			case given(f.Schema):
				schema("response_format", f.Schema)
			default:
				return nil, invalid("response_format.json_schema", "response_format of type json_schema needs json_schema.schema")
			}
		case "regex":
			add("response_format", "regex", f.Pattern)
		case "grammar":
			add("response_format", "gbnf", f.Grammar)
		default:
			return nil, invalid("response_format.type", "response_format.type %q is not text, json_object, json_schema, regex or grammar", clip(f.Type, 40))
		}
	}
	if o.Grammar != "" {
		add("grammar", "gbnf", o.Grammar)
	}
	if o.GuidedGrammar != "" {
		add("guided_grammar", "gbnf", o.GuidedGrammar)
	}
	if o.GuidedRegex != "" {
		add("guided_regex", "regex", o.GuidedRegex)
	}
	schema("json_schema", o.JSONSchema)
	schema("guided_json", o.GuidedJSON)
	choice("guided_choice", o.GuidedChoice)
	if t := o.Structured; t != nil {
		if given(t.Tag) {
			return nil, invalid("structured_outputs.structural_tag", "structural_tag is not supported: use tools, or a grammar")
		}
		schema("structured_outputs.json", t.JSON)
		choice("structured_outputs.choice", t.Choice)
		if t.Regex != "" {
			add("structured_outputs.regex", "regex", t.Regex)
		}
		if t.Grammar != "" {
			add("structured_outputs.grammar", "gbnf", t.Grammar)
		}
		if t.JSONObject {
			add("structured_outputs.json_object", "object", "")
		}
	}
	if len(found) > 1 {
		var names []string
		for _, f := range found {
			names = append(names, f.param)
		}
		return nil, invalid(found[1].param, "%s cannot be used together", strings.Join(names, " and "))
	}
	if len(found) == 0 {
		return nil, nil
	}
	return &found[0], nil
}

// schema is the form as a JSON schema, nil where it is none.
func (f *form) schema() []byte {
	switch {
	case f != nil && f.kind == "object":
		return []byte(`{"type":"object"}`)
	case f != nil && f.kind == "schema":
		return []byte(f.source)
	}
	return nil
}

// formGrammar compiles the form of an answer, nil for none.
func (m *served) formGrammar(ctx context.Context, client string, f *form) (*grammar.Grammar, error) {
	if f == nil {
		return nil, nil
	}
	key := m.ID + "\x00" + f.kind + "\x00" + f.source
	g, _, err := m.grammars.Get(ctx, client, key, func(ctx context.Context) (g *grammar.Grammar, _ []string, err error) {
		v := m.vocab().Within(ctx)
		switch f.kind {
		case "object":
			g, err = grammar.JSONObject(v)
		case "schema":
			g, err = grammar.JSONSchema(v, []byte(f.source))
		case "regex":
			g, err = grammar.Regex(v, f.source)
		case "choice":
			g, err = grammar.Choice(v, f.choices)
		default:
			g, err = grammar.GBNF(v, f.source)
		}
		return g, nil, err
	})
	if err != nil {
		return nil, about(f.param, err)
	}
	return g, nil
}

// callGrammar compiles the grammar of replies that call tools: calls, or, with form, a document that is valid by
// that schema. Lazily it is asked only from a call's first letters on. A tool whose schema cannot be enforced gets
// the nearest superset that can, of which notes tell, unless it is strict.
func (m *served) callGrammar(ctx context.Context, client string, tools []tool, several bool, form []byte) (g *grammar.Grammar, notes []string, err error) {
	var key strings.Builder
	fmt.Fprintf(&key, "%s\x00calls\x00%v %q", m.ID, several, form)
	for _, t := range tools {
		fmt.Fprintf(&key, "\x00%s\x00%s\x00%v", t.Function.Name, t.Function.schema, t.Function.strict())
	}
	return m.grammars.Get(ctx, client, key.String(), func(ctx context.Context) (*grammar.Grammar, []string, error) {
		return compileCalls(m.callVocab().Within(ctx), m.calls, tools, several, form)
	})
}

// compileCalls is callGrammar without its cache.
func compileCalls(v *grammar.Vocab, f tokenizer.CallFormat, tools []tool, several bool, form []byte) (g *grammar.Grammar, notes []string, err error) {
	compile := func(tools []tool, form []byte) (*grammar.Grammar, error) {
		p := callPiece(f, tools, several)
		if form != nil {
			p = grammar.Either(p, grammar.Schema("response_format", form))
		}
		return grammar.Compile(v, p)
	}
	refuse := func(t *tool, why error) error { // what cannot be enforced
		if t.Function.strict() {
			return about("tools", &apiError{status: 400, Type: "invalid_request_error", Code: "invalid_grammar", Message: fmt.Sprintf("tool %q is strict, and its parameters cannot be enforced: %v", t.Function.Name, why)})
		}
		notes = append(notes, fmt.Sprintf("%s: %v", t.Function.Name, why))
		return nil
	}
	tools = slices.Clone(tools)
	for i := range tools {
		t := &tools[i]
		if why := grammar.Check(v, t.Function.schema); errors.Is(why, grammar.ErrGrammar) {
			t.Function.loose = true
			if err := refuse(t, why); err != nil {
				return nil, nil, err
			}
		} else if why != nil {
			return nil, nil, why
		}
	}
	g, err = compile(tools, form)
	if !errors.Is(err, grammar.ErrGrammar) {
		return g, notes, err
	}
	// Too much altogether: the tools that are too much alone, then the largest, get any arguments.
	order := make([]int, len(tools))
	for i := range tools {
		if order[i] = i; len(tools) > 1 {
			_, alone := compile(tools[i:i+1], nil)
			if alone == nil {
				continue
			}
		}
		if err := refuse(&tools[i], err); err != nil {
			return nil, nil, err
		}
		tools[i].Function.schema = []byte(`{"type":"object"}`)
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(tools[b].Function.schema) - len(tools[a].Function.schema) })
	for _, i := range order {
		if g, err = compile(tools, form); !errors.Is(err, grammar.ErrGrammar) {
			return g, notes, err
		}
		if err := refuse(&tools[i], err); err != nil {
			return nil, nil, err
		}
		tools[i].Function.schema = []byte(`{"type":"object"}`)
	}
	g, err = compile(tools, form)
	return g, notes, err
}

// callPiece is the grammar of one or more calls in a model's format.
func callPiece(f tokenizer.CallFormat, tools []tool, several bool) grammar.Piece {
	space := grammar.Optional(grammar.Literal(" "))
	var each []grammar.Piece
	for _, t := range tools {
		name, args := t.Function.Name, t.piece(t.Function.schema)
		var p grammar.Piece
		switch f.Style {
		case tokenizer.CallNamed:
			p = grammar.Sequence(grammar.Literal(name+f.Middle), identifier(f), args)
		case tokenizer.CallXML:
			p = grammar.Sequence(grammar.Literal(name+f.Middle), paramPieces(f, &t))
		case tokenizer.CallPython:
			p = grammar.Sequence(grammar.Literal(name+"("), keywordPieces(&t), grammar.Literal(")"))
		default:
			p = grammar.Sequence(
				grammar.Literal("{"+quote(f.NameKey)+":"), space, grammar.Literal(quote(name)+","), space,
				grammar.Literal(quote(f.ArgumentsKey)+":"), space, args, grammar.Literal("}"),
			)
		}
		each = append(each, grammar.Sequence(grammar.Literal(f.Open), p, grammar.Literal(f.Close)))
	}
	one := grammar.Named("call", grammar.Either(each...))
	calls := one
	if several && f.Several {
		separator := grammar.Literal(f.Separator)
		if strings.TrimSpace(f.Separator) == "" {
			separator = grammar.Optional(separator)
		}
		calls = grammar.Sequence(one, grammar.Any(grammar.Sequence(separator, one)))
	}
	return grammar.Sequence(grammar.Literal(f.Begin), calls, grammar.Literal(f.End))
}

// identifier is what stands between a name and arguments in formats that number their calls.
func identifier(f tokenizer.CallFormat) grammar.Piece {
	if f.AfterID == "" {
		return grammar.Literal("")
	}
	return grammar.Sequence(grammar.Expression(`[a-zA-Z0-9]{1,16}`), grammar.Literal(f.AfterID))
}

// piece is the grammar of a schema of the tool, or of the nearest superset.
func (t *tool) piece(schema []byte) grammar.Piece {
	name := fmt.Sprintf("tool %q", t.Function.Name)
	if t.Function.loose {
		return grammar.Superset(name, schema)
	}
	return grammar.Schema(name, schema)
}

// paramPieces are a tool's arguments in tags, in the order of its schema.
func paramPieces(f tokenizer.CallFormat, t *tool) grammar.Piece {
	list, open := t.params()
	text := grammar.Until(strings.TrimRight(f.ParamClose, "\n"))
	rest := grammar.Literal(f.ParamClose[len(strings.TrimRight(f.ParamClose, "\n")):])
	var all []grammar.Piece
	for _, p := range list {
		var value grammar.Piece
		switch {
		case p.choices != nil:
			var each []grammar.Piece
			for _, c := range p.choices {
				each = append(each, grammar.Literal(c+f.ParamClose))
			}
			value = grammar.Either(each...)
		case p.text:
			value = grammar.Sequence(text, rest)
		default:
			value = grammar.Sequence(t.piece(p.schema), grammar.Literal(f.ParamClose))
		}
		piece := grammar.Sequence(grammar.Literal(f.ParamOpen+p.name+f.ParamMiddle), value)
		if !p.required {
			piece = grammar.Optional(piece)
		}
		all = append(all, piece)
	}
	if open { // nothing is said of what they are called
		all = append(all, grammar.Any(grammar.Sequence(grammar.Literal(f.ParamOpen), grammar.Expression(`[a-zA-Z0-9_.-]{1,64}`), grammar.Literal(f.ParamMiddle), text, rest)))
	}
	return grammar.Sequence(all...)
}

// keywordPieces are a tool's arguments as keywords, in the order of its schema.
func keywordPieces(t *tool) grammar.Piece {
	list, open := t.params()
	if open {
		return grammar.Literal("")
	}
	// From the last argument on: what follows when one was written, and when none was.
	after, before := grammar.Literal(""), grammar.Literal("")
	for _, p := range slices.Backward(list) {
		value := t.piece(p.schema)
		next := grammar.Sequence(grammar.Literal(", "+p.name+"="), value, after)
		first := grammar.Sequence(grammar.Literal(p.name+"="), value, after)
		if !p.required {
			next, first = grammar.Either(next, after), grammar.Either(first, before)
		}
		after, before = grammar.Named("arguments", next), grammar.Named("arguments", first)
	}
	return before
}

// param is one argument of a tool.
type param struct {
	name     string
	schema   []byte
	required bool
	text     bool     // a string, written as it is
	choices  []string // all strings that it may be
}

// params are the arguments of a tool in the order of its schema; open says that it does not name them.
func (t *tool) params() (list []param, open bool) {
	var doc struct {
		Properties orderedObject   `json:"properties"`
		Required   []string        `json:"required"`
		Defs       json.RawMessage `json:"$defs"`
		Old        json.RawMessage `json:"definitions"`
		Additional json.RawMessage `json:"additionalProperties"`
	}
	if json.Unmarshal(t.Function.schema, &doc) != nil {
		return nil, true
	}
	required := map[string]bool{}
	for _, r := range doc.Required {
		required[r] = true
	}
	for _, p := range doc.Properties {
		one := param{name: p.key, schema: p.value, required: required[p.key]}
		var s struct {
			Type  json.RawMessage `json:"type"`
			Enum  []any           `json:"enum"`
			Const any             `json:"const"`
		}
		if json.Unmarshal(p.value, &s) == nil {
			if c, ok := s.Const.(string); ok {
				s.Enum = []any{c}
			}
			one.text = string(s.Type) == `"string"`
			for _, e := range s.Enum {
				if c, ok := e.(string); ok {
					one.choices = append(one.choices, c)
				}
			}
			if len(one.choices) != len(s.Enum) {
				one.choices = nil
			}
		}
		if refers.Match(p.value) { // the definitions go where the schema goes
			one.schema = []byte(strings.Replace(string(p.value), "{", `{"$defs":`+orWord(string(doc.Defs), "{}")+`,"definitions":`+orWord(string(doc.Old), "{}")+`,`, 1))
		}
		list = append(list, one)
	}
	return list, len(list) == 0 && string(doc.Additional) != "false" && len(t.Function.Parameters) > 0 && string(t.Function.Parameters) != noParameters
}

var refers = regexp.MustCompile(`"\$ref"`)

// orderedObject is a JSON object whose members keep their order.
type orderedObject []member

type member struct {
	key   string
	value json.RawMessage
}

func (o *orderedObject) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("not an object")
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return err
		}
		*o = append(*o, member{k.(string), v})
	}
	return nil
}
