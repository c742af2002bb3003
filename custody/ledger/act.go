package ledger

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// An Intent is an act that was announced and has no outcome yet.
type Intent struct {
	l     *Ledger
	entry Entry
}

// Entry is what stands in the log.
func (i *Intent) Entry() Entry { return i.entry }

// Intend announces an act. When it returns without an error the intent is
// durable, and the act may begin; else the act must not be done:
//
//   - ErrBehind or ErrFork: see CheckAnchors; only kinds that GoesOn names do;
//   - ENOSPC: no room; Expire, Abort and Veto take it from the reserve;
//   - ErrBroken, ErrLocked, ErrTampered, or any other.
//
// The caller ends each intent by Outcome, also of an act that failed or was
// refused later on.
func (l *Ledger) Intend(ctx context.Context, a Act) (_ *Intent, err error) {
	e, err := l.admit(a)
	if err != nil {
		return nil, fmt.Errorf("intend %s: %w", a.Kind, err)
	}
	e.Phase, e.Session = Intended, l.session
	if e, err = l.add(ctx, e, a.Kind.reserved()); err != nil {
		return nil, fmt.Errorf("intend %s: %w", a.Kind, err)
	}
	return &Intent{l, e}, nil
}

// Record writes what has happened with nothing waiting for it, as a login or an
// alarm.
func (l *Ledger) Record(ctx context.Context, a Act) (_ Entry, err error) {
	e, err := l.admit(a)
	if err != nil {
		return Entry{}, fmt.Errorf("record %s: %w", a.Kind, err)
	}
	e.Phase = Recorded
	if e, err = l.add(ctx, e, a.Kind.reserved()); err != nil {
		return Entry{}, fmt.Errorf("record %s: %w", a.Kind, err)
	}
	return e, nil
}

func (l *Ledger) admit(a Act) (Entry, error) {
	if err := a.Kind.Check(); err != nil {
		return Entry{}, err
	}
	if strings.HasPrefix(string(a.Kind), ownPrefix) {
		return Entry{}, fmt.Errorf("kind %s is the ledger's own", a.Kind)
	}
	return newEntry(a, l.c.Now()), nil
}

// Outcome ends an act. If it returns an error, it may be called again with the
// same; an act without one is found open at the next start and marked
// interrupted. Fields say what came of it, under the rules of Act.Fields.
func (i *Intent) Outcome(ctx context.Context, r Result, fields map[string]string) (err error) {
	if r == Interrupted || !r.ok() {
		return fmt.Errorf("outcome of %s: result %q", i.entry.Act, r)
	}
	l := i.l
	if err := l.lock(ctx); err != nil {
		return fmt.Errorf("outcome of %s: %w", i.entry.Act, err)
	}
	defer l.unlock(&err)
	if err := l.end(i.entry, r, Act{Actor: i.entry.Actor, Role: i.entry.Role, Source: i.entry.Source, Fields: fields}); err != nil {
		return fmt.Errorf("outcome of %s: %w", i.entry.Act, err)
	}
	return nil
}

// end writes an outcome, under the lock.
func (l *Ledger) end(intent Entry, r Result, by Act) error {
	g, err := l.fresh(intent.Tenant)
	if err != nil {
		return err
	}
	if _, open := g.pending[intent.Number]; !open {
		return l.ended(g, intent, r)
	}
	by.Kind, by.Tenant = intent.Act, intent.Tenant
	e := newEntry(by, l.c.Now())
	e.Phase, e.Intent, e.Result = Ended, intent.Number, r
	_, err = l.write(g, e, intent.Act.reserved())
	return err
}

// ended makes a repeated outcome succeed where only the link of the first was
// missing.
func (l *Ledger) ended(g *log, intent Entry, r Result) error {
	for n := g.tree.size() - 1; n > intent.Number; n-- {
		e, err := g.entry(n)
		if err != nil {
			return err
		}
		if e.Phase == Ended && e.Intent == intent.Number {
			if e.Result != r {
				return fmt.Errorf("entry %d: %w: it is %s", intent.Number, ErrOpen, e.Result)
			}
			return l.link(g, intent.Act.reserved())
		}
	}
	return fmt.Errorf("entry %d: %w", intent.Number, ErrOpen)
}

// add writes an entry of an act that may be refused.
func (l *Ledger) add(ctx context.Context, e Entry, reserved bool) (_ Entry, err error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	if err := l.lock(ctx); err != nil {
		return Entry{}, err
	}
	defer l.unlock(&err)
	if l.gate != nil && !e.Act.GoesOn() {
		return Entry{}, l.gate
	}
	g, err := l.fresh(e.Tenant)
	if err != nil {
		return Entry{}, err
	}
	if e.Phase == Intended && len(g.pending) >= maxPending {
		return Entry{}, fmt.Errorf("log %s: %d acts are open", g.dir, len(g.pending))
	}
	return l.write(g, e, reserved)
}

// fresh returns a log as it is on disk, after what others wrote.
func (l *Ledger) fresh(t keys.TenantID) (*log, error) {
	if err := l.system.refresh(); err != nil {
		return nil, err
	}
	if t == (keys.TenantID{}) {
		return l.system, nil
	}
	g := l.logs[t]
	if g == nil { // another process may have begun it
		g = newLog(l.files, t, l.c.Trust)
		if _, err := l.files.root.Lstat(g.dir); err != nil {
			if _, linked := l.system.links[t]; linked && !l.lost[t] {
				return nil, fmt.Errorf("log %s: %w: it is gone", g.dir, ErrTampered)
			}
			return nil, fmt.Errorf("log %s: %w", g.dir, ErrNoTenant)
		}
	}
	if err := g.refresh(); err != nil {
		return nil, err
	}
	l.logs[t] = g
	return g, nil
}

// write appends an entry and then its link. A crash in between leaves a log
// that is one entry ahead of its link; nobody heard of that entry, and the
// next append or start links it.
func (l *Ledger) write(g *log, e Entry, reserved bool) (Entry, error) {
	if err := l.link(g, reserved); err != nil {
		return Entry{}, err
	}
	e, err := l.append(g, e, reserved)
	if err != nil {
		return Entry{}, err
	}
	return e, l.link(g, reserved)
}

func (l *Ledger) append(g *log, e Entry, reserved bool) (out Entry, err error) {
	err = l.reserve.with(reserved, func() error {
		out, err = g.append(e, l.c.Signer, l.c.Incarnation)
		return err
	})
	return out, err
}

// link brings the system log up to a tenant's head.
func (l *Ledger) link(g *log, reserved bool) error {
	if g == l.system {
		return nil
	}
	have, known := l.system.links[g.tenant]
	if err := g.follows(have, known); err != nil {
		return err
	}
	if known && have.Size == g.head.Size {
		return nil
	}
	return l.addLink(g, reserved)
}

func (l *Ledger) addLink(g *log, reserved bool) error {
	e := newEntry(Act{Kind: Link, Actor: self, Role: selfRole, Source: selfRole, Fields: map[string]string{
		"log": logName(g.tenant), "size": strconv.FormatInt(g.head.Size, 10), "root": hex.EncodeToString(g.head.Root[:]),
	}}, l.c.Now())
	e.Phase = Recorded
	_, err := l.append(l.system, e, reserved)
	return err
}

const (
	self     = "strongroom"
	selfRole = "daemon"
)

// follows reports whether the log continues what the system log knows of it.
func (g *log) follows(have link, known bool) error {
	if !known && g.head.Size == 1 {
		return nil
	}
	if have.Size > g.head.Size {
		return fmt.Errorf("log %s: %w: the system log knows %d entries of it, it has %d", g.dir, ErrTampered, have.Size, g.head.Size)
	}
	if have.Size+1 < g.head.Size {
		return fmt.Errorf("log %s: %w: the system log knows %d entries of it, it has %d: the system log was cut off", g.dir, ErrTampered, have.Size, g.head.Size)
	}
	root, err := tlog.TreeHash(have.Size, g.hashes())
	if err != nil {
		return fmt.Errorf("log %s: %w: %w", g.dir, ErrTampered, err)
	}
	if root != tlog.Hash(have.Root) {
		return fmt.Errorf("log %s: %w: the system log knows another history of it", g.dir, ErrTampered)
	}
	return nil
}

// parseLink reads a Link.
func parseLink(e Entry) (l link, err error) {
	bad := func() (link, error) {
		return link{}, fmt.Errorf("%w: entry %d is no link", ErrTampered, e.Number)
	}
	if len(e.Fields) != 3 || e.Tenant != (keys.TenantID{}) {
		return bad()
	}
	if l.Tenant, err = parseLogName(e.Fields["log"]); err != nil || l.Tenant == (keys.TenantID{}) {
		return bad()
	}
	if l.Size, err = strconv.ParseInt(e.Fields["size"], 10, 64); err != nil || l.Size < 1 || l.Size > maxSize ||
		strconv.FormatInt(l.Size, 10) != e.Fields["size"] {
		return bad()
	}
	if err := l.Root.UnmarshalText([]byte(e.Fields["root"])); err != nil {
		return bad()
	}
	return l, nil
}

// Head returns the last checkpoint of a log; the zero id is the system's.
func (l *Ledger) Head(ctx context.Context, t keys.TenantID) (_ Checkpoint, err error) {
	if err := l.lock(ctx); err != nil {
		return Checkpoint{}, err
	}
	defer l.unlock(&err)
	g, err := l.fresh(t)
	if err != nil {
		return Checkpoint{}, err
	}
	return g.head, nil
}

// Entries returns the entries of a log from one number up to, not with,
// another, each held against the log's head; fewer where the log ends.
func (l *Ledger) Entries(ctx context.Context, t keys.TenantID, from, to int64) (_ []Entry, err error) {
	if from < 0 || to < from {
		return nil, fmt.Errorf("entries %d to %d: %w", from, to, fs.ErrInvalid)
	}
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock(&err)
	g, err := l.fresh(t)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for n := from; n < min(to, g.tree.size()); n++ {
		e, err := g.entry(n)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
