//go:build linux && (amd64 || arm64)

package tensix

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/internal/kernel"
)

// vectorUnit gives a tile's matrix core orders, in the place of the tile's sender, which is held in reset.
type vectorUnit struct {
	t *testing.T
	d *Device
	n uint32
}

// As in firmware/src/job.h.
const (
	orderAt, askedAt, answeredAt           = 0x17F40, 0x17F20, 0x17F30
	orderScores, orderWeights              = 0, 1
	orderMix, orderJoin                    = 2, 3
	joinFirst, joinSmaller, joinLarger     = 0, 1, 2
	blockAt, queryAt, weightsAt, resultsAt = 0x40000, 0x60000, 0x70000, 0x90000
)

func newVectorUnit(t *testing.T, s *ttsim.Sim) *vectorUnit {
	d := openSim(t, s, chip.Grid{Columns: 1, Rows: 1})
	u := &vectorUnit{t: t, d: d}
	tile := d.tiles[0]
	j, err := kernels.Plan(kernels.Ternary, 1, 128)
	if err != nil {
		t.Fatal(err)
	}
	j.Then = kernels.ThenAttend
	for _, err := range []error{
		d.c.Write32(tile, 0xFFB121B0, uint32(chip.NCRISC)),
		d.c.Write(tile, kernels.StagesAt, kernels.Words(&j)),
		d.c.Write(tile, kernels.BellAt+4, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, kernels.StagesAt), kernels.PartsAt)),
		d.c.Write32(tile, kernels.BellAt, 1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *vectorUnit) write(at int, v []float32) {
	u.t.Helper()
	if err := u.d.c.Write(u.d.tiles[0], uint64(at), floats(v)); err != nil {
		u.t.Fatal(err)
	}
}

func (u *vectorUnit) read(at, n int) []float32 {
	u.t.Helper()
	b := make([]byte, 4*n)
	if err := u.d.c.Read(u.d.tiles[0], uint64(at), b); err != nil {
		u.t.Fatal(err)
	}
	v := make([]float32, n)
	for i, w := range words(b) {
		v[i] = math.Float32frombits(w)
	}
	return v
}

func (u *vectorUnit) ask(words ...uint32) {
	u.t.Helper()
	c, tile := u.d.c, u.d.tiles[0]
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	u.n++
	if err := c.Write(tile, orderAt, b); err != nil {
		u.t.Fatal(err)
	}
	if err := c.Write32(tile, askedAt, u.n); err != nil {
		u.t.Fatal(err)
	}
	for limit := u.d.limit(1); ; {
		if v, err := c.Read32(tile, answeredAt); err != nil || v == u.n {
			return
		}
		if !limit() {
			u.t.Fatal("the matrix core does not answer")
		}
	}
}

func spread(i int) int { return i/8*16 + i%8*2 }

// mix is one order: the sums of p[j] times v[j], [len(p), 32], are added to those of the orders before.
func (u *vectorUnit) mix(p, v []float32, begin bool) {
	block, weights := make([]float32, 1024), make([]float32, 64)
	for j := range p {
		weights[spread(j)] = p[j]
		for l := range 32 {
			block[j/2*64+spread(l)+j%2] = v[j*32+l]
		}
	}
	u.write(blockAt, block)
	u.write(weightsAt, weights)
	first := uint32(0)
	if begin {
		first = 1
	}
	u.ask(orderMix, blockAt, weightsAt, uint32(len(p)), first)
}

// join is one order: what was mixed, and the sum of its weights, with what was joined before.
func (u *vectorUnit) join(how uint32, less, sum float32) (o []float32, l float32) {
	u.ask(orderJoin, how, math.Float32bits(less), math.Float32bits(sum), resultsAt)
	got := u.read(resultsAt, 64)
	o = make([]float32, 32)
	for i := range o {
		o[i] = got[spread(i)]
	}
	return o, got[1]
}

// number is a random float32 with exponents from lo to hi.
func number(rng *rand.Rand, lo, hi int) float32 {
	return math.Float32frombits(rng.Uint32()&0x807FFFFF | uint32(127+lo+rng.IntN(hi-lo+1))<<23)
}

// The vector unit's own fused multiply-add is not exact; the one that is made of its steps is, whatever cancels and
// however close to the middle between two floats the result lies.
func TestVectorMultiplyAddIsExact(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		u := newVectorUnit(t, s)
		rng := rand.New(rand.NewPCG(41, 42))
		rounds := 600
		if *long {
			rounds = 6000
		}
		// what each lane adds to its product
		addends := []func(p float64) float32{
			func(p float64) float32 { return number(rng, -30, 30) },
			func(p float64) float32 { return number(rng, -3, 3) * float32(p) },
			func(p float64) float32 { return -float32(p) }, // only the rounding error is left
			func(p float64) float32 { // a few places beside it
				return -math.Float32frombits(math.Float32bits(float32(p)) + uint32(rng.IntN(9)) - 4)
			},
			func(p float64) float32 { return -float32(p) * float32(int(1)<<rng.IntN(28)) },
			func(p float64) float32 { // so large that the product is about half its last place
				return math.Float32frombits(math.Float32bits(float32(math.Ldexp(p, 23+rng.IntN(4)))) & 0xFFFFFFF0)
			},
			func(p float64) float32 { // a power of two: its last place is half as much below
				return -float32(math.Ldexp(1, rng.IntN(30)-3)) * float32(math.Ldexp(1, int(math.Ilogb(p))))
			},
			func(p float64) float32 { return 0 },
		}
		factors := []func() float32{
			func() float32 { return number(rng, -20, 20) },
			func() float32 { return float32(rng.IntN(255) - 127) }, // short ones: exact middles
			func() float32 { return math.Float32frombits(math.Float32bits(number(rng, -3, 3)) & 0xFFFFF000) },
			func() float32 { return math.Float32frombits(math.Float32bits(number(rng, -3, 3)) | 0xFFF) },
			func() float32 { return math.Nextafter32(float32(math.Ldexp(1, rng.IntN(9)-4)), float32(rng.IntN(3)-1)) },
		}
		n := 0
		for round := range rounds {
			a := factors[rng.IntN(len(factors))]()
			p, v, want := []float32{1, a}, make([]float32, 64), make([]float32, 32)
			for l := range 32 {
				b := factors[rng.IntN(len(factors))]()
				c := addends[rng.IntN(len(addends))](float64(a) * float64(b))
				if abs := math.Abs(float64(c)); !(abs > 0x1p-60 && abs < 0x1p60) {
					c = 0
				}
				v[l], v[32+l] = c, b
			}
			kernel.AttnMix(want, p, 2, v, 1, nil)
			u.mix(p, v, true)
			got, _ := u.join(joinFirst, 0, 1)
			for l := range want {
				if math.Float32bits(got[l]) != math.Float32bits(want[l]) {
					t.Fatalf("round %d: %g·%g + %g is %g (%#x), want %g (%#x)", round, a, v[32+l], v[l], got[l], math.Float32bits(got[l]), want[l], math.Float32bits(want[l]))
				}
			}
			n += 32
		}
		t.Logf("%d multiply-adds, all equal to the correctly rounded ones", n)
	})
}

// Scores, weights, sums over values and what joins them are those of internal/kernel, to the last bit.
func TestVectorAttentionIsTheKernels(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		u := newVectorUnit(t, s)
		rng := rand.New(rand.NewPCG(43, 44))
		for _, cols := range []int{32, 64, 128} {
			const n = 5*kernel.SpanTokens - 21
			q, k, v := make([]float32, cols), make([]float32, n*cols), make([]float32, n*cols)
			for _, x := range [][]float32{q, k, v} {
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
			}
			for i := range k { // spans whose largest scores are far apart, and near each other; keys that hardly count
				k[i] *= []float32{1, 6, 6, 0.1, 3}[i/cols/kernel.SpanTokens]
				if i/cols%7 == 0 {
					k[i] *= 4
				}
			}
			scale := float32(1 / math.Sqrt(float64(cols)))
			u.write(queryAt, q)
			at := func(j int) int { return j/64*64 + spread(j%32) + j/32%2 }
			var o []float32
			var most, l float32
			var joins [3]int
			tiny := 0
			for from := 0; from < n; from += kernel.SpanTokens {
				m := min(kernel.SpanTokens, n-from)
				pairs := (m + 63) / 64
				scores, want := make([]float32, 64*pairs), make([]float32, m)
				for i := range scores {
					scores[i] = -3e38
				}
				for b := 0; b < m; b += 32 {
					block, tile, s := make([]float32, 32*cols), make([]float32, 32*cols), make([]float32, 32)
					for j := range min(32, m-b) {
						for c := range cols {
							x := k[(from+b+j)*cols+c]
							block[c/2*64+spread(j)+c%2], tile[c*32+j] = x, x
						}
					}
					u.write(blockAt, block)
					u.ask(orderScores, queryAt, blockAt, uint32(cols), math.Float32bits(scale), resultsAt)
					found := u.read(resultsAt, 64)
					kernel.AttnScores(s, 32, q, tile, 1, scale, nil)
					for j := range min(32, m-b) {
						if scores[at(b+j)], want[b+j] = found[spread(j)], s[j]; math.Float32bits(s[j]) != math.Float32bits(found[spread(j)]) {
							t.Fatalf("%d columns: score %d is %g, want %g", cols, from+b+j, found[spread(j)], s[j])
						}
					}
				}
				u.write(weightsAt, scores)
				largest := kernel.Max(want)
				u.ask(orderWeights, weightsAt, uint32(pairs), math.Float32bits(largest), resultsAt)
				sum := kernel.SoftmaxExp(want, largest)
				e := make([]float32, m)
				for j, g := 0, u.read(weightsAt, 64*pairs); j < m; j++ {
					if e[j] = g[at(j)]; want[j] < 0x1p-125 && e[j] == 0 {
						tiny++
					} else if math.Float32bits(e[j]) != math.Float32bits(want[j]) {
						t.Fatalf("weight %d is %g, want %g", from+j, e[j], want[j])
					}
				}
				lanes, found := [32]float32{}, u.read(resultsAt, 64)
				for i := range lanes {
					lanes[i] = found[spread(i)]
				}
				for half := 16; half > 0; half /= 2 {
					for i := range half {
						lanes[i] += lanes[i+half]
					}
				}
				if lanes[0] != sum {
					t.Fatalf("the weights' sum is %g, want %g", lanes[0], sum)
				}
				for b := 0; b < m; b += 32 {
					values := make([]float32, 0, 1024)
					for j := range min(32, m-b) {
						values = append(values, v[(from+b+j)*cols:][:32]...)
					}
					u.mix(e[b:min(m, b+32)], values, b == 0)
				}
				how, less := uint32(joinFirst), float32(0)
				switch {
				case from == 0:
					most = largest
				case largest > most:
					how, less, most = joinLarger, most-largest, largest
				default:
					how, less = joinSmaller, largest-most
				}
				joins[how]++
				o, l = u.join(how, less, sum)
			}
			want := make([]float32, cols)
			kernel.Attention(want, q, k, v, scale)
			inv := 1 / l
			for i := range o {
				o[i] *= inv
			}
			sameBits(t, "column", o, want[:32])
			if joins[joinSmaller] == 0 || joins[joinLarger] == 0 {
				t.Errorf("joins: %v; want some of each kind", joins)
			}
			t.Logf("%3d columns: %d scores and weights (%d of them below 2^-125), %v joins and 32 sums bit-equal", cols, n, tiny, joins)
		}
	})
}
