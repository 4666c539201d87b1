// Command curve trains one of trit's presets on a text and leaves behind all that PyTorch needs to do the same, for
// ../torch_curve.py: the initial weights, every batch, and the losses.
//
//	curve -text FILE -out DIR [-preset small] [-steps 300] [-seed 1] …
//
// DIR then holds init.ckpt, batches.json and trit.jsonl (a line a step: step, loss).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train"
)

func main() {
	text := flag.String("text", "", "text to train on; its first nine tenths are used, as trit train does")
	out := flag.String("out", "", "folder to write to")
	preset := flag.String("preset", "small", "shape")
	arch := flag.String("arch", "llama", "llama, transformer or bitnet")
	precision := flag.String("precision", "ternary", "ternary or float")
	steps := flag.Int("steps", 300, "optimizer steps")
	stop := flag.Int("stop", 0, "write batches for this many steps and train none, 0: train")
	o := train.DefaultOptions()
	flag.Uint64Var(&o.Seed, "seed", 1, "seed of weights and batches")
	flag.Float64Var(&o.LR, "lr", o.LR, "learning rate")
	flag.IntVar(&o.BatchSize, "batch", o.BatchSize, "sequences per batch")
	flag.StringVar(&o.Gradients, "grad-precision", o.Gradients, "int16 or f32")
	threads := flag.Int("threads", 0, "worker threads, 0: all cores")
	flag.Parse()
	o.MaxIters = *steps
	if err := run(*text, *out, *preset, *arch, *precision, o, *stop, *threads); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// batches is batches.json.
type batches struct {
	Batch   int       `json:"batch"`
	Block   int       `json:"block"`
	IDs     [][]int32 `json:"ids"`
	Targets [][]int32 `json:"targets"`
}

func run(text, out, preset, arch, precision string, o train.Options, stop, threads int) error {
	if text == "" || out == "" {
		return errors.New("curve: -text and -out are needed")
	}
	body, err := data.ReadText(context.Background(), text, nil)
	if err != nil {
		return err
	}
	vocab, err := data.Chars(body)
	if err != nil {
		return err
	}
	ids, _ := data.Split(vocab.EncodeAll(body), 0.1)
	tokens := data.NewTokens(ids, vocab.Size())
	pool := par.New(threads)
	defer pool.Close()
	c, err := train.Preset(preset, arch, precision)
	if err != nil {
		return err
	}
	c.VocabSize = vocab.Size()
	m, err := train.New(c, pool, o.Seed)
	if err != nil {
		return err
	}
	t, err := train.NewTrainer(m, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := t.Save(filepath.Join(out, "init.ckpt"), vocab.JSON); err != nil {
		return err
	}
	b, n := batches{Batch: o.BatchSize, Block: c.Block}, o.MaxIters
	if stop > 0 {
		n = stop
	}
	for batch, err := range t.Batches(tokens) {
		if err != nil {
			return err
		}
		b.IDs, b.Targets = append(b.IDs, batch.IDs), append(b.Targets, batch.Targets)
		if len(b.IDs) == n {
			break
		}
	}
	j, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "batches.json"), j, 0o644); err != nil || stop > 0 {
		return err
	}
	f, err := os.Create(filepath.Join(out, "trit.jsonl"))
	if err != nil {
		return err
	}
	defer f.Close()
	for s, err := range t.Run(context.Background(), t.Batches(tokens)) {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(f, "{\"step\": %d, \"loss\": %.9g}\n", s.N, s.Loss); err != nil {
			return err
		}
	}
	return f.Close()
}
