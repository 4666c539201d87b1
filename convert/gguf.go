package convert

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// fileTypes are the values of general.file_type. Source: llama.cpp include/llama.h, microsoft/BitNet's fork.
var fileTypes = map[Format]uint32{I2S: 40, TQ1: 36, TQ2: 37, F16: 1, BF16: 32, F32: 0}

// kv is the metadata of the file.
func (w *writer) kv(c *model.Config) (gguf.KV, error) {
	kv, err := family.GGUFKeys(c)
	if err != nil {
		return nil, err
	}
	if t, ok := fileTypes[w.o.Format]; ok {
		kv.Set("general.file_type", t)
	}
	kv.Set("general.quantization_version", uint32(2))
	return append(kv, w.o.TokenizerKV...), nil
}

// gguf writes one file.
func (w *writer) gguf(dst string, list []entry) error {
	c := w.src.Config()
	kv, err := w.kv(c)
	if err != nil {
		return err
	}
	tensors := make([]gguf.Tensor, len(list))
	byName := map[string]entry{}
	for i, e := range list {
		name, ok := weights.GGUFName(family.Arch(c.Family), e.name)
		if !ok {
			return fmt.Errorf("tensor %q has no name in GGUF", e.name)
		}
		t := gguf.Tensor{Name: name, Type: gguf.F32, Shape: []int{e.cols}}
		if e.kind != vector {
			t.Shape = []int{e.rows, e.cols}
			t.Type = w.ggufType(c, e)
		}
		size, err := t.Type.Size(t.Shape...)
		if ternaryEntry(c, e) && err == nil && e.cols%w.codec.Block() != 0 { // i2_s has blocks in some of its layouts only
			err = fmt.Errorf("%d columns is not a multiple of %d, the block of %s: %w", e.cols, w.codec.Block(), t.Type, gguf.ErrColumns)
		}
		if err != nil {
			return fmt.Errorf("tensor %q as %s: %w; take another format, such as hf-packed or gguf-iq2_bn", name, t.Type, err)
		}
		w.total += size
		tensors[i] = t
		byName[name] = e
	}
	if roundsScale[w.typ] {
		scales, err := w.scales(list)
		if err != nil {
			return err
		}
		if scales != nil {
			kv.Set(weights.ScalesKey, scales)
		}
	}
	w.report.Bytes, err = atomically(dst, w.o.Overwrite, func(f io.Writer) error {
		return gguf.Write(f, kv, tensors, func(out io.Writer, t gguf.Tensor) error { return w.tensor(out, byName[t.Name], t.Type) })
	})
	return err
}

// roundsScale are the types that have room for half a scale only.
var roundsScale = map[gguf.Type]bool{gguf.TQ1_0: true, gguf.TQ2_0: true, gguf.Q2_0: true, gguf.IQ1_BN: true}

// scales are the scales of all ternary tensors in full, in the order of the file; nil when a matrix has more than one.
func (w *writer) scales(list []entry) ([]float32, error) {
	var scales []float32
	for _, e := range list {
		if !ternaryEntry(w.src.Config(), e) {
			continue
		}
		m, err := w.src.Ternary(e.name, e.rows, e.cols)
		if err != nil {
			return nil, err
		}
		if len(m.Scale) != 1 {
			return nil, nil
		}
		scales = append(scales, m.Scale[0])
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
	}
	return scales, nil
}

func (w *writer) ggufType(c *model.Config, e entry) gguf.Type {
	switch {
	case ternaryEntry(c, e):
		return w.typ
	case e.kind == projection && !c.Ternary():
		return w.typ
	case w.o.Keep || e.kind == projection:
		return w.src.Type(e.name)
	}
	return w.o.Embedding
}

// tensor writes the bytes of one tensor.
func (w *writer) tensor(out io.Writer, e entry, t gguf.Type) error {
	c := w.src.Config()
	heads := 0 // whose rows change places
	if s := family.ShapeOf(c); c.Family == "llama" {
		switch {
		case strings.HasSuffix(e.module, ".q_proj"):
			heads = s.NumHeads
		case strings.HasSuffix(e.module, ".k_proj"):
			heads = s.NumKVHeads
		}
	}
	switch {
	case e.kind == vector:
		v, err := w.src.Vector(e.name, e.cols)
		if err != nil {
			return err
		}
		if heads > 0 { // a bias
			v = permuted(v, heads, 1)
		}
		if weights.OffsetNorm(family.Arch(c.Family), e.name) {
			for i := range v {
				v[i]++
			}
		}
		return w.floats(out, vectorRows(v), 1, e.cols, t)
	case ternaryEntry(c, e):
		m, err := w.src.Ternary(e.name, e.rows, e.cols)
		if err != nil {
			return err
		}
		if err := w.quantised(e, m); err != nil {
			return err
		}
		if heads > 0 {
			hd := e.rows / heads
			m.Reorder(func(r int) int { return interleaved(r, hd) })
		}
		data, err := ternary.Pack(m, w.codec)
		if err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		return w.count(len(data))
	}
	rows, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	if heads > 0 {
		rows = permutedRows{rows, e.rows / heads}
	}
	return w.floats(out, rows, e.rows, e.cols, t)
}

// interleaved is the row of a head of hd rows that comes at place i when halves become neighbours:
// Hugging Face rotates row j with row j+hd/2, GGUF's arch llama row 2j with row 2j+1.
func interleaved(i, hd int) int {
	head, at := i/hd*hd, i%hd
	return head + at/2 + at%2*(hd/2)
}

// permuted puts the rows of x [rows, cols] in the order of GGUF's arch llama.
func permuted[T any](x []T, heads, cols int) []T {
	y := make([]T, 0, len(x))
	rows := len(x) / cols
	for i := range rows {
		r := interleaved(i, rows/heads)
		y = append(y, x[r*cols:(r+1)*cols]...)
	}
	return y
}

type permutedRows struct {
	Rows
	headDim int
}

func (p permutedRows) Row(dst []float32, r int) { p.Rows.Row(dst, interleaved(r, p.headDim)) }

type vectorRows []float32

func (v vectorRows) Row(dst []float32, _ int) { copy(dst, v) }

// floats writes a matrix of floats as t, a few rows at a time.
func (w *writer) floats(out io.Writer, m Rows, rows, cols int, t gguf.Type) error {
	step := max(1, min(rows, (1<<20)/cols))
	x := make([]float32, step*cols)
	var b []byte
	for r := 0; r < rows; r += step {
		n := min(step, rows-r)
		for i := range n {
			m.Row(x[i*cols:(i+1)*cols], r+i)
		}
		for i, v := range x[:n*cols] {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("row %d, column %d is %g: the source is damaged", r+i/cols, i%cols, v)
			}
		}
		size, err := t.Size(n, cols)
		if err != nil {
			return err
		}
		if int64(len(b)) < size {
			b = make([]byte, size)
		}
		if err := gguf.Quantize(b[:size], t, x[:n*cols]); err != nil {
			return err
		}
		if _, err := out.Write(b[:size]); err != nil {
			return err
		}
		if err := w.count(int(size)); err != nil {
			return err
		}
	}
	return nil
}
