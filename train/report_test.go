package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
)

func TestReportIsOneWholePage(t *testing.T) {
	dir := t.TempDir()
	r := startTiny(t, dir, "bitnet", "ternary", nil)
	if err := r.Do(context.Background(), func(Record) {}); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := Report(out, []string{dir}); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"loss, nats per token", "learning rate", "tokens per second", "share of weights that are 0", "share of weights that are +1", "share of codes that one step changes", "</i>gate_proj<", "Sample after step 20", "<polyline"} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("the page has no %q", want)
		}
	}
	if m := regexp.MustCompile(`(?i)(src|href)\s*=|url\(|@import|<script`).Find(page); m != nil {
		t.Errorf("the page asks for another file: %s", m)
	}
	if bytes.Contains(page, []byte("NaN")) {
		t.Error("the page shows NaN")
	}
	f, err := os.Open(filepath.Join(out, "loss.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 300 {
		t.Errorf("loss.png: %v", err)
	}
	plot, err := Plot(dir, 60, 10)
	if err != nil || strings.Count(plot, "\n") != 12 || !strings.Contains(plot, "o") {
		t.Errorf("terminal plot: %v\n%s", err, plot)
	}
	if err := Report(out, []string{t.TempDir()}); err == nil {
		t.Error("a folder without a run was reported")
	}
}

// TestEventFilesAreTFRecords reads the event file back as TensorBoard does: length, checksum, data, checksum.
func TestEventFilesAreTFRecords(t *testing.T) {
	dir := t.TempDir()
	r := startTiny(t, dir, "llama", "ternary", func(o *Options) { o.MaxIters = 3 })
	if err := r.Do(context.Background(), func(Record) {}); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	if len(names) != 1 {
		t.Fatalf("%d event files", len(names))
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	masked := func(p []byte) uint32 {
		c := crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
		return (c>>15 | c<<17) + 0xa282ead8
	}
	n := 0
	for len(b) > 0 {
		l := int(binary.LittleEndian.Uint64(b))
		if binary.LittleEndian.Uint32(b[8:]) != masked(b[:8]) || binary.LittleEndian.Uint32(b[12+l:]) != masked(b[12:12+l]) {
			t.Fatalf("record %d: checksum", n)
		}
		if n == 0 && !bytes.Contains(b[12:12+l], []byte("brain.Event:2")) {
			t.Error("no file version")
		}
		if n > 0 && !bytes.Contains(b[12:12+l], []byte("loss/train")) {
			t.Errorf("record %d has no loss", n)
		}
		b = b[16+l:]
		n++
	}
	if n != 4 {
		t.Errorf("%d records, want 4", n)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 3000, "[0 500 1000 1500 2000 2500 3000]"},
		{0, 20, "[0 5 10 15 20]"},
		{0.87, 4.49, "[1 1.5 2 2.5 3 3.5 4]"},
		{0.2503, 0.3028, "[0.26 0.27 0.28 0.29 0.3]"},
		{-1, 1, "[-1 -0.5 0 0.5 1]"},
		{1.8e-4, 2.2e-4, "[0.00018 0.00019 0.0002 0.00021 0.00022]"},
	} {
		got := ticks(c.lo, c.hi)
		for i, v := range got { // without what binary fractions add
			got[i], _ = strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%g to %g: %v, want %s", c.lo, c.hi, got, c.want)
		}
	}
	for _, lo := range []float64{2000, -2000, 1e18, math.NaN(), math.Inf(1)} {
		if got := ticks(lo, math.Nextafter(lo, math.Inf(1))); len(got) > 10 {
			t.Errorf("%g and next to nothing: %d ticks", lo, len(got))
		}
	}
}

func TestMetricsOfARunThatIsWriting(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "0",
		"{\"step\":1}\n{\"step\":2}\n":        "2",
		"{\"step\":1}\n{\"step\":2,\"los":     "1",
		"{\"step\":1}\n{\"st\n{\"step\":2}\n": "line 2",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, metricsName), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		recs, err := ReadMetrics(dir)
		if got := strconv.Itoa(len(recs)); got != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %s records, %v; want %s", text, got, err, want)
		}
	}
}

func TestCompareFillsTheTable(t *testing.T) {
	pool := par.New(2)
	defer pool.Close()
	body := strings.Repeat(text, 20)
	vocab, err := data.Chars(body)
	if err != nil {
		t.Fatal(err)
	}
	var cases []Config
	for _, a := range Archs {
		for _, p := range Precisions {
			c, _ := Preset("tiny", a, p)
			cases = append(cases, c)
		}
	}
	o := DefaultOptions()
	o.BatchSize, o.MaxIters, o.LR, o.EvalEvery, o.EvalBatches, o.SampleTokens = 4, 10, 3e-3, 5, 2, 10
	dir := t.TempDir()
	for range 2 { // the second time the runs are there already
		rows, err := Compare(context.Background(), dir, cases, o, vocab, vocab.EncodeAll(body), 0.1, pool, func(Config, Record) {})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != 6 {
			t.Fatalf("%d rows", len(rows))
		}
		for _, r := range rows {
			if r.Params == 0 || r.Bytes == 0 || r.PeakMiB == 0 || r.TokensPerS == 0 || r.Train == 0 || math.IsInf(r.Val, 0) || r.Sample == "" || (r.Ternary > 0) != (r.Precision == "ternary") {
				t.Errorf("a cell is empty: %+v", r)
			}
		}
		for i := 0; i < 6; i += 2 {
			if rows[i].Bytes*2 > rows[i+1].Bytes {
				t.Errorf("%s: ternary %d bytes, float %d", rows[i].Arch, rows[i].Bytes, rows[i+1].Bytes)
			}
		}
		if err := WriteTable(dir, rows); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(Table(rows), "\n| "); n < 7 {
			t.Errorf("table of %d lines", n)
		}
	}

	// A run that is there with something else in it is not continued as if it were this one.
	wider, faster, other := cases[0], o, strings.Replace(body, "a", "b", 1)
	wider.IntermediateSize *= 2
	faster.LR *= 2
	for want, f := range map[string]func() ([]Comparison, error){
		"another shape":         func() ([]Comparison, error) { return compareTo(dir, wider, o, vocab, body, pool) },
		"--lr 0.003, not 0.006": func() ([]Comparison, error) { return compareTo(dir, cases[0], faster, vocab, body, pool) },
		"other tokens":          func() ([]Comparison, error) { return compareTo(dir, cases[0], o, vocab, other, pool) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--save-dir") {
			t.Errorf("want %q: %v", want, err)
		}
	}
	longer := o
	longer.MaxIters++
	if rows, err := compareTo(dir, cases[0], longer, vocab, body, pool); err != nil || len(rows) != 1 {
		t.Errorf("more steps: %v", err)
	}
}

func compareTo(dir string, c Config, o Options, vocab *data.Vocab, body string, pool *par.Pool) ([]Comparison, error) {
	return Compare(context.Background(), dir, []Config{c}, o, vocab, vocab.EncodeAll(body), 0.1, pool, func(Config, Record) {})
}

func TestSchedules(t *testing.T) {
	o := DefaultOptions()
	o.LR, o.MinLR, o.Warmup, o.MaxIters, o.WeightDecay = 1, 0.1, 10, 110, 0.1
	for _, c := range []struct {
		schedule string
		n        int
		lr, wd   float64
	}{
		{"constant", 0, 0.1, 0.1},
		{"constant", 9, 1, 0.1},
		{"constant", 109, 1, 0.1},
		{"cosine", 10, 1, 0.1},
		{"cosine", 60, 0.55, 0.1},
		{"cosine", 110, 0.1, 0.1},
		{"two-stage", 10, 1, 0.1},
		{"two-stage", 54, 0.56, 0.1},
		{"two-stage", 60, 0.5 * 2 / 3, 0},
		{"two-stage", 109, 0.1, 0},
	} {
		o.Schedule = c.schedule
		if lr, wd := o.At(c.n); math.Abs(lr-c.lr) > 1e-9 || wd != c.wd {
			t.Errorf("%s at %d: %g, %g; want %g, %g", c.schedule, c.n, lr, wd, c.lr, c.wd)
		}
	}
}

// TestResultsDoNotDependOnThreads: one and three threads give the same bits, in float too.
func TestResultsDoNotDependOnThreads(t *testing.T) {
	for _, precision := range Precisions {
		var all [][]float32
		for _, threads := range []int{1, 3} {
			pool := par.New(threads)
			m, err := New(tinyConfig("bitnet", precision), pool, 5)
			if err != nil {
				t.Fatal(err)
			}
			ids, target := randomBatch(4, 6*10, 11)
			m.Gradient(m.NewState(6, 10), ids, target, 1)
			all = append(all, append([]float32(nil), m.g...))
			pool.Close()
		}
		for i := range all[0] {
			if all[0][i] != all[1][i] {
				t.Fatalf("%s: gradient %d differs", precision, i)
			}
		}
	}
}
