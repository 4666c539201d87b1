// Package convert writes models: as a Hugging Face folder, packed or with float masters, or as a
// GGUF file, out of any model that package weights opens or out of random numbers.
//
//	weights.Set | Random → Source → Write → a folder or file that trit, transformers and llama.cpp read
//
// Tensors are written one after another and never held together. What a format cannot say is refused before anything is
// written; what is written is read back and compared with the source, and only then gets its name (check.go).
package convert

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/mapped"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/weights"
)

// Source is a model to be written. Names are those of Hugging Face.
type Source interface {
	Config() *model.Config
	Names() []string
	// Ternary gives a projection's codes and scale.
	Ternary(name string, rows, cols int) (*ternary.Matrix, error)
	// Dense gives a matrix of floats.
	Dense(name string, rows, cols int) (Rows, error)
	// Vector gives a norm's weights, or a bias.
	Vector(name string, n int) ([]float32, error)
	// Type is how a tensor of floats is stored.
	Type(name string) gguf.Type
	// HasCodes says whether a projection is stored as codes; if not, as floats that Dense gives too.
	HasCodes(name string) bool
}

// Rows is a matrix of floats, row by row.
type Rows interface {
	Row(dst []float32, r int)
}

// Format is what Write writes.
type Format string

// The formats. A GGUF format is named after the type of its projections.
const (
	HFPacked Format = "hf-packed" // Hugging Face folder, ternary weights in 2 bits
	HFBF16   Format = "hf-bf16"   // Hugging Face folder, masters in bfloat16, quantised when loaded
	HFF32    Format = "hf-f32"    // the same in float32
	I2S      Format = "gguf-i2_s" // bitnet.cpp
	TQ1      Format = "gguf-tq1_0"
	TQ2      Format = "gguf-tq2_0"
	Q2       Format = "gguf-q2_0"
	PQ2      Format = "gguf-pq2_0" // weights alone
	PTQ1     Format = "gguf-ptq1_0"
	Q1       Format = "gguf-q1_0"
	IQ1BN    Format = "gguf-iq1_bn" // ik_llama.cpp
	IQ2BN    Format = "gguf-iq2_bn"
	F16      Format = "gguf-f16" // models that are not ternary
	BF16     Format = "gguf-bf16"
	F32      Format = "gguf-f32"
)

// formats in the order that help shows, with the type of the projections in GGUF and their codec.
var formats = []struct {
	format Format
	typ    gguf.Type
	codec  ternary.Format // 0: floats
	about  string
}{
	{HFPacked, 0, 0, "Hugging Face folder, 2 bits a weight"},
	{HFBF16, gguf.BF16, 0, "Hugging Face folder, masters in bfloat16"},
	{HFF32, gguf.F32, 0, "Hugging Face folder, masters in float32"},
	{I2S, gguf.I2_S, ternary.I2SX86, "GGUF for bitnet.cpp, 2 bits; needs widths that are multiples of 128"},
	{TQ1, gguf.TQ1_0, ternary.TQ1_0, "GGUF for llama.cpp, 1.69 bits; needs widths that are multiples of 256"},
	{TQ2, gguf.TQ2_0, ternary.TQ2_0, "GGUF for llama.cpp, 2.06 bits; needs widths that are multiples of 256"},
	{Q2, gguf.Q2_0, ternary.Q2_0, "GGUF for llama.cpp, 2.25 bits; needs widths that are multiples of 64"},
	{PQ2, gguf.PQ2_0, ternary.PQ2_0, "GGUF for PrismML's llama.cpp, 2.13 bits, weights alone with a scale for 128; of floats too"},
	{PTQ1, gguf.PTQ1_0, ternary.PTQ1_0, "GGUF for PrismML's llama.cpp, 1.75 bits, the same"},
	{Q1, gguf.Q1_0, ternary.Q1_0, "GGUF for llama.cpp, 1.13 bits, binary weights with a scale for 128"},
	{IQ1BN, gguf.IQ1_BN, ternary.IQ1_BN, "GGUF for ik_llama.cpp, 1.63 bits"},
	{IQ2BN, gguf.IQ2_BN, ternary.IQ2_BN, "GGUF for ik_llama.cpp, 2 bits"},
	{F16, gguf.F16, 0, "GGUF of a model that is not ternary"},
	{BF16, gguf.BF16, 0, "GGUF of a model that is not ternary"},
	{F32, gguf.F32, 0, "GGUF of a model that is not ternary"},
}

// Formats lists what Write writes, with a line about each.
func Formats() (names []Format, about []string) {
	for _, f := range formats {
		names, about = append(names, f.format), append(about, f.about)
	}
	return names, about
}

// IsGGUF reports whether the format is a file rather than a folder.
func (f Format) IsGGUF() bool { return strings.HasPrefix(string(f), "gguf-") }

func (f Format) index() int {
	for i := range formats {
		if formats[i].format == f {
			return i
		}
	}
	return -1
}

// Options for Write.
type Options struct {
	Format Format
	// Files are small files for a folder, by name: the tokenizer's, generation_config.json.
	Files map[string][]byte
	// TokenizerKV is the tokenizer as GGUF metadata.
	TokenizerKV gguf.KV
	// Tokenizer is the source's, which that of the written files must be equal to; nil compares none.
	Tokenizer *tokenizer.Tokenizer
	// SplitSize is how many bytes of tensors a GGUF file may have before another one is begun, as llama.cpp's gguf-split
	// counts them; 0 writes one file.
	SplitSize int64
	// HFConfig is a config.json to start from, so that keys trit has no use for survive; nil makes one.
	HFConfig []byte
	// Embedding is how GGUF stores embedding and head: gguf.F16, BF16, F32, Q8_0 or Q6_K. Keep is as they are.
	Embedding gguf.Type
	Keep      bool
	// Overwrite replaces what is at the destination.
	Overwrite bool
	Progress  func(done, total int64) // bytes
}

// A Report says what was written.
type Report struct {
	Format     Format        `json:"format"`
	Path       string        `json:"path"` // what to open: of several files the first
	Parts      []string      `json:"parts,omitempty"`
	Bytes      int64         `json:"bytes"`
	Tensors    int           `json:"tensors"`
	Quantised  []TensorError `json:"quantised,omitempty"` // masters that became ternary
	Skipped    []string      `json:"skipped,omitempty"`   // tensors that trit has no use for
	Rounded    []string      `json:"rounded,omitempty"`   // tensors of floats, and scales, that the format cannot hold in full
	Parameters int64         `json:"parameters"`
}

// TensorError is how far a master is from its ternary form.
type TensorError struct {
	Name     string  `json:"name"`
	Relative float64 `json:"relative_error"` // ‖W − s·Ŵ‖ / ‖W‖
	Zeros    float64 `json:"zeros"`          // share of Ŵ that is 0
}

// GaussianError is the relative error of absmean on normally distributed weights: a master about as
// far from ternary as that was not trained to be it.
const GaussianError = 0.513

// MeanError is the mean relative error of the masters that became ternary.
func (r *Report) MeanError() float64 {
	if len(r.Quantised) == 0 {
		return 0
	}
	var sum float64
	for _, t := range r.Quantised {
		sum += t.Relative
	}
	return sum / float64(len(r.Quantised))
}

type kind int

const (
	projection kind = iota // ternary where the model is
	dense                  // embedding, head
	vector                 // norms, biases
)

// entry is a tensor of the plan.
type entry struct {
	name       string
	kind       kind
	rows, cols int // vector: cols
	module     string
}

// plan lists the tensors in the order that they are written.
func plan(src Source) (list []entry, skipped []string) {
	has := map[string]bool{}
	for _, name := range src.Names() {
		has[name] = true
	}
	if d := ropeDivisors(src.Config()); d != nil && has[ropeFreqs] {
		list = append(list, entry{name: ropeFreqs, kind: vector, rows: 1, cols: len(d)})
		delete(has, ropeFreqs)
	}
	for _, t := range src.Config().Tensors() {
		if t.Kind == model.Scale || !has[t.Name] {
			continue
		}
		list = append(list, entryOf(t))
		delete(has, t.Name)
	}
	return list, slices.Sorted(maps.Keys(has))
}

// ropeFreqs is the tensor of a GGUF file that divides the frequencies of rotary positions, ropeDivisors.
const ropeFreqs = "rope_freqs.weight"

func ropeDivisors(c *model.Config) []float32 { return family.ShapeOf(c).Rope.Divisors }

// entryOf is a tensor of the model's description.
func entryOf(t model.Tensor) entry {
	e := entry{name: t.Name, kind: vector, rows: t.Rows, cols: t.Cols, module: strings.TrimSuffix(strings.TrimSuffix(t.Name, ".weight"), ".bias")}
	switch t.Kind {
	case model.Table:
		e.kind = dense
	case model.Matrix:
		if e.kind = projection; t.Name == model.HeadName+".weight" && t.Projection.Arithmetic == part.Dense {
			e.kind = dense
		}
	}
	return e
}

// place is the entry of a tensor.
func place(c *model.Config, name string) (entry, bool) {
	for _, t := range c.Tensors() {
		if t.Name == name {
			return entryOf(t), true
		}
	}
	return entry{}, false
}

func layerOf(name string) (int, bool) {
	rest, ok := strings.CutPrefix(name, "model.layers.")
	if !ok {
		return 0, false
	}
	var n int
	if _, err := fmt.Sscanf(rest, "%d.", &n); err != nil {
		return 0, false
	}
	return n, true
}

// ternaryEntry reports whether the tensor is a projection that the model computes with ternary weights.
func ternaryEntry(c *model.Config, e entry) bool {
	return e.kind == projection && c.IsTernary(e.module)
}

// whole runs write, which reads the source, and is an error when the source's files were changed under it.
func (w *writer) whole(write func() error) (err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	if err := write(); err != nil {
		return err
	}
	if s, ok := w.src.(interface{ Check() error }); ok {
		return s.Check()
	}
	return nil
}

// Write writes the model to dst, a folder or a file, and says what it wrote. What is at dst stays as
// it is unless everything went well.
func Write(ctx context.Context, dst string, src Source, o Options) (*Report, error) {
	w, list, err := newWriter(ctx, src, o)
	if err != nil {
		return nil, err
	}
	w.report.Path = dst
	if o.Format.IsGGUF() {
		err = w.whole(func() error { return w.writeGGUF(dst, list) })
	} else {
		err = w.whole(func() error { return w.writeFolder(filepath.Clean(dst), list) })
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w; it needs %d MB", err, w.total>>20+1)
		}
		return nil, fmt.Errorf("convert: %s: %w", dst, err)
	}
	return &w.report, nil
}

// staged writes into a stage, checks what is there under the name of open, and publishes it.
func (w *writer) staged(dst, open string, list []entry, write func(s *stage) error, publish func(s *stage) error) (err error) {
	s, err := newStage(dst)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := write(s); err != nil {
		return err
	}
	if err := s.finish(); err != nil {
		return err
	}
	if err := w.verify(filepath.Join(s.dir, open), list); err != nil {
		where := strings.ReplaceAll(err.Error(), s.dir+string(filepath.Separator), "")
		return fmt.Errorf("what was written does not read back as the model it was made of, and is removed: %s", where)
	}
	return publish(s)
}

// newWriter checks that the model can be had in that format, and plans.
func newWriter(ctx context.Context, src Source, o Options) (*writer, []entry, error) {
	i := o.Format.index()
	if i < 0 {
		names, _ := Formats()
		return nil, nil, fmt.Errorf("convert: format %q is not known; known: %v", o.Format, names)
	}
	c := src.Config()
	if o.Format.IsGGUF() && formats[i].codec == 0 && c.Ternary() {
		return nil, nil, fmt.Errorf("convert: %s stores floats, and this model is ternary; take gguf-i2_s, gguf-tq2_0 or another ternary format: %w", o.Format, errors.ErrUnsupported)
	}
	if err := checkGroups(c, o.Format, formats[i].codec); err != nil {
		return nil, nil, err
	}
	if (formats[i].codec != 0 && !c.WeightOnly() && !takesMasters[o.Format] || o.Format == HFPacked) && !c.Ternary() {
		return nil, nil, fmt.Errorf("convert: %s stores ternary weights, and this model's configuration does not say that it is BitNet: quantised it would write noise (--quantize says that it was trained for it): %w", o.Format, errors.ErrUnsupported)
	}
	if c.StateBytes() > 0 {
		return nil, nil, fmt.Errorf("convert: models with recurrent layers, such as those of family %s, are run and not written yet: %w", c.Family, errors.ErrUnsupported)
	}
	if o.SplitSize != 0 && !o.Format.IsGGUF() {
		return nil, nil, fmt.Errorf("convert: a size to split at is for GGUF files, and %s is a folder: %w", o.Format, errors.ErrUnsupported)
	}
	if formats[i].codec == 0 {
		src = Unrotate(src)
	}
	w := &writer{ctx: ctx, src: src, o: o, typ: formats[i].typ, codec: formats[i].codec, stored: map[string]gguf.Type{}}
	w.report.Format = o.Format
	var list []entry
	list, w.report.Skipped = plan(src)
	w.report.Tensors = len(list)
	for _, e := range list {
		w.report.Parameters += int64(max(e.rows, 1)) * int64(e.cols)
	}
	return w, list, nil
}

// writer is one Write.
type writer struct {
	ctx    context.Context
	src    Source
	o      Options
	typ    gguf.Type
	codec  ternary.Format
	stored map[string]gguf.Type // how tensors of floats are stored
	report Report

	done, total int64
}

// packs says whether ternary weights are stored as codes.
func (w *writer) packs() bool { return w.codec != 0 || w.o.Format == HFPacked }

// count counts the bytes of the file under way; it is what every tensor passes through.
func (w *writer) count(n int) error {
	w.done += int64(n)
	if w.o.Progress != nil {
		w.o.Progress(w.done, w.total)
	}
	return w.ctx.Err()
}

// quantised notes how far the master of e is from m.
func (w *writer) quantised(e entry, m *ternary.Matrix) error {
	if w.src.HasCodes(e.name) {
		return nil
	}
	master, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	x, q := make([]float32, e.cols), make([]int8, e.cols)
	var diff, norm float64
	zeros := 0
	for r := range e.rows {
		master.Row(x, r)
		m.Row(q, r)
		s := m.RowScale(r)
		for i, v := range x {
			d := float64(v - s*float32(q[i]))
			diff += d * d
			norm += float64(v) * float64(v)
			if q[i] == 0 {
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

// setSource is a Source over a model that was opened.
type setSource struct {
	set *weights.Set
	cfg *model.Config
}

// FromSet makes a Source of an opened model.
func FromSet(set *weights.Set, cfg *model.Config) Source { return setSource{set, cfg} }

// Check says whether the files are still what was opened.
func (s setSource) Check() error { return s.set.Check() }

func (s setSource) Config() *model.Config { return s.cfg }

func (s setSource) Names() []string {
	var names []string
	own, _ := family.OwnNorm(s.cfg)
	for _, n := range s.set.Names() {
		hf, ok := s.set.HFName(n)
		if !ok {
			names = append(names, n)
			continue
		}
		n = hf
		if s.set.GGUF() != nil {
			if s.cfg.Family == "bitnet-1bitllm" {
				n = strings.NewReplacer("self_attn.attn_sub_norm", "self_attn.inner_attn_ln", "mlp.ffn_sub_norm", "mlp.ffn_layernorm").Replace(n)
			}
			n = strings.Replace(n, "_proj.rms_norm.", "_proj."+own+".", 1)
		}
		if strings.HasSuffix(n, ".weight_scale") || s.set.MLX() && (strings.HasSuffix(n, ".scales") || strings.HasSuffix(n, ".biases")) {
			continue // part of the codes
		}
		if n == "lm_head.weight" && s.cfg.TiedHead() {
			continue
		}
		names = append(names, n)
	}
	return names
}

func (s setSource) Ternary(name string, rows, cols int) (*ternary.Matrix, error) {
	return s.set.Ternary(name, rows, cols)
}

func (s setSource) Dense(name string, rows, cols int) (Rows, error) {
	return s.set.Dense(name, rows, cols)
}

func (s setSource) Vector(name string, n int) ([]float32, error) { return s.set.Vector(name, n) }

// HasCodes says so too of floats with a scale beside them: they are codes that were not packed.
func (s setSource) HasCodes(name string) bool {
	return s.set.IsTernary(name) || s.set.Has(name+"_scale")
}

func (s setSource) Type(name string) gguf.Type { return s.set.FloatType(name) }
