// Package data turns text into batches of tokens: it reads corpora, makes vocabularies, keeps tokens in
// memory-mapped shards and cuts batches from them, the same ones for the same seed.
package data

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/tritlm/trit/internal/infile"
)

//go:embed builtin.txt
var builtin string

// Builtin is a small text of our own making, so that training works with nothing at hand.
func Builtin() string { return builtin }

// maxText bounds a corpus that is read into memory.
const maxText = 4 << 30

// ErrEmpty is returned, wrapped, for a corpus without text.
var ErrEmpty = errors.New("no text in it")

// ReadText reads a corpus: "" is the built-in text, "-" standard input, a folder all its .txt and .md
// files in the order of their names. Invalid UTF-8 is an error that says where.
//
// A path may be a pipe; the end of ctx ends the wait for it.
func ReadText(ctx context.Context, path string, stdin io.Reader) (string, error) {
	var b []byte
	var err error
	switch {
	case path == "":
		return builtin, nil
	case path == "-":
		path = "standard input"
		b, err = infile.ReadAll(ctx, stdin, path, maxText)
	default:
		var st fs.FileInfo
		if st, err = os.Stat(path); err == nil {
			if st.IsDir() {
				b, err = readFolder(path)
			} else {
				b, err = infile.ReadText(ctx, path, maxText)
			}
		}
	}
	if errors.Is(err, infile.ErrSize) || len(b) > maxText {
		return "", fmt.Errorf("data: %s: larger than %d GiB; split it and train on a part", path, maxText>>30)
	}
	if err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if at := invalid(b); at >= 0 {
		return "", fmt.Errorf("data: %s: byte %d is not UTF-8 text (0x%02x); convert the file, or train with --tokenizer bytes on text only", path, at, b[at])
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return "", fmt.Errorf("data: %s: %w", path, ErrEmpty)
	}
	return string(b), nil
}

func invalid(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

func readFolder(dir string) ([]byte, error) {
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ext := strings.ToLower(filepath.Ext(p))
		if d.Type().IsRegular() && (ext == ".txt" || ext == ".md") {
			names = append(names, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no .txt or .md file in the folder: %w", dir, ErrEmpty)
	}
	sort.Strings(names)
	var all []byte
	for _, n := range names {
		b, err := infile.Read(n, maxText)
		if err != nil {
			return nil, err
		}
		if all = append(all, b...); len(all) > maxText {
			break
		}
		if len(b) > 0 && b[len(b)-1] != '\n' {
			all = append(all, '\n')
		}
	}
	return all, nil
}
