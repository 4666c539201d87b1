package kernel

import "encoding/binary"

// Weight-only products: y = W·x where a weight is ŵ·d, ŵ ∈ {-1, 0, +1} (or {-1, +1}) with a scale d for each group of
// columns of a row, and x is float32.
//
// Definition. A row of activations is cut into groups of G columns (Group: 32, 64 or 128) and each is rounded to integers
// of 16 bits, X = round(x·32639/a) with a the group's largest |x| (QuantizeGroups), which fit in two int8 planes:
// X = 256·hi + lo. With s = a/32639 and d the weights' scale, the product is
//
//	S[r,g] = Σ ŵ[r,c]·X[c] over the columns c of group g       an integer, exact
//	y[r]   = fma(float32(S[r,g]), d[r,g]·s[g], y[r])            g = 0, 1, 2, …, from y = 0; d·s is rounded
//	y[r]   = y[r]·R[r]                                          where the matrix has row scales R
//
// |S| ≤ 128·32639 < 2²⁴, so that its conversion is exact too. A row's result therefore depends neither on how many tokens
// or rows are computed together, nor on the tier. Rounding x costs 2.7·10⁻⁵ of a product (of normally distributed
// activations), where float32 sums cost 10⁻⁷ and bfloat16 activations 1.7·10⁻³; docs/LOG.md has the measurements.
//
// With one plane (Planes.Count 1) X = round(x·127/a) and s = a/127: half the work, 0.7% of a product.
//
// Layout. Rows lie across the lanes in tiles of 16, as in T16, so that the 16 scales of a group are one load and no sum
// runs across lanes. Three layouts hold the codes; all tiers multiply from all of them:
//
//	Ternary2   T16, 2 bits a weight
//	Ternary5   three weights in five bits. Code k of three groups i = 0, 1, 2 in a row holds their columns 4k+j as
//	           t₀+3t₁+9t₂, so that each of a code's weights belongs to another group. Eight codes lie in five vectors of
//	           64 bytes, as in T5. Groups left over, one or two, follow as T16 blocks
//	Binary1    a bit a weight. 32 columns of a tile make a block of 64 bytes: bit b of byte 4r+j is column 4b+j
//	           of row r, 1 for +1 and 0 for -1
//
// Scales are float16 as in the files, [tiles][scale groups][16 rows].
const (
	// GroupScratch is the size of the scratch that GroupMatMul needs.
	GroupScratch = 2 * 3 * 128 * TileRows

	planeMax16 = 127<<8 + 127
	planeMax8  = 127
)

// GroupLayout says how the codes of a GroupMatrix are packed.
type GroupLayout uint8

// The layouts.
const (
	Ternary2 GroupLayout = iota
	Ternary5
	Binary1
	groupLayouts
)

func (l GroupLayout) String() string { return [...]string{"ternary2", "ternary5", "binary1"}[l] }

// GroupMatrix is a weight-only matrix [Rows, Cols]. A slice of whole tiles of one is one (Panel).
type GroupMatrix struct {
	Rows, Cols int // Rows a multiple of 16, padding included; Cols one of Group
	Layout     GroupLayout
	Group      int       // columns of one exact sum: 32, 64 or 128; see GroupColumns
	ScaleGroup int       // columns that share a scale: Group, or twice, 4, 8, … times that, or at least Cols
	Codes      []byte    // [Rows/16] tiles; GroupBytes(Layout, Rows, Cols, Group)
	Scales     []uint16  // float16 [Rows/16][ScaleGroups()][16], or nil: all 1
	RowScale   []float32 // [Rows], applied last, or nil: all 1
}

// GroupColumns is the Group for weights that share a scale in scaleGroup columns (0: whole rows) of cols: the largest of
// 128, 64 and 32 that divides both, 0 if none does.
func GroupColumns(cols, scaleGroup int) int {
	if scaleGroup == 0 || scaleGroup >= cols {
		scaleGroup = cols
	}
	for _, g := range []int{128, 64, 32} {
		if cols%g == 0 && scaleGroup%g == 0 {
			return g
		}
	}
	return 0
}

// GroupBytes is the size of a matrix's codes.
func GroupBytes(l GroupLayout, rows, cols, group int) int {
	return Pad16(rows) / TileRows * groupTileBytes(l, cols, group)
}

func groupTileBytes(l GroupLayout, cols, group int) int {
	switch l {
	case Ternary5:
		groups := cols / group
		return groups/3*(group/32*t5Bytes) + groups%3*group*4
	case Binary1:
		return cols * 2
	}
	return cols * 4
}

// ScaleGroups is the number of scales of a row.
func (w *GroupMatrix) ScaleGroups() int { return max(1, (w.Cols+w.ScaleGroup-1)/max(w.ScaleGroup, 1)) }

// scaleShift turns the number of a group into that of its scale.
func (w *GroupMatrix) scaleShift() int {
	if w.Scales == nil || w.ScaleGroup >= w.Cols {
		return 62
	}
	s := 0
	for w.Group<<s < w.ScaleGroup {
		s++
	}
	return s
}

// valid says whether the lengths agree.
func (w *GroupMatrix) valid() bool {
	return w.Rows%TileRows == 0 && (w.Group == 32 || w.Group == 64 || w.Group == 128) && w.Cols%w.Group == 0 && w.Cols <= MaxCols &&
		w.Layout < groupLayouts && len(w.Codes) == GroupBytes(w.Layout, w.Rows, w.Cols, w.Group) &&
		(w.Scales == nil || w.ScaleGroup > 0 && len(w.Scales) == w.Rows*w.ScaleGroups() && (w.ScaleGroup >= w.Cols || w.Group<<w.scaleShift() == w.ScaleGroup)) &&
		(w.RowScale == nil || len(w.RowScale) == w.Rows)
}

// Panel is rows lo ≤ r < hi, both multiples of 16, as a matrix.
func (w *GroupMatrix) Panel(lo, hi int) GroupMatrix {
	if lo%TileRows != 0 || hi%TileRows != 0 || lo < 0 || hi < lo || hi > w.Rows {
		badLength("GroupMatrix.Panel(lo, hi)", lo, hi, w.Rows)
	}
	p := *w
	p.Rows = hi - lo
	tile := groupTileBytes(w.Layout, w.Cols, w.Group)
	p.Codes = w.Codes[lo/TileRows*tile : hi/TileRows*tile]
	if w.Scales != nil {
		n := w.ScaleGroups()
		p.Scales = w.Scales[lo*n : hi*n]
	}
	if w.RowScale != nil {
		p.RowScale = w.RowScale[lo:hi]
	}
	return p
}

// Bytes is what a product reads.
func (w *GroupMatrix) Bytes() int { return len(w.Codes) + 2*len(w.Scales) + 4*len(w.RowScale) }

// GroupMatMul computes rows lo ≤ r < hi of y[t] = W·x[t] for all tokens of x, as defined above.
//
//	y        [tokens, stride] float32   y[t·stride+r] is written, nothing else; stride ≥ w.Rows
//	w        [w.Rows, w.Cols]           lo and hi multiples of 16
//	x        [tokens, w.Cols]           of w.Group columns a group, one plane or two
//	scratch  at least GroupScratch bytes of the calling worker's own, contents open
func GroupMatMul(y []float32, stride int, w *GroupMatrix, lo, hi int, x *Planes, scratch []byte) {
	if !w.valid() || !x.valid() || x.Cols != w.Cols || x.Group != w.Group || lo%TileRows != 0 || hi%TileRows != 0 || lo < 0 || hi < lo || hi > w.Rows ||
		stride < w.Rows || x.Tokens > 0 && len(y) < (x.Tokens-1)*stride+w.Rows || len(scratch) < GroupScratch {
		badLength("GroupMatMul(y, stride, rows, cols, codes, scales, lo, hi, tokens, xcols, scratch)",
			len(y), stride, w.Rows, w.Cols, len(w.Codes), len(w.Scales), lo, hi, x.Tokens, x.Cols, len(scratch))
	}
	if lo == hi || x.Tokens == 0 {
		return
	}
	p := w.Panel(lo, hi)
	if w.Cols == 0 {
		for t := range x.Tokens {
			clear(y[t*stride+lo:][:hi-lo])
		}
		return
	}
	active.groupMatMul(y[lo:], stride, &p, x, scratch)
	if p.RowScale != nil {
		for t := range x.Tokens {
			for r, s := range p.RowScale {
				y[t*stride+lo+r] *= s
			}
		}
	}
}

// GroupRow writes row r of a matrix as float32: ŵ·d, or ŵ·R where there are row scales alone (each product rounded).
//
//	dst  [w.Cols]
func GroupRow(dst []float32, w *GroupMatrix, r int) {
	if len(dst) != w.Cols {
		badLength("GroupRow(dst, w, r)", len(dst), w.Rows, w.Cols, r)
	}
	rowScale := float32(1)
	if w.RowScale != nil {
		rowScale = w.RowScale[r]
	}
	w.row(r, func(g int, d float32, codes []uint32) {
		d = float32(d * rowScale)
		for k, c := range codes {
			for j := range 4 {
				dst[g*w.Group+4*k+j] = float32(int32(c>>(8*j)&3)-1) * d
			}
		}
	})
}

// GroupCodes writes ŵ+1 of row r, a byte each, and returns nothing of its scales: w.Scale has them.
//
//	dst  [w.Cols]
func GroupCodes(dst []byte, w *GroupMatrix, r int) {
	if len(dst) != w.Cols {
		badLength("GroupCodes(dst, w, r)", len(dst), w.Rows, w.Cols, r)
	}
	w.row(r, func(g int, _ float32, codes []uint32) {
		for k, c := range codes {
			binary.LittleEndian.PutUint32(dst[g*w.Group+4*k:], c)
		}
	})
}

// Scale is the float16 scale of row r, column c; that of 1 where there are no group scales.
func (w *GroupMatrix) Scale(r, c int) uint16 {
	if w.Scales == nil {
		return oneScale[0]
	}
	return w.Scales[(r/TileRows*w.ScaleGroups()+c/w.Group>>w.scaleShift())*TileRows+r%TileRows]
}

// row calls f for each group of a row: byte j of codes[k] is ŵ+1 of its column 4k+j.
func (w *GroupMatrix) row(r int, f func(g int, d float32, codes []uint32)) {
	if !w.valid() || r < 0 || r >= w.Rows {
		badLength("GroupMatrix: row", w.Rows, w.Cols, r)
	}
	p := w.Panel(r&^15, r&^15+16)
	var buf [128 / 4]uint32
	codes := buf[:w.Group/4]
	for g := range w.Cols / w.Group {
		p.rowCodes(codes, r%TileRows, g)
		f(g, F16(w.Scale(r, g*w.Group)), codes)
	}
}

// oneScale stands for the scales of a matrix that has none.
var oneScale = [TileRows]uint16{0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00}
