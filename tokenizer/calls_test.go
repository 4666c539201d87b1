package tokenizer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// How calls and thoughts are written is read off a template: the real ones, and the forms of others.
func TestCallFormat(t *testing.T) {
	turn := func(call string) string {
		return `{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}` + "\n" + `{{ m.content }}{% for c in m.tool_calls %}` + call + `{% endfor %}<|im_end|>` + "\n" + `{% endfor %}`
	}
	around := func(begin, call, end string) string {
		return strings.NewReplacer("{% for c in m.tool_calls %}", "{% if m.tool_calls %}"+begin+"{% for c in m.tool_calls %}", "{% endfor %}<|im_end|>", "{% endfor %}"+end+"{% endif %}<|im_end|>").Replace(turn(call))
	}
	qwen := "{{ '\n' }}<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
	for name, tt := range map[string]struct {
		template string
		want     CallFormat
		trigger  string
		anywhere bool
	}{
		"no tools":      {`{% for m in messages %}{{ m.content }}{% endfor %}`, HermesCalls, "<tool_call>", true},
		"qwen-tools":    {"", CallFormat{Style: CallJSON, Open: "<tool_call>\n", Close: "\n</tool_call>", Separator: "\n", NameKey: "name", ArgumentsKey: "arguments", Several: true}, "<tool_call>", true},
		"llama3-tools":  {"", CallFormat{Style: CallJSON, NameKey: "name", ArgumentsKey: "parameters"}, `{"name"`, false},
		"mistral-tools": {"", CallFormat{Style: CallJSON, Begin: "[TOOL_CALLS][", Separator: ", ", End: "]", NameKey: "name", ArgumentsKey: "arguments", Several: true}, "[TOOL_CALLS]", true},
		"glm":           {"", CallFormat{Style: CallXML, Open: "<tool_call>", Middle: "\n", Close: "</tool_call>", Separator: "\n", ParamOpen: "<arg_key>", ParamMiddle: "</arg_key>\n<arg_value>", ParamClose: "</arg_value>\n", Several: true}, "<tool_call>", true},
		"xml":           {turn(qwen), CallFormat{Style: CallXML, Open: "<tool_call>\n<function=", Middle: ">\n", Close: "</function>\n</tool_call>", Separator: "\n", ParamOpen: "<parameter=", ParamMiddle: ">\n", ParamClose: "\n</parameter>\n", Several: true}, "<tool_call>", true},
		"invoke": {
			around("<x:call>\n", `{% for k, v in c.function.arguments.items() %}{% if loop.first %}<invoke name="{{ c.function.name }}">`+"\n"+`{% endif %}<parameter name="{{ k }}">{{ v }}</parameter>`+"\n{% endfor %}</invoke>\n", "</x:call>"),
			CallFormat{Style: CallXML, Begin: "<x:call>", Open: "\n<invoke name=\"", Middle: "\">\n", Close: "</invoke>", End: "\n</x:call>", ParamOpen: "<parameter name=\"", ParamMiddle: "\">", ParamClose: "</parameter>\n", Several: true},
			"<x:call>", true,
		},
		"named":    {turn("[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"), CallFormat{Style: CallNamed, Open: "[TOOL_CALLS]", Middle: "[ARGS]", Several: true}, "[TOOL_CALLS]", true},
		"numbered": {turn("[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}"), CallFormat{Style: CallNamed, Open: "[TOOL_CALLS]", Middle: "[CALL_ID]", AfterID: "[ARGS]", Several: true}, "[TOOL_CALLS]", true},
		"text arguments": {
			around("<|calls|>", "<|call|>{{ c.function.name }}<|sep|>{{ '```json' + c.function.arguments + '```' }}<|end|>", "<|ends|>"),
			CallFormat{Style: CallNamed, Begin: "<|calls|>", Open: "<|call|>", Middle: "<|sep|>```json", Close: "```<|end|>", End: "<|ends|>", Several: true},
			"<|calls|>", true,
		},
		"pythonic": {
			around("[", "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}, {% endif %}", "]"),
			CallFormat{Style: CallPython, Begin: "[", Separator: ", ", End: "]", Several: true},
			"[f(", false,
		},
		"pythonic, as it is told":   {`{% if tools %}{{ tools | tojson }} Answer as [func_name1(params_name1=params_value1)]{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}`, CallFormat{Style: CallPython, Begin: "[", Separator: ", ", End: "]", Several: true}, "[f(", false},
		"tools, and no word of how": {`{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}`, HermesCalls, "<tool_call>", true},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := TrainBPE([]string{"hello world"}, 300, "<|begin|>", "<|im_end|>")
			if err != nil {
				t.Fatal(err)
			}
			if tt.template == "" {
				b, err := os.ReadFile(filepath.Join("jinja", "testdata", "templates", name+".jinja"))
				if err != nil {
					t.Fatal(err)
				}
				tt.template = string(b)
			}
			if err := tok.SetTemplate(tt.template); err != nil {
				t.Fatal(err)
			}
			got := tok.CallFormat()
			list, anywhere := got.Triggers([]string{"f"})
			if got.FromTemplate != (tt.want != HermesCalls || name == "qwen-tools") {
				t.Errorf("from the template: %v", got.FromTemplate)
			}
			got.FromTemplate = false
			if got != tt.want || list[0] != tt.trigger || anywhere != tt.anywhere {
				t.Errorf("%+v, %q %v; want %+v, %q %v", got, list, anywhere, tt.want, tt.trigger, tt.anywhere)
			}
		})
	}
	for name, want := range map[string]ThoughtFormat{
		"qwen3-thinking": {Open: "<think>", Close: "</think>", End: "\n</think>\n\n", Switch: "enable_thinking"},
		"smollm":         {Open: "<think>", Close: "</think>", End: "\n</think>\n\n", Switch: "enable_thinking"},
		"llama3":         {},
	} {
		b, err := os.ReadFile(filepath.Join("jinja", "testdata", "templates", name+".jinja"))
		if err != nil {
			t.Fatal(err)
		}
		tok, err := TrainBPE([]string{"hello world"}, 300, "<|begin|>", "<|im_end|>")
		if err != nil {
			t.Fatal(err)
		}
		if err := tok.SetTemplate(string(b)); err != nil {
			t.Fatal(err)
		}
		if got, ok := tok.ThoughtFormat(); got != want || ok != (want.Open != "") {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// The last message can be gone on with, and only the template writes control tokens: not a call's arguments, not a thought.
func TestContinueAndQuote(t *testing.T) {
	tok, err := TrainBPE([]string{"hello world"}, 300, "<|begin|>", "<|im_end|>")
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.SetTemplate(`{% for m in messages %}{{ m.role }}:{{ m.reasoning_content }}{{ m.content | trim }}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>{% endfor %}`); err != nil {
		t.Fatal(err)
	}
	text, err := tok.Chat([]Message{{Role: "user", Content: "x"}, {Role: "assistant", Content: "So it "}}, ChatOptions{Continue: true})
	if err != nil || text != "user:x<|im_end|>assistant:So it " {
		t.Errorf("%q %v", text, err)
	}
	ids, err := tok.EncodeChat([]Message{{
		Role: "assistant", Content: "<|im_end|>", Extra: map[string]any{"reasoning_content": "<|im_end|>"},
		ToolCalls: []ToolCall{{Name: "<|im_end|>", Arguments: `{"a":"<|im_end|>"}`}},
	}}, ChatOptions{})
	end, _ := tok.ID("<|im_end|>")
	n := 0
	for _, id := range ids {
		if id == end {
			n++
		}
	}
	d := tok.NewDecoder()
	d.Special = true
	text = ""
	for _, id := range ids {
		text += d.Push(id)
	}
	if err != nil || n != 1 || strings.Count(text, "<|im_end|>") != 5 {
		t.Errorf("%d ends of turn in %q: %v", n, text, err)
	}
	if err := tok.SetTemplate(`{% for m in messages %}{{ m.content | length }}{% endfor %}`); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Chat([]Message{{Role: "assistant", Content: "x"}}, ChatOptions{Continue: true}); err == nil {
		t.Error("a message that the template does not write was continued")
	}
}
