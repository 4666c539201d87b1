package convert

import (
	"archive/zip"
	"bytes"
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
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/weights"
)

// What is written must say what the source says. Before anything is written, the configuration of the files to be is read as
// any program's that opens them, and compared with the source's; afterwards the files are opened, and everything in them is
// compared with the source: configuration, codes and scales, floats, tokenizer.

// mayDiffer are the fields of a configuration that need not be the same in what is written, and why. All others are compared
// by value.
var mayDiffer = map[string]string{
	"Name":       "what people call the model; a config.json has no place for it",
	"Notes":      "remarks about the files that were read",
	"MeanInFile": "a remark about the file that was read: what is written says what is done",
	"KV":         "the choice of who runs the model",
}

// fieldKeys are the keys of config.json behind the fields of a configuration, for errors.
var fieldKeys = map[string]string{
	"HiddenSize": "hidden_size", "IntermediateSize": "intermediate_size", "NumLayers": "num_hidden_layers", "NumHeads": "num_attention_heads",
	"NumKVHeads": "num_key_value_heads", "HeadDim": "head_dim", "VocabSize": "vocab_size", "MaxContext": "max_position_embeddings",
	"NormEps": "rms_norm_eps", "RopeTheta": "rope_theta", "Rope": "rope_scaling", "Activation": "hidden_act", "TiedHead": "tie_word_embeddings",
	"InputNorm": "use_rms_norm", "InputNormEps": "rms_norm_eps of quantization_config", "QueryScalar": "query_pre_attn_scalar",
	"Sliding": "layer_types", "Window": "sliding_window", "LocalTheta": "rope_local_base_freq", "Ternary": "quantization_config",
	"FloatLinear": "modules_to_not_convert", "Family": "model_type",
}

// canonical writes equal arithmetic equally: fields that say the same in several ways say it in one.
func canonical(c *model.Config, list []entry) model.Config {
	n := *c
	n.FloatLinear = nil
	for _, e := range list {
		if e.kind == projection || e.module == "lm_head" && e.kind == dense && !c.TiedHead {
			if c.Ternary && !c.IsTernary(e.module) {
				n.FloatLinear = append(n.FloatLinear, e.module)
			}
		}
	}
	if n.InputNorm != "" {
		n.InputNorm = "norm" // its name, "rms_norm" or "norm", changes nothing
	} else {
		n.InputNormEps = 0
	}
	if n.QueryScalar == 0 {
		n.QueryScalar = float64(n.HeadDim)
	}
	n.QueryScalar = float64(float32(1 / math.Sqrt(n.QueryScalar))) // what scores are multiplied by
	if !slices.Contains(n.Sliding, true) {
		n.Sliding, n.Window, n.LocalTheta = nil, 0, 0
	}
	n.Rope.AttnFactor = float64(float32(n.Rope.AttnFactor)) // so it is applied
	return n
}

// differences are the keys that the configurations differ in, each with both values.
func differences(want, got *model.Config, list []entry) []string {
	a, b := canonical(want, list), canonical(got, list)
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	var keys []string
	for i := range x.NumField() {
		name := x.Type().Field(i).Name
		if mayDiffer[name] != "" || reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			continue
		}
		key := fieldKeys[name]
		if key == "" {
			key = name
		}
		keys = append(keys, fmt.Sprintf("%s is %s and would be read back as %s", key,
			brief(reflect.ValueOf(*want).Field(i).Interface()), brief(reflect.ValueOf(*got).Field(i).Interface())))
	}
	return keys
}

func brief(v any) string {
	s := fmt.Sprintf("%+v", v)
	if s == "" {
		s = "none"
	}
	if len(s) > 160 {
		s = s[:160] + "…"
	}
	return s
}

// checkPlan refuses what the files could not say, before there are any.
func (w *writer) checkPlan(planned *weights.Set, list []entry) error {
	cfg, err := model.ParseConfig(planned)
	if err != nil {
		return fmt.Errorf("%s cannot say what this model is; take another format: %w: %w", w.o.Format, err, errors.ErrUnsupported)
	}
	if d := differences(w.src.Config(), cfg, list); d != nil {
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
	cfg, err := model.ParseConfig(set)
	if err != nil {
		return err
	}
	if d := differences(w.src.Config(), cfg, list); d != nil {
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
	name := strings.Replace(e.name, "_proj."+c.InputNorm+".", "_proj."+got.Config().InputNorm+".", 1) // the norm in front of a projection
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
		case w.o.Format.IsGGUF() && w.src.Config().OffsetNorms && !strings.Contains(e.name, "_proj."):
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
