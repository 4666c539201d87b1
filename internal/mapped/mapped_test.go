package mapped

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/tritlm/trit/internal/infile"
)

func write(t *testing.T, n int) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "model.gguf")
	content = bytes.Repeat([]byte("0123456789abcdef"), (n+15)/16)[:n]
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func open1(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpen(t *testing.T) {
	path, content := write(t, 100_001)
	f := open1(t, path)
	if !bytes.Equal(f.Data, content) {
		t.Error("the content differs")
	}
	Release(f.Data[10:]) // stays readable
	if !bytes.Equal(f.Data, content) {
		t.Error("the content differs after Release")
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if err := f.Check(); err != nil {
		t.Errorf("closed: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrEmpty) {
		t.Errorf("empty: %v", err)
	}
	if _, err := Open(filepath.Dir(path)); !errors.Is(err, infile.ErrKind) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open(path + "x"); !os.IsNotExist(err) {
		t.Errorf("nothing: %v", err)
	}
	if len(open.files) != 0 {
		t.Errorf("%d files are left open", len(open.files))
	}
}

func mtime(t *testing.T, path string) time.Time {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.ModTime()
}

// TestCheck: whatever another program does to the content shows, and what it does to names and modes does not.
func TestCheck(t *testing.T) {
	overwrite := func(t *testing.T, path string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 4321); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name   string
		change func(t *testing.T, path string)
		want   string // "": it stays usable
		unix   bool
	}{
		{"nothing", func(*testing.T, string) {}, "", false},
		{"read", func(t *testing.T, path string) { os.ReadFile(path) }, "", false},
		{"cut", func(t *testing.T, path string) { os.Truncate(path, 1000) }, "cut from 20000 bytes to 1000", false},
		{"cut to nothing", func(t *testing.T, path string) { os.Truncate(path, 0) }, "cut from 20000 bytes to 0", false},
		{"grown", func(t *testing.T, path string) { os.Truncate(path, 20001) }, "grew from 20000 bytes to 20001", false},
		{"a byte", overwrite, "it was written to", false},
		{"all of it, in place", func(t *testing.T, path string) { os.WriteFile(path, make([]byte, 20000), 0) }, "it was written to", false},
		{"a byte, and the time put back", func(t *testing.T, path string) {
			at := mtime(t, path)
			overwrite(t, path)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
			if !mtime(t, path).Equal(at) {
				t.Fatal("the time is another")
			}
		}, "its time of modification set back", true},
		{"another mode", func(t *testing.T, path string) { os.Chmod(path, 0o400) }, "", false},
		{"a link more", func(t *testing.T, path string) { os.Link(path, path+".link") }, "", true},
		{"renamed", func(t *testing.T, path string) { os.Rename(path, path+".old") }, "", true},
		{"replaced", func(t *testing.T, path string) {
			os.WriteFile(path+".new", []byte("another"), 0o600)
			os.Rename(path+".new", path)
		}, "", true},
		{"removed", func(t *testing.T, path string) { os.Remove(path) }, "", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.unix && !changeTimes {
				t.Skip("not on this system")
			}
			path, content := write(t, 20000)
			f := open1(t, path)
			time.Sleep(20 * time.Millisecond) // the system's clock for files has ticks
			c.change(t, path)
			for range 2 { // and it stays so
				err := f.Check()
				if c.want == "" {
					if err != nil || !bytes.Equal(f.Data, content) {
						t.Errorf("%v, the content is the same: %v", err, bytes.Equal(f.Data, content))
					}
					continue
				}
				if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
		})
	}
}

// TestRecover: other panics stay panics, and a row that cannot be read is an error.
func TestRecover(t *testing.T) {
	path, _ := write(t, 10)
	f := open1(t, path)
	guarded := func(do func()) (err error) {
		defer Recover(debug.SetPanicOnFault(true), &err)
		do()
		return nil
	}
	if err := guarded(func() {}); err != nil {
		t.Error(err)
	}
	err := guarded(func() { f.ReadFailed(7, os.ErrDeadlineExceeded) })
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path+": ") || !strings.Contains(err.Error(), "byte 7") {
		t.Error(err)
	}
	if f.Check() == nil {
		t.Error("the file is taken for good again")
	}
	for _, v := range []any{"text", errors.New("x")} {
		func() {
			defer func() {
				if got := recover(); got != v {
					t.Errorf("recovered %v, want %v", got, v)
				}
			}()
			guarded(func() { panic(v) })
		}()
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a nil pointer is no fault in a file")
			}
		}()
		guarded(func() { var p *int; *p = 1 })
	}()
	if debug.SetPanicOnFault(false) {
		t.Error("faults stay panics outside")
	}
}

func TestKeyKnowsAnEdit(t *testing.T) {
	if !changeTimes {
		t.Skip("not on this system")
	}
	path, _ := write(t, 5000)
	a := open1(t, path).Key()
	at := mtime(t, path)
	time.Sleep(20 * time.Millisecond)
	if err := os.WriteFile(path, make([]byte, 5000), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	b := open1(t, path).Key()
	if a[0] != b[0] || a[1] != b[1] {
		t.Fatalf("size or time differ: %v, %v", a, b)
	}
	if a[2] == b[2] {
		t.Error("the key does not know of the edit")
	}
}

// BenchmarkCheck is what an engine pays for every pass.
func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "model.gguf")
	if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Check(); err != nil {
			b.Fatal(err)
		}
	}
}
