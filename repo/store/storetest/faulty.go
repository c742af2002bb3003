package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"strongroom/repo/store"
)

// Op names a method of store.Store.
type Op string

// The operations a Faulty can break.
const (
	OpPut  Op = "put"
	OpGet  Op = "get"
	OpStat Op = "stat"
	OpList Op = "list"
)

// Mishap is what happens to one call.
type Mishap struct {
	// How says what goes wrong.
	How How
	// Err is the error to return where one is returned; nil means
	// store.ErrUnavailable.
	Err error
}

// How a call goes wrong.
type How int

const (
	// Work: nothing goes wrong.
	Work How = iota
	// Fail: nothing is done, the error is returned.
	Fail
	// FailAfter: the work is done and the error returned all the same. A Get
	// gives half of the bytes and then the error, a List all entries and then
	// the error.
	FailAfter
	// Lie: a Put stores nothing and returns nil; a Stat says ErrNotExist; a
	// List leaves out the keys for which the hook answers Lie, see Hook.
	Lie
	// Flip: Get returns the right number of bytes with one bit flipped.
	Flip
	// Truncate: Get returns half of the bytes and then io.EOF, which breaks
	// the contract.
	Truncate
)

// A Hook decides what happens to a call. It may block, count, and use the
// Faulty; it is called by the goroutine that made the call. A List asks once
// with its prefix and, unless that call fails, again for each key found.
type Hook func(op Op, key string) Mishap

// Faulty is a store around another one that goes wrong as told. Until told, it
// works.
type Faulty struct {
	inner store.Store

	mu    sync.Mutex
	hook  Hook       // guarded by mu
	calls map[Op]int // guarded by mu
}

// NewFaulty returns a store that works like inner.
func NewFaulty(inner store.Store) *Faulty {
	return &Faulty{inner: inner, calls: make(map[Op]int)}
}

// Inject makes hook decide from now on; nil makes everything work.
func (f *Faulty) Inject(hook Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Down makes every call fail with ErrUnavailable.
func (f *Faulty) Down() {
	f.Inject(func(Op, string) Mishap { return Mishap{Fail, store.ErrUnavailable} })
}

// Up makes everything work.
func (f *Faulty) Up() { f.Inject(nil) }

// ReadOnly makes every Put fail with ErrReadOnly.
func (f *Faulty) ReadOnly() { f.failPuts(store.ErrReadOnly) }

// Full makes every Put fail with ErrFull.
func (f *Faulty) Full() { f.failPuts(store.ErrFull) }

func (f *Faulty) failPuts(err error) {
	f.Inject(func(op Op, _ string) Mishap {
		if op == OpPut {
			return Mishap{Fail, err}
		}
		return Mishap{}
	})
}

// Nth returns a Hook under which the nth call of op, counted from 1 and from
// now, meets m and everything else works.
func Nth(op Op, n int, m Mishap) Hook {
	var mu sync.Mutex
	return func(o Op, _ string) Mishap {
		mu.Lock()
		defer mu.Unlock()
		if o == op {
			if n--; n == 0 {
				return m
			}
		}
		return Mishap{}
	}
}

// Calls returns how often op was called, whatever came of it.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) meet(op Op, key string) Mishap {
	f.mu.Lock()
	f.calls[op]++
	f.mu.Unlock()
	return f.ask(op, key)
}

func (f *Faulty) ask(op Op, key string) Mishap {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return Mishap{}
	}
	m := hook(op, key)
	if m.Err == nil {
		m.Err = store.ErrUnavailable
	}
	m.Err = fmt.Errorf("%s %s: injected: %w", op, key, m.Err)
	return m
}

// Put implements store.Store.
func (f *Faulty) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	m := f.meet(OpPut, key)
	switch m.How {
	case Fail:
		return m.Err
	case Lie:
		return nil
	}
	err := f.inner.Put(ctx, key, body, sum)
	if err == nil && m.How == FailAfter {
		err = m.Err
	}
	return err
}

// Get implements store.Store.
func (f *Faulty) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	m := f.meet(OpGet, key)
	if m.How == Fail {
		return nil, m.Err
	}
	r, err := f.inner.Get(ctx, key, off, n)
	if err != nil || m.How == Work || m.How == Lie {
		return r, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	half := bytes.NewReader(body[:len(body)/2])
	switch m.How {
	case Flip:
		if len(body) > 0 {
			body[len(body)/2] ^= 0x10
		}
		return io.NopCloser(bytes.NewReader(body)), nil
	case Truncate:
		return io.NopCloser(half), nil
	}
	return io.NopCloser(io.MultiReader(half, errReader{m.Err})), nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// Stat implements store.Store.
func (f *Faulty) Stat(ctx context.Context, key string) (store.Info, error) {
	m := f.meet(OpStat, key)
	switch m.How {
	case Fail, FailAfter:
		return store.Info{}, m.Err
	case Lie:
		return store.Info{}, fmt.Errorf("stat %s: injected: %w", key, store.ErrNotExist)
	}
	return f.inner.Stat(ctx, key)
}

// List implements store.Store.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		m := f.meet(OpList, prefix)
		if m.How == Fail {
			yield(store.Info{}, m.Err)
			return
		}
		for info, err := range f.inner.List(ctx, prefix) {
			if err == nil && f.ask(OpList, info.Key).How == Lie {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
		if m.How == FailAfter {
			yield(store.Info{}, m.Err)
		}
	}
}

// Probe implements store.Prober where the store inside does.
func (f *Faulty) Probe(ctx context.Context) (store.Report, error) {
	p, ok := f.inner.(store.Prober)
	if !ok {
		return store.Report{}, errors.New("the store inside has no Probe")
	}
	return p.Probe(ctx)
}
