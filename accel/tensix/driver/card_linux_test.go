package driver

import (
	"errors"
	"os"
	"testing"
	"unsafe"
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
