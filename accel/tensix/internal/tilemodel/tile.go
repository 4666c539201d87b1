// Package tilemodel is a tile of a Blackhole that is as late and as stale as the chip's documents allow, for tests of the
// firmware.
//
// The simulator does everything at once and in order. A card does not: stores wait, caches are stale, requests take
// their time and overtake each other. It runs the embedded images, instruction by instruction, on a model of
// a tile that is as late and as stale as the chip's documents allow, and checks both the rules (store, drain,
// trigger) and the outcome (every weight chunk whole while it is in use, every result at its place in host memory).
//
// What it models, from tt-isa-documentation BlackholeA0 (MemoryOrdering.md, NoC): a core's stores are queued per
// region and are done only when a later load of the same region comes back; a 16-byte line once read is stale until
// a fence; NoC reads land and are counted after a random time, in any order; NoC writes read their source at some
// time before their acknowledgement. Cores run in a random interleaving. Coprocessor instructions are taken for what
// they do to this protocol: semaphores, the unpackers' and the packer's addresses.
package tilemodel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/tritlm/trit/accel/tensix/firmware"
	"github.com/tritlm/trit/accel/tensix/kernels"
)

// PCIe is the tile that leads to host memory.
const PCIe = 19 | 24<<6

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

// Core is one of its RISC-V cores, or what is seen of it.
type Core struct {
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
	csr     uint32            // 0x7C0, the core's own configuration
}

type request struct {
	read       bool
	tag        uint32
	host       uint64
	to         *Tile // a write to a tile's L1, at addr
	l1, n      uint32
	bank, addr uint32
	toBank     bool
	atomic     bool // one is added to a word at addr; the old one goes to l1
	data, done int  // remaining steps until the bytes move, until it is answered
}

// Tile is a tile's memory, its NIU and its cores.
type Tile struct {
	Self     uint32           // coordinates
	Peers    map[uint32]*Tile // all tiles, this one too
	L1       []byte
	Host     []byte // host memory, which begins at address HostBase
	HostBase uint64
	Cores    []*Core
	Broken   []string // rules that were
	Unpacked int      // chunks, and chunks packed; the caller sets them back
	Packed   int
	Acks     uint32 // of writes

	GDDR     func(bank, addr, n uint32) []byte      // what a bank holds
	Keep     func(bank, addr uint32, b []byte) bool // a write to GDDR; false: there is no such bank
	UseChunk func(k int) []byte                     // the k-th weight chunk that this tile must see
	OutChunk func(k int) []byte                     // what the packer leaves for it

	rng      *rand.Rand
	niu      map[uint32]uint32
	out      [16]uint32
	requests []*request
	sem      int
	steps    int
	config   map[uint32]uint32 // of the coprocessor
	vector   vectorModel
}

// Breaks notes a broken rule.
func (m *Tile) Breaks(format string, a ...any) {
	if len(m.Broken) < 8 {
		m.Broken = append(m.Broken, fmt.Sprintf(format, a...))
	}
}

// Word is a word of L1.
func (m *Tile) Word(a uint32) uint32 { return binary.LittleEndian.Uint32(m.L1[a:]) }

// flush does the queued stores of a region.
func (m *Tile) flush(c *Core, r region) {
	for _, s := range c.pending[r] {
		m.do(c, s)
	}
	c.pending[r] = nil
}

func (m *Tile) do(c *Core, s store) {
	switch regionOf(s.addr) {
	case inL1:
		binary.LittleEndian.PutUint32(m.L1[s.addr:], s.v)
	case inNIU:
		m.niu[s.addr] = s.v
		if s.addr&0x7FF == 0x40 && s.v == 1 {
			m.request(c, s.addr&^0x7FF)
		}
	case inPush:
		m.insn(c, s.v)
	case inConfig:
		m.config[(s.addr-0xFFEF0000)/4] = s.v
	}
}

func (m *Tile) request(c *Core, base uint32) {
	m.niu[base+0x40] = 0
	r := &request{n: m.niu[base+0x20], tag: m.niu[base+0x18] >> 10}
	switch ctrl := m.niu[base+0x1C]; ctrl {
	case 0x10:
		r.read, r.bank, r.addr, r.l1 = true, m.niu[base+8], m.niu[base], m.niu[base+0xC]
		if r.addr%64 != r.l1%64 {
			m.Breaks("%s: read from %#x to %#x: alignments differ", c.name, r.addr, r.l1)
		}
		m.out[r.tag]++
	case 0x12, 0x20132:
		r.l1, r.host = m.niu[base], uint64(m.niu[base+0xC])|uint64(m.niu[base+0x10])<<32
		xy := m.niu[base+0x14]
		if ctrl == 0x20132 { // to every tile of a rectangle, each at its own time
			for at, peer := range m.Peers {
				if at&63 >= xy>>12&63 && at&63 <= xy&63 && at>>6 >= xy>>18 && at>>6 <= xy>>6&63 {
					c := &request{l1: r.l1, n: r.n, to: peer, addr: uint32(r.host), data: m.delay()}
					c.done = c.data + m.rng.IntN(50)
					m.requests = append(m.requests, c)
				}
			}
			r = nil
		} else if xy != PCIe {
			if r.to = m.Peers[xy]; r.to == nil && m.Keep != nil && xy&63 >= 17 {
				r.toBank, r.bank = true, xy
				if (r.l1-uint32(r.host))%64 != 0 {
					m.Breaks("%s: write from %#x to GDDR at %#x: alignments differ", c.name, r.l1, r.host)
				}
			} else if r.to == nil {
				m.Breaks("%s: a write to %#x, where no tile is", c.name, xy)
				return
			}
			r.addr = uint32(r.host)
		}
		for _, s := range c.pending[inL1] {
			if s.addr >= m.niu[base] && s.addr < m.niu[base]+m.niu[base+0x20] {
				m.Breaks("%s: the NIU is told to send %#x, whose store is not drained", c.name, s.addr)
			}
		}
	case 0x11:
		r.atomic, r.l1, r.addr, r.to = true, m.niu[base+0xC], m.niu[base], m.Peers[m.niu[base+8]]
		if r.to == nil || r.addr%16 != 0 || r.n != 0x107C || m.niu[base+0x28] != 1 {
			m.Breaks("%s: an atomic %#x of %d at %#x of %#x", c.name, r.n, m.niu[base+0x28], r.addr, m.niu[base+8])
			return
		}
	default:
		m.Breaks("%s: request control %#x", c.name, ctrl)
	}
	if n := m.niu[base+0x20]; !(r != nil && r.atomic) && (n == 0 || n > 16384) {
		m.Breaks("%s: a packet of %d bytes", c.name, n)
	}
	if r == nil {
		return
	}
	r.data = m.delay()
	r.done = r.data + m.rng.IntN(50)
	m.requests = append(m.requests, r)
}

// delay is how long the network takes to move a request's bytes: mostly little, now and then very long.
func (m *Tile) delay() int {
	if m.rng.IntN(16) == 0 {
		return m.rng.IntN(3000)
	}
	return m.rng.IntN(200)
}

// Network moves what is under way by a step.
func (m *Tile) Network() {
	keep := m.requests[:0]
	for _, r := range m.requests {
		if r.data == 0 {
			if r.atomic {
				v := r.to.Word(r.addr)
				binary.LittleEndian.PutUint32(r.to.L1[r.addr:], v+1)
				binary.LittleEndian.PutUint32(m.L1[r.l1:], v)
			} else if r.read {
				copy(m.L1[r.l1:r.l1+r.n], m.GDDR(r.bank, r.addr, r.n))
			} else if r.toBank {
				if !m.Keep(r.bank, r.addr, m.L1[r.l1:r.l1+r.n]) {
					m.Breaks("a write to %#x, where no bank is", r.bank)
				}
			} else if r.to != nil {
				copy(r.to.L1[r.addr:r.addr+r.n], m.L1[r.l1:r.l1+r.n])
			} else {
				o := r.host - m.HostBase
				copy(m.Host[o:o+uint64(r.n)], m.L1[r.l1:r.l1+r.n])
			}
		}
		r.data--
		if r.done--; r.done >= 0 {
			keep = append(keep, r)
			continue
		}
		switch {
		case r.atomic: // has a counter of its own
		case r.read:
			m.out[r.tag]--
		default:
			m.Acks++
		}
	}
	m.requests = keep
}

func (m *Tile) load(c *Core, a uint32) uint32 {
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
			c.l0[line] = [4]uint32{m.Word(line), m.Word(line + 4), m.Word(line + 8), m.Word(line + 12)}
		}
		return c.l0[line][a%16/4]
	case inLocal:
		return c.local[a]
	case inNIU:
		m.flush(c, inNIU)
		switch o := a & 0xFFFF; {
		case o == 0x204:
			return m.Acks
		case o >= 0x240 && o < 0x280:
			return m.out[(o-0x240)/4]
		case o == 0x148:
			return m.Self
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

func (m *Tile) store(c *Core, a, v uint32) {
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
func (m *Tile) blocked(c *Core, w uint32) bool {
	if w>>24 != 0xA6 {
		return false
	}
	if w&3 == 1 { // while zero
		return m.sem == 0
	}
	return m.sem == 2
}

func (m *Tile) insn(c *Core, w uint32) {
	if c.csr>>18&1 == 0 {
		m.Breaks("%s: coprocessor instruction %#08x while gathering is on", c.name, w)
	}
	if n := len(c.pending[inConfig]); n > 0 {
		m.Breaks("%s: coprocessor instruction %#08x while %d configuration stores are not known to be done", c.name, w, n)
		c.pending[inConfig] = nil
	}
	switch w >> 24 {
	case 0x45:
		c.gpr[w&0xFF] = w >> 8 & 0xFFFF
	case 0xB0:
		v := c.gpr[2*(w>>16&0xFF)] | c.gpr[2*(w>>16&0xFF)+1]<<16
		reg := w & 0x7FFF
		m.config[reg] = v
		if reg == 76 || reg == 69 {
			c.started = false
		}
	case 0x42:
		if c.number == 2 { // attention unpacks to Dst
			m.vector.unpacks = append(m.vector.unpacks, transfer{(m.config[84]&0xFFFF - 64) / 16, (m.config[76] + 1) << 4, 64})
		} else if w>>23&1 == 0 && !c.started { // the first weights of a chunk
			c.started, c.at = true, (m.config[76]+1)<<4
			m.check(c, "at its start")
		}
	case 0x41:
		if c.number == 2 {
			v := &m.vector
			if v.row == 0 {
				v.row, v.at = m.config[180]+1, (m.config[69]+1)<<4
			}
			v.packs = append(v.packs, transfer{v.row - 1, v.at, 4})
			if v.row, v.at = v.row+4, v.at+256; w&1 != 0 {
				v.row = 0
			}
		} else if !c.started {
			c.started, c.at = true, (m.config[69]+1)<<4
		}
	case 0xA3:
		m.sem = 0
	case 0xA4:
		m.sem++
	case 0xA5:
		m.sem--
	default:
		m.vector.do(w)
	}
}

func (m *Tile) check(c *Core, when string) {
	want := m.UseChunk(m.Unpacked)
	if want == nil {
		m.Breaks("the unpacker uses a chunk too many")
	} else if !bytes.Equal(m.L1[c.at:c.at+uint32(len(want))], want) {
		m.Breaks("weight chunk %d at %#x is not what it should be %s of its use", m.Unpacked, c.at, when)
	}
}

// synced: the unpackers or the packer have finished a chunk.
func (m *Tile) synced(c *Core) {
	if c.number == 2 {
		m.vector.synced(m.L1)
		return
	}
	if !c.started {
		return
	}
	c.started = false
	switch c.number {
	case 1:
		m.check(c, "at the end")
		m.Unpacked++
	case 3:
		copy(m.L1[c.at:], m.OutChunk(m.Packed))
		m.Packed++
	}
}

// New is a tile at reset with the embedded firmware, which patch may change.
func New(rng *rand.Rand, self uint32, patch func(name string, code []byte)) *Tile {
	m := &Tile{rng: rng, Self: self, L1: make([]byte, 0x180000), niu: map[uint32]uint32{}, config: map[uint32]uint32{}}
	for i, name := range []string{"mover", "unpack", "math", "pack", "sender"} {
		code := bytes.Clone(firmware.Image(name))
		if patch != nil {
			patch(name, code)
		}
		base := []uint32{firmware.BaseBRISC, firmware.BaseTRISC0, firmware.BaseTRISC1, firmware.BaseTRISC2, firmware.BaseNCRISC}[i]
		m.Cores = append(m.Cores, &Core{
			name: name, number: i, base: base, code: code, pc: base, local: map[uint32]uint32{},
			pending: map[region][]store{}, l0: map[uint32][4]uint32{}, gpr: map[uint32]uint32{},
		})
	}
	return m
}

// Boot runs the cores until each has said that it waits for a job, as the host does before the first one.
func (m *Tile) Boot() {
	for range 1_000_000 {
		ready := true
		for i := range m.Cores {
			ready = ready && m.Word(uint32(kernels.Line(kernels.LineAlive+i))) == kernels.Ready
		}
		if ready {
			return
		}
		m.Step(m.Cores[m.rng.IntN(len(m.Cores))])
		m.Network()
	}
	m.Breaks("not all cores start")
}

// Put writes words into L1, as the host does.
func (m *Tile) Put(a uint32, v ...uint32) {
	for i, w := range v {
		binary.LittleEndian.PutUint32(m.L1[a+4*uint32(i):], w)
	}
}

// Waiting is how many requests are under way.
func (m *Tile) Waiting() int { return len(m.requests) }

func (c *Core) String() string { return fmt.Sprintf("%s at %#x", c.name, c.pc) }
