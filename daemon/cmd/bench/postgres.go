package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func (b *bench) pg(name string) string {
	bin, err := pgBin()
	if err != nil {
		return name // running it will say what is missing
	}
	return filepath.Join(bin, name)
}

// live compares with pg_dump and pg_restore on a running server.
type live struct {
	*bench
	s      *server
	c      *crm
	ours   *strongroom
	custom string // pg_dump's file

	first, later, restore         []cost // ours
	pgFirst, pgLater, pgRestore   []cost
	size1, sizeLast, week1, total int64
}

// lastLive is the last week of the comparison.
const lastLive = 3

func (b *bench) postgres(ctx context.Context) (err error) {
	s, err := newServer(filepath.Join(b.work, "cluster"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.unpack(ctx, b.data.path("tars", 1)); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	l := &live{bench: b, s: s, c: newCRM(b.data.seed, b.data.size), custom: filepath.Join(b.work, "tools", "custom.dump"),
		ours: b.ours("strongroom", "", fmt.Sprintf("source = \"postgres\"\nurl = %q\n", s.url("crm")))}
	if err := l.backups(ctx); err != nil {
		return err
	}
	for range b.runs {
		if err := l.restores(ctx); err != nil {
			return err
		}
	}
	l.report()
	if b.keep {
		return nil
	}
	return errors.Join(os.Remove(l.custom), os.RemoveAll(l.ours.dir))
}

// backups takes the first snapshot some times, then the later weeks.
func (l *live) backups(ctx context.Context) error {
	if _, err := l.c.fingerprint(ctx, l.s, "crm"); err != nil { // warms the server's cache
		return err
	}
	for run := range l.runs {
		l.log("postgres: run %d of %d, first", run+1, l.runs)
		if err := l.ours.create(ctx); err != nil {
			return err
		}
		if err := l.backup(ctx, 1, &l.first, &l.pgFirst); err != nil {
			return err
		}
	}
	var err error
	if l.week1, err = l.ours.stored(); err != nil {
		return err
	}
	for w := 2; w <= lastLive; w++ {
		l.log("postgres: week %d", w)
		if err := l.c.advance(ctx, l.s, "crm", w); err != nil {
			return err
		}
		if err := l.backup(ctx, w, &l.later, &l.pgLater); err != nil {
			return err
		}
	}
	l.total, err = l.ours.stored()
	return err
}

func (l *live) backup(ctx context.Context, week int, ours, pg *[]cost) error {
	c, _, err := program{name: l.pg("pg_dump"), args: []string{"-Fc", "-Z1", "-f", l.custom, l.s.url("crm")}}.run(ctx)
	if err != nil {
		return err
	}
	*pg = append(*pg, c)
	info, err := os.Stat(l.custom)
	if err != nil {
		return err
	}
	if l.sizeLast = info.Size(); week == 1 {
		l.size1 = info.Size()
	}
	if c, err = l.ours.save(ctx, week); err != nil {
		return err
	}
	*ours = append(*ours, c)
	return nil
}

// restores loads the last week into two empty databases.
func (l *live) restores(ctx context.Context) error {
	l.log("postgres: restore")
	want, err := l.c.fingerprint(ctx, l.s, "crm")
	if err != nil {
		return err
	}
	for _, t := range []struct {
		db    string
		p     program
		costs *[]cost
	}{
		{"by_pg_restore", program{name: l.pg("pg_restore"), args: []string{"-j2", "-d", l.s.url("by_pg_restore"), l.custom}}, &l.pgRestore},
		{"by_strongroom", l.ours.command("restore", l.ours.snapshot(lastLive), "--to", l.s.url("by_strongroom")), &l.restore},
	} {
		if err := l.s.exec(ctx, "postgres", "CREATE DATABASE "+t.db, "CHECKPOINT"); err != nil {
			return err
		}
		c, _, err := t.p.run(ctx)
		if err != nil {
			return err
		}
		*t.costs = append(*t.costs, c)
		got, err := l.c.fingerprint(ctx, l.s, t.db)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("WRONG RESTORE: %s has\n%snot\n%s", t.db, got, want)
		}
		if err := l.s.exec(ctx, "postgres", "DROP DATABASE "+t.db); err != nil {
			return err
		}
	}
	return nil
}

func (l *live) report() {
	t := l.table("A live PostgreSQL database", fmt.Sprintf("Source `postgres` beside `pg_dump -Fc -Z1` and `pg_restore -j2`, in turn; CPU without the server's. Medians of %d first "+
		"backups and restores; a later week is the mean of weeks 2 and %d. After each restore the rows of every table and a sum of their hashes, by the server, equal the source's.", l.runs, lastLive),
		"", "first: wall", "CPU", "a later week: wall", "CPU", "restore: wall", "CPU", "peak memory", "week 1", "growth a week")
	line := func(name string, first, later, restore []cost, week1 int64, growth float64) {
		f, w, r := middle(first), middle(later), middle(restore)
		t.row(name, seconds(f.Wall), seconds(f.CPU), seconds(w.Wall), seconds(w.CPU), seconds(r.Wall), seconds(r.CPU), mib(max(f.RSS, w.RSS, r.RSS)), mb(float64(week1)), mb(growth))
	}
	line("strongroom", l.first, l.later, l.restore, l.week1, float64(l.total-l.week1)/(lastLive-1))
	line("pg_dump, pg_restore", l.pgFirst, l.pgLater, l.pgRestore, l.size1, float64(l.sizeLast))
	ratio := func(a, b []cost) float64 { return middle(a).Wall.Seconds() / middle(b).Wall.Seconds() }
	l.goal("postgres: first, wall to pg_dump -Fc -Z1", ratio(l.first, l.pgFirst), 0.75, 0.6)
	l.goal("postgres: a later week, wall to pg_dump -Fc -Z1", ratio(l.later, l.pgLater), 0.45, 0.25)
	l.goal("postgres: restore, wall to pg_restore -j2", ratio(l.restore, l.pgRestore), 1.0, 0.8)
}
