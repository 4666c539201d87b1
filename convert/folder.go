package convert

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/tempfile"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
)

// files writes the files of a Hugging Face folder: tokenizer, config.json, model.safetensors. Each is
// whole when the next one is created.
//
// Packed weights carry their scale as float32 (transformers casts it to the model's type), so that no
// precision is lost; linear_class is autobitlinear, whose weight_scale multiplies.
func (w *writer) files(list []entry, create func(name string) (io.Writer, error)) error {
	c := w.src.Config()
	tensors := make([]safetensors.Tensor, 0, len(list))
	byName := map[string]entry{}
	scales := map[string]float32{}
	for _, e := range list {
		t := safetensors.Tensor{Name: w.hfName(e.name), DType: w.floatType(e), Shape: []int{e.cols}}
		if w.dividedBias(e) {
			t.DType = safetensors.F32 // the quotient is no bfloat16 number
		}
		if e.kind != vector {
			t.Shape = []int{e.rows, e.cols}
		}
		if ternaryEntry(c, e) && w.o.Format == HFPacked {
			t.DType, t.Shape = safetensors.U8, []int{(e.rows + 3) / 4, e.cols}
			tensors = append(tensors, t, safetensors.Tensor{Name: e.name + "_scale", DType: safetensors.F32, Shape: []int{1}})
		} else {
			tensors = append(tensors, t)
		}
		byName[t.Name] = e
	}
	for _, t := range tensors {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		w.total += n * elementBytes(t.DType)
	}
	config, err := w.hfConfig(c)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(w.o.Files)) {
		if err := put(create, name, w.o.Files[name]); err != nil {
			return err
		}
	}
	if err := put(create, "config.json", config); err != nil {
		return err
	}
	if err := putPooling(create, c.Pooling); err != nil {
		return err
	}
	f, err := create("model.safetensors")
	if err != nil {
		return err
	}
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
}

func put(create func(string) (io.Writer, error), name string, data []byte) error {
	f, err := create(name)
	if err == nil {
		_, err = f.Write(data)
	}
	return err
}

// putPooling writes how an embedding model makes its vectors, in the files of sentence-transformers.
func putPooling(create func(string) (io.Writer, error), p model.Pooling) error {
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
		if err := put(create, name, data); err != nil {
			return err
		}
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

// floatType is how a tensor of floats is stored in a folder.
func (w *writer) floatType(e entry) safetensors.DType {
	t := w.typ
	if w.o.Format == HFPacked {
		t = w.src.Type(e.name)
	}
	switch t {
	case gguf.F16:
		return safetensors.F16
	case gguf.F32:
		return safetensors.F32
	}
	return safetensors.BF16
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
		v, err := w.src.Vector(e.name, e.cols)
		if err != nil {
			return err
		}
		if w.dividedBias(e) {
			m, err := w.projection(e)
			if err != nil {
				return err
			}
			for i := range v {
				v[i] /= m.Scale[0]
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
	case ternaryEntry(w.src.Config(), e) && w.src.HasCodes(e.name):
		m, err := w.src.Ternary(e.name, e.rows, e.cols)
		if err != nil {
			return err
		}
		if len(m.Scale) != 1 {
			return fmt.Errorf("%w: masters have one scale for the matrix", ternary.ErrMixedScales)
		}
		return w.floats(out, masterOf(m), e.rows, e.cols, floatTypeOf(d))
	}
	rows, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	return w.floats(out, rows, e.rows, e.cols, floatTypeOf(d))
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

// master is a matrix of floats that absmean turns into the codes and the scale of m: with a share p of
// the codes not zero, weights ŵ·s/p have the mean magnitude s, and |ŵ/p| ≥ 1 rounds back to ŵ.
type master struct {
	m     *ternary.Matrix
	value float32
	codes []int8
}

func masterOf(m *ternary.Matrix) *master {
	q := make([]int8, m.Cols)
	n := 0
	for r := range m.Rows {
		m.Row(q, r)
		for _, v := range q {
			n += int(v * v)
		}
	}
	p := float64(n) / (float64(m.Rows) * float64(m.Cols))
	if n == 0 {
		p = 1
	}
	return &master{m, float32(float64(m.Scale[0]) / p), q}
}

func (w *master) Row(dst []float32, r int) {
	w.m.Row(w.codes, r)
	for i, q := range w.codes {
		dst[i] = float32(q) * w.value
	}
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
	delete(config, "auto_map") // names Python files that are not here, and transformers has the classes
	delete(config, "quantization_config")
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
			q["use_rms_norm"], q["rms_norm_eps"] = true, eps
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

// atomically writes a file through a temporary one beside it: synced, then renamed, gone on any error.
func atomically(dst string, overwrite bool, write func(io.Writer) error) (size int64, err error) {
	if _, err := os.Lstat(dst); err == nil && !overwrite {
		return 0, fmt.Errorf("%w; remove it or ask to overwrite it", fs.ErrExist)
	}
	f, err := tempfile.Create(dst)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	b := bufio.NewWriterSize(f, 1<<20)
	if err := write(b); err != nil {
		return 0, err
	}
	if err := b.Flush(); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := f.Chmod(0o644); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return st.Size(), os.Rename(f.Name(), dst)
}

// newFolder fills a temporary folder beside dst and then gives it its name. An existing dst is kept
// until then. It is replaced only when it is empty, or when overwrite says so and it is a model's.
func newFolder(dst string, overwrite bool, fill func(create func(name string) (io.Writer, error)) error) (err error) {
	dst = filepath.Clean(dst)
	there, err := os.ReadDir(dst)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(there) > 0 && !overwrite:
		return fmt.Errorf("%w and is not empty; remove it or ask to overwrite it", fs.ErrExist)
	case len(there) > 0 && !slices.ContainsFunc(there, func(d fs.DirEntry) bool { return d.Name() == "config.json" }):
		return fmt.Errorf("%w and holds no model (no config.json), so it is not overwritten", fs.ErrExist)
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	tmp, release, err := tempfile.Mkdir(dst)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(tmp)
		}
		release()
	}()
	f := folderWriter{dir: tmp}
	err = fill(f.create)
	if last := f.finish(); err == nil {
		err = last
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dst); err != nil {
		return err
	}
	return os.Rename(tmp, dst)
}

// folderWriter writes the files of a folder one after another.
type folderWriter struct {
	dir  string
	file *os.File
	*bufio.Writer
}

func (w *folderWriter) create(name string) (io.Writer, error) {
	if err := w.finish(); err != nil {
		return nil, err
	}
	name = filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	w.file, w.Writer = f, bufio.NewWriterSize(f, 1<<20)
	return w, nil
}

// finish brings the current file to the disk.
func (w *folderWriter) finish() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return errors.Join(w.Flush(), f.Sync(), f.Close())
}

// TokenizerFiles are the small files of a folder that travel with a model as they are.
var TokenizerFiles = []string{
	"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
	"chat_template.jinja", "generation_config.json", "vocab.json", "merges.txt", "added_tokens.json",
}

// CopyFiles reads those of TokenizerFiles that a model's folder has.
func CopyFiles(folder fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, n := range TokenizerFiles {
		data, err := fs.ReadFile(folder, n)
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
