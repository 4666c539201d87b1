package ternary

import "math"

// I2SProbe guesses which of the three layouts that share the type number I2_S a model file uses: the
// bytes of any one are valid bytes of the others, only shuffled. It gathers two traces that training
// leaves and shuffling hides, over as many matrices as it is given:
//
//   - Columns (input channels) differ in their share of zeros. Rows mixed four by four, as I2SX4 read as
//     another layout and the reverse, blur that: the right reading has the larger spread.
//   - That share goes with the channel's weight in the norm in front of the matrix, a float tensor
//     that is not shuffled. I2SARM read as I2SX86 and the reverse permute the columns: the right reading has
//     the larger correlation.
//
// Random weights have neither trace; then the guess is I2SX86, the layout of the published files.
// The zero value is ready for use.
type I2SProbe struct {
	spread   [3]float64 // evidence of I2SX86, I2SARM, I2SX4 by the first trace
	order    [3]float64 // and by the second
	matrices int
	ordered  int
	ruledOut [3]bool
}

var i2sLayouts = [3]Format{I2SX86, I2SARM, I2SX4}

// Add looks at (a sample of the rows of) one I2_S matrix [rows, cols].
//
//	channel  [cols] the weight of the norm in front of the matrix, or nil
//
// Bytes that are no I2_S matrix of that shape are ignored: Unpack will report them.
func (p *I2SProbe) Add(src []byte, rows, cols int, channel []float32) {
	if channel != nil && len(channel) != cols {
		channel = nil
	}
	fits := false
	for i, f := range i2sLayouts {
		size, err := f.Size(rows, cols)
		if err != nil {
			p.ruledOut[i] = true
		} else if len(src) == size {
			fits = true
		}
	}
	if !fits {
		return
	}
	p.matrices++
	if channel != nil {
		p.ordered++
	}
	for i, f := range i2sLayouts {
		if _, err := f.Size(rows, cols); err != nil {
			continue
		}
		share, sampled := f.zeroShare(src, rows, cols)
		var mean float64
		for _, s := range share {
			mean += s
		}
		mean /= float64(cols)
		noise := mean * (1 - mean) / float64(sampled) // variance of a share of independent codes
		if noise == 0 {
			continue
		}
		var spread float64
		for _, s := range share {
			spread += (s - mean) * (s - mean)
		}
		// About 0 ± 1 when all columns are alike.
		p.spread[i] += (spread/noise/float64(cols) - 1) * math.Sqrt(float64(cols)/2)
		if channel != nil {
			r := correlation(share, channel)
			p.order[i] += float64(cols) * r * r // about 1 when unrelated
		}
	}
}

// Guess returns the likely layout and whether the evidence is clear. Shapes that a layout cannot hold
// rule it out.
func (p *I2SProbe) Guess() (f Format, clear bool) {
	const x86, arm, x4 = 0, 1, 2
	byRow, other := x86, arm // the same columns in another order, hence the same spread
	if p.ruledOut[x86] {
		byRow, other = arm, x86
	}
	if p.matrices == 0 || p.ruledOut[byRow] && p.ruledOut[x4] {
		return I2SX86, false
	}
	interleaved := p.spread[x4] - p.spread[byRow]
	doubt := 6 * math.Sqrt(float64(p.matrices))
	if p.ruledOut[byRow] || !p.ruledOut[x4] && interleaved > doubt {
		return I2SX4, true
	}
	clear = p.ruledOut[x4] || interleaved < -doubt
	if p.ruledOut[other] {
		return i2sLayouts[byRow], clear
	}
	inOrder := p.order[x86] - p.order[arm]
	doubt = 12 * math.Sqrt(float64(p.ordered))
	if inOrder < -doubt {
		return I2SARM, clear
	}
	return I2SX86, clear && inOrder > doubt
}

// zeroShare returns the share of zeros in every column over at most 512 rows, in groups of four so that
// layouts are compared on the same bytes, spread over the matrix.
func (f Format) zeroShare(src []byte, rows, cols int) (share []float64, sampled int) {
	groups := (rows + 3) / 4
	step := max(1, groups/128)
	counts := make([]int, cols)
	codes := make([]byte, (cols+127)/128*128)
	l := f.layout()
	for g := 0; g < groups; g += step {
		for r := 4 * g; r < min(4*g+4, rows); r++ {
			if f == I2SX4 {
				field(codes, src[r/4*cols:][:cols], uint(6-2*(r%4)))
			} else {
				row := src[r*cols/4:][:cols/4]
				for b := range cols / l.weights {
					l.decode(codes[b*l.weights:][:l.weights], row[b*l.bytes:][:l.bytes])
				}
			}
			for c := range counts {
				if codes[c] == 1 {
					counts[c]++
				}
			}
			sampled++
		}
	}
	share = make([]float64, cols)
	for c, n := range counts {
		share[c] = float64(n) / float64(sampled)
	}
	return share, sampled
}

// correlation is Pearson's r of a and |b|, 0 when one of them does not vary or is not finite.
func correlation(a []float64, b []float32) float64 {
	var ma, mb float64
	for i := range a {
		ma += a[i]
		mb += math.Abs(float64(b[i]))
	}
	ma /= float64(len(a))
	mb /= float64(len(a))
	var ab, aa, bb float64
	for i := range a {
		x, y := a[i]-ma, math.Abs(float64(b[i]))-mb
		ab += x * y
		aa += x * x
		bb += y * y
	}
	r := ab / math.Sqrt(aa*bb)
	if math.IsNaN(r) {
		return 0
	}
	return r
}
