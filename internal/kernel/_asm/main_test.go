package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// The committed assembly is what go generate writes.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	dir := t.TempDir()
	writeDecls(filepath.Join(dir, "decl_amd64.go"), writeAMD(dir))
	writeDecls(filepath.Join(dir, "decl_arm64.go"), writeARM(dir))
	fresh, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range fresh {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", filepath.Base(name)))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate ./internal/kernel", filepath.Base(name))
		}
	}
}

// Every WORD of the arm64 kernels is the instruction that its comment names, according to GNU as.
func TestEncodings(t *testing.T) {
	as, err := exec.LookPath("aarch64-linux-gnu-as")
	if err != nil {
		t.Skip("no aarch64-linux-gnu-as")
	}
	word := regexp.MustCompile(`WORD \$0x([0-9a-f]{8}) // (.*)`)
	seen := map[string]string{} // instruction → encoding
	files, _ := filepath.Glob("../*_arm64.s")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range word.FindAllStringSubmatch(string(text), -1) {
			if old, ok := seen[m[2]]; ok && old != m[1] {
				t.Errorf("%s is both %s and %s", m[2], old, m[1])
			}
			seen[m[2]] = m[1]
		}
	}
	var names []string
	source := ".arch armv8.2-a+dotprod+i8mm\n"
	for name := range seen {
		names = append(names, name)
		source += name + "\n"
	}
	dir := t.TempDir()
	object := filepath.Join(dir, "a.o")
	cmd := exec.Command(as, "-o", object)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list, err := exec.Command("aarch64-linux-gnu-objdump", "-d", object).Output()
	if err != nil {
		t.Skip(err)
	}
	codes := regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t([0-9a-f]{8})`).FindAllStringSubmatch(string(list), -1)
	if len(codes) != len(names) || len(names) < 100 {
		t.Fatalf("%d instructions, %d in the listing", len(names), len(codes))
	}
	for i, name := range names {
		if codes[i][1] != seen[name] {
			t.Errorf("%s is %s, not %s", name, codes[i][1], seen[name])
		}
	}
}

// What vexVPDPBUSD writes is what GNU as does, for all registers; the first three are checked without it.
func TestVEX(t *testing.T) {
	for _, c := range []struct {
		m, n, d int
		want    [5]byte
	}{
		{1, 2, 3, [5]byte{0xc4, 0xe2, 0x6d, 0x50, 0xd9}},
		{14, 15, 1, [5]byte{0xc4, 0xc2, 0x05, 0x50, 0xce}},
		{8, 0, 15, [5]byte{0xc4, 0x42, 0x7d, 0x50, 0xf8}},
	} {
		if got := vexVPDPBUSD(c.m, c.n, c.d); got != c.want {
			t.Errorf("VPDPBUSD Y%d, Y%d, Y%d is % x, want % x", c.m, c.n, c.d, got, c.want)
		}
	}
	as, err := exec.LookPath("as")
	if err != nil || runtime.GOARCH != "amd64" {
		t.Skip("no as for x86-64")
	}
	var source strings.Builder
	var want []string
	for m := range 16 {
		for n := range 16 {
			for d := range 16 {
				fmt.Fprintf(&source, "{vex} vpdpbusd %%ymm%d, %%ymm%d, %%ymm%d\n", m, n, d)
				want = append(want, fmt.Sprintf("% x", vexVPDPBUSD(m, n, d)))
			}
		}
	}
	object := filepath.Join(t.TempDir(), "a.o")
	cmd := exec.Command(as, "--64", "-o", object)
	cmd.Stdin = strings.NewReader(source.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("an as that does not know AVX-VNNI: %v\n%.200s", err, out)
	}
	list, err := exec.Command("objdump", "-d", object).Output()
	if err != nil {
		t.Skip(err)
	}
	codes := regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t\{vex\} vpdpbusd`).FindAllStringSubmatch(string(list), -1)
	if len(codes) != len(want) {
		t.Fatalf("%d instructions in the listing, want %d", len(codes), len(want))
	}
	for i, c := range codes {
		if got := strings.TrimSpace(c[1]); got != want[i] {
			t.Fatalf("instruction %d is %s, not %s", i, got, want[i])
		}
	}
}

// The functions of tier avxvnni are the same as their twins, which the tests run on CPUs with AVX-512: instruction by
// instruction, but for the encoding of VPDPBUSD.
func TestTwins(t *testing.T) {
	text, err := os.ReadFile("../avxvnni_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	encoded := regexp.MustCompile(`(BYTE \$0x(..); BYTE \$0x(..); BYTE \$0x(..); BYTE \$0x(..); BYTE \$0x(..)) // VPDPBUSD Y(\d+), Y(\d+), Y(\d+)`)
	functions := map[string]string{} // name → body, spaces made one
	count := 0
	for _, m := range regexp.MustCompile(`(?m)^TEXT ·(\w+)\(SB\)(.*\n(?s:.*?)^\tRET)$`).FindAllStringSubmatch(string(text), -1) {
		body := encoded.ReplaceAllStringFunc(m[2], func(line string) string {
			count++
			c := encoded.FindStringSubmatch(line)
			var r [3]int
			for i := range r {
				r[i], _ = strconv.Atoi(c[7+i])
			}
			if got := strings.Join(c[2:7], " "); got != fmt.Sprintf("% x", vexVPDPBUSD(r[0], r[1], r[2])) {
				t.Errorf("%s: %s", m[1], line)
			}
			return fmt.Sprintf("VPDPBUSD Y%d, Y%d, Y%d", r[0], r[1], r[2])
		})
		functions[m[1]] = regexp.MustCompile(` +`).ReplaceAllString(body, " ")
	}
	twins := 0
	for name, body := range functions {
		twin, ok := strings.CutSuffix(name, "AVXVNNI")
		if !ok {
			continue
		}
		twins++
		if strings.Contains(body, "BYTE") || !strings.Contains(body, "VPDPBUSD") {
			t.Errorf("%s has bytes that are no VPDPBUSD, or none of it", name)
		}
		if functions[twin+"EVEX"] != body {
			t.Errorf("%s and its twin differ", name)
		}
	}
	if twins != len(functions)/2 || twins < 4 || count < 100 {
		t.Errorf("%d functions, %d twins, %d VPDPBUSD", len(functions), twins, count)
	}
}
