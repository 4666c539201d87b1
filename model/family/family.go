// Package family reads a model's configuration: a file per architecture, which says how it is recognised, which keys it reads
// and what its layers are made of.
package family

import (
	"fmt"
	"sort"
	"strings"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/weights"
)

// family is one architecture: how its configuration is recognised and read.
type family struct {
	name string
	// says is one line for the list of what is supported.
	says string
	// is says whether a Hugging Face config.json is this family's.
	is func(c *hfConfig) bool
	// keys says of every key of config.json what becomes of it.
	keys hfKeys
	// hf reads config.json. What is ternary, biases and the tie of the head are settled for all families alike.
	hf func(c *hfConfig) (*model.Config, error)
	// gguf lists the values of general.architecture that it reads.
	gguf []string
	// ggufKeys are the keys behind the architecture's name that fromGGUF reads, beside the common ones.
	ggufKeys []string
	// ggufRotary: rotary positions may be of a part of a head, which fromGGUF reads.
	ggufRotary bool
	// ggufExperts: all layers have experts, and feed_forward_length may be missing.
	ggufExperts bool
	// fromGGUF finishes a configuration whose common keys were read already.
	fromGGUF func(g *ggufReader, s Shape) (*model.Config, error)
}

// families in order of trial.
var families = []*family{
	bitnetFamily, onebitFamily, qwen2Family, qwen3Family, qwen3moeFamily, mapleFamily, qwen35Family, qwen35moeFamily, gemma3Family, minicpmFamily, hunyuanFamily, llamaFamily, transformerFamily,
}

// Says lists what can be run, a line each.
func Says() []string {
	var list []string
	for _, f := range families {
		list = append(list, f.name+": "+f.says)
	}
	return list
}

// Read reads the configuration out of a model's files. It refuses keys and tensors that would change the text and that nothing
// here reads, by name.
func Read(s *weights.Set) (*model.Config, error) {
	read := readHF
	if s.GGUF() != nil {
		read = readGGUF
	}
	cfg, err := read(s)
	if err == nil {
		err = cfg.Check()
	}
	if err == nil {
		var ignore []string
		if s.GGUF() != nil {
			ignore = []string{ropeFreqs}
		} else if cfg.TiedHead() {
			ignore = []string{model.HeadName + ".weight"} // equal to the embedding: tieHead
		}
		err = cfg.CheckTensors(s, ignore...)
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

func supportedGGUF() string {
	var list []string
	for _, f := range families {
		list = append(list, f.gguf...)
	}
	return "supported: " + strings.Join(list, ", ")
}
