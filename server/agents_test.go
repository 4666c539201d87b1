package server

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// What clients send that was refused, dropped or answered wrongly once.
func TestClientsRequests(t *testing.T) {
	f := newFake(t)
	s, h := serve(t, f, Options{Keys: []string{"secret-key"}})
	ask := func(path, body string) (int, map[string]any) {
		t.Helper()
		r, err := http.NewRequest("POST", h.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "bearer secret-key") // a scheme's name has no case
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		var v map[string]any
		if err := json.NewDecoder(a.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, v
	}
	chat := func(more string) string {
		code, v := ask("/v1/chat/completions", `{`+hi+`,"max_tokens":40,`+more+`}`)
		if code != 200 {
			t.Errorf("%s: %d %v", more, code, v)
		}
		text, _ := at(v, "choices", 0, "message", "content").(string)
		return text
	}
	for more, want := range map[string]string{
		`"response_format":{"type":"json_object","schema":{"const":"42"}}`:                      `"42"`,
		`"json_schema":{"const":"42"}`:                                                          `"42"`,
		`"response_format":{"type":"json_schema","schema":{"const":"42"}}`:                      `"42"`,
		`"guided_grammar":"root ::= \"abc\""`:                                                   "abc",
		`"structured_outputs":{"choice":["yes"]}`:                                               "yes",
		`"structured_outputs":{"regex":"ab+c{3}"}, "seed":5, "bad_words":["bbb"]`:               "ab",
		`"structured_outputs":{"json":{"enum":["x"]}}`:                                          `"x"`,
		`"structured_outputs":{"grammar":"root ::= \"g\""}`:                                     "g",
		`"allowed_token_ids":[65],"max_tokens":3`:                                               strings.Repeat(f.tok.Decode([]int32{65}), 3),
		`"tool_choice":"none","tools":[{"type":"function","function":{"name":"f"}}],"stop":"x"`: "",
	} {
		if text := chat(more); !strings.HasPrefix(text, want) {
			t.Errorf("%s: %q", more, text)
		}
	}
	for _, body := range []string{
		`{` + hi + `,"max_tokens":-1,"stop":["a"]}`,
		`{` + hi + `,"max_tokens":30,"tool_choice":"required","tools":[{"type":"function","function":{"name":"f","parameters":null}}]}`,
		`{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]},{"role":"assistant","content":null,"refusal":"no"},{"role":"user","content":"hi"}],"max_tokens":2}`,
		`{"messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":""}}]},{"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"x"}]}],"max_tokens":2}`,
	} {
		if code, v := ask("/v1/chat/completions", body); code != 200 {
			t.Error(body, code, v)
		}
	}
	// A call that is cut ends as length and leaves nothing of its marks.
	code, v := ask("/v1/chat/completions", `{`+hi+`,"max_tokens":30,"tool_choice":"required","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"city":{"type":"string","minLength":200}},"required":["city"]}}}]}`)
	if code != 200 || at(v, "choices", 0, "finish_reason") != "length" || at(v, "choices", 0, "message", "content") != "" || at(v, "choices", 0, "message", "tool_calls") != nil {
		t.Error(code, v)
	}
	// The last message is gone on with.
	f.reply = "Whillow tree"
	code, v = ask("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Whill"}],"temperature":0,"continue_final_message":true,"add_generation_prompt":false}`)
	if code != 200 || at(v, "choices", 0, "message", "content") != "ow tree" {
		t.Error(code, v)
	}
	for _, body := range []string{`{` + hi + `,"continue_final_message":true}`, `{` + hi + `,"continue_final_message":true,"add_generation_prompt":true}`, `{` + hi + `,"guided_grammar":"root ::= \"a\"","grammar":"root ::= \"b\""}`} {
		if code, v := ask("/v1/chat/completions", body); code != 400 {
			t.Error(body, code, v)
		}
	}
	// As many inputs as OpenAI takes, and Ollama's cut.
	inputs := strings.TrimSuffix(strings.Repeat(`"a",`, 2048), ",")
	if code, v := ask("/v1/embeddings", `{"input":[`+inputs+`]}`); code != 200 || len(v["data"].([]any)) != 2048 {
		t.Error(code, len(fmt.Sprint(v)))
	}
	if code, _ := ask("/v1/embeddings", `{"input":[`+inputs+`,"a"]}`); code != 400 {
		t.Error(code)
	}
	long := strings.Repeat("a ", s.models[0].MaxContext)
	if code, v := ask("/api/embed", `{"input":"`+long+`"}`); code != 200 {
		t.Error(code, v)
	}
	if code, _ := ask("/api/embed", `{"input":"`+long+`","truncate":false}`); code != 400 {
		t.Error(code)
	}
	if code, v := ask("/api/chat", `{`+hi+`,"stream":false,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],"format":{"type":"object"}}`); code != 200 {
		t.Error(code, v)
	}
	// The oldest turns are left out where that is asked for.
	old := `{"role":"user","content":"` + strings.Repeat("old ", 1500) + `"},{"role":"assistant","content":"yes"},`
	turns := `"messages":[{"role":"system","content":"s"},` + strings.Repeat(old, 3) + `{"role":"user","content":"hi"}],"stream":false,"options":{"num_predict":3}`
	if code, _ := ask("/api/chat", `{`+turns+`}`); code != 400 {
		t.Error(code)
	}
	if code, v := ask("/api/chat", `{"truncate":true,`+turns+`}`); code != 200 {
		t.Error(code, v)
	}
}
