package tokenizer

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// FromSentencePiece reads a tokenizer.model of SentencePiece. Models of type BPE, such as Llama
// 2's, are read; Unigram models give errors.ErrUnsupported. BOS is put in front of a text, as
// Llama 2 wants it.
func FromSentencePiece(data []byte) (*Tokenizer, error) {
	return fromFiles(&files{vocab: data})
}

// scoreMerges derives merges from scores: any two neighbours whose text is a piece merge, the
// piece with the highest score first. virtual are characters that are no pieces; their ids follow.
func scoreMerges(tokens []token, texts, virtual []string) (*pairTable, error) {
	down := func(a, b float32) int { return cmp.Compare(b, a) }
	var scores []float32
	for id, s := range texts {
		if s != "" {
			scores = append(scores, tokens[id].score)
		}
	}
	slices.SortFunc(scores, down)
	scores = slices.Compact(scores)
	all := texts
	if len(virtual) > 0 {
		all = slices.Concat(texts, virtual)
	}
	return mergeHalves(all, func(id int32) int32 {
		rank, _ := slices.BinarySearchFunc(scores, tokens[id].score, down)
		return int32(rank)
	})
}

// textPieces returns the texts of the first n tokens that text may become, and an index of them.
func (t *Tokenizer) textPieces(n int) ([]string, *stringIndex) {
	texts := make([]string, n)
	for i := range texts {
		if k := t.tokens[i].kind; k == normal || k == userDefined {
			texts[i] = t.tokens[i].text
		}
	}
	index := newStringIndex(texts)
	for i, s := range texts {
		if s != "" {
			index.add(int32(i))
		}
	}
	return texts, index
}

// spmStages are the stages around a SentencePiece BPE model in the words of tokenizer.json:
// prefixSpace puts a space in front of a text, trim leaves single spaces only.
func (p *parts) spmStages(prefixSpace, trim bool) {
	p.spm = true
	var norm []string
	if trim {
		norm = append(norm, `{"type":"Replace","pattern":{"Regex":"\\A +| +\\z"},"content":""}`,
			`{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}`)
	}
	p.decoder = json.RawMessage(`{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},` +
		`{"type":"ByteFallback"},{"type":"Fuse"}]}`)
	if prefixSpace {
		norm = append(norm, `{"type":"Prepend","prepend":"▁"}`)
		p.decoder = json.RawMessage(`{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},` +
			`{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`)
	}
	norm = append(norm, `{"type":"Replace","pattern":{"String":" "},"content":"▁"}`)
	p.normalizer = json.RawMessage(`{"type":"Sequence","normalizers":[` + strings.Join(norm, ",") + `]}`)
	p.merges = func([]string, *stringIndex) (*pairTable, error) { return newPairTable(0), nil }
	for _, tok := range p.tokens {
		if tok.kind == byteToken {
			p.flags.ByteFallback = true
		}
	}
	p.flags.FuseUnk = true
}

// Piece types of sentencepiece_model.proto.
const (
	spNormal = 1 + iota
	spUnknown
	spControl
	spUserDefined
	spUnused
	spByte
)

// kindOf maps a piece type, which GGUF's tokenizer.ggml.token_type shares, to a kind.
func kindOf(spType int64) (kind, bool) {
	switch spType {
	case spNormal:
		return normal, true
	case spUnknown:
		return unknown, true
	case spControl:
		return control, true
	case spUserDefined:
		return userDefined, true
	case spUnused, 0:
		return unused, true
	case spByte:
		return byteToken, true
	}
	return 0, false
}

func parseSentencePiece(data []byte, c *config) (*Tokenizer, error) {
	const what = "tokenizer.model"
	p := &parts{what: what}
	var (
		modelType         uint64 = 1 // TrainerSpec.model_type: UNIGRAM
		ids                      = map[string]int64{"bos": 1, "eos": 2, "unk": 0, "pad": -1}
		prefixSpace, trim        = true, true
		charsmap          []byte
	)
	// ModelProto: 1 pieces, 2 trainer_spec, 3 normalizer_spec.
	err := protoFields(data, func(field int, v protoValue) error {
		switch field {
		case 1:
			tok := token{kind: normal}
			err := protoFields(v.bytes, func(field int, v protoValue) error {
				switch field {
				case 1:
					tok.text = string(v.bytes)
				case 2:
					tok.score = math.Float32frombits(uint32(v.n))
				case 3:
					k, ok := kindOf(int64(v.n))
					if !ok {
						return fmt.Errorf("piece %d has type %d", len(p.tokens), v.n)
					}
					tok.kind = k
				}
				return nil
			})
			if err != nil {
				return err
			}
			if !utf8.ValidString(tok.text) || tok.text == "" {
				return fmt.Errorf("piece %d is %s, not text", len(p.tokens), shorten(tok.text))
			}
			if tok.score != tok.score {
				return fmt.Errorf("piece %d has no score", len(p.tokens))
			}
			p.tokens = append(p.tokens, tok)
			return checkCount(len(p.tokens), what)
		case 2:
			return protoFields(v.bytes, func(field int, v protoValue) error {
				switch field {
				case 3:
					modelType = v.n
				case 40:
					ids["unk"] = int64(int32(v.n))
				case 41:
					ids["bos"] = int64(int32(v.n))
				case 42:
					ids["eos"] = int64(int32(v.n))
				case 43:
					ids["pad"] = int64(int32(v.n))
				}
				return nil
			})
		case 3:
			return protoFields(v.bytes, func(field int, v protoValue) error {
				switch field {
				case 2:
					charsmap = v.bytes
				case 3:
					prefixSpace = v.n != 0
				case 4:
					trim = v.n != 0
				}
				return nil
			})
		}
		return nil
	})
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	} else if err != nil {
		return nil, bad("%s: not a SentencePiece model: %w", what, err)
	}
	if modelType != 2 {
		return nil, unsupported("%s: SentencePiece model of type %d; only BPE (2) is read; a tokenizer.json beside it may help", what, modelType)
	}
	if len(charsmap) > 0 {
		return nil, unsupported("%s: SentencePiece model that normalizes characters; a tokenizer.json beside it may help", what)
	}
	if c.prefixSpace != nil {
		prefixSpace = *c.prefixSpace
	}
	for id := range p.tokens {
		p.placeKind(int32(id), &p.tokens[id])
	}
	p.addTokens(c, true)
	for i := range p.added {
		p.added[i].Normalized = false
	}
	p.spmStages(prefixSpace, trim)
	if prefixSpace && c.legacy != nil && !*c.legacy { // a space in front of the text, not of each part after a control token
		p.normalizer = nil
		p.pre = json.RawMessage(`{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}`)
	}
	t, err := p.assemble()
	if err != nil {
		return nil, err
	}
	set := func(dst *int32, id int64) {
		if id >= 0 && id < int64(len(t.tokens)) {
			*dst = int32(id)
		}
	}
	set(&t.bos, ids["bos"])
	set(&t.unk, ids["unk"])
	set(&t.pad, ids["pad"])
	set(&t.end, ids["eos"])
	if t.bos >= 0 {
		t.before = []int32{t.bos}
	}
	return t, nil
}

// placeKind makes control and user-defined pieces added tokens, and notes the unknown token.
func (p *parts) placeKind(id int32, tok *token) {
	switch tok.kind {
	case control:
		p.added = append(p.added, AddedToken{ID: id, Content: tok.text, Special: true})
	case userDefined:
		p.added = append(p.added, AddedToken{ID: id, Content: tok.text})
	case unknown:
		if p.flags.Unk == nil {
			p.flags.Unk = &tok.text
		}
		tok.kind = control
		p.added = append(p.added, AddedToken{ID: id, Content: tok.text, Special: true})
	}
}

// protoValue is one field of a protocol buffer: a number, or bytes.
type protoValue struct {
	n     uint64
	bytes []byte
}

// protoFields calls f for each field of a message.
func protoFields(data []byte, f func(field int, v protoValue) error) error {
	whole := len(data)
	for len(data) > 0 {
		at := whole - len(data)
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return fmt.Errorf("broken field at byte %d", at)
		}
		data = data[n:]
		var v protoValue
		switch tag & 7 {
		case 0:
			v.n, n = binary.Uvarint(data)
			if n <= 0 {
				return fmt.Errorf("broken number at byte %d", at)
			}
			data = data[n:]
		case 1:
			if len(data) < 8 {
				return errors.New("ends inside a number")
			}
			v.n, data = binary.LittleEndian.Uint64(data), data[8:]
		case 2:
			size, n := binary.Uvarint(data)
			if n <= 0 || size > uint64(len(data)-n) {
				return fmt.Errorf("field at byte %d ends past the data", at)
			}
			v.bytes, data = data[n:n+int(size)], data[n+int(size):]
		case 5:
			if len(data) < 4 {
				return errors.New("ends inside a number")
			}
			v.n, data = uint64(binary.LittleEndian.Uint32(data)), data[4:]
		default:
			return fmt.Errorf("field at byte %d has wire type %d", at, tag&7)
		}
		if err := f(int(tag>>3), v); err != nil {
			return err
		}
	}
	return nil
}
