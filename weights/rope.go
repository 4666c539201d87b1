package weights

import (
	"strings"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/ternary"
)

// GGUF files of the architecture llama hold the rows of q_proj and k_proj in another order, so that the two numbers
// that RoPE rotates together are neighbours: row (head, i, s) there is row (head, s, i) of Hugging Face, i < hd/2,
// s < 2. Source: llama.cpp convert_hf_to_gguf.py, LlamaModel.permute.

// RopeRow says where row r of a Hugging Face q_proj or k_proj with heads of hd rows is in such a GGUF file.
func RopeRow(r, hd int) int {
	head, in := r/hd*hd, r%hd
	return head + in%(hd/2)*2 + in/(hd/2)
}

// ropeHead is the height of a head when the rows of the tensor are to be put back in order, else 0.
func (s *Set) ropeHead(name string) int {
	if s.gguf == nil {
		return 0
	}
	kv := s.gguf.KV
	if arch, _ := kv.String("general.architecture"); arch != "llama" {
		return 0
	}
	if !strings.Contains(name, ".q_proj.") && !strings.Contains(name, ".k_proj.") {
		return 0
	}
	width, _ := kv.Uint("llama.embedding_length")
	heads, _ := kv.Uint("llama.attention.head_count")
	if hd, err := kv.Uint("llama.attention.key_length"); err == nil {
		return int(hd)
	}
	if heads == 0 {
		return 0
	}
	return int(width / heads)
}

// reorder gives the elements of v, rows of n each, the order of Hugging Face.
func reorder[T any](v []T, n, hd int) []T {
	out := make([]T, 0, len(v))
	for r := range len(v) / n {
		out = append(out, v[RopeRow(r, hd)*n:][:n]...)
	}
	return out
}

// reorderRows does it to the rows of a ternary matrix.
func reorderRows(m *ternary.Matrix, hd int) {
	const word = 4 // a row has 4 bytes in every block of a tile
	tile := kernel.T16Bytes(16, m.Cols)
	out := make([]byte, len(m.T16))
	copy(out, m.T16) // the padding rows stay
	for r := range m.Rows {
		from := RopeRow(r, hd)
		src, dst := m.T16[from/16*tile:][:tile], out[r/16*tile:][:tile]
		for block := 0; block < tile; block += kernel.TileBytes {
			copy(dst[block+r%16*word:][:word], src[block+from%16*word:])
		}
	}
	m.T16 = out
	if len(m.Scale) > 1 {
		m.Scale = reorder(m.Scale, 1, hd)
	}
}
