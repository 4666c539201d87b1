package train

import (
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/tritlm/trit/internal/gemm"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train/nn"
)

// Model is a transformer under training: parameters, their gradients, and the layers that use them.
type Model struct {
	Config Config
	Params []*nn.Param // in the order of the file and of the optimizer

	env    *nn.Env
	w, g   []float32 // all parameters and all gradients, back to back
	lora   *Lora     // when only adapters are trained: Params are theirs
	base   []*nn.Param
	embed  nn.Embedding
	layers []layer
	norm   nn.Norm
	head   nn.Linear
	rope   *nn.Rope
	attn   nn.Attention
}

type layer struct {
	norm1, norm2, attnNorm, ffnNorm nn.Norm // attnNorm and ffnNorm: bitnet only
	q, k, v, o                      nn.Linear
	gate, up, down                  nn.Linear // transformer: no gate
}

func (l *layer) linears() []*nn.Linear {
	ls := []*nn.Linear{&l.q, &l.k, &l.v, &l.o, &l.up, &l.down}
	if l.gate.W != nil {
		ls = append(ls, &l.gate)
	}
	return ls
}

// spec is how a parameter begins: normal with std > 0, uniform ±std with std < 0, else 1 or 0.
type spec struct {
	p   *nn.Param
	std float64
	one bool
}

// New builds a model and initialises it from seed: matrices as nn.Linear does (uniform ±1/√fan-in; normal
// with σ 0.02 for bitnet), embeddings normal with σ 0.02, norms 1, biases 0 or as nn.Linear.
func New(c Config, pool *par.Pool, seed uint64) (*Model, error) {
	m, specs, err := build(c, pool)
	if err != nil {
		return nil, err
	}
	m.allocate(specs, seed)
	m.Quantize()
	return m, nil
}

// allocate makes the parameters that are trained, all that there are, and their gradients.
func (m *Model) allocate(specs []spec, seed uint64) {
	total := 0
	for _, s := range specs {
		total += size(s.p.Shape)
	}
	m.w, m.g = make([]float32, total), make([]float32, total)
	r := rand.New(rand.NewPCG(seed, 0x7472697477656967))
	at := 0
	for _, s := range specs {
		n := size(s.p.Shape)
		m.Params = append(m.Params, s.p)
		s.p.W, s.p.G = m.w[at:at+n:at+n], m.g[at:at+n:at+n]
		at += n
		for i := range s.p.W {
			switch {
			case s.one:
				s.p.W[i] = 1
			case s.std > 0:
				s.p.W[i] = float32(r.NormFloat64() * s.std)
			case s.std < 0:
				s.p.W[i] = float32((2*r.Float64() - 1) * -s.std)
			}
		}
	}
}

func size(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

// build puts the layers together, without values.
func build(c Config, pool *par.Pool) (*Model, []spec, error) {
	if err := c.Check(); err != nil {
		return nil, nil, err
	}
	m := &Model{Config: c, env: nn.NewEnv(pool), layers: make([]layer, c.NumLayers)}
	D, F, hd := c.HiddenSize, c.IntermediateSize, c.headDim()
	ternary := c.Precision == "ternary"
	var specs []spec
	add := func(name string, std float64, one bool, shape ...int) *nn.Param {
		p := &nn.Param{Name: name, Shape: shape, Decay: len(shape) == 2}
		specs = append(specs, spec{p, std, one})
		return p
	}
	vanilla := c.Arch == "transformer"
	norm := func(name string, d int) nn.Norm {
		n := nn.Norm{D: d, Eps: c.NormEps, W: add(name+".weight", 0, true, d)}
		if vanilla {
			n.B = add(name+".bias", 0, false, d)
		}
		return n
	}
	linear := func(name string, in, out int) nn.Linear {
		std := -nn.KaimingUniform(in)
		if c.Arch == "bitnet" {
			std = 0.02
		}
		l := nn.Linear{In: in, Out: out, W: add(name+".weight", std, false, out, in)}
		l.W.Ternary = ternary
		if vanilla {
			l.B = add(name+".bias", std, false, out)
		}
		return l
	}
	m.embed = nn.Embedding{D: D, W: add("model.embed_tokens.weight", 0.02, false, c.VocabSize, D)}
	if vanilla {
		m.embed.P = add("model.embed_positions.weight", 0.02, false, c.Block, D)
	}
	for i := range m.layers {
		l := &m.layers[i]
		pre := "model.layers." + strconv.Itoa(i) + "."
		l.norm1 = norm(pre+"input_layernorm", D)
		l.q = linear(pre+"self_attn.q_proj", D, D)
		l.k = linear(pre+"self_attn.k_proj", D, c.NumKVHeads*hd)
		l.v = linear(pre+"self_attn.v_proj", D, c.NumKVHeads*hd)
		if c.Arch == "bitnet" {
			l.attnNorm = norm(pre+"self_attn.attn_sub_norm", D)
		}
		l.o = linear(pre+"self_attn.o_proj", D, D)
		l.norm2 = norm(pre+"post_attention_layernorm", D)
		if !vanilla {
			l.gate = linear(pre+"mlp.gate_proj", D, F)
		}
		l.up = linear(pre+"mlp.up_proj", D, F)
		if c.Arch == "bitnet" {
			l.ffnNorm = norm(pre+"mlp.ffn_sub_norm", F)
		}
		l.down = linear(pre+"mlp.down_proj", F, D)
	}
	m.norm = norm("model.norm", D)
	m.head = nn.Linear{In: D, Out: c.VocabSize, W: m.embed.W}
	if !c.Tied() {
		m.head.W = add("lm_head.weight", -nn.KaimingUniform(D), false, c.VocabSize, D)
	}
	if !vanilla {
		m.rope = nn.NewRope(hd, c.Block, c.RopeTheta)
	}
	m.attn = nn.Attention{H: c.NumHeads, KV: c.NumKVHeads, HD: hd}
	return m, specs, nil
}

// NumParams counts what is trained, NumFrozen what stays as it is below adapters.
func (m *Model) NumParams() int { return len(m.w) }

// NumFrozen counts the parameters that are not trained.
func (m *Model) NumFrozen() int {
	n := 0
	for _, p := range m.base {
		n += size(p.Shape)
	}
	return n
}

// NumTernary counts the weights that the forward pass sees as −1, 0, 1, frozen ones included.
func (m *Model) NumTernary() int {
	n := 0
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			if l.W.Ternary {
				n += l.In * l.Out
			}
		}
	}
	return n
}

// OnStage has fn told what part of a step begins, one of nn.Stages; nil ends that.
func (m *Model) OnStage(fn func(stage string)) { m.env.OnStage = fn }

// SetGradMode chooses how the backward products of ternary layers are computed.
func (m *Model) SetGradMode(g nn.GradMode) { m.env.Grad = g }

// Quantize refreshes the ternary codes; call it after the weights changed.
func (m *Model) Quantize() {
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			l.Quantize(m.env)
		}
	}
}

// State holds the activations of one batch size. A Model can have several.
type State struct {
	B, S   int
	x      [][]float32 // [L+1][T, D] residual stream before each layer and after the last
	mid    [][]float32 // [L][T, D] between attention and feed-forward
	layers []kept
	norm   nn.Stat

	// Buffers that layers share.
	n      []float32 // [T, max(D, F)] output of a norm
	h      []float32 // [T, F]
	dx     []float32 // [T, D]
	dn     []float32 // [T, max(D, F)]
	dh     []float32 // [T, F]
	dq     []float32 // [T, D]
	dk, dv []float32 // [T, KV·hd]
	T      int
}

// kept is what a layer's backward pass needs.
type kept struct {
	norm1, norm2, attnNorm, ffnNorm nn.Stat
	in1, in2, in3, in4              nn.Input
	q, k, v, p, att                 []float32
	gate, up                        []float32
}

// NewState makes room for B sequences of S tokens.
func (m *Model) NewState(B, S int) *State {
	c := &m.Config
	T, D, F := B*S, c.HiddenSize, c.IntermediateSize
	kv := c.NumKVHeads * c.headDim()
	f := func(n int) []float32 { return make([]float32, n) }
	s := &State{B: B, S: S, T: T, layers: make([]kept, c.NumLayers), n: f(T * max(D, F)), h: f(T * F)}
	s.x = append(s.x, f(T*D))
	for i := range s.layers {
		k := &s.layers[i]
		s.x, s.mid = append(s.x, f(T*D)), append(s.mid, f(T*D))
		k.q, k.k, k.v, k.p, k.att = f(T*D), f(T*kv), f(T*kv), f(B*c.NumHeads*S*S), f(T*D)
		k.up = f(T * F)
		if c.Arch != "transformer" {
			k.gate = f(T * F)
		}
		l := &m.layers[i]
		k.in1.Lora = l.q.Lora != nil || l.k.Lora != nil || l.v.Lora != nil
		k.in2.Lora = l.o.Lora != nil
		k.in3.Lora = l.gate.Lora != nil || l.up.Lora != nil
		k.in4.Lora = l.down.Lora != nil
	}
	return s
}

// forward runs the layers on ids [B·S] and leaves the final norm's output in s.n.
func (m *Model) forward(s *State, ids []int32) {
	e, c := m.env, &m.Config
	T, D, F, S := s.T, c.HiddenSize, c.IntermediateSize, s.S
	ternary := c.Precision == "ternary"
	m.embed.Forward(e, s.x[0], ids, S)
	for i := range m.layers {
		l, k := &m.layers[i], &s.layers[i]
		x, mid, out := s.x[i], s.mid[i], s.x[i+1]
		n := s.n[:T*D]
		l.norm1.Forward(e, n, x, &k.norm1, T)
		k.in1.Prepare(e, n, T, D, ternary)
		l.q.Forward(e, k.q, &k.in1)
		l.k.Forward(e, k.k, &k.in1)
		l.v.Forward(e, k.v, &k.in1)
		if m.rope != nil {
			m.rope.Turn(e, k.q, T, S, c.NumHeads, 1)
			m.rope.Turn(e, k.k, T, S, c.NumKVHeads, 1)
		}
		m.attn.Forward(e, k.att, k.p, k.q, k.k, k.v, s.B, S)
		a := k.att
		if l.attnNorm.W != nil {
			l.attnNorm.Forward(e, n, a, &k.attnNorm, T)
			a = n
		}
		k.in2.Prepare(e, a, T, D, ternary)
		l.o.Forward(e, mid, &k.in2)
		e.Stage("residual")
		e.Add(mid, x)

		l.norm2.Forward(e, n, mid, &k.norm2, T)
		k.in3.Prepare(e, n, T, D, ternary)
		if l.gate.W != nil {
			l.gate.Forward(e, k.gate, &k.in3)
		}
		l.up.Forward(e, k.up, &k.in3)
		m.activate(s.h, k, T)
		h := s.h
		if l.ffnNorm.W != nil {
			h = s.n[:T*F]
			l.ffnNorm.Forward(e, h, s.h, &k.ffnNorm, T)
		}
		k.in4.Prepare(e, h, T, F, ternary)
		l.down.Forward(e, out, &k.in4)
		e.Stage("residual")
		e.Add(out, mid)
	}
	m.norm.Forward(e, s.n[:T*D], s.x[len(m.layers)], &s.norm, T)
}

// activate writes the feed-forward's hidden state [T, F].
func (m *Model) activate(h []float32, k *kept, T int) {
	m.env.Stage("activation")
	F := m.Config.IntermediateSize
	m.env.Pool.For(T, 4, func(lo, hi int) {
		h, up := h[lo*F:hi*F], k.up[lo*F:hi*F]
		switch m.Config.Arch {
		case "llama":
			gemm.SiLUMul(h, k.gate[lo*F:hi*F], up)
		case "bitnet":
			gemm.ReLU2Mul(h, k.gate[lo*F:hi*F], up)
		default:
			gemm.GELU(h, up)
		}
	})
}

// Loss runs a batch forward and returns the mean cross-entropy in nats.
func (m *Model) Loss(s *State, ids, target []int32) float64 {
	m.forward(s, ids)
	n := count(target)
	return m.head.CrossEntropy(m.env, nil, s.n[:s.T*m.Config.HiddenSize], target, s.T, 0) / float64(n)
}

func count(target []int32) int {
	n := 0
	for _, t := range target {
		if t >= 0 {
			n++
		}
	}
	return max(n, 1)
}

// Logits runs ids [B·S] forward and writes the logits of the token at position t of sequence 0.
func (m *Model) Logits(s *State, ids []int32, t int, logits []float32) {
	m.forward(s, ids)
	D := m.Config.HiddenSize
	x := s.n[t*D : (t+1)*D]
	for i := range logits {
		logits[i] = gemm.Dot(x, m.head.W.W[i*D:(i+1)*D])
	}
}

// ZeroGrad clears the gradients.
func (m *Model) ZeroGrad() {
	m.env.Stage("optimizer")
	m.env.Zero(m.g)
	m.env.Zero(m.embed.G)
}

// Gradient runs a batch forward and backward, adds the gradients of loss·scale, and returns the mean loss.
func (m *Model) Gradient(s *State, ids, target []int32, scale float64) float64 {
	e, c := m.env, &m.Config
	T, D, F, S := s.T, c.HiddenSize, c.IntermediateSize, s.S
	kv := c.NumKVHeads * c.headDim()
	if s.dx == nil {
		f := func(n int) []float32 { return make([]float32, n) }
		s.dx, s.dn, s.dh, s.dq, s.dk, s.dv = f(T*D), f(T*max(D, F)), f(T*F), f(T*D), f(T*kv), f(T*kv)
	}
	m.forward(s, ids)
	n := count(target)
	dn := s.dn[:T*D]
	loss := m.head.CrossEntropy(e, dn, s.n[:T*D], target, T, float32(scale/float64(n))) / float64(n)
	dx := s.dx
	e.Zero(dx)
	m.norm.Backward(e, dx, dn, &s.norm, T)
	for i := len(m.layers) - 1; i >= 0; i-- {
		l, k := &m.layers[i], &s.layers[i]
		// out = mid + down(h)
		dh := s.dh
		l.down.Backward(e, dh, dx, &k.in4, false)
		if l.ffnNorm.W != nil {
			m.activate(s.h, k, T) // the norm's input, made again rather than kept
			t := s.n[:T*F]
			e.Zero(t)
			l.ffnNorm.Backward(e, t, dh, &k.ffnNorm, T)
			dh = t
		}
		e.Stage("activation")
		e.Pool.For(T, 4, func(lo, hi int) {
			d, u := dh[lo*F:hi*F], k.up[lo*F:hi*F]
			switch c.Arch {
			case "llama":
				g := k.gate[lo*F : hi*F]
				gemm.SiLUMulGrad(g, u, d, g, u)
			case "bitnet":
				g := k.gate[lo*F : hi*F]
				gemm.ReLU2MulGrad(g, u, d, g, u)
			default:
				gemm.GELUGrad(u, d, u)
			}
		})
		l.up.Backward(e, dn, k.up, &k.in3, false)
		if l.gate.W != nil {
			l.gate.Backward(e, dn, k.gate, &k.in3, true)
		}
		l.norm2.Backward(e, dx, dn, &k.norm2, T)

		// mid = x + o(att)
		da := dn
		l.o.Backward(e, da, dx, &k.in2, false)
		if l.attnNorm.W != nil {
			t := s.n[:T*D]
			e.Zero(t)
			l.attnNorm.Backward(e, t, da, &k.attnNorm, T)
			da = t
		}
		m.attn.Backward(e, s.dq, s.dk, s.dv, da, k.p, k.q, k.k, k.v, s.B, S)
		if m.rope != nil {
			m.rope.Turn(e, s.dq, T, S, c.NumHeads, -1)
			m.rope.Turn(e, s.dk, T, S, c.NumKVHeads, -1)
		}
		l.q.Backward(e, dn, s.dq, &k.in1, false)
		l.k.Backward(e, dn, s.dk, &k.in1, true)
		l.v.Backward(e, dn, s.dv, &k.in1, true)
		l.norm1.Backward(e, dx, dn, &k.norm1, T)
	}
	m.embed.Backward(e, dx, ids, S)
	return loss
}

// GradNorm is the Euclidean norm of all gradients.
func (m *Model) GradNorm() float64 { return math.Sqrt(m.env.SquareSum(m.g)) }
