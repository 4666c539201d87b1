package train

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/tempfile"
)

const text = `the quick brown fox jumps over the lazy dog, and the dog sleeps on.
the fox runs home over the hill; the hill is green and the day is long.
`

func startTiny(t *testing.T, dir, arch, precision string, change func(*Options)) *Run {
	t.Helper()
	pool := par.New(2)
	t.Cleanup(pool.Close)
	body := ""
	for range 20 {
		body += text
	}
	vocab, err := data.Chars(body)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Preset("tiny", arch, precision)
	if err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions()
	o.BatchSize, o.MaxIters, o.LR, o.EvalEvery, o.EvalBatches, o.SaveEvery, o.SampleTokens = 4, 20, 3e-3, 10, 2, 7, 10
	if change != nil {
		change(&o)
	}
	r, err := Start(dir, c, o, vocab, vocab.EncodeAll(body), 0.1, pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestTrainingLearns(t *testing.T) {
	for _, arch := range Archs {
		for _, precision := range Precisions {
			t.Run(arch+"/"+precision, func(t *testing.T) {
				r := startTiny(t, t.TempDir(), arch, precision, func(o *Options) { o.MaxIters = 60 })
				var first, last float64
				if err := r.Do(context.Background(), func(rec Record) {
					if first == 0 {
						first = rec.Loss
					}
					last = rec.Loss
				}); err != nil {
					t.Fatal(err)
				}
				if last > first*0.75 {
					t.Errorf("loss went from %.3f to %.3f", first, last)
				}
				t.Logf("loss %.3f -> %.3f, validation %.3f", first, last, r.Trainer.Best)
			})
		}
	}
}

// TestResumeIsBitIdentical stops a run at a step that is no checkpoint's multiple and continues it.
func TestResumeIsBitIdentical(t *testing.T) {
	whole := startTiny(t, t.TempDir(), "llama", "ternary", nil)
	losses := map[int]float64{}
	if err := whole.Do(context.Background(), func(r Record) { losses[r.Step] = r.Loss }); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	part := startTiny(t, dir, "llama", "ternary", nil)
	ctx, cancel := context.WithCancel(context.Background())
	err := part.Do(ctx, func(r Record) {
		if r.Step == 12 {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("a cancelled run returned no error")
	}
	part.Close()
	pool := par.New(1) // another worker count
	defer pool.Close()
	rest, err := Resume(dir, pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	if rest.Trainer.Steps != 12 {
		t.Fatalf("resumed at step %d, want 12", rest.Trainer.Steps)
	}
	if err := rest.Do(context.Background(), func(r Record) {
		if losses[r.Step] != r.Loss {
			t.Errorf("step %d: loss %v, uninterrupted %v", r.Step, r.Loss, losses[r.Step])
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i, v := range whole.Trainer.Model.w {
		if rest.Trainer.Model.w[i] != v {
			t.Fatalf("parameter %d differs", i)
		}
	}
	recs, err := ReadMetrics(dir)
	if err != nil || len(recs) != 21 {
		t.Fatalf("%d records, %v; want 21", len(recs), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A run that is stopped before its first validation leaves the newest model, and the same one as its checkpoint.
func TestStoppedRunHasAModel(t *testing.T) {
	dir := t.TempDir()
	r := startTiny(t, dir, "bitnet", "ternary", func(o *Options) { o.EvalEvery = 15 })
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Do(ctx, func(rec Record) {
		if rec.Step == 3 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	fsys, err := r.Trainer.Model.FS(r.Vocab)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		want, err := fs.ReadFile(fsys, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

// What a process left that was killed while it saved goes at the next start, and what another process is saving stays.
func TestResumeRemovesStaleTemporaries(t *testing.T) {
	dir := t.TempDir()
	startTiny(t, dir, "llama", "ternary", nil).Close()
	if err := os.WriteFile(filepath.Join(dir, ".last.ckpt.1234.tmp"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := tempfile.Create(filepath.Join(dir, "best.ckpt"), tempfile.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	pool := par.New(1)
	defer pool.Close()
	r, err := Resume(dir, pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")); len(left) != 1 || left[0] != other.Name() {
		t.Errorf("temporaries %v, want %s alone", left, other.Name())
	}
}
