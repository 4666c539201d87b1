package part

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/safetensors"
)

// Adapter is a set of low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) as Hugging Face's peft saves them. Beside
// a projection W it adds
//
//	y += s·B·(A·x)    s = alpha/rank, or alpha/√rank with use_rslora
//
// where x is the projection's input before it is rounded to int8. The base stays ternary and its product exact.
type Adapter struct {
	path    string
	modules map[string]*lora
}

// lora is the adapter of one projection.
type lora struct {
	rank    int
	in, out int
	a       []float32 // [rank, in]
	bt      []float32 // [rank, out], s folded in
}

// ErrAdapter is wrapped by what is wrong with an adapter or with an adapter for this model.
var ErrAdapter = errors.New("not an adapter for this model")

// Bounds of what a file may claim.
const (
	maxAdapterRank  = 1 << 12
	maxAdapterWidth = 1 << 17
)

// OpenAdapter reads an adapter's folder: adapter_config.json and adapter_model.safetensors.
func OpenAdapter(dir string) (*Adapter, error) {
	a := &Adapter{path: dir, modules: map[string]*lora{}}
	if err := a.read(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("part: adapter %s: %w: it must hold adapter_config.json and adapter_model.safetensors", dir, err)
		}
		return nil, fmt.Errorf("part: adapter %s: %w: %w", dir, err, ErrAdapter)
	}
	return a, nil
}

func (a *Adapter) read() error {
	text, err := infile.Read(filepath.Join(a.path, "adapter_config.json"), infile.Text)
	if err != nil {
		return err
	}
	f, err := infile.Open(filepath.Join(a.path, "adapter_model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return a.parse(text, f, st.Size(), f.Name())
}

// parse reads the configuration and the weights, a safetensors file of size bytes.
func (a *Adapter) parse(config []byte, f io.ReaderAt, size int64, name string) error {
	c := struct {
		Type         string          `json:"peft_type"`
		Rank         int             `json:"r"`
		Alpha        float64         `json:"lora_alpha"`
		Bias         string          `json:"bias"`
		FanInFanOut  bool            `json:"fan_in_fan_out"`
		RSLora       bool            `json:"use_rslora"`
		Dora         bool            `json:"use_dora"`
		RankPattern  map[string]any  `json:"rank_pattern"`
		AlphaPattern map[string]any  `json:"alpha_pattern"`
		Save         json.RawMessage `json:"modules_to_save"`
	}{Bias: "none"}
	if err := json.Unmarshal(config, &c); err != nil {
		return fmt.Errorf("adapter_config.json: %w", err)
	}
	switch {
	case c.Type != "LORA":
		return fmt.Errorf("adapter_config.json: peft_type %q; only LORA can be run", c.Type)
	case c.Rank < 1 || c.Rank > maxAdapterRank:
		return fmt.Errorf("adapter_config.json: r is %d; it must be 1 to %d", c.Rank, maxAdapterRank)
	case math.IsNaN(c.Alpha) || math.IsInf(c.Alpha, 0):
		return fmt.Errorf("adapter_config.json: lora_alpha is %g", c.Alpha)
	case c.Bias != "none", c.FanInFanOut, c.Dora, len(c.RankPattern) > 0, len(c.AlphaPattern) > 0:
		return errors.New("adapter_config.json: bias, fan_in_fan_out, use_dora, rank_pattern and alpha_pattern cannot be run; only plain LoRA can")
	case len(c.Save) > 0 && string(c.Save) != "null" && string(c.Save) != "[]":
		return errors.New("adapter_config.json: modules_to_save: the adapter replaces whole modules, which cannot be run")
	}
	scale := c.Alpha / float64(c.Rank)
	if c.RSLora {
		scale = c.Alpha / math.Sqrt(float64(c.Rank))
	}
	file, err := safetensors.Read(f, size, name)
	if err != nil {
		return err
	}
	for _, t := range file.Tensors {
		m := adapterName.FindStringSubmatch(t.Name)
		if m == nil {
			return fmt.Errorf("tensor %q is neither a lora_A nor a lora_B of a layer's projection", t.Name)
		}
		if len(t.Shape) != 2 || t.Shape[0] < 1 || t.Shape[1] < 1 || t.Shape[0] > maxAdapterWidth || t.Shape[1] > maxAdapterWidth {
			return fmt.Errorf("tensor %q has shape %v", t.Name, t.Shape)
		}
		v, err := readFloats(f, &t)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		l := a.modules[m[1]]
		if l == nil {
			l = &lora{rank: c.Rank}
			a.modules[m[1]] = l
		}
		if m[2] == "A" {
			if t.Shape[0] != c.Rank {
				return fmt.Errorf("tensor %q has shape %v; r is %d", t.Name, t.Shape, c.Rank)
			}
			l.in, l.a = t.Shape[1], v
			continue
		}
		if t.Shape[1] != c.Rank {
			return fmt.Errorf("tensor %q has shape %v; r is %d", t.Name, t.Shape, c.Rank)
		}
		l.out, l.bt = t.Shape[0], make([]float32, len(v))
		for o := range l.out {
			for k := range c.Rank {
				l.bt[k*l.out+o] = float32(scale * float64(v[o*c.Rank+k]))
			}
		}
	}
	if len(a.modules) == 0 {
		return errors.New("adapter_model.safetensors holds no tensors")
	}
	for name, l := range a.modules {
		if l.a == nil || l.bt == nil {
			return fmt.Errorf("%s has only one of lora_A and lora_B", name)
		}
	}
	return nil
}

// adapterName is a tensor's name in peft's layout; the name of the adapter between lora_A and weight is left out on saving,
// and some programs leave it in.
var adapterName = regexp.MustCompile(`^base_model\.model\.(model\.layers\.[0-9]+\.[a-z_]+\.[a-z_]+)\.lora_(A|B)(?:\.default)?\.weight$`)

// readFloats reads a tensor of F32, F16 or BF16; its size was checked against the file when the header was read.
func readFloats(f io.ReaderAt, t *safetensors.Tensor) ([]float32, error) {
	typ, ok := map[safetensors.DType]gguf.Type{safetensors.F32: gguf.F32, safetensors.F16: gguf.F16, safetensors.BF16: gguf.BF16}[t.DType]
	if !ok {
		return nil, fmt.Errorf("is stored as %s; F32, F16 or BF16 is needed here", t.DType)
	}
	raw := make([]byte, t.Size)
	if _, err := f.ReadAt(raw, t.Offset); err != nil {
		return nil, err
	}
	v := make([]float32, t.Shape[0]*t.Shape[1])
	if err := gguf.Dequantize(v, typ, raw); err != nil {
		return nil, err
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil, fmt.Errorf("element %d is %g: the file is damaged", i, x)
		}
	}
	return v, nil
}

// Check refuses adapters of projections that a model does not have, or has in another shape.
func (a *Adapter) Check(model []*Projection) error {
	left := make(map[string]bool, len(a.modules))
	for name := range a.modules {
		left[name] = true
	}
	for _, p := range model {
		low := a.modules[p.Name]
		if low == nil {
			continue
		}
		if low.in != p.In || low.out != p.Out {
			return fmt.Errorf("part: adapter %s: %s is made for %d inputs and %d outputs; this model has %d and %d: %w", a.path, p.Name, low.in, low.out, p.In, p.Out, ErrAdapter)
		}
		delete(left, p.Name)
	}
	if len(left) > 0 {
		names := slices.Sorted(maps.Keys(left))
		return fmt.Errorf("part: adapter %s: this model has no %s: %w", a.path, strings.Join(names[:min(3, len(names))], ", "), ErrAdapter)
	}
	return nil
}

// lowRank computes u = A·h for the block's rows, of each of projections [from, to) that has an adapter, into its slot's low.
func (k *bank) lowRank(from, to int) {
	if !k.adapted {
		return
	}
	k.lowFrom, k.lowTo = from, to
	k.b.pool.For(k.b.n, 1, k.low)
}

func (k *bank) lowRows(lo, hi int) {
	for i, l := range k.ls[k.lowFrom:k.lowTo] {
		if l.lora == nil {
			continue
		}
		rank := l.lora.rank
		for r := lo; r < hi; r++ {
			x, u := k.row(r), k.b.slots[i].low[r*rank:][:rank]
			for j := range u {
				u[j] = kernel.Dot(l.lora.a[j*l.In:][:l.In], x)
			}
		}
	}
}

// add adds s·B·u to y, outputs from first on, in the order of the rank.
func (l *lora) add(y []float32, first int, u []float32) {
	for k, v := range u {
		b := l.bt[k*l.out+first:][:len(y)]
		for o, w := range b {
			y[o] += float32(v * w)
		}
	}
}
