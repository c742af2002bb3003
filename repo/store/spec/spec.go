// Package spec opens stores from their textual specification, as kits and the
// command line carry it.
//
//	/path or dir:/path
//	media:/path
//	s3:https://host[:port]/bucket[/prefix]?region=R&style=path|virtual&ca_file=F&access_key_file=F&secret_key_file=F&patience=30s
//
// A specification holds no secret, only the names of files that do. media is an
// offline medium, read with what it has to repair itself and never written to.
package spec

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/media"
	"strongroom/repo/store/s3"
)

// Spec says where a store is.
type Spec struct {
	Kind string // "dir", "media" or "s3"
	Path string // dir, media

	Endpoint, Bucket, Prefix, Region, Style, CAFile string // s3
	AccessKeyFile, SecretKeyFile                    string

	// Patience is how long one call on an S3 store keeps trying; 0: the
	// store's default.
	Patience time.Duration

	// Lock says how an S3 store locks objects, "": not at all. The credentials
	// that extend locks may be missing, and so may those that delete, with which a
	// lock is only probed. No text carries any of it.
	Lock                                     store.LockMode
	ExtendAccessKeyFile, ExtendSecretKeyFile string
	DeleteAccessKeyFile, DeleteSecretKeyFile string

	// Pace bounds what is written to the store; no text carries it.
	Pace *store.Pace
	// Window is when the store is written to; no text carries it either.
	Window *store.Window
}

// Access is a pair of S3 credentials that did not come from files.
type Access struct {
	ID     string
	Secret s3.Secret
}

// Parse reads a specification.
func Parse(text string) (Spec, error) {
	if strings.HasPrefix(text, "/") {
		return Spec{Kind: "dir", Path: filepath.Clean(text)}, nil
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "dir", "media":
		if !filepath.IsAbs(rest) {
			return Spec{}, fmt.Errorf("store %q: not an absolute path", text)
		}
		return Spec{Kind: kind, Path: filepath.Clean(rest)}, nil
	case "s3":
		return parseS3(rest)
	}
	return Spec{}, fmt.Errorf("store %q: want /path, dir:/path, media:/path or s3:https://host/bucket", text)
}

func parseS3(text string) (Spec, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return Spec{}, errors.New("store: want s3:https://host/bucket, without credentials in it")
	}
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	s := Spec{Kind: "s3", Endpoint: u.Scheme + "://" + u.Host, Bucket: bucket, Prefix: prefix}
	if s.Prefix != "" && !strings.HasSuffix(s.Prefix, "/") {
		s.Prefix += "/"
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Spec{}, fmt.Errorf("store %q: bad options", s.Endpoint)
	}
	fields := map[string]*string{"region": &s.Region, "style": &s.Style, "ca_file": &s.CAFile,
		"access_key_file": &s.AccessKeyFile, "secret_key_file": &s.SecretKeyFile}
	for k, v := range q {
		if k == "patience" && len(v) == 1 {
			if s.Patience, err = time.ParseDuration(v[0]); err != nil || s.Patience <= 0 {
				return Spec{}, fmt.Errorf("store %q: patience is not a time such as 30s", s.Endpoint)
			}
			continue
		}
		f := fields[k]
		if f == nil || len(v) != 1 {
			return Spec{}, fmt.Errorf("store %q: unknown or repeated option %q", s.Endpoint, k)
		}
		*f = v[0]
	}
	if s.Bucket == "" {
		return Spec{}, fmt.Errorf("store %q: no bucket", s.Endpoint)
	}
	return s, nil
}

// String is the specification that Parse reads.
func (s Spec) String() string {
	if s.Kind != "s3" {
		return s.Kind + ":" + s.Path
	}
	q := url.Values{}
	for k, v := range map[string]string{"region": s.Region, "style": s.Style, "ca_file": s.CAFile,
		"access_key_file": s.AccessKeyFile, "secret_key_file": s.SecretKeyFile} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if s.Patience > 0 {
		q.Set("patience", s.Patience.String())
	}
	out := "s3:" + s.Endpoint + "/" + s.Bucket
	if s.Prefix != "" {
		out += "/" + strings.TrimSuffix(s.Prefix, "/")
	}
	if len(q) > 0 {
		out += "?" + q.Encode()
	}
	return out
}

// Open opens the store. access, if not nil, replaces the credential files.
func (s Spec) Open(access *Access) (store.Store, error) {
	switch s.Kind {
	case "dir":
		return dir.Open(dir.Config{Path: s.Path, Pace: s.Pace, Window: s.Window})
	case "media":
		return media.Read(context.Background(), s.Path)
	}
	if access == nil {
		a, err := s.readAccess()
		if err != nil {
			return nil, err
		}
		access = &a
	}
	style, ok := map[string]s3.Style{"": s3.StyleAuto, "path": s3.StylePath, "virtual": s3.StyleHost}[s.Style]
	if !ok {
		return nil, fmt.Errorf("store %q: style %q is not path or virtual", s.Endpoint, s.Style)
	}
	c := s3.Config{Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, Style: style,
		CAFile: s.CAFile, AccessKey: access.ID, SecretKey: access.Secret, RetryBudget: s.Patience, Pace: s.Pace, Window: s.Window}
	if s.Lock == "" {
		return s3.Open(c)
	}
	l := s3.LockConfig{Mode: s.Lock}
	if s.ExtendAccessKeyFile != "" {
		a, err := readAccess(s.ExtendAccessKeyFile, s.ExtendSecretKeyFile)
		if err != nil {
			return nil, err
		}
		l.ExtendAccessKey, l.ExtendSecretKey = a.ID, a.Secret
	}
	if s.DeleteAccessKeyFile != "" {
		a, err := readAccess(s.DeleteAccessKeyFile, s.DeleteSecretKeyFile)
		if err != nil {
			return nil, err
		}
		l.DeleteAccessKey, l.DeleteSecretKey = a.ID, a.Secret
	}
	return s3.OpenLocking(c, l)
}

// AccessID is the public half of credentials in two files.
func AccessID(idFile string) (string, error) { return readLine(idFile) }

func (s Spec) readAccess() (Access, error) {
	if s.AccessKeyFile == "" || s.SecretKeyFile == "" {
		return Access{}, fmt.Errorf("store %s/%s: no credentials: give access_key_file and secret_key_file", s.Endpoint, s.Bucket)
	}
	return readAccess(s.AccessKeyFile, s.SecretKeyFile)
}

func readAccess(idFile, secretFile string) (Access, error) {
	id, err := readLine(idFile)
	if err != nil {
		return Access{}, err
	}
	secret, err := readLine(secretFile)
	return Access{ID: id, Secret: s3.NewSecret(secret)}, err
}

func readLine(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read credential: %w", err)
	}
	if info.Size() > 4096 {
		return "", fmt.Errorf("read credential: %s is not a file of one line", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read credential: %w", err)
	}
	line := strings.TrimSpace(string(b))
	if line == "" || strings.ContainsAny(line, "\n\r\t ") {
		return "", fmt.Errorf("read credential: %s is not a file of one line", path)
	}
	return line, nil
}

// ReadAccessBytes reads credentials from two files of one line each, as two
// lines: the form in which they are sealed into kits.
func ReadAccessBytes(idFile, secretFile string) ([]byte, error) {
	id, err := readLine(idFile)
	if err != nil {
		return nil, err
	}
	secret, err := readLine(secretFile)
	if err != nil {
		return nil, err
	}
	return []byte(id + "\n" + secret), nil
}

// ParseAccess reads what ReadAccessBytes returned.
func ParseAccess(b []byte) (*Access, error) {
	id, secret, ok := strings.Cut(string(b), "\n")
	if !ok || id == "" || secret == "" || strings.Contains(secret, "\n") {
		return nil, errors.New("sealed credentials of a store are not two lines")
	}
	return &Access{ID: id, Secret: s3.NewSecret(secret)}, nil
}
