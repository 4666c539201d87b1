package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"math/rand/v2"
	"runtime/debug"
	"slices"

	"github.com/tritlm/trit/internal/mapped"
)

// A shard is a file of tokens:
//
//	0   8 bytes   "TRITTOK1"
//	8   uint32    bytes per token, 2 or 4, little endian as everything
//	12  uint32    size of the vocabulary; every token is below it
//	16  tokens
const shardMagic = "TRITTOK1"

// ErrFormat is returned, wrapped, for a file that is not a token shard.
var ErrFormat = errors.New("not a token shard")

// Tokens is a shard, mapped where the system can.
type Tokens struct {
	name  string
	b     []byte // after the header
	width int
	vocab int
	file  *mapped.File // nil of tokens in memory
}

// WriteTokens writes ids as a shard.
func WriteTokens(w io.Writer, ids []int32, vocab int) error {
	width := 2
	if vocab > 1<<16 {
		width = 4
	}
	h := binary.LittleEndian.AppendUint32([]byte(shardMagic), uint32(width))
	buf := binary.LittleEndian.AppendUint32(h, uint32(vocab))
	for _, id := range ids {
		if width == 2 {
			buf = binary.LittleEndian.AppendUint16(buf, uint16(id))
		} else {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
		if len(buf) > 1<<16 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(buf)
	return err
}

// OpenTokens maps a shard.
func OpenTokens(path string) (_ *Tokens, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	f, err := mapped.Open(path)
	if errors.Is(err, mapped.ErrEmpty) {
		return nil, fmt.Errorf("data: %s: no bytes: %w", path, ErrFormat)
	}
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	t, err := parseTokens(f.Data, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	t.file = f
	return t, nil
}

func parseTokens(b []byte, name string) (*Tokens, error) {
	if len(b) < 16 || string(b[:8]) != shardMagic {
		return nil, fmt.Errorf("data: %s: does not begin with %s: %w", name, shardMagic, ErrFormat)
	}
	width, vocab := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if width != 2 && width != 4 || vocab < 1 || vocab > 1<<30 {
		return nil, fmt.Errorf("data: %s: %d bytes a token, vocabulary %d: %w", name, width, vocab, ErrFormat)
	}
	if (len(b)-16)%int(width) != 0 {
		return nil, fmt.Errorf("data: %s: byte %d is inside a token; the file was cut off: %w", name, len(b), ErrFormat)
	}
	return &Tokens{name: name, b: b[16:], width: int(width), vocab: int(vocab)}, nil
}

// NewTokens keeps ids in memory.
func NewTokens(ids []int32, vocab int) *Tokens {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return &Tokens{name: "tokens", b: b, width: 4, vocab: vocab}
}

// Split cuts ids into those to train on and, the last share of them, those to validate with.
func Split(ids []int32, share float64) (train, val []int32) {
	cut := len(ids) - int(float64(len(ids))*share)
	return ids[:cut], ids[cut:]
}

// Len is the number of tokens, Vocab the size of their vocabulary.
func (t *Tokens) Len() int   { return len(t.b) / t.width }
func (t *Tokens) Vocab() int { return t.vocab }

// Equal reports whether these are the tokens ids.
func (t *Tokens) Equal(ids []int32) bool {
	if t.Len() != len(ids) {
		return false
	}
	var part [1024]int32
	for i := 0; i < len(ids); i += len(part) {
		p := part[:min(len(part), len(ids)-i)]
		if t.read(p, i) != nil || !slices.Equal(p, ids[i:i+len(p)]) {
			return false
		}
	}
	return true
}

// Close unmaps the file.
func (t *Tokens) Close() error {
	if t.file == nil {
		return nil
	}
	t.b = nil
	return t.file.Close()
}

// read fills dst from token i on.
func (t *Tokens) read(dst []int32, i int) (err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	for k := range dst {
		var v uint32
		if t.width == 2 {
			v = uint32(binary.LittleEndian.Uint16(t.b[2*(i+k):]))
		} else {
			v = binary.LittleEndian.Uint32(t.b[4*(i+k):])
		}
		if v >= uint32(t.vocab) {
			return fmt.Errorf("data: %s: token %d at %d is outside the vocabulary of %d: %w", t.name, v, i+k, t.vocab, ErrFormat)
		}
		dst[k] = int32(v)
	}
	if t.file == nil {
		return nil
	}
	return t.file.Check()
}

// Batch is B sequences of S tokens and, for each token, the one that follows.
type Batch struct {
	B, S         int
	IDs, Targets []int32 // [B·S]
}

// ErrShort is returned, wrapped, when the text has no room for one sequence.
var ErrShort = errors.New("shorter than one block")

func (t *Tokens) room(S int) (int, error) {
	n := t.Len() - S
	if n < 1 {
		return 0, fmt.Errorf("data: %s has %d tokens, a block of %d needs %d: %w; use a smaller --block or more text", t.name, t.Len(), S, S+1, ErrShort)
	}
	return n, nil
}

func (t *Tokens) sequence(b *Batch, i, at int) error {
	s := make([]int32, b.S+1)
	if err := t.read(s, at); err != nil {
		return err
	}
	copy(b.IDs[i*b.S:], s[:b.S])
	copy(b.Targets[i*b.S:(i+1)*b.S], s[1:])
	return nil
}

// Batches yields batches without end: batch number n, counted from first, depends on seed and n alone,
// so a run that stopped continues with the batches that it would have had.
func (t *Tokens) Batches(seed uint64, first, B, S int) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		room, err := t.room(S)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		for n := uint64(first); ; n++ {
			r := rand.New(rand.NewPCG(seed, n))
			b := Batch{B: B, S: S, IDs: make([]int32, B*S), Targets: make([]int32, B*S)}
			for i := range B {
				if err := t.sequence(&b, i, r.IntN(room)); err != nil {
					yield(Batch{}, err)
					return
				}
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

// Spread returns n batches at even distances over the whole text, the same ones every time: for validation.
func (t *Tokens) Spread(n, B, S int) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		room, err := t.room(S)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		for k := range n {
			b := Batch{B: B, S: S, IDs: make([]int32, B*S), Targets: make([]int32, B*S)}
			for i := range B {
				hi, lo := bits.Mul64(uint64(k*B+i), uint64(room-1))
				at, _ := bits.Div64(hi, lo, uint64(max(n*B-1, 1))) // k·B+i ≤ n·B-1, so it fits
				if err := t.sequence(&b, i, int(at)); err != nil {
					yield(Batch{}, err)
					return
				}
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}
