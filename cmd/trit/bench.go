package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/model"
)

// benchmark is what bench --json prints.
type benchmark struct {
	Model       string  `json:"model"`
	System      string  `json:"system"`
	Kernels     string  `json:"kernels"`
	Threads     int     `json:"threads"`
	LoadSeconds float64 `json:"load_seconds"`
	PeakBytes   int64   `json:"peak_bytes"`
	eval.Speed
	BytesPerToken   int64   `json:"bytes_per_token"`
	BytesPerSecond  float64 `json:"bytes_per_second"` // what decoding read
	Bandwidth       float64 `json:"bandwidth_bytes_per_second,omitempty"`
	ShareOfMaximum  float64 `json:"bandwidth_share,omitempty"`
	MemoryEstimated int64   `json:"memory_estimate_bytes"`
	HeadRows        float64 `json:"head_rows_per_token,omitempty"` // computed exactly, of the vocabulary
	Vocabulary      int     `json:"vocabulary"`
}

func newBenchCmd() *cobra.Command {
	var f modelFlags
	var o eval.BenchOptions
	var asJSON, noBandwidth, predict bool
	cmd := &cobra.Command{
		Use:   "bench MODEL",
		Short: "Measure load time, memory and speed",
		Long: `Loads the model, reads a prompt of random tokens, writes tokens one by one, and says how long that took, how much
memory it took, how many bytes each token reads and what share that is of what this machine's memory gives.
Speeds are medians over the repeats, with the least and the most.`,
		Example: `  trit bench ./model
  trit bench ./model --prompt-tokens 512 --tokens 128 --threads 2
  trit bench ./model --json
  trit bench ./model --predict-tensix`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Prompt < 1 || o.Tokens < 1 || o.Repeats < 1 {
				return usagef("--prompt-tokens, --tokens and --repeats must be at least 1")
			}
			if predict {
				set, cfg, err := f.openSet(cmd, args[0])
				if err != nil {
					return err
				}
				defer set.Close()
				return benchDeviceModel(cmd.OutOrStdout(), cfg)
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			b := benchmark{
				Model: m.Path(), System: runtime.GOOS + "/" + runtime.GOARCH, Kernels: kernel.Tier(), Threads: f.Threads,
				LoadSeconds: m.LoadTime().Seconds(),
			}
			if b.Threads == 0 {
				b.Threads = runtime.GOMAXPROCS(0)
			}
			p := progress(cmd, "bench", false)
			defer p.Done()
			o.Step = p.Set
			if b.Speed, err = eval.Bench(cmd.Context(), m.Engine(), o); err != nil {
				return err
			}
			p.Done()
			b.PeakBytes = eval.PeakMemory()
			mem := eval.Estimate(m.Config(), m.Weights())
			b.BytesPerToken = mem.PerToken(o.Prompt + o.Tokens/2)
			b.MemoryEstimated = mem.Total(o.Prompt + o.Tokens)
			b.Vocabulary = m.Config().VocabSize
			if tokens, rows, ok := model.HeadStats(m.Engine()); ok && tokens > 0 {
				b.HeadRows = float64(rows) / float64(tokens)
			}
			b.BytesPerSecond = float64(b.BytesPerToken) * b.Decode
			if !noBandwidth {
				b.Bandwidth = eval.Bandwidth(cmd.Context(), b.Threads)
				b.ShareOfMaximum = b.BytesPerSecond / b.Bandwidth
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), b)
			}
			return term.Table(cmd.OutOrStdout(), b.rows())
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.IntVar(&o.Prompt, "prompt-tokens", 128, "length of the prompt")
	fl.IntVar(&o.Tokens, "tokens", 64, "tokens to write behind it")
	fl.IntVar(&o.Repeats, "repeats", 3, "how often to measure")
	fl.BoolVar(&noBandwidth, "no-bandwidth", false, "do not measure the machine's memory bandwidth (it takes 256 MB for a moment)")
	fl.BoolVar(&predict, "predict-tensix", false, "measure nothing: print what a Tenstorrent Blackhole should do with a model of this shape")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (b *benchmark) rows() [][]string {
	rows := [][]string{
		{"model", b.Model},
		{"machine", fmt.Sprintf("%s, kernels %s, %d threads", b.System, b.Kernels, b.Threads)},
		{"load", fmt.Sprintf("%.3g s", b.LoadSeconds)},
		{"memory", fmt.Sprintf("%s at the peak, %s estimated", term.Bytes(b.PeakBytes), term.Bytes(b.MemoryEstimated))},
		{"prompt", fmt.Sprintf("%.1f tokens/s (%.1f to %.1f) over %d tokens", b.Prompt, b.PromptMin, b.PromptMax, b.PromptTokens)},
		{"decode", fmt.Sprintf("%.1f tokens/s (%.1f to %.1f) over %d tokens", b.Decode, b.DecodeMin, b.DecodeMax, b.Tokens)},
		{"per token", fmt.Sprintf("%s read, %s/s", term.Bytes(b.BytesPerToken), term.Bytes(int64(b.BytesPerSecond)))},
	}
	if b.HeadRows > 0 {
		rows = append(rows, []string{"head", fmt.Sprintf("%.0f of %d rows computed exactly a token; a 4-bit screen ruled the others out", b.HeadRows, b.Vocabulary)})
	}
	if b.Bandwidth > 0 {
		rows = append(rows, []string{"bandwidth", fmt.Sprintf("%s/s measured on this machine; decoding uses %.0f%% of it", term.Bytes(int64(b.Bandwidth)), 100*b.ShareOfMaximum)})
	}
	for i := range rows {
		rows[i][1] = "  " + rows[i][1]
	}
	return rows
}
