package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
	"strongroom/custody/ledger"
	"strongroom/custody/receipt"
)

func TestExitCodesAreThoseOfTheTable(t *testing.T) {
	for _, c := range []struct {
		here int
		want exit.Code
	}{
		{exitOK, exit.OK}, {exitFailed, exit.Failed}, {exitPartial, exit.Partial}, {exitNone, exit.NoRepository}, {exitLocked, exit.Locked}, {exitWrongKey, exit.WrongKey},
		{exitInconclusive, exit.Inconclusive}, {exitUsage, exit.Usage}, {exitIntegrity, exit.Integrity},
	} {
		if c.here != int(c.want) {
			t.Errorf("%d, want %d", c.here, c.want)
		}
	}
	for _, err := range []error{ledger.ErrTampered, ledger.ErrFork, ledger.ErrBehind, keys.ErrUnknownBox, ledger.ErrNoLedger, ledger.ErrLocked, ledger.ErrUnsettled} {
		if code(err) != int(exit.Of(err)) {
			t.Errorf("%v: %d, the table has %d", err, code(err), exit.Of(err))
		}
	}
}

func verify(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCommand(t *testing.T) {
	base := t.TempDir()
	signer := keys.NewSigner(secret.Random())
	dir, key := filepath.Join(base, "ledger"), signer.Public().String()
	c := ledger.Config{Path: dir, Signer: signer, Incarnation: 1, Trust: keys.BoxKeys{{Public: signer.Public(), First: 1}}, Reserve: 1, Now: time.Now}
	a := ledger.Act{Kind: "user-add", Actor: "nora", Role: "officer", Source: "192.0.2.7", Fields: map[string]string{"user": "otto"}}
	if _, err := ledger.Create(c, a); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	l, _, err := ledger.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	i, err := l.Intend(ctx, a)
	if err == nil {
		err = i.Outcome(ctx, ledger.Done, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	proof, err := l.Prove(ctx, keys.TenantID{}, 1)
	head, err2 := l.Head(ctx, keys.TenantID{})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	older := filepath.Join(base, "older")
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Record(ctx, a); err != nil {
		t.Fatal(err)
	}
	newest, err := l.Head(ctx, keys.TenantID{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(base, "a.tlog-proof"), proof)
	known := write(t, filepath.Join(base, "checkpoint"), []byte(head.Note))
	newer := write(t, filepath.Join(base, "newer"), []byte(newest.Note))
	keyFile := write(t, filepath.Join(base, "keys"), []byte("# of the box\n"+key+" 1\n"))
	changed := write(t, filepath.Join(base, "changed"), bytes.Replace(proof, []byte("index 1"), []byte("index 2"), 1))
	other := strings.Repeat("ab", 32)
	for _, c := range []struct {
		want int
		says string
		args []string
	}{
		{0, "4 entries, 0 acts open", []string{"ledger", dir, "--key", key}},
		{0, "4 entries", []string{"--key", keyFile, "ledger", "--checkpoint", known, dir, "--checkpoint", newer}},
		{0, `"Size":4`, []string{"ledger", dir, "--json", "--key", key}},
		{65, "ahead of the ledger", []string{"ledger", older, "--key", key, "--checkpoint", newer}},
		{12, "not listed", []string{"ledger", dir, "--key", other}},
		{10, "no ledger", []string{"ledger", base, "--key", key}},
		{0, "user-add intent  by nora (officer) from 192.0.2.7", []string{"proof", file, "--key", key}},
		{0, "user: otto", []string{"proof", file, "--key", keyFile}},
		{65, "not what was signed", []string{"proof", changed, "--key", key}},
		{65, "changed", []string{"proof", file, changed, "--key", key}},
		{64, "--key", []string{"ledger", dir}},
		{64, "receipts", []string{"receipts", dir, "--key", key}},
		{64, "64 hex", []string{"ledger", dir, "--key", changed}},
		{64, "no such file", []string{"ledger", dir, "--key", "abc"}},
		{1, "no such file", []string{"proof", dir + "x", "--key", key}},
		{0, "Exit codes", []string{"--help"}},
		{0, "strongroom-verify dev", []string{"--version"}},
	} {
		got, out, errs := verify(t, c.args...)
		if got != c.want || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: exit %d, want %d and %q:\n%s%s", c.args, got, c.want, c.says, out, errs)
		}
	}
}

// A receipt is checked with the key alone: what it says, who signed it, and that
// nobody changed it since.
func TestReceipts(t *testing.T) {
	signer := keys.NewSigner(secret.Random())
	key := signer.Public().String()
	r := &receipt.Receipt{Format: receipt.Format, ID: "20261127t080000z-abcdefgh", Tenant: "acme", Dataset: "crm", Level: "secret", Started: time.Unix(1795766400, 0), Finished: time.Unix(1795766460, 0)}
	for _, n := range receipt.Names() {
		r.Steps = append(r.Steps, receipt.Step{Name: n, Status: receipt.Passed, Checks: []receipt.Check{{Name: "x", Expected: "1", Actual: "1", OK: true}}})
	}
	signed, err := receipt.Sign(r, boxSigner{signer})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "a.json"), signed)
	changed := write(t, filepath.Join(dir, "changed.json"), bytes.Replace(signed, []byte(`"actual":"1"`), []byte(`"actual":"2"`), 1))
	forged := write(t, filepath.Join(dir, "forged.json"), bytes.Replace(signed, []byte(`"tenant":"acme"`), []byte(`"tenant":"acmf"`), 1))
	other := strings.Repeat("ab", 32)
	for _, c := range []struct {
		want int
		says string
		args []string
	}{
		{0, "[SECRET] PASS: drill of acme/crm", []string{"receipt", file, "--key", key}},
		{0, `"verdict":"PASS"`, []string{"receipt", file, "--key", key, "--json"}},
		{0, "signed by " + key, []string{"--key", write(t, filepath.Join(dir, "keys"), []byte(other+" 1\n"+key+" 2\n")), "receipt", file}},
		{65, "not what was signed", []string{"receipt", changed, "--key", key}},
		{65, "signature is wrong", []string{"receipt", forged, "--key", key}},
		{65, "forged.json", []string{"receipt", file, forged, "--key", key}},
		{12, "not listed", []string{"receipt", file, "--key", other}},
		{65, "not what was signed", []string{"receipt", write(t, filepath.Join(dir, "none"), []byte("{}")), "--key", key}},
		{1, "no such file", []string{"receipt", file + "x", "--key", key}},
		{64, "--key", []string{"receipt", file}},
	} {
		got, out, errs := verify(t, c.args...)
		if got != c.want || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: exit %d, want %d and %q:\n%s%s", c.args, got, c.want, c.says, out, errs)
		}
	}
}

// boxSigner signs receipts as a box does.
type boxSigner struct{ *keys.Signer }

func (s boxSigner) Public() [32]byte { return [32]byte(s.Signer.Public()) }
