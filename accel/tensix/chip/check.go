package chip

import (
	"fmt"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// Checker watches each access of the host to the chip for the rules that silicon needs and the simulator does not
// check. Each has its source:
//
//	whole aligned words                  tt-kmd's windows are uncached; tt-umd tlb_window.cpp splits accesses into words
//	registers by single words, through   tt-isa-documentation BlackholeA0/TensixTile/SoftReset.md and NoC/MemoryMap.md: they
//	a strict uncached window             are 32 bits wide; tt-umd aims strict windows for them
//	only live tiles                      telemetry tags 34 and 36 (tt-umd blackhole_arc_telemetry_reader.cpp): harvested
//	                                     tiles do not answer
//	of a bank, the port that its         BH-76 and SYS-1419 (tt-metal PRs 19422, 24269, 47365, 56272): mixed ports lose
//	firmware uses                        requests or hang
//	no read through a multicast window,  tt-isa-documentation NoC: multicast is for writes; corners on a dead column refuse
//	live corners, L1 only                the whole rectangle
//	a fence between a write-combined     Intel SDM vol. 3, 11.3.1: write-combining buffers are emptied in any order and
//	write and any other window           at any time; tt-umd fences likewise (tt_driver_atomics::sfence)
//	no code under running cores          tt-isa-documentation BabyRISCV/InstructionCache.md: caches are not coherent
//	stores read back before a release    tt-isa-documentation NoC/Ordering.md: writes of two windows have no order; a read
//	                                     response comes behind the writes of its own
type Checker struct {
	report   func(error)
	g        *Geometry // nil until telemetry has been read
	running  map[XY]uint32
	pending  map[XY]driver.Window // tile with stores not yet known to have arrived, and where they went in
	unfenced driver.Window        // the write-combined window with writes since the last fence
}

// codeEnd is where code ends in L1; mailboxes and data follow.
const codeEnd = 0x16000

type checkedMachine struct {
	driver.Machine
	c *Checker
}

type checkedWindow struct {
	driver.Window
	c  *Checker
	wc bool
	t  driver.Target
}

func (m *checkedMachine) Window(size uint64, wc bool) (driver.Window, error) {
	w, err := m.Machine.Window(size, wc)
	if err != nil {
		return nil, err
	}
	return &checkedWindow{Window: w, c: m.c, wc: wc}, nil
}

func (c *Checker) fail(format string, a ...any) {
	c.report(fmt.Errorf("chip: rule broken: "+format, a...))
}

func (w *checkedWindow) Aim(t driver.Target) error {
	w.t = t
	if w.c.g == nil {
		return w.Window.Aim(t)
	}
	at := XY{t.X, t.Y}
	full := w.c.g.Full()
	switch {
	case t.Multicast:
		if !full.Contains(at) || !full.Contains(XY{t.X1, t.Y1}) {
			w.c.fail("multicast to %v: a corner is not a live Tensix tile", t)
		}
	case at == ARC || at == PCIe || full.Contains(at):
	default:
		ok := false
		for b := range w.c.g.Banks {
			ok = ok || at == w.c.g.Bank(b)
		}
		if !ok {
			w.c.fail("%v is neither a live Tensix tile nor the port of a live GDDR bank that its firmware uses", t)
		}
	}
	return w.Window.Aim(t)
}

func (w *checkedWindow) Fence() {
	w.c.unfenced = nil
	w.Window.Fence()
}

func (w *checkedWindow) access(off uint64, b []byte, write bool) (tensix bool) {
	if u := w.c.unfenced; u != nil && (u != driver.Window(w) || !write) {
		w.c.fail("%#x of %v is reached before a fence behind the last write-combined write", off, w.t)
		w.c.unfenced = nil
	}
	if write && w.wc {
		w.c.unfenced = w
	}
	if (off|uint64(len(b)))&3 != 0 || len(b) == 0 {
		w.c.fail("%d bytes at %#x of %v are not whole aligned words", len(b), off, w.t)
	}
	if off+uint64(len(b)) > w.Size() {
		w.c.fail("%d bytes at %#x of %v end past the window", len(b), off, w.t)
	}
	at := XY{w.t.X, w.t.Y}
	tensix = w.c.g != nil && w.c.g.Full().Contains(at)
	if !tensix {
		return false
	}
	if addr := w.t.Addr + off; addr >= regSpace {
		if len(b) != 4 || w.t.Ordering != driver.Strict || w.wc || w.t.Multicast {
			w.c.fail("register %#x of %v: registers want one word at a time through a strict uncached window", addr, w.t)
		}
	} else if addr+uint64(len(b)) > L1Size {
		w.c.fail("%d bytes at %#x of %v end past L1", len(b), addr, w.t)
	} else if write && addr < codeEnd && w.c.running[at] != 0 {
		w.c.fail("code at %#x of %v is written while cores %#x run", addr, w.t, w.c.running[at])
	}
	return true
}

func (w *checkedWindow) Read(off uint64, b []byte) {
	if w.t.Multicast {
		w.c.fail("read through the multicast window of %v", w.t)
	}
	w.access(off, b, false)
	if at := (XY{w.t.X, w.t.Y}); w.c.pending[at] == driver.Window(w) {
		delete(w.c.pending, at)
	}
	w.Window.Read(off, b)
}

func (w *checkedWindow) Write(off uint64, b []byte) {
	if w.access(off, b, true) {
		w.note(w.t.Addr+off, b)
	}
	w.Window.Write(off, b)
}

// note keeps track of stores on their way and of the cores that run.
func (w *checkedWindow) note(addr uint64, b []byte) {
	c := w.c
	if c.running == nil {
		c.running, c.pending = map[XY]uint32{}, map[XY]driver.Window{}
	}
	at := XY{w.t.X, w.t.Y}
	if addr == regSoftReset {
		run := uint32(AllCores) &^ (uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
		if by, ok := c.pending[at]; ok && run != 0 {
			how := "the same window"
			if by != driver.Window(w) {
				how = "another window"
			}
			c.fail("cores %#x of tile %v are released before stores through %s were read back", run, at, how)
		}
		c.running[at] = run
		return
	}
	if addr < regSpace && !w.t.Multicast {
		c.pending[at] = w
	}
}
