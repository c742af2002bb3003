package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// signContext begins what is signed: a signature over a manifest or a ledger
// entry is never one over a receipt.
const signContext = "strongroom drill receipt 1\n"

// MaxFile bounds a signed receipt in bytes.
const MaxFile = 16 << 20

// A Signer is the box's key. Sign signs the message as it stands, with Ed25519.
type Signer interface {
	Public() [ed25519.PublicKeySize]byte
	Sign(message []byte) []byte
}

// ErrSignature: a receipt was not signed by the key, or was changed since.
var ErrSignature = errors.New("signature is wrong")

// envelope is the file: canonical like what is in it.
type envelope struct {
	Receipt   json.RawMessage `json:"receipt"`
	Signature string          `json:"signature"` // base64
}

// Sign makes the file of a receipt: one line of canonical JSON.
func Sign(r *Receipt, s Signer) ([]byte, error) {
	key := s.Public()
	r.Box = hex.EncodeToString(key[:])
	r.clean()
	if err := r.Check(); err != nil {
		return nil, err
	}
	body, err := canonical(r)
	if err != nil {
		return nil, fmt.Errorf("write receipt %s: %w", r.ID, err)
	}
	sig := s.Sign(append([]byte(signContext), body...))
	out, err := canonical(envelope{body, base64.StdEncoding.EncodeToString(sig)})
	if err != nil {
		return nil, fmt.Errorf("write receipt %s: %w", r.ID, err)
	}
	if len(out) >= MaxFile {
		return nil, fmt.Errorf("write receipt %s: %d bytes are too many", r.ID, len(out))
	}
	return append(out, '\n'), nil
}

// Verify reads a file and returns the receipt in it if key signed it, it is in
// its one encoding, and it says nothing that contradicts itself.
func Verify(file []byte, key [ed25519.PublicKeySize]byte) (*Receipt, error) {
	r, body, sig, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("read receipt: %w", err)
	}
	if r.Box != hex.EncodeToString(key[:]) {
		return nil, fmt.Errorf("receipt %s: %w: it names the key %s", r.ID, ErrSignature, r.Box)
	}
	if !ed25519.Verify(key[:], append([]byte(signContext), body...), sig) {
		return nil, fmt.Errorf("receipt %s: %w", r.ID, ErrSignature)
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("receipt %s: %w", r.ID, err)
	}
	return r, nil
}

// Named returns the key that a file says signed it, which proves nothing: whoever
// trusts several has Verify hold the file against that one.
func Named(file []byte) (key [ed25519.PublicKeySize]byte, err error) {
	r, _, _, err := parse(file)
	if err != nil {
		return key, fmt.Errorf("read receipt: %w", err)
	}
	b, err := hex.DecodeString(r.Box)
	if err != nil || len(b) != len(key) {
		return key, fmt.Errorf("receipt %s: %w: it names no key", r.ID, ErrSignature)
	}
	return [ed25519.PublicKeySize]byte(b), nil
}

func parse(file []byte) (*Receipt, []byte, []byte, error) {
	if len(file) > MaxFile {
		return nil, nil, nil, fmt.Errorf("%d bytes are too many", len(file))
	}
	var e envelope
	if err := strict(file, &e); err != nil {
		return nil, nil, nil, err
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(e.Signature)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, nil, nil, fmt.Errorf("%w: it is none", ErrSignature)
	}
	r := &Receipt{}
	if err := strict(e.Receipt, r); err != nil {
		return nil, nil, nil, err
	}
	again, err := canonical(envelope{e.Receipt, e.Signature})
	if err != nil {
		return nil, nil, nil, err
	}
	// Unknown, repeated and reordered members, other white space: two readers
	// could see two receipts in one file.
	body, err := canonical(r)
	if err != nil {
		return nil, nil, nil, err
	}
	if !bytes.Equal(append(again, '\n'), file) || !bytes.Equal(body, e.Receipt) {
		return nil, nil, nil, errors.New("it is not in its one encoding")
	}
	return r, body, sig, nil
}

func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// clean makes texts of engines and stores fit: bounded, in UTF-8, in one line.
// The verdict quotes them, so it is made again.
func (r *Receipt) clean() {
	for i := range r.Steps {
		s := &r.Steps[i]
		s.Why = cleanText(s.Why)
		for j := range s.Checks {
			c := &s.Checks[j]
			c.Name, c.Expected, c.Actual = cleanText(c.Name), cleanText(c.Expected), cleanText(c.Actual)
		}
	}
	for i := range r.Content {
		r.Content[i].Name = cleanText(r.Content[i].Name)
	}
	for i := range r.Notes {
		r.Notes[i] = cleanText(r.Notes[i])
	}
	for _, walls := range [][]Wall{r.Sandbox.Walls, r.Daemon} {
		for i := range walls {
			walls[i].Tried, walls[i].Got = cleanText(walls[i].Tried), cleanText(walls[i].Got)
		}
	}
	r.Started, r.Finished, r.Snapshot.Point = r.Started.UTC(), r.Finished.UTC(), r.Snapshot.Point.UTC()
	r.Verdict, r.Why = Judge(r.Steps)
}

func cleanText(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
