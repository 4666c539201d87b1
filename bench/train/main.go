// Command train times training of the study's model with trit, as torch_speed.py does with PyTorch: 65
// characters, 512 wide, 8 heads, 8 layers, block 128, batch 32, AdamW at 2e-4, random tokens.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/gemm"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train"
	"github.com/tritlm/trit/train/nn"
)

func main() {
	arch := flag.String("arch", "llama", "llama, transformer or bitnet")
	precision := flag.String("precision", "ternary", "ternary or float")
	batch := flag.Int("batch", 32, "sequences per batch")
	steps := flag.Int("steps", 3, "steps to time, after one to warm up")
	threads := flag.Int("threads", 0, "worker threads, 0: all cores")
	grad := flag.String("grad-precision", "int16", "int16 or f32")
	profile := flag.String("cpuprofile", "", "write a CPU profile of the timed steps")
	stages := flag.Bool("stages", false, "print what share of the processor time each part of a step takes, and of the peak it reaches")
	flag.Parse()
	if err := run(*arch, *precision, *grad, *batch, *steps, *threads, *profile, *stages); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arch, precision, grad string, batch, steps, threads int, profile string, stages bool) error {
	pool := par.New(threads)
	defer pool.Close()
	c, err := train.Preset("study", arch, precision)
	if err != nil {
		return err
	}
	c.VocabSize = 65
	m, err := train.New(c, pool, 1)
	if err != nil {
		return err
	}
	o := train.DefaultOptions()
	o.BatchSize, o.MaxIters, o.Gradients = batch, steps+1, grad
	t, err := train.NewTrainer(m, o)
	if err != nil {
		return err
	}
	ids := make([]int32, 1<<16)
	for i := range ids {
		ids[i] = int32(uint32(i) * 2654435761 >> 16 % 65)
	}
	var start time.Time
	var cpu time.Duration
	spent, stage, since := map[string]time.Duration{}, "", time.Duration(0)
	mark := func(name string) {
		now := cpuTime()
		spent[stage] += now - since
		stage, since = name, now
	}
	for s, err := range t.Run(context.Background(), t.Batches(data.NewTokens(ids, 65))) {
		if err != nil {
			return err
		}
		if s.N == 1 {
			if profile != "" {
				f, err := os.Create(profile)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := pprof.StartCPUProfile(f); err != nil {
					return err
				}
				defer pprof.StopCPUProfile()
			}
			start, cpu = time.Now(), cpuTime()
			if stages {
				since = cpu
				m.OnStage(mark)
			}
		}
	}
	wall, used := time.Since(start), cpuTime()-cpu
	mark("")
	m.OnStage(nil)
	tokens := float64(steps * batch * c.Block)
	err = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"what": "trit " + gemm.Tier() + " " + precision + " " + grad, "tokens_per_s": tokens / wall.Seconds(), "tokens_per_cpu_s": tokens / used.Seconds(),
		"threads": pool.Threads(), "steps": steps, "peak_mib": train.PeakMiB(),
	})
	if err != nil || !stages {
		return err
	}
	return table(m, tokens, used, spent, precision, grad)
}

// table prints the parts of a step. The share of the peak is the time that a part's multiply-adds would take at the peak of
// the processor's registers, measured here, over the time it took; int16 products can be half as fast as int8 ones.
func table(m *train.Model, tokens float64, used time.Duration, spent map[string]time.Duration, precision, grad string) error {
	peak, err := kernel.MeasureLimits(context.Background(), kernel.MeasureOptions{Threads: 1, Time: 2 * time.Second})
	if err != nil {
		return err
	}
	int8Peak, f32Peak := peak.Int8, peak.F32
	c := m.Config
	D, F, kv, S := float64(c.HiddenSize), float64(c.IntermediateSize), float64(c.HiddenSize/c.NumHeads*c.NumKVHeads), float64(c.Block)
	ffn := 3 * D * F
	if c.Arch == "transformer" {
		ffn = 2 * D * F
	}
	linear := tokens * float64(c.NumLayers) * (2*D*D + 2*D*kv + ffn)
	attention := tokens * float64(c.NumLayers) * (S + 1) / 2 * D * 2 // scores and mix, the causal half
	forward, backward := f32Peak, f32Peak
	if precision == "ternary" {
		forward = int8Peak
		if grad == "int16" {
			backward = int8Peak / 2
		}
	}
	head := tokens * D * float64(c.VocabSize)
	ideal := map[string]float64{
		"linear forward": linear / forward, "linear backward, dX": linear / backward, "linear backward, dW": linear / backward,
		"attention forward": attention / f32Peak, "attention backward": 2 * attention / f32Peak, "head and loss": 3 * head / f32Peak,
	}
	fmt.Printf("register peaks of one thread: int8 %.0f, float32 %.0f GMAC/s\n\n| part of a step | share of the time | share of the peak |\n|---|---|---|\n", int8Peak/1e9, f32Peak/1e9)
	sum, all := 0.0, 0.0
	for _, name := range nn.Stages {
		t := spent[name].Seconds()
		if t == 0 {
			continue
		}
		peak := ""
		if i := ideal[name]; i > 0 {
			peak = fmt.Sprintf("%.2f", i/t)
			sum += i
		}
		all += t
		fmt.Printf("| %s | %.1f%% | %s |\n", name, 100*t/used.Seconds(), peak)
	}
	fmt.Printf("| all | %.1f%% | %.2f |\n", 100*all/used.Seconds(), sum/used.Seconds())
	return nil
}
