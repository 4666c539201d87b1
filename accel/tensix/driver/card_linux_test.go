package driver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel refuses or misreads a structure of the wrong size; sizes worked out by hand from tt-kmd's ioctl.h.
func TestKernelStructureSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"get_device_info", unsafe.Sizeof(ioDeviceInfo{}), 4 + 20},
		{"get_driver_info", unsafe.Sizeof(ioDriverInfo{}), 4 + 12},
		{"allocate_dma_buf", unsafe.Sizeof(ioDMABuf{}), 24 + 40},
		{"pin_pages", unsafe.Sizeof(ioPin{}), 24 + 16},
		{"lock_ctl", unsafe.Sizeof(ioLock{}), 12 + 4},
		{"allocate_tlb", unsafe.Sizeof(ioAllocTLB{}), 16 + 32},
		{"free_tlb", unsafe.Sizeof(ioFreeTLBArg{}), 4},
		{"noc_tlb_config", unsafe.Sizeof(ioTLBConfig{}), 32},
		{"configure_tlb", unsafe.Sizeof(ioSetTLB{}), 8 + 32 + 8},
		{"set_noc_cleanup", unsafe.Sizeof(ioCleanup{}), 32},
		{"power_state", unsafe.Sizeof(ioPower{}), 40},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}

// kernel plays tt-kmd: it answers requests as the test says and remembers them.
type kernel struct {
	info    ioDeviceInfo
	version uint32
	locked  bool
	noPower bool
	noClean bool
	asked   map[uintptr]int
}

func (k *kernel) ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	k.asked[req]++
	switch req {
	case ioGetDeviceInfo:
		in := (*ioDeviceInfo)(arg)
		if in.inSize != 20 {
			return unix.EINVAL
		}
		*in = k.info
	case ioGetDriverInfo:
		d := (*ioDriverInfo)(arg)
		d.version, d.major, d.minor, d.patch = k.version, 2, 5, 1
	case ioLockCtl:
		l := (*ioLock)(arg)
		if l.index != lockIndex {
			return unix.EINVAL
		}
		if !k.locked {
			l.value = 1
		}
	case ioSetPowerState:
		p := (*ioPower)(arg)
		if k.noPower || p.argsz != 40 || p.validity != 4 || p.powerFlags != 7 {
			return unix.EINVAL
		}
	case ioSetNoCCleanup:
		c := (*ioCleanup)(arg)
		if k.noClean || c.argsz != 32 || c.enabled != 1 || c.addr&3 != 0 {
			return unix.EINVAL
		}
	case ioAllocateTLB:
		a := (*ioAllocTLB)(arg)
		if a.size != Window2M && a.size != Window4G {
			return unix.EINVAL
		}
		a.id = 7
	case ioConfigureTLB:
		c := (*ioSetTLB)(arg)
		if c.id != 7 || c.config.addr%Window2M != 0 {
			return unix.EINVAL
		}
	case ioAllocateDMABuf, ioPinPages:
		return unix.ENOMEM
	case ioFreeTLB:
	default:
		return unix.ENOTTY
	}
	return nil
}

// playKernel puts a device file and a kernel behind it in place of the real ones.
func playKernel(t *testing.T, k *kernel) {
	t.Helper()
	dir, call := devDir, sysIoctl
	t.Cleanup(func() { devDir, sysIoctl = dir, call })
	devDir, sysIoctl, k.asked = t.TempDir(), k.ioctl, map[uintptr]int{}
	if err := os.WriteFile(filepath.Join(devDir, "0"), make([]byte, Window2M), 0o600); err != nil {
		t.Fatal(err)
	}
}

func goodKernel() *kernel {
	return &kernel{info: ioDeviceInfo{vendor: 0x1E52, device: 0xB140, bdf: 0x0300, maxDMALog2: 22}, version: 2}
}

// Each thing that can be wrong with a card or its driver has its own error, which says what to do.
func TestEachOpenErrorIsItsOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(k *kernel)
		want error
		says string
	}{
		{"another card", func(k *kernel) { k.info.device = 0x401E }, ErrNotBH, "1e52:401e"},
		{"old driver", func(k *kernel) { k.version = 1 }, ErrOldDriver, "update tt-kmd"},
		{"no power requests", func(k *kernel) { k.noPower = true }, ErrOldDriver, "SET_POWER_STATE"},
		{"tiles are taken", func(k *kernel) { k.locked = true }, ErrBusy, "another trit process"},
	} {
		k := goodKernel()
		c.make(k)
		playKernel(t, k)
		m, err := OpenCard(0)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", c.name, err)
		}
		if m != nil {
			t.Errorf("%s: opened", c.name)
		}
	}
	if os.Getuid() != 0 {
		playKernel(t, goodKernel())
		if err := os.Chmod(filepath.Join(devDir, "0"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenCard(0); !errors.Is(err, ErrPermission) {
			t.Errorf("no permission: got %v", err)
		}
	}
	playKernel(t, goodKernel())
	if _, err := OpenCard(1); !errors.Is(err, ErrNoDevice) {
		t.Errorf("no such card: got %v", err)
	}
	if err := os.Remove(filepath.Join(devDir, "0")); err != nil {
		t.Fatal(err)
	}
	if _, err := Cards(); !errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), "found no card") {
		t.Errorf("no cards: got %v", err)
	}
}

// The way through a card: windows are mapped and aimed once per target, words go where they should, guards are asked
// for, and inspection asks for neither lock nor power.
func TestCardThroughTheKernelsEyes(t *testing.T) {
	k := goodKernel()
	playKernel(t, k)
	m, err := OpenCard(0)
	if err != nil {
		t.Fatal(err)
	}
	if i := m.Info(); i.BDF != "0000:03:00.0" || i.Driver != "tt-kmd 2.5.1 (interface 2)" {
		t.Errorf("%+v", i)
	}
	w, err := m.Window(Window2M, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.Aim(Target{X: 1, Y: 2, Ordering: Strict}); err != nil {
			t.Fatal(err)
		}
	}
	if n := k.asked[ioConfigureTLB]; n != 1 {
		t.Errorf("a window was aimed %d times at one target", n)
	}
	if err := w.Aim(Target{X: 1, Y: 2, Addr: 12}); err == nil {
		t.Error("a window was aimed between two pages")
	}
	want := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	got := make([]byte, 8)
	w.Write(0x100, want)
	w.Read(0x100, got)
	if !bytes.Equal(got, want) {
		t.Errorf("read %v, wrote %v", got, want)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("an access of three bytes went through")
			}
		}()
		w.Write(0, want[:3])
	}()
	if err := m.Guard(1, 2, 0xFFB121B0, 0x47800); err != nil {
		t.Error(err)
	}
	k.noClean = true
	if err := m.Guard(1, 2, 0xFFB121B0, 0x47800); !errors.Is(err, ErrOldDriver) {
		t.Errorf("no clean-up request: got %v", err)
	}
	if _, err := m.HostMemory(1 << 20); err == nil || !strings.Contains(err.Error(), "IOMMU") {
		t.Errorf("no host memory: got %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if k.asked[ioFreeTLB] != 1 {
		t.Error("the window was not given back")
	}
	playKernel(t, k)
	if m, err = InspectCard(0); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if k.asked[ioLockCtl]+k.asked[ioSetPowerState] != 0 {
		t.Error("looking at a card took it")
	}
}

func TestNoCardIsAClearError(t *testing.T) {
	if _, err := os.Stat(devDir); err == nil {
		t.Skip("this machine has ", devDir)
	}
	for _, f := range []func() error{
		func() error { _, err := Cards(); return err },
		func() error { _, err := OpenCard(0); return err },
	} {
		if err := f(); !errors.Is(err, ErrNoDevice) {
			t.Errorf("got %v, want ErrNoDevice", err)
		} else {
			t.Log(err)
		}
	}
}
