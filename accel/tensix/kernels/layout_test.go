package kernels

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// t16 lays codes [rows, cols] out as layout T16, straight from its definition.
func t16(codes []int8, rows, cols int) []byte {
	tiles, steps := (rows+15)/16, (cols+15)/16
	out := make([]byte, tiles*steps*64)
	for r := range 16 * tiles {
		for c := range 16 * steps {
			code := byte(1)
			if r < rows && c < cols {
				code = byte(codes[r*cols+c] + 1)
			}
			g, j := c%16/4, c%4
			out[(r/16*steps+c/16)*64+4*(r%16)+j] |= code << (2 * g)
		}
	}
	return out
}

// The packed chunk, read back by the plain definition of the face layout, is the matrix.
func TestPackTernaryAgainstDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range [][2]int{{32, 128}, {16, 16}, {1, 1}, {33, 130}, {96, 640}, {50, 200}} {
		rows, cols := c[0], c[1]
		codes := make([]int8, rows*cols)
		for i := range codes {
			codes[i] = int8(rng.IntN(3) - 1)
		}
		w := t16(codes, rows, cols)
		dst := make([]byte, TernaryChunkBytes(cols))
		for g := range Chunks(rows) {
			PackTernary(dst, w, rows, cols, 0, cols, g)
			for n := range ChunkRows {
				for k := range PadK(cols) {
					i := k/32*1024 + k%32/16*512 + n/16*256 + k%16*16 + n%16
					got := dst[i/4] >> (2 * (i % 4)) & 3
					want := byte(0)
					if r := ChunkRows*g + n; r < rows && k < cols {
						want = byte(codes[r*cols+k]) & 3
					}
					if got != want {
						t.Fatalf("%v chunk %d: output %d, k %d: %02b, want %02b", c, g, n, k, got, want)
					}
				}
			}
		}
	}
}

// Go's structures are the firmware's, field by field.
func TestJobLayoutIsTheFirmwares(t *testing.T) {
	src, err := os.ReadFile("../firmware/src/job.h")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, fields string }{
		{"tile", "index tiles bank rank host host_lo host_hi card"},
		{"job", "kind rows kt chunk_bytes x out out_slots ring ring_slots parts first more then"},
		{"vector", "tokens cols eps norm h res piece gather table x_in rect master out_lo out_hi max_lo max_hi"},
		{"part", "chunks weights stride turn dst_lo dst_hi scale pad"},
		{"attend", "heads group cols key_heads scale each banks bank_at base slot_bytes rows_at rope mine theirs q scores pairs weights blocks found"},
	} {
		m := regexp.MustCompile(`(?s)struct ` + c.name + ` \{(.*?)\};`).FindStringSubmatch(string(src))
		body := regexp.MustCompile(`//.*`).ReplaceAllString(m[1], "")
		body = strings.NewReplacer("u32", "", ",", " ", ";", " ").Replace(body)
		if got := strings.Join(strings.Fields(body), " "); got != c.fields {
			t.Errorf("struct %s is %q, Go has %q", c.name, got, c.fields)
		}
	}
	for at, pat := range map[uint64]string{
		TileAt: `TILE \(\(volatile struct tile \*\)(0x\w+)\)`, TilesAt: `TILES_AT (0x\w+)u`, ScalesAt: `SCALES (0x\w+)u`,
		BellAt: `BELL (0x\w+)u`, lineAt: `LINE\(n\) \((0x\w+)u`, Ready: `READY = (0x\w+)`,
	} {
		m := regexp.MustCompile(pat).FindStringSubmatch(string(src))
		if m == nil {
			t.Fatalf("job.h has no %s", pat)
		}
		if v, _ := strconv.ParseUint(m[1], 0, 64); v != at {
			t.Errorf("%s: firmware %#x, Go %#x", pat, v, at)
		}
	}
	if n := len(Words(&Part{})); n != 32 {
		t.Errorf("a part is %d bytes", n)
	}
	for _, pat := range []string{
		fmt.Sprintf(`JOB\(stage\) \(\(volatile struct job \*\)\(REG\(BELL \+ 4\) \+ %d \*`, StageBytes), fmt.Sprintf(`PART\(i\) \(\(volatile struct part \*\)\(REG\(BELL \+ 8\) \+ %d \*`, PartBytes),
		fmt.Sprintf(`VECTOR\(stage\) \(\(volatile struct vector \*\)\(REG\(BELL \+ 4\) \+ %d \* \(stage\) \+ %d\)`, StageBytes, VectorIn),
	} {
		if !regexp.MustCompile(pat).Match(src) {
			t.Errorf("job.h has no %s", pat)
		}
	}
	if n := len(Words(&Vector{})); n != StageBytes-VectorIn || len(Words(&Job{})) > VectorIn || StagesAt+MaxStages*StageBytes > PartsAt || PartsAt+MaxParts*PartBytes > 0x17400 {
		t.Errorf("a vector step is %d bytes; stages need room", n)
	}
}

func TestActivationsAndResultsShareIndexFunctions(t *testing.T) {
	for _, tokens := range []int{1, 2, 8, 9, 32} {
		rows, cols := Rows(tokens), 200
		x := make([]int8, tokens*cols)
		for i := range x {
			x[i] = int8(i*37%255 - 127)
		}
		b := make([]byte, XBytes(Int8, cols, rows))
		if err := PackX(b, Int8, x, tokens, cols, cols); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, v := range b {
			if v != 0 {
				sum++
			}
		}
		want := 0
		for _, v := range x {
			if v != 0 {
				want++
			}
		}
		if sum != want {
			t.Errorf("%d tokens: %d values placed, want %d", tokens, sum, want)
		}
	}
	for i, v := range bf16 {
		if got := int8(i); got != 0 && v == 0 {
			t.Errorf("bf16 of %d is 0", got)
		}
	}
}

func TestExactnessConditionsAreHeld(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{CheckTernary(6912), ""},
		{CheckTernary(23040), ""},
		{CheckTernary(1 << 24), "pass 2^31"},
		{CheckTernary(0), "0 columns"},
		{CheckInt8(2560), ""},
		{CheckInt8(1 << 18), "pass 2^31"},
	} {
		if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
			t.Errorf("got %v, want %q", c.err, c.want)
		}
	}
	if err := PackInt8(make([]byte, Int8ChunkBytes(128)), make([]int8, 128), 128); err != nil {
		t.Error(err)
	}
	w := make([]int8, 128)
	w[5] = -128
	if err := PackInt8(make([]byte, Int8ChunkBytes(128)), w, 128); err == nil {
		t.Error("-128 was accepted as an int8 weight")
	}
	if err := UnpackOut(make([]int32, 1), 1, Ternary, []byte{0, 0, 0, 0x3F}, 1, 0, 1, false); err == nil {
		t.Error("0.5 was accepted as a sum")
	}
	for _, rows := range []int{1, 8, 32} {
		for _, kind := range []Kind{Ternary, Int8} {
			j, err := Plan(kind, rows, 6912)
			t.Logf("%v rows %d: %d weight slots, %d output slots, %v", kind, rows, j.RingSlots, j.OutSlots, err)
		}
	}
	if _, err := Plan(Int8, 32, MaxK); err != nil {
		t.Error(err)
	}
}

func BenchmarkPackTernary(b *testing.B) {
	const rows, cols = 64, 2560
	w := t16(make([]int8, rows*cols), rows, cols)
	dst := make([]byte, TernaryChunkBytes(cols))
	b.SetBytes(int64(len(dst)))
	for b.Loop() {
		PackTernary(dst, w, rows, cols, 0, cols, 1)
	}
}

// The columns of a segment are what PackTernary packs, and segments cover the matrix once.
func TestSegmentsCoverTheMatrix(t *testing.T) {
	for _, cols := range []int{1, 128, 2560, 6912, MaxK, MaxK + 1, 8640, 14336, 23040} {
		first := Segments(cols)
		for i, c := range first {
			end := cols
			if i+1 < len(first) {
				end = first[i+1]
			}
			if c%16 != 0 || end <= c || PadK(end-c) > MaxK || first[0] != 0 {
				t.Errorf("%d columns: segments at %v", cols, first)
			}
		}
	}
	rng := rand.New(rand.NewPCG(3, 3))
	const rows, cols, col, n = 40, 400, 176, 208
	codes := make([]int8, rows*cols)
	part := make([]int8, 0, rows*n)
	for i := range codes {
		codes[i] = int8(rng.IntN(3) - 1)
		if i%cols >= col && i%cols < col+n {
			part = append(part, codes[i])
		}
	}
	a, b := make([]byte, TernaryChunkBytes(n)), make([]byte, TernaryChunkBytes(n))
	w, v := t16(codes, rows, cols), t16(part, rows, n)
	for g := range Chunks(rows) {
		PackTernary(a, w, rows, cols, col, n, g)
		PackTernary(b, v, rows, n, 0, n, g)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("chunk %d: byte %d is %#x, want %#x", g, i, a[i], b[i])
			}
		}
	}
}

// A slice of a page comes back as it went in, and no number of it lies where another one does.
func TestSlicesOfPages(t *testing.T) {
	for _, cols := range []int{32, 64, 128} {
		x, back := make([]float32, 2*PageTokens*cols), make([]float32, 2*PageTokens*cols)
		for i := range x {
			x[i] = float32(i + 1)
		}
		b := make([]byte, SliceBytes(cols))
		PackSlice(b, x, cols)
		for i := 0; i < len(b); i += 4 {
			if [4]byte(b[i:]) == [4]byte{} {
				t.Fatalf("%d columns: nothing at byte %d", cols, i)
			}
		}
		if UnpackSlice(back, b, cols); !slices.Equal(x, back) {
			t.Errorf("%d columns: a slice is another one when it is back", cols)
		}
	}
}
