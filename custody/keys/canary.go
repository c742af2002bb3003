package keys

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

// A canary proves that a tenant is recoverable. The box seals a random value
// to T, keeps only a hash from which nobody can make the answer, and forgets
// the value. Who has k shares and a kit opens it and carries one short line,
// the proof, back to the box.

const (
	proofSize      = 12 // 96 bits: cannot be guessed, fills one line
	proofTag       = "proof"
	rehearsalStamp = "REHEARSAL "
)

// Errors of CheckProof.
var (
	// ErrProof: the proof is well typed but not the one for this tenant's key.
	ErrProof = errors.New("proof does not fit this tenant's key")
	// ErrRehearsal: the thing was made in a rehearsal and proves nothing.
	ErrRehearsal = errors.New("made in a rehearsal")
)

// SealCanary returns a new canary for T and the hash of its proof.
func SealCanary(t PublicKey, tenant TenantID) (capsule []byte, answer Hash, err error) {
	canary := secret.Random()
	defer canary.Wipe()
	capsule, err = seal(t, PurposeCanary, scope{tenant: tenant}, canary.Reveal())
	if err != nil {
		return nil, Hash{}, err
	}
	return capsule, proofHash(proofOf(canary, tenant, t.Fingerprint(), false)), nil
}

func proofOf(canary secret.Key, tenant TenantID, t Fingerprint, rehearsal bool) []byte {
	tag := "strongroom canary proof v1"
	if rehearsal {
		tag = "strongroom canary rehearsal v1"
	}
	h := domainHash(tag, tenant[:], t[:], canary.Reveal())
	return h[:proofSize]
}

func proofHash(proof []byte) Hash { return domainHash("strongroom canary answer v1", proof) }

// ProveCanary opens the kit's canary and returns the line to type at the box.
// A rehearsal's line says so, and no box takes it.
func (t *TenantKey) ProveCanary(kit Kit, rehearsal bool) (string, error) {
	if kit.ID != t.tenant || kit.Key.Public != t.public {
		return "", fmt.Errorf("prove canary: %w: kit is of %s, key of tenant %s", ErrOtherKey, kit.Tenant, t.tenant)
	}
	canary, err := openKey(t.seed, PurposeCanary, scope{tenant: t.tenant}, kit.Key.Canary)
	if err != nil {
		return "", fmt.Errorf("prove canary of %s: %w", kit.Tenant, err)
	}
	defer canary.Wipe()
	line := oneLine(proofTag, proofOf(canary, t.tenant, t.public.Fingerprint(), rehearsal))
	if rehearsal {
		return rehearsalStamp + line, nil
	}
	return line, nil
}

// CheckProof compares a typed proof with the hash that the box kept. A typing
// error gives a *paper.LineError.
func CheckProof(answer Hash, text string) error {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(strings.ToUpper(text), rehearsalStamp) {
		return fmt.Errorf("check proof: %w", ErrRehearsal)
	}
	proof, err := paper.ParseLines(proofTag, []string{text}, proofSize)
	if err != nil {
		return fmt.Errorf("check proof: %w", err)
	}
	got := proofHash(proof)
	if subtle.ConstantTimeCompare(got[:], answer[:]) != 1 {
		return fmt.Errorf("check proof: %w", ErrProof)
	}
	return nil
}

// oneLine writes b, at most 12 bytes, as one checked line without a number.
func oneLine(tag string, b []byte) string {
	_, line, _ := strings.Cut(paper.Lines(tag, b)[0], "  ")
	return line
}
