package files

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/source"
)

const (
	emptySum = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	tail     = `,"mode":"0644","uid":0,"gid":0,"mtime":[1,0]`
)

func dirLine(p string) string {
	return `{"path":"` + p + `","type":"dir","mode":"0755","uid":0,"gid":0,"mtime":[1,0]}` + "\n"
}
func fileLine(p string) string {
	return `{"path":"` + p + `","type":"file"` + tail + `,"size":0,"data":0,"blake3":"` + emptySum + `"}` + "\n"
}
func linkLine(p, target string) string {
	return `{"path":"` + p + `","type":"symlink"` + tail + `,"target":"` + target + `"}` + "\n"
}
func hardLine(p, first string) string {
	return `{"path":"` + p + `","type":"file"` + tail + `,"link":"` + first + `","size":0,"data":0,"blake3":"` + emptySum + `"}` + "\n"
}

func byHand(lines ...string) *stored {
	return &stored{streams: map[string][]byte{"data": {}, "tree": []byte(header + strings.Join(lines, ""))}}
}

func TestTreeWrittenByHandIsAccepted(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), byHand(dirLine("."), dirLine("a"), fileLine("a/b"), hardLine("a/c", "a/b"), fileLine("a b"), linkLine("l", "../../../etc")), Target{Path: out})
	// "a b" sorts after "a", and so does everything below "a" in it.
	must(t, err)
	if _, err := os.Lstat(filepath.Join(out, "a", "c")); err != nil {
		t.Error(err)
	}
}

func TestHostileTreesTouchNothingOutside(t *testing.T) {
	root := dirLine(".")
	cases := map[string]*stored{
		"dotdot":                 byHand(root, fileLine("../evil")),
		"dotdot inside":          byHand(root, dirLine("a"), fileLine("a/../../evil")),
		"dotdot encoded":         byHand(root, fileLine("%2E%2E/evil")),
		"absolute":               byHand(root, fileLine("/evil")),
		"empty":                  byHand(root, fileLine("")),
		"empty element":          byHand(root, dirLine("a"), fileLine("a//evil")),
		"dot element":            byHand(root, fileLine("./evil")),
		"zero byte":              byHand(root, fileLine("evil%00x")),
		"encoded slash":          byHand(root, fileLine("..%2Fevil")),
		"through a symlink":      byHand(root, linkLine("s", ".."), fileLine("s/evil")),
		"symlink, then dir":      byHand(root, linkLine("s", ".."), dirLine("s"), fileLine("s/evil")),
		"dir, then symlink":      byHand(root, dirLine("s"), linkLine("s", ".."), fileLine("s/evil")),
		"file as directory":      byHand(root, fileLine("f"), fileLine("f/evil")),
		"no directory":           byHand(root, fileLine("no/evil")),
		"directory left":         byHand(root, dirLine("a"), fileLine("b"), fileLine("a/evil")),
		"twice":                  byHand(root, fileLine("evil"), fileLine("evil")),
		"out of order":           byHand(root, fileLine("b"), fileLine("a")),
		"no root":                byHand(fileLine("evil")),
		"root twice":             byHand(root, root),
		"root a symlink":         byHand(linkLine(".", "..")),
		"hard link out":          byHand(root, hardLine("evil", "../secret")),
		"hard link absolute":     byHand(root, hardLine("evil", "/etc/passwd")),
		"hard link by symlink":   byHand(root, linkLine("a", ".."), hardLine("evil", "a/secret")),
		"not canonical: space":   byHand(root, strings.Replace(fileLine("x"), `,"type"`, `, "type"`, 1)),
		"not canonical: escape":  byHand(root, fileLine("%41")),
		"not canonical: case":    byHand(root, strings.Replace(fileLine("x"), `"uid"`, `"UID"`, 1)),
		"unknown field":          byHand(root, strings.Replace(fileLine("x"), `"uid"`, `"x":1,"uid"`, 1)),
		"field twice":            byHand(root, strings.Replace(fileLine("x"), `"uid":0`, `"uid":0,"uid":0`, 1)),
		"mode too large":         byHand(root, strings.Replace(fileLine("x"), "0644", "10644", 1)),
		"contents beyond data":   byHand(root, strings.Replace(fileLine("x"), `"size":0`, `"size":9`, 1)),
		"negative size":          byHand(root, strings.Replace(fileLine("x"), `"size":0`, `"size":-1`, 1)),
		"extent beyond the file": byHand(root, strings.Replace(fileLine("x"), `"data":0`, `"data":0,"extents":[[5,1]]`, 1)),
		"line cut":               byHand(root, strings.TrimSuffix(fileLine("x"), "\n")),
		"line too long":          byHand(root, fileLine(strings.Repeat("x", maxLine))),
		"path too long":          byHand(root, fileLine(strings.Repeat("x/", maxPath)+"x")),
		"other format":           {streams: map[string][]byte{"data": {}, "tree": []byte(`{"strongroom_tree":2}` + "\n" + root)}},
		"nothing":                {streams: map[string][]byte{"data": {}, "tree": {}}},
		"only a header":          byHand(),
	}
	for name, st := range cases {
		for _, overwrite := range []bool{false, true} {
			base := t.TempDir()
			write(t, filepath.Join(base, "secret"), "s")
			must(t, os.Mkdir(filepath.Join(base, "out"), 0o755))
			if _, err := Restore(context.Background(), st, Target{Path: filepath.Join(base, "out"), Overwrite: overwrite}); err == nil {
				t.Errorf("%s: restored", name)
			}
			if err := WriteTar(context.Background(), st, nil, io.Discard); err == nil && name != "hard link by symlink" {
				t.Errorf("%s: written as tar", name)
			}
			b, _ := os.ReadDir(base)
			if len(b) != 2 {
				t.Errorf("%s: %d entries outside", name, len(b))
			}
		}
	}
}

func TestOverwriteDoesNotFollowLinksInTheTarget(t *testing.T) {
	base := t.TempDir()
	out, victim := filepath.Join(base, "out"), filepath.Join(base, "victim")
	must(t, os.MkdirAll(out, 0o755))
	must(t, os.MkdirAll(victim, 0o700))
	write(t, filepath.Join(base, "file"), "precious")
	must(t, os.Symlink("../victim", filepath.Join(out, "a")))
	must(t, os.Symlink("../file", filepath.Join(out, "f")))
	must(t, os.Mkdir(filepath.Join(out, "inner"), 0o755))
	must(t, os.Symlink("inner", filepath.Join(out, "b")))
	st := byHand(dirLine("."), dirLine("a"), fileLine("a/x"), dirLine("b"), fileLine("b/x"), fileLine("f"))
	_, err := Restore(context.Background(), st, Target{Path: out, Overwrite: true})
	must(t, err)
	for _, d := range []string{victim, filepath.Join(out, "inner")} {
		if names, _ := os.ReadDir(d); len(names) != 0 {
			t.Errorf("written through a link into %s", d)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(base, "file")); string(b) != "precious" {
		t.Error("written through a link to a file")
	}
	fi, err := os.Lstat(victim)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode set through a link: %v", fi.Mode())
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{dirLine("."), fileLine("a%FFb"), linkLine("l", "x"), hardLine("h", "a")} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parse(b)
		if err != nil {
			return
		}
		again, err := e.marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q (%v)", b, again, err)
		}
	})
}

// changing is a source over one file that edit changes after each reading.
func changing(t *testing.T, edit func(path string, times int)) (*stored, bool, []string) {
	t.Helper()
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, strings.Repeat("1", 100_000))
	write(t, filepath.Join(dir, "g"), "after")
	src, err := New(Config{Path: dir, Scratch: t.TempDir()})
	must(t, err)
	times := 0
	src.hookRead = func(name string) {
		if name == "f" {
			times++
			edit(p, times)
		}
	}
	st, rep, err := trySave(src)
	must(t, err)
	return st, rep.Partial, rep.Warnings
}

func restored(t *testing.T, st *stored, name string) (string, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	b, err := os.ReadFile(filepath.Join(out, name))
	return string(b), err
}

func TestFileChangedOnceIsReadAgain(t *testing.T) {
	edits := map[string]func(string){
		"rewritten, same size": func(p string) {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.Write([]byte("2"))
			must(t, err)
			must(t, f.Close())
		},
		"grown":     func(p string) { must(t, os.WriteFile(p, []byte(strings.Repeat("1", 200_000)), 0o644)) },
		"truncated": func(p string) { must(t, os.Truncate(p, 10)) },
		"replaced": func(p string) {
			write(t, p+".new", "another file")
			must(t, os.Rename(p+".new", p))
		},
		"time set back": func(p string) {
			fi, err := os.Stat(p)
			must(t, err)
			must(t, os.WriteFile(p, []byte(strings.Repeat("3", 100_000)), 0o644))
			must(t, os.Chtimes(p, fi.ModTime(), fi.ModTime()))
		},
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			var want []byte
			st, partial, warnings := changing(t, func(p string, times int) {
				if times == 1 {
					edit(p)
					want, _ = os.ReadFile(p)
				}
			})
			if partial || len(warnings) > 0 {
				t.Errorf("partial %v, %q", partial, warnings)
			}
			if got, err := restored(t, st, "f"); err != nil || got != string(want) {
				t.Errorf("restored %d bytes, want %d (%v)", len(got), len(want), err)
			}
			if got, _ := restored(t, st, "g"); got != "after" {
				t.Errorf("the next file is %q", got)
			}
		})
	}
}

func TestFileThatKeepsChangingIsReported(t *testing.T) {
	st, partial, warnings := changing(t, func(p string, times int) {
		write(t, p, strings.Repeat("x", times))
	})
	if !partial || len(warnings) != 1 || !strings.Contains(warnings[0], `"f": changed while it was read`) {
		t.Errorf("partial %v, %q", partial, warnings)
	}
	for e, err := range ReadTree(context.Background(), st) {
		must(t, err)
		if e.Changed != (e.Path == "f") {
			t.Errorf("%s: changed is %v", e.Path, e.Changed)
		}
	}
	if got, err := restored(t, st, "f"); got != "x" {
		t.Errorf("restored %q (%v), want what the second reading found", got, err)
	}
}

func TestFileThatVanishesIsReported(t *testing.T) {
	st, partial, warnings := changing(t, func(p string, _ int) { os.Remove(p) })
	if !partial || len(warnings) != 1 || !strings.Contains(warnings[0], `"f": not saved: no such file`) {
		t.Errorf("partial %v, %q", partial, warnings)
	}
	if _, err := restored(t, st, "f"); !os.IsNotExist(err) {
		t.Errorf("restored: %v", err)
	}
	if got, _ := restored(t, st, "g"); got != "after" {
		t.Errorf("the next file is %q", got)
	}
}

func TestAbandonedSnapshotEndsItsWalk(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), strings.Repeat("x", 4<<20))
	src, err := New(Config{Path: dir})
	must(t, err)
	snap, err := src.Open(context.Background())
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := snap.Streams()[1].Open(ctx); err != context.DeadlineExceeded {
		t.Errorf("tree opened before data was read: %v", err)
	}
	r, err := snap.Streams()[0].Open(context.Background())
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 100))
	must(t, err)
	must(t, snap.Close()) // goleak finds a walk that goes on
	if _, err := io.Copy(io.Discard, r); err == nil {
		t.Error("an abandoned stream ended well")
	}
	if _, err := snap.Finish(context.Background()); err == nil {
		t.Error("finish accepted it")
	}
}

func TestMissingRootFails(t *testing.T) {
	for _, p := range []string{"/no/such/directory", "/etc/passwd"} {
		src, err := New(Config{Path: p})
		must(t, err)
		if _, err := src.Probe(context.Background()); err == nil {
			t.Errorf("probe accepted %s", p)
		}
		if _, err := src.Open(context.Background()); err == nil {
			t.Errorf("opened %s", p)
		}
	}
}

// TestOrdinaryUser runs unprivileged below as nobody where the test is root.
func TestOrdinaryUser(t *testing.T) {
	base := t.TempDir()
	for d := base; d != "/tmp" && d != "/" && os.Geteuid() == 0; d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	exe := filepath.Join(base, "test")
	self, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(exe, b, 0o755))
	work := filepath.Join(base, "work")
	must(t, os.Mkdir(work, 0o777))
	must(t, os.Chmod(work, 0o777))
	cmd := exec.Command(exe)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "FILES_TEST_UNPRIVILEGED="+work)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func unprivileged(dir string) int {
	if err := asOrdinaryUser(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func asOrdinaryUser(dir string) error {
	src := filepath.Join(dir, "src")
	for _, d := range []string{"locked", "readonly"} {
		if err := os.MkdirAll(filepath.Join(src, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{"secret", "locked/in", "readonly/in", "ok"} {
		if err := os.WriteFile(filepath.Join(src, f), []byte(f), 0o644); err != nil {
			return err
		}
	}
	os.Chmod(filepath.Join(src, "secret"), 0)
	os.Chmod(filepath.Join(src, "locked"), 0)
	os.Chmod(filepath.Join(src, "readonly"), 0o555)
	defer os.Chmod(filepath.Join(src, "readonly"), 0o755)
	defer os.Chmod(filepath.Join(src, "locked"), 0o755)

	s, err := New(Config{Path: src, Scratch: dir})
	if err != nil {
		return err
	}
	found, err := s.Examine(context.Background())
	if err != nil {
		return err
	}
	if f := found[0]; f.Severity != source.Warn || !strings.Contains(f.What, "2 of 5 entries cannot be read") || !strings.Contains(f.What, `"locked"`) || !strings.Contains(f.What, `"secret"`) {
		return fmt.Errorf("examined: %+v", found)
	}
	st, rep, err := trySave(s)
	if err != nil {
		return err
	}
	if !rep.Partial || len(rep.Warnings) != 2 || !strings.Contains(rep.Warnings[0], `"locked": directory not read: permission denied`) ||
		!strings.Contains(rep.Warnings[1], `"secret": not saved: permission denied`) {
		return fmt.Errorf("partial %v, warnings %q", rep.Partial, rep.Warnings)
	}
	// As if root had saved it.
	st.streams["tree"] = bytes.ReplaceAll(st.streams["tree"], []byte(`"path":"ok","type":"file","mode":"0644","uid":`+fmt.Sprint(os.Getuid())),
		[]byte(`"path":"ok","type":"file","mode":"4755","uid":7`))
	out := filepath.Join(dir, "out")
	res, err := Restore(context.Background(), st, Target{Path: out})
	if err != nil {
		return err
	}
	defer os.Chmod(filepath.Join(out, "readonly"), 0o755)
	defer os.Chmod(filepath.Join(out, "locked"), 0o755)
	if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "owners are restored only by root (1 entries)") {
		return fmt.Errorf("notes %q", res.Notes)
	}
	fi, err := os.Stat(filepath.Join(out, "ok"))
	if err != nil || fi.Mode() != 0o755 {
		return fmt.Errorf("setuid file of another is now %v (%v)", fi.Mode(), err)
	}
	b, err := os.ReadFile(filepath.Join(out, "readonly", "in"))
	if err != nil || string(b) != "readonly/in" {
		return fmt.Errorf("file in a read-only directory: %q, %v", b, err)
	}
	return nil
}
