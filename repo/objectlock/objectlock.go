// Package objectlock keeps what live snapshots need from being deleted, for a
// rolling window, on the stores that lock objects.
package objectlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// Alarm is the share of the window, in hundredths, below which nobody has
// extended locks for weeks.
const Alarm = 40

const (
	// enough is the share of the window, in hundredths, that is left to an object
	// which is not locked anew: a snapshot a day would otherwise lock every object
	// of its generation every day. A run a week finds all of a window of 35 days
	// below it, and of one of 90 days every other week.
	enough = 90
	// parallel is how many requests are on their way to one store: they are
	// small, and each waits for its answer.
	parallel = 16
	// batch is how many objects are done between two records of what was done.
	batch = 1024
)

// An Object is one that is needed, on a store by its place among the members.
type Object struct {
	Member int
	Key    string
}

// Config is what a Keeper works with.
type Config struct {
	Members []spread.Member
	// Window is how long objects are locked from now.
	Window time.Duration
	// Book has what is known of locks. Save, if not nil, is told when there is
	// more to keep; what it cannot keep is asked again.
	Book *Book
	Save func(*Book)
	Now  func() time.Time
}

// A Keeper locks objects of one tenant. nil locks nothing. It never locks what
// it was not told: an object that nobody needs must stay deletable.
type Keeper struct{ c Config }

// New returns a Keeper.
func New(c Config) *Keeper {
	if c.Book == nil {
		c.Book = NewBook()
	}
	return &Keeper{c}
}

// Locks reports whether a member locks objects.
func (k *Keeper) Locks(member int) bool { return k.locker(member) != nil }

func (k *Keeper) locker(member int) store.Locker {
	if k == nil || member >= len(k.c.Members) { // behind them is the spool
		return nil
	}
	l, _ := k.c.Members[member].Store.(store.Locker)
	return l
}

// Name is a member's.
func (k *Keeper) Name(member int) string { return k.c.Members[member].Name }

// on returns the objects that lie on stores that lock.
func (k *Keeper) on(objects []Object) []Object {
	var out []Object
	for _, o := range objects {
		if k.Locks(o.Member) {
			out = append(out, o)
		}
	}
	return out
}

// Due returns those objects on stores that lock whose lock, as far as is known,
// does not last nearly as long as the window.
func (k *Keeper) Due(objects []Object) []Object {
	var out []Object
	if k == nil {
		return nil
	}
	limit := k.c.Now().Add(k.c.Window / 100 * enough)
	for _, o := range k.on(objects) {
		if until, known := k.c.Book.until(k.Name(o.Member), o.Key); !known || until.Before(limit) {
			out = append(out, o)
		}
	}
	return out
}

// Unknown returns those objects on stores that lock of which nothing is known.
func (k *Keeper) Unknown(objects []Object) []Object {
	var out []Object
	for _, o := range k.on(objects) {
		if _, known := k.c.Book.until(k.Name(o.Member), o.Key); !known {
			out = append(out, o)
		}
	}
	return out
}

// Forget makes an object one of which nothing is known.
func (k *Keeper) Forget(store, key string) { k.c.Book.forget(store, key) }

// A Result is how a run over objects ended.
type Result struct {
	Done int
	// Missing are the objects that the store does not have.
	Missing []Object
	// Failed says why a store was given up, by member.
	Failed map[int]error
}

// Lock locks objects for the window from now, whatever is known of them. A
// store that refuses, or is away, is given up at its first failure: the next
// object would fail alike. An error is ctx's alone.
//
// Crash story. A lock that was set and not recorded is asked for again, and
// found. What was locked for a snapshot that then did not commit stays locked
// for the window, and goes when it is over.
func (k *Keeper) Lock(ctx context.Context, objects []Object, progress func(done, total int64)) (Result, error) {
	if k == nil {
		return Result{}, nil
	}
	until := k.c.Now().Add(k.c.Window).UTC().Truncate(time.Second)
	return k.each(ctx, k.on(objects), progress, func(l store.Locker, o Object) error {
		err := l.Lock(ctx, o.Key, until)
		if err == nil {
			k.c.Book.set(k.Name(o.Member), o.Key, until)
		}
		return err
	})
}

// Ask asks the stores what retains objects, and takes note of it.
func (k *Keeper) Ask(ctx context.Context, objects []Object, progress func(done, total int64)) (Result, error) {
	if k == nil {
		return Result{}, nil
	}
	return k.each(ctx, k.on(objects), progress, func(l store.Locker, o Object) error {
		r, err := l.Retained(ctx, o.Key)
		if err == nil {
			k.c.Book.set(k.Name(o.Member), o.Key, r.Until)
		}
		return err
	})
}

// each does one thing with every object, several at once on each store.
func (k *Keeper) each(ctx context.Context, objects []Object, progress func(done, total int64), do func(store.Locker, Object) error) (Result, error) {
	by := map[int][]Object{}
	for _, o := range objects {
		by[o.Member] = append(by[o.Member], o)
	}
	r := &run{k: k, do: do, progress: progress, total: int64(len(objects)), out: Result{Failed: map[int]error{}}}
	var stores sync.WaitGroup
	for member, list := range by {
		stores.Go(func() {
			for len(list) > 0 && ctx.Err() == nil {
				n := min(batch, len(list))
				if !r.batch(ctx, member, list[:n]) {
					return
				}
				list = list[n:]
				k.save()
			}
		})
	}
	stores.Wait()
	k.save()
	return r.out, ctx.Err()
}

// run is one over many objects.
type run struct {
	k        *Keeper
	do       func(store.Locker, Object) error
	progress func(done, total int64)
	total    int64

	mu  sync.Mutex
	out Result // guarded by mu until all are done
}

// batch does some objects of one store and reports whether to go on there.
func (r *run) batch(ctx context.Context, member int, objects []Object) bool {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, o := range objects {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return r.note(o, r.do(r.k.locker(member), o)) })
	}
	err := g.Wait()
	if err != nil && ctx.Err() == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.out.Failed[member] = fmt.Errorf("store %q: %w", r.k.Name(member), err)
	}
	return err == nil
}

// note takes note of how one object went. What is not there is no fault of the
// store's.
func (r *run) note(o Object, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.out.Done++
	case errors.Is(err, store.ErrNotExist):
		r.out.Missing = append(r.out.Missing, o)
	default:
		return err
	}
	if r.progress != nil {
		r.progress(int64(r.out.Done+len(r.out.Missing)), r.total)
	}
	return nil
}

func (k *Keeper) save() {
	if k.c.Save != nil {
		k.c.Save(k.c.Book)
	}
}

// A State is how the needed objects of one store are locked, as far as is
// known.
type State struct {
	Store   string    `json:"store"`
	Objects int       `json:"objects"`
	Unknown int       `json:"unknown"` // the store could not be asked
	Short   int       `json:"short"`   // less than the alarm's share of the window is left
	Until   time.Time `json:"until"`   // the first lock that ends
	Left    string    `json:"left"`    // until then
	Percent int       `json:"percent"` // of the window
	Object  string    `json:"object"`  // whose lock that is
}

// Alarm reports whether a needed object can be deleted soon, or now.
func (s State) Alarm() bool { return s.Short > 0 }

// States sums up what is known of objects, by member.
func (k *Keeper) States(objects []Object) []State {
	now := k.c.Now()
	limit := now.Add(k.c.Window / 100 * Alarm)
	by := map[int]*State{}
	for _, o := range k.on(objects) {
		s := by[o.Member]
		if s == nil {
			s = &State{Store: k.Name(o.Member)}
			by[o.Member] = s
		}
		s.Objects++
		until, known := k.c.Book.until(s.Store, o.Key)
		if !known {
			s.Unknown++
			continue
		}
		if until.Before(limit) {
			s.Short++
		}
		if s.Object == "" || until.Before(s.Until) {
			s.Until, s.Object = until, o.Key
		}
	}
	var out []State
	for i := range k.c.Members {
		if s := by[i]; s != nil {
			left := max(s.Until.Sub(now), 0)
			if s.Until.IsZero() {
				left = 0
			}
			s.Left, s.Percent = left.Round(time.Minute).String(), int(100*left/k.c.Window)
			out = append(out, *s)
		}
	}
	return out
}
