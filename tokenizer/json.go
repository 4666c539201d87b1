package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// FromJSON reads a tokenizer.json and, when it is not nil, the tokenizer_config.json beside it
// (special tokens, chat template).
func FromJSON(tokenizerJSON, tokenizerConfig []byte) (*Tokenizer, error) {
	return fromFiles(&files{json: tokenizerJSON, config: tokenizerConfig})
}

type jsonAdded struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type jsonFile struct {
	Version       string          `json:"version"`
	Added         []jsonAdded     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// parseJSON builds a tokenizer from a tokenizer.json. Special tokens other than those of the post-processor are not known yet.
func parseJSON(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, bad("tokenizer.json: not UTF-8")
	}
	var f jsonFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, bad("tokenizer.json: %w", err)
	}
	if isNull(f.Model) {
		return nil, bad(`tokenizer.json: no "model"; is this a tokenizer.json of Hugging Face tokenizers?`)
	}
	t := &Tokenizer{bos: -1, unk: -1, pad: -1, spec: &spec{json: data}}
	for i, a := range f.Added {
		if a.Content == "" {
			return nil, bad("tokenizer.json: added_tokens[%d] (id %d) is empty", i, a.ID)
		}
		t.added = append(t.added, AddedToken{ID: a.ID, Content: a.Content, Special: a.Special,
			SingleWord: a.SingleWord, LStrip: a.LStrip, RStrip: a.RStrip, Normalized: a.Normalized})
	}
	var err error
	if t.normalize, err = parseNormalizer(f.Normalizer, "normalizer"); err != nil {
		return nil, err
	}
	if t.pre, err = parsePre(f.PreTokenizer, "pre_tokenizer", true); err != nil {
		return nil, err
	}
	dec := decoding{}
	if err = dec.parse(f.Decoder, "decoder"); err != nil {
		return nil, err
	}
	if err = t.parseModel(f.Model, &dec, hasByteLevel(t.pre)); err != nil {
		return nil, err
	}
	t.build()
	if err = t.parsePost(f.PostProcessor, "post_processor"); err != nil {
		return nil, err
	}
	return t, nil
}

func isNull(r json.RawMessage) bool { return len(r) == 0 || string(r) == "null" }

// decode reads one part of a tokenizer.json, which is named at in errors.
func decode(r json.RawMessage, at string, v any) error {
	if err := json.Unmarshal(r, v); err != nil {
		return bad("tokenizer.json: %s: %w", at, err)
	}
	return nil
}

type typed struct {
	Type string `json:"type"`
}

// parseFinder reads {"String": …} or {"Regex": …}.
func parseFinder(r json.RawMessage, at string) (finder, string, error) {
	var p struct{ String, Regex *string }
	if err := decode(r, at, &p); err != nil {
		return nil, "", err
	}
	switch {
	case p.Regex != nil:
		re, err := compilePattern(*p.Regex)
		if err != nil {
			return nil, "", unsupported("tokenizer.json: %s: regular expression %s: %w", at, shorten(*p.Regex), err)
		}
		return re, *p.Regex, nil
	case p.String != nil:
		return literal(*p.String), "", nil
	}
	return nil, "", bad(`tokenizer.json: %s: neither "String" nor "Regex"`, at)
}

func parseNormalizer(r json.RawMessage, at string) (normalizer, error) {
	if isNull(r) {
		return nil, nil
	}
	var n struct {
		typed
		Normalizers []json.RawMessage `json:"normalizers"`
		Prepend     string            `json:"prepend"`
		Pattern     json.RawMessage   `json:"pattern"`
		Content     string            `json:"content"`
		StripLeft   bool              `json:"strip_left"`
		StripRight  bool              `json:"strip_right"`
		Charsmap    []byte            `json:"precompiled_charsmap"`
	}
	if err := decode(r, at, &n); err != nil {
		return nil, err
	}
	switch n.Type {
	case "Sequence":
		var list []normalizer
		for i, sub := range n.Normalizers {
			f, err := parseNormalizer(sub, fmt.Sprintf("%s[%d]", at, i))
			if err != nil {
				return nil, err
			}
			if f != nil {
				list = append(list, f)
			}
		}
		if len(list) == 0 {
			return nil, nil
		}
		return normSequence(list), nil
	case "NFC":
		return normForm(norm.NFC), nil
	case "NFD":
		return normForm(norm.NFD), nil
	case "NFKC":
		return normForm(norm.NFKC), nil
	case "NFKD":
		return normForm(norm.NFKD), nil
	case "Lowercase":
		return strings.ToLower, nil
	case "Strip":
		return normStrip(n.StripLeft, n.StripRight), nil
	case "StripAccents":
		return normStripAccents, nil
	case "Prepend":
		return normPrepend(n.Prepend), nil
	case "Replace":
		p, _, err := parseFinder(n.Pattern, at+".pattern")
		if err != nil {
			return nil, err
		}
		return normReplace(p, n.Content), nil
	}
	return nil, unsupported("tokenizer.json: %s of type %s", at, shorten(n.Type))
}

// parsePre reads a pre-tokenizer; last says that no stage follows it.
func parsePre(r json.RawMessage, at string, last bool) (preTokenizer, error) {
	if isNull(r) {
		return nil, nil
	}
	var p struct {
		typed
		Stages     []json.RawMessage `json:"pretokenizers"`
		Pattern    json.RawMessage   `json:"pattern"`
		Behavior   string            `json:"behavior"`
		Invert     bool              `json:"invert"`
		AddSpace   *bool             `json:"add_prefix_space"`
		UseRegex   *bool             `json:"use_regex"`
		Individual bool              `json:"individual_digits"`
		Delimiter  string            `json:"delimiter"`
		Replace    string            `json:"replacement"`
		Prepend    *string           `json:"prepend_scheme"`
		Split      *bool             `json:"split"`
	}
	if err := decode(r, at, &p); err != nil {
		return nil, err
	}
	how, known := behaviors[p.Behavior]
	switch p.Type {
	case "Sequence":
		var q sequence
		for i, sub := range p.Stages {
			s, err := parsePre(sub, fmt.Sprintf("%s[%d]", at, i), last && i == len(p.Stages)-1)
			if err != nil {
				return nil, err
			}
			if s != nil {
				q = append(q, s)
			}
		}
		if len(q) == 1 {
			return q[0], nil
		}
		return q, nil
	case "ByteLevel":
		b := &byteLevelPre{addSpace: true, regex: true, alphabet: !last}
		if p.AddSpace != nil {
			b.addSpace = *p.AddSpace
		}
		if p.UseRegex != nil {
			b.regex = *p.UseRegex
		}
		return b, nil
	case "Split":
		if !known {
			return nil, bad("tokenizer.json: %s: behavior %s", at, shorten(p.Behavior))
		}
		f, re, err := parseFinder(p.Pattern, at+".pattern")
		if err != nil {
			return nil, err
		}
		// The scanners' expressions match every character, so that it makes no difference
		// whether matches are isolated, or what lies between them is removed.
		if s, ok := scanners[re]; ok && (how == isolated || how == removed && p.Invert) {
			return s, nil
		}
		return &splitter{f, how, p.Invert}, nil
	case "Digits":
		if p.Individual {
			return &splitter{pattern: runeFinder(unicode.IsNumber), behavior: isolated}, nil
		}
		return &splitter{pattern: runeFinder(unicode.IsNumber), behavior: contiguous}, nil
	case "Punctuation":
		if !known {
			how = isolated
		}
		return &splitter{pattern: runeFinder(isPunct), behavior: how}, nil
	case "WhitespaceSplit":
		return &splitter{pattern: runeFinder(unicode.IsSpace), behavior: removed}, nil
	case "Whitespace":
		re, err := compilePattern(`\w+|[^\w\s]+`)
		return &splitter{pattern: re, behavior: removed, invert: true}, err
	case "BertPreTokenizer":
		return sequence{
			&splitter{pattern: runeFinder(unicode.IsSpace), behavior: removed},
			&splitter{pattern: runeFinder(isPunct), behavior: isolated},
		}, nil
	case "CharDelimiterSplit":
		return &splitter{pattern: literal(p.Delimiter), behavior: removed}, nil
	case "Metaspace":
		m := &metaspace{replacement: p.Replace, prepend: "always", cut: true}
		if m.replacement == "" {
			m.replacement = "▁"
		}
		if p.Prepend != nil {
			m.prepend = *p.Prepend
		} else if p.AddSpace != nil && !*p.AddSpace {
			m.prepend = "never"
		}
		if p.Split != nil {
			m.cut = *p.Split
		}
		return m, nil
	}
	return nil, unsupported("tokenizer.json: %s of type %s", at, shorten(p.Type))
}

func hasByteLevel(p preTokenizer) bool {
	switch p := p.(type) {
	case *byteLevelPre:
		return true
	case sequence:
		for _, s := range p {
			if hasByteLevel(s) {
				return true
			}
		}
	}
	return false
}

// decoding is a decoder: steps on a token's text, and what happens once the tokens are joined.
type decoding struct {
	present   bool
	byteLevel bool
	fallback  bool // <0xNN> is a byte
	steps     []func(string) string
	fused     bool
	strip     int
}

func (d *decoding) parse(r json.RawMessage, at string) error {
	if isNull(r) {
		return nil
	}
	d.present = true
	var p struct {
		typed
		Decoders []json.RawMessage `json:"decoders"`
		Pattern  json.RawMessage   `json:"pattern"`
		Content  string            `json:"content"`
		Start    int               `json:"start"`
		Stop     int               `json:"stop"`
		Replace  string            `json:"replacement"`
		Prepend  *string           `json:"prepend_scheme"`
		AddSpace *bool             `json:"add_prefix_space"`
		Suffix   string            `json:"suffix"`
	}
	if err := decode(r, at, &p); err != nil {
		return err
	}
	switch p.Type {
	case "Sequence":
		for i, sub := range p.Decoders {
			if err := d.parse(sub, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case "ByteLevel":
		d.byteLevel = true
		return nil
	case "ByteFallback":
		d.fallback = true
		return nil
	case "Fuse":
		d.fused = true
		return nil
	case "Replace":
		f, _, err := parseFinder(p.Pattern, at+".pattern")
		if err != nil {
			return err
		}
		d.steps = append(d.steps, normReplace(f, p.Content))
		return nil
	case "Strip":
		if d.fused && p.Content == " " && p.Stop == 0 && p.Start >= 0 && p.Start < 100 {
			d.strip = p.Start
			return nil
		}
		if p.Start == 0 && p.Stop == 0 {
			return nil
		}
		return unsupported("tokenizer.json: %s: Strip other than of spaces at the start", at)
	case "Metaspace":
		rep := p.Replace
		if rep == "" {
			rep = "▁"
		}
		d.steps = append(d.steps, normReplace(literal(rep), " "))
		if p.Prepend == nil && (p.AddSpace == nil || *p.AddSpace) || p.Prepend != nil && *p.Prepend != "never" {
			d.strip = 1
		}
		return nil
	}
	return unsupported("tokenizer.json: %s of type %s", at, shorten(p.Type))
}

// bytes returns what a vocabulary's token decodes to.
func (d *decoding) bytes(text string) (raw string, isByte bool) {
	if d.byteLevel {
		if b, ok := byteLevelBytes(text); ok {
			return b, false
		}
		return text, false
	}
	if d.fallback {
		if b, ok := byteFallback(text); ok {
			return string([]byte{b}), true
		}
	}
	for _, f := range d.steps {
		text = f(text)
	}
	return text, false
}

// byteFallback reads <0xNN>.
func byteFallback(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	var v byte
	for _, c := range []byte(s[3:5]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		v = v<<4 | c
	}
	return v, true
}

type jsonModel struct {
	typed
	Vocab        json.RawMessage `json:"vocab"`
	Merges       json.RawMessage `json:"merges"`
	Unk          *string         `json:"unk_token"`
	UnkID        *int32          `json:"unk_id"`
	Prefix       string          `json:"continuing_subword_prefix"`
	Suffix       string          `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	Dropout      *float64        `json:"dropout"`
}

func (t *Tokenizer) parseModel(r json.RawMessage, dec *decoding, byteLevel bool) error {
	var m jsonModel
	if err := decode(r, "model", &m); err != nil {
		return err
	}
	if m.Type == "" && !isNull(m.Merges) {
		m.Type = "BPE"
	}
	if m.Type != "BPE" {
		return unsupported("tokenizer.json: model of type %s; only BPE is read", shorten(m.Type))
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return unsupported("tokenizer.json: model: dropout %g makes encoding random", *m.Dropout)
	}
	if err := t.readVocab(m.Vocab); err != nil {
		return err
	}
	modelTokens := len(t.tokens)
	if err := t.placeAdded(); err != nil {
		return err
	}
	for i := range t.tokens {
		tok := &t.tokens[i]
		switch tok.kind {
		case normal:
			var isByte bool
			if tok.bytes, isByte = dec.bytes(tok.text); isByte {
				tok.kind = byteToken
			}
		case userDefined, control:
			tok.bytes = tok.text
		}
	}
	if !dec.present {
		t.joiner = " "
	}
	t.stripLeft = dec.strip

	b := &bpe{byteLevel: byteLevel, whole: m.IgnoreMerges, fallback: m.ByteFallback, unk: -1,
		fuseUnk: m.FuseUnk, prefix: m.Prefix, suffix: m.Suffix}
	if byteLevel && (m.Prefix != "" || m.Suffix != "") {
		return unsupported("tokenizer.json: model: byte-level vocabulary with a subword prefix or suffix")
	}
	texts := make([]string, modelTokens)
	for i := range texts {
		if t.tokens[i].kind != unused {
			texts[i] = t.tokens[i].text
		}
	}
	index := newStringIndex(texts)
	for i, s := range texts {
		if s != "" {
			index.add(int32(i))
		}
	}
	if m.Unk != nil && *m.Unk != "" {
		id, ok := index.find(*m.Unk)
		if !ok {
			return bad("tokenizer.json: model: unk_token %s is not in the vocabulary", shorten(*m.Unk))
		}
		b.unk, t.unk = id, id
	}
	merges, err := readMerges(m.Merges, texts, index, b.prefix)
	if err != nil {
		return err
	}
	b.merges = merges
	b.setKeys(texts, index)
	t.model = b
	return nil
}

// setKeys gives the model its vocabulary as written in the file; index is over texts.
func (m *bpe) setKeys(texts []string, index *stringIndex) {
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
			id, ok = m.index.find(string([]byte{byte(b)}))
		} else {
			id, ok = m.index.find(fmt.Sprintf("<0x%02X>", b))
		}
		if !ok {
			id = -1
		}
		m.byteIDs[b] = id
	}
	m.init()
}

// readVocab reads {"token": id, …} into t.tokens.
func (t *Tokenizer) readVocab(r json.RawMessage) error {
	j := &jsonScan{s: string(r)}
	if !j.open('{') {
		return bad("tokenizer.json: model.vocab is not an object of tokens and ids")
	}
	type entry struct {
		text string
		id   int32
	}
	var list []entry
	for !j.done() {
		text, ok := j.string()
		id, ok2 := j.int32()
		switch {
		case !ok:
			return bad("tokenizer.json: model.vocab: broken at byte %d", j.at)
		case !ok2 || id < 0:
			return bad("tokenizer.json: model.vocab: token %s has no id", shorten(text))
		}
		list = append(list, entry{text, id})
	}
	if len(list) == 0 {
		return bad("tokenizer.json: model.vocab is empty")
	}
	for _, e := range list {
		if int(e.id) >= 4*len(list)+1024 {
			return bad("tokenizer.json: model.vocab: token %s has id %d, but there are %d tokens", shorten(e.text), e.id, len(list))
		}
		t.grow(e.id)
		if have := t.tokens[e.id]; have.kind != unused {
			return bad("tokenizer.json: model.vocab: tokens %s and %s have the same id %d", shorten(have.text), shorten(e.text), e.id)
		}
		t.tokens[e.id] = token{text: e.text, kind: normal}
	}
	seen := newStringIndex(t.texts())
	for i, tok := range t.tokens {
		if tok.kind == unused {
			continue
		}
		if other := seen.add(int32(i)); other != int32(i) {
			return bad("tokenizer.json: model.vocab: token %s has ids %d and %d", shorten(tok.text), other, i)
		}
	}
	return nil
}

func (t *Tokenizer) grow(id int32) {
	for len(t.tokens) <= int(id) {
		t.tokens = append(t.tokens, token{})
	}
}

func (t *Tokenizer) texts() []string {
	list := make([]string, len(t.tokens))
	for i := range list {
		list[i] = t.tokens[i].text
	}
	return list
}

// placeAdded enters the added tokens into the vocabulary.
func (t *Tokenizer) placeAdded() error {
	have := newStringIndex(t.texts())
	for i, tok := range t.tokens {
		if tok.kind != unused {
			have.add(int32(i))
		}
	}
	limit := len(t.tokens) + 16*len(t.added) + 1<<16
	names := map[string]int32{}
	for i, a := range t.added {
		if a.ID < 0 || int(a.ID) >= limit {
			return bad("tokenizer.json: added_tokens[%d] %s has id %d", i, shorten(a.Content), a.ID)
		}
		if id, ok := have.find(a.Content); ok && id != a.ID {
			return bad("tokenizer.json: added token %s has ids %d and %d", shorten(a.Content), id, a.ID)
		}
		if id, ok := names[a.Content]; ok && id != a.ID {
			return bad("tokenizer.json: added token %s has ids %d and %d", shorten(a.Content), id, a.ID)
		}
		names[a.Content] = a.ID
		t.grow(a.ID)
		tok := &t.tokens[a.ID]
		if tok.kind != unused && tok.text != a.Content {
			return bad("tokenizer.json: tokens %s and %s have the same id %d", shorten(tok.text), shorten(a.Content), a.ID)
		}
		*tok = token{text: a.Content, kind: userDefined}
		if a.Special {
			tok.kind = control
		}
	}
	return nil
}

// readMerges reads ["a b", …] or [["a", "b"], …]; a merge's rank is its position.
func readMerges(r json.RawMessage, texts []string, index *stringIndex, prefix string) (*pairTable, error) {
	n := bytes.Count(r, []byte{','}) + 1
	table := newPairTable(min(n, len(r)/3+1))
	j := &jsonScan{s: string(r)}
	if isNull(r) {
		return table, nil
	}
	if !j.open('[') {
		return nil, bad("tokenizer.json: model.merges is not a list")
	}
	for rank := int32(0); !j.done(); rank++ {
		var left, right string
		ok := true
		if j.open('[') {
			left, ok = j.string()
			if ok {
				right, ok = j.string()
			}
			ok = ok && j.done()
		} else {
			var s string
			if s, ok = j.string(); ok {
				left, right, ok = strings.Cut(s, " ")
			}
		}
		if !ok {
			return nil, bad("tokenizer.json: model.merges[%d] is not a pair of tokens", rank)
		}
		l, ok1 := index.find(left)
		r, ok2 := index.find(right)
		id, ok3 := index.find(left + strings.TrimPrefix(right, prefix))
		if !ok1 || !ok2 || !ok3 {
			missing := left
			if ok1 {
				missing = right
				if ok2 {
					missing = left + strings.TrimPrefix(right, prefix)
				}
			}
			return nil, bad("tokenizer.json: model.merges[%d] %s %s: token %s is not in the vocabulary",
				rank, shorten(left), shorten(right), shorten(missing))
		}
		table.put(l, r, rank, id)
	}
	return table, nil
}

// parsePost compiles a post-processor to the tokens around a single text.
func (t *Tokenizer) parsePost(r json.RawMessage, at string) error {
	if isNull(r) {
		return nil
	}
	var p struct {
		typed
		Processors []json.RawMessage `json:"processors"`
		Single     []struct {
			SpecialToken *struct {
				ID string `json:"id"`
			}
			Sequence *struct {
				ID string `json:"id"`
			}
		} `json:"single"`
		Tokens map[string]struct {
			IDs []int32 `json:"ids"`
		} `json:"special_tokens"`
		Sep []any `json:"sep"`
		Cls []any `json:"cls"`
	}
	if err := decode(r, at, &p); err != nil {
		return err
	}
	pair := func(v []any) (int32, error) {
		if len(v) == 2 {
			if id, ok := v[1].(float64); ok && t.Token(int32(id)) != "" {
				return int32(id), nil
			}
		}
		return 0, bad("tokenizer.json: %s: %v is not a token and its id", at, v)
	}
	switch p.Type {
	case "ByteLevel":
		return nil
	case "Sequence":
		for i, sub := range p.Processors {
			if err := t.parsePost(sub, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case "TemplateProcessing":
		var before, after []int32
		seen := false
		for _, item := range p.Single {
			switch {
			case item.Sequence != nil:
				seen = true
			case item.SpecialToken != nil:
				tok, ok := p.Tokens[item.SpecialToken.ID]
				if !ok {
					return bad("tokenizer.json: %s: special token %s has no ids", at, shorten(item.SpecialToken.ID))
				}
				for _, id := range tok.IDs {
					if t.Token(id) == "" {
						return bad("tokenizer.json: %s: special token %s: no token has id %d", at, shorten(item.SpecialToken.ID), id)
					}
				}
				if seen {
					after = append(after, tok.IDs...)
				} else {
					before = append(before, tok.IDs...)
				}
			}
		}
		t.before = append(before, t.before...)
		t.after = append(t.after, after...)
		return nil
	case "BertProcessing", "RobertaProcessing":
		cls, err := pair(p.Cls)
		sep, err2 := pair(p.Sep)
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		t.before = append([]int32{cls}, t.before...)
		t.after = append(t.after, sep)
		return nil
	}
	return unsupported("tokenizer.json: %s of type %s", at, shorten(p.Type))
}
