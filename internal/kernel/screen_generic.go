package kernel

func screen4Generic(y, v []float32, codes []byte, scales []uint16, x []int8, xs, off, sq []float32) {
	cols := len(x)
	for r := range y {
		y[r], v[r] = 0, 0
		for b := range xs {
			var sum int32
			for c := b * ScreenBlock; c < (b+1)*ScreenBlock; c++ {
				i, shift := ScreenIndex(cols, r, c)
				sum += int32(codes[i]>>shift&15) * int32(x[c])
			}
			s := F16(scales[ScreenScaleIndex(cols, r, b*ScreenBlock)])
			y[r] = fma32(s, fma32(float32(sum), xs[b], off[b]), y[r])
			v[r] = fma32(s*s, sq[b], v[r])
		}
	}
}
