package tokenizer

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tritlm/trit/gguf"
)

// small is a tokenizer.json that the cases below break in one place each.
const small = `{"version":"1.0","added_tokens":[{"id":4,"content":"<e>","special":true}],"normalizer":null,
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<e>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{"<e>":{"id":"<e>","ids":[4],"tokens":["<e>"]}}},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"c":3},"merges":["a b"]}}`

func TestSmall(t *testing.T) {
	tok, err := FromJSON([]byte(small), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("abc<e>", EncodeOptions{AddSpecial: true, ParseSpecial: true}); len(got) != 4 || tok.Decode(got) != "abc" {
		t.Fatal(got)
	}
}

// TestBrokenJSON: each defect is one line that names the file and the place.
func TestBrokenJSON(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"truncated":            {small[200:], "", "unexpected end"},
		"no model":             {`"model":`, `"molde":`, `no "model"`},
		"empty vocabulary":     {`{"a":0,"b":1,"ab":2,"c":3}`, `{}`, "vocabulary is empty"},
		"no vocabulary":        {`"vocab":{"a":0,"b":1,"ab":2,"c":3},`, ``, "model.vocab is not an object"},
		"duplicate id":         {`"b":1`, `"b":0`, `"a" and "b" have the same id 0`},
		"duplicate token":      {`"b":1`, `"b":1,"a":9`, `"a" has ids 0 and 9`},
		"negative id":          {`"b":1`, `"b":-1`, `"b" has no id`},
		"id of a fraction":     {`"b":1`, `"b":1.5`, `"b" has no id`},
		"huge id":              {`"b":1`, `"b":2000000000`, "there are 4 tokens"},
		"id past 32 bits":      {`"b":1`, `"b":99999999999`, `"b" has no id`},
		"merge of unknown":     {`["a b"]`, `["a x"]`, `merges[0]: "a" and "x" merge, but token "x"`},
		"merge into unknown":   {`["a b"]`, `["b c"]`, `token "bc" is not in the vocabulary`},
		"merge of one":         {`["a b"]`, `["ab"]`, "merges[0] is not a pair"},
		"merge of three":       {`["a b"]`, `[["a","b","c"]]`, "merges[0] is not a pair"},
		"merges of numbers":    {`["a b"]`, `[1,2]`, "merges[0] is not a pair"},
		"merges an object":     {`["a b"]`, `{"a":"b"}`, "merges is not a list"},
		"added without text":   {`"content":"<e>","special"`, `"content":"","special"`, "added_tokens[0] (id 4) is empty"},
		"added on another":     {`"id":4,"content"`, `"id":0,"content"`, `"a" and "<e>" have the same id 0`},
		"added far away":       {`"id":4,"content"`, `"id":900000000,"content"`, `"<e>" has id 900000000`},
		"added negative":       {`"id":4,"content"`, `"id":-4,"content"`, `"<e>" has id -4`},
		"post of unknown":      {`"ids":[4]`, `"ids":[77]`, "no token has id 77"},
		"post without ids":     {`"special_tokens":{"<e>"`, `"special_tokens":{"<f>"`, `"<e>" has no ids`},
		"unknown model":        {`"type":"BPE"`, `"type":"WordPiece"`, `model of type "WordPiece"`},
		"unknown stage":        {`"type":"ByteLevel","add`, `"type":"Frobnicate","add`, `pre_tokenizer of type "Frobnicate"`},
		"unknown decoder":      {`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"CTC"}`, `decoder of type "CTC"`},
		"unknown normalizer":   {`"normalizer":null`, `"normalizer":{"type":"Nmt2"}`, `normalizer of type "Nmt2"`},
		"broken expression":    {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"}`, `regular expression "(a"`},
		"back reference":       {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated"}`, "back reference"},
		"unknown behavior":     {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"a"},"behavior":"Isloated"}`, `behavior "Isloated"`},
		"dropout":              {`"vocab"`, `"dropout":0.1,"vocab"`, "dropout 0.1"},
		"unknown unknown":      {`"vocab"`, `"unk_token":"<u>","vocab"`, `unk_token "<u>" is not in the vocabulary`},
		"not UTF-8":            {`"c":3`, "\"\xff\":3", "not UTF-8"},
		"stages without end":   {`"normalizer":null`, `"normalizer":` + strings.Repeat(`{"type":"Sequence","normalizers":[`, 500) + strings.Repeat(`]}`, 500), "nested too deeply"},
		"wrong kind":           {`"added_tokens":[`, `"added_tokens":5,"x":[`, "tokenizer.json"},
		"growing normalizer":   {`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"Replace","pattern":{"String":"l"},"content":"ll"},`, 30), ",") + `]}`, "can make a text 1.07e+09 times as long"},
		"growing by turns":     {`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"bb"},{"type":"Replace","pattern":{"Regex":"b|x"},"content":"aa"},`, 9), ",") + `]}`, "times as long"},
		"growing in between":   {`"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"Regex":"x*"},"content":"` + strings.Repeat("p", 40) + `"}`, "can make a text 81 times as long"},
		"growing in front":     {`"normalizer":null`, `"normalizer":{"type":"Prepend","prepend":"` + strings.Repeat("p", 100) + `"}`, "can make a text 101 times as long"},
		"growing decoder":      {`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"e"},"content":"eee"},{"type":"Replace","pattern":{"String":"e"},"content":"eee"}]}`, "stages of the decoder can make a text 9 times as long"},
		"many stages":          {`"pre_tokenizer":`, `"pre_tokenizer":{"type":"Sequence","pretokenizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"Digits"},`, 40), ",") + `]},"x":`, "of more than 32 stages"},
		"bytes of bytes":       {`"pre_tokenizer":`, `"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"ByteLevel"},{"type":"Digits"}]},"x":`, "bytes written as characters twice"},
		"long delimiter":       {`"pre_tokenizer":`, `"pre_tokenizer":{"type":"CharDelimiterSplit","delimiter":"ab"},"x":`, `delimiter "ab" is not one character`},
		"long replacement":     {`"pre_tokenizer":`, `"pre_tokenizer":{"type":"Metaspace","replacement":"__"},"x":`, `replacement "__" is not one character`},
		"repeat of nothing":    {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"(a*|b)*c"},"behavior":"Isolated"}`, "a repeat of what may match nothing"},
		"long alternatives":    {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"(?:(?:a|b|aa|ab|ba|bb){300}c|(?:a|b|aa){500}d)|(?:a|b)*e"},"behavior":"Isolated"}`, "too large"},
		"around a text":        {`"single":[`, `"single":[` + strings.Repeat(`{"SpecialToken":{"id":"<e>","type_id":0}},`, 70), "more than 64 tokens around a text"},
		"expression too large": {`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"Regex":"((((a{1000}){1000}){1000}))"},"behavior":"Isolated"}`, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(small, c.old) {
				t.Fatal("nothing to break")
			}
			_, err := FromJSON([]byte(strings.Replace(small, c.old, c.new, 1)), nil)
			check(t, err, c.want)
		})
	}
}

func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil:
		t.Fatal("no error")
	case !errors.Is(err, ErrFormat) && !errors.Is(err, errors.ErrUnsupported):
		t.Errorf("of no kind: %v", err)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%v, want %q", err, want)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("more than a line: %v", err)
	case len(err.Error()) > 1200:
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}

func TestBrokenTiktoken(t *testing.T) {
	for data, want := range map[string]string{
		"YQ== 0\nYg==\n":        "line 2: not a token",
		"YQ== 0\n??? 1\n":       "line 2",
		"YQ== 0\nYg== 0\n":      "rank 0 for a second time",
		"YQ== 0\nYQ== 1\n":      `"a" has ids 0 and 1`,
		"YQ== 0\nYg== 999999\n": "rank 999999, but there are 3",
		"YQ== 0\nYg== -1\n":     `rank "-1"`,
	} {
		_, err := FromTiktoken([]byte(data), nil)
		check(t, err, want)
	}
	_, err := FromTiktoken(nil, nil)
	check(t, err, "vocabulary is empty")
	_, err = FromTiktoken([]byte("YQ== 0\n"), []string{"a"})
	check(t, err, `"a" has ids 0 and 1`)
}

func TestBrokenSentencePiece(t *testing.T) {
	const (
		a   = "\x0a\x03\x0a\x01a" // piece "a"
		bpe = "\x12\x02\x18\x02"  // trainer_spec: model_type 2
	)
	if _, err := FromSentencePiece([]byte(a + bpe)); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		bpe:                               "vocabulary is empty",
		bpe + "\x0a\xff\xff\xff\xff\x0f":  "ends past the data",
		bpe + "\x0a\x03\x0a\x01":          "ends past the data",
		bpe + "\x0a\x03\x0a\x01\xff":      "not text",
		bpe + "\x0f":                      "wire type 7",
		bpe + "\x0a\x05\x0a\x01a\x18\x09": "piece 0 has type 9",
		bpe + "\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f": "no score",
		bpe + a + a:                   `"a" has ids 0 and 1`,
		a:                             "model of type 1",
		a + "\x12\x02\x18\x03":        "model of type 3",
		a + bpe + "\x1a\x03\x12\x01x": "normalizes characters",
	} {
		_, err := FromSentencePiece([]byte(data))
		check(t, err, want)
	}
}

func TestBrokenGGUF(t *testing.T) {
	good := gguf.KV{
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "gpt-2"},
		{Key: "tokenizer.ggml.tokens", Value: []string{"a", "b", "ab"}},
		{Key: "tokenizer.ggml.token_type", Value: []int32{1, 1, 1}},
		{Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
	}
	if _, err := FromGGUF(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key   string
		value any
		want  string
	}{
		"no tokenizer":    {"tokenizer.ggml.model", nil, "no tokenizer.ggml.model"},
		"unknown model":   {"tokenizer.ggml.model", "bert", `tokenizer.ggml.model "bert"`},
		"no scores":       {"tokenizer.ggml.model", "llama", "scores is missing"},
		"unknown cutting": {"tokenizer.ggml.pre", "superbpe", `pre-tokenizer "superbpe"`},
		"no tokens":       {"tokenizer.ggml.tokens", nil, "vocabulary is empty"},
		"empty":           {"tokenizer.ggml.tokens", []string{}, "vocabulary is empty"},
		"numbers":         {"tokenizer.ggml.tokens", []int32{1}, "tokenizer.ggml.tokens"},
		"duplicate":       {"tokenizer.ggml.tokens", []string{"a", "a", "ab"}, `"a" has ids 0 and 1`},
		"types short":     {"tokenizer.ggml.token_type", []int32{1}, "3 tokens but 1 token types"},
		"type unknown":    {"tokenizer.ggml.token_type", []int32{1, 1, 9}, "token 2 has type 9"},
		"merge unknown":   {"tokenizer.ggml.merges", []string{"a z"}, "merges[0]"},
		"merge of one":    {"tokenizer.ggml.merges", []string{"ab"}, "merges[0]"},
		"scores short":    {"tokenizer.ggml.scores", []float32{1}, "3 tokens but 1 scores"},
		"bos a word":      {"tokenizer.ggml.bos_token_id", "a", "tokenizer.ggml.bos_token_id"},
	} {
		t.Run(name, func(t *testing.T) {
			var kv gguf.KV
			for _, p := range good {
				if p.Key != c.key {
					kv = append(kv, p)
				}
			}
			if c.value != nil {
				kv.Set(c.key, c.value)
			}
			_, err := FromGGUF(kv)
			check(t, err, c.want)
		})
	}
}

func TestBrokenFolder(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	if _, err := LoadFS(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "no tokenizer.json") {
		t.Error(err)
	}
	for name, data := range map[string]string{
		"tokenizer_config.json":   `{"chat_template":5}`,
		"special_tokens_map.json": `[`,
		"generation_config.json":  `{"eos_token_id":"x"}`,
		"config.json":             `x`,
	} {
		_, err := LoadFS(fstest.MapFS{"tokenizer.json": file(small), name: file(data)})
		check(t, err, name)
	}
}
