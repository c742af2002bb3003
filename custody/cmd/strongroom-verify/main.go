// Command strongroom-verify is the auditor's and the client's tool: it checks
// ledgers, proofs and receipts of drills offline, with nothing but the public keys of the box.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"strongroom/custody/keys"
	"strongroom/custody/ledger"
	"strongroom/custody/receipt"
)

// version is set when a release is built.
var version = "dev"

const usage = `strongroom-verify checks what a Strongroom box signed, without the box.

  strongroom-verify ledger DIR... --key KEY [--checkpoint FILE]...
  strongroom-verify proof FILE... --key KEY [--checkpoint FILE]...
  strongroom-verify receipt FILE... --key KEY

KEY is the public key of the box, 64 hex digits as they stand on a kit, or a
file of such lines: KEY [FIRST [LAST]], for which incarnations of the box it
signs. A checkpoint is one that was kept elsewhere: a directory of another
history, or from before it, is then found out, and a proof under another
checkpoint of the same size.

  --json   print one JSON object for each argument
  --version

Exit codes: 0 all is as it was signed · 3 the same, but an entry admits that
others are lost · 10 no ledger there · 11 a process holds it · 12 signed by a key that is not listed ·
22 the end is not settled · 64 usage · 65 not what was signed · 1 anything else
`

// Of the one table, custody/exit, which is not linked: it knows databases and
// stores. A test holds these against it.
const (
	exitOK, exitFailed, exitPartial    = 0, 1, 3
	exitNone, exitLocked, exitWrongKey = 10, 11, 12
	exitInconclusive                   = 22
	exitUsage, exitIntegrity           = 64, 65
)

// errUsage: the command line is wrong.
var errUsage = errors.New("see strongroom-verify --help")

// errGap: what is there is sound, and says that something is lost.
var errGap = errors.New("entries are lost, as the ledger itself says")

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stdout)
	if err == nil && c != nil {
		err = c.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(stderr, "strongroom-verify:", err)
	}
	return code(err)
}

// code says the worst of what err joins.
func code(err error) int {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return exitOK
	case is(errUsage):
		return exitUsage
	case is(ledger.ErrTampered, ledger.ErrFork, ledger.ErrBehind, errReceipt):
		return exitIntegrity
	case is(keys.ErrUnknownBox):
		return exitWrongKey
	case is(ledger.ErrNoLedger):
		return exitNone
	case is(ledger.ErrLocked):
		return exitLocked
	case is(ledger.ErrUnsettled):
		return exitInconclusive
	case is(errGap):
		return exitPartial
	}
	return exitFailed
}

type command struct {
	name  string
	paths []string
	trust keys.BoxKeys
	known []ledger.Checkpoint
	json  bool
	out   io.Writer
}

// parse takes flags before, between and after the paths. Without an error, a
// nil command has nothing left to do.
func parse(args []string, stdout io.Writer) (*command, error) {
	c := &command{out: stdout}
	var keyArg string
	var files []string
	var showVersion bool
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&keyArg, "key", "", "")
	f.BoolVar(&c.json, "json", false, "")
	f.BoolVar(&showVersion, "version", false, "")
	f.Func("checkpoint", "", func(s string) error { files = append(files, s); return nil })
	for rest := args; ; {
		if err := f.Parse(rest); errors.Is(err, flag.ErrHelp) {
			_, err := io.WriteString(stdout, usage)
			return nil, err
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errUsage)
		}
		if rest = f.Args(); len(rest) == 0 {
			break
		}
		c.paths, rest = append(c.paths, rest[0]), rest[1:]
	}
	if showVersion {
		_, err := fmt.Fprintln(stdout, "strongroom-verify", version)
		return nil, err
	}
	if len(c.paths) < 2 || keyArg == "" {
		return nil, fmt.Errorf("want what to verify, a path and --key: %w", errUsage)
	}
	c.name, c.paths = c.paths[0], c.paths[1:]
	if c.name != "ledger" && c.name != "proof" && c.name != "receipt" {
		return nil, fmt.Errorf("cannot verify a %q: %w", c.name, errUsage)
	}
	return c, c.load(keyArg, files)
}

func (c *command) load(keyArg string, files []string) (err error) {
	if len(keyArg) != 2*len(keys.VerifyKey{}) {
		b, err := read(keyArg, 64<<10)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errUsage)
		}
		keyArg = string(b)
	}
	if c.trust, err = ledger.ParseKeys(keyArg); err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	for _, name := range files {
		b, err := read(name, 64<<10)
		if err != nil {
			return err
		}
		k, err := ledger.OpenCheckpoint(b, c.trust)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.known = append(c.known, k)
	}
	return nil
}

// read returns a file of at most limit bytes.
func read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return b, err
}

func (c *command) run(ctx context.Context) error {
	var all error
	for _, name := range c.paths {
		verify := c.ledger
		switch c.name {
		case "proof":
			verify = c.proof
		case "receipt":
			verify = c.receipt
		}
		if err := verify(ctx, name); err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", name, err))
		}
	}
	return all
}

func (c *command) ledger(ctx context.Context, dir string) error {
	r, err := ledger.Verify(ctx, dir, c.trust, c.known)
	if err == nil && r.Gaps() > 0 {
		err = errGap
	}
	return errors.Join(err, c.show(dir, err, r, func() {
		fmt.Fprintf(c.out, "%s: ledger %s\n", dir, r.Ledger)
		for _, l := range r.Logs {
			name := "system"
			if l.Tenant != (keys.TenantID{}) {
				name = l.Tenant.String()
			}
			fmt.Fprintf(c.out, "  %-32s %d entries, %d acts open, %d interrupted, %d gaps, incarnation %d\n",
				name, l.Head.Size, len(l.Open), l.Interrupted, len(l.Gaps), l.Head.Incarnation)
		}
	}))
}

func (c *command) proof(_ context.Context, name string) error {
	b, err := read(name, 64<<10)
	if err != nil {
		return err
	}
	p, err := ledger.VerifyProof(b, c.trust)
	if err != nil {
		return err
	}
	if err = c.against(p); err != nil {
		return err
	}
	return c.show(name, nil, p, func() {
		e := p.Entry
		fmt.Fprintf(c.out, "%s: entry %d of %d, signed by %s\n", name, e.Number, p.Checkpoint.Size, p.Checkpoint.Box)
		fmt.Fprintf(c.out, "  %s  %s %s %s by %s (%s) from %s\n", e.Time.Format("2006-01-02T15:04:05Z"), e.Act, e.Phase, e.Result, e.Actor, e.Role, e.Source)
		for _, k := range slices.Sorted(maps.Keys(e.Fields)) {
			fmt.Fprintf(c.out, "  %s: %s\n", k, e.Fields[k])
		}
	})
}

// errReceipt: a file is no receipt as a box signed it.
var errReceipt = errors.New("not what was signed")

// receipt verifies that a receipt was signed by a key of the box. What it says,
// and be it FAIL, is for whoever reads it: signed is signed.
func (c *command) receipt(_ context.Context, name string) error {
	b, err := read(name, receipt.MaxFile)
	if err != nil {
		return err
	}
	named, err := receipt.Named(b)
	if err != nil {
		return fmt.Errorf("%w: %w", errReceipt, err)
	}
	if !slices.ContainsFunc(c.trust, func(k keys.BoxKey) bool { return k.Public == keys.VerifyKey(named) }) {
		return fmt.Errorf("%w: %x", keys.ErrUnknownBox, named)
	}
	r, err := receipt.Verify(b, named)
	if err != nil {
		return fmt.Errorf("%w: %w", errReceipt, err)
	}
	return c.show(name, nil, r, func() {
		snapshot := "" // a cold drill has one of its own
		if r.Snapshot.ID != "" {
			snapshot = fmt.Sprintf(" snapshot %s of %s,", r.Snapshot.ID, r.Snapshot.Point.Format("2006-01-02T15:04:05Z"))
		}
		fmt.Fprintf(c.out, "%s: [%s] %s: drill of %s/%s,%s on %s\n", name, strings.ToUpper(r.Level), r.Verdict, r.Tenant, r.Dataset, snapshot, r.Started.Format("2006-01-02T15:04:05Z"))
		if r.MustFail != "" {
			fmt.Fprintf(c.out, "  with the fault %q put in on purpose: it says nothing about the snapshot\n", r.MustFail)
		}
		if r.Kind == receipt.Closed {
			fmt.Fprintln(c.out, "  of a closed generation, whose key was not on the box: the station released it")
		} else if r.Kind != "" {
			fmt.Fprintf(c.out, "  a %s drill: of the program, with a test recovery key\n", r.Kind)
		}
		for _, s := range r.Steps {
			fmt.Fprintf(c.out, "  %-11s %-8s %s\n", s.Name, s.Status, s.Why)
		}
		fmt.Fprintf(c.out, "  manifest %s, signed by %s\n", r.Snapshot.Manifest, r.Box)
	})
}

// against holds the checkpoint of a proof against those that are known, as far
// as that goes without the log: two of one size must be the same.
func (c *command) against(p ledger.Proof) error {
	for _, k := range c.known {
		same := k.Ledger == p.Checkpoint.Ledger && k.Tenant == p.Checkpoint.Tenant
		if same && k.Size == p.Checkpoint.Size && k.Root != p.Checkpoint.Root {
			return fmt.Errorf("%w: two checkpoints of %d entries differ", ledger.ErrFork, k.Size)
		}
	}
	return nil
}

// show prints what was found, as lines or as an object.
func (c *command) show(name string, found error, what any, lines func()) error {
	if !c.json {
		lines()
		return nil
	}
	v := struct {
		Path  string `json:"path"`
		Error string `json:"error,omitempty"`
		Found any    `json:"found"`
	}{Path: name, Found: what}
	if found != nil {
		v.Error = found.Error()
	}
	return json.NewEncoder(c.out).Encode(v)
}
