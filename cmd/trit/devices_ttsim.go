//go:build ttsim && linux && (amd64 || arm64)

package main

import (
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

// openSimulator loads the vendor's simulator, for --device ttsim:PATH.
func openSimulator(path string) (driver.Machine, error) { return ttsim.Open(path) }
