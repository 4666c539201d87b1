package kernel

func attnScoresGeneric(s, q, k []float32, scale float32) {
	for j := range s {
		s[j] = dotF32Generic(k[j*len(q):(j+1)*len(q)], q) * scale
	}
}

func softmaxExpGeneric(s []float32, max float32) float32 {
	for j, v := range s {
		s[j] = Exp(v - max)
	}
	return sumGeneric(s)
}

func attnMixGeneric(out, p, v []float32) {
	for j, pj := range p {
		for d, vd := range v[j*len(out) : (j+1)*len(out)] {
			out[d] = fma32(pj, vd, out[d])
		}
	}
}
