// Package iso writes ISO 9660 images: the same bytes for the same files, with
// the names that they have, in one pass and without a copy of them.
//
// An image has three name spaces over one set of data: that of ECMA-119
// (numbers, but for names that fit), that of Rock Ridge (SUSP 1.12, RRIP 1.12)
// with the names as they are, which Linux, the BSDs and macOS read, and Joliet,
// which Windows reads. Files follow in the order in which they are given.
package iso

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// Sector is the unit of an image in bytes.
	Sector = 2048
	// DVD and BluRay are the capacities of a single-layer DVD+R (the smaller of
	// the two kinds by a few megabytes) and of a single-layer BD-R, in bytes.
	DVD    = 4_700_372_992
	BluRay = 25_025_314_816

	maxDepth = 8 // levels of directories, the root's included: ECMA-119, 6.8.2.1
	maxDirs  = 1<<16 - 1
	maxFiles = 1 << 20
	maxName  = 250
	// maxFile is the largest size of one extent: more would need several.
	maxFile = 1<<32 - Sector
	// tail is so many sectors of zeros behind all files. Drives return errors for
	// the last blocks of a disc that was written track at once, and kernels read
	// ahead into them: mkisofs -pad does the same.
	tail = 150
)

// ErrTooLarge: the image would not fit on the medium.
var ErrTooLarge = errors.New("image is larger than the medium")

// A File is one of an image. Directories are made as paths need them.
type File struct {
	Path       string // segments of letters, digits, ".", "-" and "_" joined by "/"
	Size       int64
	Executable bool
	Open       func() (io.ReadCloser, error) // of exactly Size bytes
}

// Config is what an image has beside its files.
type Config struct {
	Volume   string    // 1 to 16 of A-Z, 0-9 and "_"
	Time     time.Time // of the volume and of every file, to the second
	Capacity int64     // of the medium in bytes; 0: any
}

// An Image is planned: its size is known, and where each file goes.
type Image struct {
	c       Config
	files   []*node // in the order of their data
	trees   [2]tree
	more    []byte // continuation areas of Rock Ridge
	moreAt  uint32
	sectors uint32
}

// The two hierarchies of directories.
const (
	primary = 0 // with Rock Ridge
	joliet  = 1
)

// A tree is one hierarchy.
type tree struct {
	dirs  []*node // in the order of the path table
	table int     // bytes of a path table
	// little and big are where its path tables begin.
	little, big uint32
}

// A node is a directory or file.
type node struct {
	name   string
	file   *File // nil: a directory
	parent *node
	child  map[string]*node
	serial uint32 // Rock Ridge's file serial number

	id     [2]string  // its identifiers
	sorted [2][]*node // its children
	number [2]uint16  // in the path table
	extent [2]uint32  // where it begins; a file's are the same
	length [2]uint32  // bytes
}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,250}$`)
	volumeForm = regexp.MustCompile(`^[A-Z0-9_]{1,16}$`)
)

// Plan lays an image out, or says with ErrTooLarge that it does not fit.
func Plan(c Config, files []File) (*Image, error) {
	c.Time = c.Time.UTC().Truncate(time.Second)
	switch {
	case !volumeForm.MatchString(c.Volume):
		return nil, fmt.Errorf("image: volume %q: want 1 to 16 of A-Z, 0-9 and _", c.Volume)
	case c.Time.Year() < 1900 || c.Time.Year() > 2155:
		return nil, fmt.Errorf("image: a file's time cannot be in %d", c.Time.Year())
	case len(files) > maxFiles:
		return nil, fmt.Errorf("image: %d files, at most %d", len(files), maxFiles)
	}
	i := &Image{c: c}
	root := &node{child: map[string]*node{}}
	root.parent = root
	for n := range files {
		f, err := root.add(files[n])
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		i.files = append(i.files, f)
	}
	root.identify()
	for t := range i.trees {
		if err := i.trees[t].order(root, t); err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
	}
	if err := i.place(); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return i, nil
}

// Size is that of the whole image in bytes.
func (i *Image) Size() int64 { return int64(i.sectors) * Sector }

// UUID is how blkid names the file system of an image of that time.
func UUID(t time.Time) string { return t.UTC().Format("2006-01-02-15-04-05") + "-00" }

// add enters a file and the directories above it.
func (n *node) add(f File) (*node, error) {
	if f.Size < 0 || f.Size > maxFile {
		return nil, fmt.Errorf("file %s: %d bytes, at most %d", f.Path, f.Size, int64(maxFile))
	}
	segments := strings.Split(f.Path, "/")
	if len(segments) > maxDepth {
		return nil, fmt.Errorf("file %q lies more than %d levels deep", f.Path, maxDepth)
	}
	for i, s := range segments {
		if !nameForm.MatchString(s) || s == "." || s == ".." {
			return nil, fmt.Errorf("file %q: %q is no name", f.Path, s)
		}
		// Two names that differ in case are one on systems that use Joliet.
		key := strings.ToLower(s)
		next := n.child[key]
		last := i == len(segments)-1
		switch {
		case next != nil && (last || next.file != nil || next.name != s):
			return nil, fmt.Errorf("file %q: %q is there already", f.Path, s)
		case next == nil:
			next = &node{name: s, parent: n}
			if last {
				next.file = &f
			} else {
				next.child = map[string]*node{}
			}
			n.child[key] = next
		}
		n = next
	}
	return n, nil
}

var plain = regexp.MustCompile(`^[A-Z0-9_]{1,8}(\.[A-Z0-9_]{1,3})?$`)

// identify gives the children of a directory their identifiers: to those that
// fit level 1 of ECMA-119 their names, to the others numbers that none of those
// has.
func (n *node) identify() {
	children := make([]*node, 0, len(n.child))
	for _, c := range n.child {
		children = append(children, c)
	}
	slices.SortFunc(children, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	taken := map[string]bool{}
	for _, c := range children {
		if up := strings.ToUpper(c.name); plain.MatchString(up) && (c.file != nil || !strings.Contains(up, ".")) {
			c.id[primary], taken[up] = up, true
		}
	}
	next := 0
	for _, c := range children {
		for c.id[primary] == "" {
			if id := fmt.Sprintf("%08d", next); !taken[id] {
				c.id[primary] = id
			}
			next++
		}
		if c.file != nil && !strings.Contains(c.id[primary], ".") {
			c.id[primary] += "."
		}
		c.id[joliet] = c.name
		// The specification of Joliet says 64 characters; all readers take more, up
		// to what a record has room for, and the name of a shard has 73.
		const most = 103
		if len(c.name) > most {
			c.id[joliet] = fmt.Sprintf("%s~%x", c.name[:most-17], sha256.Sum256([]byte(c.name)))[:most]
		}
	}
	for t := range n.sorted {
		n.sorted[t] = slices.Clone(children)
		// ECMA-119, 9.3: names are compared as if filled with spaces, and "." sorts
		// before all that may stand in one. The version, always 1, is added later.
		slices.SortFunc(n.sorted[t], func(a, b *node) int { return strings.Compare(a.id[t], b.id[t]) })
	}
	for _, c := range children {
		if c.file == nil {
			c.identify()
		}
	}
}

// order lists the directories as the path table does: by level, then by the
// number of the parent, then by identifier.
func (t *tree) order(root *node, which int) error {
	t.dirs = []*node{root}
	for i := 0; i < len(t.dirs); i++ {
		d := t.dirs[i]
		if i >= maxDirs {
			return fmt.Errorf("more than %d directories", maxDirs)
		}
		d.number[which] = uint16(i + 1)
		t.table += len(pathEntry(nil, d, which, nil))
		for _, c := range d.sorted[which] {
			if c.file == nil {
				t.dirs = append(t.dirs, c)
			}
		}
	}
	return nil
}

// place says where everything lies.
func (i *Image) place() error {
	at := uint64(firstTable)
	next := func(length uint64) uint32 {
		here := at
		at += (length + Sector - 1) / Sector
		return uint32(min(here, 1<<32-1))
	}
	for t := range i.trees {
		i.trees[t].little = next(uint64(i.trees[t].table))
		i.trees[t].big = next(uint64(i.trees[t].table))
	}
	serial := uint32(0)
	for t := range i.trees {
		for _, d := range i.trees[t].dirs {
			d.length[t] = i.measure(d, t)
			d.extent[t] = next(uint64(d.length[t]))
			if t == primary {
				serial++
				d.serial = serial
			}
		}
		if t == primary {
			i.moreAt = next(uint64(len(i.more)))
		}
	}
	for _, f := range i.files {
		serial++
		f.serial = serial
		here := next(uint64(f.file.Size))
		f.extent, f.length = [2]uint32{here, here}, [2]uint32{uint32(f.file.Size), uint32(f.file.Size)}
	}
	at += tail
	if at > 1<<32-1 {
		return fmt.Errorf("%w: %d sectors are more than the format has", ErrTooLarge, at)
	}
	i.sectors = uint32(at)
	if i.c.Capacity > 0 && i.Size() > i.c.Capacity {
		return fmt.Errorf("%w: %d bytes, it has %d", ErrTooLarge, i.Size(), i.c.Capacity)
	}
	return nil
}
