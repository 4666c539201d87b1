package par

import (
	"os"
	"path/filepath"
	"testing"
)

func TestQuota(t *testing.T) {
	for name, c := range map[string]struct {
		list  string
		files map[string]string
		want  float64
	}{
		"none":              {"0::/\n", nil, 1e9},
		"no limit":          {"0::/a\n", map[string]string{"a/cpu.max": "max 100000\n"}, 1e9},
		"version 2":         {"0::/a/b\n", map[string]string{"a/b/cpu.max": "150000 100000\n"}, 1.5},
		"in a group above":  {"0::/a/b\n", map[string]string{"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5},
		"version 1":         {"2:memory:/m\n1:cpu:/a\n", map[string]string{"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1},
		"two controllers":   {"1:cpu,cpuacct:/\n", map[string]string{"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3},
		"version 1, none":   {"1:cpu:/a\n", map[string]string{"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1e9},
		"of another kind":   {"1:cpuset:/a\n", map[string]string{"cpuset/a/cpu.cfs_quota_us": "1\n", "cpuset/a/cpu.cfs_period_us": "1000\n"}, 1e9},
		"something strange": {"x\n0::a/../..\n\n::\n", map[string]string{"cpu.max": "1\n"}, 1e9},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			file = filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := quota(root, c.list); got != c.want {
			t.Errorf("%s: %g cores, want %g", name, got, c.want)
		}
	}
}
