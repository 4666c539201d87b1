package jinja

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	refFile = flag.String("reference", "", "output of tools/reference/chat_templates.py for other templates")
	refDir  = flag.String("templates", "", "the folder with those templates")
)

// now is what the reference renderings were told.
var now = &Options{Now: time.Date(2025, 4, 15, 9, 5, 7, 0, time.UTC)}

type rendering struct {
	File, Conversation, Name, Template string
	Vars                               json.RawMessage
	Output                             *string
	Error                              string
}

func readRenderings(t testing.TB, path string) []rendering {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []rendering
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<26)
	for sc.Scan() {
		var r rendering
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func vars(t testing.TB, raw json.RawMessage) map[string]any {
	t.Helper()
	v, err := FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	m := v.(*Map)
	for i, k := range m.keys {
		out[k.(string)] = m.values[i]
	}
	return out
}

// sameRenderings renders every template with every conversation and compares with Jinja2: the same
// text, or an error where Jinja2 has one.
func sameRenderings(t *testing.T, path, folder string) {
	conversations := map[string]map[string]any{}
	parsed := map[string]*Template{}
	failed := map[string]error{}
	total, wrong := 0, 0
	for _, r := range readRenderings(t, path) {
		if r.Name != "" {
			conversations[r.Name] = vars(t, r.Vars)
			continue
		}
		if parsed[r.File] == nil && failed[r.File] == nil {
			src, err := os.ReadFile(filepath.Join(folder, r.File))
			if err != nil {
				t.Fatal(err)
			}
			if parsed[r.File], err = Parse(string(src)); err != nil {
				failed[r.File] = err
			}
		}
		total++
		var got string
		err := failed[r.File]
		if err == nil {
			got, err = parsed[r.File].Render(conversations[r.Conversation], now)
		}
		switch {
		case r.Output == nil && strings.Contains(r.Error, "generator"):
			continue // here map and select give lists, and lists can be printed
		case r.Output == nil && err == nil:
			t.Errorf("%s, %s: no error, Jinja2: %s\n%q", r.File, r.Conversation, r.Error, got)
		case r.Output != nil && err != nil:
			t.Errorf("%s, %s: %v", r.File, r.Conversation, err)
		case r.Output != nil && got != *r.Output:
			t.Errorf("%s, %s:\n got %q\nwant %q", r.File, r.Conversation, got, *r.Output)
		case r.Output == nil:
			if want := strings.TrimPrefix(r.Error, "TemplateError: "); want != r.Error && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: error %v, want %q", r.File, r.Conversation, err, want)
			}
			continue
		default:
			continue
		}
		if wrong++; wrong > 20 {
			t.Fatal("and so on")
		}
	}
	t.Logf("%d templates, %d renderings, %d wrong", len(parsed)+len(failed), total, wrong)
}

// TestChatTemplates compares with Jinja2 on templates in the style of the published ones, times
// conversations with and without tools. Made by tools/reference/chat_templates.py, Jinja2 3.1.6.
func TestChatTemplates(t *testing.T) {
	sameRenderings(t, "testdata/chat.jsonl", "testdata/templates")
}

// TestLanguage compares with Jinja2 one feature at a time.
func TestLanguage(t *testing.T) {
	list := readRenderings(t, "testdata/snippets.jsonl")
	v := vars(t, list[0].Vars)
	n := 0
	for _, r := range list[1:] {
		n++
		var got string
		tmpl, err := Parse(r.Template)
		if err == nil {
			got, err = tmpl.Render(v, now)
		}
		switch {
		case r.Output == nil && err == nil:
			t.Errorf("%s\n got %q\nwant error %s", r.Template, got, r.Error)
		case r.Output != nil && err != nil:
			t.Errorf("%s\n got error %v\nwant %q", r.Template, err, *r.Output)
		case r.Output != nil && got != *r.Output:
			t.Errorf("%s\n got %q\nwant %q", r.Template, got, *r.Output)
		}
	}
	t.Logf("%d templates", n)
}

func TestReference(t *testing.T) {
	if *refFile == "" {
		t.Skip("no -reference")
	}
	sameRenderings(t, *refFile, *refDir)
}
