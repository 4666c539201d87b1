package model

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// Config is the description of a decoder: its layers, made of parts, between an embedding and a head. Everything that needs to
// know what tensors a model has, or how they are computed, asks it. Package family makes it of a model's files.
type Config struct {
	Family string // which file of package family read it, e.g. "bitnet"
	Name   string // what the file calls itself, for people

	HiddenSize int // D, width of the residual stream
	VocabSize  int // V
	MaxContext int // tokens

	Embedding Embedding
	Layers    []part.Layer
	FinalNorm part.Norm
	HeadScale float32         // of the states in front of the head; 0 is 1
	Head      part.Projection // its Weights are the embedding's where it is tied to that

	// Pooling is set for models whose output is a vector of a text: how it is made of the final states, L2-normalised
	// then. "" is a model that writes text.
	Pooling    Pooling
	EmbedEnd   string // the token that ends every such text
	MeanInFile bool   // the GGUF file says mean, against the model's authors

	// KV is how engines keep keys and values: not the model's but its user's choice, made before it is loaded.
	KV KVType
	// Activations is how engines round the inputs of projections of weights alone: their user's choice, too.
	Activations part.Activations

	// Skip are beginnings of names of tensors, as the file has them, that the model leaves out: blocks that only guess.
	Skip []string

	Notes []string // what was guessed and may be wrong, a line each; for people
}

// Embedding is the table of tokens, and what is done to its rows.
type Embedding struct {
	Name      string  // of the module
	Scale     float32 // rows are multiplied by it; 0 is 1
	Positions string  // module of learned positions, added to the rows; "" is none
	// Rotation that the rows were folded with and that is undone behind them, nil for none.
	Rotation *part.Rotation
}

// The names of modules outside of layers, as Hugging Face writes them in every family.
const (
	EmbedName     = "model.embed_tokens"
	PositionsName = "model.embed_positions" // learned positions of the vanilla transformer
	FinalNormName = "model.norm"
	HeadName      = "lm_head"
)

// KVType is how keys and values are kept. All but KVFloat32 round them.
type KVType = part.KVType

// The kinds of KVType.
const (
	KVFloat32 = part.KVFloat32
	KVFloat16 = part.KVFloat16
	KVInt8    = part.KVInt8
)

// NumLayers is L.
func (c *Config) NumLayers() int { return len(c.Layers) }

// TiedHead says whether the head is the embedding.
func (c *Config) TiedHead() bool { return c.Head.Weights != "" }

// TieHead makes it that.
func (c *Config) TieHead(tied bool) {
	if c.Head.Weights = ""; tied {
		c.Head.Weights = c.Embedding.Name
	}
}

// SetVocabSize changes V.
func (c *Config) SetVocabSize(n int) { c.VocabSize, c.Head.Out = n, n }

// Projections are those of all layers, and the head at last.
func (c *Config) Projections() []*part.Projection {
	var list []*part.Projection
	for i := range c.Layers {
		list = append(list, c.Layers[i].Projections()...)
	}
	return append(list, &c.Head)
}

// Projection gives the one of this module name, nil when there is none.
func (c *Config) Projection(module string) *part.Projection {
	for _, p := range c.Projections() {
		if p.Name == module {
			return p
		}
	}
	return nil
}

// Ternary says whether some projection is W1.58A8.
func (c *Config) Ternary() bool { return c.has(part.Ternary8) }

// WeightOnly says whether some projection is of weights alone.
func (c *Config) WeightOnly() bool { return c.has(part.WeightOnly) }

func (c *Config) has(a part.Arithmetic) bool {
	return slices.ContainsFunc(c.Projections(), func(p *part.Projection) bool { return p.Arithmetic == a })
}

// Floats are the names of the projections that are dense in a model that is ternary.
func (c *Config) Floats() []string {
	list := []string{}
	for _, p := range c.Projections() {
		if p.Arithmetic != part.Ternary8 {
			list = append(list, p.Name)
		}
	}
	return list
}

// IsTernary says whether the projection of this module name, such as "model.layers.0.mlp.up_proj", is a BitLinear.
func (c *Config) IsTernary(module string) bool {
	p := c.Projection(module)
	return p != nil && p.Arithmetic == part.Ternary8
}

// Quantize makes the projections BitLinear for which float is false. With norm, such as "rms_norm", each of them has an RMSNorm
// of its own, the module of that name in it.
func (c *Config) Quantize(float func(module string) bool, norm string, eps float32) {
	for _, p := range c.Projections() {
		p.Arithmetic, p.Norm = part.Ternary8, nil
		if float(p.Name) || p.Role == part.RoleRouter {
			p.Arithmetic = part.Dense
		} else if norm != "" {
			p.Norm = &part.Norm{Name: p.Name + "." + norm, Width: p.In, Eps: eps}
		}
	}
}

// QuantizeMasters makes the projections BitLinear, the head excepted, although the configuration does not say so.
func (c *Config) QuantizeMasters() {
	if !c.Ternary() {
		c.Quantize(func(module string) bool { return module == HeadName }, "", 0)
	}
}

// Norms are those of all layers, of projections, and the final one.
func (c *Config) Norms() []*part.Norm {
	var list []*part.Norm
	for i := range c.Layers {
		list = append(list, c.Layers[i].Norms()...)
	}
	for _, p := range c.Projections() {
		if p.Norm != nil {
			list = append(list, p.Norm)
		}
	}
	return append(list, &c.FinalNorm)
}

// Kind is what a tensor is in a model.
type Kind uint8

const (
	Table      Kind = iota // the embedding, learned positions
	Matrix                 // the weights of a projection
	Scale                  // the scale of packed weights, part of them
	NormWeight             // of a norm
	Bias                   // of a projection or a norm
	Other                  // of a part besides: a convolution's weights, a decay
)

// Tensor is one tensor of a model.
type Tensor struct {
	Name       string // as Hugging Face has it
	Kind       Kind
	Rows, Cols int              // vectors: Rows is 1
	Projection *part.Projection // of a Matrix, Scale or Bias of one
	Optional   bool
}

// Tensors lists all that the model reads of its files: those at the bottom first, then layer by layer, norm and head at last.
func (c *Config) Tensors() []Tensor {
	list := []Tensor{{Name: c.Embedding.Name + ".weight", Kind: Table, Rows: c.VocabSize, Cols: c.HiddenSize}}
	if p := c.Embedding.Positions; p != "" {
		list = append(list, Tensor{Name: p + ".weight", Kind: Table, Rows: c.MaxContext, Cols: c.HiddenSize})
	}
	norm := func(n *part.Norm) {
		list = append(list, Tensor{Name: n.Name + ".weight", Kind: NormWeight, Rows: 1, Cols: n.Width})
		if n.Centered {
			list = append(list, Tensor{Name: n.Name + ".bias", Kind: Bias, Rows: 1, Cols: n.Width})
		}
	}
	projection := func(p *part.Projection) {
		if p.Weights == "" {
			list = append(list, Tensor{Name: p.Name + ".weight", Kind: Matrix, Rows: p.Out, Cols: p.In, Projection: p})
			if p.Arithmetic == part.Ternary8 {
				list = append(list, Tensor{Name: p.Name + ".weight_scale", Kind: Scale, Rows: 1, Cols: 1, Projection: p, Optional: true})
			}
		}
		if p.Bias {
			list = append(list, Tensor{Name: p.Name + ".bias", Kind: Bias, Rows: 1, Cols: p.Out, Projection: p})
		}
		if p.Norm != nil {
			norm(p.Norm)
		}
	}
	for i := range c.Layers {
		for _, n := range c.Layers[i].Norms() {
			norm(n)
		}
		if d, ok := c.Layers[i].Mixer.(*part.DeltaNet); ok {
			for _, v := range d.Vectors() {
				list = append(list, Tensor{Name: v.Name, Kind: Other, Rows: v.Rows, Cols: v.Cols})
			}
		}
		for _, p := range c.Layers[i].Projections() {
			projection(p)
		}
	}
	norm(&c.FinalNorm)
	projection(&c.Head)
	return list
}

// CheckTensors refuses files with tensors that the model does not read, as transformers' loading report and llama.cpp's count
// of tensors would show them; but not those named in ignore.
func (c *Config) CheckTensors(s *weights.Set, ignore ...string) error {
	known := ignore
	for _, t := range c.Tensors() {
		known = append(known, t.Name)
	}
	var extra []string
	for _, name := range s.Others(known) {
		// Older Hugging Face folders keep the frequencies of the rotary positions, which follow from the configuration.
		skip := slices.ContainsFunc(c.Skip, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if !skip && !strings.HasSuffix(name, "rotary_emb.inv_freq") {
			extra = append(extra, name)
		}
	}
	if len(extra) == 0 {
		return nil
	}
	more := ""
	if n := len(extra) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more: %s)", n, strings.Join(extra[1:min(len(extra), 4)], ", "))
	}
	return fmt.Errorf("tensor %q%s is in the file, and nothing in a model of family %s with %d layers reads it: "+
		"the configuration describes another model", extra[0], more, c.Family, len(c.Layers))
}

// KVBytes is the size of the keys and values of one token, in bytes.
func (c *Config) KVBytes() (n int64) {
	for i := range c.Layers {
		if a, ok := c.Layers[i].Mixer.(*part.Attention); ok {
			n += c.KV.Bytes(a.KVHeads, a.HeadDim)
		}
	}
	return n
}

// StateBytes is the size of a sequence's state, of layers that keep one.
func (c *Config) StateBytes() (n int64) {
	for i := range c.Layers {
		if d, ok := c.Layers[i].Mixer.(*part.DeltaNet); ok {
			n += 4 * int64(d.StateSize())
		}
	}
	return n
}

// Experts are how many there are in the first layer that has some, and how many of them a token takes.
func (c *Config) Experts() (all, taken int) {
	for i := range c.Layers {
		if e, ok := c.Layers[i].FeedForward.(*part.Experts); ok {
			return len(e.Experts), e.TopK
		}
	}
	return 0, 0
}

// Heads are how many heads of queries, and of keys and values, the first attention has.
func (c *Config) Heads() (queries, keys int) {
	for i := range c.Layers {
		if a, ok := c.Layers[i].Mixer.(*part.Attention); ok {
			return a.Heads, a.KVHeads
		}
	}
	return 0, 0
}

// Weights is how many weights the layers' projections have.
func (c *Config) Weights() (n int64) {
	for i := range c.Layers {
		for _, p := range c.Layers[i].Projections() {
			n += int64(p.In) * int64(p.Out)
		}
	}
	return n
}

// Check refuses numbers that no part can have. What a configuration's own keys may be is checked where they are read, by name.
func (c *Config) Check() error {
	for _, n := range c.Norms() {
		if !(n.Eps > 0 && n.Eps < 1) {
			return fmt.Errorf("the norm's eps is %g; it must be between 0 and 1", n.Eps)
		}
	}
	for i := range c.Layers {
		g, _ := c.Layers[i].FeedForward.(*part.Gated)
		if e, ok := c.Layers[i].FeedForward.(*part.Experts); ok {
			if err := e.Check(); err != nil {
				return err
			}
			g = &e.Experts[0]
		}
		if g != nil && !slices.Contains(part.Functions, g.Activation) {
			return fmt.Errorf("hidden_act %q is not known; known: silu, relu2, gelu, gelu_pytorch_tanh", g.Activation)
		}
		if d, ok := c.Layers[i].Mixer.(*part.DeltaNet); ok {
			if err := d.Check(); err != nil {
				return err
			}
		}
		a, ok := c.Layers[i].Mixer.(*part.Attention)
		if !ok {
			continue
		}
		if a.Scalar < 0 || math.IsInf(a.Scalar, 0) {
			return fmt.Errorf("query_pre_attn_scalar is %g; it must be positive", a.Scalar)
		}
		if r := a.Rope; r != nil {
			if !(r.Theta > 0 && !math.IsInf(r.Theta, 0)) {
				return fmt.Errorf("rope_theta is %g; it must be positive", r.Theta)
			}
			if r.Dim < 2 || r.Dim > a.HeadDim || r.Dim%2 != 0 {
				return fmt.Errorf("rotary positions are of %d values of a head of %d; it must be an even number, at most all", r.Dim, a.HeadDim)
			}
			if err := r.Scaling.Check(); err != nil {
				return err
			}
		}
	}
	return nil
}
