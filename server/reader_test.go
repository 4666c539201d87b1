package server

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tritlm/trit/tokenizer"
)

// The call formats of real templates, as tokenizer.CallFormat finds them.
var testFormats = map[string]tokenizer.CallFormat{
	"hermes": tokenizer.HermesCalls,
	"llama":  {Style: tokenizer.CallJSON, NameKey: "name", ArgumentsKey: "parameters"},
	"mistral": {
		Style: tokenizer.CallJSON, Begin: "[TOOL_CALLS] [", Separator: ", ", End: "]", NameKey: "name", ArgumentsKey: "arguments", Several: true,
	},
	"mistral-args": {Style: tokenizer.CallNamed, Open: "[TOOL_CALLS]", Middle: "[ARGS]", Several: true},
	"mistral-id":   {Style: tokenizer.CallNamed, Open: "[TOOL_CALLS]", Middle: "[CALL_ID]", AfterID: "[ARGS]", Several: true},
	"qwen-xml": {
		Style: tokenizer.CallXML, Open: "<tool_call>\n<function=", Middle: ">\n", Close: "</function>\n</tool_call>", Separator: "\n",
		ParamOpen: "<parameter=", ParamMiddle: ">\n", ParamClose: "\n</parameter>\n", Several: true,
	},
	"glm": {
		Style: tokenizer.CallXML, Open: "<tool_call>", Middle: "\n", Close: "</tool_call>", Separator: "\n",
		ParamOpen: "<arg_key>", ParamMiddle: "</arg_key>\n<arg_value>", ParamClose: "</arg_value>\n", Several: true,
	},
	"deepseek": {
		Style: tokenizer.CallNamed, Begin: "<｜tool▁calls▁begin｜>", Open: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", Middle: "\n```json\n",
		Close: "\n```<｜tool▁call▁end｜>", Separator: "\n", End: "<｜tool▁calls▁end｜>", Several: true,
	},
	"pythonic": {Style: tokenizer.CallPython, Begin: "[", Separator: ", ", End: "]", Several: true},
	"lfm2":     {Style: tokenizer.CallPython, Begin: "<|tool_call_start|>[", Separator: ", ", End: "]<|tool_call_end|>", Several: true},
}

// testTools are tools with arguments of several types.
func testTools(t testing.TB) []tool {
	tools := []tool{
		{Type: "function", Function: toolFunction{Name: "add", Parameters: json.RawMessage(`{"type":"object","properties":{"a":{"type":"integer","minimum":-99,"maximum":99},"note":{"type":"string"},"list":{"type":"array","items":{"type":"string","maxLength":9},"maxItems":3},"on":{"type":"boolean"}},"required":["a","note"]}`)}},
		{Type: "function", Function: toolFunction{Name: "now"}},
		{Type: "function", Function: toolFunction{Name: "pick", Parameters: json.RawMessage(`{"type":"object","properties":{"way":{"enum":["left","right"]}},"required":["way"],"additionalProperties":false}`)}},
	}
	if err := checkTools(tools); err != nil {
		t.Fatal(err)
	}
	return tools
}

// heard is what the parts of a reply amount to.
type heard struct {
	thought, text string
	calls         []string // name and arguments, of whole calls
	cut           int      // calls begun and not ended
	finish        string
}

func hear(r reader, chunks []string, finish string) (h heard) {
	var args, name string
	take := func(list []part) {
		for _, p := range list {
			switch p.kind {
			case partThought:
				h.thought += p.text
			case partText:
				h.text += p.text
			case partCall:
				name, args = p.name, ""
				h.cut++
			case partArguments:
				args += p.text
			case partCallEnd:
				h.calls = append(h.calls, name+" "+args)
				h.cut--
			case partFinish:
				h.finish = p.finish
			}
		}
	}
	for i, c := range chunks {
		end := ""
		if i == len(chunks)-1 {
			end = finish
		}
		take(r.push(c, end))
	}
	return h
}

// cuts splits text at characters, at random.
func cuts(text string, rng *rand.Rand) (out []string) {
	runes := []rune(text)
	for len(runes) > 0 {
		n := 1 + rng.IntN(min(len(runes), 1+rng.IntN(12)))
		out = append(out, string(runes[:n]))
		runes = runes[n:]
	}
	if out == nil {
		out = []string{""}
	}
	return out
}

func TestReader(t *testing.T) {
	think := &tokenizer.ThoughtFormat{Open: "<think>", Close: "</think>", End: "\n</think>\n\n"}
	args := `{"a": -5, "note": "say \"hi\" <b>\n</parameter", "list": ["x", "ü"], "on": true}`
	for _, tt := range []struct {
		name, format, text, finish string
		state                      readState
		want                       heard
	}{
		{"plain", "hermes", "Hello <tool is nothing", "stop", readText, heard{text: "Hello <tool is nothing", finish: "stop"}},
		{"hermes", "hermes", "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": " + args + "}\n</tool_call>\n<tool_call>\n{\"name\":\"now\",\"arguments\":{}}\n</tool_call>", "stop", readText, heard{text: "Let me see.", calls: []string{"add " + args, "now {}"}, finish: "calls"}},
		{"hermes, turned round", "hermes", "<tool_call>{\"arguments\": {\"a\":1}, \"id\": 7, \"name\": \"add\"}</tool_call>", "stop", readText, heard{calls: []string{`add {"a":1}`}, finish: "calls"}},
		{"hermes, quoted", "hermes", "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\":1}\"}</tool_call>", "stop", readText, heard{calls: []string{`add {"a":1}`}, finish: "calls"}},
		{"hermes, cut in a mark", "hermes", "So <tool_ca", "length", readText, heard{text: "So <tool_ca", finish: "length"}},
		{"hermes, cut", "hermes", "So\n<tool_call>\n{\"name\": \"add\", \"argum", "length", readText, heard{text: "So", cut: 1, finish: "length"}},
		{"hermes, cut in arguments", "hermes", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 12", "length", readText, heard{calls: []string{"now {}"}, cut: 1, finish: "length"}},
		{"hermes, cut in front of a name", "hermes", "<tool_call>\n{\"na", "length", readText, heard{finish: "length"}},
		{"no call", "hermes", "The tag <tool_call> is used so.", "stop", readText, heard{text: "The tag<tool_call> is used so.", finish: "stop"}},
		{"text behind", "hermes", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\nDone.", "stop", readText, heard{text: "Done.", calls: []string{"now {}"}, finish: "calls"}},
		{"llama", "llama", "{\"name\": \"add\", \"parameters\": " + args + "}", "stop", readText, heard{calls: []string{"add " + args}, finish: "calls"}},
		{"llama, text", "llama", "See {\"name\": \"add\"}", "stop", readText, heard{text: "See {\"name\": \"add\"}", finish: "stop"}},
		{"mistral", "mistral", "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": " + args + "}, {\"name\": \"now\", \"arguments\": {}, \"id\": \"abc\"}]", "stop", readText, heard{calls: []string{"add " + args, "now {}"}, finish: "calls"}},
		{"mistral, args", "mistral-args", "Ok.[TOOL_CALLS]add[ARGS]" + args + "[TOOL_CALLS]now[ARGS]{}", "stop", readText, heard{text: "Ok.", calls: []string{"add " + args, "now {}"}, finish: "calls"}},
		{"mistral, id", "mistral-id", "[TOOL_CALLS]add[CALL_ID]a1b2c3d4e[ARGS]" + args + "[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}", "stop", readText, heard{calls: []string{"add " + args, "now {}"}, finish: "calls"}},
		{"qwen", "qwen-xml", "I look.\n\n<tool_call>\n<function=add>\n<parameter=a>\n-5\n</parameter>\n<parameter=note>\nsay \"hi\"\n <b>\n</parameter>\n<parameter=list>\n[\"x\", \"ü\"]\n</parameter>\n<parameter=on>\ntrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>", "stop", readText, heard{text: "I look.", calls: []string{`add {"a": -5, "note": "say \"hi\"\n <b>", "list": ["x", "ü"], "on": true}`, "now {}"}, finish: "calls"}},
		{"qwen, cut", "qwen-xml", "<tool_call>\n<function=add>\n<parameter=a>\n-5\n</parameter>\n<parameter=note>\nsay", "length", readText, heard{cut: 1, finish: "length"}},
		{"glm", "glm", "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>7</arg_value>\n<arg_key>note</arg_key>\n<arg_value>12</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>", "stop", readText, heard{calls: []string{`add {"a": 7, "note": "12"}`, "now {}"}, finish: "calls"}},
		{"deepseek", "deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n" + args + "\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "stop", readText, heard{calls: []string{"add " + args, "now {}"}, finish: "calls"}},
		{"pythonic", "pythonic", "[add(a=-5, note='it\\'s \"ü\"', list=[\"x\", (1, 2.5), {'k': None}], on=True), now()]", "stop", readText, heard{calls: []string{`add {"a": -5, "note": "it's \"ü\"", "list": ["x", [1, 2.5], {"k": null}], "on": true}`, "now {}"}, finish: "calls"}},
		{"pythonic, text", "pythonic", "[1, 2]", "stop", readText, heard{text: "[1, 2]", finish: "stop"}},
		{"lfm2", "lfm2", "Hm. <|tool_call_start|>[now()]<|tool_call_end|>", "stop", readText, heard{text: "Hm.", calls: []string{"now {}"}, finish: "calls"}},
		{"thought", "hermes", "<think>\nLet me </thin see.\n</think>\n\nHello\n", "stop", readStart, heard{thought: "Let me </thin see.", text: "Hello\n", finish: "stop"}},
		{"thought that is begun", "hermes", "So.\n\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", "stop", readThought, heard{thought: "So.", calls: []string{"now {}"}, finish: "calls"}},
		{"thought that is cut", "hermes", "<think>\nSo <b", "length", readStart, heard{thought: "So <b", finish: "length"}},
		{"call in a thought", "hermes", "<think>I call <tool_call> then</think>No.", "stop", readStart, heard{thought: "I call <tool_call> then", text: "No.", finish: "stop"}},
		{"no thought", "hermes", " <thin", "stop", readStart, heard{text: " <thin", finish: "stop"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for range 40 {
				r := reader{thought: think, calls: newCallReader(testFormats[tt.format], testTools(t)), state: tt.state}
				chunks := cuts(tt.text, rng)
				if got := hear(r, chunks, tt.finish); fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Fatalf("%q:\n got %+v\nwant %+v", chunks, got, tt.want)
				}
			}
		})
	}
}

// Whatever a grammar of calls lets be written is read back as calls of the tools with arguments that are valid.
func TestCallGrammars(t *testing.T) {
	f := newFake(t)
	for name, format := range testFormats {
		t.Run(name, func(t *testing.T) {
			s, _ := serve(t, f, Options{})
			m := s.models[0]
			m.calls = format
			tools := testTools(t)
			g, _, err := m.callGrammar(t.Context(), "x", tools, true, nil)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for seed := range 10 {
				rng := rand.New(rand.NewPCG(uint64(seed), 3))
				match := g.NewMatcher()
				var text strings.Builder
				for left := 260; left > 0; left-- {
					match.Limit(left)
					bits := match.Allowed()
					var can []int32
					for id := range int32(f.tok.VocabSize()) {
						if bits[id/64]>>(id%64)&1 == 1 {
							can = append(can, id)
						}
					}
					id := int32(-1)
					rng.Shuffle(len(can), func(i, j int) { can[i], can[j] = can[j], can[i] })
					for _, c := range can {
						if match.Fits(c) {
							id = c
							break
						}
					}
					if id < 0 || f.tok.IsEOS(id) {
						break
					}
					match.Accept(id)
					text.Write(f.tok.Bytes(id))
					if match.MayEnd() && rng.IntN(3) == 0 || match.Done() {
						break
					}
				}
				if !match.MayEnd() {
					t.Fatalf("not ended: %q", text.String())
				}
				r := reader{calls: newCallReader(format, tools), state: readText}
				got := hear(r, cuts(strings.ToValidUTF8(text.String(), "?"), rng), "stop")
				if got.finish != "calls" || len(got.calls) == 0 || got.cut != 0 || strings.TrimSpace(got.text) != "" {
					t.Fatalf("%q is read as %+v", text.String(), got)
				}
				for _, c := range got.calls {
					name, args, _ := strings.Cut(c, " ")
					seen[name] = true
					var v map[string]any
					if err := json.Unmarshal([]byte(args), &v); err != nil {
						t.Fatalf("%v: %q of %q", err, args, text.String())
					}
					a, isNumber := v["a"].(float64)
					_, isText := v["note"].(string)
					if name == "add" && (!isNumber || a != float64(int(a)) || a < -99 || a > 99 || !isText) || name == "pick" && v["way"] != "left" && v["way"] != "right" {
						t.Fatalf("%q of %q", args, text.String())
					}
				}
			}
			if len(seen) < 2 {
				t.Errorf("only %v are called", seen)
			}
		})
	}
}
