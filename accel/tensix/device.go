// Package tensix runs the matrix products of 1.58-bit models on the Tensix tiles of a Tenstorrent Blackhole, bit-equal
// to integers, with no vendor software but the kernel driver.
//
//	driver     a card (tt-kmd) or the simulator (ttsim): windows onto the chip
//	chip       tiles, GDDR banks, telemetry, harvesting, resets
//	firmware   C programs for a tile's five cores, prebuilt
//	kernels    layouts and job descriptions, and why products are exact
//	tensix     this package: a Device holds matrices and multiplies; the model engine
//
// docs/blackhole.md tells the whole way from PCIe window to logits, and what has run on the simulator only.
package tensix

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/firmware"
	"github.com/tritlm/trit/accel/tensix/kernels"
)

// Errors of a device that stopped working; they arrive wrapped with what is known.
var (
	ErrTimeout  = errors.New("tensix: the device did not finish in time")
	ErrDeadTile = errors.New("tensix: a tile does not start")
	ErrMemory   = errors.New("tensix: the model does not fit in the card's memory")
	errClosed   = errors.New("tensix: device is closed")
)

// Options of Open. The zero value uses every live tile and waits ten seconds for a job of up to four stages.
type Options struct {
	Grid    chip.Grid     // tiles to use; zero: all
	Timeout time.Duration // for one job on a card; zero: 10 s
	Clocks  uint64        // for one job on a simulator; zero: 20 million
	// Check, if set, is told of every broken rule of chip.Checker.
	Check func(error)
}

const (
	defaultTimeout = 10 * time.Second
	defaultClocks  = 20_000_000
	pollClocks     = 50                // a simulated chip runs this long between two looks at host memory
	hostBytes      = 4<<20 - lineBytes // results of one job, so that all is 4 MiB; larger products run as several
	lineBytes      = 16 << 10          // in front of them: completion lines of up to 140 tiles, largest magnitudes
	gddrStart      = 1 << 20           // the first MiB of each bank is left to the self-test
)

// Device is a chip whose tiles run the product firmware. It is safe for concurrent use; jobs run one at a time.
type Device struct {
	mu     sync.Mutex
	m      driver.Machine
	c      *chip.Chip
	o      Options
	tiles  []chip.XY // in the order of their index
	host   driver.HostMemory
	out    int // where results start in host
	maxima int // where a feed-forward's 32 largest magnitudes are
	job    uint32
	next   uint64 // first free GDDR address, the same in each bank
	top    uint64 // of what is free; pages of keys and values come down from there
	turn   int    // tile that gets the next matrix's first chunk
	pages  *Pages // of the Step that was made last, or nil
	x      []byte
	failed error
	stats  Stats
}

// Stats counts what the device did since it was opened.
type Stats struct {
	Products   uint64 // MatMul calls
	Jobs       uint64 // jobs started on the tiles, each by one doorbell
	Chunks     uint64 // weight chunks, as the tiles report them
	Weights    uint64 // bytes the tiles read from GDDR
	Sent       uint64 // bytes of activations and jobs the host wrote
	Returned   uint64 // bytes of results the tiles wrote to the host
	TileClocks uint64 // clocks of the slowest tile, summed over jobs
	CacheRead  uint64 // bytes of keys and values the tiles read from GDDR

	// Clocks of the slowest tile by what became of a stage's sums (kernels.Then): sums to the host, activation function,
	// residual sum, residual stream to the host, screen, attention; each with the products in front of it.
	StageClocks [kernels.Thens]uint64
	Casts       uint64        // multicasts of the host
	Casting     time.Duration // host time in them
	Waited      time.Duration // host time from a job's doorbell to its last tile's end

	HeadTokens   uint64 // tokens that asked for the best of the output head
	HeadAlone    uint64 // of those, where the tiles dropped all rows that cannot be best by themselves
	HeadRescored uint64 // rows of the head that the host scored again

	Pages uint64 // of keys and values in use now
}

// Open puts the product firmware on the tiles of m and waits until every core answers. The caller closes m after
// the Device.
func Open(m driver.Machine, o Options) (*Device, error) {
	c, err := chip.Open(m, chip.Options{Violation: o.Check})
	if err != nil {
		return nil, err
	}
	if err := c.Telemetry.Ports; err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if o.Grid == (chip.Grid{}) {
		o.Grid = c.Full()
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Clocks == 0 {
		o.Clocks = defaultClocks
	}
	d := &Device{m: m, c: c, o: o, next: gddrStart, top: chip.BankSize}
	if err := d.boot(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// images of the product firmware.
func images() []chip.Image {
	return []chip.Image{
		{Core: chip.BRISC, Addr: firmware.BaseBRISC, Code: firmware.Image("mover")},
		{Core: chip.TRISC0, Addr: firmware.BaseTRISC0, Code: firmware.Image("unpack")},
		{Core: chip.TRISC1, Addr: firmware.BaseTRISC1, Code: firmware.Image("math")},
		{Core: chip.TRISC2, Addr: firmware.BaseTRISC2, Code: firmware.Image("pack")},
		{Core: chip.NCRISC, Addr: firmware.BaseNCRISC, Code: firmware.Image("sender")},
	}
}

var coreNames = [5]string{"mover (BRISC)", "unpack (TRISC0)", "math (TRISC1)", "pack (TRISC2)", "sender (NCRISC)"}

func (d *Device) boot() error {
	if err := d.c.Check(d.o.Grid); err != nil {
		return err
	}
	d.tiles = d.c.Place(d.o.Grid)
	d.maxima = len(d.tiles) * kernels.CompletionBytes
	d.out = lineBytes
	var err error
	if d.host, err = d.m.HostMemory(lineBytes + hostBytes); err != nil {
		return err
	}
	clear(d.host.Bytes)
	if err := d.c.AimCast(d.o.Grid); err != nil {
		return err
	}
	im := images()
	var card uint32
	if !d.m.Info().Simulated {
		card = 1
	}
	var coords []byte
	for _, t := range d.tiles {
		coords = binary.LittleEndian.AppendUint32(coords, t.Coord())
	}
	for i, t := range d.tiles {
		if err := d.c.HoldOnExit(t); err != nil {
			return err
		}
		bank := i % d.c.Banks
		tile := kernels.Tile{
			Index: uint32(i), Tiles: uint32(len(d.tiles)), Bank: d.c.Bank(bank).Coord(), Rank: uint32(i / d.c.Banks),
			Host: chip.PCIe.Coord(), HostLo: uint32(d.host.NoC), HostHi: uint32(d.host.NoC >> 32), Card: card,
		}
		err := d.c.Load(t, im)
		err = errors.Join(err, d.c.Write(t, kernels.TileAt, make([]byte, kernels.DataAt-kernels.TileAt)))
		err = errors.Join(err, d.c.Write(t, kernels.TileAt, kernels.Words(&tile)))
		err = errors.Join(err, d.c.Write(t, kernels.TilesAt, coords))
		if err = errors.Join(err, d.c.Start(t, chip.AllCores)); err != nil {
			return err
		}
	}
	return d.awaitCores()
}

// awaitCores waits for all cores of all tiles to say that they run.
func (d *Device) awaitCores() error {
	limit := d.limit(1)
	for _, t := range d.tiles {
		for {
			dead := ""
			for core, name := range coreNames {
				v, err := d.c.Read32(t, kernels.Line(kernels.LineAlive+core))
				if err != nil {
					return err
				}
				if v != kernels.Ready {
					dead = name
				}
			}
			if dead == "" {
				break
			}
			if !limit() {
				return fmt.Errorf("%w: core %s of tile %v is silent; `trit selftest --device tensix` checks each tile by itself, and tt-smi -r resets the card", ErrDeadTile, dead, t)
			}
		}
	}
	return nil
}

// limit returns a function to call in a polling loop: it lets a simulated chip run, and is false when time for so many
// short jobs is up.
func (d *Device) limit(jobs int) func() bool {
	if d.m.Info().Simulated {
		var n uint64
		return func() bool {
			d.c.Step(pollClocks)
			n += pollClocks
			return n < d.o.Clocks*uint64(jobs)
		}
	}
	end := time.Now().Add(d.o.Timeout * time.Duration(jobs))
	spins := 0
	return func() bool {
		spins++
		return spins&1023 != 0 || time.Now().Before(end)
	}
}

// Close holds the tiles in reset and gives the windows back. Matrices are gone.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == nil {
		return nil
	}
	var errs []error
	for _, t := range d.tiles {
		errs = append(errs, d.c.Hold(t))
	}
	errs = append(errs, d.c.Close())
	d.c, d.failed = nil, errClosed
	return errors.Join(errs...)
}

// Chip is what the device runs on.
func (d *Device) Chip() (chip.Geometry, chip.Telemetry) { return d.c.Geometry, d.c.Telemetry }

// Clock reads the AI clock, in MHz; 0 where the firmware does not say.
func (d *Device) Clock() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == nil {
		return 0, errClosed
	}
	return d.c.Clock()
}

// Tiles is the number of tiles at work.
func (d *Device) Tiles() int { return len(d.tiles) }

// Stats returns the counters.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	s, p := d.stats, d.pages
	d.mu.Unlock()
	if p != nil {
		s.Pages = uint64(p.used())
	}
	return s
}

// Reset forgets all matrices and pages, so that their memory can be used again.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next, d.top, d.turn, d.pages = gddrStart, chip.BankSize, 0, nil
}

// Matrix is a matrix in the card's memory.
type Matrix struct {
	Name       string
	Kind       kernels.Kind
	Rows, Cols int
	chunks     int
	segs       []segment
}

// segment is a run of a matrix's columns.
type segment struct {
	col, cols int
	bytes     int    // of a chunk
	base      uint64 // GDDR address of each bank's first reader
	stride    uint64 // to the next reader
	turn      int    // the tile that has the first chunk
}

// newMatrix describes a matrix that has no place yet.
func newMatrix(name string, kind kernels.Kind, rows, cols int) *Matrix {
	m := &Matrix{Name: name, Kind: kind, Rows: rows, Cols: cols, chunks: kernels.Chunks(rows)}
	first := kernels.Segments(cols)
	for i, c := range first {
		end := cols
		if i+1 < len(first) {
			end = first[i+1]
		}
		s := segment{col: c, cols: end - c, bytes: kernels.TernaryChunkBytes(end - c)}
		if kind == kernels.Int8 {
			s.bytes = kernels.Int8ChunkBytes(end - c)
		}
		m.segs = append(m.segs, s)
	}
	return m
}

// LoadTernary uploads a ternary matrix in layout T16 (package ternary). Matrices that will be multiplied together
// are best loaded one after the other: each begins with the tile where the last one ended.
func (d *Device) LoadTernary(name string, t16 []byte, rows, cols int) (*Matrix, error) {
	if err := kernels.CheckTernary(cols); err != nil {
		return nil, fmt.Errorf("tensix: %s: %w", name, err)
	}
	if rows <= 0 || len(t16) != (rows+15)/16*((cols+15)/16)*64 {
		return nil, fmt.Errorf("tensix: %s: [%d, %d] in %d bytes of T16", name, rows, cols, len(t16))
	}
	m := newMatrix(name, kernels.Ternary, rows, cols)
	return m, d.upload(m, func(dst []byte, s *segment, g int) error {
		kernels.PackTernary(dst, t16, rows, cols, s.col, s.cols, g)
		return nil
	})
}

// Beside makes the next matrix that is loaded begin with the tile that has the first rows of m, so that equal rows of
// both are on one tile.
func (d *Device) Beside(m *Matrix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn = m.segs[0].turn
}

// LoadInt8 uploads an int8 matrix [rows, cols], values -127 to 127, of which row writes one row; it is called
// from several goroutines.
func (d *Device) LoadInt8(name string, rows, cols int, row func(dst []int8, r int)) (*Matrix, error) {
	if err := kernels.CheckInt8(cols); err != nil {
		return nil, fmt.Errorf("tensix: %s: %w", name, err)
	}
	if rows <= 0 {
		return nil, fmt.Errorf("tensix: %s: %d rows", name, rows)
	}
	m := newMatrix(name, kernels.Int8, rows, cols)
	return m, d.upload(m, func(dst []byte, s *segment, g int) error {
		one, buf := make([]int8, cols), make([]int8, kernels.ChunkRows*s.cols)
		n := min(kernels.ChunkRows, rows-kernels.ChunkRows*g)
		for i := range n {
			row(one, kernels.ChunkRows*g+i)
			copy(buf[i*s.cols:][:s.cols], one[s.col:])
		}
		if err := kernels.PackInt8(dst, buf[:n*s.cols], s.cols); err != nil {
			return fmt.Errorf("tensix: %s, rows from %d: %w", name, kernels.ChunkRows*g, err)
		}
		return nil
	})
}

// place says where chunk g lies: it belongs to tile (turn + g) mod T, whose chunks are one behind the other in its bank.
func (d *Device) place(s *segment, g int) (bank int, addr uint64) {
	i := (s.turn + g) % len(d.tiles)
	return i % d.c.Banks, s.base + uint64(i/d.c.Banks)*s.stride + uint64(g/len(d.tiles)*s.bytes)
}

// reserve finds room for a matrix.
func (d *Device) reserve(m *Matrix) error {
	tiles := len(d.tiles)
	longest := (m.chunks + tiles - 1) / tiles
	readers := (tiles + d.c.Banks - 1) / d.c.Banks
	for i := range m.segs {
		s := &m.segs[i]
		s.base, s.stride, s.turn = d.next, uint64(longest*s.bytes), d.turn
		need := uint64(readers) * s.stride
		if d.next+need > d.top {
			return fmt.Errorf("%w: %s wants %d MiB in each of %d banks, %d MiB are left; use a smaller model or the CPU engine", ErrMemory, m.Name, need>>20, d.c.Banks, (d.top-d.next)>>20)
		}
		d.next = (d.next + need + 4095) &^ 4095
	}
	d.turn = (d.turn + m.chunks) % tiles
	return nil
}

// upload reserves memory and writes bank after bank, so that the window is aimed once a bank.
func (d *Device) upload(m *Matrix, pack func(dst []byte, s *segment, g int) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	if err := d.reserve(m); err != nil {
		return err
	}
	for i := range m.segs {
		if err := d.uploadSegment(m, &m.segs[i], pack); err != nil {
			return err
		}
	}
	return nil
}

// uploadSegment packs the chunks of as many tiles as there are processors at a time, then writes them.
func (d *Device) uploadSegment(m *Matrix, s *segment, pack func(dst []byte, s *segment, g int) error) error {
	tiles := len(d.tiles)
	var order []int // tiles that have chunks, bank after bank
	for b := range d.c.Banks {
		for i := b; i < tiles; i += d.c.Banks {
			if (i-s.turn+tiles)%tiles < m.chunks {
				order = append(order, i)
			}
		}
	}
	type packed struct {
		buf []byte
		n   int
		err error
	}
	work := make([]packed, min(runtime.GOMAXPROCS(0), len(order)))
	for i := range work {
		work[i].buf = make([]byte, s.stride)
	}
	for len(order) > 0 {
		now := order[:min(len(work), len(order))]
		order = order[len(now):]
		var wg sync.WaitGroup
		for k, i := range now {
			wg.Go(func() {
				w := &work[k]
				w.n, w.err = 0, nil
				for g := (i - s.turn + tiles) % tiles; g < m.chunks && w.err == nil; g += tiles {
					w.err = pack(w.buf[w.n:][:s.bytes], s, g)
					w.n += s.bytes
				}
			})
		}
		wg.Wait()
		for k, i := range now {
			if err := work[k].err; err != nil {
				return err
			}
			bank, at := d.place(s, (i-s.turn+tiles)%tiles)
			if err := d.c.WriteBank(bank, at, work[k].buf[:work[k].n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Product is one matrix of a MatMul and where its results go, in panels of Panel outputs (model.PanelRows):
// ⌈Rows/Panel⌉ pieces of [tokens, Panel], the last one narrower. With Panel 0, Y is [tokens, Rows].
type Product struct {
	M     *Matrix
	Y     []int32
	Panel int
}

// at is where output o of token t lies, and how many outputs from there on are contiguous; tokens is T of Y.
func (p *Product) at(o, t, tokens int) (index, room int) {
	rows := p.rows(tokens)
	panel := p.Panel
	if panel == 0 {
		panel = rows
	}
	first := o / panel * panel
	width := min(panel, rows-first)
	return first*tokens + t*width + o - first, first + width - o
}

// rows is Y's number of outputs a token: Rows, or more where the caller pads.
func (p *Product) rows(tokens int) int { return len(p.Y) / tokens }

// MatMul multiplies activations with one or more matrices of the same kind and width on the tiles, in one job.
//
//	x  [tokens, stride]  int8, the first Cols of each row; -128 only with ternary weights
//
// Batches of more than 32 run in turns. Cancelling ctx ends the call between two jobs with ctx's error.
func (d *Device) MatMul(ctx context.Context, x []int8, tokens, stride int, ps ...Product) error {
	if len(ps) == 0 || len(ps) > kernels.MaxParts || tokens < 1 || len(x) != tokens*stride {
		panic(fmt.Sprintf("tensix: %d products of %d activations, %d tokens of %d", len(ps), len(x), tokens, stride))
	}
	for _, p := range ps {
		if p.M.Kind != ps[0].M.Kind || p.M.Cols != ps[0].M.Cols || p.M.Cols > stride || len(p.Y)%tokens != 0 || p.rows(tokens) < p.M.Rows {
			panic(fmt.Sprintf("tensix: %s [%d, %d] with %d outputs for %d tokens of %d", p.M.Name, p.M.Rows, p.M.Cols, len(p.Y), tokens, stride))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	d.stats.Products += uint64(len(ps))
	for t := 0; t < tokens; t += kernels.MaxBatch {
		n := min(kernels.MaxBatch, tokens-t)
		for seg := range ps[0].M.segs {
			if err := d.pass(ctx, x[t*stride:][:n*stride], stride, n, t, tokens, ps, seg); err != nil {
				return err
			}
		}
	}
	return nil
}

// slice is a range of chunks of one matrix whose results fit, with its job's others, into host memory.
type slice struct {
	m      *Matrix
	p      *Product // where they go from there
	seg    int
	c, n   int     // n 0: all
	offset int     // of the results in host memory
	scale  float32 // of sums that stay on the tiles
}

// pass multiplies one segment of up to 32 tokens, in as many jobs as their results need host memory.
func (d *Device) pass(ctx context.Context, x []int8, stride, tokens, first, all int, ps []Product, seg int) error {
	m, s := ps[0].M, &ps[0].M.segs[seg]
	rows := kernels.Rows(tokens)
	plan, err := kernels.Plan(m.Kind, rows, s.cols)
	if err != nil {
		return fmt.Errorf("tensix: %s: %w", m.Name, err)
	}
	if n := kernels.XBytes(m.Kind, s.cols, rows); cap(d.x) < n {
		d.x = make([]byte, n)
	}
	if err := kernels.PackX(d.x[:cap(d.x)], m.Kind, x[s.col:], tokens, s.cols, stride); err != nil {
		return fmt.Errorf("tensix: %s: %w", m.Name, err)
	}
	d.sendX(plan, s.cols)
	size, room := kernels.OutBytes(rows), len(d.host.Bytes)-d.out
	var list []slice
	used := 0
	for i := range ps {
		for c := 0; c < ps[i].M.chunks; {
			n := min(ps[i].M.chunks-c, (room-used)/size)
			if c+n < ps[i].M.chunks { // a job begins with a chunk of the matrix's first tile
				n = n / len(d.tiles) * len(d.tiles)
			}
			if n == 0 {
				if err := d.runSlices(ctx, plan, list, tokens, first, all); err != nil {
					return err
				}
				list, used = list[:0], 0
				continue
			}
			list = append(list, slice{m: ps[i].M, p: &ps[i], seg: seg, c: c, n: n, offset: d.out + used})
			c, used = c+n, used+n*size
		}
	}
	return d.runSlices(ctx, plan, list, tokens, first, all)
}

func (d *Device) runSlices(ctx context.Context, job kernels.Job, list []slice, tokens, first, all int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.launch(list[0].m.Name, []stage{{job: job, list: list}}, 0); err != nil {
		d.failed = err
		return err
	}
	for _, s := range list {
		if err := d.collect(s, tokens, first, all); err != nil {
			d.failed = err
			return err
		}
	}
	return nil
}

// sendX multicasts the packed activations. With one token only every eighth row of a block matters: the rest of L1
// may hold anything, as rows do not mix.
func (d *Device) sendX(plan kernels.Job, cols int) {
	x := d.x[:kernels.XBytes(plan.Kind, cols, int(plan.Rows))]
	if plan.Rows > 1 {
		d.cast(uint64(plan.X), x)
		return
	}
	block := len(x) / (kernels.PadK(cols) / 16) // bytes of 8 rows × 16 columns
	for o := 0; o < len(x); o += block {
		d.cast(uint64(plan.X)+uint64(o), x[o:o+block/8])
	}
}

// cast multicasts b.
func (d *Device) cast(addr uint64, b []byte) {
	start := time.Now()
	d.c.Cast(addr, b)
	d.stats.Casting += time.Since(start)
	d.stats.Casts++
	d.stats.Sent += uint64(len(b))
}

// launch describes a job, starts it and waits for it. Its description goes to L1 address listAt, or, for 0, to where
// short jobs have it.
func (d *Device) launch(name string, stages []stage, listAt int) error {
	var body, parts []byte
	var total uint32
	for i := range stages {
		s := &stages[i]
		s.job.Parts, s.job.First, s.job.More = uint32(len(s.list)), uint32(len(parts)/kernels.PartBytes), 0
		if i == 0 {
			s.job.More = uint32(len(stages) - 1)
		}
		n := uint32(0)
		for k := range s.list {
			p := d.part(&s.list[k])
			parts, n = append(parts, kernels.Words(&p)...), n+p.Chunks
		}
		total += n
		d.stats.Weights += uint64(n) * uint64(s.job.ChunkBytes)
		at := len(body)
		body = append(body, make([]byte, kernels.StageBytes)...)
		copy(body[at:], kernels.Words(&s.job))
		copy(body[at+kernels.VectorIn:], kernels.Words(&s.vec))
		switch s.job.Then {
		case kernels.ThenHost:
			d.stats.Returned += uint64(n) * uint64(kernels.OutBytes(int(s.job.Rows)))
		case kernels.ThenOut:
			d.stats.Returned += 4 * uint64(s.vec.Tokens) * uint64(s.vec.Cols)
		default:
			d.stats.Returned += 128
		}
	}
	partsAt := kernels.PartsAt
	switch {
	case listAt != 0:
		partsAt = listAt + len(body)
	case len(stages) > kernels.MaxStages || len(parts) > kernels.MaxParts*kernels.PartBytes:
		panic("tensix: a job without room for its description")
	default:
		listAt = kernels.StagesAt
	}
	d.cast(uint64(partsAt), parts)
	d.cast(uint64(listAt), body)
	d.cast(kernels.BellAt+4, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(listAt)), uint32(partsAt)))
	return d.ring(name, total, (len(stages)+kernels.MaxStages-1)/kernels.MaxStages)
}

// part describes a slice to the firmware.
func (d *Device) part(s *slice) kernels.Part {
	if s.n == 0 {
		s.n = s.m.chunks
	}
	seg := s.m.segs[s.seg]
	p := kernels.Part{
		Chunks: uint32(s.n), Weights: uint32(seg.base) + uint32(s.c/len(d.tiles)*seg.bytes), Stride: uint32(seg.stride), Turn: uint32(seg.turn),
		Scale: math.Float32bits(s.scale),
	}
	p.DstLo, p.DstHi = d.hostAt(s.offset)
	return p
}

// ring starts the job that has been described and waits for every tile's completion line, as long as for so many short jobs.
func (d *Device) ring(name string, total uint32, jobs int) error {
	d.job++
	d.c.Ring(kernels.BellAt, d.job)
	limit := d.limit(jobs)
	start := time.Now()
	var slowest, chunks uint32
	var stages [kernels.Thens]uint32
	for i := range d.tiles {
		line := d.host.Bytes[i*kernels.CompletionBytes:]
		for {
			w := func(n int) uint32 { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&line[4*n]))) }
			if w(0) == d.job && w(kernels.CompletionBytes/4-1) == ^d.job {
				chunks += w(1)
				slowest = max(slowest, w(2))
				for k := range stages {
					stages[k] = max(stages[k], w(kernels.CompletionClocks/4+k))
				}
				break
			}
			if !limit() {
				return d.diagnose(name, i)
			}
		}
	}
	if chunks != total {
		return fmt.Errorf("tensix: %s: the tiles report %d chunks done of %d", name, chunks, total)
	}
	d.stats.Jobs++
	d.stats.Chunks += uint64(chunks)
	d.stats.Sent += 4
	d.stats.Returned += uint64(len(d.tiles)) * kernels.CompletionBytes
	d.stats.TileClocks += uint64(slowest)
	d.stats.Waited += time.Since(start)
	for k, n := range stages {
		d.stats.StageClocks[k] += uint64(n)
	}
	return nil
}

// collect turns a slice's results into integers.
func (d *Device) collect(s slice, tokens, first, all int) error {
	m, size := s.m, kernels.OutBytes(kernels.Rows(tokens))
	for k := range s.n {
		o := kernels.ChunkRows * (s.c + k)
		src := d.host.Bytes[s.offset+k*size:][:size]
		outputs := min(kernels.ChunkRows, s.p.rows(all)-o)
		for done := 0; done < outputs; {
			at, room := s.p.at(o+done, first, all)
			stride, _ := s.p.at(o+done, first+1, all)
			n := min(outputs-done, room)
			if err := kernels.UnpackOut(s.p.Y[at:], stride-at, m.Kind, src, tokens, done, n, s.seg > 0); err != nil {
				return fmt.Errorf("tensix: %s, chunk %d from tile %v: %w", m.Name, s.c+k, d.tiles[(m.segs[s.seg].turn+s.c+k)%len(d.tiles)], err)
			}
			done += n
		}
	}
	return nil
}

// diagnose says what the tile that did not answer was doing.
func (d *Device) diagnose(name string, i int) error {
	t := d.tiles[i]
	var what []string
	for n, s := range []string{"chunks read", "unpacked", "packed", "sent"} {
		v, err := d.c.Read32(t, kernels.Line(kernels.LineFilled+n))
		if err != nil {
			return errors.Join(ErrTimeout, err)
		}
		what = append(what, fmt.Sprintf("%s %d", s, v))
	}
	for core, s := range coreNames[:4] {
		if v, err := d.c.Read32(t, kernels.Line(kernels.LineDone+core)); err == nil && v != d.job {
			what = append(what, fmt.Sprintf("%s is still at job %d", s, v+1))
		}
	}
	return fmt.Errorf("%w: %s, job %d: tile %v (number %d of %d) is silent: %s (counted since the start); run `trit selftest --device tensix`, reset the card (tt-smi -r) if that fails, or use --device cpu",
		ErrTimeout, name, d.job, t, i, len(d.tiles), strings.Join(what, ", "))
}
