package gguf

import (
	"errors"
	"fmt"
	"math"
)

// Type is a tensor's storage type: ggml's number in the file, except for the variants that share a
// number, which have bits above the lower 16 set.
type Type uint32

// Storage types under ggml's names. Forks reuse numbers; Read settles which is meant.
const (
	F32     Type = 0
	F16     Type = 1
	Q4_0    Type = 2
	Q4_1    Type = 3
	Q5_0    Type = 6
	Q5_1    Type = 7
	Q8_0    Type = 8
	Q8_1    Type = 9
	Q2_K    Type = 10
	Q3_K    Type = 11
	Q4_K    Type = 12
	Q5_K    Type = 13
	Q6_K    Type = 14
	Q8_K    Type = 15
	IQ2_XXS Type = 16
	IQ2_XS  Type = 17
	IQ3_XXS Type = 18
	IQ1_S   Type = 19
	IQ4_NL  Type = 20
	IQ3_S   Type = 21
	IQ2_S   Type = 22
	IQ4_XS  Type = 23
	I8      Type = 24
	I16     Type = 25
	I32     Type = 26
	I64     Type = 27
	F64     Type = 28
	IQ1_M   Type = 29
	BF16    Type = 30
	TQ1_0   Type = 34
	TQ2_0   Type = 35
	I2_S    Type = 36 // microsoft/BitNet; three layouts share it, see package ternary
	I8_S    Type = 37 // microsoft/BitNet
	TL1     Type = 38 // microsoft/BitNet; refused by Read
	MXFP4   Type = 39 // llama.cpp; microsoft/BitNet's TL2 has the same number and is refused by Read
	NVFP4   Type = 40
	Q1_0    Type = 41
	Q2_0    Type = 42
	IQ1_BN  Type = 134 // ik_llama.cpp
	IQ2_BN  Type = 135 // ik_llama.cpp
	PQ2_0   Type = 142 // Prism
	PTQ1_0  Type = 143 // Prism
	STQ1_0  Type = 43  // Tencent; number 42 in its own files, told by size

	IQ2_BN_R4 Type = 335 // ik_llama.cpp

	// Q2_0G128 is number 42 in Prism's earlier files: blocks of 128 weights. Read tells them by size;
	// Write refuses it (PQ2_0 has the same bytes and a number of its own).
	Q2_0G128 Type = 1<<16 | 42
)

// sizes of the types: a row is prefix + cols/block·bytes bytes, and a tensor has tail bytes more.
type typeInfo struct {
	name         string
	block, bytes int64
	prefix, tail int64
}

var typeInfos = map[Type]typeInfo{
	F32:       {name: "f32", block: 1, bytes: 4},
	F16:       {name: "f16", block: 1, bytes: 2},
	Q4_0:      {name: "q4_0", block: 32, bytes: 18},
	Q4_1:      {name: "q4_1", block: 32, bytes: 20},
	Q5_0:      {name: "q5_0", block: 32, bytes: 22},
	Q5_1:      {name: "q5_1", block: 32, bytes: 24},
	Q8_0:      {name: "q8_0", block: 32, bytes: 34},
	Q8_1:      {name: "q8_1", block: 32, bytes: 36},
	Q2_K:      {name: "q2_k", block: 256, bytes: 84},
	Q3_K:      {name: "q3_k", block: 256, bytes: 110},
	Q4_K:      {name: "q4_k", block: 256, bytes: 144},
	Q5_K:      {name: "q5_k", block: 256, bytes: 176},
	Q6_K:      {name: "q6_k", block: 256, bytes: 210},
	Q8_K:      {name: "q8_k", block: 256, bytes: 292},
	IQ2_XXS:   {name: "iq2_xxs", block: 256, bytes: 66},
	IQ2_XS:    {name: "iq2_xs", block: 256, bytes: 74},
	IQ3_XXS:   {name: "iq3_xxs", block: 256, bytes: 98},
	IQ1_S:     {name: "iq1_s", block: 256, bytes: 50},
	IQ4_NL:    {name: "iq4_nl", block: 32, bytes: 18},
	IQ3_S:     {name: "iq3_s", block: 256, bytes: 110},
	IQ2_S:     {name: "iq2_s", block: 256, bytes: 82},
	IQ4_XS:    {name: "iq4_xs", block: 256, bytes: 136},
	I8:        {name: "i8", block: 1, bytes: 1},
	I16:       {name: "i16", block: 1, bytes: 2},
	I32:       {name: "i32", block: 1, bytes: 4},
	I64:       {name: "i64", block: 1, bytes: 8},
	F64:       {name: "f64", block: 1, bytes: 8},
	IQ1_M:     {name: "iq1_m", block: 256, bytes: 56},
	BF16:      {name: "bf16", block: 1, bytes: 2},
	TQ1_0:     {name: "tq1_0", block: 256, bytes: 54},
	TQ2_0:     {name: "tq2_0", block: 256, bytes: 66},
	I2_S:      {name: "i2_s", block: 4, bytes: 1, tail: 32},
	MXFP4:     {name: "mxfp4", block: 32, bytes: 17},
	NVFP4:     {name: "nvfp4", block: 64, bytes: 36},
	Q1_0:      {name: "q1_0", block: 128, bytes: 18},
	Q2_0:      {name: "q2_0", block: 64, bytes: 18},
	Q2_0G128:  {name: "q2_0 (128-weight blocks)", block: 128, bytes: 34},
	IQ1_BN:    {name: "iq1_bn", block: 64, bytes: 13, prefix: 2},
	IQ2_BN:    {name: "iq2_bn", block: 64, bytes: 16, prefix: 4},
	IQ2_BN_R4: {name: "iq2_bn_r4", block: 64, bytes: 16, prefix: 4},
	PQ2_0:     {name: "pq2_0", block: 128, bytes: 34},
	STQ1_0:    {name: "stq1_0", block: 256, bytes: 42},
	PTQ1_0:    {name: "ptq1_0", block: 128, bytes: 28},
}

// String returns ggml's name for the type, in lower case.
func (t Type) String() string {
	if i, ok := typeInfos[t]; ok {
		return i.name
	}
	switch t {
	case I8_S:
		return "i8_s"
	case TL1:
		return "tl1"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Size returns the bytes of a tensor with that row-major shape; the last dimension is the row. It
// fails for a type whose size is not known (errors.ErrUnsupported), for rows that are not whole blocks
// (ErrColumns) and for an impossible shape (ErrFormat).
func (t Type) Size(shape ...int) (int64, error) {
	info, ok := typeInfos[t]
	if !ok {
		return 0, fmt.Errorf("storage type %d is not known: %w", uint32(t)&0xffff, errors.ErrUnsupported)
	}
	if len(shape) == 0 {
		return 0, fmt.Errorf("no dimensions: %w", ErrFormat)
	}
	rows, cols := int64(1), int64(shape[len(shape)-1])
	for _, d := range shape {
		if d <= 0 {
			return 0, fmt.Errorf("shape %v: %w", shape, ErrFormat)
		}
	}
	for _, d := range shape[:len(shape)-1] {
		if rows > maxElements/int64(d) {
			return 0, fmt.Errorf("shape %v is too large: %w", shape, ErrFormat)
		}
		rows *= int64(d)
	}
	if cols%info.block != 0 {
		return 0, fmt.Errorf("%d columns is not a multiple of %d, the block of %s: %w", cols, info.block, t, ErrColumns)
	}
	// ≤ 2⁵⁵ elements of at most 9 bytes each, prefix included: no overflow.
	if cols > maxElements/rows {
		return 0, fmt.Errorf("shape %v is too large: %w", shape, ErrFormat)
	}
	return rows*(info.prefix+cols/info.block*info.bytes) + info.tail, nil
}

const maxElements = math.MaxInt64 >> 8
