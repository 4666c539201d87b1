//go:build unix

package tempfile

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Modes follow the umask, and what is private stays so under any.
func TestModesFollowTheUmask(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ umask, shared, private, folder os.FileMode }{
		{0o022, 0o644, 0o600, 0o755}, {0o077, 0o600, 0o600, 0o700}, {0o002, 0o664, 0o600, 0o775}, {0, 0o666, 0o600, 0o777},
	} {
		old := unix.Umask(int(c.umask))
		for mode, want := range map[os.FileMode]os.FileMode{Shared: c.shared, Private: c.private} {
			f, err := Create(filepath.Join(dir, "x"), mode)
			if err != nil {
				t.Fatal(err)
			}
			st, err := f.Stat()
			if err != nil || st.Mode().Perm() != want {
				t.Errorf("umask %03o: mode %03o (%v), want %03o", c.umask, st.Mode().Perm(), err, want)
			}
			f.Close()
		}
		made, release, err := Mkdir(filepath.Join(dir, "y"))
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(made)
		if err != nil || st.Mode().Perm() != c.folder {
			t.Errorf("umask %03o: folder %03o (%v), want %03o", c.umask, st.Mode().Perm(), err, c.folder)
		}
		release()
	}
}
