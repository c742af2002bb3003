package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A dataset keeps what the programs back up:
//
//	dumps/weekN/crm.sql      pg_dump, plain
//	tars/weekN/base.tar …    pg_basebackup
//	sqlite/weekN/crm.db
//	long/weekN/crm.sql       26 weeks of a smaller database
//	source/                  hard links to one week's files: what is backed up
type dataset struct {
	dir         string
	seed        uint64
	size, small int // MB of the first dump; of long's and of the SQLite file's
	sqliteSize  int
	weeks       int
	log         func(format string, args ...any)
}

const tarWeeks, sqliteWeeks, longWeeks = 3, 3, 26

// generation changes when the same seed no longer makes the same data.
const generation = 1

func (d *dataset) path(kind string, week int) string {
	return filepath.Join(d.dir, kind, fmt.Sprintf("week%d", week))
}

func (d *dataset) source() string { return filepath.Join(d.dir, "source") }

// mark names what a kind was made from; a kind is whole when its file says so.
func (d *dataset) mark(kind string, size, weeks int) (path, text string) {
	return filepath.Join(d.dir, kind, "made"), fmt.Sprintf("generation %d, seed %d, size %d, weeks %d\n", generation, d.seed, size, weeks)
}

func (d *dataset) have(kind string, size, weeks int) bool {
	path, text := d.mark(kind, size, weeks)
	b, err := os.ReadFile(path)
	return err == nil && string(b) == text
}

func (d *dataset) begin(kind string, weeks int) error {
	if err := os.RemoveAll(filepath.Join(d.dir, kind)); err != nil {
		return err
	}
	for w := 1; w <= weeks; w++ {
		if err := os.MkdirAll(d.path(kind, w), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (d *dataset) finish(kind string, size, weeks int) error {
	path, text := d.mark(kind, size, weeks)
	return os.WriteFile(path, []byte(text), 0o644)
}

// makeCRM makes the dumps and, if asked for, the tars that are not there.
func (d *dataset) makeCRM(ctx context.Context, tars bool) error {
	dumps := !d.have("dumps", d.size, d.weeks)
	tars = tars && !d.have("tars", d.size, tarWeeks)
	if !dumps && !tars {
		return nil
	}
	weeks := tarWeeks
	if dumps {
		weeks = max(d.weeks, weeks)
		if err := d.begin("dumps", d.weeks); err != nil {
			return err
		}
	}
	if tars {
		if err := d.begin("tars", tarWeeks); err != nil {
			return err
		}
	}
	err := d.live(ctx, newCRM(d.seed, d.size), weeks, func(s *server, week int) error {
		if dumps && week <= d.weeks {
			if err := d.dump(ctx, s, filepath.Join(d.path("dumps", week), "crm.sql")); err != nil {
				return err
			}
		}
		if tars && week <= tarWeeks {
			_, _, err := program{name: filepath.Join(s.bin, "pg_basebackup"), args: []string{"-d", s.url("postgres"), "-D", d.path("tars", week), "-F", "tar", "-X", "stream", "-c", "fast"}}.run(ctx)
			return err
		}
		return nil
	})
	if err == nil && dumps {
		err = d.finish("dumps", d.size, d.weeks)
	}
	if err == nil && tars {
		err = d.finish("tars", d.size, tarWeeks)
	}
	return err
}

// makeLong makes the 26 dumps of a smaller database.
func (d *dataset) makeLong(ctx context.Context) error {
	if d.have("long", d.small, longWeeks) {
		return nil
	}
	if err := d.begin("long", longWeeks); err != nil {
		return err
	}
	err := d.live(ctx, newCRM(d.seed+1, d.small), longWeeks, func(s *server, week int) error {
		return d.dump(ctx, s, filepath.Join(d.path("long", week), "crm.sql"))
	})
	if err != nil {
		return err
	}
	return d.finish("long", d.small, longWeeks)
}

func (d *dataset) dump(ctx context.Context, s *server, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, _, err = program{name: filepath.Join(s.bin, "pg_dump"), args: []string{s.url("crm")}, stdout: f}.run(ctx)
	return errors.Join(err, f.Close())
}

// live runs a database through its weeks.
func (d *dataset) live(ctx context.Context, c *crm, weeks int, each func(s *server, week int) error) (err error) {
	s, err := newServer(filepath.Join(d.dir, "cluster"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.initdb(ctx); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	for w := 1; w <= weeks; w++ {
		d.log("data: a database of %d MB, week %d of %d", c.size, w, weeks)
		if w == 1 {
			err = c.load(ctx, s, "crm")
		} else {
			err = c.advance(ctx, s, "crm", w)
		}
		if err == nil {
			err = each(s, w)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// show makes a week's files the source, and reads them so that no program pays
// for the disk. It returns their size.
func (d *dataset) show(kind string, week int) (int64, error) {
	if err := errors.Join(os.RemoveAll(d.source()), os.Mkdir(d.source(), 0o755)); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(d.path(kind, week))
	if err != nil {
		return 0, err
	}
	var total int64
	for _, e := range entries {
		from := filepath.Join(d.path(kind, week), e.Name())
		if err := os.Link(from, filepath.Join(d.source(), e.Name())); err != nil {
			return 0, err
		}
		f, err := os.Open(from)
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(io.Discard, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// digests are the SHA-256 of all files below a directory, by base name.
func digests(dir string) (map[string][sha256.Size]byte, error) {
	out := map[string][sha256.Size]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if _, twice := out[e.Name()]; twice {
			return fmt.Errorf("%s is there twice", e.Name())
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		out[e.Name()] = [sha256.Size]byte(h.Sum(nil))
		return err
	})
	return out, err
}

// free is how many bytes the file system of a directory has left.
func free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}
