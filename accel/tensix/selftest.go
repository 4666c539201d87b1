package tensix

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/firmware"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// Rung is one step of the self-test's ladder.
type Rung struct {
	Name string
	Took time.Duration
	Says string // what was found
	Err  error
	Help string // what a failure here means
}

// SelfTest climbs from the first register to a tiny model and stops at the first rung that breaks: the first thing to
// run on a new card. It overwrites GDDR. report is called after each rung.
func SelfTest(ctx context.Context, m driver.Machine, grid chip.Grid, report func(Rung)) error {
	s := &selftest{ctx: ctx, m: m}
	c, err := chip.Open(m, chip.Options{Violation: func(err error) { s.violations = append(s.violations, err) }})
	s.c = c
	s.step(report, "telemetry", func() (string, error) {
		if err != nil {
			return "", err
		}
		if grid == (chip.Grid{}) {
			grid = c.Full()
		}
		s.grid = grid
		return fmt.Sprintf("%d of 14 Tensix columns, %d of 8 GDDR banks, AI clock %d MHz; assumed: %q", c.Columns, c.Banks, c.Telemetry.Clock, c.Telemetry.Assumed), c.Check(grid)
	}, "The PCIe link or the card's management firmware is at fault. Reset the card, then update its firmware bundle.")
	s.step(report, "windows", s.windows, "Registers of tiles do not answer through a 2 MiB window: either coordinate translation is off or a column that telemetry calls live is not.")
	s.step(report, "L1", s.l1, "A tile's memory does not hold what is written. Note the tile; a reset (tt-smi -r) clears wedged tiles, a lasting fault is hardware.")
	s.step(report, "multicast", s.multicast, "One write to a rectangle of tiles does not arrive everywhere: the rectangle's corners or its NoC order are wrong for this firmware.")
	s.step(report, "GDDR", s.gddr, "A bank loses or mixes up data: training of that GDDR failed (see GDDR status in tt-smi) or the window does not cover it.")
	s.step(report, "cores", s.cores, "A RISC-V core does not start or not at the right place. If all fail: resets or entry points are not as documented. If one tile fails: note it.")
	s.step(report, "NoC", s.noc, "A tile cannot move data between GDDR, its L1 and the host. If only the host part fails: IOMMU or DMA settings.")
	if c != nil {
		s.fail(c.Close())
	}
	s.step(report, "one product", func() (string, error) { return s.product(chip.Grid{Columns: 1, Rows: 1}, 64, 256) }, "Unpackers, matrix unit or packer differ from the simulator's. The first suspect is the forced exponent of BFP2 (docs/blackhole.md).")
	s.step(report, "interrupted", s.interrupted, "A tile does not recover from a job that was killed in its midst. After a crash reset the card (tt-smi -r) before the next run; please report it.")
	s.step(report, "all tiles", func() (string, error) { return s.product(s.grid, 32*s.grid.Tiles(), 128) }, "The product firmware works on one tile and not on all; the error names the tile.")
	s.step(report, "blocks", s.blocks, "Tiles cannot work together without the host, or a core's float arithmetic differs from the simulator's. No model needs this rung.")
	s.step(report, "a layer", s.layer, "Large products fail where small ones work: rings, GDDR addresses or bandwidth.")
	s.step(report, "a tiny model", func() (string, error) { return s.model(true) }, "Products are right and a model is not: this should not happen, please report it.")
	s.step(report, "attention", func() (string, error) { return s.model(false) }, "The vector unit, or unpacking to its memory, differs from the simulator's, or keys and values in GDDR are not what they should be. --device tensix-blocks leaves attention to the host.")
	return s.err
}

type selftest struct {
	ctx        context.Context
	m          driver.Machine
	c          *chip.Chip
	grid       chip.Grid
	err        error
	violations []error
}

func (s *selftest) fail(err error) { s.err = errors.Join(s.err, err) }

func (s *selftest) step(report func(Rung), name string, f func() (string, error), help string) {
	if s.err != nil {
		return
	}
	t := time.Now()
	says, err := f()
	err = errors.Join(append([]error{err, s.ctx.Err()}, s.violations...)...)
	r := Rung{Name: name, Took: time.Since(t), Says: says, Err: err}
	if err != nil {
		r.Help = help
		s.err = fmt.Errorf("self-test: %s: %w", name, err)
	}
	report(r)
}

func (s *selftest) windows() (string, error) {
	for _, t := range s.grid.List() {
		got, err := s.c.Ident(t)
		if err != nil {
			return "", err
		}
		if got != t {
			return "", fmt.Errorf("tile %v says it is %v", t, got)
		}
	}
	return fmt.Sprintf("%d tiles know their coordinates", s.grid.Tiles()), nil
}

// pattern is test data that differs by tile and address.
func pattern(n int, seed uint32) []byte {
	b := make([]byte, n)
	for i := 0; i+4 <= n; i += 4 {
		binary.LittleEndian.PutUint32(b[i:], (uint32(i)+seed*0x10001)*2654435761)
	}
	return b
}

func (s *selftest) l1() (string, error) {
	const at, n = 0x20000, 16 << 10
	tiles := s.grid.List()
	for i, t := range tiles {
		if err := errors.Join(s.c.Hold(t), s.c.Write(t, at, pattern(n, uint32(i)))); err != nil {
			return "", err
		}
	}
	got := make([]byte, n)
	for i, t := range tiles {
		if err := s.c.Read(t, at, got); err != nil {
			return "", err
		}
		if want := pattern(n, uint32(i)); !bytes.Equal(got, want) {
			return "", fmt.Errorf("tile %v: L1 differs from what was written, first at %#x", t, at+diff(got, want))
		}
	}
	return fmt.Sprintf("%d tiles × %d KiB written, then read", len(tiles), n>>10), nil
}

func diff(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func (s *selftest) multicast() (string, error) {
	const at = 0x30000
	want := pattern(4096, 77)
	if err := s.c.AimCast(s.grid); err != nil {
		return "", err
	}
	s.c.Cast(at, want)
	s.c.Fence()
	got := make([]byte, len(want))
	for _, t := range s.grid.List() {
		if err := s.c.Read(t, at, got); err != nil {
			return "", err
		}
		if !bytes.Equal(got, want) {
			return "", fmt.Errorf("tile %v has not received it, first at %#x", t, at+diff(got, want))
		}
	}
	return fmt.Sprintf("%d bytes to %d tiles in one write", len(want), s.grid.Tiles()), nil
}

func (s *selftest) gddr() (string, error) {
	const n = 256 << 10
	places := []uint64{0, 1 << 20, 1<<30 + 64, 3<<30 + 4096, chip.BankSize - n}
	for b := range s.c.Banks {
		for i, at := range places {
			if err := s.c.WriteBank(b, at, pattern(n, uint32(10*b+i))); err != nil {
				return "", err
			}
		}
	}
	got := make([]byte, n)
	for b := range s.c.Banks {
		for i, at := range places {
			if err := s.c.ReadBank(b, at, got); err != nil {
				return "", err
			}
			if want := pattern(n, uint32(10*b+i)); !bytes.Equal(got, want) {
				return "", fmt.Errorf("bank %d differs from what was written, first at %#x", b, at+uint64(diff(got, want)))
			}
		}
	}
	return fmt.Sprintf("%d banks × %d places over 4 GiB, written all, then read", s.c.Banks, len(places)), nil
}

// Where the probe firmware reports and takes orders (firmware/src/probe.c).
const (
	probeBox = 0x16000
	probeGo  = 0x16200
	probeEnd = 0x16240
)

func (s *selftest) cores() (string, error) {
	im := []chip.Image{
		{Core: chip.BRISC, Addr: firmware.BaseBRISC, Code: firmware.Image("probe0")},
		{Core: chip.TRISC0, Addr: firmware.BaseTRISC0, Code: firmware.Image("probe1")},
		{Core: chip.TRISC1, Addr: firmware.BaseTRISC1, Code: firmware.Image("probe2")},
		{Core: chip.TRISC2, Addr: firmware.BaseTRISC2, Code: firmware.Image("probe3")},
		{Core: chip.NCRISC, Addr: firmware.BaseNCRISC, Code: firmware.Image("probe4")},
	}
	tiles := s.grid.List()
	defer func() {
		for _, t := range tiles {
			s.fail(s.c.Hold(t))
		}
	}()
	for _, t := range tiles {
		err := s.c.Load(t, im)
		err = errors.Join(err, s.c.Write(t, probeBox, make([]byte, 0x300)))
		if err = errors.Join(err, s.c.Start(t, chip.AllCores)); err != nil {
			return "", err
		}
	}
	fib := [5]uint32{6765, 10946, 17711, 28657, 46368}
	for _, t := range tiles {
		for core := range uint64(5) {
			var w [4]uint32
			if err := s.await(func() (bool, error) {
				for i := range w {
					var err error
					if w[i], err = s.c.Read32(t, probeBox+0x40*core+4*uint64(i)); err != nil {
						return false, err
					}
				}
				return w[0] == 0x7121000+uint32(core), nil
			}); err != nil {
				return "", fmt.Errorf("core %s of tile %v is silent: %w", coreNames[core], t, err)
			}
			if w[1] != fib[core] || w[2] != t.Coord() {
				return "", fmt.Errorf("core %s of tile %v computed %d (want %d) and thinks it is at %#x", coreNames[core], t, w[1], fib[core], w[2])
			}
		}
	}
	return fmt.Sprintf("%d tiles × 5 cores compute and know where they are", len(tiles)), nil
}

// await polls for a while.
func (s *selftest) await(ok func() (bool, error)) error {
	d := &Device{m: s.m, c: s.c, o: Options{Timeout: time.Second, Clocks: 1_000_000}}
	for limit := d.limit(1); ; {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if !limit() {
			return ErrTimeout
		}
	}
}

// noc has the probe of one tile move data from each bank to the next one, and to the host.
func (s *selftest) noc() (string, error) {
	const n = 64 << 10
	host, err := s.m.HostMemory(lineBytes + hostBytes)
	if err != nil {
		return "", err
	}
	tiles := s.grid.List()
	orders := 0
	start := func(t chip.XY) error {
		err := s.c.Load(t, []chip.Image{{Core: chip.BRISC, Addr: firmware.BaseBRISC, Code: firmware.Image("probe0")}})
		err = errors.Join(err, s.c.Write(t, probeBox, make([]byte, 0x300)))
		return errors.Join(err, s.c.Start(t, chip.BRISC))
	}
	order := func(t chip.XY, number uint32, src, srcAt, dst uint32, dstAt uint64) error {
		put := func(at uint64, v ...uint32) error {
			for i, w := range v {
				if err := s.c.Write32(t, at+4*uint64(i), w); err != nil {
					return err
				}
			}
			return nil
		}
		if err := errors.Join(put(0x16210, src, srcAt), put(0x16220, dst, uint32(dstAt), uint32(dstAt>>32)), put(0x16230, n), put(probeGo, number)); err != nil {
			return err
		}
		orders++
		return s.await(func() (bool, error) {
			v, err := s.c.Read32(t, probeEnd)
			return v == number, err
		})
	}
	plusOne := func(b []byte) []byte {
		b = slices.Clone(b)
		for i := 0; i < len(b); i += 4 {
			binary.LittleEndian.PutUint32(b[i:], binary.LittleEndian.Uint32(b[i:])+1)
		}
		return b
	}
	got := make([]byte, n)
	for b := range s.c.Banks {
		t := tiles[(b*7)%len(tiles)]
		if err := start(t); err != nil {
			return "", err
		}
		number := uint32(2*b + 1)
		data := pattern(n, uint32(100+b))
		to := (b + 1) % s.c.Banks
		if err := s.c.WriteBank(b, 0x40000, data); err != nil {
			return "", err
		}
		if err := order(t, number, s.c.Bank(b).Coord(), 0x40000, s.c.Bank(to).Coord(), 0x80000); err != nil {
			return "", fmt.Errorf("tile %v, bank %d to bank %d: %w", t, b, to, err)
		}
		if err := s.c.ReadBank(to, 0x80000, got); err != nil {
			return "", err
		}
		if want := plusOne(data); !bytes.Equal(got, want) {
			return "", fmt.Errorf("tile %v, bank %d to bank %d: wrong from byte %#x on", t, b, to, diff(got, want))
		}
		clear(host.Bytes[:n])
		if err := order(t, number+1, s.c.Bank(b).Coord(), 0x40000, chip.PCIe.Coord(), host.NoC); err != nil {
			return "", fmt.Errorf("tile %v, bank %d to the host: %w", t, b, err)
		}
		if want := plusOne(data); !bytes.Equal(host.Bytes[:n], want) {
			return "", fmt.Errorf("tile %v, bank %d to the host: wrong from byte %#x on; is the IOMMU set up?", t, b, diff(host.Bytes[:n], want))
		}
		if err := s.c.Hold(t); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d transfers of %d KiB: every bank to the next one and to the host", orders, n>>10), nil
}

// trits makes ternary codes [rows, cols] and their T16 layout.
func trits(rows, cols int, seed uint32) (codes []int8, t16 []byte) {
	codes = make([]int8, rows*cols)
	x := seed | 1
	for i := range codes {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		codes[i] = int8(x>>8%3) - 1
	}
	tiles, steps := (rows+15)/16, (cols+15)/16
	t16 = make([]byte, tiles*steps*64)
	for i := range t16 {
		t16[i] = 0x55
	}
	for r := range rows {
		for c := range cols {
			at := (r/16*steps+c/16)*64 + 4*(r%16) + c%4
			shift := 2 * (c % 16 / 4)
			t16[at] = t16[at]&^(3<<shift) | byte(codes[r*cols+c]+1)<<shift
		}
	}
	return codes, t16
}

// multiply checks one product on an open device and names the tile of the first wrong output.
func (s *selftest) multiply(d *Device, rows, cols, tokens int) error {
	codes, packed := trits(rows, cols, uint32(rows+cols))
	m, err := d.LoadTernary(fmt.Sprintf("[%d, %d]", rows, cols), packed, rows, cols)
	if err != nil {
		return err
	}
	x := make([]int8, tokens*cols)
	for i := range x {
		x[i] = int8(i*73%255 - 127)
	}
	y := make([]int32, tokens*rows)
	if err := d.MatMul(s.ctx, x, tokens, cols, Product{M: m, Y: y}); err != nil {
		return err
	}
	for t := range tokens {
		for r := range rows {
			var want int32
			for k, w := range codes[r*cols:][:cols] {
				want += int32(w) * int32(x[t*cols+k])
			}
			if got := y[t*rows+r]; got != want {
				return fmt.Errorf("[%d, %d], %d tokens: output %d of token %d is %d, want %d; it comes from tile %v and GDDR bank %d", rows, cols, tokens, r, t, got, want,
					d.tiles[(m.segs[0].turn+r/kernels.ChunkRows)%len(d.tiles)], (m.segs[0].turn+r/kernels.ChunkRows)%len(d.tiles)%d.c.Banks)
			}
		}
	}
	return nil
}

func (s *selftest) open(g chip.Grid) (*Device, error) {
	return Open(s.m, Options{Grid: g, Check: func(err error) { s.violations = append(s.violations, err) }})
}

func (s *selftest) product(g chip.Grid, rows, cols int) (string, error) {
	d, err := s.open(g)
	if err != nil {
		return "", err
	}
	defer d.Close()
	for _, tokens := range []int{1, 8, 32} {
		if err := s.multiply(d, rows, cols, tokens); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("[%d, %d] on %d tiles, 1, 8 and 32 tokens: every output exact", rows, cols, d.Tiles()), nil
}

// interrupted kills a job on one tile as the death of its process would, and then opens the card again, twice.
func (s *selftest) interrupted() (string, error) {
	g := chip.Grid{Columns: 1, Rows: 1}
	d, err := Open(s.m, Options{Grid: g, Timeout: time.Second, Check: func(err error) { s.violations = append(s.violations, err) }})
	if err != nil {
		return "", err
	}
	const rows, cols, tokens = 2048, 2560, 32
	_, packed := trits(rows, cols, 9)
	m, err := d.LoadTernary("a job to interrupt", packed, rows, cols)
	if err != nil {
		return "", errors.Join(err, d.Close())
	}
	d.o.Timeout, d.o.Clocks = time.Nanosecond, 500
	err = d.MatMul(s.ctx, make([]int8, tokens*cols), tokens, cols, Product{M: m, Y: make([]int32, tokens*rows)})
	killed := errors.Is(err, ErrTimeout)
	if err != nil && !killed {
		return "", errors.Join(err, d.Close())
	}
	if err := errors.Join(d.c.HoldCores(d.tiles[0]), d.c.Close()); err != nil {
		return "", err
	}
	for range 2 {
		if _, err := s.product(g, 64, 256); err != nil {
			return "", err
		}
	}
	if !killed {
		return "the job to be killed had ended before; the card opens again", nil
	}
	return "a job killed in its midst; the next products are exact", nil
}

// testBlock is a Block with random weights, and the same for the host.
type testBlock struct {
	D, A, F          int
	o, gate, up, dwn []int8
	next             [][]int8
	norms            [3][]float32 // [D], [F], [D]
	scale            [4]float32   // of the matrices
}

const testEps = 1e-5

func newTestBlock(D, A, F int, next ...int) *testBlock {
	b := &testBlock{D: D, A: A, F: F, scale: [4]float32{0.011, 0.007, 0.013, 0.017}}
	b.o, _ = trits(D, A, 1)
	b.gate, _ = trits(F, D, 2)
	b.up, _ = trits(F, D, 3)
	b.dwn, _ = trits(D, F, 4)
	for i, n := range next {
		w, _ := trits(n, D, uint32(5+i))
		b.next = append(b.next, w)
	}
	for i, n := range []int{D, F, D} {
		b.norms[i] = make([]float32, n)
		for k := range b.norms[i] {
			b.norms[i][k] = 0.5 + float32(k*37%101)/128
		}
	}
	return b
}

// load puts the matrices on a device. place is the placement of the blocks before.
func (b *testBlock) load(d *Device, place *placement) (*Block, error) {
	var errs []error
	put := func(name string, rows, cols int, seed uint32, scale float32) Scaled {
		_, t16 := trits(rows, cols, seed)
		m, err := place.next(d, roles[name], func() (*Matrix, error) { return d.LoadTernary(name, t16, rows, cols) })
		errs = append(errs, err)
		return Scaled{m, scale}
	}
	w := BlockWeights{
		O: put("o_proj", b.D, b.A, 1, b.scale[0]), Gate: put("gate_proj", b.F, b.D, 2, b.scale[1]), Up: put("up_proj", b.F, b.D, 3, b.scale[2]), Down: put("down_proj", b.D, b.F, 4, b.scale[3]),
		FFNNorm: Norm{b.norms[0], testEps}, SubNorm: Norm{b.norms[1], testEps}, NextNorm: Norm{b.norms[2], testEps},
	}
	for i, n := range b.next {
		w.Next = append(w.Next, put("q_proj", len(n)/b.D, b.D, uint32(5+i), 0))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return d.NewBlock(w, kernels.MaxBatch)
}

// host runs the block on the host: x becomes the residual stream after it, y the sums of next, and the scales those of
// their activations.
func (b *testBlock) host(q []int8, scales, x []float32) (y [][]int32) {
	tokens := len(scales)
	y = make([][]int32, len(b.next))
	for t := range tokens {
		product := func(w, q []int8, s float32) []float32 { // scaled sums
			out := make([]float32, len(w)/len(q))
			for r := range out {
				var n int32
				for k, v := range w[r*len(q):][:len(q)] {
					n += int32(v) * int32(q[k])
				}
				out[r] = float32(n) * s
			}
			return out
		}
		quantized := func(h, norm []float32) ([]int8, float32) {
			q := make([]int8, kernel.Pad16(len(h)))
			s, _ := kernel.RMSNormQuantize(q, make([]float32, len(h)), h, norm, testEps)
			return q[:len(h)], s
		}
		x := x[t*b.D:][:b.D]
		kernel.Add(x, product(b.o, q[t*b.A:][:b.A], scales[t]*b.scale[0]))
		p, s := quantized(x, b.norms[0])
		h := make([]float32, b.F)
		kernel.ReLU2Mul(h, product(b.gate, p, s*b.scale[1]), product(b.up, p, s*b.scale[2]))
		p, s = quantized(h, b.norms[1])
		kernel.Add(x, product(b.dwn, p, s*b.scale[3]))
		if len(b.next) == 0 {
			continue
		}
		p, scales[t] = quantized(x, b.norms[2])
		for i, w := range b.next {
			for _, v := range product(w, p, 1) {
				y[i] = append(y[i], int32(v))
			}
		}
	}
	return y
}

// compare runs the block on tiles and host and says where they differ. begins: the residual stream comes from the host;
// else it is on the tiles and x is what it must be.
func (b *testBlock) compare(ctx context.Context, d *Device, blk *Block, q []int8, scales, x []float32, begins bool) error {
	tokens := len(scales)
	got, in, out := slices.Clone(scales), []float32(nil), []float32(nil)
	if begins {
		in = slices.Clone(x)
	}
	var ys []Product
	for _, w := range b.next {
		ys = append(ys, Product{Y: make([]int32, tokens*len(w)/b.D)})
	}
	if len(b.next) == 0 {
		out = make([]float32, tokens*b.D)
	}
	if err := d.RunBlock(ctx, blk, q, len(q)/tokens, got, in, out, ys...); err != nil {
		return err
	}
	want := b.host(q, scales, x)
	for i, v := range out {
		if math.Float32bits(v) != math.Float32bits(x[i]) {
			return fmt.Errorf("token %d: column %d of the residual stream is %g, want %g", i/b.D, i%b.D, v, x[i])
		}
	}
	for t, v := range scales {
		if len(want) > 0 && math.Float32bits(got[t]) != math.Float32bits(v) {
			return fmt.Errorf("token %d: the activations' scale is %g, want %g", t, got[t], v)
		}
	}
	for i := range want {
		for k, v := range want[i] {
			if ys[i].Y[k] != v {
				return fmt.Errorf("matrix %d: sum %d is %d, want %d", i, k, ys[i].Y[k], v)
			}
		}
	}
	return nil
}

// blocks has all tiles run two blocks by themselves, with the residual stream kept between them.
func (s *selftest) blocks() (string, error) {
	d, err := s.open(s.grid)
	if err != nil {
		return "", err
	}
	defer d.Close()
	const D, A, F, tokens = 128, 128, 256, 3
	first, last := newTestBlock(D, A, F, 128, 64), newTestBlock(D, A, F)
	var place placement
	b1, err1 := first.load(d, &place)
	b2, err2 := last.load(d, &place)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	q, scales, x := make([]int8, tokens*A), []float32{0.001, 0.002, 0.003}, make([]float32, tokens*D)
	for i := range q {
		q[i], x[i] = int8(i*37%255-127), float32(i*53%211-105)/64
	}
	if err := first.compare(s.ctx, d, b1, q, scales, x, true); err != nil {
		return "", err
	}
	if err := last.compare(s.ctx, d, b2, q, scales, x, false); err != nil {
		return "", err
	}
	return fmt.Sprintf("two blocks by %d tiles alone (products, residual stream, norms, squared ReLU, quantisation), bit-equal to the host", d.Tiles()), nil
}

// layer multiplies the matrices of one 2B4T layer, and reports what the card makes of it.
func (s *selftest) layer() (string, error) {
	d, err := s.open(s.grid)
	if err != nil {
		return "", err
	}
	defer d.Close()
	start := time.Now()
	for _, x := range [][2]int{{3840, 2560}, {2560, 6912}} {
		if err := s.multiply(d, x[0], x[1], 1); err != nil {
			return "", err
		}
	}
	st := d.Stats()
	says := fmt.Sprintf("query, key, value and down of 2B4T exact; %d jobs, %.1f MB of weights, %v", st.Jobs, float64(st.Weights)/1e6, time.Since(start).Round(time.Millisecond))
	if !s.m.Info().Simulated {
		says += fmt.Sprintf("; %d clocks on the slowest tile", st.TileClocks)
	}
	return says, nil
}

// model compares a small model's logits with the CPU engine's, bit by bit, with attention on the host or on the tiles.
func (s *selftest) model(hostAttention bool) (string, error) {
	dir, err := os.MkdirTemp("", "trit-selftest")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := writeSynth(dir, synthShape{hidden: 256, ffn: 640, heads: 4, kvHeads: 2, layers: 2, vocab: 512}); err != nil {
		return "", err
	}
	set, err := weights.Open(dir, nil)
	if err != nil {
		return "", err
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		return "", err
	}
	run := func(b model.Backend) ([]float32, []model.Scored, error) {
		e, err := b.Load(s.ctx, cfg, set)
		if err != nil {
			return nil, nil, err
		}
		defer e.Close()
		a, err := e.NewCache(64)
		if err != nil {
			return nil, nil, err
		}
		defer a.Close()
		var logits []float32
		for _, n := range []int{5, 31} { // so that the second pass looks back over a page
			ids, some := make([]int32, n), make([]float32, n*cfg.VocabSize)
			for i := range ids {
				ids[i] = int32((37*i + n) % cfg.VocabSize)
			}
			if err := e.Forward(s.ctx, []model.Input{{Cache: a, Tokens: ids, Logits: some}}); err != nil {
				return nil, nil, err
			}
			logits = append(logits, some...)
		}
		top := make([]model.Scored, 5)
		return logits, top, e.Forward(s.ctx, []model.Input{{Cache: a, Tokens: []int32{9}, Top: top}})
	}
	wantLogits, wantTop, err := run(cpu.Backend{})
	if err != nil {
		return "", err
	}
	gotLogits, gotTop, err := run(Backend{Machine: s.m, Options: Options{Grid: s.grid}, HostAttention: hostAttention})
	if err != nil {
		return "", err
	}
	for i := range wantLogits {
		if math.Float32bits(gotLogits[i]) != math.Float32bits(wantLogits[i]) {
			return "", fmt.Errorf("logit %d is %g, the CPU engine's %g", i, gotLogits[i], wantLogits[i])
		}
	}
	if !slices.Equal(gotTop, wantTop) {
		return "", fmt.Errorf("best tokens %v, the CPU engine's %v", gotTop, wantTop)
	}
	return fmt.Sprintf("%d logits and the 5 best tokens bit-equal to the CPU engine's", len(wantLogits)), nil
}
