// Package tokenizer turns text into tokens and back, and writes a conversation in the form a
// model was trained on (its chat template).
//
// One pipeline serves every vocabulary, whatever file it came from:
//
//	text → added tokens → normalizer → pre-tokenizer → model (BPE) → post-processor → ids
//	ids → bytes → whole UTF-8
//
// It is the pipeline of Hugging Face's tokenizer.json. FromJSON reads it; Load also reads vocab.json
// with merges.txt and Mistral's tekken.json; FromTiktoken, FromSentencePiece and FromGGUF build the
// same parts from their own formats; NewChars, NewBytes and TrainBPE make new vocabularies; Save
// writes any of them as a tokenizer.json.
//
// Files come from anywhere, so what they can cost is bounded. Reading one takes time in proportion to
// its size, and memory of at most 16 times its size and 64 MiB; what would take more is refused. A
// normalizer may make a text at most 64 times as long as it was, a decoder a token 8 times. Encoding
// takes time in proportion to the normalized text (times the size of the expressions that cut it,
// 2,048 steps at most), and at most 200 bytes of memory for each of its bytes. TestLoadBounds and
// TestEncodeBounds hold this.
package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrFormat is wrapped by every error about a malformed tokenizer file. Well-formed files that
// ask for something this package does not do give errors.ErrUnsupported.
var ErrFormat = errors.New("malformed tokenizer")

// Tokenizer is a vocabulary with the rules of its use. It is safe for concurrent use.
type Tokenizer struct {
	tokens []token // by id; texts are unique, "" marks an unused id
	byText *stringIndex
	added  []AddedToken

	raw, normed *matcher // added tokens found before and after normalization
	normalize   normalizer
	pre         preTokenizer
	scan        scanner // the pre-tokenizer, when it is a lone scanner
	model       model

	before, after []int32 // what AddSpecial puts around a text

	stripLeft int    // spaces to drop where a text begins (SentencePiece's dummy prefix)
	joiner    string // put between decoded tokens; only files without a decoder have one

	bos, unk, pad int32   // -1: none
	end           int32   // the EOS that the files name, -1: none
	eos           []int32 // all of them

	templates templates
	parts     *parts    // how to write the tokenizer again
	json      string    // the tokenizer.json it came from, "" when from another format
	config    []byte    // the tokenizer_config.json beside it
	special   []byte    // the special_tokens_map.json beside it
	files     templates // the templates of the .jinja files beside it
	warnings  []string
}

// token is one entry of the vocabulary.
type token struct {
	text  string // as the vocabulary file writes it
	bytes string // what it decodes to
	kind  kind
	score float32 // SentencePiece
}

type kind uint8

const (
	unused      kind = iota
	normal           // ordinary piece
	userDefined      // added token that is text
	control          // added token that is structure, and BOS, EOS, …
	unknown          // the unknown token
	byteToken        // <0xNN>
)

// model encodes one pre-tokenized piece.
type model interface {
	encode(dst []int32, piece string, s *scratch) []int32
}

// Warnings are sentences about what had to be guessed when the tokenizer was read.
func (t *Tokenizer) Warnings() []string { return t.warnings }

// EncodeOptions says how to encode; the zero value is plain text: nothing added, and control
// tokens written in the text are text.
type EncodeOptions struct {
	AddSpecial   bool // put BOS, EOS around the text as the tokenizer's post-processor says
	ParseSpecial bool // control tokens written in the text, such as <|eot_id|>, become that token
}

// Encode returns the tokens of text.
func (t *Tokenizer) Encode(text string, o EncodeOptions) []int32 {
	return t.AppendEncode(make([]int32, 0, len(text)/4+4), text, o)
}

// AppendEncode appends the tokens of text to dst.
func (t *Tokenizer) AppendEncode(dst []int32, text string, o EncodeOptions) []int32 {
	if o.AddSpecial {
		dst = append(dst, t.before...)
	}
	s := scratchPool.Get().(*scratch)
	if t.raw == nil {
		dst = t.encodeText(dst, text, true, o.ParseSpecial, s)
	} else {
		first := true
		for _, f := range t.raw.cut(nil, text, o.ParseSpecial) {
			if f.id >= 0 {
				dst = append(dst, f.id)
			} else {
				dst = t.encodeText(dst, f.text, first, o.ParseSpecial, s)
			}
			first = false
		}
	}
	if cap(s.sym) < 1<<20 {
		scratchPool.Put(s)
	}
	if o.AddSpecial {
		dst = append(dst, t.after...)
	}
	return dst
}

// encodeText encodes text without raw added tokens; first says that it begins the input.
func (t *Tokenizer) encodeText(dst []int32, text string, first, special bool, s *scratch) []int32 {
	if t.normalize != nil {
		text = t.normalize(text)
	}
	if t.normed == nil {
		return t.encodePieces(dst, text, first, s)
	}
	for _, f := range t.normed.cut(nil, text, special) {
		if f.id >= 0 {
			dst = append(dst, f.id)
		} else {
			dst = t.encodePieces(dst, f.text, first, s)
		}
		first = false
	}
	return dst
}

func (t *Tokenizer) encodePieces(dst []int32, text string, first bool, s *scratch) []int32 {
	if text == "" {
		return dst
	}
	if t.scan != nil {
		for text != "" {
			n := t.scan(text)
			dst = t.model.encode(dst, text[:n], s)
			text = text[n:]
		}
		return dst
	}
	if t.pre == nil {
		return t.model.encode(dst, text, s)
	}
	for _, p := range t.pre.split(nil, text, first) {
		dst = t.model.encode(dst, p, s)
	}
	return dst
}

// VocabSize is the number of ids: the largest id and one.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns a token as its vocabulary writes it ("Ġthe", "▁the", "<|eot_id|>"), or "" for an
// id that is not in use.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id].text
}

// Bytes returns what a token decodes to, which need not be whole UTF-8. A special token gives the
// text it is written as.
func (t *Tokenizer) Bytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.tokens) {
		return nil
	}
	return []byte(t.tokens[id].bytes)
}

// ID returns the id of a token as Token writes it.
func (t *Tokenizer) ID(text string) (id int32, ok bool) {
	if text == "" {
		return -1, false
	}
	return t.byText.find(text)
}

// BOS returns the token that begins a text; ok is false when the vocabulary has none.
func (t *Tokenizer) BOS() (id int32, ok bool) { return t.bos, t.bos >= 0 }

// EOS returns every token that ends a text or a turn, in ascending order. Generation stops at any
// of them.
func (t *Tokenizer) EOS() []int32 { return slices.Clone(t.eos) }

// IsEOS reports whether generation stops at id.
func (t *Tokenizer) IsEOS(id int32) bool { return slices.Contains(t.eos, id) }

// Pad and Unknown return those tokens; ok is false when the vocabulary has none.
func (t *Tokenizer) Pad() (id int32, ok bool) { return t.pad, t.pad >= 0 }

// Unknown returns the token of text that the vocabulary cannot write.
func (t *Tokenizer) Unknown() (id int32, ok bool) { return t.unk, t.unk >= 0 }

// IsSpecial reports whether id is a control token: structure, not text.
func (t *Tokenizer) IsSpecial(id int32) bool {
	return id >= 0 && int(id) < len(t.tokens) && t.tokens[id].kind == control
}

// Check returns an error that names the first character of text which the vocabulary cannot
// write, or nil. Byte-level vocabularies write everything; a character vocabulary does not, and
// Encode leaves such characters out (or gives the unknown token where there is one).
func (t *Tokenizer) Check(text string) error {
	m, ok := t.model.(*bpe)
	if !ok || m.byteLevel {
		return nil
	}
	if t.normalize != nil {
		text = t.normalize(text)
	}
	for i, r := range text {
		if s := m.appendMissing(nil, string(r)); m.symbol(string(r)) < 0 && (len(s) == 0 || s[0] == m.unk) {
			return fmt.Errorf("tokenizer: character %q at byte %d is not in the vocabulary of %d tokens", r, i, len(t.tokens))
		}
	}
	return nil
}

// build derives the tables that Encode needs from tokens and added.
func (t *Tokenizer) build() error {
	var raw, normed []AddedToken
	for _, a := range t.added {
		if a.Normalized {
			normed = append(normed, a)
		} else {
			raw = append(raw, a)
		}
	}
	var err error
	t.raw, err = newMatcher(raw, func(a AddedToken) string {
		if t.parts.spm && !a.Special {
			return strings.ReplaceAll(a.Content, "▁", " ")
		}
		return a.Content
	})
	if err == nil {
		t.normed, err = newMatcher(normed, func(a AddedToken) string {
			if t.normalize != nil {
				return t.normalize(a.Content)
			}
			return a.Content
		})
	}
	if err != nil {
		return bad("%s: %w", t.parts.what, err)
	}
	switch p := t.pre.(type) {
	case scanner:
		t.scan = p
	case *byteLevelPre:
		if p.regex && !p.addSpace && !p.alphabet {
			t.scan = scanGPT2
		}
	case sequence:
		if len(p) == 2 {
			if b, ok := p[1].(*byteLevelPre); ok && *b == (byteLevelPre{}) {
				t.scan, _ = p[0].(scanner)
			}
		}
	}
	return nil
}

// endOfTurn are names of tokens that end a text or a turn in published vocabularies. Files often
// name one of several as EOS, and a model that stops only there talks on.
var endOfTurn = []string{
	"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>",
	"<|end_of_turn|>", "<end_of_turn>", "<|eot|>", "<EOT>", "<|return|>", "<|call|>",
	"<end_of_utterance>", "<｜end▁of▁sentence｜>", "<|endofturn|>", "<|user_end|>", "<turn|>",
}

// setSpecial fills bos, eos, unk and pad: ids first, as files name them, then well-known names.
func (t *Tokenizer) setEOS(ids ...int32) {
	for _, name := range endOfTurn {
		if id, ok := t.ID(name); ok && t.tokens[id].kind == control {
			ids = append(ids, id)
		}
	}
	ids = append(ids, t.eos...)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	t.eos = slices.DeleteFunc(ids, func(id int32) bool { return t.Token(id) == "" })
}

func bad(format string, args ...any) error {
	return fmt.Errorf("tokenizer: %w: %w", ErrFormat, fmt.Errorf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("tokenizer: %w: %w", errors.ErrUnsupported, fmt.Errorf(format, args...))
}

// shorten quotes a string from a file for an error line.
func shorten(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
