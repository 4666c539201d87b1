package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// globals are the functions that every template has.
var globals map[string]any

func init() {
	globals = map[string]any{
		"range": &callable{"range", func(x *exec, a *callArgs) (any, error) {
			var n [3]int64
			for i, v := range a.pos {
				k, _, isFloat, ok := number(v)
				if !ok || isFloat || i > 2 {
					return nil, errors.New("range() takes one to three integers")
				}
				n[i] = k
			}
			start, stop, step := int64(0), n[0], int64(1)
			if len(a.pos) > 1 {
				start, stop = n[0], n[1]
			}
			if len(a.pos) > 2 {
				step = n[2]
			}
			if step == 0 || len(a.pos) == 0 {
				return nil, errors.New("range() arg 3 must not be zero")
			}
			out := &List{}
			for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
				if len(out.Items) >= 100000 {
					return nil, errors.New("range too big: more than 100000 items")
				}
				out.Items = append(out.Items, i)
				if next := i + step; (next > i) != (step > 0) {
					break
				}
			}
			return out, x.charge(16 * len(out.Items))
		}},
		"dict": &callable{"dict", func(x *exec, a *callArgs) (any, error) { return x.dict(a) }},
		"namespace": &callable{"namespace", func(x *exec, a *callArgs) (any, error) {
			m, err := x.dict(a)
			if err != nil {
				return nil, err
			}
			return &namespace{m}, nil
		}},
		"cycler": &callable{"cycler", func(_ *exec, a *callArgs) (any, error) {
			if len(a.pos) == 0 {
				return nil, errors.New("at least one item has to be provided")
			}
			n := 0
			m := NewMap()
			m.Set("next", &callable{"next", func(*exec, *callArgs) (any, error) {
				v := a.pos[n%len(a.pos)]
				n++
				return v, nil
			}})
			return m, nil
		}},
		"joiner": &callable{"joiner", func(_ *exec, a *callArgs) (any, error) {
			used := false
			return &callable{"joiner", func(*exec, *callArgs) (any, error) {
				if !used {
					used = true
					return "", nil
				}
				return a.str(0, "sep", ", "), nil
			}}, nil
		}},
		"raise_exception": &callable{"raise_exception", func(_ *exec, a *callArgs) (any, error) {
			return nil, &Raised{a.str(0, "message", "")}
		}},
		"strftime_now": &callable{"strftime_now", func(x *exec, a *callArgs) (any, error) {
			return strftime(x.now, a.str(0, "format", "")), nil
		}},
	}
}

func (x *exec) dict(a *callArgs) (*Map, error) {
	n := len(a.names)
	if len(a.pos) > 0 {
		switch v := a.pos[0].(type) {
		case *Map:
			n += v.Len()
		case *List:
			n += len(v.Items)
		}
	}
	if x.work -= 4 * n; x.work < 0 {
		return nil, errTooMuch
	}
	if err := x.make(mapBytes + entryBytes*n); err != nil {
		return nil, err
	}
	m := NewMap()
	if len(a.pos) > 0 {
		switch v := a.pos[0].(type) {
		case *Map:
			for i, k := range v.keys {
				m.set(k, v.values[i])
			}
		case *List:
			for _, item := range v.Items {
				pair, ok := item.(*List)
				if !ok || len(pair.Items) != 2 || !m.set(pair.Items[0], pair.Items[1]) {
					return nil, errors.New("dict() of something that is not pairs")
				}
			}
		default:
			return nil, fmt.Errorf("'%s' object is not iterable", typeName(v))
		}
	}
	for i, name := range a.names {
		m.Set(name, a.values[i])
	}
	return m, nil
}

// unsafeMethods change their object, which templates may not.
var unsafeMethods = map[string][]string{
	"list": {"append", "extend", "insert", "pop", "remove", "reverse", "sort", "clear"},
	"dict": {"update", "pop", "popitem", "setdefault", "clear"},
}

// method returns a method of a Python value.
func method(v any, name string) (any, bool, error) {
	kind := typeName(v)
	if slices.Contains(unsafeMethods[kind], name) {
		return nil, false, fmt.Errorf("access to attribute '%s' of '%s' object is unsafe", name, kind)
	}
	var fn func(x *exec, a *callArgs) (any, error)
	switch v := v.(type) {
	case *Map:
		fn = v.method(name)
	case *List:
		fn = v.method(name)
	case string:
		fn = stringMethod(v, name)
	}
	if fn == nil {
		return nil, false, nil
	}
	return &callable{name, func(x *exec, a *callArgs) (any, error) {
		if err := x.touch(v); err != nil {
			return nil, err
		}
		w, err := fn(x, a)
		if err != nil {
			return nil, err
		}
		return w, x.made(w)
	}}, true, nil
}

func (m *Map) method(name string) func(*exec, *callArgs) (any, error) {
	switch name {
	case "items":
		return func(*exec, *callArgs) (any, error) { return items(m), nil }
	case "keys":
		return func(*exec, *callArgs) (any, error) { return &List{Items: slices.Clone(m.keys)}, nil }
	case "values":
		return func(*exec, *callArgs) (any, error) { return &List{Items: slices.Clone(m.values)}, nil }
	case "get":
		return func(_ *exec, a *callArgs) (any, error) {
			k, _ := a.arg(0, "")
			if v, ok := m.get(k); ok {
				return v, nil
			}
			d, _ := a.arg(1, "")
			return d, nil
		}
	case "copy":
		return func(x *exec, _ *callArgs) (any, error) { return x.dict(&callArgs{pos: []any{m}}) }
	}
	return nil
}

func (l *List) method(name string) func(*exec, *callArgs) (any, error) {
	switch name {
	case "index":
		return func(x *exec, a *callArgs) (any, error) {
			v, _ := a.arg(0, "")
			for i, item := range l.Items {
				if x.equal(item, v) {
					return int64(i), nil
				}
			}
			return nil, fmt.Errorf("%s is not in list", repr(v))
		}
	case "count":
		return func(x *exec, a *callArgs) (any, error) {
			v, _ := a.arg(0, "")
			n := int64(0)
			for _, item := range l.Items {
				if x.equal(item, v) {
					n++
				}
			}
			return n, nil
		}
	case "copy":
		return func(*exec, *callArgs) (any, error) { return &List{Items: slices.Clone(l.Items)}, nil }
	}
	return nil
}

// pySpace is str.isspace.
func pySpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1C && r <= 0x1F }

// strip is str.strip: white space, or the characters given, on either side.
func strip(s, chars string, left, right bool) string {
	in := pySpace
	if chars != "" {
		in = func(r rune) bool { return strings.ContainsRune(chars, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, in)
	}
	if right {
		s = strings.TrimRightFunc(s, in)
	}
	return s
}

// lower, upper and capitalize are Python's: one character may become several.
func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func capitalize(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case n == 0:
		return s
	case r < utf8.RuneSelf:
		return strings.ToUpper(s[:1]) + lower(s[1:])
	}
	return cases.Title(language.Und).String(s[:n]) + lower(s[n:])
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isUpper(s string) bool {
	cased := false
	for _, r := range s {
		if unicode.IsLower(r) || unicode.IsTitle(r) {
			return false
		}
		cased = cased || unicode.IsUpper(r)
	}
	return cased
}

func isLower(s string) bool {
	cased := false
	for _, r := range s {
		if unicode.IsUpper(r) || unicode.IsTitle(r) {
			return false
		}
		cased = cased || unicode.IsLower(r)
	}
	return cased
}

func all(s string, in func(rune) bool) bool {
	for _, r := range s {
		if !in(r) {
			return false
		}
	}
	return s != ""
}

// pad puts fill around s up to width characters: 'l' left-justified, 'r' right, 'c' centred.
func pad(s string, width int, fill string, how byte) (any, error) {
	n := width - utf8.RuneCountInString(s)
	if n <= 0 {
		return s, nil
	}
	if n > maxText {
		return nil, errTooLong
	}
	left := 0
	switch how {
	case 'r':
		left = n
	case 'c':
		left = n/2 + n&width&1
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left), nil
}

func (x *exec) replace(s, old, with string, count int) (any, error) {
	n := strings.Count(s, old)
	if count >= 0 {
		n = min(n, count)
	}
	if grow := len(s) + n*(len(with)-len(old)); grow > maxText {
		return nil, errTooLong
	} else if err := x.charge(grow); err != nil {
		return nil, err
	}
	return strings.Replace(s, old, with, count), nil
}

func stringList(list []string) *List {
	l := &List{Items: make([]any, len(list))}
	for i, s := range list {
		l.Items[i] = s
	}
	return l
}

// affixes returns the argument of startswith and endswith: a string, or a tuple of them.
func affixes(a *callArgs) ([]string, error) {
	v, _ := a.arg(0, "")
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case *List:
		var list []string
		for _, item := range v.Items {
			s, ok := item.(string)
			if !ok {
				return nil, errors.New("tuple for startswith must only contain str")
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, fmt.Errorf("first arg must be str or a tuple of str, not %s", typeName(v))
}

func stringMethod(s, name string) func(*exec, *callArgs) (any, error) {
	type args = *callArgs
	plain := func(f func(string) string) func(*exec, args) (any, error) {
		return func(*exec, args) (any, error) { return f(s), nil }
	}
	is := func(f func(rune) bool) func(*exec, args) (any, error) {
		return func(*exec, args) (any, error) { return all(s, f), nil }
	}
	trim := func(left, right bool) func(*exec, args) (any, error) {
		return func(_ *exec, a args) (any, error) { return strip(s, a.str(0, "chars", ""), left, right), nil }
	}
	index := func(find func(s, sub string) int, must bool) func(*exec, args) (any, error) {
		return func(_ *exec, a args) (any, error) {
			i := find(s, a.str(0, "", ""))
			if i < 0 {
				if must {
					return nil, errors.New("substring not found")
				}
				return int64(-1), nil
			}
			return int64(utf8.RuneCountInString(s[:i])), nil
		}
	}
	just := func(how byte) func(*exec, args) (any, error) {
		return func(_ *exec, a args) (any, error) {
			return pad(s, a.int(0, "width", 0), a.str(1, "fillchar", " "), how)
		}
	}
	switch name {
	case "strip":
		return trim(true, true)
	case "lstrip":
		return trim(true, false)
	case "rstrip":
		return trim(false, true)
	case "upper":
		return plain(upper)
	case "lower", "casefold":
		return plain(lower)
	case "capitalize":
		return plain(capitalize)
	case "swapcase":
		return plain(func(s string) string {
			return strings.Map(func(r rune) rune {
				if unicode.IsUpper(r) {
					return unicode.ToLower(r)
				}
				return unicode.ToUpper(r)
			}, s)
		})
	case "title":
		return plain(func(s string) string {
			inWord := false
			return strings.Map(func(r rune) rune {
				was := inWord
				inWord = unicode.IsLetter(r)
				if was {
					return unicode.ToLower(r)
				}
				return unicode.ToTitle(r)
			}, s)
		})
	case "startswith", "endswith":
		return func(_ *exec, a args) (any, error) {
			list, err := affixes(a)
			for _, p := range list {
				if name == "startswith" && strings.HasPrefix(s, p) || name == "endswith" && strings.HasSuffix(s, p) {
					return true, nil
				}
			}
			return false, err
		}
	case "split", "rsplit":
		return func(x *exec, a args) (any, error) {
			limit := a.int(1, "maxsplit", -1)
			sep := ""
			if v, ok := a.arg(0, "sep"); ok && v != nil {
				if sep = str(v); sep == "" {
					return nil, errors.New("empty separator")
				}
			}
			if err := x.charge(16 * len(s)); err != nil {
				return nil, err
			}
			return stringList(split(s, sep, limit, name == "rsplit")), nil
		}
	case "splitlines":
		return func(_ *exec, a args) (any, error) {
			var list []string
			for s := strings.ReplaceAll(s, "\r\n", "\n"); s != ""; {
				line, rest, found := strings.Cut(s, "\n")
				if found && a.bool(0, "keepends") {
					line += "\n"
				}
				list = append(list, line)
				s = rest
			}
			return stringList(list), nil
		}
	case "partition", "rpartition":
		return func(_ *exec, a args) (any, error) {
			sep := a.str(0, "", "")
			i := strings.Index(s, sep)
			if name == "rpartition" {
				i = strings.LastIndex(s, sep)
			}
			parts := []string{s, "", ""}
			switch {
			case sep == "":
				return nil, errors.New("empty separator")
			case i >= 0:
				parts = []string{s[:i], sep, s[i+len(sep):]}
			case name == "rpartition":
				parts = []string{"", "", s}
			}
			l := stringList(parts)
			l.Tuple = true
			return l, nil
		}
	case "replace":
		return func(x *exec, a args) (any, error) {
			return x.replace(s, a.str(0, "old", ""), a.str(1, "new", ""), a.int(2, "count", -1))
		}
	case "removeprefix":
		return func(_ *exec, a args) (any, error) { return strings.TrimPrefix(s, a.str(0, "", "")), nil }
	case "removesuffix":
		return func(_ *exec, a args) (any, error) { return strings.TrimSuffix(s, a.str(0, "", "")), nil }
	case "join":
		return func(x *exec, a args) (any, error) {
			v, _ := a.arg(0, "")
			items, err := x.iterate(v)
			if err != nil {
				return nil, err
			}
			for i, item := range items {
				if _, ok := item.(string); !ok {
					return nil, fmt.Errorf("sequence item %d: expected str instance, %s found", i, typeName(item))
				}
			}
			return x.join(items, s, func(v any) (any, error) { return v, nil })
		}
	case "find":
		return index(strings.Index, false)
	case "rfind":
		return index(strings.LastIndex, false)
	case "index":
		return index(strings.Index, true)
	case "rindex":
		return index(strings.LastIndex, true)
	case "count":
		return func(_ *exec, a args) (any, error) { return int64(strings.Count(s, a.str(0, "", ""))), nil }
	case "isdigit", "isdecimal":
		return is(unicode.IsDigit)
	case "isnumeric":
		return is(unicode.IsNumber)
	case "isalpha":
		return is(unicode.IsLetter)
	case "isalnum":
		return is(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
	case "isspace":
		return is(pySpace)
	case "isupper":
		return func(*exec, args) (any, error) { return isUpper(s), nil }
	case "islower":
		return func(*exec, args) (any, error) { return isLower(s), nil }
	case "ljust":
		return just('l')
	case "rjust":
		return just('r')
	case "center":
		return just('c')
	case "zfill":
		return func(_ *exec, a args) (any, error) {
			sign, digits := "", s
			if s != "" && (s[0] == '+' || s[0] == '-') {
				sign, digits = s[:1], s[1:]
			}
			v, err := pad(digits, a.int(0, "", 0)-len(sign), "0", 'r')
			if err != nil {
				return nil, err
			}
			return sign + v.(string), nil
		}
	case "format":
		return func(x *exec, a args) (any, error) { return x.format(s, a) }
	}
	return nil
}

// split is str.split and str.rsplit; sep "" means runs of white space.
func split(s, sep string, limit int, fromRight bool) []string {
	if limit < 0 {
		if sep == "" {
			return strings.FieldsFunc(s, pySpace)
		}
		return strings.Split(s, sep)
	}
	var list []string
	if sep != "" && !fromRight {
		return strings.SplitN(s, sep, limit+1)
	}
	if sep != "" {
		for limit > 0 {
			i := strings.LastIndex(s, sep)
			if i < 0 {
				break
			}
			list = append(list, s[i+len(sep):])
			s = s[:i]
			limit--
		}
		list = append(list, s)
		slices.Reverse(list)
		return list
	}
	if fromRight {
		s = strings.TrimRightFunc(s, pySpace)
		for limit > 0 && s != "" {
			i := strings.LastIndexFunc(s, pySpace)
			if i < 0 {
				break
			}
			_, n := utf8.DecodeRuneInString(s[i:])
			list = append(list, s[i+n:])
			s = strings.TrimRightFunc(s[:i], pySpace)
			limit--
		}
		if s != "" {
			list = append(list, s)
		}
		slices.Reverse(list)
		return list
	}
	s = strings.TrimLeftFunc(s, pySpace)
	for limit > 0 && s != "" {
		i := strings.IndexFunc(s, pySpace)
		if i < 0 {
			break
		}
		list = append(list, s[:i])
		s = strings.TrimLeftFunc(s[i:], pySpace)
		limit--
	}
	if s != "" {
		list = append(list, s)
	}
	return list
}

// percent is Python's "…" % values, for %s, %r, %d, %i, %f, %g, %e, %x, %c and %%.
func (x *exec) percent(f string, v any) (any, error) {
	values := []any{v}
	if l, ok := v.(*List); ok && l.Tuple {
		values = l.Items
	}
	next := 0
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		i++
		var value any
		named := false
		if i < len(f) && f[i] == '(' {
			end := strings.IndexByte(f[i:], ')')
			m, ok := v.(*Map)
			if end < 0 || !ok {
				return nil, errors.New("format requires a mapping")
			}
			if value, ok = m.get(f[i+1 : i+end]); !ok {
				return nil, fmt.Errorf("no value for %s", f[i:i+end+1])
			}
			named = true
			i += end + 1
		}
		start := i
		for i < len(f) && strings.IndexByte("0123456789.-+ #", f[i]) >= 0 {
			i++
		}
		if i >= len(f) {
			return nil, errors.New("incomplete format")
		}
		spec := f[start:i]
		if len(spec) > 6 {
			return nil, fmt.Errorf("format %q", spec)
		}
		verb := f[i]
		if verb == '%' {
			b.WriteByte('%')
			continue
		}
		if !named {
			if next >= len(values) {
				return nil, errors.New("not enough arguments for format string")
			}
			value = values[next]
			next++
		}
		n, fl, isFloat, isNumber := number(value)
		switch verb {
		case 's':
			fmt.Fprintf(&b, "%"+spec+"s", str(value))
		case 'r':
			fmt.Fprintf(&b, "%"+spec+"s", repr(value))
		case 'd', 'i', 'x', 'X', 'o', 'c':
			if !isNumber {
				return nil, fmt.Errorf("%%%c format: a number is required, not %s", verb, typeName(value))
			}
			if isFloat {
				n = int64(fl)
			}
			if verb == 'i' {
				verb = 'd'
			}
			fmt.Fprintf(&b, "%"+spec+string(verb), n)
		case 'f', 'F', 'g', 'G', 'e', 'E':
			if !isNumber {
				return nil, fmt.Errorf("must be real number, not %s", typeName(value))
			}
			fmt.Fprintf(&b, "%"+spec+string(verb), fl)
		default:
			return nil, fmt.Errorf("unsupported format character '%c'", verb)
		}
		if b.Len() > maxText {
			return nil, errTooLong
		}
	}
	if _, isMap := v.(*Map); next < len(values) && !isMap {
		return nil, errors.New("not all arguments converted during string formatting")
	}
	return b.String(), x.charge(b.Len())
}

// format is str.format with plain fields: {}, {0}, {name}, and a format such as {:.2f}.
func (x *exec) format(f string, a *callArgs) (any, error) {
	var b strings.Builder
	next := 0
	for i := 0; i < len(f); i++ {
		switch c := f[i]; {
		case (c == '{' || c == '}') && i+1 < len(f) && f[i+1] == c:
			b.WriteByte(c)
			i++
		case c == '}':
			return nil, errors.New("single '}' encountered in format string")
		case c != '{':
			b.WriteByte(c)
		default:
			end := strings.IndexByte(f[i:], '}')
			if end < 0 {
				return nil, errors.New("single '{' encountered in format string")
			}
			name, spec, _ := strings.Cut(f[i+1:i+end], ":")
			i += end
			pos := -1
			if name == "" {
				pos = next
				next++
			} else if n, err := strconv.Atoi(name); err == nil {
				pos = n
			}
			v, ok := a.arg(pos, name)
			if !ok {
				return nil, fmt.Errorf("no value for {%s}", name)
			}
			if spec == "" {
				b.WriteString(str(v))
				break
			}
			verb := spec[len(spec)-1]
			if strings.IndexByte("sdfgexXo", verb) < 0 {
				return nil, fmt.Errorf("unsupported format {:%s}", spec)
			}
			s, err := x.percent("%"+spec, &List{Items: []any{v}, Tuple: true})
			if err != nil {
				return nil, err
			}
			b.WriteString(s.(string))
		}
		if b.Len() > maxText {
			return nil, errTooLong
		}
	}
	return b.String(), nil
}
