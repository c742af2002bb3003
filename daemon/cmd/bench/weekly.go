package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// A result is what one tool took for one kind of data.
type result struct {
	tool                  string
	first, later, restore []cost
	week1, total          int64
	weeks                 int
	peer                  bool // a backup program that is not ours
}

// growth is the bytes that a later week adds.
func (r *result) growth() float64 { return float64(r.total-r.week1) / float64(r.weeks-1) }

func (r *result) memory() int64 {
	return max(middle(r.first).RSS, middle(r.later).RSS, middle(r.restore).RSS)
}

// weekly lets all tools save the same weeks, in turn, and restores the last.
// What is there once, the first backup and the restore, is repeated.
func (b *bench) weekly(ctx context.Context, kind string, weeks int, tools []tool) ([]*result, error) {
	var results []*result
	for _, t := range tools {
		_, ours := t.(*strongroom)
		_, limit := t.(*patches)
		results = append(results, &result{tool: t.name(), weeks: weeks, peer: !ours && !limit})
	}
	each := func(what string, do func(r *result, t tool) error) error {
		b.log("%s: %s", kind, what)
		for i, t := range tools {
			if err := do(results[i], t); err != nil {
				return fmt.Errorf("%s: %s: %w", t.name(), what, err)
			}
		}
		return nil
	}
	for w := 1; w <= weeks; w++ {
		if _, err := b.data.show(kind, w); err != nil {
			return nil, err
		}
		repeat := 1
		if w == 1 {
			repeat = b.runs
		}
		for range repeat {
			if err := each(fmt.Sprintf("week %d of %d", w, weeks), func(r *result, t tool) error { return r.save(ctx, t, w) }); err != nil {
				return nil, err
			}
		}
	}
	for range b.runs {
		if err := each("restore", func(r *result, t tool) error {
			c, err := b.restoreSource(ctx, t, weeks)
			r.restore = append(r.restore, c)
			return err
		}); err != nil {
			return nil, err
		}
	}
	if b.keep {
		return results, nil
	}
	return results, os.RemoveAll(filepath.Join(b.work, "tools"))
}

// save makes a new repository for week 1.
func (r *result) save(ctx context.Context, t tool, week int) error {
	if week == 1 {
		if err := t.create(ctx); err != nil {
			return err
		}
	}
	c, err := t.save(ctx, week)
	if err != nil {
		return err
	}
	if r.total, err = t.stored(); err != nil {
		return err
	}
	if week == 1 {
		r.first, r.week1 = append(r.first, c), r.total
	} else {
		r.later = append(r.later, c)
	}
	return nil
}

// restoreSource restores the week that is the source now, and compares.
func (b *bench) restoreSource(ctx context.Context, t tool, week int) (cost, error) {
	to := filepath.Join(b.work, "restored")
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o755)); err != nil {
		return cost{}, err
	}
	c, err := t.restore(ctx, week, to)
	if err != nil {
		return c, err
	}
	want, err := digests(b.data.source())
	if err != nil {
		return c, err
	}
	got, err := digests(to)
	if err == nil && !maps.Equal(want, got) {
		err = fmt.Errorf("WRONG RESTORE: the files differ from those that were saved")
	}
	return c, errors.Join(err, os.RemoveAll(to))
}
