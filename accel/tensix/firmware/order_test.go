package firmware

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/kernel"
)

// The simulator does everything at once and in order. A card does not: stores wait, caches are stale, requests take
// their time and overtake each other. This file runs the embedded images, instruction by instruction, on a model of
// a tile that is as late and as stale as the chip's documents allow, and checks both the rules (store, drain,
// trigger) and the outcome (every weight chunk whole while it is in use, every result at its place in host memory).
//
// What it models, from tt-isa-documentation BlackholeA0 (MemoryOrdering.md, NoC): a core's stores are queued per
// region and are done only when a later load of the same region comes back; a 16-byte line once read is stale until
// a fence; NoC reads land and are counted after a random time, in any order; NoC writes read their source at some
// time before their acknowledgement. Cores run in a random interleaving. Coprocessor instructions are taken for what
// they do to this protocol: semaphores, the unpackers' and the packer's addresses.

const pcie = 19 | 24<<6

type region int

const (
	inL1 region = iota
	inLocal
	inNIU
	inConfig
	inPush
	inSync
	inOther
)

func regionOf(a uint32) region {
	switch {
	case a < 0x180000:
		return inL1
	case a >= 0xFFB00000 && a < 0xFFB02000:
		return inLocal
	case a >= 0xFFB20000 && a < 0xFFB40000:
		return inNIU
	case a >= 0xFFEF0000 && a < 0xFFF00000:
		return inConfig
	case a >= 0xFFE40000 && a < 0xFFE50000:
		return inPush
	case a >= 0xFFE80000 && a < 0xFFE90000:
		return inSync
	}
	return inOther
}

type store struct{ addr, v uint32 }

type rvCore struct {
	name    string
	number  int
	base    uint32
	code    []byte
	pc      uint32
	x, f    [32]uint32
	local   map[uint32]uint32
	pending map[region][]store
	l0      map[uint32][4]uint32
	gpr     map[uint32]uint32 // coprocessor registers, as 16-bit halves
	at      uint32            // where the unpacker or the packer works
	started bool              // since the last chunk
}

type request struct {
	read       bool
	tag        uint32
	host       uint64
	to         *tileModel // a write to a tile's L1, at addr
	l1, n      uint32
	bank, addr uint32
	data, done int // remaining steps until the bytes move, until it is answered
}

type tileModel struct {
	self     uint32                // coordinates
	peers    map[uint32]*tileModel // all tiles, this one too
	rng      *rand.Rand
	l1       []byte
	niu      map[uint32]uint32
	acks     uint32
	out      [16]uint32
	requests []*request
	cores    []*rvCore
	sem      int
	gddr     func(bank, addr, n uint32) []byte
	host     []byte
	hostBase uint64
	steps    int
	broken   []string
	unpacked int
	packed   int
	useChunk func(k int) []byte // the k-th chunk this tile must see
	outChunk func(k int) []byte // what the packer leaves for it
}

func (m *tileModel) breaks(format string, a ...any) {
	if len(m.broken) < 8 {
		m.broken = append(m.broken, fmt.Sprintf(format, a...))
	}
}

func (m *tileModel) word(a uint32) uint32 { return binary.LittleEndian.Uint32(m.l1[a:]) }

// flush does the queued stores of a region.
func (m *tileModel) flush(c *rvCore, r region) {
	for _, s := range c.pending[r] {
		m.do(c, s)
	}
	c.pending[r] = nil
}

func (m *tileModel) do(c *rvCore, s store) {
	switch regionOf(s.addr) {
	case inL1:
		binary.LittleEndian.PutUint32(m.l1[s.addr:], s.v)
	case inNIU:
		m.niu[s.addr] = s.v
		if s.addr&0x7FF == 0x40 && s.v == 1 {
			m.request(c, s.addr&^0x7FF)
		}
	case inPush:
		m.insn(c, s.v)
	}
}

func (m *tileModel) request(c *rvCore, base uint32) {
	m.niu[base+0x40] = 0
	r := &request{n: m.niu[base+0x20], tag: m.niu[base+0x18] >> 10}
	switch ctrl := m.niu[base+0x1C]; ctrl {
	case 0x10:
		r.read, r.bank, r.addr, r.l1 = true, m.niu[base+8], m.niu[base], m.niu[base+0xC]
		if r.addr%64 != r.l1%64 {
			m.breaks("%s: read from %#x to %#x: alignments differ", c.name, r.addr, r.l1)
		}
		m.out[r.tag]++
	case 0x12, 0x20132:
		r.l1, r.host = m.niu[base], uint64(m.niu[base+0xC])|uint64(m.niu[base+0x10])<<32
		xy := m.niu[base+0x14]
		if ctrl == 0x20132 { // to every tile of a rectangle, each at its own time
			for at, peer := range m.peers {
				if at&63 >= xy>>12&63 && at&63 <= xy&63 && at>>6 >= xy>>18 && at>>6 <= xy>>6&63 {
					c := &request{l1: r.l1, n: r.n, to: peer, addr: uint32(r.host), data: m.rng.IntN(200)}
					c.done = c.data + m.rng.IntN(50)
					m.requests = append(m.requests, c)
				}
			}
			r = nil
		} else if xy != pcie {
			if r.to = m.peers[xy]; r.to == nil {
				m.breaks("%s: a write to %#x, where no tile is", c.name, xy)
				return
			}
			r.addr = uint32(r.host)
		}
		for _, s := range c.pending[inL1] {
			if s.addr >= m.niu[base] && s.addr < m.niu[base]+m.niu[base+0x20] {
				m.breaks("%s: the NIU is told to send %#x, whose store is not drained", c.name, s.addr)
			}
		}
	default:
		m.breaks("%s: request control %#x", c.name, ctrl)
	}
	if n := m.niu[base+0x20]; n == 0 || n > 16384 {
		m.breaks("%s: a packet of %d bytes", c.name, n)
	}
	if r == nil {
		return
	}
	r.data = m.rng.IntN(200)
	r.done = r.data + m.rng.IntN(50)
	m.requests = append(m.requests, r)
}

// network moves what is under way.
func (m *tileModel) network() {
	keep := m.requests[:0]
	for _, r := range m.requests {
		if r.data == 0 {
			if r.read {
				copy(m.l1[r.l1:r.l1+r.n], m.gddr(r.bank, r.addr, r.n))
			} else if r.to != nil {
				copy(r.to.l1[r.addr:r.addr+r.n], m.l1[r.l1:r.l1+r.n])
			} else {
				o := r.host - m.hostBase
				copy(m.host[o:o+uint64(r.n)], m.l1[r.l1:r.l1+r.n])
			}
		}
		r.data--
		if r.done--; r.done >= 0 {
			keep = append(keep, r)
			continue
		}
		if r.read {
			m.out[r.tag]--
		} else {
			m.acks++
		}
	}
	m.requests = keep
}

func (m *tileModel) load(c *rvCore, a uint32) uint32 {
	switch r := regionOf(a); r {
	case inL1:
		line := a &^ 15
		own := c.pending[inL1]
		m.flush(c, inL1)
		if len(own) > 0 {
			delete(c.l0, line)
		}
		if _, ok := c.l0[line]; !ok {
			if a >= c.base && a < c.base+uint32(len(c.code)) {
				return binary.LittleEndian.Uint32(c.code[a-c.base:])
			}
			c.l0[line] = [4]uint32{m.word(line), m.word(line + 4), m.word(line + 8), m.word(line + 12)}
		}
		return c.l0[line][a%16/4]
	case inLocal:
		return c.local[a]
	case inNIU:
		m.flush(c, inNIU)
		switch o := a & 0xFFFF; {
		case o == 0x204:
			return m.acks
		case o >= 0x240 && o < 0x280:
			return m.out[(o-0x240)/4]
		case o == 0x148:
			return m.self
		}
		return m.niu[a]
	case inSync: // comes back when this thread's coprocessor work is done
		m.flush(c, inPush)
		m.synced(c)
		return 0
	default:
		m.flush(c, r)
		return uint32(m.steps)
	}
}

func (m *tileModel) store(c *rvCore, a, v uint32) {
	r := regionOf(a)
	switch r {
	case inLocal:
		c.local[a] = v
		return
	case inPush: // a thread's own queue keeps the order of pushes and of instructions in the stream
		m.insn(c, v)
		return
	case inL1:
		if l, ok := c.l0[a&^15]; ok {
			l[a%16/4] = v
			c.l0[a&^15] = l
		}
	}
	c.pending[r] = append(c.pending[r], store{a, v})
}

// blocked reports whether an instruction must wait.
func (m *tileModel) blocked(c *rvCore, w uint32) bool {
	if w>>24 != 0xA6 {
		return false
	}
	if w&3 == 1 { // while zero
		return m.sem == 0
	}
	return m.sem == 2
}

func (m *tileModel) insn(c *rvCore, w uint32) {
	if n := len(c.pending[inConfig]); n > 0 {
		m.breaks("%s: coprocessor instruction %#08x while %d configuration stores are not known to be done", c.name, w, n)
		c.pending[inConfig] = nil
	}
	switch w >> 24 {
	case 0x45:
		c.gpr[w&0xFF] = w >> 8 & 0xFFFF
	case 0xB0:
		addr := (c.gpr[2*(w>>16&0xFF)] | c.gpr[2*(w>>16&0xFF)+1]<<16) + 1
		if reg := w & 0x7FFF; reg == 76 || reg == 69 {
			c.at, c.started = addr<<4, false
		}
	case 0x42:
		if w>>23&1 == 0 && !c.started { // the first weights of a chunk
			c.started = true
			m.check(c, "at its start")
		}
	case 0x41:
		c.started = true
	case 0xA3:
		m.sem = 0
	case 0xA4:
		m.sem++
	case 0xA5:
		m.sem--
	}
}

func (m *tileModel) check(c *rvCore, when string) {
	want := m.useChunk(m.unpacked)
	if want == nil {
		m.breaks("the unpacker uses a chunk too many")
	} else if !bytes.Equal(m.l1[c.at:c.at+uint32(len(want))], want) {
		m.breaks("weight chunk %d at %#x is not what it should be %s of its use", m.unpacked, c.at, when)
	}
}

// synced: the unpackers or the packer have finished a chunk.
func (m *tileModel) synced(c *rvCore) {
	if !c.started {
		return
	}
	c.started = false
	switch c.number {
	case 1:
		m.check(c, "at the end")
		m.unpacked++
	case 3:
		copy(m.l1[c.at:], m.outChunk(m.packed))
		m.packed++
	}
}

// step runs one instruction of a core.
func (m *tileModel) step(c *rvCore) {
	m.steps++
	if m.rng.IntN(64) == 0 { // now and then a region's stores are done by themselves
		m.flush(c, []region{inL1, inNIU, inConfig, inOther}[m.rng.IntN(4)])
	}
	w := binary.LittleEndian.Uint32(c.code[c.pc-c.base:])
	if w&3 != 3 { // a coprocessor instruction, rotated
		t := w>>2 | w<<30
		if m.blocked(c, t) {
			return
		}
		m.insn(c, t)
		c.pc += 4
		return
	}
	rd, f3, rs1, rs2, f7 := w>>7&31, w>>12&7, w>>15&31, w>>20&31, w>>25
	a, b := c.x[rs1], c.x[rs2]
	immI := uint32(int32(w) >> 20)
	next := c.pc + 4
	set := func(v uint32) {
		if rd != 0 {
			c.x[rd] = v
		}
	}
	switch w & 0x7F {
	case 0x37:
		set(w &^ 0xFFF)
	case 0x17:
		set(c.pc + w&^0xFFF)
	case 0x6F:
		imm := uint32(int32(w)>>31)<<20 | w&0xFF000 | w>>20&1<<11 | w>>21&0x3FF<<1
		set(next)
		next = c.pc + imm
	case 0x67:
		set(next)
		next = (a + immI) &^ 1
	case 0x63:
		take := false
		switch f3 {
		case 0:
			take = a == b
		case 1:
			take = a != b
		case 4:
			take = int32(a) < int32(b)
		case 5:
			take = int32(a) >= int32(b)
		case 6:
			take = a < b
		case 7:
			take = a >= b
		}
		if take {
			next = c.pc + (uint32(int32(w)>>31)<<12 | w>>7&1<<11 | w>>25&0x3F<<5 | w>>8&0xF<<1)
		}
	case 0x03:
		addr := a + immI
		switch {
		case f3 == 2:
			set(m.load(c, addr))
		case f3 == 4 && addr >= c.base && addr < c.base+uint32(len(c.code)): // a table of libgcc's
			set(uint32(c.code[addr-c.base]))
		default:
			m.breaks("%s: a load that is not of a word at %#x", c.name, c.pc)
		}
	case 0x23:
		if f3 != 2 {
			m.breaks("%s: a store that is not of a word at %#x", c.name, c.pc)
		}
		m.store(c, a+(uint32(int32(w)>>25)<<5|rd), b)
	case 0x07:
		c.f[rd] = m.load(c, a+immI)
	case 0x27:
		m.store(c, a+(uint32(int32(w)>>25)<<5|rd), c.f[rs2])
	case 0x13, 0x33:
		if w&0x7F == 0x13 {
			b = immI
			if f3 != 1 && f3 != 5 {
				f7 = 0
			}
		}
		set(alu(f3, f7, a, b))
	case 0x43:
		x, y, z := math.Float32frombits(c.f[rs1]), math.Float32frombits(c.f[rs2]), math.Float32frombits(c.f[w>>27])
		c.f[rd] = math.Float32bits(fma(x, y, z))
	case 0x53:
		x, y := math.Float32frombits(c.f[rs1]), math.Float32frombits(c.f[rs2])
		switch f7 {
		case 0x00:
			c.f[rd] = math.Float32bits(x + y)
		case 0x08:
			c.f[rd] = math.Float32bits(float32(x * y))
		case 0x10: // fsgnj, as fmv
			c.f[rd] = c.f[rs1]&0x7FFFFFFF | c.f[rs2]&0x80000000
		case 0x50: // flt, fle
			set(0)
			if f3 == 1 && x < y || f3 == 0 && x <= y {
				set(1)
			}
		case 0x60:
			set(uint32(int32(math.RoundToEven(float64(x)))))
		case 0x68:
			if rs2 == 1 {
				c.f[rd] = math.Float32bits(float32(a))
			} else {
				c.f[rd] = math.Float32bits(float32(int32(a)))
			}
		case 0x70:
			set(c.f[rs1])
		case 0x78:
			c.f[rd] = a
		default:
			m.breaks("%s: float instruction %#08x at %#x", c.name, w, c.pc)
		}
	case 0x0F:
		clear(c.l0)
	default:
		m.breaks("%s: instruction %#08x at %#x is not RV32IM", c.name, w, c.pc)
	}
	c.pc = next
}

func alu(f3, f7, a, b uint32) uint32 {
	if f7 == 1 {
		switch f3 {
		case 0:
			return a * b
		case 3:
			return uint32(uint64(a) * uint64(b) >> 32)
		case 5:
			return a / b
		case 7:
			return a % b
		}
		panic("multiplication")
	}
	switch f3 {
	case 0:
		if f7 == 0x20 {
			return a - b
		}
		return a + b
	case 1:
		return a << (b & 31)
	case 2:
		if int32(a) < int32(b) {
			return 1
		}
		return 0
	case 3:
		if a < b {
			return 1
		}
		return 0
	case 4:
		return a ^ b
	case 5:
		if f7 == 0x20 {
			return uint32(int32(a) >> (b & 31))
		}
		return a >> (b & 31)
	case 6:
		return a | b
	}
	return a & b
}

// fma is x·y+z with one rounding: the sum rounded to odd in float64, then to float32.
func fma(x, y, z float32) float32 {
	p, a := float64(x)*float64(y), float64(z) // the product is exact
	s := p + a
	t := s - p
	if e := (p - (s - t)) + (a - t); e != 0 && math.Float64bits(s)&1 == 0 {
		if (e > 0) == (s > 0) {
			s = math.Float64frombits(math.Float64bits(s) + 1)
		} else {
			s = math.Float64frombits(math.Float64bits(s) - 1)
		}
	}
	return float32(s)
}

// newTile is a tile at reset.
func newTile(rng *rand.Rand, self uint32, patch func(name string, code []byte)) *tileModel {
	m := &tileModel{rng: rng, self: self, l1: make([]byte, 0x180000), niu: map[uint32]uint32{}}
	for i, name := range []string{"mover", "unpack", "math", "pack", "sender"} {
		code := bytes.Clone(Image(name))
		if patch != nil {
			patch(name, code)
		}
		base := []uint32{BaseBRISC, BaseTRISC0, BaseTRISC1, BaseTRISC2, BaseNCRISC}[i]
		m.cores = append(m.cores, &rvCore{
			name: name, number: i, base: base, code: code, pc: base, local: map[uint32]uint32{},
			pending: map[region][]store{}, l0: map[uint32][4]uint32{}, gpr: map[uint32]uint32{},
		})
	}
	return m
}

// put writes words into L1, as the host does.
func (m *tileModel) put(a uint32, v ...uint32) {
	for i, w := range v {
		binary.LittleEndian.PutUint32(m.l1[a+4*uint32(i):], w)
	}
}

// jobPart is a matrix of a test job.
type jobPart struct{ chunks, turn int }

type testJob struct {
	rows, ring, out int
	bytes           int
	parts           []jobPart
}

// runTile runs jobs on tile `index` of `tiles` and returns the rules broken.
func runTile(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 99))
	const tiles, hostBase = 5, 0x1_FFFF_FF80 // completion lines and results cross a 4 GiB line
	index := rng.IntN(tiles)
	m := newTile(rng, 1|2<<6, patch)
	m.hostBase, m.host = hostBase, make([]byte, 1<<20)
	m.peers = map[uint32]*tileModel{m.self: m}
	put := m.put
	const bank, rank = 17 | 15<<6, 3
	host := uint64(hostBase)
	put(0x16000, uint32(index), tiles, bank, rank, 19|24<<6, uint32(host), uint32(host>>32))
	m.gddr = func(b, addr, n uint32) []byte {
		if b != bank {
			m.breaks("a read from bank tile %#x, this tile's is %#x", b, bank)
		}
		out := make([]byte, n)
		for i := uint32(0); i < n; i += 4 {
			binary.LittleEndian.PutUint32(out[i:], (addr+i)*2654435761)
		}
		return out
	}
	results := 4096
	for number := uint32(1); number <= 6; number++ {
		j := testJob{rows: []int{1, 8, 32}[rng.IntN(3)], ring: 1 + rng.IntN(4), out: 1 + rng.IntN(4), bytes: []int{1024, 20480, 33024}[rng.IntN(3)]}
		for range 1 + rng.IntN(3) {
			j.parts = append(j.parts, jobPart{rng.IntN(25), rng.IntN(tiles)})
		}
		outBytes := 128 * j.rows
		// what this tile has to see and where its results belong
		type chunk struct {
			weights uint32
			dst     int
		}
		var list []chunk
		dst := results
		var words []uint32
		for p, part := range j.parts {
			weights, stride := uint32(0x100000*(p+1)*64), uint32(0x100000)
			at := uint64(hostBase + dst)
			words = append(words, uint32(part.chunks), weights, stride, uint32(part.turn), uint32(at), uint32(at>>32), 0, 0)
			k := 0
			for g := range part.chunks {
				if (part.turn+g)%tiles == index {
					list = append(list, chunk{weights + rank*stride + uint32(k*j.bytes), dst + g*outBytes})
					k++
				}
			}
			dst += part.chunks * outBytes
		}
		clear(m.host[results:])
		m.unpacked, m.packed = 0, 0
		m.useChunk = func(k int) []byte {
			if k >= len(list) {
				return nil
			}
			return m.gddr(bank, list[k].weights, uint32(j.bytes))
		}
		result := func(k int) []byte {
			return bytes.Repeat([]byte{byte(number), byte(k + 1), 0xA5, byte(k * 7)}, outBytes/4)
		}
		m.outChunk = result
		put(0x17000, words...)
		put(0x16100, 0, uint32(j.rows), 4, uint32(j.bytes), 0x18000, 0x30000, uint32(j.out), 0x60000, uint32(j.ring), uint32(len(j.parts)), 0, 0)
		put(0x16180, number)
		line := m.host[64*index:]
		for steps := 0; ; steps++ {
			if binary.LittleEndian.Uint32(line) == number && binary.LittleEndian.Uint32(line[12:]) == ^number {
				break
			}
			if steps > 3_000_000 {
				return append(m.broken, fmt.Sprintf("job %d hangs: %d of %d chunks unpacked, %d packed", number, m.unpacked, len(list), m.packed))
			}
			for range 1 + rng.IntN(8) {
				m.step(m.cores[rng.IntN(len(m.cores))])
			}
			m.network()
			if len(m.broken) > 0 {
				return m.broken
			}
		}
		if got := binary.LittleEndian.Uint32(line[4:]); got != uint32(len(list)) {
			m.breaks("job %d: %d chunks reported of %d", number, got, len(list))
		}
		for k, c := range list {
			if !bytes.Equal(m.host[c.dst:c.dst+outBytes], result(k)) {
				m.breaks("job %d: result %d is not in host memory when the tile says it is done", number, k)
			}
		}
		// the host may overwrite the job now: nobody may still be reading it
		for i := uint32(0); i < 0x100; i += 4 {
			if i != 0x80 {
				put(0x16100+i, 0xDEADBEEF)
			}
		}
		put(0x17000, bytes32(0xDEADBEEF, 24)...)
	}
	return m.broken
}

func bytes32(v uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestFirmwareKeepsTheOrderingRules(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		if broken := runTile(seed, nil); len(broken) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(broken, "\n"))
		}
	}
}

// The model must see each mistake: images with a rule taken out of the machine code are caught.
func TestOrderingModelSeesMistakes(t *testing.T) {
	nop := func(code []byte, match func(w uint32) bool, only int) {
		n := 0
		for i := 0; i+4 <= len(code); i += 4 {
			if match(binary.LittleEndian.Uint32(code[i:])) {
				if only < 0 || n == only {
					binary.LittleEndian.PutUint32(code[i:], 0x13)
				}
				n++
			}
		}
	}
	fence := func(w uint32) bool { return w&0x7F == 0x0F }
	for name, c := range map[string]struct {
		want  string
		patch func(name string, code []byte)
	}{
		"no fences anywhere": {"hangs", func(_ string, code []byte) { nop(code, fence, -1) }},
		"configuration is not read back": {"configuration stores", func(name string, code []byte) {
			if name == "math" { // lw x, off(x) right after the stores: the loads of configuration words
				for i := 4; i+4 <= len(code); i += 4 {
					w, before := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
					if w&0x707F == 0x2003 && before&0x707F == 0x2023 && w>>15&31 == before>>15&31 && w>>20 == before>>25<<5|before>>7&31 && i > 64 {
						binary.LittleEndian.PutUint32(code[i:], 0x13)
					}
				}
			}
		}},
		"reads are not awaited": {"is not what it should be", func(name string, code []byte) {
			if name == "mover" { // branches back that spin on the outstanding counters: bnez after lw of the NIU
				for i := 4; i+4 <= len(code); i += 4 {
					w := binary.LittleEndian.Uint32(code[i:])
					prev := binary.LittleEndian.Uint32(code[i-4:])
					if w&0x707F == 0x1063 && int32(w) < 0 && prev&0x707F == 0x2003 && w>>15&31 == prev>>7&31 && prev>>20 == 0 {
						binary.LittleEndian.PutUint32(code[i:], 0x13)
					}
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			seen := ""
			for seed := range uint64(6) {
				if broken := runTile(seed, c.patch); len(broken) > 0 {
					seen = strings.Join(broken, "; ")
					if strings.Contains(seen, c.want) {
						t.Logf("seed %d: %s", seed, seen)
						return
					}
				}
			}
			t.Errorf("want %q, the model saw %q", c.want, seen)
		})
	}
}

// A request whose source is still in a store queue is the mistake that "store, drain, trigger" is about.
func TestOrderingModelSeesUndrainedStores(t *testing.T) {
	for drained, want := range map[bool]int{false: 1, true: 0} {
		m := &tileModel{rng: rand.New(rand.NewPCG(1, 1)), l1: make([]byte, 0x180000), niu: map[uint32]uint32{}}
		c := &rvCore{name: "test", pending: map[region][]store{}, l0: map[uint32][4]uint32{}}
		m.store(c, 0x16404, 7)
		if drained {
			m.load(c, 0x16404)
		}
		const niu = 0xFFB20800
		for o, v := range map[uint32]uint32{0x00: 0x16400, 0x0C: 0, 0x10: 0, 0x14: pcie, 0x1C: 0x12, 0x20: 16} {
			m.store(c, niu+o, v)
		}
		m.store(c, niu+0x40, 1)
		m.load(c, niu+0x40)
		if len(m.broken) != want {
			t.Errorf("drained %v: %q", drained, m.broken)
		}
	}
}

// runVector runs one feed-forward on three tiles and returns the rules broken.
func runVector(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 7))
	const tiles, hostBase, bank = 3, 0x7000_0000, 17 | 12<<6
	tokens := []int{1, 2, 8, 9, 20}[rng.IntN(5)]
	rows := kernels.Rows(tokens)
	chunks, downChunks := 1+rng.IntN(7), 1+rng.IntN(5)
	F, turn, downTurn := 32*chunks, rng.IntN(tiles), rng.IntN(tiles)
	// what the matrices give, and what must come of it
	gate, up := make([]float32, tokens*F), make([]float32, tokens*F)
	for i := range gate {
		gate[i], up[i] = float32(rng.IntN(20001)-10000), float32(rng.IntN(20001)-10000)
	}
	sg, su, norm := make([]float32, tokens), make([]float32, tokens), make([]float32, F)
	for i := range norm {
		norm[i] = 0.5 + rng.Float32()
	}
	const eps = 1e-5
	q, largest := make([]int8, tokens*F), make([]float32, tokens)
	for r := range tokens {
		sg[r], su[r] = rng.Float32()*1e-3+1e-6, rng.Float32()*1e-3+1e-6
		h, y, row := make([]float32, F), make([]float32, F), make([]int8, kernel.Pad16(F))
		for i := range h {
			g := gate[r*F+i] * sg[r]
			if g < 0 {
				g = 0
			}
			h[i] = float32(float32(g*g) * float32(up[r*F+i]*su[r]))
		}
		kernel.RMSNormQuantize(row, y, h, norm, eps)
		copy(q[r*F:], row[:F])
		for _, v := range y {
			largest[r] = max(largest[r], v, -v)
		}
	}
	wantX, mask := make([]byte, kernels.XBytes(kernels.Ternary, F, rows)), make([]byte, kernels.XBytes(kernels.Ternary, F, rows))
	ones := make([]int8, tokens*F)
	for i := range ones {
		ones[i] = 1
	}
	_ = kernels.PackX(wantX, kernels.Ternary, q, tokens, F, F)
	_ = kernels.PackX(mask, kernels.Ternary, ones, tokens, F, F)

	const (
		outAt, hAt, qAt, gatherAt, tableAt, xAt, ringAt = 0x30000, 0x50000, 0x70000, 0x71000, 0xA0000, 0xA8000, 0xF0000
		normAt, maxAt, lines, results                   = 0x300000, 0x800, 0, 0x1000
		bytes1, bytes2                                  = 1024, 2048
	)
	host := make([]byte, 1<<20)
	peers := map[uint32]*tileModel{}
	var all []*tileModel
	var coords []uint32
	for i := range uint32(tiles) {
		coords = append(coords, 1+i|2<<6)
	}
	outBytes := 128 * rows
	for i := range tiles {
		m := newTile(rng, coords[i], patch)
		m.peers, m.host, m.hostBase = peers, host, hostBase
		peers[coords[i]] = m
		all = append(all, m)
		rank := uint32(i)
		m.gddr = func(_, addr, n uint32) []byte {
			out := make([]byte, n)
			for k := uint32(0); k < n; k += 4 {
				v := (addr + k) * 2654435761
				if o := addr + k - normAt; addr+k >= normAt && o/4 < uint32(F) {
					v = math.Float32bits(norm[o/4])
				}
				binary.LittleEndian.PutUint32(out[k:], v)
			}
			return out
		}
		mine := func(total, turn int) (list []int) {
			for g := range total {
				if (turn+g)%tiles == i {
					list = append(list, g)
				}
			}
			return
		}
		first, second := mine(chunks, turn), mine(downChunks, downTurn)
		n := len(first)
		stride := uint32(0x10000)
		m.useChunk = func(k int) []byte {
			switch {
			case k < 2*n:
				return m.gddr(bank, 0x100000+uint32(k/max(n, 1))*0x80000+rank*stride+uint32(k%max(n, 1)*bytes1), bytes1)
			case k < 2*n+len(second):
				for o := range wantX {
					if mask[o] != 0 && m.l1[xAt+o/2*2+o%2] != wantX[o] {
						m.breaks("tile %d: activation byte %#x is %#x when they are used, want %#x", i, o, m.l1[xAt+o], wantX[o])
						break
					}
				}
				return m.gddr(bank, 0x200000+rank*stride+uint32((k-2*n)*bytes2), bytes2)
			}
			return nil
		}
		m.outChunk = func(k int) []byte {
			if k >= 2*n {
				return bytes.Repeat([]byte{byte(i + 1), byte(second[k-2*n]), 0x5A, 1}, outBytes/4)
			}
			src, g := gate, first[k%n]
			if k >= n {
				src = up
			}
			b := make([]byte, outBytes)
			for r := range tokens {
				for o := range 32 {
					at := o
					if rows > 1 {
						at = r/8*256 + o/16*128 + r%8*16 + o%16
					}
					binary.LittleEndian.PutUint32(b[4*at:], math.Float32bits(src[r*F+32*g+o]))
				}
			}
			return b
		}
		m.put(0x16000, uint32(i), tiles, bank, rank, pcie, hostBase, 0)
		m.put(0x16A00, coords...)
		m.put(0x16480, uint32(tokens), uint32(F), math.Float32bits(eps), normAt, hAt, qAt, gatherAt, tableAt, coords[0]<<12|coords[tiles-1], coords[0], 0x16A00, hostBase+maxAt, 0)
		for r := range tokens {
			m.put(0x16500+4*uint32(r), math.Float32bits(sg[r]))
			m.put(0x16580+4*uint32(r), math.Float32bits(su[r]))
		}
		m.put(0x17000, uint32(chunks), 0x100000, stride, uint32(turn), 0, 0, 0, 0, uint32(chunks), 0x180000, stride, uint32(turn), 0, 0, 0, 0)
		m.put(0x17000+32*16, uint32(downChunks), 0x200000, stride, uint32(downTurn), hostBase+results, 0, 0, 0)
		slots := uint32(max(2*((chunks+tiles-1)/tiles), 2))
		m.put(0x16100, 0, uint32(rows), 4, bytes1, 0x18000, outAt, slots, ringAt, 3, 2, 0, 1)
		m.put(0x16140, 0, uint32(rows), 4, bytes2, xAt, outAt, slots, ringAt, 2, 1, 16, 0)
		m.put(0x16180, 1)
	}
	for steps := 0; ; steps++ {
		done := true
		for i := range tiles {
			done = done && binary.LittleEndian.Uint32(host[lines+64*i:]) == 1
		}
		if done {
			break
		}
		if steps > 4_000_000 {
			var at []string
			for i, m := range all {
				at = append(at, fmt.Sprintf("tile %d: note %d released %d chunks %d/%d acks %d requests %d", i, m.word(0x17E80), m.word(0x17D00), m.unpacked, m.packed, m.acks, len(m.requests)))
				for _, c := range m.cores {
					at = append(at, fmt.Sprintf("%s at %#x", c.name, c.pc))
				}
			}
			return []string{fmt.Sprintf("hangs: %d tokens, %d and %d chunks from tiles %d and %d: %s", tokens, chunks, downChunks, turn, downTurn, strings.Join(at, "; "))}
		}
		for _, m := range all {
			for range 1 + rng.IntN(4) {
				m.step(m.cores[rng.IntN(len(m.cores))])
			}
			m.network()
			if len(m.broken) > 0 {
				return m.broken
			}
		}
	}
	var broken []string
	for r := range tokens {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(host[maxAt+4*r:])); got != largest[r] {
			broken = append(broken, fmt.Sprintf("the largest magnitude of row %d is %g, want %g", r, got, largest[r]))
		}
	}
	for g := range downChunks {
		tile := (downTurn + g) % tiles
		if want := bytes.Repeat([]byte{byte(tile + 1), byte(g), 0x5A, 1}, outBytes/4); !bytes.Equal(host[results+g*outBytes:][:outBytes], want) {
			broken = append(broken, fmt.Sprintf("result %d is not in host memory", g))
		}
	}
	return broken
}

// A feed-forward on three tiles with late stores, stale caches and a slow network: meetings, gathered rows, norm and
// quantised activations hold, and are the host's numbers.
func TestFeedForwardKeepsTheOrderingRules(t *testing.T) {
	for seed := range uint64(8) {
		if broken := runVector(seed, nil); len(broken) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(broken, "\n"))
		}
	}
	// Without waiting for acknowledgements the tiles meet before their data has met.
	for seed := range uint64(20) {
		broken := runVector(seed, func(name string, code []byte) {
			for i := 4; name == "sender" && i+4 <= len(code); i += 4 {
				w, prev := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
				if w&0x707F == 0x1063 && int32(w) < 0 && prev&0x707F == 0x2003 && prev>>20 == 0x204 {
					binary.LittleEndian.PutUint32(code[i:], 0x13)
				}
			}
		})
		if len(broken) > 0 {
			t.Logf("without acknowledgements, seed %d: %s", seed, broken[0])
			return
		}
	}
	t.Error("the model does not see that acknowledgements are not awaited")
}
