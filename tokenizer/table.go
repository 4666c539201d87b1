package tokenizer

import (
	"errors"
	"unicode/utf8"
)

// table is a pattern whose matches are found from the end of the text to its beginning: for each
// position, which step leads to a match from there and where that match ends follows from the same
// at the next position. So the work is text × steps and the memory a few bytes per byte of text,
// whatever the expression, and the match is the one that backtracking would find.
type table struct {
	programs []program // as in pattern.subs; the last one is the pattern itself
	sets     []*runeSet
	atomics  int
}

// program is one expression: the pattern, or the body of a look-around or an atomic group.
type program struct {
	steps  []step
	start  int32
	order  []int32 // of the steps: each after those that it asks at the same position
	uses   []int   // programs that must be known at the same position, in order
	empty  bool    // may match nothing
	behind bool    // is the body of a look-behind
}

type stepKind uint8

const (
	stepEnd    stepKind = iota // the match ends here
	stepSet                    // a character of the set, then a
	stepGreedy                 // a behind a character of the set; where that leads nowhere, b
	stepLazy                   // b; where that leads nowhere, a behind a character of the set
	stepKeep                   // a behind a character of the set; where there is none, b
	stepEither                 // a; where that leads nowhere, b
	stepLook                   // a, if program x matches here (or behind: y characters back); neg: if not
	stepAtomic                 // a behind the match of program x
	stepAssert                 // a, if the assertion x holds
)

type step struct {
	kind   stepKind
	neg    bool
	behind bool
	a, b   int32
	set    int32
	x, y   int
	slot   int // stepAtomic: of table.atomics
}

const (
	maxAtomics = 8
	maxBehind  = 16
)

var errIdleLoop = errors.New("a repeat of what may match nothing")

// newTable translates the programs of p.
func newTable(p *pattern) (*table, error) {
	t := &table{}
	ids := map[*runeSet]int32{}
	size, behind := 0, 0
	for _, prog := range append(p.subs[:len(p.subs):len(p.subs)], p.prog) {
		q, err := t.translate(prog, ids, maxProgram-size)
		if err != nil {
			return nil, err
		}
		size += len(q.steps)
		for _, s := range q.steps {
			if s.behind && !t.programs[s.x].behind {
				t.programs[s.x].behind = true
				behind++
			}
		}
		t.programs = append(t.programs, *q)
	}
	if t.atomics > maxAtomics || behind > maxBehind {
		return nil, errors.New("too large")
	}
	return t, nil
}

// size is the number of steps.
func (t *table) size() (n int) {
	for _, p := range t.programs {
		n += len(p.steps)
	}
	return n
}

// shortest is a lower bound of the characters of a match.
func (t *table) shortest() int {
	const far = 1 << 30
	least := make([]int, len(t.programs))
	for i := range t.programs {
		p := &t.programs[i]
		n := make([]int, len(p.steps))
		for j := range n {
			n[j] = far
		}
		for again := true; again; {
			again = false
			for _, j := range p.order {
				s := &p.steps[j]
				v := far
				switch s.kind {
				case stepEnd:
					v = 0
				case stepSet:
					v = n[s.a] + 1
				case stepGreedy, stepLazy, stepKeep:
					v = min(n[s.a]+1, n[s.b])
				case stepEither:
					v = min(n[s.a], n[s.b])
				case stepLook, stepAssert:
					v = n[s.a]
				case stepAtomic:
					v = n[s.a] + least[s.x]
				}
				if v < n[j] {
					n[j], again = v, true
				}
			}
		}
		least[i] = n[p.start]
	}
	return least[len(least)-1]
}

func (t *table) translate(prog []inst, ids map[*runeSet]int32, room int) (*program, error) {
	copies := func(in *inst) int {
		switch {
		case in.op == opJump:
			return 0
		case in.op == opLoop && in.max == unlimited:
			return in.min + 1
		case in.op == opLoop:
			return in.max
		}
		return 1
	}
	first := make([]int32, len(prog))
	n := 0
	for i := range prog {
		first[i] = int32(n)
		if n += copies(&prog[i]); n > room {
			return nil, errors.New("too large")
		}
	}
	at := func(i int) int32 { // the step that instruction i begins with
		for copies(&prog[i]) == 0 {
			if prog[i].op == opJump {
				i = prog[i].x
			} else {
				i++
			}
		}
		return first[i]
	}
	p := &program{steps: make([]step, 0, n)}
	uses := map[int]bool{}
	use := func(x int) {
		for _, y := range append(t.programs[x].uses[:len(t.programs[x].uses):len(t.programs[x].uses)], x) {
			if !uses[y] {
				uses[y] = true
				p.uses = append(p.uses, y)
			}
		}
	}
	set := func(s *runeSet) int32 {
		id, ok := ids[s]
		if !ok {
			id = int32(len(t.sets))
			ids[s] = id
			t.sets = append(t.sets, s)
		}
		return id
	}
	for i := range prog {
		in := &prog[i]
		switch in.op {
		case opMatch:
			p.steps = append(p.steps, step{kind: stepEnd})
		case opSet:
			p.steps = append(p.steps, step{kind: stepSet, set: set(in.set), a: at(i + 1)})
		case opLoop:
			kind := stepGreedy
			if in.atomic {
				kind = stepKeep
			} else if in.lazy {
				kind = stepLazy
			}
			id, exit := set(in.set), at(i+1)
			for k := range copies(in) {
				s := step{kind: kind, set: id, a: first[i] + int32(k) + 1, b: exit}
				last := k == copies(in)-1
				switch {
				case last && in.max == unlimited:
					s.a = first[i] + int32(k) // itself
				case last:
					s.a = exit
				}
				if k < in.min {
					s.kind = stepSet
				}
				p.steps = append(p.steps, s)
			}
		case opSplit:
			p.steps = append(p.steps, step{kind: stepEither, a: at(in.x), b: at(in.y)})
		case opLook:
			p.steps = append(p.steps, step{kind: stepLook, neg: in.neg, behind: in.behind, a: at(i + 1), x: in.x, y: in.y})
			if !in.behind {
				use(in.x)
			}
		case opAtomic:
			p.steps = append(p.steps, step{kind: stepAtomic, a: at(i + 1), x: in.x, slot: t.atomics})
			t.atomics++
			use(in.x)
		case opAssert:
			p.steps = append(p.steps, step{kind: stepAssert, a: at(i + 1), x: in.x})
		}
	}
	p.start = at(0)
	return p, t.sort(p)
}

// sort finds the order of the steps. Where there is none, a loop comes back without having taken a
// character.
func (t *table) sort(p *program) error {
	const (
		fresh = iota
		open
		done
	)
	state := make([]uint8, len(p.steps))
	empty := make([]bool, len(p.steps))
	var visit func(i int32) error
	visit = func(i int32) error {
		switch state[i] {
		case open:
			return errIdleLoop
		case done:
			return nil
		}
		state[i] = open
		s := &p.steps[i]
		var next []int32
		switch s.kind {
		case stepEnd:
			empty[i] = true
		case stepGreedy, stepLazy, stepKeep:
			next = []int32{s.b}
		case stepEither:
			next = []int32{s.a, s.b}
		case stepLook, stepAssert:
			next = []int32{s.a}
		case stepAtomic:
			if t.programs[s.x].empty {
				next = []int32{s.a}
			}
		}
		for _, j := range next {
			if err := visit(j); err != nil {
				return err
			}
			empty[i] = empty[i] || empty[j]
		}
		state[i] = done
		p.order = append(p.order, i)
		return nil
	}
	for i := range p.steps {
		if err := visit(int32(i)); err != nil {
			return err
		}
	}
	p.empty = empty[p.start]
	return nil
}

// ends returns the end of the match at each position of s[from:], -1 where there is none.
func (t *table) ends(s string, from int) []int32 {
	marks := make([][]uint64, len(t.programs)) // of look-behinds: where their bodies match
	for i := range t.programs {
		if t.programs[i].behind {
			m := make([]uint64, len(s)/64+1)
			t.sweep(s, 0, i, marks, func(pos int, end int32) {
				if end >= 0 {
					m[pos>>6] |= 1 << (pos & 63)
				}
			})
			marks[i] = m
		}
	}
	out := make([]int32, len(s)-from+1)
	for i := range out {
		out[i] = -1
	}
	t.sweep(s, from, len(t.programs)-1, marks, func(pos int, end int32) { out[pos-from] = end })
	return out
}

// sweep goes through s[from:] backwards and tells emit where a match of a program that begins at
// each character ends.
func (t *table) sweep(s string, from, which int, marks [][]uint64, emit func(pos int, end int32)) {
	list := append(t.programs[which].uses[:len(t.programs[which].uses):len(t.programs[which].uses)], which)
	type column struct{ now, next []int32 }
	columns := make([]column, len(t.programs))
	for _, i := range list {
		n := len(t.programs[i].steps)
		columns[i] = column{make([]int32, n), make([]int32, n)}
		for j := range columns[i].next {
			columns[i].next[j] = -1
		}
	}
	kept := make([][]int32, t.atomics) // what follows an atomic group, at each position
	for _, i := range list {
		for _, st := range t.programs[i].steps {
			if st.kind == stepAtomic {
				kept[st.slot] = make([]int32, len(s)-from+1)
			}
		}
	}
	has := make([]uint8, len(t.sets)) // 0: not asked yet, 1: no, 2: yes
	for pos := len(s); ; {
		r, width := decodeAt(s, pos)
		clear(has)
		in := func(set int32) bool {
			h := has[set]
			if h == 0 {
				h = 1
				if width > 0 && t.sets[set].has(r) {
					h = 2
				}
				has[set] = h
			}
			return h == 2
		}
		for _, i := range list {
			p := &t.programs[i]
			now, next := columns[i].now, columns[i].next
			for _, j := range p.order {
				st := &p.steps[j]
				v := int32(-1)
				switch st.kind {
				case stepEnd:
					v = int32(pos)
				case stepSet:
					if in(st.set) {
						v = next[st.a]
					}
				case stepGreedy:
					if in(st.set) {
						v = next[st.a]
					}
					if v < 0 {
						v = now[st.b]
					}
				case stepLazy:
					if v = now[st.b]; v < 0 && in(st.set) {
						v = next[st.a]
					}
				case stepKeep:
					if in(st.set) {
						v = next[st.a]
					} else {
						v = now[st.b]
					}
				case stepEither:
					if v = now[st.a]; v < 0 {
						v = now[st.b]
					}
				case stepLook:
					found := false
					if st.behind {
						if at, ok := back(s, pos, st.y); ok {
							found = marks[st.x][at>>6]>>(at&63)&1 != 0
						}
					} else {
						found = columns[st.x].now[t.programs[st.x].start] >= 0
					}
					if found != st.neg {
						v = now[st.a]
					}
				case stepAtomic:
					switch e := columns[st.x].now[t.programs[st.x].start]; {
					case e == int32(pos):
						v = now[st.a]
					case e >= 0:
						v = kept[st.slot][int(e)-from]
					}
				case stepAssert:
					if assert(s, byte(st.x), pos) {
						v = now[st.a]
					}
				}
				now[j] = v
			}
			for _, j := range p.order {
				if st := &p.steps[j]; st.kind == stepAtomic {
					kept[st.slot][pos-from] = now[st.a]
				}
			}
		}
		emit(pos, columns[which].now[t.programs[which].start])
		if pos <= from {
			return
		}
		_, n := utf8.DecodeLastRuneInString(s[:pos])
		pos -= n
		for _, i := range list {
			columns[i].now, columns[i].next = columns[i].next, columns[i].now
		}
	}
}
