package model

import (
	"encoding/json"
	"fmt"
	"math"
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

	// Layers that are Sliding see the last Window tokens only, and have rotary positions of base LocalTheta.
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
	// FloatLinear names the modules that stay dense although Ternary is set (modules_to_not_convert), by the last
	// part of the module's name or a prefix of its whole name. An untied head that is not among them is ternary too.
	FloatLinear []string

	// Vanilla transformer (package train): LayerNorm with bias, learned positions, no gate in the feed-forward.
	LayerNorm        bool
	LearnedPositions bool
	Ungated          bool
}

// RopeScaling stretches rotary positions; the zero value is none. Source: transformers modeling_rope_utils.
type RopeScaling struct {
	Type           string  // "", "linear", "llama3"
	Factor         float64 // linear, llama3
	LowFreqFactor  float64 // llama3
	HighFreqFactor float64 // llama3
	OldContext     int     // llama3: original_max_position_embeddings
}

// family is one architecture: how its configuration is recognised and read.
type family struct {
	name string
	// says is one line for the list of what is supported.
	says string
	// hf reads a Hugging Face config.json; ok is false when it is another family's.
	hf func(c *hfConfig) (cfg *Config, ok bool, err error)
	// gguf lists the values of general.architecture that it reads.
	gguf []string
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
	if err := cfg.check(); err != nil {
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
		if !(c.LocalTheta > 0 && !math.IsInf(c.LocalTheta, 0)) {
			return fmt.Errorf("the rope_theta of sliding layers is %g; it must be positive", c.LocalTheta)
		}
	}
	return c.Rope.check()
}

func (r RopeScaling) check() error {
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
	default:
		return fmt.Errorf("rope_scaling type %q is not supported; supported: linear, llama3", r.Type)
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

// hfConfig is what the families read of config.json. A missing number is zero.
type hfConfig struct {
	Architectures     []string        `json:"architectures"`
	ModelType         string          `json:"model_type"`
	HiddenSize        int             `json:"hidden_size"`
	IntermediateSize  int             `json:"intermediate_size"`
	NumLayers         int             `json:"num_hidden_layers"`
	NumHeads          int             `json:"num_attention_heads"`
	NumKVHeads        int             `json:"num_key_value_heads"`
	HeadDim           *int            `json:"head_dim"`
	VocabSize         int             `json:"vocab_size"`
	MaxContext        int             `json:"max_position_embeddings"`
	NormEps           float64         `json:"rms_norm_eps"`
	LayerNormEps      float64         `json:"layer_norm_eps"`
	RopeTheta         float64         `json:"rope_theta"`
	RopeScaling       *hfRope         `json:"rope_scaling"`
	RopeParameters    *hfRope         `json:"rope_parameters"` // transformers 5 writes theta and scaling here
	HiddenAct         string          `json:"hidden_act"`
	TieWordEmbeddings *bool           `json:"tie_word_embeddings"`
	WeightBits        int             `json:"weight_bits"` // 1bitLLM
	InputBits         int             `json:"input_bits"`  // 1bitLLM
	Precision         string          `json:"precision"`   // trit-transformer: ternary or float
	Quantization      *hfQuantization `json:"-"`           // read by weights, which needs it for the scales

	// Gemma 3
	HiddenActivation string   `json:"hidden_activation"`
	QueryScalar      float64  `json:"query_pre_attn_scalar"`
	RopeLocalTheta   float64  `json:"rope_local_base_freq"`
	SlidingWindow    int      `json:"sliding_window"`
	WindowPattern    int      `json:"sliding_window_pattern"`
	OldWindowPattern int      `json:"_sliding_window_pattern"`
	LayerTypes       []string `json:"layer_types"`
	Bidirectional    *bool    `json:"use_bidirectional_attention"`
	AttnSoftcap      *float64 `json:"attn_logit_softcapping"`
	FinalSoftcap     *float64 `json:"final_logit_softcapping"`

	set *weights.Set // for what a configuration leaves to the tensors to say
}

type hfRope struct {
	Type           string  `json:"rope_type"`
	OldType        string  `json:"type"`
	Theta          float64 `json:"rope_theta"`
	Factor         float64 `json:"factor"`
	LowFreqFactor  float64 `json:"low_freq_factor"`
	HighFreqFactor float64 `json:"high_freq_factor"`
	OldContext     int     `json:"original_max_position_embeddings"`
	Full           *hfRope `json:"full_attention"`    // by kind of layer (Gemma 3, transformers 5)
	Sliding        *hfRope `json:"sliding_attention"` // the same
}

// layers are the parameters of full and of sliding layers.
func (r *hfRope) layers() (full, sliding *hfRope) {
	full, sliding = &hfRope{}, &hfRope{}
	if r != nil && r.Full != nil {
		full = r.Full
	} else if r != nil {
		full = r
	}
	if r != nil && r.Sliding != nil {
		sliding = r.Sliding
	}
	return full, sliding
}

func (r *hfRope) scaling() RopeScaling {
	if r == nil {
		return RopeScaling{}
	}
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	if kind == "" || kind == "default" {
		return RopeScaling{}
	}
	return RopeScaling{kind, r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OldContext}
}

type hfQuantization = weights.Quantization

func parseHF(s *weights.Set) (*Config, error) {
	var c hfConfig
	if err := json.Unmarshal(s.HFConfig(), &c); err != nil {
		return nil, fmt.Errorf("model: %s: %w", s.ConfigPath(), err)
	}
	c.Quantization, c.set = s.Quantization(), s
	for _, f := range families {
		cfg, ok, err := f.hf(&c)
		if err != nil {
			return nil, fmt.Errorf("model: %s: %w", s.ConfigPath(), err)
		}
		if ok {
			cfg.Family = f.name
			return cfg, nil
		}
	}
	return nil, fmt.Errorf("model: %s: architecture %s (model_type %q) is not supported; %s",
		s.ConfigPath(), strings.Join(c.Architectures, ","), c.ModelType, supported())
}

// common fills what every family reads alike.
func (c *hfConfig) common() (*Config, error) {
	cfg := &Config{
		Name:             c.ModelType,
		HiddenSize:       c.HiddenSize,
		IntermediateSize: c.IntermediateSize,
		NumLayers:        c.NumLayers,
		NumHeads:         c.NumHeads,
		NumKVHeads:       c.NumKVHeads,
		VocabSize:        c.VocabSize,
		MaxContext:       c.MaxContext,
		NormEps:          float32(c.NormEps),
		RopeTheta:        c.RopeTheta,
		Activation:       Activation(c.HiddenAct),
		TiedHead:         c.TieWordEmbeddings != nil && *c.TieWordEmbeddings,
	}
	if cfg.NumKVHeads == 0 {
		cfg.NumKVHeads = cfg.NumHeads
	}
	if c.HeadDim != nil {
		cfg.HeadDim = *c.HeadDim
	} else if cfg.NumHeads > 0 {
		if cfg.HiddenSize%cfg.NumHeads != 0 {
			return nil, fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d, and head_dim is missing", cfg.HiddenSize, cfg.NumHeads)
		}
		cfg.HeadDim = cfg.HiddenSize / cfg.NumHeads
	}
	for _, r := range []*hfRope{c.RopeScaling, c.RopeParameters} {
		if r == nil {
			continue
		}
		if r.Theta > 0 {
			cfg.RopeTheta = r.Theta
		}
		if s := r.scaling(); s.Type != "" {
			cfg.Rope = s
		}
	}
	if cfg.RopeTheta == 0 {
		cfg.RopeTheta = 10000 // transformers' default
	}
	return cfg, nil
}

// quantized applies a quantization_config of method bitnet, the same for every family that has one.
func (cfg *Config) quantized(q *hfQuantization) error {
	if q == nil {
		return nil
	}
	if q.Method != "bitnet" {
		return fmt.Errorf("quantization_config.quant_method %q is not supported; supported: bitnet", q.Method)
	}
	cfg.Ternary = true
	if cfg.FloatLinear = q.ModulesToNotConvert; cfg.FloatLinear == nil { // null, not an empty list
		cfg.FloatLinear = []string{headName}
	}
	if q.UseRMSNorm {
		cfg.InputNorm, cfg.InputNormEps = "rms_norm", float32(q.RMSNormEps)
	}
	return nil
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
	if !c.Ternary {
		return true
	}
	for _, m := range c.FloatLinear {
		if m != "" && (module == m || strings.HasSuffix(module, "."+m) || strings.HasPrefix(module, m+".")) {
			return true
		}
	}
	return false
}
