package part

import (
	"math"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/weights"
)

// Loader makes the parts of one model resident.
type Loader struct {
	Weights  *weights.Set
	Products Products
	Block    *Block
	Pages    *Pages
	Adapter  *Adapter // nil: none
	Progress func()   // hears of each projection, may be nil
}

// Block is the rows that go through the layers together, of one or several sequences, and what the parts need to compute them.
// All parts of a model share one; a forward pass runs alone.
type Block struct {
	pool        *par.Pool
	products    Products
	weights     WeightProducts // the same, or nil where those cannot
	dense       *DenseProduct
	activations Activations
	width       int // D, of the residual stream
	widest      int // of all inputs and the stream
	rotated     int // of the inputs that are rotated
	heads       int // the most values of all queries of a row
	kvHeads     int // of its keys
	room        int // rows that the buffers have room for

	n    int
	runs []run
	rows []rowAt // [N]

	X      []float32 // [N, D] the residual stream
	h      []float32 // [N, widest] a part's input
	turned []float32 // [N, widest of those] an input that is rotated
	tmp    []float32 // [N, widest] a row's own, for the length of a stage; of a token that is decoded alone, its gate

	slots []slot // products of up to so many projections with one input
	xq    []int8 // [N, cols16]
	xs    []float32
	xsum  []int32

	// Of attention.
	q, k, v []float32 // [N, heads], [N, kvHeads]
	codes   []int8    // [N, KV, hd16] for storing keys and values
	tiles   []queryTile
	spans   int        // of the longest tile
	most    int        // rows of the tile with most
	parts   []attnSums // [tiles, KV, spans] when threads share spans
	workers []tileScratch
	ropes   []*ropeTable

	// Of a feed-forward with squared ReLU, for one token.
	up   []float32
	open []int32 // where the gate is open
}

// slot is where the product of one projection goes.
type slot struct {
	out16, outDense int       // the most outputs of a projection with integer sums, and of another
	rank            int       // of an adapter
	acc             []int32   // [N, out16] in panels, of a ternary one
	scale           []float32 // [N] the activation scales it was made with
	out             []float32 // [N, out] of another one
	low             []float32 // [N, rank] of its adapter
}

// rowAt says where a row of the block belongs.
type rowAt struct {
	cache *Cache
	pos   int
}

// run is neighbouring rows of one sequence.
type run struct{ row, n int }

// NewBlock is a block of rows of width values, D.
func NewBlock(pool *par.Pool, products Products, width int) *Block {
	weights, _ := products.(WeightProducts)
	return &Block{
		pool: pool, products: products, weights: weights, dense: NewDenseProduct(pool.Threads()), width: width, widest: width,
		workers: make([]tileScratch, pool.Threads()),
	}
}

// Round chooses how inputs of projections of weights alone are rounded.
func (b *Block) Round(a Activations) { b.activations = a }

// N is the number of rows.
func (b *Block) N() int { return b.n }

// makeRoom makes the buffers wide enough for a projection whose product goes to slot i.
func (b *Block) makeRoom(i int, l *linear) {
	for len(b.slots) <= i {
		b.slots = append(b.slots, slot{})
	}
	s := &b.slots[i]
	b.widest = max(b.widest, l.In)
	if l.Rotation != nil {
		b.rotated = max(b.rotated, l.In)
	}
	if l.Arithmetic != Ternary8 {
		s.outDense = max(s.outDense, l.stride())
	} else {
		s.out16 = max(s.out16, roundUp16(l.Out))
	}
	if l.lora != nil {
		s.rank = max(s.rank, l.lora.rank)
	}
}

// Start empties the block.
func (b *Block) Start() { b.n, b.runs, b.rows = 0, b.runs[:0], b.rows[:0] }

// Add adds n rows behind the tokens that a cache holds, and makes room for them there.
func (b *Block) Add(c *Cache, n int) error {
	if err := c.grow(c.n + n); err != nil {
		return err
	}
	b.runs = append(b.runs, run{b.n, n})
	for i := range n {
		b.rows = append(b.rows, rowAt{c, c.n + i})
	}
	c.n += n
	b.n += n
	return nil
}

// Pos is the position of row i in its sequence.
func (b *Block) Pos(i int) int { return b.rows[i].pos }

// Prepare makes all buffers fit the rows that were added. It allocates only when there are more than ever before. It returns
// the length of the longest sequence.
func (b *Block) Prepare() (longest int) {
	b.grow(b.n)
	for _, r := range b.rows {
		longest = max(longest, r.pos+1)
	}
	for _, r := range b.ropes {
		r.grow(longest)
	}
	b.cutTiles()
	return longest
}

func (b *Block) grow(n int) {
	if n <= b.room {
		return
	}
	b.room = n
	b.X = make([]float32, n*b.width)
	b.h = make([]float32, n*b.widest)
	b.tmp = make([]float32, n*b.widest)
	b.turned = make([]float32, n*b.rotated)
	b.xq = make([]int8, n*roundUp16(b.widest))
	b.xs = make([]float32, n)
	b.xsum = make([]int32, n)
	b.q = make([]float32, n*b.heads)
	b.k = make([]float32, n*b.kvHeads)
	b.v = make([]float32, n*b.kvHeads)
	b.codes = make([]int8, n*b.kvHeads)
	for i := range b.slots {
		s := &b.slots[i]
		s.acc = make([]int32, n*s.out16)
		s.scale = make([]float32, 0, n)
		s.out = make([]float32, n*s.outDense)
		s.low = make([]float32, n*s.rank)
	}
}

// Rows of the block's stream as one vector, [N, D].
func (b *Block) Stream() []float32 { return b.X[:b.n*b.width] }

// Row is row i of the residual stream.
func (b *Block) Row(i int) []float32 { return b.X[i*b.width:][:b.width] }

// Spare is a row's buffer of D values that no part needs between layers.
func (b *Block) Spare(i int) []float32 { return b.tmp[i*b.width:][:b.width] }

// Finite says whether all numbers of the stream are finite: a NaN or infinity anywhere in the layers ends up there.
func (b *Block) Finite() bool { return Finite(b.Stream()) }

// Finite says whether x has neither NaN nor infinity.
func Finite(x []float32) bool {
	sum := float64(kernel.Sum(x))
	return !math.IsNaN(sum) && !math.IsInf(sum, 0)
}
