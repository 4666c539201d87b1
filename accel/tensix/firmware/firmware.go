// Package firmware holds the programs that run on a tile's five RISC-V cores, as C source and as prebuilt images.
//
// They are small C files (src/) rather than an assembler in Go: the control flow, the ordering rules and the
// coprocessor's programs are read most easily as C, any stock RISC-V gcc builds them, and nobody needs one to use
// or build trit because the images are embedded. Build rebuilds them; the tests compare.
package firmware

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed images/*.bin images/compiler.txt
var images embed.FS

// Program is one image's recipe.
type Program struct {
	Name, Source string
	Base, Stack  uint32
	Defines      []string
	Float        bool // uses the cores' float instructions, which lack division and square root
}

// Local memory, and the stack in it, is 8 KiB on BRISC and NCRISC, 4 KiB on the TRISCs.
const (
	stackBig   = 0xFFB02000
	stackSmall = 0xFFB01000
)

// Load addresses. BRISC cannot start anywhere else than at 0.
const (
	BaseBRISC  = 0
	BaseTRISC0 = 0x6000
	BaseTRISC1 = 0xA000
	BaseTRISC2 = 0xE000
	BaseNCRISC = 0xF000  // not where it starts by itself: the packer's program is small, the sender's is the largest
	End        = 0x16000 // of code; mailboxes follow
)

// Programs lists every image.
var Programs = []Program{
	{"mover", "mover.c", BaseBRISC, stackBig, nil, false},
	{"unpack", "unpack.c", BaseTRISC0, stackSmall, nil, false},
	{"math", "math.c", BaseTRISC1, stackSmall, nil, false},
	{"pack", "pack.c", BaseTRISC2, stackSmall, nil, false},
	{"sender", "sender.c", BaseNCRISC, stackBig, nil, true},
	{"probe0", "probe.c", BaseBRISC, stackBig, []string{"CORE=0"}, false},
	{"probe1", "probe.c", BaseTRISC0, stackSmall, []string{"CORE=1"}, false},
	{"probe2", "probe.c", BaseTRISC1, stackSmall, []string{"CORE=2"}, false},
	{"probe3", "probe.c", BaseTRISC2, stackSmall, []string{"CORE=3"}, false},
	{"probe4", "probe.c", BaseNCRISC, stackBig, []string{"CORE=4"}, false},
}

// Image returns an embedded image, whole words.
func Image(name string) []byte {
	b, err := images.ReadFile("images/" + name + ".bin")
	if err != nil {
		panic(fmt.Sprintf("firmware: no image %q", name))
	}
	return b
}

// Compiler is the one that made the embedded images.
func Compiler() string {
	b, _ := images.ReadFile("images/compiler.txt")
	return strings.TrimSpace(string(b))
}

const tool = "riscv64-unknown-elf-"

// InstalledCompiler names the cross compiler on this machine; ok is false when there is none.
func InstalledCompiler() (name string, ok bool) {
	out, err := exec.Command(tool+"gcc", "--version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return line, err == nil
}

// Build compiles one program from the sources in dir/src and returns its flat image.
//
//	rv32im, soft float ABI   what Blackhole's cores surely have
//	-mno-relax, small data   no gp-relative addressing: nobody sets gp
func Build(dir string, p Program) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "trit-firmware")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	src, elf, bin := filepath.Join(dir, "src"), filepath.Join(tmp, "a.elf"), filepath.Join(tmp, "a.bin")
	march := []string{"-march=rv32im", "-Os"}
	if p.Float { // division comes from libgcc's integer routine; the loops over columns are what a token waits for
		march = []string{"-march=rv32imf", "-O2", "-mno-fdiv", "-ffp-contract=off", "-fno-math-errno"}
	}
	args := append(march,
		"-mabi=ilp32", "-ffreestanding", "-nostdlib", "-nostartfiles", "-fno-builtin", "-fno-pic",
		"-mno-relax", "-msmall-data-limit=0", "-fno-tree-loop-distribute-patterns", "-Wall", "-Werror",
		fmt.Sprintf("-DSTACK=%#x", p.Stack), "-Wl,-T,"+filepath.Join(src, "link.ld"), fmt.Sprintf("-Wl,--defsym=BASE=%#x", p.Base), "-Wl,--build-id=none",
	)
	for _, d := range p.Defines {
		args = append(args, "-D"+d)
	}
	args = append(args, "-o", elf, filepath.Join(src, "start.S"), filepath.Join(src, p.Source))
	if p.Float {
		lib, err := exec.Command(tool+"gcc", "-march=rv32im", "-mabi=ilp32", "-print-libgcc-file-name").Output()
		if err != nil {
			return nil, fmt.Errorf("firmware: %s: libgcc: %w", p.Name, err)
		}
		args = append(args, strings.TrimSpace(string(lib)))
	}
	if out, err := exec.Command(tool+"gcc", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("firmware: %s: %w\n%s", p.Name, err, out)
	}
	if out, err := exec.Command(tool+"objcopy", "-O", "binary", elf, bin).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("firmware: %s: %w\n%s", p.Name, err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		return nil, err
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b, nil
}
