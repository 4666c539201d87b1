package tokenizer

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit/gguf"
)

// loadOrRefuse loads a folder; a refusal is of a kind and on one line.
func loadOrRefuse(t *testing.T, files map[string]string) *Tokenizer {
	dir := fstest.MapFS{}
	for name, data := range files {
		if data != "" {
			dir[name] = &fstest.MapFile{Data: []byte(data)}
		}
	}
	tok, err := LoadFS(dir)
	if err != nil {
		if !errors.Is(err, ErrFormat) && !errors.Is(err, errors.ErrUnsupported) {
			if s := err.Error(); !strings.HasPrefix(s, "tokenizer: no tokenizer.json") && !strings.HasPrefix(s, "tokenizer: vocab.json without") {
				t.Fatalf("of no kind: %v", err)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Fatalf("more than a line: %q", err)
		}
		return nil
	}
	return tok
}

// again saves and loads: the tokenizer stays what it is.
func again(t *testing.T, tok *Tokenizer) {
	files, err := tok.Files()
	if err != nil {
		return
	}
	dir := fstest.MapFS{}
	for name, data := range files {
		dir[name] = &fstest.MapFile{Data: data}
	}
	two, err := LoadFS(dir)
	if err != nil {
		t.Fatalf("what was read cannot be written and read again: %v\n%s", err, files["tokenizer.json"])
	}
	for _, s := range []string{"Hello  world\n", "<s>a<e>", "naïve 世界", "ab abc aab"} {
		for _, o := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
			if a, b := tok.Encode(s, o), two.Encode(s, o); !slices.Equal(a, b) {
				t.Fatalf("%q: %v, saved and loaded %v\n%s", s, a, b, files["tokenizer.json"])
			}
		}
	}
}

const (
	smallVocab  = `{"a":0,"b":1,"ab":2,"Ġ":3,"Ġa":4,"<|endoftext|>":5,"Ã":6,"©":7,"Ã©":8}`
	smallMerges = "#version: 0.2\na b\nĠ a\nÃ ©\n"
	smallTekken = `{"config":{"pattern":"\\s+|\\w+|.","default_vocab_size":9,"default_num_special_tokens":4},"special_tokens":[{"rank":0,"token_str":"<unk>","is_control":true},{"rank":1,"token_str":"<s>","is_control":true},{"rank":2,"token_str":"</s>","is_control":true}],"vocab":[{"rank":0,"token_bytes":"YQ==","token_str":"a"},{"rank":1,"token_bytes":"Yg=="},{"rank":2,"token_bytes":"YWI="},{"rank":3,"token_bytes":"IA=="},{"rank":4,"token_bytes":"w6k="},{"rank":5,"token_bytes":"/w=="}]}`
)

// FuzzVocabMerges: vocab.json and merges.txt under the classes of tokenizers.
func FuzzVocabMerges(f *testing.F) {
	for _, class := range []string{"", "GPT2Tokenizer", "Qwen2TokenizerFast", "Qwen3_5Tokenizer", "CLIPTokenizer"} {
		f.Add(smallVocab, smallMerges, class, `{"<s>":9}`)
	}
	f.Add(`{"a":0}`, "", "GPT2Tokenizer", "")
	f.Add(`{"a":0,"\u0120b":1}`, "a  b\r\n", "GPT2Tokenizer", `{"a":0,"x":1}`)
	f.Fuzz(func(t *testing.T, vocab, merges, class, added string) {
		config, _ := json.Marshal(map[string]any{"tokenizer_class": class, "additional_special_tokens": []string{"<s>"}})
		if tok := loadOrRefuse(t, map[string]string{"vocab.json": vocab, "merges.txt": merges, "tokenizer_config.json": string(config), "added_tokens.json": added}); tok != nil {
			exercise(t, tok)
			again(t, tok)
		}
	})
}

// FuzzTekken: Mistral's tekken.json.
func FuzzTekken(f *testing.F) {
	f.Add(smallTekken, "")
	f.Add(strings.Replace(smallTekken, `"special_tokens":`, `"specials":`, 1), `{"add_bos_token":false,"bos_token":"[INST]"}`)
	f.Add(strings.Replace(smallTekken, `"rank":1,"token_str":"<s>"`, `"rank":0,"token_str":"<s>"`, 1), `{"add_eos_token":true}`)
	f.Fuzz(func(t *testing.T, data, config string) {
		if tok := loadOrRefuse(t, map[string]string{"tekken.json": data, "tokenizer_config.json": config}); tok != nil {
			exercise(t, tok)
			again(t, tok)
		}
	})
}

// FuzzGGUFTokenizer: the tokenizer in a GGUF file's metadata. tokens and merges are a line each, types
// a digit each, and a token's score is its place.
func FuzzGGUFTokenizer(f *testing.F) {
	f.Add("gpt2", "gpt-2", "a\nb\nab\nĠ\n<s>", "11113", "a b", uint32(4), uint32(4), "{{ bos_token }}{{ messages[0].content }}")
	f.Add("gpt2", "", "a\nb", "11", "", uint32(0), uint32(9), "")
	f.Add("llama", "default", "<unk>\n<s>\n</s>\n▁\na\n▁a\n<0x41>\n▁▁\nab", "233111641", "", uint32(1), uint32(2), "BITNETAssistant")
	f.Add("llama", "", "<unk>\n▁\n▁▁\n▁▁▁\naa\naaaa\nb", "2114111", "", uint32(1), uint32(2), "")
	f.Fuzz(func(t *testing.T, model, pre, tokens, types, merges string, bos, eos uint32, template string) {
		var kv gguf.KV
		list := strings.Split(tokens, "\n")
		scores := make([]float32, len(list))
		kinds := make([]int32, len(list))
		for i := range list {
			scores[i] = -float32(i)
			kinds[i] = 1
			if i < len(types) {
				kinds[i] = int32(types[i]) - '0'
			}
		}
		kv.Set("tokenizer.ggml.model", model)
		if pre != "" {
			kv.Set("tokenizer.ggml.pre", pre)
		}
		kv.Set("tokenizer.ggml.tokens", list)
		kv.Set("tokenizer.ggml.token_type", kinds)
		kv.Set("tokenizer.ggml.scores", scores)
		if merges != "" {
			kv.Set("tokenizer.ggml.merges", strings.Split(merges, "\n"))
		}
		kv.Set("tokenizer.ggml.bos_token_id", bos)
		kv.Set("tokenizer.ggml.eos_token_id", eos)
		kv.Set("tokenizer.chat_template", template)
		tok, err := FromGGUF(kv)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than a line: %q", err)
			}
			return
		}
		exercise(t, tok)
		if out, err := tok.GGUF(); err == nil {
			two, err := FromGGUF(out)
			if err != nil {
				t.Fatalf("what was read cannot be written and read again: %v", err)
			}
			for _, s := range []string{"Hello  world\n", "<s>a<e>", "naïve 世界", "ab abc aab"} {
				if a, b := tok.Encode(s, EncodeOptions{AddSpecial: true}), two.Encode(s, EncodeOptions{AddSpecial: true}); !slices.Equal(a, b) {
					t.Fatalf("%q: %v, written and read %v", s, a, b)
				}
			}
		}
	})
}

// FuzzFolder: the files beside a vocabulary: configuration, special tokens, added tokens, chat
// templates.
func FuzzFolder(f *testing.F) {
	f.Add(`{"bos_token":"<e>","eos_token":{"content":"b","lstrip":true},"pad_token":null,"added_tokens_decoder":{"4":{"content":"<e>","special":true,"rstrip":true},"7":{"content":"new"}}}`,
		``, ``, `{"eos_token_id":[4,1]}`, `{"model_type":"llama","bos_token_id":4}`, ``)
	f.Add(`{"tokenizer_class":"LlamaTokenizerFast","add_bos_token":true}`, `{"eos_token":"<e>","additional_special_tokens":["ab",{"content":"c"}]}`, `{"x y":5,"<e>":4}`, ``, ``, `{"chat_template":"{{ messages }}"}`)
	f.Add(`{"chat_template":[{"name":"default","template":"a"},{"name":"tool_use","template":"b"}],"extra_special_tokens":{"image_token":"<i>"}}`, ``, `{"<i>":6}`, `{"eos_token_id":null}`, `{}`, `{"chat_template":{"default":"{{ 1 }}"}}`)
	f.Fuzz(func(t *testing.T, config, special, added, generation, model, template string) {
		for _, base := range []map[string]string{{"tokenizer.json": small}, {"vocab.json": smallVocab, "merges.txt": smallMerges}} {
			files := map[string]string{
				"tokenizer_config.json": config, "special_tokens_map.json": special, "added_tokens.json": added,
				"generation_config.json": generation, "config.json": model, "chat_template.json": template,
			}
			for name, data := range base {
				files[name] = data
			}
			tok := loadOrRefuse(t, files)
			if tok == nil {
				continue
			}
			exercise(t, tok)
			again(t, tok)
			if text, err := tok.Chat([]Message{{Role: "user", Content: "hi"}}, ChatOptions{}); err == nil && utf8.ValidString(config) && len(text) > 1<<25 {
				t.Fatalf("%d bytes", len(text))
			}
		}
	})
}

// FuzzChat: any template with any messages ends soon, and only the template writes control tokens.
func FuzzChat(f *testing.F) {
	f.Add(`{% for m in messages %}<e>{{ m.role }}: {{ m.content }}{% endfor %}`, `[{"role":"user","content":"a<e>b"}]`)
	f.Add(`{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}`, `[{"role":"user","content":"ab"}]`)
	f.Add(`{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}`,
		`[{"role":"assistant","content":"","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"a\":[1,2]}"}}]},{"role":"tool","content":"x","tool_call_id":"1"}]`)
	f.Add(`{{ raise_exception('no') }}`, `[]`)
	f.Fuzz(func(t *testing.T, template, messages string) {
		var list []Message
		if json.Unmarshal([]byte(messages), &list) != nil {
			return
		}
		tok, err := FromJSON([]byte(small), nil)
		if err != nil {
			t.Fatal(err)
		}
		if tok.SetTemplate(template) != nil {
			return
		}
		start := time.Now()
		text, err := tok.Chat(list, ChatOptions{AddGenerationPrompt: true, Tools: []any{map[string]any{"name": "f"}}})
		ids, err2 := tok.EncodeChat(list, ChatOptions{AddGenerationPrompt: true})
		if d := time.Since(start); d > 30*time.Second {
			t.Fatalf("%v", d)
		}
		if err == nil && len(text) > 1<<25 {
			t.Fatalf("%d bytes", len(text))
		}
		if err2 == nil && !strings.Contains(template, "<e>") && !strings.ContainsAny(template, `<>'"~+|`) && slices.Contains(ids, 4) {
			t.Fatalf("a message has written a control token: %v", ids)
		}
	})
}

// FuzzDefinitions: what is done fast is what its definition says: added tokens, halves of tokens,
// merging long pieces.
func FuzzDefinitions(f *testing.F) {
	f.Add("ab\na\nb\nabc\nc\nbc\naa\naaaa", "aabcabaaaab")
	f.Add(" \n  \n<e>\n<e\ne>", "a  <e> <ee>   ")
	f.Fuzz(func(t *testing.T, words, text string) {
		if len(words) > 200 || len(text) > 400 {
			t.Skip()
		}
		var toks []AddedToken
		seen := map[string]bool{}
		for i, w := range strings.Split(words, "\n") {
			if w != "" && !seen[w] {
				seen[w] = true
				toks = append(toks, AddedToken{ID: int32(i), Content: w, Special: i%3 == 0, SingleWord: i%5 == 1, LStrip: i%7 == 2, RStrip: i%4 == 3})
			}
		}
		if len(toks) == 0 {
			return
		}
		m, err := newMatcher(toks, func(a AddedToken) string { return a.Content })
		if err != nil {
			t.Fatal(err)
		}
		for _, special := range []bool{false, true} {
			got := m.find(text, special)
			for i := range len(text) {
				want := -1
				for k, a := range toks {
					if strings.HasPrefix(text[i:], a.Content) && (special || !a.Special) && (want < 0 || len(a.Content) > len(toks[want].Content)) {
						want = k
					}
				}
				have := -1
				for _, g := range got {
					if int(g.at) == i {
						have = int(g.tok)
					}
				}
				if have != want {
					t.Fatalf("%q in %q at %d: %d, want %d", words, text, i, have, want)
				}
			}
			at := 0
			for _, frag := range m.cut(nil, text, special) {
				if !strings.HasPrefix(text[at:], frag.text) {
					t.Fatalf("%q in %q: %q at %d", words, text, frag.text, at)
				}
				at += len(frag.text)
			}
			if at != len(text) {
				t.Fatalf("%q in %q: ends at %d", words, text, at)
			}
		}

		// Halves, and the merges that they give, by which text is merged in both ways.
		texts := make([]string, 0, 256+len(toks))
		for b := range 256 {
			texts = append(texts, string([]byte{byte(b)}))
		}
		for _, a := range toks {
			if len(a.Content) > 1 {
				texts = append(texts, a.Content)
			}
		}
		ids := map[string]int32{}
		for i, s := range texts {
			ids[s] = int32(i)
		}
		var got, want [][3]int32
		halves(texts)(func(l, r, w int32) bool {
			got = append(got, [3]int32{l, r, w})
			return true
		})
		for w, s := range texts {
			for i := len(s) - 1; i > 0; i-- {
				l, ok := ids[s[:i]]
				if r, ok2 := ids[s[i:]]; ok && ok2 {
					want = append(want, [3]int32{l, r, int32(w)})
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("halves of %q: %v, want %v", words, got, want)
		}
		table, err := mergeHalves(texts, func(w int32) int32 { return int32(len(texts[w])) })
		if err != nil {
			t.Fatal(err)
		}
		var a, b scratch
		for i := range len(text) {
			a.sym = append(a.sym, int32(text[i]))
		}
		b.sym = slices.Clone(a.sym)
		a.mergeShort(table)
		b.mergeLong(table)
		if !slices.Equal(a.sym, b.sym) {
			t.Fatalf("%q by %q: %v, with a heap %v", text, words, a.sym, b.sym)
		}
	})
}
