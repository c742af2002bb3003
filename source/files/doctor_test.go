package files

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"strongroom/source"
)

func examined(t *testing.T, cfg Config) (codes map[string]source.Finding) {
	t.Helper()
	s, err := New(cfg)
	must(t, err)
	all, err := s.Examine(t.Context())
	must(t, err)
	codes = map[string]source.Finding{}
	for _, f := range all {
		codes[f.Code] = f
	}
	return codes
}

// What an ordinary user cannot read is in TestOrdinaryUser.
func TestExamineTellsWhatASnapshotOfATreeHas(t *testing.T) {
	root := t.TempDir()
	if f := examined(t, Config{Path: root})["empty"]; f.Severity != source.Warn {
		t.Errorf("%+v", f)
	}
	for _, d := range []string{"a/b", "cache", "disk"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(root, "a/b/f"), make([]byte, 700), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "cache/f"), make([]byte, 50), 0o600))
	got := examined(t, Config{Path: root, Exclude: []string{"cache"}})
	if f := got["unreadable"]; f.Severity != source.OK || !strings.Contains(f.What, "all 4 entries") || !strings.Contains(f.What, "700 bytes") {
		t.Errorf("%+v", f)
	}
	if f := got["excluded"]; f.Severity != source.Note || !strings.HasPrefix(f.What, "1 entries") {
		t.Errorf("%+v", f)
	}
	if f := got["mounts"]; f.Severity != source.OK {
		t.Errorf("%+v", f)
	}
	if f := examined(t, Config{Path: filepath.Join(root, "none")})["readable"]; f.Severity != source.Bad {
		t.Errorf("%+v", f)
	}
	if os.Geteuid() != 0 {
		t.Skip("mounts need root: that a tree with other file systems below is told was not seen")
	}
	must(t, syscall.Mount("tmpfs", filepath.Join(root, "disk"), "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { syscall.Unmount(filepath.Join(root, "disk"), syscall.MNT_DETACH) })
	if f := examined(t, Config{Path: root})["mounts"]; f.Severity != source.Note || !strings.Contains(f.What, `"disk"`) {
		t.Errorf("%+v", f)
	}
}
