// Package sample turns logits into tokens: greedy or random, with the usual filters, penalties,
// biases and constraints, and nothing allocated per token.
//
// The steps, in this order (the order of Hugging Face transformers' logits processors, with the
// constraint put last among those that change logits, so that nothing can bring a forbidden
// token back):
//
//  1. repetition penalty  l>0: l/p, else l·p, once for each distinct token of the window
//  2. frequency, presence l − count·frequency − [count>0]·presence, counted over accepted tokens
//  3. logit bias          l + bias
//  4. mask                a forbidden token has l = −∞
//  5. temperature         T = 0 takes the largest logit (ties: the lowest id); else l/T
//  6. top-k               the k largest (ties: the lowest ids)
//  7. top-p               of those, the shortest prefix whose probability reaches p
//  8. min-p               of those, the ones at least min-p times as likely as the likeliest
//  9. one draw from what is left, renormalised
//
// Sources: repetition penalty, Keskar et al. 2019, arXiv:1909.05858 §4.1; top-k, Fan et al. 2018,
// arXiv:1805.04833; top-p, Holtzman et al. 2020, arXiv:1904.09751; min-p, Nguyen et al. 2024,
// arXiv:2407.01082; frequency and presence, the OpenAI API reference.
package sample

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Options say how the next token is chosen. The zero value is greedy: the largest logit, ties to
// the lowest id.
type Options struct {
	Temperature float32 // 0: greedy; otherwise logits are divided by it. At most 100
	TopK        int     // keep the k most likely; 0: all
	TopP        float32 // keep the most likely ones that together reach this probability; 0 or 1: all
	MinP        float32 // drop tokens less likely than this share of the likeliest; 0: none

	RepetitionPenalty float32 // > 1 makes tokens of the history less likely; 0 or 1: off
	FrequencyPenalty  float32 // subtracted once per earlier occurrence, -2 to 2
	PresencePenalty   float32 // subtracted once if it occurred, -2 to 2
	RepeatLastN       int     // the penalties look at this many last tokens; 0: at all

	Seed      uint64            // the same seed and logits give the same tokens
	LogitBias map[int32]float32 // added to the logits of these tokens, -100 to 100
	Mask      Mask              // what may come next; nil: anything
}

// A Mask restricts the next token to what a grammar, a schema or a choice allows.
type Mask interface {
	// Allowed returns a bit set: token i may come next if bit i%64 of word i/64 is set. Tokens
	// past its end are forbidden. The sampler reads it before the next Accept and never keeps it.
	Allowed() []uint64
	// Accept moves past a token that was chosen.
	Accept(id int32)
}

// A FieldError names the option that is wrong, as HTTP requests and flags spell it.
type FieldError struct {
	Field  string // "temperature"
	Reason string // "must be from 0 to 100, is -1"
}

func (e *FieldError) Error() string { return "sample: " + e.Field + " " + e.Reason }

// Validate returns a *FieldError for the first option that makes no sense. vocab bounds the ids in
// LogitBias; 0 leaves them unchecked above.
func (o *Options) Validate(vocab int) error {
	in := func(field string, v, lo, hi float32) error {
		if !(v >= lo && v <= hi) { // NaN too
			return &FieldError{field, fmt.Sprintf("must be from %g to %g, is %g", lo, hi, v)}
		}
		return nil
	}
	for _, err := range []error{
		in("temperature", o.Temperature, 0, 100),
		in("top_p", o.TopP, 0, 1),
		in("min_p", o.MinP, 0, 1),
		in("repetition_penalty", o.RepetitionPenalty, 0, 100),
		in("frequency_penalty", o.FrequencyPenalty, -2, 2),
		in("presence_penalty", o.PresencePenalty, -2, 2),
	} {
		if err != nil {
			return err
		}
	}
	if o.TopK < 0 {
		return &FieldError{"top_k", fmt.Sprintf("must not be negative, is %d", o.TopK)}
	}
	if o.RepeatLastN < 0 {
		return &FieldError{"repeat_last_n", fmt.Sprintf("must not be negative, is %d", o.RepeatLastN)}
	}
	for id, b := range o.LogitBias {
		if id < 0 || vocab > 0 && int(id) >= vocab {
			return &FieldError{"logit_bias", fmt.Sprintf("names token %d; there are %d", id, vocab)}
		}
		if err := in("logit_bias", b, -100, 100); err != nil {
			return err
		}
	}
	return nil
}

// A Sampler chooses the tokens of one sequence. It is not safe for concurrent use.
type Sampler struct {
	o   Options
	rng *rand.Rand

	adjusted []float32 // [V] the logits after steps 1–4, when there are any
	cand     []candidate
	seen     []uint32 // [V] == stamp: the token's repetition penalty is done
	stamp    uint32
	count    []int32 // [V] accepted tokens, within RepeatLastN
	accepted []int32 // those tokens in order; a ring of RepeatLastN if that is set
	oldest   int
	distinct []int32 // tokens whose count may be above 0
}

type candidate struct {
	logit float32
	id    int32
	p     float64 // exp((logit − max)/T)
}

// New returns a sampler. It panics if o.Validate(0) fails.
func New(o Options) *Sampler {
	if err := o.Validate(0); err != nil {
		panic(err)
	}
	return &Sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15))}
}

// Options returns what the sampler was made with.
func (s *Sampler) Options() Options { return s.o }

// SetMask replaces the mask: what may come next is restricted from here on, or, with nil, no longer.
func (s *Sampler) SetMask(m Mask) { s.o.Mask = m }

// TopNeeded returns how many of the largest logits decide the next token, so that an engine may
// skip computing the others: NextTop on that many returns what Next on all of them would. 0 means
// that all logits are needed, because a penalty, a bias, a mask or an unbounded draw looks at them.
func (s *Sampler) TopNeeded() int {
	if s.adjusts() {
		return 0
	}
	return s.TopNeededAfter(nil)
}

// TopNeededAfter is TopNeeded for NextTopAfter, which also knows the history: as long as penalties and
// biases only lower logits, it is enough to have so many more as there are tokens that they can lower.
func (s *Sampler) TopNeededAfter(history []int32) int {
	n := 1
	if s.o.Temperature != 0 {
		n = s.o.TopK
	}
	if n == 0 || s.o.Mask != nil || s.o.FrequencyPenalty < 0 || s.o.PresencePenalty < 0 {
		return 0
	}
	if s.repeats() {
		if s.o.RepetitionPenalty < 1 {
			return 0
		}
		n += len(s.window(history))
	}
	if s.counts() {
		n += len(s.distinct)
	}
	for _, b := range s.o.LogitBias {
		if b > 0 {
			return 0
		}
		n++
	}
	return n
}

// window is the part of the history that the repetition penalty looks at.
func (s *Sampler) window(history []int32) []int32 {
	if n := s.o.RepeatLastN; n > 0 && len(history) > n {
		return history[len(history)-n:]
	}
	return history
}

func (s *Sampler) adjusts() bool {
	return s.repeats() || s.counts() || len(s.o.LogitBias) > 0 || s.o.Mask != nil
}
func (s *Sampler) repeats() bool { return s.o.RepetitionPenalty != 0 && s.o.RepetitionPenalty != 1 }
func (s *Sampler) counts() bool  { return s.o.FrequencyPenalty != 0 || s.o.PresencePenalty != 0 }

// Next chooses a token.
//
//	logits   [V] float32  read only; NaN counts as −∞
//	history  [n] int32    every token so far, prompt included: what the repetition penalty looks at
//
// It returns −1 if no token is possible: all are masked, or no logit is a number above −∞. It
// remembers nothing: call Accept with the token that is kept.
func (s *Sampler) Next(logits []float32, history []int32) int32 {
	if s.adjusts() {
		logits = s.adjust(logits, history)
	}
	best := argmax(logits)
	if best < 0 || s.o.Temperature == 0 {
		return best
	}
	if math.IsInf(float64(logits[best]), 1) {
		return best
	}
	// Below this the weight, e^−50 of the likeliest, is lost in the rounding of a float64 sum
	// over 2^18 tokens: leaving it out changes nothing.
	floor := logits[best] - 50*s.o.Temperature
	s.cand = s.cand[:0]
	if s.o.TopK > 0 {
		s.largest(logits, floor, s.o.TopK)
		return s.draw(logits[best])
	}
	for i, l := range logits {
		if l >= floor {
			s.cand = append(s.cand, candidate{logit: l, id: int32(i)})
		}
	}
	return s.draw(logits[best])
}

// NextTop is Next for an engine that returns only the largest logits, in descending order (ties: the
// lowest id first): TopNeeded of them, or the whole vocabulary if that is smaller. It panics if
// TopNeeded is 0.
func (s *Sampler) NextTop(ids []int32, logits []float32) int32 {
	if s.adjusts() {
		panic("sample: NextTop, and a penalty or bias needs the history")
	}
	return s.NextTopAfter(ids, logits, nil)
}

// NextTopAfter is NextTop with the history, for TopNeededAfter logits.
func (s *Sampler) NextTopAfter(ids []int32, logits []float32, history []int32) int32 {
	if s.TopNeededAfter(history) == 0 || len(ids) == 0 || len(logits) != len(ids) {
		panic(fmt.Sprintf("sample: %d ids and %d logits, needs %d", len(ids), len(logits), s.TopNeededAfter(history)))
	}
	s.cand = s.cand[:0]
	if !s.repeats() {
		history = nil
	}
	history = s.window(history)
	for i, l := range logits {
		id := ids[i]
		if slices.Contains(history, id) {
			l = s.repeated(l)
		}
		if int(id) < len(s.count) && s.count[id] > 0 {
			l -= s.penalty(s.count[id])
		}
		if l += s.o.LogitBias[id]; l > float32(math.Inf(-1)) {
			s.cand = append(s.cand, candidate{logit: l, id: id})
		}
	}
	if len(s.cand) == 0 {
		return -1
	}
	slices.SortFunc(s.cand, order)
	best := s.cand[0]
	if s.o.Temperature == 0 || math.IsInf(float64(best.logit), 1) {
		return best.id
	}
	s.cand = s.cand[:min(s.o.TopK, len(s.cand))]
	for s.cand[len(s.cand)-1].logit < best.logit-50*s.o.Temperature {
		s.cand = s.cand[:len(s.cand)-1]
	}
	return s.draw(best.logit)
}

// repeated is step 1 for one logit, penalty what step 2 takes off for n occurrences.
func (s *Sampler) repeated(l float32) float32 {
	if l > 0 {
		return l / s.o.RepetitionPenalty
	}
	return l * s.o.RepetitionPenalty
}

func (s *Sampler) penalty(n int32) float32 {
	return float32(n)*s.o.FrequencyPenalty + s.o.PresencePenalty
}

// Accept notes a token that was kept: the frequency and presence penalties count it, and the mask
// moves past it.
func (s *Sampler) Accept(id int32) {
	if s.o.Mask != nil {
		s.o.Mask.Accept(id)
	}
	if !s.counts() || id < 0 {
		return
	}
	if int(id) >= len(s.count) {
		s.count = append(s.count, make([]int32, int(id)+1-len(s.count))...)
	}
	if s.o.RepeatLastN > 0 {
		if len(s.accepted) < s.o.RepeatLastN {
			s.accepted = append(s.accepted, id)
		} else {
			s.count[s.accepted[s.oldest]]--
			s.accepted[s.oldest] = id
			s.oldest = (s.oldest + 1) % s.o.RepeatLastN
		}
	}
	if s.count[id] == 0 {
		s.remember(id)
	}
	s.count[id]++
}

// remember adds id to distinct, dropping ids whose count fell to 0 when the slice would grow.
func (s *Sampler) remember(id int32) {
	for _, d := range s.distinct {
		if d == id {
			return
		}
	}
	if len(s.distinct) == cap(s.distinct) {
		kept := s.distinct[:0]
		for _, d := range s.distinct {
			if s.count[d] > 0 {
				kept = append(kept, d)
			}
		}
		s.distinct = kept
	}
	s.distinct = append(s.distinct, id)
}

// adjust runs steps 1–4 on a copy.
func (s *Sampler) adjust(logits []float32, history []int32) []float32 {
	if cap(s.adjusted) < len(logits) {
		s.adjusted = make([]float32, len(logits))
	}
	l := s.adjusted[:len(logits)]
	copy(l, logits)
	if s.repeats() {
		if len(s.seen) < len(l) {
			s.seen, s.stamp = make([]uint32, len(l)), 0
		}
		s.stamp++
		if s.stamp == 0 { // after 2^32 tokens
			clear(s.seen)
			s.stamp = 1
		}
		for _, id := range s.window(history) {
			if uint(id) >= uint(len(l)) || s.seen[id] == s.stamp {
				continue
			}
			s.seen[id] = s.stamp
			l[id] = s.repeated(l[id])
		}
	}
	for _, id := range s.distinct {
		if n := s.count[id]; n > 0 && int(id) < len(l) {
			l[id] -= s.penalty(n)
		}
	}
	for id, b := range s.o.LogitBias {
		if int(id) < len(l) {
			l[id] += b
		}
	}
	if s.o.Mask != nil {
		forbid(l, s.o.Mask.Allowed())
	}
	return l
}

// forbid sets every logit whose bit is not set to −∞.
func forbid(l []float32, allowed []uint64) {
	minf := float32(math.Inf(-1))
	for w := 0; w*64 < len(l); w++ {
		var bits uint64
		if w < len(allowed) {
			bits = allowed[w]
		}
		if bits == math.MaxUint64 {
			continue
		}
		part := l[w*64 : min(w*64+64, len(l))]
		for i := range part {
			if bits>>i&1 == 0 {
				part[i] = minf
			}
		}
	}
}

// argmax returns the first index of the largest number above −∞, or −1.
func argmax(l []float32) int32 {
	best, max := int32(-1), float32(math.Inf(-1))
	for i, v := range l {
		if v > max {
			best, max = int32(i), v
		}
	}
	return best
}

// largest makes s.cand the k largest logits from floor up, in descending order.
func (s *Sampler) largest(logits []float32, floor float32, k int) {
	c := s.cand
	for i, l := range logits {
		switch {
		case !(l >= floor):
		case len(c) < k:
			if c = append(c, candidate{logit: l, id: int32(i)}); len(c) == k {
				heapify(c, after)
				floor = c[0].logit
			}
		case l > floor: // at == floor the id is higher than any kept one's
			c[0] = candidate{logit: l, id: int32(i)}
			sift(c, 0, after)
			floor = c[0].logit
		}
	}
	slices.SortFunc(c, order)
	s.cand = c
}

// draw runs steps 7–9 on s.cand, which is not empty.
func (s *Sampler) draw(max float32) int32 {
	c, t := s.cand, float64(s.o.Temperature)
	var sum float64
	for i := range c {
		c[i].p = math.Exp((float64(c[i].logit) - float64(max)) / t)
		sum += c[i].p
	}
	if p := float64(s.o.TopP); p > 0 && p < 1 {
		c, sum = nucleus(c, p*sum)
	}
	if m := float64(s.o.MinP); m > 0 {
		kept := c[:0]
		sum = 0
		for _, x := range c {
			if x.p >= m { // the likeliest has p = 1
				kept = append(kept, x)
				sum += x.p
			}
		}
		c = kept
	}
	u := s.rng.Float64() * sum
	for _, x := range c {
		if u < x.p {
			return x.id
		}
		u -= x.p
	}
	for i := len(c) - 1; ; i-- { // u was within rounding of sum
		if c[i].p > 0 {
			return c[i].id
		}
	}
}

// before orders candidates from likely to unlikely, ties by id; after is the reverse.
func before(a, b *candidate) bool {
	return a.logit > b.logit || a.logit == b.logit && a.id < b.id
}
func after(a, b *candidate) bool { return before(b, a) }

// order is before for sorting.
func order(a, b candidate) int {
	if before(&a, &b) {
		return -1
	}
	return 1
}

// nucleus returns the shortest prefix, likeliest first, that weighs at least want, and its weight.
func nucleus(c []candidate, want float64) (kept []candidate, sum float64) {
	heapify(c, before)
	n := len(c)
	for n > 0 {
		n--
		c[0], c[n] = c[n], c[0]
		sift(c[:n], 0, before)
		if sum += c[n].p; sum >= want {
			break
		}
	}
	c = c[n:]
	slices.Reverse(c)
	return c, sum
}

// heapify and sift keep a binary heap whose root comes first by the order first.
func heapify(c []candidate, first func(a, b *candidate) bool) {
	for i := len(c)/2 - 1; i >= 0; i-- {
		sift(c, i, first)
	}
}

func sift(c []candidate, i int, first func(a, b *candidate) bool) {
	for {
		child := 2*i + 1
		if child >= len(c) {
			return
		}
		if child+1 < len(c) && first(&c[child+1], &c[child]) {
			child++
		}
		if !first(&c[child], &c[i]) {
			return
		}
		c[i], c[child] = c[child], c[i]
		i = child
	}
}
