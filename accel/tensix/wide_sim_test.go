//go:build linux && (amd64 || arm64)

package tensix

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/safetensors"
)

// synth2B writes a model of BitNet 2B4T's shape with random weights: layers of 2560 × 6912, 20 heads, 5 KV heads.
func synth2B(t *testing.T, layers, vocab int) string {
	t.Helper()
	const D, F, KV = 2560, 6912, 640
	dir := t.TempDir()
	config := fmt.Sprintf(`{"architectures":["BitNetForCausalLM"],"hidden_act":"relu2","hidden_size":%d,"intermediate_size":%d,
"max_position_embeddings":4096,"model_type":"bitnet","rms_norm_eps":1e-05,"num_attention_heads":20,"num_hidden_layers":%d,
"num_key_value_heads":5,"rope_theta":500000.0,"tie_word_embeddings":true,"vocab_size":%d,
"quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear","quantization_mode":"offline"}}`, D, F, layers, vocab)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	tensors := []safetensors.Tensor{
		{Name: "model.embed_tokens.weight", DType: safetensors.BF16, Shape: []int{vocab, D}},
		{Name: "model.norm.weight", DType: safetensors.BF16, Shape: []int{D}},
	}
	for n := range layers {
		p := fmt.Sprintf("model.layers.%d.", n)
		for name, d := range map[string]int{"input_layernorm": D, "post_attention_layernorm": D, "self_attn.attn_sub_norm": D, "mlp.ffn_sub_norm": F} {
			tensors = append(tensors, safetensors.Tensor{Name: p + name + ".weight", DType: safetensors.BF16, Shape: []int{d}})
		}
		for name, s := range map[string][2]int{
			"self_attn.q_proj": {D, D}, "self_attn.k_proj": {KV, D}, "self_attn.v_proj": {KV, D}, "self_attn.o_proj": {D, D},
			"mlp.gate_proj": {F, D}, "mlp.up_proj": {F, D}, "mlp.down_proj": {D, F},
		} {
			tensors = append(tensors,
				safetensors.Tensor{Name: p + name + ".weight_scale", DType: safetensors.BF16, Shape: []int{1}},
				safetensors.Tensor{Name: p + name + ".weight", DType: safetensors.U8, Shape: []int{s[0] / 4, s[1]}})
		}
	}
	var trits [256]byte // any byte to one of four codes 0, 1, 2
	for i := range trits {
		trits[i] = byte(i%3 | i/3%3<<2 | i/9%3<<4 | i/27%3<<6)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	state := uint64(88172645463325252)
	next := func() uint64 {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		return state
	}
	err = safetensors.Write(w, tensors, map[string]string{"format": "pt"}, func(w io.Writer, x safetensors.Tensor) error {
		buf := make([]byte, x.Size)
		switch {
		case x.DType == safetensors.U8:
			for i := range buf {
				buf[i] = trits[next()>>32&255]
			}
		case strings.HasPrefix(x.Name, "model.embed"):
			for i := 0; i+8 <= len(buf); i += 8 { // bf16 of about ±0.01 to ±0.06
				binary.LittleEndian.PutUint64(buf[i:], next()&0x80FF80FF80FF80FF|0x3C003C003C003C00)
			}
		default: // norms 1, scales 1/64
			v := uint16(0x3F80)
			if strings.HasSuffix(x.Name, "_scale") {
				v = 0x3C80
			}
			for i := 0; i < len(buf); i += 2 {
				binary.LittleEndian.PutUint16(buf[i:], v)
			}
		}
		_, err := w.Write(buf)
		return err
	})
	for _, e := range []error{err, w.Flush(), f.Close()} {
		if e != nil {
			t.Fatal(e)
		}
	}
	return dir
}

func usage() (cpu time.Duration, peakMiB int64) {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), r.Maxrss >> 10
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s %d is %g, the CPU engine's %g", what, i, got[i], want[i])
		}
	}
}

// compareWide runs tokens through the CPU engine and the tiles and compares every bit of hidden states and logits,
// and the best tokens.
func compareWide(t *testing.T, s *ttsim.Sim, layers, vocab int, batches []int) {
	dir := synth2B(t, layers, vocab)
	set, cfg := openModel(t, dir)
	defer set.Close()
	cpu, err := model.CPU{}.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	defer cpu.Close()
	b := backend(t, s, chip.Grid{Columns: 12, Rows: 10})
	var d *Device
	b.Opened = func(opened *Device) { d = opened }
	start := time.Now()
	e, err := b.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	t.Logf("%d layers, %d rows of head on %d tiles: loaded in %v", layers, vocab, d.Tiles(), time.Since(start).Round(time.Millisecond))
	for _, batch := range batches {
		for _, kind := range []string{"logits", "best tokens"} {
			before, t0 := d.Stats(), time.Now()
			cpu0, _ := usage()
			run := func(e model.Engine) []model.Input {
				in := make([]model.Input, batch)
				for i := range in {
					c, err := e.NewCache(16)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					in[i] = model.Input{Cache: c, Tokens: []int32{int32((1000*i + 77) % vocab)}, Hidden: make([]float32, cfg.HiddenSize)}
					if kind == "logits" {
						in[i].Logits = make([]float32, vocab)
					} else {
						in[i].Top = make([]model.Scored, 5)
					}
				}
				if err := e.Forward(context.Background(), in); err != nil {
					t.Fatal(err)
				}
				return in
			}
			got := run(e)
			wall := time.Since(t0)
			cpu1, peak := usage()
			want := run(cpu)
			for i := range want {
				sameBits(t, "hidden", got[i].Hidden, want[i].Hidden)
				sameBits(t, "logit", got[i].Logits, want[i].Logits)
				for k := range want[i].Top {
					if got[i].Top[k] != want[i].Top[k] {
						t.Fatalf("best token %d is %v, the CPU engine's %v", k, got[i].Top[k], want[i].Top[k])
					}
				}
			}
			a := d.Stats()
			t.Logf("batch %2d, %s: %d of %d bits-equal; wall %v, cpu %v, peak %d MiB; %d jobs, %d chunks, %d bytes of weights",
				batch, kind, batch, batch, wall.Round(time.Millisecond), (cpu1 - cpu0).Round(time.Millisecond), peak,
				a.Jobs-before.Jobs, a.Chunks-before.Chunks, a.Weights-before.Weights)
			if h, ok := e.(*engine); ok && kind != "logits" {
				t.Logf("head: %d rows of %d scored again on the host", h.head.Rescore, h.head.Rows)
			}
		}
	}
}

// Two layers of 2B4T's true width, on as many tiles as a p150a has.
func TestTwoLayersOf2B4TWidth(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about two minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 2, 4096, []int{1, 8, 32}) })
}

// One whole token of the full 2B4T shape.
func TestOneTokenOf2B4T(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about five minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 30, 128256, []int{1}) })
}
