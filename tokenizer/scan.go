package tokenizer

// A scanner returns the length of the first piece of s, which is not empty. Scanners are the
// pre-tokenizer regular expressions of the common vocabularies, written by hand; each one is
// compared with the pattern engine (pattern.go) running the expression itself.
type scanner func(s string) int

// The expressions, as they stand in tokenizer.json files.
const (
	reGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	reLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	reQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

var scanners = map[string]scanner{
	reGPT2:   scanGPT2,
	reLlama3: scanLlama3,
	reQwen2:  scanQwen2,
}

func scanLlama3(s string) int { return scanCL100K(s, 3) }
func scanQwen2(s string) int  { return scanCL100K(s, 1) }

// run returns the end of the longest run from s[i] of characters with (class&mask != 0) == in.
func run(s string, i int, mask uint8, in bool, page *[pageClassLen]uint8) int {
	for i < len(s) {
		c, n := classAt(s, i, page)
		if (c&mask != 0) != in {
			break
		}
		i += n
	}
	return i
}

// scanCL100K is the expression of Llama 3 (digits = 3) and Qwen 2 (digits = 1).
func scanCL100K(s string, digits int) int {
	if s[0] == '\'' {
		if n := contraction(s, true); n > 0 {
			return n
		}
	}
	page := pageClass()
	c, n := classAt(s, 0, page)

	// [^\r\n\p{L}\p{N}]?\p{L}+
	if c&isL != 0 {
		return run(s, n, isL, true, page)
	}
	if c&(isN|isNL) == 0 && n < len(s) {
		if c2, n2 := classAt(s, n, page); c2&isL != 0 {
			return run(s, n+n2, isL, true, page)
		}
	}
	// \p{N}{1,3}
	if c&isN != 0 {
		i := n
		for k := 1; k < digits && i < len(s); k++ {
			c2, n2 := classAt(s, i, page)
			if c2&isN == 0 {
				break
			}
			i += n2
		}
		return i
	}
	// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
	i := 0
	if s[0] == ' ' {
		i = 1
	}
	if j := run(s, i, isZ|isL|isN, false, page); j > i {
		for j < len(s) && (s[j] == '\r' || s[j] == '\n') {
			j++
		}
		return j
	}
	// Only white space is left.
	end := run(s, 0, isZ, true, page)
	// \s*[\r\n]+
	for j := end - 1; j >= 0; j-- {
		if s[j] == '\r' || s[j] == '\n' {
			return j + 1
		}
	}
	return spaces(s, end)
}

// spaces is `\s+(?!\S)|\s+` on a run of white space s[:end]: all of it at the end of the text,
// all but the last character in front of something, a single character as it is.
func spaces(s string, end int) int {
	if end == len(s) {
		return end
	}
	last := end - 1
	for last > 0 && s[last]&0xC0 == 0x80 {
		last--
	}
	if last > 0 {
		return last
	}
	return end
}

// scanGPT2 is the expression of GPT-2 and of the ByteLevel pre-tokenizer.
func scanGPT2(s string) int {
	if s[0] == '\'' {
		if n := contraction(s, false); n > 0 {
			return n
		}
	}
	page := pageClass()
	i := 0
	if s[0] == ' ' && len(s) > 1 {
		i = 1
	}
	c, n := classAt(s, i, page)
	switch {
	case c&isL != 0:
		return run(s, i+n, isL, true, page)
	case c&isN != 0:
		return run(s, i+n, isN, true, page)
	case c&isZ == 0:
		return run(s, i+n, isZ|isL|isN, false, page)
	}
	return spaces(s, run(s, 0, isZ, true, page))
}

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at the start of s, or 0.
// When letter case is folded, ſ (U+017F) is an s.
func contraction(s string, fold bool) int {
	if len(s) < 2 {
		return 0
	}
	low := func(c byte) byte {
		if fold && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	switch low(s[1]) {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if len(s) > 2 && low(s[2]) == 'e' {
			return 3
		}
	case 'l':
		if len(s) > 2 && low(s[2]) == 'l' {
			return 3
		}
	case 0xC5:
		if fold && len(s) > 2 && s[2] == 0xBF {
			return 3
		}
	}
	return 0
}
