package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"strongroom/systemd/systemdtest"
)

// versions are the packages that tests install; each is built once.
var versions = struct {
	sync.Mutex
	dir  string
	made map[string]string
}{made: map[string]string{}}

func TestMain(m *testing.M) {
	code := m.Run()
	if versions.dir != "" {
		os.RemoveAll(versions.dir)
	}
	os.Exit(code)
}

// packageOf builds the Debian package of a version, with tags.
func packageOf(t testing.TB, version, tags string) string {
	t.Helper()
	versions.Lock()
	defer versions.Unlock()
	if path := versions.made[version]; path != "" {
		return path
	}
	if versions.dir == "" {
		dir, err := os.MkdirTemp("", "strongroom-test-packages-")
		if err != nil {
			t.Fatal(err)
		}
		versions.dir = dir
	}
	path := filepath.Join(versions.dir, "strongroom_"+version+"_amd64.deb")
	pack(t, "..", path, version, tags)
	versions.made[version] = path
	return path
}

func pack(t testing.TB, sources, out, version, tags string) {
	t.Helper()
	cmd := exec.Command(".ci/package", out, version)
	cmd.Dir = sources
	cmd.Env = append(os.Environ(), "TAGS="+tags, "SOURCE_DATE_EPOCH=1700000000")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("package: %v\n%s", err, said)
	}
}

// in a container with packages in /host.
func boot(t testing.TB, packages ...string) *systemdtest.Machine {
	t.Helper()
	c := systemdtest.Config{Files: map[string]string{}}
	for _, p := range packages {
		c.Files[filepath.Base(p)] = p
	}
	return systemdtest.Container(t, c)
}

// The same sources, somewhere else, are the same package.
func TestThePackageIsReproducible(t *testing.T) {
	elsewhere := t.TempDir()
	copied := exec.Command("bash", "-c", "git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract --directory="+elsewhere)
	copied.Dir = ".."
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := packageOf(t, "1.0", "")
	second := filepath.Join(t.TempDir(), "second.deb")
	pack(t, elsewhere, second, "1.0", "")
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) < 1<<20 || !bytes.Equal(a, b) {
		t.Errorf("packages of %d and %d bytes differ", len(a), len(b))
	}
}

// What an administrator looks for is where Debian has it.
func TestThePackageHasItsParts(t *testing.T) {
	path := packageOf(t, "1.0", "")
	out, err := exec.Command("dpkg-deb", "--fsys-tarfile", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("tar", "--list", "--verbose")
	list.Stdin = bytes.NewReader(out)
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/usr/bin/strongroom", "/usr/bin/strongroom-recover", "/usr/bin/strongroom-verify", "/usr/lib/strongroom/strongroom-mountd",
		"/usr/lib/systemd/system/strongroom.service", "/usr/lib/systemd/catalog/strongroom.catalog", "/usr/lib/sysusers.d/strongroom.conf", "/usr/lib/tmpfiles.d/strongroom.conf",
		"/usr/share/man/man1/strongroom.1.gz", "/usr/share/man/man1/strongroom-drill-run.1.gz", "/usr/share/man/man1/strongroom-recover.1.gz",
		"/usr/share/bash-completion/completions/strongroom", "/usr/share/zsh/vendor-completions/_strongroom", "/usr/share/fish/vendor_completions.d/strongroom.fish",
		"/usr/share/strongroom/strongroom.toml", "/usr/share/doc/strongroom/install.md", "/usr/share/doc/strongroom/strongroom.rules.yml", "/usr/share/doc/strongroom/copyright", "/etc/needrestart/conf.d/strongroom.conf"} {
		if !strings.Contains(string(names), " ."+want+"\n") {
			t.Errorf("%s is not in the package", want)
		}
	}
	for line := range strings.Lines(string(names)) {
		if !strings.Contains(line, "root/root") || !strings.Contains(line, "2023-11-14") {
			t.Errorf("owner or time of its own: %s", line)
		}
		if f := strings.Fields(line); strings.Trim(f[0][5:8]+f[0][8:10], "r-x") != "" && f[0][0] != 'd' {
			t.Errorf("mode: %s", line)
		}
	}
}

// commands are those of docs/install.md below a heading: its indented lines.
func commands(t testing.TB, heading string) string {
	t.Helper()
	b, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	section, _, _ := strings.Cut(rest, "\n## ")
	var out strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			out.WriteString(command)
		}
	}
	if !ok || out.Len() == 0 {
		t.Fatalf("docs/install.md has no commands below %q", heading)
	}
	return out.String()
}
