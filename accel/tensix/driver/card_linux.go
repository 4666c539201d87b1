package driver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of tt-kmd's ioctl.h: _IO(0xFA, n), no direction or size bits.
const (
	ioGetDeviceInfo  = 0xFA00
	ioAllocateDMABuf = 0xFA03
	ioGetDriverInfo  = 0xFA05
	ioPinPages       = 0xFA07
	ioLockCtl        = 0xFA08
	ioAllocateTLB    = 0xFA0B
	ioFreeTLB        = 0xFA0C
	ioConfigureTLB   = 0xFA0D
	ioSetNoCCleanup  = 0xFA0E
	ioSetPowerState  = 0xFA0F
)

// minDriver is the lowest ioctl interface version spoken here; SET_POWER_STATE and SET_NOC_CLEANUP are newer than it
// and asked for separately.
const minDriver = 2

// lockIndex is the tt-kmd resource lock that says "trit owns the tiles". 0 to 15 are taken by Ethernet cores.
const lockIndex = 40

// The kernel's structures (tt-kmd ioctl.h), in its order; fields that are not used here are blank.
type (
	ioDeviceInfo struct {
		inSize, _                 uint32 // sizes of the caller's output and of the kernel's
		vendor, device, _, _, bdf uint16 // subsystem vendor and device in between
		maxDMALog2, domain, _     uint16
	}
	ioDriverInfo struct {
		inSize, _, version     uint32
		major, minor, patch, _ uint8
	}
	ioDMABuf struct {
		size     uint32
		_, flags uint8 // index of the buffer, 0
		_        [2]uint8
		_        [2]uint64
		_        uint64 // out: physical address
		mapping  uint64
		_, _     uint32 // size
		noc, _   uint64
	}
	ioPin struct {
		outSize, flags uint32
		va, size       uint64
		_, noc         uint64 // out: physical address, NoC address
	}
	ioLock struct {
		outSize, _ uint32 // flags: 0 acquires
		index      uint8
		_          [3]uint8
		value      uint8 // out
		_          [3]uint8
	}
	ioAllocTLB struct {
		size, _         uint64
		id, _           uint32 // out
		offUC, offWC, _ uint64
	}
	ioFreeTLBArg struct{ id uint32 }
	ioTLBConfig  struct {
		addr                       uint64
		xEnd, yEnd, xStart, yStart uint16
		_, mcast, ordering, _, _   uint8 // NoC 0, not linked, no static channel
		_                          [3]uint8
		_                          [2]uint32
	}
	ioSetTLB struct {
		id, _  uint32
		config ioTLBConfig
		_      uint64 // out
	}
	ioCleanup struct {
		argsz, _         uint32
		enabled, x, y, _ uint8 // NoC 0
		_                uint32
		addr, data       uint64
	}
	ioPower struct {
		argsz, _    uint32
		_, validity uint8
		powerFlags  uint16
		_           [14]uint16 // settings, none valid
	}
)

const (
	powerMaxClock = 1 << iota // AI clock at its maximum
	powerGDDR                 // GDDR PHYs awake
	powerTensix               // Tensix tiles clocked
)

// What tests replace: where device files are, and the system call.
var (
	devDir   = "/dev/tenstorrent"
	sysOpen  = func(path string, flags int) (int, error) { return unix.Open(path, flags, 0) }
	sysIoctl = func(f *os.File, req uintptr, arg unsafe.Pointer) error {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg)); e != 0 {
			return e
		}
		return nil
	}
)

// card is a Blackhole behind tt-kmd. Opening it reads back what the kernel says about it; no card has run this
// code yet (see docs/blackhole.md).
type card struct {
	f      *os.File
	n      int
	inUse  *umdLock
	info   Info
	maxDMA int
	host   HostMemory
	guards []*os.File
	wins   map[*cardWindow]bool
}

func ioctl[T any](f *os.File, req uintptr, arg *T) error {
	return sysIoctl(f, req, unsafe.Pointer(arg))
}

// Cards lists the device files tt-kmd shows, by number.
func Cards() ([]int, error) {
	ents, err := os.ReadDir(devDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist: either no card is installed (lspci -d 1e52:) or tt-kmd is not loaded (modprobe tenstorrent)", ErrNoDevice, devDir)
	}
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	var out []int
	for _, e := range ents {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, n)
		}
	}
	sort.Ints(out)
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s is empty: tt-kmd is loaded and found no card (dmesg | grep tenstorrent)", ErrNoDevice, devDir)
	}
	return out, nil
}

// OpenCard opens /dev/tenstorrent/n for exclusive use and asks for full clocks, which the kernel keeps up while the
// file is open.
func OpenCard(n int) (Machine, error) { return openCard(n, true) }

// OpenCardAlone is OpenCard where nobody else may even look: for what overwrites all of the card's memory.
func OpenCardAlone(n int) (Machine, error) {
	path := filepath.Join(devDir, strconv.Itoa(n))
	f, err := openDevice(path, unix.O_EXCL) // from tt-kmd 2.10 on it fails while another file is open; older ones let it pass
	if err != nil {
		return nil, err
	}
	f.Close()
	return openCard(n, true)
}

// InspectCard opens a card to read its telemetry, without taking it from anybody and without waking it.
func InspectCard(n int) (Machine, error) { return openCard(n, false) }

// openDevice opens a device file and never waits: tt-kmd from 2.10 on lets a plain open sleep while another program has
// the card exclusively, as tt-flash has.
func openDevice(path string, flags int) (*os.File, error) {
	fd, err := sysOpen(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_APPEND|unix.O_NONBLOCK|flags)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s does not exist; `trit devices` lists what is there", ErrNoDevice, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s: join the group that owns it (ls -l %s) or install tt-kmd's udev rule", ErrPermission, path, path)
	case errors.Is(err, unix.EAGAIN) && flags&unix.O_EXCL != 0:
		return nil, fmt.Errorf("%w: %s: this wants the card for itself, and another program has it open%s; end that first", ErrBusy, path, openedBy(path))
	case errors.Is(err, unix.EAGAIN):
		return nil, fmt.Errorf("%w: %s is held exclusively%s, as tt-flash does while it writes firmware; try again when that has ended", ErrBusy, path, openedBy(path))
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: %s is being reset; try again when that has ended", ErrBusy, path)
	case err != nil:
		return nil, fmt.Errorf("driver: %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openCard(n int, use bool) (Machine, error) {
	path := filepath.Join(devDir, strconv.Itoa(n))
	f, err := openDevice(path, 0)
	if err != nil {
		return nil, err
	}
	c := &card{f: f, n: n, wins: map[*cardWindow]bool{}}
	if err := c.start(path, use); err != nil {
		return nil, errors.Join(err, c.inUse.Close(), f.Close())
	}
	return c, nil
}

func (c *card) start(path string, use bool) error {
	di := ioDeviceInfo{inSize: uint32(unsafe.Sizeof(ioDeviceInfo{})) - 4}
	if err := ioctl(c.f, ioGetDeviceInfo, &di); err != nil {
		return fmt.Errorf("driver: %s: GET_DEVICE_INFO: %w", path, err)
	}
	if di.vendor != 0x1E52 || di.device != 0xB140 {
		return fmt.Errorf("%w: %s is PCI %04x:%04x, a Blackhole is 1e52:b140", ErrNotBH, path, di.vendor, di.device)
	}
	dv := ioDriverInfo{inSize: 12}
	if err := ioctl(c.f, ioGetDriverInfo, &dv); err != nil || dv.version < minDriver {
		return fmt.Errorf("%w: %s speaks interface %d, trit needs %d; update tt-kmd", ErrOldDriver, path, dv.version, minDriver)
	}
	c.maxDMA = 1 << min(di.maxDMALog2, 30)
	c.info = Info{
		Name: path, Vendor: di.vendor, Device: di.device, Driver: fmt.Sprintf("tt-kmd %d.%d.%d (interface %d)", dv.major, dv.minor, dv.patch, dv.version),
		BDF: fmt.Sprintf("%04x:%02x:%02x.%d", di.domain, di.bdf>>8, di.bdf>>3&31, di.bdf&7),
	}
	if !use {
		return nil
	}
	lk := ioLock{outSize: 4, index: lockIndex}
	if err := ioctl(c.f, ioLockCtl, &lk); err == nil && lk.value == 0 {
		return fmt.Errorf("%w: %s: another trit process owns its tiles; it is open%s", ErrBusy, path, cmp.Or(openedBy(path), " elsewhere"))
	}
	var err error
	if c.inUse, err = lockChip(c.n); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ps := ioPower{argsz: uint32(unsafe.Sizeof(ioPower{})), validity: 4, powerFlags: powerMaxClock | powerGDDR | powerTensix}
	if err := ioctl(c.f, ioSetPowerState, &ps); err != nil {
		return fmt.Errorf("%w: %s: SET_POWER_STATE: %v; update tt-kmd to 2.6 or later", ErrOldDriver, path, err)
	}
	return nil
}

// Attributes are what the kernel driver publishes about card n in /sys: clocks, versions, serial number.
func Attributes(n int) map[string]string {
	out := map[string]string{}
	files, _ := filepath.Glob(fmt.Sprintf("/sys/class/tenstorrent/tenstorrent!%d/tt_*", n))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			out[strings.TrimPrefix(filepath.Base(f), "tt_")] = strings.TrimSpace(string(b))
		}
	}
	return out
}

// openedBy names processes that have the device open, as far as /proc shows them.
func openedBy(path string) string {
	var who []string
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if t, err := os.Readlink(l); err == nil && t == path {
			pid, _ := strconv.Atoi(strings.Split(l, "/")[2])
			if name := processName(uint32(pid)); pid != os.Getpid() && !slices.Contains(who, name) {
				who = append(who, name)
			}
		}
	}
	if len(who) == 0 {
		return ""
	}
	return " by " + strings.Join(who, ", ")
}

func (c *card) Info() Info  { return c.info }
func (c *card) Step(uint32) {}

type cardWindow struct {
	c   *card
	id  uint32
	mem []byte
	cur ioTLBConfig
	set bool
}

func (c *card) Window(size uint64, writeCombined bool) (Window, error) {
	a := ioAllocTLB{size: size}
	if err := ioctl(c.f, ioAllocateTLB, &a); err != nil {
		return nil, fmt.Errorf("driver: %s: no window of %d MiB is free: %w", c.info.Name, size>>20, err)
	}
	off := a.offUC
	if writeCombined {
		off = a.offWC
	}
	mem, err := unix.Mmap(int(c.f.Fd()), int64(off), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = ioctl(c.f, ioFreeTLB, &ioFreeTLBArg{a.id})
		return nil, fmt.Errorf("driver: %s: mapping a window of %d MiB: %w", c.info.Name, size>>20, err)
	}
	w := &cardWindow{c: c, id: a.id, mem: mem}
	c.wins[w] = true
	return w, nil
}

func (w *cardWindow) Size() uint64 { return uint64(len(w.mem)) }

func (w *cardWindow) Aim(t Target) error {
	q := ioTLBConfig{addr: t.Addr, xEnd: uint16(t.X), yEnd: uint16(t.Y), ordering: uint8(t.Ordering)}
	if t.Multicast {
		q.mcast, q.xStart, q.yStart, q.xEnd, q.yEnd = 1, uint16(t.X), uint16(t.Y), uint16(t.X1), uint16(t.Y1)
	}
	if w.set && q == w.cur {
		return nil
	}
	if err := ioctl(w.c.f, ioConfigureTLB, &ioSetTLB{id: w.id, config: q}); err != nil {
		return fmt.Errorf("driver: %s: aiming a window at %v: %w", w.c.info.Name, t, err)
	}
	w.cur, w.set = q, true
	return nil
}

// Read loads aligned 32-bit words; a card must not see any other size on an uncached mapping.
func (w *cardWindow) Read(off uint64, b []byte) {
	if mustWords(off, b); len(b) > 0 {
		loadWords(unsafe.Pointer(&b[0]), w.at(off, len(b)), len(b)/4)
	}
}

// Write stores aligned 32-bit words in order, each once, with plain stores. Nothing may read through a window that is
// aimed at many tiles, and a locked instruction is a read (and on some hosts a bus error): none touches a window.
func (w *cardWindow) Write(off uint64, b []byte) {
	if mustWords(off, b); len(b) > 0 {
		storeWords(w.at(off, len(b)), unsafe.Pointer(&b[0]), len(b)/4)
	}
}

func (w *cardWindow) Fence() { storeFence() }

// at is where n bytes of the window lie.
func (w *cardWindow) at(off uint64, n int) unsafe.Pointer { return unsafe.Pointer(&w.mem[off:][:n][0]) }

func mustWords(off uint64, b []byte) {
	if (off|uint64(len(b)))&3 != 0 {
		panic(fmt.Sprintf("driver: device access of %d bytes at %#x is not made of aligned words", len(b), off))
	}
}

func (w *cardWindow) Close() error {
	if w.mem == nil {
		return nil
	}
	delete(w.c.wins, w)
	err := unix.Munmap(w.mem)
	w.mem = nil
	return errors.Join(err, ioctl(w.c.f, ioFreeTLB, &ioFreeTLBArg{w.id}))
}

// HostMemory asks the kernel for one contiguous buffer, and where that is too large for the kernel, pins pages of
// this process, which needs an IOMMU.
func (c *card) HostMemory(n int) (HostMemory, error) {
	if n <= len(c.host.Bytes) {
		return c.host, nil
	}
	if c.host.Bytes != nil {
		return HostMemory{}, fmt.Errorf("driver: %s: host memory of %d bytes was handed out, %d are wanted now", c.info.Name, len(c.host.Bytes), n)
	}
	n = (n + 4095) &^ 4095
	if n <= c.maxDMA {
		d := ioDMABuf{size: uint32(n), flags: 2}                               // flag 2: reachable over the NoC
		if err := ioctl(c.f, ioAllocateDMABuf, &d); err == nil && d.noc != 0 { // a driver that does not know the flag gives no address
			mem, err := unix.Mmap(int(c.f.Fd()), int64(d.mapping), n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return HostMemory{}, fmt.Errorf("driver: %s: mapping a DMA buffer: %w", c.info.Name, err)
			}
			c.host = HostMemory{Bytes: mem, NoC: d.noc}
			return c.host, nil
		}
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return HostMemory{}, fmt.Errorf("driver: %w", err)
	}
	p := ioPin{outSize: 16, flags: 2, va: uint64(uintptr(unsafe.Pointer(&mem[0]))), size: uint64(n)}
	if err := ioctl(c.f, ioPinPages, &p); err != nil {
		_ = unix.Munmap(mem)
		return HostMemory{}, fmt.Errorf("driver: %s: no host memory of %d bytes for the device: %w; turn the IOMMU on (iommu=pt is not enough) or ask for a smaller batch", c.info.Name, n, err)
	}
	c.host = HostMemory{Bytes: mem, NoC: p.noc}
	return c.host, nil
}

// Guard opens the device once more: the kernel keeps one farewell write per open file. O_APPEND keeps that file
// out of the power accounting.
func (c *card) Guard(x, y int, addr uint64, v uint32) error {
	f, err := openDevice(c.info.Name, 0)
	if err != nil {
		return err
	}
	q := ioCleanup{enabled: 1, x: uint8(x), y: uint8(y), addr: addr, data: uint64(v)}
	q.argsz = uint32(unsafe.Sizeof(q))
	if err := ioctl(f, ioSetNoCCleanup, &q); err != nil {
		f.Close()
		return fmt.Errorf("%w: %s: SET_NOC_CLEANUP: %v; tiles would run on after a crash", ErrOldDriver, c.info.Name, err)
	}
	c.guards = append(c.guards, f)
	return nil
}

func (c *card) Close() error {
	var errs []error
	for w := range c.wins {
		errs = append(errs, w.Close())
	}
	for _, g := range c.guards {
		errs = append(errs, g.Close())
	}
	if c.host.Bytes != nil {
		errs = append(errs, unix.Munmap(c.host.Bytes))
	}
	c.host, c.guards = HostMemory{}, nil
	return errors.Join(append(errs, c.inUse.Close(), c.f.Close())...)
}
