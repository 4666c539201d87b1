package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// writeFolder writes a Hugging Face folder: tokenizer, config.json, model.safetensors.
//
// Packed weights carry their scale as float32 (transformers casts it to the model's type), so that no
// precision is lost; linear_class is autobitlinear, whose weight_scale multiplies.
func (w *writer) writeFolder(dst string, list []entry) error {
	c := w.src.Config()
	if err := checkFolder(dst, w.o.Overwrite); err != nil {
		return err
	}
	tensors, byName := w.folderTensors(list)
	files, err := w.smallFiles(c)
	if err != nil {
		return err
	}
	fsys, err := folderOf(files)
	if err != nil {
		return err
	}
	planned, err := weights.PlannedFolder(fsys, dst, tensors)
	if err != nil {
		return err
	}
	if err := w.checkPlan(planned); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o777); err != nil {
		return err
	}
	base := filepath.Base(dst)
	return w.staged(dst, base, list, func(s *stage) error {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := put(s, base+"/"+name, files[name]); err != nil {
				return err
			}
		}
		f, err := s.create(base + "/model.safetensors")
		if err != nil {
			return err
		}
		scales := map[string]float32{}
		out := &counter{w: f}
		err = safetensors.Write(out, tensors, map[string]string{"format": "pt"}, func(out io.Writer, t safetensors.Tensor) error {
			e, ok := byName[t.Name]
			if !ok { // a scale, right behind its codes
				return w.floats(out, vectorRows{scales[t.Name]}, 1, 1, gguf.F32)
			}
			return w.hfTensor(out, e, t.DType, scales)
		})
		w.report.Bytes = out.n
		return err
	}, func(s *stage) error { return s.publishFolder(base, dst) })
}

// folderTensors are the tensors of the folder, and the entries behind them by their name there.
func (w *writer) folderTensors(list []entry) (tensors []safetensors.Tensor, byName map[string]entry) {
	byName = map[string]entry{}
	for _, e := range list {
		if e.name == ropeFreqs {
			continue // a folder has no place for it: checkPlan
		}
		t := safetensors.Tensor{Name: w.hfName(e.name), DType: w.floatType(e), Shape: []int{e.cols}}
		if w.dividedBias(e) {
			t.DType = safetensors.F32 // the quotient is no bfloat16 number
		}
		w.stored[e.name] = floatTypeOf(t.DType)
		if e.kind != vector {
			t.Shape = []int{e.rows, e.cols}
		}
		byName[t.Name] = e
		if ternaryEntry(w.src.Config(), e) && w.o.Format == HFPacked {
			t.DType, t.Shape = safetensors.U8, []int{(e.rows + 3) / 4, e.cols}
			tensors = append(tensors, t, safetensors.Tensor{Name: e.name + "_scale", DType: safetensors.F32, Shape: []int{1}})
		} else {
			tensors = append(tensors, t)
		}
	}
	for _, t := range tensors {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		w.total += n * elementBytes(t.DType)
	}
	return tensors, byName
}

// smallFiles are all files of the folder but the weights.
func (w *writer) smallFiles(c *model.Config) (map[string][]byte, error) {
	files := maps.Clone(w.o.Files)
	if files == nil {
		files = map[string][]byte{}
	}
	var err error
	if files["config.json"], err = w.hfConfig(c); err != nil {
		return nil, err
	}
	return files, poolingFiles(files, c.Pooling)
}

func put(s *stage, name string, data []byte) error {
	f, err := s.create(name)
	if err == nil {
		_, err = f.Write(data)
	}
	return err
}

// poolingFiles adds how an embedding model makes its vectors, in the files of sentence-transformers.
func poolingFiles(files map[string][]byte, p model.Pooling) error {
	if p == "" {
		return nil
	}
	type module struct {
		Index int    `json:"idx"`
		Name  string `json:"name"`
		Path  string `json:"path"`
		Type  string `json:"type"`
	}
	const models = "sentence_transformers.models."
	list := []module{{0, "0", "", models + "Transformer"}, {1, "1", "1_Pooling", models + "Pooling"}, {2, "2", "2_Normalize", models + "Normalize"}}
	mode := map[string]bool{"pooling_mode_lasttoken": p == model.PoolLast, "pooling_mode_mean_tokens": p == model.PoolMean}
	for name, v := range map[string]any{"modules.json": list, "1_Pooling/config.json": mode} {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		files[name] = data
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func elementBytes(d safetensors.DType) int64 {
	switch d {
	case safetensors.U8:
		return 1
	case safetensors.F32:
		return 4
	}
	return 2
}

// floatType is how a tensor of floats is stored in a folder: beside packed weights in a type that keeps it as it is.
func (w *writer) floatType(e entry) safetensors.DType {
	t := w.typ
	if w.o.Format == HFPacked {
		t = w.src.Type(e.name)
	}
	switch t {
	case gguf.F16:
		return safetensors.F16
	case gguf.BF16:
		return safetensors.BF16
	}
	return safetensors.F32
}

func floatTypeOf(d safetensors.DType) gguf.Type {
	switch d {
	case safetensors.F16:
		return gguf.F16
	case safetensors.F32:
		return gguf.F32
	}
	return gguf.BF16
}

func (w *writer) hfTensor(out io.Writer, e entry, d safetensors.DType, scales map[string]float32) error {
	switch {
	case e.kind == vector:
		v, err := w.vector(e)
		if err != nil {
			return err
		}
		if w.dividedBias(e) {
			m, err := w.projection(e)
			if err != nil {
				return err
			}
			for i := range v {
				v[i] = quotient(v[i], m.Scale[0])
			}
		}
		return w.floats(out, vectorRows(v), 1, e.cols, floatTypeOf(d))
	case d == safetensors.U8:
		m, err := w.src.Ternary(e.name, e.rows, e.cols)
		if err != nil {
			return err
		}
		if err := w.quantised(e, m); err != nil {
			return err
		}
		data, err := ternary.PackHF(m)
		if err != nil {
			return err
		}
		scales[e.name+"_scale"] = m.Scale[0]
		if _, err := out.Write(data); err != nil {
			return err
		}
		return w.count(len(data))
	case ternaryEntry(w.src.Config(), e) && (w.src.HasCodes(e.name) || !keepsMasters(w.src.Type(e.name), d)):
		rows, err := w.masters(e, d)
		if err != nil {
			return err
		}
		return w.floats(out, rows, e.rows, e.cols, floatTypeOf(d))
	}
	rows, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	return w.floats(out, rows, e.rows, e.cols, floatTypeOf(d))
}

// keepsMasters says whether numbers of type t stay what they are when they are stored as d.
func keepsMasters(t gguf.Type, d safetensors.DType) bool {
	return d == safetensors.F32 || t == gguf.BF16
}

// masters are floats in the type of the folder that quantise to the codes and the scale of e.
func (w *writer) masters(e entry, d safetensors.DType) (Rows, error) {
	m, err := w.src.Ternary(e.name, e.rows, e.cols)
	if err != nil {
		return nil, err
	}
	if len(m.Scale) != 1 {
		return nil, fmt.Errorf("%w: masters have one scale for the matrix", ternary.ErrMixedScales)
	}
	var own []float32
	if !w.src.HasCodes(e.name) {
		rows, err := w.src.Dense(e.name, e.rows, e.cols)
		if err != nil {
			return nil, err
		}
		own = make([]float32, e.rows*e.cols)
		for r := range e.rows {
			rows.Row(own[r*e.cols:][:e.cols], r)
		}
	}
	bits := 32
	if d == safetensors.BF16 {
		bits = 16
	}
	return matrixRows{ternary.Masters(own, m, bits), e.cols}, nil
}

// matrixRows are a matrix in memory.
type matrixRows struct {
	x    []float32
	cols int
}

func (m matrixRows) Row(dst []float32, r int) { copy(dst, m.x[r*m.cols:][:m.cols]) }

// quotient is the q near x/s for which q·s, rounded, is x, where there is one.
func quotient(x, s float32) float32 {
	q := x / s
	for _, c := range []float32{q, math.Nextafter32(q, 0), math.Nextafter32(q, float32(math.Inf(1)))} {
		if c*s == x {
			return c
		}
	}
	return q
}

// hfName is what a folder calls the tensor: transformers' BitLinear knows the norm in front of it by one name only.
func (w *writer) hfName(name string) string {
	if norm, _ := family.OwnNorm(w.src.Config()); norm != "" {
		return strings.Replace(name, "_proj."+norm+".", "_proj.rms_norm.", 1)
	}
	return name
}

// dividedBias says whether e is a bias that is written divided by its matrix's scale: transformers' AutoBitLinear
// multiplies the whole product by weight_scale, bias included.
func (w *writer) dividedBias(e entry) bool {
	return w.o.Format == HFPacked && strings.HasSuffix(e.name, ".bias") && w.src.Config().IsTernary(e.module)
}

// projection is the matrix that the bias e belongs to.
func (w *writer) projection(e entry) (*ternary.Matrix, error) {
	m, ok := place(w.src.Config(), e.module+".weight")
	if !ok {
		return nil, fmt.Errorf("tensor %q is of no projection", e.name)
	}
	return w.src.Ternary(m.name, m.rows, m.cols)
}

// hfConfig makes config.json.
func (w *writer) hfConfig(c *model.Config) ([]byte, error) {
	config := map[string]any{}
	if w.o.HFConfig != nil {
		if err := json.Unmarshal(w.o.HFConfig, &config); err != nil {
			return nil, fmt.Errorf("config.json: %w", err)
		}
	} else {
		var err error
		if config, err = family.HFConfig(c); err != nil {
			return nil, err
		}
	}
	config["tie_word_embeddings"] = c.TiedHead() // which the files may have had another word in
	delete(config, "auto_map")                   // names Python files that are not here, and transformers has the classes
	delete(config, "quantization_config")
	delete(config, "quantization")                                               // MLX's
	if c.Ternary() && (c.Family != "bitnet-1bitllm" || w.o.Format == HFPacked) { // 1bitLLM's masters say nothing
		mode := "offline"
		if w.o.Format != HFPacked {
			mode = "online"
		}
		q := map[string]any{"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode}
		if floats := c.Floats(); len(floats) != 1 || floats[0] != model.HeadName { // that one is the default
			q["modules_to_not_convert"] = floats
		}
		if norm, eps := family.OwnNorm(c); norm != "" {
			q["use_rms_norm"], q["rms_norm_eps"] = true, family.Decimal(eps)
		}
		config["quantization_config"] = q
	}
	delete(config, "torch_dtype")
	switch w.floatType(entry{name: "model.norm.weight"}) {
	case safetensors.F16:
		config["dtype"] = "float16"
	case safetensors.F32:
		config["dtype"] = "float32"
	default:
		config["dtype"] = "bfloat16"
	}
	return json.MarshalIndent(config, "", "  ")
}

// TokenizerFiles are the small files of a folder that travel with a model as they are.
var TokenizerFiles = []string{
	"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
	"chat_template.jinja", "generation_config.json", "chat_template.json", "vocab.json", "merges.txt", "added_tokens.json",
	"tekken.json",
}

// CopyFiles reads those of TokenizerFiles that a model's folder has.
func CopyFiles(folder fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	templates, err := fs.Glob(folder, "additional_chat_templates/*.jinja")
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Concat(TokenizerFiles, templates) {
		data, err := infile.ReadFS(folder, n, infile.Text)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files[n] = data
	}
	return files, nil
}
