package kernel

// ternaryMatVecGeneric defines TernaryMatVec: the T16 blocks in storage order, code by code.
func ternaryMatVecGeneric(y []int32, w []byte, x []int8, xsum int32) {
	for t := 0; t < len(y); t += TileRows {
		var sum [TileRows]int32
		for s := 0; s < len(x); s += TileCols {
			block := w[:TileBytes]
			w = w[TileBytes:]
			for i, b := range block {
				r, j := i/4, i%4
				sum[r] += int32(b&3)*int32(x[s+j]) +
					int32(b>>2&3)*int32(x[s+4+j]) +
					int32(b>>4&3)*int32(x[s+8+j]) +
					int32(b>>6)*int32(x[s+12+j])
			}
		}
		for r, v := range sum {
			y[t+r] = v - xsum
		}
	}
}

// ternaryMatMulGeneric defines TernaryMatMul: one TernaryMatVec a token.
func ternaryMatMulGeneric(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
	rows, cols := len(y)/len(xsum), len(x)/len(xsum)
	for t, sum := range xsum {
		ternaryMatVecGeneric(y[t*rows:(t+1)*rows], w, x[t*cols:(t+1)*cols], sum)
	}
}

func scaleRowGeneric(y []float32, acc []int32, s float32) {
	for i, v := range acc {
		y[i] = float32(v) * s
	}
}
