package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/accel/tensix"
	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
)

// deviceHelp is the text of --device.
const deviceHelp = "where to compute: cpu, tensix (a Tenstorrent Blackhole), tensix:N (card N) or, with less of the work on its tiles, tensix-blocks[:N] (attention here) and tensix-products[:N] (all but products here)"

// device is a parsed --device: CPU when the machine is empty.
type device struct {
	kind string // "", "tensix", "ttsim"
	part string // of the work: "" for all, blocks, products
	card int
	path string // of the simulator
	grid chip.Grid
}

// parseDevice reads cpu | tensix[:N] | ttsim:PATH, the last two with @COLUMNSxROWS to use fewer tiles, and with
// -blocks or -products behind their name.
func parseDevice(spec string) (d device, err error) {
	if spec == "" || spec == "cpu" {
		return d, nil
	}
	spec, grid, some := strings.Cut(spec, "@")
	if some {
		if n, _ := fmt.Sscanf(grid, "%dx%d", &d.grid.Columns, &d.grid.Rows); n != 2 {
			return d, usagef("--device: %q is no grid of tiles; want COLUMNSxROWS such as 12x10", grid)
		}
	}
	kind, arg, _ := strings.Cut(spec, ":")
	kind, d.part, some = strings.Cut(kind, "-")
	if some && d.part != "blocks" && d.part != "products" {
		kind = ""
	}
	d.kind = kind
	switch kind {
	case "tensix":
		if arg != "" {
			if d.card, err = strconv.Atoi(arg); err != nil || d.card < 0 {
				return d, usagef("--device: %q is no card's number; `trit devices` lists them", arg)
			}
		}
		return d, nil
	case "ttsim":
		d.path = arg
		return d, nil
	}
	return d, usagef("--device %q: there are cpu, tensix, tensix:N, tensix-blocks[:N] and tensix-products[:N]", spec)
}

// open opens the device's chip.
func (d device) open() (driver.Machine, error) {
	if d.kind == "ttsim" {
		return openSimulator(d.path)
	}
	return driver.OpenCard(d.card)
}

// openAlone opens it where nobody else uses it: the self-test overwrites its memory.
func (d device) openAlone() (driver.Machine, error) {
	if d.kind == "ttsim" {
		return openSimulator(d.path)
	}
	return driver.OpenCardAlone(d.card)
}

// deviceBackend is the Backend that --device names; nil for the CPU.
func deviceBackend(spec string, threads int) (model.Backend, error) {
	d, err := parseDevice(spec)
	if err != nil || d.kind == "" {
		return nil, err
	}
	b := tensix.Backend{Card: d.card, Threads: threads, Options: tensix.Options{Grid: d.grid}, ProductsOnly: d.part == "products", HostAttention: d.part == "blocks"}
	if d.kind == "ttsim" {
		if b.Machine, err = d.open(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// backend is the Backend that --device names. A card whose clock stays low once the model is on it is said.
func (f *modelFlags) backend(cmd *cobra.Command) (model.Backend, error) {
	back, err := deviceBackend(f.device, f.Threads)
	b, ok := back.(tensix.Backend)
	if err != nil || !ok {
		return back, err
	}
	b.Opened = func(d *tensix.Device) {
		if _, t := d.Chip(); b.Machine == nil {
			if mhz, err := d.Clock(); err == nil && tensix.Slow(t, mhz) {
				note(cmd, "trit: the card's AI clock is at %d MHz although a program uses it; everything takes that much longer. Some firmware never raises it: update the firmware bundle, or reset the card (tt-smi -r)", mhz)
			}
		}
		if f.onDevice != nil {
			f.onDevice(d)
		}
	}
	return b, nil
}

// selftestDevice climbs the ladder of package tensix on a device and prints each rung.
func selftestDevice(ctx context.Context, w io.Writer, spec string) error {
	d, err := parseDevice(spec)
	if err != nil {
		return err
	}
	if d.kind == "" {
		return usagef("--device %q is not a device with a self-test of its own", spec)
	}
	m, err := d.openAlone()
	if err != nil {
		return err
	}
	defer m.Close()
	i := m.Info()
	fmt.Fprintf(w, "%s, PCI %04x:%04x at %s, %s\n", i.Name, i.Vendor, i.Device, i.BDF, i.Driver)
	err = tensix.SelfTest(ctx, m, d.grid, func(r tensix.Rung) {
		verdict := "ok    "
		if r.Err != nil {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s %-12s %8v  %s\n", verdict, r.Name, r.Took.Round(time.Millisecond), r.Says)
		if r.Err != nil {
			fmt.Fprintf(w, "       %v\n       %s\n", r.Err, r.Help)
		}
	})
	if err == nil && !i.Simulated {
		fmt.Fprintln(w, "Every rung holds. Please report this card's result: docs/blackhole.md says how.")
	}
	return err
}

// speedModel prints what a Blackhole is expected to do with a model of MODEL's shape, or of BitNet 2B4T's.
func (f *modelFlags) speedModel(cmd *cobra.Command, args []string) error {
	d, err := parseDevice(f.device)
	if err != nil {
		return err
	}
	if d.kind == "" {
		return usagef("--model-only is a model of a card's speed: add --device tensix")
	}
	cfg := tensix.BitNet2B4T()
	if len(args) > 0 {
		set, c, err := f.openSet(cmd, args[0])
		if err != nil {
			return err
		}
		defer set.Close()
		cfg = c
	}
	return tensix.WriteSpeed(cmd.OutOrStdout(), cfg)
}

// deviceReport is one device as `trit devices` sees it.
type deviceReport struct {
	Device   string            `json:"device"`
	What     string            `json:"what,omitempty"`
	Usable   bool              `json:"usable"`
	Tiles    int               `json:"tiles,omitempty"`
	Columns  int               `json:"columns,omitempty"`
	Banks    int               `json:"banks,omitempty"`
	Memory   int64             `json:"memory,omitempty"` // bytes
	ClockMHz int               `json:"clock_mhz,omitempty"`
	Board    string            `json:"board,omitempty"`
	Bundle   string            `json:"firmware_bundle,omitempty"`
	Ports    []string          `json:"gddr_ports,omitempty"` // instance.port of each bank
	PortsBy  string            `json:"gddr_ports_by,omitempty"`
	PCI      string            `json:"pci,omitempty"`
	Driver   string            `json:"driver,omitempty"`
	Notes    []string          `json:"notes,omitempty"`
	Firmware map[string]string `json:"attributes,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func newDevicesCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List what trit can compute with, and what is missing",
		Long: `Lists the processor and the Tenstorrent Blackhole cards of this machine: live tiles and memory banks (cards
have harvested ones), clocks, driver and firmware; and what is missing to use them. Nothing is changed on a card,
and a card that another program uses is only read.

--device tensix or --device tensix:N of the other commands computes with a card; see docs/blackhole.md.`,
		Example: `  trit devices
  trit devices --json
  trit selftest --device tensix`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list := append([]deviceReport{{Device: "cpu", What: "kernels " + kernel.Tier(), Usable: true}}, cards()...)
			w := cmd.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				return e.Encode(list)
			}
			for _, r := range list {
				r.print(w)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// cards reports every Tenstorrent device file.
func cards() []deviceReport {
	numbers, err := driver.Cards()
	if err != nil {
		return []deviceReport{{Device: "tensix", Error: err.Error()}}
	}
	var out []deviceReport
	for _, n := range numbers {
		out = append(out, inspectCard(n))
	}
	return out
}

func inspectCard(n int) (r deviceReport) {
	r.Device = fmt.Sprintf("tensix:%d", n)
	r.Firmware = driver.Attributes(n)
	m, err := driver.InspectCard(n)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	defer m.Close()
	i := m.Info()
	r.PCI, r.Driver = i.BDF, i.Driver
	c, err := chip.Open(m, chip.Options{TelemetryOnly: true})
	if err != nil {
		r.Error = err.Error()
		return r
	}
	defer c.Close()
	r.describe(c)
	return r
}

// describe fills in what the chip's telemetry says.
func (r *deviceReport) describe(c *chip.Chip) {
	r.What, r.Usable = strings.TrimSpace("Tenstorrent Blackhole "+c.Telemetry.Board), true
	if err := c.Telemetry.Ports; err != nil {
		r.Usable, r.Error = false, err.Error()
	}
	r.Board, r.Bundle = c.Telemetry.Board, c.Telemetry.Bundle
	for b := range c.Banks {
		instance, port := c.Port(b)
		r.Ports = append(r.Ports, fmt.Sprintf("%d.%d", instance, port))
	}
	r.PortsBy = c.Telemetry.PortsBy
	r.Tiles, r.Columns, r.Banks = c.Tiles(), c.Columns, c.Banks
	r.Memory, r.ClockMHz = int64(c.Banks)*chip.BankSize, c.Telemetry.Clock
	for _, a := range c.Telemetry.Assumed {
		r.Notes = append(r.Notes, "the firmware does not say which "+a+" are live; all are assumed: update the firmware")
	}
	if tensix.Slow(c.Telemetry, r.ClockMHz) {
		r.Notes = append(r.Notes, fmt.Sprintf("the AI clock is at %d MHz; it should rise when a model runs, and some firmware never does: trit bench says what it was then", r.ClockMHz))
	}
}

func (r *deviceReport) print(w io.Writer) {
	fmt.Fprintf(w, "%-9s ", r.Device)
	if r.Error != "" {
		fmt.Fprintf(w, "not usable: %s\n", r.Error)
		return
	}
	fmt.Fprint(w, r.What)
	if r.Tiles > 0 {
		fmt.Fprintf(w, ": %d tiles (%d of 14 columns), %d of 8 GDDR banks, %d GiB, %d MHz\n", r.Tiles, r.Columns, r.Banks, r.Memory>>30, r.ClockMHz)
		fmt.Fprintf(w, "          PCI %s, %s", r.PCI, r.Driver)
	}
	fmt.Fprintln(w)
	if len(r.Ports) > 0 {
		fmt.Fprintf(w, "          GDDR through ports %s (%s)\n", strings.Join(r.Ports, " "), r.PortsBy)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Firmware)) {
		fmt.Fprintf(w, "          %s: %s\n", k, r.Firmware[k])
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "          note: %s\n", n)
	}
}

// cardFile is what `bench --report` writes: everything that we would ask the owner of a card for, and nothing about them:
// no names of machines, people, files or serial numbers.
type cardFile struct {
	Trit       string            `json:"trit"`
	System     string            `json:"system"`
	Kernel     string            `json:"kernel,omitempty"`
	IOMMU      bool              `json:"iommu"`
	Model      string            `json:"model"`
	Shape      map[string]int    `json:"shape"`
	Attributes map[string]string `json:"driver_attributes,omitempty"`
	SelfTest   []rungReport      `json:"self_test"`
	Passed     bool              `json:"self_test_passed"`
	Bench      *benchmark        `json:"bench,omitempty"`
	Error      string            `json:"error,omitempty"`
}

type rungReport struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Says    string  `json:"says,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// shownAttributes are those of the kernel driver's that say nothing about whose card it is.
var shownAttributes = []string{"aiclk", "axiclk", "arcclk", "card_type", "fw_bundle_ver", "m3app_fw_ver", "m3bl_fw_ver", "cm_fw_ver", "dm_app_fw_ver", "dm_bl_fw_ver", "arc_fw_ver", "eth_fw_ver", "ttflash_ver", "therm_trip_count"}

// newCardFile climbs the self-test and begins a report.
func newCardFile(ctx context.Context, w io.Writer, d device) (*cardFile, error) {
	c := &cardFile{Trit: version(), System: runtime.GOOS + "/" + runtime.GOARCH, Shape: map[string]int{}, Attributes: map[string]string{}}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		c.Kernel = strings.TrimSpace(string(b))
	}
	groups, _ := os.ReadDir("/sys/kernel/iommu_groups")
	c.IOMMU = len(groups) > 0
	if d.kind == "ttsim" { // it runs once per process
		c.SelfTest = append(c.SelfTest, rungReport{Name: "not climbed", Says: "a simulator is there once in a process: trit selftest --device " + d.kind})
		return c, nil
	}
	for k, v := range driver.Attributes(d.card) {
		if slices.Contains(shownAttributes, k) {
			c.Attributes[k] = v
		}
	}
	m, err := d.openAlone()
	if err != nil {
		return nil, err
	}
	defer m.Close()
	fmt.Fprintln(w, "trit: self-test first, which overwrites the card's memory")
	err = tensix.SelfTest(ctx, m, d.grid, func(r tensix.Rung) {
		g := rungReport{Name: r.Name, Seconds: r.Took.Seconds(), Says: r.Says}
		if r.Err != nil {
			g.Error = r.Err.Error()
		}
		c.SelfTest = append(c.SelfTest, g)
	})
	c.Passed = err == nil
	return c, nil
}

// write puts the report into a file.
func (c *cardFile) write(name string, cfg *model.Config, b *benchmark, failed error) error {
	if cfg != nil {
		c.Model = cfg.Name
		s := family.ShapeOf(cfg)
		c.Shape = map[string]int{
			"layers": s.NumLayers, "hidden": s.HiddenSize, "intermediate": s.IntermediateSize, "heads": s.NumHeads, "kv_heads": s.NumKVHeads,
			"head_dim": s.HeadDim, "vocabulary": s.VocabSize,
		}
	}
	if b != nil {
		own := *b
		own.Model = "" // a path
		c.Bench = &own
	}
	if failed != nil {
		c.Error = failed.Error()
	}
	out, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(out, '\n'), 0o644)
}

// errNoSimulator is why a binary cannot run the simulator.
var errNoSimulator = errors.New("this trit has no simulator in it: build it with go build -tags ttsim ./cmd/trit (it is then linked dynamically)")
