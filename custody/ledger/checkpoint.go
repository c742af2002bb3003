package ledger

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// An ID names one ledger, from its genesis on: two boxes, or one box that
// began anew, never speak of the same log.
type ID [16]byte

func (id ID) String() string                { return string(hexText(id[:])) }
func (id ID) MarshalText() ([]byte, error)  { return hexText(id[:]), nil }
func (id *ID) UnmarshalText(b []byte) error { return parseHex(id[:], b) }

// A Checkpoint is the signed head of one log: a note (c2sp.org/signed-note)
// whose text is
//
//	strongroom/ledger/<ledger>/<tenant or "system">
//	<size>
//	<root hash in base64>
//	incarnation <of the box>
//
// which is a checkpoint of c2sp.org/tlog-checkpoint with one more line.
type Checkpoint struct {
	Ledger      ID
	Tenant      keys.TenantID // zero: the system log
	Size        int64
	Root        tlog.Hash
	Incarnation uint32
	Note        string         // all of it, as signed
	Box         keys.VerifyKey // that signed
}

const (
	originPrefix  = "strongroom/ledger/"
	systemName    = "system"
	keyName       = "strongroom-box"
	maxCheckpoint = 1024 // bytes
	// maxSize keeps indexes of stored hashes, about twice as many, and numbers
	// in other people's JSON (2⁵³) whole.
	maxSize = 1 << 48
)

func logName(t keys.TenantID) string {
	if t == (keys.TenantID{}) {
		return systemName
	}
	return t.String()
}

// parseLogName is the inverse of logName; only the one spelling is taken.
func parseLogName(s string) (t keys.TenantID, err error) {
	if s == systemName {
		return t, nil
	}
	if err = t.UnmarshalText([]byte(s)); err == nil && t == (keys.TenantID{}) {
		err = errors.New("a tenant of zeros")
	}
	if err != nil {
		return keys.TenantID{}, fmt.Errorf("log %q: %w", s, err)
	}
	return t, nil
}

func (c Checkpoint) text() string {
	return fmt.Sprintf("%s%s/%s\n%d\n%s\nincarnation %d\n", originPrefix, c.Ledger, logName(c.Tenant), c.Size,
		base64.StdEncoding.EncodeToString(c.Root[:]), c.Incarnation)
}

// A Signer is the box's key, a *keys.Signer.
type Signer interface {
	Public() keys.VerifyKey
	Sign(message []byte) []byte
}

// noteKey is a box key as notes know it.
type noteKey struct {
	note.Verifier
	signer Signer
}

func verifierOf(k keys.VerifyKey) (note.Verifier, error) {
	text, err := note.NewEd25519VerifierKey(keyName, ed25519.PublicKey(k[:]))
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

func (k noteKey) Sign(msg []byte) ([]byte, error) { return k.signer.Sign(msg), nil }

// sign fills in Box and Note.
func (c *Checkpoint) sign(s Signer) error {
	c.Box = s.Public()
	v, err := verifierOf(c.Box)
	if err != nil {
		return fmt.Errorf("sign checkpoint: %w", err)
	}
	b, err := note.Sign(&note.Note{Text: c.text()}, noteKey{v, s})
	if err != nil {
		return fmt.Errorf("sign checkpoint: %w", err)
	}
	c.Note = string(b)
	return nil
}

// OpenCheckpoint reads a checkpoint and verifies that a listed key signed it
// within its incarnations. It takes one signature and no other.
func OpenCheckpoint(b []byte, trust keys.BoxKeys) (Checkpoint, error) {
	c, err := openCheckpoint(b, trust)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return c, nil
}

func openCheckpoint(b []byte, trust keys.BoxKeys) (Checkpoint, error) {
	if len(b) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%d bytes are more than the %d allowed", len(b), maxCheckpoint)
	}
	byHash := map[uint32]keys.VerifyKey{}
	var list []note.Verifier
	for _, k := range trust {
		v, err := verifierOf(k.Public)
		if err != nil {
			return Checkpoint{}, err
		}
		if _, twice := byHash[v.KeyHash()]; !twice { // one key may have several ranges
			byHash[v.KeyHash()] = k.Public
			list = append(list, v)
		}
	}
	n, err := note.Open(b, note.VerifierList(list...))
	if err != nil {
		if errors.As(err, new(*note.UnverifiedNoteError)) {
			return Checkpoint{}, fmt.Errorf("%w: %w", keys.ErrUnknownBox, err)
		}
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		return Checkpoint{}, fmt.Errorf("%w: %d signatures, want the box's alone", ErrTampered, len(n.Sigs)+len(n.UnverifiedSigs))
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: signature is not in its one encoding", ErrTampered)
	}
	c.Box, c.Note = byHash[n.Sigs[0].Hash], string(b)
	for _, k := range trust {
		if k.Public == c.Box && c.Incarnation >= k.First && (k.Last == 0 || c.Incarnation <= k.Last) {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("%w: key %s, incarnation %d", keys.ErrUnknownBox, c.Box, c.Incarnation)
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	bad := func(what string) (Checkpoint, error) {
		return Checkpoint{}, fmt.Errorf("%w: checkpoint: %s", ErrTampered, what)
	}
	lines := strings.Split(text, "\n")
	if len(lines) != 5 {
		return bad("want four lines")
	}
	origin, ok := strings.CutPrefix(lines[0], originPrefix)
	id, log, cut := strings.Cut(origin, "/")
	if !ok || !cut {
		return bad("origin")
	}
	if err := c.Ledger.UnmarshalText([]byte(id)); err != nil {
		return bad("origin")
	}
	if c.Tenant, err = parseLogName(log); err != nil {
		return bad("origin")
	}
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 1 || c.Size > maxSize {
		return bad("size")
	}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil {
		return bad("root")
	}
	number, ok := strings.CutPrefix(lines[3], "incarnation ")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || !ok || n == 0 {
		return bad("incarnation")
	}
	c.Incarnation = uint32(n)
	if c.text() != text { // leading zeros, plus signs, base64 with other bits
		return bad("it is not in its one encoding")
	}
	return c, nil
}

// ParseKeys reads the public keys of boxes, one a line: 64 hex digits, and
// where wanted the first and the last incarnation it signs for, of which the
// last may be missing for one in use. Empty lines and those from # on are
// passed over.
func ParseKeys(text string) (keys.BoxKeys, error) {
	var list keys.BoxKeys
	in := bufio.NewScanner(strings.NewReader(text))
	for line := 1; in.Scan(); line++ {
		f := strings.Fields(in.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		k := keys.BoxKey{First: 1}
		err := k.Public.UnmarshalText([]byte(f[0]))
		for i, to := range []*uint32{&k.First, &k.Last} {
			if len(f) > i+1 && err == nil {
				var n uint64
				n, err = strconv.ParseUint(f[i+1], 10, 32)
				*to = uint32(n)
			}
		}
		if err != nil || len(f) > 3 {
			return nil, fmt.Errorf("box key in line %d: want 64 hex digits, first and last incarnation", line)
		}
		list = append(list, k)
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("box keys: %w", err)
	}
	if err := list.Check(); err != nil {
		return nil, fmt.Errorf("box keys: %w", err)
	}
	return list, nil
}
