package kernel

import (
	"bytes"
	"fmt"
	"math"
	"testing"
)

// A sparse product is the dense one, whatever is skipped.
func TestTernaryRows(t *testing.T) {
	rng := newRand(13)
	for _, c := range ternaryCases {
		for _, cols := range []int{128, 256, 384, 1024, 1152, 2560} {
			const rows = 37
			t16 := packT16(t, rows, cols, c.code)
			w := vec[byte](t, RowsBytes(rows, cols))
			rowsFromT16Generic(w, t16, rows, cols)
			forTiers(func(tier string) {
				own := vec[byte](t, len(w))
				if RowsFromT16(own, t16, rows, cols); !bytes.Equal(own, w) {
					t.Fatalf("%s, %s: another matrix of %d columns", tier, c.name, cols)
				}
			})
			x := vecOf(t, cols, c.x)
			xsum := sums(x, 1)[0]
			dense := make([]int32, Pad16(rows))
			ternaryMatVecGeneric(dense, t16, x, xsum)
			for n := range 12 {
				index := vecOf(t, n, func(int) int32 { return int32(rng.IntN(rows)) })
				want := make([]int32, n)
				for i, r := range index {
					want[i] = dense[r]
				}
				y := vec[int32](t, n)
				forTiers(func(tier string) {
					clear(y)
					TernaryRows(y, w, index, x, xsum)
					equalInts(t, fmt.Sprintf("%s, %s: %d rows of %d", tier, c.name, n, cols), y, want)
				})
			}
		}
	}
}

func TestTernaryColumns(t *testing.T) {
	rng := newRand(14)
	for _, c := range ternaryCases {
		for _, rows := range []int{256, 512} {
			for _, cols := range []int{16, 80, 300, 528} {
				t16 := packT16(t, rows, cols, c.code)
				w := vec[byte](t, cols*ColumnBytes(rows))
				ColumnsFromT16(w, t16, rows, cols, 0, cols/2/16*16)
				ColumnsFromT16(w, t16, rows, cols, cols/2/16*16, cols)
				for _, zeros := range []int{0, 50, 80, 99, 100} {
					x := fill(Pad16(cols), func(i int) int8 {
						if i >= cols || rng.IntN(100) < zeros {
							return 0
						}
						return c.x(i)
					})
					xsum := sums(x, 1)[0]
					want := make([]int32, rows)
					ternaryMatVecGeneric(want, t16, x, xsum)
					index, value := make([]int32, len(x)), make([]int8, len(x))
					n := Nonzeros(index, value, x)
					in, val := vecOf(t, n, func(i int) int32 { return index[i] }), vecOf(t, n, func(i int) int8 { return value[i] })
					y := vec[int32](t, rows)
					forTiers(func(tier string) {
						TernaryColumns(y, w, ColumnBytes(rows), in, val, xsum)
						equalInts(t, fmt.Sprintf("%s, %s: [%d, %d], %d%% zeros", tier, c.name, rows, cols, zeros), y, want)
					})
				}
			}
		}
	}
}

// Rows that are no multiple of 256 or 16, columns no multiple of 128, and a matrix cut by rows.
func TestSparseLayoutsPad(t *testing.T) {
	const rows, cols = 300, 200
	code := func(r, c int) byte { return byte((r*7 + c*5 + r*c) % 3) }
	t16 := packT16(t, rows, cols, code)
	x := fill(Pad16(cols), func(i int) int8 {
		if i >= cols {
			return 0
		}
		return int8(i*37) | 1
	})
	want := wantTernary(rows, cols, 1, code, x[:cols])
	xsum := sums(x, 1)[0]

	w := make([]byte, RowsBytes(rows, cols))
	RowsFromT16(w, t16, rows, cols)
	y := make([]int32, rows)
	TernaryRows(y, w, fill(rows, func(i int) int32 { return int32(i) }), append(x, make([]int8, 256-len(x))...), xsum)
	equalInts(t, "rows", y, want)

	w = make([]byte, cols*ColumnBytes(rows))
	ColumnsFromT16(w, t16, rows, cols, 0, cols)
	index, value := make([]int32, len(x)), make([]int8, len(x))
	n := Nonzeros(index, value, x)
	y = make([]int32, 512)
	for r := 0; r < 512; r += 256 {
		TernaryColumns(y[r:r+256], w[r/4:], ColumnBytes(rows), index[:n], value[:n], xsum)
	}
	equalInts(t, "columns", y[:rows], want)
	for r, v := range y[rows:] {
		if v != 0 {
			t.Errorf("padded row %d is %d", rows+r, v)
		}
	}
}

func TestNonzeros(t *testing.T) {
	index, value := make([]int32, 16), make([]int8, 16)
	n := Nonzeros(index, value, []int8{0, 5, 0, -3, 0, 0, 127, 1, 2})
	if n != 8 || fmt.Sprint(index[:n], value[:n]) != "[1 3 6 7 8 0 0 0] [5 -3 127 1 2 0 0 0]" {
		t.Errorf("Nonzeros = %v %v", index[:n], value[:n])
	}
	if n := Nonzeros(index, value, make([]int8, 16)); n != 0 {
		t.Errorf("Nonzeros of zeros = %d", n)
	}
}

func TestSparseLengthsPanic(t *testing.T) {
	x, y, w := make([]int8, 128), make([]int32, 256), make([]byte, 64*8)
	mustPanic(t, "a row past the end", func() { TernaryRows(y[:1], w, []int32{16}, x, 0) })
	mustPanic(t, "a negative row", func() { TernaryRows(y[:1], w, []int32{-1}, x, 0) })
	mustPanic(t, "x not whole groups", func() { TernaryRows(y[:1], w, []int32{0}, x[:64], 0) })
	mustPanic(t, "a column past the end", func() { TernaryColumns(y, w, 64, []int32{0, 0, 0, 8}, x[:4], 0) })
	mustPanic(t, "columns not in fours", func() { TernaryColumns(y, w, 64, []int32{0}, x[:1], 0) })
	mustPanic(t, "rows not in 256", func() { TernaryColumns(y[:128], w, 64, nil, nil, 0) })
}

// TestLists: both lists of every tier, at every density and length. What is not a number is in the list: a damaged
// value must show further on.
func TestLists(t *testing.T) {
	rng := newRand(8)
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	odd := []float32{nan, inf, -inf, 0, float32(math.Copysign(0, -1)), 1e-45, -1e-45}
	for _, n := range []int{0, 1, 15, 16, 17, 31, 64, 100, 1000} {
		for _, share := range []float64{0, 0.1, 0.5, 0.9, 1} {
			g := vecOf(t, n, func(i int) float32 {
				if i%9 == 3 {
					return odd[i/9%len(odd)]
				}
				if rng.Float64() < share {
					return rng.Float32() + 1e-9
				}
				return -rng.Float32()
			})
			x := vecOf(t, n, func(i int) int8 {
				if rng.Float64() < share {
					return int8(rng.IntN(256) - 128)
				}
				return 0
			})
			bar := []float32{0, 0.25, -inf}[n%3]
			var above, nonzero []int32
			var values []int8
			for i := range n {
				if !(g[i] <= bar) {
					above = append(above, int32(i))
				}
				if x[i] != 0 {
					nonzero, values = append(nonzero, int32(i)), append(values, x[i])
				}
			}
			for len(nonzero)%4 != 0 {
				nonzero, values = append(nonzero, 0), append(values, 0)
			}
			forTiers(func(tier string) {
				what := fmt.Sprintf("%s, %d values, %g", tier, n, share)
				index, value := vec[int32](t, Pad16(n)), vec[int8](t, Pad16(n))
				equalInts(t, what+": above", index[:Above(index, g, bar)], above)
				m := Nonzeros(index, value, x)
				equalInts(t, what+": nonzero", index[:m], nonzero)
				equalInts(t, what+": values", value[:m], values)
			})
		}
	}
}
