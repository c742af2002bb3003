package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const whole = `
state_dir = "/var/lib/strongroom"
[recovery.standard]
shares = 5
threshold = 3
[[store]]
name = "nas"
kind = "dir"
path = "/mnt/nas/strongroom"
[[store]]
name = "offsite"
kind = "s3"
endpoint = "https://s3.example.net"
bucket = "strongroom"
region = "us-east-1"
access_key_file = "/etc/strongroom/offsite.id"
secret_key_file = "/etc/strongroom/offsite.key"
[[tenant]]
name = "acme"
level = "confidential"
[[tenant.dataset]]
name = "crm"
source = "postgres"
url = "postgres://backup_ro@/crm?host=/run/postgresql"
lock_timeout = "45s"
[[tenant.dataset]]
name = "books"
source = "sqlite"
path = "/srv/books.db"
[[tenant.dataset]]
name = "dump"
source = "command"
command = ["/usr/local/bin/dump-it"]
[[tenant.dataset]]
name = "www"
source = "files"
path = "/srv/www"
`

func TestTheDocumentedShapeIsRead(t *testing.T) {
	c, err := Parse("strongroom.toml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	acme, ok := c.Tenant("acme")
	crm, ok2 := acme.Dataset("crm")
	if !ok || !ok2 || crm.Source != "postgres" || time.Duration(crm.LockTimeout) != 45*time.Second {
		t.Errorf("crm: %+v", crm)
	}
	if len(c.Stores) != 2 || c.Stores[1].Region != "us-east-1" || len(acme.Datasets) != 4 {
		t.Errorf("stores %+v, datasets %+v", c.Stores, acme.Datasets)
	}
	if c.Recovery.Standard != (Shares{5, 3}) || c.Recovery.Top != (Shares{7, 4}) {
		t.Errorf("recovery %+v", c.Recovery)
	}
}

func TestMistakesAreNamedWithTheirPlace(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("%q is not in the sample", old)
		}
		return strings.Replace(whole, old, new, 1)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", replace("bucket =", "bukcet ="), `c.toml:14:1: unknown key "store.bukcet"; did you mean "bucket"?`},
		{"unknown key at the top", "statedir = \"/x\"\n", `c.toml:1:1: unknown key "statedir"; did you mean "state_dir"?`},
		{"unknown table", whole + "[web]\nport = 1\n", `unknown key "web`},
		{"wrong type", replace("shares = 5", `shares = "five"`), `c.toml:4:10: recovery.standard.shares`},
		{"syntax", replace(`kind = "dir"`, `kind = dir`), `c.toml:8:8: `},
		{"bad duration", replace(`"45s"`, `"soon"`), `"soon" is not a duration`},
		{"kind", replace(`kind = "dir"`, `kind = "nfs"`), `store 1 ("nas"): kind "nfs" is not`},
		{"relative path", replace(`"/mnt/nas/strongroom"`, `"nas"`), `path "nas" is not an absolute path`},
		{"two stores", replace(`"offsite"`, `"nas"`), `two stores are named "nas"`},
		{"level", replace(`"confidential"`, `"public"`), `level "public" is not`},
		{"tenant name", replace(`name = "acme"`, `name = "../acme"`), `tenant 1 ("../acme"): name must be`},
		{"threshold", replace("threshold = 3", "threshold = 6"), `recovery.standard: threshold 6 of 5`},
		{"password", replace("backup_ro@", "backup_ro:hunter2@"), `url holds a password`},
		{"key of another source", replace(`source = "files"`, "source = \"files\"\njobs = 3"), `jobs does not fit source "files"`},
		{"shell command", replace(`["/usr/local/bin/dump-it"]`, `["dump-it"]`), `absolute path of a program`},
		{"endpoint", replace("https://s3.example.net", "s3.example.net"), `endpoint "s3.example.net" is not https://`},
		{"no secret", replace("secret_key_file", "#secret_key_file"), `access_key_file and secret_key_file are needed`},
	} {
		_, err := Parse("c.toml", []byte(tc.text))
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\nwant %s", tc.name, err, tc.want)
		} else if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %q", tc.name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse("c.toml", b); err == nil && c.check() != nil {
			t.Error("an accepted file does not check")
		}
	})
}
