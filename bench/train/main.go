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
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train"
)

func main() {
	arch := flag.String("arch", "llama", "llama, transformer or bitnet")
	precision := flag.String("precision", "ternary", "ternary or float")
	batch := flag.Int("batch", 32, "sequences per batch")
	steps := flag.Int("steps", 3, "steps to time, after one to warm up")
	threads := flag.Int("threads", 0, "worker threads, 0: all cores")
	grad := flag.String("grad-precision", "int16", "int16 or f32")
	profile := flag.String("cpuprofile", "", "write a CPU profile of the timed steps")
	flag.Parse()
	if err := run(*arch, *precision, *grad, *batch, *steps, *threads, *profile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arch, precision, grad string, batch, steps, threads int, profile string) error {
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
		}
	}
	wall, used := time.Since(start), cpuTime()-cpu
	tokens := float64(steps * batch * c.Block)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"what": "trit " + gemm.Tier() + " " + grad, "tokens_per_s": tokens / wall.Seconds(), "tokens_per_cpu_s": tokens / used.Seconds(),
		"threads": pool.Threads(), "steps": steps, "peak_mib": train.PeakMiB(),
	})
}
