// Package chip knows what a Blackhole is made of: Tensix tiles, GDDR banks, the management core's telemetry, resets
// and entry points. It works through a driver.Machine, so a card and the simulator share every line of it.
//
// Facts come from the vendor's public sources: tt-isa-documentation (BlackholeA0), tt-umd, tt-metal, tt-kmd.
package chip

import (
	"errors"
	"fmt"
	"math/bits"
	"sort"
)

// XY is a tile in translated NoC 0 coordinates, the ones packets carry.
type XY struct{ X, Y int }

// Coord is the form packets and firmware use: x in bits 5:0, y in 11:6.
func (c XY) Coord() uint32 { return uint32(c.X | c.Y<<6) }

func (c XY) String() string { return fmt.Sprintf("(%d,%d)", c.X, c.Y) }

const (
	maxColumns  = 14 // Tensix columns on the die
	firstRow    = 2
	tensixRows  = 10
	maxBanks    = 8
	BankSize    = 4 << 30
	BankPorts   = 3
	L1Size      = 1536 << 10
	gridWidth   = 17 // of the NoC
	gridHeight  = 12
	dramColumnX = 17
	dramRowY    = 12
)

var (
	// ARC is the management tile.
	ARC = XY{8, 0}
	// PCIe is the tile that turns NoC requests into host memory accesses.
	PCIe = XY{19, 24}
)

// column is the x coordinate of the n-th live Tensix column: translation packs the live ones to the left and leaves
// a gap for the GDDR and the management columns.
func column(n int) int {
	if n < 7 {
		return 1 + n
	}
	return 3 + n
}

// Geometry is what this very chip has, as its telemetry says. Cards have harvested columns and banks: nothing here
// may be assumed.
type Geometry struct {
	Columns int // live Tensix columns, 1 to 14
	Banks   int // live GDDR banks, 1 to 8
	banks   [maxBanks]bank
}

// bank is a live GDDR bank: which of the eight on the die, and which of the three ports of it is everybody's.
type bank struct{ instance, slot, port int8 }

// NewGeometry is a chip with so many live columns and the banks of a mask, bit i for instance i of the die. ports has
// the port of each instance, as packets name it.
//
// The management firmware translates the coordinates of at most one dead bank: its column of the die comes second, and
// its row, in both columns, last (tt-system-firmware lib/tenstorrent/bh_arc/noc_init.c, ComputeNocTranslation; tt-umd
// device/coordinates/blackhole_coordinate_manager.cpp, fill_dram_noc0_translated_mapping). So the live ones are packed,
// in an order that the dead one decides.
func NewGeometry(columns int, live uint32, ports [maxBanks]int8) Geometry {
	g := Geometry{Columns: columns}
	dead := bits.TrailingZeros32(^live)
	order := [4]int{0, 1, 2, 3}
	if dead < maxBanks {
		order[3] = dead % 4
		for i := dead % 4; i < 3; i++ {
			order[i] = i + 1
		}
	}
	for slot := range maxBanks {
		i := 4*(slot/4) + order[slot%4]
		if dead < maxBanks/2 {
			i ^= 4
		}
		if live>>i&1 != 0 {
			g.banks[g.Banks] = bank{int8(i), int8(slot), ports[i]}
			g.Banks++
		}
	}
	return g
}

// DescribedPorts are the ports that the vendor's software uses on NoC 0 with firmware that does not name them, by
// instance: worker_endpoint in tt-metal's tt_metal/soc_descriptors/blackhole_140_arch.yaml. Firmware before 19.12 has
// no other placement (tt-metal PR 56272).
var DescribedPorts = [maxBanks]int8{2, 0, 0, 0, 2, 2, 2, 2}

// publishedPorts reads telemetry tag 72, GDDR_MRISC_NOC2AXI_PORT (tt-system-firmware PR 1258): a nibble for each
// instance, 0xF for a dead one. The firmware counts the ports of the eastern banks the other way round (GetGddrNocCoords
// in lib/tenstorrent/bh_arc/noc.c), so 0x00000002 is the map above.
func publishedPorts(v, live uint32) (ports [maxBanks]int8, err error) {
	for i := range maxBanks {
		n := int8(v >> (4 * i) & 0xF)
		switch {
		case n < BankPorts && i >= maxBanks/2:
			ports[i] = BankPorts - 1 - n
		case n < BankPorts:
			ports[i] = n
		case live>>i&1 != 0:
			return ports, fmt.Errorf("%w: telemetry tag %d is %#08x, which names port %d of live GDDR bank %d; there are ports 0 to 2: reset the card (tt-smi -r) or update its firmware bundle", ErrPorts, tagPorts, v, n, i)
		}
	}
	return ports, nil
}

// ErrPorts is wrapped where it is not known which port of a GDDR bank is the one to use: traffic through another one than
// the memory's management firmware uses can hang the bank.
var ErrPorts = errors.New("chip: the ports of the GDDR banks are not known")

// Tiles is the number of usable Tensix tiles.
func (g Geometry) Tiles() int { return g.Columns * tensixRows }

// Bank is the tile through which GDDR bank b is reached.
func (g Geometry) Bank(b int) XY {
	if b < 0 || b >= g.Banks {
		panic(fmt.Sprintf("chip: GDDR bank %d of %d", b, g.Banks))
	}
	return bankPort(int(g.banks[b].slot), int(g.banks[b].port))
}

// Port is bank b's instance on the die and the port that is used of it.
func (g Geometry) Port(b int) (instance, port int) {
	return int(g.banks[b].instance), int(g.banks[b].port)
}

func bankPort(slot, port int) XY { return XY{dramColumnX + slot/4, dramRowY + 3*(slot%4) + port} }

// Grid is a rectangle of tiles that work together: the first Columns live columns and the first Rows rows.
type Grid struct{ Columns, Rows int }

// Full is the grid of every live tile.
func (g Geometry) Full() Grid { return Grid{g.Columns, tensixRows} }

// Check says whether the chip has the grid.
func (g Geometry) Check(r Grid) error {
	if r.Columns < 1 || r.Columns > g.Columns || r.Rows < 1 || r.Rows > tensixRows {
		return fmt.Errorf("chip: a grid of %d columns by %d rows was asked for; this chip has %d by %d (of 14 by 10; the rest is harvested)", r.Columns, r.Rows, g.Columns, tensixRows)
	}
	return nil
}

// Corners are the first and last tile, inclusive.
func (r Grid) Corners() (XY, XY) {
	return XY{column(0), firstRow}, XY{column(r.Columns - 1), firstRow + r.Rows - 1}
}

// Tiles is Columns × Rows.
func (r Grid) Tiles() int { return r.Columns * r.Rows }

// Contains reports whether c is one of the grid's tiles.
func (r Grid) Contains(c XY) bool {
	for n := range r.Columns {
		if column(n) == c.X {
			return c.Y >= firstRow && c.Y < firstRow+r.Rows
		}
	}
	return false
}

// List returns the tiles row by row.
func (r Grid) List() []XY {
	var out []XY
	for y := range r.Rows {
		for n := range r.Columns {
			out = append(out, XY{column(n), firstRow + y})
		}
	}
	return out
}

// bankRow is the physical row of each port of the four banks in a GDDR column, which is 0 for banks 0 to 3 and 9 for 4 to
// 7 (DRAM_CORES_NOC0 in tt-umd's blackhole_implementation.hpp). It only guides placement; no address depends on it.
var bankRow = [4][BankPorts]int{{0, 1, 11}, {2, 10, 3}, {9, 4, 8}, {5, 7, 6}}

// hops is the way a response takes from bank b to tile c on NoC 0, which runs towards larger x and then larger y
// on a torus.
func (g Geometry) hops(b int, c XY) int {
	i := int(g.banks[b].instance)
	return (c.X-9*(i/4)+gridWidth)%gridWidth + (c.Y-bankRow[i%4][g.banks[b].port]+gridHeight)%gridHeight
}

// Place orders the grid's tiles so that tile i reads its weights from bank i mod Banks and is near that bank: every
// bank then serves the same few readers, which is what GDDR bandwidth asks for (tt-metal PR 47885).
func (g Geometry) Place(r Grid) []XY {
	tiles := r.List()
	type pair struct{ tile, bank, hops int }
	var all []pair
	for t, c := range tiles {
		for b := range g.Banks {
			all = append(all, pair{t, b, g.hops(b, c)})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].hops < all[j].hops })
	order := make([]XY, len(tiles))
	used := make([]bool, len(tiles))
	count := make([]int, g.Banks)
	for _, p := range all {
		if i := p.bank + count[p.bank]*g.Banks; !used[p.tile] && i < len(tiles) {
			order[i], used[p.tile] = tiles[p.tile], true
			count[p.bank]++
		}
	}
	return order
}
