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
