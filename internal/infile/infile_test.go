package infile

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	path := write(t, "12345")
	readers := map[string]func(most int64) ([]byte, error){
		"Read":     func(most int64) ([]byte, error) { return Read(path, most) },
		"ReadText": func(most int64) ([]byte, error) { return ReadText(context.Background(), path, most) },
		"ReadFS": func(most int64) ([]byte, error) {
			return ReadFS(os.DirFS(filepath.Dir(path)), "file", most)
		},
		"ReadAll": func(most int64) ([]byte, error) {
			return ReadAll(context.Background(), strings.NewReader("12345"), "standard input", most)
		},
		"of memory": func(most int64) ([]byte, error) {
			return ReadFS(fstest.MapFS{"a": {Data: []byte("12345")}}, "a", most)
		},
	}
	for name, read := range readers {
		if b, err := read(5); string(b) != "12345" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if _, err := read(4); !errors.Is(err, ErrSize) {
			t.Errorf("%s: one byte too many: %v", name, err)
		}
	}
}

func TestFoldersAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"Open":     func() error { _, err := Open(dir); return err },
		"Read":     func() error { _, err := Read(dir, 10); return err },
		"ReadText": func() error { _, err := ReadText(context.Background(), dir, 10); return err },
		"ReadFS":   func() error { _, err := ReadFS(os.DirFS(dir), "x", 10); return err },
	} {
		if err := read(); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), "is a folder") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Who waits for input that never comes can be called back.
func TestTheContextEndsTheWait(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := ReadAll(ctx, r, "standard input", 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
