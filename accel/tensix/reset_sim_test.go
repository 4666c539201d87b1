//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

// abandon is what a process leaves that dies: tt-kmd's farewell writes hold the RISC-V cores, and nothing else.
func abandon(t *testing.T, d *Device) {
	t.Helper()
	for _, tile := range d.tiles {
		if err := d.c.HoldCores(tile); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.c.Close(); err != nil {
		t.Fatal(err)
	}
}

// A job is killed at many of its moments; whoever opens the card then gets exact results. On the stock simulator our binding
// does what a reset of units does (ttsim/reset.go); the other one models it.
func TestReopenAfterAKilledJob(t *testing.T) { reopen(t, false) }

func TestReopenAfterAKilledJobWithUnitsReset(t *testing.T) {
	if os.Getenv(ttsim.EnvReset) == "" {
		t.Skipf("SKIPPED: no simulator that models resets of units: set %s to one (docs/blackhole.md, section 5)", ttsim.EnvReset)
	}
	reopen(t, true)
}

func reopen(t *testing.T, modelled bool) {
	simtest.RunWith(t, modelled, func(t *testing.T, s *ttsim.Sim) {
		g := chip.Grid{Columns: 1, Rows: 2}
		rng := rand.New(rand.NewPCG(3, 4))
		rows, cols := 1600, 640
		w := ternaryCodes(rng, rows*cols)
		x := activations(rng, 32*cols)
		packed := t16(w, rows, cols)
		load := func(clocks uint64) (*Device, *Matrix) {
			d, err := Open(s, Options{Grid: g, Clocks: clocks})
			if err != nil {
				t.Fatal(err)
			}
			m, err := d.LoadTernary("test", packed, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			return d, m
		}
		check := func(what string) {
			d, m := load(3_000_000)
			for _, n := range []int{1, 8, 32} {
				y := make([]int32, n*rows)
				if err := d.MatMul(context.Background(), x[:n*cols], n, cols, Product{M: m, Y: y}); err != nil {
					t.Fatalf("%s, %d tokens: %v", what, n, err)
				}
				differ(t, what, y, product(w, x[:n*cols], rows, cols, n))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		killed := 0
		for i := range 20 { // products of 32 tokens, and of one
			n := []int{32, 1}[i%2]
			d, m := load(1_000_000)
			d.o.Clocks = uint64(50 + 75*(i/2))
			err := d.MatMul(context.Background(), x[:n*cols], n, cols, Product{M: m, Y: make([]int32, n*rows)})
			if err != nil && !errors.Is(err, ErrTimeout) {
				t.Fatal(err)
			}
			if err != nil {
				killed++
			}
			abandon(t, d)
			check("after a kill")
		}
		if killed < 20 {
			t.Errorf("only %d of 20 jobs were killed before their end", killed)
		}
		t.Logf("products: %d of 20 jobs killed in their midst, all exact afterwards", killed)
	})
}

// The same for whole tokens: the vector unit, the packer and Dst are in the matrix core's hands then.
func TestReopenAfterAKilledToken(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		killed := 0
		for i := range 20 {
			p := newPair(t, s, synthShape{128, 256, 4, 2, 1, 256}, chip.Grid{Columns: 2, Rows: 1})
			run := func(q *sequence, n int) ([]float32, error) {
				h := make([]float32, n*p.cfg.HiddenSize)
				return h, q.pass(tokens(1, n, p.cfg.VocabSize), h)
			}
			want, err := run(newSequence(t, p.cpu), 9)
			if err != nil {
				t.Fatal(err)
			}
			{
				got, err := run(newSequence(t, p.tiles), 9)
				if err != nil {
					t.Fatal(err)
				}
				sameBits(t, "hidden after a kill", got, want)
			}
			p.d.o.Clocks = uint64(500 + 1900*i)
			if _, err := run(newSequence(t, p.tiles), 9); err != nil {
				killed++
			}
			abandon(t, p.d)
		}
		if killed < 15 {
			t.Errorf("only %d of 20 tokens were killed before their end", killed)
		}
		t.Logf("%d of 20 tokens killed in their midst", killed)
	})
}

// sw is RISC-V code of BRISC's: *(u32 *)addr = v.
func sw(addr, v uint32) []uint32 {
	li := func(rd, v uint32) []uint32 {
		lo, hi := v<<20>>20, v
		if lo&0x800 != 0 {
			hi += 0x1000
		}
		return []uint32{hi&0xFFFFF000 | rd<<7 | 0x37, lo<<20 | rd<<15 | rd<<7 | 0x13}
	}
	return append(append(li(5, addr), li(6, v)...), 6<<20|5<<15|2<<12|0x23)
}

// Another program had the card and left configuration behind, of the units and of each thread.
func TestAfterAnotherTenant(t *testing.T) {
	type word struct{ n, v uint32 }
	type leftover struct {
		name   string
		config []word
		thread map[uint32][]word
	}
	cases := []leftover{
		{"the other configuration", nil, map[uint32][]word{0: {{0, 1}}, 1: {{0, 1}}, 2: {{0, 1}}}},
		{"operands kept", nil, map[uint32][]word{1: {{7, 3}}}},
		{"formats and offsets of threads", nil, map[uint32][]word{0: {{5, 7}, {41, 0xFFFF}}, 1: {{1, 256}, {2, 1}, {3, 1}}, 2: {{37, 0xFFFF}, {40, 0xFFFF}}}},
		{"address modifiers", nil, map[uint32][]word{1: {{12, 0xFFFF}, {15, 0x1234}, {28, 0xFFFF}, {31, 0x2222}, {47, 0x1F}, {51, 0x1F}}}},
		{"swizzled Dst", []word{{220, 3}}, nil},
		{"strides", []word{{12, 0x12341234}, {13, 0x56785678}, {14, 99}, {15, 12}, {56, 0x1234}, {57, 0x77}, {59, 77}}, nil},
		{"packer", []word{{17, 5}, {18, 15}, {20, 0xFFFFFFFF}, {21, 3}, {24, 0x1FFFF}, {25, 0x1FFFF}, {28, 0xFFFFFFFF}, {69, 0x1234}, {71, 0x10000}, {181, 7}, {182, 9}, {183, 11}}, nil},
		{"unpackers", []word{{50, 0x1FF}, {64, 0xFFFFFFFF}, {65, 0xFFFFFFFF}, {73, 0xF000F}, {77, 44}, {92, 3}, {93, 3}, {125, 1}}, nil},
		{"rounding and accumulation", []word{{0, 0x10}, {1, 1 << 29}, {2, 0x3FFFFC}}, nil},
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		g := chip.Grid{Columns: 1, Rows: 1}
		rng := rand.New(rand.NewPCG(3, 4))
		rows, cols := 320, 640
		w, x := ternaryCodes(rng, rows*cols), activations(rng, 32*cols)
		for _, l := range cases {
			c, err := chip.Open(s, chip.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var code []uint32
			for _, v := range l.config {
				code = append(code, sw(0xFFEF0000+4*v.n, v.v)...)
			}
			for n, list := range l.thread {
				for _, v := range list {
					code = append(code, sw(0xFFE40000+n<<16, 0xB2<<24|v.n<<16|v.v)...)
				}
			}
			var b []byte
			for _, w := range append(code, 0x6F) { // j .
				b = binary.LittleEndian.AppendUint32(b, w)
			}
			tile := g.List()[0]
			if err := errors.Join(c.Load(tile, []chip.Image{{Core: chip.BRISC, Code: b}}), c.Start(tile, chip.BRISC)); err != nil {
				t.Fatal(err)
			}
			c.Step(2000)
			if err := errors.Join(c.HoldCores(tile), c.Close()); err != nil {
				t.Fatal(err)
			}
			d := openSim(t, s, g)
			m, err := d.LoadTernary("test", t16(w, rows, cols), rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, 8, 32} {
				y := make([]int32, n*rows)
				if err := d.MatMul(context.Background(), x[:n*cols], n, cols, Product{M: m, Y: y}); err != nil {
					t.Fatalf("%s, %d tokens: %v", l.name, n, err)
				}
				differ(t, l.name, y, product(w, x[:n*cols], rows, cols, n))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d kinds of leftovers: all exact", len(cases))
	})
}

// A locked instruction reads what it writes. Through a multicast window that is undefined on a card; the simulator says
// so once its binding does the read, and says nothing of the stores that we do.
func TestLockedStoresWouldBeSeen(t *testing.T) {
	what := simtest.Dies(t, func(t *testing.T, s *ttsim.Sim) {
		s.Exchange = true
		if _, err := Open(s, Options{Grid: chip.Grid{Columns: 2, Rows: 1}}); err != nil {
			t.Fatal(err)
		}
		m, err := chip.Open(s, chip.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_ = m.AimCast(m.Full())
		m.Cast(0x30000, make([]byte, 8))
	})
	if !strings.Contains(what, "UndefinedBehavior") {
		t.Errorf("the simulator does not mind a read through a multicast window: %s", what)
	}
}
