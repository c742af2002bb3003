package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
)

// A testBox is a configuration, and the program run on it.
type testBox struct {
	t      testing.TB
	dir    string
	config string
	// watch, if set, sees every process while it runs.
	watch func(*os.Process)
	// said is all that the programs ever printed.
	said bytes.Buffer
}

func newBox(t testing.TB, stores, datasets string) *testBox {
	t.Helper()
	b := &testBox{t: t, dir: t.TempDir()}
	b.config = b.path("c.toml")
	b.write("c.toml", fmt.Sprintf("state_dir = %q\n%s\n[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n%s\n", b.path("state"), stores, datasets))
	return b
}

func (b *testBox) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

func (b *testBox) write(name, text string) string {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

// dirStore makes a directory and returns its part of the configuration.
func dirStore(t testing.TB, name string) (text, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", name, path), path
}

// threeDirs are three directory stores.
func threeDirs(t testing.TB) (text string, paths []string) {
	t.Helper()
	for _, n := range []string{"one", "two", "three"} {
		s, p := dirStore(t, n)
		text, paths = text+s, append(paths, p)
	}
	return text, paths
}

// bucketStore makes a bucket and returns its part of the configuration.
func bucketStore(t testing.TB, g *storetest.Gateway, name string) string {
	t.Helper()
	g.CreateBucket(t, name)
	dir := t.TempDir()
	for file, text := range map[string]string{"id": g.AccessKey, "key": g.SecretKey} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("[[store]]\nname = %q\nkind = \"s3\"\nendpoint = %q\nbucket = %q\npatience = \"3s\"\naccess_key_file = %q\nsecret_key_file = %q\nrecovery_access_key_file = %q\nrecovery_secret_key_file = %q\n",
		name, g.Endpoint, name, dir+"/id", dir+"/key", dir+"/id", dir+"/key")
	if g.CAFile != "" {
		text += fmt.Sprintf("ca_file = %q\n", g.CAFile)
	}
	return text
}

// commandDataset is a dataset whose bytes a program writes.
func commandDataset(name string, argv ...string) string {
	quoted, _ := json.Marshal(argv)
	return fmt.Sprintf("[[tenant.dataset]]\nname = %q\nsource = \"command\"\ncommand = %s\n", name, quoted)
}

// program finds one of the programs that TestMain installs.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// outcome is how a process ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// result decodes the last line of stdout.
func (o outcome) result(t testing.TB) (v struct {
	Snapshot, State, Code, Proof, File string
	Read                               int64
	Good, Shards                       int
	Recoverable                        bool
}) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &v); err != nil {
		t.Fatalf("%v in %q", err, o.stdout)
	}
	return v
}

// command prepares strongroom on the box's configuration.
func (b *testBox) command(args ...string) *exec.Cmd {
	return exec.Command(program(b.t, "strongroom"), append([]string{"--config", b.config}, args...)...)
}

// run runs strongroom to its end and wants an exit code.
func (b *testBox) run(want int, args ...string) outcome {
	b.t.Helper()
	return b.end(want, b.command(args...))
}

// rescue runs strongroom-recover.
func (b *testBox) rescue(want int, args ...string) outcome {
	b.t.Helper()
	return b.end(want, exec.Command(program(b.t, "strongroom-recover"), args...))
}

// end runs a prepared command to its end and wants an exit code.
func (b *testBox) end(want int, cmd *exec.Cmd) outcome {
	b.t.Helper()
	o, err := b.try(cmd)
	if err != nil {
		b.t.Fatal(err)
	}
	if o.code != want {
		b.t.Fatalf("%s: exit code %d, want %d\n%s%s", strings.Join(cmd.Args[1:], " "), o.code, want, o.stdout, o.stderr)
	}
	if err := keepsPromises(filepath.Base(cmd.Path), cmd.Args, o.code, o.stdout, o.stderr); err != nil {
		b.t.Fatalf("%s: %v", strings.Join(cmd.Args[1:], " "), err)
	}
	return o
}

func (b *testBox) try(cmd *exec.Cmd) (outcome, error) {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return outcome{}, err
	}
	if b.watch != nil {
		b.watch(cmd.Process)
	}
	err := cmd.Wait()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) {
		return outcome{}, err
	}
	b.said.Write(stdout.Bytes())
	b.said.Write(stderr.Bytes())
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// shares returns the flags that name share files by their numbers.
func (b *testBox) shares(indexes ...int) []string {
	out := []string{"--shares-on-networked-host"}
	for _, i := range indexes {
		out = append(out, "--share-file", b.path("shares", fmt.Sprintf("share-standard-%d-of-5.txt", i)))
	}
	return out
}

// sameBytes compares two files.
func sameBytes(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Fatalf("%s (%d bytes) and %s (%d bytes) differ", a, len(x), b, len(y))
	}
}

// until waits for something to become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
