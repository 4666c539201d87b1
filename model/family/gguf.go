package family

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// The keys of a GGUF file behind its architecture's name that every family has. Of keys that are in neither list and not the
// family's own, such as those of experts, only 0, false and empty values are taken, which mean that there is no such thing.
// Source: ggml docs/gguf.md; PyPI gguf, constants.py.
var (
	ggufUsed = []string{
		"embedding_length", "feed_forward_length", "block_count", "attention.head_count", "attention.head_count_kv", "attention.key_length",
		"attention.value_length", "attention.layer_norm_rms_epsilon", "attention.causal", "context_length", "rope.freq_base", "rope.dimension_count",
		"rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor",
		"rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_ext_factor", "rope.scale_linear",
	}
	ggufHarmless = []string{
		"vocab_size",             // token_embd says it
		"tensor_data_layout",     // of files before GGUF's first version
		"rope.scaling.finetuned", // a remark
	}
)

// ggufReader reads keys of one architecture and keeps the first error.
type ggufReader struct {
	set  *weights.Set
	kv   gguf.KV
	arch string
	err  error

	experted bool // feed_forward_length may be missing
	partial  bool // rotary positions may be of a part of a head

	// Found by a family's reader.
	eightBits bool    // the family is trained with activations of 8 bits: what tq1_0 and tq2_0 leave open
	masters   bool    // floats are masters of ternary projections
	inputNorm string  // the module of norms in front of ternary projections, "" for none
	eps       float32 // of those

	mixedScales *bool // see mixed
}

// ropeFreqs is the tensor of divisors of rotary frequencies.
const ropeFreqs = "rope_freqs.weight"

func (g *ggufReader) has(key string) bool { return g.kv.Has(g.arch + "." + key) }

func (g *ggufReader) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

// num reads a number that is missing only where def is not negative. An array, by layer, must hold one and the same number.
func (g *ggufReader) num(key string, def int) int {
	if def >= 0 && !g.has(key) {
		return def
	}
	key = g.arch + "." + key
	if list, err := g.kv.Ints(key); err == nil && len(list) > 0 {
		for i, v := range list {
			if v != list[0] || v < 0 {
				g.fail(fmt.Errorf("%s is %d in layer 0 and %d in layer %d; layers of different shapes are not supported", key, list[0], v, i))
				return 0
			}
		}
		return int(min(list[0], maxContext+1))
	}
	v, err := g.kv.Uint(key)
	if err != nil {
		g.fail(err)
	}
	return int(min(v, maxContext+1)) // check names the key and the limit
}

func (g *ggufReader) float(key string, def float64) float64 {
	if !g.has(key) {
		return def
	}
	v, err := g.kv.Float(g.arch + "." + key)
	if err != nil {
		g.fail(err)
	}
	return v
}

// readGGUF reads the keys that every GGUF architecture has; the family adds what the format leaves unsaid.
func readGGUF(s *weights.Set) (*model.Config, error) {
	g := &ggufReader{set: s, kv: s.GGUF().KV}
	var err error
	if g.arch, err = g.kv.String("general.architecture"); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(families, func(f *family) bool { return slices.Contains(f.gguf, g.arch) })
	if i < 0 {
		return nil, fmt.Errorf("general.architecture %q is not supported; %s", g.arch, supportedGGUF())
	}
	fam := families[i]
	if err := g.checkKeys(fam); err != nil {
		return nil, err
	}
	g.partial, g.experted = fam.ggufRotary, fam.ggufExperts
	shape, err := g.shape()
	if err != nil {
		return nil, err
	}
	cfg, err := fam.fromGGUF(g, shape)
	if err != nil {
		return nil, err
	}
	cfg.Quantize(func(module string) bool { return !g.takesCodes(module) }, g.inputNorm, g.eps)
	for _, p := range cfg.Projections() {
		p.Bias = s.Has(p.Name + ".bias")
		if p.Arithmetic == part.Dense && s.IsGrouped(p.Source()+".weight") {
			p.Arithmetic = part.WeightOnly
		}
	}
	return cfg, g.rotate(cfg)
}

// takesCodes says whether a projection multiplies by activations of 8 bits. i2_s and ik_llama.cpp's types are formats of
// BitNet alone. The others hold models whose weights alone were quantised, but for those that a converter of ours has written,
// which keeps the scales in full besides, and for tq1_0 and tq2_0 in families that are trained with 8 bits.
func (g *ggufReader) takesCodes(module string) bool {
	name := module + ".weight"
	if module == model.HeadName || !g.set.Has(name) {
		return false
	}
	switch said, _ := g.kv.String(weights.ArithmeticKey); {
	case said == weights.WeightsOnly:
		return false
	case !g.set.IsTernary(name):
		return g.masters
	case said == weights.EightBits:
		return true
	case !g.set.IsGrouped(name), g.masters, g.inputNorm != "", g.kv.Has(weights.ScalesKey):
		return true
	}
	t := g.set.Type(name)
	return g.eightBits && (t == "tq1_0" || t == "tq2_0") && !g.mixed()
}

// mixed says whether rows of the first layer have blocks of different scales, which no model of one scale a matrix has.
func (g *ggufReader) mixed() bool {
	if g.mixedScales == nil {
		m := slices.ContainsFunc([]string{"mlp.down_proj", "self_attn.q_proj", "mlp.up_proj"}, func(module string) bool {
			return g.set.MixedScales("model.layers.0." + module + ".weight")
		})
		g.mixedScales = &m
	}
	return *g.mixedScales
}

// findProjectionNorms notes the norms in front of projections of the embedding models.
func (g *ggufReader) findProjectionNorms(cfg *model.Config) {
	if hasProjectionNorms(g.set) {
		g.eightBits, g.masters, g.inputNorm, g.eps = true, true, projectionNorm, cfg.FinalNorm.Eps
	}
}

// shape reads the numbers that every family has.
func (g *ggufReader) shape() (Shape, error) {
	s := Shape{
		HiddenSize:       g.num("embedding_length", -1),
		IntermediateSize: g.num("feed_forward_length", map[bool]int{false: -1, true: 0}[g.experted]),
		NumLayers:        g.num("block_count", -1),
		NumHeads:         g.num("attention.head_count", -1),
		MaxContext:       g.num("context_length", -1),
		NormEps:          float32(g.float("attention.layer_norm_rms_epsilon", 1e-5)),
		RopeTheta:        g.float("rope.freq_base", 10000),
	}
	if g.experted && s.IntermediateSize == 0 {
		s.IntermediateSize = g.num("expert_feed_forward_length", -1)
	}
	s.NumKVHeads = g.num("attention.head_count_kv", s.NumHeads)
	headDim := 0
	if s.NumHeads > 0 {
		headDim = s.HiddenSize / s.NumHeads
	}
	s.HeadDim = g.num("attention.key_length", headDim)
	if n := g.num("attention.value_length", s.HeadDim); n != s.HeadDim {
		g.fail(fmt.Errorf("%s.attention.value_length is %d and the heads of queries and keys have %d; they must be equal", g.arch, n, s.HeadDim))
	}
	if n := g.num("rope.dimension_count", s.HeadDim); n != s.HeadDim && !g.partial {
		g.fail(fmt.Errorf("%s.rope.dimension_count is %d and a head has %d; rotary positions of a part of a head are not supported in this family", g.arch, n, s.HeadDim))
	}
	if key := g.arch + ".attention.causal"; g.kv.Has(key) {
		if causal, err := g.kv.Bool(key); err != nil {
			g.fail(err)
		} else if !causal {
			g.fail(fmt.Errorf("%s is false; attention here sees what comes before only", key))
		}
	}
	if g.kv.Has("general.name") {
		s.Name, _ = g.kv.String("general.name")
	}
	s.Rope = g.rope(s.MaxContext)
	shape := g.set.Shape(model.EmbedName + ".weight")
	if len(shape) != 2 {
		g.fail(fmt.Errorf("tensor %q: missing or not a matrix", "token_embd.weight"))
	} else {
		s.VocabSize = shape[0]
	}
	s.TiedHead = !g.set.Has(model.HeadName + ".weight")
	if g.err != nil {
		return s, g.err
	}
	if err := s.check(); err != nil {
		return s, err
	}
	if g.set.Has(ropeFreqs) {
		s.Rope.Divisors, g.err = g.set.Vector(ropeFreqs, s.HeadDim/2)
	}
	return s, g.err
}

// rope reads how rotary positions are stretched. Source: llama.cpp src/llama-model.cpp and ggml_rope_ext, whose YaRN is that of
// transformers with attention scaled by yarnScale times its own factor.
func (g *ggufReader) rope(context int) part.RopeScaling {
	kind := ""
	if key := g.arch + ".rope.scaling.type"; g.kv.Has(key) {
		var err error
		if kind, err = g.kv.String(key); err != nil {
			g.fail(err)
		}
	}
	factor := g.float("rope.scaling.factor", 0)
	if factor == 0 {
		factor = g.float("rope.scale_linear", 1) // its older name
	}
	switch kind {
	case "none":
		return part.RopeScaling{}
	case "":
		if factor == 1 {
			return part.RopeScaling{}
		}
		return part.RopeScaling{Type: "linear", Factor: factor} // the format's default
	case "linear":
		return part.RopeScaling{Type: kind, Factor: factor}
	case "yarn":
		for _, key := range []string{"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"} {
			if x := g.float(key, 1); x != 1 {
				g.fail(fmt.Errorf("%s.%s is %g; only 1 is supported", g.arch, key, x))
			}
		}
		return part.RopeScaling{
			Type: kind, Factor: factor, OldContext: g.num("rope.scaling.original_context_length", context),
			AttnFactor: yarnScale(factor, 1) * g.float("rope.scaling.attn_factor", 1),
			BetaFast:   g.float("rope.scaling.yarn_beta_fast", 32), BetaSlow: g.float("rope.scaling.yarn_beta_slow", 1),
		}
	}
	return part.RopeScaling{Type: kind} // refused by check, by name
}

// checkKeys refuses keys that nothing here reads, of this architecture or of a contract that changes the weights.
func (g *ggufReader) checkKeys(fam *family) error {
	if v := g.kv.Get(weights.ArithmeticKey); v != nil && v != weights.EightBits && v != weights.WeightsOnly {
		return fmt.Errorf("key %q is %s; known: %s, %s", weights.ArithmeticKey, short(v), weights.EightBits, weights.WeightsOnly)
	}
	for _, p := range g.kv {
		key, ok := strings.CutPrefix(p.Key, g.arch+".")
		if !ok || slices.Contains(ggufUsed, key) || slices.Contains(ggufHarmless, key) || slices.Contains(fam.ggufKeys, key) || empty(p.Value) {
			continue
		}
		return fmt.Errorf("key %.100q is %s, and nothing in a model of family %s reads it: the file needs something that is not supported, or a newer trit",
			p.Key, short(p.Value), fam.name)
	}
	return nil
}

// empty says whether a value of metadata says that there is no such thing.
func empty(v any) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case string:
		return v == ""
	}
	return strings.Trim(fmt.Sprint(v), "[]0 ") == ""
}

// short is a value for an error.
func short(v any) string {
	text := fmt.Sprint(v)
	if s, ok := v.(string); ok {
		text = strconv.Quote(s)
	}
	if len(text) > 60 {
		text = text[:60] + "…"
	}
	return text
}
