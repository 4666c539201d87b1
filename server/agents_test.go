package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tritlm/trit/tokenizer"
)

// Under auto a model may say what it likes until it begins a call; from there on the grammar holds, whatever it would
// rather write, and however the trigger lies in its tokens.
func TestLazyGrammar(t *testing.T) {
	for name, format := range testFormats {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			s, h := serve(t, f, Options{})
			m := s.models[0]
			m.calls = format
			m.calls.FromTemplate = true // the tools are not described, so that the reply is what the fake makes of the question
			list, anywhere := format.Triggers([]string{"add"})
			lead := ""
			if anywhere {
				lead = "Let me see. "
			}
			f.reply = lead + list[0] + "(this is no call at all"
			tools := `"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer","minimum":0,"maximum":9}},"required":["a"],"additionalProperties":false}}}]`
			code, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,"max_tokens":400,"parallel_tool_calls":false,`+tools+`}`)
			args, _ := at(v, "choices", 0, "message", "tool_calls", 0, "function", "arguments").(string)
			var got map[string]int
			if code != 200 || json.Unmarshal([]byte(args), &got) != nil || len(got) != 1 || got["a"] < 0 || got["a"] > 9 || at(v, "choices", 0, "finish_reason") != "tool_calls" {
				t.Errorf("%d %v", code, v)
			}
			if text, _ := at(v, "choices", 0, "message", "content").(string); text != strings.TrimSpace(lead) {
				t.Errorf("text %q", text)
			}
			f.reply = "I need no tool."
			if _, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,`+tools+`}`); at(v, "choices", 0, "message", "content") != f.reply || at(v, "choices", 0, "finish_reason") != "stop" {
				t.Error(v)
			}
		})
	}
}

// A tool whose schema cannot be enforced in full does not refuse the chat; strict says that it shall.
func TestUnenforcedTools(t *testing.T) {
	f := newFake(t)
	log := &syncBuffer{}
	_, h := serve(t, f, Options{Log: log.logger()})
	tools := `"tool_choice":"required","max_tokens":200,"tools":[{"type":"function","function":{"name":"add","strict":%v,"parameters":{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","contains":{"type":"integer"},"minContains":2,"items":{"type":"boolean"},"maxItems":2}},"required":["a"],"additionalProperties":false}}}]`
	r := postRaw(t, h.URL+"/v1/chat/completions", `{`+hi+`,`+fmt.Sprintf(tools, false)+`}`)
	if r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("X-Unenforced-Tools"), "add: ") {
		t.Error(r.StatusCode, r.Header)
	}
	if !strings.Contains(log.String(), "not enforced in full") {
		t.Error(log.String())
	}
	code, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,`+fmt.Sprintf(tools, true)+`}`)
	if code != 400 || at(v, "error", "param") != "tools" || !strings.Contains(fmt.Sprint(v), "strict") {
		t.Error(code, v)
	}
}

// Two hundred tools are compiled within a second or so, once.
func TestManyTools(t *testing.T) {
	f := newFake(t)
	s, _ := serve(t, f, Options{})
	var tools []tool
	for i := range 200 {
		tools = append(tools, tool{Function: toolFunction{Name: fmt.Sprintf("tool_%d", i), Parameters: fmt.Appendf(nil, `{"type":"object","properties":{"path":{"type":"string","description":"d"},"limit_%d":{"type":"integer","minimum":0,"maximum":%d},"mode":{"enum":["a","b","c"]},"tags":{"type":"array","items":{"type":"string"}},"options":{"type":"object","properties":{"deep":{"type":"boolean"},"name":{"type":"string","maxLength":50}}}},"required":["path"],"additionalProperties":false}`, i, 10+i)}})
	}
	if err := checkTools(tools); err != nil {
		t.Fatal(err)
	}
	for _, format := range []tokenizer.CallFormat{tokenizer.HermesCalls, testFormats["qwen-xml"], testFormats["pythonic"]} {
		start := time.Now()
		g, notes, err := compileCalls(s.models[0].callVocab(), format, tools, true, nil)
		if err != nil || len(notes) > 0 {
			t.Fatal(err, notes)
		}
		first := time.Now()
		g.NewMatcher().Allowed()
		t.Logf("%s: compiled in %v, first mask in %v", format.Style, first.Sub(start), time.Since(first))
		if d := first.Sub(start); d > 10*time.Second { // however slow this machine is
			t.Errorf("%v", d)
		}
	}
}
