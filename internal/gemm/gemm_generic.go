package gemm

import "math"

// The definitions. Every tier gives the same bits.

// fma32 is a·b+c rounded once. The product is exact in float64; the sum is rounded to odd there, so
// that rounding it again to float32 is the same as rounding once.
func fma32(a, b, c float32) float32 {
	p, q := float64(a)*float64(b), float64(c)
	s := p + q
	t := s - p
	e := (p - (s - t)) + (q - t)
	if e != 0 && !math.IsInf(s, 0) && !math.IsNaN(s) {
		if u := math.Float64bits(s); u&1 == 0 {
			if (e > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return float32(s)
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

func rne(x, lo, hi float32) float32 {
	return float32(math.RoundToEven(float64(min(max(x, lo), hi))))
}

func tileF32Generic(c []float32, ldc int, a, b []float32, k, add int) {
	for i := range MR {
		row := c[i*ldc : i*ldc+NR]
		for j := range row {
			var s float32
			if add != 0 {
				s = row[j]
			}
			for t := range k {
				s = fma32(a[t*MR+i], b[t*NR+j], s)
			}
			row[j] = s
		}
	}
}

func tileI16Generic(c []float32, ldc int, a, b []uint32, steps int, s []float32, add int) {
	for i := range MR {
		row := c[i*ldc : i*ldc+NR]
		for j := range row {
			var sum int32
			for t := range steps {
				u, v := a[t*MR+i], b[t*NR+j]
				sum += int32(int16(u))*int32(int16(v)) + int32(int16(u>>16))*int32(int16(v>>16))
			}
			storeScaled(&row[j], sum, s[i], add)
		}
	}
}

func tileI8Generic(c []float32, ldc int, a, b []uint32, steps int, s []float32, init []int32, add int) {
	for i := range MR {
		row := c[i*ldc : i*ldc+NR]
		for j := range row {
			sum := init[i]
			for t := range steps {
				u, v := a[t*MR+i], b[t*NR+j]
				for sh := 0; sh < 32; sh += 8 {
					sum += int32(int8(u>>sh)) * int32(uint8(v>>sh))
				}
			}
			storeScaled(&row[j], sum, s[i], add)
		}
	}
}

func storeScaled(c *float32, sum int32, s float32, add int) {
	v := float32(sum) * s
	if add != 0 {
		v = float32(v) + *c
	}
	*c = v
}

func transpose8Generic(dst []uint32, dstStride int, src []uint32, srcStride, blocks int, addb uint32) {
	for k := range 8 * blocks {
		for r := range 8 {
			dst[k*dstStride+r] = addBytes(src[r*srcStride+k], addb)
		}
	}
}

func pairI8Generic(dst []uint32, stride, groups, panels int, r0, r1 []int8) {
	for i := range 8 * groups * panels {
		dst[i/(8*groups)*stride+i%(8*groups)] = uint32(uint16(r0[i])) | uint32(uint16(r1[i]))<<16
	}
}

func pairF32Generic(dst []uint32, stride, groups, panels int, r0, r1, inv []float32, s0, s1 float32) {
	for i := range 8 * groups * panels {
		a := int32(math.RoundToEven(float64(float32(float32(r0[i]*s0) * inv[i]))))
		b := int32(math.RoundToEven(float64(float32(float32(r1[i]*s1) * inv[i]))))
		dst[i/(8*groups)*stride+i%(8*groups)] = uint32(uint16(a)) | uint32(b)<<16
	}
}

func colMaxAbsGeneric(m, x []float32, s float32) {
	for i, v := range x {
		m[i] = max(m[i], abs(v*s))
	}
}

func absMaxGeneric(x []float32) float32 {
	var m float32
	for _, v := range x {
		m = max(m, abs(v))
	}
	return m
}

func sumAbsGeneric(x []float32) float32 {
	var l [32]float32
	for i, v := range x {
		l[i%32] += abs(v)
	}
	for h := 16; h > 0; h /= 2 {
		for i := range h {
			l[i] += l[i+h]
		}
	}
	return l[0]
}

func quantI8Generic(q []int8, x []float32, s float32) {
	for i, v := range x {
		q[i] = int8(rne(v*s, -128, 127))
	}
}

func quantI16Generic(q []int16, x []float32, s float32) {
	for i, v := range x {
		q[i] = int16(rne(v*s, -32768, 32767))
	}
}

func ternaryCodesGeneric(q []int8, w []float32, s float32) {
	for i, v := range w {
		q[i] = int8(rne(v*s, -1, 1))
	}
}
