package eval

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tritlm/trit/model"
)

// Tolerance says what Verify accepts.
type Tolerance struct {
	Correlation   float64 `json:"correlation"`    // of the logits and of every layer, at least
	MaxDifference float64 `json:"max_difference"` // of a logit, as a share of the range of the reference's logits
	// NearTie excuses another choice of token: the two candidates' logits are no further apart than
	// this share of the range.
	NearTie float64 `json:"near_tie"`
	// LayerByLayer starts every layer from the reference's own numbers, so that each is judged alone. In a deep
	// model one activation that falls to the other side of an int8 step moves all the layers after it, and in one of
	// random weights that grows with depth. The reference must hold every position; the greedy continuation is left
	// out.
	LayerByLayer bool `json:"layer_by_layer"`
	// PerLayer is how much less correlation is asked with every layer behind the first, of a model whose activations are
	// int8: see DefaultTolerance. The largest difference and NearTie grow as its root does. 0: the same at any depth.
	PerLayer float64 `json:"per_layer"`
}

// DefaultTolerance is for a reference computed in dtype. Against float32 the engine differs by the order of sums, 10⁻⁷, and
// by what that does to an activation on the edge between two of the 255 int8 steps: it may fall to the other side,
// which is a step of 1/127 in one place. From there on the token's numbers are others, so that more of them fall to other
// sides: in the end every layer adds the noise of its own rounding, as if it were independent on both sides. So what a right
// model may differ by grows with its depth, and what is asked behind layer l is
//
//	correlation ≥ 0.99999 - PerLayer·(l-1)
//	difference  ≤ 0.01 + √(PerLayer·(l-1)/2), as a share of the range; a near tie the same with 0.005
//
// PerLayer is 10⁻⁴: about twice the worst of transformers' own float32 against its own float64 in random models of 1 to 24
// layers (tools/reference/depth.py, docs/verify.md). Models without int8 activations are held to the first figures at any
// depth, and so is every model layer by layer.
//
// A bfloat16 reference has rounded every intermediate value to 8 bits, so its top token may be the runner-up where both are
// about as far apart as that rounding.
func DefaultTolerance(dtype string) Tolerance {
	if dtype == "bfloat16" {
		return Tolerance{Correlation: 0.999, MaxDifference: 0.1, NearTie: 0.02, PerLayer: 1e-4}
	}
	return Tolerance{Correlation: 0.99999, MaxDifference: 0.01, NearTie: 0.005, PerLayer: 1e-4}
}

// at is what is asked behind so many layers.
func (t Tolerance) at(layers int) Tolerance {
	grown := t.PerLayer * float64(max(layers-1, 0))
	t.Correlation -= grown
	t.MaxDifference += math.Sqrt(grown / 2)
	t.NearTie += math.Sqrt(grown / 2)
	return t
}

// Row compares one place of the model over all prompts and positions.
type Row struct {
	Name        string  `json:"name"`
	Correlation float64 `json:"correlation"`
	MaxDiff     float64 `json:"max_difference"`
	Relative    float64 `json:"relative_difference"` // ‖ours − theirs‖ / ‖theirs‖
}

// Report is what Verify found.
type Report struct {
	Model        string    `json:"model"`
	Reference    string    `json:"reference"`
	DType        string    `json:"dtype"`
	Torch        string    `json:"torch,omitempty"`
	Transformers string    `json:"transformers,omitempty"`
	Prompts      int       `json:"prompts"`
	Tolerance    Tolerance `json:"tolerance"`

	Layers []Row   `json:"layers"` // embedding, blocks, final norm
	Logits Row     `json:"logits"`
	Range  float64 `json:"logits_range"` // largest minus smallest logit of the reference

	Positions int `json:"positions"` // whose logits were compared
	Top1      int `json:"top1"`      // of them, with the same best token

	Steps     int `json:"greedy_steps"` // of the reference's greedy continuations, its own tokens fed
	Agree     int `json:"greedy_agree"`
	NearTies  int `json:"greedy_near_ties"` // disagreements excused by Tolerance.NearTie
	Identical int `json:"greedy_identical"` // continuations that are the same to the end, without help
	Greedy    int `json:"greedy_sequences"` // continuations compared

	Failures []string `json:"failures"` // why it does not pass; empty when it does
}

// MaxDifference is the largest difference of a logit that the model's depth allows, as a share of their range.
func (r *Report) MaxDifference() float64 { return r.Tolerance.at(len(r.Layers) - 2).MaxDifference }

// OK reports whether everything is within the tolerance.
func (r *Report) OK() bool { return len(r.Failures) == 0 }

// Verify runs the reference's prompts through the engine and compares every layer, the logits and the
// greedy continuations. step, when set, is called as work gets done, with the number of tokens.
func Verify(ctx context.Context, e model.Engine, ref *Reference, tol Tolerance, step func(done, total int64)) (*Report, error) {
	c := e.Config()
	if ref.Layers != c.NumLayers() {
		return nil, fmt.Errorf("eval: %s has %d layers, the model %d: it is another model's", ref.Name, ref.Layers, c.NumLayers())
	}
	v := &verifier{ctx: ctx, e: e, c: c, places: make([]place, c.NumLayers()+2), step: step, alone: tol.LayerByLayer}
	for n, p := range ref.Prompts {
		d, vocab := len(p.Final)/len(p.Positions), len(p.Logits)/len(p.Positions)
		if d != c.HiddenSize || vocab != c.VocabSize {
			return nil, fmt.Errorf("eval: %s: prompt %d has width %d and vocabulary %d, the model %d and %d: it is another model's", ref.Name, n, d, vocab, c.HiddenSize, c.VocabSize)
		}
		if tol.LayerByLayer && len(p.Positions) != len(p.IDs) {
			return nil, fmt.Errorf("eval: %s: prompt %d has %d of its %d positions, and layer by layer needs all: make it with --positions 0", ref.Name, n, len(p.Positions), len(p.IDs))
		}
		if len(p.IDs)+len(p.Greedy) > c.MaxContext {
			return nil, fmt.Errorf("eval: %s: prompt %d and its continuation have %d tokens, the model's context %d", ref.Name, n, len(p.IDs)+len(p.Greedy), c.MaxContext)
		}
		v.total += int64(len(p.IDs) + max(0, len(p.Greedy)-1))
	}
	for n := range ref.Prompts {
		if err := v.prompt(&ref.Prompts[n]); err != nil {
			return nil, fmt.Errorf("eval: prompt %d: %w", n, err)
		}
	}
	if !c.Ternary() || tol.LayerByLayer {
		tol.PerLayer = 0
	}
	r := &v.report
	r.Reference, r.DType, r.Torch, r.Transformers = ref.Name, ref.DType(), ref.Meta["torch"], ref.Meta["transformers"]
	r.Prompts, r.Tolerance = len(ref.Prompts), tol
	r.Failures = []string{}
	for i := range v.places {
		name := strconv.Itoa(i)
		switch i {
		case 0:
			name = "embedding"
		case c.NumLayers() + 1:
			name = "final norm"
		}
		r.Layers = append(r.Layers, v.places[i].row(name))
	}
	r.Logits = v.logits.row("logits")
	r.Range = v.high - v.low
	for _, gap := range v.gaps {
		if gap <= tol.at(c.NumLayers()).NearTie*r.Range {
			r.NearTies++
		}
	}
	r.judge(v.topGaps)
	return r, nil
}

func (r *Report) judge(topGaps []float64) {
	fail := func(format string, args ...any) { r.Failures = append(r.Failures, fmt.Sprintf(format, args...)) }
	depth := len(r.Layers) - 2 // without the embedding and the final norm
	t := r.Tolerance.at(depth)
	for i, row := range append(r.Layers, r.Logits) {
		if want := r.Tolerance.at(min(i, depth)).Correlation; !(row.Correlation >= want) { // NaN fails
			fail("%s: correlation %.7f, at least %.6g asked", row.Name, row.Correlation, want)
		}
	}
	if !(r.Logits.MaxDiff <= t.MaxDifference*r.Range) {
		fail("logits: largest difference %.3g, %.3g of the range; at most %.3g asked", r.Logits.MaxDiff, r.Logits.MaxDiff/r.Range, t.MaxDifference)
	}
	far := 0
	for _, gap := range topGaps {
		if !(gap <= t.NearTie*r.Range) {
			far++
		}
	}
	if far > 0 {
		fail("top-1: %d of %d positions have another best token that is not a near tie", far, r.Positions)
	}
	if d := r.Steps - r.Agree - r.NearTies; d > 0 {
		fail("greedy: %d of %d steps choose another token that is not a near tie", d, r.Steps)
	}
}

// verifier is one Verify.
type verifier struct {
	ctx         context.Context
	e           model.Engine
	c           *model.Config
	report      Report
	places      []place // embedding, blocks, final norm
	logits      place
	low, high   float64
	seen        bool
	gaps        []float64 // greedy: how far apart the reference's choice and ours are, where they differ
	topGaps     []float64 // the same at the compared positions
	done, total int64
	step        func(done, total int64)
	alone       bool // Tolerance.LayerByLayer
}

func (v *verifier) tell(n int) {
	v.done += int64(n)
	if v.step != nil {
		v.step(v.done, v.total)
	}
}

// prompt compares one prompt: read in pieces that end where the reference has a position, then
// its continuation token by token.
func (v *verifier) prompt(p *Prompt) error {
	cache, err := v.e.NewCache(len(p.IDs) + len(p.Greedy))
	if err != nil {
		return err
	}
	defer cache.Close()
	logits := make([]float32, v.c.VocabSize)
	next := 0
	for i, at := range p.Positions {
		end := int(at) + 1
		in := model.Input{Cache: cache, Tokens: p.IDs[next:end], Logits: logits}
		last := map[string][]float32{}
		in.Trace = func(name string, x []float32) {
			d := v.c.HiddenSize
			last[name] = append(last[name][:0], x[len(x)-d:]...)
			if l, found := strings.CutPrefix(name, "layer."); v.alone && found {
				n, _ := strconv.Atoi(l)
				copy(x, p.Hidden[n+1][i*d:(i+1)*d]) // one token at a time: every position is there
			}
		}
		if err := v.e.Forward(v.ctx, []model.Input{in}); err != nil {
			return err
		}
		for l := range v.places {
			name, want := "layer."+strconv.Itoa(l-1), p.Final
			switch {
			case l == 0:
				name, want = "embed", p.Hidden[0]
			case l <= v.c.NumLayers():
				want = p.Hidden[l]
			default:
				name = "final"
			}
			d := v.c.HiddenSize
			if len(last[name]) != d {
				return fmt.Errorf("the engine traces no %q", name)
			}
			v.places[l].add(last[name], want[i*d:(i+1)*d])
		}
		want := p.Logits[i*v.c.VocabSize : (i+1)*v.c.VocabSize]
		v.logits.add(logits, want)
		for _, x := range want {
			f := float64(x)
			if !v.seen {
				v.low, v.high, v.seen = f, f, true
			}
			v.low, v.high = min(v.low, f), max(v.high, f)
		}
		ours, theirs := argmax(logits), argmax(want)
		v.report.Positions++
		if ours == theirs {
			v.report.Top1++
		} else {
			v.topGaps = append(v.topGaps, gap(logits, want, ours, theirs))
		}
		v.tell(end - next)
		next = end
	}
	if v.alone {
		return nil
	}
	return v.greedy(p, cache, logits)
}

// gap is how close two candidates are, by whichever side sees them closer.
func gap(ours, theirs []float32, a, b int) float64 {
	g := math.Abs(float64(ours[a]) - float64(ours[b]))
	if theirs != nil {
		g = min(g, math.Abs(float64(theirs[a])-float64(theirs[b])))
	}
	return g
}

// greedy feeds the reference's continuation and compares the choice at each step. As long as every
// choice was the same, that is the engine's own continuation as well.
func (v *verifier) greedy(p *Prompt, cache model.Cache, logits []float32) error {
	if len(p.Greedy) == 0 {
		return nil
	}
	v.report.Greedy++
	same := true
	for i, want := range p.Greedy {
		if want < 0 || int(want) >= v.c.VocabSize {
			return fmt.Errorf("greedy token %d is outside the vocabulary", want)
		}
		v.report.Steps++
		if ours := argmax(logits); ours == int(want) {
			v.report.Agree++
		} else {
			same = false
			g := gap(logits, nil, ours, int(want))
			if p.Second != nil && p.Margin != nil && p.Second[i] == int32(ours) {
				g = min(g, float64(p.Margin[i]))
			}
			v.gaps = append(v.gaps, g)
		}
		if i == len(p.Greedy)-1 {
			break
		}
		if err := v.e.Forward(v.ctx, []model.Input{{Cache: cache, Tokens: p.Greedy[i : i+1], Logits: logits}}); err != nil {
			return err
		}
		v.tell(1)
	}
	if same {
		v.report.Identical++
	}
	return nil
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// place gathers the sums behind a Row.
type place struct {
	n, sa, sb, saa, sbb, sab, diff, max float64
}

// add takes our numbers a and the reference's b.
func (p *place) add(a, b []float32) {
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		p.sa += x
		p.sb += y
		p.saa += x * x
		p.sbb += y * y
		p.sab += x * y
		d := x - y
		p.diff += d * d
		p.max = max(p.max, math.Abs(d)) // NaN stays NaN
	}
	p.n += float64(len(a))
}

func (p *place) row(name string) Row {
	va, vb := p.saa-p.sa*p.sa/p.n, p.sbb-p.sb*p.sb/p.n
	r := Row{Name: name, MaxDiff: p.max, Correlation: (p.sab - p.sa*p.sb/p.n) / math.Sqrt(va*vb), Relative: math.Sqrt(p.diff / p.sbb)}
	if va == 0 && vb == 0 {
		r.Correlation = 1 // both constant
	}
	r.Correlation = min(r.Correlation, 1) // rounding
	return r
}
