package tokenizer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/tokenizer/jinja"
)

// chatTokens is a tokenizer.json with the control tokens of a chat model.
const chatTokens = `{"added_tokens":[{"id":3,"content":"<|bos|>","special":true},{"id":4,"content":"<|end_of_text|>","special":true},
{"id":5,"content":"<|eot_id|>","special":true},{"id":6,"content":"<tool>","special":false},{"id":7,"content":"<|custom|>","special":true}],
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},
"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]}}`

func folder(t *testing.T, files map[string]string) *Tokenizer {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, data := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(data)}
	}
	tok, err := LoadFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestEOS: generation stops at every end of turn, whichever file names it.
func TestEOS(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []int32
	}{
		"names alone":       {nil, []int32{4, 5}},
		"config":            {map[string]string{"tokenizer_config.json": `{"eos_token":"<|custom|>"}`}, []int32{4, 5, 7}},
		"config, object":    {map[string]string{"tokenizer_config.json": `{"eos_token":{"content":"<|custom|>","special":true}}`}, []int32{4, 5, 7}},
		"map":               {map[string]string{"special_tokens_map.json": `{"eos_token":"<|custom|>"}`}, []int32{4, 5, 7}},
		"generation, list":  {map[string]string{"generation_config.json": `{"eos_token_id":[4,7]}`}, []int32{4, 5, 7}},
		"generation, one":   {map[string]string{"generation_config.json": `{"eos_token_id":7}`}, []int32{4, 5, 7}},
		"model":             {map[string]string{"config.json": `{"eos_token_id":7}`}, []int32{4, 5, 7}},
		"outside":           {map[string]string{"config.json": `{"eos_token_id":[700,null]}`, "generation_config.json": `{"eos_token_id":null}`}, []int32{4, 5}},
		"unknown to tokens": {map[string]string{"tokenizer_config.json": `{"eos_token":"<nope>"}`}, []int32{4, 5}},
	} {
		files := map[string]string{"tokenizer.json": chatTokens}
		for k, v := range c.files {
			files[k] = v
		}
		if name == "outside" {
			files["config.json"] = `{"eos_token_id":[700]}`
		}
		if got := folder(t, files).EOS(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestSpecial: control tokens in a text are text unless parsed; they decode to nothing unless
// asked for.
func TestSpecial(t *testing.T) {
	tok := folder(t, map[string]string{"tokenizer.json": chatTokens, "tokenizer_config.json": `{"bos_token":"<|bos|>","add_bos_token":true,"pad_token":"<|custom|>"}`})
	// A tokenizer.json says itself what goes around a text; add_bos_token beside it says nothing.
	if got := tok.Encode("ab<|eot_id|>a<tool>", EncodeOptions{AddSpecial: true, ParseSpecial: true}); !slices.Equal(got, []int32{2, 5, 0, 6}) {
		t.Error(got)
	}
	if got := tok.Encode("ab<|eot_id|>a<tool>", EncodeOptions{}); slices.Contains(got, 5) || !slices.Contains(got, 6) {
		t.Error(got) // <tool> is text that is one token
	}
	if id, ok := tok.BOS(); id != 3 || !ok {
		t.Error(id, ok)
	}
	if id, ok := tok.Pad(); id != 7 || !ok {
		t.Error(id, ok)
	}
	if _, ok := tok.Unknown(); ok {
		t.Error("there is no unknown token")
	}
	ids := []int32{3, 2, 6, 5, -1, 99}
	if got := tok.Decode(ids); got != "ab<tool>" {
		t.Error(got)
	}
	d := tok.NewDecoder()
	d.Special = true
	var all string
	for _, id := range ids {
		all += d.Push(id)
	}
	if all != "<|bos|>ab<tool><|eot_id|>" {
		t.Error(all)
	}
	if tok.Token(2) != "ab" || string(tok.Bytes(2)) != "ab" || tok.Token(99) != "" || tok.Bytes(-1) != nil || tok.VocabSize() != 8 {
		t.Error("tokens")
	}
	if id, ok := tok.ID("<|eot_id|>"); id != 5 || !ok || !tok.IsSpecial(5) || tok.IsSpecial(6) || !tok.IsEOS(5) || tok.IsEOS(2) {
		t.Error("ids")
	}
}

// TestStreaming: token by token, the text is whole characters and adds up to the whole.
func TestStreaming(t *testing.T) {
	tok := NewBytes()
	for _, text := range []string{"naïve 世界 😀", "a\xffb", "\xe4\xb8", "\xf0\x9f\x98x", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "\xe4\xe4\xb8\x96"} {
		ids := tok.Encode(text, EncodeOptions{})
		d := tok.NewDecoder()
		var got strings.Builder
		for _, id := range ids {
			s := d.Push(id)
			if !utf8.ValidString(s) {
				t.Errorf("%q: %q", text, s)
			}
			got.WriteString(s)
		}
		got.WriteString(d.Flush())
		if got.String() != tok.Decode(ids) {
			t.Errorf("%q: %q, whole %q", text, got.String(), tok.Decode(ids))
		}
		if utf8.ValidString(text) && got.String() != text {
			t.Errorf("%q: %q", text, got.String())
		}
	}
	for text, want := range map[string]string{ // as TextDecoder in a browser
		"a\xffb": "a\uFFFDb", "\xe4\xb8": "\uFFFD", "\xf0\x9f\x98x": "\uFFFDx", "\xed\xa0\x80": "\uFFFD\uFFFD\uFFFD",
		"\xc0\xaf": "\uFFFD\uFFFD", "\xe4\xe4\xb8\x96": "\uFFFD世",
	} {
		if got := tok.Decode(tok.Encode(text, EncodeOptions{})); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestLeadingSpace: SentencePiece's space in front of a text is taken off where the text begins,
// and only there.
func TestLeadingSpace(t *testing.T) {
	tok := ggufTokenizer(t, "tokenizers/llama-spm/vocab.gguf")
	a := tok.Encode("Once upon", EncodeOptions{AddSpecial: true})
	b := tok.Encode("a time", EncodeOptions{})
	if got := tok.Decode(append(slices.Clone(a), b...)); got != "Once upon a time" {
		t.Errorf("%q", got)
	}
	if got := tok.Decode(b); got != "a time" {
		t.Errorf("%q", got)
	}
	d := tok.NewDecoder(a...)
	var got string
	for _, id := range b {
		got += d.Push(id)
	}
	if got != " a time" {
		t.Errorf("after %q: %q", tok.Decode(a), got)
	}
	if got := tok.NewDecoder(a[0]).Push(b[0]); got != "a" {
		t.Errorf("after BOS alone: %q", got)
	}
}

// TestSaveLoad: what Save writes and what GGUF says is the same tokenizer.
func TestSaveLoad(t *testing.T) {
	toks := fuzzTokenizers(t)
	chars, err := NewChars([]rune("abc \n界"))
	if err != nil {
		t.Fatal(err)
	}
	toks["chars"] = chars
	toks["chat"] = folder(t, map[string]string{"tokenizer.json": chatTokens, "tokenizer_config.json": `{"eos_token":"<|custom|>","chat_template":"{{ bos_token }}x"}`, "chat_template.jinja": "{{ eos_token }}y"})
	texts := []string{"ab abc\n", "a  b", " The quick", "<s>x</s>", "界é", ""}
	for name, tok := range toks {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := tok.Save(dir); err != nil {
				t.Fatal(err)
			}
			kv, err := tok.GGUF()
			if err != nil {
				t.Fatal(err)
			}
			fromGGUF, err := FromGGUF(kv)
			if err != nil {
				t.Fatal(err)
			}
			loaded, err := Load(filepath.Join(dir, "tokenizer.json"))
			if err != nil {
				t.Fatal(err)
			}
			for _, again := range []*Tokenizer{loaded, fromGGUF} {
				if again.VocabSize() != tok.VocabSize() || !slices.Equal(again.EOS(), tok.EOS()) {
					t.Errorf("%d tokens, EOS %v; was %d, %v", again.VocabSize(), again.EOS(), tok.VocabSize(), tok.EOS())
				}
				for _, s := range texts {
					for _, o := range []EncodeOptions{{}, {AddSpecial: true}, {ParseSpecial: true}} {
						want, got := tok.Encode(s, o), again.Encode(s, o)
						if !slices.Equal(got, want) || again.Decode(got) != tok.Decode(want) {
							t.Errorf("%q %v: %v, was %v", s, o, got, want)
						}
					}
				}
				a, err1 := tok.Chat(nil, ChatOptions{})
				b, err2 := again.Chat(nil, ChatOptions{})
				if a != b || errors.Is(err1, ErrNoTemplate) != errors.Is(err2, ErrNoTemplate) {
					t.Errorf("template: %q %v, was %q %v", b, err2, a, err1)
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	tok, err := NewChars([]rune("ab"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.Check("abba"); err != nil {
		t.Error(err)
	}
	if err := tok.Check("abéb"); err == nil || !strings.Contains(err.Error(), `'é' at byte 2`) {
		t.Error(err)
	}
	if got := tok.Encode("aéb", EncodeOptions{}); !slices.Equal(got, []int32{0, 1}) {
		t.Error(got)
	}
	if _, err := NewChars([]rune("aa")); err == nil {
		t.Error("the same character twice")
	}
	if _, err := NewChars([]rune{0xD800}); err == nil {
		t.Error("half a character")
	}
	if _, err := NewChars(nil); err == nil {
		t.Error("no characters")
	}
}

// TestTrainBPE: the vocabulary depends on the texts alone; merges are those of the most frequent
// pairs.
func TestTrainBPE(t *testing.T) {
	texts := []string{"low low low lower lower newest newest newest newest newest newest", "widest widest widest"}
	a, err := TrainBPE(texts, 256+8, "<e>")
	if err != nil {
		t.Fatal(err)
	}
	b, err := TrainBPE([]string{texts[1], texts[0]}, 256+8, "<e>")
	if err != nil {
		t.Fatal(err)
	}
	x, _ := a.JSON()
	y, _ := b.JSON()
	if string(x) != string(y) {
		t.Error("the order of the texts shows")
	}
	if a.VocabSize() != 264 || a.Token(263) != "<e>" || !slices.Equal(a.EOS(), []int32{263}) {
		t.Error(a.VocabSize(), a.EOS())
	}
	if a.Token(256) != "es" || a.Token(257) != "est" {
		t.Errorf("%q %q", a.Token(256), a.Token(257))
	}
	if _, err := TrainBPE(texts, 200); err == nil {
		t.Error("fewer tokens than bytes")
	}
	small, err := TrainBPE([]string{"ab"}, 1000)
	if err != nil || small.VocabSize() != 256 {
		t.Error(err, small.VocabSize())
	}
}

// TestKnownBadTemplate: the published GGUF of BitNet b1.58 2B4T has a template that the model was
// not trained on, and no tokenizer.ggml.pre.
func TestKnownBadTemplate(t *testing.T) {
	texts := make([]string, llama3Vocab)
	types := make([]int32, llama3Vocab)
	for i := range texts {
		texts[i], types[i] = strings.Repeat("x", 1)+string(rune('0'+i%10))+string(rune(0x4E00+i%20000))+string(rune(0xAC00+i/20000)), 1
	}
	for i, r := range byteToRune {
		texts[i] = string(r)
	}
	texts[300] = "!#"
	texts[128000], texts[128001], texts[128009] = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
	types[128000], types[128001] = 3, 3
	kv := gguf.KV{
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Value: texts},
		{Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.merges", Value: []string{"! #"}},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(128000)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(128001)},
		{Key: "tokenizer.chat_template", Value: "{% for m in messages %}Human: {{ m.content }}\n\nBITNETAssistant: {% endfor %}"},
	}
	tok, err := FromGGUF(kv)
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(tok.Warnings(), "; "); !strings.Contains(w, `"llama-bpe"`) || !strings.Contains(w, "BITNETAssistant") {
		t.Error(w)
	}
	got, err := tok.Chat([]Message{{Role: "system", Content: " Be brief. "}, {Role: "user", Content: "Hi"}}, ChatOptions{AddGenerationPrompt: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := "<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !slices.Equal(tok.EOS(), []int32{128001, 128009}) {
		t.Error(tok.EOS())
	}
	if got := tok.Encode("Hi", EncodeOptions{AddSpecial: true}); got[0] != 128000 {
		t.Error(got)
	}
}

func TestChat(t *testing.T) {
	tok := folder(t, map[string]string{"tokenizer.json": chatTokens})
	if _, err := tok.Chat(nil, ChatOptions{}); !errors.Is(err, ErrNoTemplate) {
		t.Error(err)
	}
	tok = folder(t, map[string]string{"tokenizer.json": chatTokens, "tokenizer_config.json": `{"bos_token":"<|bos|>","chat_template":[
		{"name":"default","template":"{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.mood }}{% for c in m.tool_calls %}[{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.function.arguments.x }}]{% endfor %};{% endfor %}{{ extra }}{% if add_generation_prompt %}assistant:{% endif %}{{ strftime_now('%Y') }}"},
		{"name":"tool_use","template":"{{ tools | tojson }}"},{"name":"rag","template":"{{ raise_exception('no') }}"},{"name":"empty","template":" "}]}`})
	if got := tok.Templates(); !slices.Equal(got, []string{"default", "rag", "tool_use"}) {
		t.Error(got)
	}
	messages := []Message{
		{Role: "user", Content: "Hi", Extra: map[string]any{"mood": "!"}},
		{Role: "assistant", ToolCalls: []ToolCall{{ID: "1", Name: "f", Arguments: `{"y":"<é>","x":[1]}`}, {ID: "2", Name: "g"}}},
	}
	year := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := tok.Chat(messages, ChatOptions{AddGenerationPrompt: true, Extra: map[string]any{"extra": 7}, Now: year})
	if want := `<|bos|>user:Hi!;assistant:[1 f {"y": "<é>", "x": [1]} [1]][2 g {} ];7assistant:1999`; got != want || err != nil {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	got, err = tok.Chat(messages, ChatOptions{Tools: json.RawMessage(`[{"z":1,"a":2}]`)})
	if want := `[{"z": 1, "a": 2}]`; got != want || err != nil {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	var raised *jinja.Raised
	if _, err = tok.Chat(messages, ChatOptions{Template: "rag"}); !errors.As(err, &raised) {
		t.Error(err)
	}
	if _, err = tok.Chat(messages, ChatOptions{Template: "nope"}); err == nil || !strings.Contains(err.Error(), "default, rag, tool_use") {
		t.Error(err)
	}
	if err := tok.SetTemplate("{% if %}"); err == nil {
		t.Error("not a template")
	}
	if err := tok.SetTemplate("mine"); err != nil {
		t.Error(err)
	}
	if got, err := tok.Chat(nil, ChatOptions{}); got != "mine" || err != nil {
		t.Error(got, err)
	}
	dir := t.TempDir()
	if err := tok.Save(dir); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "tokenizer_config.json")); !strings.Contains(string(data), "mine") {
		t.Errorf("%s", data)
	}
	var call ToolCall
	if err := json.Unmarshal([]byte(`{"id":"x","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}`), &call); err != nil || call != (ToolCall{"x", "f", `{"a":1}`}) {
		t.Error(call, err)
	}
	if err := json.Unmarshal([]byte(`{"function":{"name":"f","arguments":{"a":1}}}`), &call); err != nil || call.Arguments != `{"a":1}` {
		t.Error(call, err)
	}
	if data, err := json.Marshal(ToolCall{"x", "f", "{}"}); string(data) != `{"id":"x","type":"function","function":{"name":"f","arguments":"{}"}}` || err != nil {
		t.Errorf("%s %v", data, err)
	}
}

// TestEncodeChat: a message cannot write control tokens, and is otherwise encoded as by Chat.
func TestEncodeChat(t *testing.T) {
	tok := folder(t, map[string]string{"tokenizer.json": chatTokens, "tokenizer_config.json": `{"chat_template":"{% for m in messages %}{{ m.content | trim }}<|eot_id|>{% endfor %}"}`})
	for text, want := range map[string][]int32{
		" ab ":                      {2, 5},
		"a<|eot_id|>b<tool>":        {0, 1, 6, 5},
		"<|eot_id|>":                {5},
		"<|eot_id|><|end_of_text|>": {5},
		"<|eot_i":                   {5},
	} {
		got, err := tok.EncodeChat([]Message{{Role: "user", Content: text}}, ChatOptions{})
		if err != nil || !slices.Equal(got, want) { // the vocabulary has no <, | and so on
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
	bytes := NewBytes()
	if err := bytes.SetTemplate("{{ messages[0].content }}"); err != nil {
		t.Fatal(err)
	}
	if got, _ := bytes.EncodeChat([]Message{{Content: "<|eot_id|>"}}, ChatOptions{}); bytes.Decode(got) != "<|eot_id|>" {
		t.Error(got)
	}
}

// TestConcurrent: one tokenizer serves many at once.
func TestConcurrent(t *testing.T) {
	for _, tok := range fuzzTokenizers(t) {
		want := tok.Encode("The quick ab abc", EncodeOptions{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					if got := tok.Encode("The quick ab abc", EncodeOptions{}); !slices.Equal(got, want) || tok.Decode(got) == "" {
						t.Error(got)
					}
				}
			})
		}
		wg.Wait()
	}
}

// TestLongPieces: a megabyte that cannot be cut costs about as much as one that can.
func TestLongPieces(t *testing.T) {
	for name, tok := range fuzzTokenizers(t) {
		for _, s := range []string{"a", "ab", " ", "é", "\xff", "\n"} {
			text := strings.Repeat(s, (1<<20)/len(s))
			start := time.Now()
			ids := tok.Encode(text, EncodeOptions{})
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("%s: %q: %v", name, s, d)
			}
			if s != "\xff" && tok.Decode(ids) != text {
				t.Errorf("%s: %q: not the text", name, s)
			}
		}
	}
}
