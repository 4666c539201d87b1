package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
)

func TestDevicesWithoutACard(t *testing.T) {
	if _, err := os.Stat("/dev/tenstorrent"); err == nil {
		t.Skip("this machine has a Tenstorrent device")
	}
	for _, args := range [][]string{nil, {"--json"}} {
		cmd := newDevicesCmd()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(args)
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "cpu") || !strings.Contains(out.String(), "tt-kmd") && !strings.Contains(out.String(), "Linux only") {
			t.Errorf("%v printed\n%s", args, out.String())
		}
		if args != nil && !json.Valid(out.Bytes()) {
			t.Errorf("not JSON:\n%s", out.String())
		}
		t.Log("\n" + out.String())
	}
	if err := selftestDevice(t.Context(), &bytes.Buffer{}, "tensix:3"); err == nil || !strings.Contains(err.Error(), "no Tenstorrent device") {
		t.Errorf("got %v", err)
	}
}

func TestDeviceFlag(t *testing.T) {
	for spec, want := range map[string]device{
		"":                    {},
		"cpu":                 {},
		"tensix":              {kind: "tensix"},
		"tensix:2":            {kind: "tensix", card: 2},
		"tensix-products:2":   {kind: "tensix", card: 2, part: "products"},
		"tensix-blocks":       {kind: "tensix", part: "blocks"},
		"tensix:1@12x10":      {kind: "tensix", card: 1, grid: chip.Grid{Columns: 12, Rows: 10}},
		"ttsim:/x/lib.so@2x1": {kind: "ttsim", path: "/x/lib.so", grid: chip.Grid{Columns: 2, Rows: 1}},
	} {
		if got, err := parseDevice(spec); err != nil || got != want {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{"gpu", "tensix:x", "tensix:-1", "tensix@2", "cuda:0", "cpu-products", "tensix-", "tensix-heads"} {
		if _, err := parseDevice(spec); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
	if b, err := deviceBackend("cpu", 2); b != nil || err != nil {
		t.Errorf("cpu: %v, %v", b, err)
	}
}

// Every command that computes with a model takes --device.
func TestEveryModelCommandTakesADevice(t *testing.T) {
	n := 0
	for _, c := range newRootCmd().Commands() {
		if c.Flags().Lookup("kernels") == nil && c.Name() != "selftest" {
			continue
		}
		n++
		if f := c.Flags().Lookup("device"); f == nil || f.DefValue != "cpu" {
			t.Errorf("trit %s has no --device", c.Name())
		}
	}
	if n < 8 {
		t.Errorf("%d commands compute with a model; demo, run, chat, serve, batch, verify, bench and selftest do", n)
	}
}
