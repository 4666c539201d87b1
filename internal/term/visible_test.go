package term

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"plain, größe, 世界 🙂\n\ttext":   "plain, größe, 世界 🙂\n\ttext",
		"\x1b]0;owned\x07":             `\x1b]0;owned\x07`,
		"\x1b[2J\x1b[31mred":           `\x1b[2J\x1b[31mred`,
		"\u009b31m":                    `\u009b31m`,
		"\x9b31m":                      `\x9b31m`, // C1 as a byte
		"\x7f\b\x00":                   `\x7f\x08\x00`,
		"over\rwritten":                `over\x0dwritten`,
		"dos\r\nlines\r\n":             "dos\r\nlines\r\n",
		"safe\u202egpj.exe\u2066":      `safe\u202egpj.exe\u2066`,
		"\ufffd is a character itself": "\ufffd is a character itself",
		"\xe4\xb8":                     `\xe4\xb8`,
	} {
		if got := Visible(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
		// Cut anywhere, the terminal sees the same; a return waits for its line end only within a write.
		for cut := 0; cut <= len(in) && !strings.Contains(in, "\r\n"); cut++ {
			var b bytes.Buffer
			w := &visible{w: &b}
			for _, part := range []string{in[:cut], in[cut:]} {
				if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := Flush(w); err != nil {
				t.Fatal(err)
			}
			if b.String() != want {
				t.Errorf("%q cut at %d becomes %q, want %q", in, cut, b.String(), want)
			}
		}
	}
}

// A file or a pipe gets the bytes as they are.
func TestWriterOfAFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const text = "\x1b[2J\x9b\xe4"
	if w := Writer(f); w != f || Raw(w) != f || Flush(w) != nil {
		t.Error("it is another writer")
	} else if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(f.Name()); string(b) != text {
		t.Errorf("%q, %v", b, err)
	}
}
