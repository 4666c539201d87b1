package model

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/tritlm/trit/weights"
)

// Activation is the function between gate and up projection.
type Activation string

const (
	SiLU  Activation = "silu"
	ReLU2 Activation = "relu2" // squared ReLU
	GELU  Activation = "gelu"  // exact, by erf
	// GELUTanh is the approximation of it by tanh.
	GELUTanh Activation = "gelu_pytorch_tanh"
)

// Config is the shape and the arithmetic of a decoder.
//
// The letters are those of the shapes in this package: D, F, L, H, KV, V.
type Config struct {
	Family string // which file of this package read it, e.g. "bitnet"
	Name   string // what the file calls itself, for people

	HiddenSize       int // D, width of the residual stream
	IntermediateSize int // F
	NumLayers        int // L
	NumHeads         int // H
	NumKVHeads       int // KV, divides H
	HeadDim          int // hd
	VocabSize        int // V
	MaxContext       int // tokens

	NormEps    float32
	RopeTheta  float64
	Rope       RopeScaling
	Activation Activation

	TiedHead bool // the head is the embedding
	SubNorms bool // RMSNorm in front of o_proj and down_proj
	QKNorms  bool // RMSNorm over each head of q and k (Qwen3)
	// InputNorm: every BitLinear has an RMSNorm of its own in front, its module of this name, "rms_norm" (use_rms_norm)
	// or "norm" (embedding models); "" is none.
	InputNorm    string
	InputNormEps float32
	PostNorms    bool // RMSNorm behind o_proj and down_proj, in front of the residual (Gemma 3)
	OffsetNorms  bool // norms multiply by 1+w, those in front of projections excepted (Gemma)

	EmbedScale  float32 // the embedding is multiplied by it; 0 is 1
	QueryScalar float64 // attention's scores are divided by its root; 0 is HeadDim

	// Layers that are Sliding see the last Window tokens only. Where LocalTheta is not 0, they have rotary positions of that
	// base, not scaled.
	Sliding    []bool // [L], nil: none
	Window     int
	LocalTheta float64

	// Pooling is set for models whose output is a vector of a text: how it is made of the final states, L2-normalised
	// then. "" is a model that writes text.
	Pooling    Pooling
	EmbedEnd   string // the token that ends every such text
	MeanInFile bool   // the GGUF file says mean, against the model's authors

	// KV is how engines keep keys and values: not the model's but its user's choice, made before it is loaded.
	KV KVType

	Notes []string // what was guessed and may be wrong, a line each; for people

	// Ternary: the projections are BitLinear, W1.58A8. False: they are dense, in the precision of the file.
	Ternary bool
	// FloatLinear names the projections that stay dense although Ternary is set (modules_to_not_convert). A head that is not
	// among them is ternary too.
	FloatLinear []string

	// Vanilla transformer (package train): LayerNorm with bias, learned positions, no gate in the feed-forward.
	LayerNorm        bool
	LearnedPositions bool
	Ungated          bool
}

// RopeScaling stretches rotary positions; the zero value is none. Source: transformers modeling_rope_utils.
type RopeScaling struct {
	Type           string  // "", "linear", "llama3", "yarn"
	Factor         float64 // of all three
	LowFreqFactor  float64 // llama3
	HighFreqFactor float64 // llama3
	OldContext     int     // llama3, yarn: original_max_position_embeddings
	AttnFactor     float64 // yarn: cosines and sines are multiplied by it
	BetaFast       float64 // yarn
	BetaSlow       float64 // yarn
	NoTruncate     bool    // yarn: the borders of the ramp are not rounded to whole dimensions

	// Divisors divide the frequencies before they are stretched, nil for none: rope_freqs.weight of a GGUF file.
	Divisors []float32 // [hd/2]
}

// family is one architecture: how its configuration is recognised and read.
type family struct {
	name string
	// says is one line for the list of what is supported.
	says string
	// is says whether a Hugging Face config.json is this family's.
	is func(c *hfConfig) bool
	// keys says of every key of config.json what becomes of it.
	keys hfKeys
	// hf reads config.json.
	hf func(c *hfConfig) (*Config, error)
	// gguf lists the values of general.architecture that it reads.
	gguf []string
	// ggufKeys are the keys behind the architecture's name that fromGGUF reads, beside the common ones.
	ggufKeys []string
	// fromGGUF finishes a configuration whose common keys were read already.
	fromGGUF func(cfg *Config, s *weights.Set) error
}

// families in order of trial.
var families = []*family{bitnetFamily, onebitFamily, qwen3Family, gemma3Family, llamaFamily, transformerFamily}

// Families lists what can be run, a line each.
func Families() []string {
	var list []string
	for _, f := range families {
		list = append(list, f.name+": "+f.says)
	}
	return list
}

// ParseConfig reads the configuration out of a model's files.
func ParseConfig(s *weights.Set) (*Config, error) {
	var cfg *Config
	var err error
	if s.GGUF() != nil {
		cfg, err = parseGGUF(s)
	} else {
		cfg, err = parseHF(s)
	}
	if err != nil {
		return nil, err
	}
	err = cfg.check()
	if err == nil {
		err = cfg.checkTensors(s)
	}
	if err != nil {
		return nil, fmt.Errorf("model: %s: %w", s.ConfigPath(), err)
	}
	return cfg, nil
}

func supported() string {
	var names []string
	for _, f := range families {
		names = append(names, f.name)
	}
	sort.Strings(names)
	return "supported: " + strings.Join(names, ", ")
}

// Limits of a believable configuration: what no published model reaches, small enough that products of two of them
// and buffers made from them stay far below an int's range.
const (
	maxWidth   = 1 << 17
	maxLayers  = 1 << 10
	maxVocab   = 1 << 22
	maxContext = 1 << 24
)

func (c *Config) check() error {
	for _, d := range []struct {
		name     string
		v, limit int
	}{
		{"hidden_size", c.HiddenSize, maxWidth},
		{"intermediate_size", c.IntermediateSize, maxWidth},
		{"num_hidden_layers", c.NumLayers, maxLayers},
		{"num_attention_heads", c.NumHeads, maxWidth},
		{"num_key_value_heads", c.NumKVHeads, maxWidth},
		{"head_dim", c.HeadDim, maxWidth},
		{"vocab_size", c.VocabSize, maxVocab},
		{"max_position_embeddings", c.MaxContext, maxContext},
	} {
		if d.v < 1 || d.v > d.limit {
			return fmt.Errorf("%s is %d; it must be 1 to %d", d.name, d.v, d.limit)
		}
	}
	if c.NumHeads%c.NumKVHeads != 0 {
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.NumHeads, c.NumKVHeads)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim %d is odd; rotary positions need pairs", c.HeadDim)
	}
	if c.NumHeads*c.HeadDim > maxWidth {
		return fmt.Errorf("num_attention_heads × head_dim is %d; at most %d", c.NumHeads*c.HeadDim, maxWidth)
	}
	if !(c.NormEps > 0 && c.NormEps < 1) {
		return fmt.Errorf("the norm's eps is %g; it must be between 0 and 1", c.NormEps)
	}
	if !c.LearnedPositions && !(c.RopeTheta > 0 && !math.IsInf(c.RopeTheta, 0)) {
		return fmt.Errorf("rope_theta is %g; it must be positive", c.RopeTheta)
	}
	switch c.Activation {
	case SiLU, ReLU2, GELU, GELUTanh:
	default:
		return fmt.Errorf("hidden_act %q is not known; known: silu, relu2, gelu, gelu_pytorch_tanh", c.Activation)
	}
	if c.QueryScalar < 0 || math.IsInf(c.QueryScalar, 0) {
		return fmt.Errorf("query_pre_attn_scalar is %g; it must be positive", c.QueryScalar)
	}
	if c.Sliding != nil {
		if c.Window < 1 || c.Window > maxContext {
			return fmt.Errorf("sliding_window is %d; it must be 1 to %d", c.Window, maxContext)
		}
		if !(c.LocalTheta >= 0 && !math.IsInf(c.LocalTheta, 0)) {
			return fmt.Errorf("the rope_theta of sliding layers is %g; it must be positive", c.LocalTheta)
		}
	}
	return c.Rope.check()
}

func (r RopeScaling) check() error {
	for _, d := range r.Divisors {
		if !(d > 0 && d <= math.MaxFloat32) {
			return fmt.Errorf("a factor of rope_freqs.weight is %g; it must be positive", d)
		}
	}
	switch r.Type {
	case "":
		return nil
	case "linear":
		if r.Factor > 0 {
			return nil
		}
	case "llama3":
		if r.Factor > 0 && r.LowFreqFactor > 0 && r.HighFreqFactor > r.LowFreqFactor && r.OldContext > 0 {
			return nil
		}
	case "yarn":
		if r.Factor > 0 && r.OldContext > 0 && r.AttnFactor > 0 && r.BetaFast > 0 && r.BetaSlow > 0 && !math.IsInf(r.AttnFactor, 0) {
			return nil
		}
	default:
		return fmt.Errorf("rope_scaling type %q is not supported; supported: linear, llama3, yarn", r.Type)
	}
	return fmt.Errorf("rope_scaling of type %q has impossible numbers: %+v", r.Type, r)
}

// projections is how many weights the layers' projections have.
func (c *Config) projections() int64 {
	D, F := int64(c.HiddenSize), int64(c.IntermediateSize)
	heads, kv := int64(c.NumHeads*c.HeadDim), int64(c.NumKVHeads*c.HeadDim)
	feedForward := 3 * D * F
	if c.Ungated {
		feedForward = 2 * D * F
	}
	return int64(c.NumLayers) * (2*D*heads + 2*D*kv + feedForward)
}

// KVBytes is the size of the keys and values of one token, in bytes.
func (c *Config) KVBytes() int64 {
	return int64(c.NumLayers) * int64(c.NumKVHeads) * 2 * int64(c.KV.headBytes(c.HeadDim))
}

// IsTernary says whether the projection of this module name, such as "model.layers.0.mlp.up_proj", is a BitLinear.
func (c *Config) IsTernary(module string) bool { return !c.floatLinear(module) }

// QuantizeMasters makes the projections BitLinear, the head excepted, although the configuration does not say so.
func (c *Config) QuantizeMasters() {
	if !c.Ternary {
		c.Ternary, c.FloatLinear = true, []string{headName}
	}
}

// floatLinear says whether the projection of this module name stays dense.
func (c *Config) floatLinear(module string) bool {
	return !c.Ternary || slices.Contains(c.FloatLinear, module)
}
