package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// List implements store.Store. Names that are no ValidKey are yielded too, so
// that a foreign bucket can be told from an empty one; names with a segment
// that begins with a dot, as the probe object has, are left out.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		l := lister{s: s, ctx: ctx, prefix: prefix, yield: yield}
		patience := s.retry.start()
		for {
			before := l.last
			err := l.pages()
			if err == nil {
				return
			}
			if l.last != before {
				patience = s.retry.start()
			}
			// A passing fault: go on behind the last key.
			if err := patience.wait(ctx, err); err != nil {
				yield(store.Info{}, fmt.Errorf("list %q: %w", prefix, err))
				return
			}
		}
	}
}

type lister struct {
	s      *Store
	ctx    context.Context
	prefix string
	yield  func(store.Info, error) bool
	last   string // the full key seen last
}

// pages lists what comes after l.last. It returns nil when the listing is
// complete or the caller wants no more.
func (l *lister) pages() error {
	no := false
	full := l.s.prefix + l.prefix
	for obj := range l.s.core.ListObjectsIter(l.ctx, l.s.bucket, minio.ListObjectsOptions{
		Prefix: full, StartAfter: l.last, Recursive: true, FetchOwner: &no,
	}) {
		switch {
		case obj.Err != nil:
			return obj.Err
		case !strings.HasPrefix(obj.Key, full):
			return fmt.Errorf("%w: listed %.100q, which is outside the prefix", store.ErrTampered, obj.Key)
		case obj.Key <= l.last:
			// Listings that turn in circles or come in another order have
			// been seen; nothing can be concluded from either.
			return fmt.Errorf("%w: listed %.100q after %.100q", store.ErrTampered, obj.Key, l.last)
		case obj.Size < 0:
			return fmt.Errorf("%w: %.100q is listed with size %d", store.ErrTampered, obj.Key, obj.Size)
		}
		l.last = obj.Key
		key := strings.TrimPrefix(obj.Key, l.s.prefix)
		if strings.HasPrefix(key, ".") || strings.Contains(key, "/.") {
			continue
		}
		if !l.yield(store.Info{Key: key, Size: obj.Size}, nil) {
			return nil
		}
	}
	// The library ends the iteration without an error when ctx is done.
	if err := l.ctx.Err(); err != nil {
		return err
	}
	return nil
}
