package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJu7ZlWIz2cKoEn706HdIwIehyC3XHFgSEp737mBkTg+"

func TestViaSaysWhoReads(t *testing.T) {
	ssh := fmt.Sprintf("via = \"ssh://backup@db.acme.example:2222\"\nhost_key = %q\nssh_key_file = \"/k\"\n", hostKey)
	c, err := Parse("c.toml", []byte("[[tenant]]\nname = \"acme\"\nlevel = \"secret\"\n"+
		"[[tenant.dataset]]\nname = \"f\"\nsource = \"files\"\ntimeout = \"3h\"\nmax_size = \"2TiB\"\n"+ssh+
		"[[tenant.dataset]]\nname = \"p\"\nsource = \"postgres\"\nurl = \"postgres://127.0.0.1/crm\"\njobs = 4\n"+ssh+
		"[[tenant.dataset]]\nname = \"u\"\nsource = \"sqlite\"\nvia = \"unix:/run/strongroom-source/crm.sock\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := c.Tenants[0].Datasets
	if d[0].Via.Via != "ssh://backup@db.acme.example:2222" || d[0].HostKey != hostKey || d[0].SSHKeyFile != "/k" || d[0].MaxSize.Bytes != 2<<40 || d[0].Timeout.Duration != 3*time.Hour {
		t.Errorf("%+v", d[0])
	}
	if p, ok := d[2].ViaSocket(); !ok || p != "/run/strongroom-source/crm.sock" {
		t.Errorf("%+v", d[2])
	}
	const files = "source = \"files\"\n"
	for text, want := range map[string]string{
		files + ssh + "path = \"/x\"\n":                                                        "path stands in the file of whoever reads",
		"source = \"command\"\ncommand = [\"/x\"]\n" + ssh:                                     "command stands in the file",
		files + ssh + "exclude = [\"x\"]\n":                                                    "exclude stands in the file",
		files + "path = \"/x\"\nhost_key = \"" + hostKey + "\"\n":                              "host_key without via",
		files + "path = \"/x\"\nmax_size = \"1GiB\"\n":                                         "max_size without via",
		files + "path = \"/x\"\ntimeout = \"1h\"\n":                                            "timeout does not fit",
		files + strings.Replace(ssh, "backup@", "", 1):                                         "via is not ssh://user@host",
		files + strings.Replace(ssh, "backup@", "backup:hunter2@", 1):                          "via holds a password",
		files + strings.Replace(ssh, "ssh://", "sftp://", 1):                                   "via is not ssh://user@host",
		files + strings.Replace(ssh, "2222", "2222/x", 1):                                      "via is not ssh://user@host",
		files + strings.Replace(ssh, "AAAAC3", "AAAAC4", 1):                                    "host_key must be",
		files + strings.Replace(ssh, "ssh-ed25519 ", "", 1):                                    "host_key must be",
		files + strings.Replace(ssh, "\"/k\"", "\"k\"", 1):                                     "ssh_key_file \"k\" is not an absolute path",
		files + "via = \"unix:crm.sock\"\n":                                                    "want unix: and an absolute path",
		files + ssh + "max_size = \"0\"\n":                                                     "is not 0",
		"source = \"postgres\"\nurl = \"postgres://127.0.0.1/x\"\nvia = \"unix:/x\"\n":         "by its own socket",
		"source = \"postgres\"\nurl = \"postgres://127.0.0.1/x\"\nmax_size = \"1GiB\"\n" + ssh: "bounds what a reader sends",
		"source = \"postgres\"\n" + ssh:                                                        "url is not postgres://",
		"source = \"import\"\n" + ssh:                                                          "does not fit source",
		files + ssh + "ssh_keyfile = \"x\"\n":                                                  "did you mean \"ssh_key_file\"",
	} {
		_, err := Parse("c.toml", []byte("[[tenant]]\nname = \"acme\"\nlevel = \"secret\"\n[[tenant.dataset]]\nname = \"x\"\n"+text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "c.toml:") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestReaderFileOfAnotherIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reader.toml")
	const good = "[[dataset]]\nname = \"acme/x\"\nsource = \"files\"\npath = \"/x\"\n"
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{good, 0o600, ""}, {good, 0o644, ""},
		{good, 0o620, "lets others write"},
		{good + good, 0o600, "two datasets have that name"},
		{strings.Repeat("#", maxFile+1), 0o600, "too long"},
		{"scratch = \"x\"\n" + good, 0o600, "reader.toml:1:11: scratch"},
		{"scrach = \"/x\"\n" + good, 0o600, `unknown key "scrach"; did you mean "scratch"?`},
	} {
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		r, err := LoadReader(path)
		if c.want == "" && (err != nil || len(r.Datasets) != 1 || r.Scratch != "/var/tmp") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.40q: %+v, %v, want %q", c.text, r, err, c.want)
		}
	}
}
