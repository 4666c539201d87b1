package kernel

import (
	"fmt"
	"testing"
)

// wantTernary is the product from the codes, without any layout.
func wantTernary(rows, cols, tokens int, code func(r, c int) byte, x []int8) []int32 {
	y := make([]int32, tokens*rows)
	for t := range tokens {
		for r := range rows {
			s := int32(0)
			for c := range cols {
				s += (int32(code(r, c)) - 1) * int32(x[t*cols+c])
			}
			y[t*rows+r] = s
		}
	}
	return y
}

func packT16(t testing.TB, rows, cols int, code func(r, c int) byte) []byte {
	w := vecOf(t, T16Bytes(rows, cols), func(int) byte { return 0x55 })
	for r := range rows {
		for c := range cols {
			PutT16(w, cols, r, c, code(r, c))
		}
	}
	return w
}

func sums(x []int8, tokens int) []int32 {
	s := make([]int32, tokens)
	for t := range tokens {
		for _, v := range x[t*len(x)/tokens : (t+1)*len(x)/tokens] {
			s[t] += int32(v)
		}
	}
	return s
}

var ternaryCases = []struct {
	name string
	code func(r, c int) byte
	x    func(i int) int8
}{
	{"random", func(r, c int) byte { return byte((uint32(r*31+c*17+r*c) * 2654435761) >> 16 % 3) }, func(i int) int8 { return int8(uint32(i) * 2654435761 >> 20) }},
	{"all +1, x 127", func(r, c int) byte { return 2 }, func(i int) int8 { return 127 }},
	{"all +1, x -127", func(r, c int) byte { return 2 }, func(i int) int8 { return -127 }},
	{"all +1, x -128", func(r, c int) byte { return 2 }, func(i int) int8 { return -128 }},
	{"all -1, x -128", func(r, c int) byte { return 0 }, func(i int) int8 { return -128 }},
	{"all 0, x 127", func(r, c int) byte { return 1 }, func(i int) int8 { return 127 }},
}

func TestTernaryMatVec(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		for _, c := range ternaryCases {
			for _, rows := range []int{16, 32, 48, 80} {
				for cols := 16; cols <= 16*21; cols += 16 {
					testTernaryMatVec(t, c.name, rows, cols, c.code, c.x)
				}
			}
			testTernaryMatVec(t, c.name, 16, 6912, c.code, c.x)
		}
		TernaryMatVec(nil, nil, make([]int8, 16), 0)
		y := []int32{1: 7, 15: 0}
		TernaryMatVec(y, nil, nil, 0) // no columns
		if y[1] != 0 {
			t.Error("a product without columns is not 0")
		}
	})
}

func testTernaryMatVec(t *testing.T, name string, rows, cols int, code func(r, c int) byte, fx func(i int) int8) {
	t.Helper()
	w := packT16(t, rows, cols, code)
	x := vecOf(t, cols, fx)
	y := vecOf(t, rows, func(int) int32 { return 0x55555555 })
	TernaryMatVec(y, w, x, sums(x, 1)[0])
	equalInts(t, fmt.Sprintf("%s [%d, %d]", name, rows, cols), y, wantTernary(rows, cols, 1, code, x))
}

// The widest matrix a tier must bear, with the largest sums.
func TestTernaryMatVecAtMaxCols(t *testing.T) {
	w := vecOf(t, T16Bytes(16, MaxCols), func(int) byte { return 0xaa }) // all +1
	x := vecOf(t, MaxCols, func(int) int8 { return -128 })
	eachTier(t, func(t *testing.T) {
		y := vec[int32](t, 16)
		TernaryMatVec(y, w, x, -128*MaxCols)
		for r, v := range y {
			if v != -128*MaxCols {
				t.Fatalf("y[%d] = %d, want %d", r, v, -128*MaxCols)
			}
		}
		yy := vec[int32](t, 16*5)
		TernaryMatMul(yy, w, append(append(append(append(x[:MaxCols:MaxCols], x...), x...), x...), x...), []int32{-128 * MaxCols, -128 * MaxCols, -128 * MaxCols, -128 * MaxCols, -128 * MaxCols}, make([]byte, MatMulScratch(MaxCols)))
		for i, v := range yy {
			if v != -128*MaxCols {
				t.Fatalf("TernaryMatMul: y[%d] = %d, want %d", i, v, -128*MaxCols)
			}
		}
	})
}

func TestTernaryMatMul(t *testing.T) {
	for _, c := range ternaryCases {
		for _, rows := range []int{16, 32, 48} {
			for _, cols := range []int{16, 32, 48, 64, 240, 256, 272, 512, 528, 1040} { // 1040 is more than any slab
				for _, tokens := range []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 23, 67} {
					if tokens > 9 && cols > 64 && c.name != "random" || cols == 1040 && (rows > 16 || tokens < 5 || tokens == 67) {
						continue
					}
					w := packT16(t, rows, cols, c.code)
					x := vecOf(t, tokens*cols, c.x)
					y, scratch := vec[int32](t, tokens*rows), vec[byte](t, MatMulScratch(cols))
					want := wantTernary(rows, cols, tokens, c.code, x)
					forTiers(func(tier string) {
						for i := range y {
							y[i] = 0x55555555
						}
						TernaryMatMul(y, w, x, sums(x, tokens), scratch)
						equalInts(t, fmt.Sprintf("%s, %s [%d, %d] · %d tokens", tier, c.name, rows, cols, tokens), y, want)
					})
				}
			}
		}
	}
}

func TestTernaryLengthsPanic(t *testing.T) {
	y, w, x := make([]int32, 32), make([]byte, T16Bytes(32, 64)), make([]int8, 64)
	s := make([]byte, MatMulScratch(64))
	mustPanic(t, "y too short", func() { TernaryMatVec(y[:16], w, x, 0) })
	mustPanic(t, "y not whole tiles", func() { TernaryMatVec(y[:31], w, x, 0) })
	mustPanic(t, "w too short", func() { TernaryMatVec(y, w[1:], x, 0) })
	mustPanic(t, "x not whole blocks", func() { TernaryMatVec(y, w, x[1:], 0) })
	mustPanic(t, "x too wide", func() { TernaryMatVec(nil, nil, make([]int8, MaxCols+16), 0) })
	mustPanic(t, "scratch too small", func() { TernaryMatMul(y, w, x, make([]int32, 1), s[1:]) })
	mustPanic(t, "tokens do not divide", func() { TernaryMatMul(y, w, x, make([]int32, 3), s) })
	mustPanic(t, "no tokens", func() { TernaryMatMul(y, w, x, nil, s) })
}

func benchmarkTiers(b *testing.B, f func(b *testing.B)) {
	defer restoreTier(Tier())
	for _, name := range Tiers()[1:] {
		restoreTier(name)
		b.Run(name, f)
	}
}

func BenchmarkTernaryMatVec(b *testing.B) {
	for _, shape := range [][2]int{{2560, 2560}, {65536, 6912}} { // in L3, in memory
		rows, cols := shape[0], shape[1]
		w := make([]byte, T16Bytes(rows, cols))
		for i := range w {
			w[i] = byte(i) & 0x55
		}
		x, y := make([]int8, cols), make([]int32, rows)
		b.Run(fmt.Sprintf("%dx%d", rows, cols), func(b *testing.B) {
			benchmarkTiers(b, func(b *testing.B) {
				b.SetBytes(int64(len(w)))
				for b.Loop() {
					TernaryMatVec(y, w, x, 0)
				}
				b.ReportMetric(float64(rows*cols*b.N)/float64(b.Elapsed().Nanoseconds()), "GMAC/s")
			})
		})
	}
}

func BenchmarkTernaryMatMul(b *testing.B) {
	const rows, cols = 1280, 2560
	w := make([]byte, T16Bytes(rows, cols))
	for _, tokens := range []int{1, 2, 4, 8, 16, 64, 512} {
		x, y, s := make([]int8, cols*tokens), make([]int32, rows*tokens), make([]int32, tokens)
		scratch := make([]byte, MatMulScratch(cols))
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			benchmarkTiers(b, func(b *testing.B) {
				for b.Loop() {
					TernaryMatMul(y, w, x, s, scratch)
				}
				b.ReportMetric(float64(rows*cols*tokens*b.N)/float64(b.Elapsed().Nanoseconds()), "GMAC/s")
			})
		})
	}
}

func BenchmarkPeak(b *testing.B) {
	benchmarkTiers(b, func(b *testing.B) {
		for _, c := range []struct {
			name string
			f    func(int)
			macs int
		}{{"int8", active.peak.int8, active.peak.int8Turn}, {"f32", active.peak.f32, active.peak.f32Turn}} {
			b.Run(c.name, func(b *testing.B) {
				for b.Loop() {
					c.f(1000)
				}
				b.ReportMetric(float64(1000*c.macs*b.N)/float64(b.Elapsed().Nanoseconds()), "GMAC/s")
			})
		}
	})
}
