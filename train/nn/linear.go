package nn

import (
	"github.com/tritlm/trit/internal/gemm"
)

// Linear is y = x·Wᵀ + b, W [Out, In]. With W.Ternary it is BitLinear (W1.58A8):
//
//	forward   y = s_w·s_x·(Ŵ·x̂), the sum an exact integer
//	          s_w = max(mean|W|, 1e-5), Ŵ = clamp(round(W/s_w), −1, 1)         one scale per matrix
//	          s_x = max(max|x|, 1e-5)/127, x̂ = clamp(round(x/s_x), −128, 127)  per token
//	backward  dx = dy·(s_w·Ŵ), dW = dyᵀ·(s_x·x̂): straight through both quantisers
//
// Ma et al. 2024, arXiv:2402.17764 §2; the placement is that of AutoBitLinear in transformers' integrations/bitnet.py.
type Linear struct {
	In, Out int
	W       *Param
	B       *Param // nil: none
	Lora    *Lora  // nil: none

	codes []int8  // [Out, up(In, 32)] −1, 0, 1; the padding is 0
	scale float32 // s_w
}

// Input is what one or more layers with the same input share: its packed form for the forward products
// and what the backward pass needs of it.
type Input struct {
	// Lora says that a layer of this input has an adapter, which works on what was not rounded.
	Lora bool

	T, In   int
	ternary bool
	x       []float32 // [T, In], float layers and adapters only: a copy
	q       []int8    // [T, up(In, 32)]
	scale   []float32 // [up(T, 8)] s_x
	init    []int32   // [up(T, 8)] −Σx̂
	packed  []uint32  // in e.units[uA]; lasts until the next Prepare
}

// Freeze gives a ternary layer its codes for good: row r is written by row(dst, r), dst [In].
func (l *Linear) Freeze(e *Env, scale float32, row func(dst []int8, r int)) {
	kp := up(l.In, 32)
	l.codes, l.scale = make([]int8, l.Out*kp), scale
	e.Pool.For(l.Out, 8, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row(l.codes[r*kp:r*kp+l.In], r)
		}
	})
}

// Quantize refreshes the ternary codes after the weights changed. Layers in float and frozen ones do nothing.
func (l *Linear) Quantize(e *Env) {
	if !l.W.Ternary || l.W.W == nil {
		return
	}
	e.Stage("weights to codes")
	kp := up(l.In, 32)
	codes := grow(&l.codes, l.Out*kp)
	l.codes = codes
	sums := make([]float32, l.Out)
	e.Pool.For(l.Out, 8, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			sums[r] = gemm.SumAbs(l.W.W[r*l.In : (r+1)*l.In])
		}
	})
	var sum float64
	for _, s := range sums {
		sum += float64(s)
	}
	l.scale = max(float32(sum/float64(l.In*l.Out)), 1e-5)
	inv := 1 / l.scale
	e.Pool.For(l.Out, 8, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			gemm.Ternary(codes[r*kp:(r+1)*kp], l.W.W[r*l.In:(r+1)*l.In], inv)
		}
	})
}

// Codes returns the codes of the last Quantize and their scale: [Out, stride], stride = len/Out.
func (l *Linear) Codes() ([]int8, float32) { return l.codes, l.scale }

// Prepare quantises x [T, In] for ternary layers, or copies it for float ones, and packs it.
func (in *Input) Prepare(e *Env, x []float32, T, In int, ternary bool) {
	e.Stage("inputs")
	in.prepare(e, x, T, In, ternary)
}

func (in *Input) prepare(e *Env, x []float32, T, In int, ternary bool) {
	in.T, in.In, in.ternary = T, In, ternary
	panels := gemm.Steps(T, gemm.MR)
	if !ternary || in.Lora {
		in.x = grow(&in.x, T*In)
	}
	if !ternary {
		in.packed = grow(&e.units[uA], gemm.ASize(T, In))
		e.Pool.For(panels, 1, func(lo, hi int) {
			t0, t1 := lo*gemm.MR*In, min(hi*gemm.MR, T)*In
			copy(in.x[t0:t1], x[t0:t1])
			gemm.PackA(in.packed, gemm.Units(x), In, T, In, lo, hi)
		})
		return
	}
	kp := up(In, 32)
	in.q = grow(&in.q, T*kp)
	in.scale = grow(&in.scale, up(T, gemm.MR))
	in.init = grow(&in.init, up(T, gemm.MR))
	in.packed = grow(&e.units[uA], gemm.ASize(T, kp/4))
	e.Pool.For(panels, 1, func(lo, hi int) {
		for t := lo * gemm.MR; t < min(hi*gemm.MR, T); t++ {
			row, q := x[t*In:(t+1)*In], in.q[t*kp:(t+1)*kp]
			if in.Lora {
				copy(in.x[t*In:(t+1)*In], row)
			}
			m := max(gemm.AbsMax(row), 1e-5)
			gemm.QuantI8(q, row, 127/m)
			in.scale[t] = m / 127
			in.init[t] = -gemm.SumI8(q)
		}
		gemm.PackA(in.packed, gemm.Units(in.q), kp/4, T, kp/4, lo, hi)
	})
}

// Forward writes y [T, Out].
func (l *Linear) Forward(e *Env, y []float32, in *Input) {
	e.Stage("linear forward")
	l.forward(e, y, in)
}

func (l *Linear) forward(e *Env, y []float32, in *Input) {
	panels := gemm.Steps(l.Out, gemm.NR)
	if !l.W.Ternary {
		b := grow(&e.units[uB], gemm.BSize(l.Out, l.In))
		e.Pool.For(panels, 1, func(lo, hi int) { gemm.PackB(b, gemm.Units(l.W.W), l.In, l.Out, l.In, lo, hi, 0) })
		gemm.F32(e.Pool, y, l.Out, in.T, l.Out, l.In, gemm.F32s(in.packed), gemm.F32s(b), false)
	} else {
		kp := up(l.In, 32)
		b := grow(&e.units[uB], gemm.BSize(l.Out, kp/4))
		e.Pool.For(panels, 1, func(lo, hi int) {
			gemm.PackB(b, gemm.Units(l.codes), kp/4, l.Out, kp/4, lo, hi, 0x01010101)
		})
		s := grow(&e.f32[fScale], up(in.T, gemm.MR))
		for t := range in.T {
			s[t] = in.scale[t] * l.scale
		}
		gemm.I8(e.Pool, y, l.Out, in.T, l.Out, kp/4, in.packed, b, s, in.init, false)
	}
	if l.B != nil {
		e.Pool.For(in.T, 8, func(lo, hi int) {
			for t := lo; t < hi; t++ {
				gemm.Axpy(y[t*l.Out:(t+1)*l.Out], l.B.W, 1)
			}
		})
	}
	if l.Lora != nil {
		e.Stage("adapters")
		l.Lora.forward(e, y, in, l.Out)
	}
}

// Backward adds to the gradients of W, b and the adapter, as far as they have any, and writes dx [T, In] or adds to it.
//
//	dy  [T, Out]
//	dx  [T, In], nil: not needed
func (l *Linear) Backward(e *Env, dx, dy []float32, in *Input, add bool) {
	if l.B != nil && l.B.G != nil {
		e.sumRows(l.B.G, dy, in.T, l.Out)
	}
	if l.W.Ternary && e.Grad == GradI16 {
		l.gradI16(e, dx, dy, in, add)
	} else {
		l.gradF32(e, dx, dy, in, add)
	}
	if l.Lora != nil {
		e.Stage("adapters")
		l.Lora.backward(e, dx, dy, in, l.Out)
	}
}

// sumRows adds Σ_t x[t] to dst.
func (e *Env) sumRows(dst, x []float32, T, n int) {
	parts := grow(&e.f32[fPart], e.numPieces()*n)
	e.pieces(T, func(c, lo, hi int) {
		p := parts[c*n : (c+1)*n]
		clear(p)
		for t := lo; t < hi; t++ {
			gemm.Axpy(p, x[t*n:(t+1)*n], 1)
		}
	})
	e.foldPieces(dst, parts)
}

func (l *Linear) gradF32(e *Env, dx, dy []float32, in *Input, add bool) {
	T, w, x := in.T, l.W.W, in.x
	if l.W.Ternary {
		kp := up(l.In, 32)
		w, x = grow(&e.f32[fDense], l.Out*l.In), grow(&e.f32[fDenseX], T*l.In)
		e.Pool.For(l.Out, 8, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				dequantize(w[r*l.In:(r+1)*l.In], l.codes[r*kp:], l.scale)
			}
		})
		if l.W.G != nil {
			e.Pool.For(T, 8, func(lo, hi int) {
				for t := lo; t < hi; t++ {
					dequantize(x[t*l.In:(t+1)*l.In], in.q[t*kp:], in.scale[t])
				}
			})
		}
	}
	if dx != nil {
		e.Stage("linear backward, dX")
		l.dxF32(e, dx, dy, T, w, add)
	}
	if l.W.G != nil {
		e.Stage("linear backward, dW")
		e.tree(l.W.G, T, func(g []float32, lo, hi int, add bool) {
			l.dwF32(e, g, dy[lo*l.Out:], x[lo*l.In:], hi-lo, add)
		})
	}
}

// dxF32 is dx[t, i] = Σ_o dy[t, o]·w[o, i].
func (l *Linear) dxF32(e *Env, dx, dy []float32, T int, w []float32, add bool) {
	a, b := grow(&e.units[uA], gemm.ASize(T, l.Out)), grow(&e.units[uB], gemm.BSize(l.In, l.Out))
	e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) { gemm.PackA(a, gemm.Units(dy), l.Out, T, l.Out, lo, hi) })
	e.Pool.For(l.Out, 8, func(lo, hi int) { gemm.PackF32Cols(b, w, l.In, l.In, l.Out, gemm.NR, lo, hi) })
	gemm.F32(e.Pool, dx, l.In, T, l.In, l.Out, gemm.F32s(a), gemm.F32s(b), add)
}

// dwF32 is dW[o, i] = Σ_t dy[t, o]·x[t, i].
func (l *Linear) dwF32(e *Env, g, dy, x []float32, T int, add bool) {
	a, b := grow(&e.units[uA], gemm.ASize(l.Out, T)), grow(&e.units[uB], gemm.BSize(l.In, T))
	e.Pool.For(T, 8, func(lo, hi int) {
		gemm.PackF32Cols(a, dy, l.Out, l.Out, T, gemm.MR, lo, hi)
		gemm.PackF32Cols(b, x, l.In, l.In, T, gemm.NR, lo, hi)
	})
	gemm.F32(e.Pool, g, l.In, l.Out, l.In, T, gemm.F32s(a), gemm.F32s(b), add)
}

func dequantize(dst []float32, q []int8, s float32) {
	for i := range dst {
		dst[i] = float32(q[i]) * s
	}
}

// span is how many tokens one int32 sum of dW may hold: 512·32767·127 < 1<<31.
const span = 512

func (l *Linear) gradI16(e *Env, dx, dy []float32, in *Input, add bool) {
	T, kp := in.T, up(l.In, 32)
	zero8 := grow(&e.i8[0], kp)
	clear(zero8)
	if dx != nil {
		e.Stage("linear backward, dX")
		// dx[t, i] = s_w·s_t·Σ_o g[t, o]·ŵ[o, i], g = RNE(dy/s_t), s_t = max|dy[t]|/32767
		op := up(l.Out, 16)
		g := grow(&e.i16, T*op)
		s := grow(&e.f32[fScale], up(T, gemm.MR))
		a, b := grow(&e.units[uA], gemm.ASize(T, op/2)), grow(&e.units[uB], gemm.BSize(l.In, op/2))
		e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) {
			for t := lo * gemm.MR; t < min(hi*gemm.MR, T); t++ {
				row := dy[t*l.Out : (t+1)*l.Out]
				m := gemm.AbsMax(row)
				gemm.QuantI16(g[t*op:(t+1)*op], row, inverse(m))
				s[t] = m / 32767 * l.scale
			}
			gemm.PackA(a, gemm.Units(g), op/2, T, op/2, lo, hi)
		})
		e.Pool.For(op/2, 4, func(lo, hi int) {
			hi2 := min(hi, gemm.Steps(l.Out, 2))
			gemm.PackI8Pairs(b, l.codes, kp, l.Out, op/2, gemm.NR, lo, hi2, zero8)
			for k := max(lo, hi2); k < hi; k++ { // padding of the depth
				for p := 0; p < kp/gemm.NR; p++ {
					clear(b[p*gemm.NR*(op/2)+k*gemm.NR:][:gemm.NR])
				}
			}
		})
		gemm.I16(e.Pool, dx, l.In, T, l.In, op/2, a, b, s, add)
	}
	if l.W.G == nil {
		return
	}
	e.Stage("linear backward, dW")
	// dW[o, i] += s_o·Σ_t g[t, o]·x̂[t, i], g = RNE(dy·s_x[t]/s_o), s_o = max_t|dy·s_x|/32767 over span tokens
	ocols := up(l.Out, 8)
	src := dy
	if ocols != l.Out { // PackF32Pairs wants whole vectors
		src = grow(&e.f32[fDense], T*ocols)
		clear(src)
		for t := range T {
			copy(src[t*ocols:], dy[t*l.Out:(t+1)*l.Out])
		}
	}
	// The pieces of at most span tokens that have a scale of their own lie inside the leaves of the tree.
	leaves, _ := e.branch()
	leaf := T / leaves
	per := (leaf + span - 1) / span
	spans := leaves * per
	from := func(c int) (t0, n int) { return c/per*leaf + c%per*span, min(span, leaf-c%per*span) }
	colMax := grow(&e.f32[fCol], spans*ocols)
	inv := grow(&e.f32[fInv], spans*ocols)
	zero := grow(&e.f32[fZero], ocols)
	clear(zero)
	steps := gemm.Steps(min(leaf, span), 2)
	asz, bsz := gemm.ASize(ocols, steps), gemm.BSize(kp, steps)
	a, b := grow(&e.units[uA], asz*spans), grow(&e.units[uB], bsz*spans)
	e.Pool.Run(spans, func(c, _ int) {
		t0, n := from(c)
		m, v := colMax[c*ocols:(c+1)*ocols], inv[c*ocols:(c+1)*ocols]
		clear(m)
		for t := t0; t < t0+n; t++ {
			gemm.ColMaxAbs(m, src[t*ocols:(t+1)*ocols], in.scale[t])
		}
		for o := range m {
			v[o] = inverse(m[o])
			m[o] /= 32767
		}
		st := gemm.Steps(n, 2)
		gemm.PackF32Pairs(a[c*asz:(c+1)*asz], src[t0*ocols:], ocols, ocols, n, st, 0, st, v, in.scale[t0:], zero)
		gemm.PackI8Pairs(b[c*bsz:(c+1)*bsz], in.q[t0*kp:], kp, n, st, gemm.NR, 0, st, zero8)
	})
	e.tree(l.W.G, T, func(g []float32, lo, hi int, add bool) {
		for c := range spans {
			if t0, n := from(c); t0 >= lo && t0 < hi {
				gemm.I16(e.Pool, g, l.In, l.Out, l.In, gemm.Steps(n, 2), a[c*asz:(c+1)*asz], b[c*bsz:(c+1)*bsz], colMax[c*ocols:(c+1)*ocols], add || t0 > lo)
			}
		}
	})
}

// inverse is 32767/m, and 0 for 0 and for values so small that it would not be finite.
func inverse(m float32) float32 {
	if m < 1e-30 {
		return 0
	}
	return 32767 / m
}
