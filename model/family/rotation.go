package family

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// Keys of the contract of rotated weights in a GGUF file, with what this code knows of each. Source: PrismML's fork of
// llama.cpp, src/llama-model.cpp, as described in its pull requests.
const rotationPrefix = "prism.hadamard."

var rotationKeys = []string{
	"version", "block_size", "transform", "axis", "sign_mode", "weight_names", "inverse_weight_names", "sign_widths", "sign_values", "gdn_v_grouped",
}

// rotated are the modules of a layer that the contract allows to be folded.
var rotated = []string{
	"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ssm_out",
	"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
}

// rotate reads the contract and gives the projections that it names their rotations. Everything in it that is not known is
// refused by name.
func (g *ggufReader) rotate(cfg *model.Config) error {
	var kv gguf.KV
	for _, p := range g.kv {
		if key, ok := strings.CutPrefix(p.Key, rotationPrefix); ok {
			if !slices.Contains(rotationKeys, key) {
				return fmt.Errorf("key %q is not known: the contract of this file's rotation is a newer one", p.Key)
			}
			kv = append(kv, gguf.Pair{Key: key, Value: p.Value})
		} else if strings.HasPrefix(p.Key, "prism.") {
			return fmt.Errorf("key %q is not known, and may change what the weights mean", p.Key)
		}
	}
	if len(kv) == 0 {
		return nil
	}
	c := &contract{kv: kv}
	c.want("version", uint64(1))
	c.want("transform", "normalized-sylvester-walsh-hadamard")
	c.want("axis", "input-last-dimension")
	block := c.uint("block_size")
	if c.err == nil && (block < 1 || block > 1<<20 || block&(block-1) != 0) {
		c.fail("block_size", "is %d; it must be a power of two", block)
	}
	signs := c.signs(block)
	if c.err != nil {
		return c.err
	}
	names, inverse := c.strings("weight_names"), c.strings("inverse_weight_names")
	if c.err != nil {
		return c.err
	}
	if err := g.rotateNamed(cfg, c, names, inverse, signs, block); err != nil {
		return err
	}
	return c.err
}

// rotateNamed gives the projections of weight_names, and the embedding, their rotations.
func (g *ggufReader) rotateNamed(cfg *model.Config, c *contract, names, inverse []string, signs map[int][]float32, block int) error {
	rotations := map[int]*part.Rotation{}
	of := func(name string, width int) (*part.Rotation, error) {
		if r := rotations[width]; r != nil {
			return r, nil
		}
		if width%block != 0 {
			return nil, fmt.Errorf("tensor %q has %d columns, which is not a multiple of %sblock_size %d", name, width, rotationPrefix, block)
		}
		r := &part.Rotation{Block: block}
		if signs != nil {
			if r.Signs = signs[width]; r.Signs == nil {
				return nil, fmt.Errorf("tensor %q has %d columns, and %ssign_widths has no signs for that width", name, width, rotationPrefix)
			}
		}
		rotations[width] = r
		return r, nil
	}
	grouped := false // the input of a folded ssm_out has the value heads of a key head side by side
	if c.kv.Has("gdn_v_grouped") {
		var err error
		if grouped, err = c.kv.Bool("gdn_v_grouped"); err != nil {
			return fmt.Errorf("key %q is %s; it must be a bool", rotationPrefix+"gdn_v_grouped", short(c.kv.Get("gdn_v_grouped")))
		}
	}
	byName := map[string][]*part.Projection{}
	for _, p := range cfg.Projections() {
		if name, ok := weights.GGUFName(g.arch, p.Name+".weight"); ok {
			name, _, _ = strings.Cut(name, "[") // experts have one tensor
			byName[name] = append(byName[name], p)
		}
	}
	for _, name := range names {
		if len(byName[name]) == 0 || !canRotate(name) {
			return fmt.Errorf("key %q names %q, which this model cannot have rotated", rotationPrefix+"weight_names", name)
		}
		for _, p := range byName[name] {
			if p.Weights != "" {
				return fmt.Errorf("key %q names %q, which this model cannot have rotated", rotationPrefix+"weight_names", name)
			}
			if p.Arithmetic == part.Ternary8 {
				return fmt.Errorf("tensor %q is rotated and its activations are rounded to 8 bits, which the contract does not have", name)
			}
			var err error
			if p.Rotation, err = of(name, p.In); err != nil {
				return err
			}
			if grouped {
				groupOut(cfg, p)
			}
		}
	}
	for _, name := range inverse {
		if name != "token_embd.weight" {
			return fmt.Errorf("key %q names %q; only token_embd.weight can be undone", rotationPrefix+"inverse_weight_names", name)
		}
		var err error
		if cfg.Embedding.Rotation, err = of(name, cfg.HiddenSize); err != nil {
			return err
		}
		if cfg.TiedHead() {
			cfg.Head.Rotation = cfg.Embedding.Rotation
		}
	}
	return nil
}

// groupOut notes that p, where it is the output of a Gated DeltaNet, has its input grouped.
func groupOut(cfg *model.Config, p *part.Projection) {
	for i := range cfg.Layers {
		if d, ok := cfg.Layers[i].Mixer.(*part.DeltaNet); ok && &d.Out == p {
			d.OutGrouped = true
		}
	}
}

// canRotate says whether the contract allows a tensor of that name.
func canRotate(name string) bool {
	if name == "output.weight" {
		return true
	}
	rest, ok := strings.CutPrefix(name, "blk.")
	_, module, _ := strings.Cut(rest, ".")
	return ok && slices.Contains(rotated, strings.TrimSuffix(module, ".weight"))
}

// contract reads keys of a rotation and keeps the first error.
type contract struct {
	kv  gguf.KV
	err error
}

func (c *contract) fail(key, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("key %q "+format, append([]any{rotationPrefix + key}, args...)...)
	}
}

func (c *contract) want(key string, want any) {
	v := c.kv.Get(key)
	if n, err := c.kv.Uint(key); err == nil {
		v = n
	}
	if v != want {
		c.fail(key, "is %s; only %v is supported", short(v), want)
	}
}

func (c *contract) uint(key string) int {
	n, err := c.kv.Uint(key)
	if err != nil {
		c.fail(key, "is %s; it must be a number", short(c.kv.Get(key)))
	}
	return int(min(n, 1<<30))
}

func (c *contract) strings(key string) []string {
	if !c.kv.Has(key) {
		return nil
	}
	list, err := c.kv.Strings(key)
	if err != nil {
		c.fail(key, "is no list of names")
	}
	sorted := slices.Sorted(slices.Values(list))
	if len(slices.Compact(sorted)) != len(list) {
		c.fail(key, "names a tensor twice")
	}
	return list
}

// signs reads the signs by width of the input, nil where there are none.
func (c *contract) signs(block int) map[int][]float32 {
	mode, _ := c.kv.String("sign_mode")
	switch mode {
	case "identity":
		if c.kv.Has("sign_values") || c.kv.Has("sign_widths") {
			c.fail("sign_mode", "is identity, and there are signs all the same")
		}
		return nil
	case "explicit":
	default:
		c.fail("sign_mode", "is %s; identity and explicit are supported", short(c.kv.Get("sign_mode")))
		return nil
	}
	widths, err := c.kv.Ints("sign_widths")
	values, err2 := c.kv.Ints("sign_values")
	if err != nil || err2 != nil {
		c.fail("sign_values", "or sign_widths is no list of numbers")
		return nil
	}
	signs := map[int][]float32{}
	for _, w := range widths {
		switch {
		case w < 1 || w > maxWidth || block < 1 || int(w)%block != 0:
			c.fail("sign_widths", "has %d, which is not a multiple of block_size %d", w, block)
			return nil
		case signs[int(w)] != nil:
			c.fail("sign_widths", "has %d twice", w)
			return nil
		case int(w) > len(values):
			c.fail("sign_values", "has fewer values than sign_widths ask for")
			return nil
		}
		s := make([]float32, w)
		for i, v := range values[:w] {
			if v != 1 && v != -1 {
				c.fail("sign_values", "has %d; a sign is 1 or -1", v)
				return nil
			}
			s[i] = float32(v)
		}
		signs[int(w)], values = s, values[w:]
	}
	if len(values) > 0 {
		c.fail("sign_values", "has %d values more than sign_widths ask for", len(values))
	}
	return signs
}

// rotationKeysOf are the keys of a contract that says what a model's rotations are.
func rotationKeysOf(c *model.Config, arch string) gguf.KV {
	var names, inverse []string
	signs := map[int][]float32{}
	block, explicit := 0, false
	note := func(r *part.Rotation, width int) {
		block, signs[width] = r.Block, r.Signs
		explicit = explicit || r.Signs != nil
	}
	for _, p := range c.Projections() {
		if name, ok := weights.GGUFName(arch, p.Name+".weight"); ok && p.Rotation != nil && p.Weights == "" {
			names = append(names, name)
			note(p.Rotation, p.In)
		}
	}
	if r := c.Embedding.Rotation; r != nil {
		inverse = []string{"token_embd.weight"}
		note(r, c.HiddenSize)
	}
	if block == 0 {
		return nil
	}
	kv := gguf.KV{
		{Key: rotationPrefix + "version", Value: uint32(1)},
		{Key: rotationPrefix + "block_size", Value: uint32(block)},
		{Key: rotationPrefix + "transform", Value: "normalized-sylvester-walsh-hadamard"},
		{Key: rotationPrefix + "axis", Value: "input-last-dimension"},
		{Key: rotationPrefix + "sign_mode", Value: "identity"},
		{Key: rotationPrefix + "weight_names", Value: names},
		{Key: rotationPrefix + "inverse_weight_names", Value: inverse},
	}
	if !explicit {
		return kv
	}
	var widths, values []int32
	for _, w := range slices.Sorted(maps.Keys(signs)) {
		widths = append(widths, int32(w))
		for _, s := range signs[w] {
			values = append(values, int32(s))
		}
	}
	kv.Set(rotationPrefix+"sign_mode", "explicit")
	kv.Set(rotationPrefix+"sign_widths", widths)
	kv.Set(rotationPrefix+"sign_values", values)
	return kv
}
