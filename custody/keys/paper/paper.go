// Package paper writes bytes so that people can print, type and scan them:
// base32 lines that each carry a check, and QR codes.
package paper

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"html/template"
	"strconv"
	"strings"

	"rsc.io/qr"
)

// Alphabet is Crockford's base32: no I, L, O, U, so nothing that looks like
// another character is ever printed.
const Alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const (
	groupChars = 4  // characters between spaces
	lineChars  = 20 // data characters in a line: five groups
	checkChars = 4  // one more group; 20 bits, so a wrong line passes once in a million
	maxLines   = 200
)

var encoding = base32.NewEncoding(Alphabet).WithPadding(base32.NoPadding)

// LineError says which line of a typed text is wrong.
type LineError struct {
	Line int // counted from 1
	What string
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.What) }

// ErrLength: the text has more or fewer lines than it must have.
var ErrLength = errors.New("wrong number of lines")

// Encode returns b in base32, upper case, without padding.
func Encode(b []byte) string { return encoding.EncodeToString(b) }

// Decode reads base32 of exactly n bytes as people type it: any case, spaces
// and hyphens anywhere, I and L for 1, O for 0. Bits left over must be zero.
func Decode(s string, n int) ([]byte, error) {
	chars, err := normalize(s)
	if err != nil {
		return nil, err
	}
	b, err := encoding.DecodeString(chars)
	if err != nil {
		return nil, fmt.Errorf("%d base32 characters are no whole number of bytes", len(chars))
	}
	if len(b) != n || Encode(b) != chars {
		return nil, fmt.Errorf("want base32 of %d bytes, got %d characters", n, len(chars))
	}
	return b, nil
}

// Group sets a separator after every four characters of s.
func Group(s, sep string) string {
	var out strings.Builder
	for i := 0; i < len(s); i += groupChars {
		if i > 0 {
			out.WriteString(sep)
		}
		out.WriteString(s[i:min(i+groupChars, len(s))])
	}
	return out.String()
}

// normalize maps what people type to the alphabet.
func normalize(s string) (string, error) {
	var out strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c == ' ', c == '\t', c == '-':
			continue
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		switch c {
		case 'I', 'L':
			c = '1'
		case 'O':
			c = '0'
		}
		if strings.IndexByte(Alphabet, c) < 0 {
			return "", fmt.Errorf("character %q does not occur in this text", rune(s[i]))
		}
		out.WriteByte(c)
	}
	return out.String(), nil
}

// check binds a line to the kind of text it stands in (tag), its number and
// its characters, so that lines of two texts, or two lines of one, cannot be
// exchanged unnoticed.
func check(tag string, line int, chars string) string {
	sum := sha256.Sum256([]byte("strongroom line v1\x00" + tag + "\x00" + strconv.Itoa(line) + "\x00" + chars))
	return Encode(sum[:])[:checkChars]
}

// Lines writes b as numbered lines `1  ABCD EFGH JKMN PQRS TVWX  CCCC`; the
// last group of each is its check. tag names the kind of text.
func Lines(tag string, b []byte) []string {
	chars := Encode(b)
	var lines []string
	for start := 0; start < len(chars); start += lineChars {
		part := chars[start:min(start+lineChars, len(chars))]
		n := len(lines) + 1
		lines = append(lines, fmt.Sprintf("%d  %s  %s", n, Group(part, " "), check(tag, n, part)))
	}
	return lines
}

// CheckLine reads one typed line, with or without its number, and returns its
// data characters. Errors are *LineError.
func CheckLine(tag string, line int, text string) (string, error) {
	text = strings.TrimSpace(text)
	// A number stands alone before white space; a group of the text has four
	// characters, so the two cannot be confused.
	if end := strings.IndexAny(text, " \t"); end > 0 && end < groupChars+1 {
		first := strings.TrimRight(text[:end], ".:)")
		if number, err := strconv.Atoi(first); err == nil && len(first) < groupChars {
			if number != line {
				return "", &LineError{line, fmt.Sprintf("carries the number %d, want %d", number, line)}
			}
			text = text[end:]
		}
	}
	chars, err := normalize(text)
	if err != nil {
		return "", &LineError{line, err.Error()}
	}
	if len(chars) <= checkChars || len(chars) > lineChars+checkChars {
		return "", &LineError{line, fmt.Sprintf("has %d characters, want %d", len(chars), lineChars+checkChars)}
	}
	data, sum := chars[:len(chars)-checkChars], chars[len(chars)-checkChars:]
	if check(tag, line, data) != sum {
		return "", &LineError{line, "a character is wrong: the check group does not fit"}
	}
	return data, nil
}

// ParseLines reads what Lines wrote and a person may have typed; n is the
// number of bytes it must give. Errors are *LineError or wrap ErrLength.
func ParseLines(tag string, lines []string, n int) ([]byte, error) {
	want := (encoding.EncodedLen(n) + lineChars - 1) / lineChars
	if len(lines) > maxLines {
		return nil, fmt.Errorf("%w: more than %d", ErrLength, maxLines)
	}
	var chars strings.Builder
	for i, text := range lines {
		data, err := CheckLine(tag, i+1, text)
		if err != nil {
			return nil, err
		}
		if len(data) != lineChars && i != want-1 {
			return nil, &LineError{i + 1, "is too short"}
		}
		chars.WriteString(data)
	}
	if len(lines) != want {
		return nil, fmt.Errorf("%w: %d, want %d", ErrLength, len(lines), want)
	}
	return Decode(chars.String(), n)
}

// QR returns text as an inline SVG at error correction level M (some 15 % of
// the area may be damaged), or L where M does not hold it. Upper-case letters,
// digits and :/.-$%*+ take the dense alphanumeric mode.
func QR(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		if code, err = qr.Encode(text, qr.L); err != nil {
			return "", fmt.Errorf("make QR code of %d characters: %w", len(text), err)
		}
	}
	const quiet = 4 // modules of white around the code that ISO/IEC 18004 asks for
	size := code.Size + 2*quiet
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg class="qr" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges" role="img" aria-label="QR code"><rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="`, size, size, size, size)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			if !code.Black(x, y) {
				continue
			}
			start := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			fmt.Fprintf(&out, "M%d %dh%dv1h-%dz", start+quiet, y+quiet, x-start, x-start)
		}
	}
	out.WriteString(`"/></svg>`)
	return template.HTML(out.String()), nil
}
