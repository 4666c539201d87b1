package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/tokenizer"
)

// embeddings are the values of --embedding.
var embeddings = map[string]gguf.Type{"f32": gguf.F32, "f16": gguf.F16, "bf16": gguf.BF16, "q8_0": gguf.Q8_0, "q6_k": gguf.Q6_K, "q4_0": gguf.Q4_0}

// writeFlags are those of convert and synth.
type writeFlags struct {
	format, embedding string
	splitSize         string
	overwrite, json   bool
	doubtful          bool // only --quantize says that the masters are BitNet's
}

func (f *writeFlags) add(cmd *cobra.Command, flag, def string) {
	names, _ := convert.Formats()
	var list []string
	for _, n := range names {
		list = append(list, string(n))
	}
	fl := cmd.Flags()
	fl.StringVar(&f.format, flag, def, "what to write: "+strings.Join(list, ", "))
	fl.StringVar(&f.embedding, "embedding", "", "how a GGUF file stores embedding and head: f32, f16, bf16, q8_0, q6_k or q4_0 (default as they are)")
	fl.StringVar(&f.splitSize, "split-size", "", "begin another GGUF file where one would have more bytes of tensors than this, such as 2G or 500M (default one file)")
	fl.BoolVar(&f.overwrite, "overwrite", false, "replace what is there")
	fl.BoolVar(&f.json, "json", false, "print what was written as JSON")
	cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("embedding", cobra.FixedCompletions([]string{"f32", "f16", "bf16", "q8_0", "q6_k", "q4_0"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *writeFlags) options() (convert.Options, error) {
	o := convert.Options{Format: convert.Format(f.format), Overwrite: f.overwrite, Keep: f.embedding == ""}
	if !o.Keep {
		t, ok := embeddings[f.embedding]
		if !ok {
			return o, usagef("--embedding %q is not known; known: f32, f16, bf16, q8_0, q6_k, q4_0", f.embedding)
		}
		o.Embedding = t
	}
	if names, _ := convert.Formats(); !slices.Contains(names, o.Format) {
		return o, usagef("format %q is not known; known: %s", f.format, strings.Trim(fmt.Sprint(names), "[]"))
	}
	if f.splitSize != "" {
		if !o.Format.IsGGUF() {
			return o, usagef("--split-size is for GGUF files, and %s is a folder", o.Format)
		}
		n, err := parseSize(f.splitSize)
		if err != nil {
			return o, usagef("--split-size: %v", err)
		}
		o.SplitSize = n
	}
	return o, nil
}

// parseSize reads a number of bytes as llama.cpp's gguf-split does: M and G are thousands of thousands.
func parseSize(s string) (int64, error) {
	units := map[byte]int64{'K': 1e3, 'M': 1e6, 'G': 1e9}
	digits, unit := s, int64(1)
	if n := len(s); n > 0 && units[s[n-1]] != 0 {
		digits, unit = s[:n-1], units[s[n-1]]
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v < 1 || v > 1<<62/unit {
		return 0, fmt.Errorf("%q is no size; write a number of bytes, or one with K, M or G behind it, such as 2G", s)
	}
	return v * unit, nil
}

// write writes the model with progress, and says what it wrote.
func (f *writeFlags) write(cmd *cobra.Command, dst string, src convert.Source, o convert.Options) error {
	p := progress(cmd, "write", true)
	defer p.Done()
	o.Progress = p.Set
	r, err := convert.Write(cmd.Context(), dst, src, o)
	p.Done()
	if err != nil {
		return err
	}
	for _, n := range r.Skipped {
		note(cmd, "trit: tensor %s is left out: trit has no use for it", n)
	}
	if n := len(r.Rounded); n > 0 {
		note(cmd, "trit: %d of %d tensors lost precision: %s cannot hold their numbers in full (%s); --json lists them", n, r.Tensors, r.Format, r.Rounded[0])
	}
	if len(r.Quantised) > 0 {
		worst := slices.MaxFunc(r.Quantised, func(a, b convert.TensorError) int { return cmp.Compare(a.Relative, b.Relative) })
		note(cmd, "trit: %d masters became ternary: relative error %.3f in the mean, at most %.3f (%s); --json lists all",
			len(r.Quantised), r.MeanError(), worst.Relative, worst.Name)
		if f.doubtful && r.MeanError() > convert.GaussianError-0.01 {
			note(cmd, "trit: warning: that is as far from ternary as random numbers are (%.3f): these weights do not look trained for BitNet", convert.GaussianError)
		}
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	files := ""
	if len(r.Parts) > 0 {
		files = fmt.Sprintf(" in %d files", len(r.Parts))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d tensors, %s parameters, %s%s\n", r.Path, r.Format, r.Tensors, term.Count(r.Parameters), term.Bytes(r.Bytes), files)
	return err
}

func newConvertCmd() *cobra.Command {
	var f modelFlags
	var w writeFlags

	names, about := convert.Formats()
	var list strings.Builder
	for i, n := range names {
		fmt.Fprintf(&list, "\n  %-12s %s", n, about[i])
	}
	cmd := &cobra.Command{
		Use:   "convert MODEL OUT --to FORMAT",
		Short: "Write a model in another format",
		Long: `Writes a model in another format, tensor by tensor. OUT is a folder for the hf formats and a file for the
gguf ones; it is complete or not there at all. Ternary codes stay the same bits in every format.

What the format cannot say of the model, such as another activation, is refused before anything is written. What was
written is read back and compared with the model: its whole configuration, codes, scales, floats and tokenizer.

With --split-size a GGUF model is written as several files, OUT-00001-of-0000N.gguf and so on, laid out as llama.cpp's
gguf-split does; any of them opens all.

Masters (bf16, f16, f32) become ternary as the model's own arithmetic makes them; the error is reported.
A model whose configuration does not say that it is BitNet is refused, as quantised it would write noise;
--quantize says that it was trained for it all the same.

Formats:` + list.String(),
		Example: `  trit convert microsoft/bitnet-b1.58-2B-4T bitnet.gguf --to gguf-i2_s
  trit convert ./my-bf16-masters ./packed --to hf-packed
  trit convert falcon.gguf ./falcon --to hf-packed
  trit convert llama3-8b.gguf llama3.gguf --to gguf-i2_s --split-size 500M`,
		Args: exactArgs("MODEL", "OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if w.format == "" {
				return usagef("--to is missing; formats: %s", strings.Trim(fmt.Sprint(names), "[]"))
			}
			o, err := w.options()
			if err != nil {
				return err
			}
			set, cfg, err := f.openSet(cmd, args[0])
			if err != nil {
				return err
			}
			defer set.Close()
			tok, err := trit.LoadTokenizer(set, "")
			if err != nil {
				return err
			}
			o.HFConfig, o.Tokenizer = set.HFConfig(), tok
			w.doubtful = f.Quantize
			switch {
			case o.Format.IsGGUF():
				if o.TokenizerKV, err = tok.GGUF(); err != nil {
					return err
				}
			case set.Folder() != nil:
				if o.Files, err = convert.CopyFiles(set.Folder()); err != nil {
					return err
				}
			default:
				if o.Files, err = tokenizerFiles(tok); err != nil {
					return err
				}
			}
			return w.write(cmd, args[1], convert.FromSet(set, cfg), o)
		},
	}
	f.hubFlags.add(cmd)
	f.addFile(cmd)
	w.add(cmd, "to", "")
	return cmd
}

// tokenizerFiles writes a tokenizer as the files of a Hugging Face folder.
func tokenizerFiles(t *tokenizer.Tokenizer) (map[string][]byte, error) {
	tok, err := t.JSON()
	if err != nil {
		return nil, err
	}
	config, err := t.ConfigJSON()
	if err != nil {
		return nil, err
	}
	generation := map[string]any{"eos_token_id": t.EOS()} // of which tokenizer_config.json has room for one
	if id, ok := t.BOS(); ok {
		generation["bos_token_id"] = id
	}
	data, err := json.MarshalIndent(generation, "", "  ")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"tokenizer.json": tok, "tokenizer_config.json": config, "generation_config.json": data}, nil
}

func newSynthCmd() *cobra.Command {
	var w writeFlags
	var seed uint64
	var zeros float64
	var layers, vocabularySize int
	var vocabulary string
	names, about := convert.Presets()
	var list strings.Builder
	for i, n := range names {
		fmt.Fprintf(&list, "\n  %-21s %s", n, about[i])
	}
	cmd := &cobra.Command{
		Use:   "synth PRESET OUT",
		Short: "Write a random model with the shape of a published one",
		Long: `Writes a seeded random model with the shape of a published one: it writes nonsense, but takes the memory and
the time of the real one. The same seed gives the same bytes. It is written as it is made, never held in memory.

Presets:` + list.String(),
		Example: `  trit synth bitnet-2b4t ./synthetic --seed 1 --zeros 0.8
  trit synth falcon3-1b falcon.gguf --format gguf-tq2_0
  trit synth bitnet-2b4t ./synthetic --tokenizer ./llama3
  trit synth bitnet-2b4t ./two-layers --layers 2 --vocab-size 16384`,
		Args: exactArgs("PRESET", "OUT"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return names, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := w.options()
			if err != nil {
				return err
			}
			r, err := convert.NewRandom(args[0], seed, zeros)
			if err != nil {
				return usageError{err}
			}
			if err := r.Cut(layers, vocabularySize); err != nil {
				return usageError{err}
			}
			if vocabulary != "" {
				t, err := tokenizer.Load(vocabulary)
				if err != nil {
					return err
				}
				if c := r.Config(); strings.HasPrefix(args[0], "tiny") { // they are nobody's: their vocabulary grows
					c.VocabSize = max(c.VocabSize, t.VocabSize())
				}
				o.Tokenizer = t
				if t.VocabSize() > r.Config().VocabSize {
					return fmt.Errorf("%s has %d tokens, and %s has room for %d", vocabulary, t.VocabSize(), args[0], r.Config().VocabSize)
				}
				if o.Format.IsGGUF() {
					o.TokenizerKV, err = t.GGUF()
				} else {
					o.Files, err = tokenizerFiles(t)
				}
				if err != nil {
					return err
				}
				return w.write(cmd, args[1], r, o)
			}
			files, err := r.TokenizerFiles()
			if err != nil {
				return err
			}
			if o.Format.IsGGUF() {
				t, err := tokenizer.FromJSON(files["tokenizer.json"], files["tokenizer_config.json"])
				if err != nil {
					return err
				}
				o.Tokenizer = t
				if o.TokenizerKV, err = t.GGUF(); err != nil {
					return err
				}
			} else {
				o.Files = files
			}
			return w.write(cmd, args[1], r, o)
		},
	}
	w.add(cmd, "format", string(convert.HFPacked))
	fl := cmd.Flags()
	fl.Uint64Var(&seed, "seed", 0, "the same seed gives the same model")
	fl.Float64Var(&zeros, "zeros", 0, "share of exact zeros in front of down_proj, for squared ReLU (default the natural half)")
	fl.IntVar(&layers, "layers", 0, "only the first so many layers (default all)")
	fl.IntVar(&vocabularySize, "vocab-size", 0, "a smaller vocabulary (default the preset's)")
	fl.StringVar(&vocabulary, "tokenizer", "", "take the tokenizer of this model folder, tokenizer.json or tokenizer.model")
	return cmd
}
