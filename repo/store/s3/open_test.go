package s3

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	good := Config{Endpoint: "https://s3.example.net", Bucket: "strongroom", AccessKey: "id", SecretKey: NewSecret("hunter2-hunter2")}
	for _, endpoint := range []string{
		"https://s3.example.net:9000", "https://s3.example.net/", "http://127.0.0.1:7070", "http://[::1]:7070", "http://localhost",
	} {
		c := good
		c.Endpoint = endpoint
		if _, err := Open(c); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	for name, change := range map[string]func(*Config){
		"no scheme":         func(c *Config) { c.Endpoint = "s3.example.net" },
		"plain http abroad": func(c *Config) { c.Endpoint = "http://s3.example.net" },
		"http look-alike":   func(c *Config) { c.Endpoint = "http://localhost.example.net" },
		"other scheme":      func(c *Config) { c.Endpoint = "ftp://s3.example.net" },
		"bucket in path":    func(c *Config) { c.Endpoint = "https://s3.example.net/strongroom" },
		"query":             func(c *Config) { c.Endpoint = "https://s3.example.net/?x=1" },
		"credentials":       func(c *Config) { c.Endpoint = "https://id:hunter2-hunter2@s3.example.net" },
		"broken":            func(c *Config) { c.Endpoint = "https://id:hunter2-hunter2@[::1" },
		"no bucket":         func(c *Config) { c.Bucket = "" },
		"bad bucket":        func(c *Config) { c.Bucket = "Strong_Room" },
		"no key":            func(c *Config) { c.AccessKey = "" },
		"no secret":         func(c *Config) { c.SecretKey = Secret{} },
		"no slash":          func(c *Config) { c.Prefix = "a" },
		"only slash":        func(c *Config) { c.Prefix = "/" },
		"dots":              func(c *Config) { c.Prefix = "a/../b/" },
		"space":             func(c *Config) { c.Prefix = "a b/" },
		"style":             func(c *Config) { c.Style = "vhost" },
		"negative":          func(c *Config) { c.RetryBudget = -1 },
		"CA file":           func(c *Config) { c.CAFile = "open_test.go" },
	} {
		c := good
		change(&c)
		_, err := Open(c)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestASecretShowsNowhere(t *testing.T) {
	const value = "hunter2-hunter2"
	c := Config{Endpoint: "https://s3.example.net", Bucket: "strongroom", AccessKey: "id", SecretKey: NewSecret(value)}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	type private struct{ c Config }
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, arg := range []any{c, &c, c.SecretKey, &c.SecretKey, private{c}, []Secret{c.SecretKey}} {
			fmt.Fprintf(&out, verb+"\n", arg)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "config", c, "secret", c.SecretKey, "store", s.retry)
	}
	j, err := json.Marshal(c.SecretKey)
	if err == nil {
		t.Error("a secret was encoded")
	}
	out.Write(j)
	for _, form := range []string{value, fmt.Sprintf("%x", value), "aHVudGVyMi"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("output contains %s", form)
		}
	}
	if c.SecretKey.reveal() != value {
		t.Error("the signer does not get the secret")
	}
}
