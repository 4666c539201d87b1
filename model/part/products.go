package part

import (
	"context"

	"github.com/tritlm/trit/ternary"
)

// Products computes the exact integer products of ternary matrices with int8 activations: what a device takes over first. Used
// by one goroutine at a time.
type Products interface {
	// Load makes the matrix resident and returns its number, 0, 1, 2, … in order of loading, and its scales. read gives the
	// matrix; whoever has it from somewhere else need not call it.
	Load(m Matrix, read func() (*ternary.Matrix, error)) (id int, scale []float32, err error)
	// Multiply computes y[i] = W[ids[i]]·x̂ for the T = len(xsum) activation rows of x.
	//
	//	x     [T, cols16] int8, cols rounded up to a multiple of 16, the tail zero
	//	xsum  [T] the sum of each row of x
	//	y[i]  int32, in panels: see PanelRows
	//
	// All the matrices have the same number of columns.
	Multiply(ctx context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error
	Close() error
}

// Matrix says which matrix Products load, and what is known of its place in the model.
type Matrix struct {
	Name       string // of the module
	Rows, Cols int
	Role       Role
	// Sparse: behind the gate of a Gated with squared ReLU about half of what passes is exactly 0, up to nine tenths in
	// trained models: outputs of RoleUp that are not needed, inputs of RoleDown that add nothing.
	Sparse bool
}

// Role is the place of a projection in its part.
type Role uint8

const (
	RoleOther  Role = iota
	RoleGate        // of a Gated
	RoleUp          // beside the gate
	RoleDown        // of a feed-forward: its output is added to the stream
	RoleOut         // of a mixer: its output is added to the stream
	RoleRouter      // of Experts, and the gate of a shared one: float32 in every model
)

// RowProducts is what Products may do besides: leave out rows of one product.
type RowProducts interface {
	// MultiplyRows computes some rows of Ŵ·x̂ for one token: y[i] is row index[i]. It does nothing and says so where it
	// cannot, or where too many rows are asked for.
	MultiplyRows(id int, y, index []int32, x []int8, xsum []int32) bool
}

// PanelRows is the height of a panel of outputs. A product of T rows by a matrix of R rows (rounded up to a multiple of 16) lies
// as ⌈R/PanelRows⌉ panels, each [T, PanelRows] row-major, the last one narrower; so for T = 1 it is simply [R]. A worker owns a
// panel, and its outputs are contiguous.
const PanelRows = 64

// Panel cuts panel p out of y, the product of t rows with a matrix of rows rows, and gives its first row and width.
func Panel[T any](y []T, p, t, rows int) (out []T, first, width int) {
	first = p * PanelRows
	width = min(PanelRows, rows-first)
	return y[first*t : (first+width)*t], first, width
}

func roundUp16(n int) int { return (n + 15) &^ 15 }
