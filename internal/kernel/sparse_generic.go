package kernel

func ternaryRowsGeneric(y []int32, w []byte, index []int32, x []int8, xsum int32) {
	size := len(x) / 4
	for i, r := range index {
		sum := -xsum
		for j, b := range w[int(r)*size:][:size] {
			c := j/32*128 + j%32
			sum += int32(b&3)*int32(x[c]) + int32(b>>2&3)*int32(x[c+32]) + int32(b>>4&3)*int32(x[c+64]) + int32(b>>6)*int32(x[c+96])
		}
		y[i] = sum
	}
}

func ternaryColumnsGeneric(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32) {
	for r := range y {
		y[r] = -xsum
	}
	for n, c := range index {
		for p, b := range w[int(c)*stride:][:len(y)/4] {
			at := p/64*256 + p%16/4*64 + p%64/16*4 + p%4
			for g := range 4 {
				y[at+16*g] += int32(b>>(2*g)&3) * int32(x[n])
			}
		}
	}
}
