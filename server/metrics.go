package server

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// modelMetrics are what one scheduler counts, labelled with its model.
type modelMetrics struct {
	set   *metrics.Set
	label string

	steps, failures, panics, preemptions *metrics.Counter
	read, written, cached, prompts       *metrics.Counter
	batch, stepTime, wait, ttft, itl     *metrics.Summary
	ended                                map[string]*metrics.Counter

	queued, running, failed   atomic.Int64
	pages, prefixes, capacity atomic.Int64
}

func newModelMetrics(set *metrics.Set, model string, tokenBytes int64) *modelMetrics {
	l := fmt.Sprintf("{model=%q}", model)
	quantiles := []float64{0.5, 0.9, 0.99}
	summary := func(name string) *metrics.Summary { return set.NewSummaryExt(name+l, 5*time.Minute, quantiles) }
	m := &modelMetrics{
		set: set, label: l,
		steps:       set.NewCounter("trit_steps_total" + l),
		failures:    set.NewCounter("trit_step_failures_total" + l),
		panics:      set.NewCounter("trit_panics_total" + l),
		preemptions: set.NewCounter("trit_preemptions_total" + l),
		prompts:     set.NewCounter("trit_prompt_tokens_total" + l),
		cached:      set.NewCounter("trit_prompt_tokens_cached_total" + l),
		read:        set.NewCounter("trit_prompt_tokens_computed_total" + l),
		written:     set.NewCounter("trit_generated_tokens_total" + l),
		batch:       summary("trit_batch_sequences"),
		stepTime:    summary("trit_step_seconds"),
		wait:        summary("trit_queue_seconds"),
		ttft:        summary("trit_time_to_first_token_seconds"),
		itl:         summary("trit_inter_token_seconds"),
		ended:       map[string]*metrics.Counter{},
	}
	for _, how := range []string{"ok", "error", "gone"} {
		m.ended[how] = set.NewCounter(fmt.Sprintf("trit_sequences_total{model=%q,result=%q}", model, how))
	}
	gauge := func(name string, v *atomic.Int64, scale float64) {
		set.NewGauge(name+l, func() float64 { return float64(v.Load()) * scale })
	}
	gauge("trit_model_out_of_service", &m.failed, 1)
	gauge("trit_queue_depth", &m.queued, 1)
	gauge("trit_running_sequences", &m.running, 1)
	gauge("trit_cache_tokens", &m.pages, ledgerPage)
	gauge("trit_cache_prefix_tokens", &m.prefixes, ledgerPage)
	gauge("trit_cache_capacity_tokens", &m.capacity, ledgerPage)
	gauge("trit_cache_bytes", &m.pages, float64(ledgerPage*tokenBytes))
	gauge("trit_cache_capacity_bytes", &m.capacity, float64(ledgerPage*tokenBytes))
	return m
}

func (m *modelMetrics) depth(queued, running int) {
	m.queued.Store(int64(queued))
	m.running.Store(int64(running))
}

func (m *modelMetrics) cache(used, prefixes, capacity int) {
	m.pages.Store(int64(used))
	m.prefixes.Store(int64(prefixes))
	m.capacity.Store(int64(capacity))
}

func (m *modelMetrics) started(wait time.Duration, prompt, cached int) {
	m.wait.Update(wait.Seconds())
	m.prompts.Add(prompt)
	m.cached.Add(cached)
}

func (m *modelMetrics) step(sequences, read, written int, took time.Duration) {
	m.steps.Inc()
	m.batch.Update(float64(sequences))
	m.stepTime.Update(took.Seconds())
	m.read.Add(read)
}

func (m *modelMetrics) finished(s *stream, err error) {
	m.written.Add(s.written)
	if !s.first.IsZero() {
		m.ttft.Update(s.first.Sub(s.queued).Seconds())
		if s.written > 1 {
			m.itl.Update(s.last.Sub(s.first).Seconds() / float64(s.written-1))
		}
	}
	if err != nil {
		m.ended["error"].Inc()
	} else {
		m.ended["ok"].Inc()
	}
}

// rates are tokens per second over the last few seconds, for the live panel.
type rates struct {
	mu      sync.Mutex
	buckets [8]struct {
		second        int64
		read, written int
	}
}

func (r *rates) add(now time.Time, read, written int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.buckets[now.Unix()%8]
	if b.second != now.Unix() {
		b.second, b.read, b.written = now.Unix(), 0, 0
	}
	b.read += read
	b.written += written
}

// perSecond looks at the four seconds before the present one.
func (r *rates) perSecond(now time.Time) (read, written float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.buckets {
		if d := now.Unix() - b.second; d >= 1 && d <= 4 {
			read += float64(b.read) / 4
			written += float64(b.written) / 4
		}
	}
	return read, written
}
