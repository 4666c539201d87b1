// Package cpu is the engine of this machine's cores: ternary products on a pool of workers, weights in huge pages and in a packed
// copy on disk, a screen of the head.
package cpu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// Backend is the model.Backend of this machine's cores.
type Backend struct {
	// Threads is the number of workers, 0 for as many as the process may use.
	Threads int
	// Kernels selects an implementation by name, such as "generic" or "avx2"; "" is the best one this CPU runs.
	// It holds for the whole process.
	Kernels string
	// CacheDir, when set, is where a copy of the weights in this engine's own layout is kept, so that the next start
	// takes as long as reading it. It is made in the background of the first start; Close waits for it.
	CacheDir string
	// Adapter, when set, is added to the model's projections.
	Adapter *part.Adapter
	// Note, when set, hears of what went wrong without stopping anything, such as a cache that cannot be written.
	Note func(error)
	// Progress, when set, hears of loading: so many of total matrices are done.
	Progress func(done, total int)
}

// Load makes the model resident on the CPU.
func (b Backend) Load(ctx context.Context, c *model.Config, w *weights.Set) (model.Engine, error) {
	if b.Kernels != "" {
		if err := kernel.SetTier(b.Kernels); err != nil {
			return nil, err
		}
	}
	note := func(err error) {
		if b.Note != nil {
			b.Note(err)
		}
	}
	p := newProducts(b.Threads)
	if b.CacheDir != "" && c.Weights() >= packedMin {
		var err error
		if p.packed, err = openPacked(b.CacheDir, w); err != nil {
			note(err)
		}
	}
	var saving sync.WaitGroup
	e, err := engine.New(ctx, c, w, p.pool, p, engine.Options{
		Adapter: b.Adapter, Progress: b.Progress, Closed: saving.Wait, Loaded: func() {
			if p.packed != nil {
				p.packed.close()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if p.packed != nil && p.packed.missed {
		saving.Go(func() {
			if err := errors.Join(p.packed.save(), removeOldCopies(b.CacheDir, packedKeep)); err != nil {
				note(fmt.Errorf("model: the packed copy of the weights was not written, so the next start is not faster: %w", err))
			}
		})
	}
	return e, nil
}

// MatrixBytes is what the CPU engine keeps of a ternary matrix of rows by cols weights, and reads for a token.
func MatrixBytes(rows, cols int) int64 {
	if kernel.PreferT5() {
		return int64(kernel.T5Bytes(rows, cols))
	}
	return int64(kernel.T16Bytes(rows, cols))
}

// CopyBytes is what the CPU engine keeps besides of matrices whose inputs are mostly zeros, laid out for products that skip those.
// Once most gates have been closed for some tokens it makes a copy of up_proj too, which takes as much again.
func CopyBytes(c *model.Config) (n int64) {
	for _, p := range c.Projections() {
		if p.Sparse && p.Role == part.RoleDown && p.Arithmetic == part.Ternary8 {
			n += int64(p.In) * int64(kernel.ColumnBytes(p.Out))
		}
	}
	return n
}

// cpuProducts multiplies on the pool, a panel of rows at a time.
type cpuProducts struct {
	*store
	matrices []cpuMatrix
	ups      int     // sparse matrices of RoleUp so far
	screen   *screen // of the head, nil where it is small

	// What Multiply is at; work reads it.
	jobs    []cpuJob
	x       []int8
	xsum    []int32
	scratch [][]byte // one per worker
	work    func(i, worker int)

	// The same for products of weights alone.
	weights      []kernel.GroupMatrix
	weightJobs   []weightJob
	planes       *kernel.Planes
	groupScratch [][kernel.GroupScratch]byte // one per worker
	weightWork   func(i, worker int)

	// The same for a product by columns.
	index     []int32
	value     []int8
	columnsOf *cpuMatrix
	columnsY  []int32 // rows rounded up to kernel.ColumnRows

	columnsScratch []int32
	columnWork     func(i, worker int)

	// And by rows.
	rowsOf   *cpuMatrix
	rowsY    []int32 // of the rows in rowIndex
	rowIndex []int32
	rowWork  func(i, worker int)
}

// cpuMatrix is a matrix, and copies of it for products that leave things out, where those may pay.
type cpuMatrix struct {
	rows, cols int
	w          []byte // layout T5 where the kernels prefer it, else T16
	t5         bool
	byColumn   []byte // of down_proj, whose input is mostly zeros: kernel.ColumnBytes(rows) a column
	byRow      []byte // of up_proj, when its output is mostly not needed: kernel.RowsBytes(rows, cols)
	patience   int    // tokens in a row for which byRow would have paid before it is made; 0: never
	paid       int    // how many that were
}

// weightJob is one matrix of a MultiplyWeights and the number of its first panel among all.
type weightJob struct {
	m     *kernel.GroupMatrix
	y     []float32
	first int
}

// LoadWeights makes a matrix of weights alone resident.
func (p *cpuProducts) LoadWeights(_ part.Matrix, read func() (*ternary.Groups, error)) (int, error) {
	g, err := read()
	if err != nil {
		return 0, err
	}
	m := g.M
	codes := p.arena.Alloc(len(m.Codes))[:len(m.Codes)]
	copy(codes, m.Codes)
	m.Codes = codes
	p.weights = append(p.weights, m)
	return len(p.weights) - 1, nil
}

// MultiplyWeights computes products of weights alone: see part.WeightProducts.
func (p *cpuProducts) MultiplyWeights(_ context.Context, ids []int, y [][]float32, x *kernel.Planes) error {
	p.weightJobs, p.planes = p.weightJobs[:0], x
	panels := 0
	for i, id := range ids {
		m := &p.weights[id]
		p.weightJobs = append(p.weightJobs, weightJob{m, y[i], panels})
		panels += (m.Rows + part.PanelRows - 1) / part.PanelRows
	}
	if p.groupScratch == nil {
		p.groupScratch = make([][kernel.GroupScratch]byte, p.pool.Threads())
	}
	p.pool.Run(panels, p.weightWork)
	return nil
}

// weightPanel computes one panel of rows of one of the current matrices.
func (p *cpuProducts) weightPanel(i, worker int) {
	j := len(p.weightJobs) - 1
	for p.weightJobs[j].first > i {
		j--
	}
	job := &p.weightJobs[j]
	lo := (i - job.first) * part.PanelRows
	kernel.GroupMatMul(job.y, job.m.Rows, job.m, lo, min(lo+part.PanelRows, job.m.Rows), p.planes, p.groupScratch[worker][:])
}

// cpuJob is one matrix of a Multiply and the number of its first panel among all.
type cpuJob struct {
	m     *cpuMatrix
	y     []int32
	first int
}

// The layouts in the packed copy.
const (
	t16Kind     = "t16 1"
	t5Kind      = "t5 1"
	columnsKind = "columns 1"
)

func newProducts(threads int) *cpuProducts {
	p := &cpuProducts{store: &store{pool: par.New(threads)}}
	p.work, p.columnWork, p.rowWork, p.weightWork = p.panel, p.columns, p.rows, p.weightPanel
	return p
}

// Load makes a matrix and its copies resident, from the packed copy as far as that has them; only for what is missing there
// does it read the model's own file.
func (p *cpuProducts) Load(mx part.Matrix, read func() (*ternary.Matrix, error)) (id int, scale []float32, err error) {
	name, rows, cols := mx.Name, mx.Rows, mx.Cols
	read = sync.OnceValues(read)
	c := cpuMatrix{rows: rows, cols: cols, t5: kernel.PreferT5()}
	kind, size := t16Kind, kernel.T16Bytes
	if c.t5 {
		kind, size = t5Kind, kernel.T5Bytes
	}
	var ok bool
	if c.w, scale, ok = p.piece(name, kind, rows, cols, size(rows, cols)); !ok || len(scale) != 1 && len(scale) != rows {
		m, err := read()
		if err != nil {
			return 0, nil, err
		}
		if c.t5 {
			p.pool.For(kernel.Pad16(rows), kernel.TileRows, func(lo, hi int) {
				t16 := m.T16[kernel.T16Bytes(lo, cols):kernel.T16Bytes(hi, cols)]
				kernel.T5FromT16(c.w[kernel.T5Bytes(lo, cols):kernel.T5Bytes(hi, cols)], t16, hi-lo, cols)
			})
		} else {
			copy(c.w, m.T16)
		}
		scale = m.Scale
		p.made(name, kind, rows, cols, scale, c.w)
	}
	if mx.Sparse && mx.Role == part.RoleDown {
		data, _, ok := p.piece(name+".columns", columnsKind, rows, cols, cols*kernel.ColumnBytes(rows))
		if !ok {
			m, err := read()
			if err != nil {
				return 0, nil, err
			}
			p.pool.For(kernel.Pad16(cols)/kernel.TileCols, 4, func(lo, hi int) {
				kernel.ColumnsFromT16(data, m.T16, rows, cols, lo*kernel.TileCols, min(hi*kernel.TileCols, cols))
			})
			p.made(name+".columns", columnsKind, rows, cols, nil, data)
		}
		c.byColumn = data
	}
	if mx.Sparse && mx.Role == part.RoleUp && cols%kernel.RowCols == 0 {
		p.ups++
		c.patience = rowsPatience + p.ups/8 // not all layers' copies at one token
	}
	p.matrices = append(p.matrices, c)
	return len(p.matrices) - 1, scale, nil
}

// A product by columns is the faster one below this share of activations other than zero, and one by rows below that
// share of rows that are needed (SPEED.md).
var (
	columnsPay = 0.55
	rowsPay    = 0.45
)

// MultiplyRows computes some rows: see part.RowProducts.
func (p *cpuProducts) MultiplyRows(id int, y, index []int32, x []int8, xsum []int32) bool {
	m := &p.matrices[id]
	if m.patience == 0 || float64(len(index)) > rowsPay*float64(m.rows) {
		m.paid = 0
		return false
	}
	if m.byRow == nil {
		if m.paid++; m.paid < m.patience {
			return false
		}
		p.copyRows(m)
	}
	p.rowsOf, p.rowsY, p.rowIndex, p.x, p.xsum = m, y, index, x, xsum
	p.pool.Run(p.pool.Threads(), p.rowWork)
	return true
}

// rowsPatience is for how many tokens most gates must be closed before up_proj is copied.
const rowsPatience = 2

// copyRows makes m.byRow.
func (p *cpuProducts) copyRows(m *cpuMatrix) {
	m.byRow = p.arena.Alloc(kernel.RowsBytes(m.rows, m.cols))[:kernel.RowsBytes(m.rows, m.cols)]
	p.pool.For(m.rows, part.PanelRows, func(lo, hi int) {
		t16 := make([]byte, kernel.T16Bytes(part.PanelRows, m.cols))
		for r := lo; r < hi; r += part.PanelRows {
			n := min(part.PanelRows, hi-r)
			size := kernel.T16Bytes(n, m.cols)
			if m.t5 {
				kernel.T16FromT5(t16[:size], m.w[kernel.T5Bytes(r, m.cols):kernel.T5Bytes(r+n, m.cols)], kernel.Pad16(n), m.cols)
			} else {
				copy(t16, m.w[kernel.T16Bytes(r, m.cols):][:size])
			}
			kernel.RowsFromT16(m.byRow[kernel.RowsBytes(r, m.cols):kernel.RowsBytes(r+n, m.cols)], t16[:size], n, m.cols)
		}
	})
}

// rows computes one worker's share of the rows asked for.
func (p *cpuProducts) rows(i, _ int) {
	n, parts := len(p.rowIndex), p.pool.Threads()
	lo, hi := n*i/parts, n*(i+1)/parts
	kernel.TernaryRows(p.rowsY[lo:hi], p.rowsOf.byRow, p.rowIndex[lo:hi], p.x, p.xsum[0])
}

// Multiply computes products: see part.Products.
func (p *cpuProducts) Multiply(_ context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error {
	if m := &p.matrices[ids[0]]; m.byColumn != nil && len(xsum) == 1 && p.multiplyColumns(m, y[0], x, xsum) {
		return nil
	}
	p.jobs, p.x, p.xsum = p.jobs[:0], x, xsum
	panels := 0
	for i, id := range ids {
		m := &p.matrices[id]
		p.jobs = append(p.jobs, cpuJob{m, y[i], panels})
		panels += (m.rows + part.PanelRows - 1) / part.PanelRows
	}
	if p.scratch == nil {
		p.scratch = make([][]byte, p.pool.Threads())
	}
	p.pool.Run(panels, p.work)
	return nil
}

// multiplyColumns computes y = Ŵ·x̂ from the columns whose activation is not zero, unless there are too many of them.
func (p *cpuProducts) multiplyColumns(m *cpuMatrix, y []int32, x []int8, xsum []int32) bool {
	if len(p.index) < len(x) {
		p.index, p.value = make([]int32, len(x)), make([]int8, len(x))
	}
	n := kernel.Nonzeros(p.index, p.value, x)
	if float64(n) > columnsPay*float64(len(x)) {
		return false
	}
	rows := (m.rows + kernel.ColumnRows - 1) / kernel.ColumnRows * kernel.ColumnRows
	direct := rows == len(y)
	p.columnsOf, p.columnsY, p.xsum = m, y, xsum
	if !direct {
		p.columnsY = slices.Grow(p.columnsScratch[:0], rows)[:rows]
		p.columnsScratch = p.columnsY
	}
	p.index, p.value = p.index[:n], p.value[:n]
	p.pool.Run(p.pool.Threads(), p.columnWork)
	p.index, p.value = p.index[:cap(p.index)], p.value[:cap(p.value)]
	if !direct {
		copy(y, p.columnsY)
	}
	return true
}

// columns computes one worker's share of the rows, a run of them so that each column is read in one piece.
func (p *cpuProducts) columns(i, _ int) {
	blocks, parts := len(p.columnsY)/kernel.ColumnRows, p.pool.Threads()
	lo, hi := blocks*i/parts*kernel.ColumnRows, blocks*(i+1)/parts*kernel.ColumnRows
	stride := kernel.ColumnBytes(p.columnsOf.rows)
	kernel.TernaryColumns(p.columnsY[lo:hi], p.columnsOf.byColumn[lo/4:], stride, p.index, p.value, p.xsum[0])
}

// panel computes one panel of one of the current matrices.
func (p *cpuProducts) panel(i, worker int) {
	j := len(p.jobs) - 1
	for p.jobs[j].first > i {
		j--
	}
	job := &p.jobs[j]
	rows, cols, tokens := kernel.Pad16(job.m.rows), kernel.Pad16(job.m.cols), len(p.xsum)
	y, first, width := part.Panel(job.y, i-job.first, tokens, rows)
	size := kernel.T16Bytes
	if job.m.t5 {
		size = kernel.T5Bytes
	}
	w := job.m.w[size(first, cols):][:size(width, cols)]
	switch {
	case tokens == 1 && job.m.t5:
		kernel.TernaryMatVecT5(y, w, p.x, p.xsum[0])
	case job.m.t5:
		kernel.TernaryMatMulT5(y, w, p.x, p.xsum)
	case tokens == 1:
		kernel.TernaryMatVec(y, w, p.x, p.xsum[0])
	default:
		if n := kernel.MatMulScratch(cols); len(p.scratch[worker]) < n {
			p.scratch[worker] = make([]byte, n)
		}
		kernel.TernaryMatMul(y, w, p.x, p.xsum, p.scratch[worker])
	}
}

// LoadHead makes the screen of the head, where that is large.
func (p *cpuProducts) LoadHead(head *weights.Dense) (bool, error) {
	if kept, _ := screenBytes(head.Rows, head.Cols); kept > 0 {
		if p.screen = newScreen(head, p.store); !part.Finite(p.screen.norm[:head.Rows]) {
			p.screen = nil // of a damaged head nothing can be bounded: computing all scores finds the tensor and names it
		}
	}
	return p.screen != nil, nil
}

// BestTokens finds the best tokens of each state.
func (p *cpuProducts) BestTokens(_ context.Context, dst [][]model.Scored, x []float32) error {
	D := len(x) / len(dst)
	for len(dst) > 0 {
		n := min(len(dst), screenQueries)
		for i := range n {
			p.screen.add(x[i*D:][:D])
		}
		p.screen.best(p.pool, dst[:n])
		dst, x = dst[n:], x[n*D:]
	}
	return nil
}

// Close gives everything back.
func (p *cpuProducts) Close() error {
	p.pool.Close()
	p.matrices, p.weights, p.screen = nil, nil, nil
	p.arena.Release()
	return nil
}
