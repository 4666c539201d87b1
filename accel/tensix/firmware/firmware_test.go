package firmware

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rebuild the embedded images")

// The embedded images are what the sources say. Another compiler version may choose other instructions, so bytes are
// compared only where the compiler is the one that made them; any compiler must build them.
func TestImagesComeFromTheSources(t *testing.T) {
	cc, ok := InstalledCompiler()
	if !ok {
		t.Skip("SKIPPED: no riscv64-unknown-elf-gcc on this machine; the embedded images were not compared with their sources")
	}
	for _, p := range Programs {
		b, err := Build(".", p)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(filepath.Join("images", p.Name+".bin"), b, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Logf("%-8s %5d bytes", p.Name, len(b))
		if cc != Compiler() {
			continue
		}
		if !bytes.Equal(b, Image(p.Name)) {
			t.Errorf("%s: the embedded image is not what %s makes of src/%s; run go test ./accel/tensix/firmware -update", p.Name, cc, p.Source)
		}
	}
	if *update {
		if err := os.WriteFile("images/compiler.txt", []byte(cc+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if cc != Compiler() {
		t.Skipf("SKIPPED byte comparison: images were made by %q, this machine has %q", Compiler(), cc)
	}
}

// No image runs into the next one's place or into the mailboxes.
func TestImagesFitTheirPlaces(t *testing.T) {
	limit := map[uint32]uint32{BaseBRISC: BaseTRISC0, BaseTRISC0: BaseTRISC1, BaseTRISC1: BaseTRISC2, BaseTRISC2: BaseNCRISC, BaseNCRISC: End}
	for _, p := range Programs {
		n := uint32(len(Image(p.Name)))
		if n == 0 || n%4 != 0 || p.Base+n > limit[p.Base] {
			t.Errorf("%s: %d bytes at %#x, limit %#x", p.Name, n, p.Base, limit[p.Base])
		}
	}
}
