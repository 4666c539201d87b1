package model

import (
	"context"
	"slices"
	"strings"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// CPU is the Backend of this machine's cores.
type CPU struct {
	// Threads is the number of workers, 0 for as many as the process may use.
	Threads int
	// Kernels selects an implementation by name, such as "generic" or "avx2"; "" is the best one this CPU runs.
	// It holds for the whole process.
	Kernels string
	// CacheDir, when set, is where a copy of the weights in this engine's own layout is kept, so that the next start
	// takes as long as reading it. It is made in the background of the first start; Close waits for it.
	CacheDir string
	// Adapter, when set, is added to the model's projections.
	Adapter *Adapter
	// Note, when set, hears of what went wrong without stopping anything, such as a cache that cannot be written.
	Note func(error)
	// Progress, when set, hears of loading: so many of total matrices are done.
	Progress func(done, total int)
}

// Load makes the model resident on the CPU.
func (b CPU) Load(ctx context.Context, c *Config, w *weights.Set) (Engine, error) {
	if b.Kernels != "" {
		if err := kernel.SetTier(b.Kernels); err != nil {
			return nil, err
		}
	}
	st := &store{pool: par.New(b.Threads)}
	p := &cpuProducts{store: st, sparse: c.Activation == ReLU2}
	p.work, p.columnWork, p.rowWork = p.panel, p.columns, p.rows
	return newDecoder(ctx, c, w, st, p, &b)
}

// CopyBytes is what the CPU engine keeps besides of up_proj and down_proj, laid out for products that skip zeros.
func (c *Config) CopyBytes() int64 {
	if c.Activation != ReLU2 || !c.Ternary {
		return 0
	}
	perLayer := int64(c.IntermediateSize) * int64(kernel.ColumnBytes(c.HiddenSize))
	if c.HiddenSize%kernel.RowCols == 0 {
		perLayer += int64(kernel.RowsBytes(c.IntermediateSize, c.HiddenSize))
	}
	return int64(c.NumLayers) * perLayer
}

// cpuProducts multiplies on the pool, a panel of rows at a time.
type cpuProducts struct {
	*store
	matrices []cpuMatrix
	sparse   bool // the activations in front of down_proj are mostly zeros

	// What Multiply is at; work reads it.
	jobs    []cpuJob
	x       []int8
	xsum    []int32
	scratch [][]byte // one per worker
	work    func(i, worker int)

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

// cpuMatrix is a matrix, and a copy of it for products that leave things out, where those may pay.
type cpuMatrix struct {
	*ternary.Matrix
	byColumn []byte // of down_proj, whose input is mostly zeros: kernel.ColumnBytes(Rows) a column
	byRow    []byte // of up_proj, whose output is mostly not needed: kernel.RowsBytes(Rows, Cols)
}

// cpuJob is one matrix of a Multiply and the number of its first panel among all.
type cpuJob struct {
	m     *cpuMatrix
	y     []int32
	first int
}

// The layouts of the copies in the packed copy.
const (
	columnsKind = "columns 1"
	rowsKind    = "rows 1"
)

func (p *cpuProducts) Load(name string, m *ternary.Matrix) (int, error) {
	c := cpuMatrix{Matrix: m}
	if p.sparse && strings.HasSuffix(name, ".down_proj") {
		size := m.Cols * kernel.ColumnBytes(m.Rows)
		data, _, ok := p.piece(name+".columns", columnsKind, m.Rows, m.Cols, size)
		if !ok {
			p.pool.For(kernel.Pad16(m.Cols)/kernel.TileCols, 4, func(lo, hi int) {
				kernel.ColumnsFromT16(data, m.T16, m.Rows, m.Cols, lo*kernel.TileCols, min(hi*kernel.TileCols, m.Cols))
			})
			p.made(name+".columns", columnsKind, m.Rows, m.Cols, nil, data)
		}
		c.byColumn = data
	}
	if p.sparse && strings.HasSuffix(name, ".up_proj") && m.Cols%kernel.RowCols == 0 {
		data, _, ok := p.piece(name+".rows", rowsKind, m.Rows, m.Cols, kernel.RowsBytes(m.Rows, m.Cols))
		if !ok {
			p.pool.For((m.Rows+kernel.TileRows-1)/kernel.TileRows, 4, func(lo, hi int) {
				first, last := lo*kernel.TileRows, min(hi*kernel.TileRows, m.Rows)
				t16 := m.T16[first/kernel.TileRows*kernel.T16Bytes(kernel.TileRows, m.Cols):][:kernel.T16Bytes(last-first, m.Cols)]
				kernel.RowsFromT16(data[kernel.RowsBytes(first, m.Cols):kernel.RowsBytes(last, m.Cols)], t16, last-first, m.Cols)
			})
			p.made(name+".rows", rowsKind, m.Rows, m.Cols, nil, data)
		}
		c.byRow = data
	}
	p.matrices = append(p.matrices, c)
	return len(p.matrices) - 1, nil
}

// A product by columns is the faster one below this share of activations other than zero, and one by rows below that
// share of rows that are needed (SPEED.md).
var (
	columnsPay = 0.55
	rowsPay    = 0.45
)

// multiplyRows computes some rows of Ŵ·x̂ for one token: y[i] is row index[i]. It does nothing and says so where it
// cannot, or where too many rows are asked for.
func (p *cpuProducts) multiplyRows(id int, y, index []int32, x []int8, xsum []int32) bool {
	m := &p.matrices[id]
	if m.byRow == nil || float64(len(index)) > rowsPay*float64(m.Rows) {
		return false
	}
	p.rowsOf, p.rowsY, p.rowIndex, p.x, p.xsum = m, y, index, x, xsum
	p.pool.Run(p.pool.Threads(), p.rowWork)
	return true
}

// rows computes one worker's share of the rows asked for.
func (p *cpuProducts) rows(i, _ int) {
	n, parts := len(p.rowIndex), p.pool.Threads()
	lo, hi := n*i/parts, n*(i+1)/parts
	kernel.TernaryRows(p.rowsY[lo:hi], p.rowsOf.byRow, p.rowIndex[lo:hi], p.x, p.xsum[0])
}

func (p *cpuProducts) Multiply(_ context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error {
	if m := &p.matrices[ids[0]]; m.byColumn != nil && len(xsum) == 1 && p.multiplyColumns(m, y[0], x, xsum) {
		return nil
	}
	p.jobs, p.x, p.xsum = p.jobs[:0], x, xsum
	panels := 0
	for i, id := range ids {
		m := &p.matrices[id]
		p.jobs = append(p.jobs, cpuJob{m, y[i], panels})
		panels += (m.Rows + PanelRows - 1) / PanelRows
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
	rows := (m.Rows + kernel.ColumnRows - 1) / kernel.ColumnRows * kernel.ColumnRows
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
	stride := kernel.ColumnBytes(p.columnsOf.Rows)
	kernel.TernaryColumns(p.columnsY[lo:hi], p.columnsOf.byColumn[lo/4:], stride, p.index, p.value, p.xsum[0])
}

// panel computes one panel of one of the current matrices.
func (p *cpuProducts) panel(i, worker int) {
	j := len(p.jobs) - 1
	for p.jobs[j].first > i {
		j--
	}
	job := &p.jobs[j]
	rows, tokens := kernel.Pad16(job.m.Rows), len(p.xsum)
	cols := kernel.Pad16(job.m.Cols)
	y, first, width := panel(job.y, i-job.first, tokens, rows)
	w := job.m.T16[kernel.T16Bytes(first, cols):][:kernel.T16Bytes(width, cols)]
	if tokens == 1 {
		kernel.TernaryMatVec(y, w, p.x, p.xsum[0])
		return
	}
	if n := kernel.MatMulScratch(cols); len(p.scratch[worker]) < n {
		p.scratch[worker] = make([]byte, n)
	}
	kernel.TernaryMatMul(y, w, p.x, p.xsum, p.scratch[worker])
}

func (p *cpuProducts) Close() error {
	p.pool.Close()
	p.matrices = nil
	return nil
}
