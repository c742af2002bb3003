package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"strongroom/repo/store"
	"strongroom/repo/store/dir"
)

// A Spool keeps, fsynced on the box, the objects that a store could not take
// yet: encrypted shards, and manifests on their way. It counts as a fault
// domain of its own.
type Spool struct {
	store.Store
	path string
}

// OpenSpool opens the spool at path, making it if need be.
func OpenSpool(path string) (*Spool, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s, err := dir.Open(dir.Config{Path: path})
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &Spool{Store: s, path: path}, nil
}

// Remove removes an object that its store has confirmed, or that was given up.
// Its directory stays: the store inside may have synced it and count on it.
func (s *Spool) Remove(key string) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("spool: bad key %q", key)
	}
	name := filepath.Join(s.path, filepath.FromSlash(key))
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// read returns a whole object.
func readObject(ctx context.Context, s store.Store, key string, size int64) ([]byte, error) {
	rc, err := s.Get(ctx, key, 0, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(rc, b)
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	return b, nil
}

// keys lists the objects under prefix.
func (s *Spool) keys(ctx context.Context, prefix string) ([]store.Info, error) {
	var out []store.Info
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		out = append(out, info)
	}
	return out, nil
}

// shardIndex returns the index in a shard's key, or -1.
func shardIndex(key string) int {
	name := key[strings.LastIndexByte(key, '/')+1:]
	f := strings.Split(name, "-")
	if len(f) != 5 || f[0] != "s" {
		return -1
	}
	var i int
	if _, err := fmt.Sscanf(f[3], "%02x", &i); err != nil || i < 0 {
		return -1
	}
	return i
}
