package share

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"strings"
	"unicode"
	"unicode/utf8"

	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

const (
	version     = 1
	bodySize    = 6 + 8 + 20 + secret.Size // all but the checksum
	sumSize     = 9                        // fills six lines exactly
	payloadSize = bodySize + sumSize
	lineTag     = "share"
	magic       = "STRONGROOM RECOVERY SHARE 1"
	qrPrefix    = "STRONGROOM:SHARE:1:"
	maxText     = 8 << 10
	maxLabel    = 80 // characters

	// LineCount is how many lines a person types for one share.
	LineCount = 6
)

// ErrChecksum: every line is right, the whole is not, e.g. lines of two shares
// that were mixed.
var ErrChecksum = errors.New("checksum of the whole share does not fit")

func checksum(body []byte) []byte {
	sum := sha256.Sum256(append([]byte("strongroom share v1\x00"), body...))
	return sum[:sumSize]
}

// payload is the byte form of repo/FORMAT.md, section 10, "Shares".
func (s Share) payload() []byte {
	var flags byte
	if s.Rehearsal {
		flags = 1
	}
	b := []byte{version, byte(s.Class), flags, byte(s.K), byte(s.N), byte(s.Index)}
	b = append(b, s.ID[:]...)
	b = append(b, s.Key[:]...)
	b = append(b, s.y.Reveal()...)
	return append(b, checksum(b)...)
}

func fromPayload(b []byte) (Share, error) {
	if len(b) != payloadSize {
		return Share{}, fmt.Errorf("share has %d bytes, want %d", len(b), payloadSize)
	}
	body := b[:bodySize]
	if subtle.ConstantTimeCompare(checksum(body), b[bodySize:]) != 1 {
		return Share{}, ErrChecksum
	}
	if body[0] != version {
		return Share{}, fmt.Errorf("share has version %d, this program knows %d", body[0], version)
	}
	if body[2] > 1 {
		return Share{}, fmt.Errorf("share has unknown flags %#02x", body[2])
	}
	s := Share{Set: Set{Class: Class(body[1]), Rehearsal: body[2] == 1, K: int(body[3]), N: int(body[4])}, Index: int(body[5])}
	copy(s.ID[:], body[6:])
	copy(s.Key[:], body[14:])
	if err := s.Check(); err != nil {
		return Share{}, err
	}
	if s.Index < 1 || s.Index > s.N {
		return Share{}, fmt.Errorf("share has number %d of %d", s.Index, s.N)
	}
	var err error
	s.y, err = secret.FromBytes(body[34:])
	return s, err
}

func checkLabel(label string) error {
	if label != strings.TrimSpace(label) || !utf8.ValidString(label) || utf8.RuneCountInString(label) > maxLabel {
		return fmt.Errorf("label must be UTF-8 of at most %d characters without spaces around it", maxLabel)
	}
	if strings.ContainsFunc(label, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("label must not contain control characters")
	}
	return nil
}

// Lines returns the lines that a person types to enter the share.
func (s Share) Lines() []string { return paper.Lines(lineTag, s.payload()) }

// CheckLine tells whether line number n of a share was typed right, so that a
// prompt can say so at once. The error is a *paper.LineError.
func CheckLine(n int, text string) error {
	_, err := paper.CheckLine(lineTag, n, text)
	return err
}

func (s Share) header() []string {
	h := []string{
		magic,
		"class: " + s.Class.String(),
		"set: " + s.ID.String(),
		fmt.Sprintf("share: %d of %d, any %d together recover", s.Index, s.N, s.K),
		"recovery key: " + s.Key.String(),
		"label: " + s.Label,
	}
	if s.Rehearsal {
		h = append(h, "REHEARSAL: protects nothing")
	}
	for i := range h {
		h[i] = strings.TrimSpace(h[i]) // an empty label leaves no space at the end
	}
	return h
}

// Format returns the share file: a header to read, a blank line, the lines to
// type. It is a secret.
func (s Share) Format() []byte {
	return []byte(strings.Join(s.header(), "\n") + "\n\n" + strings.Join(s.Lines(), "\n") + "\n")
}

// Parse reads a share file, the bare lines as a person types them (with or
// without numbers, in any case), or the text of the QR code. A header must say
// what the lines say. A mistyped line gives a *paper.LineError.
func Parse(text []byte) (Share, error) {
	s, err := parse(text)
	if err != nil {
		return Share{}, fmt.Errorf("read share: %w", err)
	}
	return s, nil
}

func parse(text []byte) (Share, error) {
	if len(text) > maxText {
		return Share{}, fmt.Errorf("%d bytes are too many", len(text))
	}
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(string(text))) {
		lines = append(lines, strings.TrimSpace(line))
	}
	if len(lines) == 0 {
		return Share{}, errors.New("it is empty")
	}
	if rest, ok := strings.CutPrefix(lines[0], qrPrefix); ok && len(lines) == 1 {
		b, err := paper.Decode(rest, payloadSize)
		if err != nil {
			return Share{}, err
		}
		return fromPayload(b)
	}
	var header []string
	if lines[0] == magic {
		blank := 0
		for blank < len(lines) && lines[blank] != "" {
			blank++
		}
		header, lines = lines[:blank], lines[min(blank+1, len(lines)):]
	}
	b, err := paper.ParseLines(lineTag, lines, payloadSize)
	if err != nil {
		return Share{}, err
	}
	s, err := fromPayload(b)
	if err != nil {
		return Share{}, err
	}
	return s, s.takeHeader(header)
}

// takeHeader reads the label and holds every other line against the payload.
func (s *Share) takeHeader(header []string) error {
	if header == nil {
		return nil
	}
	const labelLine = 5
	if len(header) > labelLine {
		label, ok := strings.CutPrefix(header[labelLine], "label:")
		if ok {
			s.Label = strings.TrimSpace(label)
		}
	}
	if err := checkLabel(s.Label); err != nil {
		return err
	}
	want := s.header()
	for i, line := range header {
		if i >= len(want) || line != want[i] {
			return fmt.Errorf("header line %q does not fit the lines below, which are %s", line, s.Name())
		}
	}
	if len(header) != len(want) {
		return fmt.Errorf("header lacks %q", want[len(header)])
	}
	return nil
}

//go:embed page.html
var pageText string

var page = template.Must(template.New("share").Parse(pageText))

// Page returns the printable page of one share. It is a secret.
func (s Share) Page() ([]byte, error) {
	code, err := paper.QR(qrPrefix + paper.Encode(s.payload()))
	if err != nil {
		return nil, fmt.Errorf("print %s: %w", s.Name(), err)
	}
	var out bytes.Buffer
	err = page.Execute(&out, struct {
		Share
		Lines []string
		QR    template.HTML
		Style template.CSS
	}{s, s.Lines(), code, paper.Style})
	if err != nil {
		return nil, fmt.Errorf("print %s: %w", s.Name(), err)
	}
	return out.Bytes(), nil
}
