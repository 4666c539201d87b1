package cpu

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// packedLogits loads the golden model with a packed copy in dir and gives logits, and what was noted.
func packedLogits(t *testing.T, dir string) (logits []float32, notes []error, missed bool) {
	t.Helper()
	return packedLogitsOf(t, "../../testdata/goldens/bitnet-2b4t", dir)
}

// packedLogitsOf is the same for a model, without a copy where dir is "".
func packedLogitsOf(t *testing.T, path, dir string) (logits []float32, notes []error, missed bool) {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Backend{CacheDir: dir, Note: func(err error) { notes = append(notes, err) }}.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	logits = make([]float32, cfg.VocabSize)
	if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: []int32{1, 2, 3}, Logits: logits}}); err != nil {
		t.Fatal(err)
	}
	copied := e.(*engine.Engine).Products().(*cpuProducts).packed
	missed = copied != nil && copied.missed
	if err := e.Close(); err != nil { // waits for the copy
		t.Fatal(err)
	}
	return logits, notes, missed
}

func TestPackedCopy(t *testing.T) {
	packedMin = 0
	dir := t.TempDir()
	want, notes, missed := packedLogits(t, dir)
	if len(notes) != 0 || !missed {
		t.Fatalf("first start: missed %v, notes %v", missed, notes)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 {
		t.Fatalf("files %v, want one", files)
	}
	got, notes, missed := packedLogits(t, dir)
	if missed || len(notes) != 0 || !slices.Equal(got, want) {
		t.Errorf("second start: missed %v, notes %v, equal %v", missed, notes, slices.Equal(got, want))
	}

	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string]func([]byte) []byte{
		"empty":            func([]byte) []byte { return nil },
		"cut in the index": func(b []byte) []byte { return b[:100] },
		"cut in the data":  func(b []byte) []byte { return b[:len(b)-5000] },
		"one bit":          func(b []byte) []byte { b[len(b)-3000] ^= 4; return b },
		"a scale": func(b []byte) []byte {
			i := bytes.Index(b, []byte(`"scale":[`)) + len(`"scale":[`)
			for b[i] < '1' || b[i] > '8' {
				i++
			}
			b[i]++ // still JSON, and another number
			return b
		},
		"the key":    func(b []byte) []byte { b[30] ^= 1; return b },
		"magic":      func(b []byte) []byte { b[0] = 'x'; return b },
		"huge index": func(b []byte) []byte { b[14] = 255; return b },
		"index of another kind": func(b []byte) []byte {
			copy(b[slices.Index(b, '[')+1:], `{"name":1}`)
			return b
		},
	}
	for name, change := range damage {
		if err := os.WriteFile(files[0], change(slices.Clone(whole)), 0o644); err != nil {
			t.Fatal(err)
		}
		got, notes, missed := packedLogits(t, dir)
		if !missed || len(notes) != 0 || !slices.Equal(got, want) {
			t.Errorf("%s: missed %v, notes %v, equal %v", name, missed, notes, slices.Equal(got, want))
		}
		if mended, err := os.ReadFile(files[0]); err != nil || !slices.Equal(mended, whole) {
			t.Errorf("%s: the copy was not made again (%v)", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPackedCopyNotWritable(t *testing.T) {
	packedMin = 0
	file := filepath.Join(t.TempDir(), "a file, not a folder")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, notes, _ := packedLogits(t, file); len(notes) != 1 {
		t.Errorf("notes %v, want one", notes)
	}
}

func TestRemoveOldCopies(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * packedKeep)
	for name, keep := range map[string]bool{"a.tritpack": false, "b.tritpack": true, ".c.tritpack.123.tmp": false, "other": true} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if !keep || name == "other" {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
		defer func() {
			if _, err := os.Stat(path); (err == nil) != keep {
				t.Errorf("%s: kept %v, want %v", name, err == nil, keep)
			}
		}()
	}
	if err := removeOldCopies(dir, packedKeep); err != nil {
		t.Fatal(err)
	}
}
