// Package driver reaches a Tenstorrent Blackhole's address space and nothing more.
//
// A Machine hands out windows: pieces of host address space that are aimed at one tile of the chip's
// network (NoC), or at a rectangle of tiles, and read and written like memory. There are two machines:
// a card behind tt-kmd's /dev/tenstorrent/N (OpenCard, plain system calls, no cgo) and the vendor's
// functional simulator (package ttsim). Everything above this package is the same code for both.
package driver

import (
	"errors"
	"fmt"
)

// Sizes of the two kinds of window a Blackhole has.
const (
	Window2M = 2 << 20 // 201 of them: registers, mailboxes, L1, multicast
	Window4G = 4 << 30 // 8 of them: a whole GDDR bank each
)

// Errors that a caller may want to tell apart; all of them arrive wrapped with what to do about them.
var (
	ErrNoDevice   = errors.New("no Tenstorrent device")
	ErrPermission = errors.New("no permission to open the device")
	ErrBusy       = errors.New("device is in use")
	ErrOldDriver  = errors.New("the tt-kmd kernel driver is too old")
	ErrNotBH      = errors.New("not a Blackhole")
)

// Ordering of the writes that pass through a window.
type Ordering uint8

const (
	Relaxed Ordering = iota // may overtake each other: bulk data
	Strict                  // one after the other: registers, mailboxes
	Posted                  // strict, and not acknowledged
)

// Target is where a window points: one tile, or with Multicast every Tensix tile of a rectangle.
//
//	X, Y    translated NoC 0 coordinates of the tile, or the lower corner
//	X1, Y1  upper corner, inclusive; only with Multicast
//	Addr    address inside the tile; a multiple of the window's size
type Target struct {
	X, Y, X1, Y1 int
	Addr         uint64
	Multicast    bool
	Ordering     Ordering
}

func (t Target) String() string {
	if t.Multicast {
		return fmt.Sprintf("tiles (%d,%d)-(%d,%d) at %#x", t.X, t.Y, t.X1, t.Y1, t.Addr)
	}
	return fmt.Sprintf("tile (%d,%d) at %#x", t.X, t.Y, t.Addr)
}

// Window is an aperture onto the chip. Offsets and lengths are multiples of four bytes: device memory is
// touched with whole aligned words only. A Window belongs to one goroutine at a time.
type Window interface {
	Size() uint64
	Aim(Target) error // free when the window already points there
	Read(off uint64, b []byte)
	Write(off uint64, b []byte)
	// Fence returns when what was written through this process's windows before is on its way, in front of whatever
	// is written after it. A write-combined window keeps neither order nor haste without.
	Fence()
	Close() error
}

// HostMemory is host memory that tiles reach through the PCIe tile: they write results there, so that the
// host never has to read the card word by word.
type HostMemory struct {
	Bytes []byte
	NoC   uint64 // address of Bytes[0] in requests to the PCIe tile
}

// Info says what was opened.
type Info struct {
	Name      string // "/dev/tenstorrent/0", "simulator"
	Vendor    uint16
	Device    uint16
	BDF       string // PCI address
	Driver    string // version of the kernel driver, or of the simulator's stand-in
	Simulated bool
}

// Machine is one chip.
type Machine interface {
	Info() Info
	// Window hands out an aperture of Window2M or Window4G bytes. A write-combined window is for bulk data.
	Window(size uint64, writeCombined bool) (Window, error)
	// HostMemory returns at least n bytes, the same ones each time.
	HostMemory(n int) (HostMemory, error)
	// Guard asks for a 4-byte NoC write when this process ends, however it ends.
	Guard(x, y int, addr uint64, v uint32) error
	// Step lets a simulated chip run for a number of clocks; a card runs by itself.
	Step(clocks uint32)
	Close() error
}
