package weights

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
)

// MLX's affine quantisation, the key "quantization" of a folder's config.json: a module X has X.weight of uint32 words, with its
// first column in the lowest bits, and X.scales and X.biases for each group of columns of a row; w = q·scale + bias. Single
// modules may have numbers of their own, under their names.
//
// Source: mlx, python/mlx/nn/layers/quantized.py, and mlx-lm's config.json.
type mlxConfig struct {
	mlxNumbers
	modules map[string]mlxNumbers
}

type mlxNumbers struct {
	Bits  int    `json:"bits"`
	Group int    `json:"group_size"`
	Mode  string `json:"mode"`
}

func (m *mlxConfig) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &m.mlxNumbers); err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	m.modules = map[string]mlxNumbers{}
	for name, v := range all {
		switch name {
		case "bits", "group_size", "mode":
			continue
		}
		var n mlxNumbers
		if string(v) == "false" || json.Unmarshal(v, &n) != nil { // not quantised, or a remark
			continue
		}
		m.modules[name] = n
	}
	return m.mlxNumbers.check("")
}

func (n mlxNumbers) check(module string) error {
	if n.Mode != "" && n.Mode != "affine" {
		return fmt.Errorf("quantization%s has mode %q; only affine is supported", module, n.Mode)
	}
	if n.Bits < 1 || n.Bits > 8 || n.Bits == 7 || n.Group < 32 || n.Group%32 != 0 || n.Group > 1<<16 {
		return fmt.Errorf("quantization%s has %d bits and groups of %d; 1 to 6 and 8 bits and groups of whole 32 columns are supported", module, n.Bits, n.Group)
	}
	return nil
}

// numbers are those of one module, by its name in the file.
func (m *mlxConfig) numbers(module string) (mlxNumbers, error) {
	n, ok := m.modules[module]
	if !ok {
		return m.mlxNumbers, nil
	}
	return n, n.check("." + module)
}

// affine is a module's three tensors.
type affine struct {
	mlxNumbers
	rows, cols     int
	words          []byte
	scales, biases *tensor
}

// affineOf gives the tensors of a module that is quantised so; nil where the weight is another kind.
func (s *Set) affineOf(name string) (*affine, error) {
	t := s.find(name)
	module, ok := strings.CutSuffix(name, ".weight")
	if s.mlx == nil || t == nil || !ok || t.dtype != u32 {
		return nil, nil
	}
	inFile, _ := s.fileName(module + ".weight")
	n, err := s.mlx.numbers(strings.TrimSuffix(inFile, ".weight"))
	if err != nil {
		return nil, err
	}
	a := &affine{mlxNumbers: n, words: t.data, scales: s.find(module + ".scales"), biases: s.find(module + ".biases")}
	if a.scales == nil || a.biases == nil {
		return nil, s.missing(module + ".scales or .biases")
	}
	if len(t.shape) != 2 || len(a.scales.shape) != 2 || t.shape[1]*32%n.Bits != 0 {
		return nil, fmt.Errorf("has shape %v of words of %d bits", t.shape, n.Bits)
	}
	a.rows, a.cols = t.shape[0], t.shape[1]*32/n.Bits
	for _, x := range []*tensor{a.scales, a.biases} {
		if len(x.shape) != 2 || x.shape[0] != a.rows || x.shape[1]*n.Group != a.cols {
			return nil, fmt.Errorf("has shape [%d %d], and scales or biases %v, with groups of %d columns", a.rows, a.cols, x.shape, n.Group)
		}
	}
	return a, nil
}

// numbers widens the scales and biases.
func (a *affine) numbers() (scales, biases []float32, err error) {
	scales = make([]float32, a.rows*(a.cols/a.Group))
	biases = make([]float32, len(scales))
	if err = a.scales.floats(scales); err == nil {
		err = a.biases.floats(biases)
	}
	return scales, biases, err
}

// grouped says whether the module is ternary or binary, with scales that float16 can hold, so that its codes are multiplied as they
// are.
func (a *affine) grouped() bool {
	if a.Bits > 2 {
		return false
	}
	scales, biases, err := a.numbers()
	if err != nil {
		return false
	}
	for i, s := range scales {
		d := s
		if a.Bits == 1 {
			d = s / 2
		}
		if biases[i] != -d || !isFloat16(d) {
			return false
		}
	}
	return true
}

// isFloat16 says whether a binary16 holds the number.
func isFloat16(v float32) bool {
	var b [2]byte
	var back [1]float32
	return math.Abs(float64(v)) <= 65504 && gguf.Quantize(b[:], gguf.F16, []float32{v}) == nil && gguf.Dequantize(back[:], gguf.F16, b[:]) == nil && back[0] == v
}

func (a *affine) groups() (*ternary.Groups, error) {
	scales, biases, err := a.numbers()
	if err != nil {
		return nil, err
	}
	return ternary.UnpackMLX(a.words, a.Bits, scales, biases, a.rows, a.cols)
}

// dense is the matrix with each row's scales and biases, as float32, in front of its words.
func (a *affine) dense() (*Dense, error) {
	scales, biases, err := a.numbers()
	if err != nil {
		return nil, err
	}
	n, words := a.cols/a.Group, a.cols*a.Bits/8
	d := &Dense{Rows: a.rows, Cols: a.cols, Type: noType, rowBytes: 8*n + words, affine: a}
	d.Raw = make([]byte, 0, a.rows*d.rowBytes)
	for r := range a.rows {
		for _, list := range [][]float32{scales[r*n:][:n], biases[r*n:][:n]} {
			for _, v := range list {
				d.Raw = binary.LittleEndian.AppendUint32(d.Raw, math.Float32bits(v))
			}
		}
		d.Raw = append(d.Raw, a.words[r*words:][:words]...)
	}
	return d, nil
}

// widen writes a row of dense: q·scale + bias, rounded as mlx rounds float32, twice.
func (a *affine) widen(dst []float32, row []byte) {
	n := a.cols / a.Group
	number := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:])) }
	words := row[8*n:]
	for i := range dst {
		bit := i * a.Bits
		q := uint32(words[bit/8]) >> (bit % 8)
		if bit%8+a.Bits > 8 {
			q |= uint32(words[bit/8+1]) << (8 - bit%8)
		}
		q &= 1<<a.Bits - 1
		dst[i] = float32(float32(q)*number(i/a.Group)) + number(n+i/a.Group)
	}
}

const u32 safetensors.DType = "U32"
