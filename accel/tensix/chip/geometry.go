// Package chip knows what a Blackhole is made of: Tensix tiles, GDDR banks, the management core's telemetry, resets
// and entry points. It works through a driver.Machine, so a card and the simulator share every line of it.
//
// Facts come from the vendor's public sources: tt-isa-documentation (BlackholeA0), tt-umd, tt-metal, tt-kmd.
package chip

import (
	"fmt"
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
	dramPort    = 0 // the only port anybody uses: see Checker
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
}

// Tiles is the number of usable Tensix tiles.
func (g Geometry) Tiles() int { return g.Columns * tensixRows }

// Bank is the tile through which GDDR bank b is reached.
func (g Geometry) Bank(b int) XY {
	if b < 0 || b >= g.Banks {
		panic(fmt.Sprintf("chip: GDDR bank %d of %d", b, g.Banks))
	}
	return bankPort(b, dramPort)
}

func bankPort(b, port int) XY { return XY{dramColumnX + b/4, dramRowY + 3*(b%4) + port} }

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

// bankRow is the physical row of bank b's port 0 in its GDDR column (0 for banks 0 to 3, 9 for 4 to 7), from tt-umd's
// blackhole_implementation.hpp. It only guides placement; no address depends on it.
var bankRow = [4]int{0, 2, 9, 5}

// hops is the way a response takes from bank b to tile c on NoC 0, which runs towards larger x and then larger y
// on a torus.
func hops(b int, c XY) int {
	x := 9 * (b / 4)
	return (c.X-x+gridWidth)%gridWidth + (c.Y-bankRow[b%4]+gridHeight)%gridHeight
}

// Place orders the grid's tiles so that tile i reads its weights from bank i mod Banks and is near that bank: every
// bank then serves the same few readers, which is what GDDR bandwidth asks for (tt-metal PR 47885).
func (g Geometry) Place(r Grid) []XY {
	tiles := r.List()
	type pair struct{ tile, bank, hops int }
	var all []pair
	for t, c := range tiles {
		for b := range g.Banks {
			all = append(all, pair{t, b, hops(b, c)})
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
