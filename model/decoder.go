package model

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// blockTokens is how many tokens go through the layers together. Longer inputs are cut; the result is the same.
const blockTokens = 256

// decoder is an Engine: float work on the host, ternary products wherever Products has them.
type decoder struct {
	cfg      *Config
	pool     *par.Pool
	products Products
	pages    *pagePool

	embed     *weights.Dense // [V, D]
	positions *weights.Dense // [MaxContext, D], learned positions only
	head      *weights.Dense // [V, D], the embedding when tied; nil when the head is ternary
	bitHead   [1]linear      // the head when it is ternary
	finalNorm norm
	layers    []layer
	dense     bool         // some projection is dense
	screen    *screen      // of the head, nil where it is small
	screener  HeadScreener // the device's, or nil
	blocks    []int        // of BlockRunner, and how many tokens it takes: none where it does not run them
	blockRows int
	step      StepRunner // runs all layers, or nil
	store     *store
	host      *CPU           // what to do with weights that stay in this machine's memory; nil on a device
	saving    sync.WaitGroup // of the packed copy
	loaded    int            // matrices so far

	mu      sync.Mutex // held by Forward
	rope    *rope
	local   *rope // of layers with a window
	s       scratch
	workers []workerScratch
	stages  stages
	closed  bool
}

// layer is one block of the decoder.
type layer struct {
	attnNorm, attnSubNorm, ffnNorm, ffnSubNorm norm
	attnPostNorm, ffnPostNorm                  norm // Config.PostNorms
	qNorm, kNorm                               norm // over a head
	window                                     int  // how many tokens it sees, 0 for all
	linears                                    [7]linear
}

// norm is an RMSNorm, or a LayerNorm when it has a bias. The zero value is none.
type norm struct {
	w, b []float32
	eps  float32
}

func (n *norm) apply(y, x []float32) {
	if n.b != nil {
		layerNorm(y, x, n.w, n.b, n.eps)
		return
	}
	kernel.RMSNorm(y, x, n.w, n.eps)
}

// layerNorm computes y = (x-mean)/sqrt(var+eps)·w + b with sums in float64.
func layerNorm(y, x, w, b []float32, eps float32) {
	var sum, sq float64
	for _, v := range x {
		sum += float64(v)
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		d := float64(v) - mean
		sq += float64(d * d)
	}
	inv := 1 / math.Sqrt(sq/float64(len(x))+float64(eps))
	for i, v := range x {
		n := float32((float64(v) - mean) * inv)
		y[i] = float32(n*w[i]) + b[i]
	}
}

// linear is a projection: ternary with int8 activations, or dense.
type linear struct {
	name    string
	in, out int
	id      int            // of the ternary matrix in Products
	scale   []float32      // ternary: one, or one per row
	dense   *weights.Dense // else
	norm    norm           // in front, of this projection alone (Config.InputNorm)
	bias    []float32
	lora    *lora // nil: none
}

// run is one sequence's tokens inside the current block.
type run struct {
	input *Input
	cache *kvCache
	first int // the input's token that is row `row` of the block
	row   int
	n     int
}

// scratch holds the block's activations. B is the block's number of rows.
type scratch struct {
	b    int
	runs []run
	rows []rowAt // [B]

	tiles []queryTile
	spans int        // of the longest tile
	split bool       // threads share spans
	parts []attnSums // [tiles, KV, spans] then

	x    []float32 // [B, D] residual stream
	h    []float32 // [B, max(D, H·hd, F)] normed, or attention's output, or the activated gate
	q    []float32 // [B, H·hd]
	k, v []float32 // [B, KV·hd]
	up   []float32 // [F] of one token

	row []byte    // of the embedding as the file has it
	tmp []float32 // [B, max(D, H·hd, F)] a row's own, for the length of a stage; of a token that is decoded alone, its gate

	open []int32 // where the gate of the one token is open, at most F

	codes    []int8       // [B, KV, hd16] for storing keys and values
	xq       []int8       // [B, cols16]
	xs       []float32    // [B] activation scales
	xsum     []int32      // [B]
	acc      [3][]int32   // [B, out16] in panels, the products of up to three projections with one input
	accScale [3][]float32 // [B] the activation scales they were made with
	out      [3][]float32 // [B, out] the same for dense projections
	low      [3][]float32 // [B, rank] of adapters
	ids      []int
	y        [][]int32

	headAcc  []int32 // [headTokens, V16] in panels, of a ternary head
	tops     []top
	screened [][]Scored // where the best tokens of a screened pass go
	screenX  []float32  // their hidden states, for the device
	logits   [][]float32
}

// rowAt says where a row of the block belongs.
type rowAt struct {
	cache *kvCache
	pos   int
}

// workerScratch is what one worker of the pool needs for itself.
type workerScratch struct {
	tile  tileScratch
	row   []float32 // [max(D, F)] one dequantised row
	panel []float32 // [blockTokens, PanelRows]
}

// NewDecoder makes an engine from weights with the products computed by p. It owns p from now on, and closes it
// when it fails.
func NewDecoder(ctx context.Context, c *Config, w *weights.Set, pool *par.Pool, p Products) (Engine, error) {
	return newDecoder(ctx, c, w, &store{pool: pool}, p, nil)
}

func newDecoder(ctx context.Context, c *Config, w *weights.Set, st *store, p Products, host *CPU) (Engine, error) {
	d := &decoder{cfg: c, pool: st.pool, products: p, pages: newPagePool(c), rope: newRope(c), local: newLocalRope(c), store: st, host: host}
	if host != nil && host.CacheDir != "" && c.projections() >= packedMin {
		var err error
		if st.packed, err = openPacked(host.CacheDir, w); err != nil {
			d.note(err)
		}
	}
	err := d.load(ctx, w)
	if kept, _ := c.ScreenBytes(); err == nil && host != nil && kept > 0 {
		d.screen = newScreen(d.head, st)
	}
	if st.packed != nil {
		st.packed.close()
	}
	if err != nil {
		st.arena.release()
		return nil, errors.Join(err, p.Close())
	}
	if st.packed != nil && st.packed.missed {
		d.saving.Go(func() {
			if err := errors.Join(st.packed.save(), removeOldCopies(host.CacheDir, packedKeep)); err != nil {
				d.note(fmt.Errorf("model: the packed copy of the weights was not written, so the next start is not faster: %w", err))
			}
		})
	}
	d.workers = make([]workerScratch, d.pool.Threads())
	d.stages = newStages(d)
	return d, nil
}

func (d *decoder) note(err error) {
	if d.host != nil && d.host.Note != nil {
		d.host.Note(err)
	}
}

// ternary reads the matrix of a projection and hands it to the products.
func (d *decoder) ternary(w *weights.Set, name string, rows, cols int) (id int, scale []float32, err error) {
	read := func() (*ternary.Matrix, error) { return w.Ternary(name+".weight", rows, cols) }
	if p, ok := d.products.(*cpuProducts); ok {
		return p.load(name, rows, cols, read)
	}
	m, err := read()
	if err != nil {
		return 0, nil, err
	}
	id, err = d.products.Load(name, m)
	return id, m.Scale, err
}

func (d *decoder) load(ctx context.Context, w *weights.Set) (err error) {
	c := d.cfg
	if d.embed, err = w.Dense(embedName+".weight", c.VocabSize, c.HiddenSize); err != nil {
		return err
	}
	d.s.row = rowBuffer(d.embed)
	switch {
	case c.TiedHead && c.floatLinear(headName):
		d.head = d.embed
	case c.floatLinear(headName):
		if d.head, err = w.Dense(headName+".weight", c.VocabSize, c.HiddenSize); err != nil {
			return err
		}
	default:
		d.bitHead[0] = linear{name: headName, in: c.HiddenSize, out: c.VocabSize}
		from := headName
		if c.TiedHead {
			from = embedName
		}
		if err := d.loadLinear(w, &d.bitHead[0], from); err != nil {
			return err
		}
	}
	if c.LearnedPositions {
		if d.positions, err = w.Dense(positionsName+".weight", c.MaxContext, c.HiddenSize); err != nil {
			return err
		}
	}
	if d.finalNorm, err = d.loadNorm(w, finalNormName, c.HiddenSize); err != nil {
		return err
	}
	d.layers = make([]layer, c.NumLayers)
	for n := range d.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.loadLayer(w, n); err != nil {
			return err
		}
	}
	if d.host != nil && d.host.Adapter != nil {
		return d.host.Adapter.attach(d.layers)
	}
	if p, ok := d.products.(HeadScreener); ok && d.head != nil {
		if ok, err = p.LoadHead(d.head); ok {
			d.screener = p
		}
		if err != nil {
			return err
		}
	}
	return d.loadBlocks()
}

func (d *decoder) loadLayer(w *weights.Set, n int) error {
	c, l := d.cfg, &d.layers[n]
	for _, t := range c.norms(l, n) {
		var err error
		if *t.dst, err = d.loadNorm(w, t.name, t.width); err != nil {
			return err
		}
	}
	if c.Sliding != nil && c.Sliding[n] {
		l.window = c.Window
	}
	for _, t := range c.layerProjections(n) {
		l.linears[t.at] = linear{name: t.name, in: t.in, out: t.out}
		if err := d.loadLinear(w, &l.linears[t.at], t.name); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) loadNorm(w *weights.Set, name string, n int) (norm, error) {
	v, err := w.Vector(name+".weight", n)
	if err != nil {
		return norm{}, err
	}
	if d.cfg.OffsetNorms {
		for i := range v {
			v[i]++
		}
	}
	out := norm{w: v, eps: d.cfg.NormEps}
	if d.cfg.LayerNorm {
		if out.b, err = w.Vector(name+".bias", n); err != nil {
			return norm{}, err
		}
	}
	return out, nil
}

// loadLinear reads a projection whose weights are those of the module from.
func (d *decoder) loadLinear(w *weights.Set, l *linear, from string) (err error) {
	if d.loaded++; d.host != nil && d.host.Progress != nil {
		d.host.Progress(d.loaded, 7*d.cfg.NumLayers)
	}
	if d.cfg.floatLinear(l.name) {
		d.dense = true
		l.dense, err = w.Dense(from+".weight", l.out, l.in)
	} else {
		var e error
		l.id, l.scale, e = d.ternary(w, from, l.out, l.in)
		if errors.Is(e, ternary.ErrMixedScales) { // weights alone were quantised, in groups: they run widened
			d.dense = true
			l.dense, err = w.Dense(from+".weight", l.out, l.in)
			return err
		}
		if e != nil {
			return e
		}
		if d.cfg.InputNorm != "" {
			if l.norm.w, err = w.Vector(l.name+"."+d.cfg.InputNorm+".weight", l.in); err == nil {
				l.norm.eps = d.cfg.InputNormEps
			}
		}
	}
	if err != nil {
		return err
	}
	if w.Has(l.name + ".bias") {
		l.bias, err = w.Vector(l.name+".bias", l.out)
	}
	return err
}

func (d *decoder) Config() *Config { return d.cfg }

func (d *decoder) NewCache(maxTokens int) (Cache, error) {
	if maxTokens <= 0 {
		maxTokens = d.cfg.MaxContext
	}
	if maxTokens > d.cfg.MaxContext {
		return nil, fmt.Errorf("model: a context of %d tokens; this model has %d", maxTokens, d.cfg.MaxContext)
	}
	return newKVCache(d.pages, maxTokens), nil
}

func (d *decoder) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.saving.Wait()
	d.screen = nil
	d.pages.close()
	d.store.arena.release()
	return d.products.Close()
}

// errClosed: the engine was closed before.
var errClosed = errors.New("model: the engine is closed")

func (d *decoder) Forward(ctx context.Context, batch []Input) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if err := d.check(batch); err != nil {
		return err
	}
	s := &d.s
	defer func() {
		if err != nil {
			for i := range batch {
				batch[i].Cache.(*kvCache).rollback()
			}
		}
	}()
	for i := range batch {
		batch[i].Cache.(*kvCache).begin()
	}
	// Cut the inputs into blocks; a block holds parts of as many inputs as fit.
	most := blockTokens
	if d.step != nil { // which runs long inputs a few tokens at a time, and keeps their keys and values
		most = d.blockRows
	}
	s.startBlock()
	for i := range batch {
		in := &batch[i]
		for done := 0; done < len(in.Tokens); {
			n := min(len(in.Tokens)-done, most-s.b)
			if err := s.add(in, done, n); err != nil {
				return err
			}
			if done += n; s.b == most {
				if err := d.block(ctx); err != nil {
					return err
				}
				s.startBlock()
			}
		}
	}
	if s.b > 0 {
		return d.block(ctx)
	}
	return nil
}

func (d *decoder) check(batch []Input) error {
	for i := range batch {
		if err := checkInput(&batch[i], d.cfg); err != nil {
			return err
		}
		c, ok := batch[i].Cache.(*kvCache)
		if !ok || c.pool != d.pages {
			return errors.New("model: the cache is another engine's")
		}
		for j := range i {
			if batch[j].Cache == batch[i].Cache {
				return errors.New("model: one cache twice in a batch")
			}
		}
	}
	return nil
}

func (s *scratch) startBlock() { s.b, s.runs, s.rows = 0, s.runs[:0], s.rows[:0] }

// add puts n tokens of an input, from the first-th on, into the block and makes room for them in its cache.
func (s *scratch) add(in *Input, first, n int) error {
	c := in.Cache.(*kvCache)
	if err := c.grow(c.n + n); err != nil {
		return err
	}
	s.runs = append(s.runs, run{input: in, cache: c, first: first, row: s.b, n: n})
	for i := range n {
		s.rows = append(s.rows, rowAt{cache: c, pos: c.n + i})
	}
	c.n += n
	s.b += n
	return nil
}

// grow makes the buffers fit b rows. It allocates only when b is larger than ever before.
func (s *scratch) grow(c *Config, b int, dense bool) {
	if b <= len(s.xs) {
		return
	}
	attn, kv := c.NumHeads*c.HeadDim, c.NumKVHeads*c.HeadDim
	widest := max(c.HiddenSize, attn, c.IntermediateSize)
	out16 := roundUp16(widest)
	s.x = make([]float32, b*c.HiddenSize)
	s.h = make([]float32, b*widest)
	s.q = make([]float32, b*attn)
	s.k = make([]float32, b*kv)
	s.v = make([]float32, b*kv)
	s.codes = make([]int8, b*c.NumKVHeads*kernel.Pad16(c.HeadDim))
	s.xq = make([]int8, b*out16)
	s.xs = make([]float32, b)
	s.xsum = make([]int32, b)
	s.tmp = make([]float32, b*widest)
	s.up = make([]float32, c.IntermediateSize)
	for i, out := range [3]int{max(widest, c.IntermediateSize), max(kv, c.IntermediateSize), kv} {
		s.acc[i] = make([]int32, b*roundUp16(out))
		s.accScale[i] = make([]float32, 0, b)
		if dense {
			s.out[i] = make([]float32, b*out)
		}
	}
}

// block runs the rows of s through every layer and fills what their inputs asked for.
func (d *decoder) block(ctx context.Context) error {
	c, s := d.cfg, &d.s
	s.grow(c, s.b, d.dense)
	longest := 0
	for _, r := range s.rows {
		longest = max(longest, r.pos+1)
	}
	if !c.LearnedPositions {
		d.rope.grow(longest)
		if d.local != nil {
			d.local.grow(longest)
		}
	}
	d.planAttention()
	d.embedRows()
	if s.b <= d.blockRows && !d.tracing() {
		run := d.resident
		if d.step != nil && d.step.StepFits(s.b, longest) {
			run = d.whole
		} else if err := d.pagesToHost(); err != nil {
			return err
		}
		if err := run(ctx); err != nil {
			return err
		}
		if d.finite(len(d.layers)-1) == nil {
			return d.output(ctx)
		}
		d.embedRows() // once more, layer by layer: which one was it?
	}
	if err := d.pagesToHost(); err != nil {
		return err
	}
	d.trace("embed", s.x)
	for n := range d.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.layer(ctx, n); err != nil {
			return err
		}
		if err := d.finite(n); err != nil {
			return err
		}
		if d.tracing() {
			d.trace(fmt.Sprintf("layer.%d", n), s.x)
		}
	}
	return d.output(ctx)
}

// embedRows begins the residual stream.
func (d *decoder) embedRows() {
	c, s := d.cfg, &d.s
	for _, r := range s.runs {
		for i, id := range r.input.Tokens[r.first : r.first+r.n] {
			x := s.x[(r.row+i)*c.HiddenSize:][:c.HiddenSize]
			d.embed.Widen(x, d.embed.ReadRow(s.row, int(id)))
			if c.EmbedScale != 0 {
				kernel.Scale(x, c.EmbedScale)
			}
			if d.positions != nil {
				h := s.h[:c.HiddenSize]
				d.positions.Row(h, s.rows[r.row+i].pos)
				kernel.Add(x, h)
			}
		}
	}
}

// finite is the guard against damaged weights: a NaN or infinity anywhere in the residual stream ends up here.
func (d *decoder) finite(layer int) error {
	n := d.s.b * d.cfg.HiddenSize
	if sum := kernel.Sum(d.s.x[:n]); math.IsNaN(float64(sum)) || math.IsInf(float64(sum), 0) {
		if d.cfg.KV == KVFloat16 {
			return fmt.Errorf("model: layer %d produced NaN or infinity; keys or values beyond 65504 do not fit float16: try --kv f32 (Options.KV)", layer)
		}
		return fmt.Errorf("model: layer %d produced NaN or infinity; its weights are damaged or its scales are wrong (model.layers.%d.*)", layer, layer)
	}
	return nil
}

func (d *decoder) tracing() bool {
	for _, r := range d.s.runs {
		if r.input.Trace != nil {
			return true
		}
	}
	return false
}

func (d *decoder) trace(name string, x []float32) {
	for _, r := range d.s.runs {
		if r.input.Trace != nil {
			r.input.Trace(name, x[r.row*d.cfg.HiddenSize:][:r.n*d.cfg.HiddenSize])
		}
	}
}
