// Package train trains 1.58-bit language models: BitLinear with straight-through estimators beside full
// precision, three architectures, checkpoints that resume bit for bit, and export to what transformers,
// llama.cpp and trit read.
package train

import (
	"fmt"
	"slices"
	"strings"
)

// Config is the shape of a model. Arch and Precision are words of the command line.
type Config struct {
	Arch             string  `json:"arch"`      // llama, transformer or bitnet
	Precision        string  `json:"precision"` // ternary or float
	VocabSize        int     `json:"vocab_size"`
	HiddenSize       int     `json:"hidden_size"`
	IntermediateSize int     `json:"intermediate_size"`
	NumLayers        int     `json:"num_layers"`
	NumHeads         int     `json:"num_heads"`
	NumKVHeads       int     `json:"num_kv_heads"`
	Block            int     `json:"block"` // tokens of context
	RopeTheta        float64 `json:"rope_theta"`
	NormEps          float64 `json:"norm_eps"`
}

// Archs and Precisions are the choices.
var (
	Archs      = []string{"llama", "transformer", "bitnet"}
	Precisions = []string{"ternary", "float"}
)

// Presets are shapes by name; the vocabulary comes from the data.
//
//	study   the experiment of the Python study trit grew from: 512 wide, 8 heads, 8 layers, block 128
//	demo    the embedded model
//	small   minutes on two cores
//	tiny    seconds, for tests
func Presets() []string { return []string{"tiny", "small", "demo", "study"} }

// Preset returns the shape of that name for an architecture.
func Preset(name, arch, precision string) (Config, error) {
	c := Config{Arch: arch, Precision: precision, RopeTheta: 10000, NormEps: 1e-5}
	switch name {
	case "study":
		c.HiddenSize, c.IntermediateSize, c.NumLayers, c.NumHeads, c.Block = 512, 2048, 8, 8, 128
	case "demo":
		c.HiddenSize, c.IntermediateSize, c.NumLayers, c.NumHeads, c.Block = 512, 1024, 4, 8, 256
	case "small":
		c.HiddenSize, c.IntermediateSize, c.NumLayers, c.NumHeads, c.Block = 128, 512, 4, 4, 64
	case "tiny":
		c.HiddenSize, c.IntermediateSize, c.NumLayers, c.NumHeads, c.Block = 64, 128, 2, 4, 32
	default:
		return c, fmt.Errorf("train: no preset %q; there are %s", name, strings.Join(Presets(), ", "))
	}
	c.NumKVHeads = c.NumHeads
	if arch == "bitnet" {
		c.NumKVHeads = c.NumHeads / 2
		c.RopeTheta = 500000
	}
	return c, nil
}

// Check reports the first thing wrong with c.
func (c *Config) Check() error {
	switch {
	case !slices.Contains(Archs, c.Arch):
		return fmt.Errorf("train: no architecture %q; there are %s", c.Arch, strings.Join(Archs, ", "))
	case !slices.Contains(Precisions, c.Precision):
		return fmt.Errorf("train: no precision %q; there are %s", c.Precision, strings.Join(Precisions, ", "))
	}
	for _, f := range []struct {
		name   string
		v, max int
	}{
		{"vocabulary", c.VocabSize, 1 << 20},
		{"hidden size", c.HiddenSize, 1 << 14},
		{"intermediate size", c.IntermediateSize, 1 << 16},
		{"number of layers", c.NumLayers, 1 << 10},
		{"number of heads", c.NumHeads, 1 << 10},
		{"number of key-value heads", c.NumKVHeads, 1 << 10},
		{"block", c.Block, 1 << 14},
	} {
		if f.v < 1 || f.v > f.max {
			return fmt.Errorf("train: %s %d is not in 1..%d", f.name, f.v, f.max)
		}
	}
	switch {
	case c.VocabSize < 2:
		return fmt.Errorf("train: a vocabulary of one token has nothing to learn")
	case c.HiddenSize%c.NumHeads != 0:
		return fmt.Errorf("train: hidden size %d is not a multiple of %d heads", c.HiddenSize, c.NumHeads)
	case c.NumHeads%c.NumKVHeads != 0:
		return fmt.Errorf("train: %d heads cannot share %d key-value heads", c.NumHeads, c.NumKVHeads)
	case c.HiddenSize/c.NumHeads%2 != 0:
		return fmt.Errorf("train: a head of %d values has no pairs to rotate", c.HiddenSize/c.NumHeads)
	case c.NormEps <= 0 || c.RopeTheta <= 0:
		return fmt.Errorf("train: norm epsilon %g and rope theta %g must be positive", c.NormEps, c.RopeTheta)
	}
	return nil
}

func (c *Config) headDim() int { return c.HiddenSize / c.NumHeads }

// Tied reports whether the head is the embedding.
func (c *Config) Tied() bool { return c.Arch == "bitnet" }

// numParams is what New would allocate, in tensors' elements.
func (c *Config) numParams() int64 {
	D, F, V, kv := int64(c.HiddenSize), int64(c.IntermediateSize), int64(c.VocabSize), int64(c.NumKVHeads*c.headDim())
	layer := 2*D*D + 2*D*kv + 3*D*F + 2*D
	all := V*D + D
	switch c.Arch {
	case "llama":
		all += V * D
	case "bitnet":
		layer += D + F
	case "transformer":
		layer += -D*F + 2*D + 2*D + 2*kv + F + D // no gate; norms' and layers' biases
		all += V*D + int64(c.Block)*D + D
	}
	return all + int64(c.NumLayers)*layer
}
