package model

import (
	"context"

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
	pool := par.New(b.Threads)
	p := &cpuProducts{pool: pool}
	p.work = p.panel
	return newDecoder(ctx, c, w, pool, p, &b)
}

// cpuProducts multiplies on the pool, a panel of rows at a time.
type cpuProducts struct {
	pool     *par.Pool
	matrices []*ternary.Matrix

	// What Multiply is at; work reads it.
	jobs    []cpuJob
	x       []int8
	xsum    []int32
	scratch [][]byte // one per worker
	work    func(i, worker int)
}

// cpuJob is one matrix of a Multiply and the number of its first panel among all.
type cpuJob struct {
	m     *ternary.Matrix
	y     []int32
	first int
}

func (p *cpuProducts) Load(_ string, m *ternary.Matrix) (int, error) {
	p.matrices = append(p.matrices, m)
	return len(p.matrices) - 1, nil
}

func (p *cpuProducts) Multiply(_ context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error {
	p.jobs, p.x, p.xsum = p.jobs[:0], x, xsum
	panels := 0
	for i, id := range ids {
		m := p.matrices[id]
		p.jobs = append(p.jobs, cpuJob{m, y[i], panels})
		panels += (m.Rows + PanelRows - 1) / PanelRows
	}
	if p.scratch == nil {
		p.scratch = make([][]byte, p.pool.Threads())
	}
	p.pool.Run(panels, p.work)
	return nil
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
