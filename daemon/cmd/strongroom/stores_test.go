package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
)

func TestDirectoriesAndABucketTogether(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{TLS: true})
	one, _ := dirStore(t, "one")
	two, twoPath := dirStore(t, "two")
	b := newBox(t, one+two+bucketStore(t, g, "offsite"), commandDataset("dump", program(t, "generate"), "5000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "store", "test")
	b.run(0, "backup", "acme/dump")
	b.run(0, "check", "--read-data")
	want := b.path("want")
	b.run(0, "restore", "acme/dump", "--to", want)
	if err := os.RemoveAll(twoPath); err != nil {
		t.Fatal(err)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
	sameBytes(t, b.path("out"), want)
	g.Stop()
	o := b.run(75, "restore", "acme/dump", "--to", b.path("out2"))
	if !strings.Contains(o.stderr, "needs 2 good shards") || !strings.Contains(o.stderr, `store "two"`) || !strings.Contains(o.stderr, `store "offsite"`) {
		t.Errorf("the error does not name what is missing: %s", o.stderr)
	}
	if _, err := os.Lstat(b.path("out2")); err == nil {
		t.Error("a failed restore left its target")
	}
}

// Three services, and a recovery that has nothing but the kit, whose
// credentials for them are sealed to the recovery key.
func TestKitOpensItsThreeBuckets(t *testing.T) {
	stores := ""
	var gs []*storetest.Gateway
	for _, name := range []string{"north", "south", "west"} {
		g := storetest.StartGateway(t)
		gs = append(gs, g)
		stores += bucketStore(t, g, name)
	}
	b := newBox(t, stores, commandDataset("dump", program(t, "generate"), "5000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump", "--label", "v1")
	b.run(0, "restore", "acme/dump", "--to", b.path("want"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	if text, err := os.ReadFile(kit); err != nil || strings.Contains(string(text), gs[0].SecretKey) {
		t.Fatalf("the kit shows a secret key, or: %v", err)
	}
	gs[1].Stop()
	b.rescue(0, append(b.shares(1, 3, 5), "--kit", kit, "dump@v1", "--to", b.path("out"))...)
	sameBytes(t, b.path("out"), b.path("want"))
	// Without shares nothing opens the credentials: the way over the station
	// names stores with credentials of the recovering host's own.
	b.rescue(75, "--kit", kit, "dump", "--request", b.path("req"))
	spec := []string{}
	for i, name := range []string{"north", "south", "west"} {
		id, key := b.write(name+".id", gs[i].AccessKey), b.write(name+".key", gs[i].SecretKey)
		spec = append(spec, "--store", "s3:"+gs[i].Endpoint+"/"+name+"?patience=2s&access_key_file="+id+"&secret_key_file="+key)
	}
	b.rescue(0, append(spec, "--kit", kit, "dump", "--request", b.path("req"))...)
	b.run(0, append([]string{"station", "release", "--request", b.path("req"), "--kit", kit, "--out", b.path("rel")}, b.shares(2, 3, 4)...)...)
	b.rescue(0, append(spec, "--kit", kit, "dump", "--release", b.path("rel"), "--key", b.path("req.key"), "--to", b.path("out2"))...)
	sameBytes(t, b.path("out2"), b.path("want"))
}

func TestWrongCredentialsAndMissingBucketAreSaid(t *testing.T) {
	g := storetest.StartGateway(t)
	one, onePath := dirStore(t, "one")
	s3 := bucketStore(t, g, "offsite")
	dataset := commandDataset("dump", "/bin/echo", "hello")
	wrong := filepath.Join(t.TempDir(), "wrong.key")
	if err := os.WriteFile(wrong, []byte("not-the-secret-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(s3, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "secret_key_file") {
			lines[i] = `secret_key_file = "` + wrong + `"`
		}
	}
	b := newBox(t, one+strings.Join(lines, "\n"), dataset)
	if o := b.run(20, "init", "--shares-dir", b.path("shares")); !strings.Contains(o.stderr, `store "offsite"`) || !strings.Contains(o.stderr, "denied") {
		t.Error(o.stderr)
	}
	if names, err := os.ReadDir(onePath); err != nil || len(names) > 0 {
		t.Errorf("a refused init wrote %v to another store (%v)", names, err)
	}
	if o := b.run(20, "store", "test"); strings.Count(o.stdout, "\n") != 2 || !strings.Contains(o.stdout, "denied") {
		t.Error(o.stdout)
	}
	missing := strings.Replace(s3, `bucket = "offsite"`, `bucket = "elsewhere"`, 1)
	b = newBox(t, one+missing, dataset)
	if o := b.run(75, "init", "--shares-dir", b.path("shares")); !strings.Contains(o.stderr, `elsewhere`) {
		t.Error(o.stderr)
	}
	// The key goes bad later: the other store of 1+1 takes the snapshot.
	b = newBox(t, one+s3, dataset)
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump")
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write("c.toml", strings.Replace(string(text), strings.Join(filter(strings.Split(s3, "\n"), "secret_key_file"), ""), `secret_key_file = "`+wrong+`"`, 1))
	if o := b.run(3, "backup", "acme/dump"); !strings.Contains(o.stdout, "reduced: 1 of 2 stores") || !strings.Contains(o.stdout, "denied") {
		t.Error(o.stdout)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
	b.write("c.toml", string(text))
	b.run(0, "backup", "acme/dump")
	b.run(0, "check", "--read-data")
}

func filter(lines []string, prefix string) (out []string) {
	for _, l := range lines {
		if strings.HasPrefix(l, prefix) {
			out = append(out, l)
		}
	}
	return out
}

func TestServiceThatDiesDuringABackupGetsItAllLater(t *testing.T) {
	g := storetest.StartGateway(t)
	one, _ := dirStore(t, "one")
	two, _ := dirStore(t, "two")
	// Fresh bytes each time, more than the first packs hold, and slow enough
	// to be interrupted.
	b := newBox(t, one+two+bucketStore(t, g, "offsite"),
		commandDataset("first", program(t, "generate"), "120000000", "1", "3ms")+commandDataset("small", "/bin/echo", "hello"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		until(t, "a pack on the service", func() bool { return countShards(filepath.Join(g.Backend, "offsite")) > 0 })
		g.Stop()
	}()
	o := b.run(3, "backup", "acme/first", "--label", "v1")
	<-done
	if !strings.Contains(o.stdout, "reduced: 2 of 3 stores") {
		t.Error(o.stdout)
	}
	b.run(0, "restore", "acme/first@v1", "--to", b.path("out1"))
	g.Start(t)
	b.run(0, "backup", "acme/first", "--label", "v2")
	if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "reduced") {
		t.Errorf("not finished:\n%s", o.stdout)
	}
	b.run(0, "check", "--read-data")
	b.run(0, "restore", "acme/first@v2", "--to", b.path("out2"))
	sameBytes(t, b.path("out1"), b.path("out2"))
}

// countShards counts the objects of a generation below a store.
func countShards(dir string) int {
	found, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*"))
	return len(found)
}

// Outside its window a store counts as away for backups, and gets what it
// missed when the window opens. Reading does not wait for it.
func TestAStoreIsWrittenToInItsWindow(t *testing.T) {
	stores, paths := threeDirs(t)
	now := time.Now()
	closed := now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")
	open := now.Add(-time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")
	b := newBox(t, stores+fmt.Sprintf("window = %q\n", closed), commandDataset("dump", program(t, "generate"), "3000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	o := b.run(3, "backup", "acme/dump")
	if !strings.Contains(o.stderr+o.stdout, "written to from") || !strings.Contains(o.stdout, "reduced: 2 of 3 stores") {
		t.Errorf("it is not said why: %s%s", o.stdout, o.stderr)
	}
	if held := shardsBelow(t, paths[2]); held != 0 {
		t.Errorf("%d shards were written outside the window", held)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write("c.toml", strings.Replace(string(text), closed, open, 1))
	b.run(0, "backup", "acme/dump")
	if held := shardsBelow(t, paths[2]); held == 0 {
		t.Error("no shard came when the window was open")
	}
	b.run(0, "check", "--read-data")
}

// shardsBelow counts the shards of a directory store.
func shardsBelow(t *testing.T, path string) (n int) {
	t.Helper()
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "s-") {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
