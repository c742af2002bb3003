package repo

import (
	"encoding/json"
	"fmt"
	"time"

	"strongroom/repo/pack"
)

// A Catalogue entry is sealed part 1: what a snapshot is, for lists. It is
// under the tenant's catalogue key, so it names the dataset but holds nothing
// of its contents.
type Catalogue struct {
	Tenant    string    `json:"tenant"`
	Dataset   string    `json:"dataset"`
	Level     string    `json:"level"`
	Source    string    `json:"source"` // kind of source, e.g. "postgres"
	Engine    string    `json:"engine"`
	Version   string    `json:"version"`
	Label     string    `json:"label,omitempty"`
	Keep      string    `json:"keep,omitempty"`
	Started   time.Time `json:"started"`
	Point     time.Time `json:"point"` // consistency point, by the source's clock
	Finished  time.Time `json:"finished"`
	Streams   int       `json:"streams"`
	Read      int64     `json:"read"`   // bytes of all streams
	New       int64     `json:"new"`    // bytes among them that no earlier snapshot had
	Stored    int64     `json:"stored"` // bytes of the packs it added, before parity
	Coded     int64     `json:"coded"`  // bytes of all their shards
	Rows      int64     `json:"rows,omitempty"`
	Began     string    `json:"began,omitempty"`     // why it began a generation, if it did
	Partial   bool      `json:"partial,omitempty"`   // something selected could not be read
	Anomalies []string  `json:"anomalies,omitempty"` // facts that look wrong beside the snapshot before
	Warnings  []string  `json:"warnings,omitempty"`
	Tool      string    `json:"tool"`
	Origin    *Origin   `json:"origin,omitempty"` // of a copy that a compaction made
}

// SourceImport is the Source of old dumps: their Point is what somebody said
// when they came.
const SourceImport = "import"

// An Origin says what a copy was made of, and the place and time of the
// snapshot that is no copy: whoever counts or dates snapshots uses those.
type Origin struct {
	Manifest string    `json:"manifest"` // SHA-256 of the manifest that was copied, 64 hex digits
	Epoch    uint32    `json:"epoch"`
	Sequence uint32    `json:"sequence"`
	Time     time.Time `json:"time"`
}

// A Stream describes one stream of a snapshot.
type Stream struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	PageSize int             `json:"page_size,omitempty"`
	Length   int64           `json:"length"`
	BLAKE3   string          `json:"blake3"`           // of the whole stream, 64 hex digits
	Extents  int64           `json:"extents"`          // how many of the extent list are its own, after those of the streams before it
	Packed   int             `json:"packed,omitempty"` // to how many thousandths a sample of it compresses; 0: not tried
	Facts    json.RawMessage `json:"facts,omitempty"`
}

// A List is a stream of fixed-size records that the manifest itself locates.
type List struct {
	Length  int64    `json:"length"`
	BLAKE3  string   `json:"blake3"`
	Extents []Extent `json:"extents"`
}

// bytes is the length of its extents together.
func (l List) bytes() (n int64) {
	for _, e := range l.Extents {
		n += int64(e.Length)
	}
	return n
}

// A Root locates a block that holds part of a List.
type Root struct {
	Block  uint32     `json:"block"`
	Pack   uint32     `json:"pack"`
	Offset uint32     `json:"offset"`
	Stored uint32     `json:"stored"`
	Raw    uint32     `json:"raw"`
	Codec  pack.Codec `json:"codec"`
}

// entry returns where the block lies, if such a place can be: the same bounds
// hold as for an entry of the block table, and nothing is cut off to fit.
func (r Root) entry() (pack.Entry, error) {
	want := pack.Entry{Index: r.Pack, Offset: r.Offset, Stored: r.Stored, Raw: r.Raw, Codec: r.Codec}
	e, err := pack.ParseEntry(want.Append(nil))
	if err != nil || e != want || e.Void() {
		return e, fmt.Errorf("%w: root of block %d: %+v", ErrIntegrity, r.Block, r)
	}
	return e, nil
}

// Contents is sealed part 2, under the generation key: what a snapshot is made
// of.
type Contents struct {
	Description json.RawMessage `json:"description,omitempty"`
	Detail      json.RawMessage `json:"detail,omitempty"`
	Streams     []Stream        `json:"streams"`
	ExtentList  List            `json:"extent_list"`
	BlockTable  List            `json:"block_table"`
	Roots       []Root          `json:"roots"`
}

// An Extent is a range of bytes inside a block before compression.
type Extent struct {
	Block  uint32
	Offset uint32
	Length uint32
}

func (e Extent) check() error {
	if e.Length == 0 || uint64(e.Offset)+uint64(e.Length) > pack.MaxBlock {
		return fmt.Errorf("%w: extent [%d, +%d) of block %d", ErrIntegrity, e.Offset, e.Length, e.Block)
	}
	return nil
}

// MarshalJSON writes an extent as [block, offset, length].
func (e Extent) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d,%d]", e.Block, e.Offset, e.Length), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Extent) UnmarshalJSON(b []byte) error {
	var v []uint32
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if len(v) != 3 {
		return fmt.Errorf("extent of %d numbers", len(v))
	}
	*e = Extent{v[0], v[1], v[2]}
	return e.check()
}

// appendExtent adds e to a stream's extents, joining it to the last one where
// it goes on there.
func appendExtent(list []Extent, e Extent) []Extent {
	if n := len(list); n > 0 {
		l := &list[n-1]
		if l.Block == e.Block && l.Offset+l.Length == e.Offset {
			l.Length += e.Length
			return list
		}
	}
	return append(list, e)
}
