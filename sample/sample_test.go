package sample

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"pgregory.net/rapid"
)

var inf = float32(math.Inf(1))

func TestGreedy(t *testing.T) {
	nan := float32(math.NaN())
	for _, tt := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 2}, 1},
		{[]float32{3, 1, 3}, 0}, // ties: the lowest id
		{[]float32{nan, -5, nan}, 1},
		{[]float32{-inf, -inf}, -1},
		{[]float32{nan}, -1},
		{[]float32{0, inf}, 1},
		{nil, -1},
	} {
		if got := New(Options{}).Next(tt.logits, nil); got != tt.want {
			t.Errorf("greedy %v = %d, want %d", tt.logits, got, tt.want)
		}
		if got := New(Options{Temperature: 0.7}).Next(tt.logits, nil); (got < 0) != (tt.want < 0) {
			t.Errorf("at 0.7 %v = %d, want a token iff there is one", tt.logits, got)
		}
	}
}

func TestPenaltiesBiasAndMask(t *testing.T) {
	bits := func(ids ...int) bitset {
		b := make(bitset, 1)
		for _, i := range ids {
			b[0] |= 1 << i
		}
		return b
	}
	for _, tt := range []struct {
		name     string
		o        Options
		logits   []float32
		history  []int32
		accepted []int32
		want     int32
	}{
		{"repetition divides positive logits", Options{RepetitionPenalty: 2}, []float32{3, 2, 0}, []int32{0, 0}, nil, 1},
		{"repetition once, not per occurrence", Options{RepetitionPenalty: 1.2}, []float32{3, 2, 0}, []int32{0, 0, 0, 0}, nil, 0},
		{"repetition multiplies negative logits", Options{RepetitionPenalty: 2}, []float32{-1, -1.5, -9}, []int32{0}, nil, 1},
		{"repetition window", Options{RepetitionPenalty: 9, RepeatLastN: 1}, []float32{3, 2, 0}, []int32{0, 1}, nil, 0},
		{"history out of the vocabulary", Options{RepetitionPenalty: 9}, []float32{3, 2}, []int32{-1, 99}, nil, 0},
		{"frequency counts", Options{FrequencyPenalty: 0.6}, []float32{3, 2, 0}, nil, []int32{0, 0}, 1},
		{"frequency once is not enough", Options{FrequencyPenalty: 0.6}, []float32{3, 2, 0}, nil, []int32{0}, 0},
		{"presence does not count", Options{PresencePenalty: 0.6}, []float32{3, 2, 0}, nil, []int32{0, 0, 0}, 0},
		{"presence", Options{PresencePenalty: 1.5}, []float32{3, 2, 0}, nil, []int32{0}, 1},
		{"frequency ignores the prompt", Options{FrequencyPenalty: 2}, []float32{3, 2, 0}, []int32{0}, nil, 0},
		{"count window", Options{PresencePenalty: 2, RepeatLastN: 2}, []float32{3, 2, 1}, nil, []int32{0, 2, 2}, 0},
		{"bias", Options{LogitBias: map[int32]float32{2: 100}}, []float32{3, 2, 0}, nil, nil, 2},
		{"bias forbids", Options{LogitBias: map[int32]float32{0: -100}}, []float32{3, 2, 0}, nil, nil, 1},
		{"mask", Options{Mask: bits(2)}, []float32{3, 2, 0}, nil, nil, 2},
		{"mask beats bias", Options{Mask: bits(2), LogitBias: map[int32]float32{0: 100}}, []float32{3, 2, 0}, nil, nil, 2},
		{"nothing allowed", Options{Mask: bits()}, []float32{3, 2, 0}, nil, nil, -1},
		{"past the mask's end", Options{Mask: bitset{}}, []float32{3, 2, 0}, nil, nil, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(tt.o)
			for _, id := range tt.accepted {
				s.Accept(id)
			}
			before := slices.Clone(tt.logits)
			if got := s.Next(tt.logits, tt.history); got != tt.want {
				t.Errorf("= %d, want %d", got, tt.want)
			}
			if !slices.Equal(before, tt.logits) {
				t.Error("the logits changed")
			}
		})
	}
}

type bitset []uint64

func (b bitset) Allowed() []uint64 { return b }
func (b bitset) Accept(int32)      {}

// The frequencies of 200,000 draws agree with the definition: χ² at 12 standard deviations.
func TestDrawsFollowTheDistribution(t *testing.T) {
	logits := []float32{1, 2, 0.5, -1, 2, 0, -30, 1.5}
	for _, o := range []Options{
		{Temperature: 1},
		{Temperature: 0.5},
		{Temperature: 2, TopK: 3},
		{Temperature: 1, TopP: 0.7},
		{Temperature: 1, MinP: 0.3},
		{Temperature: 1.3, TopK: 5, TopP: 0.9, MinP: 0.2},
	} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			o.Seed = 7
			want := distribution(logits, o)
			s, n := New(o), 200_000
			var got [8]int
			for range n {
				got[s.Next(logits, nil)]++
			}
			var chi2, df float64
			for i, p := range want {
				if p == 0 {
					if got[i] > 0 {
						t.Errorf("token %d was drawn, has probability 0", i)
					}
					continue
				}
				d := float64(got[i]) - p*float64(n)
				if p*float64(n) > 1 {
					chi2 += d * d / (p * float64(n))
					df++
				}
			}
			if chi2 > df+12*math.Sqrt(2*df) {
				t.Errorf("χ² = %.1f over %.0f cells; want %v, got %v", chi2, df, want, got)
			}
		})
	}
}

// distribution is steps 5–9 written for reading, with a full sort.
func distribution(logits []float32, o Options) []float64 {
	ids := make([]int, len(logits))
	for i := range ids {
		ids[i] = i
	}
	sort.SliceStable(ids, func(a, b int) bool { return logits[ids[a]] > logits[ids[b]] })
	if o.TopK > 0 && o.TopK < len(ids) {
		ids = ids[:o.TopK]
	}
	p := make([]float64, len(logits))
	normalise := func() {
		var sum float64
		for _, i := range ids {
			sum += p[i]
		}
		for i := range p {
			if slices.Contains(ids, i) {
				p[i] /= sum
			} else {
				p[i] = 0
			}
		}
	}
	for _, i := range ids {
		p[i] = math.Exp(float64(logits[i]) / float64(o.Temperature))
	}
	normalise()
	if o.TopP > 0 && o.TopP < 1 {
		var sum float64
		for n, i := range ids {
			if sum += p[i]; sum >= float64(o.TopP) {
				ids = ids[:n+1]
				break
			}
		}
		normalise()
	}
	if o.MinP > 0 {
		var kept []int
		for _, i := range ids {
			if p[i] >= float64(o.MinP)*p[ids[0]] {
				kept = append(kept, i)
			}
		}
		ids = kept
		normalise()
	}
	return p
}

// Every draw has a probability above 0 by the definition, whatever the logits and options; the same
// seed draws the same; and NextTop agrees with Next wherever TopNeeded promises it.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 100).Draw(t, "V")
		logits := rapid.SliceOfN(rapid.Float32Range(-20, 20), n, n).Draw(t, "logits")
		if rapid.Bool().Draw(t, "ties") {
			for i := range logits {
				logits[i] = float32(math.Round(float64(logits[i]) / 10))
			}
		}
		o := Options{
			Temperature: rapid.Float32Range(0, 3).Draw(t, "T"),
			TopK:        rapid.IntRange(0, 2*n).Draw(t, "k"),
			TopP:        rapid.Float32Range(0, 1).Draw(t, "p"),
			MinP:        rapid.Float32Range(0, 1).Draw(t, "minp"),
			Seed:        rapid.Uint64().Draw(t, "seed"),
		}
		if o.Temperature < 0.01 {
			o.Temperature = 0
		}
		a, b := New(o), New(o)
		k := min(a.TopNeeded(), n)
		top := Logprobs(nil, logits, 0, k)
		ids, best := make([]int32, k), make([]float32, k)
		for i, x := range top {
			ids[i], best[i] = x.ID, float32(x.Logprob)
		}
		c := New(o)
		for range 20 {
			x := a.Next(logits, nil)
			if y := b.Next(logits, nil); x != y {
				t.Fatalf("seed %d drew %d and %d", o.Seed, x, y)
			}
			if k > 0 {
				if y := c.NextTop(ids, best); x != y {
					t.Fatalf("Next %d, NextTop %d", x, y)
				}
			}
			if o.Temperature == 0 {
				continue
			}
			// Only sets whose edge is clear of rounding can be compared exactly.
			if p := distribution(logits, o); p[x] == 0 && (o.TopP == 0 || o.TopP == 1) && o.MinP == 0 {
				t.Fatalf("drew %d, which has probability 0", x)
			}
		}
	})
}

// With penalties and biases that only lower, TopNeededAfter logits decide what all of them do.
func TestTopAfterHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "V")
		id := rapid.Int32Range(0, int32(n-1))
		history := rapid.SliceOfN(id, 0, 12).Draw(t, "history")
		o := Options{
			Temperature: float32(rapid.IntRange(0, 2).Draw(t, "T")), TopK: rapid.IntRange(1, 9).Draw(t, "k"), Seed: 1,
			RepetitionPenalty: float32(rapid.IntRange(10, 14).Draw(t, "rp")) / 10, RepeatLastN: rapid.IntRange(0, 6).Draw(t, "last"),
			FrequencyPenalty: float32(rapid.IntRange(0, 2).Draw(t, "fp")) / 2, PresencePenalty: float32(rapid.IntRange(0, 2).Draw(t, "pp")) / 2,
			LogitBias: map[int32]float32{id.Draw(t, "biased"): -1.5},
		}
		a, b := New(o), New(o)
		for range 8 {
			logits := make([]float32, n)
			for i := range logits {
				logits[i] = float32(rapid.IntRange(-6, 6).Draw(t, "logit")) / 2
			}
			k := min(b.TopNeededAfter(history), n)
			top := Logprobs(nil, logits, 0, k)
			ids, best := make([]int32, k), make([]float32, k)
			for i, x := range top {
				ids[i], best[i] = x.ID, float32(x.Logprob)
			}
			x, y := a.Next(logits, history), b.NextTopAfter(ids, best, history)
			if x != y {
				t.Fatalf("all logits give %d, the %d largest %d", x, k, y)
			}
			a.Accept(x)
			b.Accept(x)
			history = append(history, x)
		}
	})
}

func TestValidate(t *testing.T) {
	nan := float32(math.NaN())
	for field, o := range map[string]Options{
		"temperature":        {Temperature: -1},
		"top_k":              {TopK: -1},
		"top_p":              {TopP: 1.5},
		"min_p":              {MinP: nan},
		"repetition_penalty": {RepetitionPenalty: -2},
		"frequency_penalty":  {FrequencyPenalty: 3},
		"presence_penalty":   {PresencePenalty: inf},
		"repeat_last_n":      {RepeatLastN: -1},
		"logit_bias":         {LogitBias: map[int32]float32{7: 1}},
	} {
		var fe *FieldError
		if err := o.Validate(5); !errors.As(err, &fe) || fe.Field != field {
			t.Errorf("%+v: %v, want a FieldError for %s", o, err, field)
		}
	}
	if err := (&Options{}).Validate(5); err != nil {
		t.Error(err)
	}
}

func TestLogprobs(t *testing.T) {
	logits := []float32{0, 2, 2, -inf, 1}
	lse := LogSumExp(logits)
	var sum float64
	got := Logprobs(nil, logits, lse, 10)
	var ids []int32
	for _, x := range got {
		sum += math.Exp(x.Logprob)
		ids = append(ids, x.ID)
	}
	if !slices.Equal(ids, []int32{1, 2, 4, 0}) || math.Abs(sum-1) > 1e-12 {
		t.Errorf("order %v, sum %g", ids, sum)
	}
	// What the greedy token scores is exactly the best of the top, by the same arithmetic.
	if top := Logprobs(nil, logits, lse, 1); top[0].Logprob != float64(logits[1])-lse {
		t.Error("the best logprob differs from logit − lse")
	}
	if got := LogSumExp([]float32{-inf}); !math.IsInf(got, -1) {
		t.Errorf("LogSumExp of nothing = %g", got)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 32_000)
	for i := range logits {
		logits[i] = float32(rng.NormFloat64())
	}
	all := make(bitset, 500)
	for i := range all {
		all[i] = math.MaxUint64
	}
	for name, o := range map[string]Options{
		"greedy":  {},
		"plain":   {Temperature: 1},
		"filters": {Temperature: 1, TopK: 50, TopP: 0.9, MinP: 0.05},
		"all": {
			Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.1, FrequencyPenalty: 0.1, RepeatLastN: 64,
			LogitBias: map[int32]float32{3: 1}, Mask: all,
		},
	} {
		s, history := New(o), make([]int32, 0, 4096)
		step := func() {
			id := s.Next(logits, history)
			s.Accept(id)
			history = append(history, id)
		}
		for range 200 {
			step()
		}
		if n := testing.AllocsPerRun(50, step); n != 0 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 128_256)
	for i := range logits {
		logits[i] = float32(3 * rng.NormFloat64())
	}
	for name, o := range map[string]Options{
		"greedy":        {},
		"plain":         {Temperature: 1},
		"top-p=0.9":     {Temperature: 0.8, TopP: 0.9},
		"top-k=40":      {Temperature: 0.8, TopK: 40},
		"k40,p0.9,m.05": {Temperature: 0.8, TopK: 40, TopP: 0.9, MinP: 0.05},
	} {
		b.Run(name, func(b *testing.B) {
			s := New(o)
			for b.Loop() {
				s.Next(logits, nil)
			}
		})
	}
}

func ExampleSampler_Next() {
	s := New(Options{Temperature: 0.8, TopK: 40, TopP: 0.95, Seed: 1})
	logits := []float32{0.1, 5, 0.3} // from an engine
	var history []int32
	for range 3 {
		id := s.Next(logits, history)
		s.Accept(id)
		history = append(history, id)
	}
	fmt.Println(history)
	// Output: [1 1 1]
}
