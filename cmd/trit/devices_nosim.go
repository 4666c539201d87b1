//go:build !ttsim || !linux || !(amd64 || arm64)

package main

import "github.com/tritlm/trit/accel/tensix/driver"

func openSimulator(string) (driver.Machine, error) { return nil, errNoSimulator }
