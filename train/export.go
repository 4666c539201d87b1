package train

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/train/nn"
)

// Formats are what Export writes:
//
//	hf-packed  a Hugging Face folder, ternary weights as four codes a byte and a scale
//	hf-bf16    a Hugging Face folder with the master weights in bfloat16, quantised by whoever loads it, to the same codes
//
// Package convert makes GGUF files of either.
var Formats = []string{"hf-packed", "hf-bf16"}

// ExportOptions say what Export writes.
type ExportOptions struct {
	Format string // one of Formats
}

// Export writes the model to a folder.
func (m *Model) Export(dir string, vocab *data.Vocab, o ExportOptions) error {
	if m.lora != nil {
		return fmt.Errorf("train: %s: the run trained adapters; merge them first (Merge), or export them as they are (ExportAdapter)", o.Format)
	}
	if !slices.Contains(Formats, o.Format) {
		return fmt.Errorf("train: no export format %q; there are %s", o.Format, strings.Join(Formats, ", "))
	}
	files, err := m.files(vocab, o.Format == "hf-packed")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	for name, write := range files {
		if err := WriteFile(filepath.Join(dir, name), write); err != nil {
			return err
		}
	}
	return nil
}

// FS is the folder that Export writes as hf-packed, in memory.
func (m *Model) FS(vocab *data.Vocab) (fs.FS, error) {
	files, err := m.files(vocab, true)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b) // the standard library's file system in memory
	for name, write := range files {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			err = write(w)
		}
		if err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
}

type hfConfig struct {
	Architectures         []string       `json:"architectures,omitempty"`
	ModelType             string         `json:"model_type"`
	HiddenSize            int            `json:"hidden_size"`
	IntermediateSize      int            `json:"intermediate_size"`
	NumHiddenLayers       int            `json:"num_hidden_layers"`
	NumAttentionHeads     int            `json:"num_attention_heads"`
	NumKeyValueHeads      int            `json:"num_key_value_heads"`
	HeadDim               int            `json:"head_dim"`
	VocabSize             int            `json:"vocab_size"`
	MaxPositionEmbeddings int            `json:"max_position_embeddings"`
	RMSNormEps            float64        `json:"rms_norm_eps,omitempty"`
	LayerNormEps          float64        `json:"layer_norm_eps,omitempty"`
	RopeTheta             float64        `json:"rope_theta,omitempty"`
	HiddenAct             string         `json:"hidden_act"`
	TieWordEmbeddings     bool           `json:"tie_word_embeddings"`
	AttentionBias         bool           `json:"attention_bias"`
	Precision             string         `json:"precision,omitempty"` // trit-transformer
	BosTokenID            *int           `json:"bos_token_id"`
	EosTokenID            *int           `json:"eos_token_id"`
	TorchDtype            string         `json:"torch_dtype"`
	Quantization          map[string]any `json:"quantization_config,omitempty"`
}

func (m *Model) hfConfig(packed bool) hfConfig {
	c := &m.Config
	h := hfConfig{
		HiddenSize: c.HiddenSize, IntermediateSize: c.IntermediateSize, NumHiddenLayers: c.NumLayers, NumAttentionHeads: c.NumHeads,
		NumKeyValueHeads: c.NumKVHeads, HeadDim: c.headDim(), VocabSize: c.VocabSize, MaxPositionEmbeddings: c.Block,
		RMSNormEps: c.NormEps, RopeTheta: c.RopeTheta, TieWordEmbeddings: c.Tied(), TorchDtype: "bfloat16",
	}
	switch c.Arch {
	case "llama":
		h.Architectures, h.ModelType, h.HiddenAct = []string{"LlamaForCausalLM"}, "llama", "silu"
	case "bitnet":
		h.Architectures, h.ModelType, h.HiddenAct = []string{"BitNetForCausalLM"}, "bitnet", "relu2"
	default:
		h.ModelType, h.HiddenAct, h.LayerNormEps, h.RMSNormEps, h.RopeTheta = "trit-transformer", "gelu", c.NormEps, 0, 0
		h.Precision, h.AttentionBias = c.Precision, true
	}
	if c.Precision == "ternary" {
		mode := "online"
		if packed {
			mode = "offline"
		}
		h.Quantization = map[string]any{"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode}
	}
	return h
}

// files are what a Hugging Face folder of the model consists of.
func (m *Model) files(vocab *data.Vocab, packed bool) (map[string]func(io.Writer) error, error) {
	cfg, err := json.MarshalIndent(m.hfConfig(packed), "", "  ")
	if err != nil {
		return nil, err
	}
	var tensors []safetensors.Tensor
	content := map[string][]byte{}
	add := func(name string, d safetensors.DType, shape []int, b []byte) {
		tensors = append(tensors, safetensors.Tensor{Name: name, DType: d, Shape: shape})
		content[name] = b
	}
	codes := m.matrices()
	for _, p := range m.Params { // wide types first, so that every tensor is aligned
		if mat := codes[p.Name]; packed && mat != nil {
			add(p.Name+"_scale", safetensors.F32, []int{1}, floatBytes(mat.Scale))
		}
		if mat := codes[weightOf(p.Name)]; mat != nil {
			// AutoBitLinear of transformers multiplies the whole product of packed weights by weight_scale, bias included
			// (integrations/bitnet.py). What that gives back is what the other format says, to the last bit.
			bias := slices.Clone(p.W)
			for i := range bias {
				if bias[i] /= mat.Scale[0]; !packed {
					bias[i] *= mat.Scale[0]
				}
			}
			add(p.Name, safetensors.F32, p.Shape, floatBytes(bias))
		}
	}
	for _, p := range m.Params {
		switch mat := codes[p.Name]; {
		case codes[weightOf(p.Name)] != nil || packed && mat != nil:
		case mat != nil:
			add(p.Name, safetensors.BF16, p.Shape, bf16Bytes(ternary.Masters(p.W, mat, 16)))
		default:
			add(p.Name, safetensors.BF16, p.Shape, bf16Bytes(p.W))
		}
	}
	for _, p := range m.Params {
		if mat := codes[p.Name]; packed && mat != nil {
			b, err := ternary.PackHF(mat)
			if err != nil {
				return nil, fmt.Errorf("train: %s: %w", p.Name, err)
			}
			add(p.Name, safetensors.U8, []int{(p.Shape[0] + 3) / 4, p.Shape[1]}, b)
		}
	}
	text := func(b []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(b); return err }
	}
	return map[string]func(io.Writer) error{
		"config.json":    text(append(cfg, '\n')),
		"tokenizer.json": text(vocab.JSON),
		"tokenizer_config.json": text([]byte("{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": " +
			fmt.Sprint(m.Config.Block) + "\n}\n")),
		"model.safetensors": func(w io.Writer) error {
			return safetensors.Write(w, tensors, map[string]string{"format": "pt"}, func(w io.Writer, t safetensors.Tensor) error {
				_, err := w.Write(content[t.Name])
				return err
			})
		},
	}, nil
}

// weightOf names the matrix that a bias belongs to; "" for any other parameter.
func weightOf(name string) string {
	if module, ok := strings.CutSuffix(name, ".bias"); ok {
		return module + ".weight"
	}
	return ""
}

// matrices are the ternary matrices by the name of their parameter: the very codes of the forward pass, and its scale as it is
// where masters are quantised when they are loaded, the reciprocal of a rounded reciprocal (ternary.Quantize), which may be a last bit away.
func (m *Model) matrices() map[string]*ternary.Matrix {
	ms := map[string]*ternary.Matrix{}
	for i := range m.layers {
		for _, l := range m.layers[i].linears() {
			if mat := matrix(l); mat != nil {
				ms[l.W.Name] = mat
			}
		}
	}
	return ms
}

func matrix(l *nn.Linear) *ternary.Matrix {
	codes, scale := l.Codes()
	if !l.W.Ternary {
		return nil
	}
	stride := len(codes) / l.Out
	flat := make([]int8, 0, l.Out*l.In)
	for o := range l.Out {
		flat = append(flat, codes[o*stride:o*stride+l.In]...)
	}
	mat, err := ternary.FromCodes(flat, l.Out, l.In, []float32{1 / (1 / scale)})
	if err != nil {
		panic(err) // codes are −1, 0, 1 by construction
	}
	return mat
}

// bf16Bytes rounds to bfloat16, half to even.
func bf16Bytes(x []float32) []byte {
	b := make([]byte, 0, 2*len(x))
	for _, v := range x {
		u := math.Float32bits(bf16(v))
		b = append(b, byte(u>>16), byte(u>>24))
	}
	return b
}

// bf16 is v as bfloat16.
func bf16(v float32) float32 {
	u := math.Float32bits(v)
	return math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff)
}
