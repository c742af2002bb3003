// Package box is the box's own key store: its credential, the key slots, and
// what it remembers of recovery keys, tenants and kits.
package box

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
)

// Credential holds what does not change while a box lives: K, under which the
// slots are wrapped, and B, with which it signs.
type Credential struct {
	secret.Redacted
	boxKey secret.Key // K
	seed   secret.Key // of B
	signer *keys.Signer
}

const (
	credentialTitle = "strongroom box credential 1"
	credentialName  = "strongroom" // in $CREDENTIALS_DIRECTORY
	credentialSize  = len(credentialTitle) + 1 + len("box-key ") + 65 + len("signing-seed ") + 65 + len("check ") + 65
)

// Errors that callers branch on.
var (
	// ErrNoCredential: there is no credential file.
	ErrNoCredential = errors.New("no box credential; `strongroom init` makes one")
	// ErrExposed: someone other than the owner could read or change the file.
	ErrExposed = errors.New("file is exposed")
)

// NewCredential makes a credential with random keys.
func NewCredential() *Credential { return newCredential(secret.Random(), secret.Random()) }

func newCredential(k, seed secret.Key) *Credential {
	return &Credential{boxKey: k, seed: seed, signer: keys.NewSigner(seed)}
}

// Signer is B.
func (c *Credential) Signer() *keys.Signer { return c.signer }

// encode returns the one text form: title, K, B's seed, and a check that tells
// a torn or mistyped file from a wrong one.
func (c *Credential) encode() []byte {
	text := credentialTitle + "\nbox-key " + hex.EncodeToString(c.boxKey.Reveal()) +
		"\nsigning-seed " + hex.EncodeToString(c.seed.Reveal()) + "\n"
	return []byte(text + "check " + hash("strongroom credential check v1", []byte(text)).String() + "\n")
}

func parseCredential(b []byte) (*Credential, error) {
	if len(b) != credentialSize {
		return nil, fmt.Errorf("it has %d bytes, want %d", len(b), credentialSize)
	}
	lines := strings.Split(string(b), "\n")
	if lines[0] != credentialTitle || len(lines) != 5 {
		return nil, fmt.Errorf("it does not begin with %q", credentialTitle)
	}
	k, err := keyLine(lines[1], "box-key ")
	if err != nil {
		return nil, err
	}
	seed, err := keyLine(lines[2], "signing-seed ")
	if err != nil {
		return nil, err
	}
	c := newCredential(k, seed)
	if string(c.encode()) != string(b) {
		return nil, errors.New("its check line does not fit: the file is damaged")
	}
	return c, nil
}

// keyLine never quotes the line: it may hold most of a key.
func keyLine(line, name string) (secret.Key, error) {
	text, ok := strings.CutPrefix(line, name)
	raw, err := hex.DecodeString(text)
	if !ok || err != nil {
		return secret.Key{}, fmt.Errorf("line %q is not 64 hex digits", strings.TrimSpace(name))
	}
	defer clear(raw)
	return secret.FromBytes(raw)
}

// CreateCredential writes c to a new file at path, mode 0600, and returns once
// it is durable. It never replaces a file: with another K every slot is lost.
// A crash leaves no file, or the whole one, and perhaps path.new, which nothing
// was wrapped under and the next call replaces.
func CreateCredential(path string, c *Credential) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("create box credential: %w", err)
		}
	}()
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	text := c.encode()
	defer clear(text)
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, unfinished, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	return syncDir(filepath.Dir(path))
}

// LoadCredential reads the credential. credentialsDir is the value of
// $CREDENTIALS_DIRECTORY: when it is not empty, systemd decides who may read
// (it may grant by ACL, which shows as group bits), and its file "strongroom"
// is read; path is not looked at. Otherwise the file at path must be a regular
// file of the calling user that nobody else can read or write.
func LoadCredential(path, credentialsDir string) (*Credential, error) {
	strict := credentialsDir == ""
	if !strict {
		path = filepath.Join(credentialsDir, credentialName)
	}
	b, err := readOwned(path, strict, credentialSize)
	if errors.Is(err, fs.ErrNotExist) {
		if !strict {
			return nil, fmt.Errorf("%w: the unit passes credentials but none named %s (LoadCredential=%s:/path)",
				ErrNoCredential, credentialName, credentialName)
		}
		return nil, fmt.Errorf("%w: %s", ErrNoCredential, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read box credential: %w", err)
	}
	defer clear(b)
	c, err := parseCredential(b)
	if err != nil {
		return nil, fmt.Errorf("read box credential %s: %w", path, err)
	}
	return c, nil
}

// readOwned reads at most limit+1 bytes. It checks the descriptor, not the
// name, so that the file cannot be exchanged in between. O_NONBLOCK keeps a
// FIFO in its place from blocking; systemd's directory has no links either.
func readOwned(path string, strict bool, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("%w: %s is a symbolic link", ErrExposed, path)
		}
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: %s is no regular file", ErrExposed, path)
	}
	if strict {
		if st.Mode&0o177 != 0 {
			return nil, fmt.Errorf("%w: %s has mode %04o; `chmod 600` it, and if others could read it make a new one",
				ErrExposed, path, st.Mode&0o7777)
		}
		if st.Uid != uint32(os.Geteuid()) {
			return nil, fmt.Errorf("%w: %s belongs to user %d, this is user %d", ErrExposed, path, st.Uid, os.Geteuid())
		}
	}
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
