package kernel

import (
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

var wantTier = flag.String("tier", "", "fail unless this tier is the default on this CPU")

// A CPU that has a tier's instructions must get the tier. On linux/amd64 the kernel's own list of features
// says which; elsewhere, and under an emulator, the caller does with -tier.
func TestDefaultTier(t *testing.T) {
	want := *wantTier
	if want == "" {
		info, err := os.ReadFile("/proc/cpuinfo")
		if err != nil || runtime.GOARCH != "amd64" || len(tiers()) == 1 && Tier() == "generic" && purego {
			t.Skip("no list of CPU features here; use -tier")
		}
		has := func(names ...string) bool {
			for _, n := range names {
				if !slices.Contains(strings.Fields(string(info)), n) {
					return false
				}
			}
			return true
		}
		switch {
		case has("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"):
			want = "avx512vnni"
		case has("avx2", "fma", "f16c", "avx_vnni"):
			want = "avxvnni"
		case has("avx2", "fma", "f16c"):
			want = "avx2"
		default:
			want = "generic"
		}
	}
	if Tier() != want {
		t.Errorf("Tier() = %q, this CPU should get %q; Tiers() = %v", Tier(), want, Tiers())
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && want == "avx512vnni" {
		if vbmi := slices.Contains(strings.Fields(string(info)), "avx512vbmi"); PreferT5() != vbmi {
			t.Errorf("PreferT5() = %v on a CPU with VBMI %v", PreferT5(), vbmi)
		}
	}
	t.Logf("tiers %v, default %s, T5 %v", Tiers(), Tier(), PreferT5())
}

// AllTiers has the tiers of this machine, in their order.
func TestAllTiers(t *testing.T) {
	var here []string
	for _, info := range AllTiers() {
		if info.Here {
			here = append(here, info.Name)
		}
	}
	var want []string
	for _, tier := range tiers() {
		want = append(want, tier.name)
	}
	if !slices.Equal(here, want) {
		t.Errorf("here are %v, of all tiers those that say so: %v", want, here)
	}
}

func TestSetTier(t *testing.T) {
	defer restoreTier(Tier())
	for _, name := range Tiers() {
		if err := SetTier(name); err != nil || Tier() != name {
			t.Errorf("SetTier(%q): %v, Tier() = %q", name, err, Tier())
		}
	}
	if err := SetTier("mmx"); err == nil || !strings.Contains(err.Error(), "generic") {
		t.Errorf("SetTier(mmx) = %v, want an error that lists the tiers", err)
	}
}

func restoreTier(name string) {
	if err := SetTier(name); err != nil {
		panic(err)
	}
}

// eachTier runs a test with every implementation of this CPU.
func eachTier(t *testing.T, test func(t *testing.T)) {
	defer restoreTier(Tier())
	for _, name := range Tiers() {
		restoreTier(name)
		t.Run(name, test)
	}
}

// forTiers is eachTier for one case of many, whose expected result is computed once.
func forTiers(test func(tier string)) {
	defer restoreTier(Tier())
	for _, name := range Tiers() {
		restoreTier(name)
		test(name)
	}
}

// vec is a slice of n values that ends where its page ends: the byte behind it faults (on unix). Its front is
// preceded by a canary. What a kernel reads or writes past the end is a crash, before the front an error.
func vec[T any](t testing.TB, n int) []T {
	size := int(unsafe.Sizeof(*new(T)))
	const canary = 64
	b := guarded(t, canary+n*size)
	for i := range canary {
		b[i] = 0xa5
	}
	front := b[:canary]
	t.Cleanup(func() {
		for i, v := range front {
			if v != 0xa5 {
				t.Errorf("wrote %d bytes before a slice", canary-i)
				return
			}
		}
	})
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[canary])), n)
}

// vecOf is vec filled by f.
func vecOf[T any](t testing.TB, n int, f func(i int) T) []T {
	v := vec[T](t, n)
	for i := range v {
		v[i] = f(i)
	}
	return v
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 158)) }

// equalBits compares floats bit for bit; every NaN equals every NaN.
func equalBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
			t.Fatalf("%s: [%d] = %v (%08x), want %v (%08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

func equalInts[T int8 | int32](t *testing.T, what string, got, want []T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: [%d] = %d, want %d", what, i, got[i], want[i])
		}
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}
