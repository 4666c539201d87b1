//go:build !purego

package gemm

import (
	"fmt"

	"golang.org/x/sys/cpu"
)

var (
	useAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA
	useAVX512 = useAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VNNI
)

// Tiers lists what this machine can run, best first.
func Tiers() []string {
	t := []string{"generic"}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		t = append([]string{"avx2"}, t...)
		if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VNNI {
			t = append([]string{"avx512vnni"}, t...)
		}
	}
	return t
}

// Tier is the tier in use.
func Tier() string {
	switch {
	case useAVX512:
		return "avx512vnni"
	case useAVX2:
		return "avx2"
	}
	return "generic"
}

// SetTier selects one of Tiers.
func SetTier(name string) error {
	for _, t := range Tiers() {
		if t == name {
			useAVX2, useAVX512 = name != "generic", name == "avx512vnni"
			return nil
		}
	}
	return fmt.Errorf("gemm: no tier %q on this machine; it has %v", name, Tiers())
}

func tileF32(c []float32, ldc int, a, b []float32, k, add int) {
	_, _, _ = c[(MR-1)*ldc+NR-1], a[k*MR-1], b[k*NR-1]
	if useAVX512 {
		tileF32AVX512(&c[0], ldc, &a[0], &b[0], k, add)
	} else if useAVX2 {
		tileF32AVX2(&c[0], ldc, &a[0], &b[0], k, add)
	} else {
		tileF32Generic(c, ldc, a, b, k, add)
	}
}

func tileI16(c []float32, ldc int, a, b []uint32, steps int, s []float32, add int) {
	_, _, _, _ = c[(MR-1)*ldc+NR-1], a[steps*MR-1], b[steps*NR-1], s[MR-1]
	if useAVX512 {
		tileI16AVX512(&c[0], ldc, &a[0], &b[0], steps, &s[0], add)
	} else if useAVX2 {
		tileI16AVX2(&c[0], ldc, &a[0], &b[0], steps, &s[0], add)
	} else {
		tileI16Generic(c, ldc, a, b, steps, s, add)
	}
}

func tileI8(c []float32, ldc int, a, b []uint32, steps int, s []float32, init []int32, add int) {
	_, _, _, _, _ = c[(MR-1)*ldc+NR-1], a[steps*MR-1], b[steps*NR-1], s[MR-1], init[MR-1]
	if useAVX512 {
		tileI8AVX512(&c[0], ldc, &a[0], &b[0], steps, &s[0], &init[0], add)
	} else if useAVX2 {
		tileI8AVX2(&c[0], ldc, &a[0], &b[0], steps, &s[0], &init[0], add)
	} else {
		tileI8Generic(c, ldc, a, b, steps, s, init, add)
	}
}

func transpose8(dst []uint32, dstStride int, src []uint32, srcStride, blocks int, addb uint32) {
	if useAVX2 {
		transpose8AVX2(&dst[0], dstStride, &src[0], srcStride, blocks, addb)
	} else {
		transpose8Generic(dst, dstStride, src, srcStride, blocks, addb)
	}
}

func pairI8(dst []uint32, stride, groups, panels int, r0, r1 []int8) {
	if useAVX2 {
		pairI8AVX2(&dst[0], stride, groups, panels, &r0[0], &r1[0])
	} else {
		pairI8Generic(dst, stride, groups, panels, r0, r1)
	}
}

func pairF32(dst []uint32, stride, groups, panels int, r0, r1, inv []float32, s0, s1 float32) {
	if useAVX2 {
		pairF32AVX2(&dst[0], stride, groups, panels, &r0[0], &r1[0], &inv[0], s0, s1)
	} else {
		pairF32Generic(dst, stride, groups, panels, r0, r1, inv, s0, s1)
	}
}

func colMaxAbs(m, x []float32, s float32) {
	if useAVX2 {
		colMaxAbsAVX2(&m[0], &x[0], s, len(x))
	} else {
		colMaxAbsGeneric(m, x, s)
	}
}

func absMax(x []float32) float32 {
	if useAVX2 {
		return absMaxAVX2(&x[0], len(x))
	}
	return absMaxGeneric(x)
}

func sumAbs(x []float32) float32 {
	if useAVX2 {
		return sumAbsAVX2(&x[0], len(x))
	}
	return sumAbsGeneric(x)
}

func quantI8(q []int8, x []float32, s float32) {
	if useAVX2 {
		quantI8AVX2(&q[0], &x[0], s, len(x))
	} else {
		quantI8Generic(q, x, s)
	}
}

func quantI16(q []int16, x []float32, s float32) {
	if useAVX2 {
		quantI16AVX2(&q[0], &x[0], s, len(x))
	} else {
		quantI16Generic(q, x, s)
	}
}

func ternaryCodes(q []int8, w []float32, s float32) {
	if useAVX2 {
		ternaryCodesAVX2(&q[0], &w[0], s, len(w))
	} else {
		ternaryCodesGeneric(q, w, s)
	}
}
