package files

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"strongroom/source"
)

// survey goes through a tree as a walker does, and opens directories alone.
type survey struct {
	ctx  context.Context
	walk walker // for what is excluded

	entries, bytes, excluded int64
	unreadable               int64
	first                    []string // of what cannot be read
	mounts                   []string
}

// Examine looks at every entry below the root and asks whether it could be
// read. It reads no file.
func (s *Source) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	root, err := s.root()
	if err != nil {
		f.Bad("readable", err.Error(), "there is nothing to read", "correct the path, or let the service's user in")
		return f, nil
	}
	defer root.Close()
	v := &survey{ctx: ctx, walk: walker{src: s}}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return nil, fmt.Errorf("files: stat %s: %w", s.cfg.Path, err)
	}
	if err := v.inside(root, "", st.Dev); err != nil {
		return nil, fmt.Errorf("files: examine %s: %w", s.cfg.Path, err)
	}
	if v.unreadable > 0 {
		f.Warn("unreadable", fmt.Sprintf("%d of %d entries cannot be read: %s", v.unreadable, v.entries, list(v.first, v.unreadable)),
			"a snapshot is partial without them", "let the service's user read them (setfacl -R -m u:USER:rX), or exclude them")
	} else {
		f.OK("unreadable", fmt.Sprintf("all %d entries can be read, %d bytes in files", v.entries, v.bytes))
	}
	if len(v.mounts) > 0 {
		f.Note("mounts", "other file systems are mounted below and part of the tree: "+list(v.mounts, int64(len(v.mounts))),
			"one that is not mounted on a Sunday is missing from that snapshot, and nothing tells", "exclude them, or make each a dataset")
	} else {
		f.OK("mounts", "one file system")
	}
	if v.excluded > 0 {
		f.Note("excluded", fmt.Sprintf("%d entries are excluded, and what is below them", v.excluded), "they are in no snapshot", "")
	}
	if v.entries == 0 {
		f.Warn("empty", s.cfg.Path+" is empty", "the mount point of a disk that is away looks the same", "mount it")
	}
	return f, nil
}

// inside looks at what a directory holds.
func (v *survey) inside(dir *os.File, prefix string, dev uint64) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		v.fail(prefix)
	}
	for _, name := range names {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		p := prefix + name
		if v.walk.excluded(p, name) {
			v.excluded++
			continue
		}
		v.entries++
		if err := v.entry(dir, name, p, dev); err != nil {
			return err
		}
	}
	return nil
}

func (v *survey) entry(dir *os.File, name, p string, dev uint64) error {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || len(p) > maxPath {
		v.fail(p)
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		v.bytes += st.Size
		// AT_EACCESS: as whoever we are now, not as who started us.
		if unix.Faccessat(fd, name, unix.R_OK, unix.AT_EACCESS) != nil {
			v.fail(p)
		}
	case unix.S_IFDIR:
		f, err := openAt(fd, name, unix.O_DIRECTORY)
		if err != nil {
			v.fail(p)
			return nil
		}
		defer f.Close()
		if unix.Fstat(int(f.Fd()), &st) == nil && st.Dev != dev {
			v.mounts = append(v.mounts, strconv.Quote(p))
		}
		return v.inside(f, p+"/", st.Dev)
	}
	return nil
}

func (v *survey) fail(p string) {
	v.unreadable++
	if len(v.first) < 5 {
		v.first = append(v.first, strconv.Quote(p[:min(len(p), 200)]))
	}
}

// list names the first of n things.
func list(names []string, n int64) string {
	names = names[:min(len(names), 5)]
	text := strings.Join(names, ", ")
	if more := n - int64(len(names)); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
