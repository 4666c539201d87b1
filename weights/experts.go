package weights

import (
	"fmt"
	"strconv"
	"strings"
)

// expertParts is the middle of the name of an expert's module, model.layers.N.mlp.experts.E.up_proj.
const expertParts = ".mlp.experts."

// cutExpert takes the expert's number out of a Hugging Face name: what is left is the tensor of all experts, and behind its name in
// a GGUF file the number in brackets says which part is meant.
func cutExpert(hf string) (all, part string) {
	layer, rest, ok := strings.Cut(hf, expertParts)
	number, module, ok2 := strings.Cut(rest, ".")
	if _, err := strconv.Atoi(number); !ok || !ok2 || err != nil {
		return hf, ""
	}
	return layer + expertParts + module, "[" + number + "]"
}

// cutExperts makes each expert's matrix known by a name of its own, of files that have one tensor for all experts of a layer:
//
//	blk.N.ffn_{gate,up,down}_exps.weight                GGUF, [experts, out, in]
//	model.layers.N.mlp.experts.{gate_up,down}_proj      transformers, the same; the gates' rows are in front of the ups'
func (s *Set) cutExperts() {
	for _, name := range s.names {
		t := s.tensors[name]
		if len(t.shape) != 3 || t.shape[0] < 1 || len(t.data)%t.shape[0] != 0 {
			continue
		}
		experts, rows, size := t.shape[0], t.shape[1], len(t.data)/t.shape[0]
		part := func(name string, data []byte, rows int) {
			if s.tensors[name] == nil {
				s.tensors[name] = &tensor{file: t.file, typ: t.typ, dtype: t.dtype, shape: []int{rows, t.shape[2]}, data: data, of: t}
			}
		}
		prefix, module, ofLayer := strings.Cut(name, expertParts)
		for e := range experts {
			data := t.data[e*size:][:size:size]
			one := fmt.Sprintf("%s%s%d.", prefix, expertParts, e) // as the file would name it
			switch {
			case s.gguf != nil && strings.HasSuffix(name, "_exps.weight"):
				part(fmt.Sprintf("%s[%d]", name, e), data, rows)
			case s.gguf == nil && ofLayer && module == "down_proj":
				part(one+"down_proj.weight", data, rows)
			case s.gguf == nil && ofLayer && module == "gate_up_proj" && rows%2 == 0:
				half := size / 2
				part(one+"gate_proj.weight", data[:half:half], rows/2)
				part(one+"up_proj.weight", data[half:], rows/2)
			}
		}
	}
}
