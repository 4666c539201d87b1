package firmware_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/internal/tilemodel"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/kernel"
)

// The images run on a model of a tile (package tilemodel), which sees broken rules.

// jobPart is a matrix of a test job.
type jobPart struct{ chunks, turn int }

type testJob struct {
	rows, ring, out int
	bytes           int
	parts           []jobPart
}

// runTile runs jobs on tile `index` of `tiles` and returns the rules broken.
func runTile(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 99))
	const tiles, hostBase = 5, 0x1_FFFF_FF80 // completion lines and results cross a 4 GiB line
	index := rng.IntN(tiles)
	m := tilemodel.New(rng, 1|2<<6, patch)
	m.HostBase, m.Host = hostBase, make([]byte, 1<<20)
	m.Peers = map[uint32]*tilemodel.Tile{m.Self: m}
	put := m.Put
	const bank, rank = 17 | 15<<6, 3
	host := uint64(hostBase)
	put(0x16000, uint32(index), tiles, bank, rank, 19|24<<6, uint32(host), uint32(host>>32))
	m.GDDR = func(b, addr, n uint32) []byte {
		if b != bank {
			m.Breaks("a read from bank tile %#x, this tile's is %#x", b, bank)
		}
		out := make([]byte, n)
		for i := uint32(0); i < n; i += 4 {
			binary.LittleEndian.PutUint32(out[i:], (addr+i)*2654435761)
		}
		return out
	}
	m.Boot()
	results := 4096
	for number := uint32(1); number <= 6; number++ {
		j := testJob{rows: []int{1, 8, 32}[rng.IntN(3)], ring: 1 + rng.IntN(4), out: 1 + rng.IntN(4), bytes: []int{1024, 20480, 33024}[rng.IntN(3)]}
		for range 1 + rng.IntN(3) {
			j.parts = append(j.parts, jobPart{rng.IntN(25), rng.IntN(tiles)})
		}
		outBytes := 128 * j.rows
		// what this tile has to see and where its results belong
		type chunk struct {
			weights uint32
			dst     int
		}
		var list []chunk
		dst := results
		var words []uint32
		for p, part := range j.parts {
			weights, stride := uint32(0x100000*(p+1)*64), uint32(0x100000)
			at := uint64(hostBase + dst)
			words = append(words, uint32(part.chunks), weights, stride, uint32(part.turn), uint32(at), uint32(at>>32), 0, 0)
			k := 0
			for g := range part.chunks {
				if (part.turn+g)%tiles == index {
					list = append(list, chunk{weights + rank*stride + uint32(k*j.bytes), dst + g*outBytes})
					k++
				}
			}
			dst += part.chunks * outBytes
		}
		clear(m.Host[results:])
		m.Unpacked, m.Packed = 0, 0
		m.UseChunk = func(k int) []byte {
			if k >= len(list) {
				return nil
			}
			return m.GDDR(bank, list[k].weights, uint32(j.bytes))
		}
		result := func(k int) []byte {
			return bytes.Repeat([]byte{byte(number), byte(k + 1), 0xA5, byte(k * 7)}, outBytes/4)
		}
		m.OutChunk = result
		put(0x17000, words...)
		put(0x16C80, 0, uint32(j.rows), 4, uint32(j.bytes), 0x1A000, 0x30000, uint32(j.out), 0x60000, uint32(j.ring), uint32(len(j.parts)), 0, 0, 0)
		put(0x16180, number, 0x16C80, 0x17000)
		line := m.Host[64*index:]
		for steps := 0; ; steps++ {
			if binary.LittleEndian.Uint32(line) == number && binary.LittleEndian.Uint32(line[60:]) == ^number {
				break
			}
			if steps > 3_000_000 {
				return append(m.Broken, fmt.Sprintf("job %d hangs: %d of %d chunks unpacked, %d packed", number, m.Unpacked, len(list), m.Packed))
			}
			for range 1 + rng.IntN(8) {
				m.Step(m.Cores[rng.IntN(len(m.Cores))])
			}
			m.Network()
			if len(m.Broken) > 0 {
				return m.Broken
			}
		}
		if got := binary.LittleEndian.Uint32(line[4:]); got != uint32(len(list)) {
			m.Breaks("job %d: %d chunks reported of %d", number, got, len(list))
		}
		for k, c := range list {
			if !bytes.Equal(m.Host[c.dst:c.dst+outBytes], result(k)) {
				m.Breaks("job %d: result %d is not in host memory when the tile says it is done", number, k)
			}
		}
		// the host may overwrite the job now: nobody may still be reading it
		put(0x16C80, bytes32(0xDEADBEEF, 128)...)
		put(0x17000, bytes32(0xDEADBEEF, 24)...)
	}
	return m.Broken
}

func bytes32(v uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestFirmwareKeepsTheOrderingRules(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		if broken := runTile(seed, nil); len(broken) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(broken, "\n"))
		}
	}
}

// The model must see each mistake: images with a rule taken out of the machine code are caught.
func TestOrderingModelSeesMistakes(t *testing.T) {
	nop := func(code []byte, match func(w uint32) bool, only int) {
		n := 0
		for i := 0; i+4 <= len(code); i += 4 {
			if match(binary.LittleEndian.Uint32(code[i:])) {
				if only < 0 || n == only {
					binary.LittleEndian.PutUint32(code[i:], 0x13)
				}
				n++
			}
		}
	}
	fence := func(w uint32) bool { return w&0x7F == 0x0F }
	for name, c := range map[string]struct {
		want  string
		patch func(name string, code []byte)
	}{
		"no fences anywhere": {"hangs", func(_ string, code []byte) { nop(code, fence, -1) }},
		"configuration is not read back": {"configuration stores", func(name string, code []byte) {
			if name == "math" { // lw x, off(x) right after the stores: the loads of configuration words
				for i := 4; i+4 <= len(code); i += 4 {
					w, before := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
					if w&0x707F == 0x2003 && before&0x707F == 0x2023 && w>>15&31 == before>>15&31 && w>>20 == before>>25<<5|before>>7&31 && i > 64 {
						binary.LittleEndian.PutUint32(code[i:], 0x13)
					}
				}
			}
		}},
		"reads are not awaited": {"is not what it should be", func(name string, code []byte) {
			if name == "mover" { // branches back that spin on the outstanding counters: bnez after lw of the NIU
				for i := 4; i+4 <= len(code); i += 4 {
					w := binary.LittleEndian.Uint32(code[i:])
					prev := binary.LittleEndian.Uint32(code[i-4:])
					if w&0x707F == 0x1063 && int32(w) < 0 && prev&0x707F == 0x2003 && w>>15&31 == prev>>7&31 && prev>>20 == 0 {
						binary.LittleEndian.PutUint32(code[i:], 0x13)
					}
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			seen := ""
			for seed := range uint64(6) {
				if broken := runTile(seed, c.patch); len(broken) > 0 {
					seen = strings.Join(broken, "; ")
					if strings.Contains(seen, c.want) {
						t.Logf("seed %d: %s", seed, seen)
						return
					}
				}
			}
			t.Errorf("want %q, the model saw %q", c.want, seen)
		})
	}
}

// cluster is three tiles that work together, and the host.
type cluster struct {
	rng    *rand.Rand
	all    []*tilemodel.Tile
	coords []uint32
	host   []byte
}

const (
	clusterTiles, clusterHost, clusterBank = 3, 0x7000_0000, 17 | 12<<6
	largestAt, resultsAt                   = 0x800, 0x1000 // in host memory
)

func newCluster(rng *rand.Rand, patch func(name string, code []byte)) *cluster {
	c := &cluster{rng: rng, host: make([]byte, 1<<20)}
	peers := map[uint32]*tilemodel.Tile{}
	for i := range uint32(clusterTiles) {
		c.coords = append(c.coords, 1+i|2<<6)
	}
	for i, xy := range c.coords {
		m := tilemodel.New(rng, xy, patch)
		m.Peers, m.Host, m.HostBase = peers, c.host, clusterHost
		peers[xy] = m
		m.Put(0x16000, uint32(i), clusterTiles, clusterBank, uint32(i), tilemodel.PCIe, clusterHost, 0)
		m.Put(0x16A00, c.coords...)
		c.all = append(c.all, m)
	}
	return c
}

// mine are the chunks of a matrix that tile i has.
func mine(i, total, turn int) (list []int) {
	for g := range total {
		if (turn+g)%clusterTiles == i {
			list = append(list, g)
		}
	}
	return list
}

// hash is what GDDR holds where nothing else is said.
func hash(addr, n uint32) []byte {
	out := make([]byte, n)
	for k := uint32(0); k < n; k += 4 {
		binary.LittleEndian.PutUint32(out[k:], (addr+k)*2654435761)
	}
	return out
}

// sums lays float32 sums [tokens, cols] of chunk g out as the packer does.
func sums(y []float32, tokens, cols, g int) []byte {
	rows := kernels.Rows(tokens)
	b := make([]byte, 128*rows)
	for r := range tokens {
		for o := range min(32, cols-32*g) {
			at := o
			if rows > 1 {
				at = r/8*256 + o/16*128 + r%8*16 + o%16
			}
			binary.LittleEndian.PutUint32(b[4*at:], math.Float32bits(y[r*cols+32*g+o]))
		}
	}
	return b
}

// run rings the bell and lets the cluster work until all tiles say that they are done.
func (c *cluster) run(what string) []string {
	for _, m := range c.all {
		m.Boot()
	}
	for _, m := range c.all {
		m.Put(0x16180, 1, 0x16C80, 0x17000)
	}
	for steps := 0; ; steps++ {
		done := true
		for i := range c.all {
			done = done && binary.LittleEndian.Uint32(c.host[64*i:]) == 1
		}
		if done {
			return nil
		}
		if steps > 1_500_000 {
			var at []string
			for i, m := range c.all {
				at = append(at, fmt.Sprintf("tile %d: note %d released %d chunks %d/%d acks %d requests %d", i, m.Word(0x17E80), m.Word(0x17D00), m.Unpacked, m.Packed, m.Acks, m.Waiting()))
				for _, c := range m.Cores {
					at = append(at, c.String())
				}
			}
			return []string{fmt.Sprintf("hangs: %s: %s", what, strings.Join(at, "; "))}
		}
		for _, m := range c.all {
			for range 1 + c.rng.IntN(4) {
				m.Step(m.Cores[c.rng.IntN(len(m.Cores))])
			}
			m.Network()
			if len(m.Broken) > 0 {
				return m.Broken
			}
		}
	}
}

// blockStage is a stage of a block as the model sees it: the sums that its matrices give, and the activations that the
// tiles must have made for it.
type blockStage struct {
	then   uint32
	chunks int // of each matrix
	turn   int
	sums   [][]float32 // of each matrix [tokens, 32·chunks]
	scale  []float32   // of each matrix
	norm   []float32
	wantX  []byte
}

// runBlock runs one block of four stages on three tiles and returns the rules broken.
func runBlock(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 7))
	tokens := []int{1, 2, 8, 9, 20}[rng.IntN(5)]
	rows := kernels.Rows(tokens)
	last := rng.IntN(3) == 0
	D, F := 1+rng.IntN(4), 1+rng.IntN(5) // chunks
	turn := rng.IntN(clusterTiles)
	stages := []*blockStage{
		{then: uint32(kernels.ThenAdd), chunks: D, turn: turn, scale: []float32{0.003}},
		{then: uint32(kernels.ThenAct), chunks: F, turn: rng.IntN(clusterTiles), scale: []float32{0.002, 0.005}},
		{then: uint32(kernels.ThenAdd), chunks: D, turn: turn, scale: []float32{0.007}},
	}
	if last {
		stages[2].then = uint32(kernels.ThenOut)
	} else {
		stages = append(stages, &blockStage{then: uint32(kernels.ThenHost), chunks: 1 + rng.IntN(5), turn: rng.IntN(clusterTiles), scale: []float32{0}})
	}
	// what the matrices give, and what must come of it
	x, scales := make([]float32, tokens*32*D), make([]float32, tokens)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	in := append([]float32(nil), x...)
	for r := range scales {
		scales[r] = rng.Float32()*1e-2 + 1e-6
	}
	xs := append([]float32(nil), scales...)
	var largest []float32
	const eps = 1e-5
	for n, st := range stages {
		cols := 32 * st.chunks
		for range st.scale {
			y := make([]float32, tokens*cols)
			for i := range y {
				y[i] = float32(rng.IntN(20001) - 10000)
			}
			st.sums = append(st.sums, y)
		}
		st.norm = make([]float32, cols)
		for i := range st.norm {
			st.norm[i] = 0.5 + rng.Float32()
		}
		if st.then == uint32(kernels.ThenHost) {
			break
		}
		q := make([]int8, tokens*cols)
		for r := range tokens {
			h, y, row := make([]float32, cols), make([]float32, cols), make([]int8, kernel.Pad16(cols))
			for i := range h {
				a := st.sums[0][r*cols+i] * float32(xs[r]*st.scale[0])
				if st.then == uint32(kernels.ThenAct) {
					a = max(a, 0)
					h[i] = float32(float32(a*a) * float32(st.sums[1][r*cols+i]*float32(xs[r]*st.scale[1])))
				} else {
					x[r*cols+i] += a
					h[i] = x[r*cols+i]
				}
			}
			if st.then == uint32(kernels.ThenOut) {
				continue
			}
			xs[r], _ = kernel.RMSNormQuantize(row, y, h, st.norm, eps)
			copy(q[r*cols:], row[:cols])
			if n == len(stages)-2 {
				l := float32(0)
				for _, v := range y {
					l = max(l, v, -v)
				}
				largest = append(largest, l)
			}
		}
		if n+1 < len(stages) {
			next := stages[n+1]
			next.wantX = make([]byte, kernels.XBytes(kernels.Ternary, cols, rows))
			_ = kernels.PackX(next.wantX, kernels.Ternary, q, tokens, cols, cols)
		}
	}

	const (
		xAt, outAt, hAt, pieceAt, gatherAt, tableAt, inAt, ringAt, resAt = 0x1A000, 0x38000, 0x58000, 0x70000, 0x72000, 0x80000, 0x81000, 0x90000, 0xF0000
		normAt, bytesOf                                                  = 0x300000, 1024
	)
	c := newCluster(rng, patch)
	outBytes := 128 * rows
	for i, m := range c.all {
		m.GDDR = func(_, addr, n uint32) []byte {
			out := hash(addr, n)
			if s := int(addr>>20) - normAt>>20; s >= 0 && s < len(stages) {
				for k := uint32(0); k < n; k += 4 {
					if o := int(addr&0xFFFFF+k) / 4; o < len(stages[s].norm) {
						binary.LittleEndian.PutUint32(out[k:], math.Float32bits(stages[s].norm[o]))
					}
				}
			}
			return out
		}
		type chunk struct{ stage, part, g, k int }
		var list []chunk
		for s, st := range stages {
			for p := range st.scale {
				for k, g := range mine(i, st.chunks, st.turn) {
					list = append(list, chunk{s, p, g, k})
				}
			}
		}
		weights := func(s, p int) uint32 { return uint32(0x1000000 * (2*s + p + 1)) }
		const stride = 0x10000
		m.UseChunk = func(k int) []byte {
			if k >= len(list) {
				return nil
			}
			ch := list[k]
			// padding is left alone, and so are rows without a token: compare what is there
			st := stages[ch.stage]
			for r := range tokens {
				for col := 0; col < 32*st.chunks && st.wantX != nil && ch.stage > 0; col++ {
					// a column's place, as kernels.PackX has it
					at := 2 * (col/16*128 + r*16 + col%16)
					if rows == 32 {
						at = 2 * (col/32*1024 + r/8*256 + col%32/16*128 + r%8*16 + col%16)
					}
					if at < len(st.wantX) && !bytes.Equal(m.L1[xAt+at:][:2], st.wantX[at:][:2]) && col < len(stages[ch.stage-1].norm) {
						m.Breaks("stage %d: activation %d of token %d is % x when it is used, want % x", ch.stage, col, r, m.L1[xAt+at:][:2], st.wantX[at:][:2])
						return nil
					}
				}
			}
			return m.GDDR(clusterBank, weights(ch.stage, ch.part)+uint32(i)*stride+uint32(ch.k*bytesOf), bytesOf)
		}
		m.OutChunk = func(k int) []byte {
			ch := list[k]
			st := stages[ch.stage]
			if st.then == uint32(kernels.ThenHost) {
				return bytes.Repeat([]byte{byte(i + 1), byte(ch.g), 0x5A, 1}, outBytes/4)
			}
			return sums(st.sums[ch.part], tokens, 32*st.chunks, ch.g)
		}
		parts := uint32(0)
		for s, st := range stages {
			at, first := uint32(0x16C80+128*s), parts
			for p, w := range st.scale {
				m.Put(0x17000+32*parts, uint32(st.chunks), weights(s, p), stride, uint32(st.turn), clusterHost+resultsAt, 0, math.Float32bits(w), 0)
				parts++
			}
			m.Put(at, 0, uint32(rows), 4, bytesOf, xAt, outAt, 12, ringAt, 3, uint32(len(st.scale)), first, uint32(len(stages)-1), st.then)
			xin := uint32(0)
			if s == 0 {
				xin = inAt
			}
			m.Put(at+64, uint32(tokens), uint32(32*st.chunks), math.Float32bits(eps), normAt+uint32(s)<<20, hAt, resAt, pieceAt, gatherAt, tableAt, xin,
				c.coords[0]<<12|c.coords[clusterTiles-1], c.coords[0], clusterHost+resultsAt, 0, clusterHost+largestAt, 0)
		}
		for k, v := range in {
			m.Put(inAt+4*uint32(k), math.Float32bits(v))
		}
		for r, v := range scales {
			m.Put(0x16500+4*uint32(r), math.Float32bits(v))
		}
	}
	if broken := c.run(fmt.Sprintf("%d tokens, %d and %d chunks", tokens, D, F)); broken != nil {
		return broken
	}
	var broken []string
	if last {
		for i, v := range x {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(c.host[resultsAt+4*i:])); got != v {
				broken = append(broken, fmt.Sprintf("column %d of the residual stream in host memory is %g, want %g", i, got, v))
				break
			}
		}
		return broken
	}
	for r, v := range largest {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(c.host[largestAt+4*r:])); got != v {
			broken = append(broken, fmt.Sprintf("the largest magnitude of row %d is %g, want %g", r, got, v))
		}
	}
	for g := range stages[3].chunks {
		tile := (stages[3].turn + g) % clusterTiles
		if want := bytes.Repeat([]byte{byte(tile + 1), byte(g), 0x5A, 1}, outBytes/4); !bytes.Equal(c.host[resultsAt+g*outBytes:][:outBytes], want) {
			broken = append(broken, fmt.Sprintf("result %d is not in host memory", g))
		}
	}
	return broken
}

// Without waiting for acknowledgements the tiles meet before their data has met.
func noAcks(name string, code []byte) {
	for i := 4; name == "sender" && i+4 <= len(code); i += 4 {
		w, prev := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
		if w&0x707F == 0x1063 && int32(w) < 0 && prev&0x707F == 0x2003 && prev>>20 == 0x204 {
			binary.LittleEndian.PutUint32(code[i:], 0x13)
		}
	}
}

func keepsTheRules(t *testing.T, seeds uint64, run func(seed uint64, patch func(name string, code []byte)) []string) {
	t.Helper()
	for seed := range seeds {
		if broken := run(seed, nil); len(broken) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(broken, "\n"))
		}
	}
	for seed := range uint64(20) {
		if broken := run(seed, noAcks); len(broken) > 0 {
			t.Logf("without acknowledgements, seed %d: %s", seed, broken[0])
			return
		}
	}
	t.Error("the model does not see that acknowledgements are not awaited")
}

// A block on three tiles with late stores, stale caches and a slow network: meetings, gathered rows, residual stream,
// norms and quantised activations hold, and are the host's numbers.
func TestBlockKeepsTheOrderingRules(t *testing.T) {
	keepsTheRules(t, 8, runBlock)
}

// runScreen screens a head on three tiles and returns the rules broken.
func runScreen(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 11))
	tokens := []int{1, 3, 8, 11}[rng.IntN(4)]
	rows := kernels.Rows(tokens)
	V, turn := 20+rng.IntN(300), rng.IntN(clusterTiles)
	chunks := kernels.Chunks(V)
	most := []int{4, 1000}[rng.IntN(2)]
	y := make([]int32, tokens*V)
	for i := range y {
		y[i] = int32(rng.IntN(2_000_001) - 1_000_000)
	}
	var records [3][]float32
	for i := range records {
		records[i] = make([]float32, 32*chunks)
		for r := range V {
			records[i][r] = (0.5 + rng.Float32()) * []float32{1e-3, 0.3, 0.2}[i]
		}
	}
	a, b := make([]float32, tokens), make([]float32, tokens)
	for r := range a {
		a[r], b[r] = 100*rng.Float32(), 100*rng.Float32()
	}
	const (
		outAt, metaAt, listAt, tableAt, ringAt, rowsAt = 0x38000, 0x48000, 0x50000, 0x70000, 0x90000, 0x300000
		bytesOf, stride, listStride, perTile           = 1024, 0x10000, 0x10000, 0x4000
	)
	c := newCluster(rng, patch)
	for i, m := range c.all {
		list := mine(i, chunks, turn)
		m.GDDR = func(_, addr, n uint32) []byte {
			out := hash(addr, n)
			if o := int(addr) - rowsAt - i*listStride; o >= 0 && o < listStride {
				for k := 0; k < int(n); k += 4 {
					g, word := (o+k)/384, (o+k)%384/4
					binary.LittleEndian.PutUint32(out[k:], math.Float32bits(records[word/32][32*list[g]+word%32]))
				}
			}
			return out
		}
		m.UseChunk = func(k int) []byte {
			if k >= len(list) {
				return nil
			}
			return m.GDDR(clusterBank, 0x1000000+uint32(i)*stride+uint32(k*bytesOf), bytesOf)
		}
		m.OutChunk = func(k int) []byte {
			out := make([]byte, 128*rows)
			for o := range min(32, V-32*list[k]) {
				for r := range tokens {
					at := o
					if rows > 1 {
						at = r/8*256 + o/16*128 + r%8*16 + o%16
					}
					v := y[r*V+32*list[k]+o]
					w := uint32(v)
					if v < 0 {
						w = uint32(-v) | 1<<31
					}
					binary.LittleEndian.PutUint32(out[4*at:], w)
				}
			}
			return out
		}
		m.Put(0x17000, uint32(chunks), 0x1000000, stride, uint32(turn), 0, 0, 0, 0)
		m.Put(0x16C80, 1, uint32(rows), 4, bytesOf, 0x1A000, outAt, 2, ringAt, 3, 1, 0, 0, uint32(kernels.ThenScreen))
		m.Put(0x16CC0, uint32(tokens), uint32(V), perTile, rowsAt, listAt, listStride, 0, metaAt, tableAt, uint32(most),
			c.coords[0]<<12|c.coords[clusterTiles-1], c.coords[0], clusterHost+resultsAt, 0, clusterHost+largestAt, 0)
		for r := range tokens {
			m.Put(0x16500+4*uint32(r), math.Float32bits(a[r]))
			m.Put(0x16580+4*uint32(r), math.Float32bits(b[r]))
		}
	}
	if broken := c.run(fmt.Sprintf("%d tokens, %d rows", tokens, V)); broken != nil {
		return broken
	}
	// what the lists must hold: in the order of the tiles' chunks
	high := func(r, row int) (h, l float32) {
		s, e := records[0][row]*float32(y[r*V+row]), float32(records[1][row]*a[r])+float32(records[2][row]*b[r])
		return s + e, s - e
	}
	best := make([]float32, tokens)
	for r := range best {
		best[r] = float32(math.Inf(-1))
		for row := range V {
			_, l := high(r, row)
			best[r] = max(best[r], l)
		}
	}
	for i := range c.all {
		at := c.host[resultsAt+i*perTile:]
		var want []uint32
		for _, g := range mine(i, chunks, turn) {
			for r := range tokens {
				for row := 32 * g; row < min(32*g+32, V); row++ {
					if h, _ := high(r, row); h >= best[r] {
						v := y[r*V+row]
						w := uint32(v)
						if v < 0 {
							w = uint32(-v) | 1<<31
						}
						want = append(want, uint32(row|r<<24), w)
					}
				}
			}
		}
		kept := int(binary.LittleEndian.Uint32(at))
		if kept != len(want)/2 {
			return []string{fmt.Sprintf("tile %d kept %d rows, want %d", i, kept, len(want)/2)}
		}
		for k := range min(2*most, len(want)) {
			if got := binary.LittleEndian.Uint32(at[16+4*k:]); got != want[k] {
				return []string{fmt.Sprintf("tile %d: word %d of the list is %#x, want %#x", i, k, got, want[k])}
			}
		}
	}
	return nil
}

// The same for the screen of the head: every row that can be best is in the lists, and no other.
func TestScreenKeepsTheOrderingRules(t *testing.T) {
	keepsTheRules(t, 12, runScreen)
}

// runAttend runs attention on three tiles, with what follows it, and returns the rules broken.
func runAttend(seed uint64, patch func(name string, code []byte)) []string {
	rng := rand.New(rand.NewPCG(seed, 13))
	cols := []int{32, 64, 128}[rng.IntN(3)]
	keyHeads := 1 + rng.IntN(2)
	group := 1 + rng.IntN(2)
	heads, team := keyHeads*group, cols/32
	const layer, banks, slotBytes, kvBase, largestSlot = 3, 2, 0x40000, 0x2000000, 20
	// one sequence of several new tokens, or several sequences
	type row struct{ seq, pos int }
	var list []row
	if rng.IntN(2) == 0 {
		first := rng.IntN(66)
		if seed%4 == 1 { // spans to join
			first = 250 + rng.IntN(300)
		}
		for i := range 1 + rng.IntN(3) {
			list = append(list, row{0, first + i})
		}
	} else {
		for i := range 2 + rng.IntN(2) {
			list = append(list, row{i, rng.IntN(40)})
		}
	}
	tokens := len(list)
	rows := kernels.Rows(tokens)
	A, KV := heads*cols, keyHeads*cols
	turns := [3]int{rng.IntN(clusterTiles), rng.IntN(clusterTiles), rng.IntN(clusterTiles)}
	// what the products give, and what must come of it
	scales, weights := make([]float32, tokens), []float32{0.003, 0.002, 0.005}
	for r := range scales {
		scales[r] = rng.Float32()*1e-2 + 1e-6
	}
	var given [3][]float32
	var y [3][]float32
	for i, n := range []int{A, KV, KV} {
		given[i], y[i] = make([]float32, tokens*n), make([]float32, tokens*n)
		for k := range given[i] {
			given[i][k] = float32(rng.IntN(200001) - 100000)
			y[i][k] = given[i][k] * float32(scales[k/n]*weights[i])
		}
	}
	cos, sin := make([]float32, tokens*cols/2), make([]float32, tokens*cols/2)
	for i := range cos {
		s, c := math.Sincos(rng.Float64() * 7)
		cos[i], sin[i] = float32(c), float32(s)
	}
	// pages: slots of a sequence, the same numbers in any order
	slots := map[int][]uint32{}
	free := rng.Perm(largestSlot)
	k, v := map[int][]float32{}, map[int][]float32{} // [tokens][KV] of a sequence
	gddr := map[[2]uint32][]byte{}                   // of a bank, by page of 4 KiB
	at := func(seq, token, head int) (bank, addr uint32) {
		slot, s := slots[seq][token/32], uint32(layer*keyHeads+head)
		return clusterBank + (slot+s)%banks<<6, kvBase + slot*slotBytes + s/banks*uint32(kernels.SliceBytes(cols))
	}
	longest := 0
	for _, r := range list {
		longest = max(longest, r.pos+1)
		for r.pos >= 32*len(slots[r.seq]) {
			slots[r.seq] = append(slots[r.seq], uint32(free[0]))
			free = free[1:]
		}
		for old := r.seq > 0 || r == list[0]; old && len(k[r.seq]) < r.pos*KV; {
			k[r.seq], v[r.seq] = append(k[r.seq], float32(rng.NormFloat64())), append(v[r.seq], float32(rng.NormFloat64()))
		}
	}
	slice := func(seq, page, head int) []byte {
		x := make([]float32, 2*32*cols)
		b := hash(uint32(seq), uint32(kernels.SliceBytes(cols)))
		kernels.UnpackSlice(x, b, cols)
		for t := range min(32, len(k[seq])/KV-32*page) {
			for c, key := range k[seq][(32*page+t)*KV+head*cols:][:cols] {
				x[c*32+t] = key
			}
			copy(x[(32+t)*cols:], v[seq][(32*page+t)*KV+head*cols:][:cols])
		}
		kernels.PackSlice(b, x, cols)
		return b
	}
	fill := func(visit func(bank, addr uint32, b []byte)) {
		for seq := range slots {
			for page := range slots[seq] {
				if 32*page > len(k[seq])/KV {
					continue
				}
				for h := range keyHeads {
					bank, addr := at(seq, 32*page, h)
					b := slice(seq, page, h)
					for o := 0; o < len(b); o += 4096 {
						visit(bank, addr+uint32(o), b[o:o+4096])
					}
				}
			}
		}
	}
	fill(func(bank, addr uint32, b []byte) { gddr[[2]uint32{bank, addr}] = b })
	// the host's attention
	scale := float32(1 / math.Sqrt(float64(cols)))
	norm := make([]float32, A)
	for i := range norm {
		norm[i] = 0.5 + rng.Float32()
	}
	const eps = 1e-5
	q8, largest := make([]int8, tokens*A), make([]float32, tokens)
	for r, w := range list { // all of a sequence's new keys come before its queries look back
		kernel.Rope(y[0][r*A:][:A], cos[r*cols/2:][:cols/2], sin[r*cols/2:][:cols/2])
		kernel.Rope(y[1][r*KV:][:KV], cos[r*cols/2:][:cols/2], sin[r*cols/2:][:cols/2])
		k[w.seq], v[w.seq] = append(k[w.seq], y[1][r*KV:][:KV]...), append(v[w.seq], y[2][r*KV:][:KV]...)
	}
	for r, w := range list {
		out, normed, one := make([]float32, A), make([]float32, A), make([]int8, kernel.Pad16(A))
		for h := range heads {
			n := w.pos + 1
			ks, vs := make([]float32, n*cols), make([]float32, n*cols)
			for t := range n {
				copy(ks[t*cols:], k[w.seq][t*KV+h/group*cols:][:cols])
				copy(vs[t*cols:], v[w.seq][t*KV+h/group*cols:][:cols])
			}
			kernel.Attention(out[h*cols:][:cols], y[0][r*A+h*cols:][:cols], ks, vs, scale)
		}
		_, _ = kernel.RMSNormQuantize(one, normed, out, norm, eps)
		copy(q8[r*A:], one[:A])
		for _, x := range normed {
			largest[r] = max(largest[r], x, -x)
		}
	}
	wantX := make([]byte, kernels.XBytes(kernels.Ternary, A, rows))
	_ = kernels.PackX(wantX, kernels.Ternary, q8, tokens, A, A)

	const (
		xAt, outAt, hAt, pieceAt, gatherAt, tableAt, attendAt = 0x1A000, 0x38000, 0x58000, 0x70000, 0x72000, 0x80000, 0x81000
		bankAt, rowsAt, ropeAt, mineAt, theirsAt, qAt         = 0x82000, 0x82400, 0x83000, 0x86000, 0x8A000, 0x8E000
		scoresAt, weightsAt, blocksAt, foundAt, ringAt        = 0x94000, 0xA0000, 0xA4000, 0xB0000, 0xB4000
		normAt, bytesOf, stride, outChunks                    = 0x300000, 1024, 0x10000, 4
	)
	each := (heads*team + clusterTiles - 1) / clusterTiles
	pairs := (longest + 63) / 64
	c := newCluster(rng, patch)
	outBytes := 128 * rows
	for i, m := range c.all {
		m.GDDR = func(bank, addr, n uint32) []byte {
			out := hash(addr, n)
			for o := uint32(0); o < n; o += 4 {
				if b := gddr[[2]uint32{bank, (addr + o) &^ 4095}]; b != nil {
					copy(out[o:o+4], b[(addr+o)&4095:])
				} else if w := int(addr+o-normAt) / 4; addr >= normAt && w < A {
					binary.LittleEndian.PutUint32(out[o:], math.Float32bits(norm[w]))
				}
			}
			return out
		}
		m.Keep = func(bank, addr uint32, b []byte) bool {
			if addr&4095 != 0 || len(b) != 4096 {
				m.Breaks("%d bytes are kept at %#x", len(b), addr)
			}
			gddr[[2]uint32{bank, addr}] = bytes.Clone(b)
			return bank == clusterBank || bank == clusterBank+1<<6
		}
		type chunk struct{ part, g, k int }
		var work []chunk
		chunks := []int{heads * team, keyHeads * team, keyHeads * team, outChunks}
		turn := append(append([]int{}, turns[:]...), 1)
		for p, n := range chunks {
			for k, g := range mine(i, n, turn[p]) {
				work = append(work, chunk{p, g, k})
			}
		}
		m.UseChunk = func(n int) []byte {
			if n >= len(work) {
				return nil
			}
			ch := work[n]
			for r := 0; r < tokens && ch.part == 3; r++ {
				for col := range A {
					at := 2 * (col/16*128 + r*16 + col%16)
					if !bytes.Equal(m.L1[xAt+at:][:2], wantX[at:][:2]) {
						m.Breaks("activation %d of token %d is % x when it is used, want % x", col, r, m.L1[xAt+at:][:2], wantX[at:][:2])
						return nil
					}
				}
			}
			return m.GDDR(clusterBank, uint32(0x1000000*(ch.part+4))+uint32(i)*stride+uint32(ch.k*bytesOf), bytesOf)
		}
		m.OutChunk = func(n int) []byte {
			ch := work[n]
			if ch.part == 3 {
				return bytes.Repeat([]byte{byte(i + 1), byte(ch.g), 0x5A, 1}, outBytes/4)
			}
			return sums(given[ch.part], tokens, len(given[ch.part])/tokens, ch.g)
		}
		for p, n := range chunks {
			w := float32(0)
			if p < 3 {
				w = weights[p]
			}
			m.Put(0x17000+32*uint32(p), uint32(n), uint32(0x1000000*(p+4)), stride, uint32(turn[p]), clusterHost+resultsAt, 0, math.Float32bits(w), 0)
		}
		m.Put(0x16C80, 0, uint32(rows), 4, bytesOf, xAt, outAt, 12, ringAt, 3, 3, 0, 1, uint32(kernels.ThenAttend))
		m.Put(0x16CC0, uint32(tokens), uint32(A), math.Float32bits(eps), normAt, hAt, layer, pieceAt, gatherAt, tableAt, attendAt,
			c.coords[0]<<12|c.coords[clusterTiles-1], c.coords[0], clusterHost+resultsAt, 0, clusterHost+largestAt, 0)
		m.Put(0x16D00, 0, uint32(rows), 4, bytesOf, xAt, outAt, 12, ringAt, 3, 1, 3, 0, uint32(kernels.ThenHost))
		m.Put(attendAt, uint32(heads), uint32(group), uint32(cols), uint32(keyHeads), math.Float32bits(scale), uint32(each), banks, bankAt, kvBase, slotBytes, rowsAt, ropeAt,
			mineAt, theirsAt, qAt, scoresAt, uint32(pairs), weightsAt, blocksAt, foundAt)
		m.Put(bankAt, clusterBank, clusterBank+1<<6)
		lists := uint32(rowsAt + 8*tokens)
		for r, w := range list {
			m.Put(rowsAt+8*uint32(r), uint32(w.pos), lists)
			m.Put(lists, slots[w.seq]...)
			lists += 4 * uint32(len(slots[w.seq]))
			for o := range cols / 2 {
				m.Put(ropeAt+uint32(4*(r*cols+o)), math.Float32bits(cos[r*cols/2+o]))
				m.Put(ropeAt+uint32(4*(r*cols+cols/2+o)), math.Float32bits(sin[r*cols/2+o]))
			}
			m.Put(0x16500+4*uint32(r), math.Float32bits(scales[r]))
		}
	}
	if broken := c.run(fmt.Sprintf("%d tokens, %d of %d heads of %d columns, %d keys", tokens, keyHeads, heads, cols, longest)); broken != nil {
		return broken
	}
	var broken []string
	for r, v := range largest {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(c.host[largestAt+4*r:])); got != v {
			broken = append(broken, fmt.Sprintf("the largest magnitude of row %d is %g, want %g", r, got, v))
		}
	}
	for g := range outChunks {
		if want := bytes.Repeat([]byte{byte((1+g)%clusterTiles + 1), byte(g), 0x5A, 1}, outBytes/4); !bytes.Equal(c.host[resultsAt+g*outBytes:][:outBytes], want) {
			broken = append(broken, fmt.Sprintf("result %d is not in host memory", g))
		}
	}
	fill(func(bank, addr uint32, b []byte) {
		if got := gddr[[2]uint32{bank, addr}]; !bytes.Equal(got, b) && len(broken) < 8 {
			broken = append(broken, fmt.Sprintf("keys and values at %#x of bank %#x are not those of all tokens", addr, bank))
		}
	})
	return broken
}

// The same for attention: keys and values in their pages, scores and sums over values with the vector unit as the model
// has it, and the activations that come of it.
func TestAttentionKeepsTheOrderingRules(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		if broken := runAttend(seed, nil); len(broken) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(broken, "\n"))
		}
	}
	// Without each of its rules the model must see it.
	spins := func(image string, loads ...uint32) func(name string, code []byte) {
		return func(name string, code []byte) {
			for i := 4; name == image && i+4 <= len(code); i += 4 { // a load into a register, and a branch back on it
				w, prev := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
				for _, imm := range loads {
					if w&0x707F == 0x1063 && int32(w) < 0 && prev&0x707F == 0x2003 && w>>15&31 == prev>>7&31 && prev>>20 == imm {
						binary.LittleEndian.PutUint32(code[i:], 0x13)
					}
				}
			}
		}
	}
	for what, patch := range map[string]func(name string, code []byte){
		"acknowledgements are not awaited":       noAcks,
		"the pack core does not wait at X_READY": spins("pack", 0xF00),
		"blocks from GDDR are not awaited":       spins("sender", 0, 0x24C),
		"the math core does not wait for its units": func(name string, code []byte) {
			for i := 4; name == "math" && i+4 <= len(code); i += 4 { // a store to the sync register, and the load behind it
				w, prev := binary.LittleEndian.Uint32(code[i:]), binary.LittleEndian.Uint32(code[i-4:])
				if w&0x707F == 0x2003 && w>>20 == 4 && prev&0x01F0707F == 0x2023 && prev>>7&31 == 4 {
					binary.LittleEndian.PutUint32(code[i:], 0x13)
				}
			}
		},
	} {
		seen := ""
		for seed := uint64(0); seed < 12 && seen == ""; seed++ {
			if broken := runAttend(seed, patch); len(broken) > 0 {
				seen = broken[0]
			}
		}
		if t.Logf("%s: %.150s", what, seen); seen == "" {
			t.Errorf("the model does not see that %s", what)
		}
	}
}
