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

func (a jsonAdded) token() AddedToken {
	return AddedToken{
		ID: a.ID, Content: a.Content, Special: a.Special,
		SingleWord: a.SingleWord, LStrip: a.LStrip, RStrip: a.RStrip, Normalized: a.Normalized,
	}
}

type jsonFile struct {
	Version       string          `json:"version"`
	Added         []jsonAdded     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
}

// parseJSON builds a tokenizer from a tokenizer.json. Special tokens other than those of the
// post-processor are not known yet.
func parseJSON(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, bad("tokenizer.json: not UTF-8")
	}
	if !json.Valid(data) {
		return nil, bad("tokenizer.json: %w", json.Unmarshal(data, new(any)))
	}
	// The model is most of the file: it is cut out first, so that its megabytes are read once.
	var f jsonFile
	var model, vocab, merges json.RawMessage
	text := string(data)
	rest := take(text, map[string]*json.RawMessage{"model": &model})
	if err := json.Unmarshal(rest, &f); err != nil {
		return nil, bad("tokenizer.json: %w", err)
	}
	if isNull(model) {
		return nil, bad(`tokenizer.json: no "model"; is this a tokenizer.json of Hugging Face tokenizers?`)
	}
	p := &parts{what: "tokenizer.json", normalizer: f.Normalizer, pre: f.PreTokenizer, post: f.PostProcessor, decoder: f.Decoder}
	for i, a := range f.Added {
		if a.Content == "" {
			return nil, bad("tokenizer.json: added_tokens[%d] (id %d) is empty", i, a.ID)
		}
		p.added = append(p.added, a.token())
	}
	var m jsonModel
	if err := decode(take(string(model), map[string]*json.RawMessage{"vocab": &vocab, "merges": &merges}), "model", &m); err != nil {
		return nil, err
	}
	if m.Type == "" && !isNull(merges) {
		m.Type = "BPE"
	}
	if m.Type != "BPE" {
		return nil, unsupported("tokenizer.json: model of type %s; only BPE is read", shorten(m.Type))
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return nil, unsupported("tokenizer.json: model: dropout %g makes encoding random", *m.Dropout)
	}
	var err error
	if p.tokens, err = readVocab(vocab); err != nil {
		return nil, err
	}
	p.flags = m.modelFlags
	p.merges = func(texts []string, index *stringIndex) (*pairTable, error) {
		return readMerges(merges, index, m.Prefix)
	}
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	t.json = text
	return t, nil
}

func isNull(r json.RawMessage) bool { return len(r) == 0 || string(r) == "null" }

// decode reads one part of a tokenizer.json, which is named at in errors.
func decode(r json.RawMessage, at string, v any) error {
	if strings.Count(at, "[") > 20 {
		return bad("tokenizer.json: %s…: nested too deeply", at[:40])
	}
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
		if last && inAlphabet(q) {
			q = append(q, fromAlphabet{})
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
			return &splitter{pattern: runeFinder(isNumber), behavior: isolated}, nil
		}
		return &splitter{pattern: runeFinder(isNumber), behavior: contiguous}, nil
	case "Punctuation":
		if !known {
			how = isolated
		}
		return &splitter{pattern: runeFinder(isPunct), behavior: how}, nil
	case "WhitespaceSplit":
		return &splitter{pattern: runeFinder(unicode.IsSpace), behavior: removed}, nil
	case "Whitespace":
		re, err := compilePattern(`[[:rustword:]]+|[^[:rustword:]\s]+`) // \w+|[^\w\s]+ of Rust's regex crate
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

// inAlphabet reports whether pieces leave p in the byte-level alphabet.
func inAlphabet(p preTokenizer) bool {
	switch p := p.(type) {
	case *byteLevelPre:
		return p.alphabet
	case sequence:
		for _, s := range p {
			if inAlphabet(s) {
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
	modelFlags
	Dropout *float64 `json:"dropout"`
}

// readVocab reads {"token": id, …}.
func readVocab(r json.RawMessage) ([]token, error) {
	j := &jsonScan{s: string(r)}
	if !j.open('{') {
		return nil, bad("tokenizer.json: model.vocab is not an object of tokens and ids")
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
			return nil, bad("tokenizer.json: model.vocab: broken at byte %d", j.at)
		case !ok2 || id < 0:
			return nil, bad("tokenizer.json: model.vocab: token %s has no id", shorten(text))
		}
		list = append(list, entry{text, id})
	}
	var tokens []token
	for _, e := range list {
		if int(e.id) >= 4*len(list)+1024 {
			return nil, bad("tokenizer.json: model.vocab: token %s has id %d, but there are %d tokens", shorten(e.text), e.id, len(list))
		}
		for len(tokens) <= int(e.id) {
			tokens = append(tokens, token{})
		}
		if have := tokens[e.id]; have.kind != unused {
			return nil, bad("tokenizer.json: model.vocab: tokens %s and %s have the same id %d", shorten(have.text), shorten(e.text), e.id)
		}
		tokens[e.id] = token{text: e.text, kind: normal}
	}
	return tokens, nil
}

// readMerges reads ["a b", …] or [["a", "b"], …]; a merge's rank is its position.
func readMerges(r json.RawMessage, index *stringIndex, prefix string) (*pairTable, error) {
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
		if err := table.merge(index, left, right, prefix, rank); err != nil {
			return nil, bad("tokenizer.json: model.merges[%d]: %w", rank, err)
		}
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
