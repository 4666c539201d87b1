package eval

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tritlm/trit/safetensors"
)

// FuzzQuestions looks for files of questions that panic, or pass and make no sense.
func FuzzQuestions(f *testing.F) {
	f.Add([]byte(`{"context":"a","choices":["b","c"],"gold":1}` + "\r\n\n  \n" + `{"query":"ü","choices":["b","c"],"gold":"b","id":7}`))
	f.Add([]byte(`{"context":"","choices":["b"],"gold":0,"query":null}`))
	f.Add([]byte(`{"context":"a","choices":[""],"gold":-1}`))
	f.Add([]byte(`{"context":"a","choices":["b"],"gold":1e99}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		list, err := parseQuestions(file, "q.jsonl")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "q.jsonl:") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		line := 0
		for _, q := range list {
			if q.Gold < 0 || q.Gold >= len(q.Choices) || slices.Contains(q.Choices, "") || !utf8.ValidString(q.Context) || q.Line <= line {
				t.Errorf("accepted: %+v", q)
			}
			line = q.Line
		}
		if len(list) == 0 || line > bytes.Count(file, []byte("\n"))+1 {
			t.Errorf("%d questions, the last in line %d", len(list), line)
		}
	})
}

// FuzzReference looks for reference files that panic, or pass with tensors that do not belong together.
func FuzzReference(f *testing.F) {
	f.Add(smallReference(f, nil))
	f.Add(smallReference(f, map[string][]int{"prompt.0.logits": {2, 3}}))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := readReference(bytes.NewReader(file), int64(len(file)), "r.safetensors")
		if err != nil {
			if !strings.Contains(err.Error(), "r.safetensors") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		for _, p := range r.Prompts {
			n := len(p.Positions)
			if n == 0 || len(p.IDs) == 0 || len(p.Hidden) != r.Layers+1 || len(p.Logits)%n != 0 || len(p.Final)%n != 0 {
				t.Errorf("accepted: %d positions, %d ids, %d layers, %d logits, %d final", n, len(p.IDs), len(p.Hidden), len(p.Logits), len(p.Final))
			}
			for _, h := range p.Hidden {
				if len(h) != len(p.Final) {
					t.Errorf("accepted: a layer of %d numbers and a final of %d", len(h), len(p.Final))
				}
			}
			for i, at := range p.Positions {
				if at < 0 || int(at) >= len(p.IDs) || i > 0 && at < p.Positions[i-1] {
					t.Errorf("accepted: positions %v", p.Positions)
				}
			}
		}
	})
}

// smallReference is a reference of one prompt of three tokens, with shapes changed.
func smallReference(f *testing.F, change map[string][]int) []byte {
	f.Helper()
	list := []safetensors.Tensor{
		{Name: "prompt.0.ids", DType: safetensors.I32, Shape: []int{3}},
		{Name: "prompt.0.positions", DType: safetensors.I32, Shape: []int{2}},
		{Name: "prompt.0.hidden.0", DType: safetensors.F32, Shape: []int{2, 4}},
		{Name: "prompt.0.hidden.1", DType: safetensors.F32, Shape: []int{2, 4}},
		{Name: "prompt.0.final", DType: safetensors.F32, Shape: []int{2, 4}},
		{Name: "prompt.0.logits", DType: safetensors.BF16, Shape: []int{2, 8}},
		{Name: "prompt.0.greedy", DType: safetensors.I32, Shape: []int{1}},
	}
	for i := range list {
		if s, ok := change[list[i].Name]; ok {
			list[i].Shape = s
		}
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, map[string]string{"format": "trit-reference 1", "dtype": "float32"}, func(w io.Writer, t safetensors.Tensor) error {
		n := 4
		if t.DType == safetensors.BF16 {
			n = 2
		}
		for _, d := range t.Shape {
			n *= d
		}
		data := make([]byte, n)
		if t.Name == "prompt.0.positions" {
			data[0], data[4] = 1, 2
		}
		_, err := w.Write(data)
		return err
	}); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}
