package spec

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSpecificationsSurviveTheirText(t *testing.T) {
	for _, text := range []string{
		"dir:/media/disk",
		"media:/media/disk",
		"s3:https://s3.example.net/bucket",
		"s3:https://s3.example.net:9000/bucket/some/prefix?ca_file=%2Fetc%2Fca.pem&patience=30s&region=eu-north-1&style=path",
		"s3:http://127.0.0.1:9000/bucket?access_key_file=%2Fa&secret_key_file=%2Fs",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := s.String(); got != text {
			t.Errorf("%s became %s", text, got)
		}
	}
	s, err := Parse("/media/a/../disk")
	if err != nil || s.String() != "dir:/media/disk" {
		t.Errorf("%v, %v", s, err)
	}
	s, err = Parse("s3:https://h/b/p/?patience=1m")
	if err != nil || s.Prefix != "p/" || s.Patience != time.Minute {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestBadSpecificationsAreRefusedWithoutQuotingSecrets(t *testing.T) {
	for _, text := range []string{
		"", "relative", "dir:relative", "media:relative", "media", "ftp://h/b", "s3:", "s3:h/b", "s3:ftp://h/b", "s3:https://h", "s3:https:///b", "s3:https://h/b?colour=red",
		"s3:https://h/b?region=a&region=b", "s3:https://h/b#f", "s3:https://user:hunter2@h/b", "s3:https://h/b?patience=soon", "s3:https://h/b?patience=-1s",
		"s3:https://h/b?%zz",
	} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%q gave %+v", text, s)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCredentialsAreOneLineEach(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	id, secret := file("id", "AKIA\n"), file("secret", "hunter2\r\n")
	b, err := ReadAccessBytes(id, secret)
	if err != nil || string(b) != "AKIA\nhunter2" {
		t.Fatalf("%q, %v", b, err)
	}
	a, err := ParseAccess(b)
	if err != nil || a.ID != "AKIA" {
		t.Fatalf("%+v, %v", a, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "access", a.Secret)
	if text := fmt.Sprintf("%v %+v %#v %s", *a, *a, a.Secret, log.String()); strings.Contains(text, "hunter2") {
		t.Errorf("the secret prints: %s", text)
	}
	for name, text := range map[string]string{"empty": "", "two": "a\nb\n", "space": "a b", "long": strings.Repeat("x", 5000)} {
		if _, err := ReadAccessBytes(id, file(name, text)); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "xxxx") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "a", "a\n", "\nb", "a\nb\nc"} {
		if _, err := ParseAccess([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := (Spec{Kind: "s3", Endpoint: "https://h", Bucket: "b"}).Open(nil); err == nil || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("without credentials: %v", err)
	}
}
