package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/tempfile"
	"github.com/tritlm/trit/safetensors"
)

// A checkpoint is a safetensors file: every parameter in float32 under its name, AdamW's moments under
// adam.m. and adam.v., and in the metadata under "trit" the rest as JSON. It is written beside its
// place, synced and renamed, so that the file of that name is always whole.

// ErrCheckpoint is returned, wrapped, for a file that is not a checkpoint or is damaged.
var ErrCheckpoint = errors.New("not a whole checkpoint")

type checkpointMeta struct {
	Format    int             `json:"format"` // 1
	Config    Config          `json:"config"`
	Options   Options         `json:"options"`
	Lora      *Lora           `json:"lora,omitempty"` // the tensors are those of adapters
	Steps     int             `json:"steps"`
	Best      *float64        `json:"best,omitempty"`
	CRC       uint32          `json:"crc32c"` // of all tensor bytes in file order
	Tokenizer json.RawMessage `json:"tokenizer"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func floatBytes(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

func int8Bytes(x []int8) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// Save writes a checkpoint. tokenizerJSON goes along, so that a run needs no other file to continue.
func (t *Trainer) Save(path string, tokenizerJSON []byte) error {
	meta := checkpointMeta{Format: 1, Config: t.Model.Config, Options: t.Options, Lora: t.Model.lora, Steps: t.Steps, Tokenizer: tokenizerJSON}
	if len(tokenizerJSON) == 0 {
		meta.Tokenizer = json.RawMessage("null")
	}
	if !math.IsInf(t.Best, 0) {
		meta.Best = &t.Best
	}
	var tensors []safetensors.Tensor
	buf := map[string][]float32{}
	for i, all := range [][]float32{t.Model.w, t.m, t.v} {
		at := 0
		for _, p := range t.Model.Params {
			name := [...]string{"", "adam.m.", "adam.v."}[i] + p.Name
			tensors = append(tensors, safetensors.Tensor{Name: name, DType: safetensors.F32, Shape: p.Shape})
			buf[name] = all[at : at+len(p.W)]
			at += len(p.W)
		}
		meta.CRC = crc32.Update(meta.CRC, castagnoli, floatBytes(all))
	}
	j, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	return WriteFile(path, func(w io.Writer) error {
		return safetensors.Write(w, tensors, map[string]string{"trit": string(j)}, func(w io.Writer, s safetensors.Tensor) error {
			_, err := w.Write(floatBytes(buf[s.Name]))
			return err
		})
	})
}

// WriteFile writes a file so that path is either what it was or whole: a temporary file beside it, synced,
// renamed, and the folder synced. On an error the temporary file is removed; what a killed process left of path, too.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	f, err := tempfile.Create(path, tempfile.Shared)
	if err != nil {
		return fmt.Errorf("train: save %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("train: save %s: %w; what was there before is untouched", path, err)
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d, derr := os.Open(filepath.Dir(path)); derr == nil {
		_ = d.Sync() // not every system can
		d.Close()
	}
	return nil
}

// Checkpoint is a checkpoint's description, read without its tensors.
type Checkpoint struct {
	Path      string
	Config    Config
	Options   Options
	Lora      *Lora // when it holds adapters; Base may be changed to where the model below them is now
	Steps     int
	Best      float64
	Tokenizer []byte // tokenizer.json

	crc  uint32
	file *safetensors.File
}

// OpenCheckpoint reads a checkpoint's description.
func OpenCheckpoint(path string) (*Checkpoint, error) {
	fail := func(err error) (*Checkpoint, error) {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("train: %w", err)
		}
		return nil, fmt.Errorf("train: %s: %w: %w", path, err, ErrCheckpoint)
	}
	f, err := infile.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	file, err := safetensors.Read(f, st.Size(), path)
	if err != nil {
		return fail(err)
	}
	text, ok := file.Metadata["trit"]
	if !ok {
		return fail(errors.New("a safetensors file, but not one that trit train wrote"))
	}
	var meta checkpointMeta
	if err := json.Unmarshal([]byte(text), &meta); err != nil {
		return fail(err)
	}
	if meta.Format != 1 {
		return fail(fmt.Errorf("format %d; this program reads 1", meta.Format))
	}
	if err := meta.Config.Check(); err != nil {
		return fail(err)
	}
	if err := meta.Options.Check(); err != nil {
		return fail(err)
	}
	if meta.Steps < 0 || meta.Steps > maxSteps {
		return fail(fmt.Errorf("%d steps", meta.Steps))
	}
	if l := meta.Lora; l != nil {
		if err := l.check(l.Targets); err != nil { // which of them the model has is checked when that is open
			return fail(err)
		}
	}
	c := &Checkpoint{Path: path, Config: meta.Config, Options: meta.Options, Lora: meta.Lora, Steps: meta.Steps, Best: math.Inf(1), Tokenizer: meta.Tokenizer, crc: meta.CRC, file: file}
	if meta.Best != nil {
		c.Best = *meta.Best
	}
	return c, nil
}

// model is the checkpoint's model without its values: a new one, or the base of adapters.
func (c *Checkpoint) model(pool *par.Pool) (*Model, error) {
	if c.Lora == nil {
		return New(c.Config, pool, 0)
	}
	m, _, err := InitLora(c.Lora.Base, *c.Lora, c.Config.Block, 0, pool)
	if err != nil {
		return nil, fmt.Errorf("%w; the adapters of %s need this model: say with --init where it is now", err, c.Path)
	}
	if m.Config != c.Config || m.lora.Sum != c.Lora.Sum {
		return nil, fmt.Errorf("train: %s is not the model below the adapters of %s (weights %s, want %s): say with --init where that one is", c.Lora.Base, c.Path, m.lora.Sum, c.Lora.Sum)
	}
	return m, nil
}

// Load builds the trainer that was saved.
func (c *Checkpoint) Load(pool *par.Pool) (*Trainer, error) {
	fail := func(err error) (*Trainer, error) {
		return nil, fmt.Errorf("train: %s: %w: %w", c.Path, err, ErrCheckpoint)
	}
	// A model is built only when the file is as large as its tensors.
	var have int64
	for _, s := range c.file.Tensors {
		have += s.Size
	}
	want := c.Config.numParams()
	if c.Lora != nil {
		want = c.Lora.params(&c.Config)
	}
	if want *= 12; have != want {
		return fail(fmt.Errorf("%d bytes of tensors where the configuration has %d", have, want))
	}
	m, err := c.model(pool)
	if err != nil {
		return nil, err
	}
	t, err := NewTrainer(m, c.Options)
	if err != nil {
		return nil, err
	}
	f, err := infile.Open(c.Path)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	crc := uint32(0)
	for i, all := range [][]float32{m.w, t.m, t.v} {
		at := 0
		for _, p := range m.Params {
			name := [...]string{"", "adam.m.", "adam.v."}[i] + p.Name
			s := c.file.Tensor(name)
			if s == nil {
				return fail(fmt.Errorf("tensor %q is missing", name))
			}
			if s.DType != safetensors.F32 || !slices.Equal(s.Shape, p.Shape) {
				return fail(fmt.Errorf("tensor %q is %s %v, want F32 %v", name, s.DType, s.Shape, p.Shape))
			}
			if _, err := f.ReadAt(floatBytes(all[at:at+len(p.W)]), s.Offset); err != nil {
				return fail(fmt.Errorf("tensor %q at byte %d: %w", name, s.Offset, err))
			}
			at += len(p.W)
		}
		crc = crc32.Update(crc, castagnoli, floatBytes(all))
	}
	if crc != c.crc {
		return fail(fmt.Errorf("checksum %08x, want %08x: the file is damaged", crc, c.crc))
	}
	m.Quantize()
	t.Steps, t.Best = c.Steps, c.Best
	return t, nil
}
