package tensix

import (
	"fmt"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/kernels"
)

// Report is what a card did while it was watched, and what it is.
type Report struct {
	Board    string   `json:"board,omitempty"`
	Firmware string   `json:"firmware_bundle,omitempty"`
	Driver   string   `json:"driver"`
	Tiles    int      `json:"tiles"`         // at work
	Columns  int      `json:"columns"`       // live, of 14
	Banks    int      `json:"gddr_banks"`    // live, of 8
	Ports    []string `json:"gddr_ports"`    // instance.port of each bank
	PortsBy  string   `json:"gddr_ports_by"` // who named them
	Assumed  []string `json:"assumed,omitempty"`
	Clock    Clocks   `json:"ai_clock_mhz"`

	Seconds    float64 `json:"seconds"`
	Jobs       uint64  `json:"doorbells"`
	Casts      uint64  `json:"multicasts"`
	Chunks     uint64  `json:"weight_chunks"`
	Weights    uint64  `json:"gddr_weight_bytes"`
	Cache      uint64  `json:"gddr_cache_bytes"` // keys and values
	GDDRRate   float64 `json:"gddr_bytes_per_second"`
	Sent       uint64  `json:"pcie_sent_bytes"`
	Returned   uint64  `json:"pcie_returned_bytes"`
	HostCasts  float64 `json:"host_seconds_sending"`
	HostWaits  float64 `json:"host_seconds_waiting"`
	HostAlone  float64 `json:"host_seconds_besides"`
	HeadTokens uint64  `json:"head_tokens"`
	HeadRows   uint64  `json:"head_rows_scored_by_host"`

	TileClocks  uint64            `json:"tile_clocks"`  // of the slowest tile, summed over jobs
	StageClocks map[string]uint64 `json:"stage_clocks"` // of that, by what the stage does
	Simulated   bool              `json:"simulated,omitempty"`
}

// Clocks are readings of the AI clock; 0 where the firmware does not say.
type Clocks struct {
	Before int `json:"before"`
	Low    int `json:"lowest_during"`
	High   int `json:"highest_during"`
	After  int `json:"after"`
	Max    int `json:"maximum"`
}

// fullClock is what a card should run at when its firmware does not name a maximum, in MHz.
const fullClock = 1350

// Slow says that a clock is well below a card's full one: some firmware never leaves 800 MHz.
func Slow(t chip.Telemetry, mhz int) bool {
	full := t.ClockMax
	if full == 0 {
		full = fullClock
	}
	return mhz > 0 && mhz*10 < full*9
}

var stageNames = [kernels.Thens]string{"products to the host", "activation function", "residual sum", "residual stream to the host", "screen of the head", "attention", "SiLU"}

// Watch begins a Report.
type Watch struct {
	d      *Device
	start  time.Time
	before Stats
	clock  Clocks
}

// Watch notes where the counters stand, and the clock.
func (d *Device) Watch() *Watch {
	w := &Watch{d: d, start: time.Now(), before: d.Stats()}
	w.clock.Before, _ = d.Clock()
	w.clock.Max = d.c.Telemetry.ClockMax
	return w
}

// Sample reads the clock while the card is at work.
func (w *Watch) Sample() {
	if v, err := w.d.Clock(); err == nil && v > 0 {
		if w.clock.Low == 0 || v < w.clock.Low {
			w.clock.Low = v
		}
		w.clock.High = max(w.clock.High, v)
	}
}

// Report is what happened since Watch.
func (w *Watch) Report() Report {
	d, s, b := w.d, w.d.Stats(), w.before
	g, t := d.Chip()
	w.clock.After, _ = d.Clock()
	r := Report{
		Board: t.Board, Firmware: t.Bundle, Driver: d.m.Info().Driver, Simulated: d.m.Info().Simulated,
		Tiles: d.Tiles(), Columns: g.Columns, Banks: g.Banks, PortsBy: t.PortsBy, Assumed: t.Assumed, Clock: w.clock,
		Seconds: time.Since(w.start).Seconds(), Jobs: s.Jobs - b.Jobs, Casts: s.Casts - b.Casts, Chunks: s.Chunks - b.Chunks,
		Weights: s.Weights - b.Weights, Cache: s.CacheRead - b.CacheRead, Sent: s.Sent - b.Sent, Returned: s.Returned - b.Returned,
		HostCasts: (s.Casting - b.Casting).Seconds(), HostWaits: (s.Waited - b.Waited).Seconds(),
		HeadTokens: s.HeadTokens - b.HeadTokens, HeadRows: s.HeadRescored - b.HeadRescored,
		TileClocks: s.TileClocks - b.TileClocks, StageClocks: map[string]uint64{},
	}
	for i := range g.Banks {
		instance, port := g.Port(i)
		r.Ports = append(r.Ports, fmt.Sprintf("%d.%d", instance, port))
	}
	r.HostAlone = r.Seconds - r.HostCasts - r.HostWaits
	if r.HostWaits > 0 {
		r.GDDRRate = float64(r.Weights+r.Cache) / r.HostWaits
	}
	for i, name := range stageNames {
		if n := s.StageClocks[i] - b.StageClocks[i]; n > 0 {
			r.StageClocks[name] = n
		}
	}
	return r
}

// Rows are the report for people: name and value of each line.
func (r *Report) Rows() [][2]string {
	board := "board not named by its firmware"
	if r.Board != "" {
		board = r.Board
	}
	if r.Simulated {
		board = "simulator: its times and clocks say nothing about a card"
	}
	mb := func(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
	ms := func(s float64) string { return fmt.Sprintf("%.1f ms", s*1e3) }
	rows := [][2]string{
		{"card", fmt.Sprintf("%s, %d tiles, %d GDDR banks; %s", board, r.Tiles, r.Banks, r.Driver)},
		{"AI clock", fmt.Sprintf("%d MHz before, %d to %d at work, %d after", r.Clock.Before, r.Clock.Low, r.Clock.High, r.Clock.After)},
		{"doorbells", fmt.Sprintf("%d, %d multicasts", r.Jobs, r.Casts)},
		{"GDDR", fmt.Sprintf("%s of weights, %s of keys and values: %.1f GB/s while the tiles were at work", mb(r.Weights), mb(r.Cache), r.GDDRRate/1e9)},
		{"PCIe", fmt.Sprintf("%s sent, %s returned", mb(r.Sent), mb(r.Returned))},
		{"host", fmt.Sprintf("%s sending, %s waiting for the tiles, %s besides", ms(r.HostCasts), ms(r.HostWaits), ms(r.HostAlone))},
		{"slowest tile", fmt.Sprintf("%d clocks", r.TileClocks)},
	}
	for _, name := range stageNames {
		if n := r.StageClocks[name]; n > 0 {
			rows = append(rows, [2]string{"", fmt.Sprintf("%d in %s", n, name)})
		}
	}
	return rows
}
