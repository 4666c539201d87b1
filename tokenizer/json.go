package tokenizer

import (
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
func parseJSON(data []byte, c *config) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, bad("tokenizer.json: not UTF-8")
	}
	if !json.Valid(data) {
		return nil, bad("tokenizer.json: %w", json.Unmarshal(data, new(any)))
	}
	// The model is most of the file: it is cut out first, so that its megabytes are read once.
	var f jsonFile
	var model, vocab, merges string
	text := string(data)
	rest := take(text, map[string]*string{"model": &model})
	if err := json.Unmarshal(rest, &f); err != nil {
		return nil, bad("tokenizer.json: %w", err)
	}
	if model == "" || model == "null" {
		return nil, bad(`tokenizer.json: no "model"; is this a tokenizer.json of Hugging Face tokenizers?`)
	}
	for name, r := range map[string]json.RawMessage{"normalizer": f.Normalizer, "pre_tokenizer": f.PreTokenizer, "post_processor": f.PostProcessor, "decoder": f.Decoder} {
		if len(r) > maxStageText {
			return nil, unsupported("tokenizer.json: %s of %d bytes; at most %d MiB", name, len(r), maxStageText>>20)
		}
	}
	p := &parts{what: "tokenizer.json", normalizer: f.Normalizer, pre: f.PreTokenizer, post: f.PostProcessor, decoder: f.Decoder}
	if err := checkCount(len(f.Added), "tokenizer.json: added_tokens"); err != nil {
		return nil, err
	}
	for i, a := range f.Added {
		if a.Content == "" {
			return nil, bad("tokenizer.json: added_tokens[%d] (id %d) is empty", i, a.ID)
		}
		p.added = append(p.added, a.token())
	}
	var m jsonModel
	if err := decode(take(model, map[string]*string{"vocab": &vocab, "merges": &merges}), "model", &m); err != nil {
		return nil, err
	}
	if m.Type == "" && merges != "" && merges != "null" {
		m.Type = "BPE"
	}
	if m.Type != "BPE" {
		return nil, unsupported("tokenizer.json: model of type %s; only BPE is read", shorten(m.Type))
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return nil, unsupported("tokenizer.json: model: dropout %g makes encoding random", *m.Dropout)
	}
	var err error
	if p.tokens, err = readVocab(vocab, "tokenizer.json: model.vocab"); err != nil {
		return nil, err
	}
	p.flags = m.modelFlags
	p.merges = func(_ []string, index *stringIndex) (*pairTable, error) {
		return readMerges(merges, index, m.Prefix)
	}
	p.addTokens(c, false)
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

// stageReader reads the stages of one tokenizer.json, and bounds what they are together.
type stageReader struct {
	steps    int // of all expressions
	cuts     int // stages of the pre-tokenizer
	alphabet bool
}

const (
	maxSteps     = 2 * maxProgram
	maxStageText = 1 << 20 // bytes of the stages of one kind in the file
)

// finder reads {"String": …} or {"Regex": …}.
func (q *stageReader) finder(r json.RawMessage, at string) (finder, string, error) {
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
		if q.steps += re.table.size(); q.steps > maxSteps {
			return nil, "", unsupported("tokenizer.json: %s: the regular expressions of the file are too large together", at)
		}
		return re, *p.Regex, nil
	case p.String != nil:
		return literal(*p.String), "", nil
	}
	return nil, "", bad(`tokenizer.json: %s: neither "String" nor "Regex"`, at)
}

// normalizer appends the stages of a normalizer to list.
func (q *stageReader) normalizer(list []rewriting, r json.RawMessage, at string) ([]rewriting, error) {
	if isNull(r) {
		return list, nil
	}
	var n struct {
		typed
		Normalizers []json.RawMessage `json:"normalizers"`
		Prepend     string            `json:"prepend"`
		Pattern     json.RawMessage   `json:"pattern"`
		Content     string            `json:"content"`
		StripLeft   bool              `json:"strip_left"`
		StripRight  bool              `json:"strip_right"`
	}
	if err := decode(r, at, &n); err != nil {
		return nil, err
	}
	var stage rewriting
	switch n.Type {
	case "Sequence":
		var err error
		for i, sub := range n.Normalizers {
			if list, err = q.normalizer(list, sub, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	case "NFC":
		stage = normForm(norm.NFC, 3)
	case "NFD":
		stage = normForm(norm.NFD, 3)
	case "NFKC":
		stage = normForm(norm.NFKC, 11)
	case "NFKD":
		stage = normForm(norm.NFKD, 11)
	case "Lowercase":
		stage = normLower
	case "Strip":
		stage = normStrip(n.StripLeft, n.StripRight)
	case "StripAccents":
		stage = normStripAccents
	case "Prepend":
		stage = normPrepend(n.Prepend)
	case "Replace":
		p, _, err := q.finder(n.Pattern, at+".pattern")
		if err != nil {
			return nil, err
		}
		stage = normReplace(p, n.Content)
	default:
		return nil, unsupported("tokenizer.json: %s of type %s", at, shorten(n.Type))
	}
	return append(list, stage), nil
}

// checkStages refuses stages that may lengthen a text more than limit times.
func checkStages(list []rewriting, what string, limit float64) error {
	if len(list) > maxStages {
		return unsupported("tokenizer.json: %s of %d stages; at most %d", what, len(list), maxStages)
	}
	if g := most(list); g > limit {
		return unsupported("tokenizer.json: the stages of the %s can make a text %.3g times as long; at most %g times", what, g, limit)
	}
	return nil
}

// pre reads a pre-tokenizer; last says that no stage follows it.
func (q *stageReader) pre(r json.RawMessage, at string, last bool) (preTokenizer, error) {
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
	if q.cuts++; q.cuts > maxCuts {
		return nil, unsupported("tokenizer.json: pre_tokenizer of more than %d stages", maxCuts)
	}
	switch p.Type {
	case "Sequence":
		var list sequence
		for i, sub := range p.Stages {
			s, err := q.pre(sub, fmt.Sprintf("%s[%d]", at, i), last && i == len(p.Stages)-1)
			if err != nil {
				return nil, err
			}
			if s != nil {
				list = append(list, s)
			}
		}
		if last && inAlphabet(list) {
			list = append(list, fromAlphabet{})
		}
		if len(list) == 1 {
			return list[0], nil
		}
		return list, nil
	case "ByteLevel":
		b := &byteLevelPre{addSpace: true, regex: true, alphabet: !last}
		if p.AddSpace != nil {
			b.addSpace = *p.AddSpace
		}
		if p.UseRegex != nil {
			b.regex = *p.UseRegex
		}
		if b.alphabet && q.alphabet {
			return nil, unsupported("tokenizer.json: %s: bytes written as characters twice", at)
		}
		q.alphabet = q.alphabet || b.alphabet
		return b, nil
	case "Split":
		if !known {
			return nil, bad("tokenizer.json: %s: behavior %s", at, shorten(p.Behavior))
		}
		f, re, err := q.finder(p.Pattern, at+".pattern")
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
		if utf8.RuneCountInString(p.Delimiter) != 1 {
			return nil, bad("tokenizer.json: %s: delimiter %s is not one character", at, shorten(p.Delimiter))
		}
		return &splitter{pattern: literal(p.Delimiter), behavior: removed}, nil
	case "Metaspace":
		m := &metaspace{replacement: p.Replace, prepend: "always", cut: true}
		if m.replacement == "" {
			m.replacement = "▁"
		}
		if utf8.RuneCountInString(m.replacement) != 1 {
			return nil, bad("tokenizer.json: %s: replacement %s is not one character", at, shorten(m.replacement))
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
	steps     []rewriting
	fused     bool
	strip     int
}

func (d *decoding) parse(q *stageReader, r json.RawMessage, at string) error {
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
			if err := d.parse(q, sub, fmt.Sprintf("%s[%d]", at, i)); err != nil {
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
		f, _, err := q.finder(p.Pattern, at+".pattern")
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
		text = f.apply(text)
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

// readVocab reads {"token": id, …}; what names it in errors.
func readVocab(s, what string) ([]token, error) {
	j := &jsonScan{s: s}
	if !j.open('{') {
		return nil, bad("%s is not an object of tokens and ids", what)
	}
	n, top := 0, int32(-1)
	for !j.done() {
		text, ok := j.string()
		id, ok2 := j.int32()
		switch {
		case !ok:
			return nil, bad("%s: broken at byte %d", what, j.at)
		case !ok2 || id < 0:
			return nil, bad("%s: token %s has no id", what, shorten(text))
		}
		n++
		if err := checkCount(n, what); err != nil {
			return nil, err
		}
		top = max(top, id)
	}
	if int(top) >= 4*n+1024 {
		return nil, bad("%s: a token has id %d, but there are %d tokens", what, top, n)
	}
	tokens := make([]token, top+1)
	j = &jsonScan{s: s, at: 0}
	j.open('{')
	for !j.done() {
		text, _ := j.string()
		id, _ := j.int32()
		if have := tokens[id]; have.kind != unused {
			return nil, bad("%s: tokens %s and %s have the same id %d", what, shorten(have.text), shorten(text), id)
		}
		tokens[id] = token{text: text, kind: normal}
	}
	return tokens, nil
}

// readMerges reads ["a b", …] or [["a", "b"], …]; a merge's rank is its position.
func readMerges(s string, index *stringIndex, prefix string) (*pairTable, error) {
	if s == "" || s == "null" {
		return newPairTable(0), nil
	}
	j := &jsonScan{s: s}
	if !j.open('[') {
		return nil, bad("tokenizer.json: model.merges is not a list")
	}
	n := 0
	for at := *j; !at.done(); n++ {
		at.skip()
	}
	if n > maxMerges {
		return nil, unsupported("tokenizer.json: model.merges: %d; at most %d", n, maxMerges)
	}
	table := newPairTable(n)
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

const maxAround = 64 // tokens around a text

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
		if len(t.before)+len(t.after) > maxAround {
			return unsupported("tokenizer.json: %s: more than %d tokens around a text", at, maxAround)
		}
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
