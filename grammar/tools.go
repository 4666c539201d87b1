package grammar

import "unicode/utf8"

// A Tool is a function that a model may call.
type Tool struct {
	Name       string
	Parameters []byte // JSON schema of the arguments; none: any object
}

// ToolFormat is how a model writes a call:
//
//	Open {"name": "…", "Arguments": {…}} Close
type ToolFormat struct {
	Open, Close string // "<tool_call>\n", "\n</tool_call>"; may be empty
	Arguments   string // "arguments" or "parameters"
}

// Trigger is the text that a reply begins with if and only if it is a call.
func (f ToolFormat) Trigger() string {
	if f.Open == "" {
		return `{"name"`
	}
	return f.Open
}

// ToolCalls compiles a grammar of replies: calls of the tools, their arguments valid by their
// schemas, or, unless a call is required, any text that does not begin with the trigger. With form, a
// JSON schema, the other replies are documents that are valid by it instead, and may begin as they like.
func ToolCalls(v *Vocab, f ToolFormat, tools []Tool, required, several bool, form []byte) (*Grammar, error) {
	b := &builder{v: v}
	top, text, calls := b.addRule("reply"), b.addRule("text"), b.addRule("call")
	b.rules[text] = b.star(b.bytes(0, 255))
	var each []frag
	for _, t := range tools {
		name := string(appendString(nil, t.Name))
		if !utf8.ValidString(t.Name) || t.Name == "" {
			return nil, errorf("tool name %q", t.Name)
		}
		args := b.addRule(t.Name)
		src := t.Parameters
		if len(src) == 0 {
			src = []byte(`{"type":"object"}`)
		}
		s := newSchema(b, src)
		if o, ok := s.doc.(*object); ok && len(o.keys) == 0 {
			s.doc = &object{keys: []string{"type"}, vals: map[string]any{"type": "object"}}
		}
		b.rules[args] = s.root()
		if b.err != nil {
			return nil, errorf("tool %q: %w", t.Name, b.err)
		}
		each = append(each, b.cat(
			b.lit(f.Open+`{"name":`), b.opt(b.lit(" ")), b.lit(name+","), b.opt(b.lit(" ")),
			b.lit(string(appendString(nil, f.Arguments))+":"), b.opt(b.lit(" ")),
			b.call(args), b.lit("}"+f.Close),
		))
	}
	b.rules[calls] = b.alt(each...)
	reply := b.call(calls)
	if several {
		reply = b.cat(reply, b.star(b.cat(b.opt(b.lit("\n")), b.call(calls))))
	}
	if !required && len(form) > 0 {
		doc := b.addRule("form")
		s := newSchema(b, form)
		b.rules[doc] = s.root()
		reply = b.alt(reply, b.call(doc))
	} else if !required {
		trigger := f.Trigger()
		fs := []frag{reply}
		for i := range len(trigger) {
			fs = append(fs, b.lit(trigger[:i]))
			if c := trigger[i]; c > 0 {
				fs = append(fs, b.cat(b.lit(trigger[:i]), b.bytes(0, c-1), b.call(text)))
			}
			if c := trigger[i]; c < 255 {
				fs = append(fs, b.cat(b.lit(trigger[:i]), b.bytes(c+1, 255), b.call(text)))
			}
		}
		reply = b.alt(fs...)
	}
	b.rules[top] = reply
	return compile(v, b)
}
