package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"strongroom/custody/rescue"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source/postgres/pgtest"
)

// withCluster runs the tests with one PostgreSQL cluster for those that want it.
type withCluster struct{ m *testing.M }

func (w withCluster) Run() int { return pgtest.Main(w.m) }

// The programs under test are real processes: the test binary runs as either
// when it is started by that name.
func TestMain(m *testing.M) {
	testscript.Main(withCluster{m}, map[string]func(){"strongroom": main, "strongroom-recover": recoverMain, "generate": generateMain, "measured": measuredMain,
		"traced": tracedMain, "filtered": filteredMain, sandbox.Program: main})
}

func recoverMain() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := rescue.Main(ctx, os.Args[1:], os.Stdout, os.Stderr, version)
	stop()
	os.Exit(int(code))
}

// TestCommandLine runs the scripts. Their own commands:
//
//	sr CODE ARGS…        strongroom --config $WORK/c.toml ARGS…, wanting that exit code
//	run CODE PROGRAM ARGS…
//
// Both hold the program to its promises whatever it was asked: a failure ends
// with one line on stderr, or with --json one "error" object that names the
// code; with --json every line of stdout is an object with a "type".
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"sr": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: sr CODE ARGS…")
				}
				runScript(ts, args[0], "strongroom", append([]string{"--config", ts.MkAbs("c.toml")}, args[1:]...))
			},
			"run": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: run CODE PROGRAM ARGS…")
				}
				runScript(ts, args[0], args[1], args[2:])
			},
			"station":     station,
			"mount-tmpfs": mountTmpfs,
			"edit":        editFile,
			"setfrom":     setFrom,
			"same-tree":   sameTree,
			"list-tree":   listTree,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// setupScript puts the working directory's path into the configurations.
func setupScript(env *testscript.Env) error {
	files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.toml"))
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f, bytes.ReplaceAll(b, []byte("$WORK"), []byte(env.WorkDir)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func runScript(ts *testscript.TestScript, code, program string, args []string) {
	want, err := strconv.Atoi(code)
	if err != nil {
		ts.Fatalf("%q is not an exit code", code)
	}
	err = ts.Exec(program, args...)
	got := 0
	if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
		got = exited.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	ts.Logf("[exit %d]", got)
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if err := keepsPromises(program, args, got, stdout, stderr); err != nil {
		ts.Fatalf("%v", err)
	}
}

// keepsPromises checks what holds for every run.
func keepsPromises(program string, args []string, code int, stdout, stderr string) error {
	toStdout := false
	for i, a := range args {
		toStdout = toStdout || a == "--to" && i+1 < len(args) && args[i+1] == "-"
	}
	if slices.Contains(args, "--json") && !slices.Contains(args, "--help") {
		text := stdout
		if toStdout {
			text = stderr
		}
		return jsonLines(text, code)
	}
	if code == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimRight(stderr, "\n"), "\n")
	for i, line := range lines {
		if last := i == len(lines)-1; strings.HasPrefix(line, program+": ") != last {
			return fmt.Errorf("want exactly one line that begins with %q on stderr, the last:\n%s", program+": ", stderr)
		}
	}
	return nil
}

func jsonLines(text string, code int) error {
	var last map[string]any
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		last = nil
		if err := json.Unmarshal(sc.Bytes(), &last); err != nil {
			return fmt.Errorf("line %q: %w", sc.Text(), err)
		}
		if s, ok := last["type"].(string); !ok || s == "" {
			return fmt.Errorf("line %q has no type", sc.Text())
		}
	}
	if (code != 0) != (last["type"] == "error") {
		return fmt.Errorf("exit code %d, but the last object is %v", code, last)
	}
	if code != 0 && (last["code"] != float64(code) || last["error"] == "") {
		return fmt.Errorf("exit code %d, but the error says %v", code, last)
	}
	return nil
}

// mountTmpfs mounts a small file system: mount-tmpfs DIR SIZE. It goes when
// the script ends.
func mountTmpfs(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+args[1]))
	ts.Defer(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	if len(args) == 3 {
		ts.Check(syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	}
}

// editFile replaces a text in a file: edit FILE OLD NEW. \n is a line break.
func editFile(ts *testscript.TestScript, neg bool, args []string) {
	unescape := strings.NewReplacer(`\n`, "\n", "$WORK", ts.Getenv("WORK"))
	old, repl := unescape.Replace(args[1]), unescape.Replace(args[2])
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, old) {
		ts.Fatalf("%s has no %q", args[0], old)
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, old, repl, 1)), info.Mode().Perm()))
}

// setFrom sets a variable to a field of the last JSON line of stdout:
// setfrom NAME FIELD.
func setFrom(ts *testscript.TestScript, neg bool, args []string) {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	s, ok := v[args[1]].(string)
	if !ok {
		ts.Fatalf("no string %q in %s", args[1], lines[len(lines)-1])
	}
	ts.Setenv(args[0], s)
}

// tree is every name below a directory with its mode and contents.
func tree(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[rel] = info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[rel] += " " + string(b)
		case info.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			out[rel] += " " + to
		}
		return nil
	})
	return out, err
}

// sameTree compares two trees: same-tree A B, or ! same-tree A B.
func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	a, err := tree(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := tree(ts.MkAbs(args[1]))
	ts.Check(err)
	if maps.Equal(a, b) == neg {
		ts.Fatalf("%s and %s: equal is %v", args[0], args[1], !neg)
	}
}

// listTree writes the names below a directory to a file: list-tree DIR FILE.
func listTree(ts *testscript.TestScript, neg bool, args []string) {
	names, err := tree(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Join(slices.Sorted(maps.Keys(names)), "\n")+"\n"), 0o600))
}

// station releases what was asked for in asked/TENANT.request, with shares 1, 2
// and 4: station TENANT.
func station(ts *testscript.TestScript, neg bool, args []string) {
	base := ts.MkAbs(filepath.Join("asked", args[0]))
	cmd := []string{"station", "release", "--request", base + ".request", "--kit", ts.MkAbs("kits/kit-" + args[0] + "-1.kit"), "--out", base + ".release", "--shares-on-networked-host"}
	for _, i := range []string{"1", "2", "4"} {
		cmd = append(cmd, "--share-file", ts.MkAbs("shares/share-standard-"+i+"-of-5.txt"))
	}
	runScript(ts, "0", "strongroom", cmd)
}
