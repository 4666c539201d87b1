package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// exactFMA is a·b+c in enough bits, rounded once.
func exactFMA(a, b, c float32) float32 {
	const prec = 1000 // exact: exponents span less than 600
	x := new(big.Float).SetPrec(prec).SetFloat64(float64(a))
	x.Mul(x, new(big.Float).SetPrec(prec).SetFloat64(float64(b)))
	x.Add(x, new(big.Float).SetPrec(prec).SetFloat64(float64(c)))
	f, _ := x.Float32()
	return f
}

func TestFMA32RoundsOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func() float32 {
		for {
			var f float32
			switch rng.IntN(4) {
			case 0:
				f = math.Float32frombits(rng.Uint32())
			case 1: // few bits, so that ties and cancellation happen
				f = float32(math.Ldexp(float64(rng.IntN(1<<12)-1<<11), rng.IntN(40)-20))
			case 2: // subnormal
				f = math.Float32frombits(rng.Uint32() & 0x807fffff)
			default:
				f = float32(rng.NormFloat64())
			}
			if f == f && !math.IsInf(float64(f), 0) {
				return f
			}
		}
	}
	for range 200_000 {
		a, b, c := pick(), pick(), pick()
		if rng.IntN(4) == 0 { // near cancellation
			c = -float32(a*b) * float32(1+math.Ldexp(float64(rng.IntN(3)-1), -rng.IntN(26)))
		}
		if c != c || math.IsInf(float64(c), 0) {
			continue
		}
		got, want := fma32(a, b, c), exactFMA(a, b, c)
		if got == 0 && want == 0 {
			continue // big.Float does not have IEEE's signs of an exact 0; see the list below
		}
		if math.Float32bits(got) != math.Float32bits(want) {
			t.Fatalf("fma32(%x, %x, %x) = %x, want %x", a, b, c, got, want)
		}
	}
	inf := float32(math.Inf(1))
	zero := float32(0)
	minus := float32(math.Copysign(0, -1))
	tiny := math.Float32frombits(1)
	for _, c := range []struct{ a, b, c, want float32 }{
		{zero, 1, minus, zero},
		{minus, 1, minus, minus},
		{minus, 1, zero, zero},
		{1, 1, -1, zero},
		{tiny, -tiny, zero, minus},
		{tiny, tiny, zero, zero},
		{inf, 1, 1, inf},
		{1e38, 1e38, -inf, -inf},
		{1e38, 1e38, -1e38, inf},
		{math.MaxFloat32, 1, 1e31, math.MaxFloat32},
	} {
		if got := fma32(c.a, c.b, c.c); math.Float32bits(got) != math.Float32bits(c.want) {
			t.Errorf("fma32(%v, %v, %v) = %v, want %v", c.a, c.b, c.c, got, c.want)
		}
	}
	for _, c := range [][3]float32{{inf, 0, 1}, {inf, 1, -inf}, {float32(math.NaN()), 0, 0}, {0, 0, float32(math.NaN())}} {
		if got := fma32(c[0], c[1], c[2]); got == got {
			t.Errorf("fma32(%v) = %v, want NaN", c, got)
		}
	}
}

func TestHalfRoundTrips(t *testing.T) {
	for h := range 1 << 16 {
		h := uint16(h)
		if f := F16(h); f == f && ToF16(f) != h {
			t.Fatalf("ToF16(F16(%#x)) = %#x", h, ToF16(f))
		} else if f != f && F16(ToF16(f)) == F16(ToF16(f)) {
			t.Fatalf("binary16 NaN %#x does not stay NaN", h)
		}
		if f := BF16(h); f == f && ToBF16(f) != h {
			t.Fatalf("ToBF16(BF16(%#x)) = %#x", h, ToBF16(f))
		} else if f != f && BF16(ToBF16(f)) == BF16(ToBF16(f)) {
			t.Fatalf("bfloat16 NaN %#x does not stay NaN", h)
		}
	}
	if F16(0x0001) != 0x1p-24 || F16(0x3c00) != 1 || F16(0x7bff) != 65504 || F16(0xc000) != -2 {
		t.Error("F16 of 0x0001, 0x3c00, 0x7bff, 0xc000")
	}
	// Rounding: every midpoint between neighbours goes to the even one, and its neighbours away from it.
	for h := uint16(0); h < 0x7bff; h++ {
		mid := (F16(h) + F16(h+1)) / 2
		even := h + h&1
		if got := ToF16(mid); got != even {
			t.Fatalf("ToF16(%v) = %#x, want %#x", mid, got, even)
		}
		if ToF16(math.Nextafter32(mid, 0)) != h || ToF16(math.Nextafter32(mid, 1e6)) != h+1 {
			t.Fatalf("ToF16 beside %v", mid)
		}
	}
	for h := uint16(0); h < 0x7f7f; h++ {
		mid := math.Float32frombits(uint32(h)<<16 | 0x8000)
		if got := ToBF16(mid); got != h+h&1 {
			t.Fatalf("ToBF16(%v) = %#x, want %#x", mid, got, h+h&1)
		}
	}
	if ToF16(65520) != 0x7c00 || ToF16(math.Nextafter32(65520, 0)) != 0x7bff || ToF16(-1e9) != 0xfc00 {
		t.Error("ToF16 at the top of the range")
	}
}

func TestExpIsWithinOneUlp(t *testing.T) {
	worst := 0.0
	check := func(x float32) {
		want := math.Exp(float64(x))
		got := Exp(x)
		if want < 0x1p-125 || want > math.MaxFloat32 {
			return
		}
		ulp := float64(math.Nextafter32(float32(want), 2*float32(want))) - float64(float32(want))
		if d := math.Abs(float64(got)-want) / ulp; d > worst {
			worst = d
			if d > 1 {
				t.Fatalf("Exp(%v) = %v, want %v: %.2f ulp", x, got, want, d)
			}
		}
	}
	for u := uint32(0); u < 0x42b20000; u += 997 {
		check(math.Float32frombits(u))
		check(-math.Float32frombits(u))
	}
	t.Logf("worst error %.3f ulp", worst)
	inf := float32(math.Inf(1))
	for _, c := range [][2]float32{{0, 1}, {inf, inf}, {-inf, 0}, {100, inf}, {-100, 0}, {88.7, 3.326e38}} {
		if got := Exp(c[0]); got != c[1] && math.Abs(float64(got/c[1]-1)) > 1e-4 {
			t.Errorf("Exp(%v) = %v, want %v", c[0], got, c[1])
		}
	}
	if got := Exp(float32(math.NaN())); got == got {
		t.Errorf("Exp(NaN) = %v", got)
	}
}
