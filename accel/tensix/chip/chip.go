package chip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/tritlm/trit/accel/tensix/driver"
)

// Registers of a Tensix tile, reachable over the NoC (tt-isa-documentation BlackholeA0/TensixTile/SoftReset.md).
const (
	regSoftReset   = 0xFFB121B0
	regTrisc0PC    = 0xFFB12228 // and 2C, 30
	regTriscPCOn   = 0xFFB12234
	regNcriscPC    = 0xFFB12238
	regNcriscPCOn  = 0xFFB1223C
	regNoC0Logical = 0xFFB20148
	regSpace       = 0xFFA00000 // the 2 MiB window that holds them all
)

// Cores of a tile, as a mask; the values are bits of the soft reset register.
type Cores uint32

const (
	BRISC    Cores = 1 << 11
	TRISC0   Cores = 1 << 12
	TRISC1   Cores = 1 << 13
	TRISC2   Cores = 1 << 14
	NCRISC   Cores = 1 << 18
	AllCores       = BRISC | TRISC0 | TRISC1 | TRISC2 | NCRISC
)

// allUnits are all bits of the soft reset register: cores, unpackers (0, 1, 7), packers (2 to 5, 17), movers (6, 8),
// scalar, matrix and vector unit (9, 10), who has SrcA and SrcB and what is in them (15, 16, 19 to 22), and the automatic
// synchronisation of configuration (23).
const allUnits = 0xFFFFFF

// Telemetry tags of the management core's firmware.
const (
	tagBoardHigh = 1 // board id, whose bits 55:36 say what board it is
	tagBoardLow  = 2
	tagClock     = 14 // AI clock, MHz
	tagBundle    = 28 // version of the firmware bundle, a byte each of major, minor, patch, candidate
	tagColumns   = 34 // mask of live Tensix columns, in die order
	tagBanks     = 36
	tagClockMax  = 63 // highest AI clock, MHz
	tagPorts     = 72 // the port of each GDDR bank that the management firmware uses
)

// Telemetry is what the management core publishes.
type Telemetry struct {
	Clock    int // MHz
	ClockMax int // MHz; 0 where the firmware does not say
	Columns  uint32
	Banks    uint32
	Board    string            // p100a, p150b, …; empty where the firmware does not say
	Bundle   string            // version of the firmware bundle
	Tags     map[uint32]uint32 // all of it, by tag
	Assumed  []string          // what it did not publish and was taken to be whole
	PortsBy  string            // who named the GDDR banks' ports
	Ports    error             // why they are not known: nothing may stream from GDDR then
}

// Chip is an open chip.
type Chip struct {
	Geometry
	Telemetry Telemetry
	m         driver.Machine
	reg       driver.Window // 2 MiB uncached, strict: registers, mailboxes, L1
	cast      driver.Window // 2 MiB, multicast
	bulk      driver.Window // 4 GiB write-combined: GDDR
	check     *Checker
	clockAt   uint64 // where the management core publishes the AI clock
}

// Options of Open. The zero value checks nothing.
type Options struct {
	// TelemetryOnly takes one small window and reads what the chip has: for looking at a card that others use.
	TelemetryOnly bool
	// Violation, if set, is called for every broken rule of package chip's Checker. The rules are the ones a card
	// needs and the simulator does not look at.
	Violation func(error)
}

// Open takes the windows it needs and reads the telemetry.
func Open(m driver.Machine, o Options) (*Chip, error) {
	c := &Chip{m: m}
	if o.Violation != nil {
		c.check = &Checker{report: o.Violation}
		m = &checkedMachine{Machine: m, c: c.check}
	}
	var err error
	windows := []struct {
		w    *driver.Window
		size uint64
		wc   bool
	}{{&c.reg, driver.Window2M, false}, {&c.cast, driver.Window2M, true}, {&c.bulk, driver.Window4G, true}}
	if o.TelemetryOnly { // there are only eight large windows in a card
		windows = windows[:1]
	}
	for _, w := range windows {
		if *w.w, err = m.Window(w.size, w.wc); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if err := c.readTelemetry(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if c.check != nil {
		c.check.g = &c.Geometry
	}
	return c, nil
}

// Machine is the chip's way in.
func (c *Chip) Machine() driver.Machine { return c.m }

// Close gives the windows back. The machine stays open.
func (c *Chip) Close() error {
	var errs []error
	for _, w := range []*driver.Window{&c.reg, &c.cast, &c.bulk} {
		if *w != nil {
			errs = append(errs, (*w).Close())
			*w = nil
		}
	}
	return errors.Join(errs...)
}

// boards are those that bits 55:36 of a board id name (tt-kmd telemetry.c, tt_sysfs_show_card_type). A p300 has two chips,
// each a device of its own.
var boards = map[uint64]string{
	0x36: "p100", 0x43: "p100a", 0x40: "p150a", 0x41: "p150b", 0x42: "p150c", 0x44: "p300b", 0x45: "p300a", 0x46: "p300c", 0x47: "galaxy",
}

func board(id uint64) string {
	if n := id >> 36 & 0xFFFFF; id != 0 {
		if name, ok := boards[n]; ok {
			return name
		}
		return fmt.Sprintf("board %#x", n)
	}
	return ""
}

// Clock reads the AI clock anew, in MHz; 0 where the firmware does not say.
func (c *Chip) Clock() (int, error) {
	if c.clockAt == 0 {
		return 0, nil
	}
	v, err := c.Read32(ARC, c.clockAt)
	return int(v), err
}

const (
	arcScratch    = 0x80030400 // scratch RAM word n is at arcScratch + 4n
	scratchBoot   = 2
	scratchValues = 12
	scratchTable  = 13
)

func (c *Chip) readTelemetry() error {
	word := func(addr uint64) uint32 {
		if c.err(ARC, addr) != nil {
			return 0
		}
		return c.read32(ARC, addr)
	}
	if err := c.err(ARC, arcScratch); err != nil {
		return err
	}
	boot := word(arcScratch + 4*scratchBoot)
	if boot == 0xFFFFFFFF {
		return errors.New("chip: the card does not answer (all ones): it has fallen off the PCIe bus; reset it (tt-smi -r) or power it off and on")
	}
	if boot&7 != 5 {
		return fmt.Errorf("chip: the card's management firmware is not ready (boot status %#x, want 5 in the low bits); reset the card (tt-smi -r)", boot)
	}
	table, values := uint64(word(arcScratch+4*scratchTable)), uint64(word(arcScratch+4*scratchValues))
	n := word(table + 4)
	if n > 1024 {
		return fmt.Errorf("chip: the telemetry table claims %d entries; update the card's firmware", n)
	}
	t := Telemetry{Tags: map[uint32]uint32{}}
	for i := range uint64(n) {
		e := word(table + 8 + 4*i)
		at := values + 4*uint64(e>>16)
		if t.Tags[e&0xFFFF] = word(at); e&0xFFFF == tagClock {
			c.clockAt = at
		}
	}
	t.Clock = int(t.Tags[tagClock])
	var ok bool
	if t.Columns, ok = t.Tags[tagColumns]; !ok {
		t.Columns = 1<<maxColumns - 1
		t.Assumed = append(t.Assumed, "Tensix columns")
	}
	if t.Banks, ok = t.Tags[tagBanks]; !ok {
		t.Banks = 1<<maxBanks - 1
		t.Assumed = append(t.Assumed, "GDDR banks")
	}
	t.ClockMax = int(t.Tags[tagClockMax])
	t.Board = board(uint64(t.Tags[tagBoardHigh])<<32 | uint64(t.Tags[tagBoardLow]))
	if v, ok := t.Tags[tagBundle]; ok {
		t.Bundle = fmt.Sprintf("%d.%d.%d.%d", v>>24, v>>16&0xFF, v>>8&0xFF, v&0xFF)
	}
	ports := DescribedPorts
	t.PortsBy = "the vendor's table: the firmware does not name them"
	if v, ok := t.Tags[tagPorts]; ok {
		t.PortsBy = "the firmware"
		ports, t.Ports = publishedPorts(v, t.Banks)
	}
	c.Telemetry = t
	c.Geometry = NewGeometry(bits.OnesCount32(t.Columns&(1<<maxColumns-1)), t.Banks&(1<<maxBanks-1), ports)
	if c.Columns == 0 || c.Banks == 0 {
		return fmt.Errorf("chip: telemetry shows %d live Tensix columns and %d live GDDR banks; nothing can run", c.Columns, c.Banks)
	}
	return nil
}

func (c *Chip) err(t XY, addr uint64) error {
	return c.reg.Aim(driver.Target{X: t.X, Y: t.Y, Addr: addr &^ (driver.Window2M - 1), Ordering: driver.Strict})
}

func (c *Chip) read32(t XY, addr uint64) uint32 {
	var b [4]byte
	c.reg.Read(addr%driver.Window2M, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// Read fills b from a tile's L1.
func (c *Chip) Read(t XY, addr uint64, b []byte) error {
	if err := c.err(t, addr); err != nil {
		return err
	}
	c.reg.Read(addr%driver.Window2M, b)
	return nil
}

// Write stores b into a tile's L1.
func (c *Chip) Write(t XY, addr uint64, b []byte) error {
	if err := c.err(t, addr); err != nil {
		return err
	}
	c.reg.Write(addr%driver.Window2M, b)
	return nil
}

// Read32 reads a register or a word of L1.
func (c *Chip) Read32(t XY, addr uint64) (uint32, error) {
	if err := c.err(t, addr); err != nil {
		return 0, err
	}
	return c.read32(t, addr), nil
}

// Write32 writes a register or a word of L1.
func (c *Chip) Write32(t XY, addr uint64, v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return c.Write(t, addr, b[:])
}

// AimCast points the multicast window at every tile of the grid; Cast writes through it.
func (c *Chip) AimCast(r Grid) error {
	a, b := r.Corners()
	return c.cast.Aim(driver.Target{X: a.X, Y: a.Y, X1: b.X, Y1: b.Y, Multicast: true, Ordering: driver.Strict})
}

// Cast stores b at the same L1 address of all tiles the multicast window points at. It arrives before the next Ring.
func (c *Chip) Cast(addr uint64, b []byte) { c.cast.Write(addr, b) }

// Fence makes what Cast has written visible to the other windows.
func (c *Chip) Fence() { c.cast.Fence() }

// Ring multicasts a doorbell: behind all that was cast before it, and at once. The network keeps the window's order, the
// host's write-combining buffers keep none, so there is a fence on both sides.
func (c *Chip) Ring(addr uint64, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	c.Fence()
	c.Cast(addr, b[:])
	c.Fence()
}

// WriteBank stores b in GDDR bank n and reads the end of it back, which also pushes all of it out of every buffer
// between here and the chip.
func (c *Chip) WriteBank(n int, addr uint64, b []byte) error {
	if addr+uint64(len(b)) > BankSize {
		return fmt.Errorf("chip: GDDR bank %d: %d bytes at %#x end past its 4 GiB", n, len(b), addr)
	}
	t := c.Bank(n)
	if err := c.bulk.Aim(driver.Target{X: t.X, Y: t.Y}); err != nil {
		return err
	}
	c.bulk.Write(addr, b)
	c.bulk.Fence()
	var end [4]byte
	last := len(b) - 4
	c.bulk.Read(addr+uint64(last), end[:])
	if !bytes.Equal(end[:], b[last:]) {
		return fmt.Errorf("chip: GDDR bank %d does not hold what was written at %#x: wrote %x, read %x; the memory or the link to it is bad (trit selftest --device tensix)", n, addr+uint64(last), b[last:], end)
	}
	return nil
}

// ReadBank fills b from GDDR bank n.
func (c *Chip) ReadBank(n int, addr uint64, b []byte) error {
	t := c.Bank(n)
	if err := c.bulk.Aim(driver.Target{X: t.X, Y: t.Y}); err != nil {
		return err
	}
	c.bulk.Read(addr, b)
	return nil
}

// Image is code for one core.
type Image struct {
	Core Cores
	Addr uint32 // where it is loaded and starts; BRISC can only start at 0
	Code []byte // a multiple of four bytes
}

// Hold puts a tile's cores into reset, its state at power-up, and clears its coprocessor on the way: what a job that was
// interrupted has left in the unpackers, the packer, the hand-over of SrcA and SrcB, and queues of instructions would
// stop the next one. The read keeps both writes apart.
func (c *Chip) Hold(t XY) error {
	err := c.Write32(t, regSoftReset, allUnits)
	if err == nil {
		_, err = c.Read32(t, regSoftReset)
	}
	return errors.Join(err, c.HoldCores(t))
}

// HoldCores puts a tile's cores into reset and nothing else: what the driver does for a process that died.
func (c *Chip) HoldCores(t XY) error { return c.Write32(t, regSoftReset, uint32(AllCores)) }

// HoldOnExit asks the driver to hold the cores when the process ends without Hold. It is one write, so it leaves the
// coprocessor as it is; the next Hold clears it.
func (c *Chip) HoldOnExit(t XY) error {
	return c.m.Guard(t.X, t.Y, regSoftReset, uint32(AllCores))
}

// Load holds the tile's cores and writes the images and entry points. Start lets them run.
func (c *Chip) Load(t XY, images []Image) error {
	if err := c.Hold(t); err != nil {
		return err
	}
	var overrides uint32
	for _, im := range images {
		if err := c.Write(t, uint64(im.Addr), im.Code); err != nil {
			return err
		}
		var err error
		switch im.Core {
		case BRISC:
			if im.Addr != 0 {
				return fmt.Errorf("chip: BRISC starts at 0, not at %#x", im.Addr)
			}
		case NCRISC:
			err = errors.Join(c.Write32(t, regNcriscPC, im.Addr), c.Write32(t, regNcriscPCOn, 1))
		default:
			n := uint32(bits.TrailingZeros32(uint32(im.Core))) - 12
			err = c.Write32(t, uint64(regTrisc0PC+4*n), im.Addr)
			overrides |= 1 << n
		}
		if err != nil {
			return err
		}
	}
	return c.Write32(t, regTriscPCOn, overrides)
}

// Start releases the given cores of a tile that Load prepared. It reads a word of the code back first, so that no
// core can start before its code has arrived.
func (c *Chip) Start(t XY, cores Cores) error {
	if _, err := c.Read32(t, 0); err != nil {
		return err
	}
	return c.Write32(t, regSoftReset, uint32(AllCores&^cores))
}

// Ident returns the coordinates a tile believes it has, translated.
func (c *Chip) Ident(t XY) (XY, error) {
	v, err := c.Read32(t, regNoC0Logical)
	return XY{int(v & 63), int(v >> 6 & 63)}, err
}

// Step lets a simulated chip run.
func (c *Chip) Step(clocks uint32) { c.m.Step(clocks) }

// FakeTelemetry answers reads of the management core's telemetry for a chip with so many live columns and banks: for
// machines that only pretend.
func FakeTelemetry(addr uint64, columns, banks int) uint32 {
	const table, values = 0x1000, 0x2000
	switch addr {
	case arcScratch + 4*scratchBoot:
		return 5
	case arcScratch + 4*scratchTable:
		return table
	case arcScratch + 4*scratchValues:
		return values
	case table + 4:
		return 3
	case table + 8:
		return tagClock
	case table + 12:
		return tagColumns | 1<<16
	case table + 16:
		return tagBanks | 2<<16
	case values:
		return 1350
	case values + 4:
		return 1<<columns - 1
	case values + 8:
		return 1<<banks - 1
	}
	return 0
}
