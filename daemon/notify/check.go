package notify

import (
	"errors"
	"fmt"
	netmail "net/mail"
)

// A Mistake is what makes no sense in the table [notify], with its place.
type Mistake struct {
	Table string // "notify", "notify.mail", "notify.webhook" or "notify.ping"
	Nth   int    // which of them, from 1; 0: there is one
	Name  string // what that one is called
	Key   string // "": the table itself
	Err   error
}

func (m *Mistake) Error() string {
	where := m.Table
	if m.Nth > 0 {
		where += fmt.Sprintf(" %d (%.300q)", m.Nth, m.Name)
	} else if m.Key != "" {
		where += "." + m.Key
	}
	return where + ": " + m.Err.Error()
}

func (m *Mistake) Unwrap() error { return m.Err }

// keyed is a mistake in the value of a key; who returns it does not know where.
func keyed(key, format string, a ...any) error {
	return &Mistake{Key: key, Err: fmt.Errorf(format, a...)}
}

// Check finds all that can be wrong without a look at another file: who writes
// the configuration may not read the secrets. An error is a *Mistake.
func (c Config) Check() error {
	if c.Box != "" && !slug.MatchString(c.Box) {
		return &Mistake{Table: "notify", Key: "box", Err: fmt.Errorf("%.70q is no name for a box", c.Box)}
	}
	if c.Link != "" {
		if _, err := secure(c.Link); err != nil {
			return &Mistake{Table: "notify", Key: "link", Err: err}
		}
	}
	seen := map[string]bool{}
	way := func(kind, name string, i int, err error) error {
		switch {
		case err != nil:
		case name == "" || len(name) > 250:
			err = keyed("name", "needs a name")
		case seen[kind+" "+name]:
			err = keyed("name", "is there twice")
		}
		seen[kind+" "+name] = true
		if err == nil {
			return nil
		}
		m := &Mistake{Err: err}
		errors.As(err, &m)
		return &Mistake{Table: "notify." + kind, Nth: i + 1, Name: name, Key: m.Key, Err: m.Err}
	}
	for i, m := range c.Mail {
		if err := way("mail", m.Name, i, m.check()); err != nil {
			return err
		}
	}
	for i, h := range c.Webhook {
		if err := way("webhook", h.Name, i, h.check()); err != nil {
			return err
		}
	}
	for i, p := range c.Ping {
		if err := way("ping", p.Name, i, p.check()); err != nil {
			return err
		}
	}
	return nil
}

func (c Mail) check() error {
	switch {
	case c.Host == "":
		return keyed("host", "needs a host")
	case c.Port < 0 || c.Port > 65535:
		return keyed("port", "%d is no port", c.Port)
	case len(c.To) == 0:
		return keyed("to", "needs to")
	case (c.Username == "") != (c.PasswordFile == ""):
		return keyed("", "username and password_file go together")
	}
	seen := map[string]bool{}
	for i, a := range append([]string{c.From}, c.To...) {
		key := "to"
		if i == 0 {
			key = "from"
		}
		if _, err := netmail.ParseAddress(a); err != nil {
			return keyed(key, "%.80q is no mail address", a)
		}
		if i > 0 && seen[a] {
			return keyed(key, "%.80q is there twice", a)
		}
		seen[a] = i > 0
	}
	return checkEvents(c.Events)
}

func (c Webhook) check() error {
	if _, err := secure(c.URL); err != nil {
		return keyed("url", "url %w", err)
	}
	if c.SecretFile == "" {
		return keyed("secret_file", "needs a secret_file")
	}
	return checkEvents(c.Events)
}

func (c Ping) check() error {
	if (c.Tenant == "") != (c.Dataset == "") {
		return keyed("", "tenant and dataset go together")
	}
	if c.URLFile == "" {
		return keyed("url_file", "needs a url_file")
	}
	return nil
}

func checkEvents(words []string) error {
	if _, err := parseWants(words); err != nil {
		return keyed("events", "%w", err)
	}
	return nil
}

// A SecretFile is what a way needs, and that nobody else should read.
type SecretFile struct{ What, Path string }

// Secrets are all of them: without one the daemon does not start.
func (c Config) Secrets() (out []SecretFile) {
	add := func(what, name, path string) {
		if path != "" {
			out = append(out, SecretFile{fmt.Sprintf("%s of notify %q", what, name), path})
		}
	}
	for _, m := range c.Mail {
		add("password", m.Name, m.PasswordFile)
	}
	for _, h := range c.Webhook {
		add("secret", h.Name, h.SecretFile)
	}
	for _, p := range c.Ping {
		add("URL", p.Name, p.URLFile)
	}
	return out
}
