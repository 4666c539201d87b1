// Package infile reads what trit is given to read. A path that names no file, but a pipe, a device, a socket or a
// folder, is refused by that name before it is opened: it could block for ever or never end. What is read whole has a
// bound. A pipe is read where a person may well give one, a text on standard input or by process substitution, and
// then the end of the context ends the wait for it.
package infile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrKind is in the error for a path that names something else than a file.
var ErrKind = errors.New("a file is needed here")

// ErrSize is in the error for what is larger than its bound.
var ErrSize = errors.New("this is not the file it should be")

// Text bounds the text files of a model, such as its configuration: a tokenizer.json of 256k entries has 35 MB.
const Text = 256 << 20

// Check says what the path is when it is not a regular file.
func Check(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("is a %s: %w", kind(info.Mode()), ErrKind)}
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "folder"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// stat is os.Stat, before a file is opened, which alone may block or do something to a device. Its errors say what was
// asked for.
func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return nil, &fs.PathError{Op: "open", Path: e.Path, Err: e.Err}
	}
	return info, err
}

// Open opens a regular file.
func Open(path string) (*os.File, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if err := Check(path, info); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Read reads a regular file whole. More than most bytes are an error.
func Read(path string, most int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return all(f, path, most)
}

// ReadFS is Read for a file of fsys.
func ReadFS(fsys fs.FS, name string, most int64) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if err := Check(name, info); err != nil {
		return nil, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return all(f, name, most)
}

// ReadText is Read for a file that may be a pipe as well. The end of ctx ends the wait for it.
func ReadText(ctx context.Context, path string, most int64) ([]byte, error) {
	info, err := stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeNamedPipe == 0 {
		return Read(path, most)
	}
	return wait(ctx, func() ([]byte, error) {
		f, err := os.Open(path) // waits for a writer
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return all(f, path, most)
	})
}

// ReadAll reads r, which errors call name, to its end. More than most bytes are an error. The end of ctx ends the wait
// for it; r must not be used then.
func ReadAll(ctx context.Context, r io.Reader, name string, most int64) ([]byte, error) {
	return wait(ctx, func() ([]byte, error) { return all(r, name, most) })
}

func wait(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := read()
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.b, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func all(r io.Reader, name string, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("is larger than %s: %w", size(most), ErrSize)}
	}
	return b, nil
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
