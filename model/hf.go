package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tritlm/trit/weights"
)

// hfConfig is what the families read of config.json. A missing number is zero, and so is null.
type hfConfig struct {
	Architectures     []string        `json:"architectures"`
	ModelType         string          `json:"model_type"`
	HiddenSize        int             `json:"hidden_size"`
	IntermediateSize  int             `json:"intermediate_size"`
	NumLayers         int             `json:"num_hidden_layers"`
	NumHeads          int             `json:"num_attention_heads"`
	NumKVHeads        *int            `json:"num_key_value_heads"`
	HeadDim           *int            `json:"head_dim"`
	VocabSize         int             `json:"vocab_size"`
	MaxContext        int             `json:"max_position_embeddings"`
	NormEps           float64         `json:"rms_norm_eps"`
	LayerNormEps      float64         `json:"layer_norm_eps"`
	RopeTheta         float64         `json:"rope_theta"`
	RopeScaling       *hfRope         `json:"rope_scaling"`
	RopeParameters    *hfRope         `json:"rope_parameters"` // transformers 5 writes theta and scaling here
	OldContext        int             `json:"original_max_position_embeddings"`
	PartialRotary     *float64        `json:"partial_rotary_factor"`
	HiddenAct         string          `json:"hidden_act"`
	TieWordEmbeddings bool            `json:"tie_word_embeddings"`
	AttentionBias     bool            `json:"attention_bias"`
	MLPBias           bool            `json:"mlp_bias"`
	WeightBits        int             `json:"weight_bits"` // 1bitLLM
	InputBits         int             `json:"input_bits"`  // 1bitLLM
	Precision         string          `json:"precision"`   // trit-transformer: ternary or float
	Quantization      *hfQuantization `json:"-"`           // read by weights, which needs it for the scales

	// Qwen 3
	UseSlidingWindow bool `json:"use_sliding_window"`
	MaxWindowLayers  int  `json:"max_window_layers"`

	// Gemma 3
	HiddenActivation string   `json:"hidden_activation"`
	QueryScalar      float64  `json:"query_pre_attn_scalar"`
	RopeLocalTheta   float64  `json:"rope_local_base_freq"`
	SlidingWindow    *int     `json:"sliding_window"`
	WindowPattern    int      `json:"sliding_window_pattern"`
	LayerTypes       []string `json:"layer_types"`

	set *weights.Set // for what a configuration leaves to the tensors to say
}

type hfQuantization = weights.Quantization

// hfRope are the parameters of rotary positions, of all layers or by kind of layer.
type hfRope struct {
	Type           string   `json:"rope_type"`
	OldType        string   `json:"type"`
	Theta          float64  `json:"rope_theta"`
	PartialRotary  *float64 `json:"partial_rotary_factor"`
	Factor         float64  `json:"factor"`
	LowFreqFactor  float64  `json:"low_freq_factor"`
	HighFreqFactor float64  `json:"high_freq_factor"`
	OldContext     int      `json:"original_max_position_embeddings"`
	AttnFactor     *float64 `json:"attention_factor"`
	BetaFast       float64  `json:"beta_fast"`
	BetaSlow       float64  `json:"beta_slow"`
	MScale         float64  `json:"mscale"`
	MScaleAllDim   float64  `json:"mscale_all_dim"`
	Truncate       *bool    `json:"truncate"`
	Full           *hfRope  `json:"full_attention"`    // by kind of layer (Gemma 3, transformers 5)
	Sliding        *hfRope  `json:"sliding_attention"` // the same
}

// kind is the type of the scaling, "" for none.
func (r *hfRope) kind() string {
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	if kind == "default" {
		return ""
	}
	return kind
}

// hfKeys says of every key of a family's config.json, and of the class of transformers that it belongs to, what becomes of it.
// A key that is in none of the lists is not the class's either: transformers ignores it, and so does trit, but aloud.
type hfKeys struct {
	class string // the class of transformers, "" where there is none
	// defaults are the class's, as JSON, of keys that are used and may be missing.
	defaults string
	// used are read by the family, beside commonKeys.
	used string
	// only are refused with any other value than these, which change nothing.
	only map[string][]string
	// harmless change no text.
	harmless string
}

// commonKeys are read of every family's config.json.
const commonKeys = "architectures model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim " +
	"vocab_size max_position_embeddings rms_norm_eps rope_theta rope_scaling rope_parameters original_max_position_embeddings hidden_act " +
	"tie_word_embeddings attention_bias quantization_config bos_token_id eos_token_id"

// commonOnly are keys of every configuration class that would change the text with other values than these.
var commonOnly = map[string][]string{
	"partial_rotary_factor": {"1"},
	"is_encoder_decoder":    {"false"},
	"pruned_heads":          {"{}"},
	"add_cross_attention":   {"false"},
	"is_decoder":            {"false", "true"},
	"is_causal":             {"true"}, // transformers' mask reads it, whatever the class
	"use_sliding_window":    {"false"},
	"sliding_window":        {}, // transformers' cache reads these two
	"layer_types":           {},
	"quantization":          {}, // MLX
}

// harmlessKeys are those of every configuration class that change no text: names, what training and saving need, and defaults
// of generation, which older transformers wrote here.
const harmlessKeys = "transformers_version dtype torch_dtype _name_or_path name_or_path initializer_range use_cache pad_token_id sep_token_id " +
	"decoder_start_token_id attention_dropout chunk_size_feed_forward output_hidden_states output_attentions return_dict return_dict_in_generate " +
	"id2label label2id num_labels problem_type architecture auto_map custom_pipelines torchscript tie_encoder_decoder cross_attention_hidden_size finetuning_task " +
	"task_specific_params tokenizer_class prefix _attn_implementation _attn_implementation_autoset attn_implementation use_bfloat16 tf_legacy_loss " +
	"max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty " +
	"length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores forced_bos_token_id " +
	"forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens " +
	"unsloth_fixed unsloth_version"

// check refuses keys with values that would change the text, and returns those that the class does not know.
func (k *hfKeys) check(config []byte) (unknown []string, err error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(config, &all); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, list := range []string{commonKeys, harmlessKeys, k.used, k.harmless} {
		for _, key := range strings.Fields(list) {
			known[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		allowed, limited := k.only[key]
		if !limited && !known[key] {
			allowed, limited = commonOnly[key]
		}
		switch {
		case limited:
			if v := all[key]; !neutral(v, allowed) {
				return nil, fmt.Errorf("%s is %.80s, which is not supported; it must be null%s", key, v, orOneOf(allowed))
			}
		case !known[key]:
			unknown = append(unknown, key)
		}
	}
	return unknown, nil
}

func orOneOf(allowed []string) string {
	if len(allowed) == 0 {
		return ""
	}
	return " or " + strings.Join(allowed, " or ")
}

// neutral says whether a value is null or equal to one of the allowed ones, numbers by value.
func neutral(v json.RawMessage, allowed []string) bool {
	text := strings.TrimSpace(string(v))
	if text == "null" {
		return true
	}
	var x, y float64
	number := json.Unmarshal(v, &x) == nil
	for _, a := range allowed {
		if a == text || number && json.Unmarshal([]byte(a), &y) == nil && x == y {
			return true
		}
	}
	return false
}

func parseHF(s *weights.Set) (*Config, error) {
	cfg, err := readHF(s)
	if err != nil {
		return nil, fmt.Errorf("model: %s: %w", s.ConfigPath(), err)
	}
	return cfg, nil
}

func readHF(s *weights.Set) (*Config, error) {
	var c hfConfig
	if err := json.Unmarshal(s.HFConfig(), &c); err != nil {
		return nil, err
	}
	for _, f := range families {
		if f.is == nil || !f.is(&c) {
			continue
		}
		unknown, err := f.keys.check(s.HFConfig())
		if err != nil {
			return nil, err
		}
		c = hfConfig{Quantization: s.Quantization(), set: s}
		for _, text := range [][]byte{[]byte(f.keys.defaults), s.HFConfig()} {
			if err := json.Unmarshal(text, &c); err != nil {
				return nil, err
			}
		}
		cfg, err := f.hf(&c)
		if err != nil {
			return nil, err
		}
		cfg.Family = f.name
		if len(unknown) > 0 {
			cfg.Notes = append(cfg.Notes, fmt.Sprintf("config.json has keys that models of this family do not know; they are passed over, as transformers does: %s", strings.Join(unknown, ", ")))
		}
		return cfg, cfg.finishHF(&c)
	}
	return nil, fmt.Errorf("architecture %s (model_type %q) is not supported; %s", strings.Join(c.Architectures, ","), c.ModelType, supported())
}

// finishHF settles what the tensors have a say in: the head, which projections are ternary, and biases.
func (cfg *Config) finishHF(c *hfConfig) error {
	if err := cfg.check(); err != nil {
		return err
	}
	s := c.set
	if err := cfg.tieHead(s); err != nil {
		return err
	}
	if q := c.Quantization; q != nil && cfg.Ternary {
		if q.ModulesToNotConvert == nil { // null, not an empty list
			cfg.FloatLinear = []string{headName}
		} else if err := cfg.resolveSkips(q.ModulesToNotConvert, s.Bare()); err != nil {
			return err
		}
	}
	if err := cfg.checkStored(s); err != nil {
		return err
	}
	if !slices.ContainsFunc(cfg.modules(), func(m string) bool { return !cfg.floatLinear(m) }) {
		cfg.Ternary, cfg.FloatLinear = false, nil // the list names them all
	}
	for n := range cfg.NumLayers {
		names := cfg.layer(n)
		if err := cfg.checkBiases(s, "attention_bias", c.AttentionBias, []string{names.q, names.k, names.v, names.o}); err != nil {
			return err
		}
		if err := cfg.checkBiases(s, "mlp_bias", c.MLPBias, cfg.feedForward(n)); err != nil {
			return err
		}
	}
	return nil
}

// feedForward are the projections of layer n's feed-forward.
func (c *Config) feedForward(n int) []string {
	names := c.layer(n)
	if c.Ungated {
		return []string{names.up, names.down}
	}
	return []string{names.gate, names.up, names.down}
}

// common fills what every family reads alike.
func (c *hfConfig) common() (*Config, error) {
	cfg := &Config{
		Name:             c.ModelType,
		HiddenSize:       c.HiddenSize,
		IntermediateSize: c.IntermediateSize,
		NumLayers:        c.NumLayers,
		NumHeads:         c.NumHeads,
		VocabSize:        c.VocabSize,
		MaxContext:       c.MaxContext,
		NormEps:          float32(c.NormEps),
		Activation:       Activation(c.HiddenAct),
		TiedHead:         c.TieWordEmbeddings,
	}
	if cfg.Activation == "swish" {
		cfg.Activation = SiLU // another name of it
	}
	if cfg.NumKVHeads = cfg.NumHeads; c.NumKVHeads != nil {
		cfg.NumKVHeads = *c.NumKVHeads
	}
	if c.HeadDim != nil {
		cfg.HeadDim = *c.HeadDim
	} else if cfg.NumHeads > 0 {
		if cfg.HiddenSize%cfg.NumHeads != 0 {
			return nil, fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d, and head_dim is missing", cfg.HiddenSize, cfg.NumHeads)
		}
		cfg.HeadDim = cfg.HiddenSize / cfg.NumHeads
	}
	r := c.ropeParameters()
	if r.Full != nil || r.Sliding != nil {
		return nil, fmt.Errorf("rope_parameters by kind of layer are not this family's")
	}
	var err error
	cfg.RopeTheta, cfg.Rope, err = c.rope(r)
	return cfg, err
}

// ropeParameters are those that count: rope_scaling, the older name, comes before rope_parameters, as in transformers 5.
func (c *hfConfig) ropeParameters() *hfRope {
	for _, r := range []*hfRope{c.RopeScaling, c.RopeParameters} {
		if r != nil && *r != (hfRope{}) {
			return r
		}
	}
	return &hfRope{}
}

// rope reads the base and the scaling of rotary positions. Source: transformers modeling_rope_utils.
func (c *hfConfig) rope(r *hfRope) (theta float64, s RopeScaling, err error) {
	if p := r.PartialRotary; p != nil && *p != 1 {
		return 0, s, fmt.Errorf("partial_rotary_factor is %g, which is not supported; it must be null or 1", *p)
	}
	theta = cmp.Or(r.Theta, c.RopeTheta, 10000) // transformers' default
	old := r.OldContext
	if c.OldContext != 0 { // the configuration's own key comes first
		old = c.OldContext
	} else if old == 0 {
		old = c.MaxContext
	}
	switch s.Type = r.kind(); s.Type {
	case "linear":
		s.Factor = r.Factor
	case "llama3":
		s.Factor, s.LowFreqFactor, s.HighFreqFactor, s.OldContext = r.Factor, r.LowFreqFactor, r.HighFreqFactor, old
	case "yarn":
		s.Factor, s.OldContext, s.BetaFast, s.BetaSlow = r.Factor, old, cmp.Or(r.BetaFast, 32), cmp.Or(r.BetaSlow, 1)
		if s.Factor == 0 && old > 0 {
			s.Factor = float64(c.MaxContext) / float64(old)
		}
		s.NoTruncate = r.Truncate != nil && !*r.Truncate
		switch {
		case r.AttnFactor != nil:
			s.AttnFactor = *r.AttnFactor
		case r.MScale != 0 && r.MScaleAllDim != 0:
			s.AttnFactor = yarnScale(s.Factor, r.MScale) / yarnScale(s.Factor, r.MScaleAllDim)
		default:
			s.AttnFactor = yarnScale(s.Factor, 1)
		}
	}
	return theta, s, nil
}

// yarnScale is what attention is scaled by when positions are stretched by factor. Source: arXiv:2309.00071 §3.4.
func yarnScale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

// quantized applies a quantization_config of method bitnet, the same for every family that has one.
func (cfg *Config) quantized(q *hfQuantization) error {
	if q == nil {
		return nil
	}
	if q.Method != "bitnet" {
		return fmt.Errorf("quantization_config.quant_method %q is not supported; supported: bitnet", q.Method)
	}
	if err := q.Check(); err != nil {
		return err
	}
	cfg.Ternary = true
	if q.UseRMSNorm {
		cfg.InputNorm, cfg.InputNormEps = "rms_norm", float32(q.RMSNormEps)
	}
	return nil
}

// slidingTypes reads layer_types: which layers see a window of tokens only; nil where the key is missing.
func (c *hfConfig) slidingTypes() ([]bool, error) {
	if c.LayerTypes == nil {
		return nil, nil
	}
	if len(c.LayerTypes) != c.NumLayers {
		return nil, fmt.Errorf("layer_types has %d entries and num_hidden_layers is %d", len(c.LayerTypes), c.NumLayers)
	}
	sliding := make([]bool, len(c.LayerTypes))
	for i, t := range c.LayerTypes {
		if t != "sliding_attention" && t != "full_attention" {
			return nil, fmt.Errorf("layer_types[%d] is %q; known: full_attention, sliding_attention", i, t)
		}
		sliding[i] = t == "sliding_attention"
	}
	return sliding, nil
}
