package kernel

import (
	"encoding/binary"
	"math"
)

func screenGeneric(y, high []float32, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq []float32, margin float32) {
	cols := len(x)
	for r := range y {
		var sum, square float32
		for b := range xs {
			var codes int32
			for c := b * ScreenBlock; c < (b+1)*ScreenBlock; c++ {
				codes += int32(screenUpper(upper, cols, r, c)) * int32(x[c])
			}
			s := F16(scales[screenScale(cols, r, b*ScreenBlock)])
			sum = fma32(s, fma32(float32(codes), xs[b], off[b]), sum)
			square = fma32(s*s, sq[b], square)
		}
		y[r] = sum
		high[r] = sum + fma32(norm[r], margin, float32(math.Sqrt(float64(square))))
	}
}

func screenRefineGeneric(y []float32, index []int32, lower []byte, x []int8, xs []float32) {
	cols := len(x)
	for i, r := range index {
		row := lower[int(r)*lowerBytes(cols):][:lowerBytes(cols)]
		var lane [16]float32
		for b, s := range xs {
			m := F16(binary.LittleEndian.Uint16(row[cols/4+2*b:])) * s
			for l := range lane {
				var sum int32
				for c := b*ScreenBlock + 4*l; c < b*ScreenBlock+4*l+4; c++ {
					bits := row[c/ScreenBlock*16+c%16] >> (c % ScreenBlock / 16 * 2) & 3
					sum += (2*int32(bits) - 3) * int32(x[c])
				}
				lane[l] = fma32(float32(sum), m, lane[l])
			}
		}
		for half := len(lane) / 2; half > 0; half /= 2 {
			for l := range half {
				lane[l] += lane[l+half]
			}
		}
		y[i] += lane[0]
	}
}
