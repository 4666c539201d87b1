package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/accel/tensix"
	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/model/cpu"
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
	PeakMACs        float64 `json:"int8_peak_macs_per_second,omitempty"` // of this machine's registers
	ShareOfPeak     float64 `json:"int8_peak_share,omitempty"`           // that reading the prompt reached
	HeadRows        float64 `json:"head_rows_per_token,omitempty"`       // computed exactly, of the vocabulary
	Vocabulary      int     `json:"vocabulary"`

	Device *tensix.Report `json:"device,omitempty"` // with --device tensix
}

func newBenchCmd() *cobra.Command {
	var f modelFlags
	var o eval.BenchOptions
	var asJSON, noBandwidth, modelOnly bool
	var report string
	var kernelTime time.Duration
	cmd := &cobra.Command{
		Use:   "bench MODEL | --kernels",
		Short: "Measure load time, memory and speed",
		Long: `Loads the model, reads a prompt of random tokens, writes tokens one by one, and says how long that took, how much
memory it took, how many bytes each token reads and what share that is of what this machine's memory gives, and
what share of its int8 arithmetic reading the prompt reached.
Speeds are medians over the repeats, with the least and the most.

With --kernels it takes no model and measures the inner loops themselves: every tier that this processor runs (the
others are named), at the shapes of BitNet b1.58 2B4T, each thread through weights in memory of its own. Each line
has multiply-adds and bytes of weights a second, and what share they are of the machine's limits: of reading memory
and doing nothing else, and of multiplying in registers and reading nothing. All take turns, and the shortest run of
each counts.

With --device tensix the card is reported too: its tiles, banks and clock before, during and after, doorbells, bytes and
rate of its memory, clocks of the slowest tile by what it did, and what the host did meanwhile. --report FILE climbs
the self-test first and writes all of it into a file to attach to an issue; it holds no names of people, machines or
files and no serial numbers.

With --device tensix --model-only nothing is measured and no card is needed: a model of the card's speed is printed,
for MODEL's shape, or BitNet b1.58 2B4T's when no MODEL is named.`,
		Example: `  trit bench ./model
  trit bench ./model --prompt-tokens 512 --tokens 128 --threads 2
  trit bench ./model --json
  trit bench --kernels --threads 1
  trit bench ./model --device tensix --report card.json
  trit bench --device tensix --model-only`,
		Args: func(cmd *cobra.Command, args []string) error {
			if args = f.takeTier(args); f.Kernels == allTiers {
				return exactArgs()(cmd, args)
			}
			if modelOnly && len(args) == 0 {
				return nil
			}
			return exactArgs("MODEL")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.Kernels == allTiers {
				f.Kernels = ""
				if err := f.check(); err != nil {
					return err
				}
				return benchKernels(cmd, f.Threads, kernelTime, asJSON)
			}
			args = f.takeTier(args)
			if modelOnly {
				return f.speedModel(cmd, args)
			}
			if o.Prompt < 1 || o.Tokens < 1 || o.Repeats < 1 {
				return usagef("--prompt-tokens, --tokens and --repeats must be at least 1")
			}
			d, err := parseDevice(f.device)
			if err != nil {
				return err
			}
			var card *cardFile
			if report != "" {
				if d.kind == "" {
					return usagef("--report is about a card: add --device tensix")
				}
				if card, err = newCardFile(cmd.Context(), cmd.ErrOrStderr(), d); err != nil {
					return err
				}
			}
			var watch *tensix.Watch
			f.onDevice = func(d *tensix.Device) { watch = d.Watch() }
			m, err := f.open(cmd, args[0])
			if err != nil {
				if card != nil {
					err = errors.Join(err, card.write(report, nil, nil, err))
				}
				return err
			}
			defer m.Close()
			b := benchmark{
				Model: m.Path(), System: runtime.GOOS + "/" + runtime.GOARCH, Kernels: kernel.Tier(), Threads: f.Threads,
				LoadSeconds: m.LoadTime().Seconds(),
			}
			if b.Threads == 0 {
				b.Threads = par.Cores()
			}
			p := progress(cmd, "bench", false)
			defer p.Done()
			o.Step = func(done, total int64) {
				p.Set(done, total)
				if watch != nil {
					watch.Sample()
				}
			}
			if b.Speed, err = eval.Bench(cmd.Context(), m.Engine(), o); err != nil {
				if card != nil {
					err = errors.Join(err, card.write(report, m.Config(), nil, err))
				}
				return err
			}
			p.Done()
			if watch != nil {
				r := watch.Report()
				b.Device = &r
			}
			b.PeakBytes = eval.PeakMemory()
			mem := eval.Estimate(m.Config(), m.Weights())
			b.BytesPerToken = mem.PerToken(o.Prompt + o.Tokens/2)
			b.MemoryEstimated = mem.Total(o.Prompt + o.Tokens)
			b.Vocabulary = m.Config().VocabSize
			if tokens, rows, ok := cpu.HeadStats(m.Engine()); ok && tokens > 0 {
				b.HeadRows = float64(rows) / float64(tokens)
			}
			b.BytesPerSecond = float64(b.BytesPerToken) * b.Decode
			if !noBandwidth {
				l, err := kernel.MeasureLimits(cmd.Context(), kernel.MeasureOptions{Threads: b.Threads, Time: time.Second})
				if err != nil {
					return err
				}
				b.Bandwidth, b.PeakMACs = l.Read, l.Int8
				b.ShareOfMaximum = b.BytesPerSecond / b.Bandwidth
				b.ShareOfPeak = b.Prompt * float64(4*mem.Ternary) / b.PeakMACs // four weights to a byte
			}
			if card != nil {
				if err := card.write(report, m.Config(), &b, nil); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "trit: wrote %s; please attach it to an issue (docs/blackhole.md, section 8)\n", report)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), b)
			}
			return term.Pairs(cmd.OutOrStdout(), b.rows())
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.IntVar(&o.Prompt, "prompt-tokens", 128, "length of the prompt")
	fl.IntVar(&o.Tokens, "tokens", 64, "tokens to write behind it")
	fl.IntVar(&o.Repeats, "repeats", 3, "how often to measure")
	fl.BoolVar(&noBandwidth, "no-bandwidth", false, "do not measure the machine's own limits (that takes 256 MB for a moment)")
	kernels := fl.Lookup("kernels")
	kernels.NoOptDefVal = allTiers
	kernels.Usage += "; by itself: measure those of all, and no model"
	fl.DurationVar(&kernelTime, "kernel-time", 10*time.Second, "how long --kernels measures")
	fl.StringVar(&report, "report", "", "with --device tensix: climb the self-test, then write all that was found about the card to this file")
	fl.BoolVar(&modelOnly, "model-only", false, "with --device tensix: measure nothing, print what a card is expected to do (needs no card)")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (b *benchmark) rows() [][2]string {
	rows := [][2]string{
		{"model", b.Model},
		{"machine", fmt.Sprintf("%s, kernels %s, %d threads", b.System, b.Kernels, b.Threads)},
		{"load", fmt.Sprintf("%.3g s", b.LoadSeconds)},
		{"memory", fmt.Sprintf("%s at the peak, %s estimated", term.Bytes(b.PeakBytes), term.Bytes(b.MemoryEstimated))},
		{"prompt", fmt.Sprintf("%.1f tokens/s (%.1f to %.1f) over %d tokens", b.Prompt, b.PromptMin, b.PromptMax, b.PromptTokens)},
		{"decode", fmt.Sprintf("%.1f tokens/s (%.1f to %.1f) over %d tokens", b.Decode, b.DecodeMin, b.DecodeMax, b.Tokens)},
		{"per token", fmt.Sprintf("%s read, %s/s", term.Bytes(b.BytesPerToken), term.Bytes(int64(b.BytesPerSecond)))},
	}
	if b.HeadRows > 0 {
		rows = append(rows, [2]string{"head", fmt.Sprintf("%.0f of %d rows computed exactly a token; a screen ruled the others out", b.HeadRows, b.Vocabulary)})
	}
	if b.Device != nil {
		rows = append(rows, b.Device.Rows()...)
	}
	if b.Bandwidth > 0 {
		use := fmt.Sprintf("decoding uses %.0f%% of it", 100*b.ShareOfMaximum)
		if b.BytesPerToken < 64<<20 {
			use = "what this model reads may fit the cache"
		}
		rows = append(rows,
			[2]string{"bandwidth", fmt.Sprintf("%s/s on this machine; %s", term.Bytes(int64(b.Bandwidth)), use)},
			[2]string{"arithmetic", fmt.Sprintf("%.0f G int8 multiply-adds/s on this machine; the prompt uses %.0f%% of them", b.PeakMACs/1e9, 100*b.ShareOfPeak)})
	}
	return rows
}

// allTiers is --kernels by itself.
const allTiers = "all"

// takeTier takes the tier of "--kernels TIER MODEL" out of the arguments, where a flag that may stand by itself leaves it.
func (f *modelFlags) takeTier(args []string) []string {
	i := slices.IndexFunc(args, func(a string) bool { return slices.Contains(kernel.Tiers(), a) })
	if len(args) == 2 && i >= 0 && (f.Kernels == allTiers || f.Kernels == args[i]) {
		f.Kernels = args[i]
		return slices.Delete(slices.Clone(args), i, i+1)
	}
	return args
}

// kernelTable is what bench --kernels --json prints.
type kernelTable struct {
	System  string         `json:"system"`
	Default string         `json:"default"`   // the tier
	T5      bool           `json:"prefer_t5"` // the layout it decodes from, where that is not T16
	Threads int            `json:"threads"`
	Limits  kernel.Limits  `json:"limits"`
	Kernels []kernel.Speed `json:"kernels"`

	Tiers []kernel.TierInfo `json:"tiers"` // of all machines
}

func benchKernels(cmd *cobra.Command, threads int, d time.Duration, asJSON bool) error {
	if d <= 0 {
		return usagef("--kernel-time must be more than 0")
	}
	k := kernelTable{System: runtime.GOOS + "/" + runtime.GOARCH, Default: kernel.Tier(), T5: kernel.PreferT5(), Threads: threads, Tiers: kernel.AllTiers()}
	if k.Threads == 0 {
		k.Threads = par.Cores()
	}
	p := progress(cmd, "bench", false)
	defer p.Done()
	var err error
	if k.Kernels, k.Limits, err = kernel.Measure(cmd.Context(), kernel.MeasureOptions{Threads: k.Threads, Time: d, Step: p.Set}); err != nil {
		return err
	}
	p.Done()
	w := cmd.OutOrStdout()
	if asJSON {
		return printJSON(w, k)
	}
	layout := "T16"
	if k.T5 {
		layout = "T5"
	}
	about := [][2]string{
		{"machine", fmt.Sprintf("%s, %d threads; kernels %s, which decode from %s", k.System, k.Threads, k.Default, layout)},
		{"limits", fmt.Sprintf("int8 %.0f GMAC/s, float32 %.0f GMAC/s, reading %.1f GB/s", k.Limits.Int8/1e9, k.Limits.F32/1e9, k.Limits.Read/1e9)},
	}
	for _, t := range k.Tiers {
		if !t.Here {
			about = append(about, [2]string{t.Name, "not on this machine: for " + t.Needs})
		}
	}
	if err := term.Pairs(w, append(about, [2]string{})); err != nil {
		return err
	}
	cell := func(format string, v float64) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	rows := [][]string{{"tier", "kernel", "shape", "GMAC/s", "GB/s", "of reading", "of arithmetic"}}
	for _, s := range k.Kernels {
		rows = append(rows, []string{
			s.Tier, s.Kernel, s.Shape,
			cell("%.1f", s.MACs/1e9), cell("%.1f", s.Bytes/1e9), cell("%.2f", s.Read), cell("%.2f", s.Peak),
		})
	}
	return term.Table(w, rows)
}
