// Package trit runs 1.58-bit language models: open a model as published, write text with it.
//
//	m, err := trit.Open("bitnet-2b4t.gguf", nil)
//	if err != nil {
//		return err
//	}
//	defer m.Close()
//	for p, err := range m.NewSession().Generate(ctx, "The capital of France is", trit.GenerateOptions{MaxTokens: 64}) {
//		if err != nil {
//			return err
//		}
//		io.WriteString(w, p.Text)
//	}
package trit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/weights"
)

// Options for Open; nil and the zero value are the defaults.
type Options struct {
	// Backend is the device; nil is this machine's CPU.
	Backend model.Backend
	// Threads of the CPU backend, 0 for as many as the process may use.
	Threads int
	// Adapter is a folder with low-rank adapters for this model, as trit train --lora and Hugging Face's peft write
	// them; "" for none. The CPU backend alone can add them.
	Adapter string
	// KV is how keys and values are kept: model.KVFloat32, exact, unless said otherwise. The others take a half or a
	// quarter of the memory and of the reading, and round.
	KV model.KVType
	// Activations is how the inputs of projections of weights alone are rounded: to 16 bits, unless part.Activations8 says to 8,
	// which is faster for prompts and another text. Models with activations of 8 bits of their own (W1.58A8) ignore it.
	Activations part.Activations
	// MaxContext bounds the tokens of a session, 0 for what the model was made for.
	MaxContext int
	// Kernels of the CPU backend by name, such as "generic" or "avx2"; "" for the best. See cpu.Backend.
	Kernels string
	// CacheDir is where the CPU backend keeps a copy of the weights in its own layout, so that the next start is
	// fast; "" keeps none.
	CacheDir string
	// Note, when set, hears of what went wrong without stopping anything.
	Note func(error)
	// Progress, when set, hears of loading: so many of total matrices are done.
	Progress func(done, total int)
	// Quantize runs the projections of a checkpoint of plain masters as BitLinear although its configuration does
	// not say so, as the "prequantized" revisions of Falcon-E need.
	Quantize bool
	// Pooling is how an embedding model makes one vector of a text's states: last or mean, "" for what it was trained
	// for.
	Pooling model.Pooling
	// Tokenizer is a folder with the model's tokenizer files, "" for the tokenizer that came with the weights.
	Tokenizer string
	// I2SLayout is how i2_s tensors lie in a GGUF file: "" guesses, "x86", "arm" and "x4" say.
	I2SLayout string
}

// Model is an opened model. Its methods may be used from several goroutines; a Session or Chat by one at a time.
type Model struct {
	path       string
	cfg        *model.Config
	weights    *weights.Set
	engine     model.Engine
	tokenizer  *tokenizer.Tokenizer
	maxContext int
	loadTime   time.Duration
}

// ErrContextFull: the prompt, or what was to be written, does not fit the context.
var ErrContextFull = model.ErrContextFull

// Open loads the model at path: a Hugging Face folder or a .gguf file.
func Open(path string, o *Options) (*Model, error) {
	return OpenContext(context.Background(), path, o)
}

// OpenContext is Open, ended early by ctx.
func OpenContext(ctx context.Context, path string, o *Options) (*Model, error) {
	if o == nil {
		o = &Options{}
	}
	set, err := weights.Open(path, &weights.Options{I2SLayout: o.I2SLayout})
	if err != nil {
		return nil, err
	}
	return load(ctx, set, o)
}

// OpenFS loads the Hugging Face folder at the root of fsys, such as an embedded one; name is for errors.
func OpenFS(ctx context.Context, fsys fs.FS, name string, o *Options) (*Model, error) {
	if o == nil {
		o = &Options{}
	}
	set, err := weights.OpenFS(fsys, name)
	if err != nil {
		return nil, err
	}
	return load(ctx, set, o)
}

// load makes a model of the set, which it closes when it fails.
func load(ctx context.Context, set *weights.Set, o *Options) (*Model, error) {
	start := time.Now()
	m := &Model{path: set.Path(), weights: set}
	if err := m.load(ctx, o); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.loadTime = time.Since(start)
	return m, nil
}

func (m *Model) load(ctx context.Context, o *Options) (err error) {
	set := m.weights
	if m.cfg, err = family.Read(set); err != nil {
		return err
	}
	if o.Quantize {
		m.cfg.QuantizeMasters()
	}
	m.cfg.KV, m.cfg.Activations = o.KV, o.Activations
	if err := m.pool(o.Pooling); err != nil {
		return err
	}
	if m.tokenizer, err = LoadTokenizer(set, o.Tokenizer); err != nil {
		return err
	}
	if n := m.tokenizer.VocabSize(); n > m.cfg.VocabSize {
		return fmt.Errorf("trit: %s: the tokenizer has %d tokens and the model %d: they do not belong together", set.Path(), n, m.cfg.VocabSize)
	}
	m.maxContext = m.cfg.MaxContext
	if o.MaxContext > 0 {
		m.maxContext = min(o.MaxContext, m.cfg.MaxContext)
	}
	m.engine, err = LoadEngine(ctx, m.cfg, set, o)
	return err
}

// LoadEngine makes the weights ready to compute with, by the options that say how. It is what Open does beyond the
// configuration and the tokenizer, for those who have ids and want logits.
func LoadEngine(ctx context.Context, cfg *model.Config, set *weights.Set, o *Options) (model.Engine, error) {
	if o.Adapter != "" && o.Backend != nil {
		return nil, fmt.Errorf("trit: adapter %s: this device cannot add adapters, the CPU can: %w", o.Adapter, errors.ErrUnsupported)
	}
	if o.Backend != nil {
		return o.Backend.Load(ctx, cfg, set)
	}
	b := cpu.Backend{Threads: o.Threads, Kernels: o.Kernels, CacheDir: o.CacheDir, Note: o.Note, Progress: o.Progress}
	if o.Adapter != "" {
		var err error
		if b.Adapter, err = part.OpenAdapter(o.Adapter); err != nil {
			return nil, err
		}
	}
	return b.Load(ctx, cfg, set)
}

// pool settles the pooling of an embedding model.
func (m *Model) pool(p model.Pooling) error {
	if err := p.Check(); err != nil || p == "" {
		return err
	}
	if m.cfg.Pooling == "" {
		return fmt.Errorf("trit: %s: pooling %s is for embedding models, and this one writes text", m.path, p)
	}
	m.cfg.Pooling, m.cfg.MeanInFile = p, false
	return nil
}

// LoadTokenizer reads the tokenizer that came with the weights, or the one at path where that is not "".
func LoadTokenizer(set *weights.Set, path string) (t *tokenizer.Tokenizer, err error) {
	switch {
	case path != "":
		return tokenizer.Load(path)
	case set.GGUF() != nil:
		t, err = tokenizer.FromGGUF(set.GGUF().KV)
	default:
		t, err = tokenizer.LoadFS(set.Folder())
	}
	if err != nil {
		return nil, fmt.Errorf("trit: %s: %w", set.Path(), err)
	}
	return t, nil
}

// Close gives everything back. Sessions of the model must not be used afterwards.
func (m *Model) Close() error {
	var errs []error
	if m.engine != nil {
		errs = append(errs, m.engine.Close())
	}
	return errors.Join(append(errs, m.weights.Close())...)
}

// Path is what was opened.
func (m *Model) Path() string { return m.path }

// Notes are what was guessed about the files and may be wrong, a line each; for people to read.
func (m *Model) Notes() []string {
	notes := slices.Concat(m.weights.Notes(), m.cfg.Notes)
	if m.cfg.MeanInFile {
		notes = append(notes, "the file asks for the mean of all states, as the converter of BitNet-embedding writes when it is not told; its authors train with the last one, which is taken (pooling mean gives bitnet.cpp's vectors)")
	}
	return notes
}

// Config is the model's shape.
func (m *Model) Config() *model.Config { return m.cfg }

// Weights are the tensors of the opened files.
func (m *Model) Weights() *weights.Set { return m.weights }

// Engine computes logits; for those who want more than text.
func (m *Model) Engine() model.Engine { return m.engine }

// Tokenizer turns text into tokens and back.
func (m *Model) Tokenizer() *tokenizer.Tokenizer { return m.tokenizer }

// MaxContext is how many tokens a session holds.
func (m *Model) MaxContext() int { return m.maxContext }

// LoadTime is how long opening took.
func (m *Model) LoadTime() time.Duration { return m.loadTime }
