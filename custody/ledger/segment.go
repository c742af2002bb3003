package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// A segment is the growing end of a log: the entries after its last full tile,
// in one file that is appended to. It is
//
//	"strongroom ledger segment 1\n"  frame  frame*
//
// where a frame is a length (4 bytes, big endian), that many bytes, and the
// first 8 bytes of their SHA-256. The first frame is a header in JSON; each
// other is an entry's length (2 bytes), the entry, and the checkpoint of the
// log that ends with it. So one write and one fsync make an entry and the
// signature over all up to it durable together.
const segmentMagic = "strongroom ledger segment 1\n"

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	frameExtra = 4 + 8
	maxRecord  = 2 + maxEntry + maxCheckpoint
	maxHeader  = 4 << 20
	maxSegment = len(segmentMagic) + frameExtra + maxHeader + tileWidth*(frameExtra+maxRecord)

	maxPending = 4096 // intents open at once, of one log
	maxTenants = 10000
)

// header is what the rest of the log is needed for otherwise: it is derived
// from it, and a verifier derives it again.
type header struct {
	Base    int64   `json:"base"`    // entries before the segment; a multiple of 256
	Carried int     `json:"carried"` // records that were synced before the file got its name
	Pending []int64 `json:"pending"` // intents before Base that are open
	Links   []link  `json:"links"`   // in the system log: the last head of each tenant before Base
	// Checkpoint is that of size Base; "" if that is 0.
	Checkpoint string `json:"checkpoint"`
}

// link is a tenant's head, as it stands in the system log.
type link struct {
	Tenant keys.TenantID `json:"tenant"`
	Size   int64         `json:"size"`
	Root   keys.Hash     `json:"root"`
}

// record is an entry and the checkpoint that ends with it.
type record struct {
	entry []byte
	note  []byte
	leaf  tlog.Hash
}

func appendFrame(b, payload []byte) []byte {
	sum := sha256.Sum256(payload)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), sum[:8]...)
}

func (r record) frame() []byte {
	p := binary.BigEndian.AppendUint16(nil, uint16(len(r.entry)))
	return appendFrame(nil, append(append(p, r.entry...), r.note...))
}

func encodeSegment(h header, records []record) ([]byte, error) {
	j, err := marshal(h)
	if err != nil {
		return nil, err
	}
	if len(j) > maxHeader {
		return nil, fmt.Errorf("header of %d bytes is more than the %d allowed", len(j), maxHeader)
	}
	b := appendFrame([]byte(segmentMagic), j)
	for _, r := range records {
		b = append(b, r.frame()...)
	}
	return b, nil
}

// cutFrame returns the first frame's content and what follows it.
func cutFrame(b []byte, limit int) (payload, rest []byte, ok bool) {
	if len(b) < frameExtra {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(min(limit, len(b)-frameExtra)) {
		return nil, nil, false
	}
	payload, rest = b[4:4+n], b[4+n:]
	sum := sha256.Sum256(payload)
	return payload, rest[8:], bytes.Equal(rest[:8], sum[:8])
}

func parseRecord(p []byte) (r record, ok bool) {
	if len(p) < 2 {
		return r, false
	}
	n := int(binary.BigEndian.Uint16(p))
	if n > len(p)-2 || n > maxEntry || len(p)-2-n > maxCheckpoint {
		return r, false
	}
	r = record{entry: p[2 : 2+n], note: p[2+n:]}
	r.leaf = tlog.RecordHash(r.entry)
	return r, true
}

// segment is a file that was read.
type segment struct {
	header
	records []record
	whole   int64 // bytes up to the end of the last whole record
	torn    int64 // bytes after them
}

// parseSegment reads a segment. What a power cut leaves of the last record is
// torn, and no entry that was acknowledged: the next is begun when it is
// synced. Anything else that does not fit is ErrTampered: damage in the
// middle, where a whole record follows or more than one record would fit.
func parseSegment(b []byte) (*segment, error) {
	bad := func(what string) (*segment, error) {
		return nil, fmt.Errorf("%w: segment: %s", ErrTampered, what)
	}
	rest, ok := bytes.CutPrefix(b, []byte(segmentMagic))
	if !ok {
		return bad("it does not begin as one")
	}
	j, rest, ok := cutFrame(rest, maxHeader)
	if !ok {
		return bad("header")
	}
	s := &segment{}
	dec := json.NewDecoder(bytes.NewReader(j))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s.header); err != nil {
		return bad("header: " + err.Error())
	}
	if again, err := marshal(s.header); err != nil || !bytes.Equal(again, j) {
		return bad("header is not in its one encoding")
	}
	if err := s.header.check(); err != nil {
		return bad("header: " + err.Error())
	}
	for len(rest) > 0 {
		p, after, ok := cutFrame(rest, maxRecord)
		if !ok {
			break
		}
		r, ok := parseRecord(p)
		if !ok || len(s.records) == tileWidth {
			return bad(fmt.Sprintf("record %d is none", s.Base+int64(len(s.records))))
		}
		s.records, rest = append(s.records, r), after
	}
	s.whole, s.torn = int64(len(b)-len(rest)), int64(len(rest))
	if len(s.records) < s.Carried || s.torn > frameExtra+maxRecord || holdsRecord(rest) {
		return bad(fmt.Sprintf("record %d is damaged", s.Base+int64(len(s.records))))
	}
	return s, nil
}

// holdsRecord reports whether a whole frame begins anywhere in b but at its
// start. A sum of 8 bytes does not fit by chance.
func holdsRecord(b []byte) bool {
	for i := 1; i < len(b); i++ {
		if p, _, ok := cutFrame(b[i:], maxRecord); ok {
			if r, ok := parseRecord(p); ok && len(r.entry) > 0 {
				return true
			}
		}
	}
	return false
}

func (h header) check() error {
	if h.Base < 0 || h.Base%tileWidth != 0 || h.Base > maxSize || h.Carried < 0 || h.Carried > tileWidth {
		return errors.New("base or carried")
	}
	if (h.Base == 0) != (h.Checkpoint == "") || h.Pending == nil || h.Links == nil {
		return errors.New("a part is missing")
	}
	if len(h.Pending) > maxPending || len(h.Links) > maxTenants {
		return errors.New("too many intents or links")
	}
	last := int64(0)
	for _, n := range h.Pending {
		if n <= last || n >= h.Base {
			return errors.New("pending intents")
		}
		last = n
	}
	before := ""
	for _, l := range h.Links {
		name := logName(l.Tenant)
		if name <= before || name == systemName || l.Size < 1 || l.Size > maxSize {
			return errors.New("links")
		}
		before = name
	}
	return nil
}
