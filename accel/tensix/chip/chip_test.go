package chip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// fake is a machine of plain words: enough of a chip to hold telemetry, memory and registers.
type fake struct {
	words   map[[3]uint64]uint32 // x, y, address
	log     []string
	windows []uint64
	resets  []uint32
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
	f.windows = append(f.windows, size)
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
func (w *fakeWindow) Fence()                    { w.f.log = append(w.f.log, "fence") }
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
	if w.t.Multicast {
		w.f.log = append(w.f.log, fmt.Sprintf("cast %#x", w.t.Addr+off))
	}
	if w.t.Addr+off == regSoftReset {
		w.f.resets = append(w.f.resets, binary.LittleEndian.Uint32(b))
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

// Three forms of telemetry name the GDDR banks' ports: none, the placement since firmware 19.12, the one that is coming.
// Banks that are dead move the others, and their ports with them (tt-system-firmware noc_init.c).
func TestGDDRPortsComeFromTheFirmware(t *testing.T) {
	port := func(slot, port int) XY { return XY{17 + slot/4, 12 + 3*(slot%4) + port} }
	for _, c := range []struct {
		name string
		live uint32
		tag  int64 // -1: none
		want []XY  // nil: refused
	}{
		{"none", 0xFF, -1, []XY{port(0, 2), port(1, 0), port(2, 0), port(3, 0), port(4, 2), port(5, 2), port(6, 2), port(7, 2)}},
		{"since 19.12", 0xFF, 0x00000002, []XY{port(0, 2), port(1, 0), port(2, 0), port(3, 0), port(4, 2), port(5, 2), port(6, 2), port(7, 2)}},
		{"relocated", 0xFF, 0x00001110, []XY{port(0, 0), port(1, 1), port(2, 1), port(3, 1), port(4, 2), port(5, 2), port(6, 2), port(7, 2)}},
		{"p100a, bank 1 dead: east first, row 1 last", 0xFF &^ 2, 0x000000F2, []XY{port(0, 2), port(1, 2), port(2, 2), port(3, 2), port(4, 2), port(5, 0), port(6, 0)}},
		{"p100a, bank 6 dead: row 2 last", 0xFF &^ 0x40, 0x0F001110, []XY{port(0, 0), port(1, 1), port(2, 1), port(3, 1), port(4, 2), port(5, 2), port(6, 2)}},
		{"a port that is not there", 0xFF, 0x00030000, nil},
		{"no port for a live bank", 0xFF, 0x0000000F, nil},
	} {
		tags := map[uint32]uint32{tagColumns: 0x3FFF, tagBanks: c.live}
		if c.tag >= 0 {
			tags[tagPorts] = uint32(c.tag)
		}
		ch, err := Open(newFake(tags), Options{TelemetryOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if c.want == nil {
			if !errors.Is(ch.Telemetry.Ports, ErrPorts) {
				t.Errorf("%s: %v", c.name, ch.Telemetry.Ports)
			}
			continue
		}
		var got []XY
		for b := range ch.Banks {
			got = append(got, ch.Bank(b))
		}
		if ch.Telemetry.Ports != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v %v, want %v", c.name, ch.Telemetry.Ports, got, c.want)
		}
	}
}

// Where ports are not known, telemetry takes no large window.
func TestTelemetryTakesOneSmallWindow(t *testing.T) {
	f := newFake(map[uint32]uint32{tagColumns: 0x3FFF, tagBanks: 0xFF, tagClock: 800, tagBoardHigh: 0x430, tagBundle: 0x130C0000})
	c, err := Open(f, Options{TelemetryOnly: true})
	if err != nil || c.Telemetry.Board != "p100a" || c.Telemetry.Bundle != "19.12.0.0" {
		t.Fatalf("%v %+v", err, c)
	}
	if !slices.Equal(f.windows, []uint64{driver.Window2M}) {
		t.Errorf("windows of %v bytes", f.windows)
	}
	if v, err := c.Clock(); err != nil || v != 800 {
		t.Errorf("%d MHz, %v", v, err)
	}
}

// A job's data is out of the write-combining buffers before its doorbell, and the doorbell at once.
func TestADoorbellIsFenced(t *testing.T) {
	c, f, _ := open(t)
	_ = c.AimCast(c.Full())
	f.log = nil
	c.Cast(0x20000, make([]byte, 8))
	c.Ring(0x16180, 7)
	want := []string{"cast 0x20000", "fence", "cast 0x16180", "fence"}
	if !slices.Equal(f.log, want) {
		t.Errorf("%q, want %q", f.log, want)
	}
}

// Hold clears the coprocessor, then leaves the cores in reset.
func TestHoldClearsTheCoprocessor(t *testing.T) {
	c, f, got := open(t)
	if err := c.Hold(XY{2, 3}); err != nil || len(*got) > 0 {
		t.Fatal(err, *got)
	}
	if want := []uint32{0xFFFFFF, 0x47800}; !slices.Equal(f.resets, want) {
		t.Errorf("soft reset was written %#x, want %#x", f.resets, want)
	}
}

// Readers of a bank are equally many and near.
func TestPlacementIsBalancedAndShort(t *testing.T) {
	g := NewGeometry(12, 0xFF, DescribedPorts)
	total := func(order []XY) (sum, worst int) {
		for i, c := range order {
			h := g.hops(i%g.Banks, c)
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
		{"nor the port of a live", func(c *Chip) { _, _ = c.Read32(bankPort(0, 0), 0) }},
		{"nor the port of a live", func(c *Chip) { _, _ = c.Read32(bankPort(1, 1), 0) }},
		{"nor the port of a live", func(c *Chip) { _, _ = c.Read32(bankPort(4, 0), 0) }},
		{"nor the port of a live", func(c *Chip) { _, _ = c.Read32(bankPort(7, 2), 0) }},
		{"before a fence", func(c *Chip) { _ = c.AimCast(c.Full()); c.Cast(0x20000, w8); _, _ = c.Read32(tile, 0x20000) }},
		{"before a fence", func(c *Chip) { _ = c.AimCast(c.Full()); c.Cast(0x20000, w8); _ = c.WriteBank(1, 64, w8) }},
		{"", func(c *Chip) {
			_ = c.AimCast(c.Full())
			c.Cast(0x20000, w8)
			c.Ring(0x16180, 1)
			_, _ = c.Read32(tile, 0x20000)
		}},
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
	f.log = nil
	if err := c.HoldOnExit(XY{2, 3}); err != nil || len(f.log) != 1 || f.log[0] != "guard (2,3) 0xffb121b0=0x47800" {
		t.Errorf("%v %q", err, f.log)
	}
}

type stuck struct{ driver.Window }

func (s *stuck) Read(_ uint64, b []byte) { clear(b) }
