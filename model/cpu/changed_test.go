package cpu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// copyGolden copies a golden model's files and returns its folder and the file of its weights.
func copyGolden(t *testing.T, name string) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	found, err := filepath.Glob("../../testdata/goldens/" + name + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f, "reference") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".safetensors") {
			file = filepath.Join(dir, filepath.Base(f))
		}
	}
	return dir, file
}

// An edit in place, of a byte and with the file's time put back, makes the packed copy another model's: it is not used.
func TestPackedCopyOfAnEditedFile(t *testing.T) {
	packedMin = 0
	model, file := copyGolden(t, "bitnet-2b4t")
	copies := t.TempDir()
	before, _, _ := packedLogitsOf(t, model, copies)
	if got, _, missed := packedLogitsOf(t, model, copies); missed || !slices.Equal(got, before) {
		t.Fatal("the copy is not used")
	}
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndexFunc(b[:len(b)/2], func(r rune) bool { return r == 0x55 || r == 0x56 || r == 0x59 }) // codes of a layer
	if at < 0 {
		t.Fatal("no such byte")
	}
	time.Sleep(20 * time.Millisecond)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xa9, 0x00, 0xa9, 0x00}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), os.Chtimes(file, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
	want, _, _ := packedLogitsOf(t, model, "")
	if slices.Equal(want, before) {
		t.Fatal("the edit changes nothing")
	}
	got, notes, missed := packedLogitsOf(t, model, copies)
	if !missed || len(notes) != 0 || !slices.Equal(got, want) {
		t.Errorf("missed %v, notes %v, equal %v", missed, notes, slices.Equal(got, want))
	}
}

// A file that is cut or written to under an engine: the pass is an error that names it, caches are as they were, and so
// is every pass after it. Another engine goes on.
func TestForwardOverAChangedFile(t *testing.T) {
	load := func(dir string) (model.Engine, model.Cache, *weights.Set) {
		set, err := weights.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := family.Read(set)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Backend{}.Load(context.Background(), cfg, set)
		if err != nil {
			t.Fatal(err)
		}
		c, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		return e, c, set
	}
	forward := func(e model.Engine, c model.Cache, logits bool) error {
		in := model.Input{Cache: c, Tokens: []int32{1, 2, 3}}
		if logits {
			in.Logits = make([]float32, e.Config().VocabSize)
		}
		return e.Forward(context.Background(), []model.Input{in})
	}
	for _, name := range []string{"llama3-8b-1.58", "bitnet-2b4t", "trilm"} {
		for change, do := range map[string]func(file string, b []byte) error{
			"cut to nothing": func(file string, _ []byte) error { return os.Truncate(file, 0) },
			"cut":            func(file string, b []byte) error { return os.Truncate(file, int64(len(b)/2)) },
			"a byte less":    func(file string, b []byte) error { return os.Truncate(file, int64(len(b)-1)) },
			"overwritten":    func(file string, b []byte) error { return os.WriteFile(file, make([]byte, len(b)), 0) },
		} {
			t.Run(name+" "+change, func(t *testing.T) {
				dir, file := copyGolden(t, name)
				e, c, set := load(dir)
				defer set.Close()
				defer e.Close()
				other, otherCache, otherSet := load("../../testdata/goldens/" + name)
				defer otherSet.Close()
				defer other.Close()
				if err := forward(e, c, true); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
				if err := do(file, b); err != nil {
					t.Skip("this system does not let a mapped file be changed: ", err)
				}
				for _, logits := range []bool{true, false, true} {
					err := forward(e, c, logits)
					if !errors.Is(err, model.ErrChanged) || !strings.Contains(err.Error(), file) {
						t.Errorf("logits %v: %v", logits, err)
					}
					if c.Len() != 3 {
						t.Errorf("the cache has %d tokens", c.Len())
					}
				}
				if err := e.(interface{ Check() error }).Check(); !errors.Is(err, model.ErrChanged) {
					t.Errorf("Check: %v", err)
				}
				if err := forward(other, otherCache, true); err != nil {
					t.Errorf("the other engine: %v", err)
				}
			})
		}
	}
}
