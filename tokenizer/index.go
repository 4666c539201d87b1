package tokenizer

import "hash/maphash"

// stringIndex finds the id of a string in a fixed list of strings: an open-addressed table of
// ids beside the list itself, so that 128,000 tokens cost 1 MiB and one probe each.
type stringIndex struct {
	seed  maphash.Seed
	keys  []string // the list; an id is a position in it
	slots []int32  // id+1, 0 = empty; length a power of two, at most half full
}

func newStringIndex(keys []string) *stringIndex {
	n := 16
	for n < 2*len(keys) {
		n *= 2
	}
	return &stringIndex{seed: maphash.MakeSeed(), keys: keys, slots: make([]int32, n)}
}

// add enters keys[id] and returns the id already there for the same string, or id itself.
func (x *stringIndex) add(id int32) int32 {
	h := x.slot(x.keys[id])
	for {
		switch have := x.slots[h]; {
		case have == 0:
			x.slots[h] = id + 1
			return id
		case x.keys[have-1] == x.keys[id]:
			return have - 1
		}
		h = (h + 1) & (len(x.slots) - 1)
	}
}

func (x *stringIndex) find(s string) (int32, bool) {
	h := x.slot(s)
	for {
		have := x.slots[h]
		if have == 0 {
			return -1, false
		}
		if x.keys[have-1] == s {
			return have - 1, true
		}
		h = (h + 1) & (len(x.slots) - 1)
	}
}

func (x *stringIndex) slot(s string) int {
	return int(maphash.String(x.seed, s)) & (len(x.slots) - 1)
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
