package kernel

import (
	"bytes"
	"fmt"
	"testing"
)

// t5Shapes have no group, groups alone, a rest alone, and both.
var t5Shapes = [][2]int{{16, 16}, {16, 80}, {16, 96}, {32, 112}, {48, 192}, {16, 272}, {80, 288 + 64}, {16, 2560}, {16, 6912}}

func TestT5(t *testing.T) {
	for _, c := range ternaryCases {
		for _, s := range t5Shapes {
			rows, cols := s[0], s[1]
			t16 := packT16(t, rows, cols, c.code)
			w := vec[byte](t, T5Bytes(rows, cols))
			t5FromT16Generic(w, t16, rows, cols)
			x := vecOf(t, cols, c.x)
			want := wantTernary(rows, cols, 1, c.code, x)
			forTiers(func(tier string) {
				what := fmt.Sprintf("%s, %s [%d, %d]", tier, c.name, rows, cols)
				own := vec[byte](t, len(w))
				if T5FromT16(own, t16, rows, cols); !bytes.Equal(own, w) {
					t.Fatalf("%s: T5 from T16 is another matrix", what)
				}
				back := vecOf(t, len(t16), func(int) byte { return 0xff })
				T16FromT5(back, w, rows, cols)
				if !bytes.Equal(back, t16) {
					t.Fatalf("%s: T16 from T5 is another matrix", what)
				}
				y := vecOf(t, rows, func(int) int32 { return 0x55555555 })
				TernaryMatVecT5(y, w, x, sums(x, 1)[0])
				equalInts(t, what, y, want)
				for _, tokens := range []int{1, 2, 3, 7, 8, 13, 17} {
					x := vecOf(t, tokens*cols, c.x)
					y := vecOf(t, tokens*rows, func(int) int32 { return 0x55555555 })
					TernaryMatMulT5(y, w, x, sums(x, tokens))
					equalInts(t, fmt.Sprint(what, " × ", tokens), y, wantTernary(rows, cols, tokens, c.code, x))
				}
			})
		}
	}
}

// TestT5Codes: every code in every place.
func TestT5Codes(t *testing.T) {
	for shift := range 27 {
		code := func(r, c int) byte {
			v := (c/12*27/8 + r*5 + c%4 + shift) % 27 // of the three groups of columns 12k…12k+11
			return byte([]int{v % 3, v / 3 % 3, v / 9}[c%12/4])
		}
		t16 := packT16(t, 16, T5Cols, code)
		w := make([]byte, T5Bytes(16, T5Cols))
		T5FromT16(w, t16, 16, T5Cols)
		forTiers(func(tier string) {
			own := make([]byte, len(w))
			if T5FromT16(own, t16, 16, T5Cols); !bytes.Equal(own, w) {
				t.Fatalf("%s, shift %d: another T5", tier, shift)
			}
			back := make([]byte, len(t16))
			if T16FromT5(back, w, 16, T5Cols); !bytes.Equal(back, t16) {
				t.Fatalf("%s, shift %d: another matrix", tier, shift)
			}
		})
	}
}

func TestT5AtMaxCols(t *testing.T) {
	t16 := vecOf(t, T16Bytes(16, MaxCols), func(int) byte { return 0xaa }) // all +1
	w := vec[byte](t, T5Bytes(16, MaxCols))
	T5FromT16(w, t16, 16, MaxCols)
	x := vecOf(t, MaxCols, func(int) int8 { return -128 })
	eachTier(t, func(t *testing.T) {
		y := vec[int32](t, 16)
		TernaryMatMulT5(y, w, x, []int32{-128 * MaxCols})
		for r, v := range y {
			if v != -128*MaxCols {
				t.Fatalf("as a matrix product y[%d] = %d, want %d", r, v, -128*MaxCols)
			}
		}
		TernaryMatVecT5(y, w, x, -128*MaxCols)
		for r, v := range y {
			if v != -128*MaxCols {
				t.Fatalf("y[%d] = %d, want %d", r, v, -128*MaxCols)
			}
		}
	})
}

func TestT5LengthsPanic(t *testing.T) {
	y, w, x, t16 := make([]int32, 32), make([]byte, T5Bytes(32, 208)), make([]int8, 208), make([]byte, T16Bytes(32, 208))
	mustPanic(t, "y too short", func() { TernaryMatVecT5(y[:16], w, x, 0) })
	mustPanic(t, "w too short", func() { TernaryMatVecT5(y, w[1:], x, 0) })
	mustPanic(t, "w of one token too short", func() { TernaryMatMulT5(y, w[1:], x, []int32{0}) })
	mustPanic(t, "x of one token for two", func() { TernaryMatMulT5(y, w, x, []int32{0, 0}) })
	mustPanic(t, "x not whole blocks", func() { TernaryMatVecT5(y, w, x[1:], 0) })
	mustPanic(t, "rows not whole tiles", func() { T5FromT16(w, t16, 31, 208) })
	mustPanic(t, "T16 too short", func() { T16FromT5(t16[1:], w, 32, 208) })
	mustPanic(t, "T5 too short", func() { T5FromT16(w[1:], t16, 32, 208) })
}
