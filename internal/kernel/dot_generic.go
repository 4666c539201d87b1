package kernel

// weight is the storage type of a dense weight; widen makes it float32.
type weight interface{ float32 | uint16 }

func dotWiden[W weight](w []W, x []float32, widen func(W) float32) float32 {
	var lane [lanes]float32
	for i, v := range w {
		lane[i%lanes] = fma32(widen(v), x[i], lane[i%lanes])
	}
	if tail := len(w) % lanes; tail != 0 {
		for i := tail; i < lanes; i++ {
			lane[i] += 0 // 0·0 + lane: makes a -0 +0
		}
	}
	return fold(&lane)
}

// fold ends a canonical sum.
func fold(lane *[lanes]float32) float32 {
	for half := lanes / 2; half > 0; half /= 2 {
		for i := range half {
			lane[i] += lane[i+half]
		}
	}
	return lane[0]
}

func matMulWiden[W weight](y []float32, stride int, w []W, x []float32, tokens int, widen func(W) float32) {
	cols := len(x) / tokens
	for t := range tokens {
		for r := range len(w) / cols {
			y[t*stride+r] = dotWiden(w[r*cols:(r+1)*cols], x[t*cols:(t+1)*cols], widen)
		}
	}
}

func same(f float32) float32 { return f }

func dotF32Generic(w, x []float32) float32           { return dotWiden(w, x, same) }
func dotBF16Generic(w []uint16, x []float32) float32 { return dotWiden(w, x, BF16) }
func dotF16Generic(w []uint16, x []float32) float32  { return dotWiden(w, x, F16) }

func matMulF32Generic(y []float32, stride int, w, x []float32, tokens int) {
	matMulWiden(y, stride, w, x, tokens, same)
}

func matMulBF16Generic(y []float32, stride int, w []uint16, x []float32, tokens int) {
	matMulWiden(y, stride, w, x, tokens, BF16)
}

func matMulF16Generic(y []float32, stride int, w []uint16, x []float32, tokens int) {
	matMulWiden(y, stride, w, x, tokens, F16)
}

func sumGeneric(x []float32) float32 {
	var lane [lanes]float32
	for i, v := range x {
		lane[i%lanes] += v
	}
	return fold(&lane)
}
