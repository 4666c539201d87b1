// Package safetensors reads and writes safetensors, the weight file of Hugging Face: a JSON header,
// then the tensors' bytes, as https://github.com/huggingface/safetensors describes it. No tensor is
// loaded: a File says where each one lies.
//
// A file is not believed: no length allocates before the bytes behind it have been seen, and every
// contradiction is an error that names the file, the tensor, the byte and what to try.
package safetensors

import "errors"

// ErrFormat is wrapped by every error about a file that is not sound.
var ErrFormat = errors.New("malformed safetensors")

// File is the directory of a safetensors file.
type File struct {
	Name     string            // for messages
	Metadata map[string]string // __metadata__; nil when absent
	Tensors  []Tensor          // by offset

	byName map[string]int
}

// Tensor says where a tensor lies. Values are little endian, row-major, without padding.
type Tensor struct {
	Name   string
	DType  DType
	Shape  []int // empty for a scalar
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

// DType is an element type under the format's name, such as "BF16".
type DType string

// The element types.
const (
	F4      DType = "F4"
	F6E2M3  DType = "F6_E2M3"
	F6E3M2  DType = "F6_E3M2"
	F8E4M3  DType = "F8_E4M3"
	F8E5M2  DType = "F8_E5M2"
	F8E8M0  DType = "F8_E8M0"
	Bool    DType = "BOOL"
	U8      DType = "U8"
	I8      DType = "I8"
	U16     DType = "U16"
	I16     DType = "I16"
	F16     DType = "F16"
	BF16    DType = "BF16"
	U32     DType = "U32"
	I32     DType = "I32"
	F32     DType = "F32"
	U64     DType = "U64"
	I64     DType = "I64"
	F64     DType = "F64"
	Complex DType = "C64"
)

var dtypeBits = map[DType]int64{
	F4: 4, F6E2M3: 6, F6E3M2: 6, F8E4M3: 8, F8E5M2: 8, F8E8M0: 8, Bool: 8, U8: 8, I8: 8,
	U16: 16, I16: 16, F16: 16, BF16: 16, U32: 32, I32: 32, F32: 32, U64: 64, I64: 64, F64: 64, Complex: 64,
}

// size returns the bytes of a tensor; ok is false for an unknown type, a negative dimension, a size
// beyond int64 or one that is no whole number of bytes.
func (d DType) size(shape []int) (n int64, ok bool) {
	n = dtypeBits[d]
	if n == 0 {
		return 0, false
	}
	for _, s := range shape {
		if s < 0 {
			return 0, false
		}
		if s != 0 && n > (1<<62)/int64(s) {
			return 0, false
		}
		n *= int64(s)
	}
	return n / 8, n%8 == 0
}
