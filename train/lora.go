package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/train/nn"
)

// Lora describes low-rank adapters on a model that does not change (nn.Lora).
type Lora struct {
	Rank    int      `json:"rank"`
	Alpha   float64  `json:"alpha"`   // the adapters' product counts alpha/rank times; 0: twice the rank
	Targets []string `json:"targets"` // projections by the last part of their name; none: all of them
	Base    string   `json:"base"`    // path of the model below
	Sum     string   `json:"base_crc32c"`
}

// maxRank bounds a rank: more than any matrix of a model this package trains could use.
const maxRank = 1 << 12

func (o *Lora) check(have []string) error {
	if o.Rank < 1 || o.Rank > maxRank {
		return fmt.Errorf("train: --lora %d: the rank must be 1 to %d", o.Rank, maxRank)
	}
	if o.Alpha == 0 {
		o.Alpha = float64(2 * o.Rank)
	}
	if !(o.Alpha > 0) || math.IsInf(o.Alpha, 0) {
		return fmt.Errorf("train: --lora-alpha %g: must be a positive number", o.Alpha)
	}
	if len(o.Targets) == 0 {
		o.Targets = have
	}
	o.Targets = slices.Clone(o.Targets)
	slices.Sort(o.Targets)
	o.Targets = slices.Compact(o.Targets)
	for _, t := range o.Targets {
		if !slices.Contains(have, t) {
			return fmt.Errorf("train: --lora-targets %s: this model has no such projection; there are %s", t, strings.Join(have, ", "))
		}
	}
	return nil
}

// InitLora builds a model whose weights, those of the model at path, stay as they are, with adapters to train beside its
// projections. Packed files serve as well as masters: the base's product is that of inference. A begins as nn.Linear does,
// B at 0, so that training starts from what the base says. The rest is as Init has it.
func InitLora(path string, o Lora, block int, seed uint64, pool *par.Pool) (*Model, *data.Vocab, error) {
	b, err := openBase(path, "", block)
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	m, specs, err := build(b.config, pool)
	if err != nil {
		return nil, nil, err
	}
	if err := o.check(m.targets()); err != nil {
		return nil, nil, err
	}
	if o.Base, err = filepath.Abs(path); err != nil {
		return nil, nil, fmt.Errorf("train: %w", err)
	}
	if o.Sum, err = m.freeze(b, specs); err == nil {
		err = b.set.Check()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("train: %w", err)
	}
	m.lora = &o
	specs = specs[:0]
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			module := strings.TrimSuffix(l.W.Name, ".weight")
			if !slices.Contains(o.Targets, lastPart(module)) {
				continue
			}
			a := &nn.Lora{R: o.Rank, Scale: float32(o.Alpha / float64(o.Rank))}
			a.A = &nn.Param{Name: module + ".lora_A.weight", Shape: []int{o.Rank, l.In}, Decay: true}
			a.B = &nn.Param{Name: module + ".lora_B.weight", Shape: []int{l.Out, o.Rank}, Decay: true}
			l.Lora = a
			specs = append(specs, spec{p: a.A, std: -nn.KaimingUniform(l.In)}, spec{p: a.B})
		}
	}
	m.allocate(specs, seed)
	return m, b.vocab, nil
}

// params is how many parameters the adapters have.
func (o *Lora) params(c *Config) int64 {
	D, F, kv := int64(c.HiddenSize), int64(c.IntermediateSize), int64(c.NumKVHeads*c.headDim())
	n := int64(0)
	for _, t := range o.Targets {
		switch t {
		case "q_proj", "o_proj":
			n += 2 * D
		case "k_proj", "v_proj":
			n += D + kv
		default:
			n += D + F
		}
	}
	return n * int64(o.Rank) * int64(c.NumLayers)
}

// Lora describes the adapters, nil when the whole model is trained.
func (m *Model) Lora() *Lora { return m.lora }

func lastPart(module string) string { return module[strings.LastIndexByte(module, '.')+1:] }

// targets are the projections of a layer, in the order of their use.
func (m *Model) targets() []string {
	l := &m.layers[0]
	var names []string
	for _, x := range []*nn.Linear{&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down} {
		if x.W != nil {
			names = append(names, lastPart(strings.TrimSuffix(x.W.Name, ".weight")))
		}
	}
	return names
}

// freeze reads the base's weights: codes of ternary matrices, the rest as float32. It returns a checksum of them all.
func (m *Model) freeze(b *base, specs []spec) (sum string, err error) {
	linears := map[*nn.Param]*nn.Linear{}
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			linears[l.W] = l
		}
	}
	crc := uint32(0)
	for _, s := range specs {
		p := s.p
		m.base = append(m.base, p)
		if !p.Ternary {
			p.W = make([]float32, size(p.Shape))
			if err := b.floats(p); err != nil {
				return "", err
			}
			crc = crc32.Update(crc, castagnoli, floatBytes(p.W))
			continue
		}
		mat, err := b.set.Ternary(p.Name, p.Shape[0], p.Shape[1])
		if err != nil {
			return "", err
		}
		if len(mat.Scale) != 1 {
			return "", fmt.Errorf("%s: %s has a scale for each row; only matrices with one scale can be trained on", b.path, p.Name)
		}
		l := linears[p]
		l.Freeze(m.env, mat.Scale[0], mat.Row)
		codes, _ := l.Codes()
		crc = crc32.Update(crc, castagnoli, int8Bytes(codes))
		crc = crc32.Update(crc, castagnoli, floatBytes(mat.Scale))
	}
	return fmt.Sprintf("%08x", crc), nil
}

// peftConfig is adapter_config.json as Hugging Face's peft reads it (LoraConfig).
type peftConfig struct {
	PeftType       string   `json:"peft_type"`
	TaskType       string   `json:"task_type"`
	Base           string   `json:"base_model_name_or_path"`
	R              int      `json:"r"`
	Alpha          float64  `json:"lora_alpha"`
	Dropout        float64  `json:"lora_dropout"`
	Bias           string   `json:"bias"`
	Targets        []string `json:"target_modules"`
	FanInFanOut    bool     `json:"fan_in_fan_out"`
	InitWeights    bool     `json:"init_lora_weights"`
	InferenceMode  bool     `json:"inference_mode"`
	UseRSLora      bool     `json:"use_rslora"`
	UseDora        bool     `json:"use_dora"`
	ModulesToSave  []string `json:"modules_to_save"`
	LayersPattern  *string  `json:"layers_pattern"`
	LayersToChange []int    `json:"layers_to_transform"`
}

// ErrNoAdapter is returned, wrapped, by ExportAdapter for a model that is trained whole.
var ErrNoAdapter = errors.New("the run trained a whole model, not adapters")

// ExportAdapter writes the adapters to a folder in the layout of Hugging Face's peft: adapter_config.json and
// adapter_model.safetensors in float32.
func (m *Model) ExportAdapter(dir string) error {
	if m.lora == nil {
		return fmt.Errorf("train: %w", ErrNoAdapter)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	cfg, err := json.MarshalIndent(peftConfig{
		PeftType: "LORA", TaskType: "CAUSAL_LM", Base: m.lora.Base, R: m.lora.Rank, Alpha: m.lora.Alpha, Bias: "none",
		Targets: m.lora.Targets, InitWeights: true, InferenceMode: true,
	}, "", "  ")
	if err != nil {
		return err
	}
	var tensors []safetensors.Tensor
	content := map[string][]float32{}
	for _, p := range m.Params {
		t := safetensors.Tensor{Name: "base_model.model." + p.Name, DType: safetensors.F32, Shape: p.Shape}
		tensors, content[t.Name] = append(tensors, t), p.W
	}
	if err := WriteFile(filepath.Join(dir, "adapter_model.safetensors"), func(w io.Writer) error {
		return safetensors.Write(w, tensors, map[string]string{"format": "pt"}, func(w io.Writer, t safetensors.Tensor) error {
			_, err := w.Write(floatBytes(content[t.Name]))
			return err
		})
	}); err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, "adapter_config.json"), func(w io.Writer) error { _, err := w.Write(append(cfg, '\n')); return err })
}

// Merge puts the adapters into the masters of their base, W + s·B·A, and quantises again: a whole model, which needs no
// adapter. What the adapters changed by less than the distance to the next code is lost, and the scale of the matrix moves
// for all of it: the merged model is another one and, as a rule, a worse one. A base of packed codes has no masters; that
// is an error.
func (m *Model) Merge() (*Model, *data.Vocab, error) {
	if m.lora == nil {
		return nil, nil, fmt.Errorf("train: %w", ErrNoAdapter)
	}
	b, err := openBase(m.lora.Base, m.Config.Precision, m.Config.Block)
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	for _, p := range m.base {
		if p.Ternary && b.set.IsTernary(p.Name) {
			return nil, nil, fmt.Errorf("train: %s holds packed codes and no masters to merge adapters into; export the adapters (--format peft) and run the two together with --adapter", m.lora.Base)
		}
	}
	all, err := initFrom(b, m.env.Pool)
	if err != nil {
		return nil, nil, err
	}
	for i := range m.layers {
		to := all.layers[i].linears()
		for j, l := range m.layers[i].linears() {
			if l.Lora == nil {
				continue
			}
			a, w := l.Lora, to[j].W.W
			for o := range l.Out {
				row := w[o*l.In : (o+1)*l.In]
				for k := range a.R {
					s := a.Scale * a.B.W[o*a.R+k]
					for c, v := range a.A.W[k*l.In : (k+1)*l.In] {
						row[c] += s * v
					}
				}
			}
		}
	}
	all.Quantize()
	return all, b.vocab, nil
}
