package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// A channel is one way to tell people. Its methods may be called at the same
// time as those of others.
type channel interface {
	// takes reports whether an event goes this way.
	takes(Event) bool
	// send delivers one event. It returns when the other side has taken it, or
	// with an error; a *refusal when the other side answered and said no. It ends
	// with the context, and no error of it tells a secret.
	send(ctx context.Context, e Event, body string) error
	// keeps is how old a message may get on this way.
	keeps() time.Duration
	// person reports whether a person reads what goes this way.
	person() bool
}

// A refusal is an answer that is no. The next message may fare better, where
// after a connection that failed it will not.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// wants says which events a way for people takes.
type wants []Kind

// parseWants reads the words; without any it is all that people want to know.
func parseWants(words []string) (wants, error) {
	var w wants
	for _, word := range words {
		k, err := ParseKind(word)
		if err != nil || k <= Alive {
			return nil, fmt.Errorf("events: %.40q is none; there are %s", word, strings.Join(kinds[Failed:], ", "))
		}
		w = append(w, k)
	}
	return w, nil
}

func (w wants) takes(e Event) bool {
	// Nobody can be asked to answer what they do not get.
	always := e.Kind == TestAlarm || e.Kind == TestUnanswered
	return e.Kind > Alive && (len(w) == 0 || always || slices.Contains(w, e.Kind))
}

// maxSecret bounds a file with a password or a key, in bytes.
const maxSecret = 4096

// secret reads such a file, of which the end of the line is no part.
func secret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o007 != 0 {
		return "", &fs.PathError{Op: "read secret", Path: path, Err: errors.New("is no file, or everybody may use it")}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || len(b) > maxSecret {
		return "", &fs.PathError{Op: "read secret", Path: path, Err: errors.New("is empty or too long")}
	}
	return s, nil
}

// secure wants an https URL, or one to this machine.
func secure(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("is no URL, or one with a password") // and is not quoted: it may be a secret
	}
	host := u.Hostname()
	if u.Scheme != "https" && !(u.Scheme == "http" && (host == "127.0.0.1" || host == "::1" || host == "localhost")) {
		return nil, errors.New("is neither https nor to this machine")
	}
	return u, nil
}
