package grammar

import (
	"encoding/binary"
	"math"
)

// A counter bounds how many of a rule's ticking edges and calls one use of it takes: min to max, max < 0 without
// end. It is what maxLength, maxItems and {2,4000} are made of: a number on the stack instead of states.
type counter struct{ min, max int32 }

// count is the compiled counter of a rule. Each frame of the rule on the stack carries k, what it has counted.
//
// Which states can end, and how soon, depends on k, but only near the bounds: below low = min and from high on each
// k has a column; all between share one, as there the shortest way to an end touches no bound.
type count struct {
	counter
	first, n  int32   // the rule's states
	low, high int32   // k < low: column k; k < high: column low; above: column k − high + low + 1
	dist      []int32 // [column][state], as state.dist
	class     []int32 // [column]: equal where no token can tell the difference
}

// next is k after a tick. Without a maximum, counting stops at the minimum.
func (c *count) next(k, ticks int32) int32 {
	if c.max < 0 {
		return min(k+ticks, c.min)
	}
	return k + ticks
}

// met reports that the rule may end at k.
func (c *count) met(k int32) bool { return k >= c.min && (c.max < 0 || k <= c.max) }

func (c *count) column(k int32) int32 {
	switch {
	case k < c.low:
		return k
	case k < c.high:
		return c.low
	}
	return k - c.high + c.low + 1
}

func (c *count) columns() int32 {
	if c.max < 0 {
		return c.low + 1
	}
	return c.low + 1 + c.max - c.high + 1
}

// after is the column that follows a tick in column x, −1 for none.
func (c *count) after(x int32) int32 {
	switch {
	case x == c.low-1 && c.high <= c.low && c.max >= 0:
		x = c.low + 1
	case x == c.low:
		return x
	default:
		x++
	}
	if x >= c.columns() {
		return -1
	}
	return x
}

// at is dist(state, k); MaxInt32 where no end can be reached.
func (c *count) at(q, k int32) int32 {
	if c.max >= 0 && k > c.max {
		return math.MaxInt32
	}
	return c.dist[c.column(k)*c.n+q-c.first]
}

// distance is how many bytes the shortest way from state q with count k to its rule's end has.
func (g *Grammar) distance(q, k int32) int32 {
	if s := &g.states[q]; s.count != nil {
		return s.count.at(q, k)
	}
	return g.states[q].dist
}

// maxColumns bounds the numbers in all the tables of one grammar.
const maxColumns = 1 << 21

// layout chooses the columns of c: ticks is how many the shortest way to an end may take.
func (g *Grammar) layout(c *count, ticks int32) error {
	c.low, c.high = c.min, math.MaxInt32
	if c.max >= 0 {
		c.high = max(c.min, c.max-ticks-int32(g.v.longest))
	}
	n := int64(c.columns()) * int64(c.n)
	if g.columns += n; g.columns > maxColumns {
		return errorf("counts too far: smaller repetitions, or fewer of them, are needed")
	}
	c.dist = make([]int32, n)
	for i := range c.dist {
		c.dist[i] = math.MaxInt32
	}
	return nil
}

// measurePlain fills the table of a rule that calls nothing.
func (g *Grammar) measurePlain(c *count) error {
	// Without bounds first: what the columns between share, and how many ticks they are away from an end.
	free, ticks := make([]int32, c.n), make([]int32, c.n)
	back := make([][]edge, c.n) // to is where the edge comes from
	var queue []int32
	for i := range free {
		free[i] = math.MaxInt32
		s := &g.states[c.first+int32(i)]
		for _, e := range s.edges {
			back[e.to-c.first] = append(back[e.to-c.first], edge{tick: e.tick, to: int32(i)})
		}
		if s.final {
			free[i] = 0
			queue = append(queue, int32(i))
		}
	}
	most := int32(0)
	for ; len(queue) > 0; queue = queue[1:] {
		i := queue[0]
		for _, e := range back[i] {
			if free[e.to] == math.MaxInt32 {
				free[e.to], ticks[e.to] = free[i]+1, ticks[i]
				if e.tick {
					ticks[e.to]++
				}
				most = max(most, ticks[e.to])
				queue = append(queue, e.to)
			}
		}
	}
	if err := g.layout(c, most); err != nil {
		return err
	}
	copy(c.dist[c.low*c.n:], free)
	for x := c.columns() - 1; x >= 0; x-- {
		if x == c.low {
			continue
		}
		if err := g.v.cancelled(); err != nil {
			return err
		}
		d := c.dist[x*c.n : (x+1)*c.n]
		var then []int32
		if y := c.after(x); y >= 0 {
			then = c.dist[y*c.n : (y+1)*c.n]
		}
		for changed := true; changed; {
			changed = false
			for i := c.n - 1; i >= 0; i-- {
				s := &g.states[c.first+i]
				best := int32(math.MaxInt32)
				if s.final && x > c.low {
					best = 0
				}
				for _, e := range s.edges {
					to := d
					if e.tick {
						to = then
					}
					if to != nil && to[e.to-c.first] < math.MaxInt32 {
						best = min(best, to[e.to-c.first]+1)
					}
				}
				if best < d[i] {
					d[i], changed = best, true
				}
			}
		}
	}
	return nil
}

// classify finds the classes of the columns: two have one class if they and what follows them, as far as a token
// reaches, have the same live states and ends.
func (g *Grammar) classify(c *count) {
	ids := map[string]int32{}
	n := c.columns()
	class, jump := make([]int32, n), make([]int32, n)
	key := make([]byte, (c.n+7)/8+1)
	for x := range n {
		clear(key)
		for i := range c.n {
			if c.dist[x*c.n+i] < math.MaxInt32 {
				key[1+i/8] |= 1 << (i % 8)
			}
		}
		if x >= c.low {
			key[0] = 1
		}
		id, ok := ids[string(key)]
		if !ok {
			id = int32(len(ids))
			ids[string(key)] = id
		}
		class[x], jump[x] = id, c.after(x)
	}
	for reach := 1; reach <= g.v.longest; reach *= 2 {
		pairs := map[[2]int32]int32{}
		next, far := make([]int32, n), make([]int32, n)
		for x := range n {
			p := [2]int32{class[x], -1}
			far[x] = -1
			if j := jump[x]; j >= 0 {
				p[1], far[x] = class[j], jump[j]
			}
			id, ok := pairs[p]
			if !ok {
				id = int32(len(pairs))
				pairs[p] = id
			}
			next[x] = id
		}
		class, jump = next, far
	}
	c.class = class
}

// class says which counts of a state are alike; 0 where nothing is counted.
func (g *Grammar) class(q, k int32) int32 {
	if c := g.states[q].count; c != nil {
		return c.class[c.column(k)]
	}
	return 0
}

// spell appends what a rule that calls nothing does, whatever its counter's bounds, for use as a key.
func (g *Grammar) spell(r *rule) []byte {
	var b []byte
	for _, s := range g.states[r.start:r.end] {
		flags := uint64(len(s.edges)) << 2
		if s.final {
			flags |= 1
		}
		if r.count != nil {
			flags |= 2
		}
		b = binary.AppendUvarint(b, flags)
		for _, e := range s.edges {
			to := uint64(e.to-r.start) << 1
			if e.tick {
				to |= 1
			}
			b = binary.AppendUvarint(append(b, e.lo, e.hi), to)
		}
	}
	return b
}
