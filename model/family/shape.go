package family

import (
	"fmt"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Shape is the numbers that all families have.
type Shape struct {
	Name             string // what the file calls itself
	HiddenSize       int    // D
	IntermediateSize int    // F
	NumLayers        int    // L
	NumHeads         int    // H
	NumKVHeads       int    // KV, divides H
	HeadDim          int    // hd
	VocabSize        int    // V
	MaxContext       int    // tokens
	NormEps          float32
	RopeTheta        float64
	Rope             part.RopeScaling
	Activation       part.Activation
	TiedHead         bool
}

// Limits of a believable configuration: what no published model reaches, small enough that products of two of them
// and buffers made from them stay far below an int's range.
const (
	maxWidth   = 1 << 17
	maxLayers  = 1 << 10
	maxVocab   = 1 << 22
	maxContext = 1 << 24
)

// check refuses impossible numbers, by the names of their keys in config.json.
func (s *Shape) check() error {
	for _, d := range []struct {
		name     string
		v, limit int
	}{
		{"hidden_size", s.HiddenSize, maxWidth},
		{"intermediate_size", s.IntermediateSize, maxWidth},
		{"num_hidden_layers", s.NumLayers, maxLayers},
		{"num_attention_heads", s.NumHeads, maxWidth},
		{"num_key_value_heads", s.NumKVHeads, maxWidth},
		{"head_dim", s.HeadDim, maxWidth},
		{"vocab_size", s.VocabSize, maxVocab},
		{"max_position_embeddings", s.MaxContext, maxContext},
	} {
		if d.v < 1 || d.v > d.limit {
			return fmt.Errorf("%s is %d; it must be 1 to %d", d.name, d.v, d.limit)
		}
	}
	if s.NumHeads%s.NumKVHeads != 0 {
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", s.NumHeads, s.NumKVHeads)
	}
	if s.HeadDim%2 != 0 {
		return fmt.Errorf("head_dim %d is odd; rotary positions need pairs", s.HeadDim)
	}
	if s.NumHeads*s.HeadDim > maxWidth {
		return fmt.Errorf("num_attention_heads × head_dim is %d; at most %d", s.NumHeads*s.HeadDim, maxWidth)
	}
	return nil
}

// decoder assembles a model of layers.
func (s *Shape) decoder(family string, layer func(prefix string, n int) part.Layer) *model.Config {
	c := &model.Config{
		Family: family, Name: s.Name, HiddenSize: s.HiddenSize, VocabSize: s.VocabSize, MaxContext: s.MaxContext,
		Embedding: model.Embedding{Name: model.EmbedName},
		FinalNorm: s.norm(model.FinalNormName),
		Head:      part.Projection{Name: model.HeadName, In: s.HiddenSize, Out: s.VocabSize},
	}
	for n := range s.NumLayers {
		c.Layers = append(c.Layers, layer(fmt.Sprintf("model.layers.%d.", n), n))
	}
	c.TieHead(s.TiedHead)
	return c
}

// norm is one of the residual stream.
func (s *Shape) norm(name string) part.Norm {
	return part.Norm{Name: name, Width: s.HiddenSize, Eps: s.NormEps}
}

// normOf is one of another width.
func (s *Shape) normOf(name string, width int) *part.Norm {
	return &part.Norm{Name: name, Width: width, Eps: s.NormEps}
}

// rope is the rotary positions of all layers.
func (s *Shape) rope() *part.Rope {
	return &part.Rope{Dim: s.HeadDim, Theta: s.RopeTheta, Scaling: s.Rope}
}

// attention has the projections of the layer whose modules begin with prefix.
func (s *Shape) attention(prefix string, rope *part.Rope) *part.Attention {
	D, heads, kv := s.HiddenSize, s.NumHeads*s.HeadDim, s.NumKVHeads*s.HeadDim
	prefix += "self_attn."
	return &part.Attention{
		Heads: s.NumHeads, KVHeads: s.NumKVHeads, HeadDim: s.HeadDim, Rope: rope,
		Q: part.Projection{Name: prefix + "q_proj", In: D, Out: heads},
		K: part.Projection{Name: prefix + "k_proj", In: D, Out: kv},
		V: part.Projection{Name: prefix + "v_proj", In: D, Out: kv},
		O: part.Projection{Name: prefix + "o_proj", In: heads, Out: D, Role: part.RoleOut},
	}
}

// gated has the projections of the layer whose modules begin with prefix.
func (s *Shape) gated(prefix string) *part.Gated {
	D, F, sparse := s.HiddenSize, s.IntermediateSize, s.Activation == part.ReLU2
	prefix += "mlp."
	return &part.Gated{
		Gate:       part.Projection{Name: prefix + "gate_proj", In: D, Out: F, Role: part.RoleGate},
		Up:         part.Projection{Name: prefix + "up_proj", In: D, Out: F, Role: part.RoleUp, Sparse: sparse},
		Down:       part.Projection{Name: prefix + "down_proj", In: F, Out: D, Role: part.RoleDown, Sparse: sparse},
		Activation: s.Activation,
	}
}

// ShapeOf reads the numbers back from a model whose layers are all of one shape, as those of these families are.
func ShapeOf(c *model.Config) Shape {
	s := Shape{
		Name: c.Name, HiddenSize: c.HiddenSize, NumLayers: len(c.Layers), VocabSize: c.VocabSize, MaxContext: c.MaxContext,
		NormEps: c.FinalNorm.Eps, TiedHead: c.TiedHead(),
	}
	if len(c.Layers) == 0 {
		return s
	}
	for i := range c.Layers {
		if a, ok := c.Layers[i].Mixer.(*part.Attention); ok {
			s.NumHeads, s.NumKVHeads, s.HeadDim = a.Heads, a.KVHeads, a.HeadDim
			break
		}
	}
	// Of layers with a window some families have other positions.
	for i := range c.Layers {
		if a, ok := c.Layers[i].Mixer.(*part.Attention); ok && a.Rope != nil && (s.RopeTheta == 0 || a.Window == 0) {
			s.RopeTheta, s.Rope = a.Rope.Theta, a.Rope.Scaling
			if a.Window == 0 {
				break
			}
		}
	}
	switch f := c.Layers[0].FeedForward.(type) {
	case *part.Gated:
		s.IntermediateSize, s.Activation = f.Up.Out, f.Activation
	case *part.Experts:
		s.IntermediateSize, s.Activation = f.Experts[0].Up.Out, f.Experts[0].Activation
	case *part.Plain:
		s.IntermediateSize, s.Activation = f.Up.Out, part.GELU
	}
	return s
}

// Windows says of each layer how many tokens it sees, 0 for all.
func Windows(c *model.Config) []int {
	w := make([]int, len(c.Layers))
	for i := range c.Layers {
		if a, ok := c.Layers[i].Mixer.(*part.Attention); ok {
			w[i] = a.Window
		}
	}
	return w
}
