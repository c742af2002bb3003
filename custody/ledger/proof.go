package ledger

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// A Proof shows that an entry stands in a log. As text it is one of
// c2sp.org/tlog-proof@v1, with the entry as its extra data:
//
//	c2sp.org/tlog-proof@v1
//	extra <entry in base64>
//	index <number>
//	<hash in base64>           as many as the tree is deep
//
//	<checkpoint, as signed>
//
// It needs nothing but the box's public key to verify, and shows nothing of
// other entries.
type Proof struct {
	Entry      Entry
	Checkpoint Checkpoint
	Path       tlog.RecordProof
}

const (
	proofMagic = "c2sp.org/tlog-proof@v1"
	maxPath    = 64
	maxProof   = maxEntry*2 + maxPath*64 + maxCheckpoint
)

// Prove makes the proof of entry n of a log, under its last checkpoint.
func (l *Ledger) Prove(ctx context.Context, t keys.TenantID, n int64) (_ []byte, err error) {
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock(&err)
	g, err := l.fresh(t)
	if err != nil {
		return nil, err
	}
	e, err := g.entry(n)
	if err != nil {
		return nil, err
	}
	p, err := tlog.ProveRecord(g.head.Size, n, g.hashes())
	if err != nil {
		return nil, fmt.Errorf("log %s: prove entry %d: %w", g.dir, n, err)
	}
	return Proof{e, g.head, p}.encode()
}

func (p Proof) encode() ([]byte, error) {
	raw, err := p.Entry.bytes()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofMagic, base64.StdEncoding.EncodeToString(raw), p.Entry.Number)
	for _, h := range p.Path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n" + p.Checkpoint.Note)
	return []byte(b.String()), nil
}

// VerifyProof reads a proof and verifies it with the box's public keys.
func VerifyProof(b []byte, trust keys.BoxKeys) (Proof, error) {
	p, err := verifyProof(b, trust)
	if err != nil {
		return Proof{}, fmt.Errorf("proof: %w", err)
	}
	return p, nil
}

func verifyProof(b []byte, trust keys.BoxKeys) (p Proof, err error) {
	bad := func(what string) (Proof, error) { return Proof{}, fmt.Errorf("%w: %s", ErrTampered, what) }
	if len(b) > maxProof {
		return bad(fmt.Sprintf("%d bytes are more than the %d allowed", len(b), maxProof))
	}
	body, signed, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return bad("no checkpoint")
	}
	lines := strings.Split(body, "\n")
	if len(lines) < 3 || lines[0] != proofMagic || len(lines) > 3+maxPath {
		return bad("it does not begin as one")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return bad("entry is no base64")
	}
	if p.Entry, err = ParseEntry(raw); err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	if lines[2] != "index "+strconv.FormatInt(p.Entry.Number, 10) {
		return bad("index is not that of the entry")
	}
	for _, line := range lines[3:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return bad("hash")
		}
		p.Path = append(p.Path, h)
	}
	if p.Checkpoint, err = OpenCheckpoint([]byte(signed), trust); err != nil {
		return Proof{}, err
	}
	if again, err := p.encode(); err != nil || string(again) != string(b) {
		return bad("it is not in its one encoding")
	}
	if p.Entry.Tenant != p.Checkpoint.Tenant {
		return bad("entry and checkpoint are of two logs")
	}
	if p.Entry.Number >= p.Checkpoint.Size {
		return bad("entry is beyond the checkpoint")
	}
	if err := tlog.CheckRecord(p.Path, p.Checkpoint.Size, p.Checkpoint.Root, p.Entry.Number, tlog.RecordHash(raw)); err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	return p, nil
}
