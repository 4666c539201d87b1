package family

import "testing"

// TestSkipList compares with what transformers 5.24's should_convert_module says of these names and patterns.
func TestSkipList(t *testing.T) {
	names := []string{"lm_head", "model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.k_proj", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate_proj"}
	for _, c := range []struct {
		pattern string
		skips   []bool
	}{
		{"lm_head", []bool{true, false, false, false, false}},
		{"q_proj", []bool{false, true, false, false, false}},
		{"proj", []bool{false, true, true, true, true}},
		{"_proj", []bool{false, true, true, true, true}},
		{"model.layers.1", []bool{false, true, false, false, false}},
		{"model.layers.1.", []bool{false, true, true, false, false}},
		{"model.layers.*", []bool{false, true, true, true, true}},
		{"model.layers.(0|11)", []bool{false, false, true, true, true}},
		{"layers.1", []bool{false, false, false, false, false}},
		{"mlp", []bool{false, false, false, false, false}},
		{"mlp.gate", []bool{false, false, false, false, false}},
		{"model.layers.0.mlp.gate", []bool{false, false, false, false, false}},
		{"model", []bool{false, true, true, true, true}},
		{"", []bool{true, true, true, true, true}},
		{"head", []bool{true, false, false, false, false}},
		{".*up_proj", []bool{false, false, false, true, false}},
		{"model.layers.1|lm_head", []bool{true, true, false, false, false}},
		{"up_proj$", []bool{false, false, false, false, false}},
		{"model.layers.0.mlp.(up|gate)_proj", []bool{false, false, false, true, true}},
		{"model\\.layers\\.[0-9]\\.", []bool{false, true, false, true, true}},
		{"Q_PROJ", []bool{false, false, false, false, false}},
		{"odel.layers.0", []bool{false, false, false, false, false}},
		{"model.layers.0.mlp..*_proj", []bool{false, false, false, true, true}},
	} {
		list, err := newSkipList([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if got := list.has(name); got != c.skips[i] {
				t.Errorf("%q: %s is in the list: %v, want %v", c.pattern, name, got, c.skips[i])
			}
		}
	}
	if _, err := newSkipList([]string{"(?=lookahead)"}); err == nil {
		t.Error("a pattern that cannot be compiled was taken")
	}
}
