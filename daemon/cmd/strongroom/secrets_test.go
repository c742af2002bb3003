package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
	"strongroom/source/postgres/pgtest"
)

// A spy reads the command line and environment of a process and of all its
// descendants, again and again until it ends.
type spy struct {
	wg sync.WaitGroup
	mu sync.Mutex
	// seen is what was read, each once. Guarded by mu.
	seen map[string]bool
}

func (s *spy) watch(p *os.Process) {
	s.wg.Go(func() {
		for alive(p.Pid) {
			for _, pid := range append(descendants(p.Pid), p.Pid) {
				for _, what := range []string{"cmdline", "environ"} {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
					if err != nil || len(b) == 0 {
						continue // it ended
					}
					s.mu.Lock()
					s.seen[string(b)] = true
					s.mu.Unlock()
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// alive reports whether a process runs: not ended, and not waiting to be reaped.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func descendants(pid int) (out []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				out = append(append(out, child), descendants(child)...)
			}
		}
	}
	return out
}

// spellings are the forms in which a secret could show up.
func spellings(secret string) []string {
	return []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.RawURLEncoding.EncodeToString([]byte(secret))}
}

var (
	shareLine = regexp.MustCompile(`(?m)^ *\d+ +((?:[0-9A-Z]{4} ?){4,}).*$`)
	longHex   = regexp.MustCompile(`[0-9a-f]{32,}`)
)

// Nothing that the programs print, keep or show of themselves holds a secret.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	const password = "correct-horse-battery-71"
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 1000)")
	role := srv.CreateRole(t, "LOGIN SUPERUSER PASSWORD '"+password+"' IN ROLE "+pgtest.PasswordRole)
	g := storetest.StartGateway(t)
	one, onePath := dirStore(t, "one")
	two, twoPath := dirStore(t, "two")
	passwords := filepath.Join(t.TempDir(), "pw")
	for name, text := range map[string]string{"good": password, "bad": "wrong-" + password} {
		if err := os.WriteFile(passwords+name, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dataset := func(name, url, file string) string {
		return pgDataset(name, url) + fmt.Sprintf("password_file = %q\n", file)
	}
	b := newBox(t, one+two+bucketStore(t, g, "offsite"), dataset("crm", srv.URL(db, role), passwords+"good")+
		dataset("locked", srv.URL(db, role), passwords+"bad")+commandDataset("fails", "/bin/sh", "-c", "exit 3"))
	s := &spy{seen: map[string]bool{}}
	b.watch = s.watch

	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/crm")
	if o := b.run(20, "backup", "acme/locked"); !strings.Contains(o.stderr, "password") {
		t.Error(o.stderr)
	}
	b.run(1, "backup", "acme/fails")
	b.run(0, "check", "--read-data", "--json")
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	b.run(0, append([]string{"station", "prove", "--kit", kit}, b.shares(1, 2, 3)...)...)
	b.run(12, append([]string{"station", "prove", "--kit", kit}, b.shares(1, 2)...)...)
	target := srv.CreateDatabase(t)
	b.run(0, "restore", "acme/crm", "--to", srv.URL(target, role), "--password-file", passwords+"good")
	again := srv.CreateDatabase(t)
	b.rescue(0, append(b.shares(1, 2, 3), "--kit", kit, "crm", "--to", srv.URL(again, role), "--password-file", passwords+"good")...)
	b.run(20, "restore", "acme/crm", "--to", srv.URL(again, role), "--password-file", passwords+"bad")
	// A password in the URL is the user's own doing, and still goes no further.
	withPassword := strings.Replace(srv.URL(target, role), "@", ":"+password+"@", 1)
	if o, err := b.try(b.command("restore", "acme/crm", "--to", withPassword)); err != nil || o.code == 0 || strings.Contains(o.stdout+o.stderr, password) {
		t.Errorf("a URL with a password: exit code %d, %v: %s%s", o.code, err, o.stdout, o.stderr)
	}
	g.Stop()
	b.run(3, "backup", "acme/crm")
	s.wg.Wait()

	secrets := map[string][]string{"S3 secret key": {g.SecretKey}, "database password": {password}}
	for i := range 5 {
		text := must(os.ReadFile(b.path("shares", fmt.Sprintf("share-standard-%d-of-5.txt", i+1))))(t)
		for _, m := range shareLine.FindAllStringSubmatch(string(text), -1) {
			line := strings.TrimSpace(m[1])
			secrets["share"] = append(secrets["share"], line, strings.ReplaceAll(line, " ", ""))
		}
	}
	secrets["box credential"] = longHex.FindAllString(string(must(os.ReadFile(b.path("state", "credential")))(t)), -1)
	for kind, list := range secrets {
		if len(list) == 0 {
			t.Fatalf("found no %s to look for", kind)
		}
	}
	if len(s.seen) < 20 {
		t.Fatalf("saw only %d command lines and environments", len(s.seen))
	}
	children := 0
	for text := range s.seen {
		if strings.Contains(text, "pg_dump") {
			children++
		}
		// The one command line above that held the password itself.
		if !strings.Contains(text, withPassword) {
			searchFor(t, secrets, "a command line or environment: "+strings.ReplaceAll(text[:min(len(text), 200)], "\x00", " "), []byte(text))
		}
	}
	if children == 0 {
		t.Error("saw no pg_dump: the spy looks at too little")
	}
	searchFor(t, secrets, "the output", b.said.Bytes())
	for _, dir := range []string{onePath, twoPath, filepath.Join(g.Backend), b.path("state"), b.path("kits")} {
		searchTree(t, secrets, dir, b.path("state", "credential"))
	}
}

func searchFor(t *testing.T, secrets map[string][]string, where string, text []byte) {
	t.Helper()
	for kind, list := range secrets {
		for _, secret := range list {
			for _, form := range spellings(secret) {
				if bytes.Contains(text, []byte(form)) {
					t.Errorf("%s is in %s", kind, where)
					return
				}
			}
		}
	}
}

func searchTree(t *testing.T, secrets map[string][]string, dir, except string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == except {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err == nil {
			searchFor(t, secrets, path, b)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%s: %d files, %v", dir, files, err)
	}
}
