//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

var long = flag.Bool("long", false, "run the tests that take minutes")

// t16 lays codes [rows, cols] out as layout T16, straight from its definition.
func t16(codes []int8, rows, cols int) []byte {
	tiles, steps := (rows+15)/16, (cols+15)/16
	out := make([]byte, tiles*steps*64)
	for r := range 16 * tiles {
		for c := range 16 * steps {
			code := byte(1)
			if r < rows && c < cols {
				code = byte(codes[r*cols+c] + 1)
			}
			out[(r/16*steps+c/16)*64+4*(r%16)+c%4] |= code << (2 * (c % 16 / 4))
		}
	}
	return out
}

func ternaryCodes(rng *rand.Rand, n int) []int8 {
	w := make([]int8, n)
	for i := range w {
		w[i] = int8(rng.IntN(3) - 1)
	}
	return w
}

func activations(rng *rand.Rand, n int) []int8 {
	x := make([]int8, n)
	for i := range x {
		x[i] = int8(rng.IntN(255) - 127)
	}
	return x
}

// product is the definition: y[t][r] = Σ w[r][k]·x[t][k].
func product(w, x []int8, rows, cols, tokens int) []int32 {
	y := make([]int32, tokens*rows)
	for t := range tokens {
		xt := x[t*cols:][:cols]
		for r := range rows {
			var s int32
			for k, v := range w[r*cols:][:cols] {
				s += int32(v) * int32(xt[k])
			}
			y[t*rows+r] = s
		}
	}
	return y
}

func rowsOf(w []int8, cols int) func([]int8, int) {
	return func(dst []int8, r int) { copy(dst, w[r*cols:]) }
}

// openSim opens a device whose every broken rule fails the test.
func openSim(t *testing.T, s *ttsim.Sim, g chip.Grid) *Device {
	t.Helper()
	d, err := Open(s, Options{Grid: g, Check: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func differ(t *testing.T, what string, got, want []int32) {
	t.Helper()
	bad := 0
	for i := range want {
		if got[i] != want[i] {
			if bad < 3 {
				t.Errorf("%s: output %d is %d, want %d", what, i, got[i], want[i])
			}
			bad++
		}
	}
	if bad > 0 {
		t.Fatalf("%s: %d of %d outputs wrong", what, bad, len(want))
	}
}

// Every shape the firmware knows: both kinds, all three row counts, odd sizes, several matrices in one job, more
// chunks than tiles and fewer.
func TestProductsOnTheSimulator(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		d := openSim(t, s, chip.Grid{Columns: 3, Rows: 2})
		rng := rand.New(rand.NewPCG(3, 4))
		ctx := context.Background()
		for _, c := range []struct {
			rows []int
			cols int
		}{{[]int{32}, 128}, {[]int{5}, 16}, {[]int{100, 33, 40}, 200}, {[]int{640, 96}, 640}, {[]int{64}, 8640}} {
			var ms []*Matrix
			var codes [][]int8
			for _, r := range c.rows {
				w := ternaryCodes(rng, r*c.cols)
				codes = append(codes, w)
				m, err := d.LoadTernary("test", t16(w, r, c.cols), r, c.cols)
				if err != nil {
					t.Fatal(err)
				}
				ms = append(ms, m)
			}
			w8 := activations(rng, c.rows[0]*c.cols)
			m8, err := d.LoadInt8("head", c.rows[0], c.cols, rowsOf(w8, c.cols))
			if err != nil {
				t.Fatal(err)
			}
			for _, tokens := range []int{1, 2, 8, 9, 32, 33} {
				x := activations(rng, tokens*c.cols)
				var ps []Product
				for i, r := range c.rows {
					ps = append(ps, Product{M: ms[i], Y: make([]int32, tokens*r)})
				}
				if err := d.MatMul(ctx, x, tokens, c.cols, ps...); err != nil {
					t.Fatal(err)
				}
				for i, r := range c.rows {
					differ(t, "ternary", ps[i].Y, product(codes[i], x, r, c.cols, tokens))
				}
				y8 := make([]int32, tokens*c.rows[0])
				if err := d.MatMul(ctx, x, tokens, c.cols, Product{M: m8, Y: y8}); err != nil {
					t.Fatal(err)
				}
				differ(t, "int8", y8, product(w8, x, c.rows[0], c.cols, tokens))
			}
		}
		t.Logf("%+v, %d clocks", d.Stats(), s.Clocks)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// adversary fills x with one of nine operand patterns that try to make the floating-point accumulation inexact.
func adversary(rng *rand.Rand, x []int8, pattern int) {
	n := len(x)
	sign := func() int { return 1 - 2*rng.IntN(2) }
	for k := range x {
		v := 0
		switch pattern {
		case 0:
			v = rng.IntN(255) - 127
		case 1: // powers of two
			v = 1 << rng.IntN(7) * sign()
		case 2: // ones with rare giants
			v = sign()
			if rng.IntN(16) == 0 {
				v *= 127
			}
		case 3: // climb to the largest sum, then single steps
			v = 127
			if k > n/2 {
				v = 1
			}
		case 4: // climb, cancel exactly, then crumbs
			v = 127
			if k > n/3 {
				v = -127
			}
			if k > 2*n/3 {
				v = rng.IntN(3) - 1
			}
		case 5: // sparse
			if rng.IntN(50) == 0 {
				v = rng.IntN(255) - 127
			}
		case 6: // all bits set
			v = (1<<rng.IntN(8) - 1) * sign()
		case 7: // one giant in each group of eight
			v = rng.IntN(3) - 1
			if k%8 == 0 {
				v = 127 - 2*rng.IntN(2)
			}
		case 8: // both ends of int8
			v = []int{-128, 127, -127, 1, 0}[rng.IntN(5)]
		}
		x[k] = int8(v)
	}
}

// Dot products of the longest row that 2B4T has; with -long more than 100,000 of them.
func TestAdversarialDotProductsAreExact(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		const cols = 6912
		rows, rounds := 64, 2
		if *long {
			rows, rounds = 384, 9
		}
		d := openSim(t, s, chip.Grid{Columns: 4, Rows: 1})
		rng := rand.New(rand.NewPCG(5, 6))
		n, largest := 0, int32(0)
		for round := range rounds {
			d.Reset()
			w := ternaryCodes(rng, rows*cols)
			for k := range cols { // two rows that make the accumulators grow in one direction
				w[k], w[cols+k] = 1, -1
			}
			m, err := d.LoadTernary("adversary", t16(w, rows, cols), rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			x := make([]int8, 32*cols)
			for r := range 32 {
				adversary(rng, x[r*cols:][:cols], (r+round)%9)
			}
			y := make([]int32, 32*rows)
			if err := d.MatMul(context.Background(), x, 32, cols, Product{M: m, Y: y}); err != nil {
				t.Fatal(err)
			}
			differ(t, "adversary", y, product(w, x, rows, cols, 32))
			n += len(y)
			for _, v := range y {
				largest = max(largest, v, -v)
			}
		}
		t.Logf("%d dot products of length %d in 9 operand patterns, all exact; largest sum %d", n, cols, largest)
	})
}

// The int8 head's extremes, where sums pass 2^24 and only the integer mode is exact.
func TestInt8ExtremesAreExact(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		const rows, cols = 64, 2560
		d := openSim(t, s, chip.Grid{Columns: 2, Rows: 1})
		rng := rand.New(rand.NewPCG(7, 8))
		w := activations(rng, rows*cols)
		for k := range cols {
			w[k], w[cols+k] = 127, -127
		}
		m, err := d.LoadInt8("extremes", rows, cols, rowsOf(w, cols))
		if err != nil {
			t.Fatal(err)
		}
		for _, tokens := range []int{1, 8, 32} {
			x := make([]int8, tokens*cols)
			for r := range tokens {
				adversary(rng, x[r*cols:][:cols], (r+3)%8)
			}
			y := make([]int32, tokens*rows)
			if err := d.MatMul(context.Background(), x, tokens, cols, Product{M: m, Y: y}); err != nil {
				t.Fatal(err)
			}
			differ(t, "int8", y, product(w, x, rows, cols, tokens))
			t.Logf("%d tokens: %d products exact, first row %d", tokens, len(y), y[0])
		}
		if err := d.MatMul(context.Background(), append(make([]int8, cols-1), -128), 1, cols, Product{M: m, Y: make([]int32, rows)}); err == nil {
			t.Error("-128 has no sign-and-magnitude byte and was accepted")
		}
	})
}

// One flipped weight in GDDR changes exactly one output, by exactly the right amount. Nothing but the card's own
// memory is touched, so this also fails if products were quietly computed by the host.
func TestOneFlippedWeightMovesOneOutput(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		const rows, cols, n0, k0 = 512, 2560, 333, 777
		d := openSim(t, s, chip.Grid{Columns: 4, Rows: 2})
		rng := rand.New(rand.NewPCG(9, 10))
		w, x := ternaryCodes(rng, rows*cols), activations(rng, cols)
		w[n0*cols+k0], x[k0] = -1, 93
		m, err := d.LoadTernary("mutation", t16(w, rows, cols), rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		before, after := make([]int32, rows), make([]int32, rows)
		if err := d.MatMul(context.Background(), x, 1, cols, Product{M: m, Y: before}); err != nil {
			t.Fatal(err)
		}
		differ(t, "before", before, product(w, x, rows, cols, 1))
		// byte of the weight in its chunk: see kernels.PackTernary
		bank, at := d.place(&m.segs[0], n0/32)
		i := k0/32*1024 + k0%32/16*512 + n0%32/16*256 + k0%16*16 + n0%16
		var word [4]byte
		wordAt := at + uint64(i/4)&^3
		if err := d.c.ReadBank(bank, wordAt, word[:]); err != nil {
			t.Fatal(err)
		}
		field := &word[i/4%4]
		if got := *field >> (2 * (i % 4)) & 3; got != 0b11 {
			t.Fatalf("the weight in GDDR is %02b, want 11", got)
		}
		*field ^= 0b10 << (2 * (i % 4)) // -1 becomes +1
		if err := d.c.WriteBank(bank, wordAt, word[:]); err != nil {
			t.Fatal(err)
		}
		if err := d.MatMul(context.Background(), x, 1, cols, Product{M: m, Y: after}); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for n := range before {
			if before[n] == after[n] {
				continue
			}
			moved++
			if n != n0 || after[n]-before[n] != 2*93 {
				t.Errorf("output %d moved by %d", n, after[n]-before[n])
			}
		}
		if moved != 1 {
			t.Errorf("%d outputs moved", moved)
		}
		t.Logf("GDDR bank %d, byte %#x: output %d moved by %d and no other of %d", bank, at+uint64(i/4), n0, after[n0]-before[n0], rows)
	})
}

// A tile that hangs is named, with what it was doing, and the device refuses to go on.
func TestHungTileIsNamed(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		d, err := Open(s, Options{Grid: chip.Grid{Columns: 2, Rows: 2}, Clocks: 20000})
		if err != nil {
			t.Fatal(err)
		}
		w := make([]int8, 256*256)
		m, err := d.LoadTernary("blk.0.qkv", t16(w, 256, 256), 256, 256)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.c.Write32(d.tiles[2], 0xFFB121B0, uint32(chip.TRISC1)); err != nil { // the matrix core stops
			t.Fatal(err)
		}
		err = d.MatMul(context.Background(), make([]int8, 256), 1, 256, Product{M: m, Y: make([]int32, 256)})
		t.Log(err)
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "math (TRISC1) is still at job 1") || !strings.Contains(err.Error(), "blk.0.qkv") {
			t.Errorf("got %v", err)
		}
		if err2 := d.MatMul(context.Background(), make([]int8, 256), 1, 256, Product{M: m, Y: make([]int32, 256)}); err2 != err {
			t.Errorf("a broken device went on: %v", err2)
		}
	})
}

// Fifty reloads and a batch that grows and shrinks: right answers, the same memory, no goroutine left.
func TestReloadFiftyTimes(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		rng := rand.New(rand.NewPCG(11, 12))
		var first uint64
		goroutines := runtime.NumGoroutine()
		for i := range 50 {
			d := openSim(t, s, chip.Grid{Columns: 1 + i%3, Rows: 1 + i%2})
			rows, cols := 40+i, 100+3*i
			w := ternaryCodes(rng, rows*cols)
			m, err := d.LoadTernary("reload", t16(w, rows, cols), rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = m.segs[0].base
			}
			if m.segs[0].base != first {
				t.Fatalf("reload %d: weights at %#x, the first time at %#x", i, m.segs[0].base, first)
			}
			for _, tokens := range []int{1, 3, 20, 5, 1} {
				x := activations(rng, tokens*cols)
				y := make([]int32, tokens*rows)
				if err := d.MatMul(context.Background(), x, tokens, cols, Product{M: m, Y: y}); err != nil {
					t.Fatal(err)
				}
				differ(t, "reload", y, product(w, x, rows, cols, tokens))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := d.MatMul(context.Background(), make([]int8, cols), 1, cols, Product{M: m, Y: make([]int32, rows)}); !errors.Is(err, errClosed) {
				t.Fatalf("a closed device answered %v", err)
			}
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
	})
}

// Two processes with a simulator each, at the same time.
func TestTwoSimulatorsAtOnce(t *testing.T) {
	if os.Getenv(ttsim.Env) == "" {
		t.Skipf("SKIPPED: no simulator: set %s", ttsim.Env)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if out, err := simtest.Child(t, "TestProductsOnTheSimulator"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
}

// Cancelling ends a call between two jobs, and the next call is right.
func TestCancelBetweenJobs(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		d := openSim(t, s, chip.Grid{Columns: 2, Rows: 1})
		rng := rand.New(rand.NewPCG(13, 14))
		const rows, cols = 64, 128
		w := ternaryCodes(rng, rows*cols)
		m, err := d.LoadTernary("cancel", t16(w, rows, cols), rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			ctx, cancel := context.WithCancel(context.Background())
			tokens := 32 * 3
			x, y := activations(rng, tokens*cols), make([]int32, tokens*rows)
			if i%2 == 0 {
				cancel()
				if err := d.MatMul(ctx, x, tokens, cols, Product{M: m, Y: y}); !errors.Is(err, context.Canceled) {
					t.Fatalf("got %v", err)
				}
				continue
			}
			if err := d.MatMul(ctx, x, tokens, cols, Product{M: m, Y: y}); err != nil {
				t.Fatal(err)
			}
			cancel()
			differ(t, "after cancel", y, product(w, x, rows, cols, tokens))
		}
	})
}
