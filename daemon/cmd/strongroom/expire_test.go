package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/repo/store/storetest"
)

// Buckets are deleted from with a credential of their own, and where there is
// none they keep what is buried, which is said.
func TestExpiryDeletesFromBucketsWithItsOwnCredential(t *testing.T) {
	g := storetest.StartGateway(t)
	one, two := bucketStore(t, g, "one"), bucketStore(t, g, "two")
	keys := t.TempDir()
	for file, text := range map[string]string{"id": g.AccessKey, "key": g.SecretKey} {
		if err := os.WriteFile(filepath.Join(keys, file), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one += fmt.Sprintf("delete_access_key_file = %q\ndelete_secret_key_file = %q\n", keys+"/id", keys+"/key")
	b := newBox(t, one+two, commandDataset("dump", "/bin/echo", "some rows")+"[tenant.dataset.keep]\nlast = 1\ngrace = \"0h\"\n")
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write("c.toml", strings.Replace(string(text), "confidential", "top-secret", 1)) // five snapshots a generation
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for range 8 {
		b.run(0, "backup", "acme/dump")
	}
	b.run(0, "expire", "acme/dump")
	o := b.run(0, "expire", "acme/dump")
	if !strings.Contains(o.stdout, `from "one"; 0 are left`) || !strings.Contains(o.stdout, "on two: there is no credential that may delete") || strings.Contains(o.stdout, `from "two"`) {
		t.Errorf("it says %s", o.stdout)
	}
	if o := b.run(0, "snapshots", "acme/dump"); strings.Contains(o.stdout, " 1.5 ") || !strings.Contains(o.stdout, " 2.3 ") {
		t.Errorf("listed are %s", o.stdout)
	}
	for bucket, want := range map[string]int{"one": 4, "two": 9} { // manifests: three live ones, and the tombstone counts
		found, err := filepath.Glob(filepath.Join(g.Backend, bucket, "*", "*", "[mt]-*"))
		if err != nil || len(found) != want {
			t.Errorf("bucket %s has %d manifests and tombstones, want %d: %v", bucket, len(found), want, err)
		}
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
}
