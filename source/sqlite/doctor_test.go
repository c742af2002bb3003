package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/source"
)

func examine(t *testing.T, s *Source) source.Findings {
	t.Helper()
	before, _ := filepath.Glob(s.cfg.Path + "*")
	all, err := s.Examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, _ := filepath.Glob(s.cfg.Path + "*")
	if strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("files before %q, after %q", before, after)
	}
	return all
}

func wantFinding(t *testing.T, all source.Findings, severity source.Severity, code, what string) {
	t.Helper()
	for _, f := range all {
		if f.Code == code && f.Severity == severity && strings.Contains(f.What, what) {
			return
		}
	}
	t.Errorf("want %s %s %q: %+v", severity, code, what, all)
}

func TestExamineTellsHowADatabaseIsRead(t *testing.T) {
	dir := t.TempDir()
	closed, open, old := filepath.Join(dir, "closed.db"), filepath.Join(dir, "open.db"), filepath.Join(dir, "old.db")
	bank(t, closed, "wal").Close()
	bank(t, open, "wal")
	locked := bank(t, old, "delete")
	for _, c := range []struct {
		path     string
		severity source.Severity
		what     string
	}{{closed, source.OK, "nobody has it open"}, {open, source.OK, "do not wait"}, {old, source.Note, "journal mode delete"}} {
		all := examine(t, newSource(t, c.path))
		wantFinding(t, all, c.severity, "journal", c.what)
		wantFinding(t, all, source.OK, "readable", c.path)
		if all.Worst().Worse(source.Note) {
			t.Errorf("%s: %+v", c.path, all)
		}
	}
	exec1(t, locked, "BEGIN EXCLUSIVE")
	wantFinding(t, examine(t, newSource(t, old)), source.Warn, "locked", "locked exclusively")
	exec1(t, locked, "ROLLBACK")

	if err := os.Chmod(old, 0o666); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, examine(t, newSource(t, old)), source.Warn, "file-mode", "0666")
	wantFinding(t, examine(t, newSource(t, filepath.Join(dir, "missing.db"))), source.Bad, "readable", "no such file")
	wantFinding(t, examine(t, newSource(t, dir)), source.Bad, "readable", "not a regular file")

	// Copied without its -shm.
	torn := filepath.Join(dir, "torn.db")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(open + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(torn+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantFinding(t, examine(t, newSource(t, torn)), source.Warn, "wal-files", "no -shm")
}

func TestExamineFindsASharedMemoryFileItMayNotRead(t *testing.T) {
	if asNobody(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "x.db")
	bank(t, path, "wal").Close()
	startWriter(t, path)
	for !there(path + "-shm") {
		time.Sleep(10 * time.Millisecond)
	}
	all := examine(t, newSource(t, path))
	wantFinding(t, all, source.OK, "readable", path)
	if err := os.Chmod(path+"-shm", 0); err != nil {
		t.Fatal(err)
	}
	wantFinding(t, examine(t, newSource(t, path)), source.Bad, "readable", "-shm")
}

func TestExamineComparesTheDatabaseWithTheScratchDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root: that the scratch directory is compared with the database was not seen")
	}
	path := filepath.Join(t.TempDir(), "x.db")
	bank(t, path, "delete").Close()
	s := newSource(t, path)
	s.cfg.Scratch = filepath.Join(smallDisk(t), "scratch") // which is not there yet
	wantFinding(t, examine(t, s), source.Bad, "scratch", "bytes free")
}

func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_FORCE) })
	return dir
}
