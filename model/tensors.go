package model

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/tritlm/trit/weights"
)

// normTensor is a norm that a layer has, and where its weights go.
type normTensor struct {
	dst   *norm
	name  string // the module's
	width int
}

// projectionTensor is a projection that a layer has: the at-th of its linears.
type projectionTensor struct {
	at      int
	name    string // the module's
	in, out int
}

// norms are the norms of layer n, whose weights go to l.
func (c *Config) norms(l *layer, n int) []normTensor {
	names, attn := c.layer(n), c.NumHeads*c.HeadDim
	list := []normTensor{
		{&l.attnNorm, names.attnNorm, c.HiddenSize},
		{&l.ffnNorm, names.ffnNorm, c.HiddenSize},
	}
	if c.SubNorms {
		list = append(list, normTensor{&l.attnSubNorm, names.attnSubNorm, attn}, normTensor{&l.ffnSubNorm, names.ffnSubNorm, c.IntermediateSize})
	}
	if c.QKNorms {
		list = append(list, normTensor{&l.qNorm, names.qNorm, c.HeadDim}, normTensor{&l.kNorm, names.kNorm, c.HeadDim})
	}
	if c.PostNorms {
		list = append(list, normTensor{&l.attnPostNorm, names.attnPostNorm, c.HiddenSize}, normTensor{&l.ffnPostNorm, names.ffnPostNorm, c.HiddenSize})
	}
	return list
}

// layerProjections are the projections of layer n.
func (c *Config) layerProjections(n int) []projectionTensor {
	names := c.layer(n)
	D, F, attn, kv := c.HiddenSize, c.IntermediateSize, c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim
	list := []projectionTensor{
		{qAt, names.q, D, attn},
		{kAt, names.k, D, kv},
		{vAt, names.v, D, kv},
		{oAt, names.o, attn, D},
		{gateAt, names.gate, D, F},
		{upAt, names.up, D, F},
		{downAt, names.down, F, D},
	}
	if c.Ungated {
		list = slices.Delete(list, gateAt, gateAt+1)
	}
	return list
}

// modules are the names of all projections, the head among them.
func (c *Config) modules() []string {
	list := []string{headName}
	for n := range c.NumLayers {
		for _, p := range c.layerProjections(n) {
			list = append(list, p.name)
		}
	}
	return list
}

// tensors are the names of all tensors that a model of this configuration reads where its files have them: of those that are
// not optional it ends with an error where they are missing.
func (c *Config) tensors() []string {
	list := []string{embedName + ".weight"}
	if c.LearnedPositions {
		list = append(list, positionsName+".weight")
	}
	norm := func(name string) {
		list = append(list, name+".weight")
		if c.LayerNorm {
			list = append(list, name+".bias")
		}
	}
	projection := func(name string) {
		list = append(list, name+".weight", name+".bias")
		if !c.floatLinear(name) {
			list = append(list, name+".weight_scale")
			if c.InputNorm != "" {
				list = append(list, name+"."+c.InputNorm+".weight")
			}
		}
	}
	norm(finalNormName)
	switch {
	case c.TiedHead:
		list = append(list, headName+".weight") // equal to the embedding: tieHead
	case c.floatLinear(headName):
		list = append(list, headName+".weight")
	default:
		projection(headName)
	}
	for n := range c.NumLayers {
		for _, t := range c.norms(new(layer), n) {
			norm(t.name)
		}
		for _, t := range c.layerProjections(n) {
			projection(t.name)
		}
	}
	return list
}

// harmless says whether a tensor that nothing reads changes no text: older Hugging Face folders keep the frequencies of the
// rotary positions, which follow from the configuration.
func harmless(name string) bool { return strings.HasSuffix(name, "rotary_emb.inv_freq") }

// checkTensors refuses files with tensors that a model of this configuration does not read, as transformers' loading report
// and llama.cpp's count of tensors would show them.
func (c *Config) checkTensors(s *weights.Set) error {
	known := c.tensors()
	if s.GGUF() != nil {
		known = append(known, "rope_freqs.weight")
	}
	var extra []string
	for _, name := range s.Others(known) {
		if !harmless(name) {
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
		"the configuration describes another model", extra[0], more, c.Family, c.NumLayers)
}

// tieHead decides whether the head is the embedding, as transformers 5 does: a file that has a head of its own with other
// numbers keeps it, whatever tie_word_embeddings says.
func (c *Config) tieHead(s *weights.Set) error {
	head, embed := headName+".weight", embedName+".weight"
	if !c.TiedHead || !s.Has(head) {
		return nil
	}
	if bytes.Equal(s.Stored(head), s.Stored(embed)) && s.Type(head) == s.Type(embed) {
		return nil // the same twice
	}
	c.TiedHead = false
	c.Notes = append(c.Notes, "config.json says tie_word_embeddings, but the file has an lm_head.weight other than the embedding: the head is taken from the file, as transformers does")
	return nil
}

// checkStored compares what quantization_config says of each projection with how it is stored. A packed tensor is ternary,
// whatever the list says; of a tensor of floats that should be packed nobody can say what was meant.
func (c *Config) checkStored(s *weights.Set) error {
	q := s.Quantization()
	packed := func(module string) bool { return s.Type(module+".weight") == "U8" }
	for _, m := range c.modules() {
		if m == headName && c.TiedHead || !s.Has(m+".weight") {
			continue
		}
		switch {
		case packed(m) && !c.Ternary:
			return fmt.Errorf("tensor %q is packed ternary, but there is no quantization_config: its weights cannot be told", m+".weight")
		case packed(m) && c.floatLinear(m):
			c.FloatLinear = slices.DeleteFunc(c.FloatLinear, func(f string) bool { return f == m })
			c.Notes = append(c.Notes, fmt.Sprintf("quantization_config.modules_to_not_convert lists %s, but its tensor is packed: it is ternary", m))
		case !packed(m) && !c.floatLinear(m) && q != nil && q.Packs():
			return fmt.Errorf("tensor %q is stored as %s, but quantization_config (linear_class %s, quantization_mode %s) says that it is packed and "+
				"modules_to_not_convert does not list it: for masters that are quantised when loaded, quantization_mode is online and linear_class autobitlinear",
				m+".weight", s.Type(m+".weight"), q.Class(), q.ModeName())
		}
	}
	if c.TiedHead && !c.floatLinear(headName) && (q == nil || !q.Online()) {
		return fmt.Errorf("quantization_config.modules_to_not_convert does not list lm_head, but the head is the embedding (tie_word_embeddings), which is not packed")
	}
	return nil
}

// checkBiases holds the biases in the file against the configuration's word: declared says which projections have one.
func (c *Config) checkBiases(s *weights.Set, key string, declared bool, modules []string) error {
	for _, m := range modules {
		name := m + ".bias"
		switch has := s.Has(name); {
		case has && !declared:
			return fmt.Errorf("tensor %q is in the file, but %s is false: transformers would leave it out", name, key)
		case !has && declared:
			return fmt.Errorf("tensor %q is missing, but %s is true", name, key)
		}
	}
	return nil
}
