package grammar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// testVocab has every byte, many pieces of JSON, words and characters of several bytes, doubles, an
// empty token and two that end a text (0 and 1).
func testVocab() *Vocab {
	words := []string{
		"", "", "", "{\"", "\":", "\": ", "\",", "\", \"", "\"}", "}}", "},{", "[[", "]]", "],[", ",\"", "[\"", "\"]", "{}", "[]",
		"true", "false", "null", "tr", "ue", "fal", "1.5", "12", "000", "-1", "e+", "E1", "\\u", "\\u00", "\\n", "\\\"", "\\\\", "\n  ", "\n    ", "   ",
		"name", "value", "the", " the", " of", "hello", "é", "ü", "世界", "世", "🙂", "a\"b", "日本\",", "\":[", "\":{\"", "]}", "]}\n", "},\n",
		"{\"name\":", "<tool_call>", "<tool", "</tool_call>", "a", "z", ":", "20", "19", "-0", "T1", ":3", "Z\"", "@", ".com", "://", "http",
	}
	for i := range 300 {
		words = append(words, string([]byte{byte('a' + i%26), byte('a' + i/26%26), byte('a' + i*7%26)}))
	}
	n := len(words)
	return NewVocab(n+256, func(id int32) []byte {
		if int(id) < n {
			return []byte(words[id])
		}
		return []byte{byte(int(id) - n)}
	}, []int32{0, 1})
}

// walk generates one text with random choices. It fails the test if no token is allowed, if a token
// outside the mask reads or one inside does not, or if a limit that can be kept is not kept.
func walk(t testing.TB, g *Grammar, rng *rand.Rand, limit int) (text []byte, ended bool) {
	m := g.NewMatcher()
	reachable := g.MinBytes() <= limit
	// Favourites make long repetitions, as a poor model does.
	weight := make([]float64, g.v.size)
	for i := range weight {
		weight[i] = 1
		if rng.IntN(20) == 0 {
			weight[i] = 1000 * rng.Float64()
		}
	}
	if rng.IntN(2) == 0 {
		weight[0] = 1e4
	}
	for n := range limit {
		m.Limit(limit - n)
		bits := m.Allowed()
		id := int32(-1)
		for tries := 0; ; tries++ {
			if tries == 8 {
				m.Narrow()
			}
			id = -1
			var sum float64
			for i := range int32(g.v.size) {
				if bits[i/64]>>(i%64)&1 == 1 {
					sum += weight[i]
					if rng.Float64()*sum < weight[i] {
						id = i
					}
				}
			}
			if id < 0 {
				t.Fatalf("dead end after %q", text)
			}
			if m.Fits(id) {
				break
			}
			m.Forbid(id)
		}
		if id <= 1 {
			if !m.MayEnd() {
				t.Fatalf("may end after %q", text)
			}
			return text, true
		}
		m.Accept(id)
		text = append(text, g.v.token[id]...)
		if m.Done() && !m.MayEnd() {
			t.Fatalf("token %q was allowed, but does not read, after %q", g.v.token[id], text)
		}
		if m.Done() {
			return text, true
		}
	}
	if reachable && !m.MayEnd() {
		t.Fatalf("did not end within %d tokens: %q", limit, text)
	}
	return text, m.MayEnd()
}

// The masks equal what reading each token from scratch says.
func TestMasksAreExact(t *testing.T) {
	v := testVocab()
	rng := rand.New(rand.NewPCG(3, 4))
	gs := []*Grammar{must(JSONObject(v)), must(Regex(v, `(ab|a)*\d{2,4}(é|世)?[^x]*`)), must(GBNF(v, `root ::= list
list ::= "[" (item ("," item)*)? "]"
item ::= list | [a-z]+ | "世" | num  # nested
num ::= "-"? [0-9]{1,3}`))}
	for range 30 {
		src := randomSchema(rng)
		if g, err := JSONSchema(v, src); err == nil {
			gs = append(gs, g)
		}
	}
	for _, g := range gs {
		m := g.NewMatcher()
		var text []byte
		for range 60 {
			bits := m.Allowed()
			var may []int32
			c := g.NewMatcher() // reads from scratch, never through a mask
			c.tops = slices.Clone(c.run(c.tops, text))
			for id := range int32(v.size) {
				on := bits[id/64]>>(id%64)&1 == 1
				want := false
				switch {
				case id <= 1:
					want = m.MayEnd()
				case len(v.token[id]) > 0:
					tops := c.run(c.tops, v.token[id])
					want = len(tops) > 0 || c.accept
				}
				if on != want {
					t.Fatalf("after %q token %q: mask %v, reading %v", text, v.token[id], on, want)
				}
				if on && id > 1 {
					may = append(may, id)
				}
			}
			if len(may) == 0 {
				break
			}
			id := may[rng.IntN(len(may))]
			m.Accept(id)
			text = append(text, v.token[id]...)
		}
	}
}

func must(g *Grammar, err error) *Grammar {
	if err != nil {
		panic(err)
	}
	return g
}

// Random schemas and random weights: every text parses and is valid.
func TestRandomSchemas(t *testing.T) {
	n := 200
	if s := os.Getenv("TRIT_TEST_SCHEMAS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	v := testVocab()
	done, empty := 0, 0
	for seed := uint64(1); done < n; seed++ {
		rng := rand.New(rand.NewPCG(seed, 99))
		src := randomSchema(rng)
		g, err := JSONSchema(v, src)
		if err != nil {
			if !strings.Contains(err.Error(), "nothing matches") && !strings.Contains(err.Error(), "not supported") {
				t.Fatalf("seed %d: %v\n%s", seed, err, src)
			}
			empty++
			continue
		}
		done++
		check := validator(t, src)
		for i := range 3 {
			limit := []int{g.MinBytes(), g.MinBytes() + 1 + rng.IntN(30), g.MinBytes() + 300}[i]
			text, ended := walk(t, g, rng, max(limit, 1))
			if !ended && limit >= g.MinBytes() {
				t.Fatalf("seed %d: no end within %d\n%s\n%s", seed, limit, src, text)
			}
			if err := check(text); ended && err != nil {
				t.Fatalf("seed %d: %v\n%s\n%s", seed, err, src, text)
			}
		}
	}
	t.Logf("%d schemas, %d of nothing", done, empty)
}

func validator(t testing.TB, src []byte) func([]byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("s.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("s.json")
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	return func(text []byte) error {
		if !utf8.Valid(text) {
			return fmt.Errorf("not UTF-8")
		}
		var x any
		if err := json.Unmarshal(text, &x); err != nil {
			return err
		}
		y, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return err
		}
		return s.Validate(y)
	}
}

// randomSchema draws from everything that the package supports.
func randomSchema(rng *rand.Rand) []byte {
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	one := func(n int) bool { return rng.IntN(n) == 0 }
	var gen func(depth int) string
	num := func() string {
		return pick("0", "1", "-1", "5", "-17", "99", "100", "1000", "-250", "0.5", "-0.25", "3.75", "0.001", "12.5", "1e3", "2.5e-2")
	}
	str := func() string {
		b, _ := json.Marshal(pick("a", "name", "größe", "x\"y", "back\\slash", "line\nend", "世界", "🙂", "", "</script>", "key with blank", "\u0001"))
		return string(b)
	}
	gen = func(depth int) string {
		kinds := []string{"string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "format", "length", "range", "irange"}
		if depth > 0 {
			kinds = append(kinds, "object", "object", "object", "array", "array", "anyOf", "ref", "ref", "types", "map", "tuple", "free", "multiple", "open",
				"allOf", "oneOf", "tagged", "not", "if", "patterns", "names", "sizes", "depends", "contains", "set", "beside", "long", "many")
		}
		switch k := pick(kinds...); k {
		case "enum":
			return fmt.Sprintf(`{"enum":[%s,%s,null,[1,{"k":%s}]]}`, str(), num(), str())
		case "const":
			return fmt.Sprintf(`{"type":"string","const":%s}`, str())
		case "pattern":
			p, _ := json.Marshal(pick(`^[a-z]{2,5}$`, `\d+`, `^(foo|bar)`, `x|^y|z$`, `^[^a"\\]{0,4}$`, `[!-/]`, `^\p{L}+\s\w*$`, `^.{3}$`, `(?i)abc`, `^$|^\n$`))
			return fmt.Sprintf(`{"type":"string","pattern":%s%s}`, p, pick("", `,"maxLength":12`, `,"minLength":1`))
		case "format":
			return fmt.Sprintf(`{"type":"string","format":%q}`, pick("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"))
		case "length":
			lo := rng.IntN(5)
			return fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d}`, lo, lo+rng.IntN(6))
		case "range", "irange":
			t := map[string]string{"range": "number", "irange": "integer"}[k]
			s := `{"type":"` + t + `"`
			if !one(4) {
				s += fmt.Sprintf(`,%q:%s`, pick("minimum", "exclusiveMinimum"), num())
			}
			if !one(4) {
				s += fmt.Sprintf(`,%q:%s`, pick("maximum", "exclusiveMaximum"), num())
			}
			return s + "}"
		case "multiple":
			return fmt.Sprintf(`{"type":%q,"multipleOf":%s,"minimum":%s}`, pick("number", "integer"), pick("1", "2", "7", "0.5", "100", "2.5"), num())
		case "object", "open":
			var props, req []string
			for i := range rng.IntN(4) {
				props = append(props, fmt.Sprintf(`"p%d%s":%s`, i, pick("", "é", "-x"), gen(depth-1)))
				if !one(3) {
					req = append(req, strings.SplitN(props[i], ":", 2)[0])
				}
			}
			return fmt.Sprintf(`{"type":"object","properties":{%s},"required":[%s]%s}`, strings.Join(props, ","), strings.Join(req, ","),
				map[string]string{"object": `,"additionalProperties":false`, "open": ""}[k])
		case "map":
			return fmt.Sprintf(`{"type":"object","additionalProperties":%s}`, gen(depth-1))
		case "array":
			lo := rng.IntN(3)
			return fmt.Sprintf(`{"type":"array","items":%s%s}`, gen(depth-1), pick("", fmt.Sprintf(`,"minItems":%d`, lo), fmt.Sprintf(`,"minItems":%d,"maxItems":%d`, lo, lo+rng.IntN(4))))
		case "tuple":
			return fmt.Sprintf(`{"type":"array","prefixItems":[%s,%s],"items":%s%s}`, gen(depth-1), gen(depth-1), pick("false", gen(depth-1)), pick("", `,"minItems":1`, `,"maxItems":3`, `,"minItems":2,"maxItems":2`))
		case "anyOf":
			return fmt.Sprintf(`{"anyOf":[%s,%s]}`, gen(depth-1), gen(depth-1))
		case "types":
			return `{"type":["string","null","integer"],"title":"passed over"}`
		case "allOf":
			return fmt.Sprintf(`{"allOf":[{"type":"object","properties":{"a":%s,"b":%s},"required":["a"]},{"properties":{"b":%s,"c":true},"required":[%s]}]}`, gen(depth-1), gen(0), gen(0), pick(``, `"b"`, `"c"`))
		case "oneOf":
			return fmt.Sprintf(`{"oneOf":[%s,%s,%s]}`, gen(0), gen(0), pick(`{"type":"object","required":["a"]}`, `{"type":"object","required":["b"]}`, gen(0)))
		case "tagged":
			return fmt.Sprintf(`{"oneOf":[{"type":"object","properties":{"t":{"const":"a"},"x":%s}%s},{"type":"object","properties":{"t":{"const":"b"},"y":%s}}]}`, gen(depth-1), pick("", `,"required":["t"]`), gen(depth-1))
		case "not":
			return fmt.Sprintf(`{"type":[%s],"not":%s}`, pick(`"string","integer"`, `"object"`, `"number","null"`, `"array","boolean"`), pick(
				`{"const":"a"}`, `{"enum":["",0,null]}`, `{"minimum":3}`, `{"pattern":"^\\d"}`, `{"required":["a"]}`, `{"type":["null","string"]}`,
				`{"properties":{"a":{"type":"string"}},"required":["a"]}`, `{"maxLength":2}`, `{"minItems":1}`, `{"items":{"type":"integer"}}`, `{"anyOf":[{"type":"integer"},{"maxLength":1}]}`, `{"multipleOf":2}`, `{"const":1.50}`))
		case "if":
			return fmt.Sprintf(`{"type":"object","properties":{"k":{"enum":["x","y"]},"v":%s},"if":{"properties":{"k":{"const":"x"}}%s},"then":{"required":["v"]},"else":{"properties":{"v":%s}}}`, gen(depth-1), pick("", `,"required":["k"]`), gen(0))
		case "patterns":
			return fmt.Sprintf(`{"type":"object","properties":{"x1":%s},"patternProperties":{"^x":%s,%q:%s}%s}`, gen(0), gen(0), pick("\\d$", "^[a-z]{2,3}$", "é"), gen(0), pick("", `,"additionalProperties":false`, `,"additionalProperties":{"type":"null"}`))
		case "names":
			return fmt.Sprintf(`{"type":"object","propertyNames":%s,"additionalProperties":%s}`, pick(`{"pattern":"^[a-c]+$"}`, `{"enum":["one","two"]}`, `{"maxLength":3}`, `{"type":"string","not":{"const":"a"}}`), gen(0))
		case "sizes":
			return fmt.Sprintf(`{"type":"object","properties":{"a":%s,"b":true,"c":{"type":"null"}}%s,"minProperties":%d,"maxProperties":%d}`, gen(0), pick("", `,"required":["b"]`, `,"additionalProperties":{"type":"null"}`), rng.IntN(3), 2+rng.IntN(2))
		case "depends":
			return fmt.Sprintf(`{"type":"object","properties":{"a":%s,"b":true,"c":true},%s}`, gen(0), pick(`"dependentRequired":{"a":["c"]}`, `"dependentSchemas":{"b":{"required":["c"],"properties":{"a":{"type":"integer"}}}}`))
		case "contains":
			return fmt.Sprintf(`{"type":"array","items":%s,"contains":%s%s}`, pick("true", `{"type":["integer","string","null"]}`), pick(`{"type":"integer"}`, `{"const":null}`), pick("", `,"maxItems":3`))
		case "set":
			return fmt.Sprintf(`{"type":"array","uniqueItems":true,"items":{"enum":[1,1.0,"a",null,[2]%s]},"minItems":%d%s}`, pick("", `,3,4,5,6,7,8,9,10,11`), rng.IntN(3), pick("", `,"maxItems":3`))
		case "beside":
			return fmt.Sprintf(`{"type":"object","properties":{"a":{"type":"integer"},"b":%s},"anyOf":[{"required":["a"]},{"required":["b"]}]}`, gen(0))
		case "long":
			lo := rng.IntN(300)
			return fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d%s}`, pick2(rng, 0, lo), lo+rng.IntN(2500), pick("", `,"pattern":"^[a-zé\\\\]*$"`, `,"pattern":"\\d"`, `,"format":"uri"`))
		case "many":
			lo := rng.IntN(40)
			return fmt.Sprintf(`{"type":"array","items":{"type":%s},"minItems":%d,"maxItems":%d}`, pick(`"null"`, `["integer","string"]`), pick2(rng, 0, lo), lo+rng.IntN(4000))
		case "free":
			return pick("true", "{}")
		case "ref":
			return fmt.Sprintf(`{"$ref":"#/$defs/%s"}`, pick("list", "tree", "leaf"))
		default:
			return fmt.Sprintf(`{"type":%q}`, k)
		}
	}
	top := gen(3)
	if top == "true" || top == "{}" {
		top = `{"type":"object"}`
	}
	defs := fmt.Sprintf(`"$defs":{
		"list":{"anyOf":[{"type":"null"},{"type":"object","properties":{"head":%s,"tail":{"$ref":"#/$defs/list"}},"required":["head","tail"],"additionalProperties":false}]},
		"tree":{"type":"object","properties":{"left":{"$ref":"#/$defs/tree"},"v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["v"],"additionalProperties":false},
		"leaf":%s}`, gen(0), gen(0))
	if top[1] == '}' {
		return []byte("{" + defs + "}")
	}
	return []byte(`{` + defs + `,` + top[1:])
}

func pick2(rng *rand.Rand, x ...int) int { return x[rng.IntN(len(x))] }

func TestJSONObject(t *testing.T) {
	g := must(JSONObject(testVocab()))
	for seed := range uint64(50) {
		text, ended := walk(t, g, rand.New(rand.NewPCG(seed, 1)), 200)
		var o map[string]any
		if err := json.Unmarshal(text, &o); !ended || err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
}

func TestRegexAgreesWithRegexp(t *testing.T) {
	v := testVocab()
	for _, expr := range []string{
		`a*b+c?`, `(cat|dog|世界)s?`, `[^\n]{3,7}`, `\d{4}-\d\d`, `(?i)hello|É+`, `^x$|y`, `(a(b(c)?)?)+`, `[α-ω🙂]{2}`, `a||b`, `(?:)`, `\x{10FFFF}z`,
	} {
		re := regexp.MustCompile(`\A(?:` + expr + `)\z`)
		g := must(Regex(v, expr))
		for seed := range uint64(40) {
			text, ended := walk(t, g, rand.New(rand.NewPCG(seed, 1)), 60)
			if !ended || !re.Match(text) {
				t.Errorf("%s wrote %q", expr, text)
			}
		}
	}
}

// What a grammar accepts, byte by byte.
func accepts(g *Grammar, text string) bool {
	m := g.NewMatcher()
	m.run(m.tops, []byte(text))
	return m.accept && (text != "" || m.MayEnd())
}

func TestAccepts(t *testing.T) {
	v := testVocab()
	schema := func(s string) *Grammar { return must(JSONSchema(v, []byte(s))) }
	for _, tt := range []struct {
		g       *Grammar
		yes, no []string
	}{
		{schema(`{"type":"integer","minimum":-3,"maximum":120}`), []string{"-3", "-1", "0", "9", "99", "120"}, []string{"-4", "121", "00", "1.0", "-0", "1e1", "+1"}},
		{schema(`{"type":"number","exclusiveMinimum":0.5,"maximum":1.25}`), []string{"0.51", "0.500001", "1", "1.0", "1.25", "1.2500", "1.1"}, []string{"0.5", "0.50", "0", "1.26", "1.2501", "2"}},
		{schema(`{"type":"number","minimum":-1.5,"exclusiveMaximum":0}`), []string{"-1.5", "-0.1", "-1", "-1.49"}, []string{"0", "-0", "-0.0", "-1.51", "-2", "1"}},
		{schema(`{"type":"integer","multipleOf":7}`), []string{"0", "7", "-14", "700"}, []string{"1", "-8"}},
		{schema(`{"type":"string","maxLength":2}`), []string{`""`, `"é世"`, `"\n\""`, `"\u00e9"`}, []string{`"abc"`, `"\ud800"`, "\"\n\"", `"a`}},
		{schema(`{"type":"string","pattern":"^a\"?$"}`), []string{`"a"`, `"a\""`}, []string{`"b"`, `"ab"`, `"a""`}},
		{
			schema(`{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}},"required":["b"]}`),
			[]string{`{"b":null}`, `{"a":null,"b":null}`, "{\n  \"a\": null,\n  \"b\": null,\n  \"c\": null\n}", `{"b":null, "c": null}`},
			[]string{`{}`, `{"a":null}`, `{"a":null,"c":null}`, `{"b":null,}`, `{,"b":null}`, `{"b" :null}`},
		},
		{schema(`{"allOf":[{"type":"integer"},{"enum":[1,2.5,3.0,"x"]}]}`), []string{"1", "3.0"}, []string{"2.5", `"x"`}},
		{schema(`{"type":"array","uniqueItems":true,"items":{"enum":["a","b",1,1.0]}}`), []string{"[]", `["b", "a"]`, `[1,"a","b"]`}, []string{`["a","a"]`, `[1,1.0]`, `["a",]`}},
		{schema(`{"oneOf":[{"type":"object","properties":{"t":{"const":"a","default":"a","type":"string"}}},{"type":"object","properties":{"t":{"const":"b","type":"string"}}}]}`), []string{`{"t":"a"}`, `{"t":"b"}`}, []string{`{}`, `{"t":"c"}`}},
		{schema(`{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}`), []string{`{"a":null}`, `{"b":null}`, `{"a":null,"b":null}`}, []string{`{}`}},
		{schema(`{"type":"object","properties":{"k":{"enum":["x","y"]},"v":{"type":"null"}},"required":["k"],"if":{"properties":{"k":{"const":"x"}}},"then":{"required":["v"]}}`), []string{`{"k":"y"}`, `{"k":"x","v":null}`}, []string{`{"k":"x"}`}},
		{schema(`{"type":"object","patternProperties":{"^x":{"type":"null"}},"additionalProperties":{"type":"boolean"},"propertyNames":{"maxLength":3}}`), []string{`{}`, `{"xa":null,"b":true}`}, []string{`{"xa":true}`, `{"b":null}`, `{"xabc":null}`}},
		{schema(`{"type":"object","additionalProperties":{"type":"null"},"minProperties":1,"maxProperties":2}`), []string{`{"a":null}`, `{"a":null,"b":null}`}, []string{`{}`, `{"a":null,"b":null,"c":null}`}},
		{schema(`{"type":"object","properties":{"a":true,"b":true},"dependencies":{"a":["b"]}}`), []string{`{}`, `{"b":1}`, `{"a":1,"b":1}`}, []string{`{"a":1}`}},
		{schema(`{"$schema":"http://json-schema.org/draft-07/schema#","type":"array","items":[{"type":"null"}],"additionalItems":{"type":"boolean"}}`), []string{"[null]", "[null, true]", "[]"}, []string{"[true]", "[null,null]"}},
		{schema(`{"type":"string","pattern":"^(?!ab)(?=.*\\d)[a-z0-9]+$"}`), []string{`"a1"`, `"1"`, `"a1b"`}, []string{`"ab1"`, `"abc"`, `"xy"`}},
		{schema(`{"type":"string","format":"password"}`), []string{`"anything"`}, []string{"1"}},
		{schema(`{"type":"string","format":"duration"}`), []string{`"P1Y2M3D"`, `"P3W"`, `"PT5M"`, `"P1DT12H"`, `"P1Y"`, `"PT36S"`}, []string{`"P1Y3D"`, `"P"`, `"PT"`, `"P1W2D"`, `"PT1H3S"`, `"P1Y2D"`, `"1D"`}},
		{schema(`{"type":"array","items":{"type":["integer","null"]},"contains":{"type":"integer"}}`), []string{"[1]", "[null, 2]"}, []string{"[]", "[null]"}},
		{schema(`{"oneOf":[{"type":"string"},{"type":"null"}]}`), []string{`null`, `""`}, []string{"1"}},
		{must(GBNF(v, "root ::= a{2,3} | \"x\" b?\n\n# comment\na ::= [0-9] # more\nb ::= ([^a-z] |\n \"q\")+")), []string{"12", "123", "x", "xq!"}, []string{"1", "1234", "xa", ""}},
	} {
		for _, s := range tt.yes {
			if !accepts(tt.g, s) {
				t.Errorf("refuses %s", s)
			}
		}
		for _, s := range tt.no {
			if accepts(tt.g, s) {
				t.Errorf("accepts %s", s)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	v := testVocab()
	letters := NewVocab(26, func(id int32) []byte { return []byte{byte('a' + id)} }, nil)
	for _, tt := range []struct{ want, kind, src string }{
		{"JSON", "schema", `{"type":`},
		{"more after", "schema", `{} {}`},
		{"unknown type", "schema", `{"type":"strng"}`},
		{`"maxContains" is not supported`, "schema", `{"properties":{"x":{"contains":{},"maxContains":3}}}`},
		{"#/properties/x", "schema", `{"properties":{"x":{"contains":{},"maxContains":3}}}`},
		{"nothing matches", "schema", `{"type":"integer","minimum":5,"maximum":4}`},
		{"nothing matches", "schema", `{"$ref":"#"}`},
		{"nothing matches", "schema", `{"type":"object","properties":{"x":{"$ref":"#"}},"required":["x"]}`},
		{"there is no", "schema", `{"$ref":"#/$defs/x"}`},
		{"only references into", "schema", `{"$ref":"http://example.org"}`},
		{"branches overlap", "schema", `{"oneOf":[{"type":"string"},{"type":"string"}]}`},
		{"uniqueItems", "schema", `{"type":"array","items":{"type":"string"},"uniqueItems":true}`},
		{"states", "schema", `{"type":"string","pattern":"^[ab]*a[ab]{30}$"}`},
		{"nested more", "schema", strings.Repeat(`{"items":`, 150) + "{}" + strings.Repeat("}", 150)},
		{"missing closing", "regex", `(a`},
		{"WordBoundary", "regex", `\ba`},
		{"states", "regex", `[ab]*a([ab][ab]){15}`},
		{"nothing matches", "regex", `[^\x00-\x{10FFFF}]`},
		{"not defined", "gbnf", `root ::= a`},
		{"not defined", "gbnf", `a ::= "b"`},
		{"::=", "gbnf", `root = "a"`},
		{"line 2", "gbnf", "root ::= a\na ::= [z-a]"},
		{"itself", "gbnf", "root ::= root \"a\" | \"b\""},
		{"itself", "gbnf", "root ::= a b | \"x\"\na ::= \"c\"?\nb ::= root \"d\""},
		{"does not end", "gbnf", `root ::= "a`},
		{"200 deep", "gbnf", "root ::= " + strings.Repeat("(", 300)},
		{"states", "gbnf", "root ::= " + strings.Repeat("(", 40) + "\"a\"" + strings.Repeat("){3}", 40)},
		{"nothing matches", "letters", `"a"`},
	} {
		var err error
		switch tt.kind {
		case "schema":
			_, err = JSONSchema(v, []byte(tt.src))
		case "regex":
			_, err = Regex(v, tt.src)
		case "gbnf":
			_, err = GBNF(v, tt.src)
		case "letters":
			_, err = JSONSchema(letters, []byte(`{"type":"string"}`))
		}
		if err == nil || !errors.Is(err, ErrGrammar) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %.60s: %v, want %q", tt.kind, tt.src, err, tt.want)
		}
	}
}

// fuzz compiles a source within a bound on time and writes a text of it.
func fuzz(f *testing.F, compile func(*Vocab, string) (*Grammar, error)) {
	v := testVocab()
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 400 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second) // what does not stop then hangs
		defer cancel()
		g, err := compile(v.Within(ctx), src)
		if err == nil {
			walk(t, g, rand.New(rand.NewPCG(1, 2)), 40)
		} else if !errors.Is(err, ErrGrammar) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func FuzzSchema(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"type":"integer"}}}`)
	f.Add(`{"type":"string","pattern":"^(?!a)[^\\s]{2,300}$","maxLength":9}`)
	for seed := range uint64(40) {
		f.Add(string(randomSchema(rand.New(rand.NewPCG(seed, 3)))))
	}
	fuzz(f, func(v *Vocab, src string) (*Grammar, error) {
		if g, err := JSONSchema(v, []byte(src)); err == nil {
			return g, nil
		}
		return JSONSchemaSuperset(v, []byte(src))
	})
}

func FuzzPattern(f *testing.F) {
	for _, p := range []string{`^a{2,300}$`, `(?=.*\d)[^\W_]+`, `^(?!x)(?=y|z).*$`, `[\w-.]+@\p{L}`, `(a|b){3}\u00e9`, `[^]\cA[]`} {
		f.Add(p)
	}
	fuzz(f, func(v *Vocab, src string) (*Grammar, error) {
		return JSONSchema(v, encode(nil, &object{[]string{"type", "pattern"}, map[string]any{"type": "string", "pattern": strings.ToValidUTF8(src, "")}}))
	})
}

func FuzzRegex(f *testing.F) {
	f.Add(`(a|b)*[^c]{2}`)
	f.Add(`x[a-z]{10,300}(?i)é`)
	fuzz(f, Regex)
}

func FuzzGBNF(f *testing.F) {
	f.Add("root ::= \"a\" [b-c]* (root | \"d\"){2,3}")
	f.Add("root ::= <[65]> !<[66]>* a{3,400} [x-z]{20}\na ::= <the> | .")
	fuzz(f, GBNF)
}

// bigVocab is shaped like a 128 k byte-level vocabulary.
func bigVocab() *Vocab {
	rng := rand.New(rand.NewPCG(5, 6))
	words := make([][]byte, 128_000)
	for i := range words {
		switch {
		case i < 256:
			words[i] = []byte{byte(i)}
			continue
		case rng.IntN(3) > 0:
			words[i] = append(words[i], ' ')
		case rng.IntN(20) == 0:
			words[i] = append(words[i], `",:{}[]`[rng.IntN(7)])
		}
		for range 1 + rng.IntN(9) {
			words[i] = append(words[i], byte('a'+min(rng.IntN(26), rng.IntN(26))))
		}
	}
	return NewVocab(len(words), func(id int32) []byte { return words[id] }, nil)
}

func BenchmarkMask(b *testing.B) {
	v := bigVocab()
	src := []byte(`{"type":"object","properties":{"name":{"type":"string"},"tags":{"type":"array","items":{"type":"string"}},"n":{"type":"integer"}},"required":["name","tags","n"]}`)
	text := []byte(`{"name": "some words here", "tags": ["a", "b"], "n": 12}`)
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			must(JSONSchema(v, src))
		}
	})
	b.Run("cold", func(b *testing.B) { // per byte of text, nothing cached
		for b.Loop() {
			g := must(JSONSchema(v, src))
			m := g.NewMatcher()
			for _, c := range text {
				m.Allowed()
				m.Accept(int32(c))
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(text)), "µs/token")
	})
	b.Run("warm", func(b *testing.B) {
		g := must(JSONSchema(v, src))
		for b.Loop() {
			m := g.NewMatcher()
			for _, c := range text {
				m.Allowed()
				m.Accept(int32(c))
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(text)), "µs/token")
	})
}

// What cannot be kept is dropped by name, and the rest is kept.
func TestSuperset(t *testing.T) {
	v := testVocab()
	for _, tt := range []struct {
		src, dropped string
		yes, no      []string
	}{
		{
			`{"type":"object","properties":{"tags":{"type":"array","items":{"type":"string"},"uniqueItems":true},"n":{"type":"integer"}},"required":["tags"]}`,
			"#/properties/tags uniqueItems",
			[]string{`{"tags":["a","a"]}`, `{"tags":[],"n":1}`},
			[]string{`{"n":1}`, `{"tags":[1]}`},
		},
		{`{"type":"string","pattern":"\\bx","maxLength":3}`, "# pattern", []string{`"abc"`}, []string{`"abcd"`, "1"}},
		{`{"anyOf":[{"type":"integer"},{"$ref":"http://example.org/x"}]}`, "#/anyOf/1 $ref", []string{"1", `"x"`}, nil},
		{`{"oneOf":[{"type":"string"},{"type":"string"}]}`, "# oneOf", []string{`"x"`}, []string{"1"}},
		{`{"type":"integer","minimum":3}`, "", []string{"3"}, []string{"2"}},
		{`{"type":"object","properties":{"a":{"type":"strng"}}}`, "# schema", []string{`{}`, `{"x":[1]}`}, []string{`"x"`}},
	} {
		g, err := JSONSchemaSuperset(v, []byte(tt.src))
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		var words []string
		for _, d := range g.Dropped() {
			words = append(words, d.At+" "+d.Word)
		}
		if got := strings.Join(words, ", "); got != tt.dropped {
			t.Errorf("%s: dropped %q, want %q", tt.src, got, tt.dropped)
		}
		for _, s := range tt.yes {
			if !accepts(g, s) {
				t.Errorf("%s: refuses %s", tt.src, s)
			}
		}
		for _, s := range tt.no {
			if accepts(g, s) {
				t.Errorf("%s: accepts %s", tt.src, s)
			}
		}
		if _, err := JSONSchema(v, []byte(tt.src)); (err == nil) != (tt.dropped == "") {
			t.Errorf("%s: strictly %v", tt.src, err)
		}
	}
	if _, err := JSONSchemaSuperset(v, []byte(`{"type":`)); !errors.Is(err, ErrGrammar) {
		t.Errorf("what is no JSON: %v", err)
	}
}
