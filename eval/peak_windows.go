package eval

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

var getProcessMemoryInfo = windows.NewLazySystemDLL("kernel32.dll").NewProc("K32GetProcessMemoryInfo")

// memoryCounters is PROCESS_MEMORY_COUNTERS of psapi.h.
type memoryCounters struct {
	size, faults                                   uint32
	peakWorkingSet, workingSet                     uintptr
	peakPagedPool, pagedPool, peakNonPaged, nonPag uintptr
	pagefile, peakPagefile                         uintptr
}

// PeakMemory is the most memory that this process ever held, in bytes; 0 when unknown.
func PeakMemory() int64 {
	var m memoryCounters
	m.size = uint32(unsafe.Sizeof(m))
	if ok, _, _ := getProcessMemoryInfo.Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&m)), uintptr(m.size)); ok == 0 {
		return 0
	}
	return int64(m.peakWorkingSet)
}
