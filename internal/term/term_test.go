package term

import (
	"bytes"
	"testing"
	"time"
)

func TestNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 999_499: "999 kB", 999_600: "1 MB", 1_180_000_000: "1.18 GB", -5_000_000: "-5 MB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 9999: "9999", 32002: "32 k", 999_999: "1 M", 2_412_820_480: "2.41 B"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{850 * time.Millisecond: "850 ms", 2314 * time.Millisecond: "2.31 s", 250 * time.Second: "4m10s"} {
		if got := Seconds(d); got != want {
			t.Errorf("Seconds(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := Table(&b, [][]string{{"layer", "n"}, {"é", "9"}, {"final", "10"}}); err != nil {
		t.Fatal(err)
	}
	if want := "layer  n\né       9\nfinal  10\n"; b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func TestPairs(t *testing.T) {
	var b bytes.Buffer
	if err := Pairs(&b, [][2]string{{"é", "9 of 10"}, {"", "more"}, {"long", ""}}); err != nil {
		t.Fatal(err)
	}
	if want := "é     9 of 10\n      more\nlong  \n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}

func TestProgressAwayFromATerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, "pull", true)
	p.Set(1, 10)
	p.last = time.Now().Add(-time.Minute)
	p.Set(5_000_000, 10_000_000)
	p.Log("note")
	p.Done()
	if want := "pull: 50%, 5 MB of 10 MB\nnote\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
	var none *Progress
	none.Set(1, 2)
	none.Log("x")
	none.Done()
}
