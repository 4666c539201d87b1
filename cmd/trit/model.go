package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/accel/tensix"
	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/train"
	"github.com/tritlm/trit/weights"
)

// modelFlags are the flags of every command that computes with a model.
type modelFlags struct {
	hubFlags
	trit.Options
	device     string
	onDevice   func(*tensix.Device) // is given what --device names, once the model is on it
	noPackCopy bool
}

func (f *modelFlags) add(cmd *cobra.Command) {
	f.hubFlags.add(cmd)
	f.addCompute(cmd)
	f.addFile(cmd)
}

// addCompute adds the flags that say how to compute.
func (f *modelFlags) addCompute(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.IntVar(&f.Threads, "threads", 0, "cores to compute with (default all that this process may use)")
	fl.StringVar(&f.Kernels, "kernels", "", "processor instructions to use: "+strings.Join(kernel.Tiers(), ", ")+" (default the best)")
	addDevice(cmd, &f.device)
	fl.StringVar(&f.Adapter, "adapter", "", "folder with low-rank adapters for the model, of trit train --lora or of peft")
	fl.BoolVar(&f.noPackCopy, "no-packed-copy", false, "keep no copy of a large model's weights in the layout of this program, which makes the next start fast")
	f.addKV(cmd)
	cmd.Flags().TextVar(&f.Activations, "activations", part.Activations16, "round the inputs of weights with scales of groups to int16, or to int8: faster prompts, another text")
	cmd.RegisterFlagCompletionFunc("activations", cobra.FixedCompletions([]string{"int16", "int8"}, cobra.ShellCompDirectiveNoFileComp))
	fl.IntVar(&f.MaxContext, "context", 0, "most tokens to keep in mind (default what the model was made for)")
	cmd.RegisterFlagCompletionFunc("kernels", cobra.FixedCompletions(kernel.Tiers(), cobra.ShellCompDirectiveNoFileComp))
}

func (f *modelFlags) addKV(cmd *cobra.Command) {
	cmd.Flags().TextVar(&f.KV, "kv", model.KVFloat32, "keep keys and values in f32, exact, or in f16 or int8, which round and take a half or a quarter of that")
	cmd.RegisterFlagCompletionFunc("kv", cobra.FixedCompletions([]string{"f32", "f16", "int8"}, cobra.ShellCompDirectiveNoFileComp))
}

func addDevice(cmd *cobra.Command, device *string) {
	cmd.Flags().StringVar(device, "device", "cpu", deviceHelp)
	cmd.RegisterFlagCompletionFunc("device", cobra.FixedCompletions([]string{"cpu", "tensix"}, cobra.ShellCompDirectiveNoFileComp))
}

// addFile adds the flags that say how to read the files.
func (f *modelFlags) addFile(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.Quantize, "quantize", false, "take float weights for BitNet masters although the model's configuration does not say so")
	cmd.Flags().StringVar(&f.I2SLayout, "i2s-layout", "", "how i2_s tensors lie in a GGUF file: x86, arm or x4 (default: found out)")
	cmd.RegisterFlagCompletionFunc("i2s-layout", cobra.FixedCompletions([]string{"x86", "arm", "x4"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *modelFlags) check() error {
	if f.Threads < 0 || f.MaxContext < 0 {
		return usagef("--threads and --context cannot be negative")
	}
	if f.Threads > 1024 {
		return usagef("--threads %d is more than any machine that trit runs on; at most 1024", f.Threads)
	}
	if err := f.Pooling.Check(); err != nil {
		return usageError{err}
	}
	if f.Kernels != "" && !slices.Contains(kernel.Tiers(), f.Kernels) {
		return usagef("--kernels %q is not there on this machine; there are %s", f.Kernels, strings.Join(kernel.Tiers(), ", "))
	}
	return nil
}

// open finds, or downloads, and loads MODEL.
func (f *modelFlags) open(cmd *cobra.Command, ref string) (*trit.Model, error) {
	o, err := f.options(cmd)
	if err != nil {
		return nil, err
	}
	if ref == "demo" {
		return openDemo(cmd, o)
	}
	path, err := f.resolve(cmd, ref)
	if err != nil {
		return nil, err
	}
	checkpoint, err := openCheckpoint(path)
	if err != nil {
		return nil, err
	}
	bar := progress(cmd, "load", false)
	o.Progress = func(done, total int) { bar.Set(int64(done), int64(total)) }
	var m *trit.Model
	if checkpoint != nil {
		m, err = trit.OpenFS(cmd.Context(), checkpoint, path, o)
	} else {
		m, err = trit.OpenContext(cmd.Context(), path, o)
	}
	bar.Done()
	if err != nil {
		return nil, err
	}
	for _, w := range append(m.Notes(), m.Tokenizer().Warnings()...) {
		note(cmd, "trit: %s: %s", path, w)
	}
	return m, nil
}

// options are those of the flags.
func (f *modelFlags) options(cmd *cobra.Command) (*trit.Options, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	o := f.Options
	var err error
	if o.Backend, err = f.backend(cmd); err != nil {
		return nil, err
	}
	if dir, err := os.UserCacheDir(); err == nil && !f.noPackCopy {
		o.CacheDir = filepath.Join(dir, "trit", "packed")
	}
	o.Note = func(err error) { note(cmd, "trit: %v", err) }
	return &o, nil
}

// openEngine loads MODEL without its tokenizer, for a command that computes with ids. The set is to be closed after the
// engine.
func (f *modelFlags) openEngine(cmd *cobra.Command, ref string) (*weights.Set, model.Engine, error) {
	o, err := f.options(cmd)
	if err != nil {
		return nil, nil, err
	}
	set, cfg, err := f.openSet(cmd, ref)
	if err != nil {
		return nil, nil, err
	}
	bar := progress(cmd, "load", false)
	o.Progress = func(done, total int) { bar.Set(int64(done), int64(total)) }
	e, err := trit.LoadEngine(cmd.Context(), cfg, set, o)
	bar.Done()
	if err != nil {
		set.Close()
		return nil, nil, err
	}
	for _, w := range slices.Concat(set.Notes(), cfg.Notes) {
		note(cmd, "trit: %s: %s", set.Path(), w)
	}
	return set, e, nil
}

// openFiles opens MODEL's files, and loads nothing.
func (f *modelFlags) openFiles(cmd *cobra.Command, ref string) (*weights.Set, error) {
	path, err := f.resolve(cmd, ref)
	if err != nil {
		return nil, err
	}
	checkpoint, err := openCheckpoint(path)
	if err != nil {
		return nil, err
	}
	if checkpoint != nil {
		return weights.OpenFS(checkpoint, path)
	}
	return weights.Open(path, &weights.Options{I2SLayout: f.I2SLayout})
}

// openSet opens MODEL's files and reads its configuration, and loads nothing.
func (f *modelFlags) openSet(cmd *cobra.Command, ref string) (*weights.Set, *model.Config, error) {
	set, err := f.openFiles(cmd, ref)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := f.config(set)
	if err != nil {
		set.Close()
		return nil, nil, err
	}
	return set, cfg, nil
}

// config reads the configuration of files that are open.
func (f *modelFlags) config(set *weights.Set) (*model.Config, error) {
	cfg, err := family.Read(set)
	if err != nil {
		return nil, err
	}
	if f.Quantize {
		cfg.QuantizeMasters()
	}
	cfg.KV = f.KV
	return cfg, nil
}

// openCheckpoint is the model in a checkpoint of trit train, as a folder in memory; nil for any other file.
func openCheckpoint(path string) (fs.FS, error) {
	if !strings.EqualFold(filepath.Ext(path), ".ckpt") {
		return nil, nil
	}
	c, err := train.OpenCheckpoint(path)
	if err != nil {
		return nil, err
	}
	if c.Lora != nil {
		return nil, fmt.Errorf("%s: holds adapters and no model; use %s, with --adapter %s", path, c.Lora.Base, filepath.Dir(path))
	}
	pool := par.New(0)
	defer pool.Close()
	t, err := c.Load(pool)
	if err != nil {
		return nil, err
	}
	vocab, err := data.NewVocab(c.Tokenizer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t.Model.FS(vocab)
}

// generateFlags are trit.GenerateOptions on the command line.
type generateFlags struct {
	trit.GenerateOptions
}

func (f *generateFlags) add(cmd *cobra.Command, tokens int) {
	fl := cmd.Flags()
	fl.IntVarP(&f.MaxTokens, "max-tokens", "n", tokens, "most tokens to write; 0: until the model ends or the context is full")
	fl.Float32VarP(&f.Temperature, "temperature", "t", 0, "randomness; 0 always takes the likeliest token")
	fl.IntVar(&f.TopK, "top-k", 0, "choose among the K likeliest tokens; 0: all")
	fl.Float32Var(&f.TopP, "top-p", 0, "choose among the likeliest tokens that together reach this probability; 0: all")
	fl.Float32Var(&f.MinP, "min-p", 0, "leave out tokens less likely than this share of the likeliest; 0: none")
	fl.Float32Var(&f.RepetitionPenalty, "repetition-penalty", 0, "above 1 makes tokens of the text so far less likely; 0: off")
	fl.Float32Var(&f.FrequencyPenalty, "frequency-penalty", 0, "taken off a token's score each time it was written, -2 to 2")
	fl.Float32Var(&f.PresencePenalty, "presence-penalty", 0, "taken off a token's score once it was written, -2 to 2")
	fl.IntVar(&f.RepeatLastN, "repeat-last-n", 0, "tokens that the penalties look back at; 0: all")
	fl.Uint64Var(&f.Seed, "seed", 0, "the same seed gives the same text (default: a new one each time)")
	fl.StringArrayVar(&f.Stop, "stop", nil, "end in front of this text; may be given several times")
}

// options are the flags' options, with a seed of their own where randomness is asked for and none was given.
func (f *generateFlags) options(cmd *cobra.Command) (trit.GenerateOptions, error) {
	o := f.GenerateOptions
	if o.MaxTokens < 0 {
		return o, usagef("--max-tokens cannot be negative")
	}
	if err := o.Validate(0); err != nil {
		return o, usageError{err}
	}
	if o.Temperature > 0 && !cmd.Flags().Changed("seed") {
		o.Seed = rand.Uint64N(1 << 32)
	}
	return o, nil
}

// maxPrompt bounds a prompt from a file or stdin: far more than any context holds.
const maxPrompt = 64 << 20

// readPrompt takes the prompt from the argument, --file or stdin, in this order.
func readPrompt(cmd *cobra.Command, args []string, file string) (string, error) {
	var text []byte
	var err error
	switch {
	case len(args) > 0 && file != "":
		return "", usagef("a prompt and --file %s: give one of them", file)
	case len(args) > 0:
		return strings.Join(args, " "), nil
	case file != "" && file != "-":
		text, err = infile.ReadText(cmd.Context(), file, maxPrompt)
	case file == "" && term.IsTerminal(cmd.InOrStdin()):
		return "", usagef("no prompt: give it as an argument, with --file, or on standard input")
	default:
		text, err = infile.ReadAll(cmd.Context(), cmd.InOrStdin(), "standard input", maxPrompt)
	}
	if err != nil {
		return "", err
	}
	if !utf8.Valid(text) {
		at := 0
		for at < len(text) {
			r, n := utf8.DecodeRune(text[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return "", fmt.Errorf("the text is not valid UTF-8 at byte %d; convert it first", at)
	}
	return string(text), nil
}
