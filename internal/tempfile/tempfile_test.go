package tempfile

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// What nobody holds goes, what a process writes stays, and so does everything of another name.
func TestStaleOnesGo(t *testing.T) {
	dir := t.TempDir()
	put := func(names ...string) {
		for _, n := range names {
			if err := os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	keep := []string{"last.ckpt", ".last.ckpt.tmp", ".last.ckpt.12a.tmp", "last.ckpt.12.tmp", ".x"}
	put(keep...)
	put(".last.ckpt.123.tmp", ".best.ckpt.7.tmp")
	f, err := Create(filepath.Join(dir, "last.ckpt"), Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := append(slices.Clone(keep), ".best.ckpt.7.tmp", filepath.Base(f.Name()))
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("after Create: %v, want %v", got, want)
	}
	Sweep(dir)
	want = slices.DeleteFunc(want, func(n string) bool { return n == ".best.ckpt.7.tmp" })
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("after Sweep: %v, want %v", got, want)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, "last.ckpt")); err != nil {
		t.Error(err)
	}
	Sweep(filepath.Join(dir, "none")) // no folder, no error
}

func TestFolders(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("folders stay there")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "model")
	if err := os.MkdirAll(filepath.Join(dir, ".model.5.tmp", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	tmp, release, err := Mkdir(path)
	if err != nil {
		t.Fatal(err)
	}
	Sweep(dir)
	if got := names(t, dir); len(got) != 1 || got[0] != filepath.Base(tmp) {
		t.Errorf("%v, want %s alone", got, tmp)
	}
	release() // as the end of a process does
	Sweep(dir)
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// Nobody loses a file to those who sweep at the same time.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				f, err := Create(filepath.Join(dir, "x"), Shared)
				if err != nil {
					t.Error(err)
					return
				}
				Sweep(dir)
				if _, err := os.Stat(f.Name()); err != nil {
					t.Error(err)
				}
				os.Remove(f.Name())
				f.Close()
			}
		})
	}
	wg.Wait()
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}
