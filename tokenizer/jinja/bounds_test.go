package jinja

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestBounds: templates that would run or grow without end give an error that says so, soon.
func TestBounds(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"macro calls itself":     {`{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}`, "nest more than 100 deep"},
		"macros call each other": {`{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}`, "nest more than 100 deep"},
		"loop calls itself":      {`{% for i in l recursive %}{{ loop(l) }}{% endfor %}`, "nest more than 100 deep"},
		"loops in loops":         {strings.Repeat(`{% for i in range(99999) %}`, 4) + `x` + strings.Repeat(`{% endfor %}`, 4), "takes too long"},
		"text doubles":           {`{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`, "too long|MiB"},
		"text times":             {`{{ 'x' * 999999999999 }}`, "MiB"},
		"list times":             {`{{ [1] * 999999999 }}`, "takes too long"},
		"list doubles":           {`{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}`, "too long|items"},
		"list of itself twice":   {`{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}`, "too long|MiB"},
		"equal to its like":      {`{% set ns = namespace(l=[], m=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}`, "too long"},
		"maps in lists":          {`{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% for j in range(99) %}{% set ns.l = [{'a': 1}, ns.l] %}{% endfor %}{% endfor %}`, "MiB of values"},
		"macros kept":            {`{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% for j in range(99) %}{% macro m() %}{% endmacro %}{% set ns.l = [m, ns.l] %}{% endfor %}{% endfor %}`, "MiB of values"},
		"copies":                 {`{% set d = dict(range(9998) | batch(2)) %}{% for i in range(99999) %}{% set e = dict(d) %}{% endfor %}`, "MiB of values|too long"},
		"many strings":           {`{{ ` + strings.Repeat(`"a"`, 300000) + ` * 100000 }}`, "MiB"},
		"as JSON":                {`{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}`, "too long|MiB"},
		"output":                 {`{% for i in range(99999) %}{% for j in range(99999) %}{{ s }}{% endfor %}{% endfor %}`, "too long|MiB"},
		"replace grows":          {`{{ ('a' * 9999999) | replace('a', 'bbbbbbbbbb') }}`, "MiB"},
		"join grows":             {`{{ ('a' * 999999) | join('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb') }}`, "MiB|too long"},
		"pads":                   {`{{ 'a'.ljust(99999999999) }}`, "MiB"},
		"formats":                {`{{ '%999999999d' % 1 }}`, "format"},
		"power":                  {`{{ 99 ** 99999 }}`, "too large"},
		"range":                  {`{{ range(99999999999) }}`, "too big"},
		"nested parentheses":     {`{{ ` + strings.Repeat("(", 100000) + `1` + strings.Repeat(")", 100000) + `}}`, "nested too deeply"},
		"nested ifs":             {strings.Repeat(`{% if 1 %}`, 100000), "nested too deeply"},
		"nested lists":           {`{{ ` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}}`, "nested too deeply"},
		"many nots":              {`{{ ` + strings.Repeat("not ", 100000) + `1 }}`, "nested too deeply"},
		"many minuses":           {`{{ ` + strings.Repeat("-", 100000) + `1 }}`, "nested too deeply"},
		"long sum":               {`{{ 1` + strings.Repeat("+1", 100000) + ` }}`, "links"},
		"long path":              {`{{ a` + strings.Repeat(".a", 100000) + ` }}`, "links"},
		"long pipe":              {`{{ a` + strings.Repeat("|trim", 100000) + ` }}`, "links"},
		"many elifs":             {`{% if 1 %}` + strings.Repeat("{% elif 1 %}", 10000) + `{% endif %}`, "nested too deeply"},
		"large":                  {strings.Repeat("x", MaxSource+1), "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			tmpl, err := Parse(c.src)
			if err == nil {
				_, err = tmpl.Render(map[string]any{"l": []any{1, 2}, "s": "text"}, nil)
			}
			if err == nil {
				t.Fatal("no error")
			}
			ok := false
			for _, want := range strings.Split(c.want, "|") {
				ok = ok || strings.Contains(err.Error(), want)
			}
			if !ok || len(err.Error()) > 300 {
				t.Errorf("%v, want %q", err, c.want)
			}
			var e *Error
			if name != "large" && (!errors.As(err, &e) || e.Line != 1) {
				t.Errorf("no line: %v", err)
			}
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("%v", d)
			}
		})
	}
}

// TestErrorLine: errors tell where.
func TestErrorLine(t *testing.T) {
	tmpl, err := Parse("a\n{% for m in messages %}\n{{ m.content.x.y }}\n{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tmpl.Render(map[string]any{"messages": []any{map[string]any{"content": "c"}}}, nil)
	if got := err.Error(); got != "jinja: line 3: 'str object' has no attribute 'x'" {
		t.Error(got)
	}
	_, err = Parse("{% if x %}\n\n{% endfor %}")
	if got := err.Error(); got != `jinja: line 3: unknown tag "endfor"` {
		t.Error(got)
	}
	tmpl, err = Parse("{{ raise_exception('Roles must alternate') }}")
	if err != nil {
		t.Fatal(err)
	}
	var raised *Raised
	if _, err = tmpl.Render(nil, nil); !errors.As(err, &raised) || raised.Message != "Roles must alternate" {
		t.Error(err)
	}
}

// TestValue: Go values keep the order of their JSON.
func TestValue(t *testing.T) {
	tmpl, err := Parse("{{ v | tojson }}")
	if err != nil {
		t.Fatal(err)
	}
	type tool struct {
		Name string         `json:"name"`
		Args map[string]any `json:"args"`
		None *int           `json:"none"`
	}
	got, err := tmpl.Render(map[string]any{"v": []tool{{Name: "<b>&", Args: map[string]any{"z": 1, "a": []string{"x"}, "f": 1.5}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := `[{"name": "<b>&", "args": {"a": ["x"], "f": 1.5, "z": 1}, "none": null}]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
