package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/tempfile"
)

// A run is a folder:
//
//	last.ckpt, best.ckpt        the newest checkpoint and the one with the lowest validation loss
//	train.bin, val.bin          the tokens
//	metrics.jsonl               one Record a line
//	events.out.tfevents.*       the same for TensorBoard
//	config.json, model.safetensors, tokenizer.json   the best model, packed, as trit run and transformers read it; until a first validation the newest
//	adapter_config.json, adapter_model.safetensors   instead of these: the best adapters, as trit run --adapter and peft read them
const (
	lastName    = "last.ckpt"
	bestName    = "best.ckpt"
	metricsName = "metrics.jsonl"
)

// Run is training with everything around it, kept in a folder.
type Run struct {
	Dir        string
	Trainer    *Trainer
	Vocab      *data.Vocab
	Train, Val *data.Tokens

	metrics *os.File
	events  *eventFile
	codes   [][]int8 // of the last evaluation's step, to count flips
}

// Record is a line of metrics.jsonl. The fields of an evaluation are empty in most lines.
type Record struct {
	Step       int      `json:"step"`
	Loss       float64  `json:"loss"`
	LR         float64  `json:"lr"`
	GradNorm   float64  `json:"grad_norm"`
	TokensPerS float64  `json:"tokens_per_s"`
	Seconds    float64  `json:"seconds"` // of this step
	Val        *float64 `json:"val_loss,omitempty"`
	Best       bool     `json:"best,omitempty"`
	Sample     string   `json:"sample,omitempty"`
	Codes      []Share  `json:"codes,omitempty"`
	PeakMiB    float64  `json:"peak_mib,omitempty"`
	First      *Header  `json:"run,omitempty"` // first line of a run
}

// Header describes a run in its first record.
type Header struct {
	Config      Config  `json:"config"`
	Options     Options `json:"options"`
	Params      int     `json:"params"`
	Frozen      int     `json:"frozen_params,omitempty"`
	Lora        *Lora   `json:"lora,omitempty"`
	Ternary     int     `json:"ternary_params"`
	TrainTokens int     `json:"train_tokens"`
	ValTokens   int     `json:"val_tokens"`
	Threads     int     `json:"threads"`
}

// Share says what a ternary matrix consists of, and how many of its codes the last step changed.
type Share struct {
	Name    string  `json:"name"`
	Neg     float64 `json:"neg"`
	Zero    float64 `json:"zero"`
	Pos     float64 `json:"pos"`
	Flipped float64 `json:"flipped"` // share of codes changed by one step
}

// Start makes the folder of a new run of a new model. valShare of the tokens, from the end, are for validation. A
// folder that holds a run already is an error: continue it with Resume, or choose another.
func Start(dir string, c Config, o Options, vocab *data.Vocab, ids []int32, valShare float64, pool *par.Pool) (*Run, error) {
	c.VocabSize = vocab.Size()
	if err := startable(dir, c, o, ids, valShare); err != nil {
		return nil, err
	}
	m, err := New(c, pool, o.Seed)
	if err != nil {
		return nil, err
	}
	return StartFrom(dir, m, o, vocab, ids, valShare)
}

// CheckValShare reports what is wrong with a share of the tokens to validate with.
func CheckValShare(share float64) error {
	if !(share >= 0 && share < 1) {
		return fmt.Errorf("train: --val-share %g: must be at least 0 and less than 1", share)
	}
	return nil
}

// startable reports what keeps a run from starting, before anything large is allocated.
func startable(dir string, c Config, o Options, ids []int32, valShare float64) error {
	if err := CheckValShare(valShare); err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	if err := o.Check(); err != nil {
		return err
	}
	if len(ids) == 0 {
		return fmt.Errorf("train: %w", data.ErrEmpty)
	}
	train, val := data.Split(ids, valShare)
	for _, part := range [][]int32{train, val} {
		if n := len(part); n <= c.Block && n > 0 {
			return fmt.Errorf("train: %d tokens for training and %d for validation, a block of %d needs %d: %w; use a smaller --block, more text, or another --val-share",
				len(train), len(val), c.Block, c.Block+1, data.ErrShort)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, lastName)); err == nil {
		return fmt.Errorf("train: %s holds a run already; continue it with --resume, or choose another --save-dir", dir)
	}
	return nil
}

// StartFrom is Start with a model that is there, such as Init's.
func StartFrom(dir string, m *Model, o Options, vocab *data.Vocab, ids []int32, valShare float64) (*Run, error) {
	c := m.Config
	if vocab.Size() > c.VocabSize {
		return nil, fmt.Errorf("train: the model has a vocabulary of %d, the tokenizer %d", c.VocabSize, vocab.Size())
	}
	if err := startable(dir, c, o, ids, valShare); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	train, val := data.Split(ids, valShare)
	t, err := NewTrainer(m, o)
	if err != nil {
		return nil, err
	}
	for name, part := range map[string][]int32{"train.bin": train, "val.bin": val} {
		err := WriteFile(filepath.Join(dir, name), func(w io.Writer) error { return data.WriteTokens(w, part, c.VocabSize) })
		if err != nil {
			return nil, err
		}
	}
	os.Remove(filepath.Join(dir, metricsName))
	r := &Run{Dir: dir, Trainer: t, Vocab: vocab}
	if err := r.open(); err != nil {
		return nil, err
	}
	if err := t.Save(filepath.Join(dir, lastName), vocab.JSON); err != nil {
		r.Close()
		return nil, err
	}
	err = r.write(Record{First: &Header{
		Config: c, Options: o, Params: m.NumParams(), Frozen: m.NumFrozen(), Lora: m.lora, Ternary: m.NumTernary(),
		TrainTokens: r.Train.Len(), ValTokens: r.Val.Len(), Threads: m.env.Pool.Threads(),
	}})
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Resume opens the run in dir at its last checkpoint. change may alter the options, and the place of the model below
// adapters, before training goes on.
func Resume(dir string, pool *par.Pool, change func(*Checkpoint)) (*Run, error) {
	c, err := OpenCheckpoint(filepath.Join(dir, lastName))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("train: %s holds no run to resume: %w", dir, err)
		}
		if _, e := os.Stat(filepath.Join(dir, bestName)); e == nil {
			err = fmt.Errorf("%w; %s may still be good: copy it over %s", err, bestName, lastName)
		}
		return nil, err
	}
	if change != nil {
		change(c)
		if err := c.Options.Check(); err != nil {
			return nil, err
		}
	}
	vocab, err := data.NewVocab(c.Tokenizer)
	if err != nil {
		return nil, fmt.Errorf("train: %s: tokenizer: %w", c.Path, err)
	}
	t, err := c.Load(pool)
	if err != nil {
		return nil, err
	}
	if err := cutMetrics(filepath.Join(dir, metricsName), t.Steps); err != nil {
		return nil, err
	}
	r := &Run{Dir: dir, Trainer: t, Vocab: vocab}
	if err := r.open(); err != nil {
		return nil, err
	}
	if v := r.Train.Vocab(); v != c.Config.VocabSize || vocab.Size() > v {
		r.Close()
		return nil, fmt.Errorf("train: %s: the checkpoint has a vocabulary of %d, its tokenizer %d, train.bin %d: these files are not of one run",
			dir, c.Config.VocabSize, vocab.Size(), v)
	}
	return r, nil
}

func (r *Run) open() (err error) {
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	tempfile.Sweep(r.Dir)
	if r.Train, err = data.OpenTokens(filepath.Join(r.Dir, "train.bin")); err != nil {
		return err
	}
	if r.Val, err = data.OpenTokens(filepath.Join(r.Dir, "val.bin")); err != nil {
		return err
	}
	if r.metrics, err = os.OpenFile(filepath.Join(r.Dir, metricsName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	r.events, err = newEventFile(r.Dir, time.Now())
	return err
}

// Close closes the run's files. The model stays usable.
func (r *Run) Close() error {
	var errs []error
	if r.Train != nil {
		errs = append(errs, r.Train.Close())
	}
	if r.Val != nil {
		errs = append(errs, r.Val.Close())
	}
	if r.metrics != nil {
		errs = append(errs, r.metrics.Close())
	}
	if r.events != nil {
		errs = append(errs, r.events.Close())
	}
	r.Train, r.Val, r.metrics, r.events = nil, nil, nil, nil
	return errors.Join(errs...)
}

func (r *Run) write(rec Record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if _, err := r.metrics.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// maxMetrics bounds the file of a run's records: 300 bytes a step.
const maxMetrics = 4 << 30

// cutMetrics drops records past step n, which a killed run wrote after its last checkpoint, and a torn last line.
func cutMetrics(path string, n int) error {
	b, err := infile.Read(path, maxMetrics)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	var keep bytes.Buffer
	for _, line := range bytes.SplitAfter(b, []byte("\n")) {
		var rec Record
		if len(line) == 0 || json.Unmarshal(line, &rec) != nil || rec.Step > n {
			continue
		}
		keep.Write(bytes.TrimSuffix(line, []byte("\n")))
		keep.WriteByte('\n')
	}
	return WriteFile(path, func(w io.Writer) error { _, err := w.Write(keep.Bytes()); return err })
}

// ReadMetrics reads a run's records, of one that is still running too: a last line without an end is left out.
func ReadMetrics(dir string) ([]Record, error) {
	path := filepath.Join(dir, metricsName)
	b, err := infile.Read(path, maxMetrics)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	var recs []Record
	for n := 1; ; n++ {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		if !ended {
			return recs, nil
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return nil, fmt.Errorf("train: %s: line %d: %w", path, n, err)
		}
		recs = append(recs, rec)
		b = rest
	}
}

// Do trains to the end and tells about every step. When ctx ends it saves last.ckpt and returns ctx's error.
func (r *Run) Do(ctx context.Context, tell func(Record)) error {
	t, o := r.Trainer, &r.Trainer.Options
	due := func(every int) bool { return every > 0 && t.Steps%every == 0 }
	saved := t.Steps
	save := func() error {
		saved = t.Steps
		if err := t.Save(filepath.Join(r.Dir, lastName), r.Vocab.JSON); err != nil || !math.IsInf(t.Best, 1) {
			return err
		}
		return r.export() // nothing says yet which model is the best: the newest
	}
	r.snapshot()
	for s, err := range t.Run(ctx, t.Batches(r.Train)) {
		if err != nil {
			if (ctx.Err() != nil || errors.Is(err, context.Canceled)) && saved != t.Steps {
				err = errors.Join(err, save())
			}
			return err
		}
		end := t.Steps == o.MaxIters
		rec := Record{Step: s.N, Loss: s.Loss, LR: s.LR, GradNorm: s.GradNorm, Seconds: s.Time.Seconds(), TokensPerS: float64(s.Tokens) / s.Time.Seconds()}
		if due(o.EvalEvery) || end {
			rec.Codes = r.shares()
			if err := r.evaluate(ctx, &rec); err != nil {
				if ctx.Err() != nil { // stopped while validating: the step itself is done
					err = errors.Join(err, r.write(rec), save())
				}
				return err
			}
			rec.PeakMiB = PeakMiB()
		}
		if o.EvalEvery > 0 && (t.Steps+1)%o.EvalEvery == 0 || t.Steps+1 == o.MaxIters {
			r.snapshot()
		}
		if err := r.write(rec); err != nil {
			return err
		}
		if err := r.events.record(rec); err != nil {
			return err
		}
		if due(o.SaveEvery) || end || rec.Best {
			if err := save(); err != nil {
				return err
			}
		}
		tell(rec)
	}
	if t.Steps < o.MaxIters {
		return ctx.Err()
	}
	return nil
}

// evaluate validates, keeps the best checkpoint and draws a sample.
func (r *Run) evaluate(ctx context.Context, rec *Record) error {
	t, o := r.Trainer, &r.Trainer.Options
	if r.Val.Len() > t.Model.Config.Block && o.EvalBatches > 0 {
		v, err := t.Validate(ctx, r.Val.Spread(o.EvalBatches, o.BatchSize, t.Model.Config.Block))
		if err != nil {
			return err
		}
		rec.Val = &v
		if v < t.Best {
			t.Best, rec.Best = v, true
			if err := t.Save(filepath.Join(r.Dir, bestName), r.Vocab.JSON); err != nil {
				return err
			}
			if err := r.export(); err != nil {
				return err
			}
		}
	}
	if o.SampleTokens > 0 {
		rec.Sample = r.Sample(o.SampleTokens, 0.8, uint64(t.Steps))
	}
	return nil
}

// export writes the model, or its adapters, into the run's folder as trit run reads it.
func (r *Run) export() error {
	m := r.Trainer.Model
	if m.lora != nil {
		return m.ExportAdapter(r.Dir)
	}
	return m.Export(r.Dir, r.Vocab, ExportOptions{Format: "hf-packed"})
}

// Sample writes n tokens after a line's end, at a temperature.
func (r *Run) Sample(n int, temperature float64, seed uint64) string {
	ids := r.Vocab.EncodeAll("\n")
	if len(ids) == 0 {
		ids = []int32{0}
	}
	return r.Vocab.Decode(r.Trainer.Model.Generate(ids, n, temperature, seed)[len(ids):])
}

// Generate continues ids by n tokens, forgetting the oldest beyond a block.
func (m *Model) Generate(ids []int32, n int, temperature float64, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, 77))
	logits := make([]float32, m.Config.VocabSize)
	var s *State
	for range n {
		from := max(0, len(ids)-m.Config.Block)
		window := ids[from:]
		S := min((len(window)+31)/32*32, m.Config.Block) // padded: later tokens do not change earlier ones
		if s == nil || s.S != S {
			s = m.NewState(1, S)
		}
		padded := make([]int32, S)
		copy(padded, window)
		m.Logits(s, padded, len(window)-1, logits)
		ids = append(ids, pick(logits, temperature, rng))
	}
	return ids
}

func pick(logits []float32, temperature float64, rng *rand.Rand) int32 {
	best := 0
	for i, l := range logits {
		if l > logits[best] {
			best = i
		}
	}
	if temperature <= 0 {
		return int32(best)
	}
	p := make([]float64, len(logits))
	sum := 0.0
	for i, l := range logits {
		p[i] = math.Exp(float64(l-logits[best]) / temperature)
		sum += p[i]
	}
	u := rng.Float64() * sum
	for i := range p {
		if u -= p[i]; u < 0 {
			return int32(i)
		}
	}
	return int32(best)
}

// snapshot keeps the codes, so that the next step's flips can be counted.
func (r *Run) snapshot() {
	r.codes = r.codes[:0]
	if r.Trainer.Model.lora != nil {
		return // they stay
	}
	for i := range r.Trainer.Model.layers {
		for _, l := range r.Trainer.Model.layers[i].linears() {
			c, _ := l.Codes()
			r.codes = append(r.codes, append([]int8(nil), c...))
		}
	}
}

// shares counts the codes of every ternary matrix.
func (r *Run) shares() []Share {
	if m := r.Trainer.Model; m.NumTernary() == 0 || m.lora != nil {
		return nil
	}
	var all []Share
	k := 0
	for i := range r.Trainer.Model.layers {
		for _, l := range r.Trainer.Model.layers[i].linears() {
			codes, _ := l.Codes()
			stride := len(codes) / l.Out
			var n [3]int
			flips := 0
			for o := range l.Out {
				for j := o * stride; j < o*stride+l.In; j++ {
					n[codes[j]+1]++
					if k < len(r.codes) && r.codes[k][j] != codes[j] {
						flips++
					}
				}
			}
			w := float64(l.In * l.Out)
			all = append(all, Share{
				Name: strings.TrimSuffix(strings.TrimPrefix(l.W.Name, "model.layers."), ".weight"),
				Neg:  float64(n[0]) / w, Zero: float64(n[1]) / w, Pos: float64(n[2]) / w, Flipped: float64(flips) / w,
			})
			k++
		}
	}
	return all
}

// PeakMiB is the process's largest resident memory so far, or what Go took from the system where that is not known.
func PeakMiB() float64 {
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		if _, after, ok := strings.Cut(string(b), "VmHWM:"); ok {
			if kb, err := strconv.Atoi(strings.Fields(after)[0]); err == nil {
				return float64(kb) / 1024
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys) / (1 << 20)
}
