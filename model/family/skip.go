package family

import (
	"fmt"
	"regexp"
	"strings"
)

// skipList is modules_to_not_convert: which linear layers of a model stay as they are.
//
// Each pattern is a regular expression that matches a module's name from its beginning up to a border between two parts of it,
// or just how the name ends. Source: transformers quantizers/quantizers_utils.py, should_convert_module.
type skipList struct {
	patterns []string
	res      []*regexp.Regexp
}

func newSkipList(patterns []string) (*skipList, error) {
	l := &skipList{patterns: patterns}
	for _, p := range patterns {
		re, err := regexp.Compile("^(?:" + p + ")$")
		if err != nil {
			return nil, fmt.Errorf("quantization_config.modules_to_not_convert: %q is no regular expression that can be read here: %w", p, err)
		}
		l.res = append(l.res, re)
	}
	return l, nil
}

// has says whether the module of this name is in the list.
func (l *skipList) has(module string) bool {
	for i, re := range l.res {
		if strings.HasSuffix(module, l.patterns[i]) {
			return true
		}
		// A border is behind a dot, in front of one, or the end.
		for end := 1; end <= len(module); end++ {
			if (end == len(module) || module[end] == '.' || module[end-1] == '.') && re.MatchString(module[:end]) {
				return true
			}
		}
	}
	return false
}
