package nn

import "github.com/tritlm/trit/internal/gemm"

// Gradients are sums over tokens. So that processes which share a batch find the same bits as one process alone, a batch
// consists of leaves, a power of two of them, each a run of whole sequences: a gradient is summed in each leaf, in the order
// of its tokens, and the leaves' sums are added in pairs, the pairs' in pairs and so on. A process has one branch of
// this tree, and the processes' sums are added as the tree goes on (train.Group).

// MaxLeaves is the largest number of leaves; chunks is how many pieces their small sums are cut into, all leaves together.
const (
	MaxLeaves = 8
	chunks    = 16
)

// maxTree is the largest gradient whose leaves are summed apart, as each level of the tree needs a buffer of its size. A
// larger one, the head of a large vocabulary, is summed in one go: processes then agree on it to a rounding.
const maxTree = 1 << 25

// Split says that the batches to come are a branch of so many leaves, out of all leaves of the whole batch.
func (e *Env) Split(leaves, all int) { e.leaves, e.perLeaf = leaves, max(chunks/max(all, 1), 1) }

// branch is the number of leaves of a batch; without Split there is one.
func (e *Env) branch() (leaves, perLeaf int) {
	if e.leaves == 0 {
		return 1, chunks
	}
	return e.leaves, e.perLeaf
}

// tree adds to g the sum over T tokens that leaf writes, or adds, for tokens [lo, hi).
func (e *Env) tree(g []float32, T int, leaf func(dst []float32, lo, hi int, add bool)) {
	n, _ := e.branch()
	if n == 1 || len(g) > maxTree {
		leaf(g, 0, T, true)
		return
	}
	depth := 0
	for i := range n {
		leaf(e.level(depth, len(g)), i*T/n, (i+1)*T/n, false)
		for k := i; k&1 == 1; k >>= 1 {
			depth--
			e.Add(e.level(depth, len(g)), e.level(depth+1, len(g)))
		}
		depth++
	}
	e.Add(g, e.level(0, len(g)))
}

func (e *Env) level(i, n int) []float32 { return grow(&e.levels[i], n) }

// pieces runs fn for every small piece of T tokens, several a leaf, each with its number; total is how many there are.
func (e *Env) pieces(T int, fn func(c, lo, hi int)) {
	n, per := e.branch()
	e.Pool.Run(n*per, func(c, _ int) { fn(c, c*T/(n*per), (c+1)*T/(n*per)) })
}

func (e *Env) numPieces() int {
	n, per := e.branch()
	return n * per
}

// foldPieces adds to dst the sums of pieces [numPieces, len(dst)], which it overwrites: in order inside a leaf, then as a
// tree.
func (e *Env) foldPieces(dst, parts []float32) {
	leaves, per := e.branch()
	n := len(dst)
	part := func(i int) []float32 { return parts[i*n : (i+1)*n] }
	for l := range leaves {
		for c := 1; c < per; c++ {
			gemm.Axpy(part(l*per), part(l*per+c), 1)
		}
	}
	for step := 1; step < leaves; step *= 2 {
		for l := 0; l+step < leaves; l += 2 * step {
			gemm.Axpy(part(l*per), part((l+step)*per), 1)
		}
	}
	gemm.Axpy(dst, part(0), 1)
}

// scatter adds dy[t] to row id(t) of g [rows, D], for T tokens, as a tree; workers share the columns.
func (e *Env) scatter(g, dy []float32, rows, D, T int, id func(t int) int) {
	first := make([]int32, rows+1) // tokens by row, in order
	for t := range T {
		first[id(t)+1]++
	}
	for r := range rows {
		first[r+1] += first[r]
	}
	tokens, at := make([]int32, T), append([]int32(nil), first...)
	for t := range T {
		r := id(t)
		tokens[at[r]] = int32(t)
		at[r]++
	}
	leaves, _ := e.branch()
	e.Pool.For(D, 32, func(lo, hi int) {
		w := hi - lo
		sums := make([]float32, leaves*w)
		var used [MaxLeaves]bool
		for r := range rows {
			mine := tokens[first[r]:first[r+1]]
			if len(mine) == 0 {
				continue
			}
			dst := g[r*D+lo : r*D+hi]
			clear(sums)
			clear(used[:])
			for _, t := range mine {
				l := int(t) * leaves / T
				used[l] = true
				gemm.Axpy(sums[l*w:(l+1)*w], dy[int(t)*D+lo:int(t)*D+hi], 1)
			}
			for step := 1; step < leaves; step *= 2 {
				for l := 0; l+step < leaves; l += 2 * step {
					if used[l+step] {
						gemm.Axpy(sums[l*w:(l+1)*w], sums[(l+step)*w:(l+step+1)*w], 1)
						used[l] = true
					}
				}
			}
			gemm.Axpy(dst, sums[:w], 1)
		}
	})
}
