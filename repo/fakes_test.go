package repo

import (
	"context"
	"io"
	"iter"

	"strongroom/erasure"
	"strongroom/repo/store"
)

func planFor(n int) (erasure.Geometry, error) { return erasure.Plan(n) }

func (goneStore) Put(context.Context, string, []byte, [32]byte) error { return store.ErrUnavailable }
func (goneStore) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, store.ErrUnavailable
}
func (goneStore) Stat(context.Context, string) (store.Info, error) {
	return store.Info{}, store.ErrUnavailable
}
func (goneStore) List(context.Context, string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) { yield(store.Info{}, store.ErrUnavailable) }
}

// Both media have different keys, but for what is the same on all.
func (m both) Put(context.Context, string, []byte, [32]byte) error { return store.ErrReadOnly }
func (m both) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if r, err := m.a.Get(ctx, key, off, n); err == nil {
		return r, nil
	}
	return m.b.Get(ctx, key, off, n)
}
func (m both) Stat(ctx context.Context, key string) (store.Info, error) {
	if i, err := m.a.Stat(ctx, key); err == nil {
		return i, nil
	}
	return m.b.Stat(ctx, key)
}
func (m both) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		seen := map[string]bool{}
		for _, s := range []store.Store{m.a, m.b} {
			for info, err := range s.List(ctx, prefix) {
				if !seen[info.Key] && !yield(info, err) {
					return
				}
				seen[info.Key] = true
			}
		}
	}
}
