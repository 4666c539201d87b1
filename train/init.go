package train

import (
	"fmt"
	"io/fs"
	"strconv"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/weights"
)

// Init builds a model to train on from a published one: a Hugging Face folder (or GGUF file) with float masters, such as
// what Export writes as hf-bf16. block, when not 0, is a shorter context to train with.
//
// A file with packed ternary weights has no masters; that is an error that says so.
func Init(path string, precision string, block int, pool *par.Pool) (*Model, *data.Vocab, error) {
	set, err := weights.Open(path, nil)
	if err != nil {
		return nil, nil, err
	}
	defer set.Close()
	cfg, err := model.ParseConfig(set)
	if err != nil {
		return nil, nil, err
	}
	c, err := configOf(cfg, precision)
	if err != nil {
		return nil, nil, fmt.Errorf("train: %s: %w", path, err)
	}
	if block > 0 {
		if block > c.Block {
			return nil, nil, fmt.Errorf("train: --block %d: %s has a context of %d", block, path, c.Block)
		}
		if c.Arch != "transformer" {
			c.Block = block
		}
	}
	if set.Folder() == nil {
		return nil, nil, fmt.Errorf("train: %s: training continues from a Hugging Face folder, which has the tokenizer as a file", path)
	}
	j, err := fs.ReadFile(set.Folder(), "tokenizer.json")
	if err != nil {
		return nil, nil, fmt.Errorf("train: %s: %w", path, err)
	}
	vocab, err := data.NewVocab(j)
	if err != nil {
		return nil, nil, err
	}
	if vocab.Size() != c.VocabSize {
		return nil, nil, fmt.Errorf("train: %s: the model has a vocabulary of %d, its tokenizer %d", path, c.VocabSize, vocab.Size())
	}
	m, err := New(c, pool, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range m.Params {
		if len(p.Shape) == 1 {
			v, err := set.Vector(p.Name, p.Shape[0])
			if err != nil {
				return nil, nil, err
			}
			copy(p.W, v)
			continue
		}
		d, err := set.Dense(p.Name, p.Shape[0], p.Shape[1])
		if err != nil {
			return nil, nil, fmt.Errorf("%w; to train on, give the float masters (such as trit train export --format hf-bf16)", err)
		}
		for r := range p.Shape[0] {
			d.Row(p.W[r*p.Shape[1]:(r+1)*p.Shape[1]], r)
		}
	}
	m.Quantize()
	return m, vocab, nil
}

// configOf is the training configuration of a model that is one of our architectures.
func configOf(m *model.Config, precision string) (Config, error) {
	c := Config{
		Precision: precision, VocabSize: m.VocabSize, HiddenSize: m.HiddenSize, IntermediateSize: m.IntermediateSize, NumLayers: m.NumLayers,
		NumHeads: m.NumHeads, NumKVHeads: m.NumKVHeads, Block: min(m.MaxContext, 2048), RopeTheta: m.RopeTheta,
	}
	c.NormEps, _ = strconv.ParseFloat(strconv.FormatFloat(float64(m.NormEps), 'g', -1, 32), 64) // 1e-5 again, not its float32
	switch {
	case m.LayerNorm && m.LearnedPositions && m.Ungated && m.Activation == model.GELU:
		c.Arch, c.RopeTheta, c.Block = "transformer", 10000, m.MaxContext
	case m.SubNorms && m.Activation == model.ReLU2 && m.TiedHead:
		c.Arch = "bitnet"
	case m.Family == "llama" && m.Activation == model.SiLU && !m.SubNorms && !m.QKNorms && m.InputNorm == "" && !m.TiedHead && m.Rope.Type == "":
		c.Arch = "llama"
	default:
		return c, fmt.Errorf("a model of family %q in this form cannot be trained here; llama (untied head), bitnet and trit-transformer can", m.Family)
	}
	if m.HeadDim*m.NumHeads != m.HiddenSize {
		return c, fmt.Errorf("%d heads of %d values are not the hidden size %d", m.NumHeads, m.HeadDim, m.HiddenSize)
	}
	if c.Precision == "" {
		c.Precision = "float"
		if m.Ternary && len(m.FloatLinear) < 3 {
			c.Precision = "ternary"
		}
	}
	return c, c.Check()
}
