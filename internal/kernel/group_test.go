package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"
)

// groupCase is a matrix from its codes and scales, without any layout.
type groupCase struct {
	rows, cols, group, scaleGroup int
	code                          func(r, c int) byte // ŵ+1; of Binary1 0 or 2
	scale                         func(r, i int) uint16
	rowScale                      bool
}

// pack makes the matrix, each slice of it ending at a page's end.
func (c groupCase) pack(t testing.TB, l GroupLayout) *GroupMatrix {
	w := &GroupMatrix{Rows: c.rows, Cols: c.cols, Layout: l, Group: c.group, ScaleGroup: c.scaleGroup}
	w.Codes = vec[byte](t, GroupBytes(l, c.rows, c.cols, c.group))
	size := groupTileBytes(l, c.cols, c.group)
	for tile := range c.rows / 16 {
		src := make([]byte, 4*c.cols)
		if l == Binary1 {
			src = src[:2*c.cols]
		}
		for r := range 16 {
			for col := range c.cols {
				code := c.code(16*tile+r, col)
				if l == Binary1 {
					src[col/32*64+4*r+col%4] |= code >> 1 << (col % 32 / 4)
				} else {
					PutT16(src, c.cols, r, col, code)
				}
			}
		}
		PutGroupTile(w.Codes[tile*size:][:size], l, src, c.cols, c.group)
	}
	if c.scale != nil {
		n := w.ScaleGroups()
		w.Scales = vecOf(t, c.rows*n, func(i int) uint16 { return c.scale(i/(16*n)*16+i%16, i/16%n) })
	}
	if c.rowScale {
		w.RowScale = vecOf(t, c.rows, func(r int) float32 { return 0.001 * float32(r+3) })
	}
	return w
}

// want is the product as group.go defines it, from the rounded activations as they are described in planes.go.
func (c groupCase) want(x *Planes) []float32 {
	y := make([]float32, x.Tokens*c.rows)
	for t := range x.Tokens {
		for r := range c.rows {
			var sum float32
			for g := range c.cols / c.group {
				at := (t*c.cols/c.group + g) * (x.Count*c.group + 8)
				s := math.Float32frombits(binary.LittleEndian.Uint32(x.Data[at+x.Count*c.group:]))
				dot := int64(0)
				for i := range c.group {
					v := int64(int8(x.Data[at+i]))
					if x.Count == 2 {
						v = 256*v + int64(int8(x.Data[at+c.group+i]))
					}
					dot += (int64(c.code(r, g*c.group+i)) - 1) * v
				}
				d := float32(1)
				if c.scale != nil {
					d = F16(c.scale(r, min(g*c.group/c.scaleGroup, (c.cols-1)/c.scaleGroup)))
				}
				sum = fma32(float32(dot), float32(d*s), sum)
			}
			if c.rowScale {
				sum *= 0.001 * float32(r+3)
			}
			y[t*c.rows+r] = sum
		}
	}
	return y
}

func (c groupCase) activations(t testing.TB, tokens, count int, f func(i int) float32) *Planes {
	x := &Planes{Data: vec[byte](t, PlanesBytes(tokens, c.cols, c.group, count))}
	x.Resize(tokens, c.cols, c.group, count)
	for i := range tokens {
		QuantizeGroups(x, i, vecOf(t, c.cols, func(j int) float32 { return f(i*c.cols + j) }))
	}
	return x
}

func hash(a, b, n int) int { return int((uint32(a*31+b*17+a*b+7) * 2654435761) >> 12 % uint32(n)) }

func testGroup(t *testing.T, what string, c groupCase, layouts []GroupLayout, tokens []int, f func(i int) float32) {
	t.Helper()
	for _, l := range layouts {
		w := c.pack(t, l)
		for _, n := range tokens {
			for count := 1; count <= 2; count++ {
				x := c.activations(t, n, count, f)
				want := c.want(x)
				forTiers(func(tier string) {
					y := vecOf(t, n*c.rows, func(int) float32 { return 7 })
					scratch := vec[byte](t, GroupScratch)
					GroupMatMul(y, c.rows, w, 0, c.rows, x, scratch)
					equalBits(t, fmt.Sprintf("%s, %s, %v [%d, %d] groups %d, scales %d, %d planes × %d", tier, what, l, c.rows, c.cols, c.group, c.scaleGroup, count, n), y, want)
				})
			}
		}
	}
}

var (
	ternaryLayouts = []GroupLayout{Ternary2, Ternary5}
	binaryLayouts  = []GroupLayout{Binary1}
)

func randomTernary(r, c int) byte { return byte(hash(r, c, 3)) }
func randomBinary(r, c int) byte  { return byte(hash(r, c, 2) * 2) }
func randomScale(r, i int) uint16 { return ToF16(float32(hash(r, i, 2000)-800) * 1e-3) }
func randomX(i int) float32       { return float32(hash(i, i/7, 20001)-10000) * 1.7e-4 }

func TestGroupMatMul(t *testing.T) {
	for _, s := range []struct{ rows, cols, group, scaleGroup int }{
		{16, 128, 128, 128},
		{16, 32, 32, 32},
		{32, 256, 128, 128},
		{16, 384, 128, 128},
		{48, 512, 128, 256},
		{80, 640, 128, 640},
		{32, 896, 128, 128},
		{16, 1024, 128, 512},
		{16, 64, 64, 64},
		{32, 192, 64, 64},
		{48, 320, 64, 128},
		{32, 448, 64, 448},
		{16, 96, 32, 32},
		{32, 224, 32, 64},
		{16, 2048, 128, 128},
	} {
		c := groupCase{s.rows, s.cols, s.group, s.scaleGroup, randomTernary, randomScale, false}
		tokens := []int{1, 2, 3, 4, 5, 7, 8, 9, 13}
		if s.cols > 600 {
			tokens = []int{1, 3, 8, 67}
		}
		testGroup(t, "random", c, ternaryLayouts, tokens, randomX)
		c.code = randomBinary
		testGroup(t, "random", c, binaryLayouts, tokens, randomX)
	}
}

// Row scales, alone and beside others, and none.
func TestGroupRowScale(t *testing.T) {
	for _, scale := range []func(r, i int) uint16{nil, randomScale} {
		for _, rowScale := range []bool{false, true} {
			c := groupCase{32, 448, 64, 64, randomTernary, scale, rowScale}
			testGroup(t, "row scales", c, ternaryLayouts, []int{1, 2, 9}, randomX)
		}
	}
}

// The largest sums that there are, of either sign, and the activations whose planes are -128 and 127.
func TestGroupExtremes(t *testing.T) {
	one := func(int, int) uint16 { return 0x3c00 }
	for name, f := range map[string]func(i int) float32{
		"all 1":  func(int) float32 { return 1 },
		"all -1": func(int) float32 { return -1 },
		"lo -128": func(i int) float32 {
			return map[bool]float32{true: 1, false: -float32(126<<8+128) / planeMax16}[i%32 == 0]
		},
		"zero":        func(int) float32 { return 0 },
		"tiny":        func(i int) float32 { return 1e-40 * float32(i%5-2) },
		"large":       func(i int) float32 { return 3e38 * float32(i%5-2) / 2 },
		"infinity":    func(i int) float32 { return float32(math.Inf(i/40%2*2 - 1)) },
		"NaN":         func(i int) float32 { return map[bool]float32{true: float32(math.NaN()), false: 1}[i == 300] },
		"alternating": func(i int) float32 { return float32(i%2*2 - 1) },
	} {
		for _, code := range []byte{0, 1, 2} {
			all := func(int, int) byte { return code }
			c := groupCase{16, 512, 128, 128, all, one, false}
			testGroup(t, fmt.Sprintf("%s, all %d", name, code), c, ternaryLayouts, []int{1, 2, 9}, f)
			if code != 1 {
				testGroup(t, fmt.Sprintf("%s, all %d", name, code), c, binaryLayouts, []int{1, 2, 9}, f)
			}
		}
	}
}

// Panels of a matrix are its rows, and outputs lie stride apart.
func TestGroupPanels(t *testing.T) {
	const rows, stride = 80, 91
	c := groupCase{rows, 512, 128, 256, randomTernary, randomScale, true}
	for _, l := range ternaryLayouts {
		w := c.pack(t, l)
		x := c.activations(t, 3, 2, randomX)
		want := c.want(x)
		forTiers(func(tier string) {
			y := vecOf(t, 2*stride+rows, func(int) float32 { return 7 })
			scratch := make([]byte, GroupScratch)
			for _, p := range [][2]int{{16, 64}, {64, 80}, {0, 16}, {32, 32}} {
				GroupMatMul(y, stride, w, p[0], p[1], x, scratch)
			}
			for i := range 3 {
				equalBits(t, fmt.Sprint(tier, " token ", i), y[i*stride:][:rows], want[i*rows:][:rows])
				for r := rows; r < stride && i < 2; r++ {
					if y[i*stride+r] != 7 {
						t.Fatalf("%s: wrote behind token %d's rows", tier, i)
					}
				}
			}
		})
	}
}

// GroupRow, and the codes 27 of Ternary5 in every place.
func TestGroupRow(t *testing.T) {
	for shift := range 27 {
		code := func(r, c int) byte {
			v := (c%128 + r*5 + shift) % 27 // of the three groups
			return byte([]int{v % 3, v / 3 % 3, v / 9}[c/128%3])
		}
		for _, c := range []groupCase{{32, 1024, 128, 256, code, randomScale, false}, {16, 448, 64, 64, code, nil, true}} {
			for _, l := range ternaryLayouts {
				w := c.pack(t, l)
				dst := make([]float32, c.cols)
				for r := range c.rows {
					GroupRow(dst, w, r)
					for col, v := range dst {
						d := float32(0.001) * float32(r+3)
						if c.scale != nil {
							d = F16(c.scale(r, col/c.scaleGroup))
						}
						if want := (float32(c.code(r, col)) - 1) * d; v != want {
							t.Fatalf("%v row %d, column %d: %g, want %g", l, r, col, v, want)
						}
					}
				}
			}
		}
	}
}

func TestQuantizeGroups(t *testing.T) {
	r := newRand(3)
	for _, group := range []int{32, 64, 128} {
		for count := 1; count <= 2; count++ {
			for groups := 1; groups < 6; groups++ {
				x := vecOf(t, group*groups, func(i int) float32 {
					v := float32(r.NormFloat64() * math.Pow(10, float64(i/group)))
					switch r.IntN(20) {
					case 0:
						v = float32(int(v*64)) / 64 // for ties
					case 1:
						v = 0
					}
					return v
				})
				switch groups {
				case 3:
					x[group+3] = float32(math.NaN())
				case 4:
					x[2*group+5] = float32(math.Inf(-1))
				case 5:
					clear(x[group : 2*group])
				}
				want := make([]byte, PlanesBytes(1, len(x), group, count))
				quantizeGroupsGeneric(want, x, group, count)
				// The definition's own words, in float64.
				for g := range groups {
					data, sum := want[g*(count*group+8):][:count*group+8], 0
					s := float64(math.Float32frombits(binary.LittleEndian.Uint32(data[count*group:])))
					for i, v := range x[g*group:][:group] {
						q := int(int8(data[i]))
						if count == 2 {
							q = 256*q + int(int8(data[group+i]))
						}
						sum += q
						if d := math.Abs(float64(q)*s - float64(v)); d > 0.5001*s+1e-6*math.Abs(float64(v)) {
							t.Fatalf("%g is %d·%g", v, q, s)
						}
					}
					if int32(binary.LittleEndian.Uint32(data[count*group+4:])) != int32(-sum) {
						t.Fatalf("group %d: the sum is not %d", g, -sum)
					}
				}
				forTiers(func(tier string) {
					p := Planes{Data: vecOf(t, len(want), func(int) byte { return 0x77 })}
					p.Resize(1, len(x), group, count)
					QuantizeGroups(&p, 0, x)
					for i := range want {
						if p.Data[i] != want[i] && i%(count*group+8)/4*4 != count*group { // NaN's payload is open
							t.Fatalf("%s, groups of %d, %d planes: byte %d is %d, want %d", tier, group, count, i, p.Data[i], want[i])
						}
					}
					for g := range groups {
						at := g*(count*group+8) + count*group
						got, want := math.Float32frombits(binary.LittleEndian.Uint32(p.Data[at:])), math.Float32frombits(binary.LittleEndian.Uint32(want[at:]))
						equalBits(t, tier+": scale", []float32{got}, []float32{want})
					}
				})
			}
		}
	}
}

func TestHadamard(t *testing.T) {
	r := newRand(5)
	for _, block := range []int{1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096} {
		for blocks := range 4 {
			n := block * blocks
			x := make([]float32, n)
			sign := vecOf(t, n, func(int) float32 { return float32(r.IntN(2)*2 - 1) })
			after := vecOf(t, n, func(int) float32 { return float32(r.IntN(2)*2 - 1) })
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			for _, signs := range [][2][]float32{{nil, nil}, {sign, nil}, {nil, after}, {sign, after}} {
				want := append([]float32(nil), x...)
				hadamardGeneric(want, block, signs[0], signs[1])
				if block <= 1024 { // the plain matrix: entry (i, j) is the parity of i & j
					for b := 0; b < n; b += block {
						for i := range block {
							sum := 0.0
							for j := range block {
								v := float64(x[b+j])
								if signs[0] != nil {
									v *= float64(signs[0][b+j])
								}
								if parity(i & j) {
									v = -v
								}
								sum += v
							}
							sum /= math.Sqrt(float64(block))
							if signs[1] != nil {
								sum *= float64(signs[1][b+i])
							}
							if d := math.Abs(sum - float64(want[b+i])); d > 2e-6 {
								t.Fatalf("block %d: [%d] is off by %g", block, b+i, d)
							}
						}
					}
				}
				forTiers(func(tier string) {
					y := vecOf(t, n, func(i int) float32 { return x[i] })
					Hadamard(y, block, signs[0], signs[1])
					equalBits(t, fmt.Sprintf("%s, block %d × %d", tier, block, blocks), y, want)
				})
			}
		}
	}
}

func parity(i int) (odd bool) {
	for ; i > 0; i &= i - 1 {
		odd = !odd
	}
	return odd
}

func TestGroupLengthsPanic(t *testing.T) {
	c := groupCase{32, 256, 128, 128, randomTernary, randomScale, false}
	w, x := c.pack(t, Ternary2), c.activations(t, 2, 2, randomX)
	y, s := make([]float32, 64), make([]byte, GroupScratch)
	mustPanic(t, "y too short", func() { GroupMatMul(y[:63], 32, w, 0, 32, x, s) })
	mustPanic(t, "stride below the rows", func() { GroupMatMul(y, 16, w, 0, 32, x, s) })
	mustPanic(t, "half a tile", func() { GroupMatMul(y, 32, w, 0, 8, x, s) })
	mustPanic(t, "past the end", func() { GroupMatMul(y, 32, w, 16, 48, x, s) })
	mustPanic(t, "scratch too small", func() { GroupMatMul(y, 32, w, 0, 32, x, s[1:]) })
	bad := *w
	bad.Scales = bad.Scales[1:]
	mustPanic(t, "scales too short", func() { GroupMatMul(y, 32, &bad, 0, 32, x, s) })
	bad = *w
	bad.ScaleGroup = 192
	mustPanic(t, "scales of another group", func() { GroupMatMul(y, 32, &bad, 0, 32, x, s) })
	other := c
	other.group = 64
	mustPanic(t, "activations of another group", func() { GroupMatMul(y, 32, w, 0, 32, other.activations(t, 2, 2, randomX), s) })
	mustPanic(t, "a row that is not there", func() { GroupRow(make([]float32, 256), w, 32) })
	mustPanic(t, "a block that is no power of two", func() { Hadamard(make([]float32, 48), 48, nil, nil) })
	mustPanic(t, "part of a block", func() { Hadamard(make([]float32, 48), 32, nil, nil) })
}

func BenchmarkGroupMatMul(b *testing.B) {
	for _, shape := range [][2]int{{512, 2048}, {6144 * 16, 2048}} { // in L2, in memory
		rows, cols := shape[0], shape[1]
		for _, l := range []GroupLayout{Ternary2, Ternary5, Binary1} {
			w := GroupMatrix{Rows: rows, Cols: cols, Layout: l, Group: 128, ScaleGroup: 128, Codes: make([]byte, GroupBytes(l, rows, cols, 128)), Scales: make([]uint16, rows*cols/128)}
			for i := range w.Codes {
				w.Codes[i] = byte(i) & 0x15
			}
			for _, tokens := range []int{1, 2, 8, 32, 256} {
				if rows > 512 && tokens > 8 {
					continue
				}
				y, scratch := make([]float32, tokens*rows), make([]byte, GroupScratch)
				for planes := 2; planes >= 1; planes-- {
					var x Planes
					x.Resize(tokens, cols, 128, planes)
					b.Run(fmt.Sprintf("%dx%d/%v/tokens=%d/planes=%d", rows, cols, l, tokens, planes), func(b *testing.B) {
						benchmarkTiers(b, func(b *testing.B) {
							b.SetBytes(int64(w.Bytes()))
							for b.Loop() {
								GroupMatMul(y, rows, &w, 0, rows, &x, scratch)
							}
							b.ReportMetric(float64(rows*cols*tokens*b.N)/float64(b.Elapsed().Nanoseconds()), "GMAC/s")
						})
					})
				}
			}
		}
	}
}

func BenchmarkQuantizeGroups(b *testing.B) {
	var p Planes
	p.Resize(1, 4096, 128, 2)
	x := make([]float32, 4096)
	for i := range x {
		x[i] = randomX(i)
	}
	benchmarkTiers(b, func(b *testing.B) {
		b.SetBytes(4 * 4096)
		for b.Loop() {
			QuantizeGroups(&p, 0, x)
		}
	})
}

func BenchmarkHadamard(b *testing.B) {
	x := make([]float32, 5120)
	s := make([]float32, 5120)
	for i := range s {
		s[i] = float32(i%2*2 - 1)
	}
	benchmarkTiers(b, func(b *testing.B) {
		b.SetBytes(4 * 5120)
		for b.Loop() {
			Hadamard(x, 1024, s, nil)
		}
	})
}
