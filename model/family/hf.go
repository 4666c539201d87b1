package family

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// hfConfig is what the families read of config.json. A missing number is zero, and so is null.
type hfConfig struct {
	Architectures     []string `json:"architectures"`
	ModelType         string   `json:"model_type"`
	HiddenSize        int      `json:"hidden_size"`
	IntermediateSize  int      `json:"intermediate_size"`
	NumLayers         int      `json:"num_hidden_layers"`
	NumHeads          int      `json:"num_attention_heads"`
	NumKVHeads        *int     `json:"num_key_value_heads"`
	HeadDim           *int     `json:"head_dim"`
	VocabSize         int      `json:"vocab_size"`
	MaxContext        int      `json:"max_position_embeddings"`
	NormEps           float64  `json:"rms_norm_eps"`
	LayerNormEps      float64  `json:"layer_norm_eps"`
	RopeTheta         float64  `json:"rope_theta"`
	RopeScaling       *hfRope  `json:"rope_scaling"`
	RopeParameters    *hfRope  `json:"rope_parameters"` // transformers 5 writes theta and scaling here
	OldContext        int      `json:"original_max_position_embeddings"`
	PartialRotary     *float64 `json:"partial_rotary_factor"`
	HiddenAct         string   `json:"hidden_act"`
	TieWordEmbeddings bool     `json:"tie_word_embeddings"`
	AttentionBias     bool     `json:"attention_bias"`
	MLPBias           bool     `json:"mlp_bias"`
	WeightBits        int      `json:"weight_bits"` // 1bitLLM
	InputBits         int      `json:"input_bits"`  // 1bitLLM
	Precision         string   `json:"precision"`   // trit-transformer: ternary or float

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

	// MiniCPM
	ScaleEmb     float64 `json:"scale_emb"`
	ScaleDepth   float64 `json:"scale_depth"`
	DimModelBase int     `json:"dim_model_base"`

	// Gated DeltaNet
	LinearKernel     int `json:"linear_conv_kernel_dim"`
	LinearKeyDim     int `json:"linear_key_head_dim"`
	LinearValueDim   int `json:"linear_value_head_dim"`
	LinearKeyHeads   int `json:"linear_num_key_heads"`
	LinearValueHeads int `json:"linear_num_value_heads"`
	FullInterval     int `json:"full_attention_interval"`

	// Experts
	NumExperts         *int  `json:"num_experts"`
	NumLocalExperts    *int  `json:"num_local_experts"`
	ExpertsPerToken    int   `json:"num_experts_per_tok"`
	MoEIntermediate    int   `json:"moe_intermediate_size"`
	SharedIntermediate int   `json:"shared_expert_intermediate_size"`
	NormTopK           bool  `json:"norm_topk_prob"`
	DecoderSparseStep  int   `json:"decoder_sparse_step"`
	MLPOnlyLayers      []int `json:"mlp_only_layers"`

	set *weights.Set // for what a configuration leaves to the tensors to say

	// Found by a family's reader.
	masters      bool   // the floats are masters of ternary projections, although there is no quantization_config
	inputNorm    string // the module of norms in front of ternary projections, "" for none
	inputNormEps float32
	partial      bool // the family reads partial_rotary_factor
	ownBiases    bool // the family has said which projections have biases
}

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
	Alpha          float64  `json:"alpha"`             // Hunyuan
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
	"tie_word_embeddings attention_bias quantization_config quantization bos_token_id eos_token_id"

// commonOnly are keys of every configuration class that would change the text with other values than these.
var commonOnly = map[string][]string{
	"partial_rotary_factor": {"1"},
	"is_encoder_decoder":    {"false"},
	"pruned_heads":          {"{}"},
	"add_cross_attention":   {"false"},
	"is_decoder":            {"false", "true"},
	"is_causal":             {"true"}, // transformers' mask reads it, whatever the class
	"use_sliding_window":    {"false"},
	"sliding_window":        {}, // transformers' cache reads these four, whatever the class
	"layer_types":           {},
	"attention_chunk_size":  {},
	"kv_sharing_modes":      {"[]"},
	"per_layer_config":      {"{}"}, // other keys for some of the layers
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
	"unsloth_fixed unsloth_version is_bitnet_config experts_implementation embed_dim num_heads"

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

func readHF(s *weights.Set) (*model.Config, error) {
	var c hfConfig
	config, outer, err := textConfig(s.HFConfig())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	for _, f := range families {
		if !f.is(&c) {
			continue
		}
		unknown, err := f.keys.check(config)
		if err != nil {
			return nil, err
		}
		c = hfConfig{set: s}
		for _, text := range [][]byte{[]byte(f.keys.defaults), config} {
			if err := json.Unmarshal(text, &c); err != nil {
				return nil, err
			}
		}
		cfg, err := f.hf(&c)
		if err != nil {
			return nil, err
		}
		if unknown = append(unknown, outer...); len(unknown) > 0 {
			cfg.Notes = append(cfg.Notes, fmt.Sprintf("config.json has keys that models of this family do not know; they are passed over, as transformers does: %s", strings.Join(unknown, ", ")))
		}
		return cfg, c.finish(cfg)
	}
	return nil, fmt.Errorf("architecture %s (model_type %q) is not supported; %s", strings.Join(c.Architectures, ","), c.ModelType, supported())
}

// textConfig is the configuration of the text model inside that of one that sees images, too; else config as it is. others are the
// outer keys that nothing reads.
func textConfig(config []byte) (text []byte, others []string, err error) {
	var all, inner map[string]json.RawMessage
	if err := json.Unmarshal(config, &all); err != nil {
		return nil, nil, err
	}
	var kind string
	_ = json.Unmarshal(all["model_type"], &kind) // the families' reader reports it
	class, ok := map[string]string{"qwen3_5": "Qwen3_5ForCausalLM", "qwen3_5_moe": "Qwen3_5MoeForCausalLM"}[kind]
	if !ok {
		return config, nil, nil
	}
	if err := json.Unmarshal(all["text_config"], &inner); err != nil || inner == nil {
		return nil, nil, errors.Join(fmt.Errorf("text_config of model_type %q is missing or no object", kind), err)
	}
	known := strings.Fields(commonKeys + " " + harmlessKeys + " text_config vision_config image_token_id video_token_id vision_start_token_id vision_end_token_id language_model_only")
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(known, key) {
			others = append(others, key)
		}
	}
	inner["architectures"], _ = json.Marshal([]string{class})
	inner["model_type"], _ = json.Marshal(kind + "_text")
	inner["tie_word_embeddings"] = []byte("false") // the outer one counts, and this is its default
	for _, key := range []string{"tie_word_embeddings", "quantization_config", "quantization"} {
		if v, ok := all[key]; ok {
			inner[key] = v
		}
	}
	text, err = json.Marshal(inner)
	return text, others, err
}

// finish settles what is alike in all families: biases, which projections are ternary, and the head.
func (c *hfConfig) finish(cfg *model.Config) error {
	for i := range cfg.Layers {
		if c.ownBiases {
			break
		}
		for _, p := range cfg.Layers[i].Mixer.Projections() {
			p.Bias = c.AttentionBias
		}
		for _, p := range cfg.Layers[i].FeedForward.Projections() {
			p.Bias = c.MLPBias
		}
	}
	if err := c.checkBiases(cfg); err != nil {
		return err
	}
	c.tieHead(cfg)
	if err := c.quantize(cfg); err != nil {
		return err
	}
	if c.set.MLX() {
		return c.mlx(cfg)
	}
	return c.checkStored(cfg)
}

// checkBiases holds the biases in the file against the configuration's word.
func (c *hfConfig) checkBiases(cfg *model.Config) error {
	for i := range cfg.Layers {
		for j, list := range [][]*part.Projection{cfg.Layers[i].Mixer.Projections(), cfg.Layers[i].FeedForward.Projections()} {
			key := []string{"attention_bias", "mlp_bias"}[j]
			for _, p := range list {
				switch has := c.set.Has(p.Name + ".bias"); {
				case has && !p.Bias:
					return fmt.Errorf("tensor %q is in the file, but %s is false: transformers would leave it out", p.Name+".bias", key)
				case !has && p.Bias:
					return fmt.Errorf("tensor %q is missing, but %s is true", p.Name+".bias", key)
				}
			}
		}
	}
	return nil
}

// tieHead decides whether the head is the embedding, as transformers 5 does: a file that has a head of its own with other
// numbers keeps it, whatever tie_word_embeddings says.
func (c *hfConfig) tieHead(cfg *model.Config) {
	s, head, embed := c.set, model.HeadName+".weight", model.EmbedName+".weight"
	if !cfg.TiedHead() || !s.Has(head) || bytes.Equal(s.Stored(head), s.Stored(embed)) && s.Type(head) == s.Type(embed) {
		return
	}
	cfg.TieHead(false)
	cfg.Notes = append(cfg.Notes, "config.json says tie_word_embeddings, but the file has an lm_head.weight other than the embedding: the head is taken from the file, as transformers does")
}

// quantize makes projections ternary, as quantization_config of method bitnet says, or as the family's reader has found.
func (c *hfConfig) quantize(cfg *model.Config) error {
	float := func(module string) bool { return module == model.HeadName }
	q := c.set.Quantization()
	switch {
	case q == nil && !c.masters:
		return nil
	case q == nil:
	case q.Method != "bitnet":
		return fmt.Errorf("quantization_config.quant_method %q is not supported; supported: bitnet", q.Method)
	default:
		if err := q.Check(); err != nil {
			return err
		}
		if q.UseRMSNorm {
			c.inputNorm, c.inputNormEps = "rms_norm", float32(q.RMSNormEps)
		}
		if q.ModulesToNotConvert != nil { // null is the head, an empty list is nothing
			list, err := newSkipList(q.ModulesToNotConvert)
			if err != nil {
				return err
			}
			float = func(module string) bool {
				if c.set.Bare() {
					module = strings.TrimPrefix(module, "model.")
				}
				return list.has(module)
			}
		}
	}
	cfg.Quantize(float, c.inputNorm, c.inputNormEps)
	return nil
}

// mlx makes projections weight-only that MLX has quantised to ternary or binary codes. Others are widened row by row.
func (c *hfConfig) mlx(cfg *model.Config) error {
	if cfg.Ternary() {
		return errors.New("quantization is MLX's, and quantization_config BitNet's: one of them is not this model's")
	}
	if _, err := fs.Stat(c.set.Folder(), "hadamard.json"); err == nil {
		return errors.New("hadamard.json: the weights of this folder are rotated, which is read from GGUF files only; take the GGUF file of this model")
	}
	for _, p := range cfg.Projections() {
		if c.set.IsGrouped(p.Source() + ".weight") {
			p.Arithmetic = part.WeightOnly
		}
	}
	return nil
}

// findProjectionNorms notes the norms in front of projections of the embedding models.
func (c *hfConfig) findProjectionNorms(cfg *model.Config) {
	if hasProjectionNorms(c.set) {
		c.masters, c.inputNorm, c.inputNormEps = true, projectionNorm, cfg.FinalNorm.Eps
	}
}

// checkStored compares what quantization_config says of each projection with how it is stored. A packed tensor is ternary,
// whatever the list says; of a tensor of floats that should be packed nobody can say what was meant.
func (c *hfConfig) checkStored(cfg *model.Config) error {
	s, q, any := c.set, c.set.Quantization(), cfg.Ternary()
	for _, p := range cfg.Projections() {
		name := p.Source() + ".weight"
		packed, ternary := s.Type(name) == "U8", p.Arithmetic != part.Dense
		switch {
		case packed && !any:
			return fmt.Errorf("tensor %q is packed ternary, but there is no quantization_config: its scale cannot be told", name)
		case packed && q != nil && q.Online():
			return fmt.Errorf("tensor %q is packed, but quantization_config.quantization_mode is online, which quantises masters when they are loaded; "+
				"for packed tensors it is offline", name)
		case packed && !ternary:
			p.Arithmetic = part.Ternary8
			if c.inputNorm != "" {
				return fmt.Errorf("tensor %q is packed, but quantization_config.modules_to_not_convert lists it", name)
			}
			cfg.Notes = append(cfg.Notes, fmt.Sprintf("quantization_config.modules_to_not_convert lists %s, but its tensor is packed: it is ternary", p.Name))
		case !packed && ternary && p.Weights != "" && (q == nil || !q.Online()):
			return fmt.Errorf("quantization_config.modules_to_not_convert does not list lm_head, but the head is the embedding (tie_word_embeddings), which is not packed")
		case !packed && ternary && q != nil && q.Packs() && s.Has(name):
			return fmt.Errorf("tensor %q is stored as %s, but quantization_config (linear_class %s, quantization_mode %s) says that it is packed and "+
				"modules_to_not_convert does not list it: for masters that are quantised when loaded, quantization_mode is online and linear_class autobitlinear",
				name, s.Type(name), q.Class(), q.ModeName())
		}
	}
	return nil
}

// build reads the numbers that every family has and assembles its layers.
func (c *hfConfig) build(layers func(Shape) *model.Config) (*model.Config, error) {
	s, err := c.shape()
	if err != nil {
		return nil, err
	}
	return layers(s), nil
}

// shape reads the numbers that every family has.
func (c *hfConfig) shape() (Shape, error) {
	s := Shape{
		Name:             c.ModelType,
		HiddenSize:       c.HiddenSize,
		IntermediateSize: c.IntermediateSize,
		NumLayers:        c.NumLayers,
		NumHeads:         c.NumHeads,
		NumKVHeads:       c.NumHeads,
		VocabSize:        c.VocabSize,
		MaxContext:       c.MaxContext,
		NormEps:          float32(c.NormEps),
		Activation:       part.Activation(c.HiddenAct),
		TiedHead:         c.TieWordEmbeddings,
	}
	if s.Activation == "swish" {
		s.Activation = part.SiLU // another name of it
	}
	if c.NumKVHeads != nil {
		s.NumKVHeads = *c.NumKVHeads
	}
	if c.HeadDim != nil {
		s.HeadDim = *c.HeadDim
	} else if s.NumHeads > 0 {
		if s.HiddenSize%s.NumHeads != 0 {
			return s, fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d, and head_dim is missing", s.HiddenSize, s.NumHeads)
		}
		s.HeadDim = s.HiddenSize / s.NumHeads
	}
	r := c.ropeParameters()
	if r.Full != nil || r.Sliding != nil {
		return s, fmt.Errorf("rope_parameters by kind of layer are not this family's")
	}
	var err error
	if s.RopeTheta, s.Rope, err = c.rope(r); err != nil {
		return s, err
	}
	return s, s.check()
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
func (c *hfConfig) rope(r *hfRope) (theta float64, s part.RopeScaling, err error) {
	if p := r.PartialRotary; p != nil && *p != 1 && !c.partial {
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

func checkWindow(n int) error {
	if n < 1 || n > maxContext {
		return fmt.Errorf("sliding_window is %d; it must be 1 to %d", n, maxContext)
	}
	return nil
}
