package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"strongroom/source"
	"strongroom/source/files/publish"
)

// ErrNotEmpty: the target directory holds something, and nothing was written.
var ErrNotEmpty = errors.New("directory is not empty")

// Target says where to restore to and what.
type Target struct {
	// Path is a directory, new (its parent is there) or empty.
	Path string
	// Only selects paths and what lies below them; none means all.
	Only []string
	// Overwrite restores into a directory that holds something: entries of the
	// snapshot replace what has their names, except that nothing replaces a
	// directory; other things stay.
	Overwrite bool
}

// Result says what was restored.
type Result struct {
	Entries int64    `json:"entries"`
	Bytes   int64    `json:"bytes"`           // written, without holes
	Notes   []string `json:"notes,omitempty"` // what could not be as it was, and why
}

// Restore makes the tree anew. Owners are set by number, and only by root;
// everyone else owns what they restore, and it loses setuid and setgid where
// the owner was another. A failure leaves what was made so far.
func Restore(ctx context.Context, stored source.Stored, t Target) (Result, error) {
	r := &restorer{overwrite: t.Overwrite, euid: os.Geteuid(), egid: os.Getegid(), noted: map[string]int{}}
	err := r.start(t)
	if err == nil {
		err = batched(ctx, stored, t.Only, r.item)
		err = errors.Join(err, r.end(err == nil))
	}
	if err != nil {
		err = fmt.Errorf("files: restore to %s: %w", t.Path, err)
	}
	for _, what := range r.notes {
		r.res.Notes = append(r.res.Notes, fmt.Sprintf("%s (%d entries)", what, r.noted[what]))
	}
	return r.res, err
}

// A restorer makes entries one after the other. Each is made by its bare name
// in the os.Root of its directory, which was made or checked before, so that
// no name in the snapshot and no link on the way leads out of the target.
type restorer struct {
	overwrite  bool
	euid, egid int
	keepRoot   bool // the target directory was there and only parts are restored
	top        *os.Root
	dirs       []*openDir // from the target to the directory of the last entry
	buf        buffers
	res        Result
	noted      map[string]int
	notes      []string // keys of noted in the order they came
}

// openDir is a directory whose entries are being made. Its own owner, mode and
// times come when all of them are.
type openDir struct {
	Entry
	wanted bool
	root   *os.Root // nil until something in it is made
	f      *os.File // the same directory
}

func (r *restorer) start(t Target) error {
	err := os.Mkdir(t.Path, 0o700)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrExist):
		d, err := os.Open(t.Path)
		if err != nil {
			return err
		}
		_, err = d.Readdirnames(1)
		d.Close()
		if err == nil && !t.Overwrite {
			return ErrNotEmpty
		}
		if err != nil && err != io.EOF {
			return err
		}
		r.keepRoot = len(t.Only) > 0
	default:
		return err
	}
	r.top, err = os.OpenRoot(t.Path)
	return err
}

// end completes the open directories and makes all of it durable.
func (r *restorer) end(good bool) error {
	var err error
	for len(r.dirs) > 0 {
		err = errors.Join(err, r.leave(good))
	}
	if good && err == nil {
		err = r.sync()
	}
	return errors.Join(err, r.top.Close())
}

// sync flushes the whole file system: one call instead of one a file.
func (r *restorer) sync() error {
	f, err := r.top.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

func (r *restorer) note(what string) {
	if r.noted[what]++; r.noted[what] == 1 {
		r.notes = append(r.notes, what)
	}
}

// item makes one entry.
func (r *restorer) item(it item, wanted bool, c *contents) error {
	if it.Path == "." {
		f, err := r.top.Open(".")
		if err != nil {
			return err
		}
		r.dirs = append(r.dirs, &openDir{Entry: it.Entry, wanted: !r.keepRoot, root: r.top, f: f})
		return nil
	}
	parent, name := split(it.Path)
	for r.dirs[len(r.dirs)-1].Path != parent {
		if err := r.leave(true); err != nil {
			return err
		}
	}
	if it.Type == TypeDir {
		r.dirs = append(r.dirs, &openDir{Entry: it.Entry, wanted: wanted})
		if !wanted {
			return nil // made when something in it is
		}
		return r.enter(len(r.dirs) - 1)
	}
	if err := r.enter(len(r.dirs) - 1); err != nil {
		return err
	}
	if err := r.make(r.dirs[len(r.dirs)-1], name, &it, c); err != nil {
		return fmt.Errorf("%.300q: %w", it.Path, err)
	}
	r.res.Entries++
	return nil
}

// enter makes the i-th open directory and those that lead to it.
func (r *restorer) enter(i int) (err error) {
	d := r.dirs[i]
	if d.root != nil {
		return nil
	}
	if err := r.enter(i - 1); err != nil {
		return err
	}
	_, name := split(d.Path)
	in := r.dirs[i-1].root
	if err := r.clear(in, name, true); err != nil {
		return fmt.Errorf("%.300q: %w", d.Path, err)
	}
	err = in.Mkdir(name, 0o700)
	there := r.overwrite && errors.Is(err, fs.ErrExist)
	if err != nil && !there {
		return err
	}
	// A directory that only leads to what is wanted is not ours to change.
	d.wanted = d.wanted || !there
	if d.root, err = in.OpenRoot(name); err != nil {
		return err
	}
	if d.f, err = d.root.Open("."); err != nil {
		return err
	}
	r.res.Entries++
	return nil
}

// clear removes what has the name of an entry to make; a directory stays
// where one is wanted and is refused elsewhere.
func (r *restorer) clear(in *os.Root, name string, dir bool) error {
	if !r.overwrite {
		return nil
	}
	fi, err := in.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.IsDir() && dir:
		return nil
	case fi.IsDir():
		return errors.New("a directory is there and is not replaced")
	}
	return in.Remove(name)
}

// leave completes the last open directory.
func (r *restorer) leave(good bool) error {
	d := r.dirs[len(r.dirs)-1]
	r.dirs = r.dirs[:len(r.dirs)-1]
	if d.root == nil {
		return nil
	}
	var err error
	if good && d.wanted {
		if err = r.dress(&d.Entry, d.f, "", int(d.f.Fd())); err != nil {
			err = fmt.Errorf("%.300q: %w", d.Path, err)
		}
	}
	err = errors.Join(err, d.f.Close())
	if d.root != r.top {
		err = errors.Join(err, d.root.Close())
	}
	return err
}

// make creates anything but a directory.
func (r *restorer) make(d *openDir, name string, it *item, c *contents) error {
	if err := r.clear(d.root, name, false); err != nil {
		return err
	}
	switch it.Type {
	case TypeFile:
		if it.from != "" {
			err := r.top.Link(it.from, it.Path)
			if !cannotLink(err) {
				return err
			}
			r.note("hard links became files of their own: " + reason(err))
		}
		return r.file(d, name, &it.Entry, c)
	case TypeSymlink:
		if err := d.root.Symlink(it.Target, name); err != nil {
			return err
		}
	case TypeSocket:
		r.note("sockets are not restored; the program that listens makes them")
		return nil
	default:
		if made, err := r.node(d, name, &it.Entry); !made {
			return err
		}
	}
	return r.dress(&it.Entry, nil, name, int(d.f.Fd()))
}

// cannotLink reports whether a link is refused by the file system or by rights
// and not because of what it is.
func cannotLink(err error) bool {
	for _, no := range []unix.Errno{unix.EPERM, unix.EACCES, unix.EMLINK, unix.EOPNOTSUPP, unix.ENOSYS} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// reason is an error without the path it happened on.
func reason(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return err.Error()
}

func (r *restorer) node(d *openDir, name string, e *Entry) (made bool, err error) {
	mode, dev := uint32(unix.S_IFIFO), 0
	if e.Type != TypeFIFO {
		if r.euid != 0 {
			r.note("device nodes are restored only by root")
			return false, nil
		}
		mode, dev = unix.S_IFCHR, int(unix.Mkdev(e.Major, e.Minor))
		if e.Type == TypeBlock {
			mode = unix.S_IFBLK
		}
	}
	err = unix.Mknodat(int(d.f.Fd()), name, mode|0o600, dev)
	if err == unix.EPERM && e.Type != TypeFIFO {
		r.note("device nodes were not permitted")
		return false, nil
	}
	return err == nil, err
}

func (r *restorer) file(d *openDir, name string, e *Entry, c *contents) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	var back publish.Writeback
	err = c.copyFile(e, &r.buf, func(p []byte, off int64) error {
		_, err := f.WriteAt(p, off)
		back.Wrote(f, off+int64(len(p)))
		r.res.Bytes += int64(len(p))
		return err
	})
	if err == nil {
		err = f.Truncate(e.Size) // a hole at the end
	}
	if err == nil {
		err = r.dress(e, f, "", int(f.Fd()))
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		err = errors.Join(err, d.root.Remove(name))
	}
	return err
}

// dress gives an entry its owner, mode, attributes and times, in this order:
// a change of owner takes setuid and capabilities away. The entry is the open
// file f, or, where f is nil, name in the directory at.
func (r *restorer) dress(e *Entry, f *os.File, name string, at int) error {
	mode := e.Mode
	if !r.own(e, f, name, at) {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if e.Type != TypeSymlink { // a link has no mode
		if err := chmod(f, name, at, mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if f != nil {
		r.attributes(e, int(f.Fd()))
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}}
	if f != nil {
		// An empty name is the descriptor itself (AT_EMPTY_PATH), any kernel
		// since 5.8 for utimensat; /proc would need a mount.
		name = ""
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if f != nil {
		flags = unix.AT_EMPTY_PATH
	}
	if err := unix.UtimesNanoAt(at, name, ts, flags); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func chmod(f *os.File, name string, at int, mode uint32) error {
	if f != nil {
		return unix.Fchmod(int(f.Fd()), mode)
	}
	// The node was made under this name a moment ago by us; fchmodat has no
	// way not to follow before Linux 6.6.
	return unix.Fchmodat(at, name, mode, 0)
}

// own sets the owner and reports whether it is right.
func (r *restorer) own(e *Entry, f *os.File, name string, at int) bool {
	if r.euid != 0 {
		if int(e.UID) == r.euid && int(e.GID) == r.egid {
			return true
		}
		r.note("owners are restored only by root")
		return false
	}
	var err error
	if f != nil {
		err = unix.Fchown(int(f.Fd()), int(e.UID), int(e.GID))
	} else {
		err = unix.Fchownat(at, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		r.note("owners were not accepted: " + reason(err))
	}
	return err == nil
}

// attributes sets the extended attributes. Which of them the target takes
// depends on its file system and on rights, so a refusal is noted, not fatal.
func (r *restorer) attributes(e *Entry, fd int) {
	for _, x := range e.Xattrs {
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			space, _, _ := strings.Cut(x.Name, ".")
			r.note(fmt.Sprintf("extended attributes %q were not accepted: %s", space+".*", reason(err)))
		}
	}
	// What the new file inherited, such as a default ACL of the target.
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(fd, list)
	if err != nil {
		return
	}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if strings.HasPrefix(name, "system.posix_acl_") && !slices.ContainsFunc(e.Xattrs, func(x Xattr) bool { return x.Name == name }) {
			unix.Fremovexattr(fd, name)
		}
	}
}
