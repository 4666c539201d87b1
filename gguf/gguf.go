// Package gguf reads and writes GGUF, the file of llama.cpp and its descendants: metadata, then
// tensors, as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes it. Versions 2 and 3,
// little endian. No tensor is loaded: a File says where each one lies and how it is stored.
//
// A file is not believed: no count or length allocates before the bytes behind it have been seen, and
// every contradiction is an error that names the file, the tensor or key, the byte and what to try.
package gguf

import (
	"errors"
	"fmt"
)

var (
	// ErrFormat is wrapped by every error about a file that is not a sound GGUF file.
	ErrFormat = errors.New("malformed GGUF")

	// ErrColumns: rows of that length are not whole blocks of the type. In a file that is an ErrFormat too.
	ErrColumns = errors.New("that is a limit of the type")

	// ErrNoKey is wrapped when a getter's key is not in the file.
	ErrNoKey = errors.New("no such key")
)

// File is the directory of a GGUF file.
type File struct {
	Name      string // for messages
	Version   int
	Alignment int   // of tensor data: general.alignment, 32 when absent
	Data      int64 // offset of the tensor data in the file
	KV        KV
	Tensors   []Tensor // in file order

	byName map[string]int
}

// Tensor says where a tensor lies.
type Tensor struct {
	Name   string
	Type   Type
	Shape  []int // row-major: [rows, cols]; the file stores the dimensions in the other order
	Offset int64 // from the start of the file
	Size   int64 // bytes
}

// Tensor returns the tensor of that name, or nil.
func (f *File) Tensor(name string) *Tensor {
	if i, ok := f.byName[name]; ok {
		return &f.Tensors[i]
	}
	return nil
}

// KV is the metadata in file order. Values are uint8, int8, uint16, int16, uint32, int32, uint64,
// int64, float32, float64, bool, string, or a slice of one of these.
type KV []Pair

// Pair is a metadata entry.
type Pair struct {
	Key   string
	Value any
}

// Get returns the value of key, or nil.
func (kv KV) Get(key string) any {
	for i := range kv {
		if kv[i].Key == key {
			return kv[i].Value
		}
	}
	return nil
}

// Has reports whether key is present.
func (kv KV) Has(key string) bool { return kv.Get(key) != nil }

// Set replaces the value of key, or adds it at the end.
func (kv *KV) Set(key string, value any) {
	for i := range *kv {
		if (*kv)[i].Key == key {
			(*kv)[i].Value = value
			return
		}
	}
	*kv = append(*kv, Pair{key, value})
}

// String returns a string value. Like all getters it fails with ErrNoKey when the key is absent and
// with ErrFormat when the value is of another kind; both errors name the key.
func (kv KV) String(key string) (string, error) { return get[string](kv, key, "a string") }

// Bool returns a boolean value.
func (kv KV) Bool(key string) (bool, error) { return get[bool](kv, key, "a boolean") }

// Strings returns an array of strings. Elements need not be valid UTF-8: vocabularies hold pieces of characters.
func (kv KV) Strings(key string) ([]string, error) {
	return get[[]string](kv, key, "an array of strings")
}

// Uint returns a non-negative integer of any width.
func (kv KV) Uint(key string) (uint64, error) {
	switch v := kv.Get(key).(type) {
	case uint8:
		return uint64(v), nil
	case uint16:
		return uint64(v), nil
	case uint32:
		return uint64(v), nil
	case uint64:
		return v, nil
	}
	i, err := kv.Int(key)
	if err == nil && i < 0 {
		return 0, fmt.Errorf("gguf: key %q is %d, want a number that is not negative: %w", key, i, ErrFormat)
	}
	return uint64(i), err
}

// Int returns an integer of any width that fits an int64.
func (kv KV) Int(key string) (int64, error) {
	switch v := kv.Get(key).(type) {
	case int8:
		return int64(v), nil
	case int16:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case int64:
		return v, nil
	case uint8:
		return int64(v), nil
	case uint16:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case uint64:
		if v <= 1<<63-1 {
			return int64(v), nil
		}
	}
	return 0, kv.wrongKind(key, "an integer")
}

// Float returns a float32 or float64, or an integer as one.
func (kv KV) Float(key string) (float64, error) {
	switch v := kv.Get(key).(type) {
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	}
	if i, err := kv.Int(key); err == nil {
		return float64(i), nil
	}
	return 0, kv.wrongKind(key, "a number")
}

// Ints returns an array of integers of any width.
func (kv KV) Ints(key string) ([]int64, error) {
	switch v := kv.Get(key).(type) {
	case []int8:
		return convert[int64](v), nil
	case []int16:
		return convert[int64](v), nil
	case []int32:
		return convert[int64](v), nil
	case []int64:
		return convert[int64](v), nil
	case []uint8:
		return convert[int64](v), nil
	case []uint16:
		return convert[int64](v), nil
	case []uint32:
		return convert[int64](v), nil
	case []uint64:
		for i, u := range v {
			if u > 1<<63-1 {
				return nil, fmt.Errorf("gguf: key %q: element %d is %d, beyond 63 bits: %w", key, i, u, ErrFormat)
			}
		}
		return convert[int64](v), nil
	}
	return nil, kv.wrongKind(key, "an array of integers")
}

// Floats returns an array of float32 or float64 as float32.
func (kv KV) Floats(key string) ([]float32, error) {
	switch v := kv.Get(key).(type) {
	case []float32:
		return convert[float32](v), nil
	case []float64:
		return convert[float32](v), nil
	}
	return nil, kv.wrongKind(key, "an array of floats")
}

func get[T any](kv KV, key, kind string) (T, error) {
	v, ok := kv.Get(key).(T)
	if !ok {
		return v, kv.wrongKind(key, kind)
	}
	return v, nil
}

func (kv KV) wrongKind(key, want string) error {
	v := kv.Get(key)
	if v == nil {
		return fmt.Errorf("gguf: key %q: %w", key, ErrNoKey)
	}
	return fmt.Errorf("gguf: key %q is a %T, want %s: %w", key, v, want, ErrFormat)
}

func convert[D, S int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 | float32 | float64](s []S) []D {
	d := make([]D, len(s))
	for i, v := range s {
		d[i] = D(v)
	}
	return d
}
