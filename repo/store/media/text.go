package media

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Identity and lists of sessions are texts, so that whoever finds a medium can
// read what is on it and compare it with sha256sum: a title, lines of a name
// and a value in one order, and the line "signature " of an Ed25519 signature
// over all before it. There is one spelling of each: a reader writes again what
// it read and compares.

const signaturePrefix = "signature "

// signatureLen is the length of the last line.
const signatureLen = len(signaturePrefix) + 2*ed25519.SignatureSize + 1

func sign(body string, by Signer) []byte {
	return fmt.Appendf(nil, "%s%s%x\n", body, signaturePrefix, by.Sign([]byte(body)))
}

// splitSigned returns what is signed and by what; neither is verified.
func splitSigned(raw []byte) (body, signature []byte) {
	if len(raw) < signatureLen {
		return nil, nil
	}
	body, last := raw[:len(raw)-signatureLen], raw[len(raw)-signatureLen:]
	text, ok := bytes.CutPrefix(last, []byte(signaturePrefix))
	if !ok || text[len(text)-1] != '\n' {
		return nil, nil
	}
	signature, err := hex.DecodeString(string(text[:len(text)-1]))
	if err != nil || string(text[:len(text)-1]) != hex.EncodeToString(signature) {
		return nil, nil
	}
	return body, signature
}

// A parser reads a text line by line and remembers the first fault.
type parser struct {
	text string // all of it
	at   int
	err  error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// next returns the next line without its end.
func (p *parser) next() string {
	if p.err != nil {
		return ""
	}
	line, _, ok := strings.Cut(p.text[p.at:], "\n")
	if !ok {
		p.fail("cut off")
		return ""
	}
	p.at += len(line) + 1
	return line
}

func (p *parser) title(want string) {
	if p.next() != want {
		p.fail("it does not begin with %q", want)
	}
}

// line returns the value of the next line, which must have that name.
func (p *parser) line(name string) string {
	value, ok := strings.CutPrefix(p.next(), name+" ")
	if !ok {
		p.fail("no line %q where one should be", name)
	}
	return value
}

func (p *parser) hex(name string, into []byte) {
	if b, err := hex.DecodeString(p.line(name)); err != nil || len(b) != len(into) {
		p.fail("bad %s", name)
	} else {
		copy(into, b)
	}
}

func (p *parser) number(name string, most uint64) uint64 {
	n, err := strconv.ParseUint(p.line(name), 10, 64)
	if err != nil || n > most {
		p.fail("bad %s", name)
		return 0
	}
	return n
}

func (p *parser) time(name string) time.Time {
	return time.Unix(int64(p.number(name, 1<<40)), 0).UTC()
}

// body is what has been read so far.
func (p *parser) body() string { return p.text[:p.at] }

// signed ends the reading: nothing but a signature is left.
func (p *parser) signed() error {
	if p.err != nil {
		return p.err
	}
	if body, _ := splitSigned([]byte(p.text)); body == nil || len(body) != p.at {
		return errors.New("no signature where it should be")
	}
	return nil
}
