package repo

import (
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"log/slog"

	"strongroom/erasure"
	"strongroom/repo/seal"
)

// An ID is 16 opaque bytes that name a tenant, dataset, generation, pack or
// encoding.
type ID = erasure.ID

// ParseID reads the 32 lower-case hex digits that ID.String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 32 {
		return id, fmt.Errorf("%q is not 32 hex digits", s)
	}
	for i := range s {
		c := s[i]
		var v byte
		switch {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return ID{}, fmt.Errorf("%q is not 32 hex digits", s)
		}
		id[i/2] |= v << (4 * (1 - i%2))
	}
	return id, nil
}

// A Key is a 32-byte secret: a generation's or a tenant's catalogue key. It
// prints as nothing.
type Key [seal.KeyLen]byte

func (Key) String() string               { return "[secret]" }
func (Key) GoString() string             { return "[secret]" }
func (Key) LogValue() slog.Value         { return slog.StringValue("[secret]") }
func (Key) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// What a key or an object is for: one byte in every derivation and in all
// associated data.
const (
	kindPack      = 1
	kindCatalogue = 2 // sealed part 1, under the tenant's catalogue key
	kindContents  = 3 // sealed part 2, under the generation key
	kindChunkID   = 4
	kindDataset   = 5 // dataset pseudonyms, under the catalogue key
)

const formatVersion = 1

// derive returns the key for one object: HKDF-SHA-384 without salt, info =
// "strongroom/1" ‖ kind ‖ generation ‖ id.
func (k Key) derive(kind byte, generation, id ID) []byte {
	info := append([]byte("strongroom/1"), kind)
	info = append(append(info, generation[:]...), id[:]...)
	out, err := hkdf.Key(sha512.New384, k[:], nil, string(info), seal.KeyLen)
	if err != nil {
		panic("internal error: " + err.Error()) // only for lengths that are constant here
	}
	return out
}

// associated returns the associated data of one object, 63 bytes: "strongroom"
// ‖ format 2 ‖ kind 1 ‖ tenant ‖ generation ‖ id, and two zero bytes.
func associated(kind byte, tenant, generation, id ID) []byte {
	b := append(make([]byte, 0, 63), "strongroom"...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = append(b, kind)
	b = append(append(append(b, tenant[:]...), generation[:]...), id[:]...)
	return append(b, 0, 0)
}

// sequenceID is the id under which the parts of a manifest are sealed.
func sequenceID(sequence uint32) (id ID) {
	binary.BigEndian.PutUint32(id[12:], sequence)
	return id
}

// DatasetID returns the pseudonym of a dataset: it depends on the tenant's
// catalogue key and the name, so a box that lost its state finds it again.
func DatasetID(catalogue Key, tenant ID, name string) (id ID) {
	info := append([]byte("strongroom/1"), kindDataset)
	info = append(append(info, tenant[:]...), name...)
	out, err := hkdf.Key(sha512.New384, catalogue[:], nil, string(info), len(id))
	if err != nil {
		panic("internal error: " + err.Error())
	}
	copy(id[:], out)
	return id
}
