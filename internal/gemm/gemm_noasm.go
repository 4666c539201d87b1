//go:build purego || !amd64

package gemm

import "fmt"

// Tiers lists what this build can run.
func Tiers() []string { return []string{"generic"} }

// Tier is the tier in use.
func Tier() string { return "generic" }

// SetTier selects one of Tiers.
func SetTier(name string) error {
	if name != "generic" {
		return fmt.Errorf("gemm: no tier %q in this build; it has only generic", name)
	}
	return nil
}

func tileF32(c []float32, ldc int, a, b []float32, k, add int) { tileF32Generic(c, ldc, a, b, k, add) }

func tileI16(c []float32, ldc int, a, b []uint32, steps int, s []float32, add int) {
	tileI16Generic(c, ldc, a, b, steps, s, add)
}

func tileI8(c []float32, ldc int, a, b []uint32, steps int, s []float32, init []int32, add int) {
	tileI8Generic(c, ldc, a, b, steps, s, init, add)
}

func transpose8(dst []uint32, dstStride int, src []uint32, srcStride, blocks int, addb uint32) {
	transpose8Generic(dst, dstStride, src, srcStride, blocks, addb)
}

func pairI8(dst []uint32, stride, groups, panels int, r0, r1 []int8) {
	pairI8Generic(dst, stride, groups, panels, r0, r1)
}

func pairF32(dst []uint32, stride, groups, panels int, r0, r1, inv []float32, s0, s1 float32) {
	pairF32Generic(dst, stride, groups, panels, r0, r1, inv, s0, s1)
}
func colMaxAbs(m, x []float32, s float32)           { colMaxAbsGeneric(m, x, s) }
func absMax(x []float32) float32                    { return absMaxGeneric(x) }
func sumAbs(x []float32) float32                    { return sumAbsGeneric(x) }
func quantI8(q []int8, x []float32, s float32)      { quantI8Generic(q, x, s) }
func quantI16(q []int16, x []float32, s float32)    { quantI16Generic(q, x, s) }
func ternaryCodes(q []int8, w []float32, s float32) { ternaryCodesGeneric(q, w, s) }
