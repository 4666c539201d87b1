package tokenizer

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CallStyle says how the arguments of a call are written.
type CallStyle string

const (
	CallJSON   CallStyle = "json"   // {"name": "f", "arguments": {…}}
	CallNamed  CallStyle = "named"  // the name, then the arguments as a JSON object
	CallXML    CallStyle = "xml"    // the name, then each argument in tags of its own
	CallPython CallStyle = "python" // f(a=1, b="x")
)

// CallFormat is how a model writes calls of tools, as pieces of text around names and arguments:
//
//	Begin  Open NAME Middle ARGUMENTS Close  Separator  Open …  End
//
// With CallNamed, AfterID says that an identifier stands between Middle and it. With CallJSON an object with NameKey and ArgumentsKey stands for NAME Middle ARGUMENTS; with CallXML each
// argument is ParamOpen KEY ParamMiddle VALUE ParamClose, strings as they are and other values as JSON; with
// CallPython the arguments are keywords in parentheses.
type CallFormat struct {
	Style        CallStyle `json:"style"`
	Begin        string    `json:"begin,omitempty"`
	Open         string    `json:"open,omitempty"`
	Middle       string    `json:"middle,omitempty"`
	AfterID      string    `json:"after_id,omitempty"`
	Close        string    `json:"close,omitempty"`
	Separator    string    `json:"separator,omitempty"`
	End          string    `json:"end,omitempty"`
	NameKey      string    `json:"name_key,omitempty"`
	ArgumentsKey string    `json:"arguments_key,omitempty"`
	ParamOpen    string    `json:"param_open,omitempty"`
	ParamMiddle  string    `json:"param_middle,omitempty"`
	ParamClose   string    `json:"param_close,omitempty"`
	Several      bool      `json:"several"` // the template writes more than one call in a turn
	FromTemplate bool      `json:"from_template"`
}

// HermesCalls is how calls are written where a template does not say: JSON in tags, which most models have seen.
var HermesCalls = CallFormat{
	Style: CallJSON, Open: "<tool_call>\n", Close: "\n</tool_call>", Separator: "\n",
	NameKey: "name", ArgumentsKey: "arguments", Several: true,
}

// Triggers are the texts that begin a call of one of the tools, and whether they may stand behind other text; if
// not, only a reply that begins with one is a call.
func (f *CallFormat) Triggers(names []string) (list []string, anywhere bool) {
	if t := strings.TrimSpace(f.Begin + f.Open); len(t) > 1 {
		for mark, end := range map[byte]string{'<': ">", '[': "]"} { // the first mark is enough
			if i := strings.Index(t, end); t[0] == mark && i > 0 {
				t = t[:i+1]
			}
		}
		return []string{t}, true
	}
	switch f.Style {
	case CallPython:
		for _, n := range names {
			list = append(list, strings.TrimSpace(f.Begin+f.Open)+n+"(")
		}
	case CallNamed, CallXML:
		for _, n := range names {
			list = append(list, strings.TrimSpace(f.Begin+f.Open)+n+strings.TrimRight(f.Middle, " \n"))
		}
	default:
		list = append(list, strings.TrimSpace(f.Begin+f.Open)+`{"`+f.NameKey+`"`)
	}
	return list, false
}

// Example is what calls look like: one, or two where there may be several.
func (f *CallFormat) Example() string {
	one := func(name string) string {
		switch f.Style {
		case CallNamed:
			if f.AfterID != "" {
				return name + f.Middle + "ID" + f.AfterID + `{"KEY": "VALUE"}`
			}
			return name + f.Middle + `{"KEY": "VALUE"}`
		case CallXML:
			return name + f.Middle + f.ParamOpen + "KEY" + f.ParamMiddle + "VALUE" + f.ParamClose
		case CallPython:
			return name + `(KEY="VALUE")`
		}
		return `{"` + f.NameKey + `": "` + name + `", "` + f.ArgumentsKey + `": {"KEY": "VALUE"}}`
	}
	text := f.Begin + f.Open + one("NAME") + f.Close
	if f.Several {
		text += f.Separator + f.Open + one("OTHER") + f.Close
	}
	return text + f.End
}

// What recognition writes into a template and looks for in its text. Mistral's templates want ids of nine characters.
const (
	probeFirst, probeSecond = "probe_first", "probe_second"
	probeKey, probeKey2     = "probe_key", "probe_other"
	probeValue, probeValue2 = "probe value", "probe rest"
)

var probeTools = json.RawMessage(`[{"type":"function","function":{"name":"` + probeFirst + `","description":"d","parameters":{"type":"object","properties":{"` + probeKey + `":{"type":"string","description":"d"},"` + probeKey2 + `":{"type":"string","description":"d"}},"required":["` + probeKey + `"]}}},{"type":"function","function":{"name":"` + probeSecond + `","description":"d","parameters":{"type":"object","properties":{"` + probeKey + `":{"type":"string","description":"d"},"` + probeKey2 + `":{"type":"string","description":"d"}}}}}]`)

// KnowsTools reports whether the model's template writes the tools that it is given.
func (t *Tokenizer) KnowsTools() bool {
	probe := []Message{{Role: "user", Content: "x"}}
	with, err := t.Chat(probe, ChatOptions{Tools: probeTools})
	return err == nil && strings.Contains(with, probeFirst)
}

// CallFormat finds out how the model's template writes calls: it has calls written and looks at what stands around
// them. A template that knows tools and leaves calls out is judged by what it tells the model about them. For all
// others the answer is HermesCalls.
func (t *Tokenizer) CallFormat() CallFormat {
	if !t.KnowsTools() {
		return HermesCalls
	}
	arguments := `{"` + probeKey + `": "` + probeValue + `", "` + probeKey2 + `": "` + probeValue2 + `"}`
	calls := []ToolCall{
		{ID: "aaaaaaaa1", Name: probeFirst, Arguments: arguments},
		{ID: "aaaaaaaa2", Name: probeSecond, Arguments: arguments},
	}
	user := Message{Role: "user", Content: "x"}
	o := ChatOptions{Tools: probeTools}
	without, err := t.Chat([]Message{user, {Role: "assistant", Content: "y"}}, o)
	if err != nil {
		without = ""
	}
	for n := 2; n > 0 && without != ""; n-- {
		with, err := t.Chat([]Message{user, {Role: "assistant", ToolCalls: calls[:n]}}, o)
		if err != nil {
			continue
		}
		if f, ok := t.readCalls(differing(with, without), calls[:n]); ok {
			f.FromTemplate = true
			return f
		}
	}
	told, _ := t.Chat([]Message{user}, o) // KnowsTools rendered it
	f := HermesCalls
	switch {
	case strings.Contains(told, "<function=") && strings.Contains(told, "<parameter="):
		f = CallFormat{
			Style: CallXML, Open: "<tool_call>\n<function=", Middle: ">\n", Close: "</function>\n</tool_call>", Separator: "\n",
			ParamOpen: "<parameter=", ParamMiddle: ">\n", ParamClose: "\n</parameter>\n", Several: true,
		}
	case strings.Contains(told, "<|tool_list_start|>"): // LFM2
		f = CallFormat{Style: CallPython, Begin: "<|tool_call_start|>[", Separator: ", ", End: "]<|tool_call_end|>", Several: true}
	case strings.Contains(told, "<|tool_call|>"): // Granite 3
		f = CallFormat{Style: CallJSON, Begin: "<|tool_call|>[", Separator: ", ", End: "]", NameKey: "name", ArgumentsKey: "arguments", Several: true}
	case strings.Contains(told, "<tool_call>"):
	case strings.Contains(told, "[func_name1("):
		f = CallFormat{Style: CallPython, Begin: "[", Separator: ", ", End: "]", Several: true}
	case strings.Count(told, `"parameters"`) > strings.Count(told, `"parameters": {`)+strings.Count(told, `"parameters":{`):
		f = CallFormat{Style: CallJSON, NameKey: "name", ArgumentsKey: "parameters"} // Llama 3.1 and its relatives
	default:
		return HermesCalls
	}
	f.FromTemplate = true
	return f
}

// differing is what with has between what it begins and ends with in common with without.
func differing(with, without string) string {
	i := 0
	for i < len(with) && i < len(without) && with[i] == without[i] {
		i++
	}
	j := 0
	for j < len(with)-i && j < len(without)-i && with[len(with)-1-j] == without[len(without)-1-j] {
		j++
	}
	for !utf8.RuneStart(append([]byte(with), 0)[i]) {
		i--
	}
	for j > 0 && !utf8.RuneStart(with[len(with)-j]) {
		j--
	}
	// The texts may differ inside a mark such as <|name|>: all of it belongs to the difference.
	for i > 0 && strings.ContainsRune("<[{`|", rune(with[i-1])) {
		i--
	}
	if k := inTag(with[:i]); k >= 0 {
		i = k
	}
	for j > 0 && strings.ContainsRune(">]}`|", rune(with[len(with)-j])) {
		j--
	}
	if rest := with[len(with)-j:]; inTag(with[i:len(with)-j]) >= 0 {
		j -= strings.IndexByte(rest, '>') + 1
	}
	return with[i : len(with)-j]
}

// inTag is where a mark such as <|name|> begins that text ends inside of, −1 if there is none.
func inTag(text string) int {
	k := strings.LastIndexByte(text, '<')
	if k < 0 || len(text)-k > 40 || strings.ContainsAny(text[k:], "> \n") {
		return -1
	}
	return k
}

// readCalls takes a text of calls apart.
func (t *Tokenizer) readCalls(text string, calls []ToolCall) (f CallFormat, ok bool) {
	n := len(calls)
	for _, id := range t.EOS() { // a turn of calls may end with a token of its own
		text = strings.TrimSuffix(strings.TrimRight(text, "\n"), t.Token(id))
	}
	for _, end := range []string{"<|eom_id|>", "<|eot_id|>", "<|im_end|>"} { // not each says so in its configuration
		text = strings.TrimSuffix(text, end)
	}
	for _, m := range thoughtMarks {
		if i := strings.LastIndex(text, m[1]); i >= 0 && i < strings.Index(text, probeFirst) {
			text = text[i+len(m[1]):]
		}
	}
	type span struct{ from, to int } // of all between Open and Close
	var spans []span
	at := 0
	for k := range n {
		name := []string{probeFirst, probeSecond}[k]
		i := strings.Index(text[at:], name)
		if i < 0 {
			return f, false
		}
		i += at
		after := i + len(name)
		var s span
		if object, nameKey, argumentsKey := enclosing(text[at:], i-at, name); object[1] > 0 {
			s = span{at + object[0], at + object[1]}
			f.Style, f.NameKey, f.ArgumentsKey = CallJSON, nameKey, argumentsKey
		} else if rest := text[after:]; strings.HasPrefix(rest, "(") {
			f.Style = CallPython
			end := strings.Index(rest, ")")
			if end < 0 {
				return f, false
			}
			s = span{i, after + end + 1}
		} else if j := strings.IndexByte(rest, '{'); j >= 0 && objectLen(rest[j:]) > 0 && strings.Contains(rest[j:][:objectLen(rest[j:])], probeKey) {
			f.Style, f.Middle, f.AfterID = CallNamed, rest[:j], ""
			for _, id := range []string{calls[k].ID, ":" + strconv.Itoa(k), ":" + strconv.Itoa(k+1)} { // or a number
				if at := strings.Index(f.Middle, id); at >= 0 {
					if id[0] == ':' {
						at++
						id = id[1:]
					}
					f.Middle, f.AfterID = f.Middle[:at], f.Middle[at+len(id):]
					break
				}
			}
			s = span{i, after + j + objectLen(rest[j:])}
		} else {
			ok := f.readXML(rest)
			end := strings.Index(rest, probeValue2)
			if !ok {
				return f, false
			}
			s = span{i, after + end + len(probeValue2) + len(f.ParamClose)}
		}
		spans = append(spans, s)
		at = s.to
	}
	before, end := text[:spans[0].from], text[spans[n-1].to:]
	f.Several = n > 1
	if n == 1 {
		f.Open, f.Close = before, end
	} else {
		between := text[spans[0].to:spans[1].from]
		i := 0 // Open is the end of what stands before the first and of what stands between
		for i < len(before) && i < len(between) && before[len(before)-1-i] == between[len(between)-1-i] {
			i++
		}
		if inTag(before[:len(before)-i]) >= 0 { // only whole marks
			if k := strings.IndexByte(before[len(before)-i:], '>'); k >= 0 {
				i -= k + 1
			}
		}
		f.Begin, f.Open = before[:len(before)-i], before[len(before)-i:]
		between = between[:len(between)-i]
		j := 0
		for j < len(between) && j < len(end) && between[j] == end[j] {
			j++
		}
		if k := inTag(end[:j]); k >= 0 {
			j = k
		}
		f.Close, f.Separator, f.End = end[:j], between[j:], end[j:]
	}
	f.outward()
	all := strings.Join([]string{f.Begin, f.Open, f.Middle, f.AfterID, f.Close, f.Separator, f.End}, "\x00")
	return f, !strings.Contains(all, "probe_") && !strings.Contains(all, calls[0].ID[:8]) // what differs from call to call is no mark
}

// outward leaves no white space in front of what begins a call: it belongs to what is said before, or separates.
func (f *CallFormat) outward() {
	if f.Begin = strings.TrimLeftFunc(f.Begin, unicode.IsSpace); f.Begin == "" {
		open := strings.TrimLeftFunc(f.Open, unicode.IsSpace)
		if f.Several {
			f.Separator += f.Open[:len(f.Open)-len(open)]
		}
		f.Open = open
	}
}

// readXML takes two arguments in tags apart; rest begins behind the call's name.
func (f *CallFormat) readXML(rest string) bool {
	var at []int
	from := 0
	for _, s := range []string{probeKey, probeValue, probeKey2, probeValue2} {
		i := strings.Index(rest[from:], s)
		if i < 0 {
			return false
		}
		at = append(at, from+i)
		from += i + len(s)
	}
	first, second := rest[:at[0]], rest[at[1]+len(probeValue):at[2]]
	i := 0
	for i < len(first) && i < len(second) && first[len(first)-1-i] == second[len(second)-1-i] {
		i++
	}
	open := first[len(first)-i:]
	if k := strings.LastIndexByte(open, '<'); k > 0 {
		open = open[k:]
	}
	middle := rest[at[0]+len(probeKey) : at[1]]
	if open == "" || middle == "" || rest[at[2]+len(probeKey2):at[3]] != middle {
		return false
	}
	f.Style, f.ParamOpen, f.ParamMiddle = CallXML, open, middle
	f.Middle, f.ParamClose = strings.TrimSuffix(first, open), strings.TrimSuffix(second, open)
	return f.ParamClose != "" && strings.HasPrefix(rest[at[3]+len(probeValue2):], f.ParamClose)
}

// enclosing finds the JSON object around the name at i that holds name and arguments as members, and these members.
func enclosing(text string, i int, name string) (at [2]int, nameKey, argumentsKey string) {
	for from := strings.LastIndexByte(text[:i], '{'); from >= 0; from = strings.LastIndexByte(text[:from], '{') {
		n := objectLen(text[from:])
		if n == 0 || from+n < i {
			continue
		}
		var members map[string]json.RawMessage
		if json.Unmarshal([]byte(text[from:from+n]), &members) != nil {
			continue
		}
		nameKey, argumentsKey = "", ""
		for k, v := range members {
			var s string
			if json.Unmarshal(v, &s) == nil && s == name {
				nameKey = k
			} else if v[0] == '{' && strings.Contains(string(v), probeKey) && !strings.Contains(string(v), name) {
				argumentsKey = k
			}
		}
		if nameKey != "" && argumentsKey != "" {
			return [2]int{from, from + n}, nameKey, argumentsKey
		}
	}
	return at, "", ""
}

// objectLen is the length of the JSON value that text begins with, 0 for none.
func objectLen(text string) int {
	d := json.NewDecoder(strings.NewReader(text))
	var v json.RawMessage
	if d.Decode(&v) != nil {
		return 0
	}
	return int(d.InputOffset())
}

// ThoughtFormat is how a model sets its thoughts apart from its answer.
type ThoughtFormat struct {
	Open  string `json:"open"`  // "<think>"
	Close string `json:"close"` // "</think>"
	// End is Close with what the template writes around it between a thought and the answer.
	End string `json:"end"`
	// Switch is the template's variable that turns thoughts off, "" if there is none.
	Switch string `json:"switch,omitempty"`
	// Effort says that the template reads reasoning_effort.
	Effort bool `json:"effort,omitempty"`
}

// thoughtMarks are the marks of models that think.
var thoughtMarks = [][2]string{
	{"<think>", "</think>"},
	{"[THINK]", "[/THINK]"},
	{"<|START_THINKING|>", "<|END_THINKING|>"},
	{"◁think▷", "◁/think▷"},
	{"<seed:think>", "</seed:think>"},
	{"<thinking>", "</thinking>"},
	{"<reasoning>", "</reasoning>"},
	{"<thought>", "</thought>"},
	{"<|begin_of_thought|>", "<|end_of_thought|>"},
	{"<ifm|think>", "</ifm|think>"},
}

// ThoughtFormat finds the marks of thoughts in the model's template or, as single tokens, in its vocabulary.
func (t *Tokenizer) ThoughtFormat() (f ThoughtFormat, ok bool) {
	src, _ := t.Template("")
	for _, m := range thoughtMarks {
		if strings.Contains(src, m[0]) && strings.Contains(src, m[1]) || strings.Contains(src, m[1]) && t.one(m[1]) {
			f.Open, f.Close = m[0], m[1]
			break
		}
	}
	for _, m := range thoughtMarks {
		if f.Open == "" && t.one(m[0]) && t.one(m[1]) {
			f.Open, f.Close = m[0], m[1]
		}
	}
	if f.Open == "" {
		return f, false
	}
	f.Effort = strings.Contains(src, "reasoning_effort")
	for _, v := range []string{"enable_thinking", "thinking", "reasoning"} {
		if slices.Contains(templateNames(src), v) && t.reads(v) {
			f.Switch = v
			break
		}
	}
	f.End = "\n" + f.Close + "\n\n"
	text, err := t.Chat([]Message{
		{Role: "user", Content: "x"},
		{Role: "assistant", Content: probeValue2, Extra: map[string]any{"reasoning_content": probeValue, "thinking": probeValue, "reasoning": probeValue}},
	}, ChatOptions{})
	if err == nil {
		i, j := strings.LastIndex(text, probeValue), strings.LastIndex(text, probeValue2)
		if i >= 0 && j > i {
			if end := text[i+len(probeValue) : j]; strings.Contains(end, f.Close) && len(end) < len(f.Close)+40 {
				f.End = end
			}
		}
	}
	return f, true
}

// one reports whether text is a single token.
func (t *Tokenizer) one(text string) bool {
	_, ok := t.ID(text)
	return ok
}

// reads reports whether what the template writes depends on a variable.
func (t *Tokenizer) reads(name string) bool {
	probe := []Message{{Role: "user", Content: "x"}}
	on, err1 := t.Chat(probe, ChatOptions{AddGenerationPrompt: true, Extra: map[string]any{name: true}})
	off, err2 := t.Chat(probe, ChatOptions{AddGenerationPrompt: true, Extra: map[string]any{name: false}})
	return err1 == nil && err2 == nil && on != off
}

// templateNames are the names in a template's source.
func templateNames(src string) []string {
	return strings.FieldsFunc(src, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}
