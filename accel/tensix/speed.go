package tensix

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/model"
)

// Card figures behind the speed model. The first group is what the vendor publishes, the second is other people's
// measurements on a p150a, the third is assumed.
const (
	cardColumns  = 12 // of ten tiles: 120
	cardBanks    = 8
	cardClock    = 1.35e9 // Hz
	bankPerSec   = 64e9   // bytes: 512 GB/s over eight banks
	tileL1Bytes  = 64     // a cycle, into the unpackers
	bfp2PerCycle = 64     // weights a cycle through the unpacker: 16 bytes

	gddrReached = 0.86 // of the peak, by a bare-metal Llama 3 8B (github.com/boopdotpng/blackhole-py)

	jobLatency  = 6e-6 // s: doorbell, first chunk, last result, a look at host memory
	pciePerSec  = 12e9 // bytes: write-combined stores one way, posted writes the other
	chunkCycles = 1500 // a chunk's start and end on the cores
	meeting     = 3e-6 // s: all tiles tell one, one tells all
	sliceCycles = 60   // of a scalar core, for an output of gate and up: squared ReLU, norm, quantisation
	norm2Cycles = 10   // of a scalar core, for a column's square in the norm of a row it owns
	hostPerSec  = 40e9 // bytes of keys and values that the host's attention reads
)

// Speed is what one decode step costs, counted from the jobs the Device really issues.
type Speed struct {
	Batch, Context  int
	Jobs            int
	WeightBytes     int     // read from GDDR
	BusiestBank     int     // bytes of the bank with the most, summed over jobs
	BusiestTile     int     // chunks of the tile with the most, summed over jobs
	UnpackCycles    float64 // of the busiest tile
	MatrixCycles    float64
	NoCBytes        int // over the network: weights, activations to every tile, results
	PCIeBytes       int
	CacheBytes      int     // keys and values that the host reads
	GDDR, Tiles     float64 // seconds
	PCIe, Latency   float64
	Host            float64
	Bound, Expected float64 // seconds a step: nothing but GDDR or tiles; with all that is counted
}

// counter is a machine with nothing behind it: it counts the jobs of a Device and says that each is done.
type counter struct {
	columns, banks int
	host           driver.HostMemory
	tiles          int
	job            kernels.Job
	parts          []kernels.Part
	second         kernels.Job // a feed-forward's second stage
	down           kernels.Part
	vector         kernels.Vector
	s              Speed
}

type counterWindow struct {
	c    *counter
	size uint64
	t    driver.Target
}

func (c *counter) Info() driver.Info { return driver.Info{Name: "speed model", Simulated: true} }
func (c *counter) Window(size uint64, _ bool) (driver.Window, error) {
	return &counterWindow{c: c, size: size}, nil
}

func (c *counter) HostMemory(n int) (driver.HostMemory, error) {
	if len(c.host.Bytes) < n {
		c.host = driver.HostMemory{Bytes: make([]byte, n)}
	}
	return c.host, nil
}
func (c *counter) Guard(x, y int, addr uint64, v uint32) error { return nil }
func (c *counter) Step(uint32)                                 {}
func (c *counter) Close() error                                { return nil }

func (w *counterWindow) Size() uint64              { return w.size }
func (w *counterWindow) Aim(t driver.Target) error { w.t = t; return nil }
func (w *counterWindow) Close() error              { return nil }

// Read answers the few things a Device reads: telemetry, and cores that are alive.
func (w *counterWindow) Read(off uint64, b []byte) {
	v := uint32(kernels.Ready)
	if (chip.XY{X: w.t.X, Y: w.t.Y}) == chip.ARC {
		v = chip.FakeTelemetry(w.t.Addr+off, w.c.columns, w.c.banks)
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], v)
	}
}

func (w *counterWindow) Write(off uint64, b []byte) {
	c := w.c
	if !w.t.Multicast {
		return
	}
	c.s.NoCBytes += len(b) * c.tiles
	c.s.PCIeBytes += len(b)
	word := func(n int) uint32 { return binary.LittleEndian.Uint32(b[4*n:]) }
	switch off {
	case kernels.JobAt:
		c.job = kernels.Job{Kind: kernels.Kind(word(0)), Rows: word(1), KT: word(2), ChunkBytes: word(3), Parts: word(9), More: word(11)}
	case kernels.JobAt + kernels.StageBytes:
		c.second = kernels.Job{Kind: kernels.Kind(word(0)), Rows: word(1), KT: word(2), ChunkBytes: word(3)}
	case kernels.PartsAt + 32*kernels.StageParts:
		c.down = kernels.Part{Chunks: word(0), Turn: word(3)}
	case kernels.VectorAt:
		c.vector = kernels.Vector{Tokens: word(0), Cols: word(1)}
	case kernels.PartsAt:
		c.parts = c.parts[:0]
		for i := 0; 32*i < len(b); i++ {
			c.parts = append(c.parts, kernels.Part{Chunks: word(8 * i), Turn: word(8*i + 3)})
		}
	case kernels.BellAt:
		c.ring(word(0))
	}
}

// ring counts a job and writes its completion lines.
func (c *counter) ring(number uint32) {
	per := make([]int, c.tiles)
	c.stage(&c.job, c.parts, per, c.job.More == 0)
	c.s.Jobs++
	c.s.Expected += jobLatency
	c.s.Latency += jobLatency
	if c.job.More == 1 {
		c.meet(per)
		c.stage(&c.second, []kernels.Part{c.down}, per, true)
	}
	for i, n := range per {
		line := c.host.Bytes[i*kernels.CompletionBytes:]
		binary.LittleEndian.PutUint32(line, number)
		binary.LittleEndian.PutUint32(line[4:], uint32(n))
		binary.LittleEndian.PutUint32(line[12:], ^number)
	}
	c.s.NoCBytes += 16 * c.tiles
	c.s.PCIeBytes += 16 * c.tiles
}

// meet counts the vector step of a feed-forward whose tiles have per chunks of gate and up.
func (c *counter) meet(per []int) {
	pairs := 0
	for _, n := range per {
		pairs = max(pairs, n/2)
	}
	tokens, cols := int(c.vector.Tokens), int(c.vector.Cols)
	rows := (tokens + c.tiles - 1) / c.tiles
	t := float64(pairs*tokens*32*sliceCycles+rows*cols*norm2Cycles)/cardClock + 4*meeting
	c.s.Tiles += t
	c.s.Bound += t
	c.s.Expected += t
	c.s.NoCBytes += tokens*cols*4 + tokens*cols*2*c.tiles // gathered once, then to everybody
}

// stage counts the products of a job, or of half of one, and adds each tile's chunks to per.
func (c *counter) stage(job *kernels.Job, parts []kernels.Part, per []int, returned bool) {
	mine := make([]int, c.tiles)
	banks := make([]int, c.banks)
	for _, p := range parts {
		for g := range int(p.Chunks) {
			i := (int(p.Turn) + g) % c.tiles
			mine[i]++
			banks[i%c.banks] += int(job.ChunkBytes)
		}
	}
	tile, bank, chunks := 0, 0, 0
	for i, n := range mine {
		tile, chunks = max(tile, n), chunks+n
		per[i] += n
	}
	for _, n := range banks {
		bank = max(bank, n)
	}
	weights := chunks * int(job.ChunkBytes)
	s := &c.s
	s.WeightBytes += weights
	s.BusiestBank += bank
	s.BusiestTile += tile
	s.NoCBytes += weights
	if returned {
		s.NoCBytes += chunks * kernels.OutBytes(int(job.Rows))
		s.PCIeBytes += chunks * kernels.OutBytes(int(job.Rows))
	}

	kt := float64(job.KT)
	wide := job.Rows == 32
	phases, weightCycles, xBytes := 1.0, 1024.0/bfp2PerCycle, 2048.0
	if job.Kind == kernels.Int8 {
		phases, weightCycles, xBytes = 4, 1024.0/tileL1Bytes, 1024
	}
	perTile, xLoads := 4.0, kt/4
	if wide {
		perTile, xLoads = 16, kt
	}
	unpack, matrix := float64(tile)*max(kt*weightCycles, xLoads*xBytes/tileL1Bytes), float64(tile)*kt*perTile*phases
	s.UnpackCycles += unpack
	s.MatrixCycles += matrix
	// GDDR and the units work side by side in a job; jobs come one after the other.
	gddr, units := float64(bank)/bankPerSec, max(unpack, matrix)/cardClock
	s.GDDR += gddr
	s.Tiles += units
	s.Bound += max(gddr, units)
	s.Expected += max(gddr/gddrReached, units+float64(tile)*chunkCycles/cardClock)
}

// ModelSpeed counts one decode step of a model of shape c on a card with 120 tiles and 8 banks: the very jobs the
// Device would issue, on a machine that does nothing. With feedForward the tiles run those blocks alone (Backend).
func ModelSpeed(c *model.Config, batch, context_ int, feedForward bool) (Speed, error) {
	if err := checkModel(c); err != nil {
		return Speed{}, err
	}
	m := &counter{columns: cardColumns, banks: cardBanks, tiles: cardColumns * 10}
	d, err := Open(m, Options{})
	if err != nil {
		return Speed{}, err
	}
	defer d.Close()
	reserve := func(kind kernels.Kind, rows, cols int) (*Matrix, error) {
		if err := kernels.CheckTernary(cols); err != nil {
			return nil, err
		}
		x := newMatrix("", kind, rows, cols)
		return x, d.reserve(x)
	}
	m.s = Speed{Batch: batch, Context: context_}
	attn, kv, D, F := c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim, c.HiddenSize, c.IntermediateSize
	ffn := []int{F, F}
	if c.Ungated {
		ffn = ffn[:1]
	}
	run := func(kind kernels.Kind, cols int, rows ...int) error {
		var ps []Product
		for _, r := range rows {
			x, err := reserve(kind, r, cols)
			if err != nil {
				return err
			}
			ps = append(ps, Product{M: x, Y: make([]int32, batch*r)})
		}
		return d.MatMul(context.Background(), make([]int8, batch*cols), batch, cols, ps...)
	}
	feedForward = feedForward && !c.Ungated && c.Activation == model.ReLU2
	for range c.NumLayers {
		if feedForward {
			if err := runFFN(d, reserve, batch, D, F); err != nil {
				return Speed{}, err
			}
		}
		for _, g := range []struct {
			cols int
			rows []int
		}{{D, []int{attn, kv, kv}}, {attn, []int{D}}, {D, ffn}, {F, []int{D}}} {
			if feedForward && (g.cols == F || len(g.rows) == 2) {
				continue
			}
			if err := run(kernels.Ternary, g.cols, g.rows...); err != nil {
				return Speed{}, err
			}
		}
	}
	if err := run(kernels.Int8, D, c.VocabSize); err != nil {
		return Speed{}, err
	}
	s := m.s
	s.CacheBytes = 2 * c.NumLayers * kv * 4 * context_ * batch
	s.PCIe = float64(s.PCIeBytes) / pciePerSec
	s.Host = float64(s.CacheBytes) / hostPerSec
	s.Expected += s.PCIe + s.Host
	return s, nil
}

// runFFN runs one feed-forward on matrices that are only reserved.
func runFFN(d *Device, reserve func(kind kernels.Kind, rows, cols int) (*Matrix, error), batch, D, F int) error {
	gate, err := reserve(kernels.Ternary, F, D)
	if err != nil {
		return err
	}
	d.turn = gate.segs[0].turn
	up, err := reserve(kernels.Ternary, F, D)
	if err != nil {
		return err
	}
	down, err := reserve(kernels.Ternary, D, F)
	if err != nil {
		return err
	}
	f := &FFN{gate: gate, up: up, down: down}
	ones := make([]float32, batch)
	return d.FeedForward(context.Background(), f, make([]int8, batch*D), batch, D, ones, ones, Product{Y: make([]int32, batch*D)}, make([]float32, batch))
}

// BitNet2B4T is the shape of BitNet b1.58 2B4T.
func BitNet2B4T() *model.Config {
	return &model.Config{
		Name: "BitNet b1.58 2B4T", HiddenSize: 2560, IntermediateSize: 6912, NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128,
		VocabSize: 128256, MaxContext: 4096, Activation: model.ReLU2, Ternary: true, SubNorms: true, TiedHead: true,
	}
}

// WriteSpeed prints the speed model of a shape for batches of 1 and 32 and contexts of 128 and 4096.
func WriteSpeed(w io.Writer, c *model.Config) error {
	fmt.Fprintf(w, "%s: %d layers of width %d and %d, %d rows of head.\n", cmp.Or(c.Name, "this model"), c.NumLayers, c.HiddenSize, c.IntermediateSize, c.VocabSize)
	fmt.Fprintf(w, `Speed model of one Blackhole p150a: %d tiles at %.2f GHz, %.0f GB/s of GDDR.
THIS IS A MODEL, NOT A MEASUREMENT: no card has run it. Bytes, chunks and jobs are counted from the jobs that the
engine issues; times come from public figures (%.0f%% of GDDR's peak was reached by others on a card) and from
assumptions: %.0f µs a job, %.0f GB/s of PCIe, %d cycles a chunk of overhead, %.0f GB/s of host memory for attention.

`, cardColumns*10, cardClock/1e9, bankPerSec*cardBanks/1e9, gddrReached*100, jobLatency*1e6, pciePerSec/1e9, chunkCycles, hostPerSec/1e9)
	if err := writeSpeed(w, c, false); err != nil || c.Ungated || c.Activation != model.ReLU2 {
		return err
	}
	fmt.Fprintf(w, "\nThe same with the feed-forward blocks left to the tiles, whose scalar cores take %d cycles an output and %d a column of\na row's norm, and meet four times in %.0f µs each (assumed):\n\n", sliceCycles, norm2Cycles, meeting*1e6)
	return writeSpeed(w, c, true)
}

func writeSpeed(w io.Writer, c *model.Config, feedForward bool) error {
	var list []Speed
	for _, batch := range []int{1, 32} {
		for _, n := range []int{128, 4096} {
			s, err := ModelSpeed(c, batch, min(n, c.MaxContext), feedForward)
			if err != nil {
				return err
			}
			list = append(list, s)
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	row := func(name string, f func(s Speed) string) {
		fmt.Fprint(t, name, "\t")
		for _, s := range list {
			fmt.Fprint(t, f(s), "\t")
		}
		fmt.Fprintln(t)
	}
	mb := func(n int) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	ms := func(v float64) string { return fmt.Sprintf("%.2f ms", v*1e3) }
	row("batch", func(s Speed) string { return fmt.Sprint(s.Batch) })
	row("context", func(s Speed) string { return fmt.Sprint(s.Context) })
	row("jobs (doorbells)", func(s Speed) string { return fmt.Sprint(s.Jobs) })
	row("weights read from GDDR", func(s Speed) string { return mb(s.WeightBytes) })
	row("over the NoC", func(s Speed) string { return mb(s.NoCBytes) })
	row("over PCIe", func(s Speed) string { return mb(s.PCIeBytes) })
	row("keys and values, on the host", func(s Speed) string { return mb(s.CacheBytes) })
	row("busiest tile: chunks", func(s Speed) string { return fmt.Sprint(s.BusiestTile) })
	row("  unpack cycles", func(s Speed) string { return fmt.Sprintf("%.0f", s.UnpackCycles) })
	row("  matrix cycles", func(s Speed) string { return fmt.Sprintf("%.0f", s.MatrixCycles) })
	row("busiest bank, at peak", func(s Speed) string { return ms(s.GDDR) })
	row("busiest tile", func(s Speed) string { return ms(s.Tiles) })
	row("PCIe", func(s Speed) string { return ms(s.PCIe) })
	row("job latency", func(s Speed) string { return ms(s.Latency) })
	row("host's attention", func(s Speed) string { return ms(s.Host) })
	row("bound: GDDR and tiles alone", func(s Speed) string { return ms(s.Bound) })
	row("expected a step", func(s Speed) string { return ms(s.Expected) })
	row("expected tokens/s", func(s Speed) string { return fmt.Sprintf("%.0f", float64(s.Batch)/s.Expected) })
	return t.Flush()
}
