package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	source := ".arch armv8.2-a+dotprod\n"
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
