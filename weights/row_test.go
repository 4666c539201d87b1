package weights

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// TestReadRow: rows read from the file are those of the mapping.
func TestReadRow(t *testing.T) {
	const dir = "../testdata/goldens/bitnet-2b4t"
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Rows int `json:"vocab_size"`
		Cols int `json:"hidden_size"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	d, err := s.Dense("model.embed_tokens.weight", c.Rows, c.Cols)
	if err != nil {
		t.Fatal(err)
	}
	if rowsByCall && littleEndian && d.file == nil {
		t.Error("the rows of a mapped file are not read from it")
	}
	d.Scatter()
	words := make([]uint32, d.RowBytes()/4+1)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 4*len(words))
	want, got := make([]float32, c.Cols), make([]float32, c.Cols)
	file := d.file
	for r := range c.Rows {
		if d.file = file; r%5 == 0 {
			d.file = nil // from the mapping, as where there is no such call
		}
		clear(buf)
		row := d.ReadRow(buf, r)
		if from := &row[0] == &buf[0]; from != (d.file != nil) {
			t.Fatalf("row %d: in the buffer: %v", r, from)
		}
		d.Row(want, r)
		d.Widen(got, row)
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("row %d, column %d: %g, want %g", r, i, got[i], want[i])
			}
		}
	}
}
