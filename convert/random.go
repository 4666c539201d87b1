package convert

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
)

// presets are the shapes of published models, and small ones for tests.
var presets = []struct {
	name, about string
	config      func() *model.Config
}{
	{"bitnet-2b4t", "microsoft/bitnet-b1.58-2B-4T", of(family.BitNet, family.Shape{
		HiddenSize: 2560, IntermediateSize: 6912, NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128,
		VocabSize: 128256, MaxContext: 4096, NormEps: 1e-5, RopeTheta: 500000, Activation: part.ReLU2, TiedHead: true,
	})},
	{"bitnet-large", "1bitLLM/bitnet_b1_58-large", of(family.OneBit, family.Shape{
		HiddenSize: 1536, IntermediateSize: 4096, NumLayers: 24, NumHeads: 16, NumKVHeads: 16, HeadDim: 96,
		VocabSize: 32002, MaxContext: 2048, NormEps: 1e-5, RopeTheta: 10000, Activation: part.SiLU, TiedHead: true,
	})},
	{"bitnet-3b", "1bitLLM/bitnet_b1_58-3B", of(family.OneBit, family.Shape{
		HiddenSize: 3200, IntermediateSize: 8640, NumLayers: 26, NumHeads: 32, NumKVHeads: 32, HeadDim: 100,
		VocabSize: 32002, MaxContext: 2048, NormEps: 1e-5, RopeTheta: 10000, Activation: part.SiLU, TiedHead: true,
	})},
	{"falcon3-1b", "tiiuae/Falcon3-1B-Instruct-1.58bit", of(family.Llama, family.Shape{
		HiddenSize: 2048, IntermediateSize: 8192, NumLayers: 18, NumHeads: 8, NumKVHeads: 4, HeadDim: 256,
		VocabSize: 131072, MaxContext: 8192, NormEps: 1e-6, RopeTheta: 1000042, Activation: part.SiLU,
	})},
	{"llama3-8b", "HF1BitLLM/Llama3-8B-1.58-100B-tokens", of(family.Llama, family.Shape{
		HiddenSize: 4096, IntermediateSize: 14336, NumLayers: 32, NumHeads: 32, NumKVHeads: 8, HeadDim: 128,
		VocabSize: 128256, MaxContext: 8192, NormEps: 1e-5, RopeTheta: 500000, Activation: part.SiLU,
	})},
	{"bitnet-embedding-0.6b", "microsoft/bitnet-embedding-0.6b", embedding(qwen3, "<|endoftext|>", family.Shape{
		HiddenSize: 1024, IntermediateSize: 3072, NumLayers: 28, NumHeads: 16, NumKVHeads: 8, HeadDim: 128,
		VocabSize: 151936, MaxContext: 32768, NormEps: 1e-6, RopeTheta: 1000000, Activation: part.SiLU, TiedHead: true,
	})},
	{"bitnet-embedding-270m", "microsoft/bitnet-embedding-270m", embedding(gemma3(256, 512, 6), "<eos>", family.Shape{
		HiddenSize: 640, IntermediateSize: 2048, NumLayers: 18, NumHeads: 4, NumKVHeads: 1, HeadDim: 256,
		VocabSize: 262144, MaxContext: 32768, RopeTheta: 1000000, NormEps: 1e-6, Activation: part.GELUTanh, TiedHead: true,
	})},
	{"tiny", "2B4T's block, small", of(family.BitNet, family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 2, HeadDim: 64,
		VocabSize: 2048, MaxContext: 2048, NormEps: 1e-5, RopeTheta: 500000, Activation: part.ReLU2, TiedHead: true,
	})},
	{"tiny-llama", "Llama's block at the same size", of(family.Llama, family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 2, HeadDim: 64,
		VocabSize: 2048, MaxContext: 2048, NormEps: 1e-5, RopeTheta: 500000, Activation: part.SiLU,
	})},
	{"tiny-qwen3-embedding", "BitNet-embedding 0.6B's block at the same size", embedding(qwen3, "<|endoftext|>", family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 2, HeadDim: 128,
		VocabSize: 2048, MaxContext: 2048, NormEps: 1e-6, RopeTheta: 1000000, Activation: part.SiLU, TiedHead: true,
	})},
	{"tiny-gemma3-embedding", "BitNet-embedding 270M's block at the same size", embedding(gemma3(128, 64, 2), "<eos>", family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 1, HeadDim: 128,
		VocabSize: 2048, MaxContext: 2048, RopeTheta: 1000000, NormEps: 1e-6, Activation: part.GELUTanh, TiedHead: true,
	})},
	{"tiny-1bitllm", "1bitLLM's block at the same size", of(family.OneBit, family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 4, HeadDim: 64,
		VocabSize: 2048, MaxContext: 2048, NormEps: 1e-5, RopeTheta: 10000, Activation: part.SiLU, TiedHead: true,
	})},
}

// of makes a preset of a family's layers: ternary, the head excepted.
func of(layers func(family.Shape) *model.Config, s family.Shape) func() *model.Config {
	return func() *model.Config {
		c := layers(s)
		c.QuantizeMasters()
		return c
	}
}

// embedding makes one of a model for vectors, with a norm in front of each projection; end ends every text.
func embedding(layers func(family.Shape) *model.Config, end string, s family.Shape) func() *model.Config {
	return func() *model.Config {
		c := layers(s)
		c.Quantize(func(module string) bool { return module == model.HeadName }, "norm", s.NormEps)
		c.Pooling, c.EmbedEnd = model.PoolLast, end
		return c
	}
}

func qwen3(s family.Shape) *model.Config { return family.Qwen3(s, nil, 0) }

// gemma3 are Gemma 3's layers, of which every period-th sees the whole text.
func gemma3(scalar float64, window, period int) func(family.Shape) *model.Config {
	return func(s family.Shape) *model.Config {
		g := family.Gemma3Shape{Shape: s, QueryScalar: scalar, Window: window, LocalTheta: 10000}
		for n := range s.NumLayers {
			g.Sliding = append(g.Sliding, (n+1)%period != 0)
		}
		return family.Gemma3(g)
	}
}

// Presets lists the shapes that NewRandom knows, with a line about each.
func Presets() (names, about []string) {
	for _, p := range presets {
		names, about = append(names, p.name), append(about, p.about)
	}
	return names, about
}

// Random is a Source of seeded random numbers with the shape of a published model: its text means
// nothing, but it takes the memory and the time of the real one. The same seed gives the same model.
//
// Embedding rows are 0.5 + N(0, 1), and the outputs of the blocks add up to four times that
// variance, so that the text follows the blocks rather than repeating the last token. The constant
// in front makes the share of zeros adjustable: see zeroShift.
type Random struct {
	cfg   *model.Config
	seed  uint64
	zeros float64
}

// NewRandom makes a random model of a preset's shape. zeros is the share of exact zeros in front of
// down_proj, for presets with squared ReLU; 0 leaves the natural half.
func NewRandom(preset string, seed uint64, zeros float64) (*Random, error) {
	names, _ := Presets()
	i := slices.Index(names, preset)
	if i < 0 {
		return nil, fmt.Errorf("convert: preset %q is not known; known: %s", preset, strings.Join(names, ", "))
	}
	r := &Random{cfg: presets[i].config(), seed: seed, zeros: zeros}
	r.cfg.Name = preset + "-random"
	if act := family.ShapeOf(r.cfg).Activation; zeros != 0 && act != part.ReLU2 {
		return nil, fmt.Errorf("convert: preset %s has the activation %s, whose output is never exactly 0; zeros are for squared ReLU", preset, act)
	}
	if zeros < 0 || zeros > 0.99 || math.IsNaN(zeros) {
		return nil, fmt.Errorf("convert: a share of zeros of %g; it must be from 0 to 0.99", zeros)
	}
	return r, nil
}

func (r *Random) Config() *model.Config { return r.cfg }

// Cut keeps the first so many layers and so many tokens of the vocabulary, for a model of the same width that is
// sooner made and run. 0 keeps all.
func (r *Random) Cut(layers, vocabulary int) error {
	const leastVocabulary = 512 // bytes, special tokens, a few words
	c := r.cfg
	if layers < 0 || layers > len(c.Layers) {
		return fmt.Errorf("convert: %d layers; %s has 1 to %d", layers, c.Name, len(c.Layers))
	}
	if vocabulary != 0 && (vocabulary < leastVocabulary || vocabulary > c.VocabSize) {
		return fmt.Errorf("convert: a vocabulary of %d; %s can have %d to %d", vocabulary, c.Name, leastVocabulary, c.VocabSize)
	}
	if layers > 0 {
		c.Layers = c.Layers[:layers]
	}
	if vocabulary > 0 {
		c.SetVocabSize(vocabulary)
	}
	return nil
}

func (r *Random) HasCodes(string) bool { return true }

func (r *Random) Type(string) gguf.Type { return gguf.BF16 }

func (r *Random) Names() []string {
	var names []string
	for _, t := range r.cfg.Tensors() {
		if t.Kind != model.Scale {
			names = append(names, t.Name)
		}
	}
	return names
}

const (
	embedMean   = 0.5
	blocksShare = 4.0 // variance that all blocks add to the embedding's 1
	nonZero     = 2.0 / 3
)

// Ternary draws codes with a third of zeros, and a scale that keeps activations of order 1.
func (r *Random) Ternary(name string, rows, cols int) (*ternary.Matrix, error) {
	minus := nonZero / 2
	scale := 1 / math.Sqrt(float64(cols)*nonZero)
	switch {
	case strings.HasSuffix(name, "gate_proj.weight") && r.zeros > 0:
		minus += r.zeroShift(name) / 2
	case strings.HasSuffix(name, "o_proj.weight"), strings.HasSuffix(name, "down_proj.weight"):
		scale *= math.Sqrt(blocksShare / 2 / float64(len(r.cfg.Layers)))
	}
	below, above := uint64(minus*65536), uint64((1-(nonZero-minus))*65536)
	codes := make([]int8, rows*cols)
	base := r.stream(name)
	split(rows, func(lo, hi int) {
		for row := lo; row < hi; row++ {
			state := at(base, row)
			out := codes[row*cols : (row+1)*cols]
			for i := 0; i < len(out); i += 4 {
				u := mix(&state)
				for j := i; j < min(i+4, len(out)); j++ {
					switch v := u & 0xffff; {
					case v < below:
						out[j] = -1
					case v >= above:
						out[j] = 1
					}
					u >>= 16
				}
			}
		}
	})
	// As published: a bfloat16 number, so that a program that keeps scales in that type computes the same.
	published := math.Float32frombits(math.Float32bits(float32(scale)) &^ 0xffff)
	return ternary.FromCodes(codes, rows, cols, []float32{published})
}

// zeroShift is how much likelier −1 must be than +1 in gate_proj for its output to be ≤ 0 with
// probability zeros. With x = (μ + σ·N(0,1))/norm in every dimension, a row with shares p− and p+ gives
//
//	Σŵx ~ N(−D·(p−−p+)·μ, D·(p−+p+)·σ²), so  p−−p+ = Φ⁻¹(zeros)·σ/μ·√((p−+p+)/D)
//
// σ² grows from block to block, see blocksShare.
func (r *Random) zeroShift(name string) float64 {
	layer, _ := layerOf(name)
	sigma := math.Sqrt(1 + blocksShare*(float64(layer)+0.5)/float64(len(r.cfg.Layers)))
	shift := math.Sqrt2 * math.Erfinv(2*r.zeros-1) * sigma / embedMean * math.Sqrt(nonZero/float64(r.cfg.HiddenSize))
	return max(-nonZero, min(nonZero, shift))
}

// Dense gives normal numbers: embedMean + N(0,1) for the embedding.
func (r *Random) Dense(name string, _, cols int) (Rows, error) {
	rows := randomRows{stream: r.stream(name), scale: 1}
	if name == "model.embed_tokens.weight" {
		rows.mean = embedMean
	} else {
		rows.scale = 1 / math.Sqrt(float64(cols))
	}
	return rows, nil
}

// Vector gives a norm's weights, from 0.9 to 1.1. Behind a tied head half of the final norm's are
// negative: a token's own embedding, which the residual stream carries to the end, would otherwise
// make every token its own likeliest successor.
func (r *Random) Vector(name string, n int) ([]float32, error) {
	v := make([]float32, n)
	state := r.stream(name)
	offset := slices.ContainsFunc(r.cfg.Norms(), func(n *part.Norm) bool { return n.Offset && n.Name+".weight" == name })
	for i := range v {
		u := mix(&state)
		v[i] = bf16(0.9 + 0.2*float64(u>>11)/(1<<53))
		if name == "model.norm.weight" && r.cfg.TiedHead() && u&1 == 1 {
			v[i] = -v[i]
		}
		if offset {
			v[i] = bf16(float64(v[i]) - 1)
		}
	}
	return v, nil
}

func (r *Random) stream(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	state := h.Sum64() ^ r.seed*0xd1342543de82ef95
	return mix(&state)
}

type randomRows struct {
	stream      uint64
	mean, scale float64
}

// Row draws row i: sums of four uniform numbers, close enough to normal.
func (r randomRows) Row(dst []float32, i int) {
	state := at(r.stream, i)
	k := r.scale * math.Sqrt(3) / 65536
	for j := range dst {
		u := mix(&state)
		sum := float64(u&0xffff+u>>16&0xffff+u>>32&0xffff+u>>48) - 2*65535
		dst[j] = bf16(r.mean + k*sum)
	}
}

// at is the state that row i of a stream starts from. Neighbouring states would give streams that
// repeat each other one step later.
func at(stream uint64, i int) uint64 {
	state := stream ^ uint64(i)
	return mix(&state)
}

// bf16 rounds to what bfloat16 can hold, the type that Random claims.
func bf16(v float64) float32 {
	return math.Float32frombits((math.Float32bits(float32(v)) + 0x8000) &^ 0xffff)
}

// mix is the generator splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
func mix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// split calls fn for parts of [0, n) on all cores.
func split(n int, fn func(lo, hi int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { fn(i*n/workers, (i+1)*n/workers) })
	}
	wg.Wait()
}

// TokenizerFiles makes a byte-level tokenizer of the model's vocabulary size for a random model:
// 256 bytes, then invented words with the merges that make them, then the special tokens of
// Llama 3 and BitNet 2B4T with that model's kind of template.
func (r *Random) TokenizerFiles() (map[string][]byte, error) {
	specials := []string{"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"}
	v := r.cfg.VocabSize
	vocab := make(map[string]int, v)
	for b := range 256 {
		vocab[byteName(byte(b))] = len(vocab)
	}
	words := v - len(specials)
	merges := invent(vocab, words)
	type added struct {
		ID         int    `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	var list []added
	decoder := map[string]any{}
	for i, s := range specials {
		list = append(list, added{ID: words + i, Content: s, Special: true})
		decoder[fmt.Sprint(words+i)] = map[string]any{"content": s, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	begin := map[string]any{"SpecialToken": map[string]any{"id": specials[0], "type_id": 0}}
	text := func(id string, n int) map[string]any {
		return map[string]any{"Sequence": map[string]any{"id": id, "type_id": n}}
	}
	tok := map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": list, "normalizer": nil,
		"pre_tokenizer": byteLevel, "decoder": byteLevel,
		"post_processor": map[string]any{
			"type": "TemplateProcessing", "single": []any{begin, text("A", 0)}, "pair": []any{begin, text("A", 0), begin, text("B", 1)},
			"special_tokens": map[string]any{specials[0]: map[string]any{"id": specials[0], "ids": []int{words}, "tokens": []string{specials[0]}}},
		},
		"model": map[string]any{
			"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
		},
	}
	config := map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0], "eos_token": specials[1], "added_tokens_decoder": decoder,
		"clean_up_tokenization_spaces": false, "model_max_length": r.cfg.MaxContext,
		"chat_template": "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
	}
	files := map[string][]byte{}
	for name, value := range map[string]any{
		"tokenizer.json": tok, "tokenizer_config.json": config,
		"generation_config.json": map[string]any{"bos_token_id": words, "eos_token_id": []int{words + 1, words + 2}},
	} {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		files[name] = data
	}
	return files, nil
}

// byteName is how byte-level vocabularies write a byte: itself where it is printable Latin-1, else
// one of the characters from U+0100 on, in order. Source: GPT-2's encoder.py, bytes_to_unicode.
func byteName(b byte) string {
	printable := func(c int) bool { return c >= '!' && c <= '~' || c >= 0xa1 && c <= 0xac || c >= 0xae }
	if printable(int(b)) {
		return string(rune(b))
	}
	n := 0
	for c := range int(b) {
		if !printable(c) {
			n++
		}
	}
	return string(rune(0x100 + n))
}

// invent fills a byte-level vocabulary up to size with words of invented syllables, and returns the merges that make them, in
// their order.
func invent(vocab map[string]int, size int) []string {
	var merges, words []string
	add := func(a, b string) bool {
		_, dup := vocab[a+b]
		if dup || len(vocab) >= size {
			return false
		}
		merges = append(merges, a+" "+b)
		vocab[a+b] = len(vocab)
		words = append(words, a+b)
		return true
	}
	for _, c := range "bcdfghklmnprstvwz" {
		for _, v := range "aeiou" {
			add(string(c), string(v))
		}
	}
	syllables := slices.Clone(words)
	for _, s := range syllables {
		for _, c := range "lmnrst" {
			add(s, string(c))
		}
	}
	syllables = slices.Clone(words)
	for _, s := range syllables {
		add("Ġ", s)
	}
	state := uint64(1)
	for len(vocab) < size && len(words) > 0 {
		w := words[mix(&state)%uint64(len(words))]
		if len(w) > 9 {
			w = syllables[mix(&state)%uint64(len(syllables))]
		}
		add(w, syllables[mix(&state)%uint64(len(syllables))])
	}
	return merges
}
