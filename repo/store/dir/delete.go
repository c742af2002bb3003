package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"strongroom/repo/store"
)

// Delete removes an object, durably on return; nil if there is none. Where the
// store belongs to another user than the one who writes, only that one can.
func (s *Store) Delete(ctx context.Context, key string) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("delete %q: invalid key", key)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if err := s.remove(key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(key string) error {
	if err := s.usable(); err != nil {
		return err
	}
	info, err := s.root.Lstat(key)
	if err == nil {
		err = mustBeRegular(info)
	}
	if err == nil {
		err = s.ops.remove(s.root, key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return classify(err)
	}
	// Gone, perhaps by a run that died before this: it must not come back.
	if err == nil {
		return s.syncDirOf(key)
	}
	if err := s.present(); err != nil {
		return err // everything is absent from a directory that is
	}
	if _, err := s.root.Lstat(path.Dir(key)); err != nil {
		return nil
	}
	return s.syncDirOf(key)
}
