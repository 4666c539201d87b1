package kernel

import (
	"fmt"
	"testing"
)

func TestScreen(t *testing.T) {
	rng := newRand(12)
	for _, shape := range [][3]int{{16, 64, 1}, {16, 128, 3}, {32, 192, 2}, {64, 2560, 1}, {48, 128, 7}, {32, 64, 12}} {
		rows, cols, queries := shape[0], shape[1], shape[2]
		nc, ns, _ := ScreenSizes(rows, cols)
		stride, blocks := rows+16, cols/64
		for _, extreme := range []bool{false, true} {
			codes := vecOf(t, nc, func(int) byte { return byte(rng.Uint32()) })
			x := vecOf(t, queries*cols, func(int) int8 { return int8(rng.IntN(255) - 127) })
			if extreme {
				for i := range codes {
					codes[i] = 0xff
				}
				for i := range x {
					x[i] = -128
				}
			}
			scales := vecOf(t, ns, func(int) uint16 { return ToF16(rng.Float32()) })
			random := func(int) float32 { return rng.Float32() - 0.5 }
			positive := func(int) float32 { return rng.Float32() }
			xs, off, sq := vecOf(t, queries*blocks, random), vecOf(t, queries*blocks, random), vecOf(t, queries*blocks, positive)
			norm, margin := vecOf(t, rows, positive), vecOf(t, queries, positive)
			size := (queries-1)*stride + rows
			y, high := make([]float32, size), make([]float32, size)
			for q := range queries {
				b := q * blocks
				screenGeneric(y[q*stride:][:rows], high[q*stride:][:rows], codes, scales, norm, x[q*cols:][:cols], xs[b:b+blocks], off[b:b+blocks], sq[b:b+blocks], margin[q])
			}
			gy, gh := vec[float32](t, size), vec[float32](t, size) // what lies between the queries stays 0
			forTiers(func(tier string) {
				Screen(gy, gh, stride, codes, scales, norm, x, xs, off, sq, margin)
				equalBits(t, fmt.Sprint(tier, " estimates of ", shape), gy, y)
				equalBits(t, fmt.Sprint(tier, " bounds of ", shape), gh, high)
			})
		}
	}
	mustPanic(t, "rows that overlap", func() {
		Screen(make([]float32, 32), make([]float32, 32), 8, make([]byte, 384), make([]uint16, 16), make([]float32, 16), make([]int8, 128), make([]float32, 2), make([]float32, 2), make([]float32, 2), make([]float32, 2))
	})
}

// TestScreenPack: every code comes back, and no bit belongs to two of them.
func TestScreenPack(t *testing.T) {
	const rows, cols = 32, 128
	nu, ns, nl := ScreenSizes(rows, cols)
	upper, scales, lower := vec[byte](t, nu), vec[uint16](t, ns), vec[byte](t, nl)
	rng := newRand(3)
	want, scale := make([]byte, rows*cols), make([]uint16, rows*cols/64)
	for i := range want {
		want[i] = byte(rng.IntN(32))
	}
	for i := range scale {
		scale[i] = uint16(rng.Uint32())
		ScreenPack(upper, scales, lower, cols, i/2, i%2*64, scale[i], (*[64]byte)(want[64*i:]))
	}
	for r := range rows {
		low := lower[r*lowerBytes(cols):][:lowerBytes(cols)]
		for c := range cols {
			if got := screenUpper(upper, cols, r, c)<<2 | low[c/64*16+c%16]>>(c%64/16*2)&3; got != want[r*cols+c] {
				t.Fatalf("row %d, column %d: code %d, want %d", r, c, got, want[r*cols+c])
			}
		}
		for b := range cols / 64 {
			one, other := scales[screenScale(cols, r, 64*b)], uint16(low[cols/4+2*b])|uint16(low[cols/4+2*b+1])<<8
			if w := scale[2*r+b]; one != w || other != w {
				t.Fatalf("row %d, block %d: scales %d and %d, want %d", r, b, one, other, w)
			}
		}
	}
}

func TestScreenRefine(t *testing.T) {
	rng := newRand(14)
	for _, shape := range [][3]int{{16, 64, 1}, {48, 128, 5}, {64, 2560, 33}, {32, 192, 0}} {
		rows, cols, n := shape[0], shape[1], shape[2]
		_, _, nl := ScreenSizes(rows, cols)
		for _, extreme := range []bool{false, true} {
			lower := vecOf(t, nl, func(int) byte { return byte(rng.Uint32()) })
			for i := range nl / 2 { // scales that are numbers: no exponent of ones
				if lower[2*i+1]&0x7c == 0x7c {
					lower[2*i+1] ^= 4
				}
			}
			x := vecOf(t, cols, func(int) int8 { return int8(rng.IntN(256) - 128) })
			if extreme {
				for i := range x {
					x[i] = -128
				}
			}
			xs := vecOf(t, cols/64, func(int) float32 { return rng.Float32() })
			index := vecOf(t, n, func(int) int32 { return int32(rng.IntN(rows)) })
			start := func(i int) float32 { return float32(i) }
			want := make([]float32, n)
			for i := range want {
				want[i] = start(i)
			}
			screenRefineGeneric(want, index, lower, x, xs)
			forTiers(func(tier string) {
				got := vecOf(t, n, start)
				ScreenRefine(got, index, lower, x, xs)
				equalBits(t, fmt.Sprint(tier, " ", shape), got, want)
			})
		}
	}
	mustPanic(t, "a row that is not there", func() {
		ScreenRefine(make([]float32, 1), []int32{16}, make([]byte, 288), make([]int8, 64), make([]float32, 1))
	})
}
