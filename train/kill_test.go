package train

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
)

// TestMain runs the process that TestKilledRunsResume kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRIT_TEST_TRAIN_DIR"); dir != "" {
		pool := par.New(2)
		r, err := Resume(dir, pool, nil)
		if err == nil {
			err = r.Do(context.Background(), func(Record) {})
		}
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKilledRunsResume kills a training process at 20 random moments with SIGKILL, continuing each time, and compares the
// end with an uninterrupted run, bit for bit.
func TestKilledRunsResume(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 20 processes")
	}
	change := func(o *Options) { o.MaxIters, o.SaveEvery, o.EvalEvery = 400, 5, 50 }
	whole := startTiny(t, t.TempDir(), "bitnet", "ternary", change)
	if err := whole.Do(context.Background(), func(Record) {}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	startTiny(t, dir, "bitnet", "ternary", change).Close()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	kills, early := 0, 0
	for kills < 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "TRIT_TEST_TRAIN_DIR="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(50+r.IntN(700)) * time.Millisecond)
		cmd.Process.Kill()
		err := cmd.Wait()
		if err == nil {
			early++ // it was done before the kill: begin again
			if early > 100 {
				t.Fatal("the run is too short to be killed 20 times")
			}
			os.RemoveAll(dir)
			startTiny(t, dir, "bitnet", "ternary", change).Close()
			continue
		}
		if stderr.Len() > 0 {
			t.Fatalf("kill %d: the process could not continue: %s", kills, stderr.String())
		}
		kills++
	}
	pool := par.New(1)
	defer pool.Close()
	end, err := Resume(dir, pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")); len(left) != 0 {
		t.Errorf("left behind by killed processes: %v", left)
	}
	at := end.Trainer.Steps
	if err := end.Do(context.Background(), func(Record) {}); err != nil {
		t.Fatal(err)
	}
	for i, v := range whole.Trainer.Model.w {
		if end.Trainer.Model.w[i] != v {
			t.Fatalf("parameter %d is %v, uninterrupted %v", i, end.Trainer.Model.w[i], v)
		}
	}
	a, _ := ReadMetrics(whole.Dir)
	b, err := ReadMetrics(dir)
	if err != nil || len(a) != len(b) {
		t.Fatalf("%d records, uninterrupted %d; %v", len(b), len(a), err)
	}
	for i := range a {
		if a[i].Loss != b[i].Loss || a[i].Step != b[i].Step {
			t.Fatalf("record %d: %v, uninterrupted %v", i, b[i], a[i])
		}
	}
	t.Logf("20 kills, last resume at step %d of %d; final loss %v, the same bits", at, end.Trainer.Options.MaxIters, b[len(b)-1].Loss)
}

func TestBadInputIsOneClearLine(t *testing.T) {
	pool := par.New(1)
	defer pool.Close()
	vocab, err := data.Chars(text)
	if err != nil {
		t.Fatal(err)
	}
	ids := vocab.EncodeAll(strings.Repeat(text, 10))
	c, _ := Preset("tiny", "llama", "ternary")
	o := DefaultOptions()
	o.MaxIters, o.BatchSize = 3, 2
	try := func(c Config, o Options, ids []int32) error {
		r, err := Start(t.TempDir(), c, o, vocab, ids, 0.1, pool)
		if err != nil {
			return err
		}
		defer r.Close()
		return r.Do(context.Background(), func(Record) {})
	}
	want := func(name string, err error, parts ...string) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", name)
			return
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %q does not contain %q", name, err, p)
			}
		}
	}
	if err := try(c, o, ids); err != nil {
		t.Fatal(err)
	}
	nan := o
	nan.LR = nanValue()
	want("NaN learning rate", try(c, nan, ids), "--lr", "NaN")
	huge := o
	huge.LR, huge.Clip, huge.MaxIters = 1e30, 0, 20
	err = try(c, huge, ids)
	want("exploding learning rate", err, "learning rate", "--lr", "last checkpoint is good")
	if !errors.Is(err, ErrNotFinite) {
		t.Errorf("exploding learning rate: %v", err)
	}
	want("no text", try(c, o, nil), "no text")
	if err := try(c, o, ids[:20]); !errors.Is(err, data.ErrShort) {
		t.Errorf("block longer than the data: %v", err)
	}
	odd := c
	odd.NumHeads = 5
	want("heads", try(odd, o, ids), "5 heads")
	odd = c
	odd.Arch = "rnn"
	want("architecture", try(odd, o, ids), "rnn", "llama")

	// Runs and checkpoints that are not what they should be.
	dir := t.TempDir()
	r := startTiny(t, dir, "llama", "ternary", nil)
	r.Close()
	_, err = Start(dir, c, o, vocab, ids, 0.1, pool)
	want("second start", err, "--resume")
	_, err = Resume(t.TempDir(), pool, nil)
	want("nothing to resume", err, "holds no run")
	last := filepath.Join(dir, lastName)
	good, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"cut": good[:len(good)/2], "empty": {}, "foreign": []byte("PK\x03\x04 something else entirely, long enough"),
		"flipped bit": func() []byte { b := append([]byte(nil), good...); b[len(b)-9] ^= 4; return b }(),
	} {
		os.WriteFile(last, bad, 0o644)
		if _, err := Resume(dir, pool, nil); !errors.Is(err, ErrCheckpoint) || !strings.Contains(err.Error(), last) {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.WriteFile(last, good, 0o644)
	// Another vocabulary's tokens under the run.
	f, _ := os.Create(filepath.Join(dir, "train.bin"))
	data.WriteTokens(f, ids, 99)
	f.Close()
	_, err = Resume(dir, pool, nil)
	want("vocabulary mismatch", err, "99", "not of one run")
}

func nanValue() float64 { z := 0.0; return z / z }

// TestFullDiskKeepsTheCheckpoint saves with a limit on the size of files, which fails as a full disk does.
func TestFullDiskKeepsTheCheckpoint(t *testing.T) {
	dir := t.TempDir()
	startTiny(t, dir, "llama", "ternary", nil)
	last := filepath.Join(dir, lastName)
	before, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	full := syscall.ENOSPC
	err = WriteFile(last, func(w io.Writer) error {
		w.Write(before[:100])
		return full
	})
	if !errors.Is(err, full) || !strings.Contains(err.Error(), "untouched") {
		t.Errorf("%v", err)
	}
	after, err := os.ReadFile(last)
	if err != nil || string(after) != string(before) {
		t.Error("the checkpoint changed")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".last*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
