// Package eval measures models: against what Hugging Face transformers computes (Verify), how well they predict text
// (MeasurePerplexity, AnswerQuestions), and how fast they are (Bench).
package eval

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/safetensors"
)

// Reference is what transformers computed for a model, as tools/reference/reference.py writes it.
type Reference struct {
	Name    string            // the file
	Meta    map[string]string // dtype, versions of torch and transformers, …
	Prompts []Prompt
	Layers  int
}

// Prompt is one prompt of a Reference: P of its T positions are stored.
type Prompt struct {
	IDs       []int32     // [T]
	Positions []int32     // [P] ascending, the last one is T-1
	Hidden    [][]float32 // [L+1][P·D] embedding, then the residual stream behind each block
	Final     []float32   // [P·D] behind the final norm
	Logits    []float32   // [P·V]
	Greedy    []int32     // [G] greedy continuation
	Second    []int32     // [G] the runner-up at each step; may be nil
	Margin    []float32   // [G] its distance; may be nil
}

// DType is what the reference computed in: "float32" or "bfloat16".
func (r *Reference) DType() string { return r.Meta["dtype"] }

// ReadReference reads a reference file. Its bounds are checked against each other here, against the
// model by Verify.
func ReadReference(path string) (*Reference, error) {
	f, err := infile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readReference(f, st.Size(), path)
}

func readReference(f io.ReaderAt, size int64, path string) (*Reference, error) {
	file, err := safetensors.Read(f, size, path)
	if err != nil {
		return nil, err
	}
	if v := file.Metadata["format"]; v != "trit-reference 1" {
		return nil, fmt.Errorf("%s: its format is %q, not \"trit-reference 1\"; write it with tools/reference/reference.py", path, v)
	}
	r := &Reference{Name: path, Meta: file.Metadata}
	rd := reader{f, file, nil}
	for n := 0; file.Tensor(fmt.Sprintf("prompt.%d.ids", n)) != nil; n++ {
		p, err := rd.prompt(fmt.Sprintf("prompt.%d.", n))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if n > 0 && len(p.Hidden)-1 != r.Layers {
			return nil, fmt.Errorf("%s: prompt %d has %d layers, the ones before %d", path, n, len(p.Hidden)-1, r.Layers)
		}
		r.Layers = len(p.Hidden) - 1
		r.Prompts = append(r.Prompts, p)
	}
	if len(r.Prompts) == 0 {
		return nil, fmt.Errorf("%s: no tensor \"prompt.0.ids\": there is nothing to compare", path)
	}
	return r, nil
}

type reader struct {
	f    io.ReaderAt
	file *safetensors.File
	err  error
}

func (r *reader) prompt(prefix string) (p Prompt, err error) {
	p.IDs = r.ints(prefix+"ids", true)
	p.Positions = r.ints(prefix+"positions", false)
	if p.Positions == nil {
		for i := range p.IDs {
			p.Positions = append(p.Positions, int32(i))
		}
	}
	for l := 0; r.file.Tensor(fmt.Sprintf("%shidden.%d", prefix, l)) != nil; l++ {
		p.Hidden = append(p.Hidden, r.floats(fmt.Sprintf("%shidden.%d", prefix, l), true))
	}
	p.Final = r.floats(prefix+"final", true)
	p.Logits = r.floats(prefix+"logits", true)
	p.Greedy = r.ints(prefix+"greedy", false)
	p.Second = r.ints(prefix+"greedy_second", false)
	p.Margin = r.floats(prefix+"greedy_margin", false)
	if r.err != nil {
		return p, r.err
	}
	n := len(p.Positions)
	switch {
	case len(p.IDs) == 0 || n == 0 || len(p.Hidden) == 0:
		err = fmt.Errorf("%sids, positions or hidden.0 is empty", prefix)
	case int(p.Positions[n-1]) != len(p.IDs)-1 || p.Positions[0] < 0 || !slices.IsSorted(p.Positions):
		err = fmt.Errorf("%spositions must ascend and end at %d", prefix, len(p.IDs)-1)
	case p.Second != nil && len(p.Second) != len(p.Greedy), p.Margin != nil && len(p.Margin) != len(p.Greedy):
		err = fmt.Errorf("%sgreedy, greedy_second and greedy_margin differ in length", prefix)
	}
	for l, h := range append(p.Hidden, p.Final, p.Logits) {
		if err == nil && (len(h)%n != 0 || len(h) == 0 || l <= len(p.Hidden) && len(h) != len(p.Final)) {
			err = fmt.Errorf("%s: a tensor of %d numbers for %d positions", prefix, len(h), n)
		}
	}
	return p, err
}

func (r *reader) bytes(name string, need bool) (*safetensors.Tensor, []byte) {
	t := r.file.Tensor(name)
	if t == nil || r.err != nil {
		if need && r.err == nil {
			r.err = fmt.Errorf("tensor %q is missing", name)
		}
		return nil, nil
	}
	b := make([]byte, t.Size) // within the file, Read has checked
	if _, err := r.f.ReadAt(b, t.Offset); err != nil {
		r.err = fmt.Errorf("tensor %q: %w", name, err)
		return nil, nil
	}
	return t, b
}

func (r *reader) ints(name string, need bool) []int32 {
	t, b := r.bytes(name, need)
	if t == nil {
		return nil
	}
	if t.DType != safetensors.I32 {
		r.err = fmt.Errorf("tensor %q is %s, want I32", name, t.DType)
		return nil
	}
	v := make([]int32, len(b)/4)
	for i := range v {
		v[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func (r *reader) floats(name string, need bool) []float32 {
	t, b := r.bytes(name, need)
	if t == nil {
		return nil
	}
	var v []float32
	switch t.DType {
	case safetensors.F32:
		v = make([]float32, len(b)/4)
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	case safetensors.BF16:
		v = make([]float32, len(b)/2)
		for i := range v {
			v[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
	default:
		r.err = fmt.Errorf("tensor %q is %s, want F32 or BF16", name, t.DType)
	}
	return v
}
