package tilemodel

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// A request whose source is still in a store queue is the mistake that "store, drain, trigger" is about.
func TestOrderingModelSeesUndrainedStores(t *testing.T) {
	for drained, want := range map[bool]int{false: 1, true: 0} {
		m := &Tile{rng: rand.New(rand.NewPCG(1, 1)), L1: make([]byte, 0x180000), niu: map[uint32]uint32{}}
		c := &Core{name: "test", pending: map[region][]store{}, l0: map[uint32][4]uint32{}}
		m.store(c, 0x16404, 7)
		if drained {
			m.load(c, 0x16404)
		}
		const niu = 0xFFB20800
		for o, v := range map[uint32]uint32{0x00: 0x16400, 0x0C: 0, 0x10: 0, 0x14: PCIe, 0x1C: 0x12, 0x20: 16} {
			m.store(c, niu+o, v)
		}
		m.store(c, niu+0x40, 1)
		m.load(c, niu+0x40)
		if len(m.Broken) != want {
			t.Errorf("drained %v: %q", drained, m.Broken)
		}
	}
}

// testTile is a tile with one core that runs code at 0.
func testTile(code ...uint32) (*Tile, *Core) {
	m := &Tile{rng: rand.New(rand.NewPCG(1, 1)), L1: make([]byte, 0x180000), niu: map[uint32]uint32{}, config: map[uint32]uint32{}}
	c := &Core{name: "test", local: map[uint32]uint32{}, pending: map[region][]store{}, l0: map[uint32][4]uint32{}, gpr: map[uint32]uint32{}}
	for _, w := range code {
		c.code = binary.LittleEndian.AppendUint32(c.code, w)
	}
	m.Cores = []*Core{c}
	return m, c
}

// A line that was read stays as it was until a fence, whoever writes it meanwhile.
func TestCachedLinesStayStaleUntilAFence(t *testing.T) {
	m, c := testTile(0x0FF0000F) // fence
	m.Put(0x20000, 1)
	if v := m.load(c, 0x20000); v != 1 {
		t.Fatalf("read %d", v)
	}
	m.Put(0x20000, 2)
	if v := m.load(c, 0x20000); v != 1 {
		t.Errorf("a cached line shows %d, which another core wrote", v)
	}
	m.Step(c)
	if v := m.load(c, 0x20000); v != 2 {
		t.Errorf("read %d behind a fence", v)
	}
}

// A store is not seen by anybody else before the core has read back from its region.
func TestStoresWaitForALoadOfTheirRegion(t *testing.T) {
	m, c := testTile()
	m.store(c, 0x20000, 7)
	m.load(c, 0xFFB20148) // another region
	if m.Word(0x20000) != 0 {
		t.Error("a load of the NIU has done a store to L1")
	}
	m.load(c, 0x20010)
	if m.Word(0x20000) != 7 {
		t.Error("a load of L1 came back before the store was done")
	}
}

// Gathering is on when a core starts; the start code turns it off before the coprocessor is told anything.
func TestGatheringMustBeOff(t *testing.T) {
	for off, want := range map[bool]int{false: 1, true: 0} {
		m, c := testTile(0x7C02A073) // csrs 0x7C0, t0
		if c.x[5] = 1 << 18; off {
			m.Step(c)
		}
		m.insn(c, 0xA4000008)
		if len(m.Broken) != want {
			t.Errorf("off %v: %q", off, m.Broken)
		}
	}
}

// The cores' integer instructions are RV32IM's, and the fused multiply-add cuts its product as the chip's does.
func TestArithmetic(t *testing.T) {
	for _, c := range []struct{ f3, f7, a, b, want uint32 }{
		{0, 0, 7, 0xFFFFFFFF, 6},
		{0, 0x20, 7, 9, 0xFFFFFFFE},
		{1, 0, 1, 33, 2},
		{5, 0, 0x80000000, 4, 0x08000000},
		{5, 0x20, 0x80000000, 4, 0xF8000000},
		{2, 0, 0xFFFFFFFF, 0, 1},
		{3, 0, 0xFFFFFFFF, 0, 0},
		{4, 0, 5, 3, 6},
		{6, 0, 5, 3, 7},
		{7, 0, 5, 3, 1},
		{0, 1, 0x10001, 0x10001, 0x20001},
		{3, 1, 0x80000000, 4, 2},
		{5, 1, 7, 2, 3},
		{7, 1, 7, 2, 1},
	} {
		if got := alu(c.f3, c.f7, c.a, c.b); got != c.want {
			t.Errorf("alu(%d, %#x, %#x, %#x) = %#x, want %#x", c.f3, c.f7, c.a, c.b, got, c.want)
		}
	}
	if got := fma(3, 5, 7); got != 22 {
		t.Errorf("3·5 + 7 = %g", got)
	}
}
