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
	orderScores, orderWeights, orderMix    = 0, 1, 2
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

// mix is one order: the sums of p[j]·inv times v[j], [len(p), 32].
func (u *vectorUnit) mix(p []float32, inv float32, v []float32, begin bool) []float32 {
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
	u.ask(orderMix, blockAt, weightsAt, uint32(len(p)), math.Float32bits(inv), resultsAt, first)
	got := u.read(resultsAt, 64)
	out := make([]float32, 32)
	for l := range out {
		out[l] = got[spread(l)]
	}
	return out
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
			kernel.AttnMix(want, p, v)
			got := u.mix(p, 1, v, true)
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

// Scores, weights and sums over values are those of internal/kernel, to the last bit.
func TestVectorAttentionIsTheKernels(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		u := newVectorUnit(t, s)
		rng := rand.New(rand.NewPCG(43, 44))
		for _, cols := range []int{32, 64, 128} {
			const pairs = 17 // more than the unpacker takes at a time
			const n = 64*pairs - 21
			q, k, v := make([]float32, cols), make([]float32, n*cols), make([]float32, n*32)
			for _, x := range [][]float32{q, k, v} {
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
			}
			scale := float32(1 / math.Sqrt(float64(cols)))
			want := make([]float32, n)
			kernel.AttnScores(want, q, k, scale)
			u.write(queryAt, q)
			got := make([]float32, 64*pairs)
			at := func(j int) int { return j/64*64 + spread(j%32) + j/32%2 }
			for b := range 2 * pairs {
				block := make([]float32, 32*cols)
				for j := range min(32, n-32*b) {
					for c := range cols {
						block[c/2*64+spread(j)+c%2] = k[(32*b+j)*cols+c]
					}
				}
				u.write(blockAt, block)
				u.ask(orderScores, queryAt, blockAt, uint32(cols), math.Float32bits(scale), resultsAt)
				found := u.read(resultsAt, 64)
				for l := range 32 {
					got[at(32*b+l)] = found[spread(l)]
				}
			}
			for j, w := range want {
				if math.Float32bits(got[at(j)]) != math.Float32bits(w) {
					t.Fatalf("%d columns: score %d is %g, want %g", cols, j, got[at(j)], w)
				}
			}
			// weights: far-off ones too, and what is behind the last token counts nothing
			for j := range want {
				if j%7 == 0 {
					want[j] -= 120 * rng.Float32()
				}
			}
			for j := range got {
				got[j] = -3e38
			}
			for j, w := range want {
				got[at(j)] = w
			}
			u.write(weightsAt, got)
			largest := kernel.Max(want)
			u.ask(orderWeights, weightsAt, pairs, math.Float32bits(largest), 0, resultsAt)
			sum := kernel.SoftmaxExp(want, largest)
			got = u.read(weightsAt, 64*pairs)
			tiny := 0
			for j, w := range want {
				g := got[at(j)]
				if w < 0x1p-125 && g == 0 {
					tiny++
					continue
				}
				if math.Float32bits(g) != math.Float32bits(w) {
					t.Fatalf("weight %d is %g, want %g", j, g, w)
				}
			}
			lanes, found := [32]float32{}, u.read(resultsAt, 64)
			for l := range lanes {
				lanes[l] = found[spread(l)]
			}
			for half := 16; half > 0; half /= 2 {
				for i := range half {
					lanes[i] += lanes[i+half]
				}
			}
			if lanes[0] != sum {
				t.Fatalf("the weights' sum is %g, want %g", lanes[0], sum)
			}
			kernel.Scale(want, 1/sum)
			out := make([]float32, 32)
			kernel.AttnMix(out, want, v)
			var mixed []float32
			e := make([]float32, n)
			for j := range e {
				e[j] = got[at(j)]
			}
			for b := 0; b < n; b += 32 {
				m := min(32, n-b)
				mixed = u.mix(e[b:][:m], 1/sum, v[b*32:][:m*32], b == 0)
			}
			sameBits(t, "column", mixed, out)
			t.Logf("%3d columns: %d scores, weights (%d of them below 2^-125) and 32 sums bit-equal", cols, n, tiny)
		}
	})
}
