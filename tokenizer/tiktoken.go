package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// FromTiktoken reads a tokenizer.model of tiktoken: a line for each token with its bytes in
// base64 and its rank. special are the names of the tokens that follow the last rank; nil with
// the 128,000 ranks of Llama 3 means its 256. Text is cut as for Llama 3.
func FromTiktoken(data []byte, special []string) (*Tokenizer, error) {
	t, err := parseTiktoken(data, &config{}, special)
	if err != nil {
		return nil, err
	}
	return t, t.configure(&config{}, &files{})
}

// llama3Ranks is the number of ordinary tokens of Llama 3.
const llama3Ranks = 128000

// Llama3Special are the 256 special tokens of Llama 3, ids 128000 to 128255.
// Source: meta-llama/llama3 llama/tokenizer.py.
func llama3Special() []string {
	names := []string{"<|begin_of_text|>", "<|end_of_text|>"}
	for i := range 251 {
		switch i {
		case 4:
			names = append(names, "<|start_header_id|>", "<|end_header_id|>")
		case 5:
			names = append(names, "<|eot_id|>")
		}
		names = append(names, fmt.Sprintf("<|reserved_special_token_%d|>", i))
	}
	return names
}

func looksLikeTiktoken(data []byte) bool {
	line, _, _ := bytes.Cut(data, []byte{'\n'})
	_, _, err := tiktokenLine(line)
	return err == nil
}

func tiktokenLine(line []byte) (raw []byte, rank int32, err error) {
	b64, num, ok := bytes.Cut(bytes.TrimRight(line, "\r"), []byte{' '})
	if !ok || len(b64) == 0 {
		return nil, 0, fmt.Errorf("not a token in base64 and its rank")
	}
	raw = make([]byte, base64.StdEncoding.DecodedLen(len(b64)))
	n, err := base64.StdEncoding.Decode(raw, b64)
	if err != nil {
		return nil, 0, err
	}
	v, err := strconv.ParseInt(string(num), 10, 32)
	if err != nil || v < 0 {
		return nil, 0, fmt.Errorf("rank %s", shorten(string(num)))
	}
	return raw[:n], int32(v), nil
}

func parseTiktoken(data []byte, c *config, special []string) (*Tokenizer, error) {
	const what = "tokenizer.model"
	p := &parts{what: what}
	lines := bytes.Count(data, []byte{'\n'}) + 1
	if err := checkCount(lines-1, what); err != nil {
		return nil, err
	}
	n := -1
	for line := range bytes.SplitSeq(data, []byte{'\n'}) {
		if n++; len(line) == 0 {
			continue
		}
		raw, rank, err := tiktokenLine(line)
		if err != nil {
			return nil, bad("%s: line %d: %w", what, n+1, err)
		}
		if int(rank) >= 2*lines {
			return nil, bad("%s: line %d: rank %d, but there are %d tokens", what, n+1, rank, lines)
		}
		for len(p.tokens) <= int(rank) {
			p.tokens = append(p.tokens, token{})
		}
		if p.tokens[rank].kind != unused {
			return nil, bad("%s: line %d: rank %d for a second time", what, n+1, rank)
		}
		if len(raw) == 0 {
			return nil, bad("%s: line %d: empty token", what, n+1)
		}
		p.tokens[rank] = token{text: byteLevelText(string(raw)), kind: normal}
	}
	ranks := len(p.tokens)
	switch {
	case len(special) > 0:
	case len(c.added) > 0:
	case ranks == llama3Ranks:
		special = llama3Special()
	}
	for i, name := range special {
		p.added = append(p.added, AddedToken{ID: int32(ranks + i), Content: name, Special: true})
	}
	p.addTokens(c, false)
	p.byteLevelStages(reLlama3)
	p.flags.IgnoreMerges = true
	p.merges = func(texts []string, _ *stringIndex) (*pairTable, error) { return rankMerges(texts, what) }
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	if id, ok := t.ID("<|begin_of_text|>"); ok {
		t.bos = id
		t.before = []int32{id}
	}
	if id, ok := t.ID("<|end_of_text|>"); ok {
		t.end = id
	}
	return t, nil
}

// byteLevelStages are the stages around a byte-level model whose text is cut by the expressions,
// one after the other.
func (p *parts) byteLevelStages(expressions ...string) {
	var list []json.RawMessage
	for _, re := range expressions {
		list = append(list, json.RawMessage(`{"type":"Split","pattern":{"Regex":`+quoteJSON(re)+`},"behavior":"Isolated","invert":false}`))
	}
	list = append(list, json.RawMessage(`{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}`))
	p.pre, _ = json.Marshal(map[string]any{"type": "Sequence", "pretokenizers": list})
	p.decoder = json.RawMessage(`{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}`)
}

// rankMerges derives merges from ranks: two neighbours whose bytes together are a token merge,
// the lowest id first. texts are in the byte-level alphabet.
func rankMerges(texts []string, what string) (*pairTable, error) {
	raw := make([]string, len(texts))
	for i, s := range texts {
		raw[i], _ = byteLevelBytes(s)
	}
	table, err := mergeHalves(raw, func(id int32) int32 { return id })
	if err != nil {
		return nil, unsupported("%s: %w", what, err)
	}
	return table, nil
}
