// Package gemm multiplies the matrices of training: float32 by float32, int16 by int16 and int8 by
// ternary, all with the same packed panels and the same tiling.
//
// An operand is packed once per product into panels of 32-bit units, a unit being one float32, two
// int16 or four int8 that follow one another along the summed dimension ("depth"):
//
//	A [m, depth] → panels of 8 rows:  A[8p+r, unit s] at (p·steps + s)·8 + r
//	B [n, depth] → panels of 32 rows: B[32p+c, unit s] at (p·steps + s)·32 + c
//	C [m, n]     row-major float32
//
// A micro-kernel holds an 8×32 tile of C in registers and walks one A panel and one B panel.
// Rows past the end are zero.
//
// The result does not depend on kernel tier, blocking or worker count. Integer sums are exact;
// a float32 element is one chain of fused multiply-adds in the order of depth.
package gemm

import (
	"encoding/binary"
	"unsafe"
)

//go:generate sh -c "cd _asm && go run . -out ../gemm_amd64.s -stubs ../stubs_amd64.go -pkg gemm"

const (
	MR = 8  // rows of an A panel
	NR = 32 // rows of a B panel
	kc = 256
)

// Runner spreads independent jobs over workers; par.Pool is one. A nil Runner works inline.
type Runner interface {
	Run(n int, fn func(i, worker int))
	Threads() int
}

func run(p Runner, n int, fn func(i, worker int)) {
	if p == nil || n == 1 {
		for i := range n {
			fn(i, 0)
		}
		return
	}
	p.Run(n, fn)
}

func up(n, to int) int { return (n + to - 1) / to * to }

// Steps is the number of units that hold k values of the given number per unit.
func Steps(k, perUnit int) int { return (k + perUnit - 1) / perUnit }

// ASize and BSize are the lengths of packed operands in units.
func ASize(m, steps int) int { return up(m, MR) * steps }
func BSize(n, steps int) int { return up(n, NR) * steps }

// Units views values as 32-bit units; len(x) must fill whole units.
func Units[T int8 | uint8 | int16 | float32](x []T) []uint32 {
	if len(x) == 0 {
		return nil
	}
	var z T
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(z))/4)
}

// F32s views units as float32.
func F32s(x []uint32) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// packRows packs one panel of R rows whose depth is contiguous.
//
//	src  rows × steps units, `stride` units from row to row
func packRows(dst []uint32, src []uint32, stride, rows, steps, R int, addb uint32) {
	for r := 0; r < R; r += 8 {
		n := min(max(rows-r, 0), 8)
		k := 0
		if n == 8 {
			if blocks := steps / 8; blocks > 0 {
				s := src[r*stride:]
				_ = s[7*stride+8*blocks-1]
				_ = dst[(8*blocks-1)*R+r+7]
				transpose8(dst[r:], R, s, stride, blocks, addb)
				k = 8 * blocks
			}
		}
		for ; k < steps; k++ {
			for i := range 8 {
				var u uint32
				if i < n {
					u = addBytes(src[(r+i)*stride+k], addb)
				}
				dst[k*R+r+i] = u
			}
		}
	}
}

func addBytes(u, a uint32) uint32 {
	if a == 0 {
		return u
	}
	var o uint32
	for s := 0; s < 32; s += 8 {
		o |= (u>>s + a>>s) & 0xff << s
	}
	return o
}

// PackA packs panels [p0, p1) of an operand whose depth is contiguous.
//
//	dst     ASize(m, steps)
//	src     [m, steps] units, stride units from row to row
func PackA(dst, src []uint32, stride, m, steps, p0, p1 int) {
	for p := p0; p < p1; p++ {
		packRows(dst[p*MR*steps:(p+1)*MR*steps], src[p*MR*stride:], stride, m-p*MR, steps, MR, 0)
	}
}

// PackB is PackA for the other operand. addb is added to every byte, which turns codes −1, 0, 1
// into the 0, 1, 2 that I8 wants.
func PackB(dst, src []uint32, stride, n, steps, p0, p1 int, addb uint32) {
	for p := p0; p < p1; p++ {
		packRows(dst[p*NR*steps:(p+1)*NR*steps], src[p*NR*stride:], stride, n-p*NR, steps, NR, addb)
	}
}

// PackF32Cols packs float32 depth rows [k0, k1) of an operand stored the other way round, src [depth, n]:
// R = MR or NR columns a panel, steps the whole depth.
func PackF32Cols(dst []uint32, src []float32, stride, n, steps, R, k0, k1 int) {
	u := Units(src)
	for k := k0; k < k1; k++ {
		row := u[k*stride : k*stride+n]
		for c := 0; c < n; c += R {
			d := dst[c*steps+k*R : c*steps+k*R+R]
			if m := copy(d, row[c:min(c+R, n)]); m < R {
				clear(d[m:])
			}
		}
	}
}

// PackI8Pairs packs depth rows 2·[k0, k1) of src [depth, stride] int8 as int16 pairs, R columns a
// panel. stride must be a multiple of R; columns up to it are packed. A missing last row counts as zero.
func PackI8Pairs(dst []uint32, src []int8, stride, depth, steps, R, k0, k1 int, zero []int8) {
	for k := k0; k < k1; k++ {
		r0 := src[2*k*stride : 2*k*stride+stride]
		r1 := zero
		if 2*k+1 < depth {
			r1 = src[(2*k+1)*stride : (2*k+1)*stride+stride]
		}
		panels := stride / R
		_ = dst[(panels-1)*R*steps+k*R+R-1]
		_ = r1[stride-1]
		pairI8(dst[k*R:], R*steps, R/8, panels, r0, r1)
	}
}

// PackF32Pairs quantises rows of src [depth, n] to int16 with one factor per column and packs
// them as pairs, MR columns a panel: unit (s, c) holds RNE(src[2s, c]·rowScale[2s]·inv[c]) and the
// same of row 2s+1. n must be a multiple of 8.
func PackF32Pairs(dst []uint32, src []float32, stride, n, depth, steps, k0, k1 int, inv, rowScale, zero []float32) {
	for k := k0; k < k1; k++ {
		r0 := src[2*k*stride : 2*k*stride+n]
		r1, s1 := zero[:n], float32(0)
		if 2*k+1 < depth {
			r1, s1 = src[(2*k+1)*stride:(2*k+1)*stride+n], rowScale[2*k+1]
		}
		_ = inv[n-1]
		_ = dst[(n/MR-1)*MR*steps+k*MR+MR-1]
		pairF32(dst[k*MR:], MR*steps, 1, n/MR, r0, r1, inv, rowScale[2*k], s1)
	}
}

// blocks cuts C into tiles for workers: up to 64 rows × 256 columns, small enough that both
// operands' parts stay in L2.
func blocks(m, n int) (mb, nb, jobs int) {
	mb, nb = 64, 256
	return mb, nb, ((m + mb - 1) / mb) * ((n + nb - 1) / nb)
}

// F32 computes C = A·Bᵀ, or C += A·Bᵀ, over depth k.
//
//	c     [m, n], ldc floats from row to row
//	a, b  packed, one float32 a unit
func F32(p Runner, c []float32, ldc, m, n, k int, a, b []float32, add bool) {
	checkC(c, ldc, m, n)
	if k == 0 {
		panic("gemm: depth 0")
	}
	_, _ = a[ASize(m, k)-1], b[BSize(n, k)-1]
	mb, nb, jobs := blocks(m, n)
	cols := (n + nb - 1) / nb
	run(p, jobs, func(i, _ int) {
		m0, n0 := i/cols*mb, i%cols*nb
		F32Block(c, ldc, m0, min(m0+mb, m), n0, min(n0+nb, n), k, a, b, add)
	})
}

// F32Block is F32 for rows [m0, m1) and columns [n0, n1), m0 a multiple of MR, n0 of NR.
func F32Block(c []float32, ldc, m0, m1, n0, n1, k int, a, b []float32, add bool) {
	var edge [MR * NR]float32
	for k0 := 0; k0 < k; k0 += kc {
		kn := min(kc, k-k0)
		sum := 0
		if add || k0 > 0 {
			sum = 1
		}
		for j := n0; j < n1; j += NR {
			bp := b[j*k+k0*NR:]
			for i := m0; i < m1; i += MR {
				ap := a[i*k+k0*MR:]
				if i+MR <= m1 && j+NR <= n1 {
					tileF32(c[i*ldc+j:], ldc, ap, bp, kn, sum)
					continue
				}
				rows, w := min(MR, m1-i), min(NR, n1-j)
				if sum != 0 {
					for r := range rows {
						copy(edge[r*NR:r*NR+w], c[(i+r)*ldc+j:])
					}
				}
				tileF32(edge[:], NR, ap, bp, kn, sum)
				for r := range rows {
					copy(c[(i+r)*ldc+j:(i+r)*ldc+j+w], edge[r*NR:])
				}
			}
		}
	}
}

// I16 computes C = s ⊙ (A·Bᵀ) or C += it, with int16 operands and int32 sums.
//
//	a, b  packed, two int16 a unit; Σ|a·b| over depth must stay below 1<<31
//	s     [up(m, 8)] one factor per row of C
func I16(p Runner, c []float32, ldc, m, n, steps int, a, b []uint32, s []float32, add bool) {
	integer(p, c, ldc, m, n, steps, a, b, s, nil, add)
}

// I8 computes C = s ⊙ (Ŵ·x̂) or C += it, exactly: A holds int8 activations, B the codes ŵ+1 ∈ {0,1,2}.
//
//	init  [up(m, 8)] −Σx̂ of every row of A, which takes the +1 of the codes back
func I8(p Runner, c []float32, ldc, m, n, steps int, a, b []uint32, s []float32, init []int32, add bool) {
	_ = init[up(m, MR)-1]
	integer(p, c, ldc, m, n, steps, a, b, s, init, add)
}

func integer(p Runner, c []float32, ldc, m, n, steps int, a, b []uint32, s []float32, init []int32, add bool) {
	checkC(c, ldc, m, n)
	if steps == 0 {
		panic("gemm: depth 0")
	}
	_, _, _ = a[ASize(m, steps)-1], b[BSize(n, steps)-1], s[up(m, MR)-1]
	mb, nb, jobs := blocks(m, n)
	cols := (n + nb - 1) / nb
	sum := 0
	if add {
		sum = 1
	}
	run(p, jobs, func(job, _ int) {
		m0, n0 := job/cols*mb, job%cols*nb
		m1, n1 := min(m0+mb, m), min(n0+nb, n)
		var edge [MR * NR]float32
		for j := n0; j < n1; j += NR {
			bp := b[j*steps:]
			for i := m0; i < m1; i += MR {
				ap := a[i*steps:]
				if i+MR <= m1 && j+NR <= n1 {
					if init != nil {
						tileI8(c[i*ldc+j:], ldc, ap, bp, steps, s[i:], init[i:], sum)
					} else {
						tileI16(c[i*ldc+j:], ldc, ap, bp, steps, s[i:], sum)
					}
					continue
				}
				rows, w := min(MR, m1-i), min(NR, n1-j)
				if add {
					for r := range rows {
						copy(edge[r*NR:r*NR+w], c[(i+r)*ldc+j:])
					}
				}
				if init != nil {
					tileI8(edge[:], NR, ap, bp, steps, s[i:], init[i:], sum)
				} else {
					tileI16(edge[:], NR, ap, bp, steps, s[i:], sum)
				}
				for r := range rows {
					copy(c[(i+r)*ldc+j:(i+r)*ldc+j+w], edge[r*NR:])
				}
			}
		}
	})
}

func checkC(c []float32, ldc, m, n int) {
	if m <= 0 || n <= 0 || ldc < n || len(c) < (m-1)*ldc+n {
		panic("gemm: C is too small")
	}
}

// AbsMax returns max|x|, 0 for none. NaN elements are ignored or returned, depending on position.
func AbsMax(x []float32) float32 {
	n := len(x) &^ 31
	var m float32
	if n > 0 {
		m = absMax(x[:n])
	}
	for _, v := range x[n:] {
		m = max(m, abs(v))
	}
	return m
}

// SumAbs returns Σ|x| in 32 lanes, lane i taking the elements ≡ i mod 32, folded to one by halves; then the tail.
func SumAbs(x []float32) float32 {
	n := len(x) &^ 31
	var s float32
	if n > 0 {
		s = sumAbs(x[:n])
	}
	for _, v := range x[n:] {
		s += abs(v)
	}
	return s
}

// ColMaxAbs folds a row into column maxima: m[i] = max(m[i], |x[i]·s|).
func ColMaxAbs(m, x []float32, s float32) {
	n := len(x) &^ 7
	_ = m[len(x)-1]
	if n > 0 {
		colMaxAbs(m[:n], x[:n], s)
	}
	for i := n; i < len(x); i++ {
		m[i] = max(m[i], abs(x[i]*s))
	}
}

// QuantI8 writes RNE(x·s) saturated to int8 and zeroes q past len(x).
func QuantI8(q []int8, x []float32, s float32) {
	n := len(x) &^ 31
	if n > 0 {
		quantI8(q[:n], x[:n], s)
	}
	for i := n; i < len(x); i++ {
		q[i] = int8(rne(x[i]*s, -128, 127))
	}
	clear(q[len(x):])
}

// QuantI16 writes RNE(x·s) saturated to int16 and zeroes q past len(x).
func QuantI16(q []int16, x []float32, s float32) {
	n := len(x) &^ 15
	if n > 0 {
		quantI16(q[:n], x[:n], s)
	}
	for i := n; i < len(x); i++ {
		q[i] = int16(rne(x[i]*s, -32768, 32767))
	}
	clear(q[len(x):])
}

// Ternary writes clamp(RNE(w·s), −1, 1) and zeroes q past len(w).
func Ternary(q []int8, w []float32, s float32) {
	n := len(w) &^ 31
	if n > 0 {
		ternaryCodes(q[:n], w[:n], s)
	}
	for i := n; i < len(w); i++ {
		q[i] = int8(rne(w[i]*s, -1, 1))
	}
	clear(q[len(w):])
}

// SumI8 returns Σq.
func SumI8(q []int8) int32 {
	var s int32
	for len(q) >= 8 { // bytes from 0 on, in four sums of 16 bits that hold 128 pairs
		n := min(len(q)/8, 128)
		var sums uint64
		for _, u := range unsafe.Slice((*[8]byte)(unsafe.Pointer(&q[0])), n) {
			x := binary.LittleEndian.Uint64(u[:]) ^ 0x8080808080808080
			sums += x&0x00ff00ff00ff00ff + x>>8&0x00ff00ff00ff00ff
		}
		for ; sums != 0; sums >>= 16 {
			s += int32(sums & 0xffff)
		}
		s -= int32(n) * 8 * 128
		q = q[8*n:]
	}
	for _, v := range q {
		s += int32(v)
	}
	return s
}
