package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Absent is a store that could not be opened, in its place among the others:
// all it does fails with why, as ErrUnavailable.
func Absent(why error) Store {
	if !errors.Is(why, ErrUnavailable) {
		why = fmt.Errorf("%w: %w", ErrUnavailable, why)
	}
	return absent{why}
}

type absent struct{ why error }

func (a absent) Put(context.Context, string, []byte, [32]byte) error { return a.why }

func (a absent) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, a.why
}

func (a absent) Stat(context.Context, string) (Info, error) { return Info{}, a.why }

func (a absent) List(context.Context, string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) { yield(Info{}, a.why) }
}
