package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// streamFlag makes this program the source of a long stream.
const streamFlag = "-stream"

// stream writes a file several times, each time with its bytes XORed by another
// number, so that the copies have no text in common but compress alike. It costs
// little beside what reads it, and no disk.
func stream(w io.Writer, copies int, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<18)
	for i := range copies {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		for {
			n, err := f.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			for j := range buf[:n] {
				buf[j] ^= byte(i)
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

func streamMain(args []string) error {
	if len(args) != 2 {
		return errors.New("want a number of copies and a file")
	}
	copies, err := strconv.Atoi(args[0])
	if err != nil || copies < 1 || copies > 255 {
		return fmt.Errorf("%q copies", args[0])
	}
	return stream(os.Stdout, copies, args[1])
}

// streamed is a strongroom that saves copies of the dump that is the source.
func (b *bench) streamed(copies int) (*strongroom, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.ours("strongroom", "", fmt.Sprintf("source = \"command\"\ncommand = [%q, %q, \"%d\", %q]\n", self, streamFlag, copies,
		filepath.Join(b.data.source(), "crm.sql"))), nil
}

// grown is what a stream of some size cost.
type grown struct {
	copies             int
	gb                 float64
	first, later, back cost
}

// twoWeeks saves two weeks of copies, and if asked for restores the second.
func (b *bench) twoWeeks(ctx context.Context, copies int, restore bool) (g grown, err error) {
	s, err := b.streamed(copies)
	if err != nil {
		return g, err
	}
	g.copies = copies
	if err := s.create(ctx); err != nil {
		return g, err
	}
	for w, c := range []*cost{&g.first, &g.later} {
		b.log("a stream of %d dumps, week %d", copies, w+1)
		n, err := b.data.show("dumps", w+1)
		if err != nil {
			return g, err
		}
		if *c, err = s.save(ctx, w+1); err != nil {
			return g, err
		}
		if w == 0 {
			g.gb = float64(n) * float64(copies) / 1e9
		}
	}
	if restore {
		g.back, err = b.restoreStream(ctx, s, copies)
	}
	if b.keep {
		return g, err
	}
	return g, errors.Join(err, os.RemoveAll(s.dir))
}

func (b *bench) restoreStream(ctx context.Context, s *strongroom, copies int) (cost, error) {
	got, want := sha256.New(), sha256.New()
	p := s.command("restore", s.snapshot(2), "--to", "-")
	buffered := bufio.NewWriterSize(got, 1<<20)
	p.stdout = buffered
	c, _, err := p.run(ctx)
	if err != nil {
		return c, err
	}
	if err := errors.Join(buffered.Flush(), stream(want, copies, filepath.Join(b.data.source(), "crm.sql"))); err != nil {
		return c, err
	}
	if [sha256.Size]byte(got.Sum(nil)) != [sha256.Size]byte(want.Sum(nil)) {
		return c, fmt.Errorf("WRONG RESTORE: a stream of %d dumps differs from what was saved", copies)
	}
	return c, nil
}

// linear shows what a gigabyte costs in small and in large databases.
func (b *bench) linear(ctx context.Context) error {
	t := b.table("Linear cost", "A `command` source streams the dump 1, 4 and 16 times over, every copy XORed by another byte. One run each.",
		"size", "first: wall", "s/GB", "CPU s/GB", "later week: wall", "s/GB", "CPU s/GB", "peak memory")
	var all []grown
	for _, copies := range []int{1, 4, 16} {
		g, err := b.twoWeeks(ctx, copies, false)
		if err != nil {
			return err
		}
		t.row(fmt.Sprintf("%.2f GB", g.gb), seconds(g.first.Wall), fmt.Sprintf("%.1f", g.first.Wall.Seconds()/g.gb), fmt.Sprintf("%.1f", g.first.CPU.Seconds()/g.gb),
			seconds(g.later.Wall), fmt.Sprintf("%.1f", g.later.Wall.Seconds()/g.gb), fmt.Sprintf("%.1f", g.later.CPU.Seconds()/g.gb), mib(max(g.first.RSS, g.later.RSS)))
		all = append(all, g)
	}
	one, sixteen := all[0], all[len(all)-1]
	b.goal("linear: wall a GB, 16 to 1: first", sixteen.first.Wall.Seconds()/sixteen.gb/(one.first.Wall.Seconds()/one.gb), 0, 0)
	b.goal("linear: wall a GB, 16 to 1: a later week", sixteen.later.Wall.Seconds()/sixteen.gb/(one.later.Wall.Seconds()/one.gb), 0, 0)
	return nil
}

// memory shows that it does not grow with the database.
func (b *bench) memory(ctx context.Context) error {
	t := b.table("Peak memory", "The same stream, 1 and 10 dumps long; the second week is restored to stdout and compared. One run each.",
		"size", "first", "later week", "restore")
	for _, copies := range []int{1, 10} {
		g, err := b.twoWeeks(ctx, copies, true)
		if err != nil {
			return err
		}
		t.row(fmt.Sprintf("%.2f GB", g.gb), mib(g.first.RSS), mib(g.later.RSS), mib(g.back.RSS))
		b.goal(fmt.Sprintf("peak memory, %.1f GB, MiB", g.gb), float64(max(g.first.RSS, g.later.RSS, g.back.RSS))/(1<<20), 400, 300)
	}
	return nil
}
