package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Write writes a safetensors file: the header at once, padded with spaces so that the data starts at a
// multiple of 64 bytes, then each tensor's bytes as data writes them.
//
// Of each tensor Name, DType and Shape count; Offset and Size are computed. Order is kept; for every
// tensor to start at a multiple of its element's size put the wide types first. data is called once per
// tensor, in order, and must write exactly t.Size bytes, in pieces of any length. The first error ends
// the writing; a file that Write failed on is not to be kept.
func Write(w io.Writer, tensors []Tensor, meta map[string]string, data func(w io.Writer, t Tensor) error) error {
	header, placed, err := header(tensors, meta)
	if err != nil {
		return fmt.Errorf("safetensors: writing: %w", err)
	}
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("safetensors: writing: %w", err)
	}
	for _, t := range placed {
		lim := &limitWriter{w: w, left: t.Size}
		if err := data(lim, t); err != nil {
			return fmt.Errorf("safetensors: writing tensor %q: %w", t.Name, err)
		}
		if lim.left != 0 {
			return fmt.Errorf("safetensors: writing tensor %q: %d of %d bytes missing", t.Name, lim.left, t.Size)
		}
	}
	return nil
}

// header returns everything in front of the data, and the tensors with Offset and Size.
func header(tensors []Tensor, meta map[string]string) ([]byte, []Tensor, error) {
	type info struct {
		DType   DType    `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	out := make([]byte, 8, 256)
	out = append(out, '{')
	add := func(key string, v any) error {
		if len(out) > 9 {
			out = append(out, ',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		out = append(append(append(out, k...), ':'), b...)
		return nil
	}
	for k, v := range meta {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return nil, nil, fmt.Errorf("metadata %q is not UTF-8", k)
		}
	}
	if len(meta) > 0 {
		if err := add("__metadata__", meta); err != nil {
			return nil, nil, err
		}
	}
	placed := make([]Tensor, len(tensors))
	seen := map[string]bool{"__metadata__": true}
	var off int64
	for i, t := range tensors {
		size, ok := t.DType.size(t.Shape)
		if !ok || off > 1<<62-size {
			return nil, nil, fmt.Errorf("tensor %q: %s %v has no size that fits a file", t.Name, t.DType, t.Shape)
		}
		if seen[t.Name] || !utf8.ValidString(t.Name) {
			return nil, nil, fmt.Errorf("tensor %q: the name is there twice or not UTF-8", t.Name)
		}
		seen[t.Name] = true
		t.Offset, t.Size = off, size
		off += size
		if err := add(t.Name, info{t.DType, append([]int{}, t.Shape...), [2]int64{t.Offset, off}}); err != nil {
			return nil, nil, err
		}
		placed[i] = t
	}
	out = append(out, '}')
	for len(out)%64 != 0 {
		out = append(out, ' ')
	}
	if len(out)-8 > maxHeader {
		return nil, nil, fmt.Errorf("a header of %d bytes, at most %d are allowed", len(out)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(out, uint64(len(out)-8))
	for i := range placed {
		placed[i].Offset += int64(len(out))
	}
	return out, placed, nil
}

// limitWriter refuses more than left bytes.
type limitWriter struct {
	w    io.Writer
	left int64
}

var errTooLong = errors.New("more bytes than the tensor has")

func (l *limitWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errTooLong
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	return n, err
}
