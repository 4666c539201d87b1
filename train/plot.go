package train

import (
	"fmt"
	"math"
	"strings"
)

// Plot draws a run's training loss (dots) and validation loss (circles) with characters, width columns and
// height rows, each dot one of the 2×4 of a braille sign.
func Plot(dir string, width, height int) (string, error) {
	recs, err := ReadMetrics(dir)
	if err != nil {
		return "", err
	}
	steps := 0
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, r := range recs {
		steps = max(steps, r.Step)
		if r.Step == 0 {
			continue
		}
		lo, hi = min(lo, r.Loss), max(hi, r.Loss)
		if r.Val != nil {
			lo, hi = min(lo, *r.Val), max(hi, *r.Val)
		}
	}
	if steps < 2 || !(hi > lo) {
		return "", fmt.Errorf("train: %s: fewer than two steps to plot", dir)
	}
	cells := make([][]rune, height)
	for i := range cells {
		cells[i] = []rune(strings.Repeat("\u2800", width))
	}
	at := func(step int, v float64) (x, y int) {
		x = (step - 1) * (2*width - 1) / (steps - 1)
		y = int(math.Round((hi - v) / (hi - lo) * float64(4*height-1)))
		return x, min(max(y, 0), 4*height-1)
	}
	bits := [4][2]rune{{1, 8}, {2, 16}, {4, 32}, {64, 128}}
	for _, r := range recs {
		if r.Step > 0 {
			x, y := at(r.Step, r.Loss)
			cells[y/4][x/2] |= bits[y%4][x%2]
		}
	}
	for _, r := range recs {
		if r.Val != nil {
			x, y := at(r.Step, *r.Val)
			cells[y/4][x/2] = 'o'
		}
	}
	var b strings.Builder
	for i, row := range cells {
		label := "        "
		if i == 0 || i == height-1 || i == height/2 {
			label = fmt.Sprintf("%7.3f ", hi-(hi-lo)*float64(i)/float64(height-1))
		}
		fmt.Fprintf(&b, "%s│%s\n", label, string(row))
	}
	fmt.Fprintf(&b, "        └%s\n         1%*d  steps (o validation)\n", strings.Repeat("─", width), width-1, steps)
	return b.String(), nil
}
