package cpu_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/enginetest"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// definition computes a decoder of weight-only and dense projections in float64 with none of the engine's code: loops over the
// formulas that package part's comments state.
type definition struct {
	t   testing.TB
	cfg *model.Config
	set *weights.Set

	matrices map[string][][]float64 // that were read
}

func define(t testing.TB, c *model.Config, s *weights.Set) *definition {
	return &definition{t, c, s, map[string][][]float64{}}
}

// matrix widens a projection's or the embedding's weights.
func (d *definition) matrix(name string, rows, cols int) [][]float64 {
	d.t.Helper()
	if m := d.matrices[name]; m != nil {
		return m
	}
	dense, err := d.set.Dense(name+".weight", rows, cols)
	if err != nil {
		d.t.Fatal(err)
	}
	m, row := make([][]float64, rows), make([]float32, cols)
	for r := range m {
		dense.Row(row, r)
		m[r] = widen(row)
	}
	d.matrices[name] = m
	return m
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func (d *definition) vector(name string, n int) []float64 {
	d.t.Helper()
	v, err := d.set.Vector(name, n)
	if err != nil {
		d.t.Fatal(err)
	}
	return widen(v)
}

// hadamard multiplies each block by the matrix (-1)^popcount(i&j)/√block.
func hadamard(x []float64, block int) []float64 {
	y := make([]float64, len(x))
	for b := 0; b < len(x); b += block {
		for i := range block {
			for j := range block {
				sign := 1.0
				for k := i & j; k > 0; k &= k - 1 {
					sign = -sign
				}
				y[b+i] += sign * x[b+j]
			}
			y[b+i] /= math.Sqrt(float64(block))
		}
	}
	return y
}

func signed(x []float64, signs []float32) []float64 {
	y := append([]float64(nil), x...)
	for i, s := range signs {
		y[i] *= float64(s)
	}
	return y
}

func (d *definition) project(p *part.Projection, x []float64) []float64 {
	if r := p.Rotation; r != nil {
		x = hadamard(signed(x, r.Signs), r.Block)
	}
	y := make([]float64, p.Out)
	for o, row := range d.matrix(p.Source(), p.Out, p.In) {
		for i, w := range row {
			y[o] += w * x[i]
		}
	}
	if p.Bias {
		for o, b := range d.vector(p.Name+".bias", p.Out) {
			y[o] += b
		}
	}
	return y
}

func (d *definition) norm(n *part.Norm, x []float64) []float64 {
	var sq float64
	for _, v := range x {
		sq += v * v
	}
	y := make([]float64, len(x))
	for i, w := range d.vector(n.Name+".weight", n.Width) {
		if n.Offset {
			w++
		}
		y[i] = w * x[i] / math.Sqrt(sq/float64(len(x))+float64(n.Eps))
	}
	return y
}

func rotate(x []float64, r *part.Rope, pos int) {
	if r == nil {
		return
	}
	half := r.Dim / 2
	for i := range half {
		a := float64(pos) / math.Pow(r.Theta, float64(2*i)/float64(r.Dim))
		sin, cos := math.Sincos(a)
		x[i], x[i+half] = x[i]*cos-x[i+half]*sin, x[i+half]*cos+x[i]*sin
	}
}

func (d *definition) attention(a *part.Attention, h [][]float64) [][]float64 {
	hd := a.HeadDim
	var qs, ks, vs [][]float64
	var gates [][]float64
	for pos, x := range h {
		q, k := d.project(&a.Q, x), d.project(&a.K, x)
		if a.Gate { // of each head a query, then a gate
			var queries, gate []float64
			for i := 0; i < len(q); i += 2 * hd {
				queries, gate = append(queries, q[i:i+hd]...), append(gate, q[i+hd:i+2*hd]...)
			}
			q, gates = queries, append(gates, gate)
		}
		heads := func(x []float64, n *part.Norm) {
			for i := 0; i < len(x); i += hd {
				if a.RopeFirst {
					rotate(x[i:i+hd], a.Rope, pos)
				}
				if n != nil {
					copy(x[i:], d.norm(n, x[i:i+hd]))
				}
				if !a.RopeFirst {
					rotate(x[i:i+hd], a.Rope, pos)
				}
			}
		}
		heads(q, a.QNorm)
		heads(k, a.KNorm)
		qs, ks, vs = append(qs, q), append(ks, k), append(vs, d.project(&a.V, x))
	}
	var out [][]float64
	for pos, q := range qs {
		o := make([]float64, len(q))
		for i := range a.Heads {
			kv := i / (a.Heads / a.KVHeads) * hd
			w, sum, top := make([]float64, pos+1), 0.0, math.Inf(-1)
			for t := range w {
				if a.Window > 0 && t <= pos-a.Window {
					w[t] = math.Inf(-1)
					continue
				}
				for j := range hd {
					w[t] += q[i*hd+j] * ks[t][kv+j] / math.Sqrt(float64(hd))
				}
				top = max(top, w[t])
			}
			for t := range w {
				w[t] = math.Exp(w[t] - top)
				sum += w[t]
			}
			for t := range w {
				for j := range hd {
					o[i*hd+j] += w[t] / sum * vs[t][kv+j]
				}
			}
		}
		if a.Gate {
			for i, g := range gates[pos] {
				o[i] /= 1 + math.Exp(-g)
			}
		}
		out = append(out, d.project(&a.O, o))
	}
	return out
}

func (d *definition) numbers(name string, shape ...int) []float64 {
	d.t.Helper()
	v, err := d.set.Numbers(name, shape...)
	if err != nil {
		d.t.Fatal(err)
	}
	return widen(v)
}

// deltaNet is the recurrence token by token, with value heads in the order of GGUF files, value head h of key head h mod KeyHeads.
func (d *definition) deltaNet(n *part.DeltaNet, h [][]float64) (out [][]float64) {
	sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	conv, a, bias := d.numbers(n.Conv+".weight", n.Channels(), n.Kernel), d.numbers(n.A, n.ValueHeads), d.numbers(n.Bias, n.ValueHeads)
	state := make([][][]float64, n.ValueHeads) // [h][ValueDim][KeyDim]
	for h := range state {
		state[h] = make([][]float64, n.ValueDim)
		for j := range state[h] {
			state[h][j] = make([]float64, n.KeyDim)
		}
	}
	var mixed [][]float64
	for t, x := range h {
		mixed = append(mixed, d.project(&n.QKV, x))
		c := make([]float64, n.Channels())
		for i := range c {
			for j := range n.Kernel {
				if at := t - n.Kernel + 1 + j; at >= 0 {
					c[i] += conv[i*n.Kernel+j] * mixed[at][i]
				}
			}
			c[i] *= sigmoid(c[i])
		}
		unit := func(v []float64) []float64 {
			sq := 1e-6
			for _, x := range v {
				sq += x * x
			}
			u := make([]float64, len(v))
			for i, x := range v {
				u[i] = x / math.Sqrt(sq)
			}
			return u
		}
		z, beta, alpha := d.project(&n.Gate, x), d.project(&n.Beta, x), d.project(&n.Alpha, x)
		y := make([]float64, n.ValueHeads*n.ValueDim)
		for h, S := range state {
			key := h % n.KeyHeads
			q, k := unit(c[key*n.KeyDim:][:n.KeyDim]), unit(c[(n.KeyHeads+key)*n.KeyDim:][:n.KeyDim])
			v := c[2*n.KeyHeads*n.KeyDim+h*n.ValueDim:][:n.ValueDim]
			g := math.Exp(a[h] * math.Log1p(math.Exp(alpha[h]+bias[h])))
			o := make([]float64, n.ValueDim)
			for j, row := range S {
				var seen float64
				for i := range row {
					row[i] *= g
					seen += row[i] * k[i]
				}
				for i := range row {
					row[i] += sigmoid(beta[h]) * (v[j] - seen) * k[i]
					o[j] += row[i] * q[i] / math.Sqrt(float64(n.KeyDim))
				}
			}
			o = d.norm(n.Norm, o)
			place := h
			if n.OutGrouped { // the value heads of a key head side by side
				place = key*(n.ValueHeads/n.KeyHeads) + h/n.KeyHeads
			}
			for j := range o {
				gate := z[h*n.ValueDim+j]
				y[place*n.ValueDim+j] = o[j] * gate * sigmoid(gate)
			}
		}
		out = append(out, d.project(&n.Out, y))
	}
	return out
}

func (d *definition) mixer(m part.Part, h [][]float64) [][]float64 {
	if n, ok := m.(*part.DeltaNet); ok {
		return d.deltaNet(n, h)
	}
	return d.attention(m.(*part.Attention), h)
}

func (d *definition) feedForward(f part.Part, x []float64) []float64 {
	if e, ok := f.(*part.Experts); ok {
		return d.experts(e, x)
	}
	g := f.(*part.Gated)
	gate, up := d.project(&g.Gate, x), d.project(&g.Up, x)
	for i, v := range gate {
		if c := float64(g.Clamp); c != 0 {
			v, up[i] = math.Min(v, c), math.Max(-c, math.Min(up[i], c))
		}
		up[i] *= v / (1 + math.Exp(-v)) // SiLU
	}
	return d.project(&g.Down, up)
}

func (d *definition) experts(e *part.Experts, x []float64) []float64 {
	p := d.project(&e.Router, x)
	var all float64
	for i := range p {
		p[i] = math.Exp(p[i])
		all += p[i]
	}
	order := make([]int, len(p))
	for i := range order {
		p[i] /= all
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return p[order[a]] > p[order[b]] })
	sum := 1.0
	if e.Renormalise {
		sum = 0
		for _, i := range order[:e.TopK] {
			sum += p[i]
		}
	}
	y := make([]float64, len(x))
	for _, i := range order[:e.TopK] {
		for j, v := range d.feedForward(&e.Experts[i], x) {
			y[j] += p[i] / sum * v
		}
	}
	return y
}

// logits of every token.
func (d *definition) logits(ids []int32) [][]float64 {
	c := d.cfg
	table := d.matrix(c.Embedding.Name, c.VocabSize, c.HiddenSize)
	scale := func(s float32) float64 {
		if s == 0 {
			return 1
		}
		return float64(s)
	}
	var xs [][]float64
	for _, id := range ids {
		x := append([]float64(nil), table[id]...)
		if r := c.Embedding.Rotation; r != nil {
			x = signed(hadamard(x, r.Block), r.Signs)
		}
		for i := range x {
			x[i] *= scale(c.Embedding.Scale)
		}
		xs = append(xs, x)
	}
	for l := range c.Layers {
		y := &c.Layers[l]
		var h [][]float64
		for _, x := range xs {
			h = append(h, d.norm(&y.MixerNorm, x))
		}
		for t, o := range d.mixer(y.Mixer, h) {
			for i, v := range o {
				xs[t][i] += v * scale(y.Scale)
			}
			for i, v := range d.feedForward(y.FeedForward, d.norm(&y.FeedForwardNorm, xs[t])) {
				xs[t][i] += v * scale(y.Scale)
			}
		}
	}
	var out [][]float64
	for _, x := range xs {
		h := d.norm(&c.FinalNorm, x)
		for i := range h {
			h[i] *= scale(c.HeadScale)
		}
		out = append(out, d.project(&c.Head, h))
	}
	return out
}

// weightOnly writes random models of a small shape, whose weights are ternary with a scale for each 128 columns, or binary.
type weightOnly struct {
	arch   string
	kv     gguf.KV
	cfg    *model.Config
	binary bool
}

func weightOnlyFamilies() map[string]weightOnly {
	s := family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 2, NumHeads: 4, NumKVHeads: 2, HeadDim: 64, VocabSize: 320, MaxContext: 512,
		NormEps: 1e-6, RopeTheta: 10000, Activation: part.SiLU,
	}
	tied := s
	tied.TiedHead = true
	return map[string]weightOnly{
		"qwen3":      {arch: "qwen3", cfg: family.Qwen3(s, nil, 0)},
		"qwen3 tied": {arch: "qwen3", cfg: family.Qwen3(tied, nil, 0)},
		"qwen2":      {arch: "qwen2", cfg: family.Qwen2(s, nil, 0)},
		"llama":      {arch: "llama", cfg: family.Llama(s)},
		"hunyuan":    {arch: "hunyuan-dense", cfg: family.HunYuan(tied)},
		"minicpm": {arch: "minicpm", cfg: family.MiniCPM(s, family.MiniCPMScales{Embedding: 12, Residual: 0.25, Head: 0.5}), kv: gguf.KV{
			{Key: "minicpm.embedding_scale", Value: float32(12)}, {Key: "minicpm.residual_scale", Value: float32(0.25)}, {Key: "minicpm.logit_scale", Value: float32(2)},
		}},
	}
}

// write makes the file: every matrix in format f, or typ where f is 0. The weights depend on the names alone.
func (w weightOnly) write(t testing.TB, f ternary.Format, typ gguf.Type, more gguf.KV) string {
	t.Helper()
	s := family.ShapeOf(w.cfg)
	kv := gguf.KV{{Key: "general.architecture", Value: w.arch}}
	for key, v := range map[string]any{
		"block_count": uint32(s.NumLayers), "context_length": uint32(s.MaxContext), "embedding_length": uint32(s.HiddenSize), "feed_forward_length": uint32(s.IntermediateSize),
		"attention.head_count": uint32(s.NumHeads), "attention.head_count_kv": uint32(s.NumKVHeads), "attention.key_length": uint32(s.HeadDim),
		"attention.layer_norm_rms_epsilon": s.NormEps, "rope.freq_base": float32(s.RopeTheta),
	} {
		kv.Set(w.arch+"."+key, v)
	}
	kv = append(append(kv, w.kv...), more...)
	data := map[string][]byte{}
	var list []gguf.Tensor
	for _, x := range w.cfg.Tensors() {
		name, ok := weights.GGUFName(w.arch, x.Name)
		if !ok {
			t.Fatalf("%s has no name", x.Name)
		}
		rng := rand.New(rand.NewPCG(uint64(len(x.Name)), uint64(x.Rows*7+int(x.Name[len(x.Name)-9]))))
		switch x.Kind {
		case model.NormWeight, model.Bias:
			v := make([]float32, x.Cols)
			for i := range v {
				if v[i] = float32(0.2 * rng.NormFloat64()); x.Kind == model.NormWeight {
					v[i]++
				}
			}
			b := make([]byte, 4*len(v))
			if err := gguf.Quantize(b, gguf.F32, v); err != nil {
				t.Fatal(err)
			}
			data[name] = b
			list = append(list, gguf.Tensor{Name: name, Type: gguf.F32, Shape: []int{x.Cols}})
		case model.Table, model.Matrix:
			g, err := ternary.UnpackGroups(w.codes(rng, x.Rows, x.Cols), w.base(), x.Rows, x.Cols)
			if err != nil {
				t.Fatal(err)
			}
			if f != 0 {
				data[name], err = g.Pack(f)
			} else {
				row, b := make([]float32, x.Cols), []byte(nil)
				for r := range x.Rows {
					g.Row(row, r)
					size, _ := typ.Size(x.Cols)
					part := make([]byte, size)
					if err = gguf.Quantize(part, typ, row); err != nil {
						break
					}
					b = append(b, part...)
				}
				data[name] = b
			}
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, gguf.Tensor{Name: name, Type: typ, Shape: []int{x.Rows, x.Cols}})
		}
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	writeGGUF(t, path, kv, list, data)
	return path
}

// seeded is a source that depends on a name alone.
func seeded(name string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, name)
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

func (w weightOnly) base() ternary.Format {
	if w.binary {
		return ternary.Q1_0
	}
	return ternary.PQ2_0
}

// codes are blocks of 128 weights with random scales of powers of two and a half, the same in each pair of blocks, so that a
// block of 256 can hold them.
func (w weightOnly) codes(rng *rand.Rand, rows, cols int) []byte {
	var b []byte
	for range rows {
		scale := uint16(0)
		for block := range cols / 128 {
			if block%2 == 0 {
				scale = uint16(0x2800 + rng.IntN(4)<<9) // from 1/32
			}
			b = append(b, byte(scale), byte(scale>>8))
			if w.binary {
				for range 16 {
					b = append(b, byte(rng.IntN(256)))
				}
				continue
			}
			for range 32 {
				var v byte
				for range 4 {
					v = v<<2 | byte(rng.IntN(3))
				}
				b = append(b, v)
			}
		}
	}
	return b
}

func (w weightOnly) ids(n int) []int32 {
	rng := rand.New(rand.NewPCG(3, 3))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(w.cfg.VocabSize))
	}
	return ids
}

func run(t testing.TB, e model.Engine, ids []int32) []float32 {
	t.Helper()
	logits := make([]float32, len(ids)*e.Config().VocabSize)
	cache, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: ids, Logits: logits}}); err != nil {
		t.Fatal(err)
	}
	return logits
}

// TestWeightOnlyIsItsDefinition compares every family with weights of groups, in each format that holds them, with plain loops in
// float64, and the texts of one model in all of them with each other.
func TestWeightOnlyIsItsDefinition(t *testing.T) {
	forms := []struct {
		f   ternary.Format
		typ gguf.Type
	}{
		{ternary.PQ2_0, gguf.PQ2_0}, {ternary.Q2_0, gguf.Q2_0}, {ternary.PTQ1_0, gguf.PTQ1_0}, {ternary.TQ2_0, gguf.TQ2_0}, {ternary.TQ1_0, gguf.TQ1_0}, {0, gguf.F16}, {0, gguf.F32},
	}
	for name, w := range weightOnlyFamilies() {
		t.Run(name, func(t *testing.T) {
			ids := w.ids(12)
			var text string
			for _, form := range forms {
				path := w.write(t, form.f, form.typ, nil)
				e := loadCPU(t, path, 2)
				if form.f != 0 && !e.Config().WeightOnly() {
					t.Errorf("%v: no projection is of weights alone", form.typ)
				}
				set, err := weights.Open(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer set.Close()
				if form.f == ternary.PQ2_0 || form.f == 0 {
					compareDefinition(t, e, define(t, e.Config(), set), ids)
				}
				if got := fmt.Sprint(greedy(t, e, ids, 64, 5)); text == "" {
					text = got
				} else if got != text {
					t.Errorf("%v writes another text: %s, want %s", form.typ, got, text)
				}
			}
		})
	}
}

func compareDefinition(t *testing.T, e model.Engine, d *definition, ids []int32) {
	t.Helper()
	V := e.Config().VocabSize
	got, want := run(t, e, ids), d.logits(ids)
	for i, row := range want {
		narrow := make([]float32, V)
		for j, v := range row {
			narrow[j] = float32(v)
		}
		g := got[i*V:][:V]
		diff, span := maxDiff(g, narrow)
		if r := correlation(g, narrow); !(r >= 0.99999) || argmax(g) != argmax(narrow) || diff > 1e-3*span {
			t.Errorf("token %d: correlation %.8f, largest difference %g of a range of %g, best token %d, want %d", i, r, diff, span, argmax(g), argmax(narrow))
		}
	}
}

// TestBinaryWeights: Q1_0.
func TestBinaryWeights(t *testing.T) {
	w := weightOnlyFamilies()["qwen3 tied"]
	w.binary = true
	path := w.write(t, ternary.Q1_0, gguf.Q1_0, nil)
	e := loadCPU(t, path, 2)
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	compareDefinition(t, e, define(t, e.Config(), set), w.ids(12))
}

// TestRotation: a model whose weights are folded, under either mode of signs, against the definition's plain matrix, with the head
// tied and apart.
func TestRotation(t *testing.T) {
	for _, name := range []string{"qwen3", "qwen3 tied", "llama"} {
		for _, mode := range []string{"explicit", "identity"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				w := weightOnlyFamilies()[name]
				path := w.write(t, ternary.PQ2_0, gguf.PQ2_0, w.rotation(mode))
				e := loadCPU(t, path, 2)
				c := e.Config()
				for _, p := range c.Projections() {
					if p.Rotation == nil {
						t.Fatalf("%s is not rotated", p.Name)
					}
				}
				set, err := weights.Open(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer set.Close()
				compareDefinition(t, e, define(t, c, set), w.ids(7))
			})
		}
	}
}

// rotation is the contract for all of a model's matrices.
func (w weightOnly) rotation(mode string) gguf.KV {
	var names []string
	for _, p := range w.cfg.Projections() {
		if name, ok := weights.GGUFName(w.arch, p.Name+".weight"); ok && p.Weights == "" {
			names = append(names, name)
		}
	}
	kv := gguf.KV{
		{Key: "prism.hadamard.version", Value: uint32(1)},
		{Key: "prism.hadamard.block_size", Value: uint32(128)},
		{Key: "prism.hadamard.transform", Value: "normalized-sylvester-walsh-hadamard"},
		{Key: "prism.hadamard.axis", Value: "input-last-dimension"},
		{Key: "prism.hadamard.sign_mode", Value: mode},
		{Key: "prism.hadamard.weight_names", Value: names},
		{Key: "prism.hadamard.inverse_weight_names", Value: []string{"token_embd.weight"}},
		{Key: "prism.hadamard.gdn_v_grouped", Value: true},
	}
	if mode == "explicit" {
		rng := rand.New(rand.NewPCG(8, 8))
		signs := make([]int32, 256+512)
		for i := range signs {
			signs[i] = int32(2*rng.IntN(2) - 1)
		}
		kv.Set("prism.hadamard.sign_widths", []int32{256, 512})
		kv.Set("prism.hadamard.sign_values", signs)
	}
	return kv
}

// TestRotationRefused: what a contract says that is not known ends opening, by the name of its key.
func TestRotationRefused(t *testing.T) {
	w := weightOnlyFamilies()["qwen3"]
	for key, value := range map[string]any{
		"version": uint32(9), "block_size": uint32(96), "transform": "dct", "axis": "output", "sign_mode": "random", "new_key": true,
		"weight_names": []string{"blk.0.attn_q.weight", "blk.0.attn_q.weight"}, "sign_widths": []int32{256}, "sign_values": []int32{1, -1, 2},
		"inverse_weight_names": []string{"output.weight"},
	} {
		kv := w.rotation("explicit")
		kv.Set("prism.hadamard."+key, value)
		path := w.write(t, ternary.PQ2_0, gguf.PQ2_0, kv)
		set, err := weights.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := family.Read(set); err == nil {
			t.Errorf("%s %v was taken", key, value)
		} else {
			t.Log(err)
		}
		set.Close()
	}
}

// TestWeightOnlySameText: text does not depend on tier, threads or cut, with activations of 16 and of 8 bits.
func TestWeightOnlySameText(t *testing.T) {
	defer kernel.SetTier(kernel.Tier())
	w := weightOnlyFamilies()["qwen3"]
	path := w.write(t, ternary.PQ2_0, gguf.PQ2_0, w.rotation("explicit"))
	ids := w.ids(70)
	for _, rounding := range []part.Activations{part.Activations16, part.Activations8} {
		var want string
		for _, tier := range kernel.Tiers() {
			if err := kernel.SetTier(tier); err != nil {
				t.Fatal(err)
			}
			for _, threads := range []int{1, 3} {
				e := loadChanged(t, cpu.Backend{Threads: threads}, path, func(c *model.Config) { c.Activations = rounding })
				for _, chunk := range []int{1, 7, len(ids)} {
					if got := fmt.Sprint(greedy(t, e, ids, 24, chunk)); want == "" {
						want = got
					} else if got != want {
						t.Errorf("%s, %d threads, chunks of %d: %s, want %s", tier, threads, chunk, got, want)
					}
				}
			}
		}
	}
}

// TestWeightOnlyEngine: batches, forks, cuts.
func TestWeightOnlyEngine(t *testing.T) {
	w := weightOnlyFamilies()["qwen3 tied"]
	enginetest.Run(t, cpu.Backend{Threads: 3}, w.write(t, ternary.PTQ1_0, gguf.PTQ1_0, nil))
}

func writeGGUF(t testing.TB, path string, kv gguf.KV, list []gguf.Tensor, data map[string][]byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = gguf.Write(f, kv, list, func(w io.Writer, x gguf.Tensor) error {
		_, err := w.Write(data[x.Name])
		return err
	})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
