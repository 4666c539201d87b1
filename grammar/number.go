package grammar

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// A bound is one end of a range of numbers.
type bound struct {
	v    *big.Rat
	open bool // the value itself is outside
}

// numeric is a number within the bounds of a piece: up to 15 digits before the point and, unless
// only whole numbers will do, 15 after it. An exponent is written only where nothing bounds it.
func (s *schema) numeric(p *piece) frag {
	b := s.b
	only := p.types&numbers == whole
	key := fmt.Sprint(only)
	for i, x := range []*bound{p.lo, p.hi} {
		if x != nil {
			key += fmt.Sprint(" ", i, x.v.RatString(), x.open)
		}
	}
	var multiple *big.Rat
	for _, m := range p.multiples { // least common: lcm of numerators over gcd of denominators
		if multiple == nil {
			multiple = m
			continue
		}
		gcd := new(big.Int).GCD(nil, nil, multiple.Num(), m.Num())
		num := new(big.Int).Div(new(big.Int).Mul(multiple.Num(), m.Num()), gcd)
		multiple = new(big.Rat).SetFrac(num, new(big.Int).GCD(nil, nil, multiple.Denom(), m.Denom()))
	}
	if multiple != nil {
		key += " of " + multiple.RatString()
	}
	var except []*big.Rat
	for _, v := range p.except {
		if n, ok := v.(json.Number); ok {
			if r, ok := rational(n); ok {
				except = append(except, r)
				key += " not " + r.RatString()
			}
		}
	}
	slices.SortFunc(except, (*big.Rat).Cmp)
	if p.lo == nil && p.hi == nil && multiple == nil && except == nil {
		if only {
			return b.call(s.json.integer)
		}
		return b.call(s.json.number)
	}
	if r, ok := s.leaf[key]; ok {
		return b.call(r)
	}
	r := b.addRule(p.at)
	s.leaf[key] = r
	// Around the values that are excluded there are ranges.
	var fs []frag
	lo := p.lo
	for _, x := range except {
		if p.lo != nil && x.Cmp(p.lo.v) < 0 || p.hi != nil && x.Cmp(p.hi.v) > 0 {
			continue
		}
		if lo == nil || lo.v.Cmp(x) < 0 {
			fs = append(fs, b.bounded(lo, &bound{x, true}, only || multiple != nil))
		}
		lo = &bound{x, true}
	}
	if p.hi == nil || lo == nil || lo.v.Cmp(p.hi.v) < 0 || lo.v.Cmp(p.hi.v) == 0 && !lo.open && !p.hi.open {
		fs = append(fs, b.bounded(lo, p.hi, only || multiple != nil))
	}
	f := b.alt(fs...)
	if multiple != nil {
		// Whole multiples of p/q in lowest terms are the multiples of p.
		n := multiple.Num()
		if !n.IsInt64() || n.Int64() > 5000 {
			if !s.drop(p.at, "multipleOf", multiple.RatString()+" is too large") {
				return b.empty()
			}
		} else {
			d, err := b.subsets(f, everyByte)
			if err == nil {
				d, err = b.intersect(d, multiples(int(n.Int64())))
			}
			if err != nil {
				return s.fail(p.at, "%v", err)
			}
			f = b.embed(d)
		}
	}
	b.rules[r] = f
	return b.call(r)
}

// multiples accepts [-]digits whose value is divisible by n.
func multiples(n int) []state {
	d := []state{{}, {}}
	for m := range n {
		d = append(d, state{final: m == 0})
	}
	for i := range d {
		m := max(i-2, 0)
		for c := byte('0'); c <= '9'; c++ {
			d[i].edges = append(d[i].edges, edge{lo: c, hi: c, to: int32(2 + (10*m+int(c-'0'))%n)})
		}
	}
	d[0].edges = append([]edge{{lo: '-', hi: '-', to: 1}}, d[0].edges...)
	return d
}

// bounded is a number between two bounds, nil for none.
func (b *builder) bounded(lo, hi *bound, whole bool) frag {
	var fs []frag
	zero := new(big.Rat)
	if hi == nil || hi.v.Sign() > 0 || hi.v.Sign() == 0 && !hi.open { // 0 and above
		l := lo
		if l == nil || l.v.Sign() < 0 {
			l = &bound{zero, false}
		}
		fs = append(fs, b.magnitude(l, hi, whole))
	}
	if lo == nil || lo.v.Sign() < 0 { // below 0: the magnitude is between the bounds' magnitudes
		neg := func(x *bound) *bound {
			if x == nil {
				return nil
			}
			return &bound{new(big.Rat).Neg(x.v), x.open}
		}
		l := neg(hi)
		if l == nil || l.v.Sign() <= 0 {
			l = &bound{zero, true}
		}
		fs = append(fs, b.cat(b.lit("-"), b.magnitude(l, neg(lo), whole)))
	}
	return b.alt(fs...)
}

// magnitude is an unsigned number x, lo ≤ x ≤ hi (or < where open), lo ≥ 0.
func (b *builder) magnitude(lo, hi *bound, whole bool) frag {
	limit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(15), nil))
	if hi == nil || hi.v.Cmp(limit) >= 0 {
		hi = &bound{limit, true}
	}
	floor := func(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }
	a, z := floor(lo.v), floor(hi.v)
	one := big.NewInt(1)
	if whole {
		if !lo.v.IsInt() || lo.open {
			a.Add(a, one)
		}
		if hi.v.IsInt() && hi.open {
			z.Sub(z, one)
		}
		return b.between(a, z)
	}
	fa, fz := fraction(lo.v, a), fraction(hi.v, z)
	if len(fa) > 15 || len(fz) > 15 { // give a little away to stay within 15 digits
		if len(fa) > 15 {
			fa = fa[:15]
			r, _ := new(big.Rat).SetString(a.String() + "." + fa)
			r.Add(r, big.NewRat(1, 1e15))
			return b.magnitude(&bound{r, false}, hi, false)
		}
		r, _ := new(big.Rat).SetString(z.String() + "." + fz[:15])
		return b.magnitude(lo, &bound{r, false}, false)
	}
	anything := func() frag { return b.opt(b.cat(b.lit("."), b.repeat(b.digit, 1, 15))) }
	if a.Cmp(z) == 0 {
		d1, err1 := b.subsets(b.atLeast(fa, lo.open), everyByte)
		d2, err2 := b.subsets(b.atMost(fz, hi.open), everyByte)
		if err1 != nil || err2 != nil {
			return b.empty()
		}
		d, _ := b.intersect(d1, d2)
		return b.cat(b.lit(a.String()), b.embed(d))
	}
	if a.Cmp(z) > 0 {
		return b.nothing()
	}
	return b.alt(
		b.cat(b.lit(a.String()), b.atLeast(fa, lo.open)),
		b.cat(b.between(new(big.Int).Add(a, one), new(big.Int).Sub(z, one)), anything()),
		b.cat(b.lit(z.String()), b.atMost(fz, hi.open)),
	)
}

// fraction is the digits of r − whole, without zeros at the end.
func fraction(r *big.Rat, whole *big.Int) string {
	f := new(big.Rat).Sub(r, new(big.Rat).SetInt(whole))
	return strings.TrimRight(f.FloatString(130)[2:], "0")
}

// atLeast is the rest of a number after its whole part, .digits or nothing, not below .f.
func (b *builder) atLeast(f string, open bool) frag {
	if f == "" && !open {
		return b.opt(b.cat(b.lit("."), b.repeat(b.digit, 1, 15)))
	}
	out := b.state()
	at := b.lit(".")
	in := at.in
	more := func(n int) frag { return b.repeat(b.digit, 0, n) }
	for i := range len(f) {
		if f[i] < '9' {
			x := b.cat(b.bytes(f[i]+1, '9'), more(14-i))
			b.link(at.out, x.in)
			b.link(x.out, out)
		}
		at = b.cat(at, b.bytes(f[i], f[i]))
	}
	if !open {
		x := more(15 - len(f))
		b.link(at.out, x.in)
		b.link(x.out, out)
		return frag{in, out}
	}
	for i := len(f); i < 15; i++ { // some digit that is not 0 must follow
		x := b.cat(b.bytes('1', '9'), more(14-i))
		b.link(at.out, x.in)
		b.link(x.out, out)
		at = b.cat(at, b.lit("0"))
	}
	return frag{in, out}
}

// atMost is the same, not above .f.
func (b *builder) atMost(f string, open bool) frag {
	out := b.state()
	start := b.empty()
	more := func(n int) frag { return b.repeat(b.digit, 0, n) }
	if f == "" {
		if open {
			return b.nothing()
		}
		return b.opt(b.cat(b.lit("."), b.repeat(func() frag { return b.lit("0") }, 1, 15)))
	}
	b.link(start.out, out) // no fraction at all is below .f
	at := b.cat(start, b.lit("."))
	for i := range len(f) {
		if f[i] > '0' {
			x := b.cat(b.bytes('0', f[i]-1), more(14-i))
			b.link(at.out, x.in)
			b.link(x.out, out)
		}
		at = b.cat(at, b.bytes(f[i], f[i]))
		if i < len(f)-1 {
			b.link(at.out, out) // a shorter fraction is below
		}
	}
	if !open {
		x := b.repeat(func() frag { return b.lit("0") }, 0, 15-len(f))
		b.link(at.out, x.in)
		b.link(x.out, out)
	}
	return frag{start.in, out}
}

// between is a whole number a ≤ n ≤ z in decimal, without leading zeros.
func (b *builder) between(a, z *big.Int) frag {
	if a.Cmp(z) > 0 {
		return b.nothing()
	}
	lo, hi := a.String(), z.String()
	var fs []frag
	for n := len(lo); n <= len(hi); n++ {
		l, h := lo, hi
		if n > len(lo) {
			l = "1" + strings.Repeat("0", n-1)
		}
		if n < len(hi) {
			h = strings.Repeat("9", n)
		}
		fs = append(fs, b.sameLength(l, h))
	}
	return b.alt(fs...)
}

// sameLength is a digit string between lo and hi, which are as long.
func (b *builder) sameLength(lo, hi string) frag {
	if lo == "" {
		return b.empty()
	}
	rest := func() frag { return b.repeat(b.digit, len(lo)-1, len(lo)-1) }
	if strings.Trim(lo, "0") == "" && strings.Trim(hi, "9") == "" {
		return b.cat(b.digit(), rest())
	}
	zeros, nines := strings.Repeat("0", len(lo)-1), strings.Repeat("9", len(lo)-1)
	if lo[0] == hi[0] {
		return b.cat(b.bytes(lo[0], lo[0]), b.sameLength(lo[1:], hi[1:]))
	}
	fs := []frag{
		b.cat(b.bytes(lo[0], lo[0]), b.sameLength(lo[1:], nines)),
		b.cat(b.bytes(hi[0], hi[0]), b.sameLength(zeros, hi[1:])),
	}
	if lo[0]+1 < hi[0] {
		fs = append(fs, b.cat(b.bytes(lo[0]+1, hi[0]-1), rest()))
	}
	return b.alt(fs...)
}
