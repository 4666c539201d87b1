package kernel

import (
	"encoding/binary"
	"math"
)

// Planes are rounded activations [Tokens, Cols], in groups of Group columns with a scale each. See group.go.
//
// A token's groups follow each other, each in Count·Group+8 bytes: the plane hi, the plane lo where Count is 2, the
// scale s as a float32 and -ΣX as an int32. With ŵ+1 for the codes of weights Σŵ·X is Σ(ŵ+1)·X - ΣX, and that sum is
// taken here, once for all rows.
type Planes struct {
	Tokens, Cols int
	Group, Count int
	Data         []byte // [Tokens][Cols/Group][Count·Group+8]
}

// groupBytes is the size of a group of one token, rowBytes that of a token.
func (p *Planes) groupBytes() int { return p.Count*p.Group + 8 }
func (p *Planes) rowBytes() int   { return p.Cols / p.Group * p.groupBytes() }

func (p *Planes) valid() bool {
	return (p.Group == 32 || p.Group == 64 || p.Group == 128) && (p.Count == 1 || p.Count == 2) && p.Cols%p.Group == 0 && p.Cols >= 0 &&
		p.Tokens >= 0 && len(p.Data) == p.Tokens*p.rowBytes()
}

// PlanesBytes is the size of Data.
func PlanesBytes(tokens, cols, group, count int) int {
	return tokens * (cols / group) * (count*group + 8)
}

// Resize makes p hold tokens rows of cols columns, contents open. It allocates where Data's capacity is not enough.
func (p *Planes) Resize(tokens, cols, group, count int) {
	p.Tokens, p.Cols, p.Group, p.Count = tokens, cols, group, count
	n := PlanesBytes(tokens, cols, group, count)
	if cap(p.Data) < n {
		p.Data = make([]byte, n)
	}
	p.Data = p.Data[:n]
	if !p.valid() {
		badLength("Planes.Resize(tokens, cols, group, count)", tokens, cols, group, count)
	}
}

// Slice is tokens lo ≤ t < hi of p.
func (p *Planes) Slice(lo, hi int) Planes {
	s := *p
	s.Tokens = hi - lo
	s.Data = p.Data[lo*p.rowBytes() : hi*p.rowBytes()]
	return s
}

// QuantizeGroups rounds one token's activations into row t of p:
//
//	a = max(max|x|, 10⁻³⁰) of the group;  X = round(x·(M/a)), half to even;  s = a/M;  M = 32639, or 127 for one plane
//	X = 256·hi + lo with -128 ≤ lo < 128, or hi alone
//
//	x  [p.Cols] float32
//
// A group that holds an infinity or a NaN cannot be represented: its X are 0 and s is NaN, so that every product with it is
// NaN. Rows of p may be written concurrently.
func QuantizeGroups(p *Planes, t int, x []float32) {
	if !p.valid() || len(x) != p.Cols || t < 0 || t >= p.Tokens {
		badLength("QuantizeGroups(p, t, x)", p.Tokens, p.Cols, len(p.Data), t, len(x))
	}
	if len(x) > 0 {
		active.quantizeGroups(p.Data[t*p.rowBytes():][:p.rowBytes()], x, p.Group, p.Count)
	}
}

func quantizeGroupsGeneric(dst []byte, x []float32, group, count int) {
	for ; len(x) > 0; x, dst = x[group:], dst[count*group+8:] {
		var bits uint32 // of the largest |x|, NaN above infinity
		for _, v := range x[:group] {
			bits = max(bits, math.Float32bits(v)&0x7fffffff)
		}
		m := float32(planeMax16)
		if count == 1 {
			m = planeMax8
		}
		inv, scale := float32(0), float32(math.NaN())
		if bits < 0x7f800000 {
			a := max(math.Float32frombits(bits), 1e-30)
			inv, scale = m/a, a/m
		}
		sum := int32(0)
		for i, v := range x[:group] {
			q := int32(0)
			if inv != 0 {
				q = int32(math.RoundToEven(float64(float32(v * inv))))
			}
			sum += q
			if count == 1 {
				dst[i] = byte(q)
			} else {
				dst[i], dst[group+i] = byte((q+128)>>8), byte(q)
			}
		}
		binary.LittleEndian.PutUint32(dst[count*group:], math.Float32bits(scale))
		binary.LittleEndian.PutUint32(dst[count*group+4:], uint32(-sum))
	}
}
