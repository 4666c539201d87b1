package tokenizer

import "testing"

// TestWriter writes texts byte by byte.
func TestWriter(t *testing.T) {
	tok := NewBytes()
	for _, tt := range []struct {
		text, want string
		stop       []string
	}{
		{"hello world", "hello ", []string{"wor"}},
		{"aaab", "", []string{"aaab"}},
		{"ab abc", "ab ", []string{"abc"}},
		{"größe 🙂 x", "größe ", []string{"🙂"}},
		{"one\nUser: two", "one", []string{"\nUser:"}},
		{"two stops, one", "two ", []string{"one", "stop"}},
		{"no stop here", "no stop here", []string{"zzz", "here!", ""}},
		{"half a sign \xf0\x9f", "half a sign \ufffd", nil},
		{"a stop that ends it \xf0", "a stop that ends it ", []string{"\ufffd"}},
	} {
		w := NewWriter(tok.NewDecoder(), tt.stop)
		got := ""
		for _, c := range []byte(tt.text) {
			if w.Push(int32(c)) { // the token of a byte has its number
				break
			}
			got += w.Take()
		}
		if got += w.End(); got != tt.want {
			t.Errorf("%q until %q = %q, want %q", tt.text, tt.stop, got, tt.want)
		}
		if w.Stopped() != (len(got) < len(tt.text) && len(tt.stop) > 0) {
			t.Errorf("%q until %q: stopped %v", tt.text, tt.stop, w.Stopped())
		}
	}
}
