package kernel

import "encoding/binary"

// Where activations are exactly zero, weights need not be read. After a squared ReLU most are: the rows of up_proj
// whose gate is not positive, and the columns of down_proj whose activation is 0. Each has a layout for it. The
// results are those of TernaryMatVec.

// RowCols is what the columns of a row-major matrix are padded to.
const RowCols = 128

// RowsBytes is the size of a row-major ternary matrix. A row is a sequence of 32 bytes for 128 columns: byte p of
// group b holds, in bits 2g and 2g+1, the code ŵ+1 of column 128b+32g+p. Padding has code 1.
func RowsBytes(rows, cols int) int { return rows * rowBytes(cols) }

func rowBytes(cols int) int { return (cols + RowCols - 1) / RowCols * RowCols / 4 }

// RowsFromT16 converts a T16 matrix of [rows, cols] to the row-major layout.
func RowsFromT16(dst, w []byte, rows, cols int) {
	if len(dst) != RowsBytes(rows, cols) || len(w) != T16Bytes(rows, cols) {
		badLength("RowsFromT16(dst, w, rows, cols)", len(dst), len(w), rows, cols)
	}
	if len(dst) != 0 {
		active.rowsFromT16(dst, w, rows, cols)
	}
}

func rowsFromT16Generic(dst, w []byte, rows, cols int) {
	steps, bytes := Pad16(cols)/TileCols, rowBytes(cols)
	for r := range rows {
		src := w[r/TileRows*steps*TileBytes+r%TileRows*4:]
		row := dst[r*bytes : (r+1)*bytes]
		for b := 0; b < len(row); b += 32 {
			// The 8 words of a row's 128 columns: word s holds column 16s+4g+j in byte j, bits 2g.
			var words [8]uint32
			for i := range words {
				words[i] = 0x55555555
				if s := b/4 + i; s < steps {
					words[i] = binary.LittleEndian.Uint32(src[s*TileBytes:])
				}
			}
			for i := range 8 { // bytes 4i…4i+3: column 32g'+4i+j comes from word 2g'+i/4, bits 2(i%4)
				const mask = 0x03030303
				k, shift := i/4, i%4*2
				binary.LittleEndian.PutUint32(row[b+4*i:], words[k]>>shift&mask|words[k+2]>>shift&mask<<2|
					words[k+4]>>shift&mask<<4|words[k+6]>>shift&mask<<6)
			}
		}
	}
}

// TernaryRows computes some rows of Ŵ·x̂: y[i] = Ŵ[index[i]]·x̂.
//
//	y, index  [n]
//	w         row-major of cols columns
//	x         [cols] int8, cols a multiple of RowCols
//	xsum      Σx̂
func TernaryRows(y []int32, w []byte, index []int32, x []int8, xsum int32) {
	if len(y) != len(index) || len(x) == 0 || len(x)%RowCols != 0 || len(x) > MaxCols || len(w)%(len(x)/4) != 0 {
		badLength("TernaryRows(y, w, index, x)", len(y), len(w), len(index), len(x))
	}
	checkIndex("TernaryRows", index, len(w)/(len(x)/4))
	if len(index) != 0 {
		active.ternaryRows(y, w, index, x, xsum)
	}
}

// ColumnRows is what the rows of a column-major matrix are padded to.
const ColumnRows = 256

// ColumnBytes is the size of one column of a column-major ternary matrix, which holds 64 bytes for 256 rows: byte
// 16l+4i+j holds, in bits 2g and 2g+1, the code ŵ+1 of row 64i+16g+4l+j. So four columns, interleaved byte by byte
// as VPUNPCK does within 128 bits, have 16 consecutive rows in the 32-bit lanes of a vector. Padding has code 1.
func ColumnBytes(rows int) int { return (rows + ColumnRows - 1) / ColumnRows * 64 }

// ColumnsFromT16 converts columns [lo, hi) of a T16 matrix of [rows, cols] to the column-major layout. dst is the
// whole matrix, cols·ColumnBytes(rows); workers share it by columns, lo a multiple of 16.
func ColumnsFromT16(dst, w []byte, rows, cols, lo, hi int) {
	size, steps := ColumnBytes(rows), Pad16(cols)/TileCols
	if len(dst) != cols*size || len(w) != T16Bytes(rows, cols) || lo%TileCols != 0 || lo < 0 || hi > cols {
		badLength("ColumnsFromT16(dst, w, rows, cols, lo, hi)", len(dst), len(w), rows, cols, lo, hi)
	}
	for s := lo; s < hi; s += TileCols {
		n := min(TileCols, hi-s)
		for base := 0; base < size; base += 64 { // 256 rows, 16 tiles
			var out [TileCols][64]byte
			for t := range 16 { // rows 16t…16t+15: i = t/4, g = t%4
				at := base/4 + t
				if at*TileRows >= rows {
					for c := range n {
						for r := range TileRows {
							out[c][r/4*16+t/4*4+r%4] |= 1 << (t % 4 * 2)
						}
					}
					continue
				}
				block := w[(at*steps+s/TileCols)*TileBytes:][:TileBytes]
				for r := range TileRows {
					p, shift := r/4*16+t/4*4+r%4, t%4*2
					word := binary.LittleEndian.Uint32(block[4*r:])
					for c := range n {
						out[c][p] |= byte(word>>(c%4*8+c/4*2)&3) << shift
					}
				}
			}
			for c := range n {
				copy(dst[(s+c)*size+base:][:64], out[c][:])
			}
		}
	}
}

// Nonzeros lists the positions and values of x that are not 0, in order, filled up with (0, 0) to a multiple of 4,
// and returns how many that is. index and value have room for Pad16(len(x)).
func Nonzeros(index []int32, value, x []int8) int {
	if room := Pad16(len(x)); len(index) < room || len(value) < room {
		badLength("Nonzeros(index, value, x)", len(index), len(value), len(x))
	}
	n := active.nonzeros(index, value, x)
	for ; n%4 != 0; n++ {
		index[n], value[n] = 0, 0
	}
	return n
}

// Above lists the positions of g whose value is above bar or not a number, in order, and returns how many that is.
// index has room for Pad16(len(g)).
func Above(index []int32, g []float32, bar float32) int {
	if len(index) < Pad16(len(g)) {
		badLength("Above(index, g)", len(index), len(g))
	}
	return active.above(index, g, bar)
}

// TernaryColumns computes Ŵ·x̂ from the columns whose activation is not 0: y = Σ x[i]·Ŵ[:, index[i]].
//
//	y         [rows] int32, rows a multiple of ColumnRows
//	w         column-major; a column of the matrix begins every stride bytes
//	index, x  from Nonzeros: the columns and their activations, a multiple of 4
//	xsum      Σx̂
//
// Workers share a matrix by rows: w[64k:] begins at row 256k.
func TernaryColumns(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32) {
	if len(y)%ColumnRows != 0 || len(index) != len(x) || len(index)%4 != 0 || stride < len(y)/4 || len(x) > MaxCols {
		badLength("TernaryColumns(y, w, stride, index, x)", len(y), len(w), stride, len(index), len(x))
	}
	if len(y) == 0 {
		return
	}
	checkIndex("TernaryColumns", index, (len(w)-len(y)/4)/stride+1)
	active.ternaryColumns(y, w, stride, index, x, xsum)
}

// checkIndex panics when an index is not in [0, n).
func checkIndex(name string, index []int32, n int) {
	top := uint32(0)
	for _, i := range index {
		top = max(top, uint32(i))
	}
	if len(index) != 0 && int(top) >= n {
		badLength(name+": index", int(top), n)
	}
}
