package part

import (
	"slices"
)

// Layers with a state, such as DeltaNet, do not keep what they saw of each token but one state of all tokens so far, which is
// written over and cannot be cut. A cache keeps its promises for them all the same:
//
//   - It has one working state, of the position `at`, and the ids of its tokens.
//   - It keeps copies of the state of earlier positions: of multiples of snapshotEvery, and of the position in front of each pass over
//     more than one token, which is where a caller returns to whose guesses were wrong. Copies never change; a fork shares them.
//   - Truncate forgets the state when it is of a later position. The next forward pass begins at the nearest copy, or at the first
//     token, and reads the tokens behind it again, in front of its own (Redo). The pages' keys and values are written
//     once more with the same bits.
//
// So Truncate and Fork go to every position, and what they cost is at most snapshotEvery tokens as long as copies last. All caches
// of a model together keep Pages.snapshots copies, at least minSnapshots and at most snapshotBytes of them; the oldest are forgotten
// first, which costs time and changes no result. Working states come on top, one for each cache that has run.
const (
	snapshotEvery = 8 * pageTokens
	minSnapshots  = 4
)

// snapshotBytes is a variable for tests.
var snapshotBytes = 512 << 20

// recurrent is a cache's part of layers with states.
type recurrent struct {
	ids   []int32   // of the tokens held
	state []float32 // [Pages.state] nil before the first pass
	at    int       // the position that it is of, -1: of none
	base  int       // at, when the pass under way began
	snaps []*snapshot
}

// snapshot is a copy of a state. Pages.mu guards refs and the lists that it is in; data is written in the pass that made it alone.
type snapshot struct {
	at   int
	refs int
	data []float32
}

// save asks for a copy of the state behind a row of the block.
type save struct {
	row  int
	data []float32
}

// states makes room for a layer's state of n numbers, and gives its place.
func (p *Pages) states(n int) (at int) {
	at = p.state
	p.state += n
	return at
}

// StateBytes is the size of a sequence's state, 0 for a model without.
func (p *Pages) StateBytes() int64 { return 4 * int64(p.state) }

// Redo makes the state that of a position of the cache, and gives the tokens from there on, which the pass must read
// again before its own: Len is that position now. It is called behind Begin.
func (c *Cache) Redo() []int32 {
	r := &c.recurrent
	if c.from.state == 0 {
		return nil
	}
	if r.state == nil {
		r.state, r.at = make([]float32, c.from.state), -1
	}
	if r.at < 0 || r.at > c.n {
		c.from.mu.Lock()
		i, found := slices.BinarySearchFunc(r.snaps, c.n, func(s *snapshot, n int) int { return s.at - n })
		if !found {
			i--
		}
		if i >= 0 {
			r.at = r.snaps[i].at
			copy(r.state, r.snaps[i].data)
		} else {
			r.at = 0
			clear(r.state)
		}
		c.from.mu.Unlock()
	}
	r.base = r.at
	again := slices.Clone(r.ids[r.at:c.n])
	c.n, r.ids = r.at, r.ids[:r.at]
	return again
}

// plan notes that n tokens, which are rows from row on, come behind those that the cache holds, and asks for the copies that are
// to be kept on the way.
func (c *Cache) plan(ids []int32, row int, begins bool, saves []save) []save {
	r := &c.recurrent
	if c.from.state == 0 {
		return saves
	}
	p := c.n
	if len(ids) > 1 && p > 0 {
		if s := c.snapshot(p); s != nil && begins {
			copy(s, r.state)
		} else if s != nil {
			saves = append(saves, save{row - 1, s})
		}
	}
	for at := (p/snapshotEvery + 1) * snapshotEvery; at <= p+len(ids); at += snapshotEvery {
		if s := c.snapshot(at); s != nil {
			saves = append(saves, save{row + at - p - 1, s})
		}
	}
	r.ids = append(r.ids, ids...)
	r.at = p + len(ids) // once the pass is done
	return saves
}

// snapshot makes room for a copy of the state of a position, nil where there is one.
func (c *Cache) snapshot(at int) []float32 {
	r, p := &c.recurrent, c.from
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := slices.BinarySearchFunc(r.snaps, at, func(s *snapshot, at int) int { return s.at - at })
	if found {
		return nil
	}
	s := &snapshot{at: at, refs: 1, data: make([]float32, p.state)}
	r.snaps = slices.Insert(r.snaps, i, s)
	p.snaps = append(p.snaps, s)
	if len(p.snaps) > p.snapshots() {
		p.snaps[0].data = nil // its caches find that out
		p.snaps = slices.Delete(p.snaps, 0, 1)
	}
	r.snaps = slices.DeleteFunc(r.snaps, func(s *snapshot) bool { return s.data == nil })
	return s.data
}

// snapshots is how many copies there may be.
func (p *Pages) snapshots() int { return max(minSnapshots, snapshotBytes/(4*p.state)) }

// drop forgets the copies of positions behind n. The caller holds Pages.mu.
func (c *Cache) drop(n int) {
	r, p := &c.recurrent, c.from
	r.snaps = slices.DeleteFunc(r.snaps, func(s *snapshot) bool {
		if s.at <= n && s.data != nil {
			return false
		}
		if s.refs--; s.refs == 0 && s.data != nil {
			p.snaps = slices.DeleteFunc(p.snaps, func(other *snapshot) bool { return other == s })
		}
		return true
	})
}

// truncate is Truncate for states.
func (r *recurrent) truncate(c *Cache, n int) {
	if c.from.state == 0 {
		return
	}
	c.from.mu.Lock()
	c.drop(n)
	c.from.mu.Unlock()
	r.ids = r.ids[:n]
	if r.at > n {
		r.at = -1
	}
	if n == 0 {
		r.state = nil // a closed cache keeps nothing
	}
}

// fork is Fork for states: f begins with the first n tokens of c.
func (r *recurrent) fork(c, f *Cache, n int) {
	if c.from.state == 0 {
		return
	}
	if n > 0 && r.at == n && r.state != nil {
		if s := c.snapshot(n); s != nil {
			copy(s, r.state)
		}
	}
	f.recurrent = recurrent{ids: slices.Clone(r.ids[:n]), at: -1}
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	c.drop(len(r.ids)) // those that are forgotten
	for _, s := range r.snaps {
		if s.at <= n {
			s.refs++
			f.recurrent.snaps = append(f.recurrent.snaps, s)
		}
	}
}

// rollback undoes a pass that failed, in which layers may have written some of their states and copies.
func (c *Cache) rollback() {
	r := &c.recurrent
	if c.from.state == 0 {
		return
	}
	c.from.mu.Lock()
	c.drop(r.base)
	c.from.mu.Unlock()
	c.n, r.ids, r.at = max(c.n, c.mark), r.ids[:max(len(r.ids), c.mark)], -1
}
