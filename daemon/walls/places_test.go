package walls

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDirectoriesThatComeLaterAreSeen(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"stays", "goes", "replaced", "other"} {
		do(os.Mkdir(path(n), 0o700))
	}
	p := LookAt([]string{path("stays"), path("goes"), path("replaced"), path("comes"), path("never")})
	if later := p.Later(); len(later) != 0 {
		t.Errorf("at once: %q", later)
	}
	do(os.WriteFile(filepath.Join(path("stays"), "file"), nil, 0o600))
	do(os.Rename(path("goes"), path("gone")))
	do(os.Rename(path("replaced"), path("was")))
	do(os.Rename(path("other"), path("replaced")))
	do(os.Mkdir(path("comes"), 0o700))
	if later, want := p.Later(), []string{path("comes"), path("replaced")}; !slices.Equal(later, want) {
		t.Errorf("later are %q, want %q", later, want)
	}
	do(os.Rename(path("gone"), path("goes"))) // the same again
	if later := p.Later(); slices.Contains(later, path("goes")) {
		t.Errorf("later are %q", later)
	}
}
