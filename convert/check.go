package convert

import (
	"archive/zip"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/weights"
)

// What is written must say what the source says. Before anything is written, the configuration of the files to be is read as
// any program's that opens them, and compared with the source's; afterwards the files are opened, and everything in them is
// compared with the source: configuration, codes and scales, floats, tokenizer.

// mayDiffer are the fields of a description that need not be the same in what is written, and why. All others are compared
// by value, wherever they are.
var mayDiffer = map[string]string{
	"Config.Name":        "what people call the model; a config.json has no place for it",
	"Config.Notes":       "remarks about the files that were read",
	"Config.MeanInFile":  "a remark about the file that was read: what is written says what is done",
	"Config.KV":          "the choice of who runs the model",
	"Config.Activations": "likewise",
	"Projection.Sparse":  "follows from the activation, and changes no number",
	"Projection.Role":    "what the projection is used for, which changes no number",
}

// fieldKeys are the keys of config.json behind the fields of a description, for errors.
var fieldKeys = map[string]string{
	"Config.Family": "model_type", "Config.HiddenSize": "hidden_size", "Config.VocabSize": "vocab_size", "Config.MaxContext": "max_position_embeddings",
	"Config.Layers": "num_hidden_layers", "Config.Pooling": "pooling", "Attention.Heads": "num_attention_heads", "Attention.KVHeads": "num_key_value_heads",
	"Attention.HeadDim": "head_dim", "Attention.Window": "sliding_window (layer_types)", "Attention.Scalar": "query_pre_attn_scalar",
	"Rope.Theta": "rope_theta", "Rope.Scaling": "rope_scaling", "Rope.Dim": "partial_rotary_factor", "Gated.Activation": "hidden_act",
	"Projection.Arithmetic": "modules_to_not_convert", "Projection.Rotation": "prism.hadamard (rotated weights)", "Embedding.Rotation": "prism.hadamard (rotated embedding)",
	"Embedding.Scale": "embedding_scale", "Layer.Scale": "residual_scale", "Config.HeadScale": "logit_scale", "Projection.Bias": "bias", "Projection.Norm": "use_rms_norm", "Projection.Weights": "tie_word_embeddings",
	"Norm.Eps": "rms_norm_eps",
}

// comparison collects the differences of two descriptions.
type comparison struct {
	seen  map[string]bool // fields that were noted
	found []string
}

// differences are the keys that two descriptions differ in, each with both values and where it is so first.
func differences(want, got *model.Config) []string {
	c := comparison{seen: map[string]bool{}}
	c.walk("Config", "", reflect.ValueOf(*want), reflect.ValueOf(*got))
	return c.found
}

// walk compares two values of one type. field is what they are the value of, at where in the model that is.
func (c *comparison) walk(field, at string, a, b reflect.Value) {
	switch {
	case a.Kind() == reflect.Interface || a.Kind() == reflect.Pointer:
		if a.IsNil() || b.IsNil() || a.Elem().Type() != b.Elem().Type() {
			if a.IsNil() != b.IsNil() || !a.IsNil() {
				c.note(field, at, a, b)
			}
			return
		}
		c.walk(field, at, a.Elem(), b.Elem())
	case a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Struct && a.Len() == b.Len():
		for i := range a.Len() {
			c.walk(field, fmt.Sprintf("layer %d", i), a.Index(i), b.Index(i))
		}
	case a.Kind() == reflect.Struct && a.Type() != reflect.TypeFor[part.RopeScaling]():
		if name := a.FieldByName("Name"); name.IsValid() && at != "" {
			at = name.String()
		}
		for i := range a.NumField() {
			f := a.Type().Field(i)
			inner := a.Type().Name() + "." + f.Name
			if f.IsExported() && mayDiffer[inner] == "" && !equivalent(inner, a, b) {
				c.walk(inner, at, a.Field(i), b.Field(i))
			}
		}
	case !reflect.DeepEqual(a.Interface(), b.Interface()):
		c.note(field, at, a, b)
	}
}

// equivalent says whether a field of two structs, though not equal, means the same.
func equivalent(field string, a, b reflect.Value) bool {
	switch x, y := a.Interface(), b.Interface(); field {
	case "Attention.Scalar":
		return scoreScale(x.(part.Attention)) == scoreScale(y.(part.Attention))
	case "Projection.Arithmetic": // weights alone are floats that are multiplied in another way
		p, q := x.(part.Projection).Arithmetic, y.(part.Projection).Arithmetic
		return p != part.Ternary8 && q != part.Ternary8
	case "Norm.Name": // of one in front of a projection: "norm" or "rms_norm"
		m, isOwn := ownNormOf(x.(part.Norm).Name)
		n, _ := ownNormOf(y.(part.Norm).Name)
		return isOwn && m == n
	case "Rope.Scaling":
		s, t := x.(part.Rope).Scaling, y.(part.Rope).Scaling
		s.AttnFactor, t.AttnFactor = float64(float32(s.AttnFactor)), float64(float32(t.AttnFactor)) // so it is applied
		return reflect.DeepEqual(s, t)
	}
	return false
}

// scoreScale is what an attention's scores are multiplied by.
func scoreScale(a part.Attention) float32 {
	return float32(1 / math.Sqrt(cmp.Or(a.Scalar, float64(a.HeadDim))))
}

// ownNormOf is the projection that a norm is in front of.
func ownNormOf(norm string) (projection string, ok bool) {
	i := strings.LastIndexByte(norm, '.')
	if i < 0 || !strings.HasSuffix(norm[:i], "_proj") && norm[:i] != model.HeadName {
		return "", false
	}
	return norm[:i], true
}

// note adds a difference, the first of its field.
func (c *comparison) note(field, at string, a, b reflect.Value) {
	if c.seen[field] {
		return
	}
	c.seen[field] = true
	key := fieldKeys[field]
	if key == "" {
		key = field
	}
	if at != "" {
		at = " (" + at + ")"
	}
	c.found = append(c.found, fmt.Sprintf("%s is %s and would be read back as %s%s", key, brief(a), brief(b), at))
}

// brief is a value for an error.
func brief(v reflect.Value) string {
	for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "none"
		}
		v = v.Elem()
	}
	s := fmt.Sprintf("%+v", v.Interface())
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		s = fmt.Sprint(v.Len())
	case s == "":
		s = "none"
	case len(s) > 160:
		s = s[:160] + "…"
	}
	return s
}

// checkPlan refuses what the files could not say, before there are any.
func (w *writer) checkPlan(planned *weights.Set) error {
	cfg, err := family.Read(planned)
	if err != nil {
		return fmt.Errorf("%s cannot say what this model is; take another format: %w: %w", w.o.Format, err, errors.ErrUnsupported)
	}
	if d := differences(w.src.Config(), cfg); d != nil {
		return fmt.Errorf("%s cannot say what this model is: %s; take another format: %w", w.o.Format, strings.Join(d, "; "), errors.ErrUnsupported)
	}
	t, err := w.plannedTokenizer(planned)
	if err != nil || t == nil {
		return err
	}
	if d := tokenizerDifference(w.o.Tokenizer, t); d != "" {
		return fmt.Errorf("%s cannot say what this model's tokenizer does: %s; take another format: %w", w.o.Format, d, errors.ErrUnsupported)
	}
	return nil
}

// plannedTokenizer is the tokenizer as the files will have it, nil where there is none to compare with.
func (w *writer) plannedTokenizer(planned *weights.Set) (*tokenizer.Tokenizer, error) {
	if w.o.Tokenizer == nil {
		return nil, nil
	}
	t, err := readTokenizer(planned)
	if err != nil {
		err = fmt.Errorf("the tokenizer as %s has it: %w", w.o.Format, err)
	}
	return t, err
}

func readTokenizer(s *weights.Set) (*tokenizer.Tokenizer, error) {
	if g := s.GGUF(); g != nil {
		return tokenizer.FromGGUF(g.KV)
	}
	return tokenizer.LoadFS(s.Folder())
}

// folderOf are files in memory as a file system.
func folderOf(files map[string][]byte) (fs.FS, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b) // the standard library's file system in memory
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = f.Write(files[name])
		}
		if err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
}

// verify opens what was written and compares all of it with the source.
func (w *writer) verify(path string, list []entry) error {
	set, err := weights.Open(path, nil)
	if err != nil {
		return err
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		return err
	}
	if d := differences(w.src.Config(), cfg); d != nil {
		return errors.New(strings.Join(d, "; "))
	}
	got := FromSet(set, cfg)
	if have := len(got.Names()); have != len(list) {
		return fmt.Errorf("%d tensors instead of %d", have, len(list))
	}
	for _, e := range list {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.verifyTensor(got, e); err != nil {
			return fmt.Errorf("tensor %q: %w", e.name, err)
		}
	}
	if w.o.Tokenizer == nil {
		return nil
	}
	t, err := readTokenizer(set)
	if err != nil {
		return err
	}
	if d := tokenizerDifference(w.o.Tokenizer, t); d != "" {
		return errors.New("the tokenizer: " + d)
	}
	return nil
}

func (w *writer) verifyTensor(got Source, e entry) error {
	c := w.src.Config()
	own, _ := family.OwnNorm(c)
	theirs, _ := family.OwnNorm(got.Config())
	name := strings.Replace(e.name, "_proj."+own+".", "_proj."+theirs+".", 1) // the norm in front of a projection
	switch {
	case e.kind == vector:
		have, err := got.Vector(name, e.cols)
		if err != nil {
			return err
		}
		return w.verifyVector(e, have)
	case ternaryEntry(c, e):
		want, err := w.src.Ternary(e.name, e.rows, e.cols)
		if err != nil {
			return err
		}
		have, err := got.Ternary(name, e.rows, e.cols)
		if err != nil {
			return err
		}
		return w.verifyCodes(e, want, have)
	}
	want, err := w.src.Dense(e.name, e.rows, e.cols)
	if err != nil {
		return err
	}
	have, err := got.Dense(name, e.rows, e.cols)
	if err != nil {
		return err
	}
	return w.verifyRows(e, want, have)
}

// verifyCodes compares codes and scales. Masters may miss the last bits of a scale: ternary.Masters.
func (w *writer) verifyCodes(e entry, want, have *ternary.Matrix) error {
	if !bytes.Equal(want.T16, have.T16) {
		return errors.New("other codes")
	}
	tolerance := 0.0
	if !w.packs() {
		tolerance = 0x1p-22
		if w.typ == gguf.BF16 && e.rows*e.cols < 1<<16 { // too few for their mean to be had in bfloat16
			tolerance = 1e-3
		}
	}
	exact := true
	for r := range e.rows {
		a, b := want.RowScale(r), have.RowScale(r)
		exact = exact && a == b
		if d := math.Abs(float64(b)/float64(a) - 1); !(d <= tolerance) {
			return fmt.Errorf("row %d has scale %g instead of %g", r, b, a)
		}
	}
	w.rounded(e, exact)
	return nil
}

// verifyRows compares a matrix of floats with what the type that it was stored in makes of the source's.
func (w *writer) verifyRows(e entry, want, have Rows) error {
	t := w.stored[e.name]
	x, y, z := make([]float32, e.cols), make([]float32, e.cols), make([]float32, e.cols)
	exact := true
	for r := range e.rows {
		want.Row(x, r)
		have.Row(z, r)
		copy(y, x)
		if _, raw := rawRow(want, t, r); !raw {
			if err := through(y, t); err != nil {
				return err
			}
		}
		for i := range y {
			if y[i] != z[i] {
				return fmt.Errorf("row %d, column %d is %g instead of %g", r, i, z[i], y[i])
			}
			exact = exact && x[i] == y[i]
		}
	}
	w.rounded(e, exact)
	return nil
}

// verifyVector compares a norm's weights or a bias.
func (w *writer) verifyVector(e entry, have []float32) error {
	want, err := w.vector(e)
	if err != nil {
		return err
	}
	t, rounded := w.stored[e.name], slices.Clone(want)
	if err := through(rounded, t); err != nil {
		return err
	}
	exact := slices.Equal(want, have)
	for i, v := range have {
		a, b := rounded[i], v
		switch {
		case w.o.Format.IsGGUF() && weights.OffsetNorm(family.Arch(w.src.Config().Family), e.name):
			a, b = a+1, b+1 // the norm multiplies by 1+w, which is what the file holds: w itself may lose bits that never counted
			exact = true
		case w.dividedBias(e) && math.Abs(float64(a)-float64(b)) <= 0x1p-22*math.Abs(float64(a)):
			continue // divided by a scale and multiplied again
		}
		if a != b {
			return fmt.Errorf("element %d is %g instead of %g", i, b, a)
		}
	}
	w.rounded(e, exact)
	return nil
}

// through makes of x what is left of it when it is stored as t and read again.
func through(x []float32, t gguf.Type) error {
	size, err := t.Size(len(x))
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if err := gguf.Quantize(b, t, x); err != nil {
		return err
	}
	return gguf.Dequantize(x, t, b)
}

// rounded notes a tensor whose numbers the format could not keep.
func (w *writer) rounded(e entry, exact bool) {
	if !exact {
		w.report.Rounded = append(w.report.Rounded, e.name)
	}
}
