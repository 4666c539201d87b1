package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Metadata is the key-value part of a GGUF file; gguf.KV is one. Get returns nil for a key that
// is not there.
type Metadata interface{ Get(key string) any }

// preTokenizers are the values of tokenizer.ggml.pre: the expressions that cut the text one after
// the other, and what else the name stands for. Names that share an entry are aliases; the first
// one is written.
//
// Source: llama.cpp src/llama-vocab.cpp, with the expressions as the models' own files have them.
var preTokenizers = []struct {
	names  []string
	split  []string
	whole  bool // a piece that is a token is not cut further
	addBOS bool // unless the file says otherwise
}{
	{names: []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0"}, split: []string{reLlama3}, whole: true, addBOS: true},
	{names: []string{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, split: []string{reLlama3}},
	{names: []string{"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open", "kormo", "f2llmv2"}, split: []string{reQwen2}},
	{names: []string{"qwen35"}, split: []string{`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: []string{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "modern-bert"}, split: []string{reGPT2}},
	{names: []string{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}, split: []string{`\p{N}`, reGPT2}},
	{names: []string{"falcon"}, split: []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", reGPT2, `[0-9][0-9][0-9]`}},
	{names: []string{"default"}, split: []string{`[\p{P}\$\+<=>\^~\|]+`, reGPT2, `\p{N}+`, `[0-9][0-9][0-9]`}},
	{names: []string{"tekken"}, split: []string{`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`}, whole: true, addBOS: true},
	{names: []string{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, split: []string{`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: []string{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, split: []string{`\p{N}{1,3}`, `[一-龥぀-ゟ゠-ヿ]+`, "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
	{names: []string{"minicpm5"}, split: []string{`\p{N}{1,3}`, `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`}},
	{names: []string{"viking"}, split: []string{` ?[^(\s|.,!?…。，、।۔،)]+`, `\p{N}`}},
	{names: []string{"bloom", "poro-chat", "gpt3-finnish"}, split: []string{` ?[^(\s|.,!?…。，、।۔،)]+`}},
}

// llama3Vocab is the vocabulary size of Llama 3 and of BitNet b1.58 2B4T, whose published GGUF
// files lack tokenizer.ggml.pre.
const llama3Vocab = 128256

// FromGGUF reads the tokenizer in a GGUF file's metadata: tokenizer.ggml.model "gpt2" (byte-level
// BPE) or "llama" (SentencePiece BPE), and the chat templates.
func FromGGUF(kv Metadata) (*Tokenizer, error) {
	const what = "GGUF"
	var model string
	if !kvString(kv, "tokenizer.ggml.model", &model) {
		return nil, bad("%s: no tokenizer.ggml.model: the file has no tokenizer; pass one with the model's Hugging Face folder", what)
	}
	texts, ok := kv.Get("tokenizer.ggml.tokens").([]string)
	if !ok || len(texts) == 0 {
		return nil, bad("%s: tokenizer.ggml.tokens is not a list of tokens", what)
	}
	types, typed := kvInts(kv, "tokenizer.ggml.token_type")
	if typed && len(types) != len(texts) {
		return nil, bad("%s: %d tokens but %d token types", what, len(texts), len(types))
	}
	scores, scored := kvFloats(kv, "tokenizer.ggml.scores")
	if scored && len(scores) != len(texts) {
		return nil, bad("%s: %d tokens but %d scores", what, len(texts), len(scores))
	}
	p := &parts{what: what, tokens: make([]token, len(texts))}
	special := map[int32]bool{}
	for _, key := range []string{"bos", "eos", "eot", "eom"} {
		if id, ok := kvInt(kv, "tokenizer.ggml."+key+"_token_id"); ok {
			special[int32(id)] = true
		}
	}
	for i, s := range texts {
		tok := token{text: s, kind: normal}
		if typed {
			if tok.kind, ok = kindOf(types[i]); !ok {
				return nil, bad("%s: token %d has type %d", what, i, types[i])
			}
		}
		if scored {
			if tok.score = scores[i]; math.IsNaN(float64(tok.score)) {
				return nil, bad("%s: token %d has no score", what, i)
			}
		}
		// Files are known to give ends of turn the type of text.
		if tok.kind != unknown && (special[int32(i)] || slices.Contains(endOfTurn, s)) {
			tok.kind = control
		}
		if s == "" {
			tok.kind = unused
		}
		p.tokens[i] = tok
		p.placeKind(int32(i), &p.tokens[i])
	}

	addBOS, addEOS := false, false
	var warnings []string
	switch model {
	case "llama":
		if !scored {
			return nil, bad("%s: tokenizer.ggml.scores is missing", what)
		}
		addBOS = true
		prefixSpace, trim := true, false
		kvBool(kv, "tokenizer.ggml.add_space_prefix", &prefixSpace)
		kvBool(kv, "tokenizer.ggml.remove_extra_whitespaces", &trim)
		p.spmStages(prefixSpace, trim)
	case "gpt2":
		p.flags.Unk = nil
		var pre string
		if !kvString(kv, "tokenizer.ggml.pre", &pre) {
			pre = "default"
			if len(texts) == llama3Vocab {
				pre = "llama-bpe"
			}
			warnings = append(warnings, fmt.Sprintf("the file does not name its pre-tokenizer (tokenizer.ggml.pre); taking %q, by its vocabulary of %d tokens", pre, len(texts)))
		}
		found := false
		for _, e := range preTokenizers {
			if slices.Contains(e.names, pre) {
				p.byteLevelStages(e.split...)
				p.flags.IgnoreMerges, addBOS, found = e.whole, e.addBOS, true
			}
		}
		if !found {
			return nil, unsupported("%s: pre-tokenizer %s (tokenizer.ggml.pre); known: %s; the model's tokenizer.json may help", what, shorten(pre), preNames())
		}
		merges, _ := kv.Get("tokenizer.ggml.merges").([]string)
		p.merges = func(_ []string, index *stringIndex) (*pairTable, error) {
			return textMerges(merges, index)
		}
	default:
		return nil, unsupported("%s: tokenizer.ggml.model %s; \"gpt2\" and \"llama\" are read", what, shorten(model))
	}
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	t.warnings = warnings

	id := func(name string) int32 {
		if v, ok := kvInt(kv, "tokenizer.ggml."+name+"_token_id"); ok && v >= 0 && v < int64(len(t.tokens)) {
			return int32(v)
		}
		return -1
	}
	t.bos = id("bos")
	if v := id("unknown"); v >= 0 {
		t.unk = v
	}
	t.pad = id("padding")
	if model == "llama" { // the defaults of SentencePiece
		if t.bos < 0 && t.Token(1) == "<s>" {
			t.bos = 1
		}
		if t.Token(2) == "</s>" && id("eos") < 0 {
			t.eos = append(t.eos, 2)
		}
	}
	var ends []int32
	for _, name := range []string{"eos", "eot", "eom"} {
		if v := id(name); v >= 0 {
			ends = append(ends, v)
		}
	}
	kvBool(kv, "tokenizer.ggml.add_bos_token", &addBOS)
	kvBool(kv, "tokenizer.ggml.add_eos_token", &addEOS)
	t.before, t.after = nil, nil
	if addBOS && t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	if v := id("eos"); addEOS && v >= 0 {
		t.after = []int32{v}
	}
	t.setEOS(ends...)
	t.ggufTemplates(kv)
	return t, nil
}

// badTemplate marks the template in the published GGUF of BitNet b1.58 2B4T, which is not the one
// that the model was trained on.
const badTemplate = "BITNETAssistant"

// templateBitNet is the chat template of BitNet b1.58 2B4T: "User: …<|eot_id|>Assistant: ".
const templateBitNet = `{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}` +
	`{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}` +
	`{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}`

func (t *Tokenizer) ggufTemplates(kv Metadata) {
	var s string
	list := templates{}
	if kvString(kv, "tokenizer.chat_template", &s) && strings.TrimSpace(s) != "" {
		if strings.Contains(s, badTemplate) {
			s = templateBitNet
			t.warnings = append(t.warnings, "the file's chat template (Human, BITNETAssistant) is not the one this model was trained on; using the model card's (User, Assistant)")
		}
		list["default"] = s
	}
	names, _ := kv.Get("tokenizer.chat_templates").([]string)
	for _, name := range names {
		if kvString(kv, "tokenizer.chat_template."+name, &s) && strings.TrimSpace(s) != "" {
			list[name] = s
		}
	}
	if len(list) > 0 {
		t.templates = list
	}
}

func preNames() string {
	var names []string
	for _, e := range preTokenizers {
		names = append(names, e.names...)
	}
	return strings.Join(names, ", ")
}

// textMerges reads "a b" merges; a merge's rank is its position.
func textMerges(merges []string, index *stringIndex) (*pairTable, error) {
	table := newPairTable(len(merges))
	for rank, s := range merges {
		// The first character is never the separator, so that a token may be a space.
		cut := -1
		if s != "" {
			cut = strings.IndexByte(s[1:], ' ') + 1
		}
		if cut < 1 {
			return nil, bad("GGUF: tokenizer.ggml.merges[%d] %s is not a pair of tokens", rank, shorten(s))
		}
		if err := table.merge(index, s[:cut], s[cut+1:], "", int32(rank)); err != nil {
			return nil, bad("GGUF: tokenizer.ggml.merges[%d]: %w", rank, err)
		}
	}
	return table, nil
}

// merge enters the merge of two tokens by their texts.
func (t *pairTable) merge(index *stringIndex, left, right, prefix string, rank int32) error {
	var ids [3]int32
	for i, s := range []string{left, right, left + strings.TrimPrefix(right, prefix)} {
		id, ok := index.find(s)
		if !ok {
			return fmt.Errorf("%s and %s merge, but token %s is not in the vocabulary", shorten(left), shorten(right), shorten(s))
		}
		ids[i] = id
	}
	t.put(ids[0], ids[1], rank, ids[2])
	return nil
}

func kvString(kv Metadata, key string, dst *string) bool {
	s, ok := kv.Get(key).(string)
	if ok {
		*dst = s
	}
	return ok
}

func kvBool(kv Metadata, key string, dst *bool) {
	if b, ok := kv.Get(key).(bool); ok {
		*dst = b
	}
}

func kvInt(kv Metadata, key string) (int64, bool) {
	switch v := kv.Get(key).(type) {
	case uint8:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint64:
		return int64(v), v <= math.MaxInt64
	case int64:
		return v, true
	}
	return 0, false
}

func kvInts(kv Metadata, key string) ([]int64, bool) {
	switch v := kv.Get(key).(type) {
	case []int32:
		list := make([]int64, len(v))
		for i := range v {
			list[i] = int64(v[i])
		}
		return list, true
	case []uint32:
		list := make([]int64, len(v))
		for i := range v {
			list[i] = int64(v[i])
		}
		return list, true
	case []int64:
		return v, true
	}
	return nil, false
}

func kvFloats(kv Metadata, key string) ([]float32, bool) {
	switch v := kv.Get(key).(type) {
	case []float32:
		return v, true
	case []float64:
		list := make([]float32, len(v))
		for i := range v {
			list[i] = float32(v[i])
		}
		return list, true
	}
	return nil, false
}

var _ = json.Marshal
