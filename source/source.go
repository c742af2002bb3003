// Package source says what every data source is: something that can be dumped
// to named streams at one consistency point and loaded back from them.
package source

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/bits"
	"time"
)

// Kind says what the bytes of a stream are.
type Kind string

const (
	KindSQL    Kind = "sql"    // statements that psql or the like executes
	KindRows   Kind = "rows"   // one table's rows in the engine's copy form
	KindPages  Kind = "pages"  // a database file of fixed-size pages
	KindTree   Kind = "tree"   // a directory tree's entries
	KindFiles  Kind = "files"  // file contents, end to end
	KindOpaque Kind = "opaque" // whatever a command wrote
)

// A Stream is one named sequence of bytes of a snapshot.
type Stream struct {
	// Name is unique in its snapshot: 1 to 1024 bytes of UTF-8 without control
	// characters.
	Name string
	Kind Kind
	// PageSize is the size to cut at for KindPages; 0 cuts by content.
	PageSize int
	// SizeHint is an estimate in bytes for progress and balancing; 0: unknown.
	SizeHint int64
	// Open starts reading. It is called exactly once. The reader returns
	// io.EOF only if the stream is whole: a source that lost its connection,
	// or whose command failed, returns another error.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// A Source can be dumped.
type Source interface {
	// Probe checks what can be checked without a snapshot: reachability,
	// rights, versions. It changes nothing.
	Probe(ctx context.Context) (Description, error)
	// Open fixes a consistency point.
	Open(ctx context.Context) (Snapshot, error)
}

// Description says what a source is, for the catalogue.
type Description struct {
	Engine  string `json:"engine"`  // "postgres", "mariadb", "sqlite", "command", "files"
	Version string `json:"version"` // of the server or file format
	// Size is an estimate of the bytes that a dump will read; 0: unknown.
	Size int64 `json:"size,omitempty"`
}

// A Snapshot is a source held at one consistency point.
//
// The caller opens and reads every stream to io.EOF, at most Parallel of them
// at once, then calls Finish, and always Close. Where Parallel is 1 it opens
// them in the order of Streams; where it is more, in any order: largest
// SizeHint first ends soonest. Only a nil error from Finish makes the
// snapshot good.
type Snapshot interface {
	Description() Description
	// Time is the consistency point by the source's clock where it has one.
	Time() time.Time
	// Streams is the list in the order in which the streams, end to end, form
	// the plain dump.
	Streams() []Stream
	// Parallel is how many streams may be open at once; at least 1.
	Parallel() int
	// Finish makes the source's own checks after the last stream ended.
	Finish(ctx context.Context) (Report, error)
	// Close releases everything, also after errors, and kills what it started.
	Close() error
}

// Report is what a source knows about a finished snapshot.
type Report struct {
	// Streams has facts per stream name; a stream without any is absent.
	Streams map[string]Facts `json:"streams,omitempty"`
	// Warnings are facts a person should read, e.g. a file that changed while
	// it was read. They do not fail the snapshot.
	Warnings []string `json:"warnings,omitempty"`
	// Partial says that something selected could not be read whole, e.g. a
	// file that vanished or kept changing: exit code 3, state "partial".
	Partial bool `json:"partial,omitempty"`
	// Detail is the source's own record: settings, roles, object lists. It is
	// stored with the snapshot and handed back at restore. At most 1 MiB.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// Facts are the content facts of one stream, comparable after a restore.
type Facts struct {
	Rows int64 `json:"rows"`
	// RowHash is the order-free hash of the rows: for each row the first 16
	// bytes of its SHA-256 as a big-endian integer, summed mod 2^128; 32 hex
	// digits.
	RowHash string `json:"row_hash,omitempty"`
	// Object names what the rows belong to, e.g. `public.customers`. The rows
	// of one object may be in several streams: add their facts up with Plus.
	Object string `json:"object,omitempty"`
}

// Plus returns the facts of f's and g's rows together. Where one of them has
// no row hash, or none that can be read, the sum has none.
func (f Facts) Plus(g Facts) Facts {
	sum := Facts{Rows: f.Rows + g.Rows, Object: f.Object}
	var a, b [16]byte
	if !decodeHash(&a, f.RowHash) || !decodeHash(&b, g.RowHash) {
		return sum
	}
	lo, carry := bits.Add64(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:]), 0)
	hi, _ := bits.Add64(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8]), carry)
	binary.BigEndian.PutUint64(a[:8], hi)
	binary.BigEndian.PutUint64(a[8:], lo)
	sum.RowHash = hex.EncodeToString(a[:])
	return sum
}

func decodeHash(to *[16]byte, s string) bool {
	if len(s) != 2*len(to) {
		return false
	}
	_, err := hex.Decode(to[:], []byte(s))
	return err == nil
}

// StreamInfo describes a stored stream.
type StreamInfo struct {
	Name     string `json:"name"`
	Kind     Kind   `json:"kind"`
	PageSize int    `json:"page_size,omitempty"`
	Length   int64  `json:"length"`
	Facts    *Facts `json:"facts,omitempty"`
}

// Stored is a committed snapshot as a loader sees it.
type Stored interface {
	Description() Description
	// Streams lists the streams in dump order.
	Streams() []StreamInfo
	// Detail is Report.Detail as it was stored.
	Detail() json.RawMessage
	// Open reads bytes [off, off+n) of a stream; n < 0 reads to its end. A
	// reader that covers a whole stream returns io.EOF only after the
	// stream's hash was found right. Safe for concurrent use.
	Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
}
