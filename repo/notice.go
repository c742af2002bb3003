package repo

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// A noticeKind is a kind of small object that stands beside manifests and is
// signed as a whole:
//
//	magic (8) ‖ length of clear u32 ‖ clear ‖ signature of context ‖ all before it (64)
type noticeKind struct {
	name    string
	magic   string
	context string
	letter  string // its key is letter-<32 hex digits> below the generation
	most    int    // bytes of the whole object
}

const noticeHead = 8 + 4

func (k noticeKind) is(key string) bool {
	f := strings.Split(key, "/")
	return len(f) == 3 && strings.HasPrefix(f[2], k.letter+"-") && len(f[2]) == 2+32
}

// key names an object by its bytes, so that what somebody put under a name can
// never keep it off a store.
func (k noticeKind) key(tenant, generation ID, raw []byte) string {
	sum := sha256.Sum256(raw)
	return fmt.Sprintf("%s%s-%x", generationPrefix(tenant, generation), k.letter, sum[:16])
}

func (k noticeKind) sign(clear []byte, by Signer) []byte {
	raw := append([]byte(k.magic), binary.BigEndian.AppendUint32(nil, uint32(len(clear)))...)
	raw = append(raw, clear...)
	return append(raw, by.Sign(append([]byte(k.context), raw...))...)
}

// clear returns the clear part of an object of this kind's form, not verified.
func (k noticeKind) clear(raw []byte) ([]byte, error) {
	end := len(raw) - ed25519.SignatureSize
	if end < noticeHead || len(raw) > k.most || string(raw[:8]) != k.magic || int64(binary.BigEndian.Uint32(raw[8:])) != int64(end-noticeHead) {
		return nil, fmt.Errorf("%w: not a %s", ErrIntegrity, k.name)
	}
	return raw[noticeHead:end], nil
}

// verify checks the signature by the key that the clear part names.
func (k noticeKind) verify(raw []byte, box [ed25519.PublicKeySize]byte, incarnation uint32, trust Trust) error {
	end := len(raw) - ed25519.SignatureSize
	if err := trust(box, incarnation, append([]byte(k.context), raw[:end]...), raw[end:]); err != nil {
		return fmt.Errorf("%w: %s signed by box key %x: %w", ErrIntegrity, k.name, box[:8], err)
	}
	return nil
}
