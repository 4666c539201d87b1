package weights

import (
	"testing"

	"github.com/tritlm/trit/ternary"
)

func TestRopeRow(t *testing.T) {
	// A head of 6 rows: the halves 0 1 2 and 3 4 5 lie as 0 3 1 4 2 5 in the file.
	for r, want := range []int{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11} {
		if got := RopeRow(r, 6); got != want {
			t.Errorf("row %d is at %d, want %d", r, got, want)
		}
	}
}

func TestReorderRows(t *testing.T) {
	const rows, cols, hd = 40, 37, 20
	codes := make([]int8, rows*cols)
	for i := range codes {
		codes[i] = int8(i*i%7%3) - 1
	}
	scale := make([]float32, rows)
	for i := range scale {
		scale[i] = float32(i + 1)
	}
	m, err := ternary.FromCodes(codes, rows, cols, scale)
	if err != nil {
		t.Fatal(err)
	}
	m.Reorder(func(r int) int { return RopeRow(r, hd) })
	want := reorder(codes, cols, hd)
	got := m.Codes(nil)
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("row %d, column %d: %d, want %d", i/cols, i%cols, got[i], want[i])
		}
	}
	if m.Scale[1] != scale[RopeRow(1, hd)] {
		t.Errorf("scales are not reordered: %v", m.Scale[:4])
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}
