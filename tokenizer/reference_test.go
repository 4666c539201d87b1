package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// refDir holds what tools/reference/tokenizer_vectors.py wrote: whole vocabularies and ten
// thousand vectors for each.
var refDir = flag.String("reference", "", "folder written by tools/reference/tokenizer_vectors.py")

type vector struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"ids"`
}

func readVectors(t testing.TB, path string) []vector {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Skip(err)
	}
	var list []vector
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var v vector
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

// sameVectors checks every vector and that decoding gives the text back.
func sameVectors(t *testing.T, tok *Tokenizer, list []vector, roundTrip bool) {
	t.Helper()
	wrong := 0
	for _, v := range list {
		got := tok.Encode(v.Text, EncodeOptions{})
		back := tok.Decode(got)
		if !slices.Equal(got, v.IDs) || roundTrip && back != v.Text {
			if wrong++; wrong <= 10 {
				t.Errorf("%q\n got %v %q\nwant %v", v.Text, got, back, v.IDs)
			}
		}
	}
	t.Logf("%d vectors, %d wrong", len(list), wrong)
}

func TestReferenceLlama3(t *testing.T) {
	if *refDir == "" {
		t.Skip("no -reference folder")
	}
	data, err := os.ReadFile(filepath.Join(*refDir, "llama3.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromJSON(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameVectors(t, tok, readVectors(t, filepath.Join(*refDir, "llama3.jsonl")), true)
}
