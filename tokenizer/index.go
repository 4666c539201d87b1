package tokenizer

import "hash/maphash"

// stringIndex finds the id of a string in a fixed list of strings: an open-addressed table
// beside the list itself. An entry is id+1 and, above it, half of the string's hash, so that
// other strings are seldom looked at; 0 is empty.
type stringIndex struct {
	seed  maphash.Seed
	keys  []string // the list; an id is a position in it
	slots []uint64 // length a power of two, at most half full
}

func newStringIndex(keys []string) *stringIndex {
	n := 16
	for n < 2*len(keys) {
		n *= 2
	}
	return &stringIndex{seed: maphash.MakeSeed(), keys: keys, slots: make([]uint64, n)}
}

// over returns an index of the same strings over keys, which begin with those of x and may have
// further ones in their gaps and behind them.
func (x *stringIndex) over(keys []string) *stringIndex {
	y := newStringIndex(keys)
	for _, slot := range x.slots {
		if slot != 0 {
			y.add(int32(uint32(slot)) - 1)
		}
	}
	return y
}

// add enters keys[id] and returns the id already there for the same string, or id itself.
func (x *stringIndex) add(id int32) int32 {
	have, at, hash := x.probe(x.keys[id])
	if have >= 0 {
		return have
	}
	x.slots[at] = hash&^(1<<32-1) | uint64(id+1)
	return id
}

func (x *stringIndex) find(s string) (int32, bool) {
	id, _, _ := x.probe(s)
	return id, id >= 0
}

// probe returns the id of s, or -1 and the slot where it belongs.
func (x *stringIndex) probe(s string) (id int32, at int, hash uint64) {
	hash = maphash.String(x.seed, s)
	mask := len(x.slots) - 1
	for at = int(hash) & mask; ; at = (at + 1) & mask {
		slot := x.slots[at]
		if slot == 0 {
			return -1, at, hash
		}
		if id = int32(uint32(slot)) - 1; slot>>32 == hash>>32 && x.keys[id] == s {
			return id, at, hash
		}
	}
}

// pairTable maps two neighbouring symbols to the symbol they merge into and the merge's rank.
type pairTable struct {
	slots []pairSlot
	shift uint
	n     int
}

type pairSlot struct {
	key      uint64 // left<<32 | right, noPair = empty
	rank, id int32
}

const noPair = ^uint64(0)

func newPairTable(n int) *pairTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	t := &pairTable{slots: make([]pairSlot, 1<<bits), shift: 64 - bits}
	for i := range t.slots {
		t.slots[i].key = noPair
	}
	return t
}

func pairKey(l, r int32) uint64 { return uint64(uint32(l))<<32 | uint64(uint32(r)) }

// put enters a merge; of two entries for one pair the later wins, as in a map.
func (t *pairTable) put(l, r, rank, id int32) {
	key := pairKey(l, r)
	h := key * 0x9E3779B97F4A7C15 >> t.shift
	for t.slots[h].key != noPair && t.slots[h].key != key {
		h = (h + 1) & uint64(len(t.slots)-1)
	}
	if t.slots[h].key == noPair {
		t.n++
	}
	t.slots[h] = pairSlot{key, rank, id}
}

// get returns the rank of the pair and the merged id; rank is noRank when the two don't merge.
func (t *pairTable) get(l, r int32) (rank, id int32) {
	key := pairKey(l, r)
	h := key * 0x9E3779B97F4A7C15 >> t.shift
	for {
		s := &t.slots[h]
		if s.key == key {
			return s.rank, s.id
		}
		if s.key == noPair {
			return noRank, -1
		}
		h = (h + 1) & uint64(len(t.slots)-1)
	}
}

const noRank = 1<<31 - 1
