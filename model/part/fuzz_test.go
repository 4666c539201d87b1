package part

import (
	"bytes"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/tritlm/trit/safetensors"
)

// smallAdapter is the weights of an adapter of rank 2 for one projection.
func smallAdapter(f *testing.F, names ...string) []byte {
	f.Helper()
	var list []safetensors.Tensor
	for _, n := range names {
		shape := []int{2, 4}
		if strings.Contains(n, "lora_B") {
			shape = []int{3, 2}
		}
		list = append(list, safetensors.Tensor{Name: n, DType: safetensors.F32, Shape: shape})
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, nil, func(w io.Writer, t safetensors.Tensor) error {
		_, err := w.Write(make([]byte, 4*t.Shape[0]*t.Shape[1]))
		return err
	}); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// FuzzAdapter looks for adapters that panic, or pass with shapes that do not belong together.
func FuzzAdapter(f *testing.F) {
	const at = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
	f.Add([]byte(`{"peft_type":"LORA","r":2,"lora_alpha":4}`), smallAdapter(f, at+"A.weight", at+"B.weight"))
	f.Add([]byte(`{"peft_type":"LORA","r":2,"lora_alpha":4,"use_rslora":true,"bias":"none","rank_pattern":{}}`), smallAdapter(f, at+"A.default.weight", at+"B.default.weight"))
	f.Add([]byte(`{"peft_type":"LORA","r":2,"lora_alpha":1e308,"modules_to_save":null}`), smallAdapter(f, at+"A.weight"))
	f.Add([]byte(`{"peft_type":"LORA","r":4611686018427387904}`), smallAdapter(f, at+"B.weight"))
	f.Fuzz(func(t *testing.T, config, weights []byte) {
		a := &Adapter{path: "a", modules: map[string]*lora{}}
		if a.parse(config, bytes.NewReader(weights), int64(len(weights)), "adapter_model.safetensors") != nil {
			return
		}
		if len(a.modules) == 0 {
			t.Error("accepted without a module")
		}
		for name, l := range a.modules {
			if l.rank < 1 || l.in < 1 || l.out < 1 || len(l.a) != l.rank*l.in || len(l.bt) != l.rank*l.out {
				t.Errorf("%s: rank %d, %d in, %d out, %d and %d numbers", name, l.rank, l.in, l.out, len(l.a), len(l.bt))
			}
			for _, v := range l.bt {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					t.Errorf("%s: B has %g", name, v)
				}
			}
		}
	})
}
