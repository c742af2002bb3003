package s3

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// A Secret is a secret access key. It shows itself to nothing but the request
// signer: printing, logging and encoding give a placeholder, also where a
// struct that holds it is printed, for which the value lies behind a pointer.
type Secret struct{ value *string }

const redacted = "[secret]"

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{&value} }

func (s Secret) reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a secret that is written out by accident is no secret.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("a secret key cannot be encoded")
}
