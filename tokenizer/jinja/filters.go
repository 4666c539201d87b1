package jinja

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// arg returns an argument by position or name, nil when it is absent.
func (a *callArgs) arg(i int, name string) (v any, ok bool) {
	if i >= 0 && i < len(a.pos) {
		return a.pos[i], true
	}
	for k, n := range a.names {
		if n == name {
			return a.values[k], true
		}
	}
	return nil, false
}

func (a *callArgs) str(i int, name, absent string) string {
	if v, ok := a.arg(i, name); ok && v != nil {
		return str(v)
	}
	return absent
}

func (a *callArgs) int(i int, name string, absent int) int {
	if v, ok := a.arg(i, name); ok {
		if n, _, isFloat, ok := number(v); ok && !isFloat {
			return int(min(max(n, -1<<30), 1<<30))
		}
	}
	return absent
}

func (a *callArgs) bool(i int, name string) bool {
	v, ok := a.arg(i, name)
	return ok && truth(v)
}

func (x *exec) filter(name string, v any, a *callArgs) (any, error) {
	f := filters[name]
	if f == nil {
		return nil, fmt.Errorf("no filter named '%s'", name)
	}
	if err := x.touch(v); err != nil {
		return nil, err
	}
	w, err := f(x, unmark(v), a)
	if err != nil {
		return nil, err
	}
	return w, x.made(w)
}

// made counts a value that a filter or a method has made.
func (x *exec) made(v any) error {
	switch v := v.(type) {
	case string:
		return x.charge(len(v))
	case *List:
		return x.make(listBytes + 32*len(v.Items))
	}
	return nil
}

type filterFunc func(x *exec, v any, a *callArgs) (any, error)

var filters map[string]filterFunc

// text makes a filter of a function on strings.
func text(f func(string) string) filterFunc {
	return func(_ *exec, v any, _ *callArgs) (any, error) { return f(str(v)), nil }
}

func init() {
	filters = map[string]filterFunc{
		"abs": func(_ *exec, v any, _ *callArgs) (any, error) {
			i, f, isFloat, ok := number(v)
			switch {
			case !ok:
				return nil, fmt.Errorf("bad operand type for abs(): '%s'", typeName(v))
			case isFloat:
				return math.Abs(f), nil
			case i < 0:
				return -i, nil
			}
			return i, nil
		},
		"attr": func(x *exec, v any, a *callArgs) (any, error) { return x.attr(v, a.str(0, "name", "")) },
		"batch": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			n := a.int(0, "linecount", 1)
			if err != nil || n < 1 {
				return nil, errors.Join(err, errors.New("batch of nothing"))
			}
			out := &List{}
			for chunk := range slices.Chunk(items, n) {
				chunk = slices.Clone(chunk)
				if fill, ok := a.arg(1, "fill_with"); ok && fill != nil && n <= maxItems {
					for len(chunk) < n {
						chunk = append(chunk, fill)
					}
				}
				out.Items = append(out.Items, &List{Items: chunk})
			}
			return out, nil
		},
		"capitalize": text(capitalize),
		"center": func(_ *exec, v any, a *callArgs) (any, error) {
			return pad(str(v), a.int(0, "width", 80), " ", 'c')
		},
		"count":   length,
		"length":  length,
		"d":       defaultFilter,
		"default": defaultFilter,
		"dictsort": func(x *exec, v any, a *callArgs) (any, error) {
			m, ok := v.(*Map)
			if !ok {
				return nil, fmt.Errorf("dictsort of '%s'", typeName(v))
			}
			out := items(m)
			by := 0
			if a.str(1, "by", "key") == "value" {
				by = 1
			}
			err := x.sort(out.Items, a.bool(0, "case_sensitive"), a.bool(2, "reverse"),
				func(v any) (any, error) { return v.(*List).Items[by], nil })
			return out, err
		},
		"e":      escape,
		"escape": escape,
		"first": func(x *exec, v any, _ *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil || len(items) == 0 {
				return Undefined{"No first item, sequence was empty."}, err
			}
			return items[0], nil
		},
		"float": func(_ *exec, v any, a *callArgs) (any, error) {
			if _, f, _, ok := number(v); ok {
				return f, nil
			}
			if f, err := strconv.ParseFloat(strings.TrimSpace(str(v)), 64); err == nil {
				return f, nil
			}
			if d, ok := a.arg(0, "default"); ok {
				return d, nil
			}
			return 0.0, nil
		},
		"format": func(x *exec, v any, a *callArgs) (any, error) {
			if len(a.names) > 0 {
				m := NewMap()
				for i, n := range a.names {
					m.Set(n, a.values[i])
				}
				return x.percent(str(v), m)
			}
			return x.percent(str(v), &List{Items: a.pos, Tuple: true})
		},
		"groupby": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			by := x.getter(a, 0)
			items = slices.Clone(items)
			if err := x.sort(items, a.bool(2, "case_sensitive"), false, by); err != nil {
				return nil, err
			}
			out := &List{}
			for _, item := range items {
				k, err := by(item)
				if err != nil {
					return nil, err
				}
				if n := len(out.Items); n > 0 {
					last := out.Items[n-1].(*List)
					if x.equal(last.Items[0], k) {
						group := last.Items[1].(*List)
						group.Items = append(group.Items, item)
						continue
					}
				}
				out.Items = append(out.Items, &List{Items: []any{k, &List{Items: []any{item}}}, Tuple: true})
			}
			return out, nil
		},
		"indent": func(x *exec, v any, a *callArgs) (any, error) {
			pre := ""
			switch w, _ := a.arg(0, "width"); w := w.(type) {
			case string:
				pre = w
			default:
				pre = strings.Repeat(" ", min(max(a.int(0, "width", 4), 0), 1000))
			}
			lines := strings.Split(str(v), "\n")
			if err := x.charge(len(lines) * len(pre)); err != nil {
				return nil, err
			}
			for i := range lines {
				if (i > 0 || a.bool(1, "first")) && (lines[i] != "" || a.bool(2, "blank") || i == 0) {
					lines[i] = pre + lines[i]
				}
			}
			return strings.Join(lines, "\n"), nil
		},
		"int": func(_ *exec, v any, a *callArgs) (any, error) {
			base := a.int(1, "base", 10)
			switch v := v.(type) {
			case string:
				s := strings.ToLower(strings.TrimSpace(v))
				s = strings.TrimPrefix(s, map[int]string{16: "0x", 8: "0o", 2: "0b"}[base])
				if n, err := strconv.ParseInt(s, min(max(base, 2), 36), 64); err == nil {
					return n, nil
				}
				if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<62 {
					return int64(f), nil
				}
			default:
				if i, f, isFloat, ok := number(v); ok && !isFloat {
					return i, nil
				} else if ok && math.Abs(f) < 1<<62 {
					return int64(f), nil
				}
			}
			if d, ok := a.arg(0, "default"); ok {
				return d, nil
			}
			return int64(0), nil
		},
		"items": func(_ *exec, v any, _ *callArgs) (any, error) {
			switch v := v.(type) {
			case *Map:
				return items(v), nil
			case Undefined:
				return &List{}, nil
			}
			return nil, errors.New("only a mapping has item pairs")
		},
		"join": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			by := func(v any) (any, error) { return v, nil }
			if _, ok := a.arg(1, "attribute"); ok {
				by = x.getter(a, 1)
			}
			return x.join(items, a.str(0, "d", ""), by)
		},
		"last": func(x *exec, v any, _ *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil || len(items) == 0 {
				return Undefined{"No last item, sequence was empty."}, err
			}
			return items[len(items)-1], nil
		},
		"list": func(x *exec, v any, _ *callArgs) (any, error) {
			items, err := x.iterate(v)
			return &List{Items: slices.Clone(items)}, err
		},
		"lower": text(lower),
		"map": func(x *exec, v any, a *callArgs) (any, error) {
			if !truth(v) {
				return &List{}, nil
			}
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			var f func(any) (any, error)
			if _, ok := a.arg(-1, "attribute"); ok && len(a.pos) == 0 {
				f = x.getter(a, -1)
			} else if len(a.pos) > 0 {
				rest := &callArgs{a.pos[1:], a.names, a.values}
				f = func(v any) (any, error) { return x.filter(str(a.pos[0]), v, rest) }
			} else {
				return nil, errors.New("map requires a filter argument")
			}
			out := &List{Items: make([]any, 0, len(items))}
			for _, item := range items {
				w, err := f(item)
				if err != nil {
					return nil, err
				}
				out.Items = append(out.Items, w)
			}
			return out, nil
		},
		"max":    func(x *exec, v any, a *callArgs) (any, error) { return x.extreme(v, a, 1) },
		"min":    func(x *exec, v any, a *callArgs) (any, error) { return x.extreme(v, a, -1) },
		"pprint": func(_ *exec, v any, _ *callArgs) (any, error) { return repr(v), nil },
		"reject": func(x *exec, v any, a *callArgs) (any, error) { return x.choose(v, a, false, false) },
		"rejectattr": func(x *exec, v any, a *callArgs) (any, error) {
			return x.choose(v, a, false, true)
		},
		"select": func(x *exec, v any, a *callArgs) (any, error) { return x.choose(v, a, true, false) },
		"selectattr": func(x *exec, v any, a *callArgs) (any, error) {
			return x.choose(v, a, true, true)
		},
		"replace": func(x *exec, v any, a *callArgs) (any, error) {
			return x.replace(str(v), a.str(0, "old", ""), a.str(1, "new", ""), a.int(2, "count", -1))
		},
		"reverse": func(x *exec, v any, _ *callArgs) (any, error) {
			if s, ok := v.(string); ok {
				r := []rune(s)
				slices.Reverse(r)
				return string(r), nil
			}
			items, err := x.iterate(v)
			items = slices.Clone(items)
			slices.Reverse(items)
			return &List{Items: items}, err
		},
		"round": func(_ *exec, v any, a *callArgs) (any, error) {
			i, f, isFloat, ok := number(v)
			places := min(max(a.int(0, "precision", 0), -20), 20)
			method := a.str(1, "method", "common")
			switch {
			case !ok:
				return nil, fmt.Errorf("round of '%s'", typeName(v))
			case method == "common" && !isFloat && places >= 0:
				return i, nil
			case method == "common" && places >= 0: // decimal digits of the exact value, as in Python
				return strconv.ParseFloat(strconv.FormatFloat(f, 'f', places, 64), 64)
			}
			round := map[string]func(float64) float64{"common": math.RoundToEven, "ceil": math.Ceil, "floor": math.Floor}[method]
			if round == nil {
				return nil, errors.New("method must be common, ceil or floor")
			}
			scale := math.Pow(10, float64(places))
			return round(f*scale) / scale, nil
		},
		"safe": func(_ *exec, v any, _ *callArgs) (any, error) { return markup(str(v)), nil },
		"slice": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			n := a.int(0, "slices", 1)
			if err != nil || n < 1 || n > maxItems {
				return nil, errors.Join(err, errors.New("slice into nothing"))
			}
			out := &List{}
			size, more := len(items)/n, len(items)%n
			at := 0
			for i := range n {
				end := at + size
				if i < more {
					end++
				}
				part := slices.Clone(items[at:end])
				if fill, ok := a.arg(1, "fill_with"); ok && fill != nil && i >= more {
					part = append(part, fill)
				}
				out.Items = append(out.Items, &List{Items: part})
				at = end
			}
			return out, x.charge(16 * n)
		},
		"sort": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			by := func(v any) (any, error) { return v, nil }
			if w, ok := a.arg(2, "attribute"); ok && w != nil {
				by = x.getter(a, 2)
			}
			items = slices.Clone(items)
			err = x.sort(items, a.bool(1, "case_sensitive"), a.bool(0, "reverse"), by)
			return &List{Items: items}, err
		},
		"string": text(func(s string) string { return s }),
		"sum": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			by := func(v any) (any, error) { return v, nil }
			if w, ok := a.arg(0, "attribute"); ok && w != nil {
				by = x.getter(a, 0)
			}
			var total any = int64(0)
			if start, ok := a.arg(1, "start"); ok {
				total = start
			}
			for _, item := range items {
				w, err := by(item)
				if err != nil {
					return nil, err
				}
				if total, err = x.arith("+", total, w); err != nil {
					return nil, err
				}
			}
			return total, nil
		},
		"title": text(func(s string) string {
			start := true
			return strings.Map(func(r rune) rune {
				was := start
				start = unicode.IsSpace(r) || strings.ContainsRune("-({[<", r)
				if was {
					return unicode.ToUpper(r)
				}
				return unicode.ToLower(r)
			}, s)
		}),
		"tojson": tojson,
		"trim": func(_ *exec, v any, a *callArgs) (any, error) {
			return strip(str(v), a.str(0, "chars", ""), true, true), nil
		},
		"truncate": func(_ *exec, v any, a *callArgs) (any, error) {
			r, end := []rune(str(v)), a.str(2, "end", "...")
			n := a.int(0, "length", 255)
			if len(r) <= n+a.int(3, "leeway", 5) {
				return string(r), nil
			}
			cut := string(r[:max(n-len([]rune(end)), 0)])
			if !a.bool(1, "killwords") {
				if i := strings.LastIndexByte(cut, ' '); i >= 0 {
					cut = cut[:i]
				}
			}
			return cut + end, nil
		},
		"unique": func(x *exec, v any, a *callArgs) (any, error) {
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			by := func(v any) (any, error) { return v, nil }
			if w, ok := a.arg(1, "attribute"); ok && w != nil {
				by = x.getter(a, 1)
			}
			seen := NewMap()
			out := &List{}
			for _, item := range items {
				k, err := by(item)
				if err != nil {
					return nil, err
				}
				if s, ok := k.(string); ok && !a.bool(0, "case_sensitive") {
					k = strings.ToLower(s)
				}
				if _, ok := seen.get(k); !ok {
					if !seen.set(k, true) {
						return nil, fmt.Errorf("unhashable type: '%s'", typeName(k))
					}
					out.Items = append(out.Items, item)
				}
			}
			return out, nil
		},
		"upper": text(upper),
		"urlencode": text(func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(s), "+", "%20"), "%2F", "/")
		}),
		"wordcount": func(_ *exec, v any, _ *callArgs) (any, error) {
			return int64(len(strings.FieldsFunc(str(v), func(r rune) bool {
				return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
			}))), nil
		},
	}
}

func escape(_ *exec, v any, _ *callArgs) (any, error) { return marked(v), nil }

func items(m *Map) *List {
	out := &List{Items: make([]any, m.Len())}
	for i, k := range m.keys {
		out.Items[i] = &List{Items: []any{k, m.values[i]}, Tuple: true}
	}
	return out
}

func length(_ *exec, v any, _ *callArgs) (any, error) {
	switch v := v.(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case *List:
		return int64(len(v.Items)), nil
	case *Map:
		return int64(v.Len()), nil
	case Undefined:
		return int64(0), nil
	}
	return nil, fmt.Errorf("object of type '%s' has no len()", typeName(v))
}

func defaultFilter(_ *exec, v any, a *callArgs) (any, error) {
	_, undefined := v.(Undefined)
	if undefined || a.bool(1, "boolean") && !truth(v) {
		if d, ok := a.arg(0, "default_value"); ok {
			return d, nil
		}
		return "", nil
	}
	return v, nil
}

func tojson(x *exec, v any, a *callArgs) (any, error) {
	j := &toJSON{item: ", ", colon: ": ", sortKeys: a.bool(3, "sort_keys"), ascii: a.bool(0, "ensure_ascii")}
	// In Jinja the first argument is the indent, in transformers ensure_ascii; templates name both.
	w, ok := a.arg(-1, "indent")
	if !ok && len(a.pos) > 1 {
		w = a.pos[1]
	} else if !ok && len(a.pos) == 1 {
		if _, isBool := a.pos[0].(bool); !isBool {
			w, j.ascii = a.pos[0], false
		}
	}
	switch w := w.(type) {
	case int64:
		j.lines, j.indent, j.item = true, strings.Repeat(" ", int(min(max(w, 0), 100))), ","
	case string:
		j.lines, j.indent, j.item = true, w, ","
	}
	if sep, ok := a.arg(2, "separators"); ok && sep != nil {
		l, isList := sep.(*List)
		if !isList || len(l.Items) != 2 {
			return nil, errors.New("tojson: separators are two strings")
		}
		j.item, j.colon = str(l.Items[0]), str(l.Items[1])
	}
	if u, ok := v.(Undefined); ok {
		return nil, fmt.Errorf("tojson: %s", u.why)
	}
	err := j.write(v, 0)
	return j.b.String(), err
}

// getter returns the function that takes the member which an argument names: "a", "a.b", 0.
func (x *exec) getter(a *callArgs, i int) func(any) (any, error) {
	path, _ := a.arg(i, "attribute")
	fallback, hasDefault := a.arg(-1, "default")
	var parts []any
	switch p := path.(type) {
	case string:
		for _, s := range strings.Split(p, ".") {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				parts = append(parts, n)
			} else {
				parts = append(parts, s)
			}
		}
	default:
		parts = []any{path}
	}
	return func(v any) (any, error) {
		for _, p := range parts {
			var err error
			if v, err = x.item(v, p); err != nil {
				return nil, err
			}
			if _, ok := v.(Undefined); ok && hasDefault {
				return fallback, nil
			}
		}
		return v, nil
	}
}

func (x *exec) join(items []any, sep string, by func(any) (any, error)) (string, error) {
	var b strings.Builder
	for i, item := range items {
		w, err := by(item)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(str(w))
		if b.Len() > maxText {
			return "", errTooLong
		}
	}
	return b.String(), x.charge(b.Len())
}

func (x *exec) sort(items []any, caseSensitive, reverse bool, by func(any) (any, error)) error {
	type keyed struct{ key, item any }
	list := make([]keyed, len(items))
	for i, item := range items {
		k, err := by(item)
		if err != nil {
			return err
		}
		if s, ok := k.(string); ok && !caseSensitive {
			k = strings.ToLower(s)
		}
		list[i] = keyed{k, item}
	}
	var failed error
	slices.SortStableFunc(list, func(a, b keyed) int {
		if failed != nil {
			return 0
		}
		c, err := x.compare(a.key, b.key)
		if err != nil {
			failed = err
		}
		if reverse {
			c = -c
		}
		return c
	})
	for i := range list {
		items[i] = list[i].item
	}
	return failed
}

func (x *exec) extreme(v any, a *callArgs, sign int) (any, error) {
	items, err := x.iterate(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return Undefined{"No aggregated item, sequence was empty."}, nil
	}
	by := func(v any) (any, error) { return v, nil }
	if w, ok := a.arg(1, "attribute"); ok && w != nil {
		by = x.getter(a, 1)
	}
	key := func(v any) (any, error) {
		k, err := by(v)
		if s, ok := k.(string); ok && !a.bool(0, "case_sensitive") {
			k = strings.ToLower(s)
		}
		return k, err
	}
	best := items[0]
	bestKey, err := key(best)
	if err != nil {
		return nil, err
	}
	for _, item := range items[1:] {
		k, err := key(item)
		if err != nil {
			return nil, err
		}
		c, err := x.compare(k, bestKey)
		if err != nil {
			return nil, err
		}
		if c*sign > 0 {
			best, bestKey = item, k
		}
	}
	return best, nil
}

// choose is select, reject, selectattr and rejectattr.
func (x *exec) choose(v any, a *callArgs, want, byAttr bool) (any, error) {
	if !truth(v) {
		return &List{}, nil
	}
	items, err := x.iterate(v)
	if err != nil {
		return nil, err
	}
	by := func(v any) (any, error) { return v, nil }
	rest := a
	if byAttr {
		if len(a.pos) == 0 {
			return nil, errors.New("missing parameter for attribute name")
		}
		by = x.getter(a, 0)
		rest = &callArgs{a.pos[1:], a.names, a.values}
	}
	out := &List{}
	for _, item := range items {
		w, err := by(item)
		if err != nil {
			return nil, err
		}
		ok := truth(w)
		if len(rest.pos) > 0 {
			if ok, err = x.test(str(rest.pos[0]), w, &callArgs{rest.pos[1:], rest.names, rest.values}); err != nil {
				return nil, err
			}
		}
		if ok == want {
			out.Items = append(out.Items, item)
		}
	}
	return out, nil
}

func (x *exec) test(name string, v any, a *callArgs) (bool, error) {
	v = unmark(v)
	relation := func(op string) (bool, error) {
		w, ok := a.arg(0, "other")
		if !ok {
			return false, fmt.Errorf("test '%s' needs an argument", name)
		}
		return x.relation(op, v, w)
	}
	i, f, isFloat, isNumber := number(v)
	_, isBool := v.(bool)
	s, isString := v.(string)
	switch name {
	case "defined":
		_, undefined := v.(Undefined)
		return !undefined, nil
	case "undefined":
		_, undefined := v.(Undefined)
		return undefined, nil
	case "none":
		return v == nil, nil
	case "boolean":
		return isBool, nil
	case "true":
		return v == true, nil
	case "false":
		return v == false, nil
	case "integer":
		return isNumber && !isFloat && !isBool, nil
	case "float":
		return isFloat, nil
	case "number":
		return isNumber, nil
	case "string":
		return isString, nil
	case "mapping":
		_, ok := v.(*Map)
		return ok, nil
	case "sequence", "iterable":
		switch v.(type) {
		case string, *List, *Map, Undefined:
			return true, nil
		}
		return false, nil
	case "callable":
		_, ok := v.(*callable)
		return ok, nil
	case "escaped":
		return false, nil
	case "odd", "even":
		if !isNumber {
			return false, fmt.Errorf("test '%s' of '%s'", name, typeName(v))
		}
		if isFloat {
			return math.Mod(f, 2) != 0 == (name == "odd"), nil
		}
		return i%2 != 0 == (name == "odd"), nil
	case "divisibleby":
		n := a.int(0, "num", 0)
		if n == 0 || !isNumber {
			return false, errors.New("division by zero")
		}
		return i%int64(n) == 0, nil
	case "upper":
		return isString && isUpper(s), nil
	case "lower":
		return isString && isLower(s), nil
	case "eq", "equalto", "==":
		return relation("==")
	case "ne", "!=":
		return relation("!=")
	case "lt", "lessthan", "<":
		return relation("<")
	case "le", "<=":
		return relation("<=")
	case "gt", "greaterthan", ">":
		return relation(">")
	case "ge", ">=":
		return relation(">=")
	case "in":
		return relation("in")
	case "sameas":
		w, _ := a.arg(0, "other")
		if typeName(v) != typeName(w) {
			return false, nil
		}
		return x.equal(v, w), nil
	case "filter":
		return filters[s] != nil, nil
	case "test":
		_, err := x.test(s, nil, &callArgs{pos: []any{nil}})
		return err == nil || !strings.HasPrefix(err.Error(), "no test"), nil
	}
	return false, fmt.Errorf("no test named '%s'", name)
}
