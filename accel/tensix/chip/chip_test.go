package chip

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// fake is a machine of plain words: enough of a chip to hold telemetry, memory and registers.
type fake struct {
	words map[[3]uint64]uint32 // x, y, address
	log   []string
}

type fakeWindow struct {
	f    *fake
	size uint64
	t    driver.Target
}

func newFake(tags map[uint32]uint32) *fake {
	f := &fake{words: map[[3]uint64]uint32{}}
	set := func(addr uint64, v uint32) { f.words[[3]uint64{8, 0, addr}] = v }
	set(arcScratch+4*scratchBoot, 0x65)
	set(arcScratch+4*scratchTable, 0x1000)
	set(arcScratch+4*scratchValues, 0x2000)
	i := uint32(0)
	for tag, v := range tags {
		set(0x1008+4*uint64(i), tag|(i+3)<<16)
		set(0x2000+4*uint64(i+3), v)
		i++
	}
	set(0x1004, i)
	return f
}

func (f *fake) Info() driver.Info { return driver.Info{Name: "fake"} }
func (f *fake) Window(size uint64, _ bool) (driver.Window, error) {
	return &fakeWindow{f: f, size: size}, nil
}
func (f *fake) HostMemory(n int) (driver.HostMemory, error) { return driver.HostMemory{}, nil }
func (f *fake) Guard(x, y int, addr uint64, v uint32) error {
	f.log = append(f.log, fmt.Sprintf("guard (%d,%d) %#x=%#x", x, y, addr, v))
	return nil
}
func (f *fake) Step(uint32)                     {}
func (f *fake) Close() error                    { return nil }
func (w *fakeWindow) Size() uint64              { return w.size }
func (w *fakeWindow) Aim(t driver.Target) error { w.t = t; return nil }
func (w *fakeWindow) Close() error              { return nil }
func (w *fakeWindow) at(off uint64) [3]uint64 {
	return [3]uint64{uint64(w.t.X), uint64(w.t.Y), w.t.Addr + off}
}

func (w *fakeWindow) Read(off uint64, b []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], w.f.words[w.at(off+uint64(i))])
	}
}

func (w *fakeWindow) Write(off uint64, b []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		w.f.words[w.at(off+uint64(i))] = binary.LittleEndian.Uint32(b[i:])
	}
}

func TestHarvestedPartsComeFromTelemetry(t *testing.T) {
	for _, c := range []struct {
		name           string
		tags           map[uint32]uint32
		columns, banks int
		lastX          int
		assumed        int
	}{
		{"whole chip", map[uint32]uint32{tagClock: 1350, tagColumns: 0x3FFF, tagBanks: 0xFF}, 14, 8, 16, 0},
		{"p150a, two columns harvested", map[uint32]uint32{tagClock: 1350, tagColumns: 0x3FFF &^ (1<<3 | 1<<10), tagBanks: 0xFF}, 12, 8, 14, 0},
		{"p100a, one bank harvested too", map[uint32]uint32{tagClock: 1350, tagColumns: 0x3FFF &^ 0x3, tagBanks: 0xFF &^ (1 << 5)}, 12, 7, 14, 0},
		{"one column left", map[uint32]uint32{tagClock: 800, tagColumns: 1 << 13, tagBanks: 1}, 1, 1, 1, 0},
		{"old firmware that says neither", map[uint32]uint32{tagClock: 800}, 14, 8, 16, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			ch, err := Open(newFake(c.tags), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if ch.Columns != c.columns || ch.Banks != c.banks || len(ch.Telemetry.Assumed) != c.assumed || ch.Telemetry.Clock != int(c.tags[tagClock]) {
				t.Errorf("got %+v, %+v", ch.Geometry, ch.Telemetry)
			}
			if _, last := ch.Full().Corners(); last != (XY{c.lastX, 11}) {
				t.Errorf("last tile %v", last)
			}
			place := ch.Place(ch.Full())
			seen := map[XY]bool{}
			for _, p := range place {
				seen[p] = true
			}
			if len(seen) != ch.Tiles() {
				t.Errorf("%d tiles placed of %d", len(seen), ch.Tiles())
			}
		})
	}
}

func TestNothingAliveIsAnError(t *testing.T) {
	for want, f := range map[string]*fake{
		"0 live Tensix columns": newFake(map[uint32]uint32{tagColumns: 0, tagBanks: 0xFF}),
		"not ready":             func() *fake { f := newFake(nil); f.words[[3]uint64{8, 0, arcScratch + 8}] = 3; return f }(),
		"fallen off":            func() *fake { f := newFake(nil); f.words[[3]uint64{8, 0, arcScratch + 8}] = 0xFFFFFFFF; return f }(),
		"1048576 entries":       func() *fake { f := newFake(nil); f.words[[3]uint64{8, 0, 0x1004}] = 1 << 20; return f }(),
	} {
		if _, err := Open(f, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Readers of a bank are equally many and near.
func TestPlacementIsBalancedAndShort(t *testing.T) {
	g := Geometry{Columns: 12, Banks: 8}
	total := func(order []XY) (sum, worst int) {
		for i, c := range order {
			h := hops(i%g.Banks, c)
			sum, worst = sum+h, max(worst, h)
		}
		return
	}
	naive, _ := total(g.Full().List())
	placed, worst := total(g.Place(g.Full()))
	t.Logf("hops from bank to reader, 120 tiles: row by row %d, placed %d (worst %d)", naive, placed, worst)
	if placed*4 > naive*3 {
		t.Errorf("placement saves less than a quarter: %d of %d", placed, naive)
	}
}

func open(t *testing.T) (*Chip, *fake, *[]string) {
	t.Helper()
	var got []string
	f := newFake(map[uint32]uint32{tagColumns: 0xFFF, tagBanks: 0x7F})
	c, err := Open(f, Options{Violation: func(err error) { got = append(got, err.Error()) }})
	if err != nil {
		t.Fatal(err)
	}
	return c, f, &got
}

// Each rule of the Checker fires on the mistake it is for, and a proper bring-up breaks none.
func TestCheckerFindsEachMistake(t *testing.T) {
	w4, w8 := make([]byte, 4), make([]byte, 8)
	tile := XY{1, 2}
	boot := func(c *Chip) {
		_ = c.Load(tile, []Image{{BRISC, 0, w8}, {TRISC1, 0xA000, w8}, {NCRISC, 0x12000, w8}})
		_ = c.Write(tile, 0x16000, w8)
		_ = c.Start(tile, BRISC|TRISC1|NCRISC)
	}
	for _, c := range []struct {
		want string // empty: no violation
		do   func(*Chip)
	}{
		{"", boot},
		{"", func(c *Chip) { boot(c); _ = c.Hold(tile); boot(c) }},
		{"", func(c *Chip) { _ = c.WriteBank(6, 64, w8) }},
		{"", func(c *Chip) { _ = c.AimCast(c.Full()); c.Cast(0x20000, w8) }},
		{"whole aligned words", func(c *Chip) { _ = c.Write(tile, 0x20000, w8[:7]) }},
		{"whole aligned words", func(c *Chip) { _ = c.Write(tile, 0x20002, w4) }},
		{"end past L1", func(c *Chip) { _ = c.Write(tile, L1Size-4, w8) }},
		{"one word at a time", func(c *Chip) { _ = c.Write(tile, regSoftReset, w8) }},
		{"neither a live Tensix tile", func(c *Chip) { _, _ = c.Read32(XY{15, 2}, 0) }},
		{"neither a live Tensix tile", func(c *Chip) { _, _ = c.Read32(XY{8, 5}, 0) }},
		{"nor port 0", func(c *Chip) { _, _ = c.Read32(bankPort(0, 1), 0) }},
		{"nor port 0", func(c *Chip) { _, _ = c.Read32(bankPort(7, 0), 0) }},
		{"corner is not a live", func(c *Chip) { _ = c.AimCast(Grid{13, 10}) }},
		{"read through the multicast", func(c *Chip) { _ = c.AimCast(c.Full()); c.cast.Read(0, w4) }},
		{"strict uncached", func(c *Chip) {
			_ = c.cast.Aim(driver.Target{X: 1, Y: 2, X1: 2, Y1: 2, Multicast: true, Ordering: driver.Strict, Addr: regSpace})
			c.cast.Write(regSoftReset-regSpace, w4)
		}},
		{"is written while cores", func(c *Chip) { boot(c); _ = c.Write(tile, 0x100, w8) }},
		{"released before stores", func(c *Chip) {
			_ = c.Write(tile, 0, w8)
			_ = c.Write32(tile, regSoftReset, uint32(AllCores&^BRISC))
		}},
	} {
		ch, _, got := open(t)
		c.do(ch)
		switch {
		case c.want == "" && len(*got) > 0:
			t.Errorf("a correct sequence was reported: %v", *got)
		case c.want != "" && (len(*got) == 0 || !strings.Contains((*got)[0], c.want)):
			t.Errorf("want %q, got %q", c.want, *got)
		}
	}
}

func TestBadGDDRIsNamed(t *testing.T) {
	c, f, _ := open(t)
	c.bulk = &stuck{c.bulk}
	err := c.WriteBank(3, 128, []byte{1, 2, 3, 4})
	if err == nil || !strings.Contains(err.Error(), "GDDR bank 3 does not hold") {
		t.Errorf("got %v", err)
	}
	if err := c.HoldOnExit(XY{2, 3}); err != nil || len(f.log) != 1 || f.log[0] != "guard (2,3) 0xffb121b0=0x47800" {
		t.Errorf("%v %q", err, f.log)
	}
}

type stuck struct{ driver.Window }

func (s *stuck) Read(_ uint64, b []byte) { clear(b) }
