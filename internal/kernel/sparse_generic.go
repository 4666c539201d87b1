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

// Both lists write every position and move on or not: no jump, as half of them would be foretold wrongly.

func nonzerosGeneric(index []int32, value, x []int8) int {
	n := 0
	for i, v := range x {
		index[n], value[n] = int32(i), v
		more := 0
		if v != 0 {
			more = 1
		}
		n += more
	}
	return n
}

func aboveGeneric(index []int32, g []float32, bar float32) int {
	n := 0
	for i, v := range g {
		index[n] = int32(i)
		more := 1
		if v <= bar {
			more = 0
		}
		n += more
	}
	return n
}
