package store

import (
	"context"
	"sync"
	"time"
)

// MinPace is the least that a Pace may be set to, in bytes a second: a shard of
// 16 MiB takes four minutes then.
const MinPace = 64 << 10

// A Pace bounds how many bytes a second are written to a store, over all that
// is written to it at once. It is safe for concurrent use; nil is no bound.
type Pace struct {
	perSecond int64

	mu   sync.Mutex
	free time.Time // when all that was admitted will have gone out; guarded by mu
}

// NewPace returns a Pace of so many bytes a second.
func NewPace(perSecond int64) *Pace { return &Pace{perSecond: max(perSecond, MinPace)} }

// Step is how many bytes to write at a time, so that they go out evenly.
const Step = 64 << 10

// Wait returns when n bytes more may go out, or when ctx ends.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p == nil {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(int64(n) * int64(time.Second) / p.perSecond))
	wait := p.free.Sub(now)
	p.mu.Unlock()
	return Sleep(ctx, wait)
}

// Sleep returns after d, or with the error of ctx when that ends.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
