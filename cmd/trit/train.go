package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/train"
	"github.com/tritlm/trit/train/mpi"
)

// trainFlags are the flags of trit train, and those of its models that trit compare shares.
type trainFlags struct {
	arch, precision, preset string
	hidden, intermediate    int
	layers, heads, kvHeads  int
	block                   int
	saveDir, tokenizer      string
	init                    string
	lora                    train.Lora
	valShare                float64
	threads                 int
	resume                  bool
	o                       train.Options
}

func (f *trainFlags) addShape(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.preset, "preset", "small", "shape: "+strings.Join(train.Presets(), ", "))
	fs.IntVar(&f.hidden, "hidden", 0, "hidden size, instead of the preset's")
	fs.IntVar(&f.intermediate, "intermediate", 0, "feed-forward size")
	fs.IntVar(&f.layers, "layers", 0, "number of layers")
	fs.IntVar(&f.heads, "heads", 0, "number of heads")
	fs.IntVar(&f.kvHeads, "kv-heads", 0, "number of key-value heads")
	fs.IntVar(&f.block, "block", 0, "tokens of context")
	fs.StringVar(&f.tokenizer, "tokenizer", "chars", "chars, bytes, bpe:SIZE (trained on the text), or a tokenizer.json")
	fs.Float64Var(&f.valShare, "val-share", 0.1, "share of the text, from its end, kept for validation")
	fs.IntVar(&f.threads, "threads", 0, "worker threads (default all cores); results do not depend on it")
}

func (f *trainFlags) addOptions(cmd *cobra.Command) {
	f.o = train.DefaultOptions()
	o, fs := &f.o, cmd.Flags()
	fs.IntVar(&o.BatchSize, "batch-size", o.BatchSize, "sequences per batch")
	fs.IntVar(&o.Accumulate, "accumulate", o.Accumulate, "batches per optimizer step")
	fs.IntVar(&o.MaxIters, "max-iters", o.MaxIters, "optimizer steps")
	fs.Float64Var(&o.LR, "lr", o.LR, "learning rate")
	fs.Float64Var(&o.MinLR, "min-lr", o.MinLR, "lowest learning rate of a schedule")
	fs.StringVar(&o.Schedule, "schedule", o.Schedule, strings.Join(train.Schedules, ", "))
	fs.IntVar(&o.Warmup, "warmup", o.Warmup, "steps of linear warm-up")
	fs.Float64Var(&o.WeightDecay, "weight-decay", o.WeightDecay, "AdamW weight decay of matrices")
	fs.Float64Var(&o.Beta1, "beta1", o.Beta1, "AdamW β1")
	fs.Float64Var(&o.Beta2, "beta2", o.Beta2, "AdamW β2")
	fs.Float64Var(&o.Eps, "eps", o.Eps, "AdamW ε")
	fs.Float64Var(&o.Clip, "clip", o.Clip, "largest gradient norm, 0: no clipping")
	fs.Uint64Var(&o.Seed, "seed", o.Seed, "seed of weights and batches")
	fs.StringVar(&o.Gradients, "grad-precision", o.Gradients, "backward products of ternary layers: int16 or f32")
	fs.IntVar(&o.EvalEvery, "eval-every", o.EvalEvery, "steps between validations")
	fs.IntVar(&o.EvalBatches, "eval-batches", o.EvalBatches, "batches of one validation")
	fs.IntVar(&o.SaveEvery, "save-every", o.SaveEvery, "steps between checkpoints")
	fs.IntVar(&o.SampleTokens, "sample-tokens", o.SampleTokens, "length of the sample at a validation, 0: none")
}

func newTrainCmd() *cobra.Command {
	var f trainFlags
	cmd := &cobra.Command{
		Use:   "train [DATA]",
		Short: "Train a 1.58-bit (or full-precision) language model",
		Long: `train trains a language model on DATA: a text file, a folder of .txt and .md files, or - for standard
input. Without DATA it trains on a small built-in text.

--model llama        RMSNorm, rotary positions, SwiGLU
--model transformer  LayerNorm, learned positions, GELU, biases: the vanilla one
--model bitnet       the block of BitNet b1.58 2B4T: sub-norms, squared ReLU, shared key-value heads, tied head

--precision ternary trains with weights −1, 0, +1 and 8-bit activations in the forward pass (W1.58A8) and float32
masters behind it; float is full precision. The folder --save-dir afterwards holds checkpoints, metrics.jsonl,
TensorBoard events, and the best model as config.json, model.safetensors, tokenizer.json: trit run DIR runs it.

--init MODEL goes on from a model that is there, a Hugging Face folder or a GGUF file, with its shape and
tokenizer. Packed ternary files have no masters; they get some that quantise to the same codes.

--init MODEL --lora RANK trains low-rank adapters beside the projections of a model that stays as it is, packed or
not, and needs a fraction of the memory: no masters, gradients and moments of the model itself. --save-dir then
holds adapter_config.json and adapter_model.safetensors, as Hugging Face's peft has them: trit run MODEL --adapter
DIR uses them.

Ctrl-C saves; --resume continues as if nothing had happened, bit for bit.`,
		Example: `  trit train
  trit train letters.txt --init ./bitnet-2b4t --lora 16 --block 256 --batch-size 4 --save-dir runs/letters
  trit train shakespeare.txt --model bitnet --preset demo --save-dir runs/demo --lr 2e-3 --schedule cosine --warmup 100
  trit train --save-dir runs/demo --resume`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	cmd.Flags().StringVar(&f.arch, "model", "llama", "architecture: "+strings.Join(train.Archs, ", "))
	cmd.Flags().StringVar(&f.precision, "precision", "ternary", strings.Join(train.Precisions, " or "))
	cmd.Flags().StringVar(&f.saveDir, "save-dir", "runs/train", "folder of the run")
	cmd.Flags().StringVar(&f.init, "init", "", "start from this model: a Hugging Face folder, a GGUF file, or OWNER/NAME on the hub")
	cmd.Flags().IntVar(&f.lora.Rank, "lora", 0, "with --init: train adapters of this rank and leave the model as it is")
	cmd.Flags().Float64Var(&f.lora.Alpha, "lora-alpha", 0, "adapters count alpha/rank times (default twice the rank)")
	cmd.Flags().StringSliceVar(&f.lora.Targets, "lora-targets", nil, "projections that get adapters, such as q_proj,v_proj (default all)")
	cmd.Flags().BoolVar(&f.resume, "resume", false, "continue the run in --save-dir")
	f.addShape(cmd)
	f.addOptions(cmd)
	cmd.AddCommand(newTrainExportCmd())
	return cmd
}

func newTrainExportCmd() *cobra.Command {
	var format, base string
	cmd := &cobra.Command{
		Use:   "export RUN DIR",
		Short: "Write a run's model, or a checkpoint's, as a Hugging Face folder",
		Long: `export writes the best model of a run, or that of a .ckpt file, to the folder DIR:

hf-packed  ternary weights as four codes a byte, as trit and transformers read them (small)
hf-bf16    the master weights in bfloat16, which whoever loads them quantises to the same model (to train on)
peft       the adapters of a --lora run, for trit run MODEL --adapter DIR and Hugging Face's peft (its default)

trit convert makes a GGUF file of the first two. For a --lora run these two merge the adapters into the masters of
the model below and quantise the sum again. That loses part of what was learned: a ternary weight moves only when
the sum crosses the middle between two codes, and what adapters add to a weight is often less than that. export
says how the validation loss changed.`,
		Args: exactArgs("RUN", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				if path = filepath.Join(args[0], "best.ckpt"); !exists(path) {
					path = filepath.Join(args[0], "last.ckpt")
				}
			}
			c, err := train.OpenCheckpoint(path)
			if err != nil {
				return err
			}
			if base != "" {
				if c.Lora == nil {
					return usagef("--init is for the runs of adapters; %s holds a whole model", path)
				}
				c.Lora.Base = base
			}
			pool := par.New(0)
			defer pool.Close()
			t, err := c.Load(pool)
			if err != nil {
				return err
			}
			vocab, err := data.NewVocab(c.Tokenizer)
			if err != nil {
				return err
			}
			if format == "" {
				format = train.Formats[0]
				if c.Lora != nil {
					format = "peft"
				}
			}
			if format == "peft" {
				if err := t.Model.ExportAdapter(args[1]); err != nil {
					return err
				}
				note(cmd, "%s: the adapters of %s after step %d", args[1], path, c.Steps)
				return nil
			}
			m := t.Model
			if c.Lora != nil {
				if m, vocab, err = merge(cmd, t, filepath.Dir(path)); err != nil {
					return err
				}
			}
			if err := m.Export(args[1], vocab, train.ExportOptions{Format: format}); err != nil {
				return err
			}
			note(cmd, "%s: the model of %s after step %d", args[1], path, c.Steps)
			return nil
		},
	}
	cmd.Flags().StringVar(&base, "init", "", "where the model below adapters is now, when it moved")
	cmd.Flags().StringVar(&format, "format", "", strings.Join(train.Formats, ", ")+" or peft (default hf-packed; peft for adapters)")
	return cmd
}

// merge puts the adapters of a run into its base, and says what that cost on the run's validation text.
func merge(cmd *cobra.Command, t *train.Trainer, dir string) (*train.Model, *data.Vocab, error) {
	m, vocab, err := t.Model.Merge()
	if err != nil {
		return nil, nil, err
	}
	val, err := data.OpenTokens(filepath.Join(dir, "val.bin"))
	if err != nil || val.Len() <= m.Config.Block {
		return m, vocab, nil // nothing to measure with
	}
	defer val.Close()
	whole, err := train.NewTrainer(m, t.Options)
	if err != nil {
		return nil, nil, err
	}
	var loss [2]float64
	for i, x := range []*train.Trainer{t, whole} {
		if loss[i], err = x.Validate(cmd.Context(), val.Spread(max(t.Options.EvalBatches, 1), t.Options.BatchSize, m.Config.Block)); err != nil {
			return nil, nil, err
		}
	}
	note(cmd, "validation loss with adapters %.4f, merged and quantised again %.4f", loss[0], loss[1])
	return m, vocab, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func newCompareCmd() *cobra.Command {
	var f trainFlags
	var models, precisions []string
	cmd := &cobra.Command{
		Use:   "compare [DATA]",
		Short: "Train several architectures on the same text and compare them",
		Long: `compare trains every --model in every --precision on DATA (see trit train), with the same batches and options, and
writes compare.md, compare.html and report.html into --save-dir: parameters, bytes on disk, training memory,
tokens/s, losses, perplexity and a sample of each. Runs that are there already are continued.`,
		Example: "  trit compare shakespeare.txt --preset small --max-iters 1000 --lr 1e-3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			var cases []train.Config
			for _, a := range models {
				for _, p := range precisions {
					c, err := f.config(cmd, a, p)
					if err != nil {
						return err
					}
					cases = append(cases, c)
				}
			}
			vocab, ids, err := f.corpus(cmd, args)
			if err != nil {
				return err
			}
			pool := par.New(f.threads)
			defer pool.Close()
			live := watch{out: cmd.ErrOrStderr(), steps: f.o.MaxIters}
			rows, err := train.Compare(cmd.Context(), f.saveDir, cases, f.o, vocab, ids, f.valShare, pool, func(c train.Config, r train.Record) {
				if name := c.Arch + " " + c.Precision + "  "; name != live.name {
					live.end()
					live = watch{out: live.out, name: name, steps: live.steps}
				}
				live.show(r)
			})
			live.end()
			if errors.Is(err, context.Canceled) {
				note(cmd, "stopped and saved; the same command continues")
			}
			if err != nil {
				return err
			}
			var runs []string
			for _, c := range cases {
				runs = append(runs, filepath.Join(f.saveDir, c.Arch+"-"+c.Precision))
			}
			if err := errors.Join(train.WriteTable(f.saveDir, rows), train.Report(f.saveDir, runs)); err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), train.Table(rows))
			return err
		},
	}
	cmd.Flags().StringSliceVar(&models, "model", train.Archs, "architectures")
	cmd.Flags().StringSliceVar(&precisions, "precision", train.Precisions, "precisions")
	cmd.Flags().StringVar(&f.saveDir, "save-dir", "runs/compare", "folder of the runs and the table")
	f.addShape(cmd)
	f.addOptions(cmd)
	return cmd
}

func newReportCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report RUN...",
		Short: "Write a page with the curves of training runs",
		Long: `report writes report.html, one page that needs nothing else, with loss.png and loss.svg: losses, learning rate,
tokens/s, shares of −1, 0 and +1 per layer, how many codes flip per step, and samples.`,
		Example: "  trit report runs/train\n  trit report runs/compare/llama-ternary runs/compare/llama-float -o report",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				out = args[0]
			}
			if err := train.Report(out, args); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(out, "report.html"))
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "folder to write to (default the first RUN)")
	return cmd
}

func newDataCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "data",
		Short:   "Fetch texts to train on",
		Long:    "Downloads public texts in the form that trit train reads. See the help of each one.",
		Example: "  trit data shakespeare",
	}
	for _, s := range data.Sources {
		var dir, from, url string
		sub := &cobra.Command{
			Use:   s.Name,
			Short: "Fetch " + s.About,
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				path, err := data.Fetch(cmd.Context(), http.DefaultClient, s, dir, from, url)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
				return err
			},
		}
		sub.Flags().StringVar(&dir, "dir", "data", "folder to write to")
		sub.Flags().StringVar(&from, "from", "", "a local copy to take instead of the network")
		sub.Flags().StringVar(&url, "url", "", "another address (default "+s.URL+")")
		cmd.AddCommand(sub)
	}
	return cmd
}

// config is the shape that preset and flags give.
func (f *trainFlags) config(cmd *cobra.Command, arch, precision string) (train.Config, error) {
	c, err := train.Preset(f.preset, arch, precision)
	if err != nil {
		return c, usageError{err}
	}
	set := func(name string, dst *int, v int) {
		if cmd.Flags().Changed(name) {
			*dst = v
		}
	}
	set("hidden", &c.HiddenSize, f.hidden)
	set("intermediate", &c.IntermediateSize, f.intermediate)
	set("layers", &c.NumLayers, f.layers)
	if cmd.Flags().Changed("heads") {
		c.NumHeads, c.NumKVHeads = f.heads, f.heads
	}
	set("kv-heads", &c.NumKVHeads, f.kvHeads)
	set("block", &c.Block, f.block)
	c.VocabSize = 2 // until the data is known
	if err := c.Check(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// corpus reads the text and encodes it.
func (f *trainFlags) corpus(cmd *cobra.Command, args []string) (*data.Vocab, []int32, error) {
	text, err := readCorpus(cmd, args)
	if err != nil {
		return nil, nil, err
	}
	var v *data.Vocab
	size, isBPE := strings.CutPrefix(f.tokenizer, "bpe:")
	switch {
	case f.tokenizer == "chars":
		v, err = data.Chars(text)
	case f.tokenizer == "bytes":
		v, err = data.Bytes()
	case isBPE:
		n, e := strconv.Atoi(size)
		if e != nil {
			return nil, nil, usagef("--tokenizer %s: want bpe: and a number of tokens, such as bpe:2048", f.tokenizer)
		}
		v, err = data.TrainBPE(text, n)
	default:
		var b []byte
		if b, err = infile.Read(f.tokenizer, infile.Text); err == nil {
			v, err = data.NewVocab(b)
		}
	}
	var ids []int32
	if err == nil {
		ids, err = encode(v, text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("--tokenizer %s: %w", f.tokenizer, err)
	}
	return v, ids, nil
}

// check reports options that make no sense for a run that begins.
func (f *trainFlags) check() error {
	if err := f.o.Check(); err != nil {
		return usageError{err}
	}
	if err := train.CheckValShare(f.valShare); err != nil {
		return usageError{err}
	}
	return nil
}

func (f *trainFlags) run(cmd *cobra.Command, args []string) error {
	if !f.resume {
		if err := f.check(); err != nil {
			return err
		}
	}
	if f.init != "" {
		path, err := new(hubFlags).resolve(cmd, f.init)
		if err != nil {
			return err
		}
		f.init = path
	}
	pool := par.New(f.threads)
	defer pool.Close()
	var group train.Group
	if processes() > 1 {
		var err error
		if group, err = mpi.Join(); err != nil {
			return err
		}
		// After an error MPI is left unfinished, so that mpirun ends the other processes.
		if group.Rank() > 0 {
			if err := f.follow(cmd, args, pool, group); err != nil {
				return err
			}
			return group.Close()
		}
	}
	var r *train.Run
	var err error
	if f.resume {
		if len(args) > 0 {
			return usagef("--resume continues with the run's own data; leave %s out", args[0])
		}
		if err := f.unchanged(cmd); err != nil {
			return err
		}
		r, err = train.Resume(f.saveDir, pool, func(c *train.Checkpoint) { f.override(cmd, c) })
	} else if f.init != "" {
		m, vocab, ids, e := f.startFrom(cmd, args, pool)
		if e != nil {
			return e
		}
		r, err = train.StartFrom(f.saveDir, m, f.o, vocab, ids, f.valShare)
	} else {
		if err := f.noLora(cmd); err != nil {
			return err
		}
		var c train.Config
		if c, err = f.config(cmd, f.arch, f.precision); err != nil {
			return err
		}
		vocab, ids, e := f.corpus(cmd, args)
		if e != nil {
			return e
		}
		r, err = train.Start(f.saveDir, c, f.o, vocab, ids, f.valShare, pool)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	r.Trainer.Group = group
	m := r.Trainer.Model
	c := &m.Config
	what := fmt.Sprintf("%s parameters, %s of them ternary", short(m.NumParams()), short(m.NumTernary()))
	if lo := m.Lora(); lo != nil {
		what = fmt.Sprintf("%s parameters of adapters (rank %d, alpha %g, %s) on %s that stay, %s of them ternary",
			short(m.NumParams()), lo.Rank, lo.Alpha, strings.Join(lo.Targets, " "), short(m.NumFrozen()), short(m.NumTernary()))
	}
	note(cmd, "%s %s: %s; %d layers, hidden %d, block %d, vocabulary %d; %d tokens to train on, %d to validate; %d threads",
		c.Arch, c.Precision, what, c.NumLayers, c.HiddenSize, c.Block, c.VocabSize, r.Train.Len(), r.Val.Len(), pool.Threads())
	if r.Trainer.Steps > 0 {
		note(cmd, "continuing after step %d", r.Trainer.Steps)
	}
	live := watch{out: cmd.ErrOrStderr(), steps: r.Trainer.Options.MaxIters}
	err = r.Do(cmd.Context(), live.show)
	live.end()
	if err == nil && group != nil {
		err = group.Close()
	}
	if errors.Is(err, context.Canceled) {
		note(cmd, "stopped after step %d and saved; continue with: trit train --save-dir %s --resume", r.Trainer.Steps, f.saveDir)
		return err
	}
	if err != nil {
		return err
	}
	best := ""
	if !math.IsInf(r.Trainer.Best, 1) {
		best = fmt.Sprintf("; best validation loss %.4f", r.Trainer.Best)
	}
	if lo := m.Lora(); lo != nil {
		note(cmd, "done: trit run %s --adapter %s uses the adapters%s", lo.Base, f.saveDir, best)
	} else {
		note(cmd, "done: trit run %s runs the model%s", f.saveDir, best)
	}
	if plot, err := train.Plot(filepath.Join(f.saveDir), 72, 14); err == nil && !quiet {
		fmt.Fprint(cmd.ErrOrStderr(), plot)
	}
	return nil
}

// follow is what the processes but the first one do under mpirun: the same steps, without files.
func (f *trainFlags) follow(cmd *cobra.Command, args []string, pool *par.Pool, group train.Group) error {
	var t *train.Trainer
	var tokens *data.Tokens
	if f.resume {
		if err := f.unchanged(cmd); err != nil {
			return err
		}
		c, err := train.OpenCheckpoint(filepath.Join(f.saveDir, "last.ckpt"))
		if err != nil {
			return err
		}
		f.override(cmd, c)
		if t, err = c.Load(pool); err != nil {
			return err
		}
		if tokens, err = data.OpenTokens(filepath.Join(f.saveDir, "train.bin")); err != nil {
			return err
		}
		defer tokens.Close()
	} else {
		var m *train.Model
		var ids []int32
		var err error
		if f.init != "" {
			m, _, ids, err = f.startFrom(cmd, args, pool)
		} else {
			m, ids, err = f.fresh(cmd, args, pool)
		}
		if err != nil {
			return err
		}
		if t, err = train.NewTrainer(m, f.o); err != nil {
			return err
		}
		ids, _ = data.Split(ids, f.valShare)
		tokens = data.NewTokens(ids, m.Config.VocabSize)
	}
	t.Group = group
	for _, err := range t.Run(cmd.Context(), t.Batches(tokens)) {
		if err != nil {
			return err
		}
	}
	return nil
}

// fresh is the model and corpus of a new run, as train.Start makes them.
func (f *trainFlags) fresh(cmd *cobra.Command, args []string, pool *par.Pool) (*train.Model, []int32, error) {
	c, err := f.config(cmd, f.arch, f.precision)
	if err != nil {
		return nil, nil, err
	}
	vocab, ids, err := f.corpus(cmd, args)
	if err != nil {
		return nil, nil, err
	}
	c.VocabSize = vocab.Size()
	m, err := train.New(c, pool, f.o.Seed)
	return m, ids, err
}

// unchanged reports a flag that cannot change on --resume.
func (f *trainFlags) unchanged(cmd *cobra.Command) error {
	for _, name := range []string{
		"model", "precision", "preset", "hidden", "intermediate", "layers", "heads", "kv-heads", "block", "tokenizer", "val-share", "seed", "batch-size",
		"accumulate", "lora", "lora-alpha", "lora-targets",
	} {
		if cmd.Flags().Changed(name) {
			return usagef("--%s cannot change when a run is resumed; start another with another --save-dir", name)
		}
	}
	if f.init != "" {
		if c, err := train.OpenCheckpoint(filepath.Join(f.saveDir, "last.ckpt")); err == nil && c.Lora == nil {
			return usagef("--init cannot change when a run is resumed; start another with another --save-dir")
		}
	}
	return nil
}

// noLora reports flags of adapters where there is no model to put them on.
func (f *trainFlags) noLora(cmd *cobra.Command) error {
	for _, name := range []string{"lora", "lora-alpha", "lora-targets"} {
		if cmd.Flags().Changed(name) {
			return usagef("--%s needs --init MODEL, the model that gets adapters", name)
		}
	}
	return nil
}

// startFrom is the model of --init, or adapters on it, and the corpus in its tokens.
func (f *trainFlags) startFrom(cmd *cobra.Command, args []string, pool *par.Pool) (m *train.Model, vocab *data.Vocab, ids []int32, err error) {
	lora := cmd.Flags().Changed("lora")
	taken := []string{"model", "preset", "hidden", "intermediate", "layers", "heads", "kv-heads", "tokenizer"}
	if lora {
		taken = append(taken, "precision")
	}
	for _, name := range taken {
		if cmd.Flags().Changed(name) {
			return nil, nil, nil, usagef("--init takes shape and tokenizer from the model; leave --%s out", name)
		}
	}
	if lora {
		m, vocab, err = train.InitLora(f.init, f.lora, f.block, f.o.Seed, pool)
	} else {
		for _, name := range []string{"lora-alpha", "lora-targets"} {
			if cmd.Flags().Changed(name) {
				return nil, nil, nil, usagef("--%s goes with --lora RANK", name)
			}
		}
		precision := ""
		if cmd.Flags().Changed("precision") {
			precision = f.precision
		}
		m, vocab, err = train.Init(f.init, precision, f.block, pool)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	text, err := readCorpus(cmd, args)
	if err != nil {
		return nil, nil, nil, err
	}
	if ids, err = encode(vocab, text); err != nil {
		return nil, nil, nil, fmt.Errorf("--init %s: %w", f.init, err)
	}
	return m, vocab, ids, nil
}

// processes is how many mpirun started, 0 without it.
func processes() int {
	n, _ := strconv.Atoi(os.Getenv("OMPI_COMM_WORLD_SIZE"))
	return n
}

func readCorpus(cmd *cobra.Command, args []string) (string, error) {
	path := ""
	if len(args) > 0 {
		path = args[0]
	}
	if path == "-" && processes() > 1 {
		return "", usagef("mpirun hands standard input to one process alone; give the text as a file")
	}
	return data.ReadText(cmd.Context(), path, cmd.InOrStdin())
}

// encode encodes text with a vocabulary that was not made from it, which may lack characters.
func encode(v *data.Vocab, text string) ([]int32, error) {
	ids := v.EncodeAll(text)
	back := v.Decode(ids)
	if back == text {
		return ids, nil
	}
	at := 0
	for at < len(back) && at < len(text) && back[at] == text[at] {
		at++
	}
	return nil, fmt.Errorf("the tokenizer cannot write the text, first at byte %d: %q; use another tokenizer or remove such signs", at, text[at:min(at+12, len(text))])
}

// override takes over the options that were given on a resume, and where the model below adapters is now.
func (f *trainFlags) override(cmd *cobra.Command, c *train.Checkpoint) {
	ch, o := cmd.Flags().Changed, &c.Options
	if f.init != "" && c.Lora != nil {
		c.Lora.Base = f.init
	}
	for name, set := range map[string]func(){
		"max-iters": func() { o.MaxIters = f.o.MaxIters }, "lr": func() { o.LR = f.o.LR }, "min-lr": func() { o.MinLR = f.o.MinLR },
		"schedule": func() { o.Schedule = f.o.Schedule }, "warmup": func() { o.Warmup = f.o.Warmup },
		"weight-decay": func() { o.WeightDecay = f.o.WeightDecay }, "beta1": func() { o.Beta1 = f.o.Beta1 }, "beta2": func() { o.Beta2 = f.o.Beta2 },
		"eps": func() { o.Eps = f.o.Eps }, "clip": func() { o.Clip = f.o.Clip }, "grad-precision": func() { o.Gradients = f.o.Gradients },
		"eval-every": func() { o.EvalEvery = f.o.EvalEvery }, "eval-batches": func() { o.EvalBatches = f.o.EvalBatches },
		"save-every": func() { o.SaveEvery = f.o.SaveEvery }, "sample-tokens": func() { o.SampleTokens = f.o.SampleTokens },
	} {
		if ch(name) {
			set()
		}
	}
}

// watch shows steps of training: one live line on a terminal, else a line per validation and every 10 s.
type watch struct {
	out             io.Writer
	name            string // before each line; may be empty
	steps           int    // in all
	perStep, smooth float64
	last            time.Time
	open            bool // the live line has not ended
}

// end ends the live line, so that something else can be said below it.
func (w *watch) end() {
	if w.open {
		fmt.Fprintln(w.out)
	}
	w.open = false
}

func (w *watch) show(rec train.Record) {
	if quiet {
		return
	}
	if w.perStep == 0 {
		w.perStep, w.smooth = rec.Seconds, rec.Loss
	}
	w.perStep += (rec.Seconds - w.perStep) * 0.05
	w.smooth += (rec.Loss - w.smooth) * 0.05
	clear, width := "", 0
	if term.IsTerminal(w.out) {
		clear, width = "\r\x1b[K", term.Width(w.out)
	}
	left := time.Duration(float64(w.steps-rec.Step) * w.perStep * float64(time.Second)).Round(time.Second)
	line := fmt.Sprintf("%sstep %d/%d  loss %.4f  lr %.2e  %.0f tokens/s  %s left", w.name, rec.Step, w.steps, w.smooth, rec.LR, rec.TokensPerS, left)
	w.open = clear != "" && rec.Val == nil
	switch {
	case rec.Val != nil:
		mark := ""
		if rec.Best {
			mark = "  best"
		}
		io.WriteString(term.Raw(w.out), clear)
		fmt.Fprintf(w.out, "%s  validation %.4f%s\n", line, *rec.Val, mark)
		if rec.Sample != "" {
			fmt.Fprintf(w.out, "    %s\n", strings.ReplaceAll(strings.TrimSpace(rec.Sample), "\n", "\n    "))
		}
	case clear != "":
		if width > 1 {
			line = line[:min(len(line), width-1)] // one that wraps would not be overwritten
		}
		io.WriteString(term.Raw(w.out), clear)
		fmt.Fprint(w.out, line)
	case time.Since(w.last) > 10*time.Second:
		w.last = time.Now()
		fmt.Fprintln(w.out, line)
	}
}

func short(n int) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f M", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f k", float64(n)/1e3)
	}
	return strconv.Itoa(n)
}
