package convert

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
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
	if takesMasters[w.o.Format] {
		kv.Set(weights.ArithmeticKey, weights.WeightsOnly)
	}
	return append(kv, w.o.TokenizerKV...), nil
}

// writeGGUF writes one file, or several where SplitSize says so.
func (w *writer) writeGGUF(dst string, list []entry) error {
	c := w.src.Config()
	kv, err := w.kv(c)
	if err != nil {
		return err
	}
	tensors, byName, err := w.ggufTensors(c, list)
	if err != nil {
		return err
	}
	divisors := ropeDivisors(c)
	known := map[string][]byte{ropeFreqs: make([]byte, 4*len(divisors))}
	if err := gguf.Quantize(known[ropeFreqs], gguf.F32, divisors); err != nil {
		return err
	}
	said := slices.Clone(kv)
	if roundsScale[w.typ] {
		said.Set(weights.ScalesKey, []float32{}) // their numbers come later
	}
	if err := w.checkPlan(weights.PlannedGGUF(dst, said, tensors, known)); err != nil {
		return err
	}
	parts := w.split(kv, tensors)
	if len(parts) > gguf.MaxParts {
		return fmt.Errorf("it would be %d files; at most %d: take a larger size to split at", len(parts), gguf.MaxParts)
	}
	dir, names := filepath.Dir(dst), []string{filepath.Base(dst)}
	if len(parts) > 1 {
		prefix := strings.TrimSuffix(names[0], ".gguf")
		names = nil
		for i := range parts {
			names = append(names, gguf.Split{No: i, Count: len(parts)}.PartName(prefix))
		}
		w.report.Path = filepath.Join(dir, names[0])
		w.report.Parts = names
	}
	if err := checkFiles(dir, names, w.o.Overwrite); err != nil {
		return err
	}
	if roundsScale[w.typ] && c.Ternary() { // takes its time
		scales, err := w.scales(list)
		if err != nil {
			return err
		}
		if scales != nil {
			parts[0].kv.Set(weights.ScalesKey, scales)
		}
	}
	return w.staged(dst, names[0], list, func(s *stage) error {
		for i, p := range parts {
			f, err := s.create(names[i])
			if err != nil {
				return err
			}
			out := &counter{w: f}
			err = gguf.Write(out, p.kv, p.tensors, func(out io.Writer, t gguf.Tensor) error { return w.tensor(out, byName[t.Name], t.Type) })
			w.report.Bytes += out.n
			if err != nil {
				return err
			}
		}
		return nil
	}, func(s *stage) error { return s.publishFiles(dir, names) })
}

// ggufTensors are the tensors of the file, and the entries behind them by their name there.
func (w *writer) ggufTensors(c *model.Config, list []entry) ([]gguf.Tensor, map[string]entry, error) {
	tensors := make([]gguf.Tensor, len(list))
	byName := map[string]entry{}
	for i, e := range list {
		name, ok := weights.GGUFName(family.Arch(c.Family), e.name)
		if e.name == ropeFreqs {
			name, ok = e.name, true
		}
		if !ok {
			return nil, nil, fmt.Errorf("tensor %q has no name in GGUF; take an hf- format: %w", e.name, errors.ErrUnsupported)
		}
		t := gguf.Tensor{Name: name, Type: gguf.F32, Shape: []int{e.cols}}
		if e.kind != vector {
			t.Shape = []int{e.rows, e.cols}
			t.Type = w.ggufType(c, e)
		}
		w.stored[e.name] = t.Type
		size, err := t.Type.Size(t.Shape...)
		if (ternaryEntry(c, e) || w.groups(e)) && err == nil && e.cols%w.codec.Block() != 0 { // i2_s has blocks in some of its layouts only
			err = fmt.Errorf("%d columns is not a multiple of %d, the block of %s: %w", e.cols, w.codec.Block(), t.Type, gguf.ErrColumns)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q as %s: %w; take another format, such as hf-packed or gguf-iq2_bn", name, t.Type, err)
		}
		w.total += size
		tensors[i] = t
		byName[name] = e
	}
	return tensors, byName, nil
}

// piece is one file of a model.
type piece struct {
	kv      gguf.KV
	tensors []gguf.Tensor
}

// split shares the tensors among files, as llama.cpp's gguf-split does: in their order, a new file where the next tensor would
// exceed the size. A tensor that is larger has a file of its own. The first file has the metadata.
func (w *writer) split(kv gguf.KV, tensors []gguf.Tensor) []piece {
	const alignment = 32
	parts := []piece{{kv: kv}}
	var size int64
	for _, t := range tensors {
		n, _ := t.Type.Size(t.Shape...) // ggufTensors has checked it
		n = (n + alignment - 1) / alignment * alignment
		last := &parts[len(parts)-1]
		if w.o.SplitSize > 0 && size+n > w.o.SplitSize && len(last.tensors) > 0 {
			parts = append(parts, piece{})
			last, size = &parts[len(parts)-1], 0
		}
		last.tensors = append(last.tensors, t)
		size += n
	}
	if len(parts) == 1 {
		return parts
	}
	for i := range parts {
		parts[i].kv = append(parts[i].kv, gguf.Split{No: i, Count: len(parts), Tensors: len(tensors)}.KV()...)
	}
	return parts
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
	case ternaryEntry(c, e), w.groups(e):
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
	if c.Family == "llama" || c.Family == "minicpm" {
		queries, keys := c.Heads()
		switch {
		case strings.HasSuffix(e.module, ".q_proj"):
			heads = queries
		case strings.HasSuffix(e.module, ".k_proj"):
			heads = keys
		}
	}
	switch {
	case e.kind == vector:
		v, err := w.vector(e)
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
	case w.groups(e):
		data, err := w.packedGroups(e, heads)
		if err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		return w.count(len(data))
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

// vector reads a norm's weights or a bias of the source.
func (w *writer) vector(e entry) ([]float32, error) {
	if e.name == ropeFreqs {
		return slices.Clone(ropeDivisors(w.src.Config())), nil
	}
	return w.src.Vector(e.name, e.cols)
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

// rawRow is row r as it is stored, where it is stored in the blocks of t.
func rawRow(m Rows, t gguf.Type, r int) ([]byte, bool) {
	switch m := m.(type) {
	case *weights.Dense:
		if m.Type == t && m.Raw != nil {
			n := m.RowBytes()
			return m.Raw[r*n:][:n], true
		}
	case permutedRows:
		return rawRow(m.Rows, t, interleaved(r, m.headDim))
	}
	return nil, false
}

type vectorRows []float32

func (v vectorRows) Row(dst []float32, _ int) { copy(dst, v) }

// floats writes a matrix of floats as t, a few rows at a time: as they are where they are stored so.
func (w *writer) floats(out io.Writer, m Rows, rows, cols int, t gguf.Type) error {
	rowSize, err := t.Size(cols)
	if err != nil {
		return err
	}
	x := make([]float32, cols)
	step := max(1, min(rows, (1<<20)/cols))
	b := make([]byte, 0, int64(step)*rowSize)
	for r := range rows {
		m.Row(x, r)
		for i, v := range x {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("row %d, column %d is %g: the source is damaged", r, i, v)
			}
			if t == gguf.F16 && math.Abs(float64(v)) >= maxHalf {
				return fmt.Errorf("row %d, column %d is %g, more than float16 can hold; take a format with bfloat16 or float32: %w", r, i, v, errors.ErrUnsupported)
			}
		}
		if raw, ok := rawRow(m, t, r); ok {
			b = append(b, raw...)
		} else {
			b = b[:len(b)+int(rowSize)]
			if err := gguf.Quantize(b[len(b)-int(rowSize):], t, x); err != nil {
				return err
			}
		}
		if len(b) < cap(b) && r+1 < rows {
			continue
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
		if err := w.count(len(b)); err != nil {
			return err
		}
		b = b[:0]
	}
	return nil
}

// maxHalf is the smallest number that rounds to infinity in float16.
const maxHalf = 65520
