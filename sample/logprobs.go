package sample

import "math"

// A Logprob is a token with its natural log-probability.
type Logprob struct {
	ID      int32
	Logprob float64
}

// LogSumExp returns log Σ exp(logits[i]), the normaliser of a softmax at temperature 1: the
// log-probability of token i is logits[i] − LogSumExp(logits). The sum is in float64 and in index
// order, so it does not depend on anything but the logits. It is −∞ if no logit is above −∞.
func LogSumExp(logits []float32) float64 {
	best := argmax(logits)
	if best < 0 {
		return math.Inf(-1)
	}
	max := float64(logits[best])
	if math.IsInf(max, 1) {
		return max
	}
	var sum float64
	for _, l := range logits {
		if d := float64(l) - max; d > -50 { // see Next
			sum += math.Exp(d)
		}
	}
	return max + math.Log(sum)
}

// LogprobOf returns the log-probability of token id; lse is LogSumExp(logits). It is a finite number, −MaxFloat32 at
// least: where all logits are −∞, or one is NaN, there is nothing better to say.
func LogprobOf(logits []float32, id int32, lse float64) float64 {
	if l := float64(logits[id]) - lse; l > -math.MaxFloat32 { // not NaN
		return l
	}
	return -math.MaxFloat32
}

// Logprobs appends the k most likely tokens to dst, likeliest first, ties by id, with their
// log-probabilities before any filter; lse is LogSumExp(logits). There are fewer than k if the
// vocabulary is smaller or logits are −∞.
func Logprobs(dst []Logprob, logits []float32, lse float64, k int) []Logprob {
	start := len(dst)
	k = min(k, len(logits))
	for i, l := range logits {
		n := len(dst) - start
		if k == 0 || !(l > float32(math.Inf(-1))) {
			continue
		}
		v := float64(l)
		if n == k {
			if v <= dst[len(dst)-1].Logprob {
				continue
			}
			dst = dst[:len(dst)-1]
		}
		j := len(dst)
		dst = append(dst, Logprob{})
		for ; j > start && dst[j-1].Logprob < v; j-- {
			dst[j] = dst[j-1]
		}
		dst[j] = Logprob{int32(i), v}
	}
	for i := range dst[start:] {
		dst[start+i].Logprob -= lse
	}
	return dst
}
