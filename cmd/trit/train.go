package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
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

Ctrl-C saves; --resume continues as if nothing had happened, bit for bit.`,
		Example: `  trit train
  trit train shakespeare.txt --model bitnet --preset demo --save-dir runs/demo --lr 2e-3 --schedule cosine --warmup 100
  trit train --save-dir runs/demo --resume`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	cmd.Flags().StringVar(&f.arch, "model", "llama", "architecture: "+strings.Join(train.Archs, ", "))
	cmd.Flags().StringVar(&f.precision, "precision", "ternary", strings.Join(train.Precisions, " or "))
	cmd.Flags().StringVar(&f.saveDir, "save-dir", "runs/train", "folder of the run")
	cmd.Flags().StringVar(&f.init, "init", "", "start from this model's float masters (a Hugging Face folder), with its shape and tokenizer")
	cmd.Flags().BoolVar(&f.resume, "resume", false, "continue the run in --save-dir")
	f.addShape(cmd)
	f.addOptions(cmd)
	cmd.AddCommand(newTrainExportCmd())
	return cmd
}

func newTrainExportCmd() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "export RUN DIR",
		Short: "Write a run's model, or a checkpoint's, as a Hugging Face folder",
		Long: `export writes the best model of a run, or that of a .ckpt file, to the folder DIR:

hf-packed  ternary weights as four codes a byte, as trit and transformers read them (small)
hf-bf16    the master weights in bfloat16, quantised by whoever loads them (to train on)

trit convert makes a GGUF file of either.`,
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
			if err := t.Model.Export(args[1], vocab, train.ExportOptions{Format: format}); err != nil {
				return err
			}
			note(cmd, "%s: the model of %s after step %d", args[1], path, c.Steps)
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "hf-packed", strings.Join(train.Formats, " or "))
	return cmd
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
writes compare.md, compare.html and report.html into --save-dir: parameters, bytes on disk, training memory, tokens/s, losses,
perplexity and a sample of each. Runs that are there already are continued.`,
		Example: "  trit compare shakespeare.txt --preset small --max-iters 1000 --lr 1e-3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.o.Check(); err != nil {
				return usageError{err}
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
			rows, err := train.Compare(cmd.Context(), f.saveDir, cases, f.o, vocab, ids, f.valShare, pool, func(c train.Config, r train.Record) {
				if r.Val != nil {
					note(cmd, "%s %s  step %d/%d  loss %.4f  validation %.4f  %.0f tokens/s", c.Arch, c.Precision, r.Step, f.o.MaxIters, r.Loss, *r.Val, r.TokensPerS)
				}
			})
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
		Long: `report writes report.html, one page that needs nothing else, with loss.png and loss.svg: losses, learning rate, tokens/s,
shares of −1, 0 and +1 per layer, how many codes flip per step, and samples.`,
		Args: cobra.MinimumNArgs(1),
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
	cmd := &cobra.Command{Use: "data", Short: "Fetch texts to train on"}
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
		if b, err = os.ReadFile(f.tokenizer); err == nil {
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

func (f *trainFlags) run(cmd *cobra.Command, args []string) error {
	pool := par.New(f.threads)
	defer pool.Close()
	var group train.Group
	if n, _ := strconv.Atoi(os.Getenv("OMPI_COMM_WORLD_SIZE")); n > 1 { // mpirun started this
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
		for _, name := range []string{"model", "precision", "preset", "hidden", "intermediate", "layers", "heads", "kv-heads", "block", "tokenizer", "init", "val-share", "seed", "batch-size", "accumulate"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s cannot change when a run is resumed; start another with another --save-dir", name)
			}
		}
		r, err = train.Resume(f.saveDir, pool, func(o *train.Options) { f.override(cmd, o) })
	} else if f.init != "" {
		r, err = f.startFrom(cmd, args, pool)
	} else {
		var c train.Config
		if c, err = f.config(cmd, f.arch, f.precision); err != nil {
			return err
		}
		if err := f.o.Check(); err != nil {
			return usageError{err}
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
	note(cmd, "%s %s: %s parameters, %s of them ternary; %d layers, hidden %d, block %d, vocabulary %d; %d tokens to train on, %d to validate; %d threads",
		c.Arch, c.Precision, short(m.NumParams()), short(m.NumTernary()), c.NumLayers, c.HiddenSize, c.Block, c.VocabSize, r.Train.Len(), r.Val.Len(), pool.Threads())
	if r.Trainer.Steps > 0 {
		note(cmd, "continuing after step %d", r.Trainer.Steps)
	}
	err = watch(cmd.Context(), cmd.ErrOrStderr(), r)
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
	note(cmd, "done: %s holds the model; best validation loss %.4f", f.saveDir, r.Trainer.Best)
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
		c, err := train.OpenCheckpoint(filepath.Join(f.saveDir, "last.ckpt"))
		if err != nil {
			return err
		}
		f.override(cmd, &c.Options)
		if t, err = c.Load(pool); err != nil {
			return err
		}
		if tokens, err = data.OpenTokens(filepath.Join(f.saveDir, "train.bin")); err != nil {
			return err
		}
		defer tokens.Close()
	} else {
		var m *train.Model
		vocab, ids, err := f.corpus(cmd, args)
		if err != nil {
			return err
		}
		if f.init != "" {
			return usagef("--init works with one process; start the run alone, then continue it under mpirun with --resume")
		}
		c, err := f.config(cmd, f.arch, f.precision)
		if err != nil {
			return err
		}
		c.VocabSize = vocab.Size()
		if m, err = train.New(c, pool, f.o.Seed); err != nil {
			return err
		}
		if t, err = train.NewTrainer(m, f.o); err != nil {
			return err
		}
		tokens = data.NewTokens(ids[:len(ids)-int(float64(len(ids))*f.valShare)], vocab.Size())
	}
	t.Group = group
	for _, err := range t.Run(cmd.Context(), t.Batches(tokens)) {
		if err != nil {
			return err
		}
	}
	return nil
}

// startFrom begins a run from the masters of --init.
func (f *trainFlags) startFrom(cmd *cobra.Command, args []string, pool *par.Pool) (*train.Run, error) {
	for _, name := range []string{"model", "preset", "hidden", "intermediate", "layers", "heads", "kv-heads", "tokenizer"} {
		if cmd.Flags().Changed(name) {
			return nil, usagef("--init takes shape and tokenizer from the model; leave --%s out", name)
		}
	}
	if err := f.o.Check(); err != nil {
		return nil, usageError{err}
	}
	precision := ""
	if cmd.Flags().Changed("precision") {
		precision = f.precision
	}
	m, vocab, err := train.Init(f.init, precision, f.block, pool)
	if err != nil {
		return nil, err
	}
	text, err := readCorpus(cmd, args)
	if err != nil {
		return nil, err
	}
	ids, err := encode(vocab, text)
	if err != nil {
		return nil, fmt.Errorf("--init %s: %w", f.init, err)
	}
	return train.StartFrom(f.saveDir, m, f.o, vocab, ids, f.valShare)
}

func readCorpus(cmd *cobra.Command, args []string) (string, error) {
	path := ""
	if len(args) > 0 {
		path = args[0]
	}
	return data.ReadText(path, cmd.InOrStdin())
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

// override takes over the options that were given on a resume.
func (f *trainFlags) override(cmd *cobra.Command, o *train.Options) {
	ch := cmd.Flags().Changed
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

// watch runs r and shows it: one live line on a terminal, else a line per validation and every 10 s.
func watch(ctx context.Context, w io.Writer, r *train.Run) error {
	if quiet {
		return r.Do(ctx, func(train.Record) {})
	}
	file, _ := w.(*os.File)
	live := file != nil && term.IsTerminal(int(file.Fd()))
	max := r.Trainer.Options.MaxIters
	perStep, smooth, last := 0.0, 0.0, time.Time{}
	return r.Do(ctx, func(rec train.Record) {
		if perStep == 0 {
			perStep, smooth = rec.Seconds, rec.Loss
		}
		perStep += (rec.Seconds - perStep) * 0.05
		smooth += (rec.Loss - smooth) * 0.05
		left := time.Duration(float64(max-rec.Step) * perStep * float64(time.Second)).Round(time.Second)
		line := fmt.Sprintf("step %d/%d  loss %.4f  lr %.2e  %.0f tokens/s  %s left", rec.Step, max, smooth, rec.LR, rec.TokensPerS, left)
		switch {
		case rec.Val != nil:
			mark := ""
			if rec.Best {
				mark = "  best"
			}
			clear := ""
			if live {
				clear = "\r\x1b[K"
			}
			fmt.Fprintf(w, "%s%s  validation %.4f%s\n", clear, line, *rec.Val, mark)
			if rec.Sample != "" {
				fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(strings.TrimSpace(rec.Sample), "\n", "\n    "))
			}
		case live:
			fmt.Fprintf(w, "\r\x1b[K%s", line)
		case time.Since(last) > 10*time.Second:
			last = time.Now()
			fmt.Fprintln(w, line)
		}
	})
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
