package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train/nn"
)

// reference is the model in float64, one plain loop per equation. Its quantisers are straight-through in
// the way that finite differences can see: at the first evaluation each remembers q(v) − v, and adds that
// constant from then on, so the derivative with respect to v is 1 and the value is the quantised one.
type reference struct {
	c       Config
	w       map[string][]float64
	offsets map[string][]float64
	ternary bool
	alpha   float64 // of adapters on a base that stays: the weights are codes times scale already
}

func newReference(m *Model) *reference {
	r := &reference{c: m.Config, w: map[string][]float64{}, offsets: map[string][]float64{}, ternary: m.Config.Precision == "ternary"}
	for _, p := range append(m.base, m.Params...) {
		for _, v := range p.W {
			r.w[p.Name] = append(r.w[p.Name], float64(v))
		}
	}
	if m.lora != nil {
		r.alpha = m.lora.Alpha
		for i := range m.layers {
			for _, l := range m.layers[i].linears() {
				codes, s := l.Codes()
				for o := range len(codes) / max(len(codes)/l.Out, 1) {
					for _, c := range codes[o*len(codes)/l.Out:][:l.In] {
						r.w[l.W.Name] = append(r.w[l.W.Name], float64(c)*float64(s))
					}
				}
			}
		}
	}
	return r
}

func (r *reference) ste(key string, v []float64, q func([]float64) []float64) []float64 {
	if _, ok := r.offsets[key]; !ok {
		o := q(v)
		for i := range o {
			o[i] -= v[i]
		}
		r.offsets[key] = o
	}
	y := make([]float64, len(v))
	for i, o := range r.offsets[key] {
		y[i] = v[i] + o
	}
	return y
}

func (r *reference) linear(name, key string, x []float64, in int) []float64 {
	w, whole := r.w[name+".weight"], x
	if r.ternary && r.alpha == 0 {
		w = r.ste(name, w, func(w []float64) []float64 {
			s := 0.0
			for _, v := range w {
				s += math.Abs(v)
			}
			s = max(s/float64(len(w)), 1e-5)
			q := make([]float64, len(w))
			for i, v := range w {
				q[i] = min(max(math.RoundToEven(v/s), -1), 1) * s
			}
			return q
		})
	}
	if r.ternary {
		x = r.ste(name+key, x, func(x []float64) []float64 {
			a := 1e-5
			for _, v := range x {
				a = max(a, math.Abs(v))
			}
			q := make([]float64, len(x))
			for i, v := range x {
				q[i] = math.RoundToEven(v*127/a) * a / 127
			}
			return q
		})
	}
	y := make([]float64, len(w)/in)
	for o := range y {
		for i := range in {
			y[o] += w[o*in+i] * x[i]
		}
		if b := r.w[name+".bias"]; b != nil {
			y[o] += b[o]
		}
	}
	if a, b := r.w[name+".lora_A.weight"], r.w[name+".lora_B.weight"]; a != nil {
		rank := len(a) / in
		for k := range rank {
			u := 0.0
			for i := range in {
				u += a[k*in+i] * whole[i]
			}
			for o := range y {
				y[o] += r.alpha / float64(rank) * b[o*rank+k] * u
			}
		}
	}
	return y
}

func (r *reference) norm(name string, x []float64) []float64 {
	w, b := r.w[name+".weight"], r.w[name+".bias"]
	y := append([]float64(nil), x...)
	if b != nil {
		mean := 0.0
		for _, v := range x {
			mean += v / float64(len(x))
		}
		for i := range y {
			y[i] -= mean
		}
	}
	ss := 0.0
	for _, v := range y {
		ss += v * v / float64(len(x))
	}
	for i := range y {
		y[i] = y[i] / math.Sqrt(ss+r.c.NormEps) * w[i]
		if b != nil {
			y[i] += b[i]
		}
	}
	return y
}

func (r *reference) rope(x []float64, pos, heads int) {
	hd := r.c.headDim()
	for h := range heads {
		for i := range hd / 2 {
			sin, cos := math.Sincos(float64(pos) / math.Pow(r.c.RopeTheta, float64(2*i)/float64(hd)))
			a, b := x[h*hd+i], x[h*hd+i+hd/2]
			x[h*hd+i], x[h*hd+i+hd/2] = a*cos-b*sin, b*cos+a*sin
		}
	}
}

// loss is the mean cross-entropy of B sequences of S tokens.
func (r *reference) loss(ids, target []int32, B, S int) float64 {
	c := r.c
	D, hd := c.HiddenSize, c.headDim()
	total := 0.0
	for b := range B {
		x := make([][]float64, S)
		for s := range S {
			id := int(ids[b*S+s])
			x[s] = append([]float64(nil), r.w["model.embed_tokens.weight"][id*D:(id+1)*D]...)
			if p := r.w["model.embed_positions.weight"]; p != nil {
				for i := range D {
					x[s][i] += p[s*D+i]
				}
			}
		}
		for l := range c.NumLayers {
			pre := fmt.Sprintf("model.layers.%d.", l)
			q, k, v := make([][]float64, S), make([][]float64, S), make([][]float64, S)
			for s := range S {
				key := fmt.Sprint("@", b, ",", s)
				n := r.norm(pre+"input_layernorm", x[s])
				q[s] = r.linear(pre+"self_attn.q_proj", key, n, D)
				k[s] = r.linear(pre+"self_attn.k_proj", key, n, D)
				v[s] = r.linear(pre+"self_attn.v_proj", key, n, D)
				if c.Arch != "transformer" {
					r.rope(q[s], s, c.NumHeads)
					r.rope(k[s], s, c.NumKVHeads)
				}
			}
			for s := range S {
				key := fmt.Sprint("@", b, ",", s)
				att := make([]float64, D)
				for h := range c.NumHeads {
					g := h / (c.NumHeads / c.NumKVHeads)
					p, sum := make([]float64, s+1), 0.0
					for j := range p {
						for i := range hd {
							p[j] += q[s][h*hd+i] * k[j][g*hd+i]
						}
						p[j] = math.Exp(p[j] / math.Sqrt(float64(hd)))
						sum += p[j]
					}
					for j := range p {
						for i := range hd {
							att[h*hd+i] += p[j] / sum * v[j][g*hd+i]
						}
					}
				}
				if c.Arch == "bitnet" {
					att = r.norm(pre+"self_attn.attn_sub_norm", att)
				}
				for i, o := range r.linear(pre+"self_attn.o_proj", key, att, D) {
					x[s][i] += o
				}
				n := r.norm(pre+"post_attention_layernorm", x[s])
				h := r.linear(pre+"mlp.up_proj", key, n, D)
				switch c.Arch {
				case "transformer":
					for i, u := range h {
						h[i] = 0.5 * u * (1 + math.Erf(u/math.Sqrt2))
					}
				case "llama":
					for i, g := range r.linear(pre+"mlp.gate_proj", key, n, D) {
						h[i] *= g / (1 + math.Exp(-g))
					}
				case "bitnet":
					for i, g := range r.linear(pre+"mlp.gate_proj", key, n, D) {
						h[i] *= max(g, 0) * max(g, 0)
					}
					h = r.norm(pre+"mlp.ffn_sub_norm", h)
				}
				for i, o := range r.linear(pre+"mlp.down_proj", key, h, c.IntermediateSize) {
					x[s][i] += o
				}
			}
		}
		head := r.w["lm_head.weight"]
		if head == nil {
			head = r.w["model.embed_tokens.weight"]
		}
		for s := range S {
			n := r.norm("model.norm", x[s])
			sum, ly := 0.0, 0.0
			for o := range c.VocabSize {
				y := 0.0
				for i := range D {
					y += n[i] * head[o*D+i]
				}
				if o == int(target[b*S+s]) {
					ly = y
				}
				sum += math.Exp(y)
			}
			total += math.Log(sum) - ly
		}
	}
	return total / float64(B*S)
}

func tinyConfig(arch, precision string) Config {
	c := Config{
		Arch: arch, Precision: precision, VocabSize: 11, HiddenSize: 24, IntermediateSize: 40, NumLayers: 2,
		NumHeads: 4, NumKVHeads: 4, Block: 10, RopeTheta: 10000, NormEps: 1e-5,
	}
	if arch == "bitnet" {
		c.NumKVHeads = 2
	}
	return c
}

// shake moves every parameter off its initial symmetry, norms and biases too.
func shake(m *Model, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	for _, p := range m.Params {
		for i := range p.W {
			p.W[i] += float32(r.NormFloat64() * 0.1)
		}
	}
	m.Quantize()
}

func randomBatch(seed uint64, n, vocab int) (ids, target []int32) {
	r := rand.New(rand.NewPCG(seed, 2))
	for range n {
		ids, target = append(ids, int32(r.IntN(vocab))), append(target, int32(r.IntN(vocab)))
	}
	return ids, target
}

// TestGradientsAgainstFiniteDifferences compares every tensor of every architecture with central differences.
func TestGradientsAgainstFiniteDifferences(t *testing.T) {
	eachGradient(t, func(t *testing.T, arch, precision string, pool *par.Pool) *Model {
		m, err := New(tinyConfig(arch, precision), pool, 5)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}, func(name string) bool { return strings.HasSuffix(name, "k_proj.bias") }) // softmax does not see it
}

// eachGradient makes a model of every architecture and precision and compares its loss and gradients with the float64
// reference. Tolerances are relative to the tensor's largest gradient: 1e-4 where products are float32; 2e-4 where the
// backward products round dY to 15 bits. Only the tensors that none names may have no gradient.
func eachGradient(t *testing.T, make func(t *testing.T, arch, precision string, pool *par.Pool) *Model, none func(name string) bool) {
	pool := par.New(2)
	defer pool.Close()
	for _, arch := range Archs {
		for _, mode := range []struct {
			name, precision string
			grad            nn.GradMode
			tol             float64
		}{{"float", "float", nn.GradF32, 1e-4}, {"ternary", "ternary", nn.GradF32, 1e-4}, {"ternary-int16", "ternary", nn.GradI16, 2e-4}} {
			t.Run(arch+"/"+mode.name, func(t *testing.T) {
				const B, S = 2, 7
				m := make(t, arch, mode.precision, pool)
				shake(m, 3)
				m.SetGradMode(mode.grad)
				ids, target := randomBatch(4, B*S, 11)
				ref := newReference(m)
				want := ref.loss(ids, target, B, S)
				got := m.Gradient(m.NewState(B, S), ids, target, 1)
				if math.Abs(got-want) > 2e-6*want {
					t.Fatalf("loss %.8f, reference %.8f", got, want)
				}
				r := rand.New(rand.NewPCG(9, 9))
				worst := 0.0
				for _, p := range m.Params {
					top := 0.0
					for _, g := range p.G {
						top = max(top, math.Abs(float64(g)))
					}
					if top < 1e-6 && !none(p.Name) {
						t.Errorf("%s has no gradient", p.Name)
						continue
					}
					for range 4 {
						i := r.IntN(len(p.W))
						w := ref.w[p.Name]
						const h = 1e-5
						was := w[i]
						w[i] = was + h
						hi := ref.loss(ids, target, B, S)
						w[i] = was - h
						lo := ref.loss(ids, target, B, S)
						w[i] = was
						d := (hi - lo) / (2 * h)
						e := math.Abs(d-float64(p.G[i])) / max(top, 1e-4)
						worst = max(worst, e)
						if e > mode.tol {
							t.Errorf("%s[%d]: gradient %.8g, finite difference %.8g (largest of the tensor %.3g)", p.Name, i, p.G[i], d, top)
						}
					}
				}
				t.Logf("worst error %.2g of the tensor's largest gradient", worst)
			})
		}
	}
}
