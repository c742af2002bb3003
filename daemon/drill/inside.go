package drill

import (
	"bufio"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/zeebo/blake3"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/rowhash"
	"strongroom/source/sqlite"
)

// Inside is the main function of a program that was started as
// sandbox.Program; more is what else it can do there.
func Inside(args []string, more map[string]func([]string) error) int {
	work := map[string]func([]string) error{
		"restore": func([]string) error { return restoreInside(os.Stdin, os.Stdout) },
	}
	maps.Copy(work, more)
	return sandbox.Inside(args, work)
}

// restoreInside runs in the sandbox: it takes a snapshot in, restores it, looks
// at the copy, and says what it found.
func restoreInside(in io.Reader, out io.Writer) error {
	br := bufio.NewReaderSize(in, 1<<20)
	raw, err := io.ReadAll(io.LimitReader(&frames{r: br}, 64<<20))
	if err != nil {
		return err
	}
	s := &spooled{dir: sandbox.Scratch + "/in"}
	if err := json.Unmarshal(raw, &s.job); err != nil {
		return err
	}
	if err := s.take(br); err != nil {
		return err
	}
	f := found{}
	ctx := context.Background() // who waits ends the process
	switch s.job.Description.Engine {
	case sqlite.Engine:
		err = f.sqlite(ctx, s)
	case command.Engine:
		err = f.command(ctx, s)
	case files.Engine:
		err = f.files(ctx, s)
	default:
		err = errors.New("unknown kind of snapshot")
	}
	if err != nil {
		f.Error = err.Error()
		f.Here = errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.ENOMEM)
	}
	return json.NewEncoder(out).Encode(f)
}

// frames reads frames until an empty one.
type frames struct {
	r    io.Reader
	left int
	over bool
}

func (f *frames) Read(p []byte) (int, error) {
	if f.over {
		return 0, io.EOF
	}
	if f.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(f.r, head[:]); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return 0, fmt.Errorf("frame of %d bytes", n)
		}
		if f.left = int(n); n == 0 {
			f.over = true
			return 0, io.EOF
		}
	}
	n, err := f.r.Read(p[:min(len(p), f.left)])
	f.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// spooled is a snapshot whose streams lie in files.
type spooled struct {
	dir string
	job job
}

func (s *spooled) take(r io.Reader) error {
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return err
	}
	for i := range s.job.Streams {
		f, err := os.OpenFile(s.path(i), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		n, err := io.Copy(f, &frames{r: r})
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		s.job.Streams[i].Length = n // as it came
	}
	return nil
}

func (s *spooled) path(i int) string               { return filepath.Join(s.dir, fmt.Sprint(i)) }
func (s *spooled) Description() source.Description { return s.job.Description }
func (s *spooled) Streams() []source.StreamInfo    { return s.job.Streams }
func (s *spooled) Detail() json.RawMessage         { return s.job.Detail }

func (s *spooled) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	i := slices.IndexFunc(s.job.Streams, func(i source.StreamInfo) bool { return i.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no stream %q", name)
	}
	f, err := os.Open(s.path(i))
	if err != nil {
		return nil, err
	}
	if n < 0 {
		n = s.job.Streams[i].Length - off
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, off, n), f}, nil
}

// hashFile returns a file's length and BLAKE3.
func hashFile(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := blake3.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

func (f *found) command(ctx context.Context, s *spooled) error {
	if err := command.Restore(ctx, s, command.Target{Path: Restored}); err != nil {
		return err
	}
	n, hash, err := hashFile(Restored)
	f.Objects = []receipt.Object{{Name: "output", Copy: receipt.Count{Known: true, Rows: n, Hash: hash}}}
	return err
}

func (f *found) sqlite(ctx context.Context, s *spooled) error {
	if err := sqlite.Restore(ctx, s, sqlite.Target{Path: Restored}); err != nil {
		return err
	}
	n, hash, err := hashFile(Restored)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: Restored, RawQuery: url.Values{"mode": {"ro"}, "immutable": {"1"},
		"_pragma": {"trusted_schema(0)", "query_only(1)", "cell_size_check(1)", "recursive_triggers(0)"}}.Encode()}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var size int64
	var version string
	if err := c.QueryRowContext(ctx, "SELECT page_size, sqlite_version() FROM pragma_page_size").Scan(&size, &version); err != nil || size < 1 {
		return fmt.Errorf("read the page size: %w", err)
	}
	f.Version = "SQLite " + version
	f.Objects = []receipt.Object{{Name: "pages", Copy: receipt.Count{Known: true, Rows: n / size, Hash: hash}}}
	faults, unchecked, err := sqlite.Check(ctx, c)
	f.Engine = []receipt.Check{equal("PRAGMA integrity_check", "none", orNone(strings.Join(faults, "; ")))}
	if err != nil {
		f.Engine[0].Actual, f.Engine[0].OK = "error: "+err.Error(), false
	}
	for _, u := range unchecked {
		f.Notes = append(f.Notes, "integrity_check needs what only the program has that made the database: "+u)
	}
	content, err := sqlite.Inspect(ctx, Restored)
	if err != nil {
		return err
	}
	f.Orphans = content.Orphans
	f.Content = []receipt.Check{{Name: "schema", Actual: content.Schema}}
	for _, t := range content.Tables {
		if t.Unknown == "" {
			f.Content = append(f.Content, receipt.Check{Name: "rows of " + t.Name, Actual: fmt.Sprint(t.Rows)})
		}
	}
	for _, a := range s.job.Assertions {
		f.Asserts = append(f.Asserts, askSQLite(ctx, c, a))
	}
	return nil
}

// texts returns rows as text, nil for NULL.
func texts(ctx context.Context, c *sql.Conn, query string) (_ [][][]byte, err error) {
	rows, err := c.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out [][][]byte
	for rows.Next() && len(out) < 100 {
		row, to := make([][]byte, len(names)), make([]any, len(names))
		for i := range row {
			to[i] = &row[i]
		}
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

func askSQLite(ctx context.Context, c *sql.Conn, a Assertion) receipt.Check {
	ctx, cancel := context.WithTimeout(ctx, a.limit())
	defer cancel()
	code, err := texts(ctx, c, "EXPLAIN "+a.SQL)
	if err != nil {
		return a.failed(err)
	}
	if !slices.ContainsFunc(code, func(row [][]byte) bool {
		return len(row) > 1 && (string(row[1]) == "OpenRead" || string(row[1]) == "VOpen" || string(row[1]) == "ReopenIdx")
	}) {
		return a.nothing("it reads no table")
	}
	rows, err := texts(ctx, c, a.SQL)
	if err != nil {
		return a.failed(err)
	}
	return a.judge(rows)
}

// files makes the three columns of a tree: each file's name and contents are a
// row, hashed as the source recorded them, as the stream has them, and as they
// lie restored.
func (f *found) files(ctx context.Context, s *spooled) error {
	res, err := files.Restore(ctx, s, files.Target{Path: Restored})
	f.Notes = res.Notes
	if err != nil {
		return err
	}
	var recorded, streamed, restored rowhash.Sum
	names := map[files.Type]int64{}
	var bad []receipt.Check
	var shut []func() error
	defer func() {
		for _, f := range slices.Backward(shut) {
			_ = f() // a checker would have been refused there, too
		}
	}()
	for e, err := range files.ReadTree(ctx, s) {
		if err != nil {
			return err
		}
		names[e.Type]++
		if c := entryCheck(e); !c.OK {
			bad = append(bad, c)
		}
		closed, err := open(e)
		if err != nil {
			return err
		}
		if e.Type == files.TypeDir {
			shut = append(shut, closed)
			continue
		}
		if e.Type != files.TypeFile {
			continue
		}
		addFile(&recorded, e, e.Sum)
		sum, err := streamSum(ctx, s, e)
		if err != nil {
			return err
		}
		addFile(&streamed, e, sum)
		sum, err = restoredSum(e)
		if err = errors.Join(err, closed()); err != nil {
			bad = append(bad, receipt.Check{Name: quoted(e.Path), Expected: "can be read", Actual: err.Error()})
			continue
		}
		addFile(&restored, e, sum)
	}
	f.Objects = []receipt.Object{{Name: "files", Source: sumCount(&recorded), Stream: sumCount(&streamed), Copy: sumCount(&restored)}}
	var d files.Detail
	if err := json.Unmarshal(s.Detail(), &d); err != nil {
		return fmt.Errorf("what was recorded: %w", err)
	}
	var all int64
	for _, n := range names {
		all += n
	}
	f.Content = append(bad[:min(len(bad), maxDifferences)], equal("entries as they were counted", fmt.Sprint(d.Entries), fmt.Sprint(all)),
		equal("files as they were counted", fmt.Sprint(d.Files), fmt.Sprint(names[files.TypeFile])),
		equal("entries that differ", "0", fmt.Sprint(len(bad))))
	return nil
}

// open lets this process, which is the owner of the copy and no root, read what
// root could at the source, and returns what undoes that. A directory stays open
// for what is in it.
func open(e files.Entry) (undo func() error, err error) {
	need := map[files.Type]uint32{files.TypeDir: 0o700, files.TypeFile: 0o400}[e.Type]
	if mode := e.Mode & 0o7777; mode&need == need {
		return func() error { return nil }, nil
	}
	root, err := os.OpenRoot(Restored)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(e.Path)
	if err != nil {
		return func() error { return nil }, nil // entryCheck has said so
	}
	if err := root.Chmod(e.Path, info.Mode()|os.FileMode(need)); err != nil {
		return nil, err
	}
	return func() error {
		root, err := os.OpenRoot(Restored)
		if err != nil {
			return err
		}
		defer root.Close()
		return root.Chmod(e.Path, info.Mode())
	}, nil
}

func quoted(path string) string { return fmt.Sprintf("%q", path) }

func sumCount(s *rowhash.Sum) receipt.Count {
	return receipt.Count{Known: true, Rows: s.Rows(), Hash: s.Hash()}
}

func addFile(s *rowhash.Sum, e files.Entry, contents [32]byte) {
	h := sha256.New()
	h.Write([]byte(e.Path + "\x00"))
	h.Write(contents[:])
	s.Add(h.Sum(nil))
}

// ranges are the parts of a file that have contents.
func ranges(e files.Entry) []files.Extent {
	if e.Extents == nil {
		return []files.Extent{{Off: 0, Len: e.Size}}
	}
	return e.Extents
}

func streamSum(ctx context.Context, s *spooled, e files.Entry) (sum [32]byte, err error) {
	var n int64
	for _, x := range ranges(e) {
		n += x.Len
	}
	rc, err := s.Open(ctx, "data", e.Data, n)
	if err != nil {
		return sum, err
	}
	defer rc.Close()
	h := blake3.New()
	_, err = io.Copy(h, rc)
	return [32]byte(h.Sum(nil)), err
}

func restoredSum(e files.Entry) (sum [32]byte, err error) {
	root, err := os.OpenRoot(Restored)
	if err != nil {
		return sum, err
	}
	defer root.Close()
	f, err := root.Open(e.Path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := blake3.New()
	for _, x := range ranges(e) {
		if _, err := io.Copy(h, io.NewSectionReader(f, x.Off, x.Len)); err != nil {
			return sum, err
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// entryCheck compares what a name is. Owners are not the sandbox's to give, nor
// are devices.
func entryCheck(e files.Entry) receipt.Check {
	c := receipt.Check{Name: quoted(e.Path), Expected: string(e.Type)}
	root, err := os.OpenRoot(Restored)
	if err != nil {
		c.Actual = err.Error()
		return c
	}
	defer root.Close()
	info, err := root.Lstat(e.Path)
	if err != nil {
		c.Actual = err.Error()
		c.OK = e.Type == files.TypeChar || e.Type == files.TypeBlock || e.Type == files.TypeSocket
		return c
	}
	kind := map[os.FileMode]files.Type{0: files.TypeFile, os.ModeDir: files.TypeDir, os.ModeSymlink: files.TypeSymlink, os.ModeNamedPipe: files.TypeFIFO}[info.Mode().Type()]
	c.Actual = string(kind)
	switch e.Type {
	case files.TypeSymlink:
		target, err := root.Readlink(e.Path)
		c.Expected, c.Actual = "link to "+e.Target, "link to "+target
		if err != nil {
			c.Actual = err.Error()
		}
	case files.TypeDir:
		c.Expected = fmt.Sprintf("dir, mode %04o", e.Mode&0o777)
		c.Actual = fmt.Sprintf("%s, mode %04o", kind, info.Mode().Perm())
	case files.TypeFile:
		c.Expected = fmt.Sprintf("file of %d bytes, mode %04o", e.Size, e.Mode&0o777)
		c.Actual = fmt.Sprintf("%s of %d bytes, mode %04o", kind, info.Size(), info.Mode().Perm())
	}
	c.OK = c.Expected == c.Actual
	return c
}
