//go:build amd64 || arm64

package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The vendor's user mode driver (tt-umd, under tt-metal, tt-smi and others) says that a process uses a chip by holding a
// mutex in shared memory: CHIP_IN_USE, a POSIX one, shared and robust, in /dev/shm/TT_UMD_LOCK.CHIP_IN_USE_N_PCIe (tt-umd
// device/utils/lock_manager.hpp, robust_mutex.hpp). We take the same one, without the C library: a thread of ours sets the
// lock word to its id and tells the kernel about it (set_robust_list), which gives the lock back however the process ends.
//
// Layout: glibc's pthread_mutex_t on 64-bit Linux, then robust_mutex.hpp's pthread_mutex_wrapper.
type umdMutex struct {
	lock       uint32 // owner's thread id; bit 31 somebody waits, bit 30 the owner died
	count      uint32
	owner      uint32
	users      uint32
	kind       uint32
	_          uint32
	prev, next uintptr // of the owner's list of robust mutexes
}

const (
	umdDied      = 1 << 30
	umdWaiters   = 1 << 31
	umdThread    = umdDied - 1
	umdKind      = 16 | 128           // robust, shared between processes
	umdReady     = 0x5454554d444d5458 // says that the mutex was made
	umdListNext  = 32                 // offset of next in the mutex
	umdLockDelta = -umdListNext       // from a list entry to its lock word
)

// robustHead is the kernel's struct robust_list_head.
type robustHead struct {
	next    uintptr
	delta   int64
	pending uintptr
}

var shmDir = "/dev/shm"

// umdLock is a chip that others see in use.
type umdLock struct {
	release chan struct{}
	done    chan struct{}
}

func (l *umdLock) Close() error {
	if l != nil {
		close(l.release)
		<-l.done
	}
	return nil
}

// mutexBytes is sizeof(pthread_mutex_t).
func mutexBytes() int {
	if runtime.GOARCH == "arm64" {
		return 48
	}
	return 40
}

// lockChip takes chip n for this process. nil without an error where there is no shared memory, and so no tt-umd.
func lockChip(n int) (*umdLock, error) {
	path := filepath.Join(shmDir, fmt.Sprintf("TT_UMD_LOCK.CHIP_IN_USE_%d_PCIe", n))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s, by which Tenstorrent's software says that it uses a card, cannot be opened: it belongs to somebody else; run as them, or remove it while nobody uses the card", ErrPermission, path)
	case err != nil:
		return nil, fmt.Errorf("driver: %w", err)
	}
	defer f.Close()
	_ = f.Chmod(0o666) // others must be able to open it, whatever our umask is
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("driver: %s: %w", path, err)
	}
	defer func() { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }()
	size := mutexBytes() + 16
	if st, err := f.Stat(); err != nil || st.Size() < int64(size) {
		if err := errors.Join(err, f.Truncate(int64(size))); err != nil {
			return nil, fmt.Errorf("driver: %s: %w", path, err)
		}
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("driver: %s: %w", path, err)
	}
	m := (*umdMutex)(unsafe.Pointer(&mem[0]))
	ready := (*uint64)(unsafe.Pointer(&mem[mutexBytes()]))
	if *ready != umdReady {
		*m = umdMutex{kind: umdKind}
		clear(mem[mutexBytes()+8:])
		*ready = umdReady
	}
	l := &umdLock{release: make(chan struct{}), done: make(chan struct{})}
	got := make(chan error)
	go l.hold(mem, path, got)
	if err := <-got; err != nil {
		return nil, err
	}
	return l, nil
}

// hold owns the mutex on a thread of its own until release.
func (l *umdLock) hold(mem []byte, path string, got chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, and its list with it
	defer close(l.done)
	defer func() { _ = unix.Munmap(mem) }()
	m := (*umdMutex)(unsafe.Pointer(&mem[0]))
	who := mem[mutexBytes()+8:] // thread, process
	id := uint32(unix.Gettid())
	head, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(robustHead{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		got <- fmt.Errorf("driver: %w", err)
		return
	}
	entry := uintptr(unsafe.Pointer(&mem[umdListNext]))
	h := (*robustHead)(unsafe.Pointer(&head[0]))
	self := uintptr(unsafe.Pointer(&head[0]))
	*h = robustHead{next: self, delta: umdLockDelta, pending: entry}
	if _, _, e := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, self, unsafe.Sizeof(*h), 0); e != 0 {
		got <- fmt.Errorf("driver: set_robust_list: %w", e)
		return
	}
	for {
		v := atomic.LoadUint32(&m.lock)
		if v&umdThread != 0 && v&umdDied == 0 {
			h.pending = 0
			pid := *(*uint32)(unsafe.Pointer(&who[4]))
			if pid == 0 {
				pid = v & umdThread
			}
			got <- fmt.Errorf("%w: Tenstorrent's software uses it: %s is held by %s; end that, or use another card", ErrBusy, path, processName(pid))
			return
		}
		if atomic.CompareAndSwapUint32(&m.lock, v, id|v&umdWaiters) {
			break
		}
	}
	m.kind, m.count, m.owner, m.users = umdKind, 1, id, m.users+1
	m.prev, m.next = self, self
	h.next, h.pending = entry, 0
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&who[0])), id)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&who[4])), uint32(os.Getpid()))
	got <- nil
	<-l.release
	clear(who[:8])
	h.pending, h.next = entry, self
	m.prev, m.next, m.count, m.owner, m.users = 0, 0, 0, 0, m.users-1
	if old := atomic.SwapUint32(&m.lock, 0); old&umdWaiters != 0 {
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&m.lock)), 1, 1, 0, 0, 0) // FUTEX_WAKE, of a shared one
	}
	h.pending = 0
}

// processName names a process for people.
func processName(pid uint32) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/comm")
	if err != nil {
		return fmt.Sprintf("process %d, which is not to be seen from here", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(b)))
}
