package media

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
	"strongroom/repo/store/media/parity"
)

// A Range is bytes of an object that the disk gives wrong or not at all.
type Range struct {
	Key      string `json:"key"`
	Offset   int64  `json:"offset"`
	Length   int64  `json:"length"`
	Repaired bool   `json:"repaired"` // parity gives them
}

// A Report is what verifying a medium found.
type Report struct {
	Sessions int     `json:"sessions"`
	Objects  int     `json:"objects"`
	Bytes    int64   `json:"bytes"` // of these objects
	Bad      []Range `json:"bad"`
	// Lost are the objects that neither disk nor parity gives.
	Lost []string `json:"lost"`
	// Problems are of the medium's own objects: lists, tables, parity.
	Problems []string `json:"problems"`
	// Loose are objects of sessions that were never committed.
	Loose int `json:"loose"`
}

// Whole reports whether every byte is as it was written.
func (r *Report) Whole() bool { return len(r.Bad)+len(r.Lost)+len(r.Problems) == 0 }

// Restores reports whether every object can be had, be it from parity.
func (r *Report) Restores() bool { return len(r.Lost) == 0 }

// verifying is a verification at work.
type verifying struct {
	s    *Store
	out  *Report
	done func(done, total int64)

	read, total int64
}

// Verify reads every byte that the sessions recorded, from the disk, and
// compares it with their lists. Only then, and only on a medium that was
// unmounted and mounted again since it was written, does what is on it count.
//
// The page cache is dropped file by file with POSIX_FADV_DONTNEED, which needs
// no privileges and no aligned memory and which every file system takes, unlike
// O_DIRECT. The kernel drops clean pages only, so all is synced before. What
// keeps a copy below the file system, as the disk's own memory does, is out of
// reach of either; unmounting and unplugging is what answers that.
func (s *Store) Verify(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	v := &verifying{s: s, done: progress, out: &Report{Bad: []Range{}, Lost: []string{}, Problems: slices.Clone(s.problems)}}
	if err := unix.Syncfs(int(s.root.Fd())); err != nil && !errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("verify: sync: %w", err)
	}
	s.mu.Lock()
	clear(s.tables)
	s.mu.Unlock()
	if err := v.loose(ctx); err != nil {
		return nil, err
	}
	v.identity(ctx)
	sessions := s.committed()
	for _, l := range sessions {
		for _, e := range l.entries {
			v.total += e.Size
		}
	}
	for _, l := range sessions {
		v.out.Sessions++
		v.list(ctx, l)
		for n := range l.stripes() {
			v.parity(ctx, l, n)
		}
		for n := range l.entries {
			v.object(ctx, place{l, n})
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return v.out, ctx.Err()
}

func (v *verifying) problem(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(v.out.Problems, text) {
		v.out.Problems = append(v.out.Problems, text)
	}
}

// loose counts what no session recorded, and drops the cache of everything.
func (v *verifying) loose(ctx context.Context) error {
	for info, err := range v.s.files.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if err := v.s.files.DropCache(info.Key); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if _, recorded := v.s.find(info.Key); !recorded && !own(info.Key) {
			v.out.Loose++
		}
	}
	return nil
}

func (v *verifying) identity(ctx context.Context) {
	for _, prefix := range []string{ownPrefix, copyPrefix} {
		raw, err := v.s.readOwn(ctx, prefix+identityKey, maxIdentity)
		if err == nil {
			var id Identity
			if id, err = parseIdentity(raw); err == nil && id != v.s.id {
				err = errors.New("it is another one than when the medium was opened")
			}
		}
		if err != nil && v.s.id.ID != [16]byte{} {
			v.problem("%s: %v", prefix+identityKey, err)
		}
	}
}

// list reads both copies of a list again.
func (v *verifying) list(ctx context.Context, l *session) {
	for _, prefix := range []string{ownPrefix, copyPrefix} {
		again, err := v.s.readList(ctx, prefix, l.number)
		if err == nil && again.hash != l.hash {
			err = errors.New("it is another one than when the medium was opened")
		}
		if err != nil {
			v.problem("list of session %d in %s: %v", l.number, prefix, err)
		}
	}
}

// parity reads a stripe's parity object: both copies of the table, and the
// cells.
func (v *verifying) parity(ctx context.Context, l *session, n int64) {
	h, key := l.shape(n), parityKey(l.number, n)
	page := make([]byte, parity.Cell)
	for i := range h.Pages() {
		for which, at := range h.Tables(i) {
			err := v.s.rawAt(ctx, key, at, page)
			if _, ok := l.stripe(n).ParsePage(page, i, h.InPage(i)); err != nil || !ok {
				v.problem("%s: page %d of table %d is damaged", key, i, which)
			}
		}
	}
	t := v.s.table(ctx, l, n)
	for col := range parity.Spare {
		_, good := v.s.column(ctx, run{l, n, 0, h.Rows}, t, parity.Data+col)
		bad := 0
		for _, ok := range good {
			if !ok {
				bad++
			}
		}
		if bad > 0 {
			v.problem("%s: %d of %d cells of parity %d are damaged", key, bad, h.Rows, col)
		}
	}
}

// object reads an object of a session to its end.
func (v *verifying) object(ctx context.Context, at place) {
	e := at.s.entries[at.n]
	v.out.Objects++
	v.out.Bytes += e.Size
	hash, lost := sha256.New(), false
	found := len(v.out.Bad)
	for first := int64(0); first < e.cells() && ctx.Err() == nil; first += maxRead {
		count := min(maxRead, e.cells()-first)
		p := v.s.cells(ctx, at, first, count)
		for i := range p.bad {
			if p.bad[i] {
				v.bad(e, found, (first+int64(i))*parity.Cell, p.healed[i])
				lost = lost || !p.healed[i]
			}
		}
		n := min(count*parity.Cell, e.Size-first*parity.Cell)
		hash.Write(p.b[:n])
		v.read += n
		if v.done != nil {
			v.done(v.read, v.total)
		}
	}
	if ctx.Err() != nil {
		return
	}
	info, err := v.s.files.Stat(ctx, e.Key)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotExist):
		v.problem("%s: %v", e.Key, err)
	case err != nil:
		v.problem("%s is not there", e.Key)
	case info.Size != e.Size:
		v.problem("%s has %d bytes, not %d", e.Key, info.Size, e.Size)
	}
	if lost || [sha256.Size]byte(hash.Sum(nil)) != e.SHA256 {
		v.out.Lost = append(v.out.Lost, e.Key)
	}
}

// bad notes a cell, together with the one before it where they are alike. from
// is where the object's own ranges begin.
func (v *verifying) bad(e Entry, from int, off int64, repaired bool) {
	n := min(parity.Cell, e.Size-off)
	if last := len(v.out.Bad) - 1; last >= from && v.out.Bad[last].Repaired == repaired && v.out.Bad[last].Offset+v.out.Bad[last].Length == off {
		v.out.Bad[last].Length += n
		return
	}
	v.out.Bad = append(v.out.Bad, Range{e.Key, off, n, repaired})
}
