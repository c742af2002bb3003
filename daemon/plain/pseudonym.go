package plain

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
)

// Pseudonyms are words that stand for names. The same name always has the same
// word, and whoever lacks the key cannot try names until one fits.
type Pseudonyms struct{ key []byte }

// KeySize is the length of a key for them, in bytes.
const KeySize = 32

// NewPseudonyms takes a key, which is to stay on the box.
func NewPseudonyms(key []byte) Pseudonyms { return Pseudonyms{key} }

var letters = base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding)

// Of is the word for a name: "n-" and nine letters and digits.
func (p Pseudonyms) Of(name string) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte("strongroom pseudonym\x00" + name))
	return "n-" + letters.EncodeToString(mac.Sum(nil))[:9]
}

// Unless is the name itself, unless any of others is part of it: what operators
// named themselves may stay, where they put no client's name into it.
func (p Pseudonyms) Unless(name string, others []string) string {
	for _, o := range others {
		if strings.Contains(name, o) {
			return p.Of(name)
		}
	}
	return name
}
