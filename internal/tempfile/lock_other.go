//go:build !unix

package tempfile

import "os"

func hold(*os.File) bool { return true }

// removeStale removes a file, which fails where another process has it open. A folder of another process would lose the
// files that are not open: folders stay.
func removeStale(path string, folder bool) {
	if !folder {
		os.Remove(path)
	}
}
