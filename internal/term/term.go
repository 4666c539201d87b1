// Package term prints for people: progress, tables, sizes.
package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// IsTerminal reports whether v is a file that a person looks at or types into, or a Writer to one.
func IsTerminal(v any) bool {
	f, ok := v.(*os.File)
	if w, is := v.(*visible); is {
		f, ok = w.w.(*os.File)
	}
	return ok && term.IsTerminal(int(f.Fd()))
}

// Width is how many columns the terminal behind v has, 0 where there is none.
func Width(v any) int {
	if w, ok := v.(*visible); ok {
		v = w.w
	}
	if f, ok := v.(*os.File); ok {
		width, _, _ := term.GetSize(int(f.Fd()))
		return width
	}
	return 0
}

// Bytes writes a size with three figures, in powers of 1000: 1.18 GB.
func Bytes(n int64) string {
	const units = "kMGTPE"
	if n > -1000 && n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 999.5 || v <= -999.5 {
		v, i = v/1000, i+1
	}
	return fmt.Sprintf("%.3g %cB", v, units[i])
}

// Count writes a number of things with three figures: 2.41 B for billions.
func Count(n int64) string {
	switch {
	case n >= 999_500_000:
		return fmt.Sprintf("%.3g B", float64(n)/1e9)
	case n >= 999_500:
		return fmt.Sprintf("%.3g M", float64(n)/1e6)
	case n >= 10_000:
		return fmt.Sprintf("%.3g k", float64(n)/1e3)
	}
	return fmt.Sprint(n)
}

// Seconds writes a duration the way a person reads it: 850 ms, 2.31 s, 4m10s.
func Seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.3g s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Table writes rows of cells in columns, each as wide as its widest cell. A cell that starts with
// a digit, a sign or a dot is set flush right.
func Table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	widths := map[int]int{}
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	for _, r := range rows {
		for i, c := range r {
			if i > 0 {
				io.WriteString(tw, "\t")
			}
			if c != "" && strings.ContainsRune("0123456789+-.", rune(c[0])) {
				c = strings.Repeat(" ", widths[i]-len([]rune(c))) + c
			}
			io.WriteString(tw, c)
		}
		io.WriteString(tw, "\n")
	}
	return tw.Flush()
}

// Pairs writes labels and what they stand for, a line each.
func Pairs(w io.Writer, rows [][2]string) error {
	width := 0
	for _, r := range rows {
		width = max(width, len([]rune(r[0])))
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// Progress shows how far something is: a bar on a terminal, now and then a line elsewhere. What
// ends within a moment shows nothing. A nil *Progress is silent. Not for several goroutines.
type Progress struct {
	w     io.Writer
	label string
	bytes bool
	tty   bool
	start time.Time
	last  time.Time
	p     *mpb.Progress
	bar   *mpb.Bar
}

const (
	moment   = 400 * time.Millisecond
	interval = 5 * time.Second // between lines, where there is no terminal
)

// NewProgress starts progress under a label, of bytes or of plain steps.
func NewProgress(w io.Writer, label string, bytes bool) *Progress {
	return &Progress{w: Raw(w), label: Visible(label), bytes: bytes, tty: IsTerminal(w), start: time.Now(), last: time.Now()}
}

// Set shows done of total.
func (p *Progress) Set(done, total int64) {
	if p == nil || total <= 0 {
		return
	}
	if !p.tty {
		if time.Since(p.last) > interval {
			p.last = time.Now()
			fmt.Fprintf(p.w, "%s: %d%%, %s\n", p.label, done*100/total, p.amount(done, total))
		}
		return
	}
	if p.bar == nil {
		if time.Since(p.start) < moment {
			return
		}
		var amount, speed decor.Decorator = decor.CountersNoUnit("%d of %d"), decor.AverageSpeed(0, " %.0f/s")
		if p.bytes {
			amount = decor.Any(func(s decor.Statistics) string { return p.amount(s.Current, s.Total) })
			speed = decor.Any(func(s decor.Statistics) string {
				return fmt.Sprintf("  %s/s", Bytes(int64(float64(s.Current)/max(time.Since(p.start).Seconds(), 1e-3))))
			})
		}
		p.p = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(30), mpb.WithAutoRefresh())
		p.bar = p.p.New(total, mpb.BarStyle().Lbound("").Filler("█").Tip("█").Padding("░").Rbound(""),
			mpb.PrependDecorators(decor.Name(p.label+" ")),
			mpb.AppendDecorators(amount, speed, decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
}

func (p *Progress) amount(done, total int64) string {
	if p.bytes {
		return Bytes(done) + " of " + Bytes(total)
	}
	return fmt.Sprintf("%d of %d", done, total)
}

// Log writes a line above the bar.
func (p *Progress) Log(line string) {
	switch {
	case p == nil:
	case p.p != nil:
		p.p.Write([]byte(Visible(line) + "\n"))
	case p.tty:
		fmt.Fprintln(p.w, Visible(line))
	default:
		fmt.Fprintln(p.w, line)
	}
}

// Done takes the bar away.
func (p *Progress) Done() {
	if p == nil || p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.p.Wait()
	p.bar, p.p = nil, nil
}
