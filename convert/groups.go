package convert

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
)

// Weights alone, with a scale for each group of columns: from one format of blocks to another without loss, and from floats by
// absmean of each group.

// groupSource is a Source of such matrices.
type groupSource interface {
	// IsGrouped says whether a matrix, the embedding too, is stored so.
	IsGrouped(name string) bool
	Groups(name string, rows, cols int) (*ternary.Groups, error)
}

func (s setSource) IsGrouped(name string) bool { return s.set.IsGrouped(name) }

func (s setSource) Groups(name string, rows, cols int) (*ternary.Groups, error) {
	return s.set.Groups(name, rows, cols)
}

// takesMasters are the formats that floats are quantised to, group by group; the others hold what is ternary already.
var takesMasters = map[Format]bool{PQ2: true, PTQ1: true}

// checkGroups refuses models that a format of groups cannot hold.
func checkGroups(c *model.Config, f Format, codec ternary.Format) error {
	switch {
	case c.Ternary() && (f == PQ2 || f == PTQ1 || f == Q1):
		return fmt.Errorf("convert: %s holds models whose weights alone are quantised, and this one is W1.58A8; take gguf-i2_s, gguf-tq2_0 or gguf-q2_0: %w", f, errors.ErrUnsupported)
	case c.WeightOnly() && codec != 0 && !codec.Grouped():
		return fmt.Errorf("convert: %s has no scales of groups, which this model's weights have; take gguf-pq2_0 or another format that has: %w", f, errors.ErrUnsupported)
	}
	return nil
}

// groups says whether a matrix is written with a scale for each group of columns.
func (w *writer) groups(e entry) bool {
	c := w.src.Config()
	if e.kind == vector || w.codec == 0 || !w.codec.Grouped() || c.Ternary() {
		return false
	}
	if !c.WeightOnly() {
		return true // masters
	}
	s, ok := w.src.(groupSource)
	return ok && s.IsGrouped(e.name)
}

// grouped is the matrix of such an entry.
func (w *writer) grouped(e entry) (*ternary.Groups, error) {
	if w.src.Config().WeightOnly() {
		return w.src.(groupSource).Groups(e.name, e.rows, e.cols)
	}
	rows, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return nil, err
	}
	return quantizeGroups(rows, e.rows, e.cols)
}

// groupSize is how many columns share a scale in the formats that floats are quantised to.
const groupSize = 128

// quantizeGroups makes ternary weights of floats. Where every 128 columns hold only -d, 0 and d already, as in models that were
// published once more as floats, these are the codes, so that nothing is lost that float16 can hold; of other masters d is
// mean|w| of the columns, and ŵ = clamp(round(w/d), -1, 1).
func quantizeGroups(m Rows, rows, cols int) (*ternary.Groups, error) {
	if cols%groupSize != 0 {
		return nil, fmt.Errorf("%d columns is not a multiple of %d: %w", cols, groupSize, gguf.ErrColumns)
	}
	scale := meanMagnitude
	if ternaryGroups(m, rows, cols) {
		scale = magnitude
	}
	x := make([]float32, cols)
	b := make([]byte, 0, rows*cols/groupSize*34)
	for r := range rows {
		m.Row(x, r)
		for g := 0; g < cols; g += groupSize {
			w := x[g:][:groupSize]
			mean := scale(w)
			if !(mean <= 65504) {
				return nil, fmt.Errorf("row %d, columns %d to %d have the magnitude %g: the source is damaged", r, g, g+groupSize-1, mean)
			}
			var block [34]byte // pq2_0
			if err := gguf.Quantize(block[:2], gguf.F16, []float32{mean}); err != nil {
				return nil, err
			}
			var d [1]float32
			if err := gguf.Dequantize(d[:], gguf.F16, block[:2]); err != nil {
				return nil, err
			}
			for i, v := range w {
				code := byte(1)
				if d[0] > 0 {
					code = byte(1 + max(-1, min(1, math.RoundToEven(float64(v/d[0])))))
				}
				block[2+i/4] |= code << (2 * (i % 4))
			}
			b = append(b, block[:]...)
		}
	}
	return ternary.UnpackGroups(b, ternary.PQ2_0, rows, cols)
}

// ternaryGroups says whether each groupSize columns hold only -d, 0 and d.
func ternaryGroups(m Rows, rows, cols int) bool {
	x := make([]float32, cols)
	for r := range rows {
		m.Row(x, r)
		for w := range slices.Chunk(x, groupSize) {
			d := magnitude(w)
			if slices.ContainsFunc(w, func(v float32) bool { return v != 0 && v != d && v != -d }) {
				return false
			}
		}
	}
	return true
}

// magnitude is that of the first weight that is not zero, or zero.
func magnitude(w []float32) float32 {
	i := slices.IndexFunc(w, func(v float32) bool { return v != 0 })
	if i < 0 {
		return 0
	}
	return float32(math.Abs(float64(w[i])))
}

// meanMagnitude is mean|w|.
func meanMagnitude(w []float32) float32 {
	var sum float64
	for _, v := range w {
		sum += math.Abs(float64(v))
	}
	return float32(sum / float64(len(w)))
}

// packed are the bytes of a matrix in the format, its rows in the order of the file. heads is 0, or how many of them have rows
// that change places.
func (w *writer) packedGroups(e entry, heads int) ([]byte, error) {
	g, err := w.grouped(e)
	if err != nil {
		return nil, err
	}
	if err := w.quantisedGroups(e, g); err != nil {
		return nil, err
	}
	data, err := g.Pack(w.codec)
	if err == nil && heads > 0 {
		data = permuted(data, heads, len(data)/e.rows)
	}
	return data, err
}

// quantisedGroups notes how far the master of e is from g.
func (w *writer) quantisedGroups(e entry, g *ternary.Groups) error {
	if w.src.Config().WeightOnly() {
		return nil
	}
	master, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	x, y := make([]float32, e.cols), make([]float32, e.cols)
	var diff, norm float64
	zeros := 0
	for r := range e.rows {
		master.Row(x, r)
		g.Row(y, r)
		for i, v := range x {
			d := float64(v - y[i])
			diff, norm = diff+d*d, norm+float64(v)*float64(v)
			if y[i] == 0 {
				zeros++
			}
		}
	}
	t := TensorError{Name: e.name, Zeros: float64(zeros) / float64(e.rows*e.cols)}
	if norm > 0 {
		t.Relative = math.Sqrt(diff / norm)
	}
	w.report.Quantised = append(w.report.Quantised, t)
	return nil
}

// verifyGroups compares what was written with what it was made of, weight by weight.
func (w *writer) verifyGroups(got Source, e entry, name string) error {
	want, err := w.grouped(e)
	if err != nil {
		return err
	}
	have, err := got.Dense(name, e.rows, e.cols)
	if err != nil {
		return err
	}
	x, y := make([]float32, e.cols), make([]float32, e.cols)
	for r := range e.rows {
		want.Row(x, r)
		have.Row(y, r)
		for i := range x {
			if x[i] != y[i] {
				return fmt.Errorf("row %d, column %d is %g instead of %g", r, i, y[i], x[i])
			}
		}
	}
	return nil
}

// unrotated is a Source of a model whose rotated weights are turned back, for formats of floats.
type unrotated struct {
	Source
	rotations map[string]*part.Rotation // by tensor
}

// Unrotate makes a Source without rotations of one that may have some. It changes the source's description.
func Unrotate(src Source) Source {
	u := unrotated{src, map[string]*part.Rotation{}}
	c := src.Config()
	if r := c.Embedding.Rotation; r != nil {
		u.rotations[c.Embedding.Name+".weight"] = r
		c.Embedding.Rotation = nil
	}
	for _, p := range c.Projections() {
		if p.Rotation == nil {
			continue
		}
		u.rotations[p.Source()+".weight"] = p.Rotation
		p.Rotation, p.Arithmetic = nil, part.Dense
	}
	if len(u.rotations) == 0 {
		return src
	}
	return u
}

// Dense gives the rows as they were before they were folded.
func (u unrotated) Dense(name string, rows, cols int) (Rows, error) {
	m, err := u.Source.Dense(name, rows, cols)
	if r := u.rotations[name]; r != nil && err == nil {
		m = turnedRows{m, r}
	}
	return m, err
}

type turnedRows struct {
	Rows
	rotation *part.Rotation
}

func (t turnedRows) Row(dst []float32, r int) {
	t.Rows.Row(dst, r)
	t.rotation.Undo(dst)
}
