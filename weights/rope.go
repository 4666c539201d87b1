package weights

import "strings"

// GGUF files of the architectures llama and minicpm hold the rows of q_proj and k_proj in another order, so that the two numbers
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
	if s.arch != "llama" && s.arch != "minicpm" {
		return 0
	}
	if !strings.Contains(name, ".q_proj.") && !strings.Contains(name, ".k_proj.") {
		return 0
	}
	width, _ := kv.Uint(s.arch + ".embedding_length")
	heads, _ := kv.Uint(s.arch + ".attention.head_count")
	if hd, err := kv.Uint(s.arch + ".attention.key_length"); err == nil {
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
