package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/source/files/scratch"
)

// A walker goes through a tree, each name relative to the open descriptor of
// its directory, so that nothing renamed or linked meanwhile leads elsewhere.
// It holds one descriptor and the names of one directory per level. What grows
// with the tree is the table of files with several links, 60 bytes each,
// until the last link was met.
type walker struct {
	ctx    context.Context
	src    *Source
	out    *bufio.Writer // the stream "data"
	pos    int64         // bytes written to out
	tree   *scratch.File
	links  map[inode]*linked
	users  map[uint32]string
	groups map[uint32]string
	buf    buffers

	detail   Detail
	warnings []string
	unsaid   int
}

type inode struct{ dev, ino uint64 }

// linked is a file with further links to come: where its line is in the tree,
// and how many links are still unseen.
type linked struct {
	off  int64
	len  int
	left uint64
}

func newWalker(ctx context.Context, src *Source, out *bufio.Writer, tree *scratch.File) *walker {
	return &walker{
		ctx: ctx, src: src, out: out, tree: tree, links: map[inode]*linked{},
		users: map[uint32]string{}, groups: map[uint32]string{},
		detail: Detail{Root: escape(src.cfg.Path)},
	}
}

// run walks the whole tree. Its errors end the snapshot; what concerns one
// file is noted by fail.
func (w *walker) run(root *os.File) error {
	if _, err := io.WriteString(w.tree, header); err != nil {
		return fmt.Errorf("files: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("files: stat %s: %w", w.src.cfg.Path, err)
	}
	e := w.entry(".", TypeDir, &st)
	e.Xattrs = w.xattrs(int(root.Fd()), ".")
	if err := w.put(&e); err != nil {
		return err
	}
	names, err := root.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("files: read %s: %w", w.src.cfg.Path, err)
	}
	return w.inside(root, "", names)
}

const maxWarnings = 100

// fail notes that something selected is missing from the snapshot.
func (w *walker) fail(p, what string, err error) {
	w.detail.Failed++
	w.warn(fmt.Sprintf("%s: %s: %v", strconv.Quote(p), what, err))
}

func (w *walker) warn(s string) {
	if len(w.warnings) == maxWarnings {
		w.unsaid++
		return
	}
	w.warnings = append(w.warnings, s)
}

func (w *walker) warned() []string {
	if w.unsaid == 0 {
		return w.warnings
	}
	return append(w.warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more", w.unsaid))
}

// inside walks what a directory holds. prefix is its path with a "/", or "".
func (w *walker) inside(dir *os.File, prefix string, names []string) error {
	slices.Sort(names)
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		p := prefix + name
		if w.excluded(p, name) {
			w.detail.Excluded++
			continue
		}
		if len(p) > maxPath {
			w.fail(p[:200]+"…", "not saved", errors.New("path too long"))
			continue
		}
		if err := w.visit(dir, name, p); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) excluded(p, name string) bool {
	for _, pat := range w.src.cfg.Exclude {
		against := name
		if strings.Contains(pat, "/") {
			against = p
		}
		if ok, _ := path.Match(pat, against); ok {
			return true
		}
	}
	return false
}

func (w *walker) visit(dir *os.File, name, p string) error {
	fd := int(dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		w.fail(p, "not saved", err)
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.dir(fd, name, p, &st)
	case unix.S_IFREG:
		return w.file(fd, name, p, &st)
	case unix.S_IFLNK:
		target := make([]byte, 4097)
		n, err := unix.Readlinkat(fd, name, target)
		if err != nil {
			w.fail(p, "not saved", err)
			return nil
		}
		e := w.entry(p, TypeSymlink, &st)
		e.Target = string(target[:n])
		return w.put(&e)
	}
	types := map[uint32]Type{unix.S_IFIFO: TypeFIFO, unix.S_IFSOCK: TypeSocket, unix.S_IFCHR: TypeChar, unix.S_IFBLK: TypeBlock}
	e := w.entry(p, types[st.Mode&unix.S_IFMT], &st)
	if e.Type == TypeChar || e.Type == TypeBlock {
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	return w.put(&e)
}

func (w *walker) dir(at int, name, p string, st *unix.Stat_t) error {
	f, err := openAt(at, name, unix.O_DIRECTORY)
	if err == nil {
		defer f.Close()
		err = unix.Fstat(int(f.Fd()), st)
	}
	e := w.entry(p, TypeDir, st)
	if err != nil {
		w.fail(p, "directory not read", err)
		return w.put(&e)
	}
	e.Xattrs = w.xattrs(int(f.Fd()), p)
	if err := w.put(&e); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		w.fail(p, "directory not read whole", err)
	}
	return w.inside(f, p+"/", names)
}

// openAt opens a name in a directory without following a link, waiting for the
// other end of a FIFO, or, where allowed, touching the access time.
func openAt(dir int, name string, flags int) (*os.File, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
		if err == unix.EPERM { // O_NOATIME is for owners
			fd, err = unix.Openat(dir, name, flags, 0)
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// entry has what every type has.
func (w *walker) entry(p string, t Type, st *unix.Stat_t) Entry {
	return Entry{
		Path: p, Type: t, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		User: cached(w.users, st.Uid, func(id string) (string, error) {
			u, err := user.LookupId(id)
			if err != nil {
				return "", err
			}
			return u.Username, nil
		}),
		Group: cached(w.groups, st.Gid, func(id string) (string, error) {
			g, err := user.LookupGroupId(id)
			if err != nil {
				return "", err
			}
			return g.Name, nil
		}),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
}

func cached(names map[uint32]string, id uint32, look func(string) (string, error)) string {
	name, ok := names[id]
	if !ok {
		// A number without a name has none; so has one whose lookup failed:
		// the number is what counts.
		name, _ = look(strconv.FormatUint(uint64(id), 10))
		names[id] = name
	}
	return name
}

// put writes an entry's line.
func (w *walker) put(e *Entry) error {
	b, err := e.marshal()
	if err == nil {
		_, err = w.tree.Write(b)
	}
	if err != nil {
		return fmt.Errorf("files: note %q: %w", e.Path, err)
	}
	w.detail.Entries++
	switch e.Type {
	case TypeDir:
		w.detail.Dirs++
	case TypeFile:
		w.detail.Files++
		w.detail.Bytes += e.Size
	}
	return nil
}

// xattrs reads the extended attributes of an open file. A file system that has
// none has nothing to report.
func (w *walker) xattrs(fd int, p string) []Xattr {
	list := make([]byte, 64<<10) // the kernel's limit for names, and for one value
	n, err := unix.Flistxattr(fd, list)
	if err != nil || n == 0 {
		if err != nil && err != unix.EOPNOTSUPP {
			w.warn(fmt.Sprintf("%q: extended attributes not read: %v", p, err))
		}
		return nil
	}
	var all []Xattr
	total := 0
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(fd, name, value)
		if err == unix.ENODATA {
			continue
		}
		if total += len(name) + n; err == nil && total > maxXattrs {
			err = errors.New("too many")
		}
		if err != nil {
			w.warn(fmt.Sprintf("%q: extended attribute %q not saved: %v", p, name, err))
			continue
		}
		all = append(all, Xattr{name, string(value[:n])})
	}
	slices.SortFunc(all, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return all
}
