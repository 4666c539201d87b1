package tensix

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
)

// Card figures behind the speed model that the vendor publishes.
const (
	cardColumns  = 12 // of ten tiles: 120
	cardBanks    = 8
	cardClock    = 1.35e9 // Hz
	bankPerSec   = 64e9   // bytes: 512 GB/s over eight banks
	tileL1Bytes  = 64     // a cycle, into the unpackers
	bfp2PerCycle = 64     // weights a cycle through the unpacker: 16 bytes

	// An MVMUL's sum is there after five cycles (tt-isa-documentation WormholeB0 MatrixUnit.md), so full rate takes five blocks
	// of Dst in turn. Up to 8 tokens have two, 32 tokens have eight.
	dstLatency = 5
	dstBlocks8 = 2

	rowsKept   = 8     // of the head that a tile sends for a token
	hostPerSec = 40e9  // bytes of keys and values that the host's attention reads
	hostColumn = 5e-10 // s of a host's core, for a column of a norm, an activation function or a residual sum
	hostCores  = 8     // that share the tokens of a batch
)

// assumptions are what the card's time is made of besides. Expected ones are others' measurements where there are some;
// with the pessimistic ones all that we can think of goes wrong together.
type assumptions struct {
	gddr        float64 // of the banks' peak
	trip        float64 // s: a job's doorbell to the tiles, first chunk, last line back to the host
	cast        float64 // s of the host: one multicast
	pcie        float64 // bytes a second of the host's stores
	meeting     float64 // s: all tiles tell one, one tells all
	telling     float64 // s: one tile tells another
	keeping     float64 // s: a block of 4 KiB read from GDDR and written back
	chunk       float64 // cycles of a chunk's start and end on the cores
	column      float64 // cycles of a scalar core: sum or squared ReLU, norm, quantisation, the requests for them
	square      float64 // a column's square in the norm
	silu        float64 // a column's division, and its numbers to the vector unit and back
	row         float64 // a row of the head: score, bound, comparison
	multiplyAdd float64 // cycles of math core and vector unit for 32 multiply-adds: 28 vector instructions, and their loads
	exponential float64 // multiply-adds' worth, of a vector of weights
	block       float64 // cycles of a block of keys or values besides: unpacking, orders; a span's join
	weighing    float64 // cycles of a scalar core, for a score: where it is put, and the largest
}

var (
	likely = assumptions{
		gddr: 0.86, trip: 4e-6, cast: 30e-9, pcie: 12e9, meeting: 1.8e-6, telling: 0.8e-6, keeping: 2e-6,
		chunk: 1500, column: 90, square: 10, silu: 220, row: 40, multiplyAdd: 44, exponential: 10, block: 700, weighing: 10,
	}
	grim = assumptions{
		gddr: 0.67, trip: 10e-6, cast: 300e-9, pcie: 0.6e9, meeting: 4e-6, telling: 2e-6, keeping: 4e-6,
		chunk: 3000, column: 180, square: 20, silu: 400, row: 80, multiplyAdd: 60, exponential: 10, block: 1400, weighing: 20,
	}
)

// falsified says, for each assumption, what the report of a first card (trit bench --device tensix --report) would show
// if it were wrong.
var falsified = [][3]string{
	{"GDDR reaches 86% of its peak (67%)", "others on a p150: 86% by bare-metal Llama 3 8B (boopdotpng/blackhole-py), 98% with one adjacent reader a bank, 67% from anywhere, 37% with small packets (tt-metal PR 47885)", "gddr_bytes_per_second of a large model in products only, below 0.8 of 440 GB/s"},
	{"a doorbell and back takes 4 µs (10)", "a PCIe read is 0.9 to 1.7 µs on common hosts; the rest is assumed", "host_seconds_waiting / doorbells of a tiny model of one layer"},
	{"a multicast takes the host 30 ns (300)", "30 ns a write (tt-metal issue 8463); strict windows may wait for each (tt-umd PR 3399)", "host_seconds_sending / multicasts"},
	{"stores over PCIe run at 12 GB/s (0.6)", "bulk through strict windows was 28 times slower than through relaxed ones (tt-umd PR 3399, issue 3470)", "pcie_sent_bytes / host_seconds_sending at batch 32"},
	{"a meeting of all tiles takes 1.8 µs (4)", "assumed: one atomic, one multicast, and the last to come", "stage_clocks of residual sums at batch 1, less their weights' time, over six meetings"},
	{"a scalar core takes 90 cycles a column (180)", "instructions counted on the simulator; the L0 data cache is off, as in the vendor's firmware", "stage_clocks of residual sums at batch 32, over columns and tokens"},
	{"32 exact multiply-adds take 44 cycles (60)", "instructions counted in attend.h", "stage_clocks of attention at 4096 tokens against 128"},
	{"the AI clock is 1350 MHz", "the vendor's figure; some firmware stays at 800", "ai_clock_mhz"},
}

// Speed is what one decode step costs, counted from the jobs the Device really issues.
type Speed struct {
	Batch, Context  int
	Jobs            int
	Casts, Fences   int     // multicasts of the host, and how often it waits for its own stores
	WeightBytes     int     // read from GDDR
	BusiestBank     int     // bytes of the bank with the most, summed over jobs
	BusiestTile     int     // chunks of the tile with the most, summed over jobs
	UnpackCycles    float64 // of the busiest tile
	MatrixCycles    float64
	NoCBytes        int // over the network: weights, activations to every tile, results
	PCIeBytes       int
	CacheBytes      int     // keys and values that the host reads, or the tiles, which read a key once for every query
	GDDR, Tiles     float64 // seconds
	PCIe, Latency   float64
	Host            float64 // attention
	Vectors         float64 // norms, activation functions and residual stream, as far as the host has them
	Bound, Expected float64 // seconds a step: nothing but GDDR or tiles; with all that is counted
	Pessimistic     float64 // and with everything worse than expected
}

// counter is a machine with nothing behind it: it counts the jobs of a Device and says that each is done.
type counter struct {
	columns, banks int
	host           driver.HostMemory
	tiles          int
	l1             map[uint32][]byte // what was last written there, by the start of the write
	stages         []stage
	parts          []kernels.Part
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
func (w *counterWindow) Fence()                    { w.c.s.Fences++ }
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
	c.s.Casts++
	c.s.NoCBytes += len(b) * c.tiles
	c.s.PCIeBytes += len(b)
	if off == kernels.BellAt {
		c.describe()
		c.ring(binary.LittleEndian.Uint32(b))
		return
	}
	if c.l1 == nil {
		c.l1 = map[uint32][]byte{}
	}
	c.l1[uint32(off)] = append(c.l1[uint32(off)][:0], b...)
}

// describe reads the job that has been written.
func (c *counter) describe() {
	at := words(c.l1[kernels.BellAt+4])
	c.stages, c.parts = c.stages[:0], c.parts[:0]
	for w := words(c.l1[at[0]]); len(w) > 0; w = w[kernels.StageBytes/4:] {
		v := w[kernels.VectorIn/4:]
		c.stages = append(c.stages, stage{
			job: kernels.Job{Kind: kernels.Kind(w[0]), Rows: w[1], KT: w[2], ChunkBytes: w[3], Parts: w[9], First: w[10], Then: kernels.Then(w[12])},
			vec: kernels.Vector{Tokens: v[0], Cols: v[1], Norm: v[3], XIn: v[9]},
		})
	}
	for w := words(c.l1[at[1]]); len(w) > 0; w = w[kernels.PartBytes/4:] {
		c.parts = append(c.parts, kernels.Part{Chunks: w[0], Turn: w[3]})
	}
}

func words(b []byte) (w []uint32) {
	for ; len(b) > 0; b = b[4:] {
		w = append(w, binary.LittleEndian.Uint32(b))
	}
	return w
}

// ring counts a job and writes its completion lines.
func (c *counter) ring(number uint32) {
	per := make([]int, c.tiles)
	c.s.Jobs++
	c.s.Expected += likely.trip
	c.s.Pessimistic += grim.trip
	c.s.Latency += likely.trip
	var bound, expected, worst timeline
	for i := range c.stages {
		c.stage(&c.stages[i], per, &bound, &expected, &worst)
	}
	c.s.Bound += bound.ready
	c.s.Expected += expected.ready
	c.s.Pessimistic += worst.ready
	for i, n := range per {
		line := c.host.Bytes[i*kernels.CompletionBytes:]
		binary.LittleEndian.PutUint32(line, number)
		binary.LittleEndian.PutUint32(line[4:], uint32(n))
		binary.LittleEndian.PutUint32(line[kernels.CompletionBytes-4:], ^number)
	}
	c.s.NoCBytes += kernels.CompletionBytes * c.tiles
	c.s.PCIeBytes += kernels.CompletionBytes * c.tiles
}

// timeline is how far a job is, in seconds: the last stage's weights are used up, its results are there. The next
// stage's weights are read from GDDR as soon as the ring is free, whatever the cores are at.
type timeline struct{ used, ready float64 }

func (t *timeline) stage(gddr, units, after float64) {
	t.used = max(t.used+gddr, t.ready+units)
	t.ready = t.used + after
}

// stage counts a stage and adds each tile's chunks to per.
func (c *counter) stage(st *stage, per []int, bound, expected, worst *timeline) {
	job, s := &st.job, &c.s
	mine := make([]int, c.tiles)
	banks := make([]int, c.banks)
	for _, p := range c.parts[job.First:][:job.Parts] {
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
	s.WeightBytes += weights
	s.BusiestBank += bank
	s.BusiestTile += tile
	s.NoCBytes += weights

	kt := float64(job.KT)
	wide := job.Rows == 32
	phases, weightCycles, xBytes := 1.0, 1024.0/bfp2PerCycle, 2048.0
	if job.Kind == kernels.Int8 {
		phases, weightCycles, xBytes = 4, 1024.0/tileL1Bytes, 1024
	}
	perTile, xLoads := 4.0*dstLatency/dstBlocks8, kt/4
	if wide {
		perTile, xLoads = 16, kt
	}
	unpack, matrix := float64(tile)*max(kt*weightCycles, xLoads*xBytes/tileL1Bytes), float64(tile)*kt*perTile*phases
	s.UnpackCycles += unpack
	s.MatrixCycles += matrix
	gddr := float64(bank) / bankPerSec
	before := *s
	for _, l := range []struct {
		a    *assumptions
		line *timeline
	}{{&grim, worst}, {&likely, expected}} {
		*s = before // bytes are the same, and count once
		beside, after, back := c.then(st, tile, chunks, l.a)
		units := max(unpack, matrix, beside) / cardClock
		s.NoCBytes += back
		s.PCIeBytes += back
		s.GDDR += gddr
		s.Tiles += units + after
		if l.line.stage(gddr/l.a.gddr, units+float64(tile)*l.a.chunk/cardClock, after); l.line == expected {
			bound.stage(gddr, units, after)
		}
	}
}

// then is what becomes of a stage's sums: cycles of the busiest tile's scalar core while the units work, seconds
// after them, and bytes to the host.
func (c *counter) then(st *stage, tile, chunks int, a *assumptions) (beside, after float64, back int) {
	tokens, cols := int(st.vec.Tokens), int(st.vec.Cols)
	columns := float64(tile * tokens * kernels.ChunkRows)
	switch st.job.Then {
	case kernels.ThenScreen:
		return columns * a.row, a.meeting, c.tiles * (16 + 8*rowsKept*tokens)
	case kernels.ThenAttend:
		attend, rest := c.attend(st, a), c.norm(st, tokens, cols, c.each(cols), a)
		return 0, attend + rest, 128
	case kernels.ThenOut:
		return 0, columns * a.column / 4 / cardClock, tokens * cols * 4
	case kernels.ThenSiLU:
		vectors := float64(tile / 2 * tokens)
		return 0, c.norm(st, tokens, cols, tile/2, a) + (columns/2*a.silu+vectors*a.exponential*a.multiplyAdd+(vectors/32+1)*a.block)/cardClock, 128
	case kernels.ThenAct:
		return 0, c.norm(st, tokens, cols, tile/2, a), 128
	case kernels.ThenAdd:
		return 0, c.norm(st, tokens, cols, tile, a), 128
	}
	return 0, 0, chunks * kernels.OutBytes(int(st.job.Rows))
}

// each is how many chunks of so many columns a tile has at most.
func (c *counter) each(cols int) int { return (cols/kernels.ChunkRows + c.tiles - 1) / c.tiles }

// norm is what it takes to norm, where there is one, and quantise, of which the busiest tile has so many chunks.
func (c *counter) norm(st *stage, tokens, cols, chunks int, a *assumptions) float64 {
	c.s.NoCBytes += tokens * cols * 2 * c.tiles // activations to everybody
	t := float64(chunks*tokens*kernels.ChunkRows)*a.column/cardClock + 2*a.meeting
	if st.vec.Norm != 0 {
		lanes := (8*tokens + c.tiles - 1) / c.tiles * cols / 8
		c.s.NoCBytes += tokens * cols * 4
		t += float64(lanes)*a.square/cardClock + a.meeting + 2*a.telling
	}
	return t
}

// attend is what attention takes before its norm: the busiest tile's vector unit or the banks, meetings, and what the
// scalar core does alone.
func (c *counter) attend(st *stage, a *assumptions) float64 {
	w := words(c.l1[st.vec.XIn])
	heads, cols, keyHeads, rows := int(w[0]), int(w[2]), int(w[3]), words(c.l1[w[10]])
	team, tokens := cols/kernels.ChunkRows, int(st.vec.Tokens)
	cycles, bytes := 0.0, 0
	for r := range tokens {
		n := int(rows[2*r]) + 1
		blocks := (n + 31) / 32
		own := (blocks + team - 1) / team // of the busiest of a team
		spans := (n + kernel.SpanTokens - 1) / kernel.SpanTokens
		exponential := a.exponential * a.multiplyAdd
		cycles += float64(own)*(float64(cols-2)*a.multiplyAdd+float64(team)*a.block/2) + float64(blocks+blocks%2)*exponential +
			float64(n)*(a.multiplyAdd+a.weighing) + float64(blocks)*a.block + float64(spans)*(exponential+a.block)
		bytes += 2 * heads * blocks * kernels.PageTokens * cols * 4
	}
	c.s.CacheBytes += bytes
	c.s.NoCBytes += bytes + tokens*heads*cols*4*team + tokens*2*keyHeads*team*8192
	busy := float64(c.each(heads*cols)) * cycles / cardClock
	return max(busy, float64(bytes)/(bankPerSec*a.gddr*float64(c.banks))) + float64(tokens)*a.keeping + 3*a.meeting
}

// Share is how much of the work the tiles do (Backend).
type Share int

// Steps: whole tokens. Blocks: all but attention. Products: those alone.
const (
	Steps Share = iota
	Blocks
	ProductsAlone
)

// ModelSpeed counts one decode step of a model of the shape of cfg on a card with 120 tiles and 8 banks: the very jobs the
// Device would issue, on a machine that does nothing.
func ModelSpeed(cfg *model.Config, batch, context_ int, share Share) (Speed, error) {
	if err := checkModel(cfg); err != nil {
		return Speed{}, err
	}
	m := &counter{columns: cardColumns, banks: cardBanks, tiles: cardColumns * 10}
	d, err := Open(m, Options{})
	if err != nil {
		return Speed{}, err
	}
	defer d.Close()
	ctx := context.Background()
	c := family.ShapeOf(cfg)
	attn, kv, D, F := c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim, c.HiddenSize, c.IntermediateSize
	var place placement
	reserve := func(kind kernels.Kind, name string, rows, cols int) (*Matrix, error) {
		return place.next(d, roles[name], func() (*Matrix, error) {
			x := newMatrix(name, kind, rows, cols)
			return x, errors.Join(kernels.CheckTernary(cols), d.reserve(x))
		})
	}
	type shape struct {
		name       string
		rows, cols int
	}
	jobs := [4][]shape{{{"q_proj", attn, D}, {"k_proj", kv, D}, {"v_proj", kv, D}}, {{"o_proj", D, attn}}, {{"gate_proj", F, D}, {"up_proj", F, D}}, {{"down_proj", D, F}}}
	if _, ungated := cfg.Layers[0].FeedForward.(*part.Plain); ungated {
		jobs[2] = jobs[2][1:]
	}
	layers := make([][4][]*Matrix, c.NumLayers)
	for n := range layers {
		for i, job := range jobs {
			for _, s := range job {
				x, err := reserve(kernels.Ternary, s.name, s.rows, s.cols)
				if err != nil {
					return Speed{}, err
				}
				layers[n][i] = append(layers[n][i], x)
			}
		}
	}
	head, err := reserve(kernels.Int8, "lm_head", c.VocabSize, D)
	if err != nil {
		return Speed{}, err
	}
	m.s = Speed{Batch: batch, Context: context_}
	if share == Steps {
		err = modelStep(ctx, d, cfg, layers, batch, context_)
	} else {
		err = modelLayers(ctx, d, cfg, layers, batch, share)
	}
	if err != nil {
		return Speed{}, err
	}
	ones := make([]float32, batch)
	if _, _, err := d.Screen(ctx, &Screen{m: head}, make([]int8, batch*D), D, ones, ones); err != nil {
		return Speed{}, err
	}
	s := m.s
	s.PCIe = float64(s.PCIeBytes)/likely.pcie + float64(s.Casts)*likely.cast
	columns := 0
	if share != Steps {
		s.CacheBytes = int(cfg.KVBytes()) * context_ * batch
		s.Host = float64(s.CacheBytes) / hostPerSec
		columns = attn + 2*kv + attn // q, k, v; what is normed in front of o
	}
	if share == ProductsAlone {
		columns += 2*D + len(jobs[2])*F
	}
	s.Vectors = float64(c.NumLayers*columns) * hostColumn * float64((batch+hostCores-1)/hostCores)
	s.Expected += s.PCIe + s.Host + s.Vectors
	s.Pessimistic += float64(s.PCIeBytes)/grim.pcie + float64(s.Casts)*grim.cast + s.Host + s.Vectors
	return s, nil
}

// modelLayers runs a token's jobs with attention on the host.
func modelLayers(ctx context.Context, d *Device, cfg *model.Config, layers [][4][]*Matrix, batch int, share Share) error {
	for n, l := range layers {
		for i, ms := range l {
			if share == Blocks && i > 0 {
				if err := modelBlock(ctx, d, cfg, layers, n, batch); err != nil {
					return err
				}
				break
			}
			if share == Blocks && n > 0 {
				continue
			}
			var ps []Product
			for _, x := range ms {
				ps = append(ps, Product{M: x, Y: make([]int32, batch*x.Rows)})
			}
			if err := d.MatMul(ctx, make([]int8, batch*ms[0].Cols), batch, ms[0].Cols, ps...); err != nil {
				return err
			}
		}
	}
	return nil
}

// modelStep runs a token's job on matrices that are only reserved.
func modelStep(ctx context.Context, d *Device, cfg *model.Config, layers [][4][]*Matrix, batch, context_ int) error {
	c := family.ShapeOf(cfg)
	w := StepWeights{Heads: c.NumHeads, KeyHeads: c.NumKVHeads, Cols: c.HeadDim}
	for n, l := range layers {
		b := newModelBlock(cfg, layers, n)
		w.Blocks, w.AttnNorms = append(w.Blocks, b), append(w.AttnNorms, Norm{})
		if n == 0 {
			for _, x := range l[0] {
				w.First = append(w.First, Scaled{M: x})
			}
		}
	}
	norms := make([]uint64, len(layers))
	for i := range norms {
		norms[i] = someNorm(cfg.Layers[i].Mixer.(*part.Attention).SubNorm != nil)
	}
	s := &Step{w: w, norms: norms, pages: newPages(d, len(layers), c.NumKVHeads, c.HeadDim)}
	row := StepRow{Pos: context_ - 1, Pages: make([]int, (context_-1)/kernels.PageTokens+1), Cos: make([]float32, c.HeadDim/2), Sin: make([]float32, c.HeadDim/2)}
	return d.RunStep(ctx, s, make([]int8, batch*c.HiddenSize), c.HiddenSize, make([]float32, batch), make([]float32, batch*c.HiddenSize), slices.Repeat([]StepRow{row}, batch))
}

// someNorm is where a norm might be, or 0 where there is none.
func someNorm(there bool) uint64 {
	if there {
		return gddrStart
	}
	return 0
}

// newModelBlock is block n of matrices that are only reserved.
func newModelBlock(cfg *model.Config, layers [][4][]*Matrix, n int) *Block {
	l := layers[n]
	b := &Block{w: BlockWeights{O: Scaled{M: l[1][0]}, Gate: Scaled{M: l[2][0]}, Up: Scaled{M: l[2][1]}, Down: Scaled{M: l[3][0]}}}
	b.ffnNorm, b.outNorm = someNorm(true), someNorm(true)
	if g, ok := cfg.Layers[0].FeedForward.(*part.Gated); ok {
		b.w.SiLU, b.subNorm = g.Activation == part.SiLU, someNorm(g.SubNorm != nil)
	}
	if n+1 < len(layers) {
		for _, x := range layers[n+1][0] {
			b.w.Next = append(b.w.Next, Scaled{M: x})
		}
	}
	return b
}

// modelBlock runs one block on matrices that are only reserved.
func modelBlock(ctx context.Context, d *Device, cfg *model.Config, layers [][4][]*Matrix, n, batch int) error {
	c := family.ShapeOf(cfg)
	b := newModelBlock(cfg, layers, n)
	var ys []Product
	var in, out []float32
	if n == 0 {
		in = make([]float32, batch*c.HiddenSize)
	}
	for _, x := range b.w.Next {
		ys = append(ys, Product{Y: make([]int32, batch*x.M.Rows)})
	}
	if len(ys) == 0 {
		out = make([]float32, batch*c.HiddenSize)
	}
	A := b.w.O.M.Cols
	return d.RunBlock(ctx, b, make([]int8, batch*A), A, make([]float32, batch), in, out, ys...)
}

// BitNet2B4T is the shape of BitNet b1.58 2B4T.
func BitNet2B4T() *model.Config {
	c := family.BitNet(family.Shape{
		Name: "BitNet b1.58 2B4T", HiddenSize: 2560, IntermediateSize: 6912, NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128,
		VocabSize: 128256, MaxContext: 4096, NormEps: 1e-5, RopeTheta: 500000, Activation: part.ReLU2, TiedHead: true,
	})
	c.QuantizeMasters()
	return c
}

// WriteSpeed prints the speed model of a shape for batches of 1 and 32 and contexts of 128 and 4096.
func WriteSpeed(w io.Writer, cfg *model.Config) error {
	c := family.ShapeOf(cfg)
	fmt.Fprintf(w, "%s: %d layers of width %d and %d, %d rows of head.\n", cmp.Or(c.Name, "this model"), c.NumLayers, c.HiddenSize, c.IntermediateSize, c.VocabSize)
	fmt.Fprintf(w, `Speed model of one Blackhole p150a: %d tiles at %.2f GHz, %.0f GB/s of GDDR.
THIS IS A MODEL, NOT A MEASUREMENT: no card has run it. Bytes, chunks, jobs and multicasts are counted from the jobs that
the engine issues; times come from public figures and from assumptions, the expected ones and in brackets pessimistic ones:

`, cardColumns*10, cardClock/1e9, bankPerSec*cardBanks/1e9)
	for _, f := range falsified {
		fmt.Fprintf(w, "  %s: %s.\n    Wrong if the report of a card says otherwise: %s.\n", f[0], f[1], f[2])
	}
	fmt.Fprintf(w, "\nFor comparison, measured by others on a card: BitNet 2B4T at 74 tokens/s on the vendor's stack, not bit-exact (deveworld/bitnet-tt).\n\n")
	if g, ok := cfg.Layers[0].FeedForward.(*part.Gated); ok && runsGated(g) {
		if c.HeadDim == 32 || c.HeadDim == 64 || c.HeadDim == 128 {
			fmt.Fprint(w, "Whole tokens on the tiles (--device tensix); the next weights are read meanwhile:\n\n")
			if err := writeSpeed(w, cfg, Steps); err != nil {
				return err
			}
			fmt.Fprintln(w)
		}
		fmt.Fprint(w, "All but attention on the tiles (--device tensix-blocks):\n\n")
		if err := writeSpeed(w, cfg, Blocks); err != nil {
			return err
		}
		fmt.Fprint(w, "\nProducts only (--device tensix-products):\n\n")
	}
	return writeSpeed(w, cfg, ProductsAlone)
}

func writeSpeed(w io.Writer, c *model.Config, share Share) error {
	var list []Speed
	for _, batch := range []int{1, 32} {
		for _, n := range []int{128, 4096} {
			s, err := ModelSpeed(c, batch, min(n, c.MaxContext), share)
			if err != nil {
				return err
			}
			list = append(list, s)
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	where := map[Share]string{Steps: "keys and values, from GDDR", Blocks: "keys and values, on the host", ProductsAlone: "keys and values, on the host"}
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
	row("multicasts, fences", func(s Speed) string { return fmt.Sprintf("%d, %d", s.Casts, s.Fences) })
	row("weights read from GDDR", func(s Speed) string { return mb(s.WeightBytes) })
	row("over the NoC", func(s Speed) string { return mb(s.NoCBytes) })
	row("over PCIe", func(s Speed) string { return mb(s.PCIeBytes) })
	row(where[share], func(s Speed) string { return mb(s.CacheBytes) })
	row("busiest tile: chunks", func(s Speed) string { return fmt.Sprint(s.BusiestTile) })
	row("  unpack cycles", func(s Speed) string { return fmt.Sprintf("%.0f", s.UnpackCycles) })
	row("  matrix cycles", func(s Speed) string { return fmt.Sprintf("%.0f", s.MatrixCycles) })
	row("busiest bank, at peak", func(s Speed) string { return ms(s.GDDR) })
	row("busiest tile", func(s Speed) string { return ms(s.Tiles) })
	row("PCIe", func(s Speed) string { return ms(s.PCIe) })
	row("job latency", func(s Speed) string { return ms(s.Latency) })
	row("host's norms and sums", func(s Speed) string { return ms(s.Vectors) })
	row("host's attention", func(s Speed) string { return ms(s.Host) })
	row("bound: GDDR and tiles alone", func(s Speed) string { return ms(s.Bound) })
	row("expected a step", func(s Speed) string { return ms(s.Expected) })
	row("pessimistic a step", func(s Speed) string { return ms(s.Pessimistic) })
	row("pessimistic tokens/s", func(s Speed) string { return fmt.Sprintf("%.0f", float64(s.Batch)/s.Pessimistic) })
	row("expected tokens/s", func(s Speed) string { return fmt.Sprintf("%.0f", float64(s.Batch)/s.Expected) })
	return t.Flush()
}
