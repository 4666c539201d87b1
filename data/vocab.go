package data

import (
	"encoding/json"
	"fmt"
	"sort"

	"github.com/tritlm/trit/tokenizer"
)

// Vocab is a tokenizer with the tokenizer.json it came from, which goes into checkpoints and exports.
type Vocab struct {
	*tokenizer.Tokenizer
	JSON []byte
}

// NewVocab reads a tokenizer.json.
func NewVocab(tokenizerJSON []byte) (*Vocab, error) {
	t, err := tokenizer.FromJSON(tokenizerJSON, nil)
	if err != nil {
		return nil, err
	}
	return &Vocab{t, tokenizerJSON}, nil
}

// Size is the number of tokens.
func (v *Vocab) Size() int { return v.VocabSize() }

// EncodeAll encodes a whole text, in pieces that end with a line so that no piece is long.
func (v *Vocab) EncodeAll(text string) []int32 {
	ids := make([]int32, 0, len(text))
	for len(text) > 0 {
		n := len(text)
		if n > 1<<16 {
			n = 1 << 16
			for n < len(text) && text[n-1] != '\n' {
				n++
			}
		}
		ids = append(ids, v.Encode(text[:n], tokenizer.EncodeOptions{})...)
		text = text[n:]
	}
	return ids
}

// tokenizerFile is the part of the tokenizer.json format that we write.
type tokenizerFile struct {
	Version       string   `json:"version"`
	Truncation    any      `json:"truncation"`
	Padding       any      `json:"padding"`
	AddedTokens   []any    `json:"added_tokens"`
	Normalizer    any      `json:"normalizer"`
	PreTokenizer  any      `json:"pre_tokenizer"`
	PostProcessor any      `json:"post_processor"`
	Decoder       any      `json:"decoder"`
	Model         bpeModel `json:"model"`
}

type bpeModel struct {
	Type                    string         `json:"type"`
	Dropout                 any            `json:"dropout"`
	UnkToken                any            `json:"unk_token"`
	ContinuingSubwordPrefix any            `json:"continuing_subword_prefix"`
	EndOfWordSuffix         any            `json:"end_of_word_suffix"`
	FuseUnk                 bool           `json:"fuse_unk"`
	ByteFallback            bool           `json:"byte_fallback"`
	IgnoreMerges            bool           `json:"ignore_merges"`
	Vocab                   map[string]int `json:"vocab"`
	Merges                  [][2]string    `json:"merges"`
}

func newVocab(pre, decoder any, vocab map[string]int, merges [][2]string) (*Vocab, error) {
	if merges == nil {
		merges = [][2]string{}
	}
	b, err := json.MarshalIndent(tokenizerFile{
		Version: "1.0", AddedTokens: []any{}, PreTokenizer: pre, Decoder: decoder,
		Model: bpeModel{Type: "BPE", Vocab: vocab, Merges: merges},
	}, "", " ")
	if err != nil {
		return nil, err
	}
	return NewVocab(append(b, '\n'))
}

// Chars makes a vocabulary of the characters of text in code point order.
func Chars(text string) (*Vocab, error) {
	seen := map[rune]bool{}
	for _, r := range text {
		seen[r] = true
	}
	runes := make([]rune, 0, len(seen))
	for r := range seen {
		runes = append(runes, r)
	}
	if len(runes) < 2 {
		return nil, fmt.Errorf("data: the text consists of one character, %q: there is nothing to learn from it", string(runes))
	}
	sort.Slice(runes, func(i, j int) bool { return runes[i] < runes[j] })
	vocab := make(map[string]int, len(runes))
	for i, r := range runes {
		vocab[string(r)] = i
	}
	return newVocab(nil, map[string]any{"type": "Fuse"}, vocab, nil)
}

func byteLevel() (pre, decoder map[string]any) {
	return map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		map[string]any{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
}

// byteNames are the printable characters that stand for bytes in byte-level vocabularies: printable
// Latin-1 for itself, the others from U+0100 on, as GPT-2 named them.
func byteNames() (names [256]string) {
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			r = next
			next++
		}
		names[b] = string(r)
	}
	return names
}

// Bytes is the vocabulary of the 256 bytes.
func Bytes() (*Vocab, error) {
	vocab := map[string]int{}
	for b, n := range byteNames() {
		vocab[n] = b
	}
	pre, dec := byteLevel()
	return newVocab(pre, dec, vocab, nil)
}
