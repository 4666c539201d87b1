package tokenizer

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// reference is what tools/reference/tokenizer_formats.py wrote.
func reference(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile("testdata/formats/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// TestFolders: folders with every kind of tokenizer file, and of files beside it, are what transformers
// makes of them; saved and loaded they stay so.
func TestFolders(t *testing.T) {
	var ref struct {
		Shared  map[string]string
		Folders []struct {
			Name      string
			Files     map[string]*string
			Vectors   []vector
			Templates map[string]string
			Special   []int32
			Roles     map[string]int32
		}
	}
	reference(t, "folders.json", &ref)
	for _, f := range ref.Folders {
		t.Run(f.Name, func(t *testing.T) {
			dir := fstest.MapFS{}
			for name, data := range f.Files {
				if data == nil {
					s := ref.Shared[name]
					data = &s
				}
				dir[name] = &fstest.MapFile{Data: []byte(*data)}
			}
			tok, err := LoadFS(dir)
			if err != nil {
				t.Fatal(err)
			}
			check := func(tok *Tokenizer) {
				checkVectors(t, tok, f.Vectors)
				var special []int32
				for id := range int32(tok.VocabSize()) {
					if tok.IsSpecial(id) {
						special = append(special, id)
					}
				}
				// transformers gives names that the vocabulary lacks new ids, which no model has rows for.
				f.Special = slices.DeleteFunc(f.Special, func(id int32) bool { return int(id) >= tok.VocabSize() })
				if !slices.Equal(special, f.Special) {
					t.Errorf("special tokens %v, want %v", special, f.Special)
				}
				if want, ok := f.Roles["bos_token"]; ok && tok.bos != want {
					t.Errorf("BOS %d, want %d", tok.bos, want)
				}
				if want, ok := f.Roles["eos_token"]; ok && tok.end != want {
					t.Errorf("EOS %d, want %d", tok.end, want)
				}
			}
			check(tok)
			want := templates(f.Templates)
			if s := f.Files["chat_template.json"]; s != nil && len(want) == 0 { // AutoTokenizer leaves it to processors
				want = templates{"default": "json"}
			}
			if !maps.Equal(tok.templates, want) {
				t.Errorf("templates %q, want %q", tok.templates, want)
			}
			files, err := tok.Files()
			if err != nil {
				t.Fatal(err)
			}
			saved := fstest.MapFS{}
			for name, data := range files {
				saved[name] = &fstest.MapFile{Data: data}
			}
			two, err := LoadFS(saved)
			if err != nil {
				t.Fatal(err)
			}
			check(two)
			if !maps.Equal(two.templates, tok.templates) {
				t.Errorf("saved templates %q, want %q", two.templates, tok.templates)
			}
		})
	}
}

// TestExpressions: random expressions match as Oniguruma does in Hugging Face tokenizers, and what is
// refused is a repeat of what may match nothing.
func TestExpressions(t *testing.T) {
	var rows [][]any
	reference(t, "patterns.json", &rows)
	behaviorNames := map[string]behavior{
		"isolated": isolated, "removed": removed, "merged_with_previous": mergedWithPrevious,
		"merged_with_next": mergedWithNext, "contiguous": contiguous,
	}
	refused := 0
	for _, r := range rows {
		re, text := r[0].(string), r[3].(string)
		p, err := compilePattern(re)
		if err != nil {
			if refused++; err != errIdleLoop {
				t.Errorf("%s: %v", re, err)
			}
			continue
		}
		var want []string
		for _, s := range r[4].([]any) {
			want = append(want, s.(string))
		}
		if got := (&splitter{p, behaviorNames[r[1].(string)], r[2].(bool)}).split(nil, text, true); !slices.Equal(got, want) {
			t.Errorf("%s (%v, invert %v) in %q: %q, want %q", re, r[1], r[2], text, got, want)
		}
		if got := replacer(p, "-")(text); got != r[5].(string) {
			t.Errorf("%s in %q replaced: %q, want %q", re, text, got, r[5])
		}
	}
	if len(rows) < 300 || refused > len(rows)/10 {
		t.Errorf("%d expressions, %d refused", len(rows), refused)
	}
}

// TestFolderErrors: what is wrong with a folder is one line that names the file and the place.
func TestFolderErrors(t *testing.T) {
	good := map[string]string{"vocab.json": smallVocab, "merges.txt": smallMerges, "tokenizer_config.json": `{"tokenizer_class":"GPT2Tokenizer"}`}
	tekken := map[string]string{"tekken.json": smallTekken}
	for name, c := range map[string]struct {
		files     map[string]string
		file, old string
		new, want string
	}{
		"merge of one":         {good, "merges.txt", "a b\n", "ab\n", `merges.txt: line 2: "ab" is not a pair`},
		"blank line":           {good, "merges.txt", "a b\n", "\n", `merges.txt: line 2: "" is not a pair`},
		"merge of three":       {good, "merges.txt", "a b\n", "a b c\n", "line 2"},
		"merge of unknown":     {good, "merges.txt", "a b\n", "a z\n", `line 2: "a" and "z" merge, but token "z" is not in the vocabulary`},
		"vocabulary":           {good, "vocab.json", `"b":1`, `"b":0`, `vocab.json: tokens "a" and "b" have the same id 0`},
		"vocabulary cut short": {good, "vocab.json", `}`, ``, "vocab.json: unexpected end"},
		"class":                {good, "tokenizer_config.json", "GPT2", "CLIP", `tokenizer_class "CLIPTokenizer"`},
		"no class of ours":     {good, "tokenizer_config.json", `"GPT2Tokenizer"`, `5`, "tokenizer_config.json: tokenizer_class"},
		"token of a number":    {good, "tokenizer_config.json", `{`, `{"eos_token":5,`, "tokenizer_config.json: eos_token: \"5\" is not a token"},
		"tokens of a number":   {good, "tokenizer_config.json", `{`, `{"extra_special_tokens":5,`, "extra_special_tokens is neither"},
		"id without a number":  {good, "tokenizer_config.json", `{`, `{"added_tokens_decoder":{"x":{"content":"y"}},`, `added_tokens_decoder: "x" is not an id`},
		"id taken":             {good, "tokenizer_config.json", `{`, `{"added_tokens_decoder":{"0":{"content":"y"}},`, `tokens "a" and "y" have the same id 0`},
		"no merges":            {map[string]string{"vocab.json": smallVocab}, "vocab.json", "", "", "vocab.json without merges.txt"},
		"no pattern":           {tekken, "tekken.json", `"pattern"`, `"patern"`, "tekken.json: no config.pattern"},
		"broken pattern":       {tekken, "tekken.json", `\\s+`, `(`, `regular expression`},
		"ranks":                {tekken, "tekken.json", `"rank":2,"token_bytes"`, `"rank":7,"token_bytes"`, "vocab[2] is not the token of that rank"},
		"special ranks":        {tekken, "tekken.json", `"rank":2,"token_str"`, `"rank":1,"token_str"`, "special_tokens: rank 1"},
		"special count":        {tekken, "tekken.json", `special_tokens":4`, `special_tokens":2`, "default_num_special_tokens is 2, and 3 have names"},
		"size":                 {tekken, "tekken.json", `vocab_size":9`, `vocab_size":3`, "default_vocab_size is 3"},
		"base64":               {tekken, "tekken.json", `"YQ=="`, `"?"`, "tekken.json: vocab[0]"},
		"twice":                {tekken, "tekken.json", `"Yg=="`, `"YQ=="`, `"a" has ids 4 and 5`},
	} {
		dir := fstest.MapFS{}
		for file, data := range c.files {
			if file == c.file {
				if !strings.Contains(data, c.old) {
					t.Fatalf("%s: nothing to break", name)
				}
				data = strings.Replace(data, c.old, c.new, 1)
			}
			dir[file] = &fstest.MapFile{Data: []byte(data)}
		}
		_, err := LoadFS(dir)
		switch {
		case err == nil:
			t.Errorf("%s: no error", name)
		case !strings.Contains(err.Error(), c.want), strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestNotAFile: what is no file is not waited for.
func TestNotAFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/tokenizer.json", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "tokenizer.json: is a folder") {
		t.Error(err)
	}
}

// TestTrustCases: the small files that ate the machine are read, or refused by name.
func TestTrustCases(t *testing.T) {
	for name, want := range map[string]string{
		"F4-sp-1MB":        "",
		"F4-dec-replace":   "stages of the decoder",
		"F4-norm-replace2": "stages of the normalizer",
		"F4-re-mem":        "pre_tokenizer.pattern: regular expression",
	} {
		_, err := Load(shared(t, "../cases/trust/"+name))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
