package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/mapped"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
)

// ErrMissing is in the error for a tensor that the model needs and the file does not have.
var ErrMissing = errors.New("missing tensor")

// Options for Open; nil is the default.
type Options struct {
	// I2SLayout is how an i2_s tensor lies in a GGUF file: "" guesses, "x86", "arm" and "x4" say.
	I2SLayout string
}

// Set is the named tensors of one model. Its methods may be used from several goroutines.
type Set struct {
	path    string
	folder  *folder
	blobs   []*blob
	tensors map[string]*tensor // by the name in the file
	names   []string           // in file order

	hfConfig []byte
	quant    *Quantization
	mlx      *mlxConfig     // nil: not quantised by MLX
	nested   bool           // of a Hugging Face folder of a model that sees images, too: the text model's names begin with nestedPrefix
	bare     bool           // of a Hugging Face folder: names lack "model." in front, as those of a model without a head
	gguf     *gguf.File     // its metadata: of a split model, the first part's
	parts    []*gguf.File   // all of a split model, or the one
	arch     string         // general.architecture
	i2s      ternary.Format // of i2_s tensors, 0 when there are none
	notes    []string
}

// nestedPrefix is in front of the names of the text model inside another.
const nestedPrefix = "model.language_model."

// tensor is where one tensor lies.
type tensor struct {
	file  string // for errors
	typ   gguf.Type
	dtype safetensors.DType // HF only
	shape []int
	data  []byte
	of    *tensor // the tensor that this is a part of, nil: a whole one
	scale float32 // of a ternary tensor in full, 0 when the file does not say: ScalesKey
}

// Quantization is quantization_config of a Hugging Face config.json.
// Source: transformers utils/quantization_config.py, BitNetQuantConfig.
type Quantization struct {
	Method              string   `json:"quant_method"`
	LinearClass         string   `json:"linear_class"`
	Mode                string   `json:"quantization_mode"`
	UseRMSNorm          bool     `json:"use_rms_norm"`
	RMSNormEps          float64  `json:"rms_norm_eps"`
	ModulesToNotConvert []string `json:"modules_to_not_convert"`
}

// dividesScale says which way the stored weight_scale goes: the linear class "bitlinear", the default, stores
// 1/mean|W| and divides by it; "autobitlinear" stores mean|W| and multiplies. Source: integrations/bitnet.py.
func (q *Quantization) dividesScale() bool { return q == nil || q.LinearClass != "autobitlinear" }

// Class is linear_class, or its default.
func (q *Quantization) Class() string {
	if q.LinearClass == "" {
		return "bitlinear"
	}
	return q.LinearClass
}

// ModeName is quantization_mode, or its default.
func (q *Quantization) ModeName() string {
	if q.Mode == "" {
		return "offline"
	}
	return q.Mode
}

// Online says whether the folder holds masters, which are quantised when they are loaded.
func (q *Quantization) Online() bool { return q.Class() == "autobitlinear" && q.ModeName() == "online" }

// Packs says whether the folder can hold ternary weights packed only: class "bitlinear" has no other form.
func (q *Quantization) Packs() bool { return q.Class() == "bitlinear" }

// Check refuses a class or mode that transformers does not know.
func (q *Quantization) Check() error {
	if c := q.Class(); c != "bitlinear" && c != "autobitlinear" {
		return fmt.Errorf("quantization_config.linear_class %q is not known; known: bitlinear, autobitlinear", c)
	}
	if m := q.ModeName(); m != "offline" && m != "online" {
		return fmt.Errorf("quantization_config.quantization_mode %q is not known; known: offline, online", m)
	}
	return nil
}

// Open opens a Hugging Face folder, or one .safetensors file in such a folder, or a .gguf file; any part of a model in
// several .gguf files opens all of it.
func Open(path string, opt *Options) (_ *Set, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	if opt == nil {
		opt = &Options{}
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	if st.IsDir() {
		return openFolder(&folder{dir: path, name: path})
	}
	if err := infile.Check(path, st); err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gguf":
		return openGGUF(path, opt)
	case ".safetensors":
		return openFolder(&folder{dir: filepath.Dir(path), name: filepath.Dir(path)})
	case ".bin", ".pt", ".pth":
		return nil, pickleError(path)
	case ".ckpt":
		return nil, fmt.Errorf("weights: %s: a checkpoint and not a model folder; of one of trit train, trit train export makes one (--format hf-bf16 to train on from)", path)
	}
	if isGGUF(path) {
		return openGGUF(path, opt)
	}
	return nil, fmt.Errorf("weights: %s: neither a model folder (config.json and *.safetensors) nor a GGUF file", path)
}

// OpenFS opens a Hugging Face folder inside a file system, such as an embedded one; name is for errors.
func OpenFS(fsys fs.FS, name string) (_ *Set, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	return openFolder(&folder{fsys: fsys, name: name})
}

func pickleError(path string) error {
	return fmt.Errorf("weights: %s: pickled PyTorch weights can run code when they are read, so they are not; "+
		"save the model as safetensors (transformers: save_pretrained) and open that", path)
}

func isGGUF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	n, _ := f.Read(magic[:])
	return n == 4 && string(magic[:]) == "GGUF"
}

func openFolder(f *folder) (set *Set, err error) {
	s := &Set{path: f.name, folder: f, tensors: map[string]*tensor{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.readConfig(); err != nil {
		return nil, err
	}
	files, err := s.shards()
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		b, err := f.open(name)
		if err != nil {
			return nil, err
		}
		s.blobs = append(s.blobs, b)
		sf, err := safetensors.Read(newReaderAt(b.data), int64(len(b.data)), b.name)
		if err != nil {
			return nil, err
		}
		for _, t := range sf.Tensors {
			if other, dup := s.tensors[t.Name]; dup {
				return nil, fmt.Errorf("weights: %s: tensor %q is in %s as well", b.name, t.Name, other.file)
			}
			s.tensors[t.Name] = &tensor{
				file:  b.name,
				dtype: t.DType,
				typ:   ggmlType(t.DType),
				shape: t.Shape,
				data:  b.data[t.Offset : t.Offset+t.Size],
			}
			s.names = append(s.names, t.Name)
		}
	}
	s.cutExperts()
	s.nested = s.tensors[nestedPrefix+"embed_tokens.weight"] != nil
	s.bare = s.tensors["embed_tokens.weight"] != nil && s.tensors["model.embed_tokens.weight"] == nil
	return s, nil
}

// readConfig reads config.json.
func (s *Set) readConfig() (err error) {
	f := s.folder
	if s.hfConfig, err = f.readText("config.json"); err != nil {
		if errors.Is(err, fs.ErrNotExist) && f.exists("adapter_config.json") {
			return fmt.Errorf("weights: %s: this folder holds adapters and no model; open the model they belong to, with --adapter %s", f.name, f.name)
		}
		if errors.Is(err, fs.ErrNotExist) && f.exists("last.ckpt") {
			return fmt.Errorf("weights: %s: a training run that has written no model yet; open its last.ckpt", f.name)
		}
		if found, _ := filepath.Glob(filepath.Join(f.dir, "*.gguf")); f.dir != "" && errors.Is(err, fs.ErrNotExist) && len(found) > 0 {
			return fmt.Errorf("weights: %s: a folder of GGUF files; open one of them, such as %s", f.name, found[0])
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("weights: %s: no config.json in this folder: it is not a Hugging Face model", f.name)
		}
		return fmt.Errorf("weights: %s: %w", f.path("config.json"), err)
	}
	var c struct {
		Quantization *Quantization `json:"quantization_config"`
		MLX          *mlxConfig    `json:"quantization"`
	}
	if err := json.Unmarshal(s.hfConfig, &c); err != nil {
		return fmt.Errorf("weights: %s: %w", f.path("config.json"), err)
	}
	if s.mlx = c.MLX; s.mlx != nil && c.Quantization != nil && c.Quantization.Method == "" {
		c.Quantization = nil // mlx-lm writes the same under both names
	}
	if s.quant = c.Quantization; s.quant != nil && s.quant.RMSNormEps == 0 {
		s.quant.RMSNormEps = 1e-6 // BitNetQuantConfig's default
	}
	return nil
}

// shards lists the safetensors files of the folder: those of the index, or the one file.
func (s *Set) shards() ([]string, error) {
	const single, index = "model.safetensors", "model.safetensors.index.json"
	if s.folder.exists(single) {
		return []string{single}, nil
	}
	if data, err := s.folder.readText(index); err == nil {
		idx, err := safetensors.ReadIndex(data, s.folder.path(index))
		if err != nil {
			return nil, err
		}
		return idx.Files, nil
	}
	if s.folder.dir != "" {
		if found, _ := filepath.Glob(filepath.Join(s.folder.dir, "*.safetensors")); len(found) == 1 {
			return []string{filepath.Base(found[0])}, nil
		}
	}
	for _, name := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json"} {
		if s.folder.exists(name) {
			return nil, pickleError(s.folder.path(name))
		}
	}
	return nil, fmt.Errorf("weights: %s: no model.safetensors in this folder; download the weights too", s.folder.name)
}

// Close gives back the mappings. Tensors handed out by Dense are invalid afterwards; ternary matrices are not.
func (s *Set) Close() error {
	var errs []error
	for _, b := range s.blobs {
		errs = append(errs, b.close())
	}
	s.blobs = nil
	return errors.Join(errs...)
}

// Path is what was opened.
func (s *Set) Path() string { return s.path }

// ConfigPath is the file that holds the configuration, for errors.
func (s *Set) ConfigPath() string {
	if s.gguf != nil {
		return s.gguf.Name
	}
	return s.folder.path("config.json")
}

// HFConfig is config.json of a Hugging Face folder, nil for a GGUF file.
func (s *Set) HFConfig() []byte { return s.hfConfig }

// Quantization is quantization_config of config.json, nil where there is none.
func (s *Set) Quantization() *Quantization { return s.quant }

// GGUF is the file's directory, of a split model that of its first part; nil for a Hugging Face folder.
func (s *Set) GGUF() *gguf.File { return s.gguf }

// Folder is where a Hugging Face model's other files lie, such as its tokenizer; nil for a GGUF file.
func (s *Set) Folder() fs.FS {
	switch {
	case s.folder == nil:
		return nil
	case s.folder.fsys != nil:
		return s.folder.fsys
	}
	return os.DirFS(s.folder.dir)
}

// Notes are what was guessed about the files and may be wrong, a line each.
func (s *Set) Notes() []string { return s.notes }

// Names are the tensors as the file calls them, in its order.
func (s *Set) Names() []string { return s.names }

// find looks a tensor up by its Hugging Face name.
func (s *Set) find(name string) *tensor {
	if n, ok := s.fileName(name); ok {
		name = n
	}
	return s.tensors[name]
}

// fileName is what the file calls the tensor of that Hugging Face name; ok is false when there is no word for it.
func (s *Set) fileName(name string) (_ string, ok bool) {
	switch {
	case s.gguf != nil:
		return GGUFName(s.arch, name)
	case s.bare:
		return strings.CutPrefix(name, "model.")
	case s.nested && strings.HasPrefix(name, "model."):
		return nestedPrefix + name[len("model."):], true
	}
	return name, true
}

// HFName is the Hugging Face name of a tensor that the file calls name; ok is false when there is none.
func (s *Set) HFName(name string) (_ string, ok bool) {
	switch {
	case s.gguf != nil:
		return HFName(s.arch, name)
	case s.bare:
		return "model." + name, true
	case s.nested && strings.HasPrefix(name, nestedPrefix):
		return "model." + name[len(nestedPrefix):], true
	}
	return name, true
}

// MLX says whether MLX has quantised the folder's matrices.
func (s *Set) MLX() bool { return s.mlx != nil }

// Bare says whether the folder's names lack "model." in front, as those of a model without a head.
func (s *Set) Bare() bool { return s.bare }

// Others are the tensors, as the file calls them and in its order, that are none of those of these Hugging Face names.
func (s *Set) Others(names []string) []string {
	known := map[*tensor]bool{}
	for _, name := range names {
		t := s.find(name)
		if known[t] = true; t != nil && t.of != nil {
			known[t.of] = true
		}
		if module, ok := strings.CutSuffix(name, ".weight"); ok && s.mlx != nil {
			known[s.find(module+".scales")], known[s.find(module+".biases")] = true, true
		}
	}
	var others []string
	for _, name := range s.names {
		if !known[s.tensors[name]] {
			others = append(others, name)
		}
	}
	return others
}

// Stored are the tensor's bytes as the file has them, nil when it is not there.
func (s *Set) Stored(name string) []byte {
	if t := s.find(name); t != nil {
		return t.data
	}
	return nil
}

// Has says whether the tensor is there. Names are those of Hugging Face, or the file's own.
func (s *Set) Has(name string) bool { return s.find(name) != nil }

// Shape is the tensor's shape, row-major; nil when it is not there.
func (s *Set) Shape(name string) []int {
	if t := s.find(name); t != nil {
		return t.shape
	}
	return nil
}

// Bytes is what the tensor takes in the file.
func (s *Set) Bytes(name string) int64 {
	if t := s.find(name); t != nil {
		return int64(len(t.data))
	}
	return 0
}

// Type names how the tensor is stored, e.g. "BF16", "U8" (packed ternary), "i2_s".
func (s *Set) Type(name string) string {
	t := s.find(name)
	switch {
	case t == nil:
		return ""
	case s.gguf != nil:
		return t.typ.String()
	}
	return string(t.dtype)
}

// IsTernary says whether the tensor is stored as ternary codes.
func (s *Set) IsTernary(name string) bool {
	t := s.find(name)
	return t != nil && s.ternaryCodes(t)
}

func (s *Set) ternaryCodes(t *tensor) bool {
	if s.gguf != nil {
		_, ok := s.format(t)
		return ok
	}
	return t.dtype == safetensors.U8
}

// HasTernary says whether any tensor is stored as ternary codes.
func (s *Set) HasTernary() bool {
	for _, t := range s.tensors {
		if s.ternaryCodes(t) {
			return true
		}
	}
	return false
}

func (s *Set) missing(name string) error {
	shown := name
	if n, ok := s.fileName(name); ok {
		shown = n
	}
	return &tensorError{s.path, shown, fmt.Errorf("%w: the configuration describes another model, or the download is not complete", ErrMissing)}
}

// tensorError is an error that names its file and tensor already.
type tensorError struct {
	file, name string
	err        error
}

func (e *tensorError) Error() string {
	return fmt.Sprintf("weights: %s: tensor %q: %v", e.file, e.name, e.err)
}
func (e *tensorError) Unwrap() error { return e.err }

// errorf makes an error that names the tensor, unless the one it wraps names one.
func (t *tensor) errorf(name, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if inner := (*tensorError)(nil); errors.As(err, &inner) {
		return inner
	}
	return &tensorError{t.file, name, err}
}

// Vector reads a tensor of n numbers, such as a norm's weights or a bias, as float32.
func (s *Set) Vector(name string, n int) (_ []float32, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	if len(t.shape) != 1 || t.shape[0] != n {
		return nil, t.errorf(name, "has shape %v; the configuration asks for [%d]", t.shape, n)
	}
	v := make([]float32, n)
	if err := t.floats(v); err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil, t.errorf(name, "element %d is %g: the file is damaged", i, x)
		}
	}
	if hd := s.ropeHead(name); hd > 1 && n%hd == 0 && hd%2 == 0 {
		v = reorder(v, 1, hd)
	}
	if s.gguf != nil && OffsetNorm(s.arch, name) {
		for i := range v {
			v[i]--
		}
	}
	return v, s.scaleBias(name, v)
}

// Numbers reads a tensor of these dimensions as float32; dimensions of 1 are left out of account.
func (s *Set) Numbers(name string, shape ...int) ([]float32, error) {
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	one := func(d int) bool { return d == 1 }
	if want := slices.DeleteFunc(slices.Clone(shape), one); !slices.Equal(slices.DeleteFunc(slices.Clone(t.shape), one), want) {
		return nil, t.errorf(name, "has shape %v; the configuration asks for %v", t.shape, shape)
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	if err := t.floats(v); err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	for i, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil, t.errorf(name, "element %d is %g: the file is damaged", i, x)
		}
	}
	return v, nil
}

// scaleBias multiplies a bias that the file divides by the scale of its matrix: transformers' AutoBitLinear computes
// y = (Ŵx̂ + bias)·weight_scale of packed weights. Source: integrations/bitnet.py.
func (s *Set) scaleBias(name string, v []float32) error {
	module, ok := strings.CutSuffix(name, ".bias")
	if !ok || s.gguf != nil || s.quant.dividesScale() || !s.IsTernary(module+".weight") {
		return nil
	}
	scale, err := s.scalar(module + ".weight_scale")
	for i := range v {
		v[i] *= scale
	}
	return err
}
