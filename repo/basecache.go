package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"strongroom/erasure"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// A packCache keeps the packs of the open generation on the box, sealed as on
// the stores: the bytes that the next snapshot is compared with. It needs no
// key of its own, every segment read from it is authenticated, and it dies with
// its generation. Losing any of it costs bytes, never a snapshot, so nothing
// here is synced and no restore reads it.
type packCache struct {
	dir string // of one generation

	mu   sync.Mutex
	room int64 // bytes that may still be written; guarded by mu
}

const cacheDir = "base"

// openPackCache opens the cache of a generation below a dataset's directory,
// and removes those of others. limit bounds it in bytes; 0: no cache. With an
// error there is none in this run.
func openPackCache(dir string, generation ID, limit int64) (*packCache, error) {
	top := filepath.Join(dir, cacheDir)
	c := &packCache{dir: filepath.Join(top, generation.String())}
	if err := dropOthers(top, generation.String(), limit > 0); err != nil || limit <= 0 {
		return c, err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return c, err
	}
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return c, err
	}
	c.room = limit
	for _, e := range list {
		if filepath.Ext(e.Name()) == ".new" {
			os.Remove(filepath.Join(c.dir, e.Name())) // of a run that died
		} else if info, err := e.Info(); err == nil {
			c.room -= info.Size()
		}
	}
	return c, nil
}

// dropOthers removes all that is in top but one.
func dropOthers(top, keep string, keeping bool) error {
	list, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name() != keep || !keeping {
			if err := os.RemoveAll(filepath.Join(top, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *packCache) path(pack ID) string { return filepath.Join(c.dir, pack.String()) }

// add keeps a pack whose payloads are the first k of shards. A pack that does
// not fit, or a disk that is full, is no fault: it is not cached.
func (c *packCache) add(p PackRecord, shards [][]byte) {
	if !c.claim(p.MessageLen) {
		return
	}
	err := c.write(p, shards)
	if err != nil {
		os.Remove(c.path(p.ID) + ".new")
		c.claim(-p.MessageLen)
	}
}

func (c *packCache) claim(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.room || n > 0 && c.crowded(n) {
		return false
	}
	c.room -= n
	return true
}

// crowded reports whether n more bytes would take the last tenth of the disk:
// that is for the spool, the journal and the map.
func (c *packCache) crowded(n int64) bool {
	var st syscall.Statfs_t
	if syscall.Statfs(c.dir, &st) != nil {
		return true
	}
	return int64(st.Bavail)*st.Bsize-n < int64(st.Blocks)*st.Bsize/10
}

// drop gives all of the cache up for the rest of the run; it reports whether
// that can have made room.
func (c *packCache) drop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = 0
	files, _ := os.ReadDir(c.dir)
	return len(files) > 0 && os.RemoveAll(c.dir) == nil
}

// A roomySpool is the spool of a run that has a cache: what must be kept takes
// the place of what may be lost.
type roomySpool struct {
	store.Store
	cache *packCache
}

// Put stores an object in the spool.
func (s roomySpool) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	err := s.Store.Put(ctx, key, body, sum)
	if errors.Is(err, store.ErrFull) && s.cache.drop() {
		err = s.Store.Put(ctx, key, body, sum)
	}
	return err
}

func (c *packCache) write(p PackRecord, shards [][]byte) error {
	f, err := os.OpenFile(c.path(p.ID)+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	left := p.MessageLen
	slice := int64(p.Header(0).Columns()) * erasure.Column
	for i := 0; i < p.Geometry.K && left > 0 && err == nil; i++ {
		n := min(slice, left)
		_, err = f.Write(shards[i][erasure.HeaderLen : erasure.HeaderLen+n])
		left -= n
	}
	// The name tells that it is whole; that it is right, each segment does.
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.path(p.ID))
}

// Segments appends sealed segments of a pack to dst, as spread.Reader does. A
// pack that is damaged here is removed: it will never be right again.
func (c *packCache) Segments(ctx context.Context, p spread.Pack, first, count int, dst []byte, check func(n int, segment []byte) error) ([]byte, error) {
	f, err := os.Open(c.path(p.ID))
	if err != nil {
		return dst, err
	}
	defer f.Close()
	from := int64(first) * erasure.Column
	n := min(int64(count)*erasure.Column, p.MessageLen-from)
	if first < 0 || count < 1 || n <= int64(count-1)*erasure.Column {
		return dst, fmt.Errorf("pack %v: no segments %d to %d", p.ID, first, first+count)
	}
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	if _, err := f.ReadAt(dst[at:], from); err != nil {
		os.Remove(f.Name())
		return dst[:at], fmt.Errorf("base cache: %w", err)
	}
	for i := range count {
		segment := dst[at+i*erasure.Column : min(at+(i+1)*erasure.Column, len(dst))]
		if err := check(first+i, segment); err != nil {
			os.Remove(f.Name())
			return dst[:at], fmt.Errorf("base cache: pack %v, segment %d: %w", p.ID, first+i, err)
		}
	}
	return dst, nil
}
