package kernel

func softmaxExpGeneric(s []float32, max float32) float32 {
	for j, v := range s {
		s[j] = Exp(v - max)
	}
	return sumGeneric(s)
}

func attnMixWiden[W weight](out, p []float32, stride int, v []W, queries int, widen func(W) float32) {
	hd := len(out) / queries
	for g := range queries {
		o := out[g*hd : (g+1)*hd]
		for j := range len(v) / hd {
			for d, vd := range v[j*hd : (j+1)*hd] {
				o[d] = fma32(p[g*stride+j], widen(vd), o[d])
			}
		}
	}
}

func attnMixF32Generic(out, p []float32, stride int, v []float32, queries int) {
	attnMixWiden(out, p, stride, v, queries, same)
}

func attnMixF16Generic(out, p []float32, stride int, v []uint16, queries int) {
	attnMixWiden(out, p, stride, v, queries, F16)
}
