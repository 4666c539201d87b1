package par

import (
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// Cores is how many threads this process should compute with: GOMAXPROCS, no more than there are processors, or 1 when a
// cgroup allows it about one core's time. Go's own limit never goes below 2, and a second thread would spend on waiting
// what the first one needs.
func Cores() int {
	n := min(runtime.GOMAXPROCS(0), runtime.NumCPU())
	if list, err := os.ReadFile("/proc/self/cgroup"); err == nil && n == 2 && quota("/sys/fs/cgroup", string(list)) < 1.5 {
		n = 1
	}
	return n
}

// quota is the least number of cores that the cgroups in list, as /proc/self/cgroup has them, and those above them
// allow; a large number when there is no limit. Source: Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
func quota(root, list string) float64 {
	least := 1e9
	for line := range strings.Lines(list) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(parts) != 3 {
			continue
		}
		dir := root
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",cpu,") {
				continue
			}
			dir = path.Join(root, parts[1])
		}
		for p := path.Clean("/" + parts[2]); ; p = path.Dir(p) {
			at := path.Join(dir, p)
			limit := words(at + "/cpu.max") // version 2: quota and period
			if parts[1] != "" {
				limit = append(words(at+"/cpu.cfs_quota_us"), words(at+"/cpu.cfs_period_us")...)
			}
			if len(limit) == 2 {
				q, err1 := strconv.ParseFloat(limit[0], 64)
				period, err2 := strconv.ParseFloat(limit[1], 64)
				if err1 == nil && err2 == nil && q > 0 && period > 0 { // "max" and -1 are no limit
					least = min(least, q/period)
				}
			}
			if p == "/" {
				break
			}
		}
	}
	return least
}

func words(file string) []string {
	b, _ := os.ReadFile(file)
	return strings.Fields(string(b))
}
