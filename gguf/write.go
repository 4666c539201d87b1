package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// Write writes a GGUF file of version 3: the header at once, then each tensor's bytes as data writes
// them, padded to the alignment (general.alignment in kv, 32 when absent).
//
// Of each tensor Name, Type and Shape count; Offset and Size are computed. data is called once per
// tensor, in order, and must write exactly t.Size bytes, in pieces of any length. The first error
// ends the writing; a file that Write failed on is not to be kept.
func Write(w io.Writer, kv KV, tensors []Tensor, data func(w io.Writer, t Tensor) error) error {
	e := &encoder{w: bufio.NewWriterSize(w, 1<<16)}
	alignment, err := e.header(kv, tensors)
	if err != nil {
		return fmt.Errorf("gguf: writing: %w", err)
	}
	pos := e.pos
	for _, t := range tensors {
		t.Size, _ = t.Type.Size(t.Shape...)
		if err := e.pad(alignment); err != nil {
			return err
		}
		t.Offset = e.pos
		lim := &limitWriter{w: e, left: t.Size}
		if err := data(lim, t); err != nil {
			return fmt.Errorf("gguf: writing tensor %q: %w", t.Name, err)
		}
		if lim.left != 0 {
			return fmt.Errorf("gguf: writing tensor %q: %d of %d bytes missing", t.Name, lim.left, t.Size)
		}
	}
	if len(tensors) > 0 || e.pos != pos {
		if err := e.pad(alignment); err != nil {
			return err
		}
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("gguf: writing: %w", err)
	}
	return nil
}

type encoder struct {
	w   *bufio.Writer
	pos int64
	err error
}

func (e *encoder) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.pos += int64(n)
	e.err = err
	return n, err
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

func (e *encoder) header(kv KV, tensors []Tensor) (alignment int64, err error) {
	a, err := kv.alignment()
	if err != nil {
		return 0, err
	}
	alignment = int64(a)
	io.WriteString(e, "GGUF")
	e.uint(3, 4)
	e.uint(uint64(len(tensors)), 8)
	e.uint(uint64(len(kv)), 8)
	seen := map[string]bool{}
	name := func(what, s string, longest int) error {
		if s == "" || len(s) > longest || !utf8.ValidString(s) || seen[what+s] {
			return fmt.Errorf("%s %q: empty, too long, not UTF-8 or there twice", what, s)
		}
		seen[what+s] = true
		e.string(s)
		return nil
	}
	for _, p := range kv {
		if err := name("key", p.Key, maxKeyLen); err != nil {
			return 0, err
		}
		if !e.value(p.Value) {
			return 0, fmt.Errorf("key %q: a value of type %T cannot be stored", p.Key, p.Value)
		}
	}
	var off int64
	for _, t := range tensors {
		if err := name("tensor", t.Name, maxNameLen); err != nil {
			return 0, err
		}
		n, err := t.Type.Size(t.Shape...)
		if err != nil {
			return 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if t.Type == Q2_0G128 {
			return 0, fmt.Errorf("tensor %q: %s is a reading of older files; store it as pq2_0", t.Name, t.Type)
		}
		if len(t.Shape) > maxDims {
			return 0, fmt.Errorf("tensor %q: %d dimensions, at most %d", t.Name, len(t.Shape), maxDims)
		}
		e.uint(uint64(len(t.Shape)), 4)
		for i := range t.Shape {
			e.uint(uint64(t.Shape[len(t.Shape)-1-i]), 8)
		}
		e.uint(uint64(t.Type)&0xffff, 4)
		e.uint(uint64(off), 8)
		if off > math.MaxInt64/2-n {
			return 0, fmt.Errorf("tensor %q: the file gets too large", t.Name)
		}
		off = align(off+n, alignment)
	}
	return alignment, e.err
}

func (e *encoder) pad(alignment int64) error {
	var zero [64]byte
	for n := align(e.pos, alignment) - e.pos; n > 0; {
		k := min(n, int64(len(zero)))
		e.Write(zero[:k])
		n -= k
		if e.err != nil {
			return fmt.Errorf("gguf: writing: %w", e.err)
		}
	}
	return nil
}

func (e *encoder) uint(u uint64, n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], u)
	e.Write(b[:n])
}

func (e *encoder) string(s string) {
	e.uint(uint64(len(s)), 8)
	io.WriteString(e, s)
}

// value writes kind and value; false when the type is none of those that KV documents.
func (e *encoder) value(v any) bool {
	scalar := func(kind, n int, u uint64) {
		e.uint(uint64(kind), 4)
		e.uint(u, n)
	}
	switch v := v.(type) {
	case uint8:
		scalar(kindUint8, 1, uint64(v))
	case int8:
		scalar(kindInt8, 1, uint64(v))
	case uint16:
		scalar(kindUint16, 2, uint64(v))
	case int16:
		scalar(kindInt16, 2, uint64(v))
	case uint32:
		scalar(kindUint32, 4, uint64(v))
	case int32:
		scalar(kindInt32, 4, uint64(v))
	case uint64:
		scalar(kindUint64, 8, v)
	case int64:
		scalar(kindInt64, 8, uint64(v))
	case float32:
		scalar(kindFloat32, 4, uint64(math.Float32bits(v)))
	case float64:
		scalar(kindFloat64, 8, math.Float64bits(v))
	case bool:
		scalar(kindBool, 1, boolBit(v))
	case string:
		e.uint(kindString, 4)
		e.string(v)
	case []uint8:
		writeArray(e, kindUint8, 1, v, func(x uint8) uint64 { return uint64(x) })
	case []int8:
		writeArray(e, kindInt8, 1, v, func(x int8) uint64 { return uint64(x) })
	case []uint16:
		writeArray(e, kindUint16, 2, v, func(x uint16) uint64 { return uint64(x) })
	case []int16:
		writeArray(e, kindInt16, 2, v, func(x int16) uint64 { return uint64(x) })
	case []uint32:
		writeArray(e, kindUint32, 4, v, func(x uint32) uint64 { return uint64(x) })
	case []int32:
		writeArray(e, kindInt32, 4, v, func(x int32) uint64 { return uint64(x) })
	case []uint64:
		writeArray(e, kindUint64, 8, v, func(x uint64) uint64 { return x })
	case []int64:
		writeArray(e, kindInt64, 8, v, func(x int64) uint64 { return uint64(x) })
	case []float32:
		writeArray(e, kindFloat32, 4, v, func(x float32) uint64 { return uint64(math.Float32bits(x)) })
	case []float64:
		writeArray(e, kindFloat64, 8, v, math.Float64bits)
	case []bool:
		writeArray(e, kindBool, 1, v, boolBit)
	case []string:
		e.uint(kindArray, 4)
		e.uint(kindString, 4)
		e.uint(uint64(len(v)), 8)
		for _, s := range v {
			e.string(s)
		}
	default:
		return false
	}
	return true
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func writeArray[T any](e *encoder, kind uint64, n int, v []T, bits func(T) uint64) {
	e.uint(kindArray, 4)
	e.uint(kind, 4)
	e.uint(uint64(len(v)), 8)
	for _, x := range v {
		e.uint(bits(x), n)
	}
}
