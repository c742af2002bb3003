package files

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Type is what kind of thing an entry is.
type Type string

const (
	TypeDir     Type = "dir"
	TypeFile    Type = "file"
	TypeSymlink Type = "symlink"
	TypeFIFO    Type = "fifo"
	TypeSocket  Type = "socket"
	TypeChar    Type = "char"
	TypeBlock   Type = "block"
)

// An Entry is one name of a tree.
type Entry struct {
	// Path is relative to the tree's root, in any bytes but zero, its elements
	// joined by "/"; "." is the root itself, always the first entry.
	Path string
	Type Type
	// Mode is the twelve permission bits with setuid, setgid and sticky.
	Mode     uint32
	UID, GID uint32
	// User and Group are the names of UID and GID where they had one; for
	// people to read: a restore goes by number.
	User, Group string
	ModTime     time.Time
	// Target is what a symbolic link says, in any bytes.
	Target string
	// Major and Minor are a device's number.
	Major, Minor uint32
	// Link is set on the second and later hard links of a file: the path of
	// the first. The other fields of a file are set on all of them alike.
	Link string
	// Size is a file's length.
	Size int64
	// Data is where a file's contents begin in the stream "data".
	Data int64
	// Extents are a sparse file's ranges of data, which lie end to end from
	// Data on; between them are holes. nil means one range, the whole file.
	Extents []Extent
	// Sum is the BLAKE3-256 of a file's contents; of a sparse file's extents
	// only, end to end.
	Sum [32]byte
	// Changed says that the file changed while it was read, twice.
	Changed bool
	// Xattrs are extended attributes by name, POSIX ACLs among them.
	Xattrs []Xattr
}

// Extent is a range of bytes of a file.
type Extent struct{ Off, Len int64 }

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// ranges are the extents of any file.
func (e *Entry) ranges() []Extent {
	if e.Extents != nil {
		return e.Extents
	}
	if e.Size == 0 {
		return nil
	}
	return []Extent{{0, e.Size}}
}

// stored is how many bytes the file has in "data".
func (e *Entry) stored() int64 {
	if e.Extents == nil {
		return e.Size
	}
	var n int64
	for _, x := range e.Extents {
		n += x.Len
	}
	return n
}

// The stream "tree" is one line of ASCII an entry, after header: a JSON object
// with the fields of line in this order, no spaces. Strings are
// percent-encoded (escape), so that any bytes fit and every value has one form.
const (
	header     = `{"strongroom_tree":1}` + "\n"
	maxLine    = 2 << 20
	maxPath    = 32 << 10
	maxExtents = 8192
	maxXattrs  = 256 << 10 // bytes of names and values of one entry
)

type line struct {
	Path    string      `json:"path"`
	Type    Type        `json:"type"`
	Mode    string      `json:"mode"` // four octal digits
	UID     uint32      `json:"uid"`
	GID     uint32      `json:"gid"`
	User    string      `json:"user,omitempty"`
	Group   string      `json:"group,omitempty"`
	Mtime   [2]int64    `json:"mtime"` // seconds, nanoseconds
	Target  string      `json:"target,omitempty"`
	Device  []uint32    `json:"device,omitempty"` // major, minor
	Link    string      `json:"link,omitempty"`
	Size    *int64      `json:"size,omitempty"`
	Data    *int64      `json:"data,omitempty"`
	Extents [][2]int64  `json:"extents,omitzero"` // offset, length
	BLAKE3  string      `json:"blake3,omitempty"`
	Changed bool        `json:"changed,omitempty"`
	Xattrs  [][2]string `json:"xattrs,omitempty"` // name, value in base64
}

// marshal is the entry's one line.
func (e *Entry) marshal() ([]byte, error) {
	l := line{
		Path: escape(e.Path), Type: e.Type, Mode: fmt.Sprintf("%04o", e.Mode),
		UID: e.UID, GID: e.GID, User: escape(e.User), Group: escape(e.Group),
		Mtime: [2]int64{e.ModTime.Unix(), int64(e.ModTime.Nanosecond())}, Changed: e.Changed,
	}
	switch e.Type {
	case TypeSymlink:
		l.Target = escape(e.Target)
	case TypeChar, TypeBlock:
		l.Device = []uint32{e.Major, e.Minor}
	case TypeFile:
		l.Link, l.Size, l.Data, l.BLAKE3 = escape(e.Link), &e.Size, &e.Data, hex.EncodeToString(e.Sum[:])
		if e.Extents != nil {
			l.Extents = make([][2]int64, 0, len(e.Extents))
		}
		for _, x := range e.Extents {
			l.Extents = append(l.Extents, [2]int64{x.Off, x.Len})
		}
	}
	for _, x := range e.Xattrs {
		l.Xattrs = append(l.Xattrs, [2]string{escape(x.Name), base64.StdEncoding.EncodeToString([]byte(x.Value))})
	}
	b, err := json.Marshal(l)
	return append(b, '\n'), err
}

// parse reads one line and refuses all but what marshal would write.
func parse(b []byte) (Entry, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return Entry{}, err
	}
	e, err := l.entry()
	if err != nil {
		return Entry{}, err
	}
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	if again, err := e.marshal(); err != nil || !bytes.Equal(again, b) {
		return Entry{}, errors.New("not in canonical form")
	}
	return e, nil
}

func (l *line) entry() (Entry, error) {
	mode, err := strconv.ParseUint(l.Mode, 8, 12)
	if err != nil {
		return Entry{}, errors.New("bad mode")
	}
	e := Entry{Type: l.Type, Mode: uint32(mode), UID: l.UID, GID: l.GID, Changed: l.Changed,
		ModTime: time.Unix(l.Mtime[0], l.Mtime[1])}
	for _, f := range []struct {
		to   *string
		from string
	}{{&e.Path, l.Path}, {&e.User, l.User}, {&e.Group, l.Group}, {&e.Target, l.Target}, {&e.Link, l.Link}} {
		if *f.to, err = unescape(f.from); err != nil {
			return Entry{}, err
		}
	}
	if len(l.Device) == 2 {
		e.Major, e.Minor = l.Device[0], l.Device[1]
	}
	if l.Type == TypeFile {
		if l.Size == nil || l.Data == nil {
			return Entry{}, errors.New("file without size or place")
		}
		e.Size, e.Data = *l.Size, *l.Data
		if n, err := hex.Decode(e.Sum[:], []byte(l.BLAKE3[:min(len(l.BLAKE3), 64)])); err != nil || n != 32 {
			return Entry{}, errors.New("bad blake3")
		}
	}
	if l.Extents != nil {
		e.Extents = []Extent{}
	}
	for _, x := range l.Extents {
		e.Extents = append(e.Extents, Extent{x[0], x[1]})
	}
	for _, x := range l.Xattrs {
		name, err := unescape(x[0])
		if err != nil {
			return Entry{}, err
		}
		value, err := base64.StdEncoding.Strict().DecodeString(x[1])
		if err != nil {
			return Entry{}, errors.New("bad attribute value")
		}
		e.Xattrs = append(e.Xattrs, Xattr{name, string(value)})
	}
	return e, nil
}

// check holds an entry against what a walk can have written.
func (e *Entry) check() error {
	if err := checkPath(e.Path); err != nil && (e.Path != "." || e.Type != TypeDir) {
		return err
	}
	switch e.Type {
	case TypeDir, TypeFIFO, TypeSocket, TypeChar, TypeBlock:
	case TypeSymlink:
		if e.Target == "" || len(e.Target) > 4096 || strings.IndexByte(e.Target, 0) >= 0 {
			return errors.New("bad link target")
		}
	case TypeFile:
		if e.Link != "" {
			if err := checkPath(e.Link); err != nil {
				return fmt.Errorf("link: %w", err)
			}
		}
		if e.Size < 0 || e.Data < 0 || len(e.Extents) > maxExtents || e.Data > math.MaxInt64-e.Size {
			return errors.New("bad size or place")
		}
		end := int64(0)
		for _, x := range e.Extents {
			if x.Off < end || x.Len <= 0 || x.Off > e.Size || x.Len > e.Size-x.Off {
				return errors.New("bad extents")
			}
			end = x.Off + x.Len
		}
	default:
		return fmt.Errorf("unknown type %q", e.Type)
	}
	for i, x := range e.Xattrs {
		if x.Name == "" || len(x.Name) > 255 || strings.IndexByte(x.Name, 0) >= 0 || i > 0 && x.Name <= e.Xattrs[i-1].Name {
			return errors.New("bad attribute name")
		}
	}
	return nil
}

// checkPath refuses what could lead out of the tree.
func checkPath(p string) error {
	if len(p) > maxPath {
		return errors.New("path too long")
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("path %.200q is not inside the tree", p)
		}
	}
	return nil
}

// plain says which bytes escape leaves alone: printable ASCII but the escape
// itself, what JSON must escape, and what Go's JSON encoder escapes for HTML.
func plain(c byte) bool {
	return c >= ' ' && c < 0x7f && strings.IndexByte(`%"\<>&`, c) < 0
}

const hexDigits = "0123456789ABCDEF"

func escape(s string) string {
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(b)
}

// unescape decodes what escape wrote; other forms of the same bytes are found
// by writing the line again.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("bad percent-encoding")
		}
		v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", errors.New("bad percent-encoding")
		}
		b = append(b, byte(v))
		i += 2
	}
	return string(b), nil
}
