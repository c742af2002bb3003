package config

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Via says who reads a dataset that this process cannot.
type Via struct {
	// Via is "ssh://user@host" or "ssh://user@host:port" for a client's own
	// server, or "unix:/run/strongroom-source/NAME.sock" for a reader with other
	// rights on this machine. What that one reads stands in its own file
	// (Reader); a database with a server is read by this process, through a
	// tunnel.
	Via string `toml:"via"`
	// HostKey is the server's key: "ssh-ed25519 AAAA…".
	HostKey string `toml:"host_key"`
	// SSHKeyFile is our private key, without a passphrase.
	SSHKeyFile string `toml:"ssh_key_file"`
	// MaxSize is how much one snapshot may have; default 1 TiB.
	MaxSize *Size `toml:"max_size"`
}

// ViaSocket returns the path of a reader on this machine.
func (v Via) ViaSocket() (path string, ok bool) { return strings.CutPrefix(v.Via, "unix:") }

// served says whether somebody else reads the dataset and hands it over.
func (d Dataset) served() bool {
	return d.Via.Via != "" && slices.Contains([]string{"sqlite", "command", "files"}, d.Source)
}

var sshUser = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)

func (d Dataset) checkVia() error {
	v := d.Via
	if v.Via == "" {
		for key, set := range map[string]bool{"host_key": v.HostKey != "", "ssh_key_file": v.SSHKeyFile != "", "max_size": v.MaxSize != nil} {
			if set {
				return bad(key, "%s without via", key)
			}
		}
		return nil
	}
	if err := v.MaxSize.check("max_size"); err != nil {
		return err
	}
	if v.MaxSize != nil && (!d.served() || v.MaxSize.Bytes == 0) {
		return bad("max_size", "max_size bounds what a reader sends, files, sqlite and command, and is not 0")
	}
	if path, ok := v.ViaSocket(); ok {
		switch {
		case !filepath.IsAbs(path):
			return bad("via", "via %q: want unix: and an absolute path", v.Via)
		case !d.served():
			return bad("via", "a %s server is reached by its own socket: name that in url", d.Source)
		case v.HostKey+v.SSHKeyFile != "":
			return bad("", "host_key and ssh_key_file are for ssh")
		}
		return nil
	}
	u, err := url.Parse(v.Via)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || !sshUser.MatchString(u.User.Username()) {
		return bad("via", "via is not ssh://user@host, ssh://user@host:port or unix:/path")
	}
	if _, has := u.User.Password(); has {
		return bad("via", "via holds a password: there is none with ssh, a key is used")
	}
	if !goodHostKey(v.HostKey) {
		return bad("host_key", "host_key must be the server's public key, \"ssh-ed25519 AAAA…\": the first two words of its /etc/ssh/ssh_host_ed25519_key.pub")
	}
	if !filepath.IsAbs(v.SSHKeyFile) {
		return bad("ssh_key_file", "ssh_key_file %q is not an absolute path", v.SSHKeyFile)
	}
	return nil
}

// goodHostKey looks at the form of a public key: its base64 begins with its
// type (RFC 4253, 6.6).
func goodHostKey(s string) bool {
	f := strings.Fields(s)
	if len(f) < 2 || len(f) > 3 || strings.ContainsAny(s, "\r\n") {
		return false
	}
	b, err := base64.StdEncoding.DecodeString(f[1])
	return err == nil && len(b) > 4+len(f[0]) && binary.BigEndian.Uint32(b) == uint32(len(f[0])) && string(b[4:4+len(f[0])]) == f[0]
}

// Reader is the file of a reader with other rights, or at the other end of
// ssh: all that it reads for anybody.
type Reader struct {
	// Scratch is where it may put encrypted, nameless files, for SQLite
	// databases that are not in WAL mode; default /var/tmp.
	Scratch  string          `toml:"scratch"`
	Confine  ReaderConfine   `toml:"confine"`
	Datasets []ReaderDataset `toml:"dataset"`
}

// ReaderDataset is a dataset as its reader knows it; the keys are those of
// Dataset.
type ReaderDataset struct {
	Name    string   `toml:"name"`   // TENANT/DATASET, as the daemon calls it
	Source  string   `toml:"source"` // "files", "sqlite" or "command"
	Path    string   `toml:"path"`
	Exclude []string `toml:"exclude"`
	Command []string `toml:"command"`
	Timeout Duration `toml:"timeout"`
}

// Dataset is what it is to whoever reads it.
func (d ReaderDataset) Dataset() Dataset {
	_, name, _ := strings.Cut(d.Name, "/")
	return Dataset{Name: name, Source: d.Source, Path: d.Path, Exclude: d.Exclude, Command: d.Command, Timeout: d.Timeout}
}

// LoadReader reads and checks the file of a reader. Whoever could write it
// could have the reader read anything, so nobody but its owner may.
func LoadReader(path string) (*Reader, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, &Error{Path: path, Text: "it is no file, or too long for a configuration"}
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, &Error{Path: path, Text: fmt.Sprintf("mode %04o lets others write to it", info.Mode().Perm()), Hint: "chmod go-w"}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return ParseReader(path, text)
}

// ParseReader reads and checks the text of such a file.
func ParseReader(path string, text []byte) (*Reader, error) {
	r := &Reader{Scratch: "/var/tmp"}
	dec := toml.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(r); err != nil {
		return nil, explain(path, knownOfReaders, err)
	}
	if err := r.check(); err != nil {
		return nil, located(path, text, err)
	}
	return r, nil
}

func (r *Reader) check() error {
	if !filepath.IsAbs(r.Scratch) {
		return bad("scratch", "scratch %q is not an absolute path", r.Scratch)
	}
	if len(r.Datasets) == 0 {
		return bad("", "it names no dataset, so there is nothing to read")
	}
	seen := map[string]bool{}
	for i, d := range r.Datasets {
		tenant, dataset, _ := strings.Cut(d.Name, "/")
		err := d.Dataset().check()
		switch {
		case checkName(tenant) != nil || checkName(dataset) != nil:
			err = bad("name", "name %q is not TENANT/DATASET", d.Name)
		case !slices.Contains([]string{"files", "sqlite", "command"}, d.Source):
			err = bad("source", "source %q is not \"files\", \"sqlite\" or \"command\": a database with a server is read through a tunnel", d.Source)
		case err == nil && seen[d.Name]:
			err = bad("name", "two datasets have that name")
		}
		if err != nil {
			return within(err, "dataset", [3]int{i + 1}, "dataset %d (%q)", i+1, d.Name)
		}
		seen[d.Name] = true
	}
	return nil
}
