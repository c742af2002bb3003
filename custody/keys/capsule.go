package keys

import (
	"crypto/hpke"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"

	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

// Suite is the first byte of every capsule. Suite 1 is HPKE (RFC 9180), base
// mode, MLKEM1024-P384 (draft-ietf-hpke-pq, KEM id 0x0051), HKDF-SHA384,
// AES-256-GCM. The draft may still move; our bytes do not: vectors in testdata
// and SelfTest hold the KEM to what it was when the first capsule was made.
const Suite = 1

// Lengths in bytes.
const (
	publicKeySize = 1568 + 97 // ML-KEM-1024 encapsulation key, P-384 point
	encSize       = 1568 + 97 // ML-KEM-1024 ciphertext, P-384 point
	tagSize       = 16
	overhead      = 1 + encSize + tagSize

	// CapsuleSize is the length of a capsule that holds a 32-byte secret.
	CapsuleSize = overhead + secret.Size

	infoTag = "strongroom capsule v1"
)

// Purpose says what a capsule holds and to whom it is sealed; it is bound in
// the key schedule, so a capsule never opens as one of another purpose.
type Purpose byte

// Every purpose there is.
const (
	PurposeTenantSeed    Purpose = 1 // T's seed, to R
	PurposeGeneration    Purpose = 2 // G, to T
	PurposeCanary        Purpose = 3 // a random value, to T
	PurposeAccess        Purpose = 4 // credentials of a store, to R
	PurposeReleaseOne    Purpose = 5 // G, to a one-time key
	PurposeReleaseTenant Purpose = 6 // T's seed, to a one-time key
	PurposeReleaseAccess Purpose = 7 // credentials of a store, to a one-time key
)

// scope is what a capsule belongs to; ids that do not apply are zero.
type scope struct {
	tenant     TenantID
	dataset    DatasetID
	generation GenerationID
}

// ErrCapsule: a capsule does not open. It was made for another key, purpose,
// tenant, dataset or generation, or it is damaged; HPKE does not say which.
var ErrCapsule = errors.New("capsule does not open")

func (s scope) info(p Purpose) []byte {
	b := append([]byte(infoTag), Suite, byte(p))
	b = append(b, s.tenant[:]...)
	b = append(b, s.dataset[:]...)
	return append(b, s.generation[:]...)
}

// PublicKey is the public half of R, T or a one-time key. It is comparable;
// the zero value is no key.
type PublicKey struct{ raw string }

// ParsePublicKey checks and keeps the serialized form.
func ParsePublicKey(b []byte) (PublicKey, error) {
	if _, err := hpke.MLKEM1024P384().NewPublicKey(b); err != nil {
		return PublicKey{}, fmt.Errorf("parse public key of %d bytes: %w", len(b), err)
	}
	return PublicKey{string(b)}, nil
}

// Bytes returns the serialized form: ML-KEM-1024 encapsulation key, then the
// uncompressed P-384 point.
func (k PublicKey) Bytes() []byte { return []byte(k.raw) }

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k.raw == "" }

func (k PublicKey) String() string { return k.Fingerprint().String() }

// MarshalText writes base64.
func (k PublicKey) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, []byte(k.raw)), nil
}

// UnmarshalText reads base64 and checks the key.
func (k *PublicKey) UnmarshalText(b []byte) error {
	if len(b) > 2*publicKeySize {
		return errors.New("public key is too long")
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, b)
	if err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	*k, err = ParsePublicKey(raw)
	return err
}

// Fingerprint names a public key to people and in documents.
type Fingerprint [32]byte

// Fingerprint returns SHA-256 of a domain tag, the suite and the key.
func (k PublicKey) Fingerprint() Fingerprint {
	return sha256.Sum256(append([]byte("strongroom public key v1\x00\x01"), k.raw...))
}

// String is base32 in 13 groups of four; a share shows the first eight.
func (f Fingerprint) String() string { return paper.Group(paper.Encode(f[:]), "-") }

// MarshalText implements encoding.TextMarshaler.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText takes only the form String writes.
func (f *Fingerprint) UnmarshalText(b []byte) error {
	got, err := ParseFingerprint(string(b))
	if err != nil {
		return err
	}
	if got.String() != string(b) {
		return errors.New("fingerprint is not in canonical form")
	}
	*f = got
	return nil
}

// ParseFingerprint reads a fingerprint as a person types it.
func ParseFingerprint(s string) (Fingerprint, error) {
	if len(s) > 4*len(Fingerprint{}) {
		return Fingerprint{}, errors.New("fingerprint is too long")
	}
	b, err := paper.Decode(s, len(Fingerprint{}))
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint: %w", err)
	}
	return Fingerprint(b), nil
}

// privateKey derives the key pair. It is done for each use, at about 0.2 ms,
// because the expanded key would be one more place that holds the secret.
func privateKey(seed secret.Key) (hpke.PrivateKey, error) {
	return hpke.MLKEM1024P384().NewPrivateKey(seed.Reveal())
}

func publicOf(seed secret.Key) (PublicKey, error) {
	k, err := privateKey(seed)
	if err != nil {
		return PublicKey{}, fmt.Errorf("derive key pair: %w", err)
	}
	return PublicKey{string(k.PublicKey().Bytes())}, nil
}

// seal makes a capsule: suite, encapsulated key, ciphertext.
func seal(to PublicKey, p Purpose, s scope, plain []byte) ([]byte, error) {
	pub, err := hpke.MLKEM1024P384().NewPublicKey(to.Bytes())
	if err != nil {
		return nil, fmt.Errorf("seal capsule: %w", err)
	}
	ct, err := hpke.Seal(pub, hpke.HKDFSHA384(), hpke.AES256GCM(), s.info(p), plain)
	if err != nil {
		return nil, fmt.Errorf("seal capsule: %w", err)
	}
	return append([]byte{Suite}, ct...), nil
}

func open(seed secret.Key, p Purpose, s scope, capsule []byte) ([]byte, error) {
	if len(capsule) < overhead {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrCapsule, len(capsule))
	}
	if capsule[0] != Suite {
		return nil, fmt.Errorf("%w: it has suite %d, this program knows %d", ErrCapsule, capsule[0], Suite)
	}
	k, err := privateKey(seed)
	if err != nil {
		return nil, fmt.Errorf("open capsule: %w", err)
	}
	plain, err := hpke.Open(k, hpke.HKDFSHA384(), hpke.AES256GCM(), s.info(p), capsule[1:])
	if err != nil {
		return nil, ErrCapsule
	}
	return plain, nil
}

// openKey opens a capsule that must hold exactly one key.
func openKey(seed secret.Key, p Purpose, s scope, capsule []byte) (secret.Key, error) {
	if len(capsule) != CapsuleSize {
		return secret.Key{}, fmt.Errorf("%w: it has %d bytes, want %d", ErrCapsule, len(capsule), CapsuleSize)
	}
	plain, err := open(seed, p, s, capsule)
	if err != nil {
		return secret.Key{}, err
	}
	defer clear(plain)
	return secret.FromBytes(plain)
}

// Credentials are padded, so that a capsule does not show their exact length.
const (
	accessBlock = 256
	// MaxAccess bounds the credentials of one store.
	MaxAccess = 8*accessBlock - 2
)

func checkAccessSize(capsule []byte) error {
	if n := len(capsule) - overhead; n < accessBlock || n > 8*accessBlock || n%accessBlock != 0 {
		return fmt.Errorf("access capsule has impossible length %d", len(capsule))
	}
	return nil
}

func sealAccess(to PublicKey, p Purpose, t TenantID, access []byte) ([]byte, error) {
	if len(access) == 0 || len(access) > MaxAccess {
		return nil, fmt.Errorf("credentials have %d bytes, want 1 to %d", len(access), MaxAccess)
	}
	padded := make([]byte, (len(access)+2+accessBlock-1)/accessBlock*accessBlock)
	defer clear(padded)
	padded[0], padded[1] = byte(len(access)>>8), byte(len(access))
	copy(padded[2:], access)
	return seal(to, p, scope{tenant: t}, padded)
}

func openAccess(seed secret.Key, p Purpose, t TenantID, capsule []byte) ([]byte, error) {
	if err := checkAccessSize(capsule); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCapsule, err)
	}
	plain, err := open(seed, p, scope{tenant: t}, capsule)
	if err != nil {
		return nil, err
	}
	n := int(plain[0])<<8 | int(plain[1])
	if n == 0 || n > MaxAccess || (n+2+accessBlock-1)/accessBlock*accessBlock != len(plain) {
		return nil, fmt.Errorf("%w: length inside is wrong", ErrCapsule)
	}
	for _, b := range plain[2+n:] {
		if b != 0 {
			return nil, fmt.Errorf("%w: padding is not zero", ErrCapsule)
		}
	}
	return plain[2 : 2+n], nil
}

//go:embed selftest.capsule
var selfTestCapsule []byte

// SelfTest opens a capsule made when the format was fixed and derives a known
// public key. A toolchain whose KEM gives other bytes must not seal anything:
// what it writes could not be opened by the programs on the media.
func SelfTest() error {
	b := make([]byte, secret.Size)
	for i := range b {
		b[i] = byte(i)
	}
	seed, err := secret.FromBytes(b)
	if err != nil {
		return err
	}
	const want = "K1S3-45DJ-Z7HT-NN7F-38P9-JV4Y-KH3T-BP6H-J0G4-2WVJ-B4PY-S5J5-2XWG"
	pub, err := publicOf(seed)
	if err != nil {
		return fmt.Errorf("self-test of the capsules: %w", err)
	}
	if got := pub.Fingerprint().String(); got != want {
		return fmt.Errorf("self-test of the capsules: seed gives public key %s, want %s", got, want)
	}
	key, err := openKey(seed, PurposeTenantSeed, scope{tenant: TenantID{1}}, selfTestCapsule)
	if err != nil {
		return fmt.Errorf("self-test of the capsules: %w", err)
	}
	if !key.Equal(seed) {
		return errors.New("self-test of the capsules: wrong secret")
	}
	return nil
}
