package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"
)

// Kind of a matrix.
type Kind uint32

const (
	Ternary Kind = iota
	Int8
)

// L1 addresses, as in firmware/src/job.h.
const (
	TileAt     = 0x16000 // Tile
	BellAt     = 0x16180 // job number, written last; then where stages and parts are
	lineAt     = 0x16200
	ScalesAt   = 0x16500 // float32 [2][32]
	TilesAt    = 0x16A00 // coordinates of all tiles
	StagesAt   = 0x16C80 // of a short job: up to MaxStages stages, each a Job and, VectorIn on, a Vector
	VectorIn   = 64
	StageBytes = 128 // from one stage to the next
	MaxStages  = 4
	PartsAt    = 0x17000 // of a short job: up to MaxParts
	PartBytes  = 32
	DataAt     = 0x1A000 // activations, then results, then weights
	DataEnd    = 0x17C000
)

// Counter lines.
const (
	LineFilled = iota
	LineFreed
	LinePacked
	LineSent
	LineDone  // + core
	LineAlive = 8
)

// Line is the address of a counter.
func Line(n int) uint64 { return lineAt + 16*uint64(n) }

// Ready is what a core writes to its Alive line.
const Ready = 0x7121

// CompletionBytes is one tile's line in host memory: job number, chunks, clocks; CompletionClocks on the clocks of its stages
// by what became of their sums; in the last word ^job number.
const (
	CompletionBytes  = 64
	CompletionClocks = 16
	Thens            = 7
)

// Tile is what a tile is told once.
type Tile struct {
	Index, Tiles   uint32
	Bank, Rank     uint32
	Host           uint32
	HostLo, HostHi uint32
	Card           uint32 // 0 for a simulator
}

// Then is what becomes of a stage's sums (firmware/src/job.h).
type Then uint32

const (
	ThenHost   Then = iota // to the host
	ThenAct                // squared ReLU of the first matrix's times the second's, norm, int8: the next stage's activations
	ThenAdd                // added to the residual stream, norm, int8: the next stage's activations
	ThenOut                // added to the residual stream, which goes to the host
	ThenScreen             // scores of the output head: the rows that can be best go to the host
	ThenAttend             // query, key and value: attention, norm, int8: the next stage's activations
	ThenSiLU               // SiLU of the first matrix's times the second's, norm, int8: the next stage's activations
)

// Job is one stage of a job: a batch of activations times matrices with the same number of columns.
type Job struct {
	Kind            Kind
	Rows            uint32
	KT              uint32
	ChunkBytes      uint32
	X               uint32
	Out, OutSlots   uint32
	Ring, RingSlots uint32
	Parts, First    uint32
	More            uint32
	Then            Then
}

// Part is one matrix of a job.
type Part struct {
	Chunks          uint32
	Weights, Stride uint32
	Turn            uint32
	DstLo, DstHi    uint32
	Scale           uint32 // float32
	_               uint32
}

// Vector is what a stage's vector step works on (firmware/src/job.h; a screen has other meanings: screen.h).
type Vector struct {
	Tokens, Cols  uint32
	Eps           uint32
	Norm          uint32
	H, Res        uint32
	Piece         uint32
	Gather, Table uint32
	XIn           uint32
	Rect          uint32
	Master        uint32
	OutLo, OutHi  uint32
	MaxLo, MaxHi  uint32
}

// MaxParts is how many matrices a short job can have.
const MaxParts = 32

// Attend is what attention works on, the same for all layers of a job (firmware/src/job.h).
type Attend struct {
	Heads, Group, Cols uint32
	KeyHeads           uint32
	Scale              uint32 // float32
	Each               uint32
	Banks, BankAt      uint32
	Base, SlotBytes    uint32
	RowsAt             uint32
	Rope               uint32
	Mine, Theirs       uint32
	Q                  uint32
	Scores, Pairs      uint32
	Weights            uint32
	Blocks             uint32
	Found              uint32
}

// PageTokens is how many tokens a page of keys and values holds.
const PageTokens = 32

// spread is where number i of a vector lies in the 64 words that it shares with another one.
func spread(i int) int { return i/8*16 + i%8*2 }

// SliceBytes is what a page takes for one layer and key head: keys, then values.
func SliceBytes(cols int) int { return 2 * 4 * PageTokens * cols }

// PackSlice lays out one layer's keys and values of a head as the tiles want them (firmware/src/job.h); UnpackSlice brings
// them back.
//
//	dst  [SliceBytes(cols)]
//	src  keys, [cols, PageTokens], then values, [PageTokens, cols]; cols a multiple of 32
func PackSlice(dst []byte, src []float32, cols int) {
	eachOfSlice(cols, func(at, i int) { binary.LittleEndian.PutUint32(dst[at:], math.Float32bits(src[i])) })
}

// UnpackSlice is PackSlice's inverse.
func UnpackSlice(dst []float32, src []byte, cols int) {
	eachOfSlice(cols, func(at, i int) { dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[at:])) })
}

// eachOfSlice calls f with each number's byte in a slice, and its index in keys and values.
func eachOfSlice(cols int, f func(at, i int)) {
	values := PageTokens * cols
	for t := range PageTokens {
		for c := range cols {
			f(4*(c/2*64+spread(t)+c%2), c*PageTokens+t)
			f(4*(values+c/32*1024+t/2*64+spread(c%32)+t%2), values+t*cols+c)
		}
	}
}

// Words is the little-endian image of a structure.
func Words[T Tile | Job | Part | Vector | Attend](v *T) []byte {
	n := int(unsafe.Sizeof(*v))
	b := make([]byte, n)
	for i, w := range unsafe.Slice((*uint32)(unsafe.Pointer(v)), n/4) {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	return b
}

// Plan says where everything lies in L1 for a batch and matrices of so many columns.
func Plan(kind Kind, rows, cols int) (Job, error) {
	align := func(n int) int { return (n + 1023) &^ 1023 }
	bytes := TernaryChunkBytes(cols)
	if kind == Int8 {
		bytes = Int8ChunkBytes(cols)
	}
	out := align(DataAt + XBytes(kind, cols, rows))
	outSlots := min(32, 64<<10/OutBytes(rows))
	ring := align(out + outSlots*OutBytes(rows))
	slots := min((DataEnd-ring)/bytes, 8)
	if slots < 1 {
		return Job{}, fmt.Errorf("kernels: %d tokens × %d columns and one chunk of weights need %d bytes of a tile's memory, which has %d", rows, cols, ring+bytes-DataAt, DataEnd-DataAt)
	}
	return Job{
		Kind: kind, Rows: uint32(rows), KT: uint32(PadK(cols) / 32), ChunkBytes: uint32(bytes),
		X: DataAt, Out: uint32(out), OutSlots: uint32(outSlots), Ring: uint32(ring), RingSlots: uint32(slots),
	}, nil
}
