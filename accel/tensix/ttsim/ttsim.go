//go:build linux && (amd64 || arm64)

// Package ttsim runs Tenstorrent's functional simulator (libttsim.so, Blackhole build) as a driver.Machine.
//
// The library is loaded with purego at run time, so there is no cgo, but a binary that imports this package is
// linked dynamically: the trit command does so only with the build tag ttsim, and tests. The simulator is a
// process-wide singleton, not re-entrant, and ends the process on any violation of the chip's rules.
package ttsim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// Env is the environment variable that tests take the simulator's path from.
const Env = "TRIT_TTSIM"

// EnvReset names a simulator that was changed to model resets of the coprocessor's units (Sim.ModelsReset).
const EnvReset = "TRIT_TTSIM_RESET"

const (
	windowRegs  = 0x1FC00000 // in BAR 0: 12 bytes a window, 202 of 2 MiB and then 8 of 4 GiB
	windows2M   = 201        // the kernel driver keeps the last one; so do we
	windows4G   = 8
	first4G     = 202
	hostAddress = 0x4000_0000 // where the pretended host memory lies on the pretended bus
)

var (
	openMu sync.Mutex
	opened bool
)

// Sim is the simulated chip.
type Sim struct {
	exit         func()
	configRead   func(bdf, off uint32) uint32
	memRead      func(pa uint64, p unsafe.Pointer, n uint32)
	memWrite     func(pa uint64, p unsafe.Pointer, n uint32)
	clock        func(n uint32)
	bar0, bar4   uint64
	free2M       []int
	free4G       []int
	host         []byte
	info         driver.Info
	Clocks       uint64 // simulated so far
	ReadOps      uint64 // window reads, writes and their bytes
	WriteOps     uint64
	BytesRead    uint64
	BytesWritten uint64
	Fences       uint64
	// Exchange has every write end in a read of its last word, as a locked instruction would: the simulator refuses it
	// where a card would misbehave.
	Exchange bool
	// ModelsReset says that the library does what a soft reset of the coprocessor's units does; see reset.go.
	ModelsReset bool
	ran         map[tile]bool // tiles whose cores have run since the last reset
}

// Open loads the library at path. One per process: a second one is an error, even after Close.
func Open(path string) (*Sim, error) {
	openMu.Lock()
	defer openMu.Unlock()
	if opened {
		return nil, fmt.Errorf("%w: the simulator runs once per process", driver.ErrBusy)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: simulator: %w", driver.ErrNoDevice, err)
	}
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("%w: simulator: %w", driver.ErrNoDevice, err)
	}
	s := &Sim{ran: map[tile]bool{}}
	var start func()
	var setDMA func(rd, wr uintptr)
	for _, f := range []struct {
		fn   any
		name string
	}{
		{&start, "libttsim_init"},
		{&s.exit, "libttsim_exit"},
		{&s.configRead, "libttsim_pci_config_rd32"},
		{&s.memRead, "libttsim_pci_mem_rd_bytes"},
		{&s.memWrite, "libttsim_pci_mem_wr_bytes"},
		{&s.clock, "libttsim_clock"},
		{&setDMA, "libttsim_set_pci_dma_mem_callbacks"},
	} {
		if _, err := purego.Dlsym(h, f.name); err != nil {
			return nil, fmt.Errorf("simulator: %s is not libttsim: %w", path, err)
		}
		purego.RegisterLibFunc(f.fn, h, f.name)
	}
	setDMA(purego.NewCallback(s.dmaRead), purego.NewCallback(s.dmaWrite))
	start()
	opened = true
	id := s.configRead(0, 0)
	s.info = driver.Info{Name: "simulator " + path, Vendor: uint16(id), Device: uint16(id >> 16), BDF: "00:00.0", Driver: "libttsim", Simulated: true}
	if s.info.Device != 0xB140 {
		return nil, fmt.Errorf("%w: %s simulates PCI %04x:%04x; build the Blackhole one (release_bh)", driver.ErrNotBH, path, s.info.Vendor, s.info.Device)
	}
	s.bar0, s.bar4 = s.bar(0x10), s.bar(0x20)
	for i := range windows2M {
		s.free2M = append(s.free2M, i)
	}
	for i := range windows4G {
		s.free4G = append(s.free4G, first4G+i)
	}
	return s, nil
}

func (s *Sim) bar(off uint32) uint64 {
	return uint64(s.configRead(0, off)&^0xF) | uint64(s.configRead(0, off+4))<<32
}

func (s *Sim) dma(pa uint64, n uint32) []byte {
	o := pa - hostAddress
	if pa < hostAddress || o+uint64(n) > uint64(len(s.host)) {
		panic(fmt.Sprintf("ttsim: the device reached for host address %#x, %d bytes, outside its buffer", pa, n))
	}
	return s.host[o : o+uint64(n)]
}

func (s *Sim) dmaRead(pa uint64, p unsafe.Pointer, n uint32) uintptr {
	copy(unsafe.Slice((*byte)(p), n), s.dma(pa, n))
	return 0
}

func (s *Sim) dmaWrite(pa uint64, p unsafe.Pointer, n uint32) uintptr {
	copy(s.dma(pa, n), unsafe.Slice((*byte)(p), n))
	return 0
}

func (s *Sim) Info() driver.Info { return s.info }

// Step runs the chip.
func (s *Sim) Step(clocks uint32) {
	s.clock(clocks)
	s.Clocks += uint64(clocks)
}

// HostMemory returns memory at a pretended bus address, in the form that bypasses the outbound translation.
func (s *Sim) HostMemory(n int) (driver.HostMemory, error) {
	if n <= len(s.host) {
		return driver.HostMemory{Bytes: s.host, NoC: hostAddress}, nil
	}
	s.host = make([]byte, (n+4095)&^4095)
	return driver.HostMemory{Bytes: s.host, NoC: hostAddress}, nil
}

// Guard has nothing to do: the simulated chip ends with the process.
func (s *Sim) Guard(x, y int, addr uint64, v uint32) error { return nil }

func (s *Sim) Close() error {
	s.exit()
	return nil
}

type window struct {
	s    *Sim
	id   int
	pa   uint64
	size uint64
	cur  [3]uint32
	set  bool
	t    driver.Target
}

func (s *Sim) Window(size uint64, _ bool) (driver.Window, error) {
	free, base := &s.free2M, s.bar0
	if size == driver.Window4G {
		free, base = &s.free4G, s.bar4-first4G*driver.Window4G
	} else if size != driver.Window2M {
		return nil, fmt.Errorf("ttsim: there is no window of %d bytes", size)
	}
	if len(*free) == 0 {
		return nil, fmt.Errorf("ttsim: no window of %d MiB is free", size>>20)
	}
	id := (*free)[0]
	*free = (*free)[1:]
	return &window{s: s, id: id, pa: base + uint64(id)*size, size: size}, nil
}

func (w *window) Size() uint64 { return w.size }

func (w *window) Close() error {
	if w.size == driver.Window2M {
		w.s.free2M = append(w.s.free2M, w.id)
	} else {
		w.s.free4G = append(w.s.free4G, w.id)
	}
	w.s = nil
	return nil
}

func (w *window) Read(off uint64, b []byte) {
	w.s.ReadOps++
	w.s.BytesRead += uint64(len(b))
	w.s.memRead(w.pa+off, unsafe.Pointer(&b[0]), uint32(len(b)))
}

func (w *window) Write(off uint64, b []byte) {
	w.s.WriteOps++
	w.s.BytesWritten += uint64(len(b))
	if w.t.Addr+off == softReset && len(b) == 4 && !w.t.Multicast {
		w.reset(binary.LittleEndian.Uint32(b))
		return
	}
	if w.s.Exchange && w.t.Addr+off < tensixSpace { // not all registers can be read here
		var last [4]byte
		w.s.memRead(w.pa+off+uint64(len(b))-4, unsafe.Pointer(&last[0]), 4)
	}
	w.s.memWrite(w.pa+off, unsafe.Pointer(&b[0]), uint32(len(b)))
}

func (w *window) Fence() { w.s.Fences++ }

// Aim writes the window's 96-bit register. For 2 MiB: address>>21 in bits 42:0, then six bits each of x end, y end,
// x start, y start, then the NoC (2 bits), multicast (bit 69) and ordering (71:70). For 4 GiB: address>>32 in 31:0,
// x end, y end, x start, y start, NoC (57:56), multicast (58), ordering (60:59).
func (w *window) Aim(t driver.Target) error {
	if t.Addr%w.size != 0 {
		return fmt.Errorf("ttsim: %v is not a multiple of the window's %d MiB", t, w.size>>20)
	}
	w.t = t
	x, y := uint32(t.X), uint32(t.Y)
	var r [3]uint32
	switch {
	case w.size == driver.Window4G && !t.Multicast:
		r = [3]uint32{uint32(t.Addr >> 32), x | y<<6 | uint32(t.Ordering)<<27, 0}
	case w.size == driver.Window4G:
		return errors.New("ttsim: multicast needs a 2 MiB window")
	default:
		a := t.Addr >> 21
		r = [3]uint32{uint32(a), uint32(a>>32) | x<<11 | y<<17, uint32(t.Ordering) << 6}
		if t.Multicast {
			x1, y1 := uint32(t.X1), uint32(t.Y1)
			r = [3]uint32{uint32(a), uint32(a>>32) | x1<<11 | y1<<17 | x<<23 | y<<29, y>>3 | 1<<5 | uint32(t.Ordering)<<6}
		}
	}
	if w.set && r == w.cur {
		return nil
	}
	for i, v := range r {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], v)
		w.s.memWrite(w.s.bar0+windowRegs+uint64(12*w.id+4*i), unsafe.Pointer(&b[0]), 4)
	}
	w.cur, w.set = r, true
	return nil
}
