package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// tekkenDefault are the special tokens of a tekken.json that lists none, as the first ones did.
// Source: mistral-common, tokens/tokenizers/tekken.py.
var tekkenDefault = []string{
	"<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
	"[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
	"[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
}

// parseTekken reads Mistral's tekken.json: an expression, the special tokens, which have the first
// ids, and the ordinary ones by rank, with their bytes in base64. BOS goes in front of a text.
func parseTekken(data []byte, c *config) (*Tokenizer, error) {
	const what = "tekken.json"
	if !utf8.Valid(data) {
		return nil, bad("%s: not UTF-8", what)
	}
	if !json.Valid(data) {
		return nil, bad("%s: %w", what, json.Unmarshal(data, new(any)))
	}
	var vocab string
	rest := take(string(data), map[string]*string{"vocab": &vocab})
	var f struct {
		Config *struct {
			Pattern  string `json:"pattern"`
			Size     *int   `json:"default_vocab_size"`
			Specials *int   `json:"default_num_special_tokens"`
		} `json:"config"`
		Specials []struct {
			Rank int    `json:"rank"`
			Text string `json:"token_str"`
		} `json:"special_tokens"`
	}
	if err := json.Unmarshal(rest, &f); err != nil {
		return nil, bad("%s: %w", what, err)
	}
	if f.Config == nil || f.Config.Pattern == "" {
		return nil, bad("%s: no config.pattern, by which text is cut", what)
	}
	names := slices.Clone(tekkenDefault)
	if f.Specials != nil {
		names = make([]string, len(f.Specials))
		for _, s := range f.Specials {
			if s.Rank < 0 || s.Rank >= len(names) || names[s.Rank] != "" || s.Text == "" {
				return nil, bad("%s: special_tokens: rank %d (%s): ranks are to be 0 to %d, each once", what, s.Rank, shorten(s.Text), len(names)-1)
			}
			names[s.Rank] = s.Text
		}
	}
	if n := f.Config.Specials; n != nil {
		if *n > maxTokens || *n < len(names) {
			return nil, bad("%s: config.default_num_special_tokens is %d, and %d have names", what, *n, len(names))
		}
		for i := len(names); i < *n; i++ {
			names = append(names, fmt.Sprintf("<SPECIAL_%d>", i))
		}
	}
	room := maxTokens
	if n := f.Config.Size; n != nil {
		if room = *n - len(names); room < 0 {
			return nil, bad("%s: config.default_vocab_size is %d, and %d tokens are special", what, *n, len(names))
		}
	}
	p := &parts{what: what}
	p.tokens = make([]token, len(names), len(names)+1024)
	for i, name := range names {
		p.added = append(p.added, AddedToken{ID: int32(i), Content: name, Special: true})
	}
	j := &jsonScan{s: vocab}
	if !j.open('[') {
		return nil, bad("%s: vocab is not a list of tokens", what)
	}
	for rank := 0; rank < room && !j.done(); rank++ {
		var tok struct {
			Rank  *int   `json:"rank"`
			Bytes []byte `json:"token_bytes"`
		}
		if err := json.Unmarshal([]byte(j.skip()), &tok); err != nil {
			return nil, bad("%s: vocab[%d]: %w", what, rank, err)
		}
		if len(tok.Bytes) == 0 || tok.Rank != nil && *tok.Rank != rank {
			return nil, bad("%s: vocab[%d] is not the token of that rank and its bytes", what, rank)
		}
		p.tokens = append(p.tokens, token{text: byteLevelText(string(tok.Bytes)), kind: normal})
		if err := checkCount(len(p.tokens), what); err != nil {
			return nil, err
		}
	}
	p.addTokens(c, false)
	p.byteLevelStages(f.Config.Pattern)
	p.flags.IgnoreMerges = true
	p.merges = func(texts []string, _ *stringIndex) (*pairTable, error) { return rankMerges(texts, what) }
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	for name, dst := range map[string]*int32{"<s>": &t.bos, "</s>": &t.end, "<unk>": &t.unk, "<pad>": &t.pad} {
		if id, ok := t.ID(name); ok && t.IsSpecial(id) {
			*dst = id
		}
	}
	if t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	return t, nil
}
