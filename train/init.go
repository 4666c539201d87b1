package train

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/train/nn"
	"github.com/tritlm/trit/weights"
)

// base is a published model to train on from.
type base struct {
	path   string
	set    *weights.Set
	config Config
	vocab  *data.Vocab
}

func (b *base) Close() error { return b.set.Close() }

// openBase opens a Hugging Face folder or GGUF file. precision "" is the model's own; block, when not 0, is a shorter
// context to train with.
func openBase(path, precision string, block int) (_ *base, err error) {
	b := &base{path: path}
	if b.set, err = weights.Open(path, nil); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	cfg, err := family.Read(b.set)
	if err != nil {
		return nil, err
	}
	if b.config, err = configOf(cfg, precision); err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	c := &b.config
	if block > 0 {
		if block > cfg.MaxContext {
			return nil, fmt.Errorf("train: --block %d: %s has a context of %d", block, path, cfg.MaxContext)
		}
		if c.Arch != "transformer" { // it has a row for each position
			c.Block = block
		}
	}
	if b.vocab, err = b.tokenizer(); err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	if b.vocab.Size() > c.VocabSize {
		return nil, fmt.Errorf("train: %s: the model has a vocabulary of %d, its tokenizer %d", path, c.VocabSize, b.vocab.Size())
	}
	for _, name := range b.set.Names() { // what would be left out
		hf, ok := b.set.HFName(name)
		if ok && strings.HasSuffix(hf, "_proj.bias") && c.Arch != "transformer" {
			return nil, fmt.Errorf("train: %s: %s: a %s with biases cannot be trained here", path, name, c.Arch)
		}
		if precision == "" && ok && strings.HasSuffix(hf, "_proj.weight") && cfg.IsTernary(strings.TrimSuffix(hf, ".weight")) != (c.Precision == "ternary") {
			return nil, fmt.Errorf("train: %s: %s: a model that is ternary in parts cannot be trained here", path, name)
		}
	}
	return b, nil
}

// tokenizer is the tokenizer that came with the model.
func (b *base) tokenizer() (*data.Vocab, error) {
	var t *tokenizer.Tokenizer
	var err error
	if g := b.set.GGUF(); g != nil {
		t, err = tokenizer.FromGGUF(g.KV)
	} else {
		t, err = tokenizer.LoadFS(b.set.Folder())
	}
	if err != nil {
		return nil, err
	}
	j, err := t.JSON()
	if err != nil {
		return nil, err
	}
	return data.NewVocab(j)
}

// floats reads a parameter as the file has it.
func (b *base) floats(p *nn.Param) error {
	if len(p.Shape) == 1 {
		v, err := b.set.Vector(p.Name, p.Shape[0])
		copy(p.W, v)
		return err
	}
	d, err := b.set.Dense(p.Name, p.Shape[0], p.Shape[1])
	if err != nil {
		return err
	}
	for r := range p.Shape[0] {
		d.Row(p.W[r*p.Shape[1]:(r+1)*p.Shape[1]], r)
	}
	return nil
}

// unpack makes masters of packed codes. With ternary set they are ±s/q, where q is the share of codes other than zero: then
// mean|W| is s, and quantising gives these codes and this scale again, so that the model goes on from what it was.
func (b *base) unpack(p *nn.Param, ternary bool) error {
	mat, err := b.set.Ternary(p.Name, p.Shape[0], p.Shape[1])
	if err != nil {
		return err
	}
	if ternary && len(mat.Scale) != 1 {
		return fmt.Errorf("%s: %s has a scale for each row; only matrices with one scale can be trained", b.path, p.Name)
	}
	codes := mat.Codes(nil)
	nonzero := 0
	for _, c := range codes {
		nonzero += int(c & 1)
	}
	q := 1.0
	if ternary && nonzero > 0 {
		q = float64(nonzero) / float64(len(codes))
	}
	for i, c := range codes {
		p.W[i] = float32(float64(c) * float64(mat.RowScale(i/mat.Cols)) / q)
	}
	return nil
}

// Init builds a model to train on from a published one: a Hugging Face folder or GGUF file. Float masters are taken as they
// are. Packed codes get masters that quantise to the same codes and scale; where each weight stood between two codes is
// not known, so the first steps change few of them. block, when not 0, is a shorter context to train with.
func Init(path string, precision string, block int, pool *par.Pool) (*Model, *data.Vocab, error) {
	b, err := openBase(path, precision, block)
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	m, err := initFrom(b, pool)
	return m, b.vocab, err
}

func initFrom(b *base, pool *par.Pool) (*Model, error) {
	m, err := New(b.config, pool, 0)
	if err != nil {
		return nil, err
	}
	projection := map[*nn.Param]bool{}
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			projection[l.W] = true
		}
	}
	for _, p := range m.Params {
		if projection[p] && b.set.IsTernary(p.Name) {
			err = b.unpack(p, p.Ternary)
		} else {
			err = b.floats(p)
		}
		if err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
	}
	if err := b.set.Check(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	m.Quantize()
	return m, nil
}

// configOf is the training configuration of a model that is one of our architectures.
func configOf(m *model.Config, precision string) (Config, error) {
	s := family.ShapeOf(m)
	c := Config{
		Precision: precision, VocabSize: m.VocabSize, HiddenSize: m.HiddenSize, IntermediateSize: s.IntermediateSize, NumLayers: s.NumLayers,
		NumHeads: s.NumHeads, NumKVHeads: s.NumKVHeads, Block: min(m.MaxContext, 2048), RopeTheta: s.RopeTheta,
	}
	c.NormEps, _ = strconv.ParseFloat(strconv.FormatFloat(float64(s.NormEps), 'g', -1, 32), 64) // 1e-5 again, not its float32
	ownNorm, _ := family.OwnNorm(m)
	plain := ownNorm == "" && s.Rope.Type == "" && s.Rope.Divisors == nil
	switch {
	case m.Family == "trit-transformer":
		c.Arch, c.RopeTheta, c.Block = "transformer", 10000, m.MaxContext
	case m.Family == "bitnet" && s.Activation == part.ReLU2 && plain && s.TiedHead:
		c.Arch = "bitnet"
	case m.Family == "llama" && s.Activation == part.SiLU && plain && !s.TiedHead:
		c.Arch = "llama"
	default:
		return c, fmt.Errorf("a model of family %q in this form cannot be trained here; llama (untied head), bitnet and trit-transformer can", m.Family)
	}
	if s.HeadDim*s.NumHeads != m.HiddenSize {
		return c, fmt.Errorf("%d heads of %d values are not the hidden size %d", s.NumHeads, s.HeadDim, m.HiddenSize)
	}
	if c.Precision == "" {
		c.Precision = "float"
		if m.Ternary() {
			c.Precision = "ternary"
		}
	}
	return c, c.Check()
}
