package driver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
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
	flags   []int // of opens

	exclusive     bool // another program has it with O_EXCL
	openElsewhere bool // another program has it open
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
	dir, call, shm, open := devDir, sysIoctl, shmDir, sysOpen
	t.Cleanup(func() { devDir, sysIoctl, shmDir, sysOpen = dir, call, shm, open })
	devDir, sysIoctl, shmDir, k.asked, k.flags = t.TempDir(), k.ioctl, t.TempDir(), map[uintptr]int{}, nil
	sysOpen = func(path string, flags int) (int, error) {
		k.flags = append(k.flags, flags)
		if k.exclusive || k.openElsewhere && flags&unix.O_EXCL != 0 {
			if flags&unix.O_NONBLOCK == 0 {
				t.Fatal("this open would wait for ever")
			}
			return -1, unix.EAGAIN
		}
		return unix.Open(path, flags&^unix.O_EXCL, 0)
	}
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
		{"held by tt-flash", func(k *kernel) { k.exclusive = true }, ErrBusy, "tt-flash"},
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

// What wants a card for itself says that somebody else has it open; a plain open does not mind.
func TestOpeningAlone(t *testing.T) {
	k := goodKernel()
	k.openElsewhere = true
	playKernel(t, k)
	if _, err := OpenCardAlone(0); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "for itself") {
		t.Errorf("got %v", err)
	}
	m, err := OpenCard(0)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	k.openElsewhere = false
	if m, err = OpenCardAlone(0); err != nil {
		t.Fatal(err)
	}
	m.Close()
	for _, f := range k.flags {
		if f&unix.O_NONBLOCK == 0 {
			t.Error("an open may wait")
		}
	}
}

const (
	umdHelper = "TRIT_TEST_UMD_HELPER"
	umdFile   = "TT_UMD_LOCK.CHIP_IN_USE_0_PCIe"
)

// TestUMDHelper is the other process of the test below.
func TestUMDHelper(t *testing.T) {
	dir := os.Getenv(umdHelper)
	if dir == "" {
		t.Skip("only for TestChipInUse")
	}
	shmDir = dir
	l, err := lockChip(0)
	fmt.Println("lock:", err)
	if err == nil && os.Getenv("STAY") != "" {
		fmt.Println("holding")
		time.Sleep(time.Minute)
	}
	l.Close()
}

// CHIP_IN_USE of Tenstorrent's software is honoured and held: by another process of ours, across its sudden death, and,
// where there is a C compiler, by what the C library makes of it.
func TestChipInUse(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("SKIPPED: no card works with this processor")
	}
	old := shmDir
	t.Cleanup(func() { shmDir = old })
	shmDir = t.TempDir()
	helper := func(env ...string) *exec.Cmd {
		c := exec.Command(os.Args[0], "-test.run=^TestUMDHelper$", "-test.v")
		c.Env = append(append(os.Environ(), umdHelper+"="+shmDir), env...)
		return c
	}
	l, err := lockChip(0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := helper().CombinedOutput(); err != nil || !strings.Contains(string(out), "Tenstorrent's software uses it") {
		t.Errorf("another process took what is held: %v %s", err, out)
	}
	l.Close()
	for range 2 { // twice: what is given back can be taken again
		if l, err = lockChip(0); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	// a process that dies while it holds it
	c := helper("STAY=1")
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(pipe); s.Scan() && !strings.Contains(s.Text(), "holding"); {
	}
	if _, err := lockChip(0); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), strconv.Itoa(c.Process.Pid)) {
		t.Errorf("held by process %d: got %v", c.Process.Pid, err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if l, err = lockChip(0); err != nil {
		t.Fatalf("after its holder died: %v", err)
	}
	l.Close()

	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("SKIPPED the comparison with the C library: no C compiler")
	}
	// the same mutex as tt-umd makes it
	src, bin := filepath.Join(t.TempDir(), "a.c"), filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(src, []byte(`
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
struct w { pthread_mutex_t m; uint64_t ready; int tid, pid; };
int main(int n, char **a) {
  int f = open(a[1], O_RDWR | O_CREAT, 0666), fresh = lseek(f, 0, SEEK_END) == 0;
  ftruncate(f, sizeof(struct w));
  struct w *w = mmap(0, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  if (fresh) {
    pthread_mutexattr_t t;
    pthread_mutexattr_init(&t);
    pthread_mutexattr_setpshared(&t, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&t, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&w->m, &t);
    w->ready = 0x5454554d444d5458;
  }
  int e = pthread_mutex_trylock(&w->m);
  puts(e == 0 ? "locked" : e == EBUSY ? "busy" : e == EOWNERDEAD ? "owner died" : strerror(e));
  fflush(stdout);
  if (e == EOWNERDEAD) pthread_mutex_consistent(&w->m), e = 0;
  if (!e) w->pid = getpid();
  if (n > 2) pause();
  if (!e) w->pid = 0, e = pthread_mutex_unlock(&w->m);
  return 0;
}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-o", bin, src, "-pthread").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED the comparison with the C library: %v %s", err, out)
	}
	says := func(want string) {
		t.Helper()
		out, err := exec.Command(bin, filepath.Join(shmDir, umdFile)).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("the C library says %q (%v), want %q", got, err, want)
		}
	}
	says("locked") // what we made and gave back
	if l, err = lockChip(0); err != nil {
		t.Fatal(err)
	}
	says("busy")
	l.Close()
	says("locked")
	c = helper("STAY=1")
	if pipe, err = c.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(pipe); s.Scan() && !strings.Contains(s.Text(), "holding"); {
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	says("owner died")
	says("locked")
	// and what it makes itself
	if err := os.Remove(filepath.Join(shmDir, umdFile)); err != nil {
		t.Fatal(err)
	}
	h := exec.Command(bin, filepath.Join(shmDir, umdFile), "stay")
	if pipe, err = h.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	if s := bufio.NewScanner(pipe); !s.Scan() || s.Text() != "locked" {
		t.Errorf("the helper says %q", s.Text())
	}
	if _, err := lockChip(0); !errors.Is(err, ErrBusy) {
		t.Errorf("held by the C library: got %v", err)
	}
	_ = h.Process.Kill()
	_ = h.Wait()
	if l, err = lockChip(0); err != nil {
		t.Errorf("after the C library's process died: %v", err)
	}
	l.Close()
	says("locked")
}

// A card that Tenstorrent's software uses is not opened, and its name is said.
func TestACardInUseIsNotOpened(t *testing.T) {
	playKernel(t, goodKernel())
	l, err := lockChip(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCard(0); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), umdFile) {
		t.Errorf("got %v", err)
	}
	m, err := InspectCard(0) // looking is allowed
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	l.Close()
	if m, err = OpenCard(0); err != nil {
		t.Fatal(err)
	}
	m.Close()
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
