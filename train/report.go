package train

import (
	"fmt"
	"html"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// Report writes report.html, one page without outside parts, and loss.png and loss.svg, about one or
// more runs into dir.
func Report(dir string, runs []string) error {
	var all []reported
	for _, r := range runs {
		recs, err := ReadMetrics(r)
		if err != nil {
			return err
		}
		rep := reported{name: filepath.Base(filepath.Clean(r))}
		for _, rec := range recs {
			if rec.First != nil {
				rep.head = rec.First
			} else {
				rep.recs = append(rep.recs, rec)
			}
		}
		if len(rep.recs) == 0 {
			return fmt.Errorf("train: %s: no step is recorded yet", r)
		}
		all = append(all, rep)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := lossPlots(dir, all); err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, "report.html"), func(w io.Writer) error {
		_, err := io.WriteString(w, reportPage(all))
		return err
	})
}

type reported struct {
	name string
	head *Header
	recs []Record
}

type series struct {
	name   string
	legend string // lines of one legend are of one kind; "": the name
	points [][2]float64
	dashed bool
	hue    int
}

var palette = []string{"#1b6ca8", "#c8553d", "#3a7d44", "#8e5ba6", "#b8860b", "#2a9d8f", "#7a7a7a", "#d1495b", "#52796f", "#bc6c25"}

// losses are the smoothed training loss and the validation loss of a run.
func (r *reported) losses(hue int) []series {
	train, val := series{name: r.name + " training", hue: hue}, series{name: r.name + " validation", hue: hue, dashed: true}
	smooth := 0.0
	every := max(len(r.recs)/800, 1)
	for i, rec := range r.recs {
		if i == 0 {
			smooth = rec.Loss
		}
		smooth += (rec.Loss - smooth) * 0.05
		if i%every == 0 || i == len(r.recs)-1 {
			train.points = append(train.points, [2]float64{float64(rec.Step), smooth})
		}
		if rec.Val != nil {
			val.points = append(val.points, [2]float64{float64(rec.Step), *rec.Val})
		}
	}
	return []series{train, val}
}

// over is one value of each record over the steps, thinned to at most 800 points.
func (r *reported) over(hue int, f func(Record) float64) series {
	s := series{name: r.name, hue: hue}
	every := max(len(r.recs)/800, 1)
	for i := 0; i < len(r.recs); i += every {
		s.points = append(s.points, [2]float64{float64(r.recs[i].Step), f(r.recs[i])})
	}
	return s
}

// codes are one line per ternary matrix over the validations, in the colour of its projection.
func (r *reported) codes(f func(Share) float64) []series {
	var all []series
	at, hues := map[string]int{}, map[string]int{}
	for _, rec := range r.recs {
		for _, c := range rec.Codes {
			i, ok := at[c.Name]
			if !ok {
				i = len(all)
				at[c.Name] = i
				kind := c.Name[strings.LastIndexByte(c.Name, '.')+1:]
				if _, ok := hues[kind]; !ok {
					hues[kind] = len(hues)
				}
				all = append(all, series{name: c.Name, legend: kind, hue: hues[kind]})
			}
			all[i].points = append(all[i].points, [2]float64{float64(rec.Step), f(c)})
		}
	}
	return all
}

func bounds(all []series) (x0, x1, y0, y1 float64) {
	x0, y0 = math.Inf(1), math.Inf(1)
	x1, y1 = math.Inf(-1), math.Inf(-1)
	for _, s := range all {
		for _, p := range s.points {
			x0, x1 = min(x0, p[0]), max(x1, p[0])
			y0, y1 = min(y0, p[1]), max(y1, p[1])
		}
	}
	if !(x1 > x0) {
		x1 = x0 + 1
	}
	if !(y1 > y0) {
		pad := max(math.Abs(y0)*0.1, 1e-9)
		y0, y1 = y0-pad, y1+pad
	}
	return x0, x1, y0, y1
}

// ticks are round numbers from lo to hi, about five.
func ticks(lo, hi float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/4)))
	for _, m := range []float64{5, 2} {
		if (hi-lo)/4 >= m*step {
			step *= m
			break
		}
	}
	var at []float64
	first := math.Ceil(lo / step)
	for i := range 10 { // a range of almost nothing at a large value has no round numbers to count
		if v := (first + float64(i)) * step; v <= hi+step*1e-9 {
			at = append(at, v)
		}
	}
	return at
}

// chart draws lines as inline SVG with a title per line, which browsers show under the pointer.
func chart(title string, all []series, legend bool) string {
	_, x1, y0, y1 := bounds(all)
	const x0, w, h, left, top, right, bottom = 0.0, 760.0, 300.0, 64.0, 28.0, 24.0, 32.0
	px := func(x float64) float64 { return left + (x-x0)/(x1-x0)*(w-left-right) }
	py := func(y float64) float64 { return h - bottom - (y-y0)/(y1-y0)*(h-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<figure><svg viewBox="0 0 %g %g" role="img" aria-label="%s"><text x="%g" y="16" class="t">%s</text>`, w, h, html.EscapeString(title), left, html.EscapeString(title))
	for _, y := range ticks(y0, y1) {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" class="g"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`, left, w-right, py(y), py(y), left-6, py(y)+4, tick(y))
	}
	for _, x := range ticks(x0, x1) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%g</text>`, px(x), h-10, x)
	}
	for _, s := range all {
		if len(s.points) == 0 {
			continue
		}
		dash := ""
		if s.dashed {
			dash = ` stroke-dasharray="5 3"`
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.6"%s points="`, palette[s.hue%len(palette)], dash)
		for _, p := range s.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(p[0]), py(p[1]))
		}
		fmt.Fprintf(&b, `"><title>%s</title></polyline>`, html.EscapeString(s.name))
	}
	b.WriteString("</svg>")
	if legend {
		b.WriteString("<figcaption>")
		named := map[string]bool{}
		for _, s := range all {
			if s.legend == "" {
				s.legend = s.name
			}
			if named[s.legend] {
				continue
			}
			named[s.legend] = true
			style := "solid"
			if s.dashed {
				style = "dashed"
			}
			fmt.Fprintf(&b, `<span><i style="border-top:3px %s %s"></i>%s</span> `, style, palette[s.hue%len(palette)], html.EscapeString(s.legend))
		}
		b.WriteString("</figcaption>")
	}
	b.WriteString("</figure>")
	return b.String()
}

func tick(v float64) string {
	if v != 0 && math.Abs(v) < 0.01 {
		return fmt.Sprintf("%.1e", v)
	}
	return fmt.Sprintf("%.6g", v)
}

func reportPage(all []reported) string {
	var b strings.Builder
	b.WriteString(`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>trit train</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}
svg{width:100%;height:auto}svg text{font-size:11px;fill:#555}svg text.t{font-size:14px;fill:#222}svg .g{stroke:#e4e4e4}
figure{margin:1.5rem 0}figcaption span{margin-right:1rem;white-space:nowrap}figcaption i{display:inline-block;width:1.6rem;margin-right:.3rem;vertical-align:middle}
pre{background:#f6f6f4;padding:.8rem;white-space:pre-wrap}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#aaa}svg text.t{fill:#ddd}svg .g{stroke:#333}td,th{border-color:#333}pre{background:#222}}</style>
<h1>Training report</h1><table><tr><th>run<th>architecture<th>precision<th>parameters<th>ternary<th>steps<th>training loss<th>validation<th>perplexity<th>tokens/s<th>peak MiB</tr>
`)
	var loss, lr, speed []series
	for i := range all {
		r := &all[i]
		last := r.recs[len(r.recs)-1]
		val, peak := math.NaN(), 0.0
		for _, rec := range r.recs {
			if rec.Val != nil && !(*rec.Val > val) {
				val = *rec.Val
			}
			peak = max(peak, rec.PeakMiB)
		}
		l := r.losses(i)
		head := r.head
		if head == nil {
			head = &Header{}
		}
		fmt.Fprintf(&b, "<tr><td>%s<td>%s<td>%s<td>%d<td>%d<td>%d<td>%.4f<td>%s<td>%s<td>%.0f<td>%.0f</tr>\n", html.EscapeString(r.name), html.EscapeString(head.Config.Arch), html.EscapeString(head.Config.Precision),
			head.Params, head.Ternary, last.Step, l[0].points[len(l[0].points)-1][1], decimals(val, 4), decimals(math.Exp(val), 2), r.meanSpeed(), peak)
		loss = append(loss, l...)
		lr = append(lr, r.over(i, func(rec Record) float64 { return rec.LR }))
		speed = append(speed, r.over(i, func(rec Record) float64 { return rec.TokensPerS }))
	}
	b.WriteString("</table>\n")
	b.WriteString(chart("loss, nats per token", loss, true))
	b.WriteString(chart("learning rate", lr, len(all) > 1))
	b.WriteString(chart("tokens per second", speed, len(all) > 1))
	for i := range all {
		r := &all[i]
		fmt.Fprintf(&b, "<h2>%s</h2>\n", html.EscapeString(r.name))
		if z := r.codes(func(s Share) float64 { return s.Zero }); len(z) > 0 {
			b.WriteString(chart("share of weights that are 0, per matrix", z, true))
			b.WriteString(chart("share of weights that are +1, per matrix", r.codes(func(s Share) float64 { return s.Pos }), true))
			b.WriteString(chart("share of weights that are −1, per matrix", r.codes(func(s Share) float64 { return s.Neg }), true))
			b.WriteString(chart("share of codes that one step changes, per matrix", r.codes(func(s Share) float64 { return s.Flipped }), true))
		}
		for _, rec := range r.recs {
			if rec.Sample != "" && (rec.Best || rec.Step == r.recs[len(r.recs)-1].Step) {
				fmt.Fprintf(&b, "<h3>Sample after step %d</h3><pre>%s</pre>\n", rec.Step, html.EscapeString(rec.Sample))
			}
		}
	}
	b.WriteString("</html>\n")
	return b.String()
}

func (r *reported) meanSpeed() float64 {
	tokens, seconds := 0.0, 0.0
	for _, rec := range r.recs {
		tokens += rec.TokensPerS * rec.Seconds
		seconds += rec.Seconds
	}
	return tokens / seconds
}

func lossPlots(dir string, all []reported) error {
	p := plot.New()
	p.Title.Text = "Loss"
	p.X.Label.Text = "step"
	p.Y.Label.Text = "nats per token"
	p.Add(plotter.NewGrid())
	for i := range all {
		for _, s := range all[i].losses(i) {
			if len(s.points) == 0 {
				continue
			}
			xy := make(plotter.XYs, len(s.points))
			for k, q := range s.points {
				xy[k].X, xy[k].Y = q[0], q[1]
			}
			l, err := plotter.NewLine(xy)
			if err != nil {
				return fmt.Errorf("train: plot: %w", err)
			}
			var c [3]uint8
			fmt.Sscanf(palette[s.hue%len(palette)], "#%02x%02x%02x", &c[0], &c[1], &c[2])
			l.Color = color.RGBA{c[0], c[1], c[2], 255}
			if s.dashed {
				l.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
			}
			p.Add(l)
			p.Legend.Add(s.name, l)
		}
	}
	p.X.Min = 0
	p.Legend.Top, p.Legend.XOffs, p.Legend.Padding = true, -vg.Points(4), vg.Points(3)
	for _, name := range []string{"loss.png", "loss.svg"} {
		w, err := p.WriterTo(18*vg.Centimeter, 10*vg.Centimeter, strings.TrimPrefix(filepath.Ext(name), "."))
		if err != nil {
			return fmt.Errorf("train: plot: %w", err)
		}
		if err := WriteFile(filepath.Join(dir, name), func(f io.Writer) error { _, err := w.WriteTo(f); return err }); err != nil {
			return err
		}
	}
	return nil
}
