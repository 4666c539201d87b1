//go:build unix

package infile

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPipesDevicesAndSocketsAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "s")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{pipe: "is a pipe", socket: "is a socket", link: "is a device", "/dev/zero": "is a device"} {
		for name, read := range map[string]func() error{
			"Open":   func() error { _, err := Open(path); return err },
			"Read":   func() error { _, err := Read(path, 10); return err },
			"ReadFS": func() error { _, err := ReadFS(os.DirFS(filepath.Dir(path)), filepath.Base(path), 10); return err },
			"ReadText": func() error {
				if path == pipe {
					return Check(path, must(os.Stat(path))) // this one it reads
				}
				_, err := ReadText(context.Background(), path, 10)
				return err
			},
		} {
			if err := read(); !errors.Is(err, ErrKind) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of %s: %v, want %q", name, path, err, want)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestReadTextOfAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := ReadText(ctx, pipe, 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody writes: %v", err)
	}
	go os.WriteFile(pipe, []byte("12345"), 0)
	if b, err := ReadText(context.Background(), pipe, 5); string(b) != "12345" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	go os.WriteFile(pipe, make([]byte, 100), 0)
	if _, err := ReadText(context.Background(), pipe, 5); !errors.Is(err, ErrSize) {
		t.Errorf("too much: %v", err)
	}
}
