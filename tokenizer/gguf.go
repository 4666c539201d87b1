package tokenizer

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tritlm/trit/gguf"
)

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
	{names: []string{"qwen35"}, split: []string{reQwen35}},
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
func FromGGUF(kv gguf.KV) (*Tokenizer, error) {
	const what = "GGUF"
	get := &kvReader{kv: kv}
	model := get.string("tokenizer.ggml.model")
	if model == "" && get.err == nil {
		return nil, bad("%s: no tokenizer.ggml.model: the file has no tokenizer; pass one with the model's Hugging Face folder", what)
	}
	var texts []string
	if get.has("tokenizer.ggml.tokens") {
		texts, get.err = kv.Strings("tokenizer.ggml.tokens")
	}
	types := get.ints("tokenizer.ggml.token_type")
	scores := get.floats("tokenizer.ggml.scores")
	var merges []string
	if get.has("tokenizer.ggml.merges") {
		merges, get.err = kv.Strings("tokenizer.ggml.merges")
	}
	switch {
	case get.err != nil:
		return nil, bad("%w", get.err)
	case len(texts) == 0:
		return nil, bad("%s: tokenizer.ggml.tokens: the vocabulary is empty", what)
	case types != nil && len(types) != len(texts):
		return nil, bad("%s: %d tokens but %d token types", what, len(texts), len(types))
	case len(texts) > maxTokens:
		return nil, checkCount(len(texts), what)
	case len(merges) > maxMerges:
		return nil, unsupported("%s: tokenizer.ggml.merges: %d; at most %d", what, len(merges), maxMerges)
	case scores != nil && len(scores) != len(texts):
		return nil, bad("%s: %d tokens but %d scores", what, len(texts), len(scores))
	}
	p := &parts{what: what, tokens: make([]token, len(texts))}
	special := map[int32]bool{}
	for _, key := range []string{"bos", "eos", "eot", "eom"} {
		special[get.token(key, len(texts))] = true
	}
	for i, s := range texts {
		tok := token{text: s, kind: normal}
		if types != nil {
			var ok bool
			if tok.kind, ok = kindOf(types[i]); !ok {
				return nil, bad("%s: token %d has type %d", what, i, types[i])
			}
		}
		if scores != nil {
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

	addBOS := false
	var warnings []string
	switch model {
	case "llama":
		if scores == nil {
			return nil, bad("%s: tokenizer.ggml.scores is missing", what)
		}
		addBOS = true
		p.spmStages(get.bool("tokenizer.ggml.add_space_prefix", true), get.bool("tokenizer.ggml.remove_extra_whitespaces", false))
	case "gpt2":
		p.flags.Unk = nil
		pre := get.string("tokenizer.ggml.pre")
		if pre == "" {
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
		if err := needMerges(p.tokens, merges); err != nil {
			return nil, err
		}
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

	t.bos, t.pad = get.token("bos", len(texts)), get.token("padding", len(texts))
	if id := get.token("unknown", len(texts)); id >= 0 {
		t.unk = id
	}
	eos := get.token("eos", len(texts))
	if model == "llama" { // the defaults of SentencePiece
		if t.bos < 0 && t.Token(1) == "<s>" {
			t.bos = 1
		}
		if eos < 0 && t.Token(2) == "</s>" {
			eos = 2
		}
	}
	t.before, t.after = nil, nil
	if get.bool("tokenizer.ggml.add_bos_token", addBOS) && t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	if get.bool("tokenizer.ggml.add_eos_token", false) && eos >= 0 {
		t.after = []int32{eos}
	}
	if get.err != nil {
		return nil, bad("%w", get.err)
	}
	t.end = eos
	t.setEOS(eos, get.token("eot", len(texts)), get.token("eom", len(texts)))
	return t, t.ggufTemplates(get)
}

// needMerges refuses a vocabulary whose tokens nothing would ever make.
func needMerges(tokens []token, merges []string) error {
	if len(merges) > 0 {
		return nil
	}
	for i, tok := range tokens {
		if tok.kind == normal && utf8.RuneCountInString(tok.text) > 1 {
			return bad("GGUF: tokenizer.ggml.merges is missing or empty, although token %d is %s, which only merges make; convert the model again", i, shorten(tok.text))
		}
	}
	return nil
}

// badTemplate marks the template in the published GGUF of BitNet b1.58 2B4T, which is not the one
// that the model was trained on.
const badTemplate = "BITNETAssistant"

// templateBitNet is the chat template of BitNet b1.58 2B4T: "User: …<|eot_id|>Assistant: ".
const templateBitNet = `{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}` +
	`{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}` +
	`{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}`

func (t *Tokenizer) ggufTemplates(get *kvReader) error {
	list := templates{}
	add := func(name, s string) {
		if strings.TrimSpace(s) == "" {
			return
		}
		if strings.Contains(s, badTemplate) {
			s = templateBitNet
			t.warnings = append(t.warnings, "the file's chat template (Human, BITNETAssistant) is not the one this model was trained on; using the model card's (User, Assistant)")
		}
		list[name] = s
	}
	add("default", get.string("tokenizer.chat_template"))
	if names, err := get.kv.Strings("tokenizer.chat_templates"); err == nil {
		if len(names) > maxTemplates {
			return bad("GGUF: tokenizer.chat_templates: more than %d", maxTemplates)
		}
		for _, name := range names {
			add(name, get.string("tokenizer.chat_template."+name))
		}
	}
	if get.err != nil {
		return bad("%w", get.err)
	}
	if len(list) > 0 {
		t.templates = list
	}
	return nil
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

// kvReader reads keys that may be absent, and keeps the first error about one of the wrong kind.
type kvReader struct {
	kv  gguf.KV
	err error
}

func (r *kvReader) has(key string) bool { return r.err == nil && r.kv.Has(key) }

func (r *kvReader) keep(err error) {
	if r.err == nil && !errors.Is(err, gguf.ErrNoKey) {
		r.err = err
	}
}

func (r *kvReader) string(key string) string {
	s, err := r.kv.String(key)
	r.keep(err)
	return s
}

func (r *kvReader) bool(key string, absent bool) bool {
	b, err := r.kv.Bool(key)
	r.keep(err)
	if err != nil {
		return absent
	}
	return b
}

func (r *kvReader) ints(key string) []int64 {
	v, err := r.kv.Ints(key)
	r.keep(err)
	return v
}

func (r *kvReader) floats(key string) []float32 {
	v, err := r.kv.Floats(key)
	r.keep(err)
	return v
}

// token returns the id under tokenizer.ggml.NAME_token_id, -1 when there is none or, as in some
// files, one outside the vocabulary of n tokens.
func (r *kvReader) token(name string, n int) int32 {
	id, err := r.kv.Int("tokenizer.ggml." + name + "_token_id")
	r.keep(err)
	if err != nil || id < 0 || id >= int64(n) {
		return -1
	}
	return int32(id)
}
