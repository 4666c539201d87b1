//go:build linux && (amd64 || arm64)

package ttsim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// A card's soft reset register has bits for the coprocessor's units (tt-isa-documentation
// BlackholeA0/TensixTile/SoftReset.md). The simulator knows those of the RISC-V cores alone and ends the process at any
// other. This file does for them what they would do, with what the simulator has: after a job that was interrupted,
// instructions wait in the threads' queues for banks and semaphores that nobody will give. Two cores run a program that
// loads and stores a word when the host says so; with them the host gives each queue what it waits for until all are
// empty, and hands back what is left.

const (
	softReset   = 0xFFB121B0
	debugBus    = 0xFFB12054 // which signals …
	debugData   = 0xFFB1205C // … and what they are
	coreResets  = 0x47800
	allResets   = 0xFFFFFF
	tensixSpace = 0xFFA00000
	heldBut     = coreResets &^ (1<<11 | 1<<12) // BRISC and TRISC0 run
)

// tile is a Tensix tile's coordinates.
type tile struct{ x, y int }

// reset does a write to the soft reset register of the tile a window points at.
func (w *window) reset(v uint32) {
	s, t := w.s, tile{w.t.X, w.t.Y}
	if v &^= 1 << 31; s.ModelsReset || v&^coreResets == 0 {
		s.ran[t] = s.ran[t] || v&coreResets != coreResets
		w.write32(softReset-tensixSpace, v)
		return
	}
	w.write32(softReset-tensixSpace, v&coreResets)
	if s.ran[t] && v&allResets == allResets {
		s.ran[t] = false
		if err := s.drain(t); err != nil {
			panic(fmt.Sprintf("ttsim: soft reset of tile (%d,%d): %v", t.x, t.y, err))
		}
	}
}

func (w *window) write32(off uint64, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	w.s.memWrite(w.pa+off, unsafe.Pointer(&b[0]), 4)
}

func (w *window) read32(off uint64) uint32 {
	var b [4]byte
	w.s.memRead(w.pa+off, unsafe.Pointer(&b[0]), 4)
	return binary.LittleEndian.Uint32(b[:])
}

// hand is a core that loads and stores words for the host. Its program is at base; behind it are the number of an
// order, whether to store, an address, a value, and the number of the last order done.
type hand struct {
	l1    *window
	s     *Sim
	base  uint64
	order uint32
}

const handBytes = 0x120

// handCode is position-independent:
//
//	auipc x5, 0; li x6, 0
//	loop: fence; lw x7, 0x100(x5); beq x7, x6, loop; mv x6, x7; lw x8, 0x104(x5); lw x9, 0x108(x5); lw x10, 0x10C(x5)
//	      beqz x8, load; sw x10, (x9); j done
//	load: lw x10, (x9); sw x10, 0x10C(x5)
//	done: fence; sw x7, 0x110(x5); j loop
var handCode = []uint32{
	0x00000297, 0x00000313,
	0x0FF0000F, 0x1002A383, 0xFE638CE3, 0x00038313, 0x1042A403, 0x1082A483, 0x10C2A503,
	0x00040663, 0x00A4A023, 0x00C0006F,
	0x0004A503, 0x10A2A623,
	0x0FF0000F, 0x1072A823, 0xFC9FF06F,
}

func (h *hand) do(store bool, addr, v uint32) (uint32, error) {
	h.order++
	var what uint32
	if store {
		what = 1
	}
	h.l1.write32(h.base+0x104, what)
	h.l1.write32(h.base+0x108, addr)
	h.l1.write32(h.base+0x10C, v)
	h.l1.write32(h.base+0x100, h.order)
	for range 100 {
		h.s.Step(40)
		if h.l1.read32(h.base+0x110) == h.order {
			return h.l1.read32(h.base + 0x10C), nil
		}
	}
	return 0, errors.New("a core does not answer")
}

// What the queues are given. Instructions are those of firmware/src/chip.h.
const (
	semaphores   = 0xFFE80020
	queues       = 0xFFE40000 // 64 KiB from thread to thread, for BRISC
	config       = 0xFFEF0000
	dstSemaphore = 1 // the only one that the firmware waits for
	firstMarker  = 5 // semaphores 5 to 7 say that a thread's queue is empty
	giveBank     = 0x43<<24 | 1<<8 | 1
	takeBank     = 0x36 << 24
	endTile      = 0x41<<24 | 1<<15 | 1
)

// drain empties the queues of a tile whose cores are held.
func (s *Sim) drain(t tile) (err error) {
	open := func(addr uint64) *window {
		w, e := s.Window(driver.Window2M, false)
		if err = errors.Join(err, e); e != nil {
			return nil
		}
		err = errors.Join(err, w.Aim(driver.Target{X: t.x, Y: t.y, Addr: addr, Ordering: driver.Strict}))
		return w.(*window)
	}
	l1, regs := open(0), open(tensixSpace)
	if err != nil {
		return err
	}
	defer l1.Close()
	defer regs.Close()
	pusher, counter := &hand{l1: l1, s: s}, &hand{l1: l1, s: s, base: 0x6000}
	for _, h := range []*hand{pusher, counter} {
		saved := make([]byte, handBytes)
		l1.Read(h.base, saved)
		defer l1.Write(h.base, saved)
		l1.Write(h.base, make([]byte, handBytes))
		for i, w := range handCode {
			l1.write32(h.base+4*uint64(i), w)
		}
	}
	regs.write32(softReset-tensixSpace, heldBut)
	defer regs.write32(softReset-tensixSpace, coreResets)

	push := func(thread int, insn uint32) {
		_, e := pusher.do(true, uint32(queues+thread<<16), insn)
		err = errors.Join(err, e)
	}
	semaphore := func(i int) uint32 {
		v, e := counter.do(false, uint32(semaphores+4*i), 0)
		err = errors.Join(err, e)
		return v
	}
	change := func(i int, get uint32) { // 1 takes one, 0 gives one
		_, e := counter.do(true, uint32(semaphores+4*i), get)
		err = errors.Join(err, e)
	}
	for n := range 3 {
		for i := firstMarker + n; err == nil && semaphore(i) > 0; {
			change(i, 1)
		}
		push(n, 0xA3<<24|15<<20|1<<16|1<<(firstMarker+n)<<2) // SEMINIT: to one
	}
	regs.write32(debugBus-tensixSpace, 1<<29|2<<25|6<<16|9)
	high := func() uint32 { return regs.read32(debugData - tensixSpace) } // bits 64 to 95
	higher := func() uint32 {
		regs.write32(debugBus-tensixSpace, 1<<29|3<<25|6<<16|9)
		defer regs.write32(debugBus-tensixSpace, 1<<29|2<<25|6<<16|9)
		return regs.read32(debugData - tensixSpace)
	}
	for range 4096 {
		var empty [3]bool
		for n := range empty {
			empty[n] = semaphore(firstMarker+n) == 1
		}
		a, b := high()>>(85-64)&1 != 0, false
		v := higher()
		b = v>>(105-96+v>>(100-96)&1)&1 != 0
		given := semaphore(dstSemaphore)
		switch {
		case err != nil:
			return err
		case !empty[2] && given == 0:
			change(dstSemaphore, 0)
		case !empty[1] && empty[2] && given >= 2:
			change(dstSemaphore, 1)
		case !empty[1] && empty[0]: // products wait for operands
			for unit, has := range []bool{a, b} {
				if !has {
					push(0, giveBank|uint32(unit)<<23)
				}
			}
		case empty[1] && (a || b):
			for unit, has := range []bool{a, b} {
				if has {
					push(1, takeBank|1<<(22+unit))
				}
			}
		case empty == [3]bool{true, true, true}:
			format, e1 := counter.do(false, config+4*70, 0)
			counts, e2 := counter.do(false, config+4*28, 0)
			relu, e3 := counter.do(false, config+4*2, 0)
			if format&1 != 0 && counts == 16<<8 && relu == 0 { // as units.h leaves them: a tile may have been in the packer
				push(2, endTile)
			}
			return errors.Join(err, e1, e2, e3)
		}
	}
	return errors.New("its queues do not get empty")
}
