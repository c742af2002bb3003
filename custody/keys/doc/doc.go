// Package doc writes and reads key documents: a title line, JSON in exactly one
// encoding, and a SHA-256 line.
package doc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	sumPrefix = "sha256 "
	sumLine   = len(sumPrefix) + 2*sha256.Size + 1
)

// Errors that callers branch on.
var (
	// ErrOther: the file is a document of another kind or version, or none.
	ErrOther = errors.New("not such a document")
	// ErrDamaged: the SHA-256 line does not fit what stands above it.
	ErrDamaged = errors.New("document is damaged")
)

// Encode writes v, a struct, under the given title, e.g. "strongroom kit 1".
func Encode(title string, v any) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(title + "\n")
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write %s: %w", title, err)
	}
	sum := sha256.Sum256(out.Bytes())
	out.WriteString(sumPrefix + hex.EncodeToString(sum[:]) + "\n")
	return out.Bytes(), nil
}

// Decode reads what Encode wrote, at most limit bytes, into v. It rejects
// every other encoding of the same value: unknown, missing, repeated or
// reordered fields, other white space, other escapes.
func Decode(title string, data []byte, limit int, v any) error {
	if err := decode(title, data, limit, v); err != nil {
		return fmt.Errorf("read %s: %w", title, err)
	}
	return nil
}

func decode(title string, data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes are more than the %d allowed", len(data), limit)
	}
	rest, ok := bytes.CutPrefix(data, []byte(title+"\n"))
	if !ok {
		first, _, _ := strings.Cut(string(data[:min(len(data), 60)]), "\n")
		return fmt.Errorf("%w: it begins with %q", ErrOther, first)
	}
	if len(rest) < sumLine {
		return fmt.Errorf("%w: it ends early", ErrDamaged)
	}
	body := data[:len(data)-sumLine]
	sum := sha256.Sum256(body)
	if string(data[len(body):]) != sumPrefix+hex.EncodeToString(sum[:])+"\n" {
		return fmt.Errorf("%w: the SHA-256 line does not fit", ErrDamaged)
	}
	dec := json.NewDecoder(bytes.NewReader(rest[:len(rest)-sumLine]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	again, err := Encode(title, v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("it is not in its one canonical encoding")
	}
	return nil
}
