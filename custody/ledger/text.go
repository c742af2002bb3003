package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// marshal writes JSON on one line, with each character as itself.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func hexText(b []byte) []byte { return hex.AppendEncode(nil, b) }

// parseHex takes lower-case hex of exactly len(dst) bytes.
func parseHex(dst, text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(dst) || hex.EncodeToString(raw) != string(text) {
		return fmt.Errorf("want %d lower-case hex digits", 2*len(dst))
	}
	copy(dst, raw)
	return nil
}

// isToken reports whether s is words of [a-z0-9] joined by "-".
func isToken(s string) bool {
	dash := true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			dash = false
		case c == '-' && !dash:
			dash = true
		default:
			return false
		}
	}
	return !dash
}

// prints reports whether s is at most n bytes of characters that print: one
// line, which cannot move the cursor of who reads it.
func prints(s string, n int) bool {
	if len(s) > n || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Text makes a value for Act.Fields of a text that may not be one, such as an
// error's: what does not print becomes a space, and what is too long is cut.
func Text(s string) string {
	var b strings.Builder
	for _, r := range s { // a byte that is no UTF-8 reads as U+FFFD, which prints
		if !unicode.IsPrint(r) {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > maxValue {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
