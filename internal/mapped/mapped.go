// Package mapped reads large files through memory: read-only mappings where the system has them. A mapping shows the file
// as it is now. When another program writes to it, what was read before and what is read next no longer belong together;
// when it is cut, reading past its end is a fault that kills the process. So a File notices both:
//
//	Check    says whether anybody wrote to the file since it was opened. The system notes a write in the file's times
//	         before the first byte of it can be seen, so what was computed between Open and a Check without an error is
//	         computed from the file as it was.
//	Recover  makes an error of a fault, in the goroutine that defers it. The workers of package par pass theirs on.
//
// Replacing a file by another one of its name, as downloads do, changes nothing: the mapping is of the old one.
package mapped

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tritlm/trit/internal/infile"
)

// ErrChanged is in the error for a file that was changed while it was in use. A File that had it has it for good.
var ErrChanged = errors.New("changed while it was in use")

// ErrEmpty is in the error for a file without content.
var ErrEmpty = errors.New("the file is empty; download it again")

// changedError says what happened to which file.
type changedError struct{ file, what string }

func (e *changedError) Error() string {
	return fmt.Sprintf("%s: %v: %s; start again with the file as it should be", e.file, ErrChanged, e.what)
}
func (e *changedError) Unwrap() error { return ErrChanged }

// File is a file in memory. Its methods may be used from several goroutines.
type File struct {
	Name   string
	Data   []byte   // the content; it must not be read after Close
	Handle *os.File // for reading it another way; open until Close

	unmap  func() error
	failed atomic.Pointer[changedError]

	mu   sync.Mutex
	seen identity // how the file was when it was opened, or how it may be as well
}

// identity tells one content of a file from another.
type identity struct {
	size, modified int64
	changed        int64 // when it or its names, owner or mode changed; 0 where the system does not say
	device, inode  uint64
	links          uint64
	mode           uint32
	owner, group   uint32
}

// open are the files in memory, to find the one that a fault is in.
var open struct {
	sync.Mutex
	files []*File
}

// Open maps a regular file, or reads it where mapping is not possible.
func Open(path string) (_ *File, err error) {
	h, err := infile.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{Name: path, Handle: h}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if f.seen, err = identify(h); err != nil {
		return nil, err
	}
	size := f.seen.size
	if size == 0 {
		return nil, fmt.Errorf("%s: %w", path, ErrEmpty)
	}
	if int64(int(size)) != size {
		return nil, fmt.Errorf("%s: %d bytes do not fit this machine's address space", path, size)
	}
	f.Data, f.unmap, err = mmap(h, int(size))
	if errors.Is(err, errors.ErrUnsupported) {
		f.Data, f.unmap = make([]byte, size), func() error { return nil }
		_, err = io.ReadFull(h, f.Data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: map: %w", path, err)
	}
	open.Lock()
	defer open.Unlock()
	open.files = append(open.files, f)
	return f, nil
}

// Close gives the memory back.
func (f *File) Close() error {
	open.Lock()
	open.files = slices.DeleteFunc(open.files, func(g *File) bool { return g == f })
	open.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unmap == nil {
		return nil
	}
	err := errors.Join(f.unmap(), f.Handle.Close())
	f.Data, f.unmap = nil, nil
	return err
}

// Key says which content of which file this is, for a key that must be another one when it was written to.
func (f *File) Key() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.seen
	return []int64{i.size, i.modified, i.changed, int64(i.inode)} // devices are numbered anew at every start
}

// Check returns an error, which is ErrChanged, when the file was written to, cut or lengthened since it was opened. It is
// one call of the system.
func (f *File) Check() error {
	if e := f.failed.Load(); e != nil {
		return e
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unmap == nil {
		return nil // closed
	}
	now, err := identify(f.Handle)
	if err != nil {
		return f.fail("it cannot be read any more: " + err.Error())
	}
	if now == f.seen {
		return nil
	}
	switch was := f.seen; {
	case now.size < was.size:
		return f.fail(fmt.Sprintf("it was cut from %d bytes to %d", was.size, now.size))
	case now.size != was.size:
		return f.fail(fmt.Sprintf("it grew from %d bytes to %d", was.size, now.size))
	case now.modified != was.modified:
		return f.fail("it was written to")
	case now.links == was.links && now.mode == was.mode && now.owner == was.owner && now.group == was.group && f.named():
		// Nothing else explains the later change than content, written before its time of modification was put back.
		return f.fail("it was written to, and its time of modification set back")
	}
	f.seen = now // renamed, linked, or with another owner or mode
	return nil
}

// named says whether the file still has its name.
func (f *File) named() bool {
	a, err1 := os.Stat(f.Name)
	b, err2 := f.Handle.Stat()
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

func (f *File) fail(what string) error {
	f.failed.CompareAndSwap(nil, &changedError{f.Name, what})
	return f.failed.Load()
}

// ReadFailed ends the computation under way, up to the next Recover, because the file cannot be read as it was: what a
// fault does to those who read Data.
func (f *File) ReadFailed(at int64, err error) {
	what := fmt.Sprintf("byte %d cannot be read", at)
	if err != nil {
		what += ": " + err.Error()
	}
	panic(f.fail(what))
}

// Recover is to be deferred around everything that reads the Data of files:
//
//	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
//
// A fault in a file's Data becomes its error in *err. Everything else goes on as a panic.
func Recover(before bool, err *error) {
	debug.SetPanicOnFault(before)
	v := recover()
	if v == nil {
		return
	}
	if e := asChanged(v); e != nil {
		*err = e
		return
	}
	panic(v)
}

// asChanged is the error for what was recovered, nil when it has nothing to do with a file.
func asChanged(v any) error {
	if e, ok := v.(*changedError); ok {
		return e
	}
	fault, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		return nil
	}
	open.Lock()
	defer open.Unlock()
	for _, f := range open.files {
		begin := uintptr(unsafe.Pointer(unsafe.SliceData(f.Data)))
		// A vector load that crosses the end of a page may be reported at either side of it.
		if at := fault.Addr(); at >= begin && at-begin < uintptr(len(f.Data)) {
			if e := f.Check(); e != nil { // cut: with the figures
				return e
			}
			return f.fail(fmt.Sprintf("byte %d cannot be read: the file was cut, or its disk failed", at-begin))
		}
	}
	return nil
}
