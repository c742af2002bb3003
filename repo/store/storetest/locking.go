package storetest

import (
	"context"
	"sync"
	"time"

	"strongroom/repo/store"
)

// A Locking is a store.Locker around a store that is none. What deletes from it
// must do so by its Delete.
type Locking struct {
	store.Store
	now func() time.Time

	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
	err   error                // guarded by mu
	calls int                  // of Lock; guarded by mu
}

// NewLocking returns one with a clock.
func NewLocking(inner store.Store, now func() time.Time) *Locking {
	return &Locking{Store: inner, now: now, until: map[string]time.Time{}}
}

// Refuse makes every Lock fail; nil lets it work.
func (l *Locking) Refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Calls is how often Lock was called.
func (l *Locking) Calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// Lock implements store.Locker.
func (l *Locking) Lock(ctx context.Context, key string, until time.Time) error {
	if _, err := l.Stat(ctx, key); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.err != nil {
		return l.err
	}
	if until.After(l.until[key]) {
		l.until[key] = until
	}
	return nil
}

// Retained implements store.Locker.
func (l *Locking) Retained(ctx context.Context, key string) (store.Retention, error) {
	if _, err := l.Stat(ctx, key); err != nil {
		return store.Retention{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until[key].IsZero() {
		return store.Retention{}, nil
	}
	return store.Retention{Until: l.until[key], Mode: store.Governance}, nil
}

// Unlock is what nobody but a test can do.
func (l *Locking) Unlock(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, key)
}

// Guard returns a deleter that refuses what is locked.
func (l *Locking) Guard(d interface {
	Delete(ctx context.Context, key string) error
}) Guarded {
	return Guarded{l, d.Delete}
}

// A Guarded deletes what is not locked.
type Guarded struct {
	l      *Locking
	delete func(ctx context.Context, key string) error
}

// Delete removes an object.
func (g Guarded) Delete(ctx context.Context, key string) error {
	g.l.mu.Lock()
	until := g.l.until[key]
	g.l.mu.Unlock()
	if until.After(g.l.now()) {
		return &store.LockedError{Until: until}
	}
	return g.delete(ctx, key)
}
