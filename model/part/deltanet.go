package part

import (
	"context"
	"fmt"
	"math"

	"github.com/tritlm/trit/internal/kernel"
)

// DeltaNet is Qwen3.5's recurrent mixer, a gated delta rule. Of one token x, with m = QKV·x, a convolution over the last Kernel
// tokens for each channel, and for each value head h with its key head:
//
//	c = silu(Σ_j w[j]·m[t-Kernel+1+j]);  q, k, v = parts of c;  q = q/|q|/√KeyDim,  k = k/|k|   (|q|² + 1e-6)
//	β = sigmoid(Beta·x);  g = exp(A·softplus(Alpha·x + Bias)),  A = -exp(A_log)
//	S = g·S;  S += β·(v − S·k) ⊗ k;  o = S·q                                     S  [ValueDim, KeyDim]
//	out = Out·(RMSNorm(o)·silu(Gate·x))
//
// The state of a sequence is S of each value head and the last Kernel-1 tokens' m: float32, and one order of steps whatever the block
// or the cut (recurrent.go has what a cache makes of it).
//
// Source: transformers models/qwen3_5, torch_recurrent_gated_delta_rule.
type DeltaNet struct {
	KeyHeads, ValueHeads, KeyDim, ValueDim int // KeyHeads divides ValueHeads
	Kernel                                 int // of the convolution
	QKV, Gate, Beta, Alpha, Out            Projection
	Norm                                   *Norm  // over ValueDim
	Conv                                   string // module of the convolution's weights, [channels, Kernel]
	A                                      string // tensor of A_log, or with Decay of A
	Decay                                  bool
	Bias                                   string // tensor of the bias of Alpha
	// Tiled: value head h has key head h mod KeyHeads, as in GGUF files; else h div (ValueHeads/KeyHeads). OutGrouped: the input of
	// Out is in the second order although all else is in the first.
	Tiled, OutGrouped bool
}

// Channels is how many the convolution has.
func (d *DeltaNet) Channels() int { return 2*d.KeyHeads*d.KeyDim + d.ValueHeads*d.ValueDim }

// StateSize is how many numbers a sequence's state has.
func (d *DeltaNet) StateSize() int {
	return d.ValueHeads*d.ValueDim*d.KeyDim + (d.Kernel-1)*d.Channels()
}

// Projections are all five.
func (d *DeltaNet) Projections() []*Projection {
	return []*Projection{&d.QKV, &d.Gate, &d.Beta, &d.Alpha, &d.Out}
}

// Norms is the gated one.
func (d *DeltaNet) Norms() []*Norm { return []*Norm{d.Norm} }

// Vectors are its tensors that no projection or norm has.
func (d *DeltaNet) Vectors() []Vector {
	return []Vector{{d.Conv + ".weight", d.Channels(), d.Kernel}, {d.A, 1, d.ValueHeads}, {d.Bias, 1, d.ValueHeads}}
}

// Vector is a tensor of a part that is no projection's and no norm's.
type Vector struct {
	Name       string
	Rows, Cols int
}

// Check refuses impossible numbers.
func (d *DeltaNet) Check() error {
	for _, n := range []int{d.KeyHeads, d.ValueHeads, d.KeyDim, d.ValueDim, d.Kernel} {
		if n < 1 || n > 1<<14 {
			return fmt.Errorf("a number of the recurrent layers is %d; it must be 1 to %d", n, 1<<14)
		}
	}
	if d.ValueHeads%d.KeyHeads != 0 {
		return fmt.Errorf("%d value heads are not a multiple of %d key heads", d.ValueHeads, d.KeyHeads)
	}
	if d.Channels() > 1<<17 {
		return fmt.Errorf("%d channels of the recurrent layers; at most %d", d.Channels(), 1<<17)
	}
	return nil
}

// keyHead is the key head of a value head, and where the head is in the second order.
func (d *DeltaNet) keyHead(h int) (key, grouped int) {
	group := d.ValueHeads / d.KeyHeads
	if !d.Tiled {
		return h / group, h
	}
	key = h % d.KeyHeads
	return key, key*group + h/d.KeyHeads
}

// deltaNet is a DeltaNet that is loaded.
type deltaNet struct {
	*DeltaNet
	b       *Block
	in, out *bank
	norm    norm
	conv    []float32 // [Kernel, channels]
	a, bias []float32 // [ValueHeads]
	order   []int     // [ValueHeads] where the head is in the input of Out
	at      int       // of its state: [ValueHeads, ValueDim, KeyDim], then [Kernel-1, channels]

	enter, mix, heads, leave func(lo, hi int)
}

// deltaRows is what the rows of a block need in such layers; all of them share it.
type deltaRows struct {
	mixed, conv, gate, out []float32 // [N, channels] twice, [N, ValueHeads·ValueDim] twice
	beta, decay            []float32 // [N, ValueHeads]
}

func (d *DeltaNet) load(l *Loader) (runner, error) {
	r := &deltaNet{DeltaNet: d, b: l.Block, at: l.Pages.states(d.StateSize())}
	r.enter, r.mix, r.heads, r.leave = r.enterRows, r.convolve, r.runHeads, r.leaveRows
	var err error
	if r.norm, err = l.norm(d.Norm); err != nil {
		return nil, err
	}
	c := d.Channels()
	w, err := l.Weights.Numbers(d.Conv+".weight", c, d.Kernel)
	if err != nil {
		return nil, err
	}
	r.conv = make([]float32, len(w))
	for i := range c {
		for j := range d.Kernel {
			r.conv[j*c+i] = w[i*d.Kernel+j]
		}
	}
	if r.a, err = l.Weights.Numbers(d.A, d.ValueHeads); err != nil {
		return nil, err
	}
	for i, a := range r.a {
		if !d.Decay {
			r.a[i] = -float32(math.Exp(float64(a)))
		}
	}
	if r.bias, err = l.Weights.Numbers(d.Bias, d.ValueHeads); err != nil {
		return nil, err
	}
	if r.in, err = l.bank(&d.QKV, &d.Gate, &d.Beta, &d.Alpha); err != nil {
		return nil, err
	}
	if r.out, err = l.bank(&d.Out); err != nil {
		return nil, err
	}
	r.orderHeads()
	return r, nil
}

// orderHeads decides where heads go in the input of Out. A matrix of floats is put into the second order, whatever the file's is, so
// that sums are of one order.
func (d *deltaNet) orderHeads() {
	tiled := make([]int, d.ValueHeads) // by place in the second order
	for h := range tiled {
		_, grouped := d.keyHead(h)
		tiled[grouped] = h
	}
	grouped := d.OutGrouped
	if w := d.out.ls[0].dense; d.Tiled && !grouped && w != nil {
		grouped = w.PermuteColumns(func(c int) int { return tiled[c/d.ValueDim]*d.ValueDim + c%d.ValueDim })
	}
	d.order = make([]int, d.ValueHeads)
	for h := range d.order {
		if d.order[h] = h; grouped {
			_, d.order[h] = d.keyHead(h)
		}
	}
}

func (d *deltaNet) inputs() *bank { return d.in }
func (d *deltaNet) output() *bank { return d.out }

func (d *deltaNet) run(ctx context.Context) error {
	if err := d.in.multiply(ctx); err != nil {
		return err
	}
	b, x := d.b, &d.b.delta
	c, v := d.Channels(), d.ValueHeads*d.ValueDim
	x.mixed, x.conv = grown(x.mixed, b.n*c), grown(x.conv, b.n*c)
	x.gate, x.out = grown(x.gate, b.n*v), grown(x.out, b.n*v)
	x.beta, x.decay = grown(x.beta, b.n*d.ValueHeads), grown(x.decay, b.n*d.ValueHeads)
	b.pool.For(b.n, 1, d.enter)
	b.pool.For(b.n, 1, d.mix)
	b.pool.For(len(b.runs)*d.ValueHeads, 1, d.heads)
	for i := range b.runs {
		d.keepColumns(&b.runs[i])
	}
	d.out.makePlanes()
	b.pool.For(b.n, 1, d.leave)
	return d.out.multiply(ctx)
}

// enterRows takes the products.
func (d *deltaNet) enterRows(lo, hi int) {
	c, v, x := d.Channels(), d.ValueHeads*d.ValueDim, &d.b.delta
	for r := lo; r < hi; r++ {
		beta, decay := x.beta[r*d.ValueHeads:][:d.ValueHeads], x.decay[r*d.ValueHeads:][:d.ValueHeads]
		d.in.take(x.mixed[r*c:][:c], 0, r, 0)
		d.in.take(x.gate[r*v:][:v], 1, r, 0)
		d.in.take(beta, 2, r, 0)
		d.in.take(decay, 3, r, 0)
		for h := range beta {
			beta[h] = sigmoid(beta[h])
			decay[h] = kernel.Exp(d.a[h] * softplus(decay[h]+d.bias[h]))
		}
	}
}

// softplus is log(1+eˣ), x itself where that is the same in float32.
func softplus(x float32) float32 {
	if x > 20 {
		return x
	}
	return float32(math.Log1p(float64(kernel.Exp(x))))
}

// column is the convolution's input of a run's token i, of one in front of the run where i is negative.
func (d *deltaNet) column(r *run, i int) []float32 {
	c := d.Channels()
	if i >= 0 {
		return d.b.delta.mixed[(r.row+i)*c:][:c]
	}
	return d.columns(d.b.rows[r.row].cache.recurrent.state)[(d.Kernel-1+i)*c:][:c]
}

// columns is where a state has those of the last tokens.
func (d *deltaNet) columns(state []float32) []float32 {
	return state[d.at+d.ValueHeads*d.ValueDim*d.KeyDim:][:(d.Kernel-1)*d.Channels()]
}

// convolve computes the convolution and norms queries and keys.
func (d *deltaNet) convolve(lo, hi int) {
	c, x := d.Channels(), &d.b.delta
	for row := lo; row < hi; row++ {
		r := d.b.runOf(row)
		y := x.conv[row*c:][:c]
		clear(y)
		for j := range d.Kernel {
			w, m := d.conv[j*c:][:c], d.column(r, row-r.row-d.Kernel+1+j)
			for i := range y {
				y[i] += float32(w[i] * m[i])
			}
		}
		for i, v := range y {
			y[i] = v / (1 + kernel.Exp(-v))
		}
		scale := float32(1 / math.Sqrt(float64(d.KeyDim)))
		for h := range 2 * d.KeyHeads {
			k := y[h*d.KeyDim:][:d.KeyDim]
			s := float32(1 / math.Sqrt(float64(kernel.Dot(k, k))+1e-6))
			kernel.Scale(k, s)
			if h < d.KeyHeads {
				kernel.Scale(k, scale)
			}
		}
	}
}

// runHeads runs value heads of runs through their tokens.
func (d *deltaNet) runHeads(lo, hi int) {
	c, x := d.Channels(), &d.b.delta
	size, values := d.ValueDim*d.KeyDim, d.ValueHeads*d.ValueDim
	for i := lo; i < hi; i++ {
		r, h := &d.b.runs[i/d.ValueHeads], i%d.ValueHeads
		key, _ := d.keyHead(h)
		out := d.order[h]
		at := d.at + h*size
		S := d.b.rows[r.row].cache.recurrent.state[at:][:size]
		saves := r.saves
		for row := r.row; row < r.row+r.n; row++ {
			y := x.conv[row*c:][:c]
			q, k := y[key*d.KeyDim:][:d.KeyDim], y[(d.KeyHeads+key)*d.KeyDim:][:d.KeyDim]
			v := y[2*d.KeyHeads*d.KeyDim+h*d.ValueDim:][:d.ValueDim]
			o := x.out[row*values+out*d.ValueDim:][:d.ValueDim]
			kernel.Scale(S, x.decay[row*d.ValueHeads+h])
			kernel.MatMulF32(o, S, k, 1)
			beta := x.beta[row*d.ValueHeads+h]
			for j := range v { // what is new of v, in its place
				v[j] = (v[j] - o[j]) * beta
			}
			kernel.AttnMix(S, v, 1, k, d.ValueDim, nil)
			kernel.MatMulF32(o, S, q, 1)
			for len(saves) > 0 && saves[0].row == row {
				copy(saves[0].data[at:], S)
				saves = saves[1:]
			}
		}
	}
}

// keepColumns keeps those of the run's last tokens, in the state and in copies of it.
func (d *deltaNet) keepColumns(r *run) {
	c, k := d.Channels(), d.Kernel-1
	keep := func(state []float32, end int) {
		to := d.columns(state)
		for j := range k { // from the oldest on: in place, each comes from behind
			copy(to[j*c:][:c], d.column(r, end-k+j))
		}
	}
	for _, s := range r.saves {
		keep(s.data, s.row+1-r.row)
	}
	keep(d.b.rows[r.row].cache.recurrent.state, r.n)
}

// leaveRows norms and gates the heads' outputs, prepared for Out.
func (d *deltaNet) leaveRows(lo, hi int) {
	x, n := &d.b.delta, d.ValueHeads*d.ValueDim
	for row := lo; row < hi; row++ {
		y, z := d.out.row(row), x.gate[row*n:][:n]
		for h := range d.ValueHeads {
			out := d.order[h]
			o := y[out*d.ValueDim:][:d.ValueDim]
			d.norm.apply(o, x.out[row*n+out*d.ValueDim:][:d.ValueDim])
			kernel.SiLUMul(o, z[h*d.ValueDim:][:d.ValueDim], o)
		}
		d.out.prepare(row)
	}
}
