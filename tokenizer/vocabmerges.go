package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

const reQwen35 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// parseVocabMerges reads the older form of a byte-level vocabulary: vocab.json has the tokens and
// their ids, merges.txt a merge a line. The stages around it are those of the tokenizer class that
// tokenizer_config.json names, or else of the family that config.json names.
func parseVocabMerges(vocab, merges []byte, c *config) (*Tokenizer, error) {
	const what = "vocab.json"
	if !utf8.Valid(vocab) {
		return nil, bad("%s: not UTF-8", what)
	}
	if !json.Valid(vocab) {
		return nil, bad("%s: %w", what, json.Unmarshal(vocab, new(any)))
	}
	p := &parts{what: what}
	var err error
	if p.tokens, err = readVocab(string(vocab), what); err != nil {
		return nil, err
	}
	var warnings []string
	class := c.className()
	if class == "" || class == "PreTrainedTokenizer" || class == "TokenizersBackend" {
		switch c.model {
		case "gpt2", "starcoder2":
			class = "GPT2Tokenizer"
		case "qwen2", "qwen3":
			class = "Qwen2Tokenizer"
		case "qwen3_5", "qwen3_5_text":
			class = "Qwen3_5Tokenizer"
		default:
			class = "GPT2Tokenizer"
			warnings = append(warnings, "no file names the tokenizer's class (tokenizer_class in tokenizer_config.json); vocab.json and merges.txt are taken as GPT-2's")
		}
		c.class = class
	}
	space := c.prefixSpace != nil && *c.prefixSpace
	switch class {
	case "GPT2Tokenizer":
		p.byteLevelStages()
		p.pre = byteLevelStage(space, true)
	case "Qwen2Tokenizer":
		p.byteLevelStages(reQwen2)
	case "Qwen3_5Tokenizer":
		p.byteLevelStages(reQwen35)
	default:
		return nil, unsupported("%s with merges.txt: tokenizer_class %s; GPT2Tokenizer, Qwen2Tokenizer and Qwen3_5Tokenizer are read; a tokenizer.json beside it may help", what, shorten(c.class))
	}
	if class != "GPT2Tokenizer" {
		p.normalizer = json.RawMessage(`{"type":"NFC"}`)
		if space {
			return nil, unsupported("tokenizer_config.json: add_prefix_space with %s", class)
		}
	}
	p.addTokens(c, false)
	p.merges = func(_ []string, index *stringIndex) (*pairTable, error) {
		return readMergeLines(string(merges), index)
	}
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	t.warnings = warnings
	return t, nil
}

func byteLevelStage(space, regex bool) json.RawMessage {
	r, _ := json.Marshal(map[string]any{"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex})
	return r
}

// readMergeLines reads merges.txt: "a b" a line, the rank of a merge being its place. Lines that
// begin with #version are passed over.
func readMergeLines(s string, index *stringIndex) (*pairTable, error) {
	n := strings.Count(s, "\n") + 1
	if n > maxMerges {
		return nil, unsupported("merges.txt: %d lines; at most %d", n, maxMerges)
	}
	table := newPairTable(n)
	rank := int32(0)
	line := 0
	for text := range strings.Lines(s) {
		line++
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
		if strings.HasPrefix(text, "#version") {
			continue
		}
		left, right, ok := strings.Cut(text, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil, bad("merges.txt: line %d: %s is not a pair of tokens", line, shorten(text))
		}
		if err := table.merge(index, left, right, "", rank); err != nil {
			return nil, bad("merges.txt: line %d: %w", line, err)
		}
		rank++
	}
	return table, nil
}
