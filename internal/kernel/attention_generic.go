package kernel

func softmaxExpGeneric(s []float32, max float32) float32 {
	for j, v := range s {
		s[j] = Exp(v - max)
	}
	return sumGeneric(s)
}

func attnScoresWiden[K weight | int8](s []float32, stride int, q []float32, k []K, queries int, widen func(K) float32, scale func(j int) float32) {
	hd := len(q) / queries
	for g := range queries {
		for j := range KeyTile {
			var sum [2]float32
			for d, qd := range q[g*hd : (g+1)*hd] {
				sum[d%2] = fma32(qd, widen(k[d*KeyTile+j]), sum[d%2])
			}
			s[g*stride+j] = (sum[0] + sum[1]) * scale(j)
		}
	}
}

func attnScoresF32Generic(s []float32, stride int, q, k []float32, queries int, scale float32, _ int) {
	attnScoresWiden(s, stride, q, k, queries, same, func(int) float32 { return scale })
}

func attnScoresF16Generic(s []float32, stride int, q []float32, k []uint16, queries int, scale float32, _ int) {
	attnScoresWiden(s, stride, q, k, queries, F16, func(int) float32 { return scale })
}

func attnScoresI8Generic(s []float32, stride int, q []float32, k []int8, scales []float32, queries int, scale float32, _ int) {
	attnScoresWiden(s, stride, q, k, queries, fromInt8, func(j int) float32 { return scale * scales[j] })
}

func attnMixWiden[V weight | int8](out []float32, v []V, queries int, widen func(V) float32, p func(g, j int) float32) {
	hd := len(out) / queries
	for g := range queries {
		o := out[g*hd : (g+1)*hd]
		for j := range len(v) / hd {
			pj := p(g, j)
			for d, vd := range v[j*hd : (j+1)*hd] {
				o[d] = fma32(pj, widen(vd), o[d])
			}
		}
	}
}

func attnMixF32Generic(out, p []float32, stride int, v []float32, queries int, _ int) {
	attnMixWiden(out, v, queries, same, func(g, j int) float32 { return p[g*stride+j] })
}

func attnMixF16Generic(out, p []float32, stride int, v []uint16, queries int, _ int) {
	attnMixWiden(out, v, queries, F16, func(g, j int) float32 { return p[g*stride+j] })
}

func attnMixI8Generic(out, p []float32, stride int, v []int8, scales []float32, queries int, _ int) {
	attnMixWiden(out, v, queries, fromInt8, func(g, j int) float32 { return p[g*stride+j] * scales[j] })
}

func fromInt8(i int8) float32 { return float32(i) }
