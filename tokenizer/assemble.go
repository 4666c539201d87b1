package tokenizer

import (
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// parts are what every loader gathers; assemble makes a Tokenizer of them. The stages around the
// model are in the words of tokenizer.json, whatever the vocabulary came from, so that there is
// one reader of them and Save can write them.
type parts struct {
	what   string // the file, for errors
	tokens []token
	added  []AddedToken

	normalizer, pre, post, decoder json.RawMessage

	flags  modelFlags
	merges func(texts []string, index *stringIndex) (*pairTable, error)
	spm    bool // SentencePiece rules: see assemble
}

// modelFlags are the settings of a BPE model in tokenizer.json.
type modelFlags struct {
	Unk          *string `json:"unk_token"`
	Prefix       string  `json:"continuing_subword_prefix"`
	Suffix       string  `json:"end_of_word_suffix"`
	FuseUnk      bool    `json:"fuse_unk"`
	ByteFallback bool    `json:"byte_fallback"`
	IgnoreMerges bool    `json:"ignore_merges"`
}

func (p *parts) assemble() (*Tokenizer, error) {
	t := &Tokenizer{tokens: p.tokens, added: p.added, bos: -1, unk: -1, pad: -1, end: -1, parts: p}
	var q stageReader
	stages, err := q.normalizer(nil, p.normalizer, "normalizer")
	if err == nil {
		err = checkStages(stages, "normalizer", maxGrowth)
	}
	if err != nil {
		return nil, err
	}
	t.normalize = chain(stages)
	if t.pre, err = q.pre(p.pre, "pre_tokenizer", true); err != nil {
		return nil, err
	}
	var dec decoding
	if err = dec.parse(&q, p.decoder, "decoder"); err == nil {
		err = checkStages(dec.steps, "decoder", maxDecoding)
	}
	if err != nil {
		return nil, err
	}
	if !dec.present {
		t.joiner = " "
	}
	t.stripLeft = dec.strip

	// The model's own tokens, before the added ones join them.
	if len(t.tokens) == 0 {
		return nil, bad("%s: the vocabulary is empty", p.what)
	}
	if err := checkCount(len(t.tokens), p.what); err != nil {
		return nil, err
	}
	texts := make([]string, len(t.tokens))
	for i, tok := range t.tokens {
		texts[i] = tok.text
	}
	index := newStringIndex(texts)
	for i, tok := range t.tokens {
		if tok.text == "" {
			continue
		}
		if other := index.add(int32(i)); other != int32(i) {
			return nil, bad("%s: token %s has ids %d and %d", p.what, shorten(tok.text), other, i)
		}
	}
	b := &bpe{
		byteLevel: hasByteLevel(t.pre), whole: p.flags.IgnoreMerges, fallback: p.flags.ByteFallback, unk: -1,
		fuseUnk: p.flags.FuseUnk, prefix: p.flags.Prefix, suffix: p.flags.Suffix,
	}
	if b.byteLevel && (b.prefix != "" || b.suffix != "") {
		return nil, unsupported("%s: byte-level vocabulary with a subword prefix or suffix", p.what)
	}
	if u := p.flags.Unk; u != nil && *u != "" {
		id, ok := index.find(*u)
		if !ok {
			return nil, bad("%s: unk_token %s is not in the vocabulary", p.what, shorten(*u))
		}
		b.unk, t.unk = id, id
	}
	if b.merges, err = p.merges(texts, index); err != nil {
		return nil, err
	}
	p.merges = nil // and what it holds
	if t.byText, err = t.placeAdded(index, p.what); err != nil {
		return nil, err
	}
	for i := range t.tokens {
		tok := &t.tokens[i]
		switch tok.kind {
		case normal, byteToken:
			var isByte bool
			if tok.bytes, isByte = dec.bytes(tok.text); isByte {
				tok.kind = byteToken
			}
		case userDefined: // the decoder sees these too; those of bytes can't write every character
			tok.bytes = tok.text
			if !dec.byteLevel {
				tok.bytes, _ = dec.bytes(tok.text)
			}
		case control:
			tok.bytes = tok.text
		}
	}
	if p.spm {
		// SentencePiece never builds control, unknown and byte pieces out of text, and builds
		// pieces out of characters that are no pieces themselves.
		texts, index = t.textPieces(len(texts))
		for _, s := range texts {
			for i := 0; i < len(s); {
				_, n := utf8.DecodeRuneInString(s[i:])
				c := s[i : i+n]
				i += n
				if _, ok := index.find(c); ok || n == len(s) || b.virtual[c] != 0 {
					continue
				}
				if b.virtual == nil {
					b.virtual = map[string]int32{}
				}
				b.virtual[c] = int32(len(texts) + len(b.virtualAt))
				b.virtualAt = append(b.virtualAt, c)
			}
		}
		if b.merges, err = scoreMerges(t.tokens, texts, b.virtualAt); err != nil {
			return nil, unsupported("%s: %w", p.what, err)
		}
	}
	b.setKeys(t.tokens, texts, index)
	t.model = b
	if err := t.build(); err != nil {
		return nil, err
	}
	if err := t.parsePost(p.post, "post_processor"); err != nil {
		return nil, err
	}
	return t, nil
}

func checkCount(n int, what string) error {
	if n > maxTokens {
		return unsupported("%s: a vocabulary of %d tokens; at most %d", what, n, maxTokens)
	}
	return nil
}

// placeAdded enters the added tokens into the vocabulary, which index is over, and returns the index
// of all tokens.
func (t *Tokenizer) placeAdded(index *stringIndex, what string) (*stringIndex, error) {
	limit := int32(min(len(t.tokens)+16*len(t.added)+1<<16, maxTokens))
	top, known := int32(len(t.tokens))-1, true
	for _, a := range t.added {
		if len(a.Content) > maxAddedToken {
			return nil, unsupported("%s: added token %s has %d bytes; at most %d", what, shorten(a.Content), len(a.Content), maxAddedToken)
		}
		if a.ID < 0 || a.ID >= limit {
			return nil, bad("%s: added token %s has id %d, but there are %d tokens", what, shorten(a.Content), a.ID, len(t.tokens))
		}
		id, ok := index.find(a.Content)
		top, known = max(top, a.ID), known && ok && id == a.ID
	}
	if !known { // the model's own index stays as it is
		n := int(top) + 1
		keys := make([]string, n)
		copy(keys, index.keys)
		index = index.over(keys)
		if more := n - len(t.tokens); more > 0 {
			t.tokens = append(slices.Grow(t.tokens, more), make([]token, more)...)
		}
	}
	for _, a := range t.added {
		tok := &t.tokens[a.ID]
		if tok.kind != unused && tok.text != a.Content {
			return nil, bad("%s: tokens %s and %s have the same id %d", what, shorten(tok.text), shorten(a.Content), a.ID)
		}
		index.keys[a.ID] = a.Content
		if id := index.add(a.ID); id != a.ID {
			return nil, bad("%s: added token %s has ids %d and %d", what, shorten(a.Content), id, a.ID)
		}
		tok.text = a.Content
		tok.kind = userDefined
		if a.Special {
			tok.kind = control
		}
	}
	return index, nil
}

// setKeys gives the model its vocabulary as written in the file; index is over texts.
func (m *bpe) setKeys(tokens []token, texts []string, index *stringIndex) {
	m.keys, m.index = texts, index
	if m.byteLevel {
		keys := make([]string, len(texts))
		for i, s := range texts {
			if raw, ok := byteLevelBytes(s); ok {
				keys[i] = raw
			}
		}
		m.keys, m.index = keys, newStringIndex(keys)
		for i, s := range keys {
			if s != "" {
				m.index.add(int32(i))
			}
		}
	}
	for b := range m.byteIDs {
		id, ok := int32(-1), false
		if m.byteLevel {
			if id, ok = m.index.find(string([]byte{byte(b)})); !ok {
				id = -1
			}
		}
		m.byteIDs[b] = id
	}
	if m.fallback {
		for id, tok := range tokens {
			if b, ok := byteFallback(tok.text); ok {
				m.byteIDs[b] = int32(id)
			}
		}
	}
	m.init()
}
