package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/repo/store"
)

// shelf is a store as the ledger needs it.
type shelf struct{ store.Store }

// Put says in fs's words that something else is there.
func (s shelf) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	err := s.Store.Put(ctx, key, body, sum)
	if errors.Is(err, store.ErrExists) {
		err = fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	return err
}

// Read returns a whole object.
func (s shelf) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	info, err := s.Stat(ctx, key)
	if errors.Is(err, store.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	} else if err != nil {
		return nil, err
	}
	if info.Size > limit {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are expected", store.ErrTampered, info.Size, limit)
	}
	rc, err := s.Get(ctx, key, 0, info.Size)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// List yields names.
func (s shelf) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range s.Store.List(ctx, prefix) {
			if !yield(info.Key, err) || err != nil {
				return
			}
		}
	}
}

// places are the stores that take copies of the ledger, whatever their windows
// say: the objects are small, and an anchor is worth most when it is new. The
// error is about those that do not answer.
func (s *Site) places(ctx context.Context) (out []ledger.Place, failed error) {
	want, err := s.marker()
	if err != nil {
		return nil, err
	}
	opened, errs := openStores(ctx, anytime(s.Config.Stores), want)
	for i, c := range s.Config.Stores {
		if errs[i] != nil {
			failed = errors.Join(failed, fmt.Errorf("store %q: %w", c.Name, errs[i]))
			continue
		}
		out = append(out, ledger.Place{Name: c.Name, Store: shelf{opened[i]}})
	}
	return out, failed
}

// sealedUnder finds the key that a log's copies are sealed under: C of its
// tenant, and for the system log C of the box's own.
func (s *Site) sealedUnder(t keys.TenantID) (ledger.Secret, error) {
	if t == (keys.TenantID{}) {
		self, err := s.Box.Tenant(SelfTenant)
		if errors.Is(err, box.ErrNoTenant) {
			return nil, fmt.Errorf("%w: the box has no key for it yet; run: strongroom init", ErrNotInitialised)
		} else if err != nil {
			return nil, err
		}
		t = self.ID
	}
	k, err := s.Box.Catalogue(t)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// copyWithin is how long one store may take: whoever waits for an act should not
// wait for a service that is down. What was left out is in the next copy.
const copyWithin = time.Minute

// Copied says which stores have a copy of all of the ledger.
type Copied struct {
	Stores []string
	// Ahead is of a store that knows more than the box, or another history.
	Ahead error
	// Failed is about stores that were not brought up to date for other reasons.
	Failed error
}

// CopyLedger brings the copies in all stores up to date. Without a ledger it
// does nothing.
func (s *Site) CopyLedger(ctx context.Context) (Copied, error) {
	l, err := s.Ledger(ctx)
	if err != nil || l == nil {
		return Copied{}, err
	}
	places, failed := s.places(ctx)
	out := Copied{Failed: failed}
	for _, p := range places {
		one, cancel := context.WithTimeout(ctx, copyWithin)
		err := l.Copy(one, p, s.sealedUnder)
		cancel()
		switch {
		case err == nil:
			out.Stores = append(out.Stores, p.Name)
		case ctx.Err() != nil:
			return out, ctx.Err()
		case ahead(err):
			out.Ahead = errors.Join(out.Ahead, err)
		default:
			out.Failed = errors.Join(out.Failed, err)
		}
	}
	return out, nil
}

// CheckAnchors holds the ledger against the copies in all stores that answer,
// and returns the anchors that are against it. Until there are none, acts that
// destroy or hand out are refused.
func (s *Site) CheckAnchors(ctx context.Context) (against []ledger.Anchor, failed, err error) {
	l, err := s.Ledger(ctx)
	if err != nil || l == nil {
		return nil, nil, err
	}
	places, failed := s.places(ctx)
	all, unread := l.CheckAnchors(ctx, places)
	s.record.mu.Lock()
	s.record.checked = true
	s.record.mu.Unlock()
	for _, a := range all {
		if a.Err != nil && !a.Conflicts() {
			failed = errors.Join(failed, fmt.Errorf("store %q: %w", a.Place, a.Err))
		}
	}
	all = slices.DeleteFunc(all, func(a ledger.Anchor) bool { return !a.Conflicts() })
	return all, errors.Join(failed, unread), nil
}

// anchorsOnce checks the anchors before the first act of a process that must not
// be done by a box that was put back. Stores that are away keep nobody from it:
// they would keep him from the act itself.
func (s *Site) anchorsOnce(ctx context.Context) {
	s.record.mu.Lock()
	checked := s.record.checked
	s.record.mu.Unlock()
	if checked {
		return
	}
	if _, failed, err := s.CheckAnchors(ctx); err != nil || failed != nil {
		s.Log("warning: the ledger was not held against every copy: %v", errors.Join(err, failed))
	}
}

// acted has the copies brought up to date after an act: here, or by whoever
// waits for it. That it fails makes nothing undone, and is told.
func (s *Site) acted(ctx context.Context) {
	if s.record.changed != nil {
		select {
		case s.record.changed <- struct{}{}:
		default: // it is known
		}
		return
	}
	done, err := s.CopyLedger(ctx)
	if err = errors.Join(err, done.Ahead, done.Failed); err != nil {
		s.Log("warning: the ledger was not copied to every store: %v", err)
	}
}

// LedgerChanged makes the process copy the ledger by somebody else than who
// acts, and returns what that one waits for.
func (s *Site) LedgerChanged() <-chan struct{} {
	if s.record.changed == nil {
		s.record.changed = make(chan struct{}, 1)
	}
	return s.record.changed
}

// ContinueLedger admits what the stores know and the box lost, so that acts that
// destroy or hand out are possible again. If the histories parted under one
// incarnation of the box, it gets the next, so that what is signed from now on
// is never taken for the other one.
//
// Crash story. The incarnation rises first; a crash behind it costs a number.
// Each gap is an entry of its own, and those that are missing are found again.
func (s *Site) ContinueLedger(ctx context.Context, reason string) ([]ledger.Entry, error) {
	against, failed, err := s.CheckAnchors(ctx)
	if err != nil {
		return nil, err
	}
	if l, err := s.Ledger(ctx); err == nil && l == nil {
		return nil, ledger.ErrNoLedger
	}
	if len(against) == 0 {
		if failed != nil {
			return nil, exit.With(exit.TryLater, fmt.Errorf("no copy that could be read is ahead of the ledger: %w", failed))
		}
		return nil, fmt.Errorf("%w: no copy is ahead of the ledger", ErrRefused)
	}
	if failed != nil {
		s.Log("warning: stores that were not read may be ahead as well; then this is to be done again: %v", failed)
	}
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, err
	}
	most := slices.MaxFunc(against, func(a, b ledger.Anchor) int { return cmp.Compare(a.Checkpoint.Incarnation, b.Checkpoint.Incarnation) })
	if most := most.Checkpoint.Incarnation; most >= o.Incarnation {
		for n := o.Incarnation; n <= most; {
			if n, err = s.Box.NextIncarnation(); err != nil {
				return nil, err
			}
		}
		s.Log("this box is incarnation %d from now on: each dataset begins a new generation", most+1)
		if err := s.closeLedger(); err != nil {
			return nil, err
		}
		if _, _, err := s.CheckAnchors(ctx); err != nil {
			return nil, err
		}
	}
	l, err := s.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	// Two approvals and the auditor's come here once there are people to give them.
	by := s.act(ledger.Gap, keys.TenantID{}, map[string]string{"reason": ledger.Text(reason), "approval": "ungoverned"})
	made, err := l.Continue(ctx, by)
	if err == nil {
		s.acted(ctx)
	}
	return made, err
}

// VerifyAnchors reads the ledger whole against the checkpoints in each store that
// answers, writing nothing, and returns how many each has. The first error is
// about stores that could not be read; a store that knows more, or another
// history, is the second.
func (s *Site) VerifyAnchors(ctx context.Context) (held map[string]int, failed, err error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, nil, err
	}
	places, failed := s.places(ctx)
	held = map[string]int{}
	for _, p := range places {
		anchors, err := ledger.ReadAnchors(ctx, p, o.Boxes)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		var known []ledger.Checkpoint
		for _, a := range anchors {
			if a.Err != nil {
				failed = errors.Join(failed, fmt.Errorf("store %q: %w", p.Name, a.Err))
			} else {
				known = append(known, a.Checkpoint)
			}
		}
		held[p.Name] = len(known)
		if _, err := ledger.Verify(ctx, s.LedgerPath(), o.Boxes, known); err != nil {
			return held, failed, fmt.Errorf("against store %q: %w", p.Name, err)
		}
	}
	return held, failed, nil
}
