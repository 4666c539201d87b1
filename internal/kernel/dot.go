package kernel

// lanes is the width of the canonical float sum.
const lanes = 32

// Dot returns Σ a[i]·b[i] in the canonical order, which every float sum of trit has:
//
//	lane i of 32 takes the elements i, i+32, i+64, … by fused multiply-add, from +0,
//	a last group of fewer than 32 is filled up with zeros,
//	then the lanes fold 32 → 16 → 8 → 4 → 2 → 1: lane i += lane i+half.
func Dot(a, b []float32) float32 {
	if len(a) != len(b) {
		badLength("Dot(a, b)", len(a), len(b))
	}
	return active.dotF32(a, b)
}

// DotBF16 is Dot of widened bfloat16 weights.
func DotBF16(w []uint16, x []float32) float32 {
	if len(w) != len(x) {
		badLength("DotBF16(w, x)", len(w), len(x))
	}
	return active.dotBF16(w, x)
}

// DotF16 is Dot of widened binary16 weights.
func DotF16(w []uint16, x []float32) float32 {
	if len(w) != len(x) {
		badLength("DotF16(w, x)", len(w), len(x))
	}
	return active.dotF16(w, x)
}

// MatVecF32 computes y[r] = Dot(w[r], x).
//
//	y  [rows], w [rows, cols] row-major, x [cols]
func MatVecF32(y, w, x []float32) { MatMulF32Stride(y, len(y), w, x, 1) }

// MatVecBF16 computes y[r] = DotBF16(w[r], x).
func MatVecBF16(y []float32, w []uint16, x []float32) { MatMulBF16Stride(y, len(y), w, x, 1) }

// MatVecF16 computes y[r] = DotF16(w[r], x).
func MatVecF16(y []float32, w []uint16, x []float32) { MatMulF16Stride(y, len(y), w, x, 1) }

// MatMulF32 computes y[t][r] = Dot(w[r], x[t]).
//
//	y  [tokens, rows], w [rows, cols], x [tokens, cols], all row-major
func MatMulF32(y, w, x []float32, tokens int) {
	MatMulF32Stride(y, len(y)/max(tokens, 1), w, x, tokens)
}

// MatMulBF16 computes y[t][r] = DotBF16(w[r], x[t]); shapes as in MatMulF32.
func MatMulBF16(y []float32, w []uint16, x []float32, tokens int) {
	MatMulBF16Stride(y, len(y)/max(tokens, 1), w, x, tokens)
}

// MatMulF16 computes y[t][r] = DotF16(w[r], x[t]); shapes as in MatMulF32.
func MatMulF16(y []float32, w []uint16, x []float32, tokens int) {
	MatMulF16Stride(y, len(y)/max(tokens, 1), w, x, tokens)
}

// MatMulF32Stride is MatMulF32 for some rows of a larger matrix: the output of token t, row r goes to
// y[t·stride + r], so that workers share a product by cutting w by rows.
//
//	y       at least (tokens-1)·stride + rows long
//	stride  ≥ rows
func MatMulF32Stride(y []float32, stride int, w, x []float32, tokens int) {
	if checkMatMul("MatMulF32(y, stride, w, x, tokens)", len(y), stride, len(w), len(x), tokens) {
		active.matMulF32(y, stride, w, x, tokens)
	}
}

// MatMulBF16Stride is MatMulF32Stride for bfloat16 weights.
func MatMulBF16Stride(y []float32, stride int, w []uint16, x []float32, tokens int) {
	if checkMatMul("MatMulBF16(y, stride, w, x, tokens)", len(y), stride, len(w), len(x), tokens) {
		active.matMulBF16(y, stride, w, x, tokens)
	}
}

// MatMulF16Stride is MatMulF32Stride for binary16 weights.
func MatMulF16Stride(y []float32, stride int, w []uint16, x []float32, tokens int) {
	if checkMatMul("MatMulF16(y, stride, w, x, tokens)", len(y), stride, len(w), len(x), tokens) {
		active.matMulF16(y, stride, w, x, tokens)
	}
}

// checkMatMul reports whether there is anything to compute, and panics when lengths disagree.
func checkMatMul(name string, y, stride, w, x, tokens int) bool {
	if tokens == 0 && x == 0 || w == 0 {
		return false
	}
	if tokens <= 0 || x == 0 || x%tokens != 0 || w%(x/tokens) != 0 {
		badLength(name, y, stride, w, x, tokens)
	}
	rows := w / (x / tokens)
	if stride < rows || y < (tokens-1)*stride+rows {
		badLength(name, y, stride, w, x, tokens)
	}
	return true
}

// Sum returns Σ x[i] in the order of Dot, by addition.
func Sum(x []float32) float32 { return active.sum(x) }
