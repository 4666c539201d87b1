package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/tokenizer"
)

func newSelftestCmd() *cobra.Command {
	var asJSON bool
	var device string
	cmd := &cobra.Command{
		Use:   "selftest",
		Short: "Check that trit computes right on this machine",
		Long: `Compares the code for this processor with the plain definitions, bit for bit; writes and reads back a small
model in every format; and writes the same text with every kernel, format and number of threads.
Exit code 3: something differs.`,
		Example: `  trit selftest
  trit selftest --json
  trit selftest --device tensix`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if device != "cpu" {
				if asJSON {
					return usagef("--json is for the CPU's checks")
				}
				return selftestDevice(cmd.Context(), cmd.OutOrStdout(), device)
			}
			s := &selftest{ctx: cmd.Context(), best: kernel.Tier()}
			if !asJSON {
				s.out = cmd.OutOrStdout()
				fmt.Fprintf(s.out, "trit %s on %s/%s, %d threads, %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), runtime.Version())
				fmt.Fprintf(s.out, "kernels: %s; in use: %s\n", strings.Join(kernel.Tiers(), ", "), s.best)
			}
			err := s.all()
			if asJSON {
				err = errors.Join(err, printJSON(cmd.OutOrStdout(), map[string]any{
					"ok": s.failed == 0 && err == nil, "system": runtime.GOOS + "/" + runtime.GOARCH, "version": version(),
					"threads": runtime.GOMAXPROCS(0), "tiers": kernel.Tiers(), "kernels": s.best, "checks": s.checks,
				}))
			}
			if err == nil && s.failed > 0 {
				err = verifyError{fmt.Errorf("selftest: %d of %d checks failed; please report it with the lines above", s.failed, len(s.checks))}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addDevice(cmd, &device)
	return cmd
}

// selftest is one run of the checks.
type selftest struct {
	ctx    context.Context
	out    io.Writer // nil: silent
	best   string
	checks []check
	failed int
}

type check struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

func (s *selftest) run(name string, f func() error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	start := time.Now()
	err := f()
	if err != nil && s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	c := check{Name: name, OK: err == nil, Seconds: time.Since(start).Seconds()}
	verdict := "ok    "
	if err != nil {
		c.Error, verdict = err.Error(), "FAILED"
		s.failed++
	}
	s.checks = append(s.checks, c)
	if s.out != nil {
		fmt.Fprintf(s.out, "%s %s (%s)", verdict, name, term.Seconds(time.Since(start)))
		if err != nil {
			fmt.Fprintf(s.out, ": %v", err)
		}
		fmt.Fprintln(s.out)
	}
	return nil
}

func (s *selftest) all() error {
	defer kernel.SetTier(s.best)
	for _, tier := range kernel.Tiers() {
		if err := s.run("kernels "+tier+" against the definition", func() error { return compareKernels(tier) }); err != nil {
			return err
		}
	}
	kernel.SetTier(s.best)
	dir, err := os.MkdirTemp("", "trit-selftest-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, preset := range []string{"tiny", "tiny-llama"} {
		if err := s.formats(dir, preset); err != nil {
			return err
		}
	}
	return nil
}

// formats writes a random model in every ternary format and compares what each one writes, and what
// every kernel tier and number of threads makes of the first.
func (s *selftest) formats(dir, preset string) error {
	r, err := convert.NewRandom(preset, 1, 0)
	if err != nil {
		return err
	}
	files, err := r.TokenizerFiles()
	if err != nil {
		return err
	}
	tok, err := tokenizer.FromJSON(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil {
		return err
	}
	kv, err := tok.GGUF()
	if err != nil {
		return err
	}
	var want []int32
	first := ""
	for _, f := range []convert.Format{convert.HFPacked, convert.I2S, convert.IQ2BN, convert.TQ1, convert.TQ2, convert.Q2, convert.IQ1BN} {
		path := filepath.Join(dir, preset+"-"+string(f))
		if f.IsGGUF() {
			path += ".gguf"
		}
		if first == "" {
			first = path
		}
		err := s.run(preset+" as "+string(f), func() error {
			if _, err := convert.Write(s.ctx, path, r, convert.Options{Format: f, Keep: true, Files: files, TokenizerKV: kv, Tokenizer: tok}); err != nil {
				return err
			}
			ids, err := s.write(path, trit.Options{}, 0)
			if err != nil {
				return err
			}
			if want == nil {
				want = ids
			}
			if !slices.Equal(ids, want) {
				return fmt.Errorf("the text is %v, and %v in the formats before", ids, want)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, tier := range kernel.Tiers() {
		for _, how := range []struct {
			threads, chunk int
			text           string
		}{
			{0, 0, "all threads"},
			{1, 7, "one thread, the prompt in pieces of 7"},
		} {
			err := s.run(fmt.Sprintf("%s with kernels %s, %s", preset, tier, how.text), func() error {
				ids, err := s.write(first, trit.Options{Kernels: tier, Threads: how.threads}, how.chunk)
				if err == nil && !slices.Equal(ids, want) {
					err = fmt.Errorf("the text is %v, want %v", ids, want)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return kernel.SetTier(s.best)
}

// write reads 32 tokens, in pieces of chunk tokens unless it is 0, and gives the 24 that follow.
func (s *selftest) write(path string, o trit.Options, chunk int) ([]int32, error) {
	m, err := trit.OpenContext(s.ctx, path, &o)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	session := m.NewSession()
	defer session.Close()
	prompt := make([]int32, 32)
	for i := range prompt {
		prompt[i] = int32(i * i % m.Config().VocabSize)
	}
	if chunk > 0 {
		for len(prompt) > chunk {
			for _, err := range session.GenerateTokens(s.ctx, prompt[:chunk], trit.GenerateOptions{MaxTokens: 1, IgnoreEOS: true}) {
				if err != nil {
					return nil, err
				}
			}
			session.SetTokens(slices.Clone(session.Tokens()[:session.Len()-1]))
			prompt = prompt[chunk:]
		}
	}
	var ids []int32
	for p, err := range session.GenerateTokens(s.ctx, prompt, trit.GenerateOptions{MaxTokens: 24, IgnoreEOS: true}) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, p.Token)
	}
	return ids, nil
}

// compareKernels runs every kernel on random numbers with the tier and with the plain definitions.
func compareKernels(tier string) error {
	for _, n := range []int{16, 48, 100, 256, 1008, 2560} {
		if err := kernel.SetTier("generic"); err != nil {
			return err
		}
		want := kernelResults(n)
		if err := kernel.SetTier(tier); err != nil {
			return err
		}
		got := kernelResults(n)
		for i := range want {
			if !bytes.Equal(got[i].bits, want[i].bits) {
				return fmt.Errorf("%s of length %d differs", want[i].name, n)
			}
		}
	}
	return nil
}

type kernelResult struct {
	name string
	bits []byte
}

// kernelResults is what the kernels in use compute from the same random numbers, n to a row.
func kernelResults(n int) []kernelResult {
	random := rand.New(rand.NewPCG(uint64(n), 1))
	floats := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(random.NormFloat64())
		}
		return x
	}
	var results []kernelResult
	add := func(name string, values ...any) {
		results = append(results, kernelResult{name, fmt.Appendf(nil, "%x", values)})
	}
	x, w := floats(n), floats(n)
	add("Dot", kernel.Dot(x, w))
	add("Sum", kernel.Sum(x))
	add("Max", kernel.Max(x))
	y := make([]float32, n)
	kernel.RMSNorm(y, x, w, 1e-5)
	add("RMSNorm", y)
	cols := kernel.Pad16(n)
	q := make([]int8, cols)
	scale, sum := kernel.QuantizeRow(q, x)
	add("QuantizeRow", scale, sum, q)
	z := slices.Clone(x)
	total := kernel.SoftmaxExp(z, kernel.Max(x))
	add("SoftmaxExp", total, z)
	kernel.SiLUMul(y, x, w)
	add("SiLUMul", y)
	kernel.ReLU2Mul(y, x, w)
	add("ReLU2Mul", y)
	const rows, tokens = 32, 3
	codes := make([]byte, kernel.T16Bytes(rows, n))
	for r := range rows {
		for c := range cols {
			code := byte(1)
			if c < n {
				code = byte(random.IntN(3))
			}
			kernel.PutT16(codes, cols, r, c, code)
		}
	}
	out := make([]int32, rows)
	kernel.TernaryMatVec(out, codes, q, sum)
	add("TernaryMatVec", out)
	var xs []int8
	var sums []int32
	for range tokens {
		_, sum := kernel.QuantizeRow(q, floats(n))
		xs, sums = append(xs, q...), append(sums, sum)
	}
	many := make([]int32, tokens*rows)
	kernel.TernaryMatMul(many, codes, xs, sums, make([]byte, kernel.MatMulScratch(cols)))
	add("TernaryMatMul", many)
	return results
}
